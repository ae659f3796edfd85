"""Kinds of fusion: cross-attention, a layer of the LM's family, a prefix of visual tokens."""
