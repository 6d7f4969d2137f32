"""The images that are searched, and the systems that score them for queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harmonize.queries import SENSORS, UNJUDGED, DistinctLabels, Query
from harmonize.vocabulary import CLASSES
from train import baselines
from train.metrics import ranking, tie_break
from train.shards import Samples

SCOPES = ("all", *SENSORS)
"""Images ranked together: both sensors in one list, and each alone."""
CHUNK = 64
"""Queries whose scores are in memory at once: (64, N) for each system, whatever the number of queries."""


@dataclass(frozen=True)
class Corpus:
    """The images that are searched, and what their rankings need."""

    images: Samples
    labels: DistinctLabels
    ties: np.ndarray
    blocks: np.ndarray

    @classmethod
    def of(cls, images: Samples) -> Corpus:
        _, blocks = np.unique(images["block"].astype(str), return_inverse=True)
        labels = DistinctLabels.of(images["label_mask"], images["known_mask"], images["sensor"])
        return cls(images, labels, tie_break(images["chip_id"]), blocks)

    def rows(self, scope: str) -> np.ndarray:
        if scope == "all":
            return np.arange(len(self.images))
        return np.flatnonzero(self.images["sensor"] == scope)

    def ranked(self, query: Query, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Judged rows from best to worst, and their grades. scores: (N,) for all images."""
        grades = self.labels.image_grades(query)
        rows = rows[grades[rows] != UNJUDGED]
        rows = rows[ranking(scores[rows], self.ties[rows])]
        return rows, grades[rows]

    def ranked_by_scope(
        self, query: Query, scores: np.ndarray, scopes: Sequence[str]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """`ranked` of several scopes, sorted once: a scope's ranking is the whole one without the other images."""
        rows, grades = self.ranked(query, scores, self.rows("all"))
        keep = {scope: slice(None) if scope == "all" else self.images["sensor"][rows] == scope for scope in scopes}
        return {scope: (rows[kept], grades[kept]) for scope, kept in keep.items()}

    def enough(self, query: Query, scope: str, min_relevant: int) -> bool:
        """Whether `min_relevant` images of a scope answer a query in full."""
        return self.labels.full_matches(query, None if scope == "all" else scope) >= min_relevant


class Scores:
    """A system's scores, (Q, N), as a product of a row per query and a row per image; computed some queries at a time.

    `scores[k]` are the (N,) scores of query k: reading them in order computes each once. decimals: round them, so that
    equal images are ties, as they must be where many are: a matrix product sums in another order at its edges, and the
    last bit of that, by place in the file, would rank them.
    """

    def __init__(self, queries: np.ndarray, images: np.ndarray, decimals: int | None = None) -> None:
        self._queries, self._images, self._decimals = queries, images, decimals
        self._start, self._chunk = 0, np.zeros((0, len(images)))

    def __len__(self) -> int:
        return len(self._queries)

    def __getitem__(self, k: int) -> np.ndarray:
        if not self._start <= k < self._start + len(self._chunk):
            self._start = k - k % CHUNK
            chunk = self._queries[self._start : self._start + CHUNK] @ self._images.T
            self._chunk = chunk if self._decimals is None else chunk.round(self._decimals)
        found: np.ndarray = self._chunk[k - self._start]
        return found


def systems_of(run: Path, samples: Samples, images: Samples, queries: list[Query]) -> dict[str, Scores]:
    """The scores of the model and, where there are training chips, of what it is compared with."""
    from train.embed import best_device, cached_embeddings, embed_texts
    from train.model import load_model

    device = best_device()
    model = load_model(run).to(device)
    vectors = cached_embeddings(run, model, samples, device)
    place = {chip: k for k, chip in enumerate(samples["chip_id"])}
    mine = vectors[[place[c] for c in images["chip_id"]]]
    systems = {"model": Scores(embed_texts(model, device, [q.text for q in queries]), mine)}
    train = samples.of("train")
    if len(train):
        by_class = {
            "prior-only": baselines.prior(train, images),
            "place-prior": baselines.place_prior(train, images),
            "classifier": baselines.classifier(vectors[samples["split"] == "train"], train, mine, images),
        }
        systems |= {name: class_scores(queries, images, scores) for name, scores in by_class.items()}
    return systems


def class_scores(queries: Sequence[Query], images: Samples, scores: np.ndarray) -> Scores:
    """What a system that scores classes, (N, 12), says to queries: the wanted classes' sum, less the classes' that must
    not be there. It is told which sensor each image is of: those of the one that is asked for come first.
    """
    weights = [
        [*((q.mask >> k & 1) - (q.without >> k & 1) for k in range(len(CLASSES))), *(q.sensor == s for s in SENSORS)]
        for q in queries
    ]
    first = len(CLASSES) + 1.0  # more than any sum of classes
    of_sensor = np.column_stack([first * (images["sensor"] == sensor) for sensor in SENSORS])
    return Scores(np.array(weights, float), np.hstack([scores, of_sensor]), decimals=9)
