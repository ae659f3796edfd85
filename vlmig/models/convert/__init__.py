"""Conversion of published checkpoints in other formats."""
