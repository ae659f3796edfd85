"""Image sources: diffusion models, given images."""
