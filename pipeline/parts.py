"""Parts: the Arrow files that hold the arrays of a strip's chips, one record batch a chip, so that one is read alone.

The key of each chip, all that decides its bytes, stands in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from harmonize.problem import Problem
from pipeline.sample import DTYPE, GROUPS, group_shape
from pipeline.store import file_sha256

if TYPE_CHECKING:
    from pipeline.store import Store

PART = pa.schema(
    [
        pa.field("chip_id", pa.string()),
        *[pa.field(name, pa.large_binary(), nullable=True) for name in ("10m", "20m", "60m")],
        pa.field("sha256", pa.string(), nullable=True),
        pa.field("nodata", pa.float64(), nullable=True),
        pa.field("failure", pa.string(), nullable=True),
    ]
)


def keys_of(store: Store, name: str) -> list[str]:
    """Keys of the chips of a part; none where it cannot be read: its chips are then read from the source again."""
    try:
        keys: list[str] = json.loads(_open_part(store, name).schema.metadata[b"keys"])
        return keys
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError):
        return []


def stored(store: Store, name: str, row: int) -> dict[str, Any] | None:
    """A chip of a part as a record; None where it failed or was damaged."""
    try:
        record: dict[str, Any] = _chip(_open_part(store, name), row).to_pylist()[0]
    except (pa.ArrowInvalid, OSError):
        return None
    return record if _is_good(record) else None


def _is_good(record: dict[str, Any]) -> bool:
    """Whether a stored chip was read and still has the bytes that were hashed."""
    if record["failure"] or not record["sha256"]:
        return False
    digest = hashlib.sha256(b"".join(record[name] for name in ("10m", "20m", "60m") if record[name] is not None))
    return digest.hexdigest() == record["sha256"]


def is_whole(store: Store, name: str, keys: list[str]) -> bool:
    """Whether a part is there, holds these chips, and none of them failed or was damaged since."""
    if not store.exists(name):
        return False
    try:
        part = _open_part(store, name)
        if json.loads(part.schema.metadata[b"keys"]) != keys or part.num_record_batches != len(keys):
            return False
        return all(_is_good(_chip(part, k).to_pylist()[0]) for k in range(len(keys)))
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError):
        return False  # damaged: it is cut again


def _open_part(store: Store, name: str) -> pa.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(store.local(name))))


def _chip(part: pa.RecordBatchFileReader, row: int) -> pa.RecordBatch:
    """One chip's record batch. Lengths of a damaged one may lead anywhere in memory, so they are checked first.

    Raises ArrowInvalid.
    """
    batch = part.get_batch(row)
    batch.validate(full=True)
    return batch


def write_part(store: Store, name: str, keys: list[str], records: Iterable[dict[str, Any] | None]) -> None:
    """Write a part as its chips come: a whole strip of arrays is never held."""
    schema = PART.with_metadata({"keys": json.dumps(keys)})
    with store.drafting(name) as draft, draft.open("wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for record in records:
                writer.write_batch(pa.RecordBatch.from_pylist([record], schema=schema))
        file.flush()
        os.fsync(file.fileno())


def read_part(store: Store, name: str) -> tuple[str, list[dict[str, Any]]]:
    """sha256 of a part and its records without the pixels."""
    table = _open_part(store, name).read_all().select(["chip_id", "sha256", "nodata", "failure"])
    return file_sha256(store.local(name)), table.to_pylist()


MOST_OPEN = 1000
"""Parts that are open at once, where the process may have twice as many files: each is one."""


def _most_open() -> int:
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # of an ordinary shell 1024
    return MOST_OPEN if allowed == resource.RLIM_INFINITY else max(1, min(MOST_OPEN, allowed // 2))


class Parts:
    """Reads stored chips one by one; parts stay open, since opening one takes longer the more chips it has."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[str, pa.RecordBatchFileReader] = {}
        self._most = _most_open()

    def read_chip(self, part: str, row: int, sensor: str, size_px: int) -> dict[str, np.ndarray]:
        """The stored arrays of one chip, by group, without reading its neighbours."""
        try:
            if part not in self._open:
                if len(self._open) >= self._most:
                    self._open.pop(next(iter(self._open)))
                self._open[part] = _open_part(self._store, part)
            batch = _chip(self._open[part], row)
        except (pa.ArrowInvalid, OSError) as error:
            fix = "make redo STAGE=pixels REGION=… cuts what is damaged again"
            raise Problem(f"{part} is damaged: {error}", where=self._store.root, fix=fix, code=4) from None
        kind = np.dtype(DTYPE[sensor]).newbyteorder("<")
        return {
            group.name: np.frombuffer(batch.column(group.name)[0].as_buffer(), kind).reshape(
                group_shape(group, size_px)
            )
            for group in GROUPS[sensor]
        }


def read_chip(store: Store, part: str, row: int, sensor: str, size_px: int) -> dict[str, np.ndarray]:
    """The stored arrays of one chip, by group."""
    return Parts(store).read_chip(part, row, sensor, size_px)
