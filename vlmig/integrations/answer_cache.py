"""lm-eval's cache of answers (``--use_cache``), which finds an answer by its text alone."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.evaluation.journal import fingerprint
from vlmig.predict.predictor import VLMIG

OWNER = "vlmig: the model that gave these answers"


def claim(answers: MutableMapping[str, Any], model: VLMIG, k: int) -> None:
    """Use a cache for the answers of one model, by its content.

    Raises:
        VLMIGError: the cache holds answers of another model, or k is not 0: other images or other
            candidates give the same text another answer.
    """
    if k:
        raise VLMIGError(
            f"--use_cache keeps answers by their text, but with k={k} images decide too; leave it "
            "out (the store keeps the images), or choose k=0"
        )
    own, before = fingerprint(model), answers.get(OWNER)
    if len(answers) and before != own:
        raise VLMIGError(
            "--use_cache names a file with another model's answers, which are found by their text "
            "alone; expected a new file, or this model's: name another"
        )
    answers[OWNER] = own
