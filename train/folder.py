"""One shard folder as it describes itself: shards.json and the index, checked before they are believed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harmonize.problem import Problem
from harmonize.record import from_json
from harmonize.vocabulary import CLASSES
from pipeline.sample import FORMAT_VERSION, SENSORS, SMALLEST_SAMPLE, SPLITS, shards_wrong

AGAIN = "make shards again"
COLUMNS = (
    "chip_id", "cell", "block", "sensor", "scene", "datetime", "split", "shard", "size_px", "label_mask", "known_mask",
    "caption_paper", "caption_rich", "lon", "lat", "sha256",
)  # fmt: skip
PLACES = tuple(f"{what}_{group}" for group in ("10m", "20m", "60m") for what in ("offset", "length"))
KINDS = {
    **dict.fromkeys(COLUMNS, pa.types.is_string),
    **dict.fromkeys((*PLACES, "size_px", "label_mask", "known_mask"), pa.types.is_integer),
    **dict.fromkeys(("lon", "lat"), pa.types.is_floating),
    "datetime": pa.types.is_timestamp,
}
"""Column of the index -> what its type must be."""
NAMES = {"chip_id": "[A-Za-z0-9_-]", "cell": "[A-Za-z0-9_-]", "block": "[A-Za-z0-9_.-]"}
"""Characters of what becomes words of files and names of others, where a blank or a line break would make it two. A
block has a dot where its side is no whole number of km (b1.2)."""


def read_about(folder: Path) -> dict[str, Any]:
    """shards.json of a folder. Raises Problem where there is none, and for one that this program does not read."""
    path = folder / "shards.json"
    if not path.exists():
        inside = folder / "shards/shards.json"
        fix = f"name {inside.parent}" if inside.exists() else "make shards REGION=…, or name the folder they lie in"
        raise Problem("there are no shards here", where=str(folder), fix=fix)
    try:
        about: dict[str, Any] = from_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise Problem(f"shards.json is damaged: {error}", where=str(path), fix=AGAIN, code=4) from None
    if not isinstance(about, dict):
        raise Problem("shards.json is damaged: it is no JSON object", where=str(path), fix=AGAIN, code=4)
    with_this = f"{AGAIN} with this version"
    if about.get("format_version") != FORMAT_VERSION:
        what = f"these shards are of format version {about.get('format_version')}, this program reads {FORMAT_VERSION}"
        raise Problem(what, where=str(path), fix=with_this)
    if about.get("vocabulary") != list(CLASSES):
        raise Problem("these shards have another vocabulary", where=str(path), fix=with_this)
    if wrong := shards_wrong(about):
        raise Problem(f"shards.json is damaged: {wrong}", where=str(path), fix=AGAIN, code=4)
    return about


def read_index(path: Path, about: dict[str, Any]) -> pa.Table:
    """The index that shards.json names, its columns and names as this program writes them. Raises Problem."""

    def damaged(what: str) -> Problem:
        return Problem(f"the index is damaged: {what}", where=str(path), fix=AGAIN, code=4)

    if not path.exists():
        raise Problem("the index is missing", where=str(path), fix=AGAIN)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != about["index"]["sha256"]:
        raise Problem("the index is not the one shards.json names", where=str(path), fix=AGAIN, code=4)
    try:
        index = pq.ParquetFile(path)  # by name: see pipeline.tables.read_parquet
        rows, most = index.metadata.num_rows, sum(shard["bytes"] for shard in about["shards"])
        if rows * SMALLEST_SAMPLE > most:  # before they are read: a few bytes may claim any number
            raise damaged(f"its {rows} rows are more than tars of {most} bytes hold")
        table = index.read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise damaged(str(error)) from None
    if wrong := _wrong(table, about["size_px"]):
        raise damaged(wrong)
    return table


def _wrong(table: pa.Table, size_px: int) -> str | None:
    """What of an index cannot be used as it is; None: nothing."""
    for name, kind in KINDS.items():
        if name not in table.schema.names or not kind(table.schema.field(name).type):
            return f"it has no column {name} of its type"
        if name not in PLACES and table.column(name).null_count:
            return f"its column {name} has empty values"
    for name, known in (("sensor", SENSORS), ("split", SPLITS), ("size_px", (size_px,))):
        if odd := set(table.column(name).to_pylist()) - set(known):
            return f"its column {name} has {sorted(odd)[0]!r}, not {' or '.join(map(str, known))}"
    # RE2's $ is the end of the text.
    right = {name: pc.match_substring_regex(table[name], f"^{letters}{{1,200}}$") for name, letters in NAMES.items()}
    right["scene"] = pc.utf8_is_printable(table["scene"])
    for name, good in right.items():
        if not pc.all(good, min_count=0).as_py():
            return f"a sample's {name} is {str(table[name].filter(pc.invert(good))[0].as_py())[:60]!r}"
    return None
