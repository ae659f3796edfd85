"""Tiny random pipelines of today's classes of diffusers, saved as the real ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

WIDTH = 16
"""Of every text encoder."""
FLOW = FlowMatchEulerDiscreteScheduler
TEMPLATE = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, padding, an end, and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<s>", *alphabet])}
    bpe = Tokenizer(models.BPE(vocabulary, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=512, **names)
    made.chat_template = TEMPLATE
    return made


def clip_tokenizer(parts: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(parts / "generator" / "tokenizer")


def clip(parts: Path, kind: Any = CLIPTextModel) -> Any:
    tokenizer = clip_tokenizer(parts)
    shape = {"hidden_size": WIDTH, "intermediate_size": 32, "projection_dim": WIDTH}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return kind(CLIPTextConfig(vocab_size=len(tokenizer), **shape, **layers, **ends))


def t5() -> T5EncoderModel:
    shape = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=512, **shape))


def qwen(kind: Any = Qwen3Model, layers: int = 2) -> Any:
    shape = {"hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    return kind(Qwen3Config(vocab_size=512, **shape, **heads, pad_token_id=0))


def gemma() -> Gemma2Model:
    shape = {"hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    return Gemma2Model(Gemma2Config(vocab_size=512, **shape, **heads))


def kl(channels: int, **settings: Any) -> AutoencoderKL:
    """An autoencoder that halves the sides once."""
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=channels,
        **settings,
    )


def shifted(channels: int) -> AutoencoderKL:
    quantized = {"use_quant_conv": False, "use_post_quant_conv": False}
    return kl(channels, shift_factor=0.06, scaling_factor=1.5, **quantized)


def flux(parts: Path) -> FluxPipeline:
    heads = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 8)}
    layers = {"num_layers": 1, "num_single_layers": 1, "patch_size": 1, "in_channels": 4}
    widths = {"joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH}
    return FluxPipeline(
        transformer=FluxTransformer2DModel(**heads, **layers, **widths),
        scheduler=FLOW(),
        vae=shifted(1),
        text_encoder=clip(parts),
        tokenizer=clip_tokenizer(parts),
        text_encoder_2=t5(),
        tokenizer_2=byte_tokenizer(),
    )


def klein(parts: Path, distilled: bool = True) -> Flux2KleinPipeline:
    heads = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 4, 4)}
    layers = {"num_layers": 1, "num_single_layers": 1, "patch_size": 1, "in_channels": 4}
    return Flux2KleinPipeline(
        transformer=Flux2Transformer2DModel(
            **heads, **layers, joint_attention_dim=3 * WIDTH, guidance_embeds=False
        ),
        scheduler=FLOW(),
        vae=AutoencoderKLFlux2(
            block_out_channels=(4, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=1,
        ),
        text_encoder=qwen(Qwen3ForCausalLM, layers=27),  # the pipeline reads layers 9, 18 and 27
        tokenizer=byte_tokenizer(),
        is_distilled=distilled,
    )


def klein_base(parts: Path) -> Flux2KleinPipeline:
    return klein(parts, distilled=False)


def z_image(parts: Path) -> ZImagePipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 32, 32],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        nn.init.ones_(token)  # diffusers leaves whatever the memory holds
    return ZImagePipeline(
        transformer=transformer,
        scheduler=FLOW(),
        vae=shifted(16),
        text_encoder=qwen(),
        tokenizer=byte_tokenizer(),
    )


def sana_parts(guided: bool) -> dict[str, Any]:
    widths = {"cross_attention_dim": 8, "caption_channels": WIDTH, "sample_size": 32}
    heads = {"num_attention_heads": 2, "attention_head_dim": 4}
    crossed = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 4}
    embedded = {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True} if guided else {}
    channels = {"in_channels": 4, "out_channels": 4, "patch_size": 1, "num_layers": 1}
    return {
        "transformer": SanaTransformer2DModel(**widths, **heads, **crossed, **embedded, **channels),
        "vae": AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
        ),
        "text_encoder": gemma(),
        "tokenizer": byte_tokenizer(),
    }


def sana_sprint(parts: Path) -> SanaSprintPipeline:
    return SanaSprintPipeline(**sana_parts(True), scheduler=SCMScheduler())


def sana(parts: Path) -> SanaPipeline:
    return SanaPipeline(**sana_parts(False), scheduler=DPMSolverMultistepScheduler())


def sd3(parts: Path) -> StableDiffusion3Pipeline:
    heads = {"attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32}
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            **heads,
        ),
        scheduler=FLOW(),
        vae=shifted(4),
        text_encoder=clip(parts, CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(parts),
        text_encoder_2=clip(parts, CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(parts),
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=512, d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ),
        tokenizer_3=byte_tokenizer(),
    )


def pixart(parts: Path, kind: Any = PixArtAlphaPipeline) -> Any:
    heads = {"attention_head_dim": 8, "num_attention_heads": 3, "cross_attention_dim": 24}
    return kind(
        transformer=PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            caption_channels=WIDTH,
            in_channels=4,
            out_channels=8,
            **heads,
        ),
        scheduler=DPMSolverMultistepScheduler(),
        vae=kl(4),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
    )


def pixart_sigma(parts: Path) -> PixArtSigmaPipeline:
    return pixart(parts, PixArtSigmaPipeline)


def lcm(parts: Path) -> LatentConsistencyModelPipeline:
    return LatentConsistencyModelPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            norm_num_groups=2,
            time_cond_proj_dim=8,
        ),
        scheduler=LCMScheduler(),
        vae=kl(4),
        text_encoder=clip(parts),
        tokenizer=clip_tokenizer(parts),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def lumina2(parts: Path) -> Lumina2Pipeline:
    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        cap_feat_dim=WIDTH,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=FLOW(),
        vae=shifted(4),
        text_encoder=gemma(),
        tokenizer=byte_tokenizer(),
    )


def chroma(parts: Path) -> ChromaPipeline:
    heads = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 8)}
    layers = {"num_layers": 1, "num_single_layers": 1, "patch_size": 1, "in_channels": 4}
    approximator = {"approximator_hidden_dim": 32, "approximator_layers": 1}
    return ChromaPipeline(
        transformer=ChromaTransformer2DModel(
            **heads,
            **layers,
            **approximator,
            approximator_num_channels=16,
            joint_attention_dim=WIDTH,
        ),
        scheduler=FLOW(),
        vae=shifted(1),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
    )


def ovis(parts: Path) -> OvisImagePipeline:
    heads = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 8)}
    layers = {"num_layers": 1, "num_single_layers": 1, "patch_size": 1, "in_channels": 4}
    return OvisImagePipeline(
        transformer=OvisImageTransformer2DModel(
            **heads, **layers, joint_attention_dim=WIDTH, out_channels=4
        ),
        scheduler=FLOW(),
        vae=shifted(1),
        text_encoder=qwen(),
        tokenizer=byte_tokenizer(),
    )


GENERATORS: dict[str, tuple[Callable[[Path], Any], float]] = {
    "FLUX.2-klein-4B": (klein, 1.0),
    "FLUX.2-klein-base-4B": (klein_base, 4.0),
    "Z-Image-Turbo": (z_image, 0.0),
    "Z-Image": (z_image, 4.0),
    "Sana_Sprint": (sana_sprint, 4.5),
    "Sana": (sana, 4.5),
    "FLUX.1-schnell": (flux, 0.0),
    "stable-diffusion-3.5-large-turbo": (sd3, 0.0),
    "stable-diffusion-3.5-medium": (sd3, 4.5),
    "PixArt-XL-2": (pixart, 4.5),
    "PixArt-Sigma": (pixart_sigma, 4.5),
    "LCM_Dreamshaper_v7": (lcm, 8.0),
    "Lumina-Image-2.0": (lumina2, 4.0),
    "Chroma1-HD": (chroma, 3.0),
    "Ovis-Image-7B": (ovis, 5.0),
}
"""Folder's name, what builds the pipeline, and the guidance of its family."""


def save(name: str, parts: Path, folder: Path) -> Path:
    """Save a pipeline, with weights large enough that its prompt matters."""
    torch.manual_seed(0)
    pipeline = GENERATORS[name][0](parts)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            for weight in part.parameters():
                if weight.ndim > 1:
                    nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    pipeline.save_pretrained(folder / name)
    return folder / name
