"""The report on a split: counted by hand, distances measured with the geodesics of pyproj."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from harmonize.split_report import (
    SPLITS,
    SplitColumns,
    corners,
    distances,
    leakage_lines,
    report_lines,
    split_notes,
    split_report,
)
from harmonize.splits import SplitShares
from harmonize.vocabulary import ALL_MASK, CLASSES, CRISIS_MASK, mask_of
from pipeline.grid import Cell, centres

GEOD = Geod(ellps="WGS84")


def columns(rows: list[dict[str, Any]], side_m: float = 1200) -> SplitColumns:
    """Rows as columns; each has a Cell and whatever differs from the defaults."""
    default = {"split": "train", "sensor": "s2", "scene": "A", "events": [], "labels": 1, "known": ALL_MASK}
    rows = [default | row for row in rows]
    places = [centres([row["cell"]]) for row in rows]
    return SplitColumns(
        cell=[row["cell"].name for row in rows],
        block=[f"{row['cell'].epsg}_{row['cell'].col // 10}_{row['cell'].row // 10}" for row in rows],
        split=[row["split"] for row in rows],
        sensor=[row["sensor"] for row in rows],
        scene=[row["scene"] for row in rows],
        events=[row["events"] for row in rows],
        label_mask=np.array([row["labels"] for row in rows], int),
        known_mask=np.array([row["known"] for row in rows], int),
        lon=np.array([lon[0] for lon, _ in places]),
        lat=np.array([lat[0] for _, lat in places]),
        epsg=np.array([row["cell"].epsg for row in rows], int),
        side_m=side_m,
    )


def true_corners(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """lon, lat of a cell's corners by pyproj."""
    west, south, east, north = cell.bounds
    move = Transformer.from_crs(cell.epsg, 4326, always_xy=True)
    return move.transform(np.array([west, west, east, east]), np.array([south, north, south, north]))


@settings(deadline=None)
@given(st.sampled_from([32601, 32632, 32718, 32733]), st.integers(160, 650), st.integers(0, 7300))
def test_corners_are_those_of_the_grid(epsg: int, col: int, row: int) -> None:
    cell = Cell(epsg, col, row)
    to_metres = Transformer.from_crs(4979, 4978, always_xy=True)
    lon, lat = true_corners(cell)
    true = np.stack(to_metres.transform(lon, lat, np.zeros(4)), 1)
    lon, lat = centres([cell])
    made = corners(lon, lat, np.array([epsg]), cell.side_m)[0]
    apart = np.linalg.norm(true[:, None] - made[None], axis=-1)
    assert apart.min(1).max() < 0.1
    assert apart.min(0).max() < 0.1


def near(epsgs: list[int], lon: float, lat: float) -> st.SearchStrategy[Cell]:
    """Cells up to 60 km around a place, in any of these zones."""

    def of(drawn: tuple[int, int, int]) -> Cell:
        epsg, col, row = drawn
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        return Cell(epsg, int(x // 1200) + col, int((10_000_000 - y if epsg // 100 == 327 else y) // 1200) + row)

    return st.tuples(st.sampled_from(epsgs), st.integers(-50, 50), st.integers(-50, 50)).map(of)


PLACES = {
    "one zone": ([32632], 9.5, 45.0),
    "a zone border": ([32632, 32633], 12.0, 45.0),
    "a zone border far north": ([32635, 32636], 30.0, 69.0),
    "the antimeridian": ([32701, 32760], 180.0, -17.0),
    "the equator": ([32633, 32733], 15.0, 0.0),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_nearest_distance_is_that_of_geodesics(place: str) -> None:
    @settings(deadline=None, max_examples=25)
    @given(st.lists(near(*PLACES[place]), min_size=2, max_size=12, unique=True), st.integers(1, 11))
    def check(cells: list[Cell], cut: int) -> None:
        cut = min(cut, len(cells) - 1)
        rows = [{"cell": cell, "split": "test" if k < cut else "train"} for k, cell in enumerate(cells)]
        leak = split_report(columns(rows))["leakage"]["test"]
        found = [min(geodesic(a, b) for b in cells[cut:]) for a in cells[:cut]]
        found = [0.0 if far <= 10 else far for far in found]
        assert leak["nearest_m"] == pytest.approx(min(found), rel=5e-3, abs=5)
        assert leak["median_m"] == pytest.approx(np.median(found), rel=5e-3, abs=5)
        if all(abs(far - limit) > 5 for far in found for limit in (10, 1210, 5010)):
            assert leak["touching"] == pytest.approx(np.mean([far <= 10 for far in found]), abs=1e-6)
            assert leak["within"]["1200"] == pytest.approx(np.mean([far <= 1210 for far in found]), abs=1e-6)
            assert leak["within"]["5000"] == pytest.approx(np.mean([far <= 5010 for far in found]), abs=1e-6)

    check()


def geodesic(a: Cell, b: Cell) -> float:
    """Metres between the nearest corners of two cells, on the ellipsoid."""
    (lon, lat), (lons, lats) = true_corners(a), true_corners(b)
    pairs = [np.repeat(lon, 4), np.repeat(lat, 4), np.tile(lons, 4), np.tile(lats, 4)]
    return float(np.min(GEOD.inv(*pairs)[2]))


@settings(deadline=None)
@given(st.sampled_from([32632, 32718]), st.integers(-6, 6), st.integers(-6, 6), st.integers(250, 500))
def test_on_one_grid_the_distance_is_the_gap_between_the_squares(epsg: int, dx: int, dy: int, col: int) -> None:
    a, b = Cell(epsg, col, 4000), Cell(epsg, col + dx, 4000 + dy)
    gap = 1200 * np.hypot(max(0, abs(dx) - 1), max(0, abs(dy) - 1))
    made = [corners(*centres([cell]), np.array([epsg]), 1200) for cell in (a, b)]
    # Metres of the grid are up to 0.1 % longer or shorter than those of the ground.
    assert distances(*made)[0] == pytest.approx(gap, rel=1.5e-3, abs=5)


def test_one_cell_between_is_at_most_one_cell_away_wherever_the_zone_stretches() -> None:
    for col in (150, 250, 416, 500, 650):
        rows = [{"cell": Cell(32632, col, 4000)}, {"cell": Cell(32632, col + 2, 4000), "split": "test"}]
        leak = split_report(columns(rows))["leakage"]["test"]
        assert (leak["touching"], leak["within"]["1200"]) == (0, 1)
        rows[1]["cell"] = Cell(32632, col + 1, 4001)
        leak = split_report(columns(rows))["leakage"]["test"]
        assert (leak["touching"], leak["nearest_m"]) == (1, 0)


row_of_chips = st.fixed_dictionaries(
    {
        "cell": st.builds(Cell, st.just(32632), st.integers(400, 404), st.integers(4000, 4030)),
        "split": st.sampled_from(SPLITS),
        "sensor": st.sampled_from(["s1", "s2"]),
        "scene": st.sampled_from("ABCDE"),
        "events": st.lists(st.sampled_from(["flood", "fire"]), unique=True),
        "labels": st.integers(0, ALL_MASK),
        "known": st.integers(0, ALL_MASK),
    }
).map(lambda row: row | {"known": row["known"] | row["labels"]})


@settings(deadline=None, max_examples=60)
@given(st.lists(row_of_chips, max_size=25))
def test_the_report_counts_as_a_person_would(rows: list[dict[str, Any]]) -> None:
    report = split_report(columns(rows), SplitShares(0.7, 0.1, 0.2))
    assert json.loads(json.dumps(report)) == report
    assert (report["chips"], report["cells"]) == (len(rows), len({r["cell"] for r in rows}))
    for name in SPLITS:
        mine, split = [r for r in rows if r["split"] == name], report["splits"][name]
        assert split["chips"] == len(mine)
        assert split["cells"] == len({r["cell"] for r in mine})
        assert split["scenes"] == len({r["scene"] for r in mine})
        assert split["sensors"] == {s: n for s in ("s1", "s2") if (n := sum(r["sensor"] == s for r in mine))}
        for k, class_ in enumerate(CLASSES):
            check_class(split["classes"][class_], k, mine, rows)
    for name in ("val", "test"):
        check_shared(report["leakage"][name], rows, name)
    assert report_lines(report)


def check_class(row: dict[str, Any], k: int, mine: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    def count(rows: list[dict[str, Any]], key: str) -> int:
        return sum(r[key] >> k & 1 for r in rows)

    def cells(of: list[dict[str, Any]]) -> int:
        """A cell of the split has the class if any chip of that cell has it."""
        return len({r["cell"] for r in of} & {r["cell"] for r in rows if r["labels"] >> k & 1})

    assert (row["chips"], row["known"]) == (count(mine, "labels"), count(mine, "known"))
    assert row["cells"] == cells(mine)
    assert row["held"] == (pytest.approx(cells(mine) / cells(rows), abs=1e-6) if cells(rows) else None)
    if not count(mine, "known"):
        assert row["share"] is None
        return
    share = count(mine, "labels") / count(mine, "known")
    assert row["share"] == pytest.approx(share, abs=1e-6)
    if count(rows, "labels"):
        whole = count(rows, "labels") / count(rows, "known")
        assert row["deviation"] == pytest.approx(share / whole - 1, abs=1e-6)
    else:
        assert row["deviation"] is None


def check_shared(leak: dict[str, Any], rows: list[dict[str, Any]], name: str) -> None:
    train, mine = ([r for r in rows if r["split"] == s] for s in ("train", name))
    assert leak["cells"] == len({r["cell"] for r in train} & {r["cell"] for r in mine})
    scenes = {r["scene"] for r in train} & {r["scene"] for r in mine}
    assert leak["scenes"] == len(scenes)
    if mine:
        assert leak["chips_of_scenes"] == pytest.approx(np.mean([r["scene"] in scenes for r in mine]), abs=1e-6)
    assert leak["events"] == sorted({e for r in train for e in r["events"]} & {e for r in mine for e in r["events"]})
    assert (leak["nearest_m"] is None) == (not train or not mine)
    if leak["cells"]:
        assert leak["nearest_m"] == 0


def test_what_a_person_must_know_is_warned_of() -> None:
    rows = [
        {"cell": Cell(32632, 400, 4000), "labels": mask_of(["water", "trees"]), "events": ["po"]},
        {"cell": Cell(32632, 400, 4000), "split": "test", "labels": mask_of(["water"]), "events": ["po"]},
    ]
    report = split_report(columns(rows))
    assert report["warnings"] == [
        "split val is empty",
        "split test has no trees",
        "1 cells are in train and in test",
        "events in train and in test: po",
    ]
    assert leakage_lines(report) == [
        "train to test: nearest 0 m, median 0 m; of test's cells 100.0% touch one of train, 100.0% within 1.2 km, "
        "100.0% within 5 km; 1 scenes are in both (100.0% of test's chips), 1 events"
    ]


def test_a_run_is_told_of_its_split_in_a_few_lines() -> None:
    rows = [{"cell": Cell(32632, 400, 4000)}, {"cell": Cell(32632, 410, 4000), "split": "val", "scene": "B"}]
    assert split_notes(split_report(columns(rows))) == [
        "chips per split: train 1, val 1, test 0",
        "train to val: nearest 10,804 m, median 10,804 m; of val's cells 0.0% touch one of train, 0.0% within 1.2 km, "
        "0.0% within 5 km; 0 scenes are in both (0.0% of val's chips), 0 events",
        "warning: split test is empty",
    ]
    assert split_notes(split_report(columns([])))[0] == "chips per split: train 0, val 0, test 0"


def test_unknown_bits_do_not_dilute_a_share() -> None:
    """Of ten chips five are outside an event's analysed extent: the flooded share is of the other five."""
    flood = mask_of(["flooded area"])
    rows = [
        {
            "cell": Cell(32632, 400 + k, 4000),
            "labels": flood * (k == 0),
            "known": ALL_MASK if k < 5 else ALL_MASK & ~CRISIS_MASK,
        }
        for k in range(10)
    ]
    row = split_report(columns(rows))["splits"]["train"]["classes"]["flooded area"]
    assert (row["chips"], row["known"], row["share"]) == (1, 5, 0.2)
