"""The error that a user can cause: what came, what was expected, and the cure, in one line."""

from __future__ import annotations


class VLMIGError(ValueError):
    """Bad input; the command line prints it without a traceback and exits with status 2."""


def one_line(error: BaseException, whole: bool = False) -> str:
    """Return what another library's error says, in one line: its first line, or the whole text."""
    text = str(error).strip()
    return " ".join((text if whole else text.split("\n")[0]).split()) or type(error).__name__
