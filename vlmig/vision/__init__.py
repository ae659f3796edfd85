"""Vision: images from files, their patch features and their embeddings."""

from vlmig.vision.encoder import BLANK, VisionEncoder, as_tensor
from vlmig.vision.files import ImageInputs, all_opened, frames, opened

__all__ = ["BLANK", "ImageInputs", "VisionEncoder", "all_opened", "as_tensor", "frames", "opened"]
