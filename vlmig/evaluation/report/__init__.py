"""Reports: a table for the terminal, and self-contained pages with every picture and distribution."""

from vlmig.evaluation.report.answer import write_answer, write_reply
from vlmig.evaluation.report.page import write_report
from vlmig.evaluation.report.terminal import table
from vlmig.evaluation.report.versus import compare_runs

__all__ = ["compare_runs", "table", "write_answer", "write_reply", "write_report"]
