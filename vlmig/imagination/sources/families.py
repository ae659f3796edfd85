"""Sampling settings of each family of text-to-image models, by the pipeline's name or class."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmig.io.weights import read_described

BATCH = 8
"""Images per call of a pipeline."""


@dataclass(frozen=True)
class Sampling:
    """Settings of a text-to-image pipeline."""

    steps: int
    guidance: float
    """Classifier-free guidance scale; 0 for distilled models."""
    size: int
    """Side of an image in pixels."""
    dtype: str = "float16"
    """Precision on an accelerator; on a CPU it is float32."""
    batch: int = BATCH
    """Images per call; rounding may depend on it."""
    vae: str | None = None
    """A smaller decoder (``AutoencoderTiny``, such as madebyollin/taesd)."""
    compile: bool = False
    """Compile the denoiser: slower to start, faster from a few hundred images on."""


STABILITY, COMMUNITY = "Stability, non-commercial", "Stability Community"
FAMILIES: tuple[tuple[str, Sampling, str], ...] = (
    (r"sd-?turbo", Sampling(1, 0.0, 512), STABILITY),
    (r"sdxl-?turbo", Sampling(1, 0.0, 512), STABILITY),
    (r"lcm|latentconsistency", Sampling(4, 8.0, 512), "MIT (Dreamshaper v7)"),
    (r"(?<![a-z])sana.?sprint", Sampling(2, 4.5, 1024, "bfloat16"), "NSCL v2, Gemma terms"),
    (r"(?<![a-z])sana", Sampling(20, 4.5, 1024, "bfloat16"), "NSCL v2, Gemma terms"),
    (
        r"flux.*klein.*base",
        Sampling(50, 4.0, 512, "bfloat16"),
        "Apache-2.0 (4B); 9B non-commercial",
    ),
    (r"flux.*klein", Sampling(4, 1.0, 512, "bfloat16"), "Apache-2.0 (4B); 9B non-commercial"),
    (r"flux\.?2", Sampling(50, 4.0, 1024, "bfloat16"), "non-commercial"),
    (r"flux.*schnell", Sampling(4, 0.0, 512, "bfloat16"), "Apache-2.0, gated"),
    (r"flux", Sampling(28, 3.5, 1024, "bfloat16"), "non-commercial"),
    (r"z-?image.?turbo", Sampling(8, 0.0, 1024, "bfloat16"), "Apache-2.0"),
    (r"z-?image", Sampling(50, 4.0, 1024, "bfloat16"), "Apache-2.0"),
    (r"chroma", Sampling(40, 3.0, 1024, "bfloat16"), "Apache-2.0"),
    (r"ovis", Sampling(50, 5.0, 1024, "bfloat16"), "Apache-2.0"),
    (r"lumina-?(image-?)?2", Sampling(50, 4.0, 1024, "bfloat16"), "Apache-2.0"),
    (r"lumina", Sampling(30, 4.0, 1024, "bfloat16"), "Apache-2.0"),
    (r"pixart.*512", Sampling(20, 4.5, 512), "OpenRAIL++"),
    (r"pixart", Sampling(20, 4.5, 1024), "OpenRAIL++"),
    (r"kandinsky.*prior", Sampling(25, 4.0, 0), "Apache-2.0; embeddings, no pixels"),
    (r"kandinsky", Sampling(25, 4.0, 512), "Apache-2.0"),
    (r"(stable-?diffusion|sd)-?3.*turbo", Sampling(4, 0.0, 1024, "bfloat16"), COMMUNITY),
    (r"(stable-?diffusion|sd)-?3", Sampling(28, 4.5, 1024, "bfloat16"), COMMUNITY),
    (r"stable-?diffusion-?xl|sdxl", Sampling(25, 5.0, 1024), "OpenRAIL++"),
    (r"stable-?diffusion", Sampling(25, 7.5, 512), "OpenRAIL"),
)
"""Pattern in a pipeline's name or class, settings, usual license; the first match counts."""
UNKNOWN = Sampling(25, 5.0, 512)


def family_of(name: str) -> Sampling | None:
    """Return the settings of a pipeline's family; None for an unknown one."""
    described = _described(name)
    for pattern, sampling, _ in FAMILIES:
        if re.search(pattern, described):
            return sampling
    return None


def sampling_for(name: str, **given: Any) -> Sampling:
    """Return a pipeline's settings: those given (not None), else its family's."""
    settings = {field: value for field, value in given.items() if value is not None}
    return replace(family_of(name) or UNKNOWN, **settings)


def _described(name: str) -> str:
    """Return a hub id, or the name and class in the index of a folder, in lower case."""
    index = Path(name) / "model_index.json"
    if not index.is_file():
        return name.lower()
    described = read_described(index)
    names = (described.get("_name_or_path", ""), Path(name).name, described.get("_class_name", ""))
    return " ".join(map(str, names)).lower()
