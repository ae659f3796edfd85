"""Pictures shown in texts: what is scored and written equals the LM's own pass over hand-made
embeddings.

``SAME``: both sides are float32 passes over the same numbers; they differ by padding and the order
of sums only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_report
import torch
from conftest import open_gates
from PIL import Image
from torch import Tensor

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.models.config import IMAGE
from vlmig.predict.answer import Answer, Reply
from vlmig.processing.chat_templates import Turn
from vlmig.processing.conversation import with_placeholders
from vlmig.processing.tokens import ImageTokens, cut_left
from vlmig.report.answer import write_answer, write_reply
from vlmig.vision import files
from vlmig.vision.files import frames, opened

browser = test_report.browser
SAME = 5e-5
FAR = 1e-3
"""Pictures change these random models' log-probabilities by far more than arithmetic does."""
TEXTS = [
    (f"{IMAGE} The color is", [0]),
    (f"Is {IMAGE} red or not?", [1]),
    (f"The color of {IMAGE}", [0]),
    (f"{IMAGE}{IMAGE} same?", [0, 1]),
    (f"First {IMAGE}, then {IMAGE} and", [1, 0]),
    ("No picture at all", []),
]
SAID = " dark red"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of two pictures that look nothing alike."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, channel in (("a", 0), ("b", 2)):
        pixels = rng.integers(0, 90, (40, 48, 3), dtype=np.uint8)
        pixels[..., channel] += 160
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return [folder / "a.png", folder / "b.png"]


def built(parts: Path, store: Path, generator: str | None = None, **settings: Any) -> VLMIG:
    """Build a model on the tiny parts, always of the same weights."""
    torch.manual_seed(1)
    names = {
        "vision": str(parts / "vision_encoder"),
        "generator": generator or str(parts / "generator"),
    }
    model = VLMIG.from_base(
        str(parts / "language_model"),
        **names,
        store=store,
        imaginer_size=32,
        imaginer_steps=2,
        **settings,
    )
    model.config.trained = True
    return model


@pytest.fixture(scope="module")
def early(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> VLMIG:
    """Early fusion: 4 visual tokens for 16 patches, and room for 96 tokens."""
    return built(parts, tmp_path_factory.mktemp("store"), fusion="prefix", projector="pooled")


def features(model: VLMIG, paths: Sequence[Path]) -> Tensor:
    """Encode pictures one by one: (M, P, C)."""
    return torch.stack(
        [model.imagination.encoder.encode([Image.open(path)])[0][0].float() for path in paths]
    )


@torch.no_grad()
def embedded(
    model: VLMIG, text: str, paths: Sequence[Path], before: Tensor | None = None
) -> Tensor:
    """Put a text and its pictures together by hand, as the LM's input, (1, T, D)."""
    words, rows = model.get_words(), []
    tokens = iter(model.model.projector(features(model, paths))) if paths else iter(())
    if before is not None:
        rows.append(model.model.projector(before[None])[0])
    for i, piece in enumerate(text.split(IMAGE)):
        if i:
            rows.append(next(tokens))
        rows.append(words(torch.tensor(model.tokenizer(piece).input_ids, dtype=torch.long)))
    return torch.cat(rows)[None]


@torch.no_grad()
def by_hand(
    model: VLMIG, text: str, said: str, paths: Sequence[Path], before: Tensor | None = None
) -> float:
    """Score what is said behind a text with the bare LM."""
    ids = model.tokenizer(said).input_ids
    inputs = embedded(model, text + said, paths, before)
    log_probs = model.model.language_model(inputs_embeds=inputs).logits[0].log_softmax(-1)
    return sum(log_probs[i - len(ids) - 1, token].item() for i, token in enumerate(ids))


@torch.no_grad()
def greedy(model: VLMIG, text: str, paths: Sequence[Path], count: int) -> str:
    """Continue a text with the bare LM, the likeliest token each time."""
    inputs, ids = embedded(model, text, paths), []
    for _ in range(count):
        ids.append(int(model.model.language_model(inputs_embeds=inputs).logits[0, -1].argmax()))
        inputs = torch.cat([inputs, model.get_words()(torch.tensor([[ids[-1]]]))], 1)
    return model.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        VLMIG,
        "get_words",
        lambda self: self.model.language_model.get_input_embeddings(),
        raising=False,
    )


def chosen(pictures: list[Path], which: Sequence[int]) -> list[Path]:
    return [pictures[i] for i in which]


def test_scores_are_the_lm_s_own_and_a_batch_equals_single_texts(
    early: VLMIG, pictures: list[Path]
) -> None:
    pairs = [(text, SAID) for text, _ in TEXTS]
    images = [chosen(pictures, which) for _, which in TEXTS]
    together = early.loglikelihood(pairs, images=images)
    assert together == pytest.approx(
        [by_hand(early, t, SAID, i) for (t, _), i in zip(pairs, images, strict=True)], abs=SAME
    )
    for pair, own, value in zip(pairs, images, together, strict=True):
        assert early.loglikelihood([pair], images=[own])[0] == pytest.approx(value, abs=SAME)
        assert early.loglikelihood([pair], images=[own], per="sequence")[0] == pytest.approx(
            value, abs=SAME
        )


def test_the_order_of_pictures_matters(early: VLMIG, pictures: list[Path]) -> None:
    pair = (TEXTS[3][0], SAID)
    a, b = early.loglikelihood([pair, pair], images=[pictures, pictures[::-1]])
    assert abs(a - b) > FAR
    texts = [early.chat("Which?", own, max_new_tokens=8) for own in (pictures, pictures[::-1])]
    assert texts[0] != texts[1]


def test_pictures_of_a_text_without_marks_go_first(early: VLMIG, pictures: list[Path]) -> None:
    values = early.loglikelihood(
        [(f"{IMAGE}{IMAGE}x", " y"), ("x", " y")], images=[pictures, pictures]
    )
    assert values[0] == pytest.approx(values[1], abs=SAME)
    assert early.loglikelihood([("x", " y")], images=[pictures[0]]) == early.loglikelihood(
        [("x", " y")], images=[Image.open(pictures[0])]
    )


def test_candidates_beside_imagined_and_shown_pictures(early: VLMIG, pictures: list[Path]) -> None:
    context = TEXTS[4][0]
    seen = early.look([pictures[::-1]], [context], 2)
    scores = early.score([context], [["red", "blue"]], seen)[0]
    for i, option in enumerate((" red", " blue")):
        assert scores.text[i] == pytest.approx(
            by_hand(early, context, option, pictures[::-1]), abs=SAME
        )
        for picture in range(2):
            expected = by_hand(early, context, option, pictures[::-1], seen[0].features[picture])
            assert scores.per_image[picture, i] == pytest.approx(expected, abs=SAME)
    assert seen[0].first(1).shown.shape == seen[0].shown.shape


def test_generation_is_greedy_by_hand(early: VLMIG, pictures: list[Path]) -> None:
    images = [chosen(pictures, which) for _, which in TEXTS]
    texts = [text for text, _ in TEXTS]
    together = early.generate(texts, images=images, max_new_tokens=5, do_sample=False)
    assert together == [
        greedy(early, text, own, 5) for text, own in zip(texts, images, strict=True)
    ]
    beside = early.generate(texts[:2], 2, images=images[:2], max_new_tokens=4, do_sample=False)
    beams = early.generate(
        texts[3:], images=images[3:], max_new_tokens=3, num_beams=2, num_return_sequences=2
    )
    alone = [
        early.generate([t], images=[i], max_new_tokens=3, num_beams=2)
        for t, i in zip(texts, images, strict=True)
    ]
    assert [[first] for first in beams[::2]] == alone[3:]
    assert (
        beside[1]
        == early.generate(texts[1:2], 2, images=images[1:2], max_new_tokens=4, do_sample=False)[0]
    )


def test_log_probs_of_every_token(early: VLMIG, pictures: list[Path]) -> None:
    text, which = TEXTS[2][0] + SAID, TEXTS[2][1]
    seen = early.look([chosen(pictures, which)], [text])[0]
    count = len(early.tokenizer(SAID).input_ids)
    values = early.token_log_probs(text, seen, [0])[0]
    assert values[-count:].sum().item() == pytest.approx(
        by_hand(early, TEXTS[2][0], SAID, chosen(pictures, which)), abs=SAME
    )
    words = [early.tokenizer(piece).input_ids for piece in text.split(IMAGE)]
    assert (
        len(values) == sum(map(len, words)) - 1
    )  # the text begins with a word, and its picture is none


def test_a_picture_at_the_cut_goes_as_a_whole() -> None:
    places = ImageTokens(9, 3)
    ids = [1, 9, 9, 9, 5, 9, 9, 9, 6, 7]
    assert cut_left(ids, 10, 1, places) == ids
    for limit in (8, 9):  # the cut falls into the first picture
        assert cut_left(ids, limit, 1, places) == [1, 5, 9, 9, 9, 6, 7]
    assert cut_left(ids[1:], 8, 0, places) == [5, 9, 9, 9, 6, 7]
    assert cut_left([9, 9, 9, 5, 6, 7], 4, 0, places) == [5, 6, 7]
    with pytest.raises(VLMIGError, match="2 images of 3 tokens in a text; at most 7 tokens fit"):
        cut_left(ids, 7, 1, places)


def test_long_texts_lose_their_first_pictures_with_their_features(
    early: VLMIG, pictures: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    room = 96 - 2 * 4 - len(early.tokenizer(SAID).input_ids)
    kept = (
        12 * "a" + f"{IMAGE}" + (room - 12 + 2) * "b"
    )  # with the first picture two tokens too many
    values = early.loglikelihood(
        [(IMAGE + kept, SAID), (kept, SAID)], images=[pictures, pictures[1:]]
    )
    assert "was cut to 96, all that fits this model, and lost 1 of its 2 images" in caplog.text
    assert values == pytest.approx(2 * [by_hand(early, kept, SAID, pictures[1:])], abs=SAME)
    with pytest.raises(
        VLMIGError, match="30 images of 4 tokens in a text; at most 96 tokens fit this model"
    ):
        early.loglikelihood([("x", SAID)], images=[15 * pictures])
    with pytest.raises(VLMIGError, match="at most 76 tokens fit"):
        early.generate(["x"], images=[10 * pictures], max_new_tokens=20)


def test_nothing_is_encoded_twice(
    early: VLMIG, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, encode = [], early.imagination.encoder.encode
    monkeypatch.setattr(
        early.imagination.encoder, "encode", lambda own: counts.append(len(own)) or encode(own)
    )
    early.imagination._encoded.clear()
    early.loglikelihood(
        [(f"{text}!", SAID) for text, _ in TEXTS], images=[chosen(pictures, w) for _, w in TEXTS]
    )
    assert counts == [2]
    early.ask("What?", ["red", "blue"], images=pictures, shots=[(pictures[0], "Which?", "red")])
    assert counts == [2]


def test_demonstrations_and_turns_become_one_text(early: VLMIG, pictures: list[Path]) -> None:
    a, b = pictures
    shots = [
        (a, "What is it?", "a cat"),
        ([], "And?", "no"),
        (pictures, f"{IMAGE} or {IMAGE}?", "b"),
    ]
    reply = early.chat("Now?", b, shots=shots, max_new_tokens=2)
    assert reply.prompt == (
        f"{IMAGE}Question: What is it? Answer: a cat\nQuestion: And? Answer: no\n"
        f"{IMAGE}Question: or {IMAGE}? Answer: b\n{IMAGE}Question: Now? Answer:"
    )
    assert [picture.tobytes() for picture in reply.shown] == [
        opened(p).tobytes() for p in (a, a, b, b)
    ]
    turns = [Turn("user", "What?"), Turn("assistant", "a cat"), Turn("user", f"And {IMAGE}?")]
    with pytest.raises(VLMIGError, match="2 images for 1 <image>"):
        early.chat(turns, pictures)
    assert early.chat(turns, b, max_new_tokens=2).prompt.endswith(
        f"cat\nQuestion: And {IMAGE}? Answer:"
    )
    turns[2] = Turn("user", "And?")
    assert early.chat(turns, pictures, max_new_tokens=2).prompt.startswith(
        f"{IMAGE}{IMAGE}Question: What?"
    )


def test_a_chat_is_greedy_by_hand_up_to_its_stop(early: VLMIG, pictures: list[Path]) -> None:
    prompt = f"{IMAGE}Question: What is it? Answer:"
    whole = greedy(early, prompt, pictures[:1], 9)
    assert (
        early.chat("What is it?", pictures[0], max_new_tokens=9) == whole.partition("\n")[0].strip()
    )
    newline = early.tokenizer("\n").input_ids[0]  # so likely that it comes at once
    assert early.chat("What is it?", pictures[0], sequence_bias={(newline,): 1e4}) == ""


def test_a_stop_of_several_tokens_ends_generation_and_is_no_answer(
    early: VLMIG, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early.config, "chat_template", "vicuna_v0")
    monkeypatch.setattr("vlmig.processing.chat_templates.TEMPLATES", _without_system())
    steps: list[int] = []

    def count(ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        steps.append(ids.shape[1])
        return torch.zeros(len(ids), dtype=torch.bool)

    bias = {(early.tokenizer("#").input_ids[0],): 1e4}  # writes ### and would go on
    assert (
        early.chat(
            "What?", pictures[0], sequence_bias=bias, stopping_criteria=[count], max_new_tokens=9
        )
        == ""
    )
    assert len(steps) == 3


def test_choices_follow_as_the_template_writes_them(
    early: VLMIG, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = ["red", "blue"]

    def expected(context: str, answers: Sequence[str]) -> list[float]:
        scores = np.array([by_hand(early, context, answer, pictures[:1]) for answer in answers])
        return list(scores - np.logaddexp.reduce(scores))

    def said(probabilities: dict[str, float]) -> list[float]:
        return list(np.log(list(probabilities.values())))

    answer = early.ask("What is it?", choices, images=pictures[0])
    asked = f"{IMAGE}Question: What is it? Answer:"
    assert said(answer.probabilities) == pytest.approx(expected(asked, [" red", " blue"]), abs=SAME)
    alone = early.loglikelihood(
        [("Question: What is it? Answer:", f" {choice}") for choice in choices], 0
    )
    assert said(answer.text_only) == pytest.approx(
        list(alone - np.logaddexp.reduce(alone)), abs=SAME
    )
    assert (
        len(answer.shown) == 1
        and answer.images == []
        and early.ask("What is it?", images=pictures[0]).answer
    )
    answer = early.ask("It is", choices, images=pictures[0])  # asks nothing: continued as it is
    assert said(answer.probabilities) == pytest.approx(
        expected(f"{IMAGE}It is", [" red", " blue"]), abs=SAME
    )
    monkeypatch.setattr(early.config, "chat_template", "chatml")
    monkeypatch.setattr("vlmig.processing.chat_templates.TEMPLATES", _without_system())
    answer = early.ask("Is it?", choices, images=pictures[0])
    asked = f"<|im_start|>user\n{IMAGE}\nIs it?<|im_end|>\n<|im_start|>assistant\n"
    assert said(answer.probabilities) == pytest.approx(expected(asked, choices), abs=SAME)


def _without_system() -> dict[str, Any]:
    from dataclasses import replace

    from vlmig.processing.chat_templates import TEMPLATES

    return {
        name: replace(template, system="") for name, template in TEMPLATES.items()
    }  # the tiny LM reads 96 tokens


def test_a_question_to_a_model_of_captions_is_not_dropped(
    early: VLMIG, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early.config, "chat_template", "plain")
    assert early.chat("", pictures[0], max_new_tokens=2).prompt == IMAGE
    assert (
        early.chat("What?", pictures[0], max_new_tokens=2).prompt
        == f"{IMAGE}Question: What? Answer:"
    )


def test_thinking_step_by_step(early: VLMIG, pictures: list[Path]) -> None:
    begun = f"{IMAGE}Question: Is it? Answer: Let's think step by step."
    thought = greedy(early, begun, pictures[:1], 4).partition("\n")[0].strip()
    reply = early.chat("Is it?", pictures[0], steps=True, max_new_tokens=4)
    assert thought and reply.rationale == thought
    assert reply.prompt == f"{begun} {thought} Therefore, the answer is"
    assert reply == greedy(early, reply.prompt, pictures[:1], 4).partition("\n")[0].strip()
    answer = early.ask("Is it?", ["red", "blue"], images=pictures[0], steps=True, max_new_tokens=4)
    scores = [
        by_hand(early, reply.prompt, f" {choice}", pictures[:1]) for choice in ("red", "blue")
    ]
    assert answer.rationale == thought
    assert np.log(list(answer.probabilities.values())) == pytest.approx(
        scores - np.logaddexp.reduce(scores), abs=SAME
    )


@pytest.fixture(scope="module")
def late(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> VLMIG:
    model = built(parts, tmp_path_factory.mktemp("late"), fusion_heads=4)
    open_gates(model)
    return model


def test_late_fusion_looks_at_given_pictures_in_place_of_imagined_ones(
    late: VLMIG, parts: Path, pictures: list[Path], tmp_path: Path
) -> None:
    for i, path in enumerate(pictures):
        Image.open(path).save(tmp_path / f"a_cat_{i}.png")
    other = built(parts, tmp_path / "store", f"folder:{tmp_path}", fusion_heads=4)
    open_gates(other)
    question, choices = "What is the color of a cat?", ["red", "blue"]
    given, imagined = late.ask(question, choices, images=pictures), other.ask(question, choices, 2)
    for own, theirs in zip(given.per_image, imagined.per_image, strict=True):
        assert np.log(list(own.values())) == pytest.approx(np.log(list(theirs.values())), abs=SAME)
    assert given.probabilities == pytest.approx(imagined.probabilities, abs=SAME)
    assert given.weights == pytest.approx(imagined.weights, abs=SAME) and given.prompt == "a cat"
    assert given.given and len(given.images) == len(given.per_image) == 2 and not given.shown
    assert "load generator" not in late.stopwatch.seconds
    pairs = [("The color of a cat is", " red"), ("x", " b"), ("y", " c")]
    together = late.loglikelihood(pairs, images=[pictures, pictures[:1], []])
    for pair, own, value in zip(pairs, (pictures, pictures[:1], []), together, strict=True):
        assert late.loglikelihood([pair], images=[own])[0] == pytest.approx(value, abs=SAME)
    ids = late.tokenizer("".join(pairs[0]), return_tensors="pt").input_ids
    with torch.no_grad():
        log_probs = late.model(ids, visual_features=features(late, pictures)[None]).logits[0]
    count = len(late.tokenizer(" red").input_ids)
    hand = sum(
        log_probs[i - 1, ids[0, i]].item() for i in range(ids.shape[1] - count, ids.shape[1])
    )
    assert together[0] == pytest.approx(hand, abs=SAME)
    texts = late.generate(["A cat", "x"], images=[pictures, []], max_new_tokens=3, do_sample=False)
    assert (
        texts[0]
        == late.generate(["A cat"], images=[pictures], max_new_tokens=3, do_sample=False)[0]
    )
    assert texts[1] == late.generate(["x"], 0, max_new_tokens=3, do_sample=False)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, p: m.generate([f"a {IMAGE}"], images=[p]),
            f"2 images for 1 {IMAGE} in 'a {IMAGE}'",
        ),
        (lambda m, p: m.loglikelihood([(f"a {IMAGE}", " b")], 0), f"0 images for 1 {IMAGE}"),
        (
            lambda m, p: m.loglikelihood([("a", f" {IMAGE}")], images=[p]),
            "contains <image>, which is only allowed in the context",
        ),
        (
            lambda m, p: m.loglikelihood([("a", " b")], images=[p, p]),
            "images for 2 texts, 1 texts",
        ),
        (lambda m, p: m.ask("a?", images=[p[0].parent / "none.png"]), "no image file .*none.png"),
        (lambda m, p: m.ask("a?", images=[3]), "an image of type int"),
        (
            lambda m, p: m.chat(
                [Turn("user", "a"), Turn("assistant", IMAGE), Turn("user", "b")], p
            ),
            "only allowed in questions",
        ),
    ],
)
def test_wrong_pictures_are_said_in_one_line(
    early: VLMIG, pictures: list[Path], call: Any, message: str
) -> None:
    with pytest.raises(VLMIGError, match=message) as caught:
        call(early, pictures)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: m.ask(f"a {IMAGE}?", images=p[0]), "looks at images beside the text"),
        (lambda m, p: m.ask("a?", k=2, images=p), "k=2 with images; expected no k"),
        (lambda m, p: m.ask("a?", shots=[(p, "b?", "c")]), "a demonstration with images"),
        (lambda m, p: m.generate([f"a {IMAGE}"], images=[p]), "leave it out"),
    ],
)
def test_late_fusion_has_no_pictures_in_its_text(
    late: VLMIG, pictures: list[Path], call: Any, message: str
) -> None:
    with pytest.raises(VLMIGError, match=message):
        call(late, pictures)


def test_marks_of_a_question_are_llava_s() -> None:
    assert with_placeholders("What?", 2, line=True) == f"{IMAGE}\n{IMAGE}\nWhat?"
    assert (
        with_placeholders(" ", 1, line=True) == IMAGE
        and with_placeholders("What?", 1) == f"{IMAGE}What?"
    )
    assert with_placeholders(f"Image 1: {IMAGE}", 1, line=True) == f"Image 1: {IMAGE}"


def animation(path: Path, count: int, **settings: Any) -> Path:
    shades = [Image.new("RGB", (16, 16), (20 * i, 0, 255 - 20 * i)) for i in range(count)]
    shades[0].save(path, save_all=True, append_images=shades[1:], **settings)
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_frames_of_animations_are_evenly_spread_and_in_order(tmp_path: Path, name: str) -> None:
    path = animation(tmp_path / name, 10, **({"lossless": True} if name.endswith("webp") else {}))

    def reds(count: int) -> list[int]:
        return [
            round(frame.getpixel((8, 8))[0] / 20) for frame in frames(path, count)
        ]  # GIF's colours are near

    assert (
        reds(4) == [0, 3, 6, 9]
        and reds(5) == [0, 2, 4, 7, 9]
        and reds(1) == [0]
        and reds(99) == list(range(10))
    )
    assert opened(path).getpixel((8, 8))[0] < 10


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv"]
)  # Matroska does not say how many frames there are
def test_frames_of_videos(tmp_path: Path, name: str) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for i in range(10):
            shade = np.full((32, 32, 3), 25 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade)))
        container.mux(stream.encode())
    means = [np.asarray(frame).mean() / 25 for frame in frames(tmp_path / name, 4)]
    assert means == pytest.approx(
        [0, 3, 6, 9], abs=0.4
    )  # lossy, and video's darkest black is not 0


@pytest.fixture(scope="module")
def checkpoint_of(early: VLMIG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("early")
    early.model.save_pretrained(folder)
    return folder


def test_the_command_line_answers_about_pictures(
    early: VLMIG,
    checkpoint_of: Path,
    pictures: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a, b = map(str, pictures)
    common = [
        "--model",
        str(checkpoint_of),
        "--store",
        str(tmp_path),
        "--html",
        str(tmp_path / "page.html"),
    ]

    def page() -> dict[str, Any]:
        return json.loads(
            re.findall(r'id="data">(.*?)</script>', (tmp_path / "page.html").read_text(), re.S)[0]
        )

    shot = ["--shot", b, "Which?", "red"]
    assert main(["ask", "What is it?", "--image", a, "--image", b, *shot, *common]) == 0
    expected = early.chat("What is it?", pictures, shots=[(pictures[1], "Which?", "red")])
    assert capsys.readouterr().out.startswith(f"{expected or '(nothing)'}\n")
    assert len(page()["pictures"]) == 3 and page()["items"][0]["kind"] == "reply"
    video = str(animation(tmp_path / "v.gif", 5))
    choices = ["--choices", "red,blue", "--video", video, "--frames", "2", "--steps"]
    assert main(["ask", "Which?", *choices, *common]) == 0
    said = capsys.readouterr().out
    assert (
        "p = " in said and "text only" in said and len(page()["items"][0]["runs"][0]["shown"]) == 2
    )


def test_pages_show_given_pictures_and_steps(tmp_path: Path, browser: Any) -> None:
    hostile, seen = (
        test_report.HOSTILE,
        [Image.new("RGB", (99, 60), shade) for shade in ("red", "blue")],
    )
    write_reply(
        f"{IMAGE} What?",
        Reply(f"A cat{hostile}", f"It purrs{hostile}", "", seen),
        tmp_path / "page.html",
    )
    browser.get((tmp_path / "page.html").as_uri())
    assert len(browser.find_elements("css selector", ".strip img.picture")) == 2
    assert "A cat" in browser.find_element("css selector", ".answered").text
    assert "It purrs" in browser.find_element("css selector", ".facts").text
    shares = {"red": 0.75, "blue": 0.25}
    write_answer(
        Answer("What?", "red", shares, [], shares, [], [], "", shown=seen), tmp_path / "page.html"
    )
    browser.get((tmp_path / "page.html").as_uri())
    assert len(browser.find_elements("css selector", ".strip img.picture")) == 2
    assert [
        node.text for node in browser.find_elements("css selector", ".matrix .mixed .number")
    ] == ["75.0", "25.0"]
    assert browser.title == "What?" and browser.get_log("browser") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "{tmp}/none.png"], "no image file .*none.png; expected a path to one"),
        (["--image", "{tmp}/text.png"], "text.png is not an image that can be read"),
        (
            ["--image", "{picture}", f"{IMAGE} {IMAGE}"],
            "2 <image> in the question, 1 images; give one for each",
        ),
        (
            ["--image", "{picture}", "--k", "2", "--choices", "a,b"],
            "k=2 with images; expected no k",
        ),
        (["--video", "{tmp}/none.mp4"], "no video file .*none.mp4"),
        (["--video", "{tmp}/text.gif"], "text.gif is not a video that can be read"),
        (
            ["--video", "{tmp}/text.mp4"],
            r'needs PyAV; install it with pip install "vlmig\[video\]"',
        ),
        (["--video", "{tmp}/text.gif", "--frames", "0"], "0 frames of .*; expected at least one"),
        (["--shot", "{picture}", "Which?"], "expected 3 arguments"),
        (
            ["--shot", "{picture}", "Which?", "red"],
            "a demonstration with images, but fusion='cross_attention'",
        ),
    ],
)
def test_errors_of_the_command_line_are_one_line(
    arguments: list[str],
    message: str,
    pictures: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("text.png", "text.gif", "text.mp4"):
        (tmp_path / name).write_text("no pixels")
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    question = [] if any(IMAGE in argument for argument in arguments) else ["What is it?"]
    own = [argument.format(tmp=tmp_path, picture=pictures[0]) for argument in arguments]
    try:
        status = main(["ask", *question, *own, "--store", str(tmp_path)])
    except SystemExit as stopped:
        status = int(str(stopped.code))
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and re.search(message, error), error
