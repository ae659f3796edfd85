"""Encoders: patch features and embedding from one pass, whichever library the tower comes from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    FlavaConfig,
    FlavaImageProcessor,
    FlavaModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from vlmig import VLMIG, VLMIGError
from vlmig.vision import VisionEncoder, as_tensor
from vlmig.vision.openclip import OpenClipTower

SIDE, PATCH, WIDTH = 32, 8, 24
PATCHES = (SIDE // PATCH) ** 2
BODY = {
    "hidden_size": WIDTH,
    "intermediate_size": 30,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
SEEN = {**BODY, "image_size": SIDE, "patch_size": PATCH}
READ = {**BODY, "vocab_size": 514}
SQUARE = {"height": SIDE, "width": SIDE}
RESIZED = {"size": {"shortest_edge": SIDE}, "crop_size": SIDE}
DINO = {**SEEN, "mlp_ratio": 2}
FAMILIES = {
    "clip": (
        lambda: CLIPModel(CLIPConfig(text_config=READ, vision_config=SEEN, projection_dim=16)),
        CLIPImageProcessor(**RESIZED),
    ),
    "siglip": (
        lambda: SiglipModel(
            SiglipConfig(text_config={**READ, "max_position_embeddings": 64}, vision_config=SEEN)
        ),
        SiglipImageProcessor(size=SQUARE),
    ),
    "flava": (
        lambda: FlavaModel(
            FlavaConfig(
                text_config=READ,
                image_config=SEEN,
                multimodal_config=BODY,
                hidden_size=WIDTH,
                projection_dim=16,
            )
        ),
        FlavaImageProcessor(size=SQUARE, crop_size=SQUARE),
    ),
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**DINO)), BitImageProcessor(**RESIZED)),
    "dinov2_with_registers": (
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**DINO)),
        BitImageProcessor(**RESIZED),
    ),
}


@pytest.fixture(scope="session")
def towers(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny vision models of transformers, saved in their own format."""
    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    for name, (make, processor) in FAMILIES.items():
        make().save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        CLIPTokenizer.from_pretrained(parts / "generator" / "tokenizer").save_pretrained(
            folder / name
        )
    return folder


def pictures(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (40 + i, 48, 3), dtype=np.uint8)) for i in range(count)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tower_of_transformers_gives_its_own_states(towers: Path, family: str) -> None:
    encoder = VisionEncoder(towers / family)
    patches, pooled = encoder.encode(pictures())
    assert patches.shape == (3, PATCHES, WIDTH) and patches.dtype == torch.float16
    model: PreTrainedModel = FAMILIES[family][0]().from_pretrained(towers / family).eval()
    body = getattr(model, "vision_model", getattr(model, "image_model", model))
    pixels = FAMILIES[family][1](images=pictures(), return_tensors="pt").pixel_values
    with torch.no_grad():
        states = body(pixels, output_hidden_states=True).hidden_states
    # Pictures of one size pass together there, filled-up batches here: rounding of float32, then
    # of half precision.
    assert torch.allclose(patches.float(), states[-2][:, -PATCHES:], atol=4e-3)
    second = VisionEncoder(towers / family, layer=1).encode(pictures())[0]
    assert torch.allclose(second.float(), states[2][:, -PATCHES:], atol=4e-3), (
        "block 1 is the second"
    )
    assert pooled.norm(dim=-1) == pytest.approx([1.0] * 3, abs=1e-5)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_alignment_is_the_models_own_cosine(towers: Path, family: str) -> None:
    encoder = VisionEncoder(towers / family)
    model = FAMILIES[family][0]().from_pretrained(towers / family).eval()
    texts = ["a cat", "the sea"]
    ids = encoder.tower._tokens(texts)  # type: ignore[attr-defined]
    pixels = FAMILIES[family][1](images=pictures(), return_tensors="pt").pixel_values
    with torch.no_grad():
        own = model(pixel_values=pixels, **ids)
    embedded = encoder.encode_text(texts)
    assert embedded is not None and encoder.scale is not None
    cosines = encoder.encode(pictures())[1] @ embedded.T
    # Up to SigLIP's bias, which is the same for all: the model's logits are scaled cosines.
    logits = (own.logits_per_image - own.logits_per_image[:, :1]).detach()
    assert torch.allclose(encoder.scale * (cosines - cosines[:, :1]), logits, atol=1e-4)
    assert torch.allclose(embedded, F.normalize(own.text_embeds, dim=-1), atol=1e-5)
    assert torch.allclose(
        encoder.encode(pictures())[1], F.normalize(own.image_embeds, dim=-1), atol=1e-5
    )


def test_towers_without_a_text_side_give_no_alignment(
    towers: Path, parts: Path, tmp_path: Path
) -> None:
    names = {
        "vision": str(towers / "dinov2"),
        "generator": str(parts / "generator"),
        "store": tmp_path,
    }
    settings = {"imaginer_size": 32, "imaginer_steps": 1, "trained": True}
    model = VLMIG.from_base(str(parts / "language_model"), **names, **settings)
    assert model.imagine(["a cat"], k=2)[0].alignment.isnan().all()
    assert model.imagination.encoder.scale is None
    assert model.ask(
        "What is the color of a cat?", choices=["red", "blue"], k=2, weights="entropy"
    ).answer
    with pytest.raises(
        VLMIGError, match="weights='clip' need the cosine.*expected weights uniform or entropy"
    ):
        model.ask("What is the color of a cat?", choices=["red", "blue"], k=2, weights="clip")
    model.config.imaginer = f"retrieval:{tmp_path}"
    del model.imagination.source
    with pytest.raises(VLMIGError, match="has no text side to retrieve images with"):
        model.imagine(["a dog"], k=1)


def test_tensors_are_prepared_as_pictures_are(parts: Path) -> None:
    """The hot path has no PIL in it; open_clip's own transform of the PIL picture is the other
    way."""
    folder = parts / "vision_encoder"
    encoder = VisionEncoder(folder)
    preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")[2]
    smooth = [picture.resize((9, 7)).resize((48, 40 + i)) for i, picture in enumerate(pictures())]
    ours = encoder.tower.prepare([as_tensor(picture) for picture in smooth])
    theirs = torch.stack([preprocess(picture) for picture in smooth])
    # PIL rounds to 255 levels after each of its two passes; a level is 0.015 after normalisation.
    assert (ours - theirs).abs().max() < 0.035
    same_size = [picture.resize((SIDE, SIDE)) for picture in pictures()]
    ours = encoder.tower.prepare([as_tensor(picture) for picture in same_size])
    theirs = torch.stack([preprocess(picture) for picture in same_size])
    assert torch.allclose(ours, theirs, atol=1e-6), (
        "nothing to resize: but for one rounding of float32 the same"
    )


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_every_way_of_resizing(parts: Path, mode: str) -> None:
    preprocess = image_transform(SIDE, is_train=False, resize_mode=mode)
    tower = OpenClipTower(torch.nn.Identity(), preprocess, None)
    (smooth,) = (picture.resize((9, 7)).resize((48, 40)) for picture in pictures(1))
    # A level of 255 is 0.015 after normalisation, as above.
    assert (tower.prepare([as_tensor(smooth)])[0] - preprocess(smooth)).abs().max() < 0.035
    assert "0x" not in tower.preprocessing, "an address is no identity"


def test_a_picture_s_bytes_do_not_depend_on_the_others(parts: Path, towers: Path) -> None:
    for folder in (parts / "vision_encoder", towers / "clip"):
        encoder = VisionEncoder(folder)
        shown = pictures(11)
        patches, pooled = encoder.encode(shown)
        for i in (0, 7, 10):
            alone = encoder.encode([shown[i]])
            assert torch.equal(alone[0][0], patches[i]) and torch.equal(alone[1][0], pooled[i])


def test_coca_of_open_clip(tmp_path: Path) -> None:
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": SIDE,
            "patch_size": PATCH,
            "layers": 2,
            "width": WIDTH,
            "head_width": 12,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {
            "context_length": 20,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
            "embed_cls": True,
            "output_tokens": True,
        },
        "multimodal_cfg": {
            "context_length": 20,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    model = open_clip.CoCa(**config)
    # open_clip leaves one weight of the text decoder as the memory was.
    save_file(
        {n: v.nan_to_num(0, 0, 0).contiguous() for n, v in model.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {**config, "custom_text": True}, "preprocess_cfg": {}})
    )
    encoder = VisionEncoder(tmp_path)
    patches, pooled = encoder.encode(pictures())
    text = encoder.encode_text(["a cat"])
    assert text is not None
    assert patches.shape == (3, PATCHES, WIDTH) and pooled.shape == (3, 16) == (3, text.shape[1])
    assert encoder.fits("a cat") and not encoder.fits("a cat " * 12)


def test_wrong_encoders_are_said_in_one_line(tmp_path: Path, parts: Path) -> None:
    for name, message in (
        ("ViT-B-32", "names no weights; expected"),
        ("nobody/nothing-at-all", "cannot load the vision encoder nobody/nothing-at-all"),
        (
            str(parts / "language_model"),
            "expected the folder or hub id of a CLIP, SigLIP, FLAVA or DINOv2",
        ),
        (str(tmp_path), "cannot load the vision encoder"),
    ):
        with pytest.raises(VLMIGError, match=message) as caught:
            VisionEncoder(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(VLMIGError, match="vision_features='all'; expected patches or pooled"):
        VisionEncoder(parts / "vision_encoder", features="all")


def test_identity_follows_weights_layer_and_kind(parts: Path, tmp_path: Path) -> None:
    first = VisionEncoder(parts / "vision_encoder")
    assert first.identity() == VisionEncoder(parts / "vision_encoder").identity()
    others = [
        VisionEncoder(parts / "vision_encoder", layer=0),
        VisionEncoder(parts / "vision_encoder", features="pooled"),
    ]
    changed = VisionEncoder(parts / "vision_encoder")
    assert isinstance(changed.tower.vision, CLIP)
    changed.tower.vision.visual.proj.data[0, 0] += 1
    described = {
        json.dumps(encoder.identity(), sort_keys=True) for encoder in (first, *others, changed)
    }
    assert len(described) == 4
