"""The requests to the teacher, put together from the texts of ``prompts.yaml``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from vlmig.data.instruct.contexts import Context
from vlmig.io.hashing import number_of

KINDS = ("conversation", "detail", "reasoning")
PLACE = Path(__file__).parent / "prompts.yaml"
Message = dict[str, str]
"""``role`` and ``content``, as chat templates and endpoints expect them."""


class Prompts:
    """The texts, and the requests made of them.

    Attributes:
        version: changes with any letter of the texts; kept in every row.
    """

    def __init__(self) -> None:
        content = PLACE.read_bytes()
        texts = yaml.safe_load(content)
        self.version = f"{texts['version']}-{hashlib.sha256(content).hexdigest()[:8]}"
        self.common, self.repair = texts["common"], texts["repair"]
        self.requests = texts["requests"]
        self.kinds: dict[str, dict[str, Any]] = texts["kinds"]
        self.examples: list[dict[str, Any]] = texts["examples"]

    def request(self, image: str, seed: int) -> str:
        """Choose the question of a detailed description, from image and seed."""
        return self.requests[number_of(f"{image} request", seed) % len(self.requests)]

    def messages(
        self, kind: str, context: Context, request: str = "", complaint: str = ""
    ) -> list[Message]:
        """Make the messages of one request: rules, worked examples, the image in words.

        Args:
            kind: one of ``KINDS``.
            context: the image; a conversation is written from its phrases alone.
            request: the question of a detailed description.
            complaint: why an earlier reply could not be used.
        """
        messages = [
            {
                "role": "system",
                "content": f"{self.common.strip()}\n\n{self.kinds[kind]['task'].strip()}",
            }
        ]
        for number, example in enumerate(self.examples):
            boxes = tuple((name, tuple(box)) for name, box in example["boxes"])
            sample = Context(str(number), "", tuple(example["phrases"]), boxes)
            messages += [
                self._user(kind, sample, self.requests[number]),
                {"role": "assistant", "content": json.dumps(example[kind], ensure_ascii=False)},
            ]
        return [*messages, self._user(kind, context, request, complaint)]

    def _user(self, kind: str, context: Context, request: str, complaint: str = "") -> Message:
        text = context.text(boxes=self.kinds[kind]["boxes"])
        if kind == "detail":
            text += f"\n\nRequest: {request}"
        if complaint:
            text += "\n\n" + self.repair.strip().format(reason=complaint)
        return {"role": "user", "content": text}
