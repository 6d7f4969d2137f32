"""Vector files that are damaged or say too little: told by name, never a traceback, never all memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas
import pytest
import shapely

from harmonize.problem import Problem
from pipeline.vector import cell_shares, read_codes, read_vector

SQUARE = geopandas.GeoDataFrame(
    {"code": ["1"]}, geometry=[shapely.box(600_000, 5_000_400, 601_200, 5_001_600)], crs=32632
)


def shapefile(tmp_path: Path) -> Path:
    path = tmp_path / "land.shp"
    SQUARE.to_file(path)
    return path


def no_prj(path: Path) -> None:
    path.with_suffix(".prj").unlink()


def bad_prj(path: Path) -> None:
    path.with_suffix(".prj").write_text("PROJCS[nonsense")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [no_prj, bad_prj, cut, empty])
def test_a_damaged_shapefile_is_told(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = shapefile(tmp_path)
    damage(path)
    with pytest.raises(Problem, match=r"land\.shp|CRS") as raised:
        read_vector(path, "events[0]")
    assert raised.value.fix


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.geojson", "", "cannot be read"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "no geometry|no feature"),
        ("a.geojson", "<html>not found</html>", "cannot be read"),
        ("a.gpkg", "not a database", "cannot be read"),
        ("a.parquet", "PAR1", "cannot be read"),
    ],
)
def test_a_file_that_is_no_vector_file_is_told(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(Problem, match=said):
        read_vector(path, "here")


def test_a_missing_layer_and_attribute_are_told_with_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "land.gpkg"
    SQUARE.to_file(path, layer="clc")
    with pytest.raises(Problem, match="other"):
        read_vector(path, "here", "other")
    with pytest.raises(Problem, match="CODE_18") as raised:
        read_codes(path, "CODE_18", "here", "clc")
    assert "code" in raised.value.fix


def test_self_intersecting_polygons_are_mended_and_overlaps_go_to_the_first(tmp_path: Path) -> None:
    """A bow tie over the cell's diagonals covers half of it; what lies under it counts only where it is free."""
    west, south, east, north = SQUARE.total_bounds
    bow = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    assert not bow.is_valid
    path = tmp_path / "land.gpkg"
    frame = geopandas.GeoDataFrame({"code": ["7", "1"]}, geometry=[bow, SQUARE.geometry[0]], crs=32632)
    frame.to_file(path)
    shares = cell_shares(read_codes(path, "code", "here"), 32632, (west, south, east, north))
    assert shares == {"7": pytest.approx(0.5), "1": pytest.approx(0.5)}
    frame[::-1].to_file(path)
    shares = cell_shares(read_codes(path, "code", "here"), 32632, (west, south, east, north))
    assert shares == {"1": pytest.approx(1.0)}
