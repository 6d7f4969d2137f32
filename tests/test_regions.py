"""The example regions a user can run with a network: they load, and say what they would ask without asking."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path

import geopandas
import pytest
import shapely
from cems_packages import write
from commands import run
from conftest import ROOT
from world import World

from harmonize.crosswalk import parse_crosswalk
from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES
from pipeline.events import load_events, touches
from pipeline.grid import cells_of
from pipeline.place import area_of
from pipeline.region import Region, load_region
from pipeline.sandbox import size_of
from pipeline.shapes import squares_of
from pipeline.source import crosswalk_path, known_sources

REGIONS = sorted((ROOT / "manifests/regions").glob("*.toml"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a dry run asks nothing")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_there_is_one_of_each_kind_and_of_both_providers() -> None:
    text = "\n".join(p.read_text() for p in REGIONS)
    for words in (
        "# Flood:",
        "# Fire:",
        "# Earthquake:",
        "# Land cover alone:",
        '"pc-sentinel-2-l2a"',
        '"es-sentinel-2-c1-l2a"',
    ):
        assert words in text


@pytest.mark.parametrize("path", REGIONS, ids=lambda p: p.stem)
def test_an_example_region_loads_and_says_what_it_would_ask(path: Path, tmp_path: Path) -> None:
    region = load_region(path)
    assert area_of(region).area < 1, "an example stays small, in square degrees"
    found = run("pipeline", "scenes", str(path), "--dry-run", "--out", str(tmp_path / "out"))
    assert found.returncode == 0, found.all
    for name in region.used:
        source = region.source(name)
        assert source.api, f"{name} needs no file fetched by hand"
        size = size_of(source.api)
        place = f"the embedded sample world ({size})" if size else source.api
        assert f"{name}: {place}, collection {source.collection}" in found.stdout
    assert "nothing was asked and nothing was written" in found.stdout
    assert not (tmp_path / "out").exists()


MARKED = [path for path in REGIONS if "\n# [[events]]" in path.read_text()]


@pytest.mark.parametrize("path", MARKED, ids=lambda p: p.stem)
def test_the_event_of_an_example_region_works_once_its_files_are_there(path: Path, tmp_path: Path) -> None:
    """The marks taken away as the file says, beside made-up squares in the place of the files to be downloaded."""
    head, table = path.read_text().split("\n# [[events]]\n")
    assert " is off until its file" in head
    lines = ["[[events]]", *(line.removeprefix("# ") for line in table.splitlines())]
    manifest = tmp_path / path.name
    manifest.write_text("\n".join([head, *lines]))
    with pytest.raises(Problem, match=r"there is no event (file|package)"):
        load_region(manifest)
    region = Region.model_validate(tomllib.loads(manifest.read_text()))
    middle = area_of(region).centroid
    (event,) = region.events
    if event.source == "cems":
        said = {"flood": "5-Flood", "fire": "8-Wildfire"}[event.kind]
        rows = [(middle.buffer(0.05), {"event_type": said, "notation": ""})]
        write(tmp_path / event.href / f"{event.href}_AOI01_DEL_PRODUCT_observedEventA_v1.json", rows)
    for href in filter(None, (event.href if event.source != "cems" else None, event.analysed)):
        (tmp_path / href).parent.mkdir(exist_ok=True)
        geopandas.GeoDataFrame({"value": [event.mmi]}, geometry=[middle.buffer(0.05)], crs=4326).to_file(
            tmp_path / href
        )
    (mapped,) = load_events(load_region(manifest))
    assert mapped.event.start == event.start
    assert region.start < mapped.event.start < region.end
    assert touches(mapped, squares_of(cells_of(middle.buffer(0.01), region.size_px)))


def test_three_example_regions_have_an_event() -> None:
    assert [path.stem for path in MARKED] == ["evia-2021", "kahramanmaras-2023", "veneto-2018"]


def test_a_dry_run_counts_cells_and_queries(tmp_path: Path) -> None:
    world = World(tmp_path)
    manifest = world.write()
    text = manifest.read_text().replace('items = "catalog/s1/*.json"', 'api = "sandbox:tiny"\ncollection = "s1"')
    manifest.write_text(text)
    lines = run("pipeline", "scenes", str(manifest), "--dry-run").stdout.splitlines()
    assert lines[1] == "16 cells of 600 m: 16 in EPSG:32632"
    assert lines[2] == "imagery s2-here: catalogue on disk, 1 files match catalog/s2/*.json"
    assert lines[3] == "imagery s1-here: the embedded sample world (tiny), collection s1, 12 queries"
    assert lines[4].endswith("  2020-01-01 to 2020-01-31")
    assert lines[15].endswith("  2020-12-01 to 2020-12-31")
    assert lines[16] == "labels classes: a file, no query"
    assert lines[17].startswith("in all 12 queries, at least 14 requests")


@pytest.mark.parametrize("key", ["href", "analysed", "label"])
def test_a_region_that_only_takes_a_file_of_the_sample_world_needs_it(key: str, tmp_path: Path) -> None:
    """The world is drawn before the file is read, and the card says synthetic."""
    world = World(tmp_path)
    world.event("river", shapely.box(600_000, 5_000_000, 600_600, 5_000_600), start="2020-06-01")
    manifest = world.write()
    assert load_region(manifest).worlds == []
    text = manifest.read_text()
    if key == "href":
        text = text.replace("events/river.geojson", "sandbox://tiny/events/delta-flood.geojson")
    elif key == "analysed":
        text = text.replace('kind = "flood"', 'kind = "flood"\nanalysed = "sandbox://tiny/events/x-analysed.geojson"')
    else:
        text = text.replace("labels/classes.tif", "sandbox://tiny/labels/x.tif")
    manifest.write_text(text)
    assert load_region(manifest).worlds == ["tiny"]


@pytest.mark.parametrize("name", sorted(n for n, s in known_sources().items() if s.kind == "labels"))
def test_a_known_label_source_has_its_crosswalk(name: str) -> None:
    source = known_sources()[name]
    path = crosswalk_path(source)
    rows = parse_crosswalk(path.read_text("utf-8"), str(path)).rows
    classes = {row.class_ for row in rows.values()} - {None}
    assert classes <= set(CLASSES)
    assert {"water", "trees", "grass", "crops", "built", "bare"} <= classes
    named_nodata = {code for code, row in rows.items() if row.class_ is None}
    assert named_nodata <= {str(int(v)) for v in source.nodata_values}
