"""What a region would ask of its APIs, said without asking: `python -m pipeline scenes REGION --dry-run`."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.grid import cells_of
from pipeline.label_search import label_queries
from pipeline.place import area_of
from pipeline.region import Region
from pipeline.sandbox import size_of
from pipeline.source import Source
from pipeline.stac_api import PAGE_ITEMS, Query, monthly

if TYPE_CHECKING:
    import shapely

OPENING = 2
"""Requests before the first query of a source: the landing page and the collection."""


def say_plan(region: Region) -> Iterator[str]:
    """Lines: the region's cells, then per source every query with its box and days, then the sum. No network."""
    area = area_of(region)
    cells = cells_of(area, region.size_px)
    zones = ", ".join(f"{n} in EPSG:{epsg}" for epsg, n in sorted(Counter(cell.epsg for cell in cells).items()))
    yield f"region {region.name}: {region.start} to {region.end}"
    yield f"{len(cells)} cells of {region.size_px * 10} m: {zones}"
    asked = requests = 0
    for role, name, queries in _sources(region, area):
        source = region.source(name)
        yield f"{role} {name}: {_place(source, queries)}"
        yield from (f"  {query}" for query in queries)
        asked += len(queries)
        requests += len(queries) + OPENING if queries else 0
    yield f"in all {asked} queries, at least {requests} requests (a query has a further page per {PAGE_ITEMS} items)"
    yield "dry run: nothing was asked and nothing was written"


def _sources(region: Region, area: shapely.Geometry) -> Iterator[tuple[str, str, list[Query]]]:
    for use in region.imagery:
        yield "imagery", use.source, monthly(area, region.start, region.end) if region.source(use.source).api else []
    for label in region.labels:
        source = region.source(label.source)
        file = label.href or source.href or source.items
        yield "labels", label.source, [] if file else label_queries(region, label, area)


def _place(source: Source, queries: list[Query]) -> str:
    if queries:
        size = size_of(source.api)
        api = f"the embedded sample world ({size})" if size else source.api
        return f"{api}, collection {source.collection}, {len(queries)} queries"
    if source.items:
        there = len(glob.glob(source.path_of(source.items)))  # noqa: PTH207  Path.glob cannot take an absolute pattern
        return f"catalogue on disk, {there} files match {source.items}"
    return "a file, no query"
