"""Bulk imagination: the same store whatever the schedule, the processes and the accidents."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from proof import PROOF

from vlmig import VLMIG
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.run_folder import main_condition
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.evaluation.tasks.yaml_task import declaration
from vlmig.imagination.store import FeatureStore
from vlmig.io.rows import read_prompts, shard_of
from vlmig.report.run_page import write_report

QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def contents(store: FeatureStore) -> dict[str, str]:
    """What a store holds: the checksum of every entry, each of which is read."""
    rows = store.base.execute("SELECT key, digest FROM entries").fetchall()
    assert all(store.get(key) is not None for key, _ in rows)
    assert len(dict(rows)) == len(rows) == len(store)
    return dict(rows)


@pytest.fixture()
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"thing number {i}" for i in range(1000 if PROOF else 24)))
    return path


def command(checkpoint: Path, prompts: Path, store: Path, *more: str) -> list[str]:
    return [
        "imagine",
        "--model",
        str(checkpoint),
        "--prompts",
        str(prompts),
        "--k",
        "2",
        "--store",
        str(store),
        *more,
    ]


@pytest.mark.scaled
def test_the_same_bytes_for_any_schedule(tiny: VLMIG, tmp_path: Path) -> None:
    """Random orders, numbers of pictures, portions, shards and batches of requests give one and
    the same store."""
    texts, rng = [f"thing {i}" for i in range(12)], random.Random(0)
    tiny.imagination.fill(texts, k=3)
    whole = contents(tiny.imagination.store)
    for trial in range(20 if PROOF else 3):
        tiny.imagination.store = FeatureStore(tmp_path / f"trial{trial}")
        count, size = rng.randint(1, 4), rng.randint(1, 5)
        for i in rng.sample(range(count), count):
            shard = shard_of(texts, i, count)
            order = rng.sample(shard, len(shard))
            for start in range(0, len(order), size):
                tiny.imagine(order[start : start + size], k=rng.randint(0, 3))
            tiny.imagination.fill(order, k=3)
        assert contents(tiny.imagination.store) == whole


@pytest.mark.proof
def test_killed_again_and_again_a_run_loses_and_repeats_nothing(
    checkpoint: Path, prompts: Path, tmp_path: Path
) -> None:
    folder, rng = tmp_path / "killed", random.Random(0)
    count = 2 * len(prompts.read_text().splitlines())
    kills, finished = (50 if PROOF else 1), {}
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "vlmig.cli", *command(checkpoint, prompts, folder)],
            env=QUIET,
            stderr=subprocess.DEVNULL,
        )
        target = min(len(finished) + rng.randint(1, max(1, count // (2 * kills))), count - 24)
        while process.poll() is None and (
            not folder.is_dir() or len(FeatureStore(folder)) < target
        ):
            time.sleep(0.02)
        time.sleep(rng.random() * (0.2 if PROOF else 0.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = dict(
            FeatureStore(folder).base.execute("SELECT rowid, digest FROM entries").fetchall()
        )
        assert finished.items() <= now.items(), (
            f"kill {kill}: a finished entry is gone or was made again"
        )
        finished = now
    assert 0 < len(finished) < count, "the kills should have come while pictures were made"
    subprocess.run(
        [sys.executable, "-m", "vlmig.cli", *command(checkpoint, prompts, folder)],
        env=QUIET,
        check=True,
    )
    store = FeatureStore(folder)
    assert len(contents(store)) == count
    assert (
        finished.items()
        <= dict(store.base.execute("SELECT rowid, digest FROM entries").fetchall()).items()
    )


@pytest.mark.proof
def test_two_processes_under_torchrun_share_the_work(
    tiny: VLMIG, checkpoint: Path, prompts: Path, tmp_path: Path
) -> None:
    tiny.imagination.fill(read_prompts(prompts), k=2)
    launcher = [
        str(Path(sys.executable).parent / "torchrun"),
        "--nproc-per-node",
        "2",
        "-m",
        "vlmig.cli",
    ]
    done = subprocess.run(
        [*launcher, *command(checkpoint, prompts, tmp_path / "two")],
        env=QUIET,
        check=True,
        capture_output=True,
        text=True,
    )
    assert contents(tiny.imagination.store) == contents(FeatureStore(tmp_path / "two"))
    lines = [line for line in done.stdout.splitlines() if line.startswith("part ")]
    drawn = [int(line.split(" drawn")[0].split()[-1]) for line in lines]
    assert len(drawn) == 2 and sum(drawn) == 2 * len(prompts.read_text().splitlines())
    assert min(drawn) > 0.45 * sum(drawn), "each does about half"


@pytest.mark.proof
def test_processes_on_the_same_list(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    """Without shards they race; still every picture is there once and whole."""
    run = [sys.executable, "-m", "vlmig.cli", *command(checkpoint, prompts, tmp_path / "raced")]
    quiet = {"env": QUIET, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    processes = [subprocess.Popen(run, **quiet) for _ in range(4 if PROOF else 2)]  # type: ignore[call-overload]
    assert [process.wait() for process in processes] == [0] * len(processes)
    assert len(contents(FeatureStore(tmp_path / "raced"))) == 2 * len(
        prompts.read_text().splitlines()
    )


def test_a_second_evaluation_draws_nothing(tiny: VLMIG, tmp_path: Path) -> None:
    """The calls are counted; and the answers are the same."""
    (tmp_path / "valm").mkdir()
    table = "Index,Descriptor,Item,Shape\n"  # the public file names its colours so
    table += "".join(f"{i},a,thing{i},{c}\n" for i, c in enumerate(["red", "blue"] * 3))
    (tmp_path / "valm" / "memory_color_data.csv").write_text(table)
    calls: list[int] = []
    plain = tiny.imagination.source.imagine
    tiny.imagination.source.imagine = lambda requests: (
        calls.append(len(requests)) or plain(requests)
    )  # type: ignore[method-assign]
    task = declaration("memory_color").made()
    first = measure_tasks(Evaluator(tiny, Settings(ks=(0, 2)), tmp_path, tmp_path / "a"), [task])
    assert sum(calls) == 6 * 2, "one set of pictures for all nine wordings of an item"
    controlled = Settings(ks=(0, 2), controls=("none", "shuffled", "blank", "caption"))
    second = measure_tasks(Evaluator(tiny, controlled, tmp_path, tmp_path / "b"), [task])
    assert sum(calls) == 6 * 2
    assert (
        first["results"]["memory_color"]["acc,none"]
        == second["results"]["memory_color"]["acc,none"]
    )


@pytest.mark.parametrize("policy", ["question", "sentences", "option"])
def test_other_policies_are_evaluated_and_reported(
    tiny: VLMIG, tmp_path: Path, policy: str
) -> None:
    contexts, choices = ("A thing. Its color is", "Q: color? A:"), ("red", "blue")
    items = [
        Item(
            str(i),
            f"thing{i}",
            "x",
            choices,
            tuple(Question((f"thing{i} {c}",), choices, i % 2) for c in contexts),
        )
        for i in range(2)
    ]
    settings = Settings(ks=(0, 2), controls=("none", "shuffled", "blank"), policy=policy)
    results = measure_tasks(
        Evaluator(tiny, settings, tmp_path, tmp_path), [Task("things", lambda _: items)]
    )
    assert {c["control"] for c in results["vlmig"]["conditions"]} == {"none", "shuffled", "blank"}
    assert (
        tiny.imagination.tally.drawn == {"question": 8, "sentences": 8 - 2, "option": 16}[policy]
    ), "the last sentence is shared by both items"
    rows = [
        json.loads(line) for line in (tmp_path / "samples_things.jsonl").read_text().splitlines()
    ]
    assert len(rows[0]["pictures"]) == (4 if policy == "option" else 2), (
        "a set for each wording, or wording and option"
    )
    right = [answer == row["target"] for row in rows for answer in row["answer"]]
    found = main_condition(results, "things")
    assert found is not None and np.mean(right) == found["acc"]
    assert write_report(tmp_path, tiny.imagination.store).is_file()
    assert results["configs"]["things"]["policy"] == policy
    shown = {
        p
        for v in tiny.imagine(
            [items[0].questions[0].contexts[0]], 2, policy=policy, options=["red"]
        )
        for p in v.prompts
    }
    assert any("red" in prompt for prompt in shown) == (policy == "option")


def test_pooled_diversity_and_alignment_of_a_text(tiny: VLMIG) -> None:
    described = tiny.imagine(["a cat"], k=3)[0].described()
    assert described["prompts"] == ["a cat"] * 3 and len(described["alignment"]) == 3
    features = torch.stack([item.pooled for item in tiny.imagine(["a cat"], k=3)[0].items])
    cosines = [float(features[i] @ features[j]) for i in range(3) for j in range(3) if i != j]
    assert described["diversity"] == pytest.approx(1 - sum(cosines) / 6, abs=1e-4)
