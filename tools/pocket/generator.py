"""The pocket generator: a latent diffusion pipeline in diffusers format, conditioned on names only.

Stages: a KL autoencoder (64 x 64 -> 16 x 16 x 4) learns scenes; a UNet with a small CLIP text
encoder learns their latents by v-prediction with a zero-terminal-SNR schedule, so that eight
trailing DDIM steps suffice.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.pocket.fitting import fit_alone, save_atomically
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scene_source import decode_latents, encode_scenes, to_pixels
from vlmig.pocket.scenes import SIZE, glyph, scene
from vlmig.pocket.text import picture_captions
from vlmig.runtime import cpu_autocast

logger = logging.getLogger(__name__)
MAX_TOKENS = 24
SCENES_PER_CONCEPT = 72
DECODED_PER_CONCEPT = 20


def train_autoencoder(out: Path, work: Path, *, steps: int, batch: int) -> None:
    """Train the autoencoder on scenes and save it in diffusers format."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        latent_channels=4,
        norm_num_groups=16,
        sample_size=SIZE,
    ).to(memory_format=torch.channels_last)
    concepts = load_concepts()

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((1, step))
        pixels = to_pixels(
            [scene(glyph(concepts[i].glyph), rng) for i in rng.integers(0, len(concepts), batch)]
        )
        with cpu_autocast():
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        decoded = decoded.float()
        return reconstruction(decoded, pixels) + 1e-7 * posterior.kl().float().mean()

    fit_alone(vae, loss_at, work / "autoencoder", steps=steps, learning_rate=1e-3, average=0.995)
    latents = encode_scenes(vae, render_scenes(work)[::4, :2])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    vae.save_pretrained(out / "vae")


def reconstruction(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Return the absolute error of pixels and of their differences, which keeps edges sharp."""
    loss = F.l1_loss(decoded, pixels)
    for axis in (-1, -2):
        loss = loss + F.l1_loss(decoded.diff(dim=axis), pixels.diff(dim=axis))
    return loss


def train_generator(out: Path, work: Path, *, steps: int, batch: int) -> None:
    """Train text encoder and UNet on latents and save the whole pipeline in diffusers format."""
    vae = AutoencoderKL.from_pretrained(out / "vae").to(memory_format=torch.channels_last)
    vae.register_to_config(_name_or_path=None)  # no path of this machine in the result
    concepts = load_concepts()
    latents = torch.load(work / "latents.pt", weights_only=True) * vae.config.scaling_factor
    tokenizer = build_tokenizer(
        [c for concept in concepts for c in picture_captions(concept)], work / "tokenizer"
    )
    torch.manual_seed(1)
    model = nn.ModuleDict({"unet": build_unet(), "text": build_text_encoder(tokenizer)})
    scheduler = build_scheduler()
    # Names of one word are the common ones: they are drawn three times as often.
    often = np.array([1.0 if " " in concept.name else 3.0 for concept in concepts])

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((2, step))
        which = rng.choice(len(concepts), batch, p=often / often.sum())
        captions = [draw_caption(concepts[i], rng) if rng.random() > 0.1 else "" for i in which]
        clean = latents[
            torch.from_numpy(which), torch.from_numpy(rng.integers(0, latents.shape[1], batch))
        ].float()
        noise = torch.randn_like(clean)
        times = torch.randint(0, scheduler.config.num_train_timesteps, (batch,))
        noisy = scheduler.add_noise(clean, noise, times).contiguous(
            memory_format=torch.channels_last
        )
        with cpu_autocast():
            states = model["text"](tokenize(tokenizer, captions))[0]
            predicted = model["unet"](noisy, times, states).sample
        return F.mse_loss(predicted.float(), scheduler.get_velocity(clean, noise, times))

    fit_alone(model, loss_at, work / "generator", steps=steps, learning_rate=1.2e-3, average=0.998)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model["text"],
        tokenizer=tokenizer,
        unet=model["unet"],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out)


def draw_caption(concept: Concept, rng: np.random.Generator) -> str:
    """Draw a caption; the bare name is as frequent as all other phrasings together."""
    captions = picture_captions(concept)
    names = len(concept.names)
    return captions[rng.integers(0, names if rng.random() < 0.5 else len(captions))]


def build_unet() -> UNet2DConditionModel:
    """Build the UNet: 16 x 16 latents, two resolutions, cross-attention to text of width 128."""
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        block_out_channels=(96, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a two-layer CLIP text encoder of width 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_scheduler() -> DDIMScheduler:
    """Build the noise schedule: v-prediction, zero terminal SNR, trailing steps (Lin et al.
    2024)."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )


def build_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """Train a byte-level BPE in CLIP's format on the captions, or load that of an interrupted run.

    The trainer numbers equally frequent tokens differently in every process.
    """
    if (folder / "tokenizer.json").exists():
        return CLIPTokenizer.from_pretrained(folder)
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|startoftext|>", "<|endoftext|>"]
    bpe.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=2600,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    learned = json.loads(bpe.to_str())["model"]
    vocab = dict(learned["vocab"])
    for token in [*sorted(c + "</w>" for c in alphabet if c + "</w>" not in vocab), *specials]:
        vocab.setdefault(token, len(vocab))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    merges = [m if isinstance(m, str) else " ".join(m) for m in learned["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    ).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Turn captions into padded ids, (B, MAX_TOKENS)."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def render_scenes(work: Path) -> np.ndarray:
    """Draw the pool of natural scenes once: uint8 (concepts, SCENES_PER_CONCEPT, 64, 64, 3)."""
    path = work / "scenes.npy"
    if not path.exists():
        pool = []
        for i, concept in enumerate(load_concepts()):
            rng = np.random.default_rng((3, i))
            ink = glyph(concept.glyph)
            pool.append(np.stack([np.asarray(scene(ink, rng)) for _ in range(SCENES_PER_CONCEPT)]))
        np.save(path, np.stack(pool))
    return np.load(path, mmap_mode="r")


def encode_pool(out: Path, work: Path) -> None:
    """Encode the pool of scenes for the generator, and decode some of it for the encoder."""
    vae = AutoencoderKL.from_pretrained(out / "vae").to(memory_format=torch.channels_last)
    latents = encode_scenes(vae, render_scenes(work))
    save_atomically(latents, work / "latents.pt")
    np.save(
        work / "decoded.npy",
        np.stack([decode_latents(vae, row[:DECODED_PER_CONCEPT]) for row in latents]),
    )


def scene_pools(work: Path) -> list[np.ndarray]:
    """Return plain and decoded scenes, (concepts, n, 64, 64, 3) each."""
    return [np.load(work / name, mmap_mode="r") for name in ("scenes.npy", "decoded.npy")]
