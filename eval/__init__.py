"""The benchmark suite: one small runnable file per table. It imports vlmig; vlmig never imports
it."""
