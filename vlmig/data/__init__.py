"""Training data: pictures with captions."""
