"""Job of verify: a part of pixels against its hash, and its chips against their rows of the pixels table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.verify_files import FileCheck, check_file
from pipeline.verify_sample import chosen
from pipeline.verify_tar import Checked, Finding, Place

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store import Store

ARRAYS = ("10m", "20m", "60m")


@dataclass(frozen=True)
class PartCheck:
    """What one job needs to check one part."""

    file: FileCheck
    rows: pa.Table
    """Columns chip_id, row and sha256 of the pixels table, of the chips that it has in this part."""
    share: float
    """Of the chips, whose arrays are hashed one by one; all of them where the file's own hash is wrong."""


def check_part(place: Place, check: PartCheck) -> Checked:
    """Job: read a part once, and where its hash is wrong again, to name the chips that are damaged."""
    checked = check_file(place, check.file)
    name, fix = check.file.file, check.file.fix
    if not place.store.exists(name):
        return checked
    share = 1.0 if checked.findings else check.share
    rows = [row for row in check.rows.to_pylist() if chosen(row["chip_id"], share)]
    found = [Finding(name, chip, what, fix) for chip, what in _chips_wrong(place.store, name, rows)]
    return Checked(checked.findings + found, checked.bytes, close=len(rows))


def _chips_wrong(store: Store, name: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    import pyarrow as pa

    if not rows:
        return
    try:
        part = _opened(store, name)
    except (pa.ArrowInvalid, OSError) as error:
        yield "", f"it cannot be read: {error}"
        return
    for row in rows:
        if wrong := _chip_wrong(part, row):
            yield row["chip_id"], wrong


def _opened(store: Store, name: str) -> pa.RecordBatchFileReader:
    """The part as it is now: what is kept of a bucket's files on this machine may be older."""
    import pyarrow as pa

    source = pa.BufferReader(store.read(name)) if store.remote else pa.memory_map(store.path(name))
    return pa.ipc.open_file(source)


def _chip_wrong(part: pa.RecordBatchFileReader, row: dict[str, Any]) -> str | None:
    """What is wrong with a chip. A damaged batch may say any length, so that is looked at first."""
    import pyarrow as pa

    if not 0 <= row["row"] < part.num_record_batches:
        return f"the pixels table has it as row {row['row']}, the part has {part.num_record_batches}"
    try:
        batch = part.get_batch(row["row"])
        batch.validate(full=True)
        (chip, sha256), digest = (batch.column(key)[0].as_py() for key in ("chip_id", "sha256")), hashlib.sha256()
        for key in ARRAYS:
            if batch.column(key)[0].is_valid:
                digest.update(batch.column(key)[0].as_buffer())
    except (pa.ArrowException, OSError, IndexError, KeyError, UnicodeDecodeError) as error:
        return f"it cannot be read: {error}"
    if chip != row["chip_id"]:
        return f"the pixels table has it as row {row['row']}, where the part has {chip!r}"
    if sha256 != row["sha256"]:
        return "the pixels table has another sha256 than the part"
    return None if digest.hexdigest() == sha256 else "its arrays do not have the sha256 that was noted with them"
