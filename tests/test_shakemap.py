"""ShakeMap contours closed into ground, against fields whose level sets are known exactly; and damage within shaking."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from cems_packages import product, zipped
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity
from world import World

from harmonize.events import judge
from harmonize.problem import Problem
from pipeline import events
from pipeline.contours import UnclearContours, ground_above
from pipeline.events import EventMap, load_events, touches
from pipeline.grid import Cell, cells_of
from pipeline.licences import EVENT_TERMS
from pipeline.region import load_region
from pipeline.shapes import squares_of

LEVELS = tuple(np.arange(4, 10, 0.5).tolist())
Field = tuple[list[tuple[float, float, float]], list[tuple[float, float, float]]]
"""Peaks and sinks (x, y, height): the field falls by 2 a degree around peaks, and rises as much around sinks."""


def above(field: Field, level: float) -> shapely.Geometry:
    """Where min(max(peak - 2 r), min(sink + 2 r)) is at least `level`: discs less discs."""
    peaks, sinks = ([shapely.Point(x, y).buffer(max(0, r), 256) for x, y, r in these] for these in (
        [(x, y, (height - level) / 2) for x, y, height in field[0]],
        [(x, y, (level - height) / 2) for x, y, height in field[1]],
    ))  # fmt: skip
    return shapely.difference(shapely.union_all(peaks), shapely.union_all(sinks))


def contours(
    field: Field, frame: shapely.Geometry, levels: tuple[float, ...] = LEVELS
) -> dict[float, shapely.Geometry]:
    """The lines of a field as a map with this frame draws them: cut off at its edge."""
    found = {}
    for level in levels:
        lines = shapely.intersection(shapely.boundary(above(field, level)), frame)
        parts = [part for part in shapely.get_parts(lines) if part.geom_type == "LineString" and part.length > 0]
        if parts:
            found[level] = shapely.MultiLineString(parts)
    return found


FRAME = shapely.box(36, 36, 40, 39)
HILL: Field = ([(38, 37.5, 9)], [])


def differs(found: shapely.Geometry, field: Field, lines: dict[float, shapely.Geometry], level: float) -> float:
    """Share of the map that lies on the wrong side."""
    frame = shapely.box(*shapely.total_bounds(list(lines.values())))
    truth = shapely.intersection(above(field, level), frame)
    return shapely.symmetric_difference(found, truth).area / frame.area


def test_closed_rings_are_the_ground_in_them() -> None:
    lines = contours(HILL, FRAME)
    assert ground_above(lines, 7).area == pytest.approx(np.pi, rel=0.005), "a disc of one degree"
    assert ground_above({7.0: lines[7.0]}, 7).area == pytest.approx(np.pi, rel=0.005), "without any other contour too"


@pytest.mark.parametrize("level", [6.0, 6.5, 7.0, 8.0, 8.5])
@pytest.mark.parametrize("x", [36.0, 36.4, 37.1, 39.8])
@pytest.mark.parametrize("y", [36.1, 37.5, 38.9])
def test_lines_cut_by_the_edge_are_closed_along_it(x: float, y: float, level: float) -> None:
    """One, two and three sides cut, corners inside or not; peaks near the edge and beside it."""
    field: Field = ([(x, y, 9)], [])
    lines = contours(field, FRAME)
    found = ground_above(lines, level)
    assert differs(found, field, lines, level) < 0.0005
    truth = shapely.intersection(above(field, level), FRAME).area
    assert found.area == pytest.approx(truth, rel=0.005)


def test_the_high_side_may_hold_the_corners() -> None:
    """Shaken everywhere but in one corner of the map: the line is the same as around a small peak there."""
    valley: Field = ([(38, 37.5, 30)], [(36, 36, 6)])
    lines = contours(valley, FRAME, tuple(np.arange(6.5, 16, 0.5).tolist()))
    found = ground_above(lines, 7.0)
    assert found.area == pytest.approx(12 - np.pi * 0.5**2 / 4, rel=0.005)
    peak: Field = ([(36, 36, 8)], [])
    assert ground_above(contours(peak, FRAME), 7.0).area == pytest.approx(np.pi * 0.5**2 / 4, rel=0.005)


def test_high_ground_on_a_side_without_any_cut_line_is_refused() -> None:
    """Low in the south-west, and no line elsewhere: the map goes on, nobody knows how far."""
    valley: Field = ([(38, 37.5, 30)], [(36, 36, 6)])
    with pytest.raises(UnclearContours, match="reaches the lines' end in the east, and the map may go on"):
        ground_above(contours(valley, FRAME), 7.0)


def test_holes_and_peaks_in_holes() -> None:
    field: Field = ([(38, 37.5, 10), (38.02, 37.5, 9.6)], [(38, 37.5, 5)])
    lines = contours(field, FRAME)
    found = ground_above(lines, 7.0)
    assert found.area == pytest.approx(np.pi * (1.5**2 - 1), rel=0.005), (
        "a ring of shaking: the middle is no part of it"
    )
    assert not shapely.contains(found, shapely.Point(38, 37.5))
    inner = shapely.Point(38, 37.5).buffer(0.3)
    lines[7.0] = shapely.MultiLineString([*lines[7.0].geoms, shapely.LineString(inner.exterior.coords)])
    lines[8.0] = shapely.MultiLineString([shapely.LineString(inner.buffer(-0.1).exterior.coords)])
    lines = {value: shapely.difference(line, inner) if value < 7 else line for value, line in lines.items()}
    assert ground_above(lines, 7.0).area == pytest.approx(np.pi * (1.5**2 - 1) + inner.area, rel=0.005)


PLACE = st.tuples(st.floats(35.5, 40.5), st.floats(35.5, 39.5))


@given(
    st.lists(st.tuples(PLACE, st.floats(6, 10)), min_size=1, max_size=5),
    st.lists(st.tuples(PLACE, st.floats(3, 7)), max_size=3),
    st.sampled_from([6.0, 6.5, 7.0, 7.5]),
)
@settings(max_examples=150, deadline=None)
def test_any_field_of_peaks_and_sinks(peaks: list, sinks: list, level: float) -> None:
    """Every map: at most 0.5 % of it lies on the wrong side, whatever is cut by its edge."""
    field: Field = ([(*place, h) for place, h in peaks], [(*place, h) for place, h in sinks])
    lines = contours(field, FRAME)
    if level not in lines or len(lines) < 2:
        return
    drawn = shapely.box(*shapely.total_bounds(list(lines.values())))
    missed = shapely.difference(shapely.intersection(above(field, level), FRAME), drawn).area
    try:
        found = ground_above(lines, level)
    except UnclearContours:
        assert missed > 0, "the lines end before the ground does"
    else:
        assert shapely.symmetric_difference(found, shapely.intersection(above(field, level), FRAME)).area / 12 < 0.005


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([(36, 36), (38, 37)], "a line of it ends inside the map, at 38.000 east, 37.000 north"),
        ([(36, 36.5), (40, 38.5)], "lie on the wrong side"),
    ],
)
def test_lines_that_cannot_be_closed(lines: list, words: str) -> None:
    around = contours(HILL, FRAME)
    with pytest.raises(UnclearContours, match=words):
        ground_above(around | {7.0: shapely.MultiLineString([lines])}, 7.0)


def test_a_lone_line_across_the_map_says_no_side() -> None:
    with pytest.raises(UnclearContours, match="no other contour says which side is higher"):
        ground_above({7.0: shapely.MultiLineString([[(36, 36), (38, 39), (40, 36)]])}, 7.0)


def test_rounded_and_torn_lines_are_mended() -> None:
    """Four digits as in the product, every line torn in pieces, rings that miss their last point."""
    lines = contours(([(36.4, 37.5, 9)], []), FRAME)
    torn = {}
    for value, line in lines.items():
        parts = [np.round(np.array(part.coords), 4) for part in line.geoms]
        torn[value] = shapely.MultiLineString(
            [half for xy in parts for half in (xy[: len(xy) // 2 + 1], xy[len(xy) // 2 :])]
        )
    assert ground_above(torn, 7.0).area == pytest.approx(ground_above(lines, 7.0).area, rel=1e-3)
    ring = np.array(shapely.Point(38, 37.5).buffer(1, 256).exterior.coords)[:-1]
    ring = np.vstack([ring, ring[0] + 1e-5])
    assert ground_above({7.0: shapely.MultiLineString([ring])}, 7.0).area == pytest.approx(np.pi, rel=1e-4)


# The reader, in a world of 12 km around 10.3 east, 45.1 north: cells of 600 m.

AT = shapely.Point(10.33, 45.11)


def shakemap(
    world: World,
    field: Field | None = None,
    beside: dict[str, Any] | None = None,
    told: dict | None = None,
    **keys: Any,
) -> Path:
    """cont_mmi.json of a hill of shaking (MMI 7 in 0.05 degrees around AT), and a manifest that names it."""
    field = field or ([(AT.x, AT.y, 7.1)], [])
    frame = shapely.box(9.3, 44.1, 11.3, 46.1)
    features = [
        {
            "type": "Feature",
            "properties": {"value": value, "units": "mmi", "color": "#ffe300", "weight": 2} | (told or {}),
            "geometry": json.loads(shapely.to_geojson(line)),
        }
        for value, line in contours(field, frame, (5.0, 5.5, 6.0, 6.5, 7.0)).items()
    ]
    return manifest_of(world, {"type": "FeatureCollection", "features": features}, beside, **keys)


def manifest_of(world: World, contours: dict, beside: dict[str, Any] | None = None, **keys: Any) -> Path:
    for name, content in {"cont_mmi.json": contours, **(beside or {})}.items():
        (world.root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    table = {"kind": "earthquake", "source": "shakemap", "href": "cont_mmi.json", "start": "2020-06-10"} | keys
    text = [f"{k} = {v if k == 'start' else json.dumps(v)}" for k, v in table.items() if v is not None]
    world.tail = "\n".join(["[[events]]", *text]) + "\n"
    return world.write_manifest()


def world_of(tmp_path: Path) -> World:
    return World(tmp_path, size_m=24_000, north=5_010_000.0)


def one(manifest: Path) -> EventMap:
    (mapped,) = load_events(load_region(manifest))
    return mapped


def test_the_shaken_ground_is_the_event(tmp_path: Path) -> None:
    mapped = one(shakemap(world_of(tmp_path)))
    assert mapped.shape.area == pytest.approx(np.pi * 0.05**2, rel=0.005)
    assert (mapped.event.id, mapped.event.kind, mapped.analysed) == ("cont_mmi", "earthquake", None)
    assert mapped.use.mmi == 7.0
    assert mapped.use.licence == EVENT_TERMS["shakemap"]["licence"]
    wider = one(shakemap(world_of(tmp_path), mmi=6.5))
    assert wider.shape.area == pytest.approx(np.pi * 0.3**2, rel=0.005)


INFO = {"input": {"event_information": {"event_id": "us1", "origin_time": "2020-06-10T23:59:59.040000Z"}}}
DETAIL = {"type": "Feature", "id": "us1", "properties": {"time": 1591833599000, "mag": 7.1}}


@pytest.mark.parametrize("beside", [{"info.json": INFO}, {"event.geojson": DETAIL}, {"event.json": DETAIL}])
def test_the_day_of_the_earthquake_stands_beside_the_contours(tmp_path: Path, beside: dict) -> None:
    manifest = shakemap(world_of(tmp_path), beside=beside, start=None)
    assert one(manifest).event.start == dt.date(2020, 6, 10)
    (name,) = beside
    assert tmp_path / name in events.files(load_region(manifest), "href"), "watched for changes"


def test_the_contours_may_say_the_day_themselves(tmp_path: Path) -> None:
    manifest = shakemap(world_of(tmp_path), start=None)
    path = tmp_path / "cont_mmi.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metadata": INFO}))
    assert one(manifest).event.start == dt.date(2020, 6, 10)
    assert one(shakemap(world_of(tmp_path), beside={"info.json": INFO}, start="2020-06-09")).event.start.day == 9


def test_polygons_of_intensity_are_read_too(tmp_path: Path) -> None:
    """Bands as well as whatever is above each level give the same ground."""
    discs = {level: AT.buffer((8 - level) / 20) for level in (6.0, 6.5, 7.0, 7.5)}
    bands = {level: shapely.difference(disc, discs.get(level + 0.5, shapely.Point())) for level, disc in discs.items()}
    for shapes in (discs, bands):
        features = [
            {
                "type": "Feature",
                "properties": {"value": v, "units": "mmi"},
                "geometry": json.loads(shapely.to_geojson(s)),
            }
            for v, s in shapes.items()
        ]
        mapped = one(manifest_of(world_of(tmp_path), {"type": "FeatureCollection", "features": features}))
        assert mapped.shape.area == pytest.approx(discs[7.0].area, rel=1e-6)


def test_a_map_across_the_antimeridian_goes_on_counting(tmp_path: Path) -> None:
    frame = shapely.box(178, -18, 183, -14)
    lines = contours(([(180.2, -16, 9)], []), frame)
    features = [
        {"type": "Feature", "properties": {"value": v}, "geometry": json.loads(shapely.to_geojson(s))}
        for v, s in lines.items()
    ]
    shape = one(manifest_of(world_of(tmp_path), {"type": "FeatureCollection", "features": features})).shape
    assert shape.area == pytest.approx(np.pi, rel=0.005)
    assert shape.bounds == pytest.approx((-180, -17, 180, -15), abs=1e-3)
    assert shapely.contains(shape, shapely.Point(-179, -16))
    assert shapely.contains(shape, shapely.Point(179.5, -16))


def line(value: object, *xy: tuple[float, float], **told: Any) -> dict:
    return {
        "type": "Feature",
        "properties": {"value": value, "units": "mmi"} | told,
        "geometry": {"type": "LineString", "coordinates": xy or [(10, 45), (10.5, 45), (10.2, 45.4), (10, 45)]},
    }


def polygon(value: float) -> dict:
    return line(value) | {"geometry": json.loads(shapely.to_geojson(AT.buffer(0.1)))}


BAD = {
    "no such contour": ([line(6.0), line(6.5)], {}, ["no contour of intensity 7", "set mmi to one of them: 6, 6.5"]),
    "acceleration": ([line(7.0, units="%g")], {}, ["cont_mmi.json is in %g", "take cont_mmi.json"]),
    "no value": ([{**line(7.0), "properties": {"mmi": 7}}], {}, ["no field 'value'"]),
    "no intensity": ([line(70)], {}, ["value 70", "no intensity (1 to 12)"]),
    "words": ([line("strong")], {}, ["value strong", "no intensity"]),
    "lines and polygons": ([line(7.0), polygon(6.0)], {}, ["holds LineString, Polygon"]),
    "open": ([line(6.0), line(7.0, (10.1, 45.1), (10.2, 45.2))], {}, ["cannot be closed", "ends inside the map"]),
    "in metres": ([line(7.0, (600000, 5e6), (600100, 5e6), (600100, 5000100))], {}, ["from 600000", "give degrees"]),
    "empty": ([], {}, ["no feature with a geometry"]),
    "no day": ([line(7.0)], {"start": None}, ["no start", "info.json", "start = <day"]),
    "kind": ([line(7.0)], {"kind": "flood"}, ["kind is 'flood'", "'shakemap' maps every earthquake"]),
    "scale": ([line(7.0)], {"mmi": 70}, ["'events[0].mmi'", "less than or equal to 12"]),
    "damage": ([line(7.0)], {"damage": "gone.gpkg"}, ["there is no event file", "gone.gpkg", "check damage"]),
    "secret": ([line(7.0)], {"damage": "https://me:S3CRET@x.org/a.json"}, ["'events[0].damage'", "written into receipts"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_a_person_can_mend_in_a_shakemap(tmp_path: Path, case: str) -> None:
    features, keys, words = BAD[case]
    with pytest.raises(Problem) as caught:
        one(manifest_of(world_of(tmp_path), {"type": "FeatureCollection", "features": features}, **keys))
    for word in [*words, "fix:"]:
        assert word in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_a_broken_record_beside_it(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"info.json is no JSON"):
        one(shakemap(world_of(tmp_path), beside={"info.json": "{"}, start=None))
    (tmp_path / "info.json").unlink()
    clear = {"properties": {"time": "06/07/2020"}}
    with pytest.raises(Problem, match="day or the month first"):
        one(shakemap(world_of(tmp_path), beside={"event.json": clear}, start=None))


@pytest.mark.parametrize("time", ["NaN", "1e300", "-1e18", "253402300799000"])
def test_a_time_that_is_no_day(tmp_path: Path, time: str) -> None:
    with pytest.raises(Problem, match=r"milliseconds in the field time of event\.json (are|is) no day"):
        one(shakemap(world_of(tmp_path), beside={"event.json": f'{{"properties": {{"time": {time}}}}}'}, start=None))


def test_a_record_nested_without_end(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"info.json is no JSON"):
        one(shakemap(world_of(tmp_path), beside={"info.json": "[" * 100_000}, start=None))


def test_a_contour_without_a_line_is_told(tmp_path: Path) -> None:
    manifest = shakemap(world_of(tmp_path))
    whole = one(manifest)
    path = tmp_path / "cont_mmi.json"
    told = json.loads(path.read_text())
    told["features"].append(told["features"][0] | {"geometry": None})
    path.write_text(json.dumps(told))
    assert one(manifest).shape.equals(whole.shape)
    assert one(manifest).notes == ("left out: 1 of 6 features of cont_mmi.json, which have no geometry",)
    told["features"][0]["geometry"]["coordinates"][0][0] = [float("nan"), 45.1]
    path.write_text(json.dumps(told))
    with pytest.raises(Problem, match=r"feature 1 of cont_mmi\.json with a coordinate that is no number"):
        one(manifest)


def geojson_of(shape: shapely.Geometry) -> dict:
    return {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(shape))}


TOWN = AT.buffer(0.01, cap_style="square")
FRAME_OF_TOWN = AT.buffer(0.02, cap_style="square")


def says(mapped: EventMap, cells: list[Cell]) -> dict[Cell, str]:
    near = touches(mapped, squares_of(cells))
    day = mapped.event.start + dt.timedelta(days=3)
    return {cell: judge(mapped.event, near[cell], day).says if cell in near else "negative" for cell in cells}


@pytest.mark.parametrize("told", [True, False])
def test_shaken_ground_that_nobody_looked_at_is_unknown(tmp_path: Path, told: bool) -> None:
    """Damage in a town, a frame around it that was looked at (or none is told), shaking farther out."""
    beside = {"damage.geojson": geojson_of(TOWN), "seen.geojson": geojson_of(FRAME_OF_TOWN)}
    keys = {"damage": "damage.geojson"} | ({"analysed": "seen.geojson"} if told else {})
    mapped = one(shakemap(world_of(tmp_path), beside=beside, **keys))
    cells = cells_of(AT.buffer(0.2), 60)
    shaken, looked_at = AT.buffer(0.05, 256), FRAME_OF_TOWN if told else TOWN
    counts = {"positive": 0, "unknown": 0, "negative": 0}
    for cell, said in says(mapped, cells).items():
        box = square_of(cell)
        share = shapely.intersection(box, TOWN).area / box.area
        unseen = shapely.difference(shapely.intersection(box, shaken), looked_at).area / box.area
        if abs(share - 0.05) < 0.01 or 0 < unseen < 0.001:
            continue
        truth = "positive" if share > 0.05 else "unknown" if share > 0 or unseen > 0 else "negative"
        assert said == truth, (cell, share, unseen)
        counts[said] += 1
    assert min(counts.values()) > 10, counts


def square_of(cell: Cell) -> shapely.Geometry:
    from pipeline.grid import transformer

    outline = shapely.segmentize(shapely.box(*cell.bounds), 100)
    move = transformer(cell.epsg, 4326)
    return shapely.transform(outline, lambda xy: np.column_stack(move.transform(*xy.T)))


def test_far_shaken_ground_is_unknown_too_and_what_is_farther_is_no_matter(tmp_path: Path) -> None:
    """A quake that shakes 300 km of ground; one town in its west was looked at."""
    field: Field = ([(AT.x + 2, AT.y, 11)], [])
    town = affinity.translate(TOWN, 0.3)
    world = world_of(tmp_path)
    lines = contours(field, shapely.box(6, 40, 20, 50))
    features = [
        {"type": "Feature", "properties": {"value": v}, "geometry": json.loads(shapely.to_geojson(s))}
        for v, s in lines.items()
    ]
    beside = {"damage.geojson": geojson_of(town), "seen.geojson": geojson_of(town.buffer(0.01))}
    collection = {"type": "FeatureCollection", "features": features}
    mapped = one(manifest_of(world, collection, beside, damage="damage.geojson", analysed="seen.geojson"))
    far = cells_of(affinity.translate(AT, 3.5).buffer(0.02), 60)
    assert set(says(mapped, far).values()) == {"unknown"}, "270 km from the town, and shaken"
    beyond = cells_of(affinity.translate(AT, -0.3).buffer(0.02), 60)
    assert set(says(mapped, beyond).values()) == {"negative"}
    assert touches(mapped, squares_of(beyond)) == {}, "no rows for ground that is none of the event's"


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_the_damage_may_be_a_package(tmp_path: Path, suffix: str) -> None:
    """Two buildings destroyed and possibly damaged, in the area of interest of a grading product, all of it shaken."""
    world = world_of(tmp_path)
    seen = affinity.translate(TOWN, -0.005)
    hurt, doubt = (shapely.Point(AT.x + k, AT.y) for k in (-0.004, 0.004))
    folder = product(
        tmp_path / "EMSR9",
        "EMSR9_AOI01_GRA_PRODUCT",
        observedEventA=None,
        builtUpP=[(hurt, {"damage_gra": "Destroyed"}), (doubt, {"damage_gra": "Possibly damaged"})],
        areaOfInterestA=[(seen, {"name": "x"})],
        imageFootprintA=[(AT.buffer(1), {"obj_type": "Image Footprint", "or_src_id": 2})],
    )
    if suffix:
        zipped(folder, tmp_path / f"EMSR9{suffix}")
        shutil.rmtree(folder)
    manifest = shakemap(world, damage=f"EMSR9{suffix}")
    mapped = one(manifest)
    assert mapped.event.start == dt.date(2020, 6, 10), "the earthquake's day, not the package's"
    assert shapely.contains(mapped.shape, hurt)
    assert mapped.shape.area < 1e-5, "buildings, not all that was shaken"
    assert shapely.contains(mapped.unseen, doubt)
    assert mapped.unseen.area == pytest.approx(np.pi * 0.05**2 - seen.area, rel=0.01)
    assert "possibly damaged" in " ".join(mapped.notes)
    region = load_region(manifest)
    assert load_events(region, extents=False)[0].unseen is None
    watched = events.files(region, "href", "damage")
    assert tmp_path / "cont_mmi.json" in watched
    assert any("EMSR9" in str(path) for path in watched)


def test_damage_and_threshold_decide_the_stages(tmp_path: Path) -> None:
    beside = {"damage.geojson": geojson_of(TOWN)}
    plain = load_region(shakemap(world_of(tmp_path)))
    higher = load_region(shakemap(world_of(tmp_path), mmi=6.5))
    with_damage = load_region(shakemap(world_of(tmp_path), beside=beside, damage="damage.geojson"))
    from pipeline import chips, labels

    for stage in (chips, labels):
        told = [json.dumps(stage.params(region)) for region in (plain, higher, with_damage)]
        assert len(set(told)) == 3
        assert tmp_path / "damage.geojson" in stage.outside(with_damage)
