"""Published checkpoints in other formats, converted to ours."""
