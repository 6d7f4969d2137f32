"""Copernicus EMS packages written by tests, layer by layer, and how they are read."""

from __future__ import annotations

import datetime as dt
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import pandas
import pyogrio
import shapely

from pipeline.event import Event
from pipeline.event_area import EventArea
from pipeline.event_cems import read_cems

DEL = "EMSR884_AOI01_DEL_PRODUCT"
AREA = shapely.box(11.0, 45.0, 11.2, 45.1)
SCENE = shapely.box(10.0, 44.0, 11.1, 46.0)
"""An image that shows the western half of the area of interest."""
WET = shapely.box(11.02, 45.02, 11.03, 45.03)
START = dt.date(2024, 5, 1)


def write(path: Path, rows: list[tuple[shapely.Geometry, dict[str, Any]]], crs: int = 4326, **keys: Any) -> Path:
    """One vector file of (EPSG:4326 shape, fields); suffix says the format; `layer` names it in a GeoPackage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = [fields for _, fields in rows] or [{"event_type": "", "notation": ""}]
    frame = geopandas.GeoDataFrame(fields, geometry=[shape for shape, _ in rows] or [shapely.Point()], crs=4326)
    frame = frame.iloc[: len(rows)].to_crs(crs)
    driver = {".shp": "ESRI Shapefile", ".gpkg": "GPKG"}.get(path.suffix, "GeoJSON")
    frame.to_file(path, driver=driver, geometry_type=None if rows else "Polygon", **keys)
    return path


def source(path: Path, *rows: tuple[str, str, str, str]) -> None:
    """The table of images: (src_id, eventphase, src_date, source_tm)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pandas.DataFrame(rows, columns=["src_id", "eventphase", "src_date", "source_tm"])
    pyogrio.write_dataframe(frame, path, driver="ESRI Shapefile")


def event(shape: shapely.Geometry = WET, notation: str | None = "Flooded area", kind: str = "5-Flood") -> tuple:
    return shape, {"event_type": kind, "notation": notation}


def product(folder: Path, name: str = DEL, suffix: str = ".shp", **layers: list) -> Path:
    """A product of the newest generation: one flood, its area of interest and its image, unless told otherwise.

    A layer that is None is left out.
    """
    rows: dict[str, Any] = {
        "observedEventA": [event()],
        "areaOfInterestA": [(AREA, {"name": "x"})],
        "imageFootprintA": [(SCENE, {"obj_type": "Image Footprint", "or_src_id": 2})],
    }
    for layer, features in (rows | layers).items():
        if features is not None:
            write(folder / f"{name}_{layer}_v1{suffix}", features)
    return folder


def zipped(folder: Path, path: Path) -> Path:
    """All files of a folder in a zip, below the folder's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            out.write(file, f"{folder.name}/{file.relative_to(folder).as_posix()}")
    return path


def read(path: Path, kind: str = "flood", extents: bool = True, **keys: Any) -> EventArea:
    use = Event.model_validate({"kind": kind, "source": "cems", "href": str(path), "start": START} | keys)
    region: Any = SimpleNamespace(relative=lambda href: Path(href))
    (area,) = read_cems(use, region, "tiny.toml, key 'events[0]'", extents)
    return area


def same(a: shapely.Geometry | None, b: shapely.Geometry | None) -> bool:
    """To 1e-9 square degrees: some 10 m²."""
    return a is not None and b is not None and shapely.symmetric_difference(a, b).area < 1e-9
