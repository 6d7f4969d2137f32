"""Reader of `source = "cems"`: Copernicus EMS Rapid Mapping packages, as one event.

An event covers what any observation of it showed: first products and monitorings are united, whatever the area of
interest. For how long that is so says the effect window. Analysed is what the images after the event show of the areas
of interest, less what any product leaves open there: clouds, places not analysed, flood traces, buildings possibly
damaged. What one observation could not see may have been hit at that time, although another one shows it dry.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from harmonize.problem import Problem
from pipeline.cems_images import Images, first_day, images_of, looked_at
from pipeline.cems_names import Product
from pipeline.cems_observed import EVENT_TYPES, Observed, observe
from pipeline.cems_package import Package, open_package
from pipeline.event import Event
from pipeline.event_area import EventArea, analysed_of
from pipeline.region import Region
from pipeline.shapes import polygons_of, union_of

if TYPE_CHECKING:
    import shapely

CATEGORIES = {"earthquake": "earthquake", "flood": "flood", "wildfire": "fire"}
"""category of an activation -> kind of the manifest."""

EXTENTS = {
    "area of interest": ("areaofinteresta", "areaofinterest"),
    "image footprint": ("imagefootprinta", "imagefootprint"),
}


def read_cems(use: Event, region: Region, where: str, extents: bool) -> list[EventArea]:
    """The one event of a package: a folder or zip of one activation's products (see cems_package).

    Raises Problem where the package has no event of the manifest's kind, or says no first day and neither does the
    manifest.
    """
    path = region.relative(use.href)
    with tempfile.TemporaryDirectory(prefix="closp-cems-") as folder:
        package = open_package(path, Path(folder), where)
        observed = [(product, observe(product, use.kind, where)) for product in package.products]
        _check_kind(use, path, package, [o for _, o in observed], where)
        shape = union_of([area for _, o in observed for area in o.seen])
        if shape.is_empty:
            raise _nothing_seen(use, path, package, where)
        start = first_day(use.start, package, where)
        images = [images_of(product, where) for product in package.products]
        placeless = [note for _, o in observed for note in o.notes]
        analysed = _analysed(observed, where, placeless) if extents and not use.analysed else None
    if use.analysed:
        analysed = analysed_of(use, region, where, extents, placeless)
    notes = (*_read(package, images), *_notes(use, package, [o for _, o in observed]), *placeless)
    return [EventArea(shape, analysed, start, notes=notes)]


def _analysed(observed: list[tuple[Product, Observed]], where: str, notes: list[str]) -> shapely.Geometry | None:
    """What was looked at for this kind of event; None where no product says."""
    import shapely

    seen, unseen = [], []
    for product, said in observed:
        if not said.speaks:
            continue
        extent, out = looked_at(product, images_of(product, where), where, notes)
        seen += [extent] if extent is not None else []
        unseen += [out, *said.doubt]
    if not seen:
        return None
    return polygons_of(shapely.difference(union_of(seen), union_of(unseen)))


def _check_kind(use: Event, path: Path, package: Package, observed: list[Observed], where: str) -> None:
    """By the types of the features and the category of the activation; where nobody says, the manifest is right."""
    types = sum((o.kinds for o in observed), Counter())
    category = str(package.activation.get("category", ""))
    there = {EVENT_TYPES.get(name, name) for name in types}
    there |= {CATEGORIES.get(category.lower(), category)} if category else set()
    if there and use.kind not in there:
        said = ", ".join(f"{name} ({count} features)" for name, count in sorted(types.items()))
        said = said or f"{category}, by the file of the activation"
        ours = sorted(there & set(EVENT_TYPES.values()))
        fix = f"write kind = '{ours[0]}'" if ours else "name the package of another activation"
        raise Problem(f"{path.name} shows no {use.kind}; it shows {said}", where=where, fix=fix)


def _nothing_seen(use: Event, path: Path, package: Package, where: str) -> Problem:
    names = sorted({layer.told for layer in package.layers})
    if not names:
        what = f"{path.name} has no layer of a Rapid Mapping package"
        named = "EMSR332_02PADOVA_DEL_v1_observed_event_a.shp or EMSR884_AOI01_DEL_PRODUCT_observedEventA_v1.json"
        return Problem(what, where=where, fix=f"layers are named {named}; other files are for source = 'geojson'")
    what = f"{path.name} shows no area of the {use.kind}"
    looked = f"read: {', '.join(names[:6])}{' …' if len(names) > 6 else ''}"
    return Problem(what, where=where, fix=f"add its observed event layer; {looked}")


def _read(package: Package, images: list[Images | None]) -> list[str]:
    """Which products the event is made of, when their images were taken, and what they do not say of their extent."""
    names = [product.key for product in package.products]
    days = sorted(f"{time:%Y-%m-%d}" for one in images if one for time in one.after.values() if time)
    taken = f", images of {days[0]}" + (f" to {days[-1]}" if days[-1] != days[0] else "") if days else ""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    notes = [f"read: {len(names)} products ({', '.join(names[:6])}{more}){taken}"]
    for product in package.products:
        has = {
            "area of interest": ("areaofinteresta", "areaofinterest"),
            "image footprint": ("imagefootprinta", "imagefootprint"),
        }
        lacking = [what for what, layers in has.items() if not set(layers) & set(product.layers)]
        if len(lacking) == 1:
            whole = next(what for what in has if what not in lacking)
            notes.append(f"{product.key} has no {lacking[0]}: all of its {whole} counts as analysed")
        elif lacking:
            notes.append(f"{product.key} does not say what was analysed")
    return notes


def _notes(use: Event, package: Package, observed: list[Observed]) -> tuple[str, ...]:
    """What was not read, and what counts as unknown."""
    notes = [f"not read: {reason}" for reason in package.left_out]
    others = Counter({k: n for o in observed for k, n in o.kinds.items() if EVENT_TYPES.get(k) != use.kind})
    notes += [f"left out: {count} features of event_type {name}" for name, count in sorted(others.items())]
    doubt = sum((o.in_doubt for o in observed), Counter())
    return tuple(notes + [f"unknown: {count} features '{word}'" for word, count in sorted(doubt.items())])
