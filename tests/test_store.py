"""The store: whole entries, damage noticed, many writers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlmig import VLMIGError
from vlmig.store import Address, FeatureStore, Imagined, describe


def at(name: str, seed: int = 1, identity: str = "{}") -> Address:
    return Address(name, seed, identity)


def entry(seed: int = 0) -> Imagined:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
    return Imagined(
        Image.fromarray(pixels), torch.randn(4, 6, generator=generator).half(), torch.randn(5, generator=generator)
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    FeatureStore(tmp_path).put([(at("a"), entry())])
    found = FeatureStore(tmp_path).get(at("a").key)
    assert found is not None
    assert torch.equal(found.patches, entry().patches) and torch.equal(found.pooled, entry().pooled)
    assert np.array_equal(np.asarray(found.picture), np.asarray(entry().picture))
    assert FeatureStore(tmp_path).get(at("b").key) is None


def test_every_setting_changes_the_key() -> None:
    identity = {"generator": "x", "steps": 1}
    others = [identity, {**identity, "steps": 2}, {**identity, "encoder": "y"}]
    keys = {at("a", 1, describe(other)).key for other in others} | {
        at(name, seed, describe(identity)).key for name, seed in (("a", 2), ("b", 1))
    }
    assert len(keys) == 5
    assert at("a", 1, describe(dict(reversed(identity.items())))).key in keys


def test_a_killed_writer_leaves_only_whole_entries(tmp_path: Path) -> None:
    rounds = 5 if os.environ.get("VLMIG_PROOF") else 1
    script = (
        "import sys; sys.path.insert(0, 'tests'); from test_store import *\n"
        f"store = FeatureStore({str(tmp_path)!r})\n"
        "for i in range(10**6): store.put([(at(str(i)), entry(i % 7))])"
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
        for (key,) in store.base.execute("SELECT key FROM entries").fetchall():
            assert store.get(key) is not None


def test_an_unwritable_folder_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VLMIGError, match="cannot write the feature store .*--store or VLMIG_STORE"):
        FeatureStore(tmp_path / "file" / "store")
