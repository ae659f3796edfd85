"""Instruction data as LLaVA's was made: a language model that sees no pixels writes dialogues from
captions and boxes."""
