"""States that a frozen LM made once, against the LM run in every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlmig import VLMIG, VLMIGError
from vlmig.data.pairs import Pair
from vlmig.imagination.store import FeatureStore
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.training import load_recipe, train
from vlmig.training.objective import Objective
from vlmig.training.states import ENDING, States
from vlmig.training.texts import IGNORED, Texts, Tokens


def test_stored_states_give_the_same_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LM reads a text beside others of its length here and padded there, so sums are rounded
    otherwise: losses to 1e-5. AdamW's first steps have the size of the learning rate (3e-3)
    whatever the gradient's, so weights are compared to a hundredth of one."""
    logs, weights, read = {}, {}, {}
    prepare, lengths = VLMIGForCausalLM.prepare, []

    def noted(model: VLMIGForCausalLM, hidden: torch.Tensor, *args: object) -> object:
        lengths.append(hidden.shape[1])
        return prepare(model, hidden, *args)

    monkeypatch.setattr(VLMIGForCausalLM, "prepare", noted)
    for states in ("live", "stored"):
        lengths.clear()
        out = tmp_path / states
        changes = [f"states={states}", "stages.0.steps=8", "validation.every=8"]
        train(load_recipe(recipe, changes), out, store=FeatureStore(tmp_path / "store"))
        lines = (out / "training" / "colors" / "log.jsonl").read_text().splitlines()
        logs[states] = [json.loads(line) for line in lines]
        weights[states] = load_file(out / "model.safetensors")
        assert not list((out / "training").glob(f"*{ENDING}")), "needed by an unfinished run only"
        read[states] = max(lengths)
    assert read["stored"] == read["live"] - 1, "nobody asks what follows a text's last token"
    for live, stored in zip(logs["live"], logs["stored"], strict=True):
        assert stored.get("loss", 0.0) == pytest.approx(live.get("loss", 0.0), abs=1e-5)
        validation = live.get("validation", {})
        assert stored.get("validation", {}) == pytest.approx(validation, abs=1e-5)
    assert logs["live"][-1]["validation"]["own"] < logs["live"][0]["validation"]["own"]
    for name, value in weights["live"].items():
        torch.testing.assert_close(weights["stored"][name], value, atol=3e-5, rtol=0)


def test_only_what_is_asked_for_goes_through_the_layer(tiny: VLMIG) -> None:
    """Against every position of each text by itself."""
    tokens, objective = Tokens(tiny.tokenizer, tiny.model, 100, 0.2), Objective(tiny.model)
    pairs = [
        Pair("the color of a cat is red .", learnt=((22, 25),)),
        Pair("dark", learnt=((0, 4),)),
        Pair("what is the color ? blue .", learnt=((0, 4), (20, 26))),
    ]
    images = torch.randn(3, 1, *tiny.model.blank_features.shape)
    total = 0.0
    with torch.no_grad():
        together = objective(tokens.batch(pairs), images)["own"]
        for pair, image in zip(pairs, images, strict=True):
            texts = tokens.batch([pair])
            reading = objective._read(texts)
            states = tiny.model.fuse(reading, image[None])[:, 0]
            total += float(objective.loss(states, texts.labels))
    assert float(together) == pytest.approx(total, abs=1e-4)


def test_the_loss_among_the_tokens_of_a_text_by_hand(tiny: VLMIG) -> None:
    """A token that stands before it in its text counts among those tokens, others do not."""
    tokens = Tokens(tiny.tokenizer, tiny.model, 100, 0.2)
    pairs = [
        Pair("is a cat or a dog red ? a dog .", learnt=((24, 31),)),
        Pair("the color of a cat is red ."),
    ]
    images = torch.randn(2, 1, *tiny.model.blank_features.shape)
    share, total, among = 0.75, 0.0, 0
    with torch.no_grad():
        for pair, image in zip(pairs, images, strict=True):
            texts = tokens.batch([pair])
            plain = Objective(tiny.model)
            states = tiny.model.fuse(plain._read(texts), image[None])[:, 0]
            logits = tiny.model.head(tiny.model.language_model, states)[0].double()
            ids, labels = texts.input_ids[0].tolist(), texts.labels[0].tolist()
            for place, label in enumerate(labels):
                if label == IGNORED:
                    continue
                row = logits[place].exp()
                loss = -float((row[label] / row.sum()).log())
                if label in ids[: place + 1]:
                    of = sum(float(row[token]) for token in set(ids[: place + 1]))
                    loss = (1 - share) * loss - share * float((row[label] / of).log())
                    among += 1
                total += loss
        texts = tokens.batch(pairs)
        objective = Objective(tiny.model, among_text=share)
        learned = float(objective(texts, images)["own"])
        objective.eval()
        assert float(objective(texts, images)["own"]) == float(plain(texts, images)["own"])
    assert among >= 2 and learned == pytest.approx(total, abs=1e-4)


def test_a_killed_reading_continues(tiny: VLMIG, tmp_path: Path) -> None:
    tokens = Tokens(tiny.tokenizer, tiny.model, 100, 0.2)
    texts = tokens.batch([Pair("a cat"), Pair("a cat is red"), Pair("a cat"), Pair("dark")])

    def read(ids: torch.Tensor) -> torch.Tensor:
        asked.append(len(ids))
        with torch.no_grad():
            return tiny.model.trunk(input_ids=ids).last_hidden_state

    asked: list[int] = []
    states = States([texts], tmp_path, tiny.model.width, "this LM")
    states.fill(read)
    assert sum(asked) == 3, "equal texts share their states"
    whole = states.path.read_bytes()
    states.path.write_bytes(whole[:-10])
    asked.clear()
    again = States([texts], tmp_path, tiny.model.width, "this LM")
    again.fill(read)
    assert len(asked) == 1 and again.path.read_bytes() == whole
    assert States([texts], tmp_path, tiny.model.width, "another").path != states.path
    attached = again.attach(texts)
    assert attached.count == texts.count and attached.states is not None
    hidden = read(texts.input_ids[1:2])[0, : len(attached.states[1])]
    torch.testing.assert_close(attached.states[1, : len(hidden)], hidden, atol=1e-5, rtol=0)


def test_a_text_without_anything_to_predict_is_kept(tiny: VLMIG, tmp_path: Path) -> None:
    texts = Texts(torch.tensor([[5, 6]]), torch.ones(1, 2).long(), torch.full((1, 2), IGNORED))
    states = States([texts], tmp_path, 4, "")
    states.fill(lambda ids: torch.ones(*ids.shape, 4))
    assert states.attach(texts).input_ids.tolist() == [[5]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["stages.0.trains=[language_model]"], "trains language_model; expected states: live"),
        (["model.fusion=prefix", "stages.0.trains=[projector]"], "stored with fusion: prefix"),
    ],
)
def test_states_that_change_are_refused(
    recipe: Path, tmp_path: Path, changes: list[str], expected: str
) -> None:
    with pytest.raises(VLMIGError, match=expected):
        chosen = load_recipe(recipe, ["states=stored", *changes])
        train(chosen, tmp_path / "out", store=FeatureStore(tmp_path / "store"))
