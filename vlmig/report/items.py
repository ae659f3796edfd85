"""From a line of samples to what the page shows of it: shares in thousandths, right or wrong, which pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from vlmig.evaluation.metrics.squad import exact_match, f1
from vlmig.evaluation.run_folder import Row, Run

Numbers = dict[str, int]
"""Store key -> place among the page's pictures, in the order of their appearance."""


def kind_of(line: Row) -> str:
    """Tell what was measured of an item: a ``choice``, generated ``outputs``, or ``loss``."""
    return "outputs" if "outputs" in line else "loss" if "loss" in line else "choice"


def text_of(question: Row) -> str:
    """Show a wording; where every candidate has a context of its own, what they share and a gap."""
    contexts = question["contexts"]
    if len(contexts) == 1:
        return contexts[0]
    ends = {text.strip() for text in question["continuations"]}
    end = ends.pop() if len(ends) == 1 else ""
    return f"{os.path.commonprefix(contexts).rstrip()} … {end}".strip()


def item_of(task: str, line: Row) -> Row:
    """Describe an item, whatever run it is from."""
    doc = line["doc"]
    names = [_names(doc, question) for question in doc["questions"]]
    shared = names[0] if all(own == names[0] for own in names) else None
    wordings = [
        {"text": text_of(question), "right": question["answer"]} | ({} if shared is not None else {"names": own})
        for question, own in zip(doc["questions"], names, strict=True)
    ]
    item = {"task": task, "id": doc["id"], "about": doc["cluster"], "picture": doc["picture"], "kind": kind_of(line)}
    item |= {"covered": line.get("covered"), "names": shared, "wordings": wordings, "runs": []}
    targets = doc["choices"] if kind_of(line) == "outputs" else [line["target"]]
    return item | {"targets": [text for text in targets if text]}


def _names(doc: Row, question: Row) -> list[str]:
    """Name what was scored: the candidates, or their spellings where there are several."""
    scored = question["continuations"]
    return doc["choices"] if len(doc["choices"]) == len(scored) else [text.strip() for text in scored]


def entry_of(run: Run, line: Row, numbers: Numbers) -> Row:
    """Say what one run found for an item under one seed; its pictures get their numbers."""
    measured = _measured(run, line)
    for wording, place in zip(measured, _places(line), strict=True):
        wording["set"] = place
    sets = [[numbers.setdefault(key, len(numbers)) for key in keys[: run.most]] for keys in line["pictures"]]
    known = [value for own in line.get("alignment") or [] for value in np.ravel(own[: run.most]) if value is not None]
    mean = float(np.mean(known)) if known else None
    floor = run.results["vlmig"].get("alignment_floor", 0.0)
    low = mean is not None and mean < floor
    return {
        "seed": line["seed"],
        "prompts": line["prompts"],
        "sets": sets,
        "alignment": mean,
        "low": low,
        "wordings": measured,
    }


def rights(run: Run, line: Row) -> list[bool | None]:
    """Say which wordings are right by the main setting; None where nothing is right or wrong."""
    return [wording["ok"] for wording in _measured(run, line)]


def _measured(run: Run, line: Row) -> list[Row]:
    return {"choice": _choices, "outputs": _outputs, "loss": _losses}[kind_of(line)](run, line)


def _places(line: Row) -> list[Any]:
    """Find each wording's set of pictures: one for all, one each, or a list with one for each candidate."""
    counts = [max(1, len(question["continuations"])) for question in line["doc"]["questions"]]
    sets = len(line["pictures"])
    if sets == 1:
        return [0] * len(counts)
    if sets == len(counts):
        return list(range(sets))
    starts = np.cumsum([0, *counts])
    return [list(range(start, start + count)) for start, count in zip(starts.tolist(), counts, strict=False)]


def _choices(run: Run, line: Row) -> list[Row]:
    """Show every wording's distributions over the candidates."""
    found = []
    for i in range(len(line["doc"]["questions"])):
        free = np.array((line.get("content_free") or [0.0] * (i + 1))[i], dtype=float)
        text = np.array(line["text_only"][i], dtype=float) - free
        images = np.array(line["per_image"][i], dtype=float).reshape(-1, len(text))[: run.most] - free
        mixed, answer = line["mixture"][i], line["answer"][i]
        wording = {
            "ok": bool(line["correct"][i]),
            "answer": answer,
            "alone": line["text_answer"][i],
            "text": thousandths(softmax(text)),
        }
        wording |= {"mixed": thousandths(mixed), "images": [thousandths(own) for own in softmax(images, -1)]}
        found.append({**wording, "alignment": _short(line["alignment"][i][: run.most])})
    return found


def _outputs(run: Run, line: Row) -> list[Row]:
    """Show what was generated with each number of pictures, and whether it is one of the right answers."""
    found = []
    targets = line["doc"]["choices"]
    for i in range(len(line["doc"]["questions"])):
        rows = [(int(k), texts[i]) for k, texts in line["outputs"].items()]
        scored = [[k, text, _best(exact_match, text, targets), round(_best(f1, text, targets), 3)] for k, text in rows]
        said = dict(rows)
        right = next(bool(row[2]) for row in scored if row[0] == run.k)
        found.append({"ok": right, "answer": said[run.most], "alone": said[0], "outputs": scored})
    return found


def _best(metric: Any, text: str, targets: Sequence[str]) -> float:
    return max((metric(text, target) for target in targets), default=0.0)


def _losses(run: Run, line: Row) -> list[Row]:
    """Show the loss per token with each number of pictures: of a text, or of each candidate with its context."""
    tokens, found, start = np.array(line["tokens"], dtype=float), [], 0
    for question in line["doc"]["questions"]:
        count = max(1, len(question["continuations"]))
        own = slice(start, start + count)
        means = {int(k): np.array(losses[own], dtype=float) / tokens[own] for k, losses in line["loss"].items()}
        rows = [[k, [round(float(value), 4) for value in values]] for k, values in means.items()]
        wording: Row = {"ok": None, "losses": rows, "tokens": int(tokens[own].sum())}
        if question["continuations"]:
            names = _names(line["doc"], question)
            best, alone = int(means[run.most].argmin()), int(means[0].argmin())
            wording |= {"ok": best == question["answer"], "answer": names[best], "alone": names[alone]}
        found.append(wording)
        start += count
    return found


def thousandths(shares: Any) -> list[int]:
    """Round shares for the page: whole numbers are short."""
    return [round(1000 * float(share)) for share in shares]


def _short(values: Any) -> Any:
    """Round cosines; what is unknown stays None."""
    if isinstance(values, list):
        return [_short(value) for value in values]
    return None if values is None else round(values, 3)


LIMIT = 500
"""Items of a page; one counts for every seed and run it is shown of."""
PICTURES = 3000
"""Pictures of a page."""


def shares(runs: Sequence[Run], sizes: Mapping[str, int], seeds: int) -> dict[str, int]:
    """Say how many items of each task a page can carry, with their pictures under so many seeds of all runs."""
    pictures = seeds * sum(max((run.pictures(task) for task in sizes), default=0) for run in runs)
    limit = min(LIMIT // (seeds * len(runs)), PICTURES // max(1, pictures))
    return spread(sizes, max(limit, len(sizes)))


def spread(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Share a limit out evenly; what a small task leaves over goes to the others."""
    shares: dict[str, int] = {}
    for done, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
        shares[name] = min(sizes[name], max(0, limit - sum(shares.values())) // (len(sizes) - done))
    return {name: shares[name] for name in sizes}
