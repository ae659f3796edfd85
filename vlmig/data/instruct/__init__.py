"""Instruction data in LLaVA's way: a language model writes dialogues from captions and boxes
alone."""
