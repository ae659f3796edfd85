"""A stopped evaluation goes on item by item, whatever the processes, and ends with the files of an
uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from proof import PROOF
from test_earlier import EARLIER

from vlmig import VLMIG
from vlmig.cli.main import main
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.journal import Journal, fingerprint
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.yaml_task import declaration

QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
ITEMS = 200 if PROOF else 12
TASKS = ("memory_color", "relative_size")


@pytest.fixture()
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "valm"
    folder.mkdir(parents=True)
    colors = [f"{i},a,thing{i},{'red' if i % 3 else 'blue'}" for i in range(ITEMS)]
    (folder / "memory_color_data.csv").write_text(
        "\n".join(["Index,Descriptor,Item,Shape", *colors, ""])
    )
    sizes = [f"a,thing{i},a,other{i},yes" for i in range(ITEMS // 2)]
    (folder / "size.csv").write_text(
        "\n".join(["Descriptor1,Item1,Descriptor2,Item2,Label", *sizes, ""])
    )
    return folder.parent


def command(checkpoint: Path, files: Path, out: Path) -> list[str]:
    asked = ["--tasks", ",".join(TASKS), "--k", "0,2", "--seed", "0,1", "--data", str(files)]
    return [
        "eval",
        "--model",
        str(checkpoint),
        *asked,
        "--out",
        str(out),
        "--store",
        str(out / "store"),
    ]


def start(arguments: list[str]) -> subprocess.Popen:
    run = [sys.executable, "-m", "vlmig.cli", *arguments]
    return subprocess.Popen(run, env=QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def files_of(out: Path) -> dict[str, Any]:
    """The results without the time, and the samples to the byte."""
    results = json.loads((out / "results.json").read_text())
    results.pop("date")
    return {"results": results} | {t: (out / f"samples_{t}.jsonl").read_bytes() for t in TASKS}


@pytest.fixture()
def whole(checkpoint: Path, files: Path, tmp_path: Path) -> dict[str, Any]:
    """What one uninterrupted process writes, this one, with as many threads as there are cores
    where the others have one."""
    assert main(command(checkpoint, files, tmp_path / "whole")) == 0
    return files_of(tmp_path / "whole")


def measured(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (out / "journal").glob("*.jsonl"))


@pytest.mark.proof
def test_killed_again_and_again_and_then_shared(
    whole: dict[str, Any], checkpoint: Path, files: Path, tmp_path: Path
) -> None:
    out, rng, total = tmp_path / "killed", random.Random(0), 2 * (ITEMS + ITEMS // 2)
    kills = 20 if PROOF else 1
    for kill in range(kills):
        target = max(measured(out) + 1, rng.randint(kill, kill + 1) * total // (kills + 2))
        process = start(command(checkpoint, files, out))
        while process.poll() is None and measured(out) < target:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "results.json").exists() or json.loads((out / "results.json").read_text())
    before = measured(out)
    assert 0 < before < total, "the kills should have come while items were measured"
    launcher = [
        str(Path(sys.executable).parent / "torchrun"),
        "--nproc-per-node",
        "2",
        "-m",
        "vlmig.cli",
    ]
    subprocess.run(
        [*launcher, *command(checkpoint, files, out)], env=QUIET, check=True, capture_output=True
    )
    assert files_of(out) == whole
    # A kill leaves at most one half line, which is measured again; nothing else is.
    assert measured(out) <= total + kills


def test_a_finished_run_measures_nothing_again(tiny: VLMIG, files: Path, tmp_path: Path) -> None:
    task = declaration("memory_color").made()
    first = measure_tasks(
        Evaluator(tiny, Settings(ks=(0, 1), limit=6), files, tmp_path / "out"), [task]
    )
    tiny.score = None  # type: ignore[method-assign,assignment]
    again = measure_tasks(
        Evaluator(tiny, Settings(ks=(0, 1), limit=6), files, tmp_path / "out"), [task]
    )
    assert again["vlmig"] == first["vlmig"] and measured(tmp_path / "out") == 6
    fewer = Evaluator(tiny, Settings(ks=(0, 1), limit=3), files, tmp_path / "out")
    assert measure_tasks(fewer, [task])["n-samples"]["memory_color"]["effective"] == 3, (
        "items are found one by one"
    )


def test_another_model_or_setting_never_meets_old_lines(
    tiny: VLMIG, files: Path, tmp_path: Path
) -> None:
    task = declaration("memory_color").made()

    def lines(**settings: Any) -> int:
        measure_tasks(
            Evaluator(tiny, Settings(ks=(0, 1), limit=2, **settings), files, tmp_path / "out"),
            [task],
        )
        return measured(tmp_path / "out")

    assert lines() == 2
    assert lines(seeds=(1,)) == 4
    assert lines(controls=("none", "caption")) == 6
    weight = next(iter(tiny.model.projector.state_dict().values()))
    weight.copy_(weight.flip(0))  # the same numbers in other places
    assert lines() == 8
    assert lines() == 8


def test_a_checkpoint_in_another_place_measures_nothing_again(
    tiny: VLMIG, parts: Path, files: Path, tmp_path: Path
) -> None:
    task, out = declaration("memory_color").made(), tmp_path / "out"
    shutil.copytree(EARLIER / "run" / "journal", out / "journal")
    earlier = measured(out)
    tiny.model.save_pretrained(tmp_path / "model", save_base=True)
    for place in ("here", "there/further"):
        shutil.copytree(tmp_path / "model", tmp_path / place)
        for part in ("vision_encoder", "generator"):
            shutil.copytree(parts / part, tmp_path / place / "own" / part)
        described = json.loads((tmp_path / place / "config.json").read_text())
        for part, name in (("vision_encoder", "vision_encoder"), ("imaginer", "generator")):
            described[part] = str(tmp_path / place / "own" / name)
        described["training"] = {"data": str(tmp_path / place)}
        (tmp_path / place / "config.json").write_text(json.dumps(described))
        model = VLMIG.from_pretrained(tmp_path / place, store=tmp_path / place / "store")
        measure_tasks(Evaluator(model, Settings(ks=(0, 1), limit=2), files, out), [task])
        assert measured(out) == earlier + 2 > 2, "an earlier version's lines are read over"


def test_what_decides_numbers_is_in_the_fingerprint(tiny: VLMIG) -> None:
    known = {fingerprint(tiny)}
    assert fingerprint(tiny) in known

    def new() -> bool:
        found = fingerprint(tiny)
        return found not in known and known.add(found) is None

    embeddings = tiny.model.language_model.get_input_embeddings().weight.data
    embeddings.copy_(embeddings.flip(0))  # the same numbers in other places, in the LM too
    assert new()
    tiny.config.strength = 0.5
    assert new()
    tiny.tokenizer("a", padding="max_length", max_length=9)  # no change of the tokenizer
    assert fingerprint(tiny) in known
    tiny.tokenizer.add_tokens(["cat"])
    assert new()
    tiny.config.name_or_path, tiny.config.training = "/elsewhere", {"seconds": 1}
    assert fingerprint(tiny) in known


def test_half_a_line_is_no_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put("a", {"x": 1})
    with journal.path.open("a") as file:
        file.write('{"key": "b", "rec')
    again = Journal(tmp_path)
    assert "b" not in again and list(again.records(["a"])) == [{"x": 1}]
    again.put("b", {"x": 2})
    journal.put("c", {"x": 3})  # behind the half line: found in this process, no line for any other
    assert list(journal.records(["c", "a"])) == [{"x": 3}, {"x": 1}]
    other = Journal(tmp_path)
    assert len(other) == 2 and list(other.records("abaa")) == [{"x": n} for n in (1, 2, 1, 1)]
    journal.refresh()
    assert list(journal.records("b")) == [{"x": 2}], "what another process measured is seen"
