"""``vlmig lm-eval``: lm-eval's own command line, with this package's model and tasks."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from lm_eval._cli import HarnessCLI
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.utils import setup_logging

import vlmig.integrations.lm_eval  # noqa: F401 - registers the model
from vlmig.errors import VLMIGError, one_line
from vlmig.integrations.arguments import BATCH

TASKS = Path(__file__).parent / "lm_eval_tasks"


def run(arguments: Sequence[str]) -> None:
    """Run lm-eval's command line.

    Args:
        arguments: as after ``lm-eval``; the model is ``vlmig`` unless they name another.

    Raises:
        VLMIGError: lm-eval's own complaint about its arguments.
    """
    setup_logging()
    parser, before = HarnessCLI(), sys.argv
    sys.argv = ["lm-eval", *arguments]  # lm-eval parses nothing else
    try:
        chosen = parser.parse_args()
    finally:
        sys.argv = before
    try:
        if hasattr(chosen, "include_path"):
            complete(chosen)
        parser.execute(chosen)
    except (ValueError, FileNotFoundError) as error:
        if not _said_by_lm_eval(error):
            raise
        reason = one_line(error)
        raise VLMIGError(
            f"lm-eval: {reason}; see vlmig lm-eval run --help, and vlmig lm-eval ls tasks"
        ) from error


def _said_by_lm_eval(error: Exception) -> bool:
    """Tell whether lm-eval itself raised this, not something that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("lm_eval.")


def complete(chosen: argparse.Namespace) -> None:
    """Add this package's tasks to the user's, and choose its model where neither option nor file
    names one."""
    file = (
        EvaluatorConfig.load_yaml_config(chosen.config) if getattr(chosen, "config", None) else {}
    )
    paths = chosen.include_path or file.get("include_path") or []
    chosen.include_path = [str(TASKS), *([paths] if isinstance(paths, str) else paths)]
    if not hasattr(chosen, "model"):  # lm-eval ls, lm-eval validate
        return
    chosen.model = chosen.model or file.get("model", "vlmig")
    if chosen.model == "vlmig" and "batch_size" not in {*vars(chosen), *file}:
        chosen.batch_size = str(BATCH)  # lm-eval's own is one text at a time
