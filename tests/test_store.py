"""The store: whole entries, damage noticed, many writers."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlmig import VLMIGError
from vlmig.store import FeatureStore, Imagined, store_key


def entry(seed: int = 0) -> Imagined:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
    return Imagined(
        Image.fromarray(pixels), torch.randn(4, 6, generator=generator).half(), torch.randn(5, generator=generator)
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    FeatureStore(tmp_path).put("a", entry())
    found = FeatureStore(tmp_path).get("a")
    assert found is not None
    assert torch.equal(found.patches, entry().patches) and torch.equal(found.pooled, entry().pooled)
    assert np.array_equal(np.asarray(found.picture), np.asarray(entry().picture))
    assert FeatureStore(tmp_path).get("b") is None


def test_a_damaged_entry_is_noticed_and_remade(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="vlmig")  # the command line may have turned it down in this process
    store = FeatureStore(tmp_path)
    store.put("a", entry())
    with sqlite3.connect(store.path) as base:
        features = bytearray(base.execute("SELECT features FROM imagined").fetchone()[0])
        features[-1] ^= 1
        base.execute("UPDATE imagined SET features = ?", (bytes(features),))
    assert store.get("a") is None
    assert "damaged" in caplog.text
    store.put("a", entry())
    assert store.get("a") is not None


def test_every_setting_changes_the_key() -> None:
    identity = {"generator": "x", "steps": 1}
    keys = {
        store_key("a", 1, identity),
        store_key("b", 1, identity),
        store_key("a", 2, identity),
        store_key("a", 1, {**identity, "steps": 2}),
        store_key("a", 1, {**identity, "encoder": "y"}),
    }
    assert len(keys) == 5
    assert store_key("a", 1, dict(reversed(identity.items()))) in keys


def test_a_killed_writer_leaves_only_whole_entries(tmp_path: Path) -> None:
    rounds = 5 if os.environ.get("VLMIG_PROOF") else 1
    script = (
        "import sys; sys.path.insert(0, 'tests'); from test_store import *\n"
        f"store = FeatureStore({str(tmp_path)!r})\n"
        "for i in range(10**6): store.put(str(i), entry(i % 7))"
    )
    for _ in range(rounds):
        writers = [subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1]) for _ in range(2)]
        deadline = time.monotonic() + 60
        store = FeatureStore(tmp_path)
        while len(store) < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert len(store) >= 20
        for (key,) in store.base.execute("SELECT key FROM imagined").fetchall():
            assert store.get(key) is not None


def test_an_unwritable_folder_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VLMIGError, match="cannot write the feature store .*--store or VLMIG_STORE"):
        FeatureStore(tmp_path / "file" / "store")
