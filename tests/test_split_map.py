"""`python -m pipeline splits`: the report of a region's tables, and the map in its colours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import run
from PIL import Image
from world import World

from harmonize.splits import SplitShares, block_of, spatial_split
from pipeline import runner, tables
from pipeline.grid import Cell, centres
from pipeline.region import load_region
from pipeline.split_map import COLOURS, DROPPED, EVENT, draw_map
from pipeline.splits import placed, report_of

SHARES = SplitShares(0.7, 0.1, 0.2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of a region of sixteen cells, in blocks of two by two, with its tables beside it."""
    folder = tmp_path_factory.mktemp("splits")
    manifest = World(folder).write()
    region, store = runner.load(manifest, str(folder / "out"))
    runner.run_upto(region, store, "captions", quiet=True)
    return manifest


def test_the_command_prints_what_the_tables_hold(made: Path, tmp_path: Path) -> None:
    out = made.parent / "out"
    said = run("pipeline", "splits", str(made), "--out", str(out), "--png", str(tmp_path / "deep/map.png"))
    assert said.returncode == 0, said.all
    captions = pq.read_table(out / "tiny/captions.parquet").to_pylist()
    kept = [row for row in captions if row["dropped"] is None]
    assert f"tiny: spatial split of {len(kept)} chips" in said.stdout
    for what, counted in (("chips", "chip_id"), ("cells", "cell"), ("blocks", "block")):
        numbers = [len({row[counted] for row in kept if row["split"] == s}) for s in ("train", "val", "test")]
        assert [what, *map(str, numbers)] in [line.split() for line in said.stdout.splitlines()]
    with Image.open(tmp_path / "deep/map.png") as picture:
        seen = set(map(tuple, np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()))
    assert {COLOURS[row["split"]] for row in kept} <= seen


def test_chips_that_pixels_dropped_do_not_count(made: Path) -> None:
    """Where the pixels are cut, what the command counts is what goes into shards."""
    out = made.parent / "out"
    region, store = runner.load(made, str(out))
    table = pq.read_table(out / "tiny/captions.parquet")
    before = report_of(pq.read_table(out / "tiny/chips.parquet"), table, region)["chips"]
    rows = pq.read_table(out / "tiny/pixels.parquet").to_pylist()
    rows[0]["dropped"] = "nodata"
    path = out / "tiny/pixels.parquet"
    kept = path.read_bytes()
    try:
        tables.write_table(store, "pixels.parquet", tables.table_of(rows, tables.PIXELS), tables.PIXELS)
        said = run("pipeline", "splits", str(made), "--out", str(out))
    finally:
        path.write_bytes(kept)
    assert f"split of {before - 1} chips\ndropped: 1 nodata" in said.stdout


def test_without_captions_the_command_says_what_to_run(tmp_path: Path) -> None:
    manifest = World(tmp_path).write()
    said = run("pipeline", "splits", str(manifest), "--out", str(tmp_path / "out"))
    assert said.returncode == 2
    assert "has no captions yet" in said.stderr
    assert f"python -m pipeline captions {manifest}" in said.stderr


def drawn_rows(cells: list[Cell], reasons: list[list[str | None]]) -> pa.Table:
    """A table as `placed` makes it, with one chip per reason (None: kept) of each cell."""
    rows = []
    for cell, dropped in zip(cells, reasons, strict=True):
        west, south, east, north = cell.bounds
        block = block_of(cell.epsg, (west + east) / 2, (south + north) / 2, 12)
        lon, lat = centres([cell])
        row = {"cell": cell.name, "block": block, "split": spatial_split(block, SHARES)}
        rows += [row | {"lon": lon[0], "lat": lat[0], "dropped": reason} for reason in dropped]
    schema = pa.schema([("dropped", pa.string())])
    table = pa.Table.from_pylist(rows)
    return table.set_column(5, schema.field("dropped"), pa.array([r["dropped"] for r in rows], pa.string()))


@pytest.mark.parametrize(
    ("reasons", "colour"),
    [
        ([None], None),
        (["cloud", None, "split: event"], None),
        (["cloud", "split: event"], COLOURS[EVENT]),
        (["split: event", "cloud"], COLOURS[EVENT]),
        (["no labels"], COLOURS[DROPPED]),
    ],
)
def test_a_cell_is_dropped_where_all_of_its_chips_are(
    reasons: list[str | None], colour: tuple[int, int, int] | None, made: Path
) -> None:
    cell = Cell(32718, 500, 1000)
    table = drawn_rows([cell], [reasons])
    picture = draw_map(table, load_region(made))
    # The middle of the one panel.
    assert picture.getpixel((24 + 550, 64 + 8 + 550)) == (colour or COLOURS[table["split"][0].as_py()])


def test_places_far_apart_have_their_own_panels_and_a_zone_border_none(made: Path) -> None:
    """Two places in the two hemispheres, one of them on both sides of the antimeridian."""
    cells = [Cell(32660, 680, 1500), Cell(32601, 140, 1500), Cell(32733, 400, 1000)]
    region = load_region(made)
    two, one = draw_map(drawn_rows(cells, [[None]] * 3), region), draw_map(drawn_rows(cells[:2], [[None]] * 2), region)
    assert two.width == 2 * 620 + 48
    assert one.width == 1100 + 48


def test_the_report_does_not_depend_on_the_rows_order(made: Path) -> None:
    out = made.parent / "out/tiny"
    chips, captions = pq.read_table(out / "chips.parquet"), pq.read_table(out / "captions.parquet")
    region = load_region(made)
    order = np.random.default_rng(0).permutation(chips.num_rows)
    assert report_of(chips.take(order), captions, region) == report_of(chips, captions.take(order), region)
    joined = placed(chips.take(order), captions)
    by_chip = {row["chip_id"]: row for row in chips.to_pylist()}
    assert all(row["scene"] == by_chip[row["chip_id"]]["scene"] for row in joined.to_pylist())
    assert json.dumps(report_of(chips, captions, region))
