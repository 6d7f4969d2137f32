"""EFFIS burnt areas: one event per fire, near the region and in its dates; and the days of events in any file."""

from __future__ import annotations

import datetime as dt
import json
import tarfile
from pathlib import Path
from typing import Any

import geopandas
import pyarrow.parquet as pq
import pytest
import shapely
from commands import run
from world import World

from harmonize.events import judge
from harmonize.labelset import combine
from harmonize.problem import Problem
from harmonize.vocabulary import names_of
from pipeline import events
from pipeline.event import Event
from pipeline.event_dates import utc_day
from pipeline.events import EventMap, load_events, shares
from pipeline.grid import cells_of
from pipeline.licences import EVENT_TERMS
from pipeline.place import area_of
from pipeline.region import load_region
from pipeline.shapes import squares_of

X, Y = 600_000, 5_001_600
"""Upper left corner of the world of these tests, metres of EPSG:32632."""


def square(right: float, down: float, side: float = 600) -> shapely.Geometry:
    return shapely.box(X + right, Y - down - side, X + right + side, Y - down)


def season(world: World, *fires: tuple[shapely.Geometry, dict[str, Any]], epsg: int = 4326, **keys: Any) -> Path:
    """A file of fires as EFFIS gives them, and a manifest that names it."""
    shapes = geopandas.GeoSeries([shapely.segmentize(shape, 100) for shape, _ in fires], crs=32632).to_crs(epsg)
    path = world.root / "effis-2020.geojson"
    features = [
        {"type": "Feature", "properties": told, "geometry": json.loads(shapely.to_geojson(shape))}
        for shape, (_, told) in zip(shapes, fires, strict=True)
    ]
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    table = {"kind": "fire", "source": "effis", "href": path.name} | keys
    text = [f"{k} = {v if k == 'start' else json.dumps(v)}" for k, v in table.items() if v is not None]
    world.tail = "\n".join(["[[events]]", *text]) + "\n"
    return world.write_manifest()


def fire(number: object = "7", day: str | None = "2020-06-10T12:34:00", **more: Any) -> dict[str, Any]:
    return {"id": number, "firedate": day, "area_ha": "36.0", "class": "FireSeason", "conifer": "99.9"} | more


def loaded(manifest: Path) -> dict[str, EventMap]:
    return {mapped.event.id: mapped for mapped in load_events(load_region(manifest))}


def test_each_fire_is_an_event_of_its_own_day(tmp_path: Path) -> None:
    manifest = season(
        World(tmp_path),
        (square(0, 0), fire("11")),
        (square(1200, 0), fire("12", "2020-07-01 00:30:00+02:00")),
        (square(1200, 1200), fire(12.0, "2020-07-04")),
        (square(0, 1200), fire(13, "2020/08/02 10:00:00")),
    )
    found = loaded(manifest)
    assert {name: mapped.event.start for name, mapped in found.items()} == {
        "effis-2020.11": dt.date(2020, 6, 10),
        "effis-2020.12": dt.date(2020, 6, 30),
        "effis-2020.13": dt.date(2020, 8, 2),
    }
    assert all(mapped.analysed is None and mapped.event.effect_days == 180 for mapped in found.values())
    region = load_region(manifest)
    cells = cells_of(area_of(region), region.size_px)
    covered = shares(found["effis-2020.12"], squares_of(cells))
    assert sum(covered.values()) * 600**2 == pytest.approx(2 * 600**2, rel=1e-4), "two features of one id, one fire"
    assert region.events[0].licence == EVENT_TERMS["effis"]["licence"]


def test_capital_fields_and_the_other_export(tmp_path: Path) -> None:
    capital = {"ID": "4", "FIREDATE": "2020-06-10T12:34:00"}
    assert list(loaded(season(World(tmp_path), (square(0, 0), capital)))) == ["effis-2020.4"]
    other = {"id": 4, "initialdate": "2020-06-09", "finaldate": "2020-06-12"}
    (mapped,) = loaded(season(World(tmp_path), (square(0, 0), other))).values()
    assert mapped.event.start == dt.date(2020, 6, 9)


@pytest.mark.parametrize(
    ("day", "kept"),
    [
        ("2019-01-05", False),  # seen and fading until 2019-12-31
        ("2019-01-06", True),
        ("2021-03-01", True),  # 60 days before it are the region's last day
        ("2021-03-02", False),
    ],
)
def test_only_fires_seen_in_the_dates_of_the_region(tmp_path: Path, day: str, kept: bool) -> None:
    assert bool(loaded(season(World(tmp_path), (square(0, 0), fire(day=day)), (square(0, 90_000), fire("8"))))) == kept


def test_fires_without_a_place_are_told_and_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    manifest = season(World(tmp_path), (square(0, 0), fire("1")), (square(1200, 0), fire("2")))
    path = tmp_path / "effis-2020.geojson"
    told = json.loads(path.read_text())
    told["features"][0]["geometry"] = None
    path.write_text(json.dumps(told))
    found = loaded(manifest)
    assert set(found) == {"effis-2020.2"}
    assert found["effis-2020.2"].notes == ("left out: 1 of 2 features of effis-2020.geojson, which have no geometry",)
    told["features"].append(told["features"][1] | {"properties": fire(None)})
    path.write_text(json.dumps(told))
    with pytest.raises(Problem, match=r"feature 3 of .* has no id"):
        loaded(manifest)


@pytest.mark.parametrize("epsg", [4326, 32632, 3035])
def test_only_fires_within_ten_kilometres(tmp_path: Path, epsg: int) -> None:
    """South of the region, and east of it where a degree is shorter; in whatever CRS the file is."""
    down = [(square(0, 2400 + km * 1000), fire(f"s{km}")) for km in (3, 9, 14, 20)]
    right = [(square(2400 + km * 1000, 0), fire(f"e{km}")) for km in (3, 9, 14, 20)]
    found = loaded(season(World(tmp_path), *down, *right, epsg=epsg))
    assert set(found) == {"effis-2020.s3", "effis-2020.s9", "effis-2020.e3", "effis-2020.e9"}


@pytest.mark.parametrize(
    ("fires", "keys", "words"),
    [
        ([(square(0, 0), fire("1")), (square(0, 0), fire("2"))], {"start": "2020-06-01"}, ["2 fires", "take start away"]),
        ([(square(0, 0), fire("1")), (square(0, 0), fire(None))], {}, ["feature 2 of effis-2020.geojson has no id"]),
        ([(square(0, 0), fire("1")), (square(0, 0), fire("2", None))], {}, ["fire '2'", "no firedate", "first day"]),
        ([(square(0, 0), fire(day="07/08/2020"))], {}, ["'07/08/2020'", "fire '7'", "day or the month first"]),
        ([(square(0, 0), fire(day="in summer"))], {}, ["'in summer'", "fire '7'", "no day"]),
        ([(square(0, 0), {"id": "1", "fire_date": "2020-06-01"})], {}, ["no field firedate or initialdate", "'fire_date'"]),
        ([(square(0, 0), {"fid_1": "1"}), (square(0, 0), {})], {}, ["no field 'id'"]),
        ([(square(0, 0), fire("A 1")), (square(0, 0), fire("a/1"))], {}, ["'A 1' and 'a/1'", "'a-1'"]),
        ([(square(0, 0), fire("!!"))], {}, ["the id '!!'", "neither a letter nor a digit"]),
        ([(square(0, 0), fire(day="0001-01-01"))], {}, ["'0001-01-01", "fire '7'", "no day of an event", "1900 to 2200"]),
        ([(square(0, 0), fire(day="9999-12-31T23:00:00-05:00"))], {}, ["fire '7'", "no day of an event"]),
        ([(square(0, 0), fire())], {"layer": "a"}, ["'layer' is for source = 'geojson'"]),
        ([(shapely.Point(X, Y), fire())], {}, ["has no polygon"]),
        ([], {}, ["no feature with a geometry"]),
        ([(square(0, 0), fire())], {"kind": "flood"}, ["kind is 'flood'", "'effis' maps every fire", 'kind = "fire"']),
        ([(square(0, 0), fire())], {"mmi": 7}, ["'mmi' is for source = 'shakemap'", "take mmi away"]),
        ([(square(0, 0), fire())], {"damage": "d.gpkg"}, ["'damage' is for source = 'shakemap'"]),
    ],
)  # fmt: skip
def test_what_a_person_can_mend_in_a_season(tmp_path: Path, fires: list, keys: dict, words: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        loaded(season(World(tmp_path), *fires, **keys))
    for word in [*words, "fix:"]:
        assert word in str(caught.value)


def test_one_fire_may_take_its_day_from_the_manifest(tmp_path: Path) -> None:
    (mapped,) = loaded(season(World(tmp_path), (square(0, 0), {"name": "the fire"}), start="2020-06-01")).values()
    assert (mapped.event.id, mapped.event.start) == ("effis-2020", dt.date(2020, 6, 1))


def test_a_shapefile_in_metres_without_its_prj(tmp_path: Path) -> None:
    world = World(tmp_path)
    manifest = season(world, (square(0, 0), fire()))
    geopandas.GeoDataFrame([fire()], geometry=[square(0, 0)], crs=32632).to_file(tmp_path / "fires.shp")
    manifest.write_text(manifest.read_text().replace("effis-2020.geojson", "fires.shp"))
    assert list(loaded(manifest)) == ["fires.7"]
    (tmp_path / "fires.prj").unlink()
    with pytest.raises(Problem, match="does not say its CRS"):
        loaded(manifest)


def test_a_file_without_a_near_fire_is_told_and_a_near_one_reaches_the_shards(tmp_path: Path) -> None:
    world = World(tmp_path, dates=("2020-06-20T10:00:00Z",), s1_dates=("2020-06-21T05:00:00Z",))
    world.write()
    far = (square(0, 60_000), fire("8"))
    manifest, out = season(world, far), str(tmp_path / "out")
    found = run("pipeline", "build", str(manifest), "--to", "chips", "--out", out, "--scheduler", "serial")
    assert found.returncode == 0, found.all
    assert "warning: event 'effis-2020': none of its file is near the region and in its dates" in found.all
    manifest = season(world, far, (square(0, 0, 1200), fire("7")), (square(0, 1200), fire("9", "2020-06-30")))
    found = run("pipeline", "build", str(manifest), "--to", "shards", "--out", out, "--scheduler", "serial")
    assert found.returncode == 0, found.all
    assert "event 'effis-2020' (fire, 2 near the region, 2020-06-10 to 2020-12-27) covers 5 cells" in found.all
    rows = pq.read_table(tmp_path / "out/tiny/shards/index.parquet").to_pylist()
    assert {name for row in rows for name in row["events"]} == {"effis-2020.7"}, "the other one began after the images"
    records = [json.loads(text) for text in members(tmp_path / "out/tiny/shards", ".json")]
    burned = [record for record in records if record["events"]]
    assert len(burned) == 8
    assert all(EVENT_TERMS["effis"]["licence"] in record["licence"] for record in burned)


def members(folder: Path, ending: str) -> list[str]:
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [tar.extractfile(m).read().decode() for m in tar if m.name.endswith(ending)]
    return found


def test_a_cell_that_burned_and_was_flooded_bears_both_labels(tmp_path: Path) -> None:
    """Events of two kinds over one ground: each says its own, and neither goes before the other."""
    world = World(tmp_path)
    season(world, (square(0, 0, 1200), fire()))
    world.event("flood", square(0, 0, 600), start="2020-06-12")
    region = load_region(world.write_manifest())
    rows = events.rows_of(load_events(region), cells_of(area_of(region), region.size_px))
    told = {(row["cell"], row["event"]): row["share"] for row in rows}
    both = {cell for cell, event in told if told[cell, event] > 0.05 and told.get((cell, "flood"), 0) > 0.05}
    assert both
    day = dt.date(2020, 6, 20)
    for cell in both:
        verdicts = [judge(*events.verdict_of(row, region), day) for row in rows if row["cell"] == cell]
        assert names_of(combine([], [], day, 0.05, verdicts).label_mask) == ["flooded area", "burned area"]


def test_fires_are_chosen_again_where_their_effect_is_seen_longer(tmp_path: Path) -> None:
    world = World(tmp_path)
    plain = load_region(season(world, (square(0, 0), fire())))
    longer = load_region(season(world, (square(0, 0), fire()), effect_days=200))
    assert events.params(plain, "href") != events.params(longer, "href")
    assert Event(kind="fire", source="effis", href="x.shp").mmi is None


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("2018-10-29T23:30:00-03:00", dt.date(2018, 10, 30)),
        ("2018-10-29T23:30:00", dt.date(2018, 10, 29)),
        ("2018-10-30T01:00:00+02:00", dt.date(2018, 10, 29)),
        ("2018-10-29T23:30:00Z", dt.date(2018, 10, 29)),
        ("2018/10/9", dt.date(2018, 10, 9)),
        (dt.date(2018, 10, 29), dt.date(2018, 10, 29)),
        (float("nan"), None),
        ("  ", None),
        (None, None),
    ],
)
def test_the_utc_day_of_what_files_say(said: object, day: dt.date | None) -> None:
    assert utc_day(said, "start", "x.geojson", "here", "mend it") == day


def in_generic_file(tmp_path: Path, *said: object) -> EventMap:
    world = World(tmp_path)
    world.event("one", [square(0, 0) for _ in said])
    path = tmp_path / "events/one.geojson"
    told = json.loads(path.read_text())
    for feature, value in zip(told["features"], said, strict=True):
        feature["properties"] = {"start": value}
    path.write_text(json.dumps(told))
    return load_events(load_region(world.write_manifest()))[0]


def test_a_start_with_a_zone_is_moved_to_utc(tmp_path: Path) -> None:
    assert in_generic_file(tmp_path, "2020-06-10T23:30:00-03:00").event.start == dt.date(2020, 6, 11)
    both = in_generic_file(tmp_path, "2020-06-10T23:30:00-03:00", "2020-06-11T01:00:00Z")
    assert both.event.start == dt.date(2020, 6, 11), "two moments of one UTC day"
    assert in_generic_file(tmp_path, "2020-06-10T23:30:00").event.start == dt.date(2020, 6, 10)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["10/06/2020"], ["'10/06/2020' in the field start of one.geojson", "day or the month first"]),
        (["2020-06-10", "2020-06-11"], ["several days", "2020-06-10, 2020-06-11"]),
        (["2020-06-10", None], ["feature 2 of one.geojson has no start"]),
        ([1591747200000], ["'1591747200000'", "no day"]),
    ],
)
def test_an_unclear_start_is_refused(tmp_path: Path, said: list, words: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        in_generic_file(tmp_path, *said)
    for word in [*words, "events[0]", "start ="]:
        assert word in str(caught.value)
