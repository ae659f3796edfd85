"""Vision: from pictures to patch features, an embedding, and how well a picture fits its prompt."""

from vlmig.vision.encoder import BLANK, VisionEncoder, as_tensor

__all__ = ["BLANK", "VisionEncoder", "as_tensor"]
