"""What a run has written so far: rows, rejects and their counts; on disk line by line, so that a stopped run goes on."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vlmig.errors import VLMIGError
from vlmig.io.atomic import write_json

ROWS, REJECTS, SETTINGS, REPORT = (
    "instructions.jsonl",
    "rejects.jsonl",
    "settings.json",
    "report.json",
)
EVERY = 1.0
"""Seconds between two writings of the report: what a kill may take away of the time that it counts."""
FEWEST = 20
"""Replies before the share of rejected ones means something."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Bounds:
    """What a run may take and what it costs; none of it decides what a row says."""

    images: int | None = None
    """The first so many images; None: all."""
    parallel: int = 1
    price_in: float | None = None
    """Price of a million tokens of prompt; nothing is counted without both prices."""
    price_out: float | None = None
    max_cost: float | None = None
    max_rejected: float = 0.5
    """Largest share of rejected replies, once there are ``FEWEST``."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            VLMIGError: one is out of range, or a price is missing.
        """
        for name in ("images", "parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise VLMIGError(
                    f"{'limit' if name == 'images' else name} is {value}; expected at least 1; correct it"
                )
        amounts = (self.price_in, self.price_out, self.max_cost)
        if any(amount is not None and not 0 <= amount < float("inf") for amount in amounts):
            raise VLMIGError(
                f"prices and largest cost are {amounts}; expected 0 or more; correct them"
            )
        if not 0 <= self.max_rejected <= 1:
            raise VLMIGError(
                f"max-rejected is {self.max_rejected}; expected a share from 0 to 1; correct it"
            )
        if (self.price_in is None) != (self.price_out is None) or (
            self.max_cost is not None and self.price_in is None
        ):
            raise VLMIGError(
                "a price is missing; expected --price-in and --price-out together, and both with --max-cost; give them"
            )


class Ledger:
    """The folder of a run.

    Args:
        folder: where; made if it is not there.
        settings: what decides the rows.
        bounds: prices and limits.

    Attributes:
        done: ids of rows and rejects, which need not be asked again.

    Raises:
        VLMIGError: the folder holds rows of other settings, is in use, is damaged, or cannot be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], bounds: Bounds) -> None:
        self.folder, self.bounds = folder, bounds
        self.done: set[str] = set()
        self.files: dict[str, FileIO] = {}
        self.rows, self.rejected = Counter[str](), dict[str, Counter[str]]()
        self.reasons, self.tokens = Counter[str](), Counter[str]()
        self.left_out = Counter[str]()
        self.seconds, self.repeats, self.written = 0.0, 0, time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._settle(settings)
            for name in (ROWS, REJECTS):
                self._open(name)
        except VLMIGError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise VLMIGError(f"cannot write to {folder}: {error}; choose another --out") from error
        try:
            before = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            self.seconds, self.repeats = float(before["seconds"]), int(before["sent_again"])
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # none yet: only time and repeats are not in the rows
            pass

    def _settle(self, settings: dict[str, Any]) -> None:
        path = self.folder / SETTINGS
        if not path.is_file():
            if (self.folder / ROWS).exists():
                raise VLMIGError(
                    f"{self.folder} has {ROWS} but no {SETTINGS}; expected a folder of ours; name another --out"
                )
            write_json(path, settings)
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            name = next(
                (name for name in {**known, **settings} if known.get(name) != settings.get(name)),
                None,
            )
        except (ValueError, TypeError, AttributeError):
            raise VLMIGError(
                f"{path} is damaged; expected settings as written; remove the folder, or name another --out"
            ) from None
        if name is not None:
            raise VLMIGError(
                f"{self.folder} holds rows with {name} {known.get(name)!r}, not {settings.get(name)!r}; expected the same options; give those, or name another --out"
            )

    def _open(self, name: str) -> None:
        """Open a file to add lines, cut off what is no whole line, and count the others."""
        path = self.folder / name
        file = self.files[name] = path.open("ab", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VLMIGError(
                f"{path} is being written by another command; expected only one; wait for its end, or name another --out"
            ) from None
        end = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._count(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    raise VLMIGError(
                        f"{path}, line {number} is damaged; expected a line as written; remove that line"
                    ) from None
                end += len(line)
        file.truncate(end)

    def keep(self, line: Line, seconds: float, repeats: int) -> None:
        """Put a row or a reject on disk.

        Raises:
            VLMIGError: it cannot be written.
        """
        name = REJECTS if "reason" in line else ROWS
        content = (
            json.dumps(line, ensure_ascii="reason" in line).encode() + b"\n"
        )  # replies may hold half characters
        try:
            if self.files[name].write(content) != len(content):
                raise OSError("the disk is full")
            os.fsync(self.files[name].fileno())
        except OSError as error:
            self.close()  # nothing may follow half a line
            raise VLMIGError(
                f"cannot write to {self.folder / name}: {error}; make room, and the same command goes on"
            ) from error
        self._count(line)
        self.repeats += repeats
        self.seconds += seconds
        if time.monotonic() - self.written > EVERY:
            self.report(finished=False)

    def _count(self, line: Line) -> None:
        if "reason" in line:
            self.rejected.setdefault(line["kind"], Counter())[line["reason"]] += 1
        else:
            self.rows[line["kind"]] += 1
        self.done.add(line["id"])
        self.reasons.update(line["rejections"])
        for name in ("requests", "prompt_tokens", "answer_tokens", "uncounted"):
            self.tokens[name] += line[name]

    @property
    def cost(self) -> float | None:
        """Price of all tokens that were counted; None without prices."""
        if self.bounds.price_in is None or self.bounds.price_out is None:
            return None
        prices = (
            (self.bounds.price_in, self.tokens["prompt_tokens"]),
            (self.bounds.price_out, self.tokens["answer_tokens"]),
        )
        return sum(price * count for price, count in prices) / 1e6

    def check(self) -> None:
        """Stop where enough was paid or too much is rejected.

        Raises:
            VLMIGError: says which.
        """
        rows, rejected = (
            self.rows.total(),
            sum(reasons.total() for reasons in self.rejected.values()),
        )
        cost, most = self.cost, self.bounds.max_cost
        if cost is not None and most is not None:
            if self.tokens["uncounted"]:
                raise VLMIGError(
                    "the endpoint does not say how many tokens it took; expected its usage; leave --max-cost out"
                )
            if cost >= most:
                raise VLMIGError(
                    f"{rows} rows cost {cost:.4f} of --max-cost {most:g}; they are in {self.folder}; a larger one goes on"
                )
        if rows + rejected >= FEWEST and rejected > self.bounds.max_rejected * (rows + rejected):
            reason, count = self.reasons.most_common(1)[0]
            raise VLMIGError(
                f"{rejected} of {rows + rejected} rejected, mostly {reason} ({count} replies); expected a share of at most {self.bounds.max_rejected:g}; read {self.folder / REJECTS}, then choose another --teacher and --out, or a larger --max-rejected"
            )

    def report(self, finished: bool) -> dict[str, Any]:
        """Write and return all counts."""
        self.written = time.monotonic()
        rejected = {
            kind: dict(sorted(reasons.items())) for kind, reasons in sorted(self.rejected.items())
        }
        total = sum(reasons.total() for reasons in self.rejected.values())
        found = {
            "finished": finished,
            "rows": dict(sorted(self.rows.items())),
            "rejected": rejected,
            "rejected_replies": dict(sorted(self.reasons.items())),
            "requests": self.tokens["requests"],
            "retries": self.tokens["requests"] - self.rows.total() - total,
            "sent_again": self.repeats,
            "prompt_tokens": self.tokens["prompt_tokens"],
            "answer_tokens": self.tokens["answer_tokens"],
            "replies_without_usage": self.tokens["uncounted"],
            "cost": self.cost,
            "seconds": round(self.seconds, 3),
            "left_out": dict(sorted(self.left_out.items())),
        }
        write_json(self.folder / REPORT, found)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another command write."""
        for file in self.files.values():
            file.close()
