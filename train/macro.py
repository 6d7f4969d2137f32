"""The macro means: over classes that are neither rare nor everywhere among the images of a sensor.

A mean over all classes is moved most by what a ranking can change least: a class that nearly every image has is easy
for chance, one that hardly any has is a matter of luck. So the means that are compared between systems are taken over
the classes of a prevalence from 5 to 60 %; the others are shown, and marked as not in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harmonize.queries import UNJUDGED, relevance
from harmonize.query_families import class_queries
from train.shards import Samples

BAND = (0.05, 0.60)
"""Prevalence of the classes in a macro mean, both ends included (issue 3, "The table")."""
OVER_PRIOR = "map_over_prior"
"""mAP minus that of prior-only: what the pixels add to sensor and month."""
MEANS = ("ndcg", "ndcg_gain", "map", OVER_PRIOR, "p10")


def prevalence(images: Samples, rows: np.ndarray) -> dict[str, dict[str, Any]]:
    """class -> judged images, those that have the class, and their share among the judged ones (0 where none is)."""
    found = {}
    for query in class_queries():
        grades = relevance(query.mask, images["label_mask"][rows], images["known_mask"][rows])
        judged, relevant = int((grades != UNJUDGED).sum()), int((grades > 0).sum())
        share = relevant / judged if judged else 0.0
        found[query.text] = {"judged": judged, "relevant": relevant, "share": share, "in_band": _inside(share)}
    return found


def _inside(share: float) -> bool:
    return BAND[0] <= share <= BAND[1]


def add_over_prior(systems: dict[str, Any]) -> None:
    """`map_over_prior` of each class query and system; nothing where there is no prior (an empty train split)."""
    for scopes in systems.values():
        for scope, families in scopes.items():
            prior = systems.get("prior-only", {}).get(scope, {}).get("class", {}).get("each", {})
            for text, values in families.get("class", {}).get("each", {}).items():
                if text in prior:
                    values[OVER_PRIOR] = values["map"] - prior[text]["map"]


def macro(systems: dict[str, Any], shares: dict[str, dict[str, Any]], scope: str) -> dict[str, Any]:
    """The classes of a scope's macro mean, those in the band that have too few relevant images, and the means.

    systems: as in metrics.json, with gains. shares: `prevalence` of the scope. No class: no means.
    """
    asked = systems["random"].get(scope, {}).get("class", {}).get("each", {})
    inside = [name for name, found in shares.items() if found["in_band"]]
    classes = [name for name in inside if name in asked]
    means = {system: mean_over(scopes[scope], classes) for system, scopes in systems.items()} if classes else {}
    return {"classes": classes, "too_few": [name for name in inside if name not in asked], "systems": means}


def mean_over(families: dict[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """Mean of each measure over classes; a measure that one of them lacks is left out."""
    each = [families["class"]["each"][name] for name in classes]
    return {key: float(np.mean([v[key] for v in each])) for key in MEANS if all(key in v for v in each)}
