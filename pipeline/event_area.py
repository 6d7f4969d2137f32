"""What the reader of an event's files gives back, and how features become one area."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harmonize.problem import Problem
from pipeline.shapes import degrees_of

if TYPE_CHECKING:
    import geopandas
    import shapely

    from pipeline.event import Event
    from pipeline.region import Region


@dataclass(frozen=True, eq=False)
class EventArea:
    """One event of an event file."""

    shape: shapely.Geometry
    """What it covers: valid polygons, EPSG:4326, edges densified."""
    analysed: shapely.Geometry | None = None
    """The extent that was looked at, likewise; None where nobody says."""
    start: dt.date | None = None
    """Its first day (UTC) as the file has it; the manifest's `start` goes before it."""
    part: str = ""
    """Tells the events of one file apart; empty where the file is one event."""
    unseen: shapely.Geometry | None = None
    """The ground that may be hit and that nobody looked at, likewise, where that is bounded, as shaking bounds damage:
    all other ground is known, near or far, and `analysed` is None."""
    notes: tuple[str, ...] = ()
    """What a person should know of the reading: what was left out, and why."""


def analysed_of(use: Event, region: Region, where: str, extents: bool, notes: list[str]) -> shapely.Geometry | None:
    """The extent that was looked at, of the file that the manifest names as `analysed`; None without `extents`."""
    from pipeline.vector import read_vector

    if use.analysed is None or not extents:
        return None
    path = region.relative(use.analysed)
    return area_of(read_vector(path, where, notes=notes), path, where, notes)


def area_of(frame: geopandas.GeoDataFrame, path: Path, where: str, notes: list[str]) -> shapely.Geometry:
    """The polygons of all features, EPSG:4326. None is a Problem; points and lines beside them go into `notes`."""
    check_degrees(frame, path, where)
    area = degrees_of(frame)
    if area.is_empty:
        raise Problem(f"{path.name} has no polygon", where=where, fix="give the area of the event, not points or lines")
    note_flat(frame, path.name, notes)
    return area


def note_flat(frame: geopandas.GeoDataFrame, name: str, notes: list[str]) -> None:
    """Points and lines cover nothing: how many were left out."""
    flat = int((~frame.geom_type.isin(("Polygon", "MultiPolygon", "GeometryCollection"))).sum())
    if flat:
        notes.append(f"left out: {flat} of {len(frame)} features of {name}, which are points or lines")


def check_degrees(frame: geopandas.GeoDataFrame, path: Path, where: str) -> None:
    """Before edges are densified: metres that are taken for degrees would make millions of vertices."""
    west, south, east, north = frame.to_crs(4326).total_bounds
    # Written so that inf and nan, which a change of CRS gives where there is no answer, are no degrees either.
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise Problem(
            f"{path.name} says its CRS is {frame.crs.name}, and then it reaches from {west:g} to {east:g} degrees east "
            f"and from {south:g} to {north:g} north",
            where=where,
            fix="write the CRS that its coordinates are in into the file (ogr2ogr -a_srs EPSG:… new.gpkg the-file); "
            "GeoJSON without one is taken for degrees, longitude first, -180..180",
        )
