"""Agreement between two label sources: the same from either side, whole when they are equal, and the same in any order."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from commands import run
from hypothesis import given
from hypothesis import strategies as st
from world import World

from harmonize.agreement import Agreement, agreement_table, agreements, compare_shares, merge
from harmonize.labelset import Evidence
from harmonize.vocabulary import BIT, CLASSES
from pipeline import receipt, runner

N = len(CLASSES)
DAY = dt.date(2021, 6, 1)


def shares(**areas: float) -> list[float]:
    """One cell: class (spaces as underscores) -> share."""
    row = [0.0] * N
    for name, area in areas.items():
        row[BIT[name.replace("_", " ")]] = area
    return row


def cells(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, N)


def same(one: Agreement, other: Agreement) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))


@st.composite
def pairs(draw: st.DrawFn, most: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Two sources over the same cells: a few classes each, labelled wholly, in part or not at all."""
    n = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    both = []
    for _ in range(2):
        said = rng.dirichlet(np.full(N, 0.3), n) * (rng.random((n, N)) < 0.5)
        total = said.sum(1, keepdims=True)
        said = np.divide(said, total, out=np.zeros_like(said), where=total > 0)
        both.append(said * rng.choice([0.0, 0.5, 0.8, 1.0], (n, 1), p=[0.05, 0.1, 0.25, 0.6]))
    return both[0], both[1]


def test_two_cells_by_hand() -> None:
    a = cells(shares(crops=0.6, trees=0.4), shares(water=1.0))
    b = cells(shares(crops=0.5, grass=0.5), shares(water=0.97, trees=0.03))
    found = compare_shares(a, b, 0.05)
    assert (found.cells, found.left_out, found.labelled) == (2, 0, 2_000_000)
    k = BIT
    assert found.most[[k["crops"], k["water"], k["trees"], k["grass"]]].tolist() == [500_000, 970_000, 0, 0]
    assert found.least[[k["crops"], k["water"], k["trees"]]].tolist() == [100_000, 970_000, 0]
    assert found.iou[k["crops"]] == pytest.approx(0.5 / 0.6)
    assert found.iou[k["trees"]] == 0
    assert np.isnan(found.iou[k["built"]])
    assert found.at_most == pytest.approx(1.47 / 2)
    assert found.at_least == pytest.approx(1.07 / 2)
    assert found.both[[k["crops"], k["water"], k["trees"]]].tolist() == [1, 1, 0]
    assert found.only_a[k["trees"]] == 1
    assert found.only_b[k["trees"]] == 0  # 3 % does not count
    assert found.only_b[k["grass"]] == 1
    assert compare_shares(a, b, 0).only_b[k["trees"]] == 1
    assert found.dominant[k["crops"], k["grass"]] == 1  # of equal shares the first in the vocabulary
    assert found.same_dominant == 0.5


def test_a_cell_that_one_of_them_labels_too_little_is_counted_and_left_out() -> None:
    a = cells(shares(crops=0.74), shares(crops=0.75), shares())
    b = cells(shares(crops=1.0), shares(crops=1.0), shares(crops=1.0))
    found = compare_shares(a, b, 0.05)
    assert (found.cells, found.left_out) == (1, 2)
    assert found.at_most == found.at_least == 1  # what one does not label is no disagreement
    assert found.iou[BIT["crops"]] == pytest.approx(0.75)


@given(pairs(), st.sampled_from([0, 0.05, 0.3]))
def test_it_reads_the_same_from_either_side(said: tuple[np.ndarray, np.ndarray], min_share: float) -> None:
    a, b = said
    one, other = compare_shares(a, b, min_share), compare_shares(b, a, min_share)
    for name in ("cells", "left_out", "labelled", "most", "least", "either", "both"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert np.array_equal(one.area_a, other.area_b)
    assert np.array_equal(one.only_a, other.only_b)
    assert np.array_equal(one.dominant, other.dominant.T)
    assert np.array_equal(one.iou, other.iou, equal_nan=True)


@given(pairs())
def test_a_source_agrees_with_itself(said: tuple[np.ndarray, np.ndarray]) -> None:
    found = compare_shares(said[0], said[0], 0.05)
    assert set(found.iou[found.either > 0]) <= {1.0}
    assert not found.only_a.any()
    assert not found.only_b.any()
    if found.cells:
        assert (found.at_most, found.same_dominant) == (1, 1)


@given(pairs(), st.randoms(use_true_random=False))
def test_parts_add_up_in_any_order_and_any_cut(said: tuple[np.ndarray, np.ndarray], random: Random) -> None:
    a, b = said
    order = list(range(len(a)))
    random.shuffle(order)
    cut = random.randint(0, len(order))
    parts = [compare_shares(a[part], b[part], 0.05) for part in (order[:cut], order[cut:])]
    whole = compare_shares(a, b, 0.05)
    assert same(merge(parts), whole)
    assert same(merge(reversed(parts)), whole)


@given(pairs())
def test_the_bounds_hold(said: tuple[np.ndarray, np.ndarray]) -> None:
    found = compare_shares(*said, 0.05)
    assert (found.least <= found.most).all()
    assert (found.most <= np.minimum(found.area_a, found.area_b)).all()
    assert (found.either >= np.maximum(found.area_a, found.area_b)).all()
    assert found.dominant.sum() == found.cells
    if found.cells:
        assert 0 <= found.at_least <= found.at_most <= 1


@given(st.integers(0, 2**32 - 1))
def test_what_pixels_say_lies_between_the_bounds(seed: int) -> None:
    """Two drawn maps of one cell: the share of pixels that agree, which the shares alone cannot tell."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 4, 400)
    b = np.where(rng.random(400) < rng.random(), a, rng.integers(0, 4, 400))
    found = compare_shares(*(np.bincount(m, minlength=N)[None] / 400 for m in (a, b)), 0)
    agree = (a == b).mean()
    assert found.at_least <= agree <= found.at_most  # shares of 400 pixels are whole millionths


def evidence(source: str, date: dt.date | None = None, **areas: float) -> Evidence:
    return Evidence(source, date, {name.replace("_", " "): area for name, area in areas.items()})


def test_of_a_dated_source_the_nearest_day_speaks_and_each_pair_once() -> None:
    days = [dt.date(2021, 1, 3), dt.date(2021, 1, 4), dt.date(2021, 12, 1)]
    said = [
        evidence("dw", dt.date(2021, 1, 1), crops=1.0),
        evidence("dw", dt.date(2021, 11, 30), grass=1.0),
        evidence("dw", dt.date(2021, 12, 1), grass=0.5),  # labels too little
        evidence("corine", crops=1.0),
    ]
    found = agreements([(said, days), (said[3:], days), (said[:1], days)], ["corine", "dw"], 0.05)
    assert list(found) == [("corine", "dw")]
    assert found["corine", "dw"].cells == 2
    assert found["corine", "dw"].both[BIT["crops"]] == 1
    assert found["corine", "dw"].at_most == 0.5
    backwards = agreements([(said[::-1], days[::-1])], ["dw", "corine"], 0.05)["dw", "corine"]
    assert backwards.dominant.T.tolist() == found["corine", "dw"].dominant.tolist()


def test_three_sources_make_three_pairs_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    said = [
        (
            [Evidence(s, None, dict(zip(CLASSES, rng.dirichlet(np.ones(9)).tolist(), strict=False))) for s in "abc"],
            [DAY],
        )
        for _ in range(20)
    ]
    whole = agreements(said, list("abc"), 0.05)
    assert list(whole) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert {found.cells for found in whole.values()} == {20}
    monkeypatch.setattr("harmonize.agreement.CHUNK", 7)
    chunked = agreements(iter(said), list("abc"), 0.05)
    assert all(same(chunked[names], whole[names]) for names in whole)
    assert agreements(said, ["a"], 0.05) == {}


def test_nothing_to_compare_is_said() -> None:
    nothing = merge([])
    assert nothing.cells == 0
    assert np.isnan(nothing.at_most)
    assert nothing.record()["at_most"] is None
    assert "no cell is labelled by both a and b" in agreement_table(nothing, ("a", "b"))
    little = compare_shares(cells(shares(crops=0.1)), cells(shares(crops=1.0)), 0.05)
    assert "1 too little" in agreement_table(little, ("a", "b"))


def test_the_table_says_what_a_source_cannot() -> None:
    a = cells(*[shares(crops=0.6, burned_area=0.4)] * 3)
    b = cells(*[shares(trees=0.7, crops=0.3)] * 3)
    text = agreement_table(compare_shares(a, b, 0.05), ("corine", "dynamic-world"), ((), ("burned area",)))
    lines = {line[:20].strip(): line for line in text.splitlines()}
    assert "60.0%" in lines["crops"]
    assert "30.0%" in lines["crops"]
    assert lines["crops"].endswith("0.50")
    assert lines["burned area"].endswith("dynamic-world cannot say it")
    assert "water" not in lines
    assert "most often apart: corine crops, dynamic-world trees (3 cells)" in text
    assert "same class on 0.0% to 30.0% of the area that both label" in text


def test_a_record_is_json() -> None:
    found = compare_shares(cells(shares(crops=0.6, trees=0.4)), cells(shares(crops=1.0)), 0.05).record()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["classes"]["crops"] == {
        "share_a": 0.6,
        "share_b": 1.0,
        "both": 1,
        "only_a": 0,
        "only_b": 0,
        "iou": 0.6,
    }
    assert list(found["classes"]) == ["trees", "crops"]


def test_two_sources_of_a_region_are_compared(tmp_path: Path) -> None:
    """Land cover `classes` everywhere water; `other` says crops in half of what it labels, and labels a part of the region."""
    world = World(tmp_path)
    manifest = world.write()
    world.tif(world.root / "labels/classes.tif", np.ones((120, 120), np.uint8), 10)
    other = np.full((120, 120), 2, np.uint8)
    other[::2] = 1
    other[:, 90:] = 0
    world.tif(world.root / "labels/other.tif", other, 10)
    text = manifest.read_text()
    source = text[text.index("[sources.classes]") :]
    more = '[[labels]]\nsource = "other"\nhref = "labels/other.tif"\n'
    manifest.write_text(
        text.replace("[split]", more + "[split]") + "\n" + source.replace("sources.classes", "sources.other")
    )
    region, store = runner.load(manifest, str(tmp_path / "out"))
    runner.run_upto(region, store, "captions", quiet=True)
    (found,) = json.loads(store.read("agreement.json"))
    assert found["sources"] == ["classes", "other"]
    assert found["cells"] > 0
    assert found["left_out"] > 0, "cells of which `other` labels the half"
    water = found["classes"]["water"]
    assert (water["share_a"], water["share_b"], water["iou"]) == (1.0, 0.5, 0.5)
    said = run("pipeline", "agreement", str(manifest), "--out", str(tmp_path / "out"))
    assert said.returncode == 0
    assert "same class on 50.0% to 50.0%" in said.stdout
    note = next(n for n in receipt.read_receipt(store, "captions").notes if "'classes' and 'other'" in n)
    assert "python -m pipeline agreement" in note


def test_a_region_with_one_source_has_nothing_to_compare(tmp_path: Path) -> None:
    manifest = World(tmp_path).write()
    region, store = runner.load(manifest, str(tmp_path / "out"))
    runner.run_upto(region, store, "captions", quiet=True)
    assert json.loads(store.read("agreement.json")) == []
    said = run("pipeline", "agreement", str(manifest), "--out", str(tmp_path / "out"))
    assert said.returncode == 0
    assert "no cell is labelled by two sources" in said.stdout
