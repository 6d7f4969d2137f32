"""Items of a STAC API as the same plain dicts that a catalogue on disk gives.

Asked are only collection, box, dates and pages: servers ignore or mistake `query`, CQL2 and sort without saying so,
so filtering and sorting are ours. One query per 1 degree cell and calendar month, never per chip.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harmonize.problem import Problem, nearest
from pipeline.catalog import PROPERTIES, Item
from pipeline.sandbox import size_of

if TYPE_CHECKING:
    import pystac_client
    import shapely

    from pipeline.region import Region
    from pipeline.source import Source
    from pipeline.stac_io import PatientIO

PAGE_ITEMS = 250
"""Items asked for per page; the Planetary Computer's limit is 1000, other servers cut to their own."""
MAX_ITEMS = 200_000
"""Of one search. Sentinel-2 over all of Europe for a year is about 300,000."""
IDLE_PAGES = 3
"""Pages in a row without a new item after which a server is taken to repeat itself."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Query:
    """One question to an API: a box (west, south, east, north in degrees) and the first and last day, or all days."""

    box: Box
    first: dt.date | None = None
    last: dt.date | None = None

    @property
    def datetime(self) -> str | None:
        """The closed interval asked for. It ends with the next day's midnight, so that no last second is lost."""
        if self.first is None or self.last is None:
            return None
        return f"{self.first}T00:00:00Z/{self.last + dt.timedelta(days=1)}T00:00:00Z"

    @property
    def halves(self) -> list[Query]:
        """The same question as two of half the days; none where that cannot be."""
        if self.first is None or self.last is None or self.first == self.last:
            return []
        middle = self.first + (self.last - self.first) // 2
        return [Query(self.box, self.first, middle), Query(self.box, middle + dt.timedelta(days=1), self.last)]

    def __str__(self) -> str:
        days = f"{self.first} to {self.last}" if self.first else "all dates"
        west, south, east, north = self.box
        return f"{west:.4f} {south:.4f} {east:.4f} {north:.4f}  {days}"


@dataclass
class Found:
    """What a search gave: items sorted by id, and how much was asked for them."""

    items: list[Item] = field(default_factory=list)
    queries: int = 0
    pages: int = 0
    others: Counter[str] = field(default_factory=Counter)
    """Items of other collections, which a server that ignores `collections` sends; they are left out."""

    def note(self, source: str) -> str:
        """A line for the receipt."""
        said = f"{source}: {len(self.items)} items from {self.queries} queries, {self.pages} pages"
        odd = ", ".join(f"{n} of '{name}'" for name, n in sorted(self.others.items()))
        return said + (f"; warning: the API also sent {odd}, left out" if odd else "")


def boxes_of(area: shapely.Geometry) -> list[Box]:
    """Boxes to ask for, one per 1 degree cell that the area (EPSG:4326) reaches into, sorted; none crosses 180°."""
    import numpy as np
    import shapely

    pieces: dict[Box, list[Box]] = {}
    for part in shapely.get_parts(area):
        west, south, east, north = part.bounds
        lon, lat = np.meshgrid(np.arange(math.floor(west), east), np.arange(math.floor(south), north))
        cells = shapely.box(lon.ravel(), lat.ravel(), lon.ravel() + 1, lat.ravel() + 1)
        shapely.prepare(part)
        near = cells[shapely.intersects(part, cells)]
        for cell, piece in zip(near, shapely.intersection(part, near), strict=True):
            if piece.area > 0:
                pieces.setdefault(cell.bounds, []).append(piece.bounds)
    return sorted(_outward(shapely.total_bounds(shapely.box(*np.transpose(boxes)))) for boxes in pieces.values())


def _outward(box: Iterable[float]) -> Box:
    """Rounded to 6 decimals (0.1 m), never inwards."""
    box = list(map(float, box))
    low = [math.floor(v * 1e6) / 1e6 for v in box[:2]]
    high = [math.ceil(v * 1e6) / 1e6 for v in box[2:]]
    return max(low[0], -180), max(low[1], -90), min(high[0], 180), min(high[1], 90)


def monthly(area: shapely.Geometry, start: dt.date, end: dt.date) -> list[Query]:
    """Queries for everything over an area from one day to another, inclusive: cell by cell, month by month."""
    months, first = [], start
    while first <= end:
        after = (first.replace(day=1) + dt.timedelta(days=32)).replace(day=1)
        months.append((first, min(end, after - dt.timedelta(days=1))))
        first = after
    return [Query(box, first, last) for box in boxes_of(area) for first, last in months]


@contextlib.contextmanager
def serving(region: Region, apis: Iterable[str | None]) -> Iterator[dict[str, str]]:
    """`api` as the manifest writes it -> address to ask. Sample worlds are served while this is open, each once."""
    names = sorted({api for api in apis if api})
    with contextlib.ExitStack() as stack:
        worlds: dict[str, str] = {}
        for size in sorted({size for api in names if (size := size_of(api))}):
            from pipeline.sandbox.server import serving as serving_world

            worlds[size] = stack.enter_context(serving_world(size, region.world))
        yield {api: worlds[size] if (size := size_of(api)) else api for api in names}


Track = Callable[[list[Query]], Iterable[Query]]


def search(source: Source, address: str, queries: list[Query], where: str, track: Track = iter) -> Found:
    """All items of a source's collection that the queries find, each id once, sorted by id; hrefs as the API gives.

    The source's `api` is the name for messages and for `_file`, `address` is what is asked; `track` may show progress.
    Items are not checked yet, and hold only what is read of them: whole ones take 50 kB each. Raises Problem for an API
    that does not answer or makes no sense, for an unknown collection, and for more than MAX_ITEMS items.
    """
    from pipeline.reach import reach_of
    from pipeline.stac_io import PatientIO

    api, collection = source.api or "", source.collection or ""
    io = PatientIO(api, where, most=max(reach_of(api, source.trusted), reach_of(address)))
    client = _open(address, io)
    _check_collection(client, io, collection)
    io.proven = True
    found = Found()
    items: dict[str, Item] = {}
    name = f"{_name(api)}, collection {collection}"
    for query in track(queries):
        for item in _ask(client, io, collection, query, found):
            said = item.get("collection") or collection
            if said != collection:
                found.others[str(said)] += 1
            else:
                items[str(item.get("id") or f"(no id, {len(items)})")] = _plain(item, source, name, address)
            if len(items) + found.others.total() > MAX_ITEMS:
                fix = "make the region smaller or its dates fewer, and build it as several regions"
                raise Problem(f"the API has more than {MAX_ITEMS} items of '{collection}'", where=where, fix=fix)
    found.items = [items[key] for key in sorted(items)]
    return found


def _name(api: str) -> str:
    from pipeline.stac_io import public

    return api if size_of(api) else public(api)


def _open(address: str, io: PatientIO) -> pystac_client.Client:
    """The API of an address, once its landing page says that it can be searched."""
    import warnings

    import pystac
    import pystac_client
    from pystac_client.errors import ClientTypeError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a landing page lacks is said below, in words
            client = pystac_client.Client.open(address, stac_io=io)
    except (pystac.STACError, ClientTypeError, AttributeError, KeyError, TypeError, ValueError):
        raise io.odd("this is no landing page of a STAC API") from None
    if client.get_search_link() is None:
        raise io.odd("its landing page has no search link, so that it cannot be searched")
    client.add_conforms_to("ITEM_SEARCH")  # a search link says so; some servers forget to list the class
    return client


def _check_collection(client: pystac_client.Client, io: PatientIO, collection: str) -> None:
    """Problem for a collection the API does not have: a search for it would find nothing, without a word."""
    from urllib.parse import quote

    from pipeline.stac_io import Refused

    every = client._collections_href()
    try:
        io.read_json(f"{every.rstrip('/')}/{quote(collection, safe='')}")
    except Refused:
        known = _collections(io, every)
    else:
        return
    if collection not in known:
        raise Problem(
            f"the STAC API has no collection '{collection}': {_name(io.api)}",
            where=io.where,
            fix=nearest(collection, known) if known else "its list of collections is empty",
        )


def _collections(io: PatientIO, every: str) -> set[str]:
    """Ids of all collections of an API; its list may have pages too."""
    known: set[str] = set()
    page = io.read_json(every)
    while True:
        fresh = {str(c.get("id")) for c in page.get("collections") or [] if isinstance(c, dict)} - known
        known |= fresh
        link = _next_link(page)
        if link is None or not fresh:
            return known
        page = io.read_json(link)


def _ask(
    client: pystac_client.Client, io: PatientIO, collection: str, query: Query, found: Found
) -> Iterator[dict[str, Any]]:
    """The items of one query, page by page. A cut answer without a next page is asked again in halves."""
    asked = client.search(collections=[collection], bbox=list(query.box), datetime=query.datetime, limit=PAGE_ITEMS)
    body = asked.get_parameters()
    found.queries += 1
    seen: set[str] = set()
    pages = idle = 0
    page = io.read_json(asked.url, method="POST", parameters=body)
    while True:
        pages += 1
        found.pages += 1
        features = _features(page, io)
        fresh = [f for f in features if str(f.get("id")) not in seen]
        seen.update(str(f.get("id")) for f in features)
        yield from fresh
        idle = 0 if fresh else idle + 1
        link = _next_link(page)
        if link is None:
            break
        if idle >= IDLE_PAGES:
            raise io.odd(f"it sends the same page again and again (page {pages}, {query})")
        page = io.read_json(link, parameters=body)
    if pages == 1 and _is_cut(page, len(features)):
        if not query.halves:
            raise io.odd(f"it gives {len(features)} items, has more, and no next page ({query})")
        for half in query.halves:
            yield from _ask(client, io, collection, half, found)


def _is_cut(page: dict[str, Any], count: int) -> bool:
    """Whether a server that gives no next page has kept items back: as it says itself, or because the page is full."""
    context = page.get("context")
    matched = page.get("numberMatched", context.get("matched") if isinstance(context, dict) else None)
    return matched > count if isinstance(matched, int) else count >= PAGE_ITEMS


def _features(page: dict[str, Any], io: PatientIO) -> list[dict[str, Any]]:
    features = page.get("features")
    if not isinstance(features, list) or not all(isinstance(f, dict) for f in features):
        raise io.odd("a page of items has no list of features")
    return features


def _next_link(page: dict[str, Any]) -> Any:
    import pystac

    links = [link for link in _links(page) if link.get("rel") == "next"]
    return pystac.Link.from_dict(links[0]) if links else None


def _links(thing: dict[str, Any]) -> list[dict[str, Any]]:
    """The links of a page or an item that lead somewhere."""
    links = thing.get("links")
    found = [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []
    return [link for link in found if isinstance(link.get("href"), str) and link["href"]]


def _plain(item: dict[str, Any], source: Source, name: str, address: str) -> Item:
    """What is read of an item, like those of `catalog.read_items`: relative hrefs start at the item's own address.

    Of assets that the source does not name only the name stays, and a place (proj:*) of the reference band alone. What
    is not of the kind that STAC says stays too, for `catalog.checked_item` to tell.
    """
    from urllib.parse import urljoin

    from pipeline.item import reference_band

    keys, reference = source.asset_keys, source.assets.get(reference_band(source))
    base = next((link["href"] for link in _links(item) if link.get("rel") == "self"), address)
    assets, properties = item.get("assets"), item.get("properties")
    if isinstance(assets, dict):
        assets = {
            key: _used(asset, {"href"} | (PROPERTIES if key == reference else set())) if key in keys else {}
            for key, asset in assets.items()
        }
        for key in keys & set(assets):
            href = assets[key].get("href") if isinstance(assets[key], dict) else None
            if isinstance(href, str) and href and "://" not in href and not href.startswith("/"):
                with contextlib.suppress(ValueError):  # no address at all: told where it is used
                    assets[key]["href"] = urljoin(base, href)
    known = {key: item.get(key) for key in ("id", "collection", "geometry")}
    return known | {"properties": _used(properties, PROPERTIES), "assets": assets, "_file": name}


def _used(fields: Any, keys: Set[str]) -> Any:
    """These fields; what is no object is left as it is."""
    return {k: v for k, v in fields.items() if k in keys} if isinstance(fields, dict) else fields
