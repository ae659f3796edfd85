"""Records in the schema of Every Eval Ever."""

from __future__ import annotations

import json
from pathlib import Path

from test_evaluation import evaluate

from vlmig import VLMIG


def test_a_record_for_every_eval_ever_has_what_its_schema_asks_for(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    """The required fields and kinds of eval.schema.json 0.3.0 (github.com/evaleval), by hand."""
    results = evaluate(tiny, data, tmp_path, "imagenetvc_color", ks=(0, 2))
    record = json.loads((tmp_path / "every_eval_ever" / "record.json").read_text())
    top = ("schema_version", "evaluation_id", "evaluation_timestamp", "retrieved_timestamp")
    blocks = ("source_metadata", "model_info", "eval_library", "evaluation_results")
    assert set(record) == {*top, *blocks}, "no other field is allowed"
    assert all(isinstance(record[name], str) for name in top)
    assert record["source_metadata"].keys() >= {"source_organization_name"}
    assert record["source_metadata"]["source_type"] == "evaluation_run"
    assert record["source_metadata"]["evaluator_relationship"] == "other"
    assert {"name", "version"} <= record["eval_library"].keys()
    model = record["model_info"]
    assert {"name", "id", "additional_details"} <= model.keys() and model["id"].count("/") == 1
    assert {"deployment_type", "model_availability"} <= model["additional_details"].keys()
    by_metric = {row["metric_config"]["metric_id"]: row for row in record["evaluation_results"]}
    assert {"accuracy", "accuracy_by_characters", "balanced_accuracy"} == by_metric.keys()
    for row in by_metric.values():
        assert {"evaluation_name", "source_data", "metric_config", "score_details"} <= row.keys()
        assert row["source_data"]["hf_repo"] == "hemingkx/ImageNetVC"
        metric = row["metric_config"]
        assert metric["score_type"] == "continuous" and metric["lower_is_better"] is False
        assert metric["min_score"] <= row["score_details"]["score"] <= metric["max_score"]
        details = [model, record["eval_library"], row["generation_config"]]
        for own in details:
            assert all(isinstance(text, str) for text in own["additional_details"].values())
    main = results["results"]["imagenetvc_color"]
    score = by_metric["accuracy"]["score_details"]
    assert score["score"] == main["acc,none"]
    sure = score["uncertainty"]
    assert sure["standard_error"]["value"] == main["acc_stderr,none"]
    assert sure["confidence_interval"]["lower"] <= score["score"]
    assert by_metric["accuracy"]["generation_config"]["additional_details"]["k"] == "2"
