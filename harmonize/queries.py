"""Queries and relevance: what is asked of a corpus, and how well each image answers it.

The rule, in one place (DESIGN §6). The grade of an image is the number of the query's classes that it has; it is 0 for
an image of another sensor than the one that the query names, and for an image that has a class that the query does
without. An image is UNJUDGED, and leaves that query's ranking and ideal, exactly when its grade is not the same
whatever its unknown classes are:

- a wanted class is unknown (unless the grade is 0 anyway, by sensor or by a class known to be there that must not be);
- a class that must not be there is unknown, and the image has a wanted one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harmonize.problem import Problem
from harmonize.vocabulary import ALL_MASK, CLASSES

UNJUDGED = -1
"""Relevance of an image that hangs on a class nobody knows about: it leaves that query's ranking and ideal."""
SENSORS = ("s1", "s2")
"""What a query may be restricted to; as the sample contract names them."""
_BITS_SET = np.array([mask.bit_count() for mask in range(ALL_MASK + 1)], np.int64)


@dataclass(frozen=True)
class Query:
    """A text, and the images it means."""

    id: str
    """Without white space: it is a column of TREC files."""
    family: str
    """What kind of query it is; harmonize.query_families has the families that are made."""
    text: str
    mask: int
    """The wanted classes."""
    without: int = 0
    """The classes that must not be there; none of the wanted ones."""
    sensor: str | None = None
    """s1 or s2: images of the other sensor are irrelevant. None: any."""

    @property
    def full(self) -> int:
        """The grade of an image that has every wanted class."""
        return self.mask.bit_count()


def relevance(mask: int, label_masks: np.ndarray, known_masks: np.ndarray) -> np.ndarray:
    """How many of the classes of `mask` each image has; UNJUDGED where one of them is unknown for the image.

    Masks of shape (N,) -> int64 (N,). For one class it is 0 or 1.
    """
    return grades_of(Query("", "", "", mask), label_masks, known_masks, np.zeros(len(label_masks), "U2"))


def grades_of(query: Query, label_masks: np.ndarray, known_masks: np.ndarray, sensors: np.ndarray) -> np.ndarray:
    """Graded relevance of each image to a query, UNJUDGED where it hangs on an unknown class (see the module's text).

    Masks and sensors of shape (N,) -> int64 (N,).
    """
    known = known_masks.astype(np.int64)
    there = label_masks.astype(np.int64) & known
    grades = _BITS_SET[there & query.mask]
    hangs = (query.mask & ~known != 0) | ((query.without & ~known != 0) & (grades > 0))
    grades = np.where(hangs, UNJUDGED, grades)
    grades[there & query.without != 0] = 0
    if query.sensor:
        grades[sensors != query.sensor] = 0
    return grades


@dataclass(frozen=True)
class DistinctLabels:
    """The labels of a corpus, each distinct (label_mask, known_mask, sensor) once: relevance is judged over these, so
    that a query costs hundreds of rows and not as many as there are images.
    """

    label_masks: np.ndarray
    """int64 (K,)"""
    known_masks: np.ndarray
    """int64 (K,)"""
    sensors: np.ndarray
    """str (K,): s1 or s2"""
    counts: np.ndarray
    """int64 (K,): images of each."""
    place: np.ndarray
    """int64 (N,): which of the K each image is."""

    @classmethod
    def of(cls, label_masks: np.ndarray, known_masks: np.ndarray, sensors: np.ndarray) -> DistinctLabels:
        """From the columns of a corpus, each (N,). Raises Problem for a class or sensor that is not known here."""
        labels, known = label_masks.astype(np.int64), known_masks.astype(np.int64)
        if np.any((labels | known) & ~ALL_MASK):
            raise Problem("a label mask has a class that is not in the vocabulary", fix="make shards again")
        number = np.zeros(len(labels), np.int64)
        for k, sensor in enumerate(SENSORS, start=1):
            number[sensors == sensor] = k
        if not number.all():
            strange = str(sensors[np.flatnonzero(number == 0)[0]])
            raise Problem(f"there is no sensor '{strange}'", fix=f"sensors: {', '.join(SENSORS)}")
        width = len(CLASSES)
        keys, place, counts = np.unique(
            labels | known << width | number << 2 * width, return_inverse=True, return_counts=True
        )
        names = np.array(("", *SENSORS))[keys >> 2 * width]
        return cls(keys & ALL_MASK, keys >> width & ALL_MASK, names, counts, place)

    def __len__(self) -> int:
        return len(self.place)

    def grades(self, query: Query) -> np.ndarray:
        """Graded relevance of each distinct row, int64 (K,)."""
        return grades_of(query, self.label_masks, self.known_masks, self.sensors)

    def image_grades(self, query: Query) -> np.ndarray:
        """Graded relevance of each image, int64 (N,)."""
        return self.grades(query)[self.place]

    def count(self, query: Query, sensor: str | None = None) -> dict[int, int]:
        """grade (or UNJUDGED) -> images, of one sensor or of both; each grade up to the full one, found or not."""
        grades, counts = self.grades(query), self.counts
        if sensor:
            counts = np.where(self.sensors == sensor, counts, 0)
        return {grade: int(counts[grades == grade].sum()) for grade in range(UNJUDGED, query.full + 1)}

    def full_matches(self, query: Query, sensor: str | None = None) -> int:
        """Images that answer a query in full: its relevant ones where a number of them is asked for."""
        return self.count(query, sensor)[query.full]
