"""The planet: four places, when they are seen, and what happens there. Only facts; everything else is drawn from them.

Places are at real coordinates and wholly invented. Positions inside a place are fractions of its side, from the west
and from the south, so that the tiny and the demo size are one description.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Literal

from harmonize.problem import Problem

SEED = 20_260_101


@dataclass(frozen=True)
class Size:
    """How large the places of a world are."""

    name: str
    side_m: int
    margin_m: int
    """Imagery reaches this far beyond a place."""
    size_px: int
    """Side of the chips its truth table is about, in 10 m pixels."""


SIZES = {
    "demo": Size("demo", side_m=18_000, margin_m=900, size_px=120),
    "tiny": Size("tiny", side_m=3_600, margin_m=300, size_px=60),
}


@dataclass(frozen=True)
class Disaster:
    """One event: its kind, first day, and where its middle lies."""

    id: str
    kind: Literal["flood", "fire", "earthquake"]
    start: dt.date
    at: tuple[float, float]
    radius: float = 0.17
    analysed: Literal["whole", "cut", "none"] = "whole"
    """The analysed extent holds the event with some room, cuts through it, or is not published."""


@dataclass(frozen=True)
class Place:
    """A square piece of the planet in one UTM zone, its home zone (one of them reaches into the next zone)."""

    name: str
    epsg: int
    west: dict[str, int]
    south: dict[str, int]
    """Lower left corner by size, in metres of the home zone; multiples of the places' blocks."""
    europe: bool
    """CORINE where Europe is, Dynamic World elsewhere."""
    s2_days: tuple[str, ...]
    s1_days: tuple[str, ...]
    """Days with `a` (ascending) or `d` (descending) behind the date."""
    disasters: tuple[Disaster, ...]
    tiles: Literal["one", "two", "zones"] = "one"
    """One S2 tile; two overlapping ones of one zone; or one in each of two zones."""
    reprocessed: str | None = None
    """S2 day of which a second item exists, of a newer baseline."""
    dry_months: tuple[int, ...] = field(default=())
    towns: tuple[tuple[float, float, float], ...] = ()
    """Position and radius (fraction of the side)."""

    def bounds(self, size: Size) -> tuple[int, int, int, int]:
        """west, south, east, north in metres of the home zone."""
        west, south = self.west[size.name], self.south[size.name]
        return west, south, west + size.side_m, south + size.side_m


def _days(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


PLACES = (
    Place(
        name="boreal",
        epsg=32634,
        west={"demo": 474_000, "tiny": 474_000},
        south={"demo": 7_482_000, "tiny": 7_482_000},
        europe=True,
        s2_days=_days("2021-05-30 2021-06-14 2021-06-24 2021-07-04 2022-08-05 2022-08-19 2022-08-29"),
        s1_days=_days("2021-05-31a 2021-06-13d 2021-06-23a 2021-07-05d 2022-08-06a 2022-08-18d 2022-08-30a"),
        disasters=(
            Disaster("boreal-fire-1", "fire", _day("2021-06-18"), (0.52, 0.50)),
            Disaster("boreal-flood", "flood", _day("2021-06-17"), (0.83, 0.80)),
            Disaster("boreal-fire-2", "fire", _day("2022-08-10"), (0.83, 0.17), analysed="cut"),
        ),
        reprocessed="2021-06-24",
        towns=((0.83, 0.62, 0.05), (0.30, 0.30, 0.04)),
    ),
    Place(
        name="mediterranean",
        epsg=32633,
        west={"demo": 246_000, "tiny": 253_200},
        south={"demo": 4_746_000, "tiny": 4_746_000},
        europe=True,
        s2_days=_days("2021-07-09 2021-10-12 2021-10-27 2021-11-06 2022-07-08 2022-07-20 2022-08-04"),
        s1_days=_days("2021-07-10a 2021-10-13d 2021-10-26a 2021-11-07d 2022-07-07a 2022-07-21d 2022-08-05a"),
        disasters=(
            Disaster("med-flood", "flood", _day("2021-10-23"), (0.83, 0.50)),
            Disaster("med-earthquake", "earthquake", _day("2022-07-10"), (0.83, 0.17), analysed="none"),
            Disaster("med-fire", "fire", _day("2022-07-13"), (0.83, 0.83)),
        ),
        tiles="zones",
        dry_months=(7, 8, 9),
        towns=((0.83, 0.17, 0.12), (0.35, 0.62, 0.07), (0.55, 0.25, 0.05), (0.20, 0.20, 0.05)),
    ),
    Place(
        name="delta",
        epsg=32737,
        west={"demo": 492_000, "tiny": 498_000},
        south={"demo": 9_106_000, "tiny": 9_112_000},
        europe=False,
        s2_days=_days("2021-04-08 2021-04-21 2021-05-01 2021-07-20 2022-08-09 2022-08-23 2022-09-02"),
        s1_days=_days("2021-04-09a 2021-04-20d 2021-05-02a 2021-07-21d 2022-08-10a 2022-08-22d 2022-09-03a"),
        disasters=(
            Disaster("delta-flood-1", "flood", _day("2021-04-16"), (0.50, 0.17), radius=0.20, analysed="cut"),
            Disaster("delta-flood-2", "flood", _day("2022-08-19"), (0.50, 0.55)),
            Disaster("delta-fire", "fire", _day("2022-08-14"), (0.60, 0.84)),
        ),
        tiles="two",
        dry_months=(7, 8, 9),
        towns=((0.20, 0.75, 0.06), (0.45, 0.35, 0.04)),
    ),
    Place(
        name="arid",
        epsg=32640,
        west={"demo": 498_000, "tiny": 498_000},
        south={"demo": 3_324_000, "tiny": 3_324_000},
        europe=False,
        s2_days=_days("2021-06-12 2021-10-10 2021-11-02 2021-11-25 2022-04-28 2022-05-13 2022-06-04"),
        s1_days=_days("2021-06-13a 2021-10-11d 2021-11-01a 2021-11-24d 2022-04-29a 2022-05-12d 2022-06-05a"),
        disasters=(
            Disaster("arid-earthquake-1", "earthquake", _day("2021-10-18"), (0.17, 0.17)),
            Disaster("arid-earthquake-2", "earthquake", _day("2022-05-04"), (0.50, 0.50), analysed="cut"),
            Disaster("arid-earthquake-3", "earthquake", _day("2022-05-02"), (0.83, 0.50)),
        ),
        reprocessed="2021-11-02",
        dry_months=(5, 6, 7, 8, 9, 10),
        towns=((0.17, 0.17, 0.12), (0.50, 0.50, 0.12), (0.83, 0.50, 0.12), (0.30, 0.80, 0.06)),
    ),
)  # fmt: skip
BY_NAME = {place.name: place for place in PLACES}


def size_named(name: str, where: str = "") -> Size:
    """The size of a world. Raises Problem for a name there is not."""
    if name not in SIZES:
        raise Problem(f"there is no sample world '{name}'", where=where, fix='use api = "sandbox" or "sandbox:tiny"')
    return SIZES[name]
