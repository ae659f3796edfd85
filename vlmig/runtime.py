"""Work whose bytes do not depend on how many threads or processes share it.

A sum over two threads rounds otherwise than a sum over one. So on a CPU every piece of such work runs on one thread, and
several pieces run side by side: as fast, or faster, than one piece on several threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch


def cpu_autocast() -> torch.autocast:
    """Compute in bf16 where this CPU can; emulated bf16 takes ten times as long as fp32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


Part = TypeVar("Part")
Result = TypeVar("Result")


def spread(
    work: Callable[[Part], Result], parts: Sequence[Part], device: torch.device, together: bool = True
) -> list[Result]:
    """Apply ``work`` to each part, in inference mode: on a CPU one thread each, on an accelerator one after another.

    Args:
        together: whether parts may run side by side; otherwise they follow each other, with the same results.
    """
    inference = torch.inference_mode()(work)
    count = torch.get_num_threads()
    if device.type != "cpu" or count == 1:
        return [inference(part) for part in parts]
    workers = min(count, len(parts)) if together else 1
    try:
        with ThreadPoolExecutor(workers or 1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(inference, parts))
    finally:
        torch.set_num_threads(count)


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
