"""Metrics and statistics of a run."""
