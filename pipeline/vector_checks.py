"""What is checked of a vector file before anything is counted: is it whole, and are its coordinates numbers."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harmonize.problem import Problem

if TYPE_CHECKING:
    import geopandas

ONE_LAYER = (".geojson", ".json", ".shp", ".fgb", ".parquet")
"""Files that cannot hold several layers, or never do; to ask them means to read them."""
NUMBERS_TOLD = 5
"""Of the features that a message is about, so many are named."""


def part_of(path: Path, suffix: str) -> Path | None:
    """The .shx or .dbf of a .shp, in upper or lower case; None where there is none."""
    found = (file for file in sorted(path.parent.iterdir()) if file.stem == path.stem and file.suffix.lower() == suffix)
    return next(found, None)


@contextlib.contextmanager
def damage_told(name: str, where: str, fix: str = "fetch the package again") -> Iterator[None]:
    """What GDAL and GEOS raise for a file that is no vector file, or a damaged one, as a Problem."""
    import shapely.errors

    # RuntimeError is what GDAL says; pyogrio 0.13 ends in UnboundLocalError on a CRS that it cannot read, and in
    # IndexError on a .fgb that was cut off before its first feature.
    of_pyogrio = (RuntimeError, ValueError, UnboundLocalError, IndexError)
    try:
        yield
    except (*of_pyogrio, OSError, sqlite3.Error, shapely.errors.ShapelyError) as error:
        raise Problem(f"{name} cannot be read: {error}", where=where, fix=fix) from None


def check_whole(path: Path) -> None:
    """ValueError for a shapefile or .dbf that is shorter than it says.

    Of one that was cut off GDAL gives what is left, silently, and features behind the end of a .shp without geometry.
    Other files that were cut off it cannot read, but for a search in a .fgb (see `check_search`).

    Also for a file that names other files or addresses to read in its place.
    """
    _check_points_nowhere(path)
    suffix = path.suffix.lower() if path.is_file() else ""  # a folder of files is GDAL's
    if suffix == ".dbf":
        _records_of(path)
    if suffix != ".shp":
        return
    index, table = part_of(path, ".shx"), part_of(path, ".dbf")
    _check_length(path)
    if index:
        _check_length(index)
    if index and table:
        shapes, records = (index.stat().st_size - 100) // 8, _records_of(table)
        if shapes != records:
            raise ValueError(f"{table.name} has {records} records, and {index.name} has {shapes} shapes")


def is_zip(path: Path) -> bool:
    """GDAL reads zips, and KMZ are some, whatever their name."""
    return path.is_file() and _head(path, 4) == b"PK\3\4"


ELSEWHERE = (b"<OGR", b"<VRT", b"<GDAL", b"<WMS", b"<WFS", b"gdal_streamed_alg")
"""With these GDAL takes a text for a list of other files, addresses or commands, whatever the file is called (its
drivers VRT, WFS, OAPIF, CSW, WMS, GDALG look at the first kilobyte or few)."""


def _check_points_nowhere(path: Path) -> None:
    head = _head(path, 8192).partition(b"\0")[0] if path.is_file() else b""
    if any(word in head for word in ELSEWHERE):
        raise ValueError("it names other files instead of holding features; write them into a GeoPackage (ogr2ogr)")


def _check_length(file: Path) -> None:
    """Of a .shp or .shx: at byte 24, in 16-bit words (ESRI Shapefile Technical Description, 1998)."""
    head, size = _head(file, 28), file.stat().st_size
    told = 2 * int.from_bytes(head[24:28], "big") if len(head) == 28 else 100
    if size < told:
        raise ValueError(f"{file.name} was cut off: it has {size} of {told} bytes")


def _head(file: Path, count: int) -> bytes:
    with file.open("rb") as data:
        return data.read(count)


def _records_of(table: Path) -> int:
    """Records of a .dbf, deleted ones too. A damaged header may tell of a thousand million, and memory would be taken
    for all of them."""
    head, size = _head(table, 12), table.stat().st_size
    if size < 32:
        raise ValueError(f"{table.name} was cut off: it has {size} bytes")
    count, before, each = struct.unpack("<IHH", head[4:12])
    if size < before + count * each:
        what = f"it has {size} bytes, and {count} records of {each} bytes need {before + count * each}"
        raise ValueError(f"{table.name} was cut off: {what}")
    return count


def the_layer(path: Path, where: str) -> str | None:
    """The one layer of a file that has geometries; None where that is not asked. Several are a Problem."""
    import pyogrio

    if path.suffix.lower() in ONE_LAYER:
        return None
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if len(layers) > 1:
        fix = f"set layer to one of them where the manifest has that key ({', '.join(layers)}), or write that layer "
        fix += "into a file of its own (ogr2ogr one.gpkg the-file the-layer)"
        raise Problem(f"{path.name} has {len(layers)} layers, and none is named", where=where, fix=fix)
    return layers[0] if layers else None


def with_geometry(
    frame: geopandas.GeoDataFrame, name: str, where: str, notes: list[str] | None
) -> geopandas.GeoDataFrame:
    """The features that have a geometry. The index of the frame is their number in the file, from 0.

    How many have none (null or empty) is told in `notes`; where nobody takes notes they are a Problem, since nobody can
    count what has no place. So are coordinates that are no numbers.
    """
    none = (frame.geometry.isna() | frame.geometry.is_empty).to_numpy()
    if none.any() and notes is None:
        what = f"{told_features(frame.index[none])} of {name} ({int(none.sum())} of {len(frame)}) without geometry"
        raise Problem(what, where=where, fix="give each its polygon, or remove it from the file")
    if none.any() and notes is not None:
        notes.append(f"left out: {int(none.sum())} of {len(frame)} features of {name}, which have no geometry")
    frame = frame[~none]
    check_finite(frame, name, where)
    return frame


def check_finite(frame: geopandas.GeoDataFrame, name: str, where: str) -> None:
    """Problem for x or y that is NaN or infinite. The frame's index is the features' number in the file, from 0."""
    import numpy as np
    import shapely

    xy, feature = shapely.get_coordinates(frame.geometry.values, return_index=True)
    bad = np.unique(feature[~np.isfinite(xy).all(axis=1)])
    if len(bad):
        what = f"{told_features(frame.index.to_numpy()[bad])} of {name} with a coordinate that is no number"
        raise Problem(what, where=where, fix="mend the coordinates, or remove the feature")


def told_features(numbers: Iterable[int]) -> str:
    """'feature 3', 'features 1, 2, 3, 4, 5, …' of numbers from 0."""
    told = [str(int(k) + 1) for k in numbers]
    more = ["…"] if len(told) > NUMBERS_TOLD else []
    return f"feature{'s' if len(told) > 1 else ''} {', '.join([*told[:NUMBERS_TOLD], *more])}"


def check_search(path: Path, layer: str | None, where: str) -> None:
    """Once per process and file, before it is asked by place: what such a search cannot find is told.

    A feature without geometry is in no search tree; of a .fgb that was cut off GDAL gives what is left, silently.
    """
    stat = path.stat()
    missing = _not_found(path, layer, stat.st_size, stat.st_mtime_ns)
    if missing:
        fix = "give each its polygon, or remove it from the file"
        features = "features" if missing > 1 else "feature"
        raise Problem(f"{missing} {features} of {path.name} without geometry", where=where, fix=fix)


@functools.lru_cache(maxsize=64)
def _not_found(path: Path, layer: str | None, _size: int, _mtime: int) -> int:
    """Features that are in no search tree. GDAL's error for a .fgb that was cut off."""
    import pyogrio.raw

    if path.suffix.lower() == ".fgb":
        # All features but nothing of them: GDAL notices where they end early. It writes none without geometry.
        pyogrio.raw.read(path, read_geometry=False, columns=[], return_fids=True)
        return 0
    return _without_place(path, layer)


def _without_place(path: Path, layer: str | None) -> int:
    """Null and empty geometries of a GeoPackage, which its tree leaves out (OGC 12-128r18, annex F.3).

    Without a tree GDAL looks at every feature anyway, and so do we.
    """
    # Immutable: a folder that cannot be written to has no place for SQLite's locks.
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as base:
        pairs = base.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
        pair = next((pair for pair in pairs if layer in (None, pair[0])), None)
        if pair is None:
            return 0  # no such layer: GDAL says so
        table, column = map(str, pair)
        tree = f"rtree_{table}_{column}_rowid"
        if not _has(base, tree):
            return _count(base, table, f"WHERE {_quoted(column)} IS NULL")
        placed = _count(base, tree)
        # GDAL notes the count in the file; to count anew means to read most of it.
        if _has(base, "gpkg_ogr_contents"):
            told = base.execute("SELECT feature_count FROM gpkg_ogr_contents WHERE table_name = ?", (table,)).fetchone()
            if told and told[0] == placed:
                return 0
        return _count(base, table) - placed


def _has(base: sqlite3.Connection, table: str) -> bool:
    return base.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None


def _count(base: sqlite3.Connection, table: str, condition: str = "") -> int:
    return base.execute(f"SELECT count(*) FROM {_quoted(table)} {condition}").fetchone()[0]  # noqa: S608


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
