"""What stays in memory for each item: bytes are counted, no clock is read. See
benchmarks/growth.py for sizes of real work."""

from __future__ import annotations

import gc
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth
from vlmig import VLMIG
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.metrics import bootstrap as statistics
from vlmig.evaluation.metrics.aggregate import assemble
from vlmig.evaluation.metrics.columns import Column, coded
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Task

FEW, MANY = 100, 700


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return growth.build(tmp_path_factory.mktemp("growth"))


@pytest.fixture()
def model(checkpoint: Path, tmp_path: Path) -> VLMIG:
    return growth.load(checkpoint, tmp_path / "store", fast=True)


def grown(work: Callable[[int], object], most: int = MANY) -> tuple[float, float]:
    """Bytes that stay for each item while the result is held, and at the peak."""
    work(FEW // 2)  # what is loaded or made once
    found = []
    for count in (FEW, most):
        gc.collect()
        tracemalloc.start()
        held = work(count)
        gc.collect()
        found.append(tracemalloc.get_traced_memory())
        tracemalloc.stop()
        del held
    (few, few_peak), (many, many_peak) = found
    return (many - few) / (most - FEW), (many_peak - few_peak) / (most - FEW)


def test_measuring_keeps_keys_and_places_alone(model: VLMIG, tmp_path: Path) -> None:
    def measure(count: int) -> object:
        evaluator = Evaluator(model, Settings(ks=(0, 2)), tmp_path, tmp_path / str(count))
        return evaluator.measure(Task("things", lambda _: growth.Things(count)))

    stays, peak = grown(measure)
    assert stays < 300 and peak < 1500, "a record in memory takes thousands"
    again, peak = grown(measure)
    assert again < 300 and peak < 1500, "nor does going on read the records"


def test_the_read_out_keeps_numbers_alone(
    model: VLMIG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        statistics, "RESAMPLES", 20
    )  # the draws are few, and those of whole runs come in blocks
    monkeypatch.setattr(statistics, "KEPT", 0)
    evaluators = {}
    for count in (FEW // 2, FEW, MANY):
        evaluators[count] = Evaluator(model, Settings(ks=(0, 2)), tmp_path, tmp_path / str(count))
        evaluators[count].measure(Task("things", lambda _, count=count: growth.Things(count)))

    def read(count: int) -> object:
        measured = evaluators[count].measure(Task("things", lambda _: growth.Things(count)))
        return assemble(evaluators[count], measured)

    stays, peak = grown(read)
    assert stays < 600 and peak < 1800, "numbers in arrays, and one condition at a time"
    stays, peak = grown(
        lambda count: measure_tasks(
            evaluators[count], [Task("things", lambda _: growth.Things(count))]
        )
    )
    assert stays < 100 and peak < 1500, "samples are written line by line"


@pytest.mark.proof
def test_filling_the_store_keeps_nothing(model: VLMIG, tmp_path: Path) -> None:
    most = 4 * MANY  # libraries keep some 60 kB, however many texts there are
    texts = [f"a thing {i}" for i in range(most)]
    stays, _ = grown(
        lambda count: model.imagination.fill(
            texts[:count], growth.K, report=tmp_path / "report.jsonl"
        ),
        most,
    )
    assert stays < 50
    assert len((tmp_path / "report.jsonl").read_text().splitlines()) == most


def test_columns_and_codes_are_what_lists_would_be() -> None:
    column = Column()
    column.add([[0.5, None], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], []])
    column.add(None)
    column.add([[7.0, 8.0]])
    assert column.items == 2 and column.sizes.tolist() == [2, 6, 0, 2]
    assert [own.tolist() for own in column][1:] == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [], [7.0, 8.0]]
    assert np.isnan(column.of(np.array([0, 3]))[0, 1]) and column.of(np.array([3])).tolist() == [
        [7.0, 8.0]
    ]
    names = ["pear", "apple", "pear", "Äpfel", "fig"]
    codes, ordered = coded(names)
    assert [ordered[code] for code in codes] == names and codes.tolist() == np.unique(
        names, return_inverse=True
    )[1].tolist()


@pytest.mark.proof
def test_the_benchmark_runs_and_says_what_it_simulates(capsys: pytest.CaptureFixture[str]) -> None:
    growth.main(["--items", "4,8", "--fast"])
    told = capsys.readouterr().out
    assert (
        "simulated: noise in place of a generator, made items, embeddings in place of pictures, "
        "random scores" in told
    )
    assert len(re.findall(r"^ +slope.*B/item.*n\^", told, re.MULTILINE)) == 2
    assert json.dumps(
        growth.slopes(
            [1, 10], [{"work, s": 1.0, "peak, MiB": 1.0}, {"work, s": 100.0, "peak, MiB": 2.0}]
        )
    ) == ('{"work, s": "n^2.00", "peak, MiB": "116508 B/item"}')
