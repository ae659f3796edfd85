"""What only a GPU can tell: drawing, precision, and running out of memory.

sh benchmarks/gpu.sh OUT [--tiny]

runs all parts, of which these are here; ``benchmarks.scoring`` and ``benchmarks.training`` are the
others:

- unet, klein: images per second with a UNet of sd-turbo's size and a transformer of FLUX.2-klein's,
  both with their text encoder and decoder. ``plain`` calls the pipeline for each prompt, as one
  writes it first; ``engine`` is ``DiffusionSource``; then the engine with a compiled denoiser, and
  with CUDA graphs as well.
- parity: log-probabilities in bfloat16 beside float32, of the embedded model and the golden sets.
- memory: a batch that does not fit, for which the engine halves it until it does.
- table: what the parts left, as one JSON and one table.

Weights are random: they decide no time. ``--tiny`` has tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from benchmarks.side_by_side import in_turns, introduction, machine, ratios
from vlmig import VLMIG
from vlmig.imagination import request
from vlmig.imagination.sources.diffusion import DiffusionSource
from vlmig.imagination.sources.families import Sampling
from vlmig.models.checkpoint import POCKET

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float32
K, ROUNDS = 8, 5
"""Images of a prompt, which is also the engine's batch; rounds of each side."""
PARTS = ("unet", "klein", "scoring", "parity", "memory", "training")
TEMPLATE = "{% for m in messages %}user: {{ m['content'] }}{% endfor %}"
GOLDEN_TEST = Path(__file__).parents[1] / "tests" / "parity"


def unet(tiny: bool) -> StableDiffusionPipeline:
    """A pipeline of sd-turbo's size: a UNet of 866 million weights, a text encoder of 340."""
    tokenizer = AutoTokenizer.from_pretrained(POCKET / "generator" / "tokenizer")
    tokenizer.model_max_length = 77
    channels = (8, 8, 8, 8) if tiny else (320, 640, 1280, 1280)
    width = 16 if tiny else 1024
    denoiser = UNet2DConditionModel(
        sample_size=8 if tiny else 64,
        block_out_channels=channels,
        cross_attention_dim=width,
        attention_head_dim=4 if tiny else (5, 10, 20, 20),
        norm_num_groups=4 if tiny else 32,
        layers_per_block=1 if tiny else 2,
        use_linear_projection=True,
    )
    layers = {"num_hidden_layers": 1 if tiny else 23, "num_attention_heads": 2 if tiny else 16}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, **layers
    )
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**_decoder(4, tiny)),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=EulerDiscreteScheduler(timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def klein(tiny: bool) -> Flux2KleinPipeline:
    """A pipeline of FLUX.2-klein's size: a transformer and a text encoder of 4 billion each."""
    tokenizer = AutoTokenizer.from_pretrained(POCKET / "generator" / "tokenizer")
    tokenizer.chat_template = TEMPLATE
    width, heads = (16, 2) if tiny else (2560, 24)
    layers = {"num_layers": 1, "num_single_layers": 1} if tiny else {}
    denoiser = Flux2Transformer2DModel(
        **{"num_layers": 5, "num_single_layers": 20, **layers},
        in_channels=16 if tiny else 128,
        attention_head_dim=16 if tiny else 128,
        num_attention_heads=heads,
        joint_attention_dim=3 * width,
        axes_dims_rope=(4, 4, 4, 4) if tiny else (32, 32, 32, 32),
        guidance_embeds=False,
    )
    text = Qwen3Config(
        vocab_size=151936 if not tiny else len(tokenizer),
        hidden_size=width,
        intermediate_size=16 if tiny else 9728,
        num_hidden_layers=27 if tiny else 36,  # the pipeline reads layers 9, 18 and 27
        num_attention_heads=2 if tiny else 32,
        num_key_value_heads=2 if tiny else 8,
        head_dim=8 if tiny else 128,
    )
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLFlux2(**_decoder(4 if tiny else 32, tiny)),
        text_encoder=Qwen3ForCausalLM(text),
        tokenizer=tokenizer,
        transformer=denoiser,
        is_distilled=True,
    )


def _decoder(channels: int, tiny: bool) -> dict[str, Any]:
    return {
        "block_out_channels": (4, 4, 4, 4) if tiny else (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 2 if tiny else 32,
        "latent_channels": channels,
    }


def built(make: Callable[[bool], Any], tiny: bool) -> Any:
    """Build a pipeline where it runs, in the precision in which it runs."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPE)
    try:
        with DEVICE:
            pipeline = make(tiny)
    finally:
        torch.set_default_dtype(before)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.to(DEVICE, DTYPE).eval()
    return pipeline


def source_of(pipeline: Any, sampling: Sampling) -> DiffusionSource:
    """Return the engine on a pipeline that is built already."""
    source = DiffusionSource("random weights", sampling, dtype=str(DTYPE)[6:], device=DEVICE)
    source.pipeline = source.prepared(pipeline)
    return source


def drawing(make: Callable[[bool], Any], sampling: Sampling, tiny: bool) -> dict[str, Any]:
    """Measure images per second of the plain pipeline, the engine, and the compiled engine."""
    pipeline = built(make, tiny)
    weights = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in pipeline.components.items()
        if isinstance(part, nn.Module)
    }
    prompts = ["a banana", "a fire engine", "the sea at night"][: 1 if tiny else 3]
    requests = [request(prompt, i) for prompt in prompts for i in range(K)]
    source = source_of(pipeline, sampling)

    @torch.no_grad()
    def plain() -> None:
        for prompt in prompts:
            pipeline(
                prompt=[prompt] * K,
                generator=[torch.Generator("cpu").manual_seed(i) for i in range(K)],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                height=sampling.size,
                width=sampling.size,
            )

    rounds = 1 if tiny else ROUNDS
    found = in_turns({"plain": plain, "engine": lambda: source.imagine(requests)}, rounds)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    for name, mode in (("compiled", None), ("compiled, CUDA graphs", "reduce-overhead")):
        torch.compiler.reset()
        if tiny:  # traced as on a GPU, and not compiled to C++, which takes minutes
            denoiser.compile(backend="aot_eager")
        else:
            denoiser.compile(mode=mode)
        found |= in_turns({name: lambda: source.imagine(requests)}, rounds)
    rates = {name: len(requests) / median(times) for name, times in found.items()}
    for name, rate in rates.items():
        ratio, low, high = ratios(found, name, "plain")
        print(f"{name:<24}{rate:>9.2f} images/s  {1 / ratio:.2f} [{1 / high:.2f}, {1 / low:.2f}]")
    peak = torch.cuda.max_memory_allocated() if CUDA else None
    return {"weights": weights, "rates": rates, "seconds": found, "peak_bytes": peak}


@torch.inference_mode()
def parity(tiny: bool) -> dict[str, Any]:
    """Compare bfloat16 with float32: the embedded model, and the golden sets where they are."""
    model = VLMIG.from_pretrained("pocket")
    texts = ["The color of a banana is", "The color of a strawberry is"][: 1 if tiny else 2]
    features = torch.stack([one.features for one in model.imagine(texts, 2)])
    ids = model.tokenizer(texts, return_tensors="pt", padding=True)
    compared = {"pocket": _compared(model.model, {**ids, "visual_features": features})}
    sys.path.insert(0, str(GOLDEN_TEST))
    from test_published import FILES, Golden

    for path in FILES[: 1 if tiny else None]:
        golden = Golden(path)
        inputs = {**golden.text("case_b"), "visual_features": golden.features("case_b")}
        compared[path.stem] = _compared(golden.model, inputs)
    for name, (apart, same) in compared.items():
        print(f"{name:<24} log-probabilities {apart:.3f} apart, likeliest token alike {same:.1%}")
    return {"compared": compared, "golden": len(FILES)}


def _compared(model: Any, inputs: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return the mean difference of log-probabilities that are likely in float32 (p > 0.001), and
    how often the likeliest token is the same."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model.to(DEVICE, dtype)
        moved = {}
        for name, value in inputs.items():
            moved[name] = value.to(DEVICE, dtype if value.is_floating_point() else None)
        found.append(model(**moved).logits.float().log_softmax(-1)[inputs["attention_mask"] > 0])
    exact, rounded = found
    likely = exact > -6.9
    apart = (exact - rounded).abs()[likely].mean().item()
    return apart, (exact.argmax(-1) == rounded.argmax(-1)).float().mean().item()


def memory(tiny: bool) -> dict[str, Any]:
    """Draw a batch that does not fit into memory."""
    pipeline = built(unet, tiny)
    batch = 64
    source = source_of(pipeline, Sampling(1, 0.0, 256 if tiny else 512, batch=batch))
    alone = source_of(pipeline, Sampling(1, 0.0, source.sampling.size, batch=1))
    one = alone.imagine([request("a", 0)])
    with _limited(0.1 if tiny else 4):
        images = source.imagine([request("a", i) for i in range(batch)])
    if source.batch == batch:
        raise SystemExit(f"{batch} images fitted into memory: nothing was halved")
    apart = (images[0].int() - one[0].int()).abs().max().item()
    print(f"a batch of {batch} became {source.batch}: {len(images)} images drawn")
    print(f"the first is {apart} of 255 from the one drawn alone")
    return {"batch": batch, "halved_to": source.batch, "images": len(images), "apart": apart}


@contextmanager
def _limited(gigabytes: float) -> Iterator[None]:
    """Leave this process only so many gigabytes more than it has now."""
    more = int(gigabytes * 2**30)
    if CUDA:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        share = (torch.cuda.memory_reserved() + more) / total
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_AS, before)


def table(folder: Path) -> dict[str, Any]:
    """Join what the parts left, and print a table for docs/performance.md."""
    found: dict[str, Any] = {"machine": machine()}
    rows = ["| part | | |", "| --- | --- | --- |"]
    for part in PARTS:
        path = folder / f"{part}.json"
        if not path.is_file():
            rows.append(f"| {part} | failed | see {part}.log |")
            continue
        figures = found[part] = json.loads(path.read_text())
        for name, rate in figures.get("rates", {}).items():
            faster = rate / figures["rates"]["plain"]
            rows.append(f"| {part}: {name} | {rate:.2f} images/s | {faster:.2f} times plain |")
        for name, side in figures.get("next_token", {}).items():
            if isinstance(side, dict):
                reached = side["floor_ms"] / side["ms"]
                rows.append(
                    f"| {part}: {name} | {side['ms']:.1f} ms | {reached:.0%} of the floor |"
                )
        for name, (apart, same) in figures.get("compared", {}).items():
            rows.append(f"| {part}: {name} | {apart:.3f} apart | {same:.1%} alike |")
        if part == "memory":
            images = f"{figures['images']} images"
            rows.append(f"| memory: 64 at a time | halved to {figures['halved_to']} | {images} |")
        for name, turns in _steps(figures).items():
            step = 1000 * median(sum(turn.values()) for turn in turns)
            rows.append(f"| {part}: {name} | {step:.1f} ms | a step |")
    print("\n".join(rows))
    return found


def _steps(figures: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """Find the seconds of each turn's step in what ``benchmarks.training`` wrote."""
    found: dict[str, list[dict[str, float]]] = {}
    for size, told in figures.items():
        if isinstance(told, dict):
            for name, turns in told.get("seconds_per_step", {}).items():
                found[f"{size}, {name}"] = turns
    return found


def main(argv: list[str] | None = None) -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["unet", "klein", "parity", "memory", "table"])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument("--folder", type=Path, default=Path(), help="with the parts' figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    arguments = parser.parse_args(argv)
    tiny, size = arguments.tiny, 64 if arguments.tiny else 512
    if arguments.part == "table":
        told = table(arguments.folder)
    else:
        print(introduction({**machine(), "dtype": DTYPE}))
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "unet": lambda: drawing(unet, Sampling(1, 0.0, size, batch=K), tiny),
            "klein": lambda: drawing(klein, Sampling(4, 1.0, size, batch=K), tiny),
            "parity": lambda: parity(tiny),
            "memory": lambda: memory(tiny),
        }
        told = parts[arguments.part]()
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
