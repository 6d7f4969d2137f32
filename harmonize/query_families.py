"""The families of queries that a corpus is asked: which of them it can answer, chosen by counts alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from harmonize.captions import paper_text
from harmonize.queries import DistinctLabels, Query
from harmonize.vocabulary import CLASSES, CRISES, LAND_COVER, mask_of, names_of

FAMILIES = {
    "class": "one class, by its name",
    "label-set": "a whole label set that occurs, in the captions' wording",
    "crisis-and-cover": "a crisis and a land-cover class in the same image",
    "without": "a class, and another one not there",
    "sensor": "a class in the images of one sensor; those of the other are irrelevant",
    "paraphrase": "a class in words that training never sees",
}
"""Family -> what its queries ask for."""
MIN_RELEVANT = 10
"""Images a query needs that answer it in full (DESIGN §6)."""
MOST = 200
"""Queries of a family at most: those that most images answer in full, so that evaluation stays bounded."""
SENSOR_TEXT = {"s1": "radar image of {}", "s2": "optical image of {}"}
PARAPHRASES: dict[str, tuple[str, ...]] = {
    "water": ("lakes and rivers", "the sea, a lake or a reservoir"),
    "trees": ("forest", "a dense canopy of oaks, beeches or conifers"),
    "grass": ("pasture", "where cattle and sheep graze"),
    "flooded vegetation": ("a swamp", "mangroves and reed beds"),
    "crops": ("agriculture", "wheat and maize", "plots that are ploughed and harvested"),
    "shrub and scrub": ("bushes", "heath and maquis"),
    "built": ("houses and streets", "a town or a city", "an urban settlement"),
    "bare": ("sand and gravel", "a desert without plants"),
    "snow and ice": ("a glacier", "a white and frozen plain"),
    "flooded area": ("submerged after heavy rain", "where a river has burst its banks"),
    "burned area": ("charred by a blaze", "what went up in flames"),
    "earthquake damage": ("a town hit by a seismic shock", "houses that collapsed in a tremor"),
}
"""Other words for each class, kept out of every training text: no content word of them, nor another form of it, is in
a class's name, a synonym of a caption view, or the wording of captions. Else a model that has seen `land` or `fire`
beside a class would answer by that word, not by its meaning."""

FEW, FEW_WITH, BEYOND = (
    "too few relevant images",
    "too few images with the class that must not be there",
    f"beyond the {MOST} most frequent of its family",
)


def class_queries() -> list[Query]:
    """One query per class of the vocabulary."""
    return [Query(f"class-{_slug(name)}", "class", name, 1 << k) for k, name in enumerate(CLASSES)]


def label_set_queries(label_masks: np.ndarray) -> list[Query]:
    """One query per distinct label set of two classes or more, in the captions' wording."""
    masks = [int(m) for m in np.unique(label_masks) if int(m).bit_count() > 1]
    return [Query(f"set-{mask:04x}", "label-set", paper_text(names_of(mask)), mask) for mask in masks]


def crisis_and_cover_queries() -> list[Query]:
    """Every crisis with every land-cover class."""
    return [
        Query(f"with-{_slug(crisis)}-{_slug(c)}", "crisis-and-cover", f"{crisis} with {c}", mask_of([crisis, c]))
        for crisis in CRISES
        for c in LAND_COVER
    ]


def without_queries() -> list[Query]:
    """Every class without every other one."""
    return [
        Query(f"without-{_slug(x)}-{_slug(y)}", "without", f"{x} without {y}", mask_of([x]), mask_of([y]))
        for x in CLASSES
        for y in CLASSES
        if x != y
    ]


def sensor_queries() -> list[Query]:
    """Every class in the images of each sensor."""
    return [
        Query(f"{sensor}-{_slug(name)}", "sensor", text.format(name), mask_of([name]), sensor=sensor)
        for sensor, text in SENSOR_TEXT.items()
        for name in CLASSES
    ]


def paraphrase_queries() -> list[Query]:
    """Every class in each of its held-out wordings."""
    return [
        Query(f"paraphrase-{_slug(name)}-{k}", "paraphrase", text, mask_of([name]))
        for name, texts in PARAPHRASES.items()
        for k, text in enumerate(texts, start=1)
    ]


def all_queries(label_masks: np.ndarray) -> list[Query]:
    """Every query of every family, whether the corpus can answer it or not; family by family, in a fixed order."""
    return [
        *class_queries(),
        *label_set_queries(label_masks),
        *crisis_and_cover_queries(),
        *without_queries(),
        *sensor_queries(),
        *paraphrase_queries(),
    ]


def choose_queries(
    labels: DistinctLabels, min_relevant: int = MIN_RELEVANT, most: int = MOST
) -> tuple[list[Query], list[dict[str, Any]]]:
    """The queries that a corpus is asked, and those it is not, with why.

    A query needs `min_relevant` images that answer it in full, and one of the family `without` as many that have both
    its classes: where the two never meet, or always do, leaving one out asks for nothing. Of a family the `most`
    queries that most images answer are kept, of equal ones the lower id. Queries of no relevant image are not told,
    classes apart.
    """
    found = all_queries(labels.label_masks)
    matches = {query.id: labels.full_matches(query) for query in found}
    why: dict[str, str] = {}
    for query in found:
        if matches[query.id] < min_relevant:
            why[query.id] = FEW
        elif query.without and _with_both(labels, query) < min_relevant:
            why[query.id] = FEW_WITH
    for family in FAMILIES:
        enough = [q.id for q in found if q.family == family and q.id not in why]
        why |= dict.fromkeys(sorted(enough, key=lambda name: (-matches[name], name))[most:], BEYOND)
    skipped = [
        {"query": q.text, "family": q.family, "relevant": matches[q.id], "why": why[q.id]}
        for q in found
        if q.id in why and (q.family == "class" or matches[q.id])
    ]
    return [q for q in found if q.id not in why], skipped


def _with_both(labels: DistinctLabels, query: Query) -> int:
    """Images that have the wanted classes and those that must not be there too."""
    both = Query("", "", "", query.mask | query.without, sensor=query.sensor)
    return labels.full_matches(both)


def _slug(name: str) -> str:
    return name.replace(" ", "-")
