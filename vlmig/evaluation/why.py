"""``vlmig eval --why``: what in its images moved each item's answers, in a journal of its own
entries, so that a run measured before only adds them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from vlmig.evaluation.evaluator import Evaluator, Measured
from vlmig.evaluation.journal import key_of
from vlmig.evaluation.records import Record
from vlmig.evaluation.run_folder import Row
from vlmig.evaluation.tasks.items import Item, by_context
from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.predict.attribution import Attribution, explain
from vlmig.predict.scores import Scores

logger = logging.getLogger(__name__)


def explained(
    evaluator: Evaluator, measured: Measured, seed: int, rule: tuple[str, str]
) -> Iterator[Row | None]:
    """Yield what moved the answers of each item in the main condition: the means over its wordings
    of ``Attribution``'s ``images``, ``left_out`` and ``patches``.

    None for items without images, whose candidates have contexts or images of their own, or where
    text is generated.

    Args:
        rule: mixing rule and weights of the main condition.
    """
    keys = measured.keys[list(measured.seeds).index(seed)]
    items = zip(measured.items, measured.records(seed), keys, strict=True)
    for item, record, key in tqdm(items, f"{measured.task.name}, why", len(keys), unit=" items"):
        if not _shares_images(item, record):
            yield None
            continue
        name = key_of(why=[*rule, evaluator.settings.main_k], of=key.decode())
        if name not in evaluator.journal:
            evaluator.journal.put(name, {"why": _why(evaluator, item, record, seed, rule)})
        (entry,) = evaluator.journal.records([name])
        yield entry["why"]


def _shares_images(item: Item, record: Record) -> bool:
    """Whether an item's questions are choices beside one set of images, all with a reading each."""
    one_context = all(len(by_context(question)) == 1 for question in item.questions)
    scored = "per_image" in record and not record.get("tokens")
    return one_context and scored and len(record["pictures"]) == 1 and bool(record["pictures"][0])


def _why(evaluator: Evaluator, item: Item, record: Record, seed: int, rule: tuple[str, str]) -> Row:
    model, k = evaluator.model, evaluator.settings.main_k
    count = len(record["pictures"][0]) if isinstance(k, str) else k
    visuals = model.imagine([item.picture], count, seed)[0]
    mixture = Mixture.of(model.config, *rule)
    attributions = []
    for i, question in enumerate(item.questions):
        (group,) = by_context(question)
        scores, candidates = _scores(record, i, visuals), group[1]
        attributions.append(explain(model.scorer, group, visuals, scores, mixture, candidates))
    return _averaged(attributions)


def _scores(record: Record, question: int, visuals: Visuals) -> Scores:
    """Read a question's scores beside the first images of its record."""
    count = len(visuals.features)
    generic = record["generic"][question] if "generic" in record else None
    return Scores(
        np.array(record["text_only"][question], dtype=float),
        np.array(record["per_image"][question][:count], dtype=float),
        np.array(record["blank"][question], dtype=float),
        np.array(record["alignment"][question][:count], dtype=float),
        None if generic is None else np.array(generic, dtype=float),
    )


def _averaged(attributions: list[Attribution]) -> Row:
    """Average the attributions of an item's wordings, rounded to thousandths of a nat."""
    patches = []
    for image in range(len(attributions[0].images)):
        patches.append(np.mean([why.patches[image] for why in attributions], 0).round(3).tolist())
    return {
        "method": attributions[0].method,
        "images": np.mean([why.images for why in attributions], 0).round(3).tolist(),
        "left_out": np.mean([why.left_out for why in attributions], 0).round(3).tolist(),
        "patches": patches,
    }
