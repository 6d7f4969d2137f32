"""The samples as STAC items in one GeoParquet file (`stac.parquet`), and their collection (`collection.json`).

Columns are built from the index, never items from rows: as Python dicts the chips of a country would take some GB.
Layout: https://github.com/radiantearth/stac-geoparquet-spec 1.1.0; items and collection are STAC 1.1.0.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from harmonize.vocabulary import CLASSES
from pipeline.contents import Contents
from pipeline.sample import GROUPS, SENSORS
from pipeline.sandbox import SYNTHETIC

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

STAC_VERSION = "1.1.0"
LABEL = "https://stac-extensions.github.io/label/v1.0.1/schema.json"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
SAR = "https://stac-extensions.github.io/sar/v1.3.0/schema.json"
SAT = "https://stac-extensions.github.io/sat/v1.0.0/schema.json"
MISSION = {"s1": ("sentinel-1", "c-sar"), "s2": ("sentinel-2", "msi")}
"""Constellation and instrument."""
C_BAND_GHZ = 5.405
"""Sentinel-1's carrier: https://sentiwiki.copernicus.eu/web/s1-instrument-payload"""
MODE = r"^S1[A-D]_(?P<mode>IW|EW|WV|S[1-6])_"
"""Instrument mode in a product's name: https://sentiwiki.copernicus.eu/web/s1-products"""
ROWS = 50_000
"""Rows of a row group: lists of classes and links are made for so many at a time."""
OF_INDEX = (
    "block", "cell", "split", "scene", "label_mask", "known_mask", "caption_paper", "caption_rich", "events", "sha256",
)  # fmt: skip
"""Columns of the index that are properties as they are, with `closp:` before the name."""


def items(contents: Contents, samples: pa.Table, index: pa.Table, geometry: pa.Array, bounds: np.ndarray) -> bytes:
    """Parquet of an item per row of the index; the same bytes for the same rows.

    `samples` has the columns of chips and captions, `geometry` WKB polygons and `bounds` west, south, east, north in
    degrees, all in the rows of the index.
    """
    import pyarrow.parquet as pq

    sink, writer = io.BytesIO(), None
    for start in range(0, index.num_rows, ROWS):
        part = slice(start, start + ROWS)
        rows = _rows(
            contents, samples.slice(start, ROWS), index.slice(start, ROWS), geometry.slice(start, ROWS), bounds[part]
        )
        if writer is None:
            schema = rows.schema.with_metadata(_metadata(contents))
            writer = pq.ParquetWriter(sink, schema, compression="zstd", version="2.6")
        writer.write_table(rows.replace_schema_metadata(schema.metadata), row_group_size=ROWS)
    if writer:
        writer.close()
    return sink.getvalue()


def _metadata(contents: Contents) -> dict[str, str]:
    covering = {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "covering": {"bbox": covering}}
    return {
        "geo": json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}),
        "stac-geoparquet": json.dumps(
            {"version": "1.1.0", "collections": {contents.region.name: collection(contents)}}, sort_keys=True
        ),
    }


def _rows(contents: Contents, samples: pa.Table, index: pa.Table, geometry: pa.Array, bounds: np.ndarray) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    count, sensor, orbit = index.num_rows, index["sensor"].combine_chunks(), index["orbit"].combine_chunks()
    radar = pc.equal(sensor, "s1")
    sides = [pa.array(bounds[:, k]) for k in range(4)]
    columns: dict[str, Any] = {
        "type": _same("Feature", count),
        "stac_version": _same(STAC_VERSION, count),
        "stac_extensions": _extensions(radar, orbit),
        "id": index["chip_id"],
        "collection": _same(contents.region.name, count),
        "geometry": geometry,
        "bbox": pa.StructArray.from_arrays(sides, names=["xmin", "ymin", "xmax", "ymax"]),
        "links": _same([{"href": "./collection.json", "rel": "collection", "type": "application/json"}], count),
        "assets": _assets(index),
        "datetime": index["datetime"],
        "platform": index["platform"],
        "constellation": _by_sensor(sensor, {s: MISSION[s][0] for s in SENSORS}),
        "instruments": _by_sensor(sensor, {s: [MISSION[s][1]] for s in SENSORS}),
        "gsd": _same(10.0, count),
        **_projection(samples),
        "sat:orbit_state": orbit,
        "sar:instrument_mode": _mode(radar, index["scene"].combine_chunks()),
        "sar:frequency_band": pc.if_else(radar, "C", pa.scalar(None, pa.string())),
        "sar:center_frequency": pc.if_else(radar, C_BAND_GHZ, pa.scalar(None, pa.float64())),
        "sar:polarizations": _by_sensor(sensor, {"s1": list(GROUPS["s1"][0].bands), "s2": None}),
        **_labels(samples),
        "closp:sensor": sensor,
        "closp:source": samples["source"],
        **{f"closp:{name}": index[name] for name in OF_INDEX},
    }
    return pa.table(columns)


def _same(value: Any, count: int) -> pa.Array:
    import pyarrow as pa

    return pa.repeat(pa.scalar(value), count) if not isinstance(value, list) else _take([value], [0] * count)


def _take(values: list[Any], which: Any) -> pa.Array:
    import pyarrow as pa

    return pa.array(values).take(pa.array(which, pa.int32()))


def _by_sensor(sensor: pa.Array, values: dict[str, Any]) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return _take([values[s] for s in SENSORS], pc.index_in(sensor, pa.array(SENSORS)))


def _mode(radar: pa.Array, scene: pa.Array) -> pa.Array:
    """IW, EW, … as Sentinel-1's product names have it; null where a scene is named otherwise."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.struct_field(pc.extract_regex(scene, MODE), "mode")
    return pc.if_else(radar, found, pa.scalar(None, pa.string()))


def _extensions(radar: pa.Array, orbit: pa.Array) -> pa.Array:
    """An extension is declared where its fields are there."""
    import numpy as np

    of_radar, with_orbit = radar.to_numpy(zero_copy_only=False), orbit.is_valid().to_numpy(zero_copy_only=False)
    kinds = [[LABEL, PROJECTION, *([SAR] if r else []), *([SAT] if o else [])] for r in (0, 1) for o in (0, 1)]
    return _take(kinds, (2 * of_radar + with_orbit).astype(np.int32))


def _projection(samples: pa.Table) -> dict[str, Any]:
    """The 10 m grid of each chip, in the CRS of its cell."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    west, south, east, north = (samples[side].to_numpy() for side in ("west", "south", "east", "north"))
    size, nothing = samples["size_px"].to_numpy(), np.zeros(samples.num_rows)
    transform = [(east - west) / size, nothing, west, nothing, -(north - south) / size, north]
    return {
        "proj:code": pc.binary_join_element_wise("EPSG", samples["epsg"].cast(pa.string()), ":"),
        "proj:bbox": _lists([west, south, east, north]),
        "proj:shape": _lists([size, size]),
        "proj:transform": _lists(transform),
    }


def _lists(columns: list[np.ndarray]) -> pa.Array:
    """A list per row, of one value of each column."""
    import numpy as np
    import pyarrow as pa

    flat = np.stack(columns, axis=1)
    offsets = np.arange(0, flat.size + 1, flat.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, flat.ravel())


def _labels(samples: pa.Table) -> dict[str, Any]:
    """The labels of a whole chip: in the item's own properties, since it is the feature that bears them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    count, said = samples.num_rows, samples["labels"].combine_chunks()
    return {
        "label:type": _same("vector", count),
        "label:tasks": _same(["classification"], count),
        "label:methods": _same(["automated"], count),
        "label:properties": _same(["closp:labels"], count),
        "label:classes": _same([{"name": "closp:labels", "classes": list(CLASSES)}], count),
        "label:description": _same(DESCRIPTION, count),
        "closp:labels": pa.ListArray.from_arrays(said.offsets, pc.struct_field(said.values, "name")),
        "closp:label_shares": said,
    }


DESCRIPTION = (
    "Classes of the whole chip, several at once, from land-cover maps and maps of events; they stand in closp:labels "
    "of this feature's properties, with area shares and sources in closp:label_shares. There is no label file. A class "
    "that is not named is absent only where closp:known_mask has its bit."
)


def _assets(index: pa.Table) -> pa.Array:
    """The tar a sample lies in, with the place of each array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tar = {
        "href": pc.binary_join_element_wise("./", index["shard"].combine_chunks(), ""),
        "type": _same("application/x-tar", index.num_rows),
        "title": _same("tar with this and other samples; closp:members says where its arrays lie", index.num_rows),
        "roles": _same(["data"], index.num_rows),
        "closp:members": _members(index),
    }
    shard = pa.StructArray.from_arrays(list(tar.values()), names=list(tar))
    return pa.StructArray.from_arrays([shard], names=["shard"])


def _members(index: pa.Table) -> pa.Array:
    """List of (member, offset, length) per row; a chip has no entry for a group that its sensor lacks."""
    import numpy as np
    import pyarrow as pa

    groups = ("10m", "20m", "60m")
    there = np.stack([index[f"offset_{g}"].is_valid().to_numpy() for g in groups], axis=1)
    places = {
        what: np.stack([index[f"{what}_{g}"].fill_null(0).to_numpy() for g in groups], axis=1)[there]
        for what in ("offset", "length")
    }
    names = np.broadcast_to(np.array([f"{g}.npy" for g in groups]), there.shape)[there]
    entries = pa.StructArray.from_arrays(
        [pa.array(names.tolist(), pa.string()), *map(pa.array, places.values())], names=["name", *places]
    )
    offsets = np.concatenate([[0], there.sum(axis=1).cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, entries)


def collection(contents: Contents) -> dict[str, Any]:
    """The STAC collection of the items."""
    region, terms = contents.region, contents.roll_up.one
    boxes = [list(box) for box in contents.boxes.values()]
    rows = "application/vnd.apache.parquet"
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": region.name,
        "title": region.name,
        "description": "Chips of Sentinel-1 and Sentinel-2 with labels and captions, in WebDataset tars. See README.md."
        + (f" {SYNTHETIC}" if region.worlds else ""),
        "license": (terms.spdx if terms else "") or "other",
        "extent": {
            "spatial": {"bbox": [list(contents.box), *(boxes if len(boxes) > 1 else [])]},
            "temporal": {"interval": [[f"{day:%Y-%m-%dT%H:%M:%SZ}" for day in (contents.first, contents.last)]]},
        },
        "links": [{"rel": "license", "href": "./README.md", "type": "text/markdown"}],
        "assets": {
            "items": {"href": "./stac.parquet", "type": rows, "roles": ["collection-mirror"]},
            "index": {"href": "./index.parquet", "type": rows, "roles": ["metadata"]},
            "croissant": {"href": "./croissant.json", "type": "application/ld+json", "roles": ["metadata"]},
        },
        "summaries": {
            "constellation": sorted({MISSION[sensor][0] for _, sensor in contents.samples}),
            "proj:code": [f"EPSG:{code}" for code in contents.boxes],
        },
    }
