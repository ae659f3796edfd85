"""Vision: from pictures to patch features, an embedding, and how well a picture fits its prompt."""

from vlmig.vision.encoder import BLANK, VisionEncoder, as_tensor
from vlmig.vision.files import Pictures, all_opened, frames, opened

__all__ = ["BLANK", "Pictures", "VisionEncoder", "all_opened", "as_tensor", "frames", "opened"]
