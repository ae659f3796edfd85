"""Training data: images with captions."""
