"""Label items of a STAC API: the maps of the region that are nearest in time to its scenes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline import stac_api
from pipeline.catalog import Item
from pipeline.region import LabelUse, Region
from pipeline.stac_api import Query
from pipeline.work import Work

if TYPE_CHECKING:
    import shapely

YEAR, DAY = dt.timedelta(days=365), dt.timedelta(days=1)


def label_queries(region: Region, use: LabelUse, area: shapely.Geometry) -> list[Query]:
    """One query per 1 degree cell, not per month: land-cover maps are yearly.

    A use with a `date` takes the map of that day. Else the region's dates are widened by a year both sides: of a dated
    source the map nearest to each chip rules (DESIGN §4), and yearly maps appear late.
    """
    # Queries end with a midnight, when the map of the year after next would begin: hence the day less.
    first, last = (use.date, use.date) if use.date else (region.start - YEAR, region.end + YEAR - DAY)
    return [Query(box, first, last) for box in stac_api.boxes_of(area)]


def label_items(work: Work, use: LabelUse, where: str, notes: list[str]) -> list[Item]:
    """Items of a label source's API over the region.

    A collection with nothing within a year (a single map such as WorldCover 2020 and 2021, or one without dates) is
    asked again for all dates: its nearest map is better than none, and a note says so.
    """
    region, source = work.region, work.region.source(use.source)
    api = source.api or ""

    def ask(queries: list[Query]) -> stac_api.Found:
        def track(these: list[Query]) -> Iterator[Query]:
            return work.track(these, len(these), use.source)

        return stac_api.search(source, addresses[api], queries, where, track)

    with stac_api.serving(region, [api]) as addresses:
        queries = label_queries(region, use, work.area)
        found = ask(queries)
        notes.append(found.note(use.source))
        if not found.items and not use.date:
            found = ask([Query(query.box) for query in queries])
            notes.append(found.note(use.source) + "; warning: none within a year of the region's dates, asked for all")
    return found.items
