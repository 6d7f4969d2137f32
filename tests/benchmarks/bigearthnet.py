"""The 237,871 real label rows of BigEarthNet v2 as the tables that stage captions reads.

Real: the label sets, tiles, dates and positions in the tile. Made up, and said so: area shares (the classes of a row share
its cell equally, since the file has no shares), and each patch is moved onto the nearest cell of our grid (up to 600 m).
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.grid import cell_at, centres, chip_id
from pipeline.place import mgrs_corner

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT.parent / "shared/real/labels/bigearthnet_v2_labels_train.parquet"
PATCH_M = 1200
TILE_M = 109_800

MANIFEST = """
name = "{name}"
bounds = [-10, 35, 35, 70]
start = 2017-06-01
end = 2018-06-01
[[imagery]]
source = "pc-sentinel-2-l2a"
[[labels]]
source = "reben"
href = "names.tif"
[split]
method = "{method}"
[sources.reben]
kind = "labels"
crosswalk = "bigearthnet-19"
licence = "CDLA-Permissive-1.0"
"""


def patches(rows: pa.Table) -> list[dict[str, Any]]:
    """Cell, day and class names of every patch: `S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57`."""
    corners: dict[str, tuple[int, float, float]] = {}
    found = []
    for patch, names in zip(rows["patch_id"].to_pylist(), rows["labels"].to_pylist(), strict=True):
        _, _, time, _, _, tile, col, row = patch.split("_")
        epsg, west, south = corners.setdefault(tile, mgrs_corner(tile[1:], str(ROWS)))
        # Tiles reach 9.8 km beyond their 100 km square, to the east and south; patches count from the upper left.
        east, north = west + (int(col) + 0.5) * PATCH_M, south + 100_000 - (int(row) + 0.5) * PATCH_M
        when = dt.datetime.strptime(time, "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
        found.append(
            {"cell": cell_at(epsg, east, north), "when": when, "names": names, "scene": "_".join(patch.split("_")[:6])}
        )
    return found


def tables_of(rows: pa.Table) -> dict[str, pa.Table]:
    """chips and labels as their stages write them; the second of two patches on one cell and pass is a second later."""
    seen: dict[str, dict[str, Any]] = {}
    for patch in patches(rows):
        while (name := chip_id(patch["cell"].name, "s2", patch["when"])) in seen:
            patch["when"] += dt.timedelta(seconds=1)
        seen[name] = patch
    by_zone: dict[int, list[str]] = {}
    for name, patch in seen.items():
        by_zone.setdefault(patch["cell"].epsg, []).append(name)
    places = {}
    for names in by_zone.values():
        lon, lat = centres([seen[name]["cell"] for name in names])
        places |= dict(zip(names, zip(lon.tolist(), lat.tolist(), strict=True), strict=True))
    days: dict[tuple[str, dt.date], list[str]] = {}
    for patch in seen.values():
        days.setdefault((patch["cell"].name, patch["when"].date()), sorted(patch["names"]))
    said = [(cell, day, name, 1 / len(names)) for (cell, day), names in sorted(days.items()) for name in names]
    return {"chips": _chips(dict(sorted(seen.items())), places), "labels": _labels(said)}


def _chips(seen: dict[str, dict[str, Any]], places: dict[str, tuple[float, float]]) -> pa.Table:
    cells = [p["cell"] for p in seen.values()]
    bounds = list(zip(*(map(float, cell.bounds) for cell in cells), strict=True))
    fixed = {"size_px": 120, "sensor": "s2", "source": "pc-sentinel-2-l2a", "collection": "sentinel-2-l2a",
             "platform": "sentinel-2a", "orbit": "descending", "coverage": 1.0, "cloud": 0.0, "role": "best", "dropped": None, "geometry": b""}  # fmt: skip
    columns: dict[str, Any] = {name: [value] * len(seen) for name, value in fixed.items()}
    columns |= dict(zip(("west", "south", "east", "north"), bounds, strict=True))
    columns |= {"chip_id": list(seen), "cell": [c.name for c in cells], "epsg": [c.epsg for c in cells]}
    columns |= {"scene": [p["scene"] for p in seen.values()], "datetime": [p["when"] for p in seen.values()]}
    columns |= {"lon": [places[n][0] for n in seen], "lat": [places[n][1] for n in seen]}
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in tables.CHIPS}, schema=tables.CHIPS)


def _labels(said: list[tuple[str, dt.date, str, float]]) -> pa.Table:
    cells, days, names, shares = zip(*said, strict=True)
    columns: dict[str, Any] = {
        "cell": cells,
        "source": ["reben"] * len(said),
        "date": days,
        "code": names,
        "share": shares,
    }
    empty = [None] * len(said)
    return pa.table({f.name: pa.array(columns.get(f.name, empty), f.type) for f in tables.LABELS}, schema=tables.LABELS)


def load() -> dict[str, pa.Table]:
    if not ROWS.exists():
        raise SystemExit(f"{ROWS.name} is not beside this checkout (../shared/real/labels): nothing is measured")
    return tables_of(pq.read_table(ROWS))


if __name__ == "__main__":
    made = load()
    print({name: table.num_rows for name, table in made.items()})
    print(Counter(made["labels"]["code"].to_pylist()).most_common(30))
