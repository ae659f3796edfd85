"""What benchmarks share: sides measured in turns in one process, medians with spread, and what the
machine could do at best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SIDE = 2048
"""Rows and columns of the matrices whose product is timed."""
STREAM = 2**27
"""Numbers that are read in a row to time the memory; far more than any cache holds."""
Work = Callable[[], Any]


def machine() -> dict[str, Any]:
    """Describe where this runs."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    told = {
        "cpu": (names or [platform.processor()])[0],
        "device": device,
        "load": round(os.getloadavg()[0], 2),
    }
    return {**told, "threads": torch.get_num_threads(), "torch": torch.__version__}


def introduction(told: Mapping[str, Any]) -> str:
    """Say in a line where figures come from, and what makes them differ."""
    named = ", ".join(f"{name} {value}" for name, value in told.items())
    return (
        f"{named}\nother work beside this makes the rounds differ, and slows several threads more "
        "than one"
    )


def seconds(work: Work) -> float:
    """Return the seconds that work takes."""
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def in_turns(sides: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Run every side once unmeasured, then in turns, every other round backwards: seconds of each
    side's rounds."""
    for work in sides.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        order: Iterable[str] = reversed(sides) if number % 2 else sides
        for name in order:
            found[name].append(seconds(sides[name]))
    return found


def ratios(found: Mapping[str, list[float]], name: str, to: str) -> tuple[float, float, float]:
    """Compare two sides round by round: the median ratio, and the quartiles of the rounds'
    ratios."""
    each = sorted(a / b for a, b in zip(found[name], found[to], strict=True))
    return median(each), each[len(each) // 4], each[-1 - len(each) // 4]


@torch.no_grad()
def product_rate(
    device: torch.device, dtype: torch.dtype = torch.float32, repetitions: int = 20
) -> float:
    """Measure the matrix product: operations per second, the best of some, as befits a limit."""
    left, right = torch.rand(2, SIDE, SIDE, device=device).to(dtype)
    work = lambda: left @ right  # noqa: E731
    work()
    return 2 * SIDE**3 / min(seconds(work) for _ in range(repetitions))


@torch.no_grad()
def memory_rate(device: torch.device, repetitions: int = 8) -> float:
    """Measure a product of a matrix with a vector, which reads every number once: bytes per
    second, the best of some."""
    matrix = torch.rand(STREAM // SIDE, SIDE, device=device)
    vector = torch.rand(SIDE, device=device)
    work = lambda: matrix @ vector  # noqa: E731
    work()
    return 4 * STREAM / min(seconds(work) for _ in range(repetitions))


@torch.no_grad()
def operations(work: Work) -> int:
    """Count the floating-point operations of work; attention as matrix products, which the counter
    knows everywhere."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@torch.no_grad()
def peak_bytes(work: Work) -> int:
    """Return the largest number of bytes that tensors made by ``work`` hold at one time."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    events = [
        event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]  # type: ignore[union-attr]
    return max(
        accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
