"""A benchmark's questions from nothing to answers: ``vlmig eval`` beside a plain loop written as
the published scripts work.

python -m benchmarks.end_to_end --data DATA --questions 200 --k 10

The task is ImageNetVC's (five wordings a question), the model the embedded one. Blocks of
questions go through all sides in turns:

- plain: for each wording of each question one call of the diffusion pipeline, two passes of the
vision tower and one of the text
  tower, then the LM with every position beside every picture through the head, once for each
  candidate of several tokens.
- wording: ``vlmig eval`` with the same pictures, k for each wording (``--policy question``);
nothing stored before.
- shared: ``vlmig eval`` as it works, with the wordings of a question sharing their pictures;
nothing stored before.
- wording, stored and shared, stored: the same again with the pictures in the store, and nothing
measured before.

What is loaded once is loaded, and used once, before the clock starts. ``wording`` and ``plain``
answer from the same pictures:
their answers are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.imagination import PlainLoop
from benchmarks.side_by_side import introduction, machine, ratios, seconds
from vlmig import VLMIG
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.metrics.aggregate import assemble
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.evaluation.tasks.yaml_task import choose_tasks
from vlmig.imagination.store import FeatureStore
from vlmig.models.checkpoint import POCKET
from vlmig.models.mixture import Mixture
from vlmig.predict.scores import Scores
from vlmig.processing.conversation import spaced

SIDES = ("plain", "wording", "shared", "wording, stored", "shared, stored")


class Plain:
    """The published way: a question at a time, everything again for each.

    Args:
        model: whose components and mixture are used, by themselves.
        k: pictures of each wording.
    """

    def __init__(self, model: VLMIG, k: int) -> None:
        self.model, self.k = model, k
        self.loop = PlainLoop(model.config, model.model.device)

    def __call__(self, items: Sequence[Item]) -> list[list[int]]:
        """Answer every wording of every item."""
        return [[self.answer(question) for question in item.questions] for item in items]

    @torch.inference_mode()
    def answer(self, question: Question) -> int:
        """Return the place of the best candidate."""
        model, context = self.model.model, question.contexts[0]
        ((prompt, *_),) = [self.model.imagination.prompts(context, self.k, "question")]
        ((features, alignment),) = self.loop([prompt], self.k)
        pictures = torch.cat([model.blank_features[None], features.to(model.device)])
        choices = spaced(context, question.continuations)
        tokenizer, limit = self.model.scorer.texts, self.model.config.text_limit
        pairs = [tokenizer.pair(context, own, limit) for own in choices]
        if all(len(ids) == split + 1 and ids[:-1] == pairs[0][0][:-1] for ids, split in pairs):
            every = self.predict(pairs[0][0][:-1], pictures)
            found = np.stack([every[:, -1, ids[-1]] for ids, _ in pairs], -1)
        else:
            found = np.stack([self.continued(ids, split, pictures) for ids, split in pairs], -1)
        scores = Scores(found[0], found[2:], found[1], alignment.numpy())
        return int(scores.mixed(self.k, Mixture.of(self.model.config)).argmax())

    def continued(self, ids: list[int], split: int, pictures: torch.Tensor) -> np.ndarray:
        """Return the log-probability of a candidate alone, beside nothing and beside each
        picture."""
        every = self.predict(ids[:-1], pictures)
        return sum(every[:, place - 1, ids[place]] for place in range(split, len(ids)))

    def predict(self, ids: list[int], pictures: torch.Tensor) -> np.ndarray:
        """Predict at every position, alone and beside every picture: log-probabilities (1 + K, T,
        V)."""
        model = self.model.model
        hidden = model.trunk(torch.tensor([ids], device=model.device)).last_hidden_state
        beside = hidden.expand(len(pictures), -1, -1)
        places = torch.arange(len(ids), device=model.device).expand(len(pictures), -1)
        mask = torch.ones(len(ids), len(ids), dtype=torch.bool, device=model.device).tril()
        text = model.fusion.read_text(beside, places)
        visual = model.fusion.read_images(model.projector(pictures)[:, None])
        fused = model.fusion(beside, visual, text, mask.expand(len(pictures), -1, -1), places)[:, 0]
        states = torch.cat([hidden, fused])
        return (
            model.head(model.language_model, states).float().log_softmax(-1).cpu().double().numpy()
        )


def evaluate(
    model: VLMIG, items: Sequence[Item], policy: str, k: int, folder: Path
) -> list[list[int]]:
    """Answer as ``vlmig eval`` does: measure, and read the answers out."""
    task = Task("block", lambda _: list(items))
    settings = Settings(ks=(0, k), policy=policy)
    evaluator = Evaluator(model, settings, folder, folder / "out")
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        _, said = assemble(evaluator, evaluator.measure(task))
    found = [row["answer"] for row in said[0]]
    return [
        [item.choices.index(word) for word in own] for item, own in zip(items, found, strict=True)
    ]


def block(
    model: VLMIG, plain: Plain, items: Sequence[Item], turn: int
) -> tuple[dict[str, float], float]:
    """Take every side through a block of questions: seconds, and the share of equal answers of
    ``plain`` and ``wording``."""
    answers: dict[str, list[list[int]]] = {}
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:

        def ours(policy: str, part: str) -> Callable[[], None]:
            def work() -> None:
                model.imagination.store = FeatureStore(Path(name) / policy)
                answers[policy + part] = evaluate(
                    model, items, policy, plain.k, Path(name) / (policy + part)
                )

            return work

        sides: list[tuple[str, Callable[[], Any]]] = [
            ("plain", lambda: answers.update(plain=plain(items))),
            ("wording", ours("question", "")),
            ("shared", ours("item", "")),
        ]
        for side, work in sides[turn % 3 :] + sides[: turn % 3]:
            spent[side] = seconds(work)
        spent["wording, stored"] = seconds(ours("question", "again"))
        spent["shared, stored"] = seconds(ours("item", "again"))
        model.imagination.store.base.close()
    same = [
        a == b
        for own, other in zip(answers["plain"], answers["question"], strict=True)
        for a, b in zip(own, other, strict=True)
    ]
    return spent, float(np.mean(same))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of benchmark files")
    parser.add_argument(
        "--task",
        default="imagenetvc_color",
        help="whose questions are asked (default: imagenetvc_color)",
    )
    parser.add_argument("--questions", type=int, default=200, help="how many (default: 200)")
    parser.add_argument(
        "--k",
        type=int,
        default=10,
        help="pictures of each wording, or of each question (default: 10)",
    )
    parser.add_argument(
        "--blocks",
        type=int,
        default=10,
        help="parts that go through all sides in turns (default: 10)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every figure to a file"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    arguments = _arguments(argv)
    told = machine()
    print(introduction(told))
    items = choose_tasks([arguments.task], {})[0].load(arguments.data)[: arguments.questions]
    with contextlib.redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as name:
        model = VLMIG.from_pretrained(POCKET, store=name)
        plain = Plain(model, arguments.k)
        block(model, plain, items[:1], 0)  # everything is loaded
    size = -(-len(items) // arguments.blocks)
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    equal = []
    for turn, start in enumerate(range(0, len(items), size)):
        spent, same = block(model, plain, items[start : start + size], turn)
        equal.append(same * len(items[start : start + size]))
        for side, value in spent.items():
            found[side].append(value)
        print(
            f"block {turn + 1}: " + ", ".join(f"{side} {spent[side]:.1f} s" for side in SIDES),
            flush=True,
        )
    wordings = sum(len(item.questions) for item in items)
    print(f"\n{len(items)} questions of {arguments.task}, {wordings} wordings, k={arguments.k}")
    for side in SIDES:
        ratio, low, high = ratios(found, "plain", side)
        whole = sum(found["plain"]) / sum(found[side])
        print(
            f"{side:<18}{sum(found[side]):>9.1f} s   {whole:>7.2f} times as fast; blocks: "
            f"{ratio:.2f}, quartiles {low:.2f} to {high:.2f}"
        )
    print(
        f"plain and wording give the same answer to {sum(equal) / len(items):.2%} of the wordings"
    )
    if arguments.json:
        figures = {
            "machine": told,
            "seconds": found,
            "equal": sum(equal) / len(items),
            "median": median(found["plain"]),
        }
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
