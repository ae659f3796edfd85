"""What the pocket adapter learns from: recoloured scenes of supervised concepts, and captions that say their colour.

The colour is drawn anew for every scene and its label read from the pixels, so the text alone cannot know it; with
natural colours the layer would learn to ignore the pictures. ``configs/pocket.yaml`` trains on them.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from vlmig.imagination.store import FeatureStore
from vlmig.io.atomic import write_text
from vlmig.models.checkpoint import load_language_model
from vlmig.models.config import VLMIGConfig
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.pocket.scene_source import RecoloredScenes
from vlmig.vision import VisionEncoder

VISION_LAYER = -3
"""The second block of four: later ones know more of names and less of colours."""


def train_pocket_adapter(model: Path, work: Path, *, recipe: str) -> None:
    """Train the adapter of a pocket world by a recipe, as ``vlmig train`` does, and put it into the world's folder."""
    from vlmig.training import load_recipe, train  # with accelerate, which the sources above do not need

    if not (model / "config.json").exists():
        begin_checkpoint(model)
    changes = [f"model.from={model}", f"stages.0.data.0.generator={model / 'generator'}"]
    chosen = load_recipe(Path(recipe), changes)
    trained = train(
        chosen, work / Path(recipe).stem, store=FeatureStore(work / "store"), own={"pocket": RecoloredScenes}
    )
    trained.model.save_pretrained(model)


def begin_checkpoint(out: Path) -> None:
    """Write the checkpoint of a world whose parts are there, with an untrained adapter."""
    base = load_language_model(VLMIGForCausalLM.auto_class, str(out / "language_model"))
    AutoTokenizer.from_pretrained(out / "language_model")  # or the folder would be of no use
    blank = VisionEncoder(out / "vision_encoder", VISION_LAYER).encode_blank()
    config = VLMIGConfig(
        text_config=base.config.to_dict(),
        vision_width=blank.shape[1],
        vision_patches=blank.shape[0],
        vision_layer=VISION_LAYER,
        imaginer_steps=8,
        imaginer_guidance=3.0,
        imaginer_size=64,
        imaginer_batch=3,
        projector_width=256,
        fusion_heads=6,
    )
    write_text(out / "README.md", (Path(__file__).parent / "card.md").read_text())
    VLMIGForCausalLM(config, base).save_pretrained(out)
