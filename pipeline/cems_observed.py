"""What the features of a Copernicus EMS package say: where the event was seen, and where nobody could tell.

Words are compared whole, never by a part of them: "Possibly damaged" has "damaged" in it, and is not.
Vocabularies: emergency.copernicus.eu/mapping/book/export/html/138130 (domains of the data model).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from harmonize.problem import Problem
from pipeline.cems_names import Layer, Product
from pipeline.cems_package import read_layer
from pipeline.event_area import check_degrees, note_flat
from pipeline.grid import zone_of
from pipeline.shapes import degrees_of, union_of

if TYPE_CHECKING:
    import geopandas
    import shapely

EVENT_TYPES = {"1-earthquake": "earthquake", "5-flood": "flood", "8-wildfire": "fire"}
"""event_type -> kind of the manifest. "5-Flood" is how files write what the manual writes as "5 - Flood"."""
NOTHING = ("", "not applicable")
"""How a field says nothing."""
SEEN = {
    "flood": ("flooded area", *NOTHING),
    "fire": ("burnt area", *NOTHING),
    "earthquake": NOTHING,
}
"""notation of a polygon of the observed event that counts, by kind."""
TRACE = "flood trace"
"""Mud and debris, seen after the water had gone: not water, and no dry land either. Such polygons can be far too
large (one of EMSR773 has 252 km²)."""
DAMAGED = ("destroyed", "damaged")
IN_DOUBT = ("possibly damaged", "not analysed")
UNDAMAGED = ("no visible damage", *NOTHING)
DAMAGE_RADIUS_M = 25.0
"""Around each damaged building, judgement: buildings are points or footprints of a few pixels, features are not one
per building, and what an image of 10 m can show is a settlement hit, not a roof."""
OBSERVED = ("observedeventa", "observedeventp", "observedeventl")
BUILT = ("builtupa", "builtupp")


@dataclass
class Observed:
    """What one product says about one kind of event."""

    speaks: bool = False
    """Whether anybody looked for this kind of event: a layer that would have shown it is there, be it empty."""
    seen: list[shapely.Geometry] = field(default_factory=list)
    """Where it was, EPSG:4326."""
    doubt: list[shapely.Geometry] = field(default_factory=list)
    """Where nobody can tell, EPSG:4326."""
    kinds: Counter[str] = field(default_factory=Counter)
    """event_type of its features."""
    in_doubt: Counter[str] = field(default_factory=Counter)
    """notation or damage_gra of the features in doubt."""
    notes: list[str] = field(default_factory=list)
    """What was left out because it has no place."""


def observe(product: Product, kind: str, where: str) -> Observed:
    """The event in one product. Raises Problem for a word that we do not know, and for a field that is not there."""
    found = Observed()
    for name in OBSERVED:
        if name in product.layers:
            _read_event(found, product.layers[name], kind, where)
    for name in BUILT if kind == "earthquake" else ():
        if name in product.layers:
            _read_damage(found, product.layers[name], where)
    return found


def words_of(frame: geopandas.GeoDataFrame, column: str) -> list[str]:
    """Values of a text field, lower case; empty where they are null or the field is not there."""
    if column not in frame.columns:
        return [""] * len(frame)
    return [str(value).strip().lower() if value == value and value is not None else "" for value in frame[column]]


def area_in_degrees(frame: geopandas.GeoDataFrame, layer: Layer, where: str, notes: list[str]) -> shapely.Geometry:
    """The polygons of a layer as one valid geometry, EPSG:4326; empty where it has none. Points go into the notes."""
    import shapely

    if frame.empty:
        return shapely.Polygon()
    check_degrees(frame, layer.file.path, where)
    note_flat(frame, layer.told, notes)
    return degrees_of(frame)


def _read_event(found: Observed, layer: Layer, kind: str, where: str) -> None:
    frame = read_layer(layer, where, found.notes)
    if not frame.empty and "event_type" not in frame.columns:
        fix = "packages before 2017 have none: give their polygons as source = 'geojson'"
        raise Problem(f"{layer.told} has no field event_type", where=where, fix=fix)
    types = [_event_type(word, layer, where) for word in words_of(frame, "event_type")]
    found.kinds.update(types)
    if layer.name.layer != "observedeventa":
        return  # points and lines have no area; that they are there says what kind of event it is
    mine = np.array([EVENT_TYPES.get(word) == kind for word in types], bool)
    found.speaks |= bool(mine.any()) or frame.empty
    words = np.array(words_of(frame, "notation"), object)
    known = SEEN[kind] + ((TRACE,) if kind == "flood" else ())
    _check_words(words[mine], known, "notation", layer, where)
    trace = mine & (words == TRACE)
    found.seen.append(area_in_degrees(frame[mine & ~trace], layer, where, found.notes))
    found.doubt.append(area_in_degrees(frame[trace], layer, where, found.notes))
    found.in_doubt.update(words[trace])


def _event_type(word: str, layer: Layer, where: str) -> str:
    """`5-flood` of "5 - Flood". A number that we know with another name is a word that we do not know."""
    plain = re.sub(r"\s*[-–]\s*", "-", word)
    number = re.match(r"(\d+)-\w", plain)
    ours = {known.split("-")[0]: known for known in EVENT_TYPES}
    if not number or ours.get(number[1], plain) != plain:
        what = f"{layer.told} has a feature of event_type '{word}'"
        fix = f"known: {', '.join(EVENT_TYPES)}, and other kinds by their number; or give the polygons as 'geojson'"
        raise Problem(what, where=where, fix=fix)
    return plain


def _read_damage(found: Observed, layer: Layer, where: str) -> None:
    frame = read_layer(layer, where, found.notes)
    if "damage_gra" not in frame.columns:
        return  # a base map of buildings, which nobody graded
    grades = np.array(words_of(frame, "damage_gra"), object)
    _check_words(grades, DAMAGED + IN_DOUBT + UNDAMAGED, "damage_gra", layer, where)
    # Where no building has a grade, it is a base map too.
    found.speaks |= frame.empty or not np.isin(grades, NOTHING).all()
    for words, into in ((DAMAGED, found.seen), (IN_DOUBT, found.doubt)):
        into.append(_around(frame[np.isin(grades, words)], layer, where))
    found.in_doubt.update(grades[np.isin(grades, IN_DOUBT)])


def _around(frame: geopandas.GeoDataFrame, layer: Layer, where: str) -> shapely.Geometry:
    """All within DAMAGE_RADIUS_M of features, measured in the UTM zone of each; EPSG:4326."""
    import shapely

    if frame.empty:
        return shapely.Polygon()
    check_degrees(frame, layer.file.path, where)
    shapes = frame.geometry.make_valid().to_crs(4326)
    inside = shapes.representative_point()
    zones = np.where(inside.y < 0, 32700, 32600) + zone_of(inside.x.to_numpy(), inside.y.to_numpy())
    around = []
    for epsg in sorted(set(zones.tolist())):
        metres = shapes[zones == epsg].to_crs(epsg)
        around.append(degrees_of(metres.buffer(DAMAGE_RADIUS_M).to_frame("geometry").set_geometry("geometry")))
    return union_of(around)


def _check_words(words: np.ndarray, known: tuple[str, ...], column: str, layer: Layer, where: str) -> None:
    unknown = sorted(set(words) - set(known))
    if unknown:
        what = f"{layer.told} has {column} '{unknown[0]}', and what that means is not known here"
        told = ", ".join(f"'{word}'" for word in known if word)
        fix = f"known: {told}; add the word to pipeline/cems_observed.py, where its meaning is written in the manual, "
        fix += "or give the polygons that you take for the event as source = 'geojson'"
        raise Problem(what, where=where, fix=fix)
