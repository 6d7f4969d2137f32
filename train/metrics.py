"""Ranking metrics as trec_eval defines them, their value for a random ranking, and intervals over spatial blocks."""

from __future__ import annotations

import hashlib

import numpy as np

DEPTH = 1000
"""nDCG@1000 and recall@1000 (DESIGN §6)."""
METRICS = ("ndcg", "map", "p10", "recall")
FULL = ("map_full", "p10_full")
"""Strict: images that answer a query in full are relevant, and no others."""


def tie_break(chip_ids: np.ndarray) -> np.ndarray:
    """uint64 per chip, a hash of its id: equal scores are ordered by it, not by file order, which groups classes."""
    digests = (hashlib.blake2b(str(c).encode(), digest_size=8).digest() for c in chip_ids)
    return np.array([int.from_bytes(d, "big") for d in digests], np.uint64)


def ranking(scores: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Indices from best to worst score; equal scores by `ties`. NaN scores come last."""
    return np.lexsort((ties, -np.nan_to_num(scores.astype(np.float64), nan=-np.inf)))


def discounts(n: int) -> np.ndarray:
    """1 / log2(rank + 1) for ranks 1..n, as trec_eval's ndcg_cut."""
    return 1 / np.log2(np.arange(2, n + 2))


def measures(ranked: np.ndarray, depth: int = DEPTH) -> dict[str, float]:
    """nDCG@depth (linear gain), average precision, P@10 and recall@depth of graded relevances in ranked order.

    ranked: int (N,), 0 = not relevant. As trec_eval's ndcg_cut, map, P_10, recall; all 0 without a relevant image.
    """
    relevant = ranked > 0
    count = int(relevant.sum())
    if count == 0:
        return dict.fromkeys(METRICS, 0.0)
    top = min(depth, len(ranked))
    weight = discounts(top)
    ideal = np.sort(ranked)[::-1][:top]
    hits = np.flatnonzero(relevant)
    precision = np.arange(1, count + 1) / (hits + 1)
    return {
        "ndcg": float((ranked[:top] * weight).sum() / (ideal * weight).sum()),
        "map": float(precision.mean()),
        "p10": float(relevant[:10].sum() / 10),
        "recall": float(relevant[:top].sum() / count),
    }


def full_measures(found: dict[str, float], strict: dict[str, float]) -> dict[str, float]:
    """`found`, with the measures of FULL out of those of a query whose grades are 1 for a full answer and else 0."""
    return found | {name: strict[name.removesuffix("_full")] for name in FULL}


def random_measures(grades: np.ndarray, depth: int = DEPTH) -> dict[str, float]:
    """Expected value of each measure when images are ranked at random.

    E[AP] = ((R-1)/(n-1)) (1 - H_n/n) + H_n/n, with H_n the n-th harmonic number (each of the R relevant images is
    equally likely at every rank, and the ranks above it hold (R-1)/(n-1) relevant ones on average).
    """
    n, count = len(grades), int((grades > 0).sum())
    if count == 0:
        return dict.fromkeys(METRICS, 0.0)
    top = min(depth, n)
    weight = discounts(top)
    ideal = (np.sort(grades)[::-1][:top] * weight).sum()
    harmonic = float((1 / np.arange(1, n + 1)).sum()) / n
    others = (count - 1) / (n - 1) if n > 1 else 0.0
    return {
        "ndcg": float(grades.mean() * weight.sum() / ideal),
        "map": others * (1 - harmonic) + harmonic,
        "p10": count / n * min(10, n) / 10,
        "recall": top / n,
    }


def gain(value: float, chance: float) -> float:
    """Normalised gain (m - random) / (1 - random): 0 is chance, 1 is perfect."""
    return (value - chance) / (1 - chance) if chance < 1 else 0.0


def block_interval(
    rankings: list[tuple[np.ndarray, np.ndarray]], number: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval of the mean over queries of each measure, resampling spatial blocks.

    rankings: per query the graded relevances in ranked order and the block number of each image in that order.
    Neighbouring chips are no independent draws, so whole blocks are drawn.
    """
    blocks = np.unique(np.concatenate([b for _, b in rankings])) if rankings else np.zeros(0, int)
    if len(blocks) < 2:
        return {}
    draw = np.random.Generator(np.random.PCG64(seed))
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for _ in range(number):
        times = np.bincount(draw.integers(len(blocks), size=len(blocks)), minlength=len(blocks))
        values = []
        for grades, block in rankings:
            again = np.repeat(grades, times[np.searchsorted(blocks, block)])
            if (again > 0).any():
                values.append(measures(again))
        if values:
            for name in METRICS:
                found[name].append(float(np.mean([v[name] for v in values])))
    return {name: tuple(np.percentile(v, [2.5, 97.5]).round(6).tolist()) for name, v in found.items() if v}
