"""Ray: the same store from two actors as from one process, whatever dies meanwhile."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_bulk import contents

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.imagination import requests_for
from vlmig.imagination.store import FeatureStore, describe
from vlmig.io.rows import Bad

TEXTS = [f"thing number {i}" for i in range(60)]


@pytest.fixture(scope="module")
def ray() -> Any:
    module = pytest.importorskip("ray")
    yield module
    module.shutdown()


def processes(name: str) -> list[int]:
    """The processes whose title, which Ray sets, has a name in it."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:  # it ended meanwhile
                continue
            if name.encode() in title and parent(int(folder.name)):
                found.append(int(folder.name))
    return found


def parent(process: int) -> bool:
    """Whether a process descends from this one."""
    while process > 1:
        if process == os.getpid():
            return True
        try:
            stat = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            return False
        process = int(stat.rpartition(")")[2].split()[1])
    return False


@pytest.mark.proof
def test_two_actors_fill_the_store_of_one_process(
    tiny: VLMIG, checkpoint: Path, tmp_path: Path, ray: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line; then again, when nothing is drawn; and the report is the same."""
    tiny.imagination.fill(TEXTS, k=2, report=tmp_path / "one.jsonl")
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS))
    command = ["imagine", "--model", str(checkpoint), "--prompts", str(tmp_path / "prompts.txt")]
    command += ["--k", "2", "--store", str(tmp_path / "two"), "--engine", "ray", "--actors", "2"]
    for drawn in (120, 0):
        assert main([*command, "--report", str(tmp_path / "two.jsonl")]) == 0
        told = capsys.readouterr()
        assert f"{120 - drawn} images were there, {drawn} drawn" in told.out, told
        assert contents(FeatureStore(tmp_path / "two")) == contents(tiny.imagination.store)
        assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "one.jsonl").read_text()


@pytest.mark.proof
def test_killed_actors_lose_nothing(tiny: VLMIG, tmp_path: Path, ray: Any) -> None:
    """Each actor is killed once while it draws."""
    from vlmig.imagination.cluster import Cluster

    texts = [f"thing {i}" for i in range(300)]
    tiny.imagination.fill(texts, k=2)
    whole = contents(tiny.imagination.store)
    tiny.imagination.store = FeatureStore(tmp_path / "killed")
    tiny.imagination.engine = Cluster(2)
    killed: list[int] = []
    before = set(processes("ray::"))

    def kill() -> None:
        store = FeatureStore(tmp_path / "killed")
        for least in (24, 240):
            while len(store) < least:
                time.sleep(0.01)
            actors = [p for p in processes("Drawing") if p not in before and p not in killed]
            for actor in actors[:1]:
                os.kill(actor, signal.SIGKILL)
                killed.append(actor)

    thread = threading.Thread(target=kill)
    thread.start()
    tiny.imagination.fill(texts, k=2)
    thread.join()
    assert len(killed) == 2, "the kills should have come while pictures were made"
    assert contents(tiny.imagination.store) == whole


@pytest.mark.proof
def test_an_evaluation_draws_on_the_cluster(tiny: VLMIG, tmp_path: Path, ray: Any) -> None:
    from vlmig.imagination.cluster import Cluster

    choices = ("red", "blue")
    items = []
    for i in range(8):
        questions = tuple(Question((f"thing{i} {c}",), choices, i % 2) for c in ("is", "has"))
        items.append(Item(str(i), f"thing{i}", f"a thing{i}", choices, questions))
    results = []
    for policy in ("item", "question"):
        settings = Settings(ks=(0, 2), policy=policy)
        for engine in (None, Cluster(1)):
            name = f"{policy}{engine is None}"
            tiny.imagination.store = FeatureStore(tmp_path / f"store_{name}")
            tiny.imagination.engine = engine
            here = []
            plain = tiny.imagination.source.imagine
            tiny.imagination.source.imagine = lambda r, p=plain, h=here: h.append(r) or p(r)  # type: ignore[method-assign, misc]
            evaluator = Evaluator(tiny, settings, tmp_path, tmp_path / name)
            task = Task("things", lambda _: items)
            results.append(measure_tasks(evaluator, [task])["results"]["things"])
            tiny.imagination.source.imagine = plain  # type: ignore[method-assign]
            assert bool(here) == (engine is None), "all that is needed was drawn by the actor"
        assert results[-1] == results[-2]


@pytest.mark.proof
def test_features_of_training_come_from_actors(
    tiny: VLMIG, colored: Path, tmp_path: Path, ray: Any
) -> None:
    """The rows of the store, and what is said of files that cannot be read."""
    from vlmig.data.sources.table import Table
    from vlmig.imagination.cluster import Cluster
    from vlmig.training.images import ImageFeatures

    folder = tmp_path / "data"
    shutil.copytree(colored, folder)
    (folder / "3.png").write_bytes(b"no image")
    source = Table(folder / "pairs.jsonl")
    pairs = [pair for pair in source.pairs() if not isinstance(pair, Bad)]
    found = []
    for engine in (None, Cluster(1)):
        tiny.imagination.store = FeatureStore(tmp_path / f"store_{engine is None}")
        tiny.imagination.engine = engine
        images = ImageFeatures(tiny.imagination, tiny.model.blank_features, True, 0)
        bad = images.fill(source, pairs, len(pairs))
        found.append(([str(one) for one in bad], contents(tiny.imagination.store)))
    assert found[0] == found[1] and len(found[0][0]) == 1 and len(found[0][1]) == 47


@pytest.mark.proof
def test_what_an_actor_says_is_one_line(tiny: VLMIG, tmp_path: Path, ray: Any) -> None:
    from vlmig.imagination.cluster import Cluster

    tiny.imagination.engine = Cluster(1)
    tiny.imagination.__dict__["described"] = tiny.imagination.described + " "  # other weights
    with pytest.raises(VLMIGError, match="has another generator or encoder") as error:
        tiny.imagination.fill(["a cat"], k=1)
    assert "\n" not in str(error.value)


def test_an_actor_gives_the_rows_of_the_store(tiny: VLMIG, colored: Path, tmp_path: Path) -> None:
    """What Ray runs elsewhere, run here: drawing, and reading files, one of them damaged."""
    from vlmig.data.sources.table import Table
    from vlmig.imagination.cluster import Drawing, Reading, _blocks
    from vlmig.training.images import ImageFeatures

    imagination = tiny.imagination
    imagination.fill(TEXTS[:30], k=1)
    missing = dict(imagination._addresses([requests_for([text], 0) for text in TEXTS[:30]]))
    shared = (imagination.config, str(imagination.folder))
    drawing = Drawing(*shared, imagination.described, True)
    store = FeatureStore(tmp_path / "drawn")
    blocks = _blocks(missing, 24)
    assert [len(block) for block in blocks] == [24, 6]
    for block in blocks:
        rows = drawing(block).to_pylist()
        assert not any(row.pop("fault") for row in rows)
        store.write([tuple(row.values()) for row in rows])
    assert contents(store) == contents(imagination.store)
    with pytest.raises(VLMIGError, match="has another generator or encoder"):
        Drawing(*shared, imagination.described + " ", True)

    folder = tmp_path / "data"
    shutil.copytree(colored, folder)
    (folder / "3.png").write_bytes(b"no image")
    source = Table(folder / "pairs.jsonl")
    pairs = [pair for pair in source.pairs() if not isinstance(pair, Bad)]
    imagination.store = FeatureStore(tmp_path / "here")
    images = ImageFeatures(imagination, tiny.model.blank_features, True, 0)
    (bad,) = images.fill(source, pairs, len(pairs))
    described = describe(imagination.encoder.identity())
    reading = Reading(*shared, described, True, pickle.loads(pickle.dumps(source.open)))
    store = FeatureStore(tmp_path / "there")
    for block in _blocks({images.address(source, pair): pair for pair in pairs}.items(), 24):
        for row in reading(block).to_pylist():
            if fault := row.pop("fault"):
                assert fault == bad.reason
            else:
                store.write([tuple(row.values())])
    assert contents(store) == contents(imagination.store) and len(store) == 47


def test_wrong_engines_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    (tmp_path / "prompts.txt").write_text("a cat\n")
    many = ["imagine", "--prompts", str(tmp_path / "prompts.txt"), "--store", str(tmp_path)]
    for command, message in (
        ([*many, "--actors", "2"], "--actors are those of --engine ray"),
        ([*many, "--engine", "ray", "--actors", "0"], "expected at least one"),
        (["imagine", "a cat", "--engine", "ray"], "--engine are for many prompts"),
    ):
        assert main(command) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*many, "--engine", "ray"]) == 2
    assert 'pip install "vlmig[ray]"' in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*many, "--engine", "ray"]) == 2
    assert "under torchrun" in capsys.readouterr().err
