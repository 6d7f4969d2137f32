"""Vector files: reading them with clear errors, and exact area shares of their codes in a cell."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.manifest import is_there
from harmonize.problem import Problem, nearest
from pipeline.archive import check_archive
from pipeline.vector_checks import (
    check_search,
    check_whole,
    damage_told,
    is_zip,
    the_layer,
    told_features,
    with_geometry,
)

if TYPE_CHECKING:
    import geopandas
    import shapely

BY_PLACE = (".gpkg", ".fgb")
"""Files with a search tree inside: of a continent's land cover only what is asked for is read."""
SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet")


def with_siblings(path: Path) -> list[Path]:
    """The files that a vector file is made of: codes of a shapefile stand in the .dbf, its CRS in the .prj."""
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.*")) if path.suffix.lower() == ".shp" else [path]


Around = tuple[int, tuple[float, float, float, float]]
"""EPSG, and bounds in its units: of a file that can be asked by place, what meets them."""


def read_vector(
    path: Path,
    where: str,
    layer: str | None = None,
    around: Around | None = None,
    notes: list[str] | None = None,
) -> geopandas.GeoDataFrame:
    """Features of a vector file, in file order, each under its number (from 0) as index.

    No file, no feature, no CRS, several layers of which none is named, or coordinates that are no numbers are a
    Problem. So are features without geometry, unless somebody takes `notes` of how many were left out. With `around`
    it may give fewer: no feature there is none, and no Problem.
    """
    import geopandas

    if not is_there(path):
        raise Problem(
            f"there is no file {path}", where=where, fix="check the path; it is relative to the manifest's folder"
        )
    if is_zip(path):
        check_archive(path, where)
    by_place = around is not None and path.suffix.lower() in BY_PLACE
    again = f"; remove the copy {path} to fetch it again" if path.parent.name == "downloads" else ", or fetch it again"
    with damage_told(path.name, where, f"check the file and its layer{again}"):
        check_whole(path)
        layer = layer or the_layer(path, where)
        if around and by_place:
            check_search(path, layer, where)
            frame = _read_around(path, layer, around)
        elif path.suffix.lower() == ".parquet":
            frame = geopandas.read_parquet(path).reset_index(drop=True)
        else:
            frame = geopandas.read_file(path, layer=layer)
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise Problem(f"{path.name} has no geometry", where=where, fix="check the file and its layer")
    nothing = bool((frame.geometry.isna() | frame.geometry.is_empty).all())
    if nothing and not around:
        raise Problem("this vector file has no feature with a geometry", where=str(path), fix="check its layer")
    if frame.crs is None:
        raise Problem("this vector file does not say its CRS", where=str(path), fix="add it (a .prj beside a .shp)")
    return with_geometry(frame, path.name, where, notes)


def _read_around(path: Path, layer: str | None, around: Around) -> geopandas.GeoDataFrame:
    import geopandas
    import pyogrio
    import shapely

    crs = pyogrio.read_info(path, layer=layer)["crs"]
    if crs is None:
        return geopandas.read_file(path, layer=layer, rows=1)
    epsg, bounds = around
    frame = geopandas.read_file(
        path, layer=layer, bbox=outline_in(shapely.box(*bounds), epsg, crs).bounds, fid_as_index=True
    )
    # A search tree gives features in its own order; of overlapping ones the first of the file counts.
    frame = frame.sort_index()
    # Numbers of a .gpkg start from 1.
    return frame.set_index(frame.index - 1) if path.suffix.lower() == ".gpkg" else frame


def read_codes(
    path: Path, attribute: str | None, where: str, layer: str | None = None, around: Around | None = None
) -> geopandas.GeoDataFrame:
    """Polygons of a land-cover file with their code as text in the column `code`; with `around` maybe those there.

    A polygon without code or without geometry is a Problem: what it covers would pass as not mapped.
    """
    frame = read_vector(path, where, layer, around)
    fields = [str(column) for column in frame.columns if column != frame.geometry.name]
    if attribute is None or attribute not in fields:
        said = f"'{attribute}' is no field" if attribute else "no attribute is named that holds the code"
        fix = nearest(attribute or "", fields)
        raise Problem(f"{said} of {path.name}", where=where, fix=f"set attribute; {fix}")
    frame = frame[[attribute, frame.geometry.name]].rename(columns={attribute: "code"})
    none = frame["code"].isna() | (frame["code"].astype(str).str.strip() == "")
    if none.any():
        what = f"{told_features(frame.index[none])} of {path.name} without a code in the field {attribute}"
        fix = "give each its code, one that the crosswalk knows as no data if so, or remove it from the file"
        raise Problem(what, where=where, fix=fix)
    frame["code"] = frame["code"].map(_code_text)
    return frame.set_geometry(frame.geometry.make_valid()).reset_index(drop=True)


def _code_text(value: object) -> str:
    """'231' for 231, 231.0 and ' 231 '."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def cell_shares(
    frame: geopandas.GeoDataFrame, epsg: int, bounds: tuple[float, float, float, float]
) -> dict[str, float]:
    """code -> share of the cell's area. Where polygons overlap, the one that stands first in the file counts.

    frame in any CRS; bounds of the cell in metres of `epsg`. Edges are densified before the change of CRS.
    """
    import shapely

    square = shapely.box(*bounds)
    local = outline_in(square, epsg, frame.crs)
    near = frame.iloc[sorted(frame.sindex.query(local, predicate="intersects"))]
    if near.empty:
        return {}
    clipped = near.assign(geometry=near.geometry.intersection(local.buffer(local.length / 100)))
    polygons = clipped.set_geometry(clipped.geometry.segmentize(max(local.length / 200, 1e-9))).to_crs(epsg)
    shares: dict[str, float] = {}
    taken = shapely.Polygon()
    for code, polygon in zip(polygons["code"], polygons.geometry, strict=True):
        part = shapely.intersection(shapely.make_valid(polygon), square)
        fresh = shapely.difference(part, taken)
        if fresh.area > 0:
            shares[code] = shares.get(code, 0.0) + fresh.area / square.area
            taken = shapely.union(taken, fresh)
    return shares


def outline_in(square: shapely.Geometry, epsg: int, crs: Any) -> shapely.Geometry:
    """A cell's square, densified, in another CRS."""
    import geopandas
    import shapely

    return geopandas.GeoSeries([shapely.segmentize(square, square.length / 40)], crs=epsg).to_crs(crs).iloc[0]
