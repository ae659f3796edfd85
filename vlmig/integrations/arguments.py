"""The arguments of ``VlmigLM``, checked, the model that they name, and lm-eval's cache of its
answers."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

import torch

from vlmig.errors import VLMIGError
from vlmig.evaluation.journal import fingerprint
from vlmig.models.checkpoint import absolute
from vlmig.models.config import POLICIES, REFERENCE
from vlmig.predict.predictor import VLMIG

BATCH = 32
OWNER = "vlmig: the model that gave these answers"


def check(k: int, policy: str | None) -> None:
    """Refuse a k, a policy or a number of processes that cannot be.

    Raises:
        VLMIGError: one of them is wrong.
    """
    if not isinstance(k, int) or k < 0:
        raise VLMIGError(f"k={k!r}; expected 0 (text only) or more images")
    if policy not in (None, *POLICIES):
        raise VLMIGError(f"policy={policy!r}; expected one of {', '.join(POLICIES)}")
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise VLMIGError(
            f"WORLD_SIZE={processes}, but lm-eval runs in one process here; imagine with torchrun "
            "-m vlmig.cli imagine --prompts, then run vlmig lm-eval without it"
        )


def batch_of(size: int | str) -> int:
    """Parse lm-eval's ``--batch_size``; ``auto`` is the default size.

    Raises:
        VLMIGError: something else.
    """
    if str(size).startswith("auto"):
        return BATCH
    if not str(size).isdigit() or not int(size):
        raise VLMIGError(f"batch_size={size!r}; expected a positive number, or auto")
    return int(size)


def loaded(pretrained: str | VLMIG, fields: dict[str, Any]) -> VLMIG:
    """Load a model, its LM on lm-eval's ``--device`` where there is a GPU.

    Raises:
        VLMIGError: fields next to a loaded model.
    """
    device, _ = fields.pop("device", None), fields.pop("max_batch_size", None)
    if isinstance(pretrained, VLMIG):
        if fields:
            raise VLMIGError(
                f"{', '.join(fields)} beside a loaded model; expected them where it is loaded"
            )
        return pretrained
    protocol = fields.pop("protocol", None)
    if protocol:
        fields = {**(REFERENCE if protocol == "reference" else {"protocol": protocol}), **fields}
    if "imaginer" in fields:
        fields["imaginer"] = absolute(fields["imaginer"])
    if device and torch.cuda.is_available():
        fields.setdefault("device_map", device)
    return VLMIG.from_pretrained(pretrained, **fields)


def claim(answers: MutableMapping[str, Any], model: VLMIG, k: int) -> None:
    """Use lm-eval's cache (``--use_cache``), which finds an answer by its text alone, for the
    answers of one model, by its content.

    Raises:
        VLMIGError: the cache holds answers of another model, or k is not 0: other images or other
            candidates give the same text another answer.
    """
    if k:
        raise VLMIGError(
            f"--use_cache keeps answers by their text, but with k={k} images decide too; leave it "
            "out (the store keeps the images), or choose k=0"
        )
    identity, before = fingerprint(model), answers.get(OWNER)
    if len(answers) and before != identity:
        raise VLMIGError(
            "--use_cache names a file with another model's answers, which are found by their text "
            "alone; expected a new file, or this model's: name another"
        )
    answers[OWNER] = identity
