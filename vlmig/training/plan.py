"""What a recipe would run: parameters, memory, data, steps, storage and hours, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vlmig.data.pairs import Source
from vlmig.data.sources.build import build_source
from vlmig.errors import VLMIGError
from vlmig.imagination.store import FeatureStore
from vlmig.io.rows import Bad
from vlmig.models.modeling import Model
from vlmig.predict.predictor import VLMIG
from vlmig.training.model import choose_trained, count_parameters, start
from vlmig.training.objective import LOGITS_BUDGET
from vlmig.training.recipe import Recipe, Stage, name_source

ADAM_BYTES = 16
"""Per trained parameter: itself, its gradient and two moments, in fp32."""
SOME = 200
"""Records of a source that are read: a plan does not wait for millions."""
TERAFLOPS = 100
"""Speed for the estimate of hours: about a third of what an A100 can do in bf16."""


def plan(
    recipe: Recipe,
    store: FeatureStore,
    data: Path | None = None,
    own: Mapping[str, Callable] | None = None,
) -> str:
    """Describe a run, without training; sources that cannot be read are named.

    Only the first records of each source are read.

    Raises:
        VLMIGError: anything wrong with the model.
    """
    model = start(recipe, store)
    lines = [f"seed {recipe.seed}, precision {recipe.precision}, features {recipe.features}"]
    for stage in recipe.stages:
        choose_trained(model.model, stage.trains, stage.lora)
        lines += ["", f"stage {stage.name}", *_parameters(model.model)]
        pairs: int | None = 0
        tokens = 0.0
        for entry in stage.data:
            source = _read(entry, data, own or {}, model)
            lines.append(f"  data        {source.summary}")
            pairs = None if pairs is None or source.pairs is None else pairs + source.pairs
            tokens = max(tokens, source.tokens)
        tokens = min(tokens or stage.max_tokens, stage.max_tokens)
        lines += [f"  {line}" for line in _run(model, recipe, stage, pairs, tokens)]
    return "\n".join(lines)


def _parameters(model: Model) -> list[str]:
    """Say what trains, and how much memory model and optimizer take."""
    lines, total = [], 0
    for name, (trained, frozen) in count_parameters(model).items():
        lines.append(f"  {name:<15} {trained:>14,} trained {frozen:>15,} frozen")
        total += trained
    rest = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    lines.append(
        f"  memory      {size(rest)} frozen weights, {size(total * ADAM_BYTES)} trained weights, "
        "gradients and AdamW"
    )
    return lines


@dataclass
class _Data:
    """What is known of a source."""

    summary: str
    pairs: int | None = None
    tokens: float = 0.0


def _read(
    entry: dict[str, Any], data: Path | None, own: Mapping[str, Callable], model: VLMIG
) -> _Data:
    """Read a source's first records. Pairs are counted if the source knows their number or has
    few."""
    options = dict(entry)
    for name in ("weight", "limit", "curate"):
        options.pop(name, None)
    try:
        source = build_source(options, data, model.tokenizer, own)
        some = min(SOME, entry.get("limit") or SOME)
        records = list(islice(source.pairs(), some + 1))
    except VLMIGError as error:
        return _Data(f"{name_source(entry)}: not at hand ({error})")
    whole, records = len(records) <= some, records[:some]
    captions = [record.caption for record in records if not isinstance(record, Bad)]
    tokens = sum(map(len, model.tokenizer(captions).input_ids)) / len(captions) if captions else 0
    pairs = _counted(source, entry.get("limit"), len(captions) if whole else None)
    total = f"{pairs:,} pairs" if pairs is not None else "not counted (vlmig data check does)"
    bad = len(records) - len(captions)
    faults = f", {bad:,} of the first {len(records):,} records are no pairs" if bad else ""
    return _Data(
        f"{name_source(entry)}: {total}{faults}, {tokens:.1f} tokens a caption", pairs, tokens
    )


def _counted(source: Source, limit: int | None, read: int | None) -> int | None:
    """Return the number of pairs, if all were read or the source knows it without reading."""
    if read is not None:
        return read
    return min(len(source), limit or len(source)) if isinstance(source, Sized) else None


def _run(model: VLMIG, recipe: Recipe, stage: Stage, pairs: int | None, tokens: float) -> list[str]:
    """Say how long the stage is and what it needs."""
    steps = stage.steps
    if steps is None and pairs is not None:
        trained = pairs * (1 - recipe.validation.share)
        steps = max(1, round((stage.epochs or 0) * trained / stage.batch))
    if steps is None:
        epochs = f"{stage.epochs} epochs of data that is not counted"
        return [f"steps       {epochs}, {stage.batch} samples each"]
    samples = steps * stage.batch
    epochs = f", {samples / pairs:.2f} epochs" if pairs else ""
    lines = [
        f"steps       {steps:,} of {stage.batch} samples = {samples:,} samples{epochs}",
        f"optimizer   learning rate {stage.learning_rate:g}, {stage.schedule}, "
        f"warm-up {stage.warmup:.0%}, clipping {stage.clip}",
    ]
    each = model.config.vision_patches * model.config.vision_width * 2
    if recipe.features == "stored" and pairs:
        most = size(min(pairs, samples) * each)
        lines.append(f"storage     at most {most} of features ({size(each)} an image)")
    if recipe.states == "stored" and pairs:
        states = min(pairs, samples) * tokens * model.model.width * 4
        lines.append(f"states      at most {size(states)} of texts, until the run is over")
    rows = min(stage.micro_batch or stage.batch, stage.batch)
    vocabulary = model.model.get_output_embeddings().weight.shape[0]
    logits = min(rows * stage.max_tokens * vocabulary, LOGITS_BUDGET)
    hours = compute_hours(model.model, samples, tokens)
    lines += [
        f"logits      at most {size(8 * logits)} with gradients, for {rows} samples of "
        f"{stage.max_tokens} tokens",
        f"compute     {hours:.2g} GPU hours at {TERAFLOPS} TFLOP/s and {tokens:.0f} tokens a "
        "caption",
    ]
    return lines


def compute_hours(model: Model, samples: int, tokens: float) -> float:
    """Estimate GPU hours: per weight and token two operations forward, and two for each gradient.

    There is a gradient of the states, and one of the weights where they train. With early fusion
    the LM also reads the image's tokens, and passes gradients on to the projector.
    """
    early = model.config.images_in_text
    counts = count_parameters(model)
    base, adapter = sum(counts["language_model"]), sum(counts["projector"] + counts["fusion"])
    learns = counts["language_model"][0] > 0
    head = model.get_output_embeddings().weight.numel()
    per_token = base * (6 if learns else 4 if early else 2) + 4 * head
    per_token += 6 * (0 if early else adapter)
    per_image = 6 * adapter * model.config.vision_patches
    length = tokens + (model.config.visual_tokens if early else 0)
    return samples * (length * per_token + per_image) / (TERAFLOPS * 1e12) / 3600


def size(count: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
