"""Training: what it learns and what it leaves alone; resumed, shared, accumulated and live runs
equal the plain one."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from proof import PROOF
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.evaluation.probe import TaskProbe
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.imagination.store import FeatureStore
from vlmig.report.training import verdict
from vlmig.training import load_recipe, train
from vlmig.training.model import frozen_digest
from vlmig.training.model import start as begin
from vlmig.training.run import read_log

GPU = torch.accelerator.is_available()
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(recipe: Path, out: Path, *changes: str, **settings: Any) -> VLMIG:
    store = settings.pop("store", out.parent / "store")
    return train(load_recipe(recipe, changes), out, store=FeatureStore(store), **settings)


def log_of(out: Path) -> list[dict[str, Any]]:
    return read_log(out, "colors")


def losses_of(out: Path) -> list[float]:
    return [line["loss"] for line in log_of(out) if "loss" in line]


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_it_learns_to_read_pictures_and_moves_nothing_else(
    recipe: Path, parts: Path, tmp_path: Path
) -> None:
    before = frozen_digest(
        AutoModelForCausalLM.from_pretrained(parts / "language_model").requires_grad_(False)
    )
    encoder = VLMIG.from_base(**before_parts(parts)).imagination.encoder.identity()
    model = run(
        recipe,
        tmp_path / "out",
        "stages.0.steps=100",
        "stages.0.learning_rate=1e-2",
        "validation.every=100",
    )
    first, last = (line["validation"] for line in log_of(tmp_path / "out") if "validation" in line)
    assert first["own"] == first["text"] == last["text"], (
        "an untrained adapter is the text model, and it stays"
    )
    assert last["own"] < min(last["shuffled"], last["blank"]) - 0.02 < last["text"]
    assert frozen_digest(model.model.language_model.requires_grad_(False)) == before
    assert model.imagination.encoder.identity() == encoder
    assert {name.split(".")[0] for name in weights_of(tmp_path / "out")} == {
        "projector",
        "fusion",
        "blank_features",
    }
    loaded = VLMIG.from_pretrained(tmp_path / "out", store=tmp_path / "store")
    ids = model.tokenizer("the color of a cat is", return_tensors="pt").input_ids
    features = torch.randn(
        1, 2, *model.model.blank_features.shape, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        own, again = (m.model(ids, visual_features=features).logits for m in (model, loaded))
    assert torch.equal(own, again)
    assert loaded.config.trained and "100 steps" in (tmp_path / "out" / "README.md").read_text()
    assert main(["report", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    page = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.S)[0])
    (stage,), (source,) = page["stages"], page["stages"][0]["sources"]
    assert page["finding"].startswith("It sees: at step 100 a held-out text costs")
    assert stage["curves"]["own"] == [[0, first["own"]], [100, last["own"]]]
    assert [loss for _, loss in stage["loss"]] == losses_of(tmp_path / "out")
    assert len(stage["speed"]) == 100 and min(speed for _, speed in stage["speed"]) > 0
    assert source["counts"]["records"] == 48 and len(source["samples"]) == 8
    assert len(page["pictures"]) == 8 and "color of a" in source["samples"][0]["caption"]


def test_the_verdict_says_what_the_curves_show() -> None:
    def line(step: int, own: float, shuffled: float, blank: float) -> dict[str, Any]:
        losses = {"own": own, "shuffled": shuffled, "blank": blank, "text": 2.0}
        return {"step": step, "validation": losses, "probe": {"pocket_color": 0.625}}

    start = line(0, 2.0, 2.0, 2.0)
    assert verdict([]).startswith("Nothing held out was measured")
    assert verdict([start]).startswith("It does not see yet: at step 0")
    assert verdict([start, line(9, 1.0, 1.0, 1.0)]).startswith("It does not see yet"), "style"
    assert verdict([start, line(9, 1.0, 1.2, 1.01)]).startswith("It does not see yet")
    seen = verdict([start, line(9, 1.0, 1.2, 1.1)])
    assert seen.startswith("It sees") and seen.endswith("2.000 alone; pocket_color: 63 %.")
    worse = verdict([start, line(9, 1.0, 1.2, 1.1), line(18, 1.1, 1.4, 1.3)])
    assert "it was 1.000 at step 9 and rises since: over-fitting" in worse


def before_parts(parts: Path) -> dict[str, Any]:
    names = {
        "vision": "vision_encoder",
        "generator": "generator",
        "language_model": "language_model",
    }
    return {**{key: str(parts / name) for key, name in names.items()}, "fusion_heads": 4}


def test_a_doubled_adapter_answers_as_before_and_trains_on(
    recipe: Path, parts: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Answers are the same but for rounding: twice a value less the value, and longer sums."""
    store = FeatureStore(tmp_path / "store")
    doubled = f"model={{from: {checkpoint}, adapter: doubled}}"
    before = VLMIG.from_pretrained(checkpoint, store=store)
    wide = begin(load_recipe(recipe, [doubled]), store)
    texts, choices = ["the color of a cat is"], [["red", "blue"]]
    images = before.imagine(["a cat"], 2)
    scores = [model.score(texts, choices, images)[0].per_image for model in (before, wide)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    assert wide.model.fusion.heads == wide.config.fusion_heads == 8
    trained = run(recipe, tmp_path / "out", doubled)
    losses = [
        line["validation"]["own"] for line in log_of(tmp_path / "out") if "validation" in line
    ]
    assert losses[-1] < losses[0]
    again = VLMIG.from_pretrained(tmp_path / "out", store=store)
    assert same_bits(again.model.fusion.state_dict(), trained.model.fusion.state_dict())
    settings = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    early = VLMIG.from_base(str(parts / "language_model"), fusion="prefix", **settings)
    early.model.save_pretrained(tmp_path / "early")
    with pytest.raises(VLMIGError, match="doubled, of fusion prefix; expected fusion cross_att"):
        run(recipe, tmp_path / "no", f"model={{from: {tmp_path / 'early'}, adapter: doubled}}")


def test_other_ways_to_the_same_run(recipe: Path, tmp_path: Path) -> None:
    """Encoding in every step, workers, and two stages that make one give the same bits;
    accumulation the same sums."""
    run(recipe, tmp_path / "plain")
    plain, losses = weights_of(tmp_path / "plain"), losses_of(tmp_path / "plain")
    run(recipe, tmp_path / "live", "features=live", store=tmp_path / "another")
    assert losses_of(tmp_path / "live") == losses and same_bits(
        weights_of(tmp_path / "live"), plain
    )
    assert len(FeatureStore(tmp_path / "another")) == 0
    run(recipe, tmp_path / "workers", "workers=2")
    assert log_of(tmp_path / "workers") == log_of(tmp_path / "plain") and same_bits(
        weights_of(tmp_path / "workers"), plain
    )
    run(recipe, tmp_path / "micro", "stages.0.micro_batch=3")
    # Sums of floats in another order: a few units in the last place each, over 20 steps.
    assert torch.allclose(
        torch.tensor(losses_of(tmp_path / "micro")), torch.tensor(losses), atol=1e-5
    )
    run(recipe, tmp_path / "other", "seed=4")
    assert losses_of(tmp_path / "other") != losses, "another seed is another run"


def command(recipe: Path, out: Path, *changes: str) -> list[str]:
    options = [part for change in changes for part in ("--set", change)]
    return ["train", str(recipe), "--out", str(out), "--store", str(out.parent / "store"), *options]


def start(arguments: list[str], *launcher: str) -> subprocess.Popen:
    run_ = [sys.executable, *(launcher or ("-m",)), "vlmig.cli", *arguments]
    return subprocess.Popen(run_, env=QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def stopped(arguments: list[str], out: Path, lines: int, by: signal.Signals) -> subprocess.Popen:
    """Start a run, and signal it when its log has so many lines."""
    process = start(arguments)
    while process.poll() is None and logged(out) < lines:
        time.sleep(0.005)
    process.send_signal(by)
    process.wait()
    assert not (out / "config.json").exists(), "the run was over before it was stopped"
    return process


def logged(out: Path) -> int:
    path = out / "training" / "colors" / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture()
def one_thread() -> Iterator[None]:
    """As many threads as the other processes have: another number is another rounding."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.mark.proof
def test_stopped_at_random_it_ends_with_the_same_bits(
    recipe: Path, tmp_path: Path, one_thread: None
) -> None:
    """Killed, also while the index, the features or a state are written; asked to stop; then left
    to finish."""
    steps, kills = (600, 20) if PROOF else (60, 1)
    changes = (f"stages.0.steps={steps}", "save_seconds=0.2")
    assert main(command(recipe, tmp_path / "whole", *changes)) == 0
    out, rng = tmp_path / "stopped", random.Random(1)
    arguments = command(recipe, out, *changes)
    for kill in range(kills):
        before = max(logged(out), kill * steps // (kills + 2))
        stopped(
            arguments, out, before + rng.randint(1, max(2, steps // (kills + 2))), signal.SIGKILL
        )
    asked = stopped(arguments, out, logged(out) + 5, signal.SIGTERM)
    assert asked.returncode == 130 and b"run the same command again" in asked.stderr.read()  # type: ignore[union-attr]
    (state,) = out.glob("training/colors/state-*")
    assert int(state.name.rpartition("-")[2]) == logged(out) - 1, "nothing that was logged is lost"
    last = start(arguments)
    assert last.wait() == 0, last.stderr.read().decode()[-2000:]  # type: ignore[union-attr]
    assert log_of(out) == log_of(tmp_path / "whole")
    assert same_bits(weights_of(out), weights_of(tmp_path / "whole"))
    assert not list(out.glob("training/**/state-*")), "states are for going on"


@pytest.mark.proof
def test_two_processes_follow_one(recipe: Path, tmp_path: Path) -> None:
    """Half the batch each under torchrun, 50 steps: the same curve to 1e-5."""
    changes = ("stages.0.steps=50", "validation.every=25", "stages.0.micro_batch=3")
    assert main(command(recipe, tmp_path / "one", *changes)) == 0
    launcher = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29653",
        "-m",
    )
    both = start(command(recipe, tmp_path / "two", *changes), *launcher)
    assert both.wait() == 0, both.stderr.read().decode()[-2000:]  # type: ignore[union-attr]
    one, two = (losses_of(tmp_path / name) for name in ("one", "two"))
    assert len(two) == 50 and one == pytest.approx(two, abs=1e-5)
    held_out = [
        [line["validation"] for line in log_of(tmp_path / n) if "validation" in line]
        for n in ("one", "two")
    ]
    assert all(a == pytest.approx(b, abs=1e-5) for a, b in zip(*held_out, strict=True))


@pytest.mark.proof
def test_sharded_over_two_processes(recipe: Path, tmp_path: Path) -> None:
    """FSDP spreads LM and adapter, twice; the losses, and the checkpoint that is put together
    again, follow one process's."""
    yaml_stages(recipe, [{"name": "colors"}, {"name": "more", "trains": ["projector"]}])
    assert main(command(recipe, tmp_path / "one")) == 0
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29655",
    ]
    sharded = [
        str(Path(__file__).with_name("sharded.py")),
        *command(recipe, tmp_path / "two", "save_seconds=0.1"),
    ]
    both = subprocess.run([*launch, *sharded], env=QUIET, capture_output=True)
    assert both.returncode == 0, both.stderr.decode()[-3000:]
    for name in ("colors", "more"):
        logs = [
            [line["loss"] for line in read_log(tmp_path / out, name) if "loss" in line]
            for out in ("one", "two")
        ]
        assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert one.keys() == two.keys() and all(torch.allclose(one[n], two[n], atol=1e-4) for n in one)


def test_low_rank_layers_travel_with_the_checkpoint(
    recipe: Path, parts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    lora = [
        "stages.0.trains=[projector, fusion, lora]",
        "stages.0.lora={r: 2, target_modules: [c_attn]}",
    ]
    model = run(recipe, tmp_path / "out", *lora)
    base = AutoModelForCausalLM.from_pretrained(parts / "language_model").state_dict()
    own = {
        n.replace(".base_layer", ""): v
        for n, v in model.model.language_model.state_dict().items()
        if "lora_" not in n
    }
    assert same_bits(own, base), "only the low-rank layers moved"
    added = {n: v for n, v in model.model.language_model.state_dict().items() if "lora_B" in n}
    assert added and all(v.abs().max() > 0 for v in added.values())
    assert not (tmp_path / "out/language_model/model.safetensors").exists(), (
        "the base LM is not saved again"
    )
    loaded = VLMIG.from_pretrained(tmp_path / "out", store=tmp_path / "store")
    ids = model.tokenizer("the color of a cat is", return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.allclose(model.model(ids).logits, loaded.model(ids).logits, atol=1e-6)
    path = tmp_path / "out/language_model/adapter_model.safetensors"
    weights = load_file(path)
    save_file(dict(list(weights.items())[1:]), path)
    with pytest.raises(
        VLMIGError, match="adapter_model.safetensors: weights missing or unknown: transformer"
    ):
        VLMIG.from_pretrained(tmp_path / "out", store=tmp_path / "store")


def test_the_lm_itself_trains_where_a_stage_says_so(
    recipe: Path, parts: Path, tmp_path: Path
) -> None:
    two = yaml_stages(
        recipe,
        [
            {"trains": ["projector"], "name": "colors"},
            {"trains": ["language_model"], "name": "all"},
        ],
    )
    model = run(two, tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(parts / "language_model").state_dict()
    assert not same_bits(dict(model.model.language_model.state_dict()), base)
    loaded = VLMIG.from_pretrained(tmp_path / "out", store=tmp_path / "store")
    assert same_bits(dict(loaded.model.state_dict()), dict(model.model.state_dict()))


def yaml_stages(recipe: Path, stages: list[dict[str, Any]]) -> Path:
    import yaml

    values = yaml.safe_load(recipe.read_text())
    values["stages"] = [{**values["stages"][0], **stage} for stage in stages]
    recipe.write_text(yaml.safe_dump(values))
    return recipe


@pytest.mark.parametrize("fusion", ["cross_attention", "decoder_layer"])
@pytest.mark.parametrize("lm", ["gpt2", "bert"])
def test_kinds_of_lm_and_fusion(
    recipe: Path, bert: Path, lm: str, fusion: str, tmp_path: Path
) -> None:
    changes = [
        f"model.fusion={fusion}",
        "stages.0.learning_rate=1e-3",
        *([f"model.language_model={bert}"] if lm == "bert" else []),
    ]
    run(recipe, tmp_path / "out", *changes, "stages.0.steps=40", "validation.every=40")
    first, last = (
        line["validation"]["own"] for line in log_of(tmp_path / "out") if "validation" in line
    )
    assert last < first


def test_half_precision_with_a_probe(recipe: Path, tmp_path: Path) -> None:
    """An LM in bfloat16 under an adapter in full precision: the curve stays near, and the probe
    runs in between."""
    run(recipe, tmp_path / "full", "validation.every=20")
    half = ["model.dtype=bfloat16", "precision=bf16", "validation.every=20"]

    question = Question(("the color of a cat is",), ("red", "blue"), 0)
    task = Task("cats", lambda _: [Item("cats/0", "cat", "a cat", ("red", "blue"), (question,))])
    probe = TaskProbe([task], tmp_path, k=1, limit=1)
    model = run(recipe, tmp_path / "half", *half, probe=probe)
    assert weights_of(tmp_path / "half")["projector.layers.0.weight"].dtype == torch.float32
    assert (
        model.model.language_model.dtype
        == model.model.projector.layers[0].weight.dtype
        == torch.bfloat16
    )
    # bfloat16 has 8 bits: losses of 7 nats differ in the second digit behind the point.
    assert losses_of(tmp_path / "half") == pytest.approx(losses_of(tmp_path / "full"), abs=0.05)
    assert all(
        line["probe"].keys() == {"cats", "cats text only"}
        for line in log_of(tmp_path / "half")
        if "validation" in line
    )
    with pytest.raises(VLMIGError, match="expected precision: bf16"):
        run(recipe, tmp_path / "mixed", "model.dtype=bfloat16")


def test_imagined_pictures_and_texts_alone(recipe: Path, tmp_path: Path) -> None:
    lines = [
        {"caption": "a red cat", "prompt": "a red cat"},
        {"caption": "the answer is dark"},
        {"caption": "cat"},
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines * 4))
    data = f"stages.0.data=[{{path: {tmp_path / 'texts.jsonl'}, image: null, prompt: prompt}}]"
    run(recipe, tmp_path / "out", data, "validation.share=0", "stages.0.steps=5")
    assert len(FeatureStore(tmp_path / "store")) == 1, "one prompt, imagined once"
    assert (
        all(loss > 0 for loss in losses_of(tmp_path / "out"))
        and len(losses_of(tmp_path / "out")) == 5
    )


def test_the_card_counts_what_curation_left_out(
    recipe: Path, colored: Path, tmp_path: Path
) -> None:
    lines = (colored / "pairs.jsonl").read_text().splitlines()
    short = sum(len(json.loads(line)["caption"].split()) < 9 for line in lines)
    assert 0 < short < len(lines)
    run(
        recipe,
        tmp_path / "out",
        "stages.0.steps=1",
        "stages.0.data.0.curate={min_words: 9, duplicates: true}",
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"48 records, 48 pairs, {len(lines) - short - held_out_of(card)} trained" in card
    assert f"{short} left out by min words" in card and "by duplicates" not in card, "none were"


def held_out_of(card: str) -> int:
    (found,) = re.findall(r"(\d+) held out", card)
    return int(found)


def test_another_recipe_in_the_same_folder(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recipe, tmp_path / "out", "stages.0.steps=2")
    with pytest.raises(VLMIGError, match="begun with another recipe: stages"):
        run(recipe, tmp_path / "out", "stages.0.steps=3")
    run(recipe, tmp_path / "out", "stages.0.steps=2", "save_seconds=7")  # decides nothing
    with pytest.raises(VLMIGError, match="did not begin"):
        (tmp_path / "out/training/recipe.json").unlink()
        run(recipe, tmp_path / "out", "stages.0.steps=2")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.0.schedule=often", "expected a schedule of transformers.get_scheduler"),
        ("tracker=pigeon", "tracker pigeon"),
        pytest.param(
            "precision=fp16", "expected a GPU", marks=pytest.mark.skipif(GPU, reason="there is one")
        ),
        ("model.fusion_heds=2", "did you mean fusion_heads"),
        ("model.adapter=old", "expected new, kept or doubled"),
        ("stages.0.data=[{path: nowhere.jsonl}]", "nowhere.jsonl"),
        ("stages.0.data=[{source: moon, path: x}]", "expected one of visual_genome"),
        ("stages.0.data.0.curate={max_wrds: 2}", "curate has no field .max_wrds."),
        ("stages.0.data.0.curate={min_words: 99}", "no pairs to train on"),
    ],
)
def test_what_cannot_run_is_said_before_it_trains(
    recipe: Path, tmp_path: Path, change: str, said: str
) -> None:
    with pytest.raises(VLMIGError, match=said) as caught:
        run(recipe, tmp_path / "out", change)
    assert "\n" not in str(caught.value) and not (tmp_path / "out/training/colors").exists()


def test_a_loss_that_is_no_number_stops_the_run(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(VLMIGError, match="the loss of step .* lower learning_rate"):
        run(
            recipe,
            tmp_path / "out",
            "stages.0.learning_rate=1e30",
            "stages.0.warmup=0",
            "stages.0.clip=null",
        )


def test_the_plan_says_what_would_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), "--plan", "--store", str(tmp_path / "store")]) == 0
    told = capsys.readouterr().out
    assert (
        "12,770 trained" in told
        and "20 of 8 samples" in told
        and "48 pairs" in told
        and "features" in told
    )
    assert main(["train", str(recipe)]) == 2 and "--out" in capsys.readouterr().err
