"""What earlier versions wrote still loads: a checkpoint and a run folder, kept in
``tests/earlier``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer

from vlmig import VLMIGForCausalLM
from vlmig.evaluation.run_folder import main_condition, read_run
from vlmig.imagination.store import FeatureStore
from vlmig.report.comparison import compare_runs
from vlmig.report.run_page import write_report

EARLIER = Path(__file__).parent / "earlier"


def test_a_checkpoint_predicts_what_it_predicted() -> None:
    model = VLMIGForCausalLM.from_pretrained(EARLIER / "checkpoint").eval()
    tokenizer = AutoTokenizer.from_pretrained(EARLIER / "checkpoint/language_model")
    ids = tokenizer("what color is a cat ?", return_tensors="pt").input_ids
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 2, *model.blank_features.shape, generator=generator)
    with torch.inference_mode():
        logits = model(ids, visual_features=features).logits[0, -1]
    expected = torch.tensor(json.loads((EARLIER / "logits.json").read_text()))
    # The same sums, perhaps in another order, of logits of order 5.
    assert torch.allclose(logits, expected, atol=1e-4)
    assert expected.std() > 0.1, "a flat prediction would equal anything"


def test_a_run_folder_is_read_reported_and_compared(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(EARLIER / "run", run)
    results = read_run(run).results
    assert main_condition(results, "kept")["n"] == 3
    store = FeatureStore(tmp_path / "store")
    assert "a cat" in write_report(run, store).read_text()
    shutil.copytree(EARLIER / "run", tmp_path / "again")
    page = compare_runs(run, tmp_path / "again", tmp_path / "page.html", store)
    assert "kept" in page.read_text()
