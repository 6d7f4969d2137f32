"""Ranking metrics against trec_eval, their chance values against many random rankings, and ties."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval

from harmonize.queries import UNJUDGED, relevance
from harmonize.query_families import class_queries, label_set_queries
from harmonize.vocabulary import ALL_MASK, LAND_COVER_MASK, mask_of
from train.metrics import block_interval, gain, measures, random_measures, ranking, tie_break


@pytest.mark.parametrize("seed", range(25))
def test_measures_equal_trec_eval(seed: int) -> None:
    draw = np.random.default_rng(seed)
    n = int(draw.integers(3, 3000))
    grades = draw.integers(0, 4, n) * (draw.random(n) < draw.choice([0.002, 0.05, 0.5]))
    grades[int(draw.integers(n))] = 1
    scores = draw.integers(0, max(2, n // 5), n).astype(float)  # many ties
    ids = np.array([f"p60_32632_{k}_{k * 7 % 13}_s2" for k in range(n)])
    order = ranking(scores, tie_break(ids))
    assert (np.diff(scores[order]) <= 0).all()
    qrel = {"q": {str(ids[k]): int(grades[k]) for k in range(n)}}
    run = {"q": {str(ids[k]): float(n - rank) for rank, k in enumerate(order)}}
    names = {"ndcg_cut_1000": "ndcg", "map": "map", "P_10": "p10", "recall_1000": "recall"}
    found = pytrec_eval.RelevanceEvaluator(qrel, {"ndcg_cut.1000", "map", "P.10", "recall.1000"}).evaluate(run)["q"]
    ours = measures(grades[order])
    for theirs, mine in names.items():
        assert ours[mine] == pytest.approx(found[theirs], abs=1e-6), theirs


def test_chance_is_the_mean_of_random_rankings() -> None:
    draw = np.random.default_rng(1)
    grades = np.array([2, 1, 1, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1, 0])
    several = [measures(draw.permutation(grades), depth=6) for _ in range(20_000)]
    chance = random_measures(grades, depth=6)
    for name, value in chance.items():
        assert np.mean([s[name] for s in several]) == pytest.approx(value, abs=0.01), name


def test_ties_do_not_follow_file_order() -> None:
    ids = np.array([f"chip_{k}" for k in range(200)])
    order = ranking(np.zeros(200), tie_break(ids))
    assert sorted(order) == list(range(200))
    assert (order != np.arange(200)).mean() > 0.9
    again = np.random.default_rng(0).permutation(200)
    assert (ids[again][ranking(np.zeros(200), tie_break(ids[again]))] == ids[order]).all()


def test_nothing_relevant_and_perfect() -> None:
    assert measures(np.zeros(5, int)) == {"ndcg": 0, "map": 0, "p10": 0, "recall": 0}
    assert measures(np.array([2, 1, 0]))["ndcg"] == 1
    assert gain(0.75, 0.5) == 0.5


def test_a_chip_with_an_unknown_class_leaves_that_query() -> None:
    labels = np.array([mask_of(["water"]), mask_of(["water", "crops"]), mask_of(["flooded area"])])
    known = np.array([ALL_MASK, LAND_COVER_MASK, ALL_MASK & ~LAND_COVER_MASK])
    assert relevance(mask_of(["water"]), labels, known).tolist() == [1, 1, UNJUDGED]
    assert relevance(mask_of(["flooded area"]), labels, known).tolist() == [0, UNJUDGED, 1]
    assert relevance(mask_of(["water", "crops"]), labels, known).tolist() == [1, 2, UNJUDGED]


def test_queries() -> None:
    assert len(class_queries()) == 12
    masks = np.array([mask_of(["water"]), mask_of(["crops", "water"]), mask_of(["crops", "water"])])
    assert [q.text for q in label_set_queries(masks)] == ["water. crops"]


def test_interval_covers_the_mean_and_needs_two_blocks() -> None:
    draw = np.random.default_rng(0)
    grades, blocks = draw.integers(0, 2, 300), draw.integers(0, 30, 300)
    low, high = block_interval([(grades, blocks)])["map"]
    assert low < measures(grades)["map"] < high
    assert block_interval([(grades, np.zeros(300, int))]) == {}
