"""A person's mistakes: each says what, where and how to mend it, leaves with code 2, and leaves nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import run
from world import World

from harmonize.problem import Problem
from pipeline.receipt import read_receipt
from pipeline.region import load_region
from pipeline.stac_io import Patience
from pipeline.store import Store


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


def cli(*words: str) -> tuple[int, str]:
    """Exit code and everything said, of `python -m pipeline`."""
    found = run("pipeline", *words)
    return found.returncode, found.all


def replace(old: str, new: str) -> Callable[[World, Path], None]:
    def change(_: World, manifest: Path) -> None:
        text = manifest.read_text()
        assert old in text
        manifest.write_text(text.replace(old, new, 1))

    return change


def _without_asset(world: World, _: Path) -> None:
    path = world.root / "catalog/s2/S2-0.json"
    item = json.loads(path.read_text())
    item["assets"]["B5"] = item["assets"].pop("B05")
    path.write_text(json.dumps(item))


def _without_file(world: World, _: Path) -> None:
    (world.root / "cogs/s2_0_B11.tif").unlink()


def _crosswalk(text: str) -> Callable[[World, Path], None]:
    def change(world: World, _: Path) -> None:
        (world.root / "labels/classes.csv").write_text(text)

    return change


def _broken_json(world: World, _: Path) -> None:
    (world.root / "catalog/s1/S1-0.json").write_text("{")


def _event(_twice: bool = False, **keys: object) -> Callable[[World, Path], None]:
    """A manifest with a flood, and these keys changed; None removes one."""

    def change(world: World, manifest: Path) -> None:
        square = {"type": "Polygon", "coordinates": [[[10.28, 45.16], [10.29, 45.16], [10.29, 45.17], [10.28, 45.16]]]}
        (world.root / "flood.geojson").write_text(json.dumps(square))
        table = {"kind": "flood", "source": "geojson", "href": "flood.geojson", "start": "2020-06-01"} | keys
        lines = [f"{k} = {v if k == 'start' else json.dumps(v)}" for k, v in table.items() if v is not None]
        text = "\n[[events]]\n" + "\n".join(lines) + "\n"
        manifest.write_text(manifest.read_text() + text * (2 if _twice else 1))

    return change


def _event_in_metres(world: World, manifest: Path) -> None:
    """Coordinates of UTM in a GeoJSON, which is in degrees unless it says something else."""
    _event()(world, manifest)
    square = {
        "type": "Polygon",
        "coordinates": [[[600000, 5000400], [601200, 5000400], [601200, 5001600], [600000, 5000400]]],
    }
    (world.root / "flood.geojson").write_text(json.dumps(square))


HEAD = "code,name,class,status\n"
CASES: dict[str, tuple[Callable[[World, Path], None], list[str]]] = {
    "unknown key": (replace("max_cloud", "max_clouds"), ["unknown key 'max_clouds'", "did you mean 'max_cloud'", "tiny.toml"]),
    "unknown inner key": (replace("block_km", "blok_km"), ["unknown key 'split.blok_km'", "did you mean 'block_km'"]),
    "west > east": (replace("bounds = [", "bounds = [50.0, 1.0, 2.0, 3.0] #"), ["'bounds'", "west 50", "order: west"]),
    "south > north": (replace("bounds = [", "bounds = [1.0, 9.0, 2.0, 3.0] #"), ["'bounds'", "south 9"]),
    "end before start": (replace("2020-12-31", "2019-12-31"), ["end 2019-12-31 is before start 2020-01-01"]),
    "size": (replace("size_px = 60", "size_px = 64"), ["'size_px'", "64 is not a multiple of 6", "60 or 66"]),
    "unknown source": (replace('"s2-here"', '"s2-hree"'), ["unknown source 's2-hree'", "imagery[0]", "did you mean 's2-here'"]),
    "wrong kind": (replace('source = "classes"', 'source = "s1-here"'), ["of kind 'imagery'", "labels[0]"]),
    "no item": (replace("catalog/s1/*", "catalog/s3/*"), ["matches nothing: catalog/s3/*.json", "imagery[1]"]),
    "no scene": (replace("2020-01-01", "2020-07-01"), ["the region has no scene", "outside the dates"]),
    "elsewhere": (replace("bounds = [", "bounds = [100.0, 1.0, 101.0, 2.0] #"), ["no scene", "outside the region"]),
    "api": (replace('items = "catalog/s1/*.json"', 'api = "http://127.0.0.1:9/v1"\ncollection = "s1"'), ["does not answer: http://127.0.0.1:9/v1", "tried 3 times", "imagery[1]"]),
    "api with a key": (replace('items = "catalog/s1/*.json"', 'api = "https://x.org/v1?key=S3CRET"'), ["'sources.s1-here.api'", "would be written into tables"]),
    "label with a signature": (replace('source = "classes"', 'source = "classes"\nhref = "https://x.org/a.tif?se=1&sig=S3CRET"'), ["'labels[0].href'", "would be written into receipts", "plain address"]),
    "source with a password": (replace('"labels/classes.tif"', '"https://me:S3CRET@x.org/a.tif"'), ["'sources.classes.href'", "would be written into receipts"]),
    "event with a signature": (_event(href="https://x.org/a.json?X-Amz-Signature=S3CRET"), ["'events[0].href'", "would be written into receipts"]),
    "extent with a password": (_event(analysed="https://me:S3CRET@x.org/a.json"), ["'events[0].analysed'", "would be written into receipts"]),
    "unknown sample world": (replace('items = "catalog/s1/*.json"', 'api = "sandbox:huge"\ncollection = "s1"'), ["'sources.s1-here.api'", "no sample world 'huge'", "'sandbox:tiny'", "tiny.toml"]),
    "api without collection": (replace('items = "catalog/s1/*.json"', 'api = "https://x.org/v1"'), ["asked for a collection", "sources.s1-here"]),
    "unknown code": (_crosswalk(HEAD + "1,a,water,judgement\n"), ["label code 2 has no class", "classes.csv", "add the line"]),
    "unknown class": (_crosswalk(HEAD + "1,a,watr,judgement\n"), ["'watr' is not in the vocabulary", "line 2", "'water'"]),
    "code twice": (_crosswalk(HEAD + "1,a,water,judgement\n1,b,crops,judgement\n"), ["code 1 stands twice", "line 3"]),
    "no column": (_crosswalk("code,class\n1,water\n"), ["lacks the column name, status"]),
    "empty crosswalk": (_crosswalk(HEAD), ["has no line"]),
    "no crosswalk": (replace("labels/classes.csv", "labels/clases.csv"), ["no crosswalk"]),
    "missing asset": (_without_asset, ["asset 'B05' (B05) is missing", "S2-0", "assets.B05", "'B5'"]),
    "missing file": (_without_file, ["the file of asset 'B11' is not there", "S2-0"]),
    "broken item": (_broken_json, ["not valid JSON", "S1-0.json"]),
    "no baseline": (lambda w, _: _edit_item(w, "s2:processing_baseline"), ["no s2:processing_baseline", "baseline_offset"]),
    "label file": (replace("classes.tif", "klasses.tif"), ["there is no label file", "klasses.tif", "labels[0]"]),
    "split": (replace("block_km", "train = 0.9\nval = 0.2\ntest = 0.2\nblock_km"), ["train + val + test is 1.3"]),
    "event package": (_event(source="cems", href="EMSR9"), ["there is no event package", "EMSR9", "events[0]", "check href"]),
    "event kind": (_event(kind="floods"), ["'events[0].kind'"]),
    "event key": (_event(befor=2), ["unknown key 'events[0].befor'", "did you mean 'before'"]),
    "event id": (_event(id="River Po"), ["'events[0].id'", "'River Po' goes into names", "'river-po'"]),
    "event ids": (_event(_twice=True), ["'events[1].id' is 'flood'", "so is events[0]", "another id"]),
    "event id of a source": (_event(id="classes"), ["'events[0].id' is 'classes'", "label source labels[0]"]),
    "event file": (_event(href="fload.geojson"), ["there is no event file", "fload.geojson", "events[0]", "check href"]),
    "event extent": (_event(analysed="seen.geojson"), ["there is no event file", "seen.geojson", "check analysed"]),
    "event folder": (_event(href="labels"), ["there is no event file", "labels"]),
    "event start": (_event(start=None), ["no start", "flood.geojson", "start = <first day"]),
    "event is a raster": (_event(href="labels/classes.tif", id="x"), ["cannot be read", "classes.tif"]),
    "event days": (_event(effect_days=0), ["'events[0].effect_days'", "greater than or equal to 1"]),
    "event days of an age": (_event(effect_days=4_000_000), ["'events[0].effect_days'", "less than or equal to 3650"]),
    "event days before": (_event(before_days=4_000_000), ["'events[0].before_days'", "less than or equal to 3650"]),
    "event in metres": (_event_in_metres, ["flood.geojson says its CRS is WGS 84", "from 600000", "events[0]", "write the CRS"]),
    "event share": (_event(min_event_share=0), ["'events[0].min_event_share'"]),
    "not toml": (replace("size_px =", "size_px"), ["not valid TOML", "tiny.toml"]),
    "name": (replace('name = "tiny"', 'name = "other"'), ["name is 'other'", "tiny.toml"]),
    "pole": (replace("bounds = [", "bounds = [1.0, 85.0, 2.0, 86.0] #"), ["no scene"]),
    "no place": (replace("bounds = [", "#"), ["a region needs one of bounds, geometry, mgrs"]),
    "geometry": (replace("bounds = [", 'geometry = "none.geojson" #'), ["none.geojson", "'geometry'"]),
}  # fmt: skip


def _edit_item(world: World, key: str) -> None:
    path = world.root / "catalog/s2/S2-0.json"
    item = json.loads(path.read_text())
    del item["properties"][key]
    path.write_text(json.dumps(item))


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_explained(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stac_io.PATIENCE", Patience(first_wait_s=0))
    change, words = CASES[case]
    world = World(tmp_path, size_m=1200)
    manifest = world.write()
    change(world, manifest)
    out = tmp_path / "out"
    code, said = cli("build", str(manifest), "--to", "shards", "--out", str(out))
    assert code == 2, said
    for word in words:
        assert word in said, said
    assert "fix:" in said
    assert "Traceback" not in said
    assert "S3CRET" not in said
    assert not list(out.rglob(".*.tmp")), "nothing half-written"
    assert not (out / "tiny/shards/shards.json").exists()


def test_no_such_manifest_or_stage(tmp_path: Path) -> None:
    World(tmp_path, size_m=1200).write()
    code, said = cli("build", str(tmp_path / "tinny.toml"))
    assert code == 2
    assert "did you mean 'tiny.toml'" in said
    code, said = cli("build", str(tmp_path / "tiny.toml"), "--to", "shrads")
    assert code == 2
    assert "did you mean 'shards'" in said


def test_a_label_file_that_does_not_cover_the_region_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=2400)
    manifest = world.write()
    half = np.ones((240, 60), np.uint8)
    world.tif(tmp_path / "labels/classes.tif", half, 10)
    code, said = cli("build", str(manifest), "--to", "shards", "--out", str(tmp_path / "out"))
    assert code == 0, said
    assert "warning: label source 'classes' labels" in said
    import pyarrow.parquet as pq

    labels = pq.read_table(tmp_path / "out/tiny/labels.parquet").to_pylist()
    assert {row["dropped"] for row in labels} == {None, "not covered"}
    captions = pq.read_table(tmp_path / "out/tiny/captions.parquet").to_pylist()
    assert {row["dropped"] for row in captions} == {None, "no labels"}


def test_a_corrupt_file_costs_its_chips_and_no_others(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))
    manifest = world.write()
    path = tmp_path / "cogs/s2_1_B04.tif"
    path.write_bytes(path.read_bytes()[:300])
    code, said = cli("build", str(manifest), "--to", "shards", "--out", str(tmp_path / "out"))
    assert code == 3, said
    assert "4 rows could not be read" in said
    receipt = read_receipt(Store(str(tmp_path / "out/tiny")), "pixels")
    assert receipt
    assert receipt.dropped == {"unreadable": 4}
    assert receipt.kept == 8, "4 cells of the other S2 scene and 4 of S1"


def test_a_stage_alone_refuses_on_a_missing_input(tmp_path: Path) -> None:
    manifest = World(tmp_path, size_m=1200).write()
    code, said = cli("pixels", str(manifest), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "needs scenes" in said
    assert f"python -m pipeline scenes {manifest}" in said


def test_what_a_manifest_names_is_looked_at_before_an_archive_is_asked(world: World, tmp_path: Path) -> None:
    """A label file, a crosswalk and an event that are missing or broken: told before the first stage, nothing written."""
    out = tmp_path / "out"
    manifest = world.write()
    (world.root / "labels/classes.csv").write_text("code,name,class,status\n1,a,wet,judgement\n")
    code, said = cli("build", str(manifest), "--out", str(out))
    assert (code, "'wet' is not in the vocabulary" in said) == (2, True)
    (world.root / "labels/classes.csv").unlink()
    code, said = cli("status", str(manifest), "--out", str(out))
    assert (code, "there is no crosswalk" in said) == (2, True)
    manifest = world.write()
    (world.root / "labels/classes.tif").unlink()
    code, said = cli("build", str(manifest), "--out", str(out))
    assert (code, "there is no label file" in said) == (2, True)
    manifest = world.write()
    (world.root / "flood.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    world.tail = '[[events]]\nkind = "flood"\nsource = "geojson"\nhref = "flood.geojson"\nstart = 2020-06-01\n'
    code, said = cli("build", str(world.write_manifest()), "--out", str(out))
    assert (code, "flood.geojson" in said) == (2, True)
    assert not list(out.glob("*/scenes.parquet"))


@pytest.mark.parametrize(
    ("start", "day"),
    [
        ("2020-06-01", "2020-06-01"),
        ("2020-06-01T00:30:00+02:00", "2020-05-31"),
        ("2020-06-01T23:30:00", "2020-06-01"),
        ('"2020-06-01T23:30:00-05:00"', "2020-06-02"),
    ],
)
def test_times_of_a_manifest_are_utc_days(world: World, start: str, day: str) -> None:
    path = world.write()
    path.write_text(path.read_text().replace("start = 2020-01-01", f"start = {start}"))
    assert str(load_region(path).start) == day


@pytest.mark.parametrize("start", ["9999-12-31", "0001-01-01"])
def test_days_beyond_the_record_are_told(world: World, start: str) -> None:
    path = world.write()
    path.write_text(path.read_text().replace("start = 2020-01-01", f"start = {start}"))
    with pytest.raises(Problem, match="is no day of this record"):
        load_region(path)


@pytest.mark.parametrize("name", ["x.foo", "x", "."])
def test_a_picture_that_cannot_be_written_is_told(real_folder: Path, real_run: Path, tmp_path: Path, name: str) -> None:
    manifest, out = str(real_folder / "real-samples.toml"), str(real_run.parent)
    for command in ("splits", "label-map"):
        code, said = cli(command, manifest, "--out", out, "--png", str(tmp_path / name))
        assert (code, "no name of a picture" in said) == (2, True)


def test_a_damaged_part_is_named(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("build", str(world.write()), "--to", "pixels", "--out", str(out))[0] == 0
    part = next((out / "tiny/pixels").rglob("*.arrow"))
    part.write_bytes(b"ARROW")
    chip = pq.read_table(out / "tiny/chips.parquet")["chip_id"].to_pylist()
    for name in chip:
        code, said = cli("show", name, "--out", str(out), "--png", str(tmp_path / "x.png"))
        if code:
            break
    assert (code, part.name in said, "make redo STAGE=pixels" in said) == (4, True, True)


def test_an_unknown_chip_lists_a_few(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("build", str(world.write()), "--to", "captions", "--out", str(out))[0] == 0
    code, said = cli("show", "nope", "--out", str(out))
    assert code == 2
    assert len(said) < 3000
