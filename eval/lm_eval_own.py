"""lm-eval's own tasks, offline, asked of our model and of lm-eval's model (``hf``) of its base LM.

Prompts, choices and metrics are lm-eval's: its task files are included, and only the rows come from
elsewhere, the files that the benchmarks' authors publish. A task has the items that ``vlmig eval
--limit`` draws, and their images. Of SQuAD 2.0 the prompt and the stop are lm-eval's (after 50
tokens at the latest, not 256). Its metric would be loaded from the hub, so answers are judged by
ours, which is SQuAD's, and only questions that have an answer are asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lm_eval
import numpy as np
import yaml
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from vlmig.evaluation.journal import fingerprint, key_of
from vlmig.evaluation.metrics.squad import exact_match
from vlmig.evaluation.tasks.items import drawn
from vlmig.evaluation.tasks.yaml_task import choose_tasks
from vlmig.integrations.lm_eval import VlmigLM
from vlmig.io.atomic import write_json
from vlmig.models.base_weights import loaded
from vlmig.models.gguf import unpacked
from vlmig.predict.predictor import VLMIG

Row = dict[str, Any]
TASKS = {
    "arc_easy": ("arc@easy", "arc/arc_easy.yaml"),
    "arc_challenge": ("arc@challenge", "arc/arc_challenge.yaml"),
    "boolq": ("boolq", "super_glue/boolq/default.yaml"),
    "commonsense_qa": ("commonsenseqa", "commonsense_qa/default.yaml"),
    "piqa": ("piqa", "piqa/piqa.yaml"),
    "social_iqa": ("siqa", "siqa/siqa.yaml"),
    "squadv2": ("squad", None),
}
"""lm-eval's tasks: our name of each, and lm-eval's file, but for one that it writes in Python."""
LETTERED = {
    "arc_easy": "arc/ARC-Easy-Test.jsonl",
    "arc_challenge": "arc/ARC-Challenge-Test.jsonl",
    "commonsense_qa": "commonsenseqa/dev_rand_split.jsonl",
}
"""Files of questions with lettered choices, in AI2's form."""
DEFINITIONS = Path(lm_eval.__file__).parent / "tasks"
SQUAD = {
    "output_type": "generate_until",
    "doc_to_text": "Title: {{title}}\n\nBackground: {{context}}\n\n"
    "Question: {{question}}\n\nAnswer:",
    "doc_to_target": "{{answers[0]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 50},
    "metric_list": [{"metric": "bypass"}],
}


def published(name: str, data: Path) -> Iterator[Row]:
    """Yield all rows of a task, in the form of the hub's data set and in the order of our items."""
    if name == "squadv2":
        yield from _answered(data / "squad/dev-v2.0.json")
    elif name == "boolq":
        for row in _lines(data / "boolq/dev.jsonl"):
            yield {**row, "label": int(row["answer"])}
    elif name in ("piqa", "social_iqa"):
        folder = data / TASKS[name][0]
        labels = (folder / "dev-labels.lst").read_text().split()
        for row, label in zip(_lines(folder / "dev.jsonl"), labels, strict=True):
            yield {**row, "label": int(label)}
    else:
        for row in _lines(data / LETTERED[name]):
            asked = row["question"]
            choices = {key: [c[key] for c in asked["choices"]] for key in ("text", "label")}
            yield {"question": asked["stem"], "choices": choices, "answerKey": row["answerKey"]}


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as rows:
        yield from map(json.loads, rows)


def _answered(path: Path) -> Iterator[Row]:
    """Yield SQuAD's questions with an answer, but for a page's first, an example in our task."""
    for page in json.loads(path.read_text(encoding="utf-8"))["data"]:
        rows = []
        for paragraph in page["paragraphs"]:
            for asked in filter(lambda asked: asked["answers"], paragraph["qas"]):
                rows.append(
                    {
                        "title": page["title"],
                        "context": paragraph["context"],
                        "question": asked["question"],
                        "answers": [answer["text"] for answer in asked["answers"]],
                    }
                )
        yield from rows[1:]


def chosen(name: str, data: Path, limit: int) -> list[Row]:
    """Return the rows of the items that ``vlmig eval`` draws, with ``picture`` and ``cluster``."""
    (task,) = choose_tasks([TASKS[name][0]], {})
    rows = list(published(name, data))
    found = []
    for item in drawn(task.load(data), limit):
        row = rows[int(item.id.rpartition("/")[2])]
        found.append({**row, "picture": item.picture, "cluster": item.cluster})
    return found


def define(name: str, rows: list[Row], folder: Path) -> None:
    """Write a task's rows, and a task file that reads them and includes lm-eval's."""
    file = folder / f"{name}.json"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = TASKS[name][1]
    definition = SQUAD if source is None else {"include": str(DEFINITIONS / source)}
    changes = {
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(folder)},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**definition, **changes}))


def asked(model: LM, name: str, folder: Path) -> Row:
    """Run a task.

    Returns:
        ``scores``, the log-likelihoods of each item's choices (None where answers are generated);
        by metric what is ``chosen``, and whether that is ``right``.
    """
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, tasks=[name], task_manager=manager, bootstrap_iters=0
    )
    rows = sorted(found["samples"][name], key=lambda row: row["doc_id"])
    if name == "squadv2":
        texts = [row["resps"][0][0].strip() for row in rows]
        right = []
        for row, text in zip(rows, texts, strict=True):
            right.append(max(exact_match(text, answer) for answer in row["doc"]["answers"]))
        return {"scores": None, "chosen": {"exact": texts}, "right": {"exact": right}}
    scores, best, normal = [], [], []
    for row in rows:
        own = np.array([response[0][0] for response in row["resps"]])
        lengths = [len(continuation) - 1 for _, continuation in row["arguments"]]
        scores.append(own.tolist())
        best.append(int(own.argmax()))
        normal.append(int((own / lengths).argmax()))
    right = {key: [row[key] for row in rows] for key in ("acc", "acc_norm") if key in rows[0]}
    picked = {key: {"acc": best, "acc_norm": normal}[key] for key in right}
    return {"scores": scores, "chosen": picked, "right": right}


def base(model: VLMIG) -> HFLM:
    """Load lm-eval's own model of a model's base LM."""
    config, dtype = model.config, model.model.dtype
    folder = unpacked(config.locate(config.language_model, model.folder))
    return HFLM(pretrained=folder, device=str(model.model.device), dtype=dtype, batch_size=8)


def measure(model: VLMIG, data: Path, limit: int, k: int, out: Path) -> None:
    """Ask every task of lm-eval's own model (``hf``), and of ours by text alone (``0``) and with k
    images; write ``out/lm_eval/TASK.json``.

    What is there already is kept: with images if the model is the same, else if its base LM is.
    """
    files = {name: out / "lm_eval" / f"{name}.json" for name in TASKS}
    own: HFLM | None = None
    for name, file in files.items():
        rows = chosen(name, data, limit)
        of_base = {"rows": key_of(rows=rows), "base": loaded(model.model.language_model).digest}
        settings = {**of_base, "k": k, "model": fingerprint(model)}
        before = json.loads(file.read_text()) if file.is_file() else {"settings": {}}
        answers: Row = {}
        if of_base.items() <= before["settings"].items():
            answers = {kind: before["answers"][kind] for kind in ("hf", "0")}
        if before["settings"] == settings:
            answers = before["answers"]
        with TemporaryDirectory() as folder:
            define(name, rows, Path(folder))
            if "hf" not in answers:
                own = own or base(model)
                answers["hf"] = asked(own, name, Path(folder))
            for images in (0, k):
                if str(images) not in answers:
                    found = asked(VlmigLM(model, k=images), name, Path(folder))
                    answers[str(images)] = found
        file.parent.mkdir(parents=True, exist_ok=True)
        clusters = [row["cluster"] for row in rows]
        write_json(file, {"settings": settings, "clusters": clusters, "answers": answers})
