"""The generator: a diffusion transformer of Lumina-Next's shape with a small text encoder of its
own.

``LuminaNextDiT2DModel`` takes a text twice: pooled, it modulates every block; token by token, every
block attends to it. Latents of 12 x 12 x 8 are 36 tokens. Trained by flow matching: it predicts
data minus noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LuminaNextDiT2DModel,
    LuminaPipeline,
)
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.pocket.autoencoder import CHANNELS, encode_pool, load_autoencoder
from tools.pocket.captions import build_tokenizer, draw_caption
from tools.pocket.drawings import SIZE
from tools.pocket.groups import Groups, draw_group_caption, load_groups
from tools.pocket.loop import Schedule, train
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.runtime import cpu_autocast

BATCH = 96
MAX_TOKENS = 16
"""Tokens of a training caption; longer prompts are read whole."""
SIDE = SIZE // 8
TEXT_WIDTH = 192
Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(noisy, times, states, mask) -> data minus noise, (B, 8, H, W)."""
Texts = tuple[Tensor, Tensor]
"""States (B, MAX_TOKENS, TEXT_WIDTH) and mask (B, MAX_TOKENS) of texts."""
UNCONDITIONAL = 0.1
COMPILE = True


def build_transformer(width: int = 256, layers: int = 6, heads: int = 4) -> LuminaNextDiT2DModel:
    """Build it so that at first every block is the identity and the output is zero."""
    model = LuminaNextDiT2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=CHANNELS,
        hidden_size=width,
        num_layers=layers,
        num_attention_heads=heads,
        num_kv_heads=heads,
        multiple_of=64,
        learn_sigma=True,  # the pipeline throws a second half of the channels away
        cross_attention_dim=TEXT_WIDTH,
    )
    nn.init.zeros_(model.pad_token)
    for layer in model.layers:
        nn.init.zeros_(layer.norm1.linear.weight)
        nn.init.zeros_(layer.norm1.linear.bias)
    nn.init.zeros_(model.norm_out.linear_2.weight)
    nn.init.zeros_(model.norm_out.linear_2.bias)
    with torch.no_grad():
        # Times lie in [0, 1], where only the fast waves move (half of the inputs are cosines, half
        # are sines).
        waves = model.time_caption_embed.timestep_embedder.linear_1.weight.view(width, 2, -1)
        waves[..., 32:] = 0
        waves[..., :32] *= 24
    return model


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a CLIP text encoder of width 192; the pipeline reads the last but one of its three
    layers."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=6,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CLIPTextModel(config)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    return model


def read_texts(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Texts:
    """Encode texts as the pipeline does."""
    read = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    states = encoder(
        read.input_ids, attention_mask=read.attention_mask, output_hidden_states=True
    ).hidden_states[-2]
    return states, read.attention_mask


def velocity_of(transformer: LuminaNextDiT2DModel) -> Velocity:
    """Return the compiled velocity of a transformer."""
    rope = torch.view_as_real(
        get_2d_rotary_pos_embed_lumina(transformer.head_dim, 384, 384)[:SIDE, :SIDE].clone()
    )
    for layer in transformer.layers:
        layer.attn1.processor = layer.attn2.processor = RealAttention()

    def velocity(noisy: Tensor, times: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        return transformer(
            noisy,
            times,
            states,
            mask,
            rope,
            cross_attention_kwargs={"base_sequence_length": (SIDE // 2) ** 2},
            return_dict=False,
        )[0][:, :CHANNELS]

    return torch.compile(velocity) if COMPILE else velocity


class RealAttention:
    """What the attention of Lumina computes, in real numbers, which the compiler understands.

    Not registered as a module's processor by name: the exported pipeline has its own again.
    """

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        query_rotary_emb: Tensor,
        key_rotary_emb: Tensor | None,
        base_sequence_length: int,
    ) -> Tensor:
        """Attend: (B, L, C) to (B, M, ...) -> (B, L, heads, C / heads). Images fill their square:
        no mask for them."""
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(-1, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(-1, (attn.heads, -1))
        value = attn.to_v(encoder_hidden_states).unflatten(-1, (attn.heads, -1))
        query = turn(query, query_rotary_emb).to(value.dtype)
        key = (key if key_rotary_emb is None else turn(key, key_rotary_emb)).to(value.dtype)
        mask = attention_mask.bool()[:, None, None, :] if key_rotary_emb is None else None
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
        )
        return attended.transpose(1, 2)


def turn(states: Tensor, rope: Tensor) -> Tensor:
    """Turn pairs of channels of (B, L, heads, D) by angles given as (1, L, D / 2, 2): cosine,
    sine."""
    even, odd = states.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = rope.unsqueeze(2).unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def build_optimizers(model: nn.ModuleDict, rate: float = 1.0) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that tokens of images pass through, AdamW for the rest.

    Args:
        rate: factor of both learning rates.

    Muon's work does not shrink with the batch: on two cores it would take as long as the gradients
    if it also had the modulation and the text encoder.
    """
    matrices, rest = [], []
    for name, value in model.named_parameters():
        if not value.requires_grad:
            continue
        inside = (
            name.startswith("transformer.layers.") and value.ndim == 2 and ".norm1." not in name
        )
        (matrices if inside else rest).append(value)
    return [
        torch.optim.Muon(matrices, lr=0.02 * rate, weight_decay=0.1),
        torch.optim.AdamW(rest, lr=2e-3 * rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def build_model(work: Path, groups: bool = False) -> tuple[nn.ModuleDict, CLIPTokenizer]:
    """Build transformer and text encoder, and a tokenizer of the captions, also those of groups."""
    tokenizer = build_tokenizer(work / "tokenizer", groups)
    torch.manual_seed(1)
    return nn.ModuleDict(
        {"transformer": build_transformer(), "text": build_text_encoder(tokenizer)}
    ), tokenizer


def train_generator(out: Path, work: Path, *, steps: int, groups: float = 0.0) -> None:
    """Train transformer and text encoder together; ``export`` writes the checkpoint's average.

    Args:
        groups: share of each batch that shows several things to scale.
    """
    latents, grouped = encode_pool(out, work), load_groups(out, work, groups)
    concepts = load_concepts()
    model, tokenizer = build_model(work, groups > 0)
    velocity = velocity_of(model["transformer"])

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((31, step))
        clean, captions = training_batch(latents, concepts, rng, UNCONDITIONAL, grouped)
        return flow_loss(velocity, model["text"], tokenizer, clean, captions)

    train(model, loss_at, build_optimizers(model), Schedule(steps), work / "transformer.pt")


def flow_loss(
    velocity: Velocity,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    clean: Tensor,
    captions: list[str],
) -> Tensor:
    """Return the loss of flow matching on latents (B, 8, H, W) and their captions."""
    noise = torch.randn_like(clean)
    # 0 is noise, 1 is data: what a thing is, is settled early.
    times = torch.sigmoid(torch.randn(len(clean)) - 0.4)
    noisy = torch.lerp(noise, clean, times.view(-1, 1, 1, 1))
    with cpu_autocast():
        predicted = velocity(noisy, times, *read_texts(encoder, tokenizer, captions))
    return F.mse_loss(predicted.float(), clean - noise)


def training_batch(
    latents: Tensor,
    concepts: Sequence[Concept],
    rng: np.random.Generator,
    unconditional: float,
    groups: Groups | None = None,
) -> tuple[Tensor, list[str]]:
    """Draw latents (BATCH, 8, H, W) and their captions, a share of which is empty; ``groups`` take
    the place of the first ones."""
    which = rng.integers(0, len(concepts), BATCH)
    captions = [
        draw_caption(concepts[i], rng) if rng.random() >= unconditional else "" for i in which
    ]
    scenes = rng.integers(0, latents.shape[1], BATCH)
    clean = latents[torch.from_numpy(which), torch.from_numpy(scenes)].float()
    if groups is not None:
        for row, number in enumerate(groups.draw(BATCH, rng)):
            clean[row] = groups.latents[number].float()
            captions[row] = captions[row] and draw_group_caption(number, rng)  # "" stays
    return clean, captions


def save_pipeline(
    out: Path, model: nn.ModuleDict, tokenizer: CLIPTokenizer, scheduler_steps: int
) -> None:
    """Write transformer and text encoder as a pipeline in half precision.

    Args:
        scheduler_steps: into which the pipeline's scheduler divides time: from noise at 1 it goes
            to 1 / ``scheduler_steps`` in even steps, then to 0. A student must take those that it
            was taught.
    """
    pipeline = LuminaPipeline(
        transformer=model["transformer"],
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=scheduler_steps),
        vae=load_autoencoder(out),
        text_encoder=model["text"],
        tokenizer=tokenizer,
    )
    pipeline.to(torch.float16).save_pretrained(out)
