"""Image sources: diffusion models, given pictures."""
