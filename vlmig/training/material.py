"""The pairs of one stage: read, curated, split by image, ordered, and encoded if features are
stored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmig.data.curation import Curation, curate, split
from vlmig.data.index import BAD, Index, check_share, index
from vlmig.data.pairs import Pair
from vlmig.data.sources.build import build_source, state_of_source
from vlmig.errors import VLMIGError
from vlmig.io.rows import Bad
from vlmig.models.base_weights import loaded
from vlmig.training.batches import Batches, Order, Share
from vlmig.training.images import PORTION, batched
from vlmig.training.model import frozen_digest
from vlmig.training.recipe import Stage, name_source
from vlmig.training.session import Session
from vlmig.training.states import States
from vlmig.training.texts import Tokens


class Material:
    """The training and validation pairs of a stage.

    Raises:
        VLMIGError: a source cannot be read, has too many bad records, or none to train on.
    """

    def __init__(self, session: Session, number: int, stage: Stage) -> None:
        self.session, recipe = session, session.recipe
        self.summaries: list[dict[str, Any]] = []
        tokenizer, network = session.model.tokenizer, session.model.model
        tokens = Tokens(tokenizer, network, stage.max_tokens, stage.mask_share)
        packed = Tokens(tokenizer, network, stage.max_tokens, stage.mask_share, stage.pack)
        trained, held_out = [], []
        for entry in stage.data:
            learnt, aside = self._share(dict(entry), tokens)
            trained.append(learnt)
            if len(aside.rows):
                held_out.append(aside)
        pairs = sum(len(share.rows) for share in trained)
        self.steps = stage.steps or max(1, round((stage.epochs or 0) * pairs / stage.batch))
        order = Order(trained, self.steps * stage.batch, (recipe.seed, number))
        self.batches = self._batches(order, packed, stage, stage.blank_share)
        count = min(recipe.validation.samples, sum(len(share.rows) for share in held_out))
        validation = Order(held_out, count, (recipe.seed, number, 1)) if count else None
        self.held_out = self._batches(validation, tokens, stage, 0.0) if validation else None
        if recipe.features == "stored":
            if stage.blank_share < 1:
                for summary, unreadable in zip(self.summaries, self._fill(order), strict=True):
                    summary["unreadable"] = unreadable
            if validation:
                self._fill(validation)
        if recipe.states == "stored":
            self._read([self.batches, *([self.held_out] if self.held_out else [])])

    def _batches(self, order: Order, tokens: Tokens, stage: Stage, blank_share: float) -> Batches:
        return Batches(
            order,
            tokens,
            self.session.images,
            size=stage.batch,
            micro=stage.micro_batch,
            blank_share=blank_share,
            process=self.session.process,
        )

    def _read(self, streams: Sequence[Batches]) -> None:
        """Let the frozen LM read every text that any of the streams draws.

        Raises:
            VLMIGError: the LM's states depend on more than a text's beginning.
        """
        session, network = self.session, self.session.model.model
        tokens = streams[0].tokens
        if tokens.masked or tokens.early:
            kind = "a masked LM" if tokens.masked else "fusion: prefix"
            raise VLMIGError(
                f"states: stored with {kind}; expected states: live, since there the LM does not "
                "read the same text in every epoch"
            )
        texts = (
            stream.tokens.batch(pairs)
            for stream in streams
            for pairs in batched(stream.order.pairs(), PORTION)
        )
        base = loaded(network.language_model)
        digest = base.digest if base else frozen_digest(network.language_model)
        states = States(texts, session.folder, network.width, digest)
        if not session.sharded:
            network.to(session.accelerator.device)

        @torch.no_grad()
        def read(ids: Tensor) -> Tensor:
            ids = ids.to(network.language_model.device)
            with session.accelerator.autocast():
                return network.trunk(input_ids=ids, use_cache=False).last_hidden_state

        with session.accelerator.main_process_first():
            if session.accelerator.is_main_process:
                with session.stopwatch("texts"):
                    states.fill(read)
        for stream in streams:
            stream.states = states

    def _share(self, entry: dict[str, Any], tokens: Tokens) -> tuple[Share, Share]:
        """Read a source: its training share and its held-out share."""
        session, recipe = self.session, self.session.recipe
        weight, limit = entry.pop("weight", None), entry.pop("limit", None)
        rules = Curation.from_mapping(entry.pop("curate", None))
        source = build_source(entry, session.data, tokens.tokenizer, session.own)
        state = state_of_source(entry, session.data)
        folder = index_folder(session.folder, entry, limit)
        with session.accelerator.main_process_first():
            read = index(source, folder, limit, state)
        check_share(read.bad, read.records, recipe.max_bad, source.name, folder / BAD)
        rows, dropped = curate(read, rules, lambda pairs: self._alignment(read, pairs))
        trained, aside = split(read, rows, recipe.validation.share, recipe.seed)
        if not len(trained):
            raise VLMIGError(
                f"{source.name} has no pairs to train on: {read.records} records, {len(rows)} "
                f"kept, {len(aside)} held out; see vlmig data check"
            )
        self.summaries.append(
            {
                "source": name_source(entry),
                **read.counts,
                "curated": dropped,
                "trained": len(trained),
                "held_out": len(aside),
            }
        )
        return Share(read, trained, weight), Share(read, aside, weight)

    def _alignment(self, read: Index, pairs: Sequence[Pair]) -> np.ndarray:
        return self.session.images.alignment(read.source, pairs).numpy()

    def _fill(self, order: Order) -> list[int]:
        """Encode every image that the order draws, each process a share of them.

        Returns:
            How many images of each source cannot be read.
        """
        session, unreadable = self.session, []
        number, count = session.process
        for i, share in enumerate(order.shares):
            rows, source = order.used(i), share.index.source
            mine = rows[number::count]
            pairs = (share.index[row] for row in mine)
            bad = session.images.fill(source, pairs, len(mine), quiet=number > 0)
            self.note_bad(bad)
            total = torch.tensor(len(bad), device=session.accelerator.device)
            unreadable.append(int(session.accelerator.reduce(total).item()))
            check_share(
                {"unreadable": unreadable[-1]},
                len(rows),
                session.recipe.max_bad,
                f"{source.name} (images)",
                self.bad_list,
            )
        return unreadable

    @property
    def bad_list(self) -> Path:
        """File that lists the images that this process could not read."""
        return self.session.folder / f"bad_pictures_{self.session.accelerator.process_index}.jsonl"

    def note_bad(self, bad: Sequence[Bad]) -> None:
        """List images that cannot be read, each once."""
        known = set()
        if bad and self.bad_list.exists():
            known = set(self.bad_list.read_text(encoding="utf-8").splitlines())
        for record in bad:
            line = json.dumps(dataclasses.asdict(record))
            if line not in known:
                known.add(line)
                with self.bad_list.open("a", encoding="utf-8") as file:
                    print(line, file=file)


def index_folder(folder: Path, entry: dict[str, Any], limit: int | None) -> Path:
    """Return where a run keeps the index of a source.

    Args:
        folder: of the run's training.
        entry: of the stage's data, without ``weight``, ``limit`` and ``curate``.
    """
    content = json.dumps([entry, limit], sort_keys=True, default=str)
    return folder / "data" / hashlib.sha256(content.encode()).hexdigest()[:12]
