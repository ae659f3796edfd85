"""Sources of image-text pairs: one file per format."""
