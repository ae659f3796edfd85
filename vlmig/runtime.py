"""Processes, threads, precision and time: a map whose results do not depend on the number of
threads, bf16 where it is fast, a stopwatch.

A sum computed by two threads is rounded differently from one computed by a single thread. So on a
CPU each item is computed by one thread and several items run side by side, which is as fast as one
item on several threads, or faster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from typing import TypeVar

import torch

from vlmig.errors import VLMIGError

Item = TypeVar("Item")
Result = TypeVar("Result")


def rank_and_processes() -> tuple[int, int]:
    """Return this process's number, from 0, and the number of processes, as torchrun sets them.

    Raises:
        VLMIGError: RANK and WORLD_SIZE are something else.
    """
    rank, processes = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and processes.isdecimal() and int(rank) < int(processes)):
        raise VLMIGError(
            f"RANK={rank} and WORLD_SIZE={processes} in the environment; expected a number below "
            "the number of processes, as torchrun sets them; unset both"
        )
    return int(rank), int(processes)


def cpu_autocast() -> torch.autocast:
    """Return an autocast to bf16 if the CPU computes it: emulation is slower than fp32."""
    return torch.autocast(
        "cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def deterministic_map(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    device: torch.device,
    together: bool = True,
) -> list[Result]:
    """Apply ``work`` to each item in inference mode: on a CPU by one thread each, on an accelerator
    one after another.

    Args:
        together: whether items may run side by side; the results are the same if not.
    """
    inference = torch.inference_mode()(work)
    count = torch.get_num_threads()
    if device.type != "cpu" or count == 1:
        return [inference(item) for item in items]
    workers = min(count, len(items)) if together else 1
    try:
        with ThreadPoolExecutor(
            workers or 1, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(inference, items))
    finally:
        torch.set_num_threads(count)


def installed(package: str) -> str | None:
    """Return the version of a package; None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


class Stopwatch:
    """Add up the seconds spent in named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started
