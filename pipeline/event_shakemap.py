"""Reader of `source = "shakemap"`: contours of shaking intensity (USGS ShakeMap, cont_mmi.json, older cont_mi.json).

A FeatureCollection of lines per intensity (MMI, in half steps), with `value` and `units`; products with polygons of
`value` are read too. The event page of the USGS has it under ShakeMap, Downloads; it is "download/cont_mmi.json" of
earthquake.usgs.gov/fdsnws/event/1/query?eventid=…&format=geojson.

Shaking is modelled and covers all ground; damage is what it did to buildings. Alone, a ShakeMap gives "earthquake
damage" to every cell of which enough was shaken so hard, a forest too: a first look, to be taken as no more. Cells
within 10 km of the contour are unknown then, and those beyond are known to have none.

With `damage` the event is the damage that was seen, and the shaking says where nobody knows: shaken ground that was not
looked at is unknown; ground that was not shaken is known to have none, however small the frame of the damage map is.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.problem import Problem
from harmonize.record import from_json
from pipeline.contours import UnclearContours, ground_above
from pipeline.event import MMI, Event
from pipeline.event_area import EventArea, analysed_of, check_degrees
from pipeline.event_cems import read_cems
from pipeline.event_dates import day_of_milliseconds, utc_day
from pipeline.event_geojson import read_geojson
from pipeline.region import Region
from pipeline.shapes import degrees_of, turned

if TYPE_CHECKING:
    import geopandas
    import shapely

ORIGINS = ("info.json", "event.geojson", "event.json")
"""Files beside the contours that say when the earthquake was: the ShakeMap's own record, and the event's GeoJSON."""
UNITS = ("mmi", "mi", "intensity")
LINES, POLYGONS = ("LineString", "MultiLineString"), ("Polygon", "MultiPolygon")


def read_shakemap(use: Event, region: Region, where: str, extents: bool) -> list[EventArea]:
    """The shaken ground, or the damage that was seen, with the shaken ground nobody looked at as `unseen`.

    The day is the manifest's, else that of the earthquake in the file or beside it (ORIGINS).
    Raises Problem where there is none, or no contour of the manifest's `mmi`.
    """
    import shapely

    path = region.relative(use.href)
    start = use.start or _origin_day(path, where)
    notes: list[str] = []
    if use.damage is None:
        shaken = _shaken(path, use.mmi or MMI, where, notes)
        return [EventArea(shaken, analysed_of(use, region, where, extents, notes), start, notes=tuple(notes))]
    areas = _damage(use, region, where, extents, start)
    seen = shapely.union_all([area.shape for area in areas])
    notes += [note for area in areas for note in area.notes]
    if not extents:
        return [EventArea(seen, None, start, notes=tuple(notes))]
    # Damage that was seen was looked at, also where no extent is told.
    known = shapely.union_all([seen, *(area.analysed for area in areas if area.analysed is not None)])
    unseen = shapely.difference(_shaken(path, use.mmi or MMI, where, notes), known)
    return [EventArea(seen, None, start, unseen=unseen, notes=tuple(notes))]


def origin_files(path: Path) -> list[Path]:
    """The files beside a ShakeMap that may say its day."""
    return [file for name in ORIGINS if (file := path.parent / name).is_file() and file != path]


def _damage(use: Event, region: Region, where: str, extents: bool, start: dt.date) -> list[EventArea]:
    """What was damaged, and what was looked at."""
    package = is_package(region.relative(use.damage or ""))
    # The earthquake's day: a package's own is that of its activation or of an image.
    keys: dict[str, Any] = {"source": "cems" if package else "geojson", "href": use.damage, "start": start}
    inner = use.model_copy(update=keys | {"damage": None, "mmi": None})
    return (read_cems if package else read_geojson)(inner, region, where, extents)


def is_package(path: Path) -> bool:
    """Whether damage is a package of Copernicus EMS rather than a vector file."""
    return path.is_dir() or path.suffix.lower() == ".zip"


def _shaken(path: Path, level: float, where: str, notes: list[str]) -> shapely.Geometry:
    """The ground where the intensity is at least `level`, EPSG:4326."""
    import geopandas
    import shapely

    contours, polygons = _contours(path, where, notes)
    if level not in contours:
        said = ", ".join(f"{value:g}" for value in sorted(contours))
        fix = f"set mmi to one of them: {said}"
        raise Problem(f"{path.name} has no contour of intensity {level:g}", where=where, fix=fix)
    if polygons:
        # Bands of intensity, or whatever is above each: either way, all of them from the level on.
        area = shapely.union_all([shape for value, shape in contours.items() if value >= level])
    else:
        try:
            area = ground_above(contours, level)
        except UnclearContours as error:
            what = f"the contour of intensity {level:g} of {path.name} cannot be closed: {error}"
            raise Problem(what, where=where, fix="fetch the file again, or choose another mmi") from None
    if area.is_empty:
        what = f"the contour of intensity {level:g} of {path.name} has no ground in it"
        raise Problem(what, where=where, fix="choose another mmi")
    return degrees_of(geopandas.GeoDataFrame(geometry=[turned(area)], crs=4326))


def _contours(path: Path, where: str, notes: list[str]) -> tuple[dict[float, shapely.Geometry], bool]:
    """intensity -> its lines or polygons, in degrees, as one geometry; and whether they are polygons."""
    import shapely

    from pipeline.vector import read_vector

    frame = read_vector(path, where, notes=notes)
    if frame.crs.is_geographic:
        west, south, east, north = frame.total_bounds
        if not (-360 <= west <= east <= 360 and -90 <= south <= north <= 90 and east - west < 180):
            what = f"{path.name} reaches from {west:g} to {east:g} degrees east and from {south:g} to {north:g} north"
            raise Problem(what, where=where, fix="give degrees; a map across 180° goes on counting: 179, 180, 181")
    else:
        check_degrees(frame, path, where)
        frame = frame.to_crs(4326)
    values = [_value(value, path, where) for value in _column(frame, path, where)]
    kinds = {str(kind) for kind in frame.geom_type}
    if not (kinds <= set(LINES) or kinds <= set(POLYGONS)):
        what = f"{path.name} holds {', '.join(sorted(kinds))}"
        raise Problem(what, where=where, fix="take cont_mmi.json: lines of equal intensity, or polygons of it")
    polygons = kinds <= set(POLYGONS)
    shapes = shapely.force_2d(frame.geometry.values)
    shapes = shapely.make_valid(shapes) if polygons else shapes
    by_value: dict[float, list[shapely.Geometry]] = {}
    for value, shape in zip(values, shapes, strict=True):
        by_value.setdefault(value, []).append(shape)
    if polygons:
        return {value: shapely.union_all(mine) for value, mine in by_value.items()}, True
    return {v: shapely.MultiLineString(list(shapely.get_parts(mine))) for v, mine in by_value.items()}, False


def _column(frame: geopandas.GeoDataFrame, path: Path, where: str) -> list[object]:
    if "units" in frame.columns:
        other = sorted({str(unit) for unit in frame["units"]} - {u for u in map(str, frame["units"]) if _is_mmi(u)})
        if other:
            what = f"{path.name} is in {', '.join(other)}, not in intensity"
            raise Problem(what, where=where, fix="take cont_mmi.json of the ShakeMap")
    if "value" not in frame.columns:
        what = f"{path.name} has no field 'value' that says the intensity of a contour"
        raise Problem(what, where=where, fix="take cont_mmi.json of the ShakeMap")
    return list(frame["value"])


def _is_mmi(unit: str) -> bool:
    return unit.lower() in UNITS


def _value(value: object, path: Path, where: str) -> float:
    try:
        level = float(str(value))
    except ValueError:
        level = float("nan")
    if not 0 <= level <= 12:
        what = f"{path.name} has a contour of value {value}, which is no intensity (1 to 12)"
        raise Problem(what, where=where, fix="take cont_mmi.json of the ShakeMap")
    return level


def _origin_day(path: Path, where: str) -> dt.date:
    """The UTC day of the earthquake as the file, or one beside it, says it."""
    for file in (path, *origin_files(path)):
        day = _day_in(file, where) if file.suffix.lower() in (".json", ".geojson") else None
        if day:
            return day
    raise Problem(
        f"the event has no start, and neither {path.name} nor a file beside it ({', '.join(ORIGINS)}) says it",
        where=where,
        fix="add start = <day of the earthquake, UTC>, or the ShakeMap's info.json",
    )


def _day_in(file: Path, where: str) -> dt.date | None:
    try:
        told = from_json(file.read_bytes())
    except ValueError as error:
        raise Problem(f"{file} is no JSON: {error}", where=where, fix="fetch it again") from None
    fix = "add start = <day of the earthquake, UTC>"
    for holder in (told, told.get("metadata") if isinstance(told, dict) else None):
        time = _at(holder, "properties", "time")
        if isinstance(time, int | float) and not isinstance(time, bool):
            return day_of_milliseconds(time, "time", file.name, where, fix)
        for steps in (("input", "event_information", "origin_time"), ("properties", "time"), ("origin_time",)):
            said = _at(holder, *steps)
            if isinstance(said, str):
                return utc_day(said, steps[-1], file.name, where, fix)
    return None


def _at(told: Any, *steps: str) -> Any:
    for step in steps:
        told = told.get(step) if isinstance(told, dict) else None
    return told
