"""What was damaged, moved or doubled after it was made: found, told, and mended by the command that is advised."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from test_bad_input import cli
from test_catalog import row
from test_runner import build, hashes
from world import World

from harmonize.problem import Problem
from pipeline import runner, tables
from pipeline.scenes import _without_duplicates


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "w", size_m=1200)


def largest_part(out: Path) -> Path:
    return max((out / "tiny/pixels").iterdir(), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_redo_pixels_mends_damaged_parts(world: World, tmp_path: Path, damage: str) -> None:
    manifest, out = world.write(), tmp_path / "out"
    build(manifest, out)
    expected = hashes(out)
    part = largest_part(out)
    if damage == "truncated":
        os.truncate(part, 1000)
    else:
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 0xFF
        part.write_bytes(data)
    region, store = runner.load(manifest, str(out))
    runner.redo(region, store, "pixels", "shards", quiet=True)
    assert hashes(out) == expected


def test_failed_rows_are_told_each_time_and_tried_again_by_redo(world: World, tmp_path: Path) -> None:
    manifest, out = world.write(), tmp_path / "out"
    path = world.root / "cogs/s2_0_B04.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    words = ("build", str(manifest), "--to", "shards", "--out", str(out))
    assert cli(*words)[0] == 3
    code, said = cli(*words)
    assert code == 3, "a second call does not hide them"
    assert "4 rows could not be read" in said
    assert "--retry-failed" in said
    path.write_bytes(whole)
    assert cli("redo", "pixels", str(manifest), "--out", str(out))[0] == 0
    build(manifest, tmp_path / "fresh")
    assert hashes(out) == hashes(tmp_path / "fresh")


def test_redo_touches_nothing_beside_it(world: World, tmp_path: Path) -> None:
    manifest, out = world.write(), tmp_path / "out"
    build(manifest, out)
    (out / "tiny/receipts/pixels.json").unlink()
    code, said = cli("redo", "captions", str(manifest), "--out", str(out), "--to", "captions")
    assert code == 0, said
    assert not (out / "tiny/receipts/pixels.json").exists()
    code, said = cli("redo", "captions", str(manifest), "--out", str(out))
    assert code == 2
    assert "stage shards needs pixels" in said
    assert (out / "tiny/receipts/captions.json").exists(), "a redo that cannot be done undoes nothing"


def test_no_index_stands_over_half_replaced_tars(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import shards
    from train.shards import open_shards

    manifest, out = world.write(), tmp_path / "out"
    build(manifest, out)
    world.tail = "[shards]\nseed = 7\n"
    world.write_manifest()
    monkeypatch.setattr(shards, "_write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(manifest, out)
    with pytest.raises(Problem, match="there are no shards here"):
        open_shards([out / "tiny/shards"])
    monkeypatch.undo()
    assert build(manifest, out) == ["shards"]
    assert len(open_shards([out / "tiny/shards"])) == 8


def test_an_image_file_that_vanished_is_told(world: World, tmp_path: Path) -> None:
    manifest, out = world.write(), tmp_path / "out"
    build(manifest, out)
    (world.root / "cogs/s2_0_B02.tif").unlink()
    code, said = cli("build", str(manifest), "--to", "shards", "--out", str(out))
    assert code == 2
    assert "s2_0_B02.tif" in said
    assert "Traceback" not in said


def test_a_label_raster_that_cannot_be_opened_is_told(world: World, tmp_path: Path) -> None:
    """It is the wrong file for all cells; one that is damaged somewhere costs the cells there (test_odd_files.py)."""
    manifest = world.write()
    os.truncate(world.root / "labels/classes.tif", 4)
    code, said = cli("build", str(manifest), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "label raster cannot be read" in said


@pytest.mark.parametrize("out", ["foo://x/y", "file"])
def test_an_out_that_cannot_be_is_told(world: World, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("x")
    place = str(tmp_path / "file") if out == "file" else out
    code, said = cli("build", str(world.write()), "--out", place)
    assert code == 2
    assert "OUT" in said


def test_files_of_one_label_source_are_a_mosaic(world: World, tmp_path: Path) -> None:
    """The same raster twice, and a second one that says otherwise where the first has nodata."""
    manifest = world.write()
    (world.root / "labels/more").mkdir()
    first = np.ones((120, 120), np.uint8)
    first[:, 30:60] = 0
    world.tif(world.root / "labels/classes.tif", first, 10)
    shutil.copy(world.root / "labels/classes.tif", world.root / "labels/again.tif")
    world.tif(world.root / "labels/other.tif", np.full((120, 120), 2, np.uint8), 10)
    more = "".join(f'[[labels]]\nsource = "classes"\nhref = "labels/{name}.tif"\n' for name in ("again", "other"))
    manifest.write_text(manifest.read_text().replace("[split]", more + "[split]"))
    build(manifest, tmp_path / "out")
    labels = pq.read_table(tmp_path / "out/tiny/labels.parquet").to_pylist()
    assert Counter((r["cell"], r["code"]) for r in labels).most_common(1)[0][1] == 1, "one row a code"
    by_cell: dict[str, dict[str, float]] = {}
    for r in labels:
        by_cell.setdefault(r["cell"], {})[r["code"]] = r["share"]
    assert all(sum(shares.values()) == pytest.approx(1) for shares in by_cell.values())
    assert {tuple(sorted(s.items())) for s in by_cell.values()} == {(("1", 0.5), ("2", 0.5)), (("1", 1.0),)}


def test_a_sliver_does_not_remove_its_whole_tile() -> None:
    dropped: Counter[str] = Counter()
    rows = [row("whole", "05.00", "2020-06-02"), row("sliver", "05.00", "2020-06-03", (0, 0, 0.2, 1))]
    assert {r["scene"] for r in _without_duplicates(rows, dropped)} == {"whole", "sliver"}
    assert not dropped
    assert shapely.from_wkb(rows[1]["geometry"]).area == pytest.approx(0.2)


def test_bands_of_one_group_may_differ_in_resolution(world: World, tmp_path: Path) -> None:
    """B01 at 20 m beside B09 at 60 m: each is brought to 60 m by itself."""
    import pyarrow as pa

    manifest, out = world.write(), tmp_path / "out"
    fine = world.pixels(5, 20)
    world.tif(world.root / "cogs/s2_0_B01.tif", fine, 20)
    assert cli("build", str(manifest), "--to", "pixels", "--out", str(out))[0] == 0
    part = next(p for p in (out / "tiny/pixels").iterdir() if p.name.startswith("S2"))
    means = np.floor(fine.reshape(20, 3, 20, 3).mean((1, 3)) + 0.5).astype(int)
    plain = world.pixels(9, 60)
    for record in pa.ipc.open_file(part).read_all().to_pylist():
        col, low = (int(x) for x in record["chip_id"].split("_")[2:4])
        x, y = (col - 1000) * 10, (8335 - low) * 10
        got = np.frombuffer(record["60m"], "<u2").reshape(2, 10, 10)
        assert np.abs(got[0].astype(int) - (means[y : y + 10, x : x + 10] - 1000)).max() <= 1
        assert (got[1] == plain[y : y + 10, x : x + 10] - 1000).all()


def test_odd_values_are_told(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    text = manifest.read_text()
    for old, new, words in (
        ("bounds = [", "bounds = [nan, 1.0, 2.0, 3.0] #", "'bounds"),
        ('items = "catalog/s2/*.json"', 'items = "catalog/s2"', "is a folder"),
    ):
        manifest.write_text(text.replace(old, new))
        code, said = cli("build", str(manifest), "--out", str(tmp_path / "out"))
        assert code == 2, said
        assert words in said
    manifest.write_text("sources = 3\n" + text[: text.index("[sources")])
    code, said = cli("build", str(manifest), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "'sources' is not a table" in said


def test_a_shapefiles_codes_are_watched(tmp_path: Path) -> None:
    from pipeline.vector import with_siblings

    for suffix in ("shp", "dbf", "prj"):
        (tmp_path / f"clc.{suffix}").write_text("x")
    (tmp_path / "other.dbf").write_text("x")
    assert [p.name for p in with_siblings(tmp_path / "clc.shp")] == ["clc.dbf", "clc.prj", "clc.shp"]


def test_a_date_in_the_manifest_rules_over_the_items(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    item = json.loads((world.root / "catalog/s1/S1-0.json").read_text())
    item |= {"id": "L", "collection": "l", "assets": {"data": {"href": "../../labels/classes.tif"}}}
    (world.root / "catalog/l").mkdir()
    (world.root / "catalog/l/L.json").write_text(json.dumps(item))
    text = manifest.read_text().replace('href = "labels/classes.tif"', 'items = "catalog/l/*.json"\nasset = "data"')
    manifest.write_text(text.replace('source = "classes"', 'source = "classes"\ndate = 2019-05-05'))
    build(manifest, tmp_path / "out")
    labels = pq.read_table(tmp_path / "out/tiny/labels.parquet").to_pylist()
    assert {str(r["date"]) for r in labels} == {"2019-05-05"}


@pytest.mark.parametrize(
    ("table", "stage"),
    [("scenes", "pixels"), ("chips", "labels"), ("labels", "captions"), ("captions", "shards"), ("screen", "chips")],
)
def test_a_damaged_table_is_never_an_input(world: World, tmp_path: Path, table: str, stage: str) -> None:
    """A byte that flipped in a page often unpacks to other values: a stage that read them would make whole wrong files."""
    manifest, out = world.write(), tmp_path / "out"
    build(manifest, out)
    expected = hashes(out)
    path = next((out / "tiny/screen").glob("*")) if table == "screen" else out / f"tiny/{table}.parquet"
    whole = path.read_bytes()
    for at in range(40, len(whole) - 8, max(1, len(whole) // 7)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        code, said = cli("redo", stage, str(manifest), "--out", str(out))
        assert code == 4, said
        assert f"{path.relative_to(out / 'tiny')} is not what stage {table} wrote" in said
        assert f"make redo STAGE={table}" in said
    path.write_bytes(whole)
    assert cli("build", str(manifest), "--to", "shards", "--out", str(out))[0] == 0
    assert hashes(out) == expected


def test_pages_of_tables_have_checksums(world: World, tmp_path: Path) -> None:
    """Found where no receipt is left to say what a file was."""
    manifest, out = world.write(), tmp_path / "out"
    build(manifest, out)
    path = out / "tiny/labels.parquet"
    whole = path.read_bytes()
    first = pq.read_metadata(path).row_group(0).column(0)
    at = (first.dictionary_page_offset or first.data_page_offset) + first.total_compressed_size - 1
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(Problem, match=r"labels\.parquet is damaged") as caught:
        tables.read_table(runner.load(manifest, str(out))[1], "labels.parquet", tables.LABELS)
    assert caught.value.code == 4
