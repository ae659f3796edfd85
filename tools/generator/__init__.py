"""The recipe of the new embedded generator."""
