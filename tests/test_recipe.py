"""Recipes: read, extended and changed; what is wrong with one is said in one line before anything
is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vlmig import VLMIGError
from vlmig.training import load_recipe

GOOD = {
    "model": {"from": "pocket"},
    "stages": [
        {"name": "a", "data": [{"path": "x"}], "steps": 5, "batch": 4, "learning_rate": "5e-4"}
    ],
}


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


def test_numbers_as_yaml_writes_them(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, seed=4))
    assert recipe.stages[0].learning_rate == 5e-4 and recipe.seed == 4


def test_one_extends_another(tmp_path: Path) -> None:
    written(tmp_path)
    above = {
        "extends": "recipe.yaml",
        "model": {"fusion": "decoder_layer"},
        "stages": [{"batch": 8}],
    }
    (tmp_path / "above.yaml").write_text(yaml.safe_dump(above))
    recipe = load_recipe(tmp_path / "above.yaml", ["stages.0.steps=9", "precision=bf16"])
    assert recipe.model == {"from": "pocket", "fusion": "decoder_layer"}
    assert (recipe.stages[0].batch, recipe.stages[0].steps, recipe.precision) == (8, 9, "bf16")


STAGE = GOOD["stages"][0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sead": 1}, "did you mean seed"),
        ({"stages": []}, "stages is ..; expected at least 1"),
        ({"stages": [{**STAGE, "stepz": 1}]}, "did you mean steps"),
        ({"stages": [{**STAGE, "epochs": 1}]}, "expected one of them"),
        ({"stages": [{**STAGE, "steps": "many"}]}, "expected a whole number"),
        ({"stages": [{**STAGE, "learning_rate": "fast"}]}, "expected a number"),
        ({"stages": [{**STAGE, "batch": 0}]}, "expected at least 1"),
        (
            {"stages": [{**STAGE, "trains": ["encoder"]}]},
            "trains.0 is 'encoder'; expected 'projector'",
        ),
        ({"stages": [{**STAGE, "data": []}]}, "data is ..; expected at least 1"),
        ({"stages": [STAGE, STAGE]}, "expected different names"),
        ({"stages": [{**STAGE, "name": "../x"}]}, "expected at most 100 letters, digits"),
        ({"stages": [{**STAGE, "name": "x" * 300}]}, "expected at most 100 letters, digits"),
        (
            {"stages": [{k: v for k, v in STAGE.items() if k != "batch"}]},
            "stages.0 is missing 'batch' .given: data, learning_rate, name, steps.",
        ),
        ({"stages": {"a": 1}}, "expected a list"),
        ({"precision": "fp8"}, "expected 'fp32', 'bf16' or 'fp16'"),
        ({"validation": {"evry": 2}}, "did you mean every"),
        ({"model": "pocket"}, "expected a mapping"),
        ({"stages": [{**STAGE, "betas": [0.9]}]}, "expected two numbers"),
        (
            {"stages": [{**STAGE, "data": [{"path": "x", "weight": "much"}]}]},
            "expected a number above 0",
        ),
        (
            {"stages": [{**STAGE, "data": [{"path": "x", "weight": 1.0}, {"path": "y"}]}]},
            "expected less than 1 together",
        ),
        (
            {"stages": [{**STAGE, "trains": ["language_model", "lora"]}]},
            "expected one of them: only one",
        ),
        ({"validation": {"every": 0}}, "expected at least 1"),
        ({"seed": -1}, "expected at least 0"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(VLMIGError, match=said) as caught:
        load_recipe(written(tmp_path, **changes))
    assert "\n" not in str(caught.value) and "recipe.yaml" in str(caught.value)


@pytest.mark.parametrize("change", ["stages.0.steps", "stages.4.steps=1", "stages.0.batch.x=1"])
def test_changes_that_fit_nothing(tmp_path: Path, change: str) -> None:
    with pytest.raises(VLMIGError, match="--set"):
        load_recipe(written(tmp_path), [change])


def test_recipes_that_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(VLMIGError, match="extends itself"):
        load_recipe(tmp_path / "a.yaml")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(VLMIGError, match="cannot read .*expected a recipe"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(VLMIGError, match="cannot read .*expected a recipe"):
        load_recipe(tmp_path / "broken.yaml")
