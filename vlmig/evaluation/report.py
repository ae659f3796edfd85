"""Reports: a table for the terminal, and one self-contained HTML page with every picture and distribution."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmig.checkpoint import write_text
from vlmig.errors import VLMIGError
from vlmig.evaluation.results import main_condition
from vlmig.predictor import Answer
from vlmig.scoring import Scores
from vlmig.store import FeatureStore

QUESTIONS = 40
"""Questions shown per task."""

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}section{border-top:1px solid #ccc;margin-top:1.2rem;padding-top:.6rem}
.pictures{display:flex;flex-wrap:wrap;gap:.6rem}.picture{width:96px;font-size:12px}.picture img{width:96px;height:96px;border-radius:4px}
.bar{display:flex;align-items:center;gap:.4rem;font-size:13px}.bar span:first-child{width:5.5rem;text-align:right}
.bar i{display:block;height:.75rem;background:#4a7ebb;border-radius:2px}.mixed i{background:#c0504d}.columns{display:flex;gap:2rem}
.right{color:#18772a}.wrong{color:#b3261e}small{color:#666}
"""


def table(results: dict[str, Any]) -> str:
    """Format the accuracies of the main setting beside text-only, controls and baselines, for the terminal."""
    k = results["config"]["model_args"]["k"]
    columns = {
        "text-only": (0, "none"),
        f"k={k}": (k, "none"),
        "shuffled": (k, "shuffled"),
        "few-shot": (0, "few-shot"),
    }
    head = f"{'task':<22}{'subset':<9}{'n':>5} {'chance':>7}{'majority':>9}"
    lines = [head + "".join(f"{name:>18}" for name in columns) + f"{'visual gain':>22}"]
    for task in results["results"]:
        for subset in ("all", "covered"):
            rows = [main_condition(results, task, subset, *place) for place in columns.values()]
            if rows[0] is None:
                continue
            chance = results["vlmig"]["baselines"][task].get("chance")
            most = rows[0].get("majority")
            split = results["configs"][task]["test_split"]
            name = task if split == "test" else f"{task} ({split})"
            line = f"{name:<22}{subset:<9}{rows[0]['n']:>5} {_percent(chance):>7}{_percent(most):>9}"
            lines.append(line + "".join(f"{_cell(row):>18}" for row in rows) + f"{_gain(results, task, subset):>22}")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


def _gain(results: dict[str, Any], task: str, subset: str) -> str:
    """Format the visual gain: with pictures minus another object's pictures."""
    for c in results["vlmig"]["comparisons"]:
        if (c["task"], c["subset"], c["b"]) == (task, subset, "shuffled"):
            return f"{100 * c['delta']:+.1f} {c['verdict']}"
    return "-"


def _cell(condition: dict[str, Any] | None) -> str:
    if condition is None:
        return "-"
    if condition["acc"] is None:
        return f"ppl {condition['perplexity']:.3f}"
    low, high = (100 * x for x in condition["ci95"])
    return f"{100 * condition['acc']:.1f}% [{low:.0f}, {high:.0f}]"


def write_report(out: Path, store: FeatureStore) -> Path:
    """Render ``OUT/report.html`` from results.json, the samples and the stored pictures.

    Raises:
        VLMIGError: the folder holds no results.
    """
    if not (out / "results.json").is_file():
        raise VLMIGError(f"{out} has no results.json; expected a folder that vlmig eval --out wrote")
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    parts = [
        f"<h1>vlmig report</h1><p><small>{html.escape(_provenance(results))}</small></p>",
        _conditions(results),
        _comparisons(results),
    ]
    for task in results["results"]:
        samples = out / f"samples_{task}.jsonl"
        if samples.is_file():
            rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
            parts.append(f"<h2>{html.escape(task)}</h2>")
            shown = [r for r in rows if r["control"] == "none" and r["seed"] == rows[0]["seed"]]
            shown.sort(key=lambda r: r["covered"] is False)
            parts += [_question(row, results, store) for row in shown[:QUESTIONS]]
    write_text(out / "report.html", _page("vlmig report", "".join(parts)))
    return out / "report.html"


def write_answer(answer: Answer, path: Path) -> None:
    """Write one answer with its pictures as a self-contained page."""
    pictures = "".join(
        _picture(p, a, d) for p, a, d in zip(answer.images, answer.weights, answer.per_image, strict=True)
    )
    body = f"<h1>{html.escape(answer.question)}</h1><p>imagined: “{html.escape(answer.prompt)}”</p><div class=pictures>{pictures}</div>"
    body += f"<div class=columns>{_bars('text only', answer.text_only)}{_bars('with pictures', answer.probabilities, 'mixed')}</div>"
    write_text(path, _page(answer.question, body))


def _question(row: dict[str, Any], results: dict[str, Any], store: FeatureStore) -> str:
    """Show one item's first template: pictures, each one's distribution, text alone and the mixture."""
    doc, block = row["doc"], results["vlmig"]
    choices = doc["choices"]
    text, per_image, blank = (np.array(row[name][0]) for name in ("text_only", "per_image", "blank"))
    alignment = np.array(row["alignment"][0], dtype=float)  # None becomes NaN; (K, C) where each candidate has its own
    scores = Scores(text, per_image, blank, alignment)
    k = min(results["config"]["model_args"]["k"], len(scores.per_image))
    mixed = scores.mixed(
        k,
        block["default"]["mix"],
        block["default"]["weights"],
        block["strength"],
        block["doubt"],
        block["alignment_floor"],
    )
    mixed = np.exp(mixed)
    best = int(mixed.argmax())
    right, pictures, apart = choices[best] == row["target"], [], alignment.ndim == 2
    for i, key in enumerate(row["pictures"][best if apart else 0][:k]):
        item = store.get(key)
        if item is not None and item.picture is not None:
            pictures.append(
                _picture(
                    item.picture,
                    alignment[i, best] if apart else alignment[i],
                    _distribution(choices, scores.per_image[i]),
                )
            )
    state = "" if row["covered"] is not False else " <small>(outside the model's world)</small>"
    head = f"<h3>{html.escape(doc['contexts'][0])} <span class={'right' if right else 'wrong'}>{choices[best]}</span>"
    head += f" <small>label: {html.escape(row['target'])}</small>{state}</h3>"
    bars = _bars("text only", _distribution(choices, scores.text)) + _bars(
        "with pictures", dict(zip(choices, mixed, strict=True)), "mixed"
    )
    return f"<section>{head}<div class=pictures>{''.join(pictures)}</div><div class=columns>{bars}</div></section>"


def _distribution(choices: list[str], log_probs: np.ndarray) -> dict[str, float]:
    weights = np.exp(log_probs - log_probs.max())
    return dict(zip(choices, map(float, weights / weights.sum()), strict=True))


def _picture(picture: Image.Image, alignment: float, distribution: dict[str, float]) -> str:
    best = max(distribution, key=lambda name: distribution[name])
    label = f"{html.escape(best)} {100 * distribution[best]:.0f}%<br><small>alignment {'unknown' if alignment != alignment else f'{alignment:.2f}'}</small>"
    return f'<div class=picture><img src="{data_uri(picture)}" alt="">{label}</div>'


def data_uri(picture: Image.Image) -> str:
    """Embed a picture in a page."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _bars(title: str, distribution: dict[str, float], kind: str = "") -> str:
    rows = sorted(distribution.items(), key=lambda item: -item[1])[:6]
    bars = "".join(
        f"<div class=bar><span>{html.escape(name)}</span><i style='width:{160 * value:.0f}px'></i><span>{100 * value:.1f}%</span></div>"
        for name, value in rows
    )
    return f"<div class={kind or 'text'}><p>{title}</p>{bars}</div>"


def _conditions(results: dict[str, Any]) -> str:
    head = "<tr><th>task</th><th>subset</th><th>k</th><th>mix</th><th>weights</th><th>control</th><th>seed</th><th>accuracy</th><th>balanced</th><th>n</th></tr>"
    rows = []
    for c in results["vlmig"]["conditions"]:
        balanced = f"{100 * c['balanced_acc']:.1f}%" if "balanced_acc" in c else ""
        cells = (
            c["task"],
            c["subset"],
            c["k"],
            c["mix"],
            c["weights"],
            c["control"],
            c["seed"],
            _cell(c),
            balanced,
            c["n"],
        )
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(x))}</td>" for x in cells) + "</tr>")
    baselines = "; ".join(
        f"{t}: majority {100 * b['majority']:.1f}%, chance {100 * b['chance']:.1f}%"
        for t, b in results["vlmig"]["baselines"].items()
        if b
    )
    return f"<h2>Conditions</h2><table>{head}{''.join(rows)}</table><p>{html.escape(baselines)}</p>"


def _comparisons(results: dict[str, Any]) -> str:
    rows = [
        f"<tr><td>{html.escape(c['task'])} ({c['subset']})</td><td>{c['a']} − {c['b']}</td><td>{100 * c['delta']:+.1f} points</td>"
        f"<td>[{100 * c['ci95'][0]:+.1f}, {100 * c['ci95'][1]:+.1f}]</td><td>{c['p']:.4f}</td><td>{c['verdict']}</td></tr>"
        for c in results["vlmig"]["comparisons"]
    ]
    return f"<h2>Differences</h2><table>{''.join(rows)}</table>" if rows else ""


def _provenance(results: dict[str, Any]) -> str:
    block = results["vlmig"]
    packages = ", ".join(f"{name} {version}" for name, version in block["packages"].items() if version)
    return f"{packages}; python {block['python']}; {block['device']}, {block['dtype']}; seeds {block['seeds']}; {block['identity']}; revision {results['git_hash']}"


def _page(title: str, body: str) -> str:
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style><body>{body}</body></html>\n"
