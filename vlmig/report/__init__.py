"""Reports: tables for the terminal, and self-contained HTML pages with every image."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmig.report.answer import write_answer, write_reply
    from vlmig.report.comparison import compare_runs
    from vlmig.report.run_page import write_report
    from vlmig.report.tables import table


__all__ = ["compare_runs", "table", "write_answer", "write_reply", "write_report"]
_HOMES = {
    "compare_runs": "comparison",
    "table": "tables",
    "write_answer": "answer",
    "write_reply": "answer",
    "write_report": "run_page",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that wrong input fails before torch loads."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmig.report' has no attribute {name!r}")
    return getattr(import_module(f"vlmig.report.{_HOMES[name]}"), name)
