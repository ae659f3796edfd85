"""Give the command line malformed input: ``python -m tools.fuzz --rounds 25``.

Each input is something good (a configuration, a recipe, a task file, a table, results) with another
value in one place or with damaged bytes, or a command line. It may be refused in one line with
status 2, or taken; it must not end in a traceback, fill the memory, or be taken where its type is
plainly wrong. Prints the number of inputs by kind; hypothesis draws them, from a fixed seed.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tools.fuzz_inputs import (
    Mutation,
    at,
    command_lines,
    damaged,
    mutations,
    plainly_wrong,
    quiet,
    replaced,
)
from vlmig.cli.main import main

MOST_BYTES = 2 * 2**30
"""How much more memory than at the start any input may take."""
ROUND = 40
"""Inputs of one kind after each other."""
TAKEN = "expected --out FOLDER"
"""What ``vlmig train RECIPE`` ends with where nothing is wrong with the recipe."""


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    refused: int = 0
    taken: int = 0
    faults: list[str] = field(default_factory=list)


def fault_of(command: list[str], wrong: bool, tally: Tally) -> str:
    """Run a command line; return what is wrong with how it ends, or nothing."""
    try:
        status, said = quiet(main, command)
    except Exception:
        return f"a traceback: ...{traceback.format_exc()[-700:]}"
    lines = said.replace("\r", "\n").strip().split("\n")
    is_refused = status == 2 and TAKEN not in said
    tally.refused += is_refused
    tally.taken += not is_refused
    if status == 2 and (not lines[-1].startswith("vlmig") or "Traceback" in said):
        return f"status 2 without one line: {said}"
    if sum(line.startswith("vlmig") for line in lines) > 1:
        return f"several lines: {said}"
    if wrong and not is_refused:
        return f"taken with status {status}, of a wrong type"
    return ""


def fuzz(count: int, start: int = 0) -> dict[str, Tally]:
    """Try inputs of every kind in turn; return what became of them.

    Args:
        count: rounds, of ``ROUND`` inputs of each kind.
        start: the seed of the first round.
    """
    kinds, tallies = mutations(), dict[str, Tally]()
    bounded()
    rounds = {**{name: kind.strategy() for name, kind in kinds.items()}, "line": command_lines()}
    damages = st.tuples(st.floats(0, 1), st.binary(max_size=9), st.booleans())
    rounds["bytes"] = st.tuples(st.sampled_from(list(kinds.values())), damages)
    for number in range(start, start + count):
        for name, strategy in rounds.items():
            tally = tallies.setdefault(name, Tally())
            try_some(strategy, kinds.get(name, name), tally, number)
    return tallies


def try_some(
    strategy: st.SearchStrategy[Any], kind: Mutation | str, tally: Tally, number: int
) -> None:
    """Try ``ROUND`` inputs of a kind, drawn from a seed."""

    @seed(number)
    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(drawn: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            command, wrong = drawn, False
            if kind == "bytes":
                good, damage = drawn
                command = good.write(Path(folder), good.good)
                damaged(Path(folder), *damage)
            elif isinstance(kind, Mutation):
                place, value = drawn
                wrong = kind.typed(place) and plainly_wrong(at(kind.good, place), value)
                command = kind.write(Path(folder), replaced(kind.good, place, value))
            if fault := fault_of(command, wrong, tally):
                tally.faults.append(f"{drawn!r:.300}: {fault}")

    run()


def bounded() -> None:
    """Let this process take ``MOST_BYTES`` more than now: an input that wants more ends in a
    MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def peak() -> int:
    """Return the most memory that this process has taken, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run() -> int:
    """Print a line for each kind, and every fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HUB_OFFLINE": "1", "VLMIG_STORE": f"{folder}/store"}
        here = Path(folder) / "here"  # so that ../x is in the folder too
        here.mkdir()
        os.chdir(here)
        tallies = fuzz(chosen.rounds, chosen.seed)
        os.chdir("/")
    total = Counter[str]()
    for name, tally in tallies.items():
        print(
            f"{name:<17} {tally.refused:>6} refused {tally.taken:>6} taken "
            f"{len(tally.faults):>4} faults"
        )
        total.update(inputs=tally.refused + tally.taken, faults=len(tally.faults))
    print(f"{total['inputs']} inputs, {total['faults']} faults, {peak() / 2**30:.1f} GB at most")
    for name, tally in tallies.items():
        for fault in tally.faults:
            print(f"\n{name}: {fault}")
    return int(total["faults"] > 0)


if __name__ == "__main__":
    raise SystemExit(run())
