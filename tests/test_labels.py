"""Labels: area shares against exact geometry, the rules of precedence, and label sets."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from world import World

from harmonize.crosswalk import parse_crosswalk
from harmonize.labelset import Evidence, combine
from harmonize.vocabulary import ALL_MASK, CLASSES, CRISIS_MASK, mask_of, names_of
from pipeline.grid import Cell
from pipeline.vector import cell_shares, read_codes

CELL = Cell(32632, 500, 4167)


def polygons(codes: dict[str, shapely.Geometry], epsg: int) -> geopandas.GeoDataFrame:
    frame = geopandas.GeoDataFrame({"code": list(codes)}, geometry=list(codes.values()), crs=32632)
    return frame.to_crs(epsg)


@pytest.mark.parametrize("epsg", [32632, 3035])
def test_vector_shares_are_exact(epsg: int) -> None:
    west, south, east, north = CELL.bounds
    frame = polygons(
        {
            "111": shapely.box(west - 500, south, west + 300, north),
            "512": shapely.Point(east - 300, north - 300).buffer(200, 64),
        },
        epsg,
    )
    shares = cell_shares(frame, CELL.epsg, CELL.bounds)
    assert shares["111"] == pytest.approx(0.25, abs=1e-3)
    assert shares["512"] == pytest.approx(np.pi * 200**2 / 1200**2, abs=1e-3)


def test_overlapping_polygons_never_sum_beyond_the_cell() -> None:
    west, south, east, north = CELL.bounds
    frame = polygons(
        {"1": shapely.box(west, south, east, north), "2": shapely.box(west, south, west + 600, north)}, 32632
    )
    assert cell_shares(frame, CELL.epsg, CELL.bounds) == {"1": pytest.approx(1.0)}


def test_a_cell_far_from_all_polygons_has_no_share() -> None:
    assert cell_shares(polygons({"1": shapely.box(0, 0, 10, 10)}, 32632), CELL.epsg, CELL.bounds) == {}


def test_real_corine_vector_sums_to_one(real_folder: Path) -> None:
    frame = read_codes(real_folder / "labels/clc2018_lanjaron.gpkg", "CODE_18", "here", "clc")
    crosswalk = parse_crosswalk((ROOT / "manifests/labels/corine.csv").read_text(), "corine.csv")
    x, y = frame.to_crs(32630).union_all().representative_point().coords[0]
    cell = Cell(32630, int(x // 1200), int(y // 1200))
    shares = cell_shares(frame, cell.epsg, cell.bounds)
    assert sum(shares.values()) == pytest.approx(1, abs=2e-3)
    local = frame.to_crs(32630)
    for code, share in shares.items():
        direct = local[local["code"] == code].intersection(shapely.box(*cell.bounds)).area.sum() / 1200**2
        assert share == pytest.approx(direct, abs=5e-3)
        assert crosswalk.classify(code) in CLASSES


DAY = dt.date(2020, 6, 1)


def says(source: str, shares: dict[str, float], date: dt.date | None = None) -> Evidence:
    return Evidence(source, date, shares)


def test_the_first_source_that_labels_enough_rules() -> None:
    low, high = says("a", {"water": 0.7}), says("b", {"crops": 0.74, "built": 0.02})
    labels = combine([high, low], ["a", "b"], DAY, 0.05)
    assert labels.shares == {"crops": 0.74}, "a labels 70 % only; built is below min_share"
    assert labels.sources == {"crops": "b"}
    assert labels.evidence == (low, high), "the others stay as evidence"
    assert combine([high, low], ["a", "b"], DAY, 0).shares == {"crops": 0.74, "built": 0.02}
    assert combine([says("a", {"water": 0.75})], ["a"], DAY, 0.05).label_mask == mask_of(["water"])


def test_of_a_dated_source_the_nearest_day_rules() -> None:
    early, late = says("a", {"water": 1.0}, dt.date(2020, 5, 20)), says("a", {"crops": 1.0}, dt.date(2020, 6, 5))
    assert combine([early, late], ["a"], DAY, 0.05).shares == {"crops": 1.0}
    assert combine([early, late], ["a"], dt.date(2020, 5, 25), 0.05).shares == {"water": 1.0}
    cloudy = says("a", {"crops": 0.3}, dt.date(2020, 6, 5))
    assert combine([early, cloudy], ["a"], DAY, 0.05).shares == {"water": 1.0}, "the nearest day labels too little"


def test_without_a_ruling_source_land_cover_is_unknown() -> None:
    labels = combine([says("a", {"water": 0.5})], ["a"], DAY, 0.05)
    assert labels.empty
    assert labels.known_mask == CRISIS_MASK
    assert combine([says("a", {"water": 0.9})], ["a"], DAY, 0.05).known_mask == ALL_MASK


@given(
    st.permutations(
        [says("a", {"water": 0.2}), says("b", {"crops": 0.8}), says("b", {"trees": 0.9}, DAY), says("c", {"bare": 1.0})]
    )
)
def test_merging_is_free_of_order(evidence: list[Evidence]) -> None:
    assert combine(list(evidence), ["a", "b", "c"], DAY, 0.05) == combine(
        list(evidence)[::-1], ["a", "b", "c"], DAY, 0.05
    )


def test_masks_round_trip() -> None:
    for k, name in enumerate(CLASSES):
        assert mask_of([name]) == 1 << k
    assert names_of(ALL_MASK) == list(CLASSES)


def test_all_corine_codes_are_mapped_as_published() -> None:
    crosswalk = parse_crosswalk((ROOT / "manifests/labels/corine.csv").read_text(), "corine.csv")
    values = [str(k) for k in range(1, 45)]
    codes = [c for c in crosswalk.rows if len(c) == 3]
    assert len(codes) == 44
    for value, code in zip(values, sorted(codes), strict=True):
        assert crosswalk.classify(value) == crosswalk.classify(code)
    assert (crosswalk.classify("213"), crosswalk.classify("244"), crosswalk.classify("334")) == (
        "flooded vegetation",
        "trees",
        "burned area",
    )
    published = ROOT.parent / "shared/reference/facts/closp_corine_to_dw.json"
    if published.exists():
        import json

        mapping = {k.lower(): v.lower() for k, v in json.loads(published.read_text())["mapping"].items()}
        spelled = {
            "natural grasslands": "natural grassland",
            "bare rocks": "bare rock",
            "peat bogs": "peatbogs",
            "transitional woodland-shrub": "transitional woodland/shrub",
        }
        for code in codes:
            name = crosswalk.rows[code].name.lower()
            assert crosswalk.classify(code) == mapping[spelled.get(name, name)]
    world_cover = parse_crosswalk((ROOT / "manifests/labels/dynamic-world.csv").read_text(), "dynamic-world.csv")
    assert [world_cover.classify(str(k)) for k in range(9)] == list(CLASSES[:9])


@pytest.mark.parametrize(
    ("taken", "says"),
    [("2018-02-01", "water"), ("2018-10-15", "water"), ("2018-12-31", "water"), ("2019-01-01", "crops")],
)
def test_a_map_of_a_year_rules_in_its_year(taken: str, says: str, tmp_path: Path) -> None:
    """Its item has no datetime but a span, which ends with the next year's midnight (Impact Observatory's maps)."""
    import pyarrow.parquet as pq

    from pipeline import runner

    keys = {"start": "2018-01-01", "end": "2019-12-31"}
    world = World(tmp_path, size_m=1200, dates=(f"{taken}T10:00:00Z",), s1_dates=(), manifest=keys)
    manifest = world.write()
    for year, code in ((2018, 1), (2019, 2)):
        href = f"labels/{year}.tif"
        world.tif(tmp_path / href, np.full((120, 120), code, np.uint8), 10)
        span = {"start_datetime": f"{year}-01-01T00:00:00Z", "end_datetime": f"{year + 1}-01-01T00:00:00Z"}
        world.item("maps", str(year), "", {"data": href}, {"datetime": None, **span})
    text = manifest.read_text().replace('href = "labels/classes.tif"', 'items = "catalog/maps/*.json"\nasset = "data"')
    manifest.write_text(text.replace('[[imagery]]\nsource = "s1-here"\n', ""))
    region, store = runner.load(manifest, str(tmp_path / "out"))
    runner.run_upto(region, store, "captions", quiet=True)
    labels = pq.read_table(tmp_path / "out/tiny/labels.parquet").to_pylist()
    assert {r["date"] for r in labels} == {dt.date(2018, 7, 2), dt.date(2019, 7, 2)}
    rows = pq.read_table(tmp_path / "out/tiny/captions.parquet").to_pylist()
    assert {r["caption_paper"] for r in rows} == {says}
