"""Many accelerators: Ray's actors draw and encode, and this process alone writes to the store.

An image depends on its request alone, so that any number of actors gives the bytes of one process.
Ray starts an actor that died again and repeats what it had not given back.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError, one_line
from vlmig.imagination import Request
from vlmig.imagination.pipeline import BATCH, Imagination
from vlmig.imagination.store import COLUMNS, Address, FeatureStore, packed
from vlmig.models.config import VLMIGConfig
from vlmig.runtime import Stopwatch

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
            local: dict[str, Any] = {}
            if not os.environ.get("RAY_ADDRESS"):
                local = {"num_cpus": max(os.cpu_count() or 1, actors or 1)}
                local |= {"include_dashboard": False}
            try:
                ray.init(log_to_driver=False, logging_level="error", **local)
            except Exception as error:  # of its many processes and sockets
                raise VLMIGError(
                    f"no Ray cluster ({one_line(error)}); expected one at RAY_ADDRESS, or none "
                    "named there and a machine that may start one"
                ) from error
        self.ray, resources = ray, ray.cluster_resources()
        accelerators = int(resources.get("GPU", 0))
        self.on_gpu = accelerators > 0
        self.actors = actors or accelerators or int(resources.get("CPU", 1))

    def __call__(
        self, imagination: Imagination, missing: Mapping[Request, Address]
    ) -> Iterator[str]:
        """Draw and encode requested images on all actors, and store them here as they come.

        Yields:
            The key of each stored image, in any order.

        Raises:
            VLMIGError: an actor cannot draw; what was stored stays.
        """
        if not missing:
            return
        arguments = (
            imagination.config,
            str(imagination.folder),
            imagination.described,
            imagination.store.images,
        )
        blocks = self.ray.data.from_arrow(_blocks(list(missing), imagination.together))
        made = blocks.map_batches(
            Actor,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=arguments,
            compute=self.ray.data.ActorPoolStrategy(size=self.actors),
            num_cpus=1,
            num_gpus=1 if self.on_gpu else None,
        )
        try:
            for block in made.iter_batches(batch_size=None, batch_format="pyarrow"):
                rows = list(zip(*[column.to_pylist() for column in block.columns], strict=True))
                imagination.store.write(rows)
                for row in rows:
                    imagination.tally.count(row[REDRAWS])
                    yield row[0]
        except self.ray.exceptions.RayError as error:
            raise VLMIGError(_reason(error)) from error


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
        if self.imagination.described != identity:
            raise VLMIGError(
                f"{socket.gethostname()} has another generator or encoder: "
                f"{self.imagination.described}; expected {identity}; use the same files"
            )

    def __call__(self, block: Any) -> Any:
        """Turn a table of requests into one of the store's rows."""
        import pyarrow as pa

        requests = [Request(**row) for row in block.to_pylist()]
        rows = []
        for request, item in zip(requests, self.imagination.draw(requests), strict=True):
            rows.append(packed(self.imagination.address(request), item, self.images))
        names = COLUMNS.split(", ")
        kinds = {"seed": pa.int64(), "redraws": pa.int64()}
        kinds |= {"features": pa.large_binary(), "picture": pa.large_binary()}
        columns = []
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            columns.append(pa.array(values, kinds.get(name, pa.large_string())))
        return pa.table(columns, names)


def _blocks(requests: Sequence[Request], together: int) -> list[Any]:
    """Return tables of requests, each what an actor draws at a time, and at most loses."""
    import pyarrow as pa

    size = max(BATCH, 3 * together)
    blocks = []
    for start in range(0, len(requests), size):
        rows = [vars(request) for request in requests[start : start + size]]
        blocks.append(pa.Table.from_pylist(rows))
    return blocks


def _reason(error: BaseException) -> str:
    """Find what an actor said among the errors that Ray wraps around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, VLMIGError):
            return str(inner)
        inner = getattr(inner, "cause", None) or inner.__cause__
    return (
        f"Ray's actors failed: {one_line(error)}; expected them to draw; the same command goes on, "
        "or draws here without --engine"
    )
