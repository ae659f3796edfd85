"""Every kind of imaginer, chosen by one line of configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    KandinskyV22PriorPipeline,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    PriorTransformer,
    StableDiffusionXLPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
)
from PIL import Image
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.imagination import request
from vlmig.imagination.sources.build import sampling_of
from vlmig.imagination.sources.diffusion import DiffusionSource
from vlmig.imagination.sources.families import FAMILIES, Sampling, sampling_for
from vlmig.models.checkpoint import POCKET
from vlmig.models.config import VLMIGConfig, changed
from vlmig.pocket.tasks import draws_pocket_pictures
from vlmig.vision import BLANK

TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def build(parts: Path, store: Path, imaginer: str, **settings: Any) -> VLMIG:
    names = {"vision": str(parts / "vision_encoder"), "generator": imaginer, "store": store}
    return VLMIG.from_base(str(parts / "language_model"), **names, fusion_heads=4, **settings)


@pytest.fixture()
def photos(tmp_path: Path) -> Path:
    """Twelve pictures, named after two prompts."""
    rng = np.random.default_rng(0)
    for name, count in (("a_cat", 11), ("the_sea", 1)):
        for i in range(count):
            (tmp_path / "photos").mkdir(exist_ok=True)
            picture = Image.fromarray(rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8))
            picture.save(tmp_path / "photos" / f"{name}_{i}.png")
    return tmp_path / "photos"


def test_pictures_of_a_folder(parts: Path, tmp_path: Path, photos: Path) -> None:
    model = build(parts, tmp_path / "store", f"folder:{photos}")
    seen = model.imagine(["A cat"], k=11)[0]
    assert np.array_equal(
        np.asarray(seen.images[10]), np.asarray(Image.open(photos / "a_cat_10.png"))
    ), "10 is after 9"
    alone = model.imagination.encoder.encode([Image.open(photos / "a_cat_3.png")])[0][0]
    assert torch.equal(seen.features[3], alone.float())
    with pytest.raises(VLMIGError, match="1 images of 'the sea' in .*expected the_sea/"):
        model.imagine(["the sea"], k=2)
    (photos / "a dog").mkdir()
    (photos / "a_cat_0.png").rename(photos / "a dog" / "any.png")
    changed = build(parts, tmp_path / "store", f"folder:{photos}")
    assert changed.imagine(["a dog"], k=1)[0].images[0].size == (24, 20)
    assert changed.imagination.identity != model.imagination.identity


def test_what_imagine_writes_a_folder_imaginer_reads(tmp_path: Path) -> None:
    out, store = str(tmp_path / "out"), ["--store", str(tmp_path / "store")]
    assert main(["imagine", "a banana!", "--k", "2", "--out", out, *store]) == 0
    assert (
        main(
            [
                "imagine",
                "a banana!",
                "--k",
                "2",
                "--out",
                out + "2",
                "--imaginer",
                f"folder:{out}",
                *store,
            ]
        )
        == 0
    )
    for i in range(2):
        drawn, given = (
            np.asarray(Image.open(f"{folder}/a_banana_{i}.png")) for folder in (out, out + "2")
        )
        assert np.array_equal(drawn, given)


def test_the_nearest_pictures_of_a_gallery(parts: Path, tmp_path: Path, photos: Path) -> None:
    model = build(parts, tmp_path / "store", f"retrieval:{photos}")
    found = model.imagine(["a cat", "the sea"], k=5)
    encoder = model.imagination.encoder
    paths = sorted(photos.glob("*.png"))
    _, pooled = encoder.encode([Image.open(path) for path in paths])
    text = encoder.encode_text(["a cat"])
    assert text is not None
    cosines = (pooled @ text[0]).sort(descending=True)
    assert found[0].alignment == pytest.approx(cosines.values[:5], abs=1e-5), "nearest first"
    best = Image.open(paths[cosines.indices[0]])
    assert np.array_equal(np.asarray(found[0].images[0]), np.asarray(best))
    again = build(parts, tmp_path / "store", f"retrieval:{photos}")
    again.imagination.store = type(model.imagination.store)(tmp_path / "empty")
    assert torch.equal(again.imagine(["a cat"], k=2)[0].features, found[0].features[:2])
    with pytest.raises(VLMIGError, match="gives at most 12 images of a prompt; lower --k"):
        model.imagine(["a cat"], k=13)
    (photos / "broken.png").write_text("no picture")
    with pytest.raises(VLMIGError, match="broken.png is not an image that can be read"):
        build(parts, tmp_path / "store", f"retrieval:{photos}").imagine(["a cat"], k=1)


def test_an_index_that_was_cut_off_is_made_again(parts: Path, tmp_path: Path, photos: Path) -> None:
    first = build(parts, tmp_path / "store", f"retrieval:{photos}").imagine(["a cat"], k=2)[0]
    (part,) = (tmp_path / "store").glob("retrieval_*.safetensors")
    part.write_bytes(part.read_bytes()[:-9])
    (tmp_path / "store" / "imagined.sqlite").unlink()
    again = build(parts, tmp_path / "store", f"retrieval:{photos}").imagine(["a cat"], k=2)[0]
    assert torch.equal(first.features, again.features)


def test_a_dataset_is_a_gallery(parts: Path, tmp_path: Path, photos: Path) -> None:
    images = [Image.open(path) for path in sorted(photos.glob("*.png"))]
    Dataset.from_dict({"image": images}).save_to_disk(tmp_path / "rows")
    by_rows = build(parts, tmp_path / "a", f"retrieval:{tmp_path / 'rows'}").imagine(
        ["a cat"], k=3
    )[0]
    by_files = build(parts, tmp_path / "b", f"retrieval:{photos}").imagine(["a cat"], k=3)[0]
    assert torch.equal(by_rows.features, by_files.features)
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(VLMIGError, match="has the columns text; expected one named image"):
        build(parts, tmp_path / "a", f"retrieval:{tmp_path / 'texts'}").imagine(["a cat"], k=1)


def test_the_prompts_own_embedding_in_place_of_a_picture(parts: Path, tmp_path: Path) -> None:
    model = build(parts, tmp_path / "store", "text", vision_features="pooled")
    assert (model.config.vision_patches, model.config.vision_width) == (1, 16)
    seen = model.imagine(["a cat"], k=2)[0]
    text = model.imagination.encoder.encode_text(["a cat"])
    assert text is not None
    assert torch.equal(seen.features, text.half().float()[None].expand(2, 1, 16))
    assert seen.alignment == pytest.approx([1.0, 1.0], abs=1e-5)
    model.config.trained = True
    answer = model.ask("What is the color of a cat?", choices=["red", "blue"], k=2)
    assert len(answer.images) == 2
    with pytest.raises(
        VLMIGError, match="gives embeddings without pixels, this adapter reads patches"
    ):
        build(parts, tmp_path / "store", "text").imagine(["a cat"], k=1)


def test_pooled_features_are_the_unit_embedding(parts: Path, tmp_path: Path) -> None:
    model = build(
        parts,
        tmp_path / "store",
        str(parts / "generator"),
        vision_features="pooled",
        imaginer_size=32,
    )
    seen = model.imagine(["a cat"], k=2)[0]
    assert seen.features.shape == (2, 1, 16)
    assert seen.features.norm(dim=-1).flatten() == pytest.approx([1.0, 1.0], abs=1e-3)


def test_the_empty_picture(parts: Path, tmp_path: Path) -> None:
    model = build(parts, tmp_path / "store", "blank")
    seen = model.imagine(["a cat", "a dog"], k=2)
    assert torch.equal(seen[0].features[0], model.model.blank_features.float())
    assert torch.equal(seen[0].features, seen[1].features)
    assert seen[0].images[0].getpixel((3, 3)) == BLANK


def clip_tokenizer(parts: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(parts / "generator" / "tokenizer")


def test_embeddings_from_a_prior_pipeline(parts: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(parts)
    text = CLIPTextConfig(vocab_size=len(tokenizer), projection_dim=16, **TEXT)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=16, **TEXT)
    prior = PriorTransformer(2, 8, num_layers=1, embedding_dim=16)
    torch.nn.init.ones_(prior.clip_std)
    KandinskyV22PriorPipeline(
        prior=prior,
        image_encoder=CLIPVisionModelWithProjection(vision),
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000
        ),
        image_processor=CLIPImageProcessor(),
    ).save_pretrained(tmp_path / "prior")
    settings = {"vision_features": "pooled", "imaginer_steps": 2}
    model = build(parts, tmp_path / "store", f"prior:{tmp_path / 'prior'}", **settings)
    three, two = model.imagine(["a cat"], k=3)[0], model.imagine(["a dog", "a cat"], k=2)[1]
    assert torch.equal(three.features[:2], two.features) and not torch.equal(
        three.features[0], three.features[1]
    )
    fresh = build(parts, tmp_path / "other", f"prior:{tmp_path / 'prior'}", **settings)
    assert torch.equal(fresh.imagine(["a cat"], k=1)[0].features[0], three.features[0])
    assert not model.imagination.source.fits("x " * 100)
    fresh.config.vision_width = 20
    with pytest.raises(VLMIGError, match="gives embeddings of width 16, the adapter reads 20"):
        fresh.imagine(["the sea"], k=1)


@pytest.mark.parametrize(
    ("imaginer", "message"),
    [
        ("folder:nowhere", "no folder nowhere; expected one with images named after prompts"),
        ("retrieval:", "imaginer='retrieval:' names no place; expected retrieval:PLACE"),
        ("prior:nowhere", "gives embeddings without pixels"),
    ],
)
def test_wrong_imaginers_are_said_in_one_line(
    parts: Path, tmp_path: Path, imaginer: str, message: str
) -> None:
    with pytest.raises(VLMIGError, match=message) as caught:
        build(parts, tmp_path, imaginer).imagine(["a cat"], k=1)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_holds_no_pictures(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VLMIGError, match="no images in .*expected a folder of .png"):
        build(parts, tmp_path, f"folder:{tmp_path / 'empty'}").imagine(["a cat"], k=1)


def save_xl(parts: Path, folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(parts)
    text = CLIPTextConfig(vocab_size=len(tokenizer), projection_dim=16, **TEXT)
    StableDiffusionXLPipeline(
        vae=AutoencoderKL(block_out_channels=(4,), norm_num_groups=2),
        text_encoder=CLIPTextModelWithProjection(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            norm_num_groups=2,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=16 + 6 * 4,
        ),
        scheduler=EulerDiscreteScheduler(timestep_spacing="trailing"),
        add_watermarker=False,
    ).save_pretrained(folder)


def save_lumina(parts: Path, folder: Path) -> None:
    """A tiny pipeline of the embedded generator's kind: a text encoder and autoencoder of its own."""
    text = {**TEXT, "num_hidden_layers": 2, "max_position_embeddings": 256}
    tokenizer = CLIPTokenizer.from_pretrained(parts / "generator" / "tokenizer")
    transformer = LuminaNextDiT2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=16,
        cross_attention_dim=16,
    )
    nn.init.zeros_(transformer.pad_token)  # diffusers leaves whatever the memory holds
    LuminaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            encoder_layers_per_block=(0, 1, 1, 1),
            decoder_layers_per_block=(0, 1, 1, 1),
            encoder_qkv_multiscales=((), (), (), ()),
            decoder_qkv_multiscales=((), (), (), ()),
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **text)),
        tokenizer=tokenizer,
    ).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "lumina"])
@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_embedded_prompts_draw_what_texts_draw(
    parts: Path, tmp_path: Path, kind: str, guidance: float
) -> None:
    folder = parts / "generator"
    if kind == "sdxl":
        folder = tmp_path / "xl"
        save_xl(parts, folder)
    elif kind == "lumina":
        folder = tmp_path / "lumina"
        save_lumina(parts, folder)
    imaginer = DiffusionSource(folder, Sampling(steps=2, guidance=guidance, size=32, batch=2))
    # Lumina pads texts: the second is longer than one step of its padding.
    asked = [request("a cat", 0), request("the sea at night", 4)]
    plain = imaginer.pipeline(
        [r.prompt for r in asked],
        generator=[torch.Generator().manual_seed(r.seed) for r in asked],
        num_inference_steps=2,
        guidance_scale=guidance,
        height=32,
        width=32,
        **({"clean_caption": False} if kind == "lumina" else {}),
    ).images
    assert not np.array_equal(*map(np.asarray, plain))
    for picture, drawn in zip(plain, imaginer.imagine(asked), strict=True):
        # Texts embedded two at a time or one by one may round another way.
        assert np.abs(np.asarray(picture).astype(int) - drawn.permute(1, 2, 0).numpy()).max() <= 1


def test_a_prompt_is_embedded_once(parts: Path) -> None:
    imaginer = DiffusionSource(
        parts / "generator", Sampling(steps=1, guidance=3.0, size=32, batch=2)
    )
    embedded: list[str] = []
    plain = imaginer.pipeline.encode_prompt

    def counted(prompt: str | None, *rest: Any, **settings: Any) -> Any:
        embedded.extend(
            [prompt] if prompt else []
        )  # a call with embeddings passes through here without a text
        return plain(prompt, *rest, **settings)

    imaginer.pipeline.encode_prompt = counted
    imaginer.imagine([request(prompt, i) for prompt in ("a cat", "the sea") for i in range(5)])
    assert sorted(embedded) == ["a cat", "the sea"]


def test_a_pipeline_that_the_auto_class_does_not_know(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise ValueError("AutoPipeline can't find a pipeline linked to it")

    monkeypatch.setattr("diffusers.AutoPipelineForText2Image.from_pretrained", unknown)
    assert type(DiffusionSource(parts / "generator").pipeline).__name__ == "StableDiffusionPipeline"


@pytest.mark.proof
def test_a_compiled_denoiser_draws_the_same(parts: Path) -> None:
    asked = [request("a cat", i) for i in range(3)]
    settings = {"steps": 2, "guidance": 3.0, "size": 32, "batch": 2}
    plain, compiled = (
        DiffusionSource(parts / "generator", Sampling(**settings, compile=c)) for c in (False, True)
    )
    for one, other in zip(plain.imagine(asked), compiled.imagine(asked), strict=True):
        assert (one.int() - other.int()).abs().max() <= 1, "fused operations may round another way"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"imaginer_dtype": "fp16"},
            "the configuration: imaginer_dtype is 'fp16'; expected 'float32', 'float16' or",
        ),
        ({"imaginer_vae": "nowhere"}, "cannot load imaginer_vae='nowhere'"),
        ({"imaginer_size": 33}, "cannot draw with .*size=33.*change imaginer_size"),
    ],
)
def test_wrong_settings_are_said_in_one_line(
    parts: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(VLMIGError, match=message) as caught:
        build(parts, tmp_path, str(parts / "generator"), **settings).imagine(["a cat"], k=1)
    assert "\n" not in str(caught.value)


def test_another_source_of_pictures_is_evaluated(tiny: VLMIG, tmp_path: Path, photos: Path) -> None:
    """Whether it draws pocket pictures is asked of any imaginer."""
    tiny.config.imaginer = f"retrieval:{photos}"
    assert not draws_pocket_pictures(tiny)


def test_a_smaller_decoder(parts: Path, tmp_path: Path) -> None:
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(tmp_path / "taesd")
    plain, smaller = (
        DiffusionSource(parts / "generator", Sampling(1, 0.0, 32, vae=vae))
        for vae in (None, str(tmp_path / "taesd"))
    )
    assert type(smaller.pipeline.vae).__name__ == "AutoencoderTiny"
    assert smaller.imagine([request("a cat", 0)])[0].shape == (3, 32, 32)
    assert plain.identity() != smaller.identity()


def test_settings_of_a_family_are_found_by_name_and_by_class(parts: Path) -> None:
    assert sampling_for("stabilityai/sdxl-turbo") == Sampling(1, 0.0, 512)
    assert sampling_for("stabilityai/sd-turbo").steps == 1
    assert sampling_for("Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers").steps == 2
    assert sampling_for("black-forest-labs/FLUX.2-klein-4B", steps=6).steps == 6
    assert sampling_for("stabilityai/stable-diffusion-xl-base-1.0").size == 1024
    assert sampling_for(str(parts / "generator")).guidance == 7.5, (
        "StableDiffusionPipeline, by its index"
    )
    assert sampling_for("someone/something", steps=None) == sampling_for("another/thing")
    assert all(licence for _, _, licence in FAMILIES)


def test_another_imaginer_brings_its_own_settings() -> None:
    """The pocket model's four steps and 96 pixels suit no other generator."""
    own = VLMIGConfig.from_pretrained(POCKET)
    other = VLMIGConfig.from_pretrained(
        POCKET, **changed({"imaginer": "stabilityai/sdxl-turbo", "imaginer_steps": 2})
    )
    assert (own.imaginer_steps, own.imaginer_size) == (4, 96)
    for device, batch in (("cpu", 1), ("cuda", 8)):
        sampling = sampling_of(other, POCKET, torch.device(device))
        assert (sampling.steps, sampling.guidance, sampling.size, sampling.batch) == (
            2,
            0.0,
            512,
            batch,
        )
    assert changed({"mix": "prob"}) == {"mix": "prob"}
