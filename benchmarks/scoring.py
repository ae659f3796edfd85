"""What k pictures cost beside text alone, and beside a plain loop written as the published scripts
work.

python -m benchmarks.scoring --size gpt2 --k 10,100 --rounds 15

Sides, in turns in one process, all of them predicting one next token after a prompt:

- text: the base LM, its head on the last position only.
- kept: pictures whose keys and values are kept (asked about before), by a rule that mixes before
the head.
- kept, prob: the same by the paper's rule, which needs the prediction beside every picture.
- all: every prediction by itself, which scoring and evaluation need.
- new: the same as ``all`` for pictures whose features are stored, and which this adapter sees for
the first time.
- plain: as published: the vision tower over every picture and the text tower over the prompt,
every position beside
  every picture through the head, for this one question. Drawing the pictures is not in it.

``generation`` continues the prompt greedily. The floor is what the operations and bytes of a side
take at the rates of a
large matrix product and a large read, measured in the same run. Weights are random; a step's cost
does not depend on them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.side_by_side import (
    in_turns,
    introduction,
    machine,
    memory_rate,
    operations,
    peak_bytes,
    product_rate,
    ratios,
)
from vlmig.models.checkpoint import POCKET
from vlmig.models.config import VLMIGConfig
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.models.text_states import LateReading

SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "pocket": ({}, str(POCKET / "vision_encoder")),
    "gpt2": ({"model_type": "gpt2", "n_positions": 4096}, "ViT-B-32"),
    "llama8b": (
        {
            "model_type": "llama",
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
        },
        "ViT-B-32",
    ),
}
"""The base LM's configuration (the embedded model's own where it is empty) and the vision encoder,
of each size."""
DRAWN = 224
"""Side of a picture in pixels."""


class Bench:
    """A model of one size, with random weights and pictures, and what every side needs of them.

    Args:
        size: of ``SIZES``.
        tokens: T, length of the prompt.
        device: where it runs.
    """

    def __init__(
        self, size: str, tokens: int, device: torch.device, fusion: str = "cross_attention"
    ) -> None:
        torch.manual_seed(0)
        described, encoder = SIZES[size]
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.device = device
        local = f"local-dir:{encoder}" if Path(encoder).is_dir() else encoder
        self.clip = open_clip.create_model(
            local, device=device, precision="bf16" if device.type == "cuda" else "fp32"
        )
        self.clip.eval()
        self.read = open_clip.get_tokenizer(local)
        self.model = self._build(described, fusion).eval()
        self.ask(1, tokens)

    def ask(self, texts: int, tokens: int) -> None:
        """Take B other prompts of T tokens."""
        self.ids = torch.randint(5, 200, (texts, tokens), device=self.device)

    @torch.no_grad()
    def _build(self, described: dict[str, Any], fusion: str) -> VLMIGForCausalLM:
        if not described:
            return VLMIGForCausalLM.from_pretrained(POCKET).to(self.device)
        config = AutoConfig.for_model(**described, bos_token_id=1, eos_token_id=2)
        with self.device:
            base = AutoModelForCausalLM.from_config(config, dtype=self.dtype)
            patches = self._patches(
                torch.zeros(1, 3, DRAWN, DRAWN, dtype=self.dtype, device=self.device)
            )
            shape = {
                "vision_patches": patches.shape[1],
                "vision_width": patches.shape[2],
                "fusion": fusion,
            }
            model = VLMIGForCausalLM(VLMIGConfig(text_config=config.to_dict(), **shape), base)
        if fusion == "cross_attention":
            for gate in (model.fusion.attention_gate, model.fusion.feed_gate):
                gate.fill_(0.5)
        return model.to(device=self.device, dtype=self.dtype)

    def _patches(self, pixels: Tensor) -> Tensor:
        seen = self.clip.visual.forward_intermediates(
            pixels,
            indices=[-2],
            output_fmt="NLC",
            intermediates_only=True,
            normalize_intermediates=False,
        )
        return seen["image_intermediates"][0]

    def pictures(self, k: int) -> tuple[Tensor, Tensor]:
        """Draw noise: pixels (K, 3, S, S), and the features of such pictures, (1, K, P, C)."""
        side = self.clip.visual.image_size
        side = side[0] if isinstance(side, Sequence) else side
        pixels = torch.randn(k, 3, side, side, device=self.device, dtype=self.dtype)
        with torch.no_grad():
            return pixels, self._patches(pixels)[None].clone()

    @torch.no_grad()
    def text(self) -> Tensor:
        """Predict from text alone."""
        logits = self.model.language_model(self.ids, logits_to_keep=1, use_cache=False).logits
        return logits[:, -1].float().log_softmax(-1)

    def reading(self) -> LateReading:
        """Read the prompt, and ask at its last position."""
        base = {"input_ids": self.ids, "attention_mask": None, "use_cache": False}
        reading = self.model.read(base, 1)
        assert isinstance(reading, LateReading)
        return reading

    @torch.no_grad()
    def mixed(self, states: tuple[Tensor, ...], rule: str) -> Tensor:
        """Predict by a rule beside pictures that were seen before."""
        self.model.config.mix, self.model.config.weights = rule, "uniform"
        return self.model.mixed(self.reading(), states)

    @torch.no_grad()
    def all(self, visual: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
        """Predict alone, beside nothing and beside each picture; features are seen first."""
        states = self.model.encode_with_blank(visual) if isinstance(visual, Tensor) else visual
        return list(self.model.predictions(self.reading(), states))

    @torch.no_grad()
    def plain(self, pixels: Tensor) -> Tensor:
        """Predict as the published scripts do; cosine weights, mixed logits."""
        pooled = F.normalize(self.clip.encode_image(pixels), dim=-1)
        words = F.normalize(
            self.clip.encode_text(self.read(["what is the color of a banana"]).to(self.device)),
            dim=-1,
        )
        trust = (pooled @ words.T).float().clamp(0, 1)
        features = self._patches(pixels)
        model, k = self.model, len(pixels)
        hidden = model.trunk(self.ids).last_hidden_state
        places = torch.arange(hidden.shape[1], device=self.device)[None].expand(k, -1)
        mask = torch.ones(
            hidden.shape[1], hidden.shape[1], dtype=torch.bool, device=self.device
        ).tril()
        beside, own = hidden.expand(k, -1, -1), model.projector(features)[:, None]
        text = model.fusion.read_text(beside, places)
        fused = model.fusion(
            beside, model.fusion.read_images(own), text, mask.expand(k, -1, -1), places
        )[:, 0]
        alone, images = (
            model.head(model.language_model, states).float() for states in (hidden, fused)
        )
        mixed = (trust[..., None] * images + (1 - trust[..., None]) * alone).mean(0)
        return mixed.softmax(-1)[-1]

    @torch.no_grad()
    def generate(
        self, tokens: int, features: Tensor | None = None, rule: str = "evidence"
    ) -> Tensor:
        """Continue greedily."""
        self.model.config.mix, self.model.config.weights = rule, "uniform"
        beside = {} if features is None else {"visual_features": features}
        mask = torch.ones_like(self.ids)
        settings = {
            "max_new_tokens": tokens,
            "min_new_tokens": tokens,
            "do_sample": False,
            "pad_token_id": 0,
        }
        model = self.model.language_model if features is None else self.model
        return model.generate(input_ids=self.ids, attention_mask=mask, **settings, **beside)


def next_token(bench: Bench, ks: Sequence[int], rounds: int, plain_k: int) -> dict[str, Any]:
    """Measure a next token beside k pictures."""
    sides: dict[str, Callable[[], Any]] = {"text": bench.text}
    for k in ks:
        pixels, features = bench.pictures(k)
        with torch.no_grad():
            states = bench.model.encode_with_blank(features)
        sides |= {
            f"k={k} kept": lambda states=states: bench.mixed(states, "evidence"),
            f"k={k} kept, prob": lambda states=states: bench.mixed(states, "prob"),
            f"k={k} all": lambda states=states: bench.all(states),
            f"k={k} new": lambda features=features: bench.all(features),
        }
        if k <= plain_k:
            sides[f"k={k} plain"] = lambda pixels=pixels: bench.plain(pixels)
    return table(bench, sides, rounds)


def generation(bench: Bench, k: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Measure greedy continuations; a text beside pictures continues as long."""
    features = bench.pictures(k)[1]
    sides: dict[str, Callable[[], Any]] = {"text": lambda: bench.generate(tokens)}
    for rule in ("evidence", "prob"):
        sides[f"k={k} {rule}"] = lambda rule=rule: bench.generate(tokens, features, rule)
    return table(bench, sides, rounds, tokens)


def table(
    bench: Bench, sides: dict[str, Callable[[], Any]], rounds: int, reads: int = 1
) -> dict[str, Any]:
    """Measure, print and return every side: milliseconds, ratio to text, the tensors' peak memory,
    and the floor.

    Args:
        reads: how often every weight of the LM has to be read.
    """
    found = in_turns(sides, rounds)
    compute, memory = product_rate(bench.device, bench.dtype), memory_rate(bench.device)
    weights = sum(p.numel() * p.element_size() for p in bench.model.language_model.parameters())
    print(
        f"\n{'':<18}{'ms':>9}{'/ text':>8}  quartiles   "
        f"{'MB':>8}{'GFLOP':>8}{'floor ms':>10}{'reached':>9}"
    )
    told: dict[str, Any] = {"compute_rate": compute, "memory_rate": memory, "weights": weights}
    for name, work in sides.items():
        ratio, low, high = ratios(found, name, "text")
        ms, count, peak = 1000 * median(found[name]), operations(work), peak_bytes(work)
        floor = 1000 * max(count / compute, reads * weights / memory)
        print(
            f"{name:<18}{ms:>9.1f}{ratio:>8.2f}  {low:.2f}-{high:.2f}  "
            f"{peak / 1e6:>9.1f}{count / 1e9:>8.2f}{floor:>10.1f}{floor / ms:>9.0%}"
        )
        told[name] = {
            "ms": ms,
            "ratio": ratio,
            "quartiles": [low, high],
            "peak_bytes": peak,
            "flop": count,
            "floor_ms": floor,
        }
    return told


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=SIZES, default="gpt2", help="of model and encoder (default: gpt2)"
    )
    parser.add_argument("--k", default="10,100", help="numbers of pictures (default: 10,100)")
    parser.add_argument("--tokens", type=int, default=20, help="of the prompt (default: 20)")
    parser.add_argument(
        "--new-tokens", type=int, default=32, help="of a continuation; 0: none (default: 32)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side (default: 15)")
    parser.add_argument(
        "--plain-k", type=int, default=10, help="most pictures of the plain side (default: 10)"
    )
    parser.add_argument(
        "--fusion",
        default="cross_attention",
        help="kind of fusion layer (default: cross_attention)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the LM's trunk and the fusion layer"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every figure to a file"
    )
    arguments = parser.parse_args(argv)
    ks = [int(k) for k in arguments.k.split(",")]
    told: dict[str, Any] = {"machine": machine(), "settings": {**vars(arguments), "json": None}}
    print(introduction(told["machine"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(arguments.size, arguments.tokens, device, arguments.fusion)
    if arguments.compile:
        bench.model.trunk.compile()
        bench.model.fusion.compile()
    print(
        f"{arguments.size}, {arguments.fusion}, {arguments.tokens} tokens, {bench.dtype}; "
        f"{arguments.rounds} rounds"
    )
    told["next_token"] = next_token(bench, ks, arguments.rounds, arguments.plain_k)
    if arguments.new_tokens:
        print(f"\ngreedy continuation of {arguments.new_tokens} tokens")
        told["generation"] = generation(
            bench, ks[0], arguments.new_tokens, max(3, arguments.rounds // 3)
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
