"""Crisis events as maps: reading their files, and how much of each cell they cover, exactly and in its own CRS."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.events import NEARBY_M, REACH_M, CrisisEvent, Touch
from harmonize.splits import block_of
from pipeline import sandbox
from pipeline.event import Event
from pipeline.event_cems import read_cems
from pipeline.event_effis import read_effis
from pipeline.event_geojson import read_geojson
from pipeline.event_shakemap import is_package as is_cems
from pipeline.event_shakemap import origin_files, read_shakemap
from pipeline.grid import FALSE_NORTHING_M, Cell, is_south, transformer, zone_of
from pipeline.region import Region
from pipeline.shapes import Pieces, Squares, polygons_of, squares_of

if TYPE_CHECKING:
    import shapely

PART = "."
"""Between the id of a manifest's event and that of one of several in its file: `effis-2021.7`. No id has it."""
READERS = {
    "cems": read_cems,
    "effis": read_effis,
    "geojson": read_geojson,
    "shakemap": read_shakemap,
}
"""source of the manifest -> what reads its files."""
NOT_AN_EVENT: dict[str, Any] = {"event": None, "analysed": None, "distance_m": None}
"""The event columns of a row of land cover."""


@dataclass(frozen=True, eq=False)
class EventMap:
    """An event of the manifest with its geometry."""

    use: Event
    event: CrisisEvent
    shape: shapely.Geometry
    """What it covers: polygons, EPSG:4326, edges densified."""
    analysed: shapely.Geometry | None
    """The extent that was looked at, likewise."""
    unseen: shapely.Geometry | None = None
    """Where what nobody looked at is bounded, that ground (EventArea.unseen)."""
    notes: tuple[str, ...] = ()
    """What a person should know of the reading of its files."""


def params(region: Region, *keys: str) -> list[dict[str, Any]]:
    """What of the events decides a stage's output: these keys, and the version of the sample world they are in."""
    told = []
    for event in region.events:
        # These choose the fires of a file, and what of a file is read.
        also = ("effect_days", "before_days") if event.source == "effis" else ("layer",) if event.layer else ()
        about = event.model_dump(mode="json", include={"id", *keys, *also})
        if any(str(about.get(key)).startswith(sandbox.SCHEME) for key in ("href", "analysed", "damage")):
            about["sandbox"] = sandbox.VERSION
        told.append(about)
    return told


def files(region: Region, *keys: str) -> list[Path]:
    """The files that these keys of the events name. Files of the sample world are decided by its version."""
    from pipeline.cems_package import watched
    from pipeline.vector import with_siblings

    found: list[Path] = []
    for event in region.events:
        for key in keys:
            href = getattr(event, key)
            if href and not href.startswith(sandbox.SCHEME):
                path = region.relative(href)
                is_package = (event.source == "cems" and key == "href") or (key == "damage" and is_cems(path))
                found += (watched if is_package else with_siblings)(path)
                found += origin_files(path) if event.source == "shakemap" and key == "href" else []
    return found


def load_events(region: Region, extents: bool = True) -> list[EventMap]:
    """The events of a region with their maps; without `extents` what was analysed is not read (and says None).

    Raises Problem for a file that does not say what or when.
    """
    return [event for k, use in enumerate(region.events) for event in _load(region, k, use, extents)]


def _load(region: Region, k: int, use: Event, extents: bool) -> list[EventMap]:
    where = f"{region.path}, key 'events[{k}]' ({use.id})"
    found = []
    for area in READERS[use.source](use, region, where, extents):
        start = use.start or area.start
        if start is None:
            raise AssertionError(f"the reader of {use.source} gave no start")
        name = f"{use.id}{PART}{area.part}" if area.part else use.id
        event = CrisisEvent(name, use.kind, start, use.effect_days, use.min_event_share)
        found.append(EventMap(use, event, area.shape, area.analysed, area.unseen, area.notes))
    return found


def shares(mapped: EventMap, zones: list[Squares]) -> dict[Cell, float]:
    """Share of the area of each cell that the event covers; only cells of which it covers some."""
    found: dict[Cell, float] = {}
    for mine in _near(zones, mapped.shape.bounds, 0):
        share = _shares_of(_pieces(mapped.shape, mine, 0), mine, 9)
        found |= {cell: s for cell, s in zip(mine.cells, share, strict=True) if s > 0}
    return found


def notes_on(use: Event, found: list[tuple[EventMap, list[float]]], region: Region) -> list[str]:
    """What a person should know of an entry of the manifest: its maps, each with its shares of the cells it covers.

    An entry of many events (a season's fires) is told as one, else the notes would be as long as the season.
    """
    if not found:
        return [f"warning: event '{use.id}': none of its file is near the region and in its dates"]
    enough = sum(share >= mapped.event.min_share for mapped, shares in found for share in shares)
    some = sum(len(shares) for _, shares in found)
    first, last = min(m.event.start for m, _ in found), max(m.event.last for m, _ in found)
    name, window = f"event '{use.id}'", f"{first} to {last}"
    many = f"{len(found)} near the region, " if PART in found[0][0].event.id else ""
    notes = [f"{name} ({use.kind}, {many}{window}) covers {enough} cells, and some of {some}"]
    notes += [f"{name}: {note}" for note in dict.fromkeys(note for mapped, _ in found for note in mapped.notes)]
    if not some:
        notes.append(f"warning: {name} lies outside the cells of the region")
    if first > region.end or last < region.start:
        notes.append(f"warning: {name} lies outside the dates of the region, {region.start} to {region.end}")
    return notes


def touches(mapped: EventMap, zones: list[Squares]) -> dict[Cell, Touch]:
    """What the map says about every cell in the event's reach: within 10 km of its geometry; where an extent was
    analysed, within 100 km of its geometry or 10 km of the extent, since what was not looked at is unknown; where
    what nobody looked at is bounded, within 10 km of the geometry or on that ground.

    Farther cells are not there: the event is none of theirs.
    """
    import shapely

    reach = NEARBY_M if mapped.analysed is None else REACH_M
    bounds = tuple(
        shapely.total_bounds([shape for shape in (mapped.shape, mapped.analysed, mapped.unseen) if shape]).tolist()
    )
    found: dict[Cell, Touch] = {}
    for mine in _near(zones, bounds, reach):
        pieces = _pieces(mapped.shape, mine, reach)
        distance = pieces.distances(mine.polygons, reach)
        near = np.isfinite(distance)
        distance[distance > NEARBY_M] = np.inf
        inside: list[Any] = [None] * len(mine)
        if mapped.unseen is not None:
            unseen = np.array(_shares_of(_pieces(mapped.unseen, mine, 0), mine, 4))
            near |= unseen > 0
            inside = (1 - unseen).round(4).tolist()
        elif mapped.analysed is not None:
            extent = _pieces(mapped.analysed, mine, NEARBY_M)
            near |= np.isfinite(extent.distances(mine.polygons, NEARBY_M))
            # Four digits: GeoJSON has whole centimetres, and a cell is not partly outside an extent for one of them.
            inside = _shares_of(extent, mine, 4)
        columns = zip(_shares_of(pieces, mine, 9), inside, distance.round(3).tolist(), strict=True)
        found |= {c: Touch(*said) for c, said, close in zip(mine.cells, columns, near, strict=True) if close}
    return found


def extent_notes(mapped: EventMap) -> list[str]:
    """A warning where what was analysed lies elsewhere than the event: likely the extent of another one."""
    import shapely

    if mapped.analysed is None or shapely.intersects(mapped.analysed, mapped.shape):
        return []
    return [f"warning: what was analysed of event '{mapped.event.id}' does not touch the event: check `analysed`"]


def local_part(area: shapely.Geometry, cell: Cell) -> shapely.Geometry:
    """What of an area (EPSG:4326) lies in a cell, in the metres of its zone."""
    import shapely

    (square,) = squares_of([cell])
    near = polygons_of(_move(_around(area, square.bounds(0)), 4326, cell.epsg))
    return shapely.intersection(near, shapely.box(*cell.bounds))


def _near(zones: list[Squares], bounds: tuple[float, ...], margin_m: float) -> list[Squares]:
    """What of each zone lies around bounds in degrees; zones without any are left out."""
    return [near for zone in zones if len(near := zone.near(bounds, margin_m))]


def _shares_of(pieces: Pieces, squares: Squares, digits: int) -> list[float]:
    return (pieces.areas(squares.polygons) / squares.side_m**2).round(digits).tolist()


def _pieces(area: shapely.Geometry, squares: Squares, margin_m: float) -> Pieces:
    """What lies within a margin of the squares, in their metres."""
    return Pieces(polygons_of(_move(_around(area, squares.bounds(margin_m)), 4326, squares.epsg)))


def _around(area: shapely.Geometry, box: tuple[float, float, float, float]) -> shapely.Geometry:
    """The part of an area in a box of degrees, also where the box reaches across the antimeridian."""
    import shapely
    from shapely import affinity

    west, south, east, north = area.bounds
    if west >= box[0] and south >= box[1] and east <= box[2] and north <= box[3]:
        return area
    turns = [0.0, *([360.0] if box[2] > 180 else []), *([-360.0] if box[0] < -180 else [])]
    parts = [affinity.translate(area, turn) if turn else area for turn in turns]
    clipped = [shapely.intersection(part, shapely.box(*box)) for part in parts]
    return clipped[0] if len(clipped) == 1 else shapely.union_all(clipped)


def _move(area: shapely.Geometry, source: int, target: int) -> shapely.Geometry:
    import shapely

    return shapely.transform(area, lambda xy: np.column_stack(transformer(source, target).transform(*xy.T)))


def rows_of(events: list[EventMap], cells: list[Cell]) -> list[dict[str, Any]]:
    """Rows of labels.parquet: what each event says about each cell that it touches or may touch."""
    zones = squares_of(cells)
    return [
        {
            "cell": cell.name,
            "source": mapped.use.source,
            "event": mapped.event.id,
            "date": mapped.event.start,
            "code": mapped.event.kind,
            "share": touch.share,
            "analysed": touch.analysed,
            "distance_m": touch.distance_m if np.isfinite(touch.distance_m) else None,
            "dropped": None,
        }
        for mapped in events
        for cell, touch in touches(mapped, zones).items()
    ]


def verdict_of(row: dict[str, Any], region: Region) -> tuple[CrisisEvent, Touch]:
    """An event row of labels.parquet as the event and what its map says about the cell."""
    use = next(event for event in region.events if event.id == row["event"].split(PART)[0])
    far = float("inf") if row["distance_m"] is None else row["distance_m"]
    event = CrisisEvent(row["event"], use.kind, row["date"], use.effect_days, use.min_event_share)
    return event, Touch(row["share"], row["analysed"], far)


def blocks_of(area: shapely.Geometry, block_km: float) -> dict[str, float]:
    """Block -> area (m²) of a geometry (EPSG:4326) in it; its parts in other zones lie in those zones' blocks.

    Zones change on multiples of 3° only, exceptions included, so that strips of 3° have one zone each.
    """

    west, south, east, north = area.bounds
    lons = np.arange(np.floor(west / 3) * 3, east, 3.0)
    found: dict[str, float] = {}
    for lon, (low, high) in itertools.product(lons, itertools.pairwise((-80, 0, 56, 64, 72, 84))):
        if low >= north or high <= south:
            continue
        part = _around(area, (lon, low, lon + 3, high))
        if part.is_empty:
            continue
        zone = int(zone_of(np.array(lon + 1.5), np.array((low + high) / 2)))
        epsg = (32700 if high <= 0 else 32600) + zone
        for block, size in _blocks_in(polygons_of(_move(part, 4326, epsg)), epsg, block_km):
            found[block] = found.get(block, 0.0) + size
    return found


def _blocks_in(area: shapely.Geometry, epsg: int, block_km: float) -> list[tuple[str, float]]:
    import shapely

    if area.is_empty:
        return []
    side, base = block_km * 1000, FALSE_NORTHING_M if is_south(epsg) else 0
    low = np.floor((np.array(area.bounds[:2]) - [0, base]) / side)
    high = np.ceil((np.array(area.bounds[2:]) - [0, base]) / side)
    x, y = (a.ravel() * side for a in np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])))
    y += base
    sizes = Pieces(area).areas(shapely.box(x, y, x + side, y + side))
    middles = zip((x + side / 2).tolist(), (y + side / 2).tolist(), sizes.tolist(), strict=True)
    return [(block_of(epsg, east, north, block_km), size) for east, north, size in middles if size > 0]
