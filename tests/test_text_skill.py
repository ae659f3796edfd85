"""Skill with texts: lm-eval's own tasks offline, beside lm-eval's own model of the LM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2 import Template
from lm_eval.tasks.squadv2.task import SQuAD2
from test_learned import fitted

from eval import lm_eval_own, text_skill
from vlmig import VLMIG
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.yaml_task import choose_tasks
from vlmig.predict.writing import Until
from vlmig.report.run_page import floor_of

QUICK = ("arc_challenge", "squadv2")
SAME_PROMPT = ("arc_easy", "arc_challenge", "boolq", "piqa", "social_iqa")
"""Here lm-eval asks in the very words of our task files."""


@pytest.fixture()
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQuAD's prompt leaves the tiny LM, of 96 places, no room for 50 tokens."""
    rules = {"until": ["\n"], "max_gen_toks": 2}
    monkeypatch.setitem(lm_eval_own.SQUAD, "generation_kwargs", rules)


def answers(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / "lm_eval" / f"{name}.json").read_text())["answers"]


@pytest.mark.parametrize("names", [QUICK, pytest.param((), marks=pytest.mark.proof)])
def test_lm_evals_own_tasks_give_three_models_the_same_items(
    tiny: VLMIG,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short: None,
    names: tuple[str, ...],
) -> None:
    chosen = {name: lm_eval_own.TASKS[name] for name in names or lm_eval_own.TASKS}
    monkeypatch.setattr(lm_eval_own, "TASKS", chosen)
    tasks = choose_tasks([ours for ours, _ in chosen.values()], {})
    evaluator = Evaluator(tiny, Settings(ks=(0, 2)), data, tmp_path)
    measure_tasks(evaluator, tasks)
    lm_eval_own.measure(tiny, data, 500, 2, tmp_path)
    for name, task in zip(chosen, tasks, strict=True):
        found = answers(tmp_path, name)
        hf, text, seen = found["hf"], found["0"], found["2"]
        assert hf["chosen"] == text["chosen"] and hf["right"] == text["right"]
        if name == "squadv2":
            continue
        for one, two, three in zip(hf["scores"], text["scores"], seen["scores"], strict=True):
            assert one == pytest.approx(two, rel=1e-6)  # what fp32 keeps
            assert np.abs(np.subtract(two, three)).max() > 1e-4, "images change the scores"
        if name in SAME_PROMPT:
            (rows,) = [evaluator.measure(task).records(0)]
            own = [record["text_only"][0] for record in rows]
            theirs = [scores[::-1] if name == "boolq" else scores for scores in hf["scores"]]
            for one, two in zip(own, theirs, strict=True):
                assert one == pytest.approx(two, rel=1e-6)
    printed = text_skill.report(tmp_path)
    assert all(f"| {name}, acc | 2 |" in printed for name in set(chosen) - {"squadv2"})
    assert "| squadv2, exact | 1 |" in printed


def test_tables_say_what_was_measured(
    tiny: VLMIG, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.config.mix, tiny.config.weights = "evidence", "entropy"
    tasks = choose_tasks(["commonsenseqa", "squad", "squad_text"], {})
    first = Evaluator(tiny, Settings(ks=(0, 2)), data, tmp_path).measure(tasks[0]).records(0)
    cosines = np.concatenate([np.ravel(record["alignment"]) for record in first])
    tiny.config.alignment_floor = float(np.sort(cosines)[-1])  # trusts one image of four
    settings = Settings(ks=(0, 2), controls=("none", "blank", "shuffled"))
    results = measure_tasks(Evaluator(tiny, settings, data, tmp_path), tasks)
    assert text_skill.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = [
        line.split(" | ") for line in printed.splitlines() if line.startswith("| commonsenseqa")
    ]
    (cells,) = [[cell.strip("*| ") for cell in row] for row in rows]
    conditions = [
        c
        for c in results["vlmig"]["conditions"]
        if (c["task"], c["mix"], c["weights"]) == ("commonsenseqa", "evidence", "entropy")
    ]
    found = {(c["k"], c["control"]): f"{100 * c['acc']:.1f}" for c in conditions}
    wanted = [(0, "none"), (2, "none"), (2, "shuffled"), (2, "blank")]
    assert [cell.split()[0] for cell in cells[2:6]] == [found[key] for key in wanted]
    assert cells[-1] == "25.0"
    texts = [c for c in results["vlmig"]["conditions"] if c["task"] == "squad_text"]
    alone, seen = (c["perplexity"] for c in texts)
    rise = f"{alone:.3f} by text alone, {seen:.3f} with k=2 ({100 * (seen / alone - 1):+.2f} %"
    assert rise in printed and alone != seen
    # Learned weights trust every image a little, whatever its similarity.
    tiny.config.learned, tiny.config.weights = fitted().described(), "learned"
    measure_tasks(Evaluator(tiny, Settings(ks=(0, 2)), data, tmp_path / "learned"), tasks[:1])
    (row,) = [
        line
        for line in text_skill.report(tmp_path / "learned").splitlines()
        if line.startswith("| commonsenseqa")
    ]
    assert row.split(" | ")[-1].strip("| ") == "100.0"
    blocks = [
        json.loads((folder / "results.json").read_text())["vlmig"]
        for folder in (tmp_path, tmp_path / "learned")
    ]
    assert list(map(floor_of, blocks)) == [tiny.config.alignment_floor, None]


def test_squads_prompt_is_lm_evals(data: Path) -> None:
    (row,) = lm_eval_own.published("squadv2", data)
    prompt = Template(lm_eval_own.SQUAD["doc_to_text"]).render(row)
    assert prompt == SQuAD2.doc_to_text(None, row) and "Old_Mill" in prompt


@pytest.mark.parametrize(("blank", "written"), [(True, "\n"), (False, "\n \nred\n")])
def test_an_answer_is_written_to_the_end_of_its_first_line_with_words(
    tiny: VLMIG, blank: bool, written: str
) -> None:
    """``vlmig eval`` reads no more of it; lm-eval's tasks end at any line."""
    tokenizer = tiny.tokenizer
    before = tokenizer("Q:", add_special_tokens=False).input_ids
    new = tokenizer("\n \nred\nblue\n", add_special_tokens=False).input_ids
    until = Until(tokenizer, ["\n"], blank)
    for count in range(1, len(new) + 1):
        if until(torch.tensor([before + new[:count]]), torch.zeros(1)).item():
            break
    assert tokenizer.decode(new[:count]) == written


def test_what_is_measured_is_kept_and_without_images_serves_every_adapter(
    tiny: VLMIG, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_eval_own, "TASKS", {"piqa": lm_eval_own.TASKS["piqa"]})
    ask, asked = lm_eval_own.asked, []

    def counted(model: Any, name: str, folder: Path) -> Any:
        asked.append(getattr(model, "k", "hf"))
        return ask(model, name, folder)

    monkeypatch.setattr(lm_eval_own, "asked", counted)
    for k in (0, 2, 2):
        lm_eval_own.measure(tiny, data, 500, k, tmp_path)
    assert asked == ["hf", 0, 2]
    tiny.model.fusion.requires_grad_(False).state_dict()
    for parameter in tiny.model.fusion.parameters():
        parameter.mul_(0.5)
    lm_eval_own.measure(tiny, data, 500, 2, tmp_path)
    assert asked == ["hf", 0, 2, 2], "another adapter"
    lm_eval_own.measure(tiny, data, 1, 2, tmp_path)
    assert asked[4:] == ["hf", 0, 2], "other items"
