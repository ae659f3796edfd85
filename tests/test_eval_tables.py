"""The tables of ``eval``: ours are results.json's numbers, the published ones the paper's, and
every command in them is one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import open_gates
from scipy.special import log_softmax

from eval import (
    aggregation,
    colours_and_shapes,
    compute_matched,
    family_averages,
    fusion_ablation,
    headline,
    k_sweep,
    object_commonsense,
    pictures_help,
    tables,
    visual_source,
    wordings,
)
from eval.results import Results
from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import build_parser
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import CONTROLS, Settings
from vlmig.evaluation.tasks.yaml_task import choose_tasks
from vlmig.pocket.tasks import TASKS as POCKET

TABLES = (
    aggregation,
    compute_matched,
    family_averages,
    fusion_ablation,
    headline,
    k_sweep,
    object_commonsense,
    pictures_help,
    visual_source,
    wordings,
)


@pytest.fixture(scope="module")
def model(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> VLMIG:
    torch.manual_seed(1)
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    settings = {"fusion_heads": 4, "imaginer_size": 32, "imaginer_steps": 2}
    model = VLMIG.from_base(
        str(parts / "language_model"), **names, store=tmp_path_factory.mktemp("store"), **settings
    )
    open_gates(model)
    return model


def measured(
    model: VLMIG, data: Path, out: Path, *tasks: str, protocol: str = "default", **settings: Any
) -> Path:
    evaluator = Evaluator(
        model, Settings(**settings), data, out, covered=lambda name: name != "tar"
    )
    measure_tasks(evaluator, choose_tasks(tasks, POCKET, protocol))
    return out


@pytest.fixture(scope="module")
def folder(model: VLMIG, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task of the published tables."""
    tasks = [
        *object_commonsense.TASKS,
        *(task for family in family_averages.FAMILIES.values() for task in family),
    ]
    return measured(model, data, tmp_path_factory.mktemp("run"), *tasks, limit=3, ks=(0, 1, 2))


@pytest.fixture(scope="module")
def controlled(model: VLMIG, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every control, some rules, and a text."""
    asked = {"mixes": ("evidence", "prob"), "weights": ("clip", "uniform"), "controls": CONTROLS}
    out, tasks = (
        tmp_path_factory.mktemp("controlled"),
        ("imagenetvc_color", "memory_color", "pocket_text"),
    )
    return measured(model, data, out, *tasks, limit=3, ks=(0, 1, 2), **asked)


@pytest.fixture(scope="module")
def other(model: VLMIG, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, as published."""
    out = tmp_path_factory.mktemp("other")
    tasks = ("memory_color", "imagenetvc_color", "piqa")
    return measured(model, data, out, *tasks, protocol="reference", ks=(0, 2), seeds=(0, 1))


@pytest.fixture()
def table(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[tuple[str, str], str]]:
    """Print tables and read them again, or one of them: (row, column) -> cell."""

    def read(
        module: ModuleType, *arguments: Path | str, only: int | None = None
    ) -> dict[tuple[str, str], str]:
        assert module.main([str(a) for a in arguments]) == 0
        found: dict[tuple[str, str], str] = {}
        blocks = re.findall(r"(?:^\|.*\n)+", capsys.readouterr().out, re.M)
        for block in blocks if only is None else [blocks[only]]:
            head, line, *rows = [
                [c.strip(" *") for c in row[1:-1].split("|")] for row in block.strip().split("\n")
            ]
            assert set(line) == {"---"} and {len(row) for row in rows} == {len(head)}
            found |= {
                (row[0], name): cell
                for row in rows
                for name, cell in zip(head[1:], row[1:], strict=True)
            }
        return found

    return read


def share(row: dict[str, Any]) -> str:
    return f"{100 * row['acc']:.1f} [{100 * row['ci95'][0]:.0f}, {100 * row['ci95'][1]:.0f}]"


def condition(folder: Path, task: str, **wanted: Any) -> dict[str, Any]:
    results = json.loads((folder / "results.json").read_text())
    main = {
        "k": 2,
        "control": "none",
        "subset": "all",
        "mix": "evidence",
        "weights": "uniform",
        **wanted,
    }
    rows = [
        c for c in results["vlmig"]["conditions"] if c["task"] == task and main.items() <= c.items()
    ]
    return next((row for row in rows if row["seed"] == "all"), rows[0])


def averaged(folder: Path, task: str, k: int) -> dict[str, Any]:
    """An accuracy over any k of the pictures; text alone has none."""
    curves = json.loads((folder / "results.json").read_text())["vlmig"]["curves"]
    rows = [c for c in curves if (c["task"], c["subset"], c["k"]) == (task, "all", k)]
    return rows[0] if k else condition(folder, task, k=0)


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / f"samples_{task}.jsonl").read_text().splitlines()
    ]


def starting(cells: dict[tuple[str, str], str], row: str, column: str) -> str:
    (found,) = [
        cell
        for (own, name), cell in cells.items()
        if own.startswith(row) and name.startswith(column)
    ]
    return found


@pytest.mark.parametrize("module", TABLES, ids=lambda m: m.__name__)
def test_every_table_takes_several_folders_and_both_protocols(
    module: ModuleType, controlled: Path, other: Path, table: Callable
) -> None:
    assert len(table(module, controlled, other)) >= len(table(module, controlled)) > 10
    assert table(module, other)


def test_table_1(folder: Path, table: Callable) -> None:
    cells = table(object_commonsense, folder)
    assert cells["LaMI (GPT-2)", "relative_size, all (n = 2)"] == "85.5"
    assert cells["VaLM, k=8", "color_terms, all (n = 2)"] == "50.2"
    assert cells["BERT", "object_shape, all (n = 3)"] == "28.1"
    assert cells["BERT", "memory_color, covered (n = 2)"] == "-"
    assert cells[f"{folder}, text only", "memory_color, all (n = 3)"] == share(
        condition(folder, "memory_color", k=0)
    )
    assert cells[f"{folder}, k=2", "memory_color, covered (n = 2)"] == share(
        condition(folder, "memory_color", subset="covered")
    )
    assert cells["majority", "object_shape, all (n = 3)"] == "66.7"
    assert cells["chance", "relative_size, all (n = 2)"] == "50.0"


def test_table_2(folder: Path, table: Callable) -> None:
    cells = table(fusion_ablation, folder)
    assert cells["early", "object_shape, published"] == "40.3"
    assert cells["intermediate + multi", "color_terms, published"] == "67.8"
    ours = f"color_terms, all (n = 2), {folder}"
    assert cells["early", ours] == cells["intermediate", ours] == "-"
    assert cells["base", ours] == share(condition(folder, "color_terms", k=0))
    assert cells["late", ours] == share(averaged(folder, "color_terms", 1)), "any picture"
    assert cells["late + multi", ours] == share(condition(folder, "color_terms", k=2))


def test_table_2_of_an_early_model(folder: Path, tmp_path: Path, table: Callable) -> None:
    shutil.copytree(folder, tmp_path / "early")
    results = json.loads((folder / "results.json").read_text())
    assert results["vlmig"].pop("fusion") == "cross_attention"
    (tmp_path / "early/results.json").write_text(
        json.dumps({**results, "vlmig": {**results["vlmig"], "fusion": "prefix"}})
    )
    cells = table(fusion_ablation, tmp_path / "early")
    ours = f"color_terms, all (n = 2), {tmp_path / 'early'}"
    assert cells["late", ours] == "-" and cells["early", ours] == share(
        averaged(folder, "color_terms", 1)
    )
    assert cells["early + multi", ours] == share(condition(folder, "color_terms", k=2))


def test_the_measured_ablation(
    controlled: Path,
    tmp_path: Path,
    table: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The commands are ones that parse; of equal runs every difference is none, and every number
    the run's own."""
    asked: list[list[str]] = []
    monkeypatch.setattr(fusion_ablation, "vlmig", lambda command: asked.append(command) or 0)
    monkeypatch.setattr(fusion_ablation, "MEASURED", {"all": ("imagenetvc_color", "memory_color")})
    monkeypatch.setattr(fusion_ablation, "K", 2)
    for name in fusion_ablation.SYSTEMS:
        for seed in (0, 1):
            for part in ("all", "text"):
                shutil.copytree(
                    controlled, tmp_path / f"{fusion_ablation.folder(name, seed)}_{part}"
                )
    cells = table(fusion_ablation, "--measure", tmp_path, "--seeds", "0,1", "--store", tmp_path)
    for command in asked:
        build_parser().parse_args(command)
    assert [command[0] for command in asked] == ["train", "eval", "eval"] * 5
    assert sum("stages.0.trains=[projector]" in command for command in asked) == 1
    own, text = (
        json.loads((controlled / "results.json").read_text())["vlmig"]["default"],
        "pocket_text, perplexity",
    )
    for row, k, control in (
        ("the LM itself", 0, "none"),
        ("early", 1, "none"),
        ("late + multi, shuffled", 2, "shuffled"),
    ):
        found = condition(controlled, "memory_color", k=k, control=control, **own)
        assert cells[row, "memory_color, all (n = 3)"].startswith(share(found))
    assert cells["early + multi", text] == cells["late + multi", text]
    assert "(+0.0 % [" in cells["early: text only", text]
    assert all(
        "tied" in cell and cell.startswith("0.0 ")
        for (name, _), cell in cells.items()
        if " less early + multi" in name
    )


def test_a_perplexity_ratio_by_hand() -> None:
    """All texts alike: the ratio of every token, without spread."""
    tokens = np.array([5, 10, 20])
    assert fusion_ablation._ratio(0.02 * tokens, tokens).startswith("+2.0 %")


def test_table_3(folder: Path, table: Callable) -> None:
    cells = table(compute_matched, folder)
    assert (
        cells["text only, ensemble (published: best of N, same runtime as k=6)", "VC, published"]
        == "47.8"
    )
    assert cells["pictures", "CR, published"] == "65.1"
    ours = "memory_color, all (n = 3)"
    assert cells["text only", ours] == share(condition(folder, "memory_color", k=0))
    assert cells["pictures", ours] == share(condition(folder, "memory_color"))
    rows = samples(folder, "memory_color")
    means = [log_softmax(row["text_only"], axis=-1).mean(0) for row in rows]
    right = np.mean(
        [
            row["doc"]["choices"][own.argmax()] == row["target"]
            for row, own in zip(rows, means, strict=True)
        ]
    )
    assert starting(cells, "text only, ensemble", "memory_color, all").startswith(
        f"{100 * right:.1f} ["
    )
    assert not any(name.startswith("piqa") for _, name in cells), "one wording is no ensemble"


def test_wordings_with_opposite_answers_are_apart(folder: Path) -> None:
    own = compute_matched.Samples(Results(folder), "relative_size", "all")
    found = compute_matched.ensemble(own, own.read(0, *own.main))
    assert (
        len({row.tobytes() for row in found}) == 2 * 2
    )  # two pairs in two orders, whatever the number of wordings


@pytest.mark.parametrize(
    ("run", "task", "count"),
    [("folder", "relative_size", 3), ("controlled", "imagenetvc_color", 5)],
)
def test_the_mean_over_wordings_is_the_accuracy(
    run: str, task: str, count: int, table: Callable, request: pytest.FixtureRequest
) -> None:
    """Every wording is asked as often, and both orders of a pair are one wording."""
    place = request.getfixturevalue(run)
    cells = table(wordings, place, only=tables.resampled(Results(place)).index((task, "all")))
    wanted: dict[str, dict[str, Any]] = {"text only": {"k": 0}, "k=2": {}}
    if run == "controlled":
        wanted["shuffled"] = {"control": "shuffled"}
    for column, which in wanted.items():
        shares = [float(cell.split()[0]) for (_, name), cell in cells.items() if name == column]
        assert len(shares) == count
        # Each is printed with one decimal.
        accuracy = 100 * condition(place, task, **which)["acc"]
        assert np.mean(shares) == pytest.approx(accuracy, abs=0.051)


def test_table_4(folder: Path, table: Callable) -> None:
    cells = table(family_averages, folder)
    assert cells["LaMI Gemma-2B", "CR"] == "65.1"
    assert cells["Qwen2-VL-7B-Instruct", "RC"] == "57.9"
    assert cells["LaMI Qwen-2.5-7B-I", "average"] == "66.0"
    families = family_averages.FAMILIES
    means = [
        np.mean([condition(folder, task)["acc"] for task in family]) for family in families.values()
    ]
    for name, share in zip(families, means, strict=True):
        assert cells[f"{folder}, all: k=2", name].startswith(f"{100 * share:.1f} [")
    assert cells[f"{folder}, all: k=2", "average"] == f"{100 * np.mean(means):.1f}"


def test_part_of_a_family_is_no_family_mean(other: Path, table: Callable) -> None:
    cells = table(family_averages, other)
    assert cells[f"{other}, all: text only", "VC"].endswith("(1 of 5)")
    assert cells[f"{other}, all: text only", "average"] == "-"


def test_the_interval_of_a_mean_is_that_of_independent_normals() -> None:
    rows = [{"acc": 0.5, "ci95": [0.2, 0.8]}, {"acc": 0.7, "ci95": [0.3, 1.0]}]
    mean = tables.mean(rows)
    assert mean["acc"] == pytest.approx(0.6)
    assert mean["ci95"] == pytest.approx(
        [0.6 - np.hypot(0.3, 0.4) / 2, 0.6 + np.hypot(0.3, 0.3) / 2]
    )
    assert tables.mean(rows[:1])["ci95"] == pytest.approx(rows[0]["ci95"])


def test_table_5(
    folder: Path, tmp_path: Path, table: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = table(visual_source, folder)
    assert cells["Gemma-2B: CLIP's text embedding of nouns", "VC, published"] == "47.9"
    assert cells["Gemma-2B: generated, k=6", "ms, published"] == "389"
    assert starting(cells, "GPT-2: retrieved", "color_terms, all") == "62.8"
    assert starting(cells, f"{folder}: generator ", "piqa, all") == share(condition(folder, "piqa"))
    results = json.loads((folder / "results.json").read_text())
    results["vlmig"]["conditions"][0]["acc"] += 0.01  # text only, of another model
    (tmp_path / "results.json").write_text(json.dumps(results))
    for second, warns in ((folder, False), (tmp_path, True)):
        visual_source.main([str(folder), str(second)])
        assert ("Text only differs between" in capsys.readouterr().out) == warns


def test_table_6(controlled: Path, table: Callable) -> None:
    cells = table(aggregation, controlled)
    assert cells["single picture", "Color, published"] == "40.8"
    assert cells["max confidence", "BoolQ, published"] == "66.9"
    assert cells["CLIP: prob / clip", "PIQA, published"] == "77.7"
    for name, rule in (
        ("average: prob / uniform", ("prob", "uniform")),
        ("evidence / clip", ("evidence", "clip")),
    ):
        row = condition(controlled, "memory_color", subset="covered", mix=rule[0], weights=rule[1])
        assert cells[name, "memory_color, covered (n = 2)"] == share(row)
    vote = condition(controlled, "memory_color", subset="covered", mix="vote")
    assert cells["vote", "memory_color, covered (n = 2)"] == share(vote)


def test_single_and_surest_pictures_are_counted_by_hand(controlled: Path) -> None:
    found = aggregation.rules(aggregation.Samples(Results(controlled), "imagenetvc_color", "all"))
    alone, surest = [], []
    for row in samples(controlled, "imagenetvc_color"):
        choices = row["doc"]["choices"]
        for images in log_softmax(np.array(row["per_image"]), axis=-1):
            answers = [choices[own.argmax()] == row["target"] for own in images]
            alone.append(np.mean(answers))
            surest.append(
                float(answers[int(np.argmin([-(np.exp(own) * own).sum() for own in images]))])
            )
    assert found["single picture"] == pytest.approx(alone)
    assert found["max confidence"] == pytest.approx(surest)


def test_signals_that_tell_where_pictures_help(rng: np.random.Generator) -> None:
    """The AUROC is the share of pairs in order, ties half; a signal of another's entries knows
    nothing."""
    helped, objects = rng.random(90) < 0.5, np.repeat([f"object {i}" for i in range(30)], 3)
    values = np.round(helped + rng.normal(0, 1, 90), 1)
    above = values[helped][:, None] - values[~helped]
    expected = ((above > 0) + (above == 0) / 2).mean()
    part = {"helped": helped, "object": objects, "signal": values}
    cell = pictures_help.auroc(part, "signal")
    assert cell.startswith(f"{expected:.2f} [")
    low, high = map(float, cell.partition("[")[2].rstrip("]").split(", "))
    assert low < expected < high and high - low < 0.3
    assert pictures_help.auroc({**part, "helped": helped | True}, "signal") == "-"
    assert pictures_help.auroc({**part, "signal": values * np.nan}, "signal") == "-"


def test_figure_3(folder: Path, controlled: Path, table: Callable, tmp_path: Path) -> None:
    cells = table(k_sweep, folder, controlled, "--png", tmp_path / "sweep.png")
    for k in (0, 1, 2):
        assert cells[f"{folder}, k={k}", "boolq, all (n = 2)"] == share(
            averaged(folder, "boolq", k)
        )
    three = np.mean(
        [averaged(folder, task, 1)["acc"] for task in ("imagenetvc_color", "piqa", "boolq")]
    )
    assert cells[f"{folder}, k=1", "mean of Color, PIQA, BoolQ"].startswith(f"{100 * three:.1f} [")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_headline(controlled: Path, table: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    row, main, others = (
        "imagenetvc_color, all",
        table(headline, controlled, only=0),
        table(headline, controlled, only=1),
    )
    for column, wanted in {
        "text only": {"k": 0},
        "k=2": {},
        "shuffled": {"control": "shuffled"},
    }.items():
        assert main[row, column] == share(condition(controlled, "imagenetvc_color", **wanted))
    assert main[row, "k=1"] == share(averaged(controlled, "imagenetvc_color", 1))
    told = {"few-shot": {"k": 0, "control": "few-shot"}, "caption": {"k": 0, "control": "caption"}}
    seen = {"CLIP alone": {"mix": "clip"}, "Z-LaVI": {"mix": "zlavi"}, "vote": {"mix": "vote"}}
    seen["generate, then answer"] = {"mix": "best-image"}
    for column, wanted in {**told, **seen}.items():
        assert others[row, column] == share(condition(controlled, "imagenetvc_color", **wanted))
    shuffled = condition(controlled, "imagenetvc_color", control="shuffled")
    assert table(headline, controlled, only=2)[row, "other label"] == tables.percent(
        shuffled["acc_other_label"]
    )
    gain = Results(controlled).comparison("imagenetvc_color", "all", "shuffled")
    assert (
        others[row, "visual gain"]
        == table(headline, controlled, only=3)[row, "shuffled"]
        == tables.difference(gain)
    )
    headline.main([str(controlled)])
    assert "pocket_text, k=2: perplexity" in capsys.readouterr().out


def test_seeds_are_pooled(other: Path, table: Callable) -> None:
    row = condition(other, "memory_color", mix="evidence", weights="uniform")
    assert row["seed"] == "all"
    assert starting(
        table(object_commonsense, other), f"{other}, k=2", "memory_color, all"
    ) == share(row)


@pytest.mark.parametrize("module", TABLES, ids=lambda m: m.__name__)
def test_a_folder_without_results_is_one_line(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert module.main([str(tmp_path / "none")]) == 2
    printed = capsys.readouterr()
    assert not printed.out and printed.err.count("\n") == 1 and "vlmig eval --out" in printed.err


@pytest.mark.parametrize("module", [aggregation, compute_matched], ids=lambda m: m.__name__)
def test_results_without_pictures_are_said(
    module: ModuleType, model: VLMIG, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(model, data, tmp_path, "memory_color", ks=(0,))
    capsys.readouterr()
    assert module.main([str(tmp_path)]) == 2
    assert "measure one with --k 0,6" in capsys.readouterr().err


def test_make_eval_measures_what_is_there(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert colours_and_shapes.measurable(data) == list(colours_and_shapes.TASKS)
    for name in ("vicomte/color/train.jsonl", "valm/shape.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert colours_and_shapes.measurable(tmp_path) == ["object_shape", "vicomte_color@train"]
    assert (
        "left out" in (said := capsys.readouterr().out)
        and "memory_color (valm/memory_color_data.csv)" in said
    )
    with pytest.raises(VLMIGError, match="pass --data"):
        colours_and_shapes.measurable(tmp_path / "none")


@pytest.mark.parametrize("module", [*TABLES, colours_and_shapes], ids=lambda m: m.__name__)
def test_every_command_in_a_docstring_parses(module: ModuleType) -> None:
    commands = re.findall(r"^    vlmig (eval .*)$", module.__doc__ or "", re.M)
    assert commands
    for command in commands:
        given = build_parser().parse_args(shlex.split(command))
        choose_tasks(given.tasks, POCKET)
