"""The recipe that makes the embedded generator."""
