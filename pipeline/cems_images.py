"""The images behind a Copernicus EMS package: which ones show the time after the event, when, and where they looked."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.problem import Problem
from pipeline.cems_names import Product
from pipeline.cems_observed import area_in_degrees, words_of
from pipeline.cems_package import Package, read_layer, read_table
from pipeline.event_dates import utc_day
from pipeline.shapes import polygons_of, union_of

if TYPE_CHECKING:
    import shapely

DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")
TIME = re.compile(r"T?(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?\s*(?:Z|UTC)?", re.IGNORECASE)
"""As files write it: "05:18:16", "05:18 UTC", "T05:18:16Z". A time without a zone is UTC, as all of them are."""


@dataclass(frozen=True)
class Images:
    """The source table of one product."""

    after: dict[str, dt.datetime | None] = field(default_factory=dict)
    """src_id of the images of the time after the event -> when (UTC; None where the table says no day)."""


def images_of(product: Product, where: str) -> Images | None:
    """None where the product has no source table, or one that does not tell the images apart."""
    if "source" not in product.layers:
        return None
    table = read_table(product.layers["source"], where)
    if not {"src_id", "eventphase"} <= set(table.columns):
        return None
    after: dict[str, dt.datetime | None] = {}
    rows = zip(*(words_of(table, c) for c in ("src_id", "eventphase", "src_date", "source_tm")), strict=True)
    for image, phase, day, time in rows:
        if phase == "post-event":
            after.update(dict.fromkeys(_ids(image), image_time(day, time)))
    return Images(after)


def image_time(day: str, time: str) -> dt.datetime | None:
    """UTC, of dd/mm/yyyy and a time in one of three spellings; midnight without one. None where there is no day."""
    said = DATE.fullmatch(day.strip())
    clock = TIME.fullmatch(time.strip())
    try:
        date = dt.datetime(int(said[3]), int(said[2]), int(said[1]), tzinfo=dt.UTC) if said else None
        return (
            date.replace(hour=int(clock[1]), minute=int(clock[2]), second=int(clock[3] or 0))
            if date and clock
            else date
        )
    except ValueError:
        return None  # the 31st of February: no day


def looked_at(
    product: Product, images: Images | None, where: str, notes: list[str]
) -> tuple[shapely.Geometry | None, shapely.Geometry]:
    """What a product's images show of its area of interest (None: nobody says), and what was not analysed of it.

    What was left out because it has no place goes into `notes`.
    """
    import shapely

    seen: list[shapely.Geometry] = []
    unseen: list[shapely.Geometry] = []
    for name in ("areaofinteresta", "areaofinterest"):
        if name in product.layers:
            layer = product.layers[name]
            seen.append(area_in_degrees(read_layer(layer, where, notes), layer, where, notes))
            break
    for name in ("imagefootprinta", "imagefootprint"):
        if name in product.layers:
            layer = product.layers[name]
            frame = read_layer(layer, where, notes)
            out = np.array([word == "not analysed" for word in words_of(frame, "obj_type")], bool)
            shown = ~out & _after(words_of(frame, "or_src_id"), images, out)
            unseen.append(area_in_degrees(frame[out], layer, where, notes))
            seen.append(area_in_degrees(frame[shown], layer, where, notes))
            break
    if "notanalyseda" in product.layers:
        layer = product.layers["notanalyseda"]
        unseen.append(area_in_degrees(read_layer(layer, where, notes), layer, where, notes))
    # An empty layer says nothing, where a package has one at all.
    extents = [extent for extent in seen if not extent.is_empty]
    return (polygons_of(shapely.intersection_all(extents)) if extents else None), union_of(unseen)


def _after(sources: list[str], images: Images | None, out: np.ndarray) -> np.ndarray:
    """Which footprints are those of images after the event: all of them where that cannot be told."""
    ids = [_ids(source) for source in sources]
    if images is None or not images.after or not any(ids):
        return ~out
    return np.array([bool(mine & set(images.after)) for mine in ids], bool)


def _ids(word: str) -> set[str]:
    """Numbers of images: "2", "2.0" of a table that has gaps, "2, 3" of a mosaic."""
    return {number.split(".")[0] for number in re.findall(r"\d+(?:\.0+)?", word)}


def first_day(said: dt.date | None, package: Package, where: str) -> dt.date:
    """First day (UTC) of an event: the manifest's, else that of the activation.

    An image that shows an event is no evidence for its first day, but it is for the last that can be the first: a day
    after it is a Problem, and so is none.
    """
    times = [
        time for p in package.products if (images := images_of(p, where)) for time in images.after.values() if time
    ]
    shown = min(times, default=None)
    start = said or _event_day(package.activation, where)
    fix = "add start = <first day of the event, UTC>"
    if shown:
        fix += f"; the first image of it in the package is of {shown:%Y-%m-%d %H:%M} UTC, when it was there already"
    if start is None:
        what = "the event has no start, and the package has no file of the activation that says one (eventTime)"
        raise Problem(what, where=where, fix=fix)
    if shown and start > shown.date():
        raise Problem(f"the event starts on {start}, after an image that shows it", where=where, fix=fix)
    return start


def _event_day(activation: dict[str, Any], where: str) -> dt.date | None:
    """Of the activation's eventTime; without a zone it is UTC."""
    fix = "add start = <first day of the event, UTC>"
    return utc_day(activation.get("eventTime"), "eventTime", "the activation", where, fix)
