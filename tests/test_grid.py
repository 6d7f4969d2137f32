"""The grid: worked ids, nesting of 60 m pixels in both hemispheres, zones and their exceptions."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest
import shapely
from conftest import REAL
from hypothesis import given
from hypothesis import strategies as st

from harmonize.problem import Problem
from pipeline.grid import Cell, cell_at, cells_of, centres, chip_id, parse_cell, transformer, zone_of
from pipeline.place import mgrs_square
from pipeline.region import Region


def test_worked_ids() -> None:
    assert cell_at(32632, 600_000, 5_000_400).name == "32632_500_4167"
    assert Cell(32632, 500, 4167).bounds == (600_000, 5_000_400, 601_200, 5_001_600)
    cell = Cell(32718, 1197, 7167, 60)
    assert cell.name == "p60_32718_1197_7167"
    assert cell.bounds == (718_200, 5_699_200, 718_800, 5_699_800)
    assert chip_id(cell.name, "s2", dt.datetime(2020, 4, 8, 14, 37, 29)) == "p60_32718_1197_7167_s2_20200408t143729"


def test_60_m_pixels_of_a_real_southern_tile_nest() -> None:
    path = REAL / "stac_items/pc_s2_35MNM_2020_jun_jul.geojson"
    if not path.exists():
        pytest.skip("the recorded items are not beside this checkout (../shared/real)")
    item = json.loads(path.read_text())["features"][0]
    asset = item["assets"]["B01"]
    west, north = asset["proj:transform"][2], asset["proj:transform"][5]
    epsg = item["properties"]["proj:epsg"]
    assert epsg == 32735
    for size in (60, 120, 240):
        cell = cell_at(epsg, west + 50_000, north - 50_000, size)
        assert (cell.bounds[0] - west) % 60 == 0
        assert (north - cell.bounds[3]) % 60 == 0


@given(
    zone=st.integers(1, 60),
    south=st.booleans(),
    size=st.sampled_from([6, 60, 120, 264]),
    x=st.floats(170_000, 830_000),
    y=st.floats(1, 9_000_000),
)
def test_every_point_has_one_cell(zone: int, south: bool, size: int, x: float, y: float) -> None:
    cell = cell_at((32700 if south else 32600) + zone, x, y, size)
    west, low, east, high = cell.bounds
    assert west <= x < east
    assert (low < y <= high) if south else (low <= y < high)
    assert cell.row >= 0
    assert high - low == east - west == size * 10
    assert parse_cell(cell.name) == cell


def test_names_that_are_no_cells() -> None:
    for name in ("32632_1", "p60_4326_1_1", "32632_-1_4", ""):
        with pytest.raises(Problem, match="is not a cell"):
            parse_cell(name)


def test_cells_in_a_zones_corner_are_dropped() -> None:
    area = shapely.box(11.97, 45.0, 12.03, 45.03)  # 12°E is the border of zones 32 and 33
    cells = cells_of(area, 120)
    assert {c.epsg for c in cells} == {32632, 32633}
    for cell in cells:
        west, south, east, north = cell.bounds
        lon, lat = transformer(cell.epsg, 4326).transform([west, east, east, west], [south, south, north, north])
        assert (zone_of(np.array(lon), np.array(lat)) == cell.epsg % 100).all()
    polygons = [
        shapely.Polygon(
            np.column_stack(transformer(c.epsg, 4326).transform(*np.array(shapely.box(*c.bounds).exterior.coords).T))
        )
        for c in cells
    ]
    tree = shapely.STRtree(polygons)
    left, right = tree.query(polygons, predicate="overlaps")
    overlap = [polygons[a].intersection(polygons[b]).area for a, b in zip(left, right, strict=True)]
    assert max(overlap, default=0) < 1e-9, "no ground stands in two zones' cells"


def test_a_cell_belongs_where_its_centre_is() -> None:
    area = shapely.box(9.0, 45.0, 9.1, 45.1)
    cells = cells_of(area, 120)
    lon, lat = centres(cells)
    assert shapely.contains_xy(area, lon, lat).all()
    larger = cells_of(shapely.box(8.9, 44.9, 9.2, 45.2), 120)
    assert set(cells) <= set(larger)
    # 0.1° x 0.1° at 45.05°N is 7.87 km x 11.12 km
    assert len(cells) == pytest.approx(7.87 * 11.12 / 1.44, rel=0.1)


def test_the_equator_divides_hemispheres() -> None:
    cells = cells_of(shapely.box(26.9, -0.03, 27.0, 0.03), 120)
    assert {c.epsg for c in cells} == {32635, 32735}
    assert min(c.row for c in cells) == 0
    assert all(c.bounds[3] <= 10_000_000 for c in cells if c.epsg == 32735)


def test_zone_exceptions() -> None:
    lon = np.array([5.0, 2.9, 8.9, 9.1, 20.9, 21.1, 34.0, -180.0, 179.9])
    lat = np.array([60.0, 60.0, 75.0, 75.0, 75.0, 75.0, 75.0, 10.0, 10.0])
    assert zone_of(lon, lat).tolist() == [32, 31, 31, 33, 33, 35, 37, 1, 60]


def test_beyond_utm_is_refused() -> None:
    with pytest.raises(Problem, match="beyond 80"):
        cells_of(shapely.box(1, 85, 2, 86), 120)


@pytest.mark.parametrize(
    ("tile", "name"),
    [
        ("35MNM", "pc_s2_35MNM_2020_jun_jul.geojson"),
        ("60VUK", "planetary_computer_sentinel-2-l2a_S2A_20190101_T60VUK.json"),
        ("06VVN", "planetary_computer_sentinel-2-l2a_S2B_T06VVN_2019.json"),
        ("13TDE", "earthsearch_v1_sentinel-2-l2a_S2A_13TDE_20231008.json"),
        ("38XNF", "earthsearch_v1_sentinel-2-c1-l2a_S2B_T38XNF_20250422.json"),
    ],
)
def test_mgrs_squares_lie_where_real_tiles_lie(tile: str, name: str) -> None:
    path = REAL / "stac_items" / name
    if not path.exists():
        pytest.skip("the recorded items are not beside this checkout (../shared/real)")
    data = json.loads(path.read_text())
    item = data["features"][0] if "features" in data else data
    asset = item["assets"].get("B02") or item["assets"]["blue"]
    transform, epsg = asset["proj:transform"], item["properties"]["proj:epsg"]
    square = mgrs_square(tile, Region.model_construct(path=path))
    x, y = transformer(4326, epsg).transform(*np.array(square.exterior.coords).T)
    # Tiles start at their square's upper left corner, to a pixel of 60 m.
    assert x.min() == pytest.approx(transform[2], abs=61)
    assert y.max() == pytest.approx(transform[5], abs=61)
    assert x.max() - x.min() == pytest.approx(100_000, abs=1)


def test_no_such_tile() -> None:
    region = Region.model_construct(path=REAL / "x.toml")
    for tile in ("99TQR", "32TAA", "nonsense"):
        with pytest.raises(Problem):
            mgrs_square(tile, region)
