"""Stopped at any moment, by a kill, a signal to stop or a full disk, a command loses nothing: given
again it goes on, and ends with what an undisturbed one writes.

The commands run in forked processes, which start in milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from proof import PROOF
from safetensors.torch import load_file

from vlmig.cli.main import main
from vlmig.imagination.store import FeatureStore

KILLS = 25 if PROOF else 1
"""Of each command."""
POINTS = 5 if PROOF else 1
"""Sizes of a disk that is too small, for each command."""
Run = tuple[list[str], Callable[[Path], Any]]
"""A command without its ``--out`` and ``--store``, and what it leaves below its folder."""


def imagine(tmp_path: Path, checkpoint: Path) -> Run:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"thing number {i}" for i in range(30 if PROOF else 8)))
    command = ["imagine", "--model", str(checkpoint), "--prompts", str(prompts), "--k", "2"]

    def left(folder: Path) -> Any:
        rows = FeatureStore(folder / "store").base.execute("SELECT key, digest FROM entries")
        return dict(rows.fetchall()), (folder / "report.jsonl").read_bytes()

    return [*command, "--report", "{folder}/report.jsonl"], left


def evaluate(tmp_path: Path, checkpoint: Path) -> Run:
    (tmp_path / "data/valm").mkdir(parents=True)
    rows = [f"{i},a,thing{i},{'red' if i % 3 else 'blue'}" for i in range(30 if PROOF else 8)]
    table = "\n".join(["Index,Descriptor,Item,Shape", *rows, ""])
    (tmp_path / "data/valm/memory_color_data.csv").write_text(table)
    command = ["eval", "--model", str(checkpoint), "--tasks", "memory_color", "--k", "0,2"]

    def left(folder: Path) -> Any:
        results = json.loads((folder / "out/results.json").read_text())
        results.pop("date")
        return results, (folder / "out/samples_memory_color.jsonl").read_bytes()

    return [*command, "--data", str(tmp_path / "data"), "--out", "{folder}/out"], left


def train(recipe: Path) -> Run:
    steps = 100 if PROOF else 20
    changes = ["--set", f"stages.0.steps={steps}", "--set", "save_seconds=0.1"]

    def left(folder: Path) -> Any:
        log = (folder / "out/training/colors/log.jsonl").read_text().splitlines()
        weights = load_file(folder / "out/model.safetensors")
        return log, {name: value.numpy().tobytes() for name, value in weights.items()}

    return ["train", str(recipe), "--out", "{folder}/out", *changes], left


def instruct(genome: Path, url: str) -> Run:
    command = ["data", "instruct", str(genome), "--teacher", "m", "--endpoint", url]

    def left(folder: Path) -> Any:
        lines = (folder / "out/instructions.jsonl").read_text().splitlines()
        return Counter(lines), json.loads((folder / "out/report.json").read_text())["rows"]

    return [*command, "--out", "{folder}/out", "--parallel", "1"], left


@pytest.fixture()
def commands(
    tmp_path: Path, checkpoint: Path, recipe: Path, genome: Path, endpoint: Any
) -> dict[str, Run]:
    def slowly(body: dict[str, Any], number: int) -> str:
        from chat_endpoint import good

        time.sleep(0.01)
        return good(body)

    return {
        "imagine": imagine(tmp_path, checkpoint),
        "eval": evaluate(tmp_path, checkpoint),
        "train": train(recipe),
        "instruct": instruct(genome, endpoint(slowly).url),
    }


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A forked process has no other threads; another number would also be another rounding."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def within(command: list[str], folder: Path) -> list[str]:
    """Complete a command: everything that it writes is below ``folder``."""
    store = [] if command[0] == "data" else ["--store", "{folder}/store"]
    return [part.format(folder=folder) for part in (*command, *store)]


def forked(arguments: list[str], said: Path) -> int:
    """Start a command in a process of its own; what it says goes to a file."""
    if pid := os.fork():
        return pid
    try:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)  # pytest has put its own there
        status = main(arguments)
        os._exit(status)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(99)


def ended(pid: int) -> int:
    """Wait for a process; return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


NAMES = [
    "instruct",
    "imagine",
    *(pytest.param(name, marks=pytest.mark.proof) for name in ("eval", "train")),
]


@pytest.mark.scaled
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_random_and_given_again(
    commands: dict[str, Run], name: str, tmp_path: Path
) -> None:
    """Half of the kills are SIGTERM, which is answered by how to go on."""
    command, left = commands[name]
    said, rng = tmp_path / "said.txt", random.Random(name)
    started = time.monotonic()
    assert ended(forked(within(command, tmp_path / "whole"), said)) == 0, said.read_text()
    seconds = time.monotonic() - started
    whole = left(tmp_path / "whole")
    arguments, counts = within(command, tmp_path / "killed"), Counter[int]()
    while counts.total() - counts[0] < KILLS:
        by = rng.choice([signal.SIGKILL, signal.SIGTERM])
        pid = forked(arguments, said)
        time.sleep(rng.random() * seconds)
        os.kill(pid, by)
        status = ended(pid)
        counts[status] += 1
        assert status in (0, 130, 143, -signal.SIGKILL, -signal.SIGTERM), said.read_text()
        if status == 0:  # it was over before; begin anew
            assert left(tmp_path / "killed") == whole
            shutil.rmtree(tmp_path / "killed")
        elif status in (130, 143):
            assert "run the same command again to resume" in said.read_text().splitlines()[-1]
    assert ended(forked(arguments, said)) == 0, said.read_text()
    assert left(tmp_path / "killed") == whole
    print(f"{name}: ended with {dict(counts)}")


def mounted(folder: Path, size: int) -> bool:
    """Mount a file system of so many bytes; only root may."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size}".encode()
    return libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options) == 0


def unmounted(folder: Path) -> None:
    ctypes.CDLL(None).umount2(bytes(folder), 2)


def resized(folder: Path, size: int) -> None:
    remount = 32
    options = f"size={size}".encode()
    assert ctypes.CDLL(None).mount(b"tmpfs", bytes(folder), b"tmpfs", remount, options) == 0


@pytest.mark.proof
@pytest.mark.parametrize("name", ["instruct", "imagine", "eval", "train"])
def test_a_full_disk_is_one_line_and_given_room_it_goes_on(
    commands: dict[str, Run], name: str, tmp_path: Path
) -> None:
    command, left = commands[name]
    said, disk = tmp_path / "said.txt", tmp_path / "disk"
    assert ended(forked(within(command, tmp_path / "whole"), said)) == 0, said.read_text()
    whole = left(tmp_path / "whole")
    files = [file for file in (tmp_path / "whole").rglob("*") if file.is_file()]
    needed = sum(file.stat().st_size for file in files)
    for point in range(1, POINTS + 1):
        if not mounted(disk, 4096 * max(2, needed * point // (POINTS + 1) // 4096)):
            pytest.skip("only root may mount a small disk")
        try:
            arguments = within(command, disk / "run")
            status, text = ended(forked(arguments, said)), said.read_text()
            assert status in (0, 2), text
            if status == 2:
                (line,) = [line for line in text.splitlines() if line.startswith("vlmig: ")]
                assert "space" in line or "full" in line, line
                assert "Traceback" not in text
            resized(disk, 64 * 2**20)
            assert ended(forked(arguments, said)) == 0, said.read_text()
            assert left(disk / "run") == whole
        finally:
            unmounted(disk)
            disk.rmdir()
