"""Models at work in one thread, while others serve the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from vlmig.errors import VLMIGError, one_line
from vlmig.evaluation.run_folder import Row

logger = logging.getLogger(__name__)
Emit = Callable[[Row], None]
"""Takes one event for the page."""


class _Gone(Exception):
    """The page that waited was closed."""


class Worker(Thread):
    """Load models and use them, one job after another: neither a model nor its store is made for
    several threads.

    Args:
        loaders: of each model's name, what loads it; in the background, in this order.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Any]]) -> None:
        super().__init__(daemon=True)
        self.loaders = loaders
        self.models: dict[str, Any] = {}
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def run(self) -> None:
        """Do the jobs until the process ends."""
        while True:
            self._jobs.get()()

    def model(self, name: str) -> Any:
        """Return a model, which is loaded first where it was not yet; only for jobs.

        Raises:
            VLMIGError: it cannot be loaded.
        """
        if name not in self.models:
            self.models[name] = self.loaders[name]()
        return self.models[name]

    def events(self, work: Callable[[Emit], None]) -> Iterator[Row]:
        """Do a job and yield the events that it emits; what goes wrong is the last one, in one
        line. The job ends at its next event when nobody waits for it any more."""
        queue: SimpleQueue[Row | None] = SimpleQueue()
        closed = Event()

        def emit(row: Row) -> None:
            if closed.is_set():
                raise _Gone
            queue.put(row)

        def job() -> None:
            try:
                work(emit)
            except _Gone:
                pass
            except VLMIGError as error:
                queue.put({"error": one_line(error, whole=True)})
            except Exception as error:
                logger.exception("the app failed")
                text = f"{type(error).__name__}: {one_line(error)}"
                queue.put({"error": f"this failed ({text}); the terminal of vlmig app says where"})
            finally:
                queue.put(None)

        self._jobs.put(job)
        try:
            while (row := queue.get()) is not None:
                yield row
        finally:
            closed.set()
