"""Sights: what the fusion layer makes of pictures, kept, so that a picture is read once for any number of questions about it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import torch

from vlmig.imagination.visuals import Visuals
from vlmig.models.base import VLMIGPreTrainedModel
from vlmig.models.text_states import VisualStates

BYTES = 2**27
"""What is kept at most: at the size of GPT-2 that of 60 sets of six pictures."""


class Sights:
    """Find what was made of pictures by their place in the store, and read those that were not seen lately.

    Whatever changes the adapter (training, loading, another precision) makes them be read again.

    Args:
        model: reads pictures, see ``VLMIGPreTrainedModel.encode_with_blank``.
    """

    def __init__(self, model: VLMIGPreTrainedModel) -> None:
        self.model = model
        self._kept: OrderedDict[tuple[str, ...], VisualStates] = OrderedDict()
        self._bytes, self._adapter = 0, self._versions()
        self._lock = Lock()

    def __call__(self, seen: Sequence[Visuals]) -> VisualStates | None:
        """Return what ``VLMIGPreTrainedModel.encode_with_blank`` makes of the pictures of B texts, K of each; None where K is 0."""
        if not len(seen[0].features):
            return None
        if (versions := self._versions()) != self._adapter:
            self._adapter, self._bytes = versions, 0
            self._kept.clear()
        found = {name: self._find(own) for name, own in {id(own): own for own in seen}.items()}
        if len(found) == 1:
            (only,) = found.values()
            return tuple(part.expand(len(seen), *part.shape[1:]) for part in only)
        return tuple(torch.cat(parts) for parts in zip(*(found[id(own)] for own in seen), strict=True))

    def _find(self, own: Visuals) -> VisualStates:
        key = tuple(own.keys)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        features = own.features[None].to(self.model.device)
        self.model.check_features(features, None, 1)
        states = self.model.encode_with_blank(features)
        # Given pictures have no place in the store; and in early fusion the LM's own layers read pictures, with the text.
        if all(key) and not self.model.config.images_in_text:
            with self._lock:
                self._keep(key, states)
        return states

    def _keep(self, key: tuple[str, ...], states: VisualStates) -> None:
        """Keep one more set, and the sets used last as far as there is room."""
        self._bytes += 0 if key in self._kept else _size(states)
        self._kept[key] = states
        while self._bytes > BYTES:
            self._bytes -= _size(self._kept.popitem(last=False)[1])

    def _versions(self) -> list[tuple[int, int]]:
        """Number the states of the adapter: every change in place counts up, every other one makes new tensors."""
        adapter = (*self.model.projector.parameters(), *self.model.fusion.parameters(), self.model.blank_features)
        return [(id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in adapter]


def _size(states: VisualStates) -> int:
    return sum(part.numel() * part.element_size() for part in states)
