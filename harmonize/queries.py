"""Queries and relevance: what is asked of a corpus, and which images answer it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harmonize.captions import paper_text
from harmonize.vocabulary import CLASSES, names_of

UNJUDGED = -1
"""Relevance of an image that hangs on a class nobody knows about: it leaves that query's ranking and ideal."""


@dataclass(frozen=True)
class Query:
    """A text, and the classes it asks for."""

    id: str
    family: str
    """class: one class. label-set: a whole label set that occurs in the corpus."""
    text: str
    mask: int


def class_queries() -> list[Query]:
    """One query per class of the vocabulary."""
    return [Query(f"class-{name.replace(' ', '-')}", "class", name, 1 << k) for k, name in enumerate(CLASSES)]


def label_set_queries(label_masks: np.ndarray) -> list[Query]:
    """One query per distinct label set of two classes or more, in the captions' wording."""
    masks = [int(m) for m in np.unique(label_masks) if int(m).bit_count() > 1]
    return [Query(f"set-{mask:04x}", "label-set", paper_text(names_of(mask)), mask) for mask in masks]


def relevance(mask: int, label_masks: np.ndarray, known_masks: np.ndarray) -> np.ndarray:
    """How many of the query's classes each image has; UNJUDGED where a class of the query is unknown for the image.

    int64 masks of shape (N,) -> int64 (N,). For one class it is 0 or 1.
    """
    shared = label_masks.astype(np.int64) & mask
    grade = np.zeros(len(shared), np.int64)
    for k in range(len(CLASSES)):
        grade += shared >> k & 1
    return np.where((mask & ~known_masks.astype(np.int64)) != 0, UNJUDGED, grade)


def full_matches(mask: int, label_masks: np.ndarray, known_masks: np.ndarray) -> int:
    """Images that have every class of a query."""
    return int((relevance(mask, label_masks, known_masks) == mask.bit_count()).sum())
