"""The command line: errors are one line with exit status 2, and help needs no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vlmig.cli import doctor
from vlmig.cli.main import main
from vlmig.cli.options import POLICIES
from vlmig.evaluation.tasks.yaml_task import known_tasks
from vlmig.models import config
from vlmig.pocket.tasks import TASKS

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vlmig.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", ""], "the question is empty"),
        (["ask", "What?", "--k", "-1"], "--k -1; expected 0"),
        (["ask", "What?", "--k", "many"], "expected a whole number or auto"),
        (["ask", "What is the color of a banana?", "--mix", "sum"], "mix='sum'; expected one of"),
        (
            ["eval", "--tasks", "memory_colour", "--out", "{tmp}"],
            "did you mean memory_color?",
        ),
        (
            ["eval", "--tasks", "memory_color", "--data", "{tmp}/none", "--out", "{tmp}"],
            "no file .*pass --data",
        ),
        (
            ["eval", "--tasks", "memory_color", "--data", "{tmp}/bad", "--out", "{tmp}"],
            "has no column Shape",
        ),
        (
            ["eval", "--tasks", "pocket_color", "--k", "-1", "--out", "{tmp}"],
            "k=-1; expected numbers of images",
        ),
        (
            ["eval", "--tasks", "pocket_color", "--k", "9" * 25, "--out", "{tmp}"],
            "expected numbers of images, 0 .text only. to 10000",
        ),
        (["eval", "--tasks", ",", "--out", "{tmp}"], "got ',', expected comma-separated words"),
        (["ask", "x?", "--choices", "a,b", "--k", "9" * 20], "expected at most 10000 images"),
        (["ask", "a \udc80?", "--choices", "a,b"], "is no Unicode text"),
        (["ask", "x?", "--choices", "a,\udc80"], "is no Unicode text"),
        *[
            (["train", "pocket", "--plan", "--set", change], said)
            for change, said in (
                ("validation.share=2", "validation.share is 2; expected less than 1"),
                ("model.projector=nope", "projector is 'nope'; expected 'linear', 'mlp'"),
                ("model.projector_width=0", "projector_width is 0; expected at least 1"),
                ("model.mix=5", "mix is 5; expected 'prob', 'logit'"),
                ("model.trust_remote_code=true", "a file must not allow code to run"),
            )
        ],
        (
            ["eval", "--tasks", "pocket_color", "--k", "a,b", "--out", "{tmp}"],
            "expected a whole number or auto",
        ),
        (
            ["eval", "--tasks", "pocket_color", "--seed", "a,b", "--out", "{tmp}"],
            "expected comma-separated whole numbers",
        ),
        (
            ["eval", "--tasks", "pocket_color", "--k", "auto,auto:0.1", "--out", "{tmp}"],
            "one auto among them",
        ),
        (
            ["eval", "--tasks", "pocket_color", "--control", "loud", "--out", "{tmp}"],
            "control 'loud'; expected one of",
        ),
        (
            ["ask", "What?", "--model", "{tmp}/bad"],
            "has no config.json; expected a vlmig checkpoint",
        ),
        (["report", "{tmp}/none"], "has no results.json"),
        (["fly"], "invalid choice"),
        (["ask", "What?", "--fly"], "unrecognized arguments: --fly; see vlmig ask --help"),
        (["ask", "What?", "--seed", "x"], "got 'x', expected a whole number"),
        (["data", "check", "x.csv", "--max-bad", "few"], "got 'few', expected a number"),
    ],
)
def test_errors_are_one_line_and_status_two(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad/valm").mkdir(parents=True)
    (tmp_path / "bad/valm/memory_color_data.csv").write_text("Index,Descriptor,Item\n1,a,brick\n")
    try:
        status = main([argument.format(tmp=tmp_path) for argument in arguments])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1, error
    assert re.search(message, error), error
    assert not (tmp_path / "results.json").exists()


def test_help_imports_nothing_heavy() -> None:
    done = run("--help")
    assert done.returncode == 0 and "ask" in done.stdout
    script = (
        "import sys; from vlmig.cli.main import build_parser; build_parser(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_no_traceback_reaches_the_terminal() -> None:
    done = run("ask", "")
    assert done.returncode == 2
    cure = 'ask something, e.g. vlmig ask "What is the color of a banana?"'
    assert done.stderr == f"vlmig: the question is empty; {cure}\n"


def test_an_interrupted_command_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupted)
    assert main(["doctor"]) == 130
    told = "vlmig: interrupted; run the same command again to resume\n"
    assert capsys.readouterr().err == told


def test_ask_shows_pictures_probabilities_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "answer.html"
    arguments = [
        "--choices",
        "yellow,red,green",
        "--k",
        "2",
        "--html",
        str(page),
        "--store",
        str(tmp_path),
        "--verbose",
    ]
    assert main(["ask", "What is the color of a banana?", *arguments]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("yellow")
    assert (
        "text only" in shown
        and "image 2" in shown
        and "CLIP similarity" in shown
        and "imagine " in shown
    )
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page.read_text(), re.S)[0])
    assert len(data["pictures"]) == 2


def test_something_outside_the_pocket_world_still_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = "yellow,red,green,black,gray"
    assert (
        main(
            [
                "ask",
                "What is the color of a stapler?",
                "--choices",
                choices,
                "--k",
                "2",
                "--store",
                str(tmp_path),
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "p = " in shown and "mean CLIP similarity" in shown


def test_eval_writes_results_samples_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "eval",
        "--tasks",
        "pocket_color,pocket_text",
        "--k",
        "0,1",
        "--limit",
        "3",
        "--store",
        str(tmp_path / "store"),
    ]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {
        "results.json",
        "samples_pocket_color.jsonl",
        "samples_pocket_text.jsonl",
        "report.html",
    }
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["results"]["pocket_text"]["perplexity,none"] > 1
    assert main(["report", str(tmp_path), "--store", str(tmp_path / "store")]) == 0


def test_imagine_and_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "imagine",
                "a banana",
                "a BANANA!",
                "--k",
                "2",
                "--store",
                str(tmp_path),
                "--out",
                str(tmp_path / "png"),
            ]
        )
        == 0
    )
    names = sorted(path.name for path in (tmp_path / "png").glob("*.png"))
    assert names == [f"a_banana_{i}.png" for i in range(4)], "none is written over another"
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "language model" in shown and "local folder" in shown and "transformers" in shown


def test_bulk_imagination(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("a banana\na strawberry\na frog\n")
    command = [
        "imagine",
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--k",
        "1",
        "--store",
        str(tmp_path),
    ]
    assert main([*command, "--shard", "1/2"]) == 0
    monkeypatch.setenv("RANK", "1")  # as torchrun sets them
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command) == 0
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert "part 2 of 2" in capsys.readouterr().out
    assert main(command) == 0
    assert "3 prompts, 3 images were there, 0 drawn" in capsys.readouterr().out
    assert main(["imagine", "--stats", "--store", str(tmp_path)]) == 0
    assert "3 images with features" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "3/2", "a cat"], "expected I/N with I from 1 to N"),
        ([], "nothing to imagine"),
        (["--prompts", "nowhere.txt"], "no prompts at nowhere.txt"),
        (
            ["--prompts", "nowhere.txt", "a cat"],
            "--prompts fills the store; it goes neither with a prompt",
        ),
        (["a cat", "--report", "r.jsonl"], "--report, --shard and --engine are for many prompts"),
        (
            ["a cat", "--store-limit", "much"],
            "got 'much', expected a number of bytes such as 500MB",
        ),
        (["--merge", "nowhere"], "no store to merge at nowhere"),
    ],
)
def test_wrong_bulk_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["imagine", *arguments])
    except SystemExit as exit_:
        status = int(str(exit_.code))
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1


def test_the_command_line_knows_the_policies() -> None:
    assert tuple(POLICIES) == config.POLICIES


def test_pictures_that_are_not_kept_are_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["imagine", "a banana", "--k", "1", "--store", str(tmp_path), "--no-pictures"]
    assert main(command) == 0
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "no images of 'a banana' to write" in capsys.readouterr().err


def test_tasks_are_listed_with_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "valm").mkdir()
    (tmp_path / "valm/shape.csv").write_text("")
    assert main(["tasks", "--data", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert {*known_tasks(), *TASKS} == lines.keys() - {"task"}
    assert lines["object_shape"].endswith("valm/shape.csv")
    assert lines["memory_color"].endswith("(missing)") and "train" in lines["vicomte_color"]
