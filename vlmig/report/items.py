"""From a line of samples to what the page shows of an item: probabilities, answers and images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from vlmig.evaluation.metrics.squad import exact_match, f1
from vlmig.evaluation.run_folder import Row, Run
from vlmig.report.overlay import encoded

Numbers = dict[str, int]
"""Store key -> index among the page's images, in the order in which they are first used."""
LIMIT = 500
"""Most items of a page; an item counts once for every seed and run that it is shown with."""
IMAGES = 3000
"""Most images of a page."""


def item_of(task: str, line: Row) -> Row:
    """Describe an item independently of the run."""
    doc, kind, said = line["doc"], _kind(line), line["doc"].get("distribution", ())
    decided = not doc.get("side") and (not said or line["correct"] is not None)
    names = [_names(doc, question) for question in doc["questions"]]
    shared = names.count(names[0]) == len(names)
    wordings = []
    for question, labels in zip(doc["questions"], names, strict=True):
        wording = {"text": text_of(question), "right": question["answer"] if decided else None}
        if not shared:
            wording["names"] = labels
        wordings.append(wording)
    targets = doc["choices"] if kind == "outputs" else [line["target"]] if decided else []
    return {
        "task": task,
        "id": doc["id"],
        "about": doc["cluster"],
        "picture": doc["picture"],
        "kind": kind,
        "covered": line.get("covered"),
        "names": names[0] if shared else None,
        "wordings": wordings,
        "people": thousandths(said) or None,
        "group": doc.get("group"),
        "runs": [],
        "targets": [text for text in targets if text],
    }


def text_of(question: Row) -> str:
    """Return a wording; if each candidate has its own context, what they share with a gap."""
    contexts = question["contexts"]
    if len(contexts) == 1:
        return contexts[0]
    ends = {text.strip() for text in question["continuations"]}
    end = ends.pop() if len(ends) == 1 else ""
    return f"{os.path.commonprefix(contexts).rstrip()} … {end}".strip()


def _kind(line: Row) -> str:
    """Tell what was measured: a ``choice``, generated ``outputs`` or a ``loss``."""
    return "outputs" if "outputs" in line else "loss" if "loss" in line else "choice"


def _names(doc: Row, question: Row) -> list[str]:
    """Name what was scored: the candidates, or their spellings where there are several."""
    scored = question["continuations"]
    if len(doc["choices"]) == len(scored):
        return doc["choices"]
    return [text.strip() for text in scored]


def entry_of(run: Run, line: Row, numbers: Numbers) -> Row:
    """Describe what one run measured of an item under one seed, and number its images."""
    wordings = _measured(run, line)
    for wording, image_set in zip(wordings, _image_sets(line), strict=True):
        wording["set"] = image_set
    sets = []
    for keys in line["pictures"]:
        sets.append([numbers.setdefault(key, len(numbers)) for key in keys[: run.most]])
    mean = _mean_alignment(run, line)
    low = mean is not None and mean < run.results["vlmig"].get("alignment_floor", 0.0)
    return {
        "seed": line["seed"],
        "prompts": line["prompts"],
        "sets": sets,
        "alignment": mean,
        "low": low,
        "wordings": wordings,
        "why": _why(line.get("why"), run.most),
    }


def _why(why: Row | None, most: int) -> Row | None:
    """Return what the page draws of what moved an item's answers."""
    if why is None:
        return None
    patches = [np.array(effects) for effects in why["patches"][:most]]
    return drawn_why(why["images"][:most], why["left_out"][:most], patches)


def drawn_why(
    images: Sequence[float], left_out: Sequence[float], patches: Sequence[np.ndarray]
) -> Row:
    """Return what a page draws of an ``Attribution``."""
    scale = max((float(np.abs(effects).max()) for effects in patches), default=0.0)
    return {
        "images": list(images),
        "left_out": list(left_out),
        "layers": [encoded(effects, scale) for effects in patches],
    }


def rights(run: Run, line: Row) -> list[bool | None]:
    """Say which wordings the main setting gets right; None where nothing is right or wrong."""
    return [wording["ok"] for wording in _measured(run, line)]


def _image_sets(line: Row) -> list[Any]:
    """Return the index of each wording's set of images, or a list with one for each candidate."""
    counts = _scored(line)
    sets = len(line["pictures"])
    if sets == 1:
        return [0] * len(counts)
    if sets == len(counts):
        return list(range(sets))
    starts = np.cumsum([0, *counts]).tolist()
    return [list(range(start, start + n)) for start, n in zip(starts, counts, strict=False)]


def _scored(line: Row) -> list[int]:
    """Count the texts that were scored for each wording: its candidates, or the text itself."""
    return [max(1, len(question["continuations"])) for question in line["doc"]["questions"]]


def _mean_alignment(run: Run, line: Row) -> float | None:
    """Average the CLIP similarities of all images that have one."""
    known: list[float] = []
    for values in line.get("alignment") or []:
        known += [value for value in np.ravel(values[: run.most]) if value is not None]
    return float(np.mean(known)) if known else None


def _measured(run: Run, line: Row) -> list[Row]:
    kinds = {"choice": _choices, "outputs": _outputs, "loss": _losses}
    return kinds[_kind(line)](run, line)


def _choices(run: Run, line: Row) -> list[Row]:
    """Return every wording's distributions over the candidates."""
    wordings = []
    for i in range(len(line["doc"]["questions"])):
        # Dividing by the prediction for a content-free question: a difference of logarithms.
        known = line.get("content_free")
        content_free = np.array(known[i] if known else 0.0, dtype=float)
        text = np.array(line["text_only"][i], dtype=float) - content_free
        images = np.array(line["per_image"][i], dtype=float).reshape(-1, len(text))
        images = softmax(images[: run.most] - content_free, -1)
        wordings.append(
            {
                "ok": None if line["correct"] is None else bool(line["correct"][i]),
                "answer": line["answer"][i],
                "alone": line["text_answer"][i],
                "text": thousandths(softmax(text)),
                "mixed": thousandths(line["mixture"][i]),
                "images": [thousandths(image) for image in images],
                "alignment": _short(line["alignment"][i][: run.most]),
            }
        )
    return wordings


def _outputs(run: Run, line: Row) -> list[Row]:
    """Return what was generated with each number of images, with exact match and F1."""
    wordings = []
    targets = line["doc"]["choices"]
    for i in range(len(line["doc"]["questions"])):
        rows: dict[int, list[Any]] = {}
        for k, outputs in line["outputs"].items():
            exact, overlap = (_best(metric, outputs[i], targets) for metric in (exact_match, f1))
            rows[int(k)] = [int(k), outputs[i], exact, round(overlap, 3)]
        _, answer, exact, _ = rows[run.most]
        wording = {"ok": bool(exact), "answer": answer, "alone": rows[0][1]}
        wordings.append({**wording, "outputs": list(rows.values())})
    return wordings


def _best(metric: Callable[[str, str], float], text: str, targets: Sequence[str]) -> float:
    return max((metric(text, target) for target in targets), default=0.0)


def _losses(run: Run, line: Row) -> list[Row]:
    """Return the loss per token of a text, or of each candidate, for each number of images."""
    tokens = np.array(line["tokens"], dtype=float)
    wordings, start = [], 0
    for question, count in zip(line["doc"]["questions"], _scored(line), strict=True):
        end = start + count
        means, rows = {}, []
        for k, losses in line["loss"].items():
            mean = np.array(losses[start:end], dtype=float) / tokens[start:end]
            means[int(k)] = mean
            rows.append([int(k), [round(float(value), 4) for value in mean]])
        wording: Row = {"ok": None, "losses": rows, "tokens": int(tokens[start:end].sum())}
        if line["doc"]["choices"]:
            names = _names(line["doc"], question)
            best, alone = int(means[run.most].argmin()), int(means[0].argmin())
            wording["ok"] = best == question["answer"]
            wording |= {"answer": names[best], "alone": names[alone]}
        wordings.append(wording)
        start = end
    return wordings


def thousandths(shares: Iterable[Any]) -> list[int]:
    """Round shares to whole thousandths, which are short in the page's data."""
    return [round(1000 * float(share)) for share in shares]


def _short(values: Any) -> Any:
    """Round CLIP similarities; unknown ones stay None."""
    if isinstance(values, list):
        return [_short(value) for value in values]
    return None if values is None else round(values, 3)


def shares(runs: Sequence[Run], sizes: Mapping[str, int], seeds: int) -> dict[str, int]:
    """Return how many items of each task a page can carry, with ``seeds`` sets of images."""
    images = 0
    for run in runs:
        images += seeds * max((run.images(task) for task in sizes), default=0)
    limit = min(LIMIT // (seeds * len(runs)), IMAGES // max(1, images))
    return split_evenly(sizes, max(limit, len(sizes)))


def split_evenly(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Divide a limit evenly; what a small task leaves over goes to the others."""
    result: dict[str, int] = {}
    for done, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
        rest = max(0, limit - sum(result.values()))
        result[name] = min(sizes[name], rest // (len(sizes) - done))
    return {name: result[name] for name in sizes}
