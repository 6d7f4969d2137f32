"""One schema per table, with unit and meaning of each column; the only place that reads and writes tables."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from harmonize.problem import Problem

if TYPE_CHECKING:
    from pipeline.store import Store

UTC = pa.timestamp("us", tz="UTC")
SCL_COLUMNS = tuple(f"scl_{k}" for k in range(12))


def _field(name: str, kind: pa.DataType, meaning: str, unit: str = "", null: bool = False) -> pa.Field:
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=null, metadata=metadata)


_CELL = [
    _field("cell", pa.string(), "cell of the fixed world grid"),
]
_DROPPED = _field("dropped", pa.string(), "short reason why this row goes no further, null when it does", null=True)

SCENES = pa.schema(
    [
        _field("scene", pa.string(), "id of the STAC item"),
        _field("source", pa.string(), "imagery source of the manifest"),
        _field("sensor", pa.string(), "s1 or s2"),
        _field("collection", pa.string(), "STAC collection"),
        _field("platform", pa.string(), "satellite, lower case with a hyphen"),
        _field("datetime", UTC, "acquisition, as the catalogue has it"),
        _field("orbit", pa.string(), "ascending, descending or null", null=True),
        _field("relative_orbit", pa.int32(), "relative orbit number", null=True),
        _field("tile", pa.string(), "MGRS tile", null=True),
        _field("baseline", pa.string(), "S2 processing baseline, NN.NN", null=True),
        _field("generated", pa.string(), "when the product was generated, as the catalogue has it", null=True),
        _field("cloud", pa.float32(), "cloud cover of the whole item", "1", null=True),
        _field("epsg", pa.int32(), "CRS of the pixels"),
        _field("west", pa.float64(), "left edge of the reference band's raster", "m"),
        _field("south", pa.float64(), "lower edge", "m"),
        _field("east", pa.float64(), "right edge", "m"),
        _field("north", pa.float64(), "upper edge", "m"),
        _field("assets", pa.string(), "JSON: band -> unsigned href; a local one is relative to the manifest"),
        _field("scene_classes", pa.string(), "unsigned href of the SCL raster", null=True),
        _field("geometry", pa.binary(), "footprint, WKB, EPSG:4326"),
    ]
)
SCREEN = pa.schema(
    [
        *_CELL,
        _field("scene", pa.string(), "id of the STAC item"),
        _field("source", pa.string(), "imagery source of the manifest"),
        _field("sensor", pa.string(), "s1 or s2"),
        _field("coverage", pa.float64(), "share of the cell inside the scene's raster and footprint", "1"),
        _field("screened", pa.bool_(), "whether the scene classes were read"),
        *[
            _field(name, pa.float32(), f"share of the cell in SCL class {k}", "1", null=True)
            for k, name in enumerate(SCL_COLUMNS)
        ],
    ]
)
CHIPS = pa.schema(
    [
        _field("chip_id", pa.string(), "<cell>_<sensor>_<yyyymmddthhmmss>"),
        *_CELL,
        _field("size_px", pa.int32(), "side of the chip", "10 m pixels"),
        _field("epsg", pa.int32(), "CRS of the cell"),
        _field("west", pa.float64(), "left edge of the cell", "m"),
        _field("south", pa.float64(), "lower edge", "m"),
        _field("east", pa.float64(), "right edge", "m"),
        _field("north", pa.float64(), "upper edge", "m"),
        _field("lon", pa.float64(), "longitude of the cell's centre", "degree"),
        _field("lat", pa.float64(), "latitude of the cell's centre", "degree"),
        _field("sensor", pa.string(), "s1 or s2"),
        _field("source", pa.string(), "imagery source of the manifest"),
        _field("collection", pa.string(), "STAC collection"),
        _field("scene", pa.string(), "id of the STAC item"),
        _field("platform", pa.string(), "satellite"),
        _field("datetime", UTC, "acquisition"),
        _field("orbit", pa.string(), "ascending, descending or null", null=True),
        _field("coverage", pa.float64(), "share of the cell inside the scene", "1"),
        _field(
            "cloud",
            pa.float64(),
            "share of the cell in cloud, shadow or cirrus; null when not screened",
            "1",
            null=True,
        ),
        _field(
            "role", pa.string(), "why it was chosen: best, before:<event>, after:<event>; several joined by a space"
        ),
        _DROPPED,
        _field("geometry", pa.binary(), "the cell, WKB, EPSG:4326"),
    ]
)
PIXELS = pa.schema(
    [
        _field("chip_id", pa.string(), "chip"),
        _field("part", pa.string(), "Arrow file below the region's folder that holds the arrays", null=True),
        _field("row", pa.int32(), "row in that file", null=True),
        _field("sha256", pa.string(), "of the arrays' raw bytes in member order", null=True),
        _field("nodata", pa.float64(), "share of 10 m pixels without data", "1", null=True),
        _field("cloud", pa.float64(), "as in chips", "1", null=True),
        _DROPPED,
    ]
)
LABELS = pa.schema(
    [
        *_CELL,
        _field("source", pa.string(), "label source of the manifest; of an event, its kind of file"),
        _field("event", pa.string(), "id of the event, null for land cover", null=True),
        _field("date", pa.date32(), "day the source shows, null when undated; first day of the event", null=True),
        _field("code", pa.string(), "class code of the source; kind of the event", null=True),
        _field("share", pa.float64(), "share of the cell's area", "1", null=True),
        _field("analysed", pa.float64(), "share of the cell inside the event's analysed extent", "1", null=True),
        _field("distance_m", pa.float64(), "from the cell to the event's geometry, null beyond 10 km", "m", null=True),
        _DROPPED,
    ]
)
CAPTIONS = pa.schema(
    [
        _field("chip_id", pa.string(), "chip"),
        *_CELL,
        _field("block", pa.string(), "square of the grid that decides the split"),
        _field("split", pa.string(), "train, val or test"),
        _field("label_mask", pa.int32(), "bit k: class k of the vocabulary is there"),
        _field("known_mask", pa.int32(), "bit k: we know whether class k is there"),
        _field(
            "labels",
            pa.list_(pa.struct([("name", pa.string()), ("share", pa.float64()), ("source", pa.string())])),
            "classes that are there, with area share and the source or event that says so",
        ),
        _field("dominant", pa.string(), "land-cover class with the largest share, null where none counts", null=True),
        _field(
            "diversity",
            pa.float64(),
            "Shannon entropy of the ruling source's shares, null without one",
            "nat",
            null=True,
        ),
        _field("evidence", pa.string(), "JSON: what every source and every event near the cell says, ruling or not"),
        _field("caption_paper", pa.string(), "class names joined by '. '"),
        _field("caption_rich", pa.string(), "one or two sentences"),
        _field("record", pa.string(), "JSON: what the rich caption says, for machines"),
        _field("template", pa.int32(), "version of the caption templates"),
        _field("events", pa.list_(pa.string()), "ids of the events whose crisis label the chip bears"),
        _DROPPED,
    ]
)
INDEX = pa.schema(
    [
        _field("chip_id", pa.string(), "chip, the sample's key"),
        *_CELL,
        _field("block", pa.string(), "square of the grid that decides the split"),
        _field("sensor", pa.string(), "s1 or s2"),
        _field("scene", pa.string(), "id of the STAC item"),
        _field("platform", pa.string(), "satellite"),
        _field("datetime", UTC, "acquisition"),
        _field("orbit", pa.string(), "ascending, descending or null", null=True),
        _field("split", pa.string(), "train, val or test"),
        _field("shard", pa.string(), "tar file beside this index"),
        *[
            _field(f"{what}_{group}", pa.int64(), f"{what} of the {group} .npy member in the tar", "byte", null=True)
            for group in ("10m", "20m", "60m")
            for what in ("offset", "length")
        ],
        _field("size_px", pa.int32(), "side of the chip", "10 m pixels"),
        _field("label_mask", pa.int32(), "bit k: class k of the vocabulary is there"),
        _field("known_mask", pa.int32(), "bit k: we know whether class k is there"),
        _field("caption_paper", pa.string(), "class names joined by '. '"),
        _field("caption_rich", pa.string(), "one or two sentences"),
        _field("events", pa.list_(pa.string()), "event ids"),
        _field("lon", pa.float64(), "longitude of the chip's centre", "degree"),
        _field("lat", pa.float64(), "latitude of the chip's centre", "degree"),
        _field("sha256", pa.string(), "of the arrays' raw bytes in member order"),
    ]
)
SCHEMAS = {
    "scenes": SCENES,
    "screen": SCREEN,
    "chips": CHIPS,
    "pixels": PIXELS,
    "labels": LABELS,
    "captions": CAPTIONS,
    "index": INDEX,
}


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly this schema; an unnamed column or a null where none may be is an error."""
    names = set(schema.names)
    for row in rows[:1]:
        if set(row) != names:
            raise AssertionError(f"columns differ from the schema: {sorted(set(row) ^ names)}")
    return check(pa.Table.from_pylist(rows, schema=schema), schema, "rows")


def check(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """`table` if it has this schema and no null in a column that must not have one; else Problem."""
    if not table.schema.equals(schema, check_metadata=False):
        differing = sorted(set(table.schema.names) ^ set(schema.names)) or [
            f.name for f in schema if not table.schema.field(f.name).equals(f, check_metadata=False)
        ]
        raise Problem(
            f"columns differ from this version's schema: {', '.join(differing)}",
            where=where,
            fix="make redo STAGE=<its stage> REGION=…",
            code=4,
        )
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise Problem(f"column '{field.name}' has empty values", where=where, fix="redo the stage", code=4)
    return table


def parquet_bytes(table: pa.Table, extra: dict[str, str] | None = None) -> bytes:
    """Parquet of a table, the same bytes for the same rows; GeoParquet 1.1 where a geometry is there."""
    metadata = dict(table.schema.metadata or {}) | (extra or {})
    if "geometry" in table.schema.names:
        metadata["geo"] = json.dumps(
            {
                "version": "1.1.0",
                "primary_column": "geometry",
                "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
            }
        )
    sink = io.BytesIO()
    # store_schema would embed the Arrow schema; it keeps field metadata and time zones exact for readers.
    # Checksums of pages: a byte that flipped may still unpack to a table, and to another one.
    table = table.replace_schema_metadata(metadata)
    pq.write_table(table, sink, compression="zstd", version="2.6", write_page_checksum=True)
    return sink.getvalue()


def write_table(store: Store, name: str, table: pa.Table, schema: pa.Schema) -> str:
    """Check and write a table; its sha256."""
    return store.write(name, parquet_bytes(check(table, schema, name).cast(schema)))


def read_parquet(store: Store, name: str) -> pa.Table:
    """A Parquet file of a store.

    Arrow's threads must hold nothing of Python's: one that lets it go while Python ends takes the process down. So they
    open a local file by its name, and stay out of what came from a bucket.
    """
    if store.remote:
        data = io.BytesIO(store.read(name))
        return pq.ParquetFile(data, pre_buffer=False, page_checksum_verification=True).read(use_threads=False)
    return pq.ParquetFile(store.path(name), page_checksum_verification=True).read()


def read_table(store: Store, name: str, schema: pa.Schema) -> pa.Table:
    """A table, checked against its schema; a damaged file is a Problem with code 4."""
    stage = name.partition(".")[0]
    known = stage in SCHEMAS and stage != "index"
    try:
        table = read_parquet(store, name)
    except FileNotFoundError:
        fix = f"make corpus REGION=…, or python -m pipeline {stage} REGION" if known else "run the stage that writes it"
        raise Problem(f"{name} is not there", where=store.root, fix=fix) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        fix = f"make redo STAGE={stage} REGION=…" if known else "redo the stage"
        raise Problem(f"{name} is damaged: {error}", where=store.root, fix=fix, code=4) from None
    return check(table, schema, f"{store.root}/{name}")
