"""Event geometries against exact answers: shares, distances, extents, CRS, zone borders, invalid polygons, blocks."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from types import SimpleNamespace

import geopandas
import numpy as np
import pytest
import shapely
import shapely.ops
from pyproj import Geod
from shapely import affinity
from world import World

from harmonize.events import CrisisEvent, judge
from harmonize.problem import Problem
from harmonize.splits import block_of
from pipeline.event import Event
from pipeline.events import EventMap, blocks_of, load_events, params, shares, touches
from pipeline.grid import Cell, cells_of, transformer
from pipeline.region import load_region
from pipeline.shapes import PIECE_VERTICES, Pieces, degrees_of, squares_of, union_of

CELLS = [Cell(32632, col, row) for col in range(496, 506) for row in range(4160, 4170)]
WEST, SOUTH, EAST, NORTH = 496 * 1200, 4160 * 1200, 506 * 1200, 4170 * 1200


def event_of(*areas: shapely.Geometry, epsg: int = 32632, to: int | None = None, analysed: object = None) -> EventMap:
    """An event of areas in one CRS, as a file in another CRS would have them."""

    def frame(shapes: list) -> geopandas.GeoDataFrame:
        dense = shapely.segmentize(shapes, 0.001 if epsg == 4326 else 100)
        return geopandas.GeoDataFrame(geometry=dense, crs=epsg).to_crs(to or epsg)

    use = Event(kind="flood", source="geojson", href="x.geojson")
    return EventMap(
        use, mapped_flood(), degrees_of(frame(list(areas))), degrees_of(frame([analysed])) if analysed else None
    )


def mapped_flood() -> CrisisEvent:
    return CrisisEvent("x", "flood", dt.date(2020, 1, 1), 20, 0.05)


def stars(seed: int, vertices: int) -> list[shapely.Geometry]:
    """Ragged polygons that overlap each other, some of them with a hole."""
    draw = np.random.default_rng(seed)
    found = []
    for k in range(6):
        x, y = draw.uniform((WEST, SOUTH), (EAST, NORTH))
        angle = np.sort(draw.uniform(0, 2 * np.pi, vertices))
        radius = draw.uniform(400, 2500, vertices)
        star = shapely.make_valid(
            shapely.Polygon(np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)]))
        )
        found.append(star.difference(shapely.Point(x, y).buffer(200)) if k % 2 else star)
    return found


@pytest.mark.parametrize("to", [32632, 4326, 3035, 32633])
@pytest.mark.parametrize(("seed", "vertices"), [(1, 9), (2, 40), (3, 300)])
def test_shares_and_distances_are_exact(to: int, seed: int, vertices: int) -> None:
    areas = stars(seed, vertices)
    union = shapely.union_all(areas)
    mapped = event_of(*areas, to=to)
    found, near = shares(mapped, squares_of(CELLS)), touches(mapped, squares_of(CELLS))
    assert len(found) > 10
    for cell in CELLS:
        square = shapely.box(*cell.bounds)
        assert found.get(cell, 0.0) == pytest.approx(square.intersection(union).area / 1200**2, abs=2e-6)
        assert near[cell].share == found.get(cell, 0.0)
        assert near[cell].distance_m == pytest.approx(square.distance(union), abs=0.01)
        assert near[cell].analysed is None


@pytest.mark.parametrize("seed", range(4))
def test_a_union_is_that_of_shapely(seed: int) -> None:
    """Many that touch nothing, some in heaps, some that share an edge or a corner only, some empty."""
    draw = np.random.default_rng(seed)
    x, y = np.floor(draw.uniform(0, 40, (2, 300)))
    shapes = [*shapely.box(x, y, x + 1, y + 1), *stars(seed, 12), shapely.Polygon(), shapely.box(5, 5, 5.5, 5.5)]
    found = union_of(shapes)
    assert found.is_valid
    assert found.equals(shapely.union_all(shapes))
    assert union_of([]).is_empty
    assert union_of([shapely.Polygon(), shapes[0]]) is shapes[0]


def test_long_edges_are_those_of_the_file(tmp_path: Path) -> None:
    """A box of 2 by 2 degrees has four corners, and its sides are parallels: 1.5 km off the chord in UTM."""
    corners = geopandas.GeoDataFrame(geometry=[shapely.box(9, 44, 11, 46)], crs=4326)
    mapped = dataclasses.replace(event_of(shapely.box(0, 0, 1, 1)), shape=degrees_of(corners))
    cells = cells_of(shapely.box(9.9, 45.9, 10.1, 46.1), 120)
    found = shares(mapped, squares_of(cells))
    for cell in cells:
        west, south, east, north = cell.bounds
        x, y = np.meshgrid(np.arange(west + 5, east, 10), np.arange(south + 5, north, 10))
        _, lat = transformer(cell.epsg, 4326).transform(x, y)
        assert found.get(cell, 0.0) == pytest.approx((lat < 46).mean(), abs=0.006)
    assert 0 < len(found) < len(cells)


def test_only_cells_within_ten_kilometres_are_touched() -> None:
    cells = [Cell(32632, 500 + k, 4167) for k in range(-20, 30)]
    area = shapely.box(*cells[20].bounds)
    near = touches(event_of(area), squares_of(cells))
    assert {c.col - 500: round(t.distance_m) for c, t in near.items()} == {
        k: max(0, (abs(k) - 1) * 1200) for k in range(-9, 10)
    }
    assert shares(event_of(area), squares_of(cells)) == {cells[20]: pytest.approx(1.0, abs=1e-7)}
    assert touches(event_of(affinity.translate(area, 0, 3e6)), squares_of(cells)) == {}


def test_an_analysed_extent_reaches_as_far_as_it_reaches() -> None:
    """Extent of columns 500-520 and a half of 521; the event lies in column 500: known far inside, unknown for 100 km
    around the event."""
    cells = [Cell(32632, 500 + k, 4167) for k in range(-100, 100)]
    west, south, _, north = cells[100].bounds
    extent = shapely.box(west, south - 5000, west + 21.5 * 1200, north + 5000)
    near = touches(event_of(shapely.box(*cells[100].bounds), analysed=extent), squares_of(cells))
    analysed = {c.col - 500: t.analysed for c, t in near.items()}
    assert analysed == {
        **dict.fromkeys(range(-84, 0), 0.0),
        **dict.fromkeys(range(21), 1.0),
        21: 0.5,
        **dict.fromkeys(range(22, 85), 0.0),
    }
    assert near[cells[100 + 12]].distance_m == float("inf"), "beyond 10 km nobody measures"
    assert near[cells[100 + 5]].distance_m == pytest.approx(4800, abs=0.01)


def test_a_large_extent_reaches_farther_than_the_event() -> None:
    """The event in column 400, the extent from there to column 520: partly inside is unknown to 10 km beyond it."""
    cells = [Cell(32632, 400 + k, 4167) for k in range(140)]
    west, south, _, north = cells[0].bounds
    extent = shapely.box(west, south - 5000, west + 120.5 * 1200, north + 5000)
    near = touches(event_of(shapely.box(*cells[0].bounds), analysed=extent), squares_of(cells))
    says = {c.col - 400: judge(mapped_flood(), t, dt.date(2020, 1, 2)).says for c, t in near.items()}
    assert says == {
        0: "positive",
        **dict.fromkeys(range(1, 120), "negative"),
        **dict.fromkeys(range(120, 129), "unknown"),
    }


@pytest.mark.parametrize("epsg", [32631, 32632, 32633, 32732])
def test_a_cell_in_reach_that_was_not_looked_at_is_no_known_negative(epsg: int) -> None:
    """Cells all around an event near a zone's border and the equator, or far from it: the reach by the ellipsoid."""
    lat = 0.3 if epsg == 32732 else 45.1
    area = affinity.translate(shapely.box(-0.05, -0.05, 0.05, 0.05), 6.2, lat)
    mapped = event_of(area, epsg=4326, analysed=affinity.scale(area, 3, 3))
    cells = cells_of(affinity.translate(shapely.box(-2, -2, 2, 2), 6.2, lat), 600)
    cells = [cell for cell in cells if cell.epsg == epsg]
    said = {
        c: judge(mapped_flood(), t, dt.date(2020, 1, 2)).says for c, t in touches(mapped, squares_of(cells)).items()
    }
    geod = Geod(ellps="WGS84")
    for cell in cells:
        west, south, east, north = cell.bounds
        lon, at = transformer(cell.epsg, 4326).transform([west, east, east, west], [south, south, north, north])
        nearest = [shapely.ops.nearest_points(area, shapely.Point(x, y))[0] for x, y in zip(lon, at, strict=True)]
        far = min(geod.inv(x, y, p.x, p.y)[2] for x, y, p in zip(lon, at, nearest, strict=True))
        if far < 98_000 and not mapped.analysed.contains(shapely.Polygon(zip(lon, at, strict=True))):
            assert said[cell] != "negative", (cell, far)
        if far > 110_000:
            assert cell not in said
    assert (len(said) > 0) == (epsg in (32631, 32632, 32732))


def test_a_self_intersecting_polygon_covers_both_of_its_lobes() -> None:
    west, south, east, north = CELLS[55].bounds
    bow = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    assert not bow.is_valid
    mapped = dataclasses.replace(event_of(bow), shape=degrees_of(geopandas.GeoDataFrame(geometry=[bow], crs=32632)))
    assert shares(mapped, squares_of([CELLS[55]])) == {CELLS[55]: pytest.approx(0.5, abs=1e-6)}


def test_cells_on_both_sides_of_a_zone_border() -> None:
    """A square across 12°E: cells of both zones are covered exactly, and its blocks lie in both zones' grids."""
    area = shapely.box(11.9, 45.0, 12.1, 45.15)
    cells = cells_of(shapely.box(11.8, 44.9, 12.2, 45.25), 120)
    assert {c.epsg for c in cells} == {32632, 32633}
    mapped = event_of(area, epsg=4326)
    found = shares(mapped, squares_of(cells))
    dense = shapely.segmentize(area, 0.001)
    for epsg in (32632, 32633):
        local = shapely.transform(dense, lambda xy, e=epsg: np.column_stack(transformer(4326, e).transform(*xy.T)))
        for cell in (c for c in cells if c.epsg == epsg):
            direct = shapely.box(*cell.bounds).intersection(local).area / 1200**2
            assert found.get(cell, 0.0) == pytest.approx(direct, abs=2e-6)
    blocks = blocks_of(mapped.shape, 12)
    assert {b[:5] for b in blocks} == {"32632", "32633"}
    truth = abs(Geod(ellps="WGS84").geometry_area_perimeter(area)[0])
    assert sum(blocks.values()) == pytest.approx(truth, rel=1e-3), "UTM's scale at the zone's edge is 1.0004 at most"
    of_cells = {block_of(c.epsg, c.bounds[0] + 600, c.bounds[1] + 600, 12) for c, s in found.items() if s > 0.999}
    assert of_cells <= set(blocks)


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"), [(5.0, 60.0, 32632), (20.0, 78.0, 32633), (-70.0, -33.0, 32719), (179.9, -17.0, 32760)]
)
def test_blocks_lie_in_the_zone_of_their_place(lon: float, lat: float, epsg: int) -> None:
    blocks = blocks_of(shapely.box(lon - 0.05, lat - 0.05, lon + 0.05, lat + 0.05), 12)
    assert {b.split("_")[0] for b in blocks} == {str(epsg)}
    east, north = transformer(4326, epsg).transform(lon, lat)
    assert block_of(epsg, east, north, 12) in blocks


def test_an_event_across_the_antimeridian() -> None:
    area = shapely.MultiPolygon([shapely.box(179.95, -17.1, 180, -17.0), shapely.box(-180, -17.1, -179.95, -17.0)])
    west, east = (
        cells_of(shapely.box(179.93, -17.2, 180, -16.9), 120),
        cells_of(shapely.box(-180, -17.2, -179.93, -16.9), 120),
    )
    found = touches(event_of(area, epsg=4326), squares_of(west + east))
    assert {c.epsg for c, t in found.items() if t.share > 0.99} == {32760, 32701}
    only_east = touches(event_of(area.geoms[1], epsg=4326), squares_of(west))
    assert only_east, "cells of the last zone see what lies beyond 180°"
    assert all(t.share == 0 and t.distance_m < 10_000 for t in only_east.values())


def test_large_polygons_are_cut_into_small_pieces_without_loss() -> None:
    angle = np.linspace(0, 2 * np.pi, 20_001)[:-1]
    radius = 10_000 + 300 * np.sin(90 * angle)
    coast = shapely.Polygon(np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]))
    pieces = Pieces(coast)
    assert max(shapely.get_num_coordinates(pieces._tree.geometries)) <= PIECE_VERTICES
    whole = np.array([shapely.box(-20_000, -20_000, 20_000, 20_000)])
    assert pieces.areas(whole)[0] == pytest.approx(coast.area, rel=1e-9)
    assert pieces.distances(np.array([shapely.box(12_000, 0, 12_100, 100)]), 5000)[0] == pytest.approx(
        shapely.distance(shapely.box(12_000, 0, 12_100, 100), coast), abs=1e-6
    )


def load(tmp_path: Path, **keys: object) -> list[EventMap]:
    world = World(tmp_path)
    properties = keys.pop("properties", None)
    world.event("one", keys.pop("area", shapely.box(600_000, 5_001_000, 600_600, 5_001_600)), properties, **keys)
    return load_events(load_region(world.write_manifest()))


def test_the_start_may_stand_in_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, properties={"start": "2020-06-10"})[0].event.start == dt.date(2020, 6, 10)
    assert load(tmp_path, properties={"date": "2020-06-11T12:00:00Z"})[0].event.start == dt.date(2020, 6, 11)
    assert load(tmp_path, properties={"date": "2020-06-11"}, start="2020-06-01")[0].event.start == dt.date(2020, 6, 1)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, ["no start", "one.geojson", "start ="]),
        ({"properties": {"date": "last June"}}, ["'last June'", "no day"]),
        ({"start": "2020-06-01", "area": shapely.Point(600_000, 5_001_000)}, ["one.geojson has no polygon", "area"]),
    ],
)
def test_a_file_that_does_not_say_what_or_when(tmp_path: Path, keys: dict, words: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        load(tmp_path, **keys)
    for word in [*words, "events[0]"]:
        assert word in str(caught.value)


def several(tmp_path: Path, **keys: object) -> list[EventMap]:
    """A square, a point and nothing in the layer `mixed`; another square in the layer `other`."""
    path = tmp_path / "two.gpkg"
    square = shapely.box(600_000, 5_001_000, 600_600, 5_001_600)
    mixed = geopandas.GeoDataFrame(geometry=[square, None, square.centroid], crs=32632)
    mixed.to_file(path, layer="mixed")
    geopandas.GeoDataFrame(geometry=[square.buffer(100)], crs=32632).to_file(path, layer="other")
    told = {"kind": "flood", "source": "geojson", "href": path.name, "start": "2020-06-01"} | keys
    lines = [f"{k} = {v}" if k == "start" else f"{k} = '{v}'" for k, v in told.items()]
    world = World(tmp_path, tail="\n".join(["[[events]]", *lines]) + "\n")
    return load_events(load_region(world.write_manifest()))


def test_a_layer_of_several_is_named_and_what_it_leaves_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"two\.gpkg has 2 layers, and none is named") as caught:
        several(tmp_path)
    assert "mixed, other" in caught.value.fix
    (mapped,) = several(tmp_path, layer="mixed")
    assert mapped.notes == (
        "left out: 1 of 3 features of two.gpkg, which have no geometry",
        "left out: 1 of 2 features of two.gpkg, which are points or lines",
    )
    (other,) = several(tmp_path, layer="other")
    assert other.shape.area > mapped.shape.area
    assert other.notes == ()
    with pytest.raises(Problem, match="another"):
        several(tmp_path, layer="another")


def test_the_layer_decides_the_stages(tmp_path: Path) -> None:
    def told(layer: str | None) -> list:
        use = Event.model_validate({"kind": "flood", "source": "geojson", "href": "a.gpkg", "layer": layer})
        return params(SimpleNamespace(events=[use]), "kind")

    assert told("a") != told("b")
    assert told(None) == [{"id": "a", "kind": "flood"}], "as before there were layers: no stage runs again"


@pytest.mark.parametrize("day", ["0001-01-01", "1899-12-31", "2201-01-01", "9999-12-31"])
def test_a_start_that_is_no_day_of_an_event(tmp_path: Path, day: str) -> None:
    with pytest.raises(Problem, match=rf"events\[0\]\.start': {day} is no day of this record"):
        load(tmp_path, start=day)
    with pytest.raises(Problem, match=rf"'{day}[ 0:]*' in the field start of one.geojson is no day of an event"):
        load(tmp_path, properties={"start": day})


def test_defaults_come_from_the_kind_and_the_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    square = shapely.box(600_000, 5_001_000, 600_600, 5_001_600)
    for name, kind in (("EMSR 1 (a)", "flood"), ("b_2", "fire"), ("c", "earthquake")):
        world.event(name, square, kind=kind, start="2020-06-01")
    world.event("d", square, kind="fire", start="2020-06-01", effect_days=7, id="named")
    found = [(e.event.id, e.event.effect_days) for e in load_events(load_region(world.write_manifest()))]
    assert found == [("emsr-1-a", 20), ("b_2", 180), ("c", 90), ("named", 7)]
