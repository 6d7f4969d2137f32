"""Reader of `source = "geojson"`: any vector file whose polygons are one event's area."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from harmonize.problem import Problem
from pipeline.event import Event
from pipeline.event_area import EventArea, analysed_of, area_of
from pipeline.event_dates import utc_day
from pipeline.region import Region

if TYPE_CHECKING:
    import geopandas

START_FIELDS = ("start", "date")
"""Properties of an event's features that say its first day, where the manifest does not; see `utc_day`."""


def read_geojson(use: Event, region: Region, where: str, extents: bool) -> list[EventArea]:
    """The one event of a vector file; what was analysed is the file that the manifest names."""
    from pipeline.vector import read_vector

    path = region.relative(use.href)
    notes: list[str] = []
    frame = read_vector(path, where, use.layer, notes=notes)
    start = use.start or _start_of(frame, path, where)
    shape = area_of(frame, path, where, notes)
    analysed = analysed_of(use, region, where, extents, notes)
    return [EventArea(shape, analysed, start, notes=tuple(notes))]


def _start_of(frame: geopandas.GeoDataFrame, path: Path, where: str) -> dt.date:
    """The one day (UTC) that all features name."""
    field = next((name for name in START_FIELDS if name in frame.columns), None)
    fix = "add start = <first day of the event>"
    if field is None:
        raise Problem(f"the event has no start, and {path.name} has no field start or date", where=where, fix=fix)
    days = [utc_day(value, field, path.name, where, fix) for value in frame[field]]
    said = sorted({day for day in days if day})
    if len(said) > 1:
        names = ", ".join(map(str, said[:4]))
        raise Problem(f"the features of {path.name} name several days as {field}: {names}", where=where, fix=fix)
    if None in days:
        number = frame.index[days.index(None)] + 1
        what = f"feature {number} of {path.name} has no {field}" if said else f"{path.name} has no {field}"
        raise Problem(what, where=where, fix=fix)
    return said[0]
