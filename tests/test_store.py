"""The store: whole entries, damage noticed, many writers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from proof import PROOF

from vlmig import VLMIGError
from vlmig.imagination.mending import mend
from vlmig.imagination.store import Address, FeatureStore, Imagined, describe


def at(name: str, seed: int = 1, identity: str = "{}") -> Address:
    return Address(name, seed, identity)


def entry(seed: int = 0) -> Imagined:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
    return Imagined(
        Image.fromarray(pixels),
        torch.randn(4, 6, generator=generator).half(),
        torch.randn(5, generator=generator),
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    FeatureStore(tmp_path).put([(at("a"), entry())])
    found = FeatureStore(tmp_path).get(at("a").key)
    assert found is not None
    assert torch.equal(found.patches, entry().patches) and torch.equal(found.pooled, entry().pooled)
    assert np.array_equal(np.asarray(found.image), np.asarray(entry().image))
    assert FeatureStore(tmp_path).get(at("b").key) is None


def test_every_setting_changes_the_key() -> None:
    identity = {"generator": "x", "steps": 1}
    others = [identity, {**identity, "steps": 2}, {**identity, "encoder": "y"}]
    keys = {at("a", 1, describe(other)).key for other in others} | {
        at(name, seed, describe(identity)).key for name, seed in (("a", 2), ("b", 1))
    }
    assert len(keys) == 5
    assert at("a", 1, describe(dict(reversed(identity.items())))).key in keys


def filled(folder: Path, count: int = 6) -> FeatureStore:
    store = FeatureStore(folder)
    store.put((at(f"prompt {i}"), entry(i)) for i in range(count))
    return store


def same(one: Imagined | None, other: Imagined) -> bool:
    return (
        one is not None
        and torch.equal(one.patches, other.patches)
        and torch.equal(one.pooled, other.pooled)
    )


COLUMNS = ("key", "prompt", "seed", "identity", "redraws", "digest", "features", "picture")


@pytest.mark.scaled
def test_every_flipped_bit_of_an_entry_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(
        "WARNING", logger="vlmig"
    )  # the command line may have turned it down in this process
    store, rng = filled(tmp_path, 1), np.random.default_rng(0)
    (whole,) = store.rows()
    for flip in range(200 if PROOF else 40):
        column = COLUMNS[flip % len(COLUMNS)]
        value = whole[COLUMNS.index(column)]
        changed: int | bytes
        if isinstance(value, int):
            changed = value ^ (1 << int(rng.integers(0, 31)))
        else:
            raw = bytearray(value.encode() if isinstance(value, str) else value)
            raw[rng.integers(0, len(raw))] ^= 1 << int(rng.integers(0, 8))
            changed = bytes(raw)
        text = "CAST(? AS TEXT)" if isinstance(value, str) else "?"
        store.base.execute(f"UPDATE entries SET {column} = {text}", (changed,))
        assert store.get(at("prompt 0").key) is None, f"flip {flip} in {column}"
        assert column == "key" or "is damaged" in caplog.text
        caplog.clear()
        store.base.close()
        assert mend(store.path.parent) == (0, 1)
        store.open()
        assert len(store) == 0
        store.put([(at("prompt 0"), entry(0))])
        assert same(store.get(at("prompt 0").key), entry(0)), "a damaged entry is made again"


@pytest.mark.scaled
def test_a_flipped_bit_anywhere_in_the_file_never_gives_a_wrong_entry(tmp_path: Path) -> None:
    filled(tmp_path / "whole").base.close()
    raw, rng = (tmp_path / "whole" / "imagined.sqlite").read_bytes(), np.random.default_rng(1)
    noticed = 0
    for flip in range(200 if PROOF else 40):
        changed = bytearray(raw)
        changed[rng.integers(0, len(raw))] ^= 1 << int(rng.integers(0, 8))
        folder = tmp_path / str(flip)
        folder.mkdir()
        (folder / "imagined.sqlite").write_bytes(changed)
        try:
            store = FeatureStore(folder)
            found = [store.get(at(f"prompt {i}").key) for i in range(6)]
            (
                store.present([at("prompt 0").key]),
                store.statistics(),
                len(store),
            )  # never more than one line of error
        except VLMIGError:
            noticed += 1
            continue
        assert all(item is None or same(item, entry(i)) for i, item in enumerate(found))
        noticed += any(item is None for item in found)
        store.base.close()
        mend(folder)
        store.open()
        store.put((at(f"prompt {i}"), entry(i)) for i in range(6))
        assert all(same(store.get(at(f"prompt {i}").key), entry(i)) for i in range(6)), (
            "mended, all can be made again"
        )
    assert noticed > 0


@pytest.mark.parametrize("share", [0.7, 0.6])
def test_of_a_store_that_was_cut_off_the_first_part_is_kept(tmp_path: Path, share: float) -> None:
    filled(tmp_path, 60).base.close()
    path = tmp_path / "imagined.sqlite"
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(VLMIGError, match="is damaged .* --mend .* keeps what can be read"):
        FeatureStore(tmp_path)
    kept, _ = mend(tmp_path)
    store = FeatureStore(tmp_path)
    assert 0 < kept == len(store) < 60
    for i in range(60):
        item = store.get(at(f"prompt {i}").key)
        assert item is None or same(item, entry(i))


@pytest.mark.parametrize(
    "content", [b"hello" * 1000, bytes(8192), b"SQLite format 3\0" + b"\xff" * 99]
)
def test_what_is_no_store_cannot_be_mended(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "imagined.sqlite").write_bytes(content)
    with pytest.raises(VLMIGError, match="--mend"):
        FeatureStore(tmp_path)
    with pytest.raises(VLMIGError, match="nothing of the feature store .* can be read") as error:
        mend(tmp_path)
    assert "--mend" not in str(error.value), "it would be sent in circles"


@pytest.mark.proof
def test_a_killed_writer_leaves_only_whole_entries(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests'); from test_store import *\n"
        f"store = FeatureStore({str(tmp_path)!r})\n"
        "for i in range(10**6): store.put([(at(str(i)), entry(i % 7))])"
    )
    for _ in range(5 if PROOF else 1):
        writers = [
            subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1])
            for _ in range(4)
        ]
        deadline = time.monotonic() + 120
        store = FeatureStore(tmp_path)
        before = len(store)
        while len(store) < before + 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert len(store) >= before + 20
        keys = [key for (key,) in store.base.execute("SELECT key FROM entries")]
        assert len(set(keys)) == len(keys) == len(store)
        assert all(store.get(key) is not None for key in keys)


def test_what_is_there_stays(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    numbers = store.base.execute("SELECT rowid, digest FROM entries").fetchall()
    filled(tmp_path, 2)
    store.put([(at("prompt 0"), entry(5))])
    assert store.base.execute("SELECT rowid, digest FROM entries").fetchall() == numbers


def test_the_store_stays_below_its_limit_and_keeps_what_is_used(tmp_path: Path) -> None:
    one = filled(tmp_path / "one", 1)
    store = FeatureStore(tmp_path, limit=10 * one.size())
    store.put((at(f"prompt {i}"), entry(i)) for i in range(9))
    for i in range(9, 40):
        store.touch([at("prompt 0").key])
        store.put([(at(f"prompt {i}"), entry(i))])
        assert store.size() <= 10 * one.size() + 200  # pictures compress a little differently
    assert store.get(at("prompt 0").key) is not None, "used all the time"
    assert store.get(at("prompt 1").key) is None and store.get(at("prompt 39").key) is not None
    store.base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert store.path.stat().st_size < 20 * one.size() + 100_000, "the file shrinks too"


def test_stores_are_merged(tmp_path: Path) -> None:
    store, other = filled(tmp_path / "a", 3), filled(tmp_path / "b", 6)
    other.base.execute("UPDATE entries SET seed = 2 WHERE prompt = 'prompt 4'")
    assert store.merge(other) == 2, "3 and 5 are taken over, 4 is damaged"
    assert same(store.get(at("prompt 5").key), entry(5)) and store.get(at("prompt 4").key) is None


def test_a_copied_folder_is_the_store(tmp_path: Path) -> None:
    filled(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert same(FeatureStore(tmp_path / "b").get(at("prompt 3").key), entry(3))


def test_pictures_are_optional(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, images=False)
    store.put([(at("a"), entry())])
    found = store.get(at("a").key)
    assert same(found, entry()) and found is not None and found.image is None


def test_statistics_by_identity(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    other = entry(9)
    other.redraws = -1
    store.put([(at("x", 7, describe({"generator": "y"})), other)])
    first, second = store.statistics()
    assert (second["identity"], second["entries"], second["prompts"], second["faulty"]) == (
        "{}",
        3,
        3,
        0,
    )
    assert (first["identity"], first["faulty"]) == (describe({"generator": "y"}), 1)
    assert first["bytes"] + second["bytes"] == store.size()


def test_another_format_is_refused(tmp_path: Path) -> None:
    filled(tmp_path).base.execute("PRAGMA user_version = 7")
    with pytest.raises(VLMIGError, match="has format 7, this version has 2; choose another folder"):
        FeatureStore(tmp_path)


def test_an_unwritable_folder_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VLMIGError, match="cannot use the feature store .*--store or VLMIG_STORE"):
        FeatureStore(tmp_path / "file" / "store")
