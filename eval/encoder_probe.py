"""What the encoder's features hold of colours and shapes: how well a linear classifier reads them.

python -m eval.encoder_probe --scenes runs/pocket/scenes.npy

It is fitted to recoloured and reshaped scenes of supervised things, as the adapter is, and read on
other such scenes and on drawn scenes of held-out things. Features are the mean, the greatest value
and the spread over the patches, of each block of the encoder. Needs Noto Color Emoji.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.picture_quality import opened, share
from vlmig.models.checkpoint import POCKET
from vlmig.pocket.concepts import load_concepts
from vlmig.pocket.scene_source import Drawn, RecoloredScenes
from vlmig.pocket.scenes import scene
from vlmig.vision import VisionEncoder

LAYERS = (-4, -3, -2, -1)
UNSEEN = 1000
"""From this number on a concept's scenes are in no training of encoder or adapter."""


def altered_scenes(count: int) -> tuple[list[Image.Image], list[Drawn]]:
    """Draw scenes of supervised things, recoloured and reshaped, and what each shows."""
    source, rng = RecoloredScenes(), random.Random(0)
    images, facts = [], []
    for _ in range(count):
        drawn, noise = source.drawn(
            rng.randrange(len(source.concepts)), UNSEEN + rng.randrange(200)
        )
        images.append(scene(drawn.ink, noise))
        facts.append(drawn)
    return images, facts


def pooled(encoder: VisionEncoder, images: Sequence[Image.Image]) -> np.ndarray:
    """Return mean, greatest value and spread of the patch features of images, (n, 3 C)."""
    patches = torch.cat([encoder.encode(images[i : i + 64])[0] for i in range(0, len(images), 64)])
    patches = patches.float()
    return torch.cat([patches.mean(1), patches.amax(1), patches.std(1)], 1).numpy()


def main(argv: Sequence[str] | None = None) -> int:
    """Fit and print a line for each layer, colour and shape."""
    parser = argparse.ArgumentParser(prog="python -m eval.encoder_probe", description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--count", type=int, default=3000)
    given = parser.parse_args(argv)
    pools = np.load(given.scenes, mmap_mode="r")
    concepts = load_concepts()
    held_out = [i for i, c in enumerate(concepts) if c.split == "held_out" and not c.calibration]
    images, facts = altered_scenes(given.count)
    fitted = given.count * 5 // 6
    drawn = [opened(pool[held_out, 0]) for pool in pools]
    for layer in LAYERS:
        encoder = VisionEncoder(str(POCKET / "vision_encoder"), layer)
        features = pooled(encoder, images)
        held_out_features = [pooled(encoder, some) for some in drawn]
        for look in ("color", "shape"):
            labels = np.array([getattr(fact, look) for fact in facts])
            right = np.array([getattr(concepts[i], look) for i in held_out])
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
            model.fit(features[:fitted], labels[:fitted])
            parts = [f"others {share(model.predict(features[fitted:]) == labels[fitted:])}"]
            for number, some in enumerate(held_out_features):
                parts.append(f"held-out, set {number + 1} {share(model.predict(some) == right)}")
            print(f"layer {layer}, {look}: {'; '.join(parts)}", flush=True)
    for look in ("color", "shape"):
        most = Counter(getattr(concepts[i], look) for i in held_out).most_common(1)[0]
        print(
            f"{look}: {len(held_out)} held-out things, {100 * most[1] / len(held_out):.1f} % {most[0]}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
