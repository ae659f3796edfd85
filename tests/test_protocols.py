"""``reference`` gives what the published scripts give, computed by hand on crafted files;
``default`` does not repeat it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlmig import VLMIG
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.yaml_task import choose_tasks


@pytest.fixture()
def published(tiny: VLMIG) -> VLMIG:
    """The tiny model mixing as published. Its tokenizer splits " 2" into " " and "2", as Llama-3's
    does, and " red" into " r", "ed"."""
    tiny.config.mix, tiny.config.weights, tiny.config.protocol = "logit", "clip", "reference"
    assert tiny.tokenizer.tokenize(" 2") == ["Ġ", "2"] and tiny.tokenizer.tokenize(" red") == [
        "Ġr",
        "ed",
    ]
    return tiny


def run(
    model: VLMIG, data: Path, out: Path, task: str, protocol: str, **settings: Any
) -> tuple[dict, list[dict]]:
    results = measure_tasks(
        Evaluator(model, Settings(**settings), data, out), choose_tasks([task], {}, protocol)
    )
    return results, [
        json.loads(line) for line in (out / f"samples_{task}.jsonl").read_text().splitlines()
    ]


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


def next_token(model: VLMIG, prompt: str) -> np.ndarray:
    """Log-probabilities of the plain LM's next token."""
    ids = torch.tensor([model.tokenizer(prompt).input_ids])
    return model.model.language_model(ids).logits[0, -1].log_softmax(-1).detach().numpy()


def test_only_the_first_sub_token_is_scored(published: VLMIG, tmp_path: Path) -> None:
    data = write(
        tmp_path,
        "imagenetvc/color.csv",
        "category,question,answer\nbrick,What color is it?,red\ntar,What color is tar?,black\n",
    )
    _, rows = run(published, data, tmp_path / "out", "imagenetvc_color", "reference", ks=(0,))
    question = rows[0]["doc"]["questions"][1]
    assert question["continuations"][:11] == rows[0]["doc"]["choices"]
    assert question["continuations"][11:] == [c.capitalize() for c in rows[0]["doc"]["choices"]]
    expected = next_token(published, question["contexts"][0])
    vocabulary = published.tokenizer.get_vocab()
    for spelled, value in zip(question["continuations"], rows[0]["text_only"][1], strict=True):
        assert value == pytest.approx(
            expected[vocabulary["Ġr" if spelled == "red" else "Ġ"]], abs=1e-4
        )
    # Every candidate is its first sub-token only, so none reads like the answer: nobody is ever
    # right.
    assert set(rows[0]["tokens"][1]) == {"", "r"}
    assert rows[0]["acc"] == 0.0


def test_numbers_are_always_wrong_with_such_a_tokenizer_and_not_by_default(
    published: VLMIG, tmp_path: Path
) -> None:
    lines = [f"stool,How many legs has stool {i}?,{n}" for i, n in enumerate("2461835")]
    data = write(
        tmp_path, "imagenetvc/others.csv", "\n".join(["category,question,answer", *lines, ""])
    )
    results, rows = run(
        published, data, tmp_path / "reference", "imagenetvc_others", "reference", ks=(0, 1)
    )
    assert results["results"]["imagenetvc_others"]["acc,none"] == 0.0
    assert {token for row in rows for tokens in row["tokens"] for token in tokens} == {""}
    published.config.protocol = "default"
    results, rows = run(
        published, data, tmp_path / "default", "imagenetvc_others", "default", ks=(0, 1)
    )
    # All seven labels occur once, so whatever a model prefers, some question is right by whole
    # candidates.
    assert results["results"]["imagenetvc_others"]["acc,none"] > 0


def test_image_weights_are_doubled_cosines_in_logit_space(published: VLMIG, tmp_path: Path) -> None:
    data = write(
        tmp_path,
        "imagenetvc/shape.csv",
        "category,question,answer\nball,What shape is it?,round\nsail,Which shape?,star\n",
    )
    results, rows = run(
        published, data, tmp_path / "out", "imagenetvc_shape", "reference", ks=(0, 3)
    )
    assert results["configs"]["imagenetvc_shape"]["weights"] == "doubled"
    right = []
    for row in rows:
        assert len(row["pictures"]) == 5, "pictures of each question, not of the category"
        for text, images, cosines, tokens in zip(
            row["text_only"], row["per_image"], row["alignment"], row["tokens"], strict=True
        ):
            text, images = np.array(text), np.array(images)
            shares = 2 * np.clip(cosines, 0, None)[:, None]
            logits = text + (shares * (images - text)).mean(0)
            right.append(tokens[int(logits.argmax())] == row["target"])
    (found,) = [
        c
        for c in results["vlmig"]["conditions"]
        if (c["k"], c["weights"], c["mix"]) == (3, "doubled", "logit")
    ]
    assert found["acc"] == np.mean(right)


def test_a_doubled_weight_beyond_one_takes_the_text_away() -> None:
    from vlmig.models.mixture import Mixture
    from vlmig.predict.scores import Scores

    text, images = np.log([0.7, 0.2, 0.1]), np.log([[0.2, 0.5, 0.3]])
    scores = Scores(text, images, text, np.array([0.8]))
    logits = text + 1.6 * (images[0] - text)
    expected = logits - np.logaddexp.reduce(logits)
    assert scores.mixed(1, Mixture("logit", "doubled")) == pytest.approx(expected)


def test_commonsense_takes_the_mean_loss_of_question_and_option_beside_pictures_of_both(
    published: VLMIG, data: Path, tmp_path: Path
) -> None:
    results, rows = run(published, data, tmp_path, "openbookqa", "reference", ks=(0, 2))
    right = []
    for row in rows:
        question = row["doc"]["questions"][0]
        texts = [question["contexts"][0] + option for option in question["continuations"]]
        assert len(row["pictures"]) == len(texts), "every option has pictures of its own"
        assert all(any(text in prompt for prompt in row["prompts"]) for text in texts)
        losses = []
        for text in texts:
            ids = torch.tensor([published.tokenizer(text).input_ids])
            losses.append(published.model.language_model(ids, labels=ids).loss.item())
        means = np.array(row["loss"]["0"]) / row["tokens"]
        assert means == pytest.approx(losses, abs=1e-5)
        right.append(int(np.argmin(losses)) == question["answer"])
    (found,) = [c for c in results["vlmig"]["conditions"] if c["k"] == 0]
    assert found["acc"] == np.mean(right)


def test_sequence_losses_with_pictures_are_the_models_own(
    published: VLMIG, data: Path, tmp_path: Path
) -> None:
    """Two ways: the evaluation's, and the drop-in class given the same features, token by token."""
    _, rows = run(published, data, tmp_path, "openbookqa", "reference", ks=(0, 2))
    question = rows[0]["doc"]["questions"][0]
    text = question["contexts"][0] + question["continuations"][0]
    seen = published.imagine([text], 2, policy="sentences")[0]
    ids = torch.tensor([published.tokenizer(text).input_ids])
    weights = seen.alignment.clamp(0, 1)[None]
    with torch.inference_mode():
        logits = published.model(
            ids, visual_features=seen.features[None], image_weights=weights
        ).logits
    own = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).sum().item()
    assert rows[0]["loss"]["2"][0] == pytest.approx(-own, abs=1e-3)


def test_boolq_and_sizes_compare_yes_with_no(published: VLMIG, data: Path, tmp_path: Path) -> None:
    _, rows = run(published, data, tmp_path, "relative_size", "reference", ks=(0,))
    assert [len(row["doc"]["questions"]) for row in rows] == [4, 4], (
        "one order only, and three prompts run as one"
    )
    assert all(q["answer"] == 0 for row in rows for q in row["doc"]["questions"]), (
        "every published label is yes"
    )


def test_default_scores_only_the_answer(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    _, rows = run(tiny, data, tmp_path, "openbookqa", "default", ks=(0,))
    question = rows[0]["doc"]["questions"][0]
    ids = tiny.tokenizer(question["contexts"][0] + " " + question["continuations"][0]).input_ids
    start = len(tiny.tokenizer(question["contexts"][0]).input_ids)
    with torch.inference_mode():
        logits = tiny.model.language_model(torch.tensor([ids])).logits[0].log_softmax(-1)
    own = sum(logits[i - 1, ids[i]].item() for i in range(start, len(ids)))
    assert rows[0]["text_only"][0][0] == pytest.approx(own, abs=1e-4)
