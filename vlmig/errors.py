"""The one error a user can cause: a single line that says what came, what was expected and the cure."""

from __future__ import annotations


class VLMIGError(ValueError):
    """Bad input; the command line prints it without a traceback and exits with status 2."""
