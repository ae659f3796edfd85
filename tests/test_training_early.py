"""Training with pictures in the text: places, answers, packing, stages, bad conversations; against
the same done by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from vlmig import VLMIG, VLMIGError
from vlmig.data.pairs import Pair
from vlmig.imagination.store import FeatureStore
from vlmig.models.config import IMAGE
from vlmig.training import load_recipe, train
from vlmig.training.objective import Objective, chamfer
from vlmig.training.run import read_log
from vlmig.training.stage import exchanged
from vlmig.training.texts import IGNORED, Texts, Tokens, late_text

ASKED = f"Question: {IMAGE}what? Answer: red\nQuestion: is it a cat? Answer: no\n"
ANSWERS = tuple((i, i + len(a)) for a in (" red\n", " no\n") for i in [ASKED.index(a)])
PAIRS = [
    Pair("the color is red .", "a"),
    Pair(ASKED, "a", learnt=ANSWERS),
    Pair(f"one {IMAGE}two {IMAGE}", "a", more=("b",)),
    Pair("no picture at all"),
    Pair("ab", "a"),
]


@pytest.fixture()
def early(parts: Path, tmp_path: Path) -> VLMIG:
    torch.manual_seed(1)
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    fields = {"fusion": "prefix", "projector": "pooled", "mix": "prob", "weights": "uniform"}
    model = VLMIG.from_base(
        str(parts / "language_model"), **names, **fields, store=tmp_path / "store"
    )
    model.config.trained = True
    return model


def features_for(texts: Texts, model: VLMIG, seed: int = 0) -> Tensor:
    """Random features of each text's own pictures, the same whatever row they come to stand in."""
    shape = model.model.blank_features.shape
    own = [
        torch.randn(n, *shape, generator=torch.Generator().manual_seed(100 * seed + i))
        for i, n in enumerate(texts.shown)
    ]
    rows = [torch.cat([own[i] for i in row]) for row in texts.rows]
    most = max(map(len, rows))
    return torch.stack([torch.cat([row, torch.zeros(most - len(row), *shape)]) for row in rows])


def learnt_text(model: VLMIG, texts: Texts, row: int = 0) -> str:
    labels = texts.labels[row]
    return model.tokenizer.decode(labels[labels != IGNORED], skip_special_tokens=False)


def test_only_answers_and_no_place_of_a_picture_are_predicted(early: VLMIG) -> None:
    tokens = Tokens(early.tokenizer, early.model, 96, 0)
    for pair, expected in zip(
        PAIRS,
        ["the color is red .", " red\n no\n", "one two ", "no picture at all", "ab"],
        strict=True,
    ):
        texts = tokens.batch([pair])
        end = "" if pair.learnt else "<|endoftext|>"
        # The very first token has nothing before it to be predicted from, unless a picture stands
        # there.
        start = 0 if pair.picture and IMAGE not in pair.caption or pair.learnt else 1
        assert learnt_text(early, texts) == (expected + end)[start:]
        places = texts.input_ids[0] == early.config.placeholder_id
        assert int(places.sum()) == 4 * len(pair.images()) and texts.shown == [len(pair.images())]
        following = torch.cat([texts.input_ids[0, 1:], torch.tensor([0])])
        counted = texts.labels[0] != IGNORED
        assert (texts.labels[0][counted] == following[counted]).all(), "a label is the next token"


def test_a_cut_takes_whole_pictures_with_it(early: VLMIG) -> None:
    pair = Pair(
        f"one {IMAGE}two {IMAGE}three", "a", more=("b",)
    )  # 4 letters, 4 places, 4 letters, 4 places, 5 letters
    for limit, length, shown in ((21, 21, 2), (16, 16, 2), (15, 12, 1), (8, 8, 1), (7, 4, 0)):
        texts = Tokens(early.tokenizer, early.model, limit, 0).batch([pair])
        assert (texts.input_ids.shape[1], texts.shown) == (length, [shown])


def test_packed_texts_have_the_loss_and_gradients_of_padded_ones(early: VLMIG) -> None:
    """Sums in another order: 1e-5 of about 300 nats; and neighbours in a row see nothing of each
    other."""
    network = early.model.train()
    found = []
    for pack in (None, 96):
        texts = Tokens(early.tokenizer, network, 96, 0, pack).batch(PAIRS)
        assert len(texts.rows) == (len(PAIRS) if pack is None else 2)
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        network.requires_grad_(True).zero_grad()
        loss = Objective(network)(texts, features_for(texts, early))["own"]
        loss.backward()
        found.append(
            (
                loss.item(),
                {
                    name: p.grad.clone()
                    for name, p in network.named_parameters()
                    if p.grad is not None
                },
            )
        )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, own in found[0][1].items():
        assert torch.allclose(own, found[1][1][name], atol=1e-3, rtol=1e-3), name


def test_the_loss_is_the_models_own_prediction(early: VLMIG) -> None:
    """Of a shown picture, and of an imagined one before the text: what is trained is what is asked
    later."""
    shown = Tokens(early.tokenizer, early.model, 96, 0).batch([PAIRS[0]])
    features = features_for(shown, early)
    text = torch.tensor([[0, *early.tokenizer(PAIRS[0].caption).input_ids, 0]])
    with torch.no_grad():
        trained = Objective(early.model)(shown, features)["own"].item()
        logits = early.model(
            shown.input_ids, shown.attention_mask, shown_features=features
        ).logits.log_softmax(-1)
        counted = shown.labels[0] != IGNORED
        by_place = -logits[0, counted].gather(1, shown.labels[0, counted, None]).sum().item()
        # This tokenizer writes no BOS; with one by hand the imagined picture goes behind it.
        imagined = early.model(text, torch.ones_like(text), visual_features=features).logits
        begun = Tokens(early.tokenizer, early.model, 96, 0).batch(
            [Pair("<|endoftext|>" + IMAGE + PAIRS[0].caption, "a")]
        )
        behind = Objective(early.model)(begun, features)["own"].item()
        by_image = -imagined[0, :-1].gather(1, text[0, 1:, None]).sum().item()
    assert trained == pytest.approx(by_place, rel=1e-5)
    assert behind == pytest.approx(by_image, rel=1e-5)


def test_what_is_measured_beside_the_own_picture(early: VLMIG) -> None:
    tokens = Tokens(early.tokenizer, early.model, 96, 0)
    texts, alone = tokens.batch(PAIRS), tokens.batch(PAIRS, alone=True)
    features = features_for(texts, early)
    with torch.no_grad():
        losses = Objective(early.model).eval()(
            texts, features, features_for(texts, early, 7), alone
        )
        same = Objective(early.model)(texts, features, features, alone)
        total = sum(_text_loss(early, pair) for pair in PAIRS)
    assert (
        set(losses) == {"own", "shuffled", "blank", "text"}
        and same["own"] == same["shuffled"] != losses["shuffled"]
    )
    assert losses["text"].item() == pytest.approx(total * texts.count / alone.count, rel=1e-5)
    assert exchanged([["a", "b"], ["c"], []], [["x"], [], ["y"]]) == [["x", "x"], [None], []]  # type: ignore[list-item]


def _text_loss(model: VLMIG, pair: Pair) -> float:
    """The base LM's own loss of a text without marks, one token after the other."""
    text, spans = late_text(pair)
    ids = [*model.tokenizer(text).input_ids, *([] if spans else [0])]
    logits = model.model.language_model(torch.tensor([ids])).logits[0].log_softmax(-1)
    loss = 0.0
    place = 0
    for i, token in enumerate(ids):
        end = place + len(model.tokenizer.decode([token])) if token else place
        if i and (not spans or any(place < b and end > a for a, b in spans)):
            loss -= logits[i - 1, token].item()
        place = end
    return loss


def test_the_alignment_term_by_hand() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(2, 6, 5))
    places = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0]], dtype=bool)
    samples = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 2, 2, 2]])
    toward, back = [], []
    for row in range(2):
        for sample in (1, 2):
            own = [i for i in range(6) if samples[row, i] == sample]
            seen, said = [i for i in own if places[row, i]], [i for i in own if not places[row, i]]
            if not seen:
                continue
            distance = np.array(
                [[1 - _cosine(embeddings[row, a], embeddings[row, b]) for b in said] for a in seen]
            )
            toward += list(distance.min(1))
            back += list(distance.min(0))
    given = torch.tensor(embeddings, requires_grad=True)
    value = chamfer(given, torch.tensor(places), torch.tensor(samples))
    assert value.item() == pytest.approx((np.mean(toward) + np.mean(back)) / 2, rel=1e-5)
    value.backward()
    assert not given.grad[~torch.tensor(places)].any() and given.grad[0, 0].any(), (
        "words are not moved"
    )
    like = torch.ones(1, 3, 4)
    assert chamfer(
        like, torch.tensor([[True, False, False]]), torch.ones(1, 3)
    ).item() == pytest.approx(0, abs=1e-6)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def conversations(folder: Path, broken: Sequence[str] = ()) -> Path:
    """48 conversations about the plain pictures, and broken ones."""
    rows = []
    for i in range(48):
        said = [("human", f"{IMAGE}\nwhat?"), ("gpt", ("red", "green", "blue")[i % 3])]
        rows.append(
            {
                "id": i,
                "image": f"{i}.png",
                "conversations": [{"from": who, "value": what} for who, what in said],
            }
        )
    alone = [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]
    rows[5] = {"id": 5, "conversations": alone}
    faulty = {
        "turns do not alternate": [("human", f"{IMAGE}a?"), ("human", "b")],
        "no answer": [("human", f"{IMAGE}a?")],
        "more <image> than images": [("human", f"{IMAGE}{IMAGE}a?"), ("gpt", "b")],
    }
    for reason in broken:
        said = faulty[reason]
        rows.append(
            {
                "id": reason,
                "image": "0.png",
                "conversations": [{"from": w, "value": x} for w, x in said],
            }
        )
    path = folder / "conversations.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture()
def llava(recipe: Path, colored: Path, tmp_path: Path) -> Path:
    """LLaVA's two stages around the tiny parts."""
    settings = yaml.safe_load(recipe.read_text())
    settings["model"] |= {
        "fusion": "prefix",
        "projector": "mlp",
        "projector_width": 16,
        "mix": "prob",
        "weights": "uniform",
    }
    del settings["model"]["fusion_heads"]
    stage = settings["stages"][0] | {"steps": 6, "blank_share": 0, "max_tokens": 90}
    talk = {
        "source": "conversations",
        "path": str(conversations(tmp_path)),
        "images": str(colored),
        "template": "question",
    }
    settings["stages"] = [
        stage | {"name": "align", "trains": ["projector"]},
        stage
        | {
            "name": "instruct",
            "trains": ["projector", "language_model"],
            "data": [talk],
            "pack": 96,
        },
    ]
    path = tmp_path / "llava.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_each_stage_moves_what_it_trains_and_nothing_else(
    llava: Path, parts: Path, tmp_path: Path
) -> None:
    store = FeatureStore(tmp_path / "features")
    whole = load_recipe(llava)
    values = yaml.safe_load(llava.read_text())
    (tmp_path / "align.yaml").write_text(yaml.safe_dump(values | {"stages": values["stages"][:1]}))
    aligned = train(load_recipe(tmp_path / "align.yaml"), tmp_path / "align", store=store)
    base = load_file(parts / "language_model" / "model.safetensors")
    words = aligned.model.language_model.state_dict()
    assert all(torch.equal(value, words[name]) for name, value in base.items()), (
        "stage 1 leaves the LM"
    )
    assert not (tmp_path / "align" / "language_model").exists()
    instructed = train(whole, tmp_path / "both", store=store)
    moved = load_file(tmp_path / "both" / "language_model" / "model.safetensors")
    assert all(
        not torch.equal(value, moved[name]) for name, value in base.items() if value.ndim == 2
    )
    first = load_file(tmp_path / "align" / "model.safetensors")
    second = load_file(tmp_path / "both" / "model.safetensors")
    assert all(
        not torch.equal(value, second[name])
        for name, value in first.items()
        if name.startswith("projector")
    )
    told = instructed.config.training["stages"]  # type: ignore[index]
    assert [(one["name"], one["trains"]) for one in told] == [
        ("align", ["projector"]),
        ("instruct", ["projector", "language_model"]),
    ]
    assert told[1]["parameters"] == sum(p.numel() for p in instructed.model.parameters())
    for stage in ("align", "instruct"):
        log = read_log(tmp_path / "both", stage)
        assert set(log[-1]["validation"]) == {"own", "shuffled", "blank", "text"}
    again = VLMIG.from_pretrained(tmp_path / "both", store=store)
    ids = torch.tensor([[0, *[again.config.placeholder_id] * 16, 5, 6]])
    seen = torch.randn(1, 1, *again.model.blank_features.shape)
    with torch.no_grad():
        ours, theirs = (
            m.model(ids, torch.ones_like(ids), shown_features=seen).logits
            for m in (instructed, again)
        )
    assert torch.equal(ours.cpu(), theirs)


def test_bad_conversations_are_skipped_and_counted_or_stop_the_run(
    llava: Path, tmp_path: Path
) -> None:
    conversations(tmp_path, ["turns do not alternate", "no answer", "more <image> than images"])
    changes = ["stages.0.steps=1", "stages.1.steps=1", "validation.share=0"]
    store = FeatureStore(tmp_path / "features")
    trained = train(load_recipe(llava, changes), tmp_path / "skipped", store=store)
    (told,) = trained.config.training["stages"][1]["data"]  # type: ignore[index]
    assert (
        told["records"] == 51
        and told["trained"] == 48
        and told["no answer"] == told["turns do not alternate"] == 1
    )
    with pytest.raises(
        VLMIGError, match=r"3 of 51 records of .*conversations.json are bad .*no answer"
    ) as caught:
        train(load_recipe(llava, [*changes, "max_bad=0.01"]), tmp_path / "strict", store=store)
    assert "\n" not in str(caught.value)
    listed = "".join(
        file.read_text() for file in (tmp_path / "strict" / "training").rglob("bad.jsonl")
    )
    assert all(
        name in listed
        for name in ("turns do not alternate", "no answer", "more <image> than images")
    )


def test_a_batch_without_any_picture_trains_the_lm_alone(early: VLMIG) -> None:
    early.model.requires_grad_(True).zero_grad()
    texts = Tokens(early.tokenizer, early.model, 96, 0).batch([PAIRS[3]])
    Objective(early.model)(texts, torch.zeros(1, 0, *early.model.blank_features.shape))[
        "own"
    ].backward()
    assert all(
        p.grad is not None and not p.grad.any() for p in early.model.projector.parameters()
    ), "used, and not moved"
    assert early.model.get_input_embeddings().weight.grad.any()


def test_what_does_not_go_together_is_said(
    recipe: Path, llava: Path, colored: Path, tmp_path: Path
) -> None:
    store = FeatureStore(tmp_path / "features")

    folders = iter(tmp_path / f"refused_{i}" for i in range(9))

    def refused(path: Path, change: str, message: str) -> None:
        with pytest.raises(VLMIGError, match=message) as caught:
            train(load_recipe(path, [change]), next(folders), store=store)
        assert "\n" not in str(caught.value)

    refused(recipe, "stages.0.pack=90", r"pack: 90 with fusion cross_attention; expected prefix")
    refused(
        llava,
        "stages.0.among_text=0.5",
        r"among_text: 0.5 with VLMIGForCausalLM, fusion prefix; expected a causal LM with late",
    )
    refused(
        llava,
        "stages.0.trains=[projector,fusion]",
        r"trains: .*with fusion prefix, which has no fusion layer",
    )
    several = tmp_path / "several.json"
    turns = [{"from": "human", "value": f"{IMAGE}{IMAGE}a?"}, {"from": "gpt", "value": "b"}]
    several.write_text(
        json.dumps([{"id": 1, "image": ["0.png", "1.png"], "conversations": turns}] * 9)
    )
    data = f"stages.0.data=[{{source: conversations, path: {several}, images: {colored}, template: question}}]"
    refused(recipe, data, r"2 images in .*expected fusion: prefix, or one image")
    wrong = Pair(f"a {IMAGE} b {IMAGE}", "a")
    names = VLMIG.from_base(**{**yaml.safe_load(llava.read_text())["model"], "store": store})
    with pytest.raises(VLMIGError, match=r"2 <image> for 1 images"):
        Tokens(names.tokenizer, names.model, 96, 0).batch([wrong])


def test_late_fusion_learns_answers_too(recipe: Path, colored: Path, tmp_path: Path) -> None:
    """A conversation about one picture is a text beside it: the mark goes, the answers are what
    counts."""
    text, spans = late_text(Pair(ASKED, "a", learnt=ANSWERS))
    assert IMAGE not in text and [text[a:b] for a, b in spans] == [" red\n", " no\n"]
    data = f"{{source: conversations, path: {conversations(tmp_path)}, images: {colored}, template: question}}"
    chosen = load_recipe(
        recipe, [f"stages.0.data=[{data}]", "stages.0.steps=60", "stages.0.learning_rate=1e-2"]
    )
    train(chosen, tmp_path / "out", store=FeatureStore(tmp_path / "features"))
    log = read_log(tmp_path / "out", "colors")
    assert log[-1]["validation"]["own"] < 0.8 * log[0]["validation"]["own"]
