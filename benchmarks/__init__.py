"""Benchmarks: how fast the package is beside plain loops over the same libraries. It imports
vlmig; vlmig never imports it."""
