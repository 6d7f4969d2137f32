"""Which scenes there are: passes of the satellites over the places, cut into tiles, with their quirks.

Sentinel-2: two processing baselines, a reprocessed copy of a pass, overlapping tiles of one pass, tiles of two zones,
swath edges. Sentinel-1: both orbits, grids that no other grid fits, swath edges with zeros in front of them.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.grid import transformer
from pipeline.sandbox.landscape import generator
from pipeline.sandbox.places import PLACES, Place, Size

OFFSET_FROM = dt.date(2022, 1, 25)
"""First day of processing baseline 04.00, which adds 1000 to every DN."""
EDGED = {"s2": {0: "west", 5: "east"}, "s1": {1: "east", 6: "west"}}
"""Passes (by their number at a place) whose swath ends inside the place, and the side that is seen."""
S1_SHIFT_M = (3.7, -6.2)
"""Sentinel-1 RTC is snapped to no grid."""


@dataclass(frozen=True)
class Scene:
    """One STAC item: a pass over a place in one tile."""

    id: str
    place: str
    sensor: str
    number: int
    """Of the pass at its place and sensor, from 0."""
    when: dt.datetime
    epsg: int
    west: float
    north: float
    rows: int
    cols: int
    """In 10 m pixels."""
    platform: str
    orbit: str
    tile: str | None = None
    baseline: str | None = None
    generated: str | None = None
    edge: tuple[float, float, str] | None = None
    """Where the swath ends: easting in home-zone metres at the middle of the place, its northing, the side seen."""

    @property
    def offset(self) -> int:
        """What this item's DN lie above the reflectance x 10000."""
        return 1000 if self.baseline and int(self.baseline[:2]) >= 4 else 0

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        return self.west, self.north - 10 * self.rows, self.west + 10 * self.cols, self.north


def scenes_of(size: Size) -> list[Scene]:
    """All scenes of a world, sorted by id."""
    found = [scene for place in PLACES for scene in (*_optical(place, size), *_radar(place, size))]
    return sorted(found, key=lambda s: s.id)


def _edge(place: Place, size: Size, sensor: str, number: int) -> tuple[float, float, str] | None:
    side = EDGED[sensor].get(number)
    if side is None:
        return None
    west, south, east, north = place.bounds(size)
    at = 0.72 if side == "west" else 0.30
    return west + at * (east - west), (south + north) / 2, side


def _longitude(place: Place, size: Size) -> float:
    west, south, east, north = place.bounds(size)
    return float(transformer(place.epsg, 4326).transform((west + east) / 2, (south + north) / 2)[0])


def _time(day: dt.date, solar_hour: float, place: Place, size: Size) -> dt.datetime:
    """UTC of a local solar time, with seconds and thousandths of its own."""
    draw = generator("time", place.name, str(day))
    seconds = (solar_hour - _longitude(place, size) / 15) * 3600 + draw.uniform(-400, 400)
    start = dt.datetime.combine(day, dt.time(), dt.UTC)
    return start + dt.timedelta(milliseconds=round(seconds * 1000))


def _optical(place: Place, size: Size) -> list[Scene]:
    found = []
    for number, text in enumerate(place.s2_days):
        day = dt.date.fromisoformat(text)
        when = _time(day, 10.6, place, size)
        baseline = "04.00" if day >= OFFSET_FROM else "03.01"
        satellite = "AB"[number % 2]
        track = _relative_orbit(place, "s2", number)
        for epsg, (west, south, east, north) in _tiles(place, size):
            tile = tile_name(epsg, west, north)
            made = when + dt.timedelta(hours=9, seconds=number)
            scene = Scene(
                id=f"S2{satellite}_MSIL2A_{when:%Y%m%dT%H%M%S}_R{track:03d}_T{tile}_{made:%Y%m%dT%H%M%S}",
                place=place.name, sensor="s2", number=number, when=when, epsg=epsg, west=west, north=north,
                rows=round((north - south) / 10), cols=round((east - west) / 10), platform=f"Sentinel-2{satellite}",
                orbit="descending", tile=tile, baseline=baseline, generated=f"{made:%Y-%m-%dT%H:%M:%S.%fZ}",
                edge=_edge(place, size, "s2", number),
            )  # fmt: skip
            found.append(scene)
            if text == place.reprocessed:
                again = dt.datetime(2023, 3, 1, 4, 5, 6, tzinfo=dt.UTC)
                name = f"{scene.id.rsplit('_', 1)[0]}_{again:%Y%m%dT%H%M%S}"
                found.append(replace(scene, id=name, baseline="05.00", generated=f"{again:%Y-%m-%dT%H:%M:%S.%fZ}"))
    return found


def _relative_orbit(place: Place, sensor: str, number: int) -> int:
    return int(generator("orbit", place.name, sensor).integers(1, 140)) + number % 2


def _radar(place: Place, size: Size) -> list[Scene]:
    west, south, east, north = _grown(place.bounds(size), size.margin_m)
    found = []
    for number, text in enumerate(place.s1_days):
        day, orbit = dt.date.fromisoformat(text[:-1]), {"a": "ascending", "d": "descending"}[text[-1]]
        when = _time(day, 18.1 if orbit == "ascending" else 5.9, place, size)
        satellite = "A" if number % 3 or day.year > 2021 else "B"
        end = when + dt.timedelta(seconds=25)
        mark = f"{30_000 + number:06d}_{_mark(place)}"
        found.append(
            Scene(
                id=f"S1{satellite}_IW_GRDH_1SDV_{when:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}_{mark}_rtc",
                place=place.name, sensor="s1", number=number, when=when, epsg=place.epsg,
                west=west + S1_SHIFT_M[0] + number, north=north + S1_SHIFT_M[1] - number,
                rows=(north - south) // 10, cols=(east - west) // 10, platform=f"SENTINEL-1{satellite}", orbit=orbit,
                edge=_edge(place, size, "s1", number),
            )
        )  # fmt: skip
    return found


def _mark(place: Place) -> str:
    return f"{int(generator('datatake', place.name).integers(16**6)):06X}"


def _grown(bounds: tuple[int, int, int, int], by: int) -> tuple[int, int, int, int]:
    return bounds[0] - by, bounds[1] - by, bounds[2] + by, bounds[3] + by


def _tiles(place: Place, size: Size) -> list[tuple[int, tuple[int, int, int, int]]]:
    """EPSG and bounds of the S2 tiles over a place."""
    west, south, east, north = _grown(place.bounds(size), size.margin_m)
    if place.tiles == "two":
        # Real neighbours overlap by 9.8 km; here by a sixth of the place, across the 100 km line between their names.
        overlap = size.side_m // 6
        line = 500_000
        pieces = [(west, south, line + overlap, north), (line - 20, south, east, north)]
        return [(place.epsg, _snapped(piece, place.epsg)) for piece in pieces]
    tiles = [(place.epsg, _snapped((west, south, east, north), place.epsg))]
    if place.tiles == "zones":
        tiles.append(_in_next_zone(place, size))
    return tiles


def _in_next_zone(place: Place, size: Size) -> tuple[int, tuple[int, int, int, int]]:
    """The part of a place west of its zone, and 2 km more, as a tile of the zone in the west."""
    west, south, east, north = place.bounds(size)
    border = (place.epsg % 100) * 6 - 186
    inside = transformer(4326, place.epsg).transform(border, 42.9)[0]
    edges = np.linspace(0, 1, 9)
    east = min(east, round(inside) + min(2_000, size.side_m // 3))
    x = np.concatenate([west + edges * (east - west), np.full(9, east), west + edges * (east - west), np.full(9, west)])
    y = np.concatenate(
        [np.full(9, south), south + edges * (north - south), np.full(9, north), south + edges * (north - south)]
    )
    there = np.column_stack(transformer(place.epsg, place.epsg - 1).transform(x, y))
    (w, s), (e, n) = there.min(0), there.max(0)
    return place.epsg - 1, _snapped(_grown((int(w), int(s), int(e), int(n)), 120), place.epsg - 1)


def _snapped(bounds: tuple[int, int, int, int], epsg: int) -> tuple[int, int, int, int]:
    """Bounds grown to the lattice of the 60 m pixels: northings 0 mod 60 in the north, 40 mod 60 in the south."""
    shift = 40 if epsg // 100 == 327 else 0
    west, south, east, north = bounds
    return (
        math.floor(west / 60) * 60,
        math.floor((south - shift) / 60) * 60 + shift,
        math.ceil(east / 60) * 60,
        math.ceil((north - shift) / 60) * 60 + shift,
    )


def tile_name(epsg: int, west: float, north: float) -> str:
    """The MGRS 100 km square that a tile's upper left corner lies in (NGA.STND.0037)."""
    zone = epsg % 100
    lat = transformer(epsg, 4326).transform(west, north)[1]
    band = "CDEFGHJKLMNPQRSTUVWX"[min(19, int((lat + 80) // 8))]
    column = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(zone - 1) % 3][int((west + 60) // 100_000) - 1]
    # Rows repeat every 2,000 km, and 10,000 km are five times that: both hemispheres count alike.
    row = "ABCDEFGHJKLMNPQRSTUV"[(int((north - 60) // 100_000) + (5 if zone % 2 == 0 else 0)) % 20]
    return f"{zone:02d}{band}{column}{row}"


def as_dict(scene: Scene) -> dict[str, Any]:
    """For the truth table."""
    return {
        key: getattr(scene, key) for key in ("id", "place", "sensor", "number", "epsg", "orbit", "tile", "baseline")
    }
