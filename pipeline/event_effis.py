"""Reader of `source = "effis"`: burnt areas of the European Forest Fire Information System, one event per fire.

A season's file (WFS layers ms:modis.ba.poly.season and ms:modis.ba.poly, or the yearly downloads; EPSG:4326) holds
thousands of fires, each with `id`, `firedate`, `lastupdate`, `area_ha`, `class` (FireSeason, …) and the land cover that
burned in percent; in other exports `initialdate` and `finaldate`. Numbers often arrive as text.

What it does not say: which ground was looked at. Fires are mapped from about 30 ha on (a few smaller ones since 2018),
and those that burn farmland alone are left out (JRC, effis.jrc.ec.europa.eu, "Rapid Damage Assessment"). So there is no
analysed extent: what lies within 10 km of a fire is unknown, and beyond it a small fire may pass as not burned.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from harmonize.events import NEARBY_M
from harmonize.problem import Problem, nearest
from pipeline.event import Event, slug
from pipeline.event_area import EventArea, analysed_of, area_of, check_degrees
from pipeline.event_dates import utc_day
from pipeline.region import Region

if TYPE_CHECKING:
    import geopandas

ID_FIELD = "id"
DATE_FIELDS = ("firedate", "initialdate")
"""First days, in upper or lower case; the first of them that a file has."""
METRES_PER_DEGREE = 110_000
"""Of latitude, rounded down: distances come out too small, and too many fires are kept rather than too few."""
CELL_MARGIN_M = 3_000
"""Cells belong to a region by their centre, so that they reach out of it."""


def read_effis(use: Event, region: Region, where: str, extents: bool) -> list[EventArea]:
    """The fires of a file that can matter to a region: within 10 km of its area, and seen in its dates.

    A fire is seen for twice its effect_days from its own day on (the second time it is fading), and for before_days
    before. Features that share an id are one fire, of the earliest of their days. `part` is the fire's id.

    Raises Problem for a fire near the region without id, day or polygon, and for a `start` in the manifest where the
    file holds several fires.
    """
    from pipeline.vector import read_vector

    path = region.relative(use.href)
    notes: list[str] = []
    frame = read_vector(path, where, notes=notes)
    check_degrees(frame, path, where)
    fires = _ids(frame, path, where)
    if use.start and len(set(fires)) > 1:
        raise Problem(
            f"start is {use.start}, and {path.name} holds {len(set(fires))} fires, each with its own day",
            where=where,
            fix="take start away, or write a file of the one fire",
        )
    analysed = analysed_of(use, region, where, extents, notes)
    found = []
    for name, rows in _rows(frame, fires, region, path, where).items():
        fire = frame.iloc[rows]
        start = use.start or _start(fire, name, path, where)
        if _seen(start, use, region):
            more: list[str] = []
            shape = area_of(fire, path, where, more)
            found.append(EventArea(shape, analysed, start, slug(name), notes=(*notes, *more)))
    return found


def _rows(
    frame: geopandas.GeoDataFrame, fires: list[str], region: Region, path: Path, where: str
) -> dict[str, list[int]]:
    """Id -> rows of each fire that has one near the region, by id."""
    near = _near(frame, region)
    nameless = next((k for k in near if not fires[k]), None)
    if nameless is not None and len(frame) > 1:
        what = f"feature {frame.index[nameless] + 1} of {path.name} has no id"
        raise Problem(what, where=where, fix="give each fire an id")
    ids = sorted({fires[k] for k in near})
    _check_parts(ids, path, where)
    rows: dict[str, list[int]] = {name: [] for name in ids}
    for k, name in enumerate(fires):
        rows.get(name, []).append(k)
    return rows


def _ids(frame: geopandas.GeoDataFrame, path: Path, where: str) -> list[str]:
    """Of every feature, as text; '' where it has none."""
    field = _field(frame, (ID_FIELD,))
    if field is None:
        if len(frame) == 1:
            return [""]
        fix = f"name the field of the fires' ids '{ID_FIELD}'; {nearest(ID_FIELD, _fields(frame))}"
        raise Problem(f"{path.name} has no field '{ID_FIELD}'", where=where, fix=fix)
    return [_text(value) for value in frame[field]]


def _text(value: object) -> str:
    """'273772' for 273772, 273772.0 and ' 273772 '."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _check_parts(ids: list[str], path: Path, where: str) -> None:
    taken: dict[str, str] = {}
    for name in ids:
        if name and not slug(name):
            what = f"the id '{name}' of {path.name} has neither a letter nor a digit (a-z, 0-9) that goes into tables"
            raise Problem(what, where=where, fix="give the fire an id that has")
        other = taken.setdefault(slug(name), name)
        if other != name:
            what = f"the ids '{other}' and '{name}' of {path.name} are one in tables: '{slug(name)}'"
            raise Problem(what, where=where, fix="give the fires ids that differ in letters or digits")


def _start(fire: geopandas.GeoDataFrame, name: str, path: Path, where: str) -> dt.date:
    field = _field(fire, DATE_FIELDS)
    fix = "write the fire's first day there"
    if field is None:
        fix = f"name the field {DATE_FIELDS[0]}; {nearest(DATE_FIELDS[0], _fields(fire))}"
        raise Problem(f"{path.name} has no field {' or '.join(DATE_FIELDS)}", where=where, fix=fix)
    days = [utc_day(value, field, f"fire '{name}' in {path.name}", where, fix) for value in fire[field]]
    said = [day for day in days if day]
    if not said:
        raise Problem(f"fire '{name}' in {path.name} has no {field}", where=where, fix=fix)
    return min(said)


def _seen(start: dt.date, use: Event, region: Region) -> bool:
    first = start - dt.timedelta(days=use.before_days)
    last = start + dt.timedelta(days=2 * use.effect_days)
    return first <= region.end and last >= region.start


def _near(frame: geopandas.GeoDataFrame, region: Region) -> list[int]:
    """Rows of the features within 10 km of the region's area, and some farther ones."""
    import numpy as np
    import shapely
    from shapely import affinity

    from pipeline.place import area_of as region_area

    area = region_area(region)
    margin_m = NEARBY_M + CELL_MARGIN_M
    shapes = frame.geometry.to_crs(4326)
    bounds = shapes.bounds.to_numpy()
    lat = (bounds[:, 1] + bounds[:, 3]) / 2
    wide = np.maximum(np.cos(np.radians(np.abs(lat) + 1)), 0.01)
    more = margin_m / METRES_PER_DEGREE
    west, south, east, north = area.bounds
    inside = (bounds[:, 0] <= east + more / wide) & (bounds[:, 2] >= west - more / wide)
    inside &= (bounds[:, 1] <= north + more) & (bounds[:, 3] >= south - more)
    found = []
    for k in np.flatnonzero(inside).tolist():
        # Degrees of longitude become as long as those of latitude are there.
        fire, ground = (affinity.scale(shape, wide[k], 1, origin=(0, 0)) for shape in (shapes.iloc[k], area))
        if shapely.dwithin(fire, ground, more):
            found.append(k)
    return found


def _field(frame: geopandas.GeoDataFrame, names: tuple[str, ...]) -> str | None:
    return next((field for name in names for field in _fields(frame) if field.lower() == name), None)


def _fields(frame: geopandas.GeoDataFrame) -> list[str]:
    return [str(column) for column in frame.columns if column != frame.geometry.name]
