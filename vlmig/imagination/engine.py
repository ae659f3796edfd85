"""What may fill a store in place of the process that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from PIL import Image

from vlmig.imagination import Request
from vlmig.imagination.store import Address


class Engine(Protocol):
    """Draws and encodes somewhere else, and stores here."""

    def make(self, imagination: Any, missing: Mapping[Request, Address]) -> Iterator[str]:
        """Store requested images of an ``Imagination``; yield the key of each."""
        ...

    def encode(
        self, imagination: Any, read: Callable[[Any], Image.Image], wanted: Mapping[Address, Any]
    ) -> Iterator[tuple[str, str]]:
        """Store the features of images that exist already.

        Args:
            read: opens one of ``wanted``; may raise ``BadImage``.

        Yields:
            The key of each, and why it cannot be read; empty for those that were stored.
        """
        ...
