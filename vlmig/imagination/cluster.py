"""Many accelerators: Ray's actors draw and encode, and this process alone writes to the store.

An image depends on its request alone, so that any number of actors gives the bytes of one process.
Ray starts an actor that died again and repeats what it had not given back.
"""

from __future__ import annotations

import os
import pickle
import re
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from vlmig.errors import VLMIGError, one_line
from vlmig.imagination import Request
from vlmig.imagination.pipeline import BATCH, Imagination
from vlmig.imagination.store import (
    COLUMNS,
    Address,
    FeatureStore,
    Imagined,
    Row,
    describe,
    packed,
)
from vlmig.models.config import VLMIGConfig
from vlmig.runtime import Stopwatch
from vlmig.vision.files import BadImage

KINDS = {"seed": "int64", "redraws": "int64"}
KINDS |= {"features": "large_binary", "picture": "large_binary"}
"""Arrow's types of the store's columns; the others are texts."""
REDRAWS = COLUMNS.split(", ").index("redraws")


class Cluster:
    """Actors of a Ray cluster: the one of RAY_ADDRESS, else this machine's.

    Args:
        actors: how many; when None one for each accelerator of the cluster, or, without any, for
            each CPU.

    Raises:
        VLMIGError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, actors: int | None = None) -> None:
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise VLMIGError(
                f'--engine ray needs Ray Data ({one_line(error)}); pip install "vlmig[ray]"'
            ) from None
        if not ray.is_initialized():
            _start(ray, actors)
        self.ray, resources = ray, ray.cluster_resources()
        accelerators = int(resources.get("GPU", 0))
        self.on_gpu = accelerators > 0
        self.actors = actors or accelerators or int(resources.get("CPU", 1))

    def make(self, imagination: Imagination, missing: Mapping[Request, Address]) -> Iterator[str]:
        """Draw and encode requested images on all actors, and store them here as they come.

        Yields:
            The key of each stored image, in any order.

        Raises:
            VLMIGError: an actor cannot draw; what was stored stays.
        """
        for key, redraws, _ in self._run(imagination, Drawing, imagination.described, missing):
            imagination.tally.count(redraws)
            yield key

    def encode(
        self, imagination: Imagination, read: Callable[[Any], Image], wanted: Mapping[Address, Any]
    ) -> Iterator[tuple[str, str]]:
        """Read and encode images on all actors, and store their features here.

        Yields:
            The key of each, and why it cannot be read; empty for those that were stored.

        Raises:
            VLMIGError: an actor cannot encode; what was stored stays.
        """
        described = describe(imagination.encoder.identity())
        for key, _, fault in self._run(imagination, Reading, described, wanted.items(), read):
            yield key, fault

    def _run(
        self,
        imagination: Imagination,
        actor: type[Actor],
        identity: str,
        work: Iterable[Any],
        *more: Any,
    ) -> Iterator[tuple[str, int, str]]:
        """Have actors turn work into rows, and store these: key, redraws and fault of each."""
        size = max(BATCH, 3 * imagination.together)
        blocks = _blocks(work, size)
        if not blocks:
            return
        folder, images = str(imagination.folder), imagination.store.images
        made = self.ray.data.from_arrow(blocks).map_batches(
            actor,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=(imagination.config, folder, identity, images, *more),
            compute=self.ray.data.ActorPoolStrategy(size=self.actors),
            num_cpus=1,
            num_gpus=1 if self.on_gpu else None,
        )
        try:
            for block in made.iter_batches(batch_size=None, batch_format="pyarrow"):
                lists = [column.to_pylist() for column in block.columns]
                rows = list(zip(*lists, strict=True))
                imagination.store.write([row[:-1] for row in rows if not row[-1]])
                for row in rows:
                    yield row[0], row[REDRAWS], row[-1]
        except self.ray.exceptions.RayError as error:
            raise VLMIGError(_reason(error)) from error


def _start(ray: Any, actors: int | None) -> None:
    """Join the cluster of RAY_ADDRESS, or start one here.

    Raises:
        VLMIGError: neither works.
    """
    local: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        local = {"num_cpus": max(os.cpu_count() or 1, actors or 1), "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level="error", **local)
    except Exception as error:  # of its many processes and sockets
        raise VLMIGError(
            f"no Ray cluster ({one_line(error)}); expected one at RAY_ADDRESS, or none named there "
            "and a machine that may start one and is not too busy for it"
        ) from error


class Actor:
    """One process that draws and encodes, and stores nothing.

    Args:
        config: names the components.
        folder: the checkpoint's, which this machine has to have too.
        identity: what decides an image, as the process that stores it describes it.
        images: whether images are stored with their features.

    Raises:
        VLMIGError: no such folder here, or other weights in it.
    """

    def __init__(self, config: VLMIGConfig, folder: str, identity: str, images: bool) -> None:
        if not Path(folder).is_dir():
            raise VLMIGError(
                f"no folder {folder} on {socket.gethostname()}; expected the checkpoint at the "
                "same place on all machines; use a shared file system"
            )
        self.images, self.temporary = images, tempfile.TemporaryDirectory()
        store = FeatureStore(self.temporary.name)  # stays empty: a place for a gallery's index
        self.imagination = Imagination(config, Path(folder), store, Stopwatch())
        if self.identity() != identity:
            raise VLMIGError(
                f"{socket.gethostname()} has another generator or encoder: {self.identity()}; "
                f"expected {identity}; use the same files, and set imaginer_dtype and "
                "imaginer_batch where only some machines have a GPU"
            )

    def identity(self) -> str:
        """Return what decides a row beside the work."""
        raise NotImplementedError

    def rows(self, work: list[Any]) -> Iterator[Row]:
        """Yield the store's row for each piece of work, and at its end a fault or nothing."""
        raise NotImplementedError

    def __call__(self, block: Any) -> Any:
        """Turn a table of work into one of rows."""
        import pyarrow as pa

        rows = list(self.rows([pickle.loads(work) for work in block["work"].to_pylist()]))
        names = [*COLUMNS.split(", "), "fault"]
        columns = []
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            columns.append(pa.array(values, getattr(pa, KINDS.get(name, "large_string"))()))
        return pa.table(columns, names)


class Drawing(Actor):
    """Draws requested images."""

    def identity(self) -> str:
        """Return what decides an image."""
        return self.imagination.described

    def rows(self, work: list[Request]) -> Iterator[Row]:
        """Draw and encode."""
        for request, item in zip(work, self.imagination.draw(work), strict=True):
            yield *packed(self.imagination.address(request), item, self.images), ""


class Reading(Actor):
    """Reads images that exist, such as files; ``read`` opens one."""

    def __init__(
        self, config: VLMIGConfig, folder: str, identity: str, images: bool, read: Callable
    ) -> None:
        super().__init__(config, folder, identity, images)
        self.read = read

    def identity(self) -> str:
        """Return what decides features beside the image."""
        return describe(self.imagination.encoder.identity())

    def rows(self, work: list[tuple[Address, Any]]) -> Iterator[Row]:
        """Read and encode."""
        good: dict[Address, Image] = {}
        for address, item in work:
            try:
                good[address] = self.read(item)
            except BadImage as reason:
                yield address.key, "", 0, "", 0, "", b"", b"", str(reason)
        if good:
            patches, pooled = self.imagination.encoder.encode(list(good.values()))
            for address, *tensors in zip(good, patches, pooled, strict=True):
                yield *packed(address, Imagined(None, *tensors), False), ""


def _blocks(work: Iterable[Any], size: int) -> list[Any]:
    """Return tables of work, each what an actor does at a time, and at most loses.

    Work is pickled: it comes from this command, over Ray's own connections, which pickle as well.
    """
    import pyarrow as pa

    rows, blocks = [pickle.dumps(one) for one in work], []
    for start in range(0, len(rows), size):
        blocks.append(pa.table({"work": pa.array(rows[start : start + size], pa.large_binary())}))
    return blocks


def _reason(error: BaseException) -> str:
    """Find what an actor said among the errors that Ray wraps around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, VLMIGError):
            return str(inner)
        inner = getattr(inner, "cause", None) or inner.__cause__
    if said := re.search(r"VLMIGError: (.+)", str(error)):  # in a traceback of an actor's start
        return said[1]
    return (
        f"Ray's actors failed: {one_line(error)}; expected them to draw; the same command goes on, "
        "or draws here without --engine"
    )
