"""Crisis events through the stages, with answers computed by hand: acquisitions, labels, captions, splits, shards."""

from __future__ import annotations

import datetime as dt
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import geopandas
import pyarrow.parquet as pq
import pytest
import shapely
from test_bad_input import cli
from test_chips import seen
from test_runner import build, hashes
from world import World

from harmonize.events import CrisisEvent
from harmonize.splits import SplitShares, spatial_split
from harmonize.vocabulary import BIT, LAND_COVER_MASK
from pipeline import runner, sandbox, states
from pipeline.chips import Hit, _choose_for_cell
from pipeline.event import Event
from pipeline.receipt import read_receipt
from pipeline.region import load_region
from pipeline.sandbox import build as sandbox_build
from pipeline.sandbox.places import SIZES
from pipeline.stages import STAGES

WEST, NORTH = 600_000, 5_001_600
S2_DAYS = ("05-20", "06-05", "06-12", "06-15", "06-25", "07-05", "08-01")
S1_DAYS = ("05-21", "06-09", "06-11", "06-20", "08-02")


def cell_box(col: int, row: int) -> shapely.Geometry:
    """The square of a cell of the world: column and row from its upper left, 600 m each."""
    return shapely.box(WEST + 600 * col, NORTH - 600 * (row + 1), WEST + 600 * (col + 1), NORTH - 600 * row)


def name(col: int, row: int) -> str:
    return f"p60_32632_{1000 + col}_{8335 - row}"


def world_at(root: Path, **more: Any) -> World:
    """16 cells; two of them flooded on 2020-06-10, one by 3 %; the western half was analysed."""
    dates = tuple(f"2020-{d}T10:00:00Z" for d in S2_DAYS)
    world = World(root, dates=dates, s1_dates=tuple(f"2020-{d}T05:00:00Z" for d in S1_DAYS), **more)
    sliver = shapely.box(WEST, NORTH - 600 - 18, WEST + 600, NORTH - 600)
    half = shapely.box(WEST + 600, NORTH - 600, WEST + 900, NORTH)
    extent = shapely.box(WEST, NORTH - 2400, WEST + 1200, NORTH)
    (root / "events").mkdir(parents=True)
    geopandas.GeoDataFrame(geometry=[extent], crs=32632).to_file(root / "events/seen.gpkg")
    area = [shapely.union_all([cell_box(0, 0), half]), sliver]
    world.event("river", area, start="2020-06-10", analysed="events/seen.gpkg")
    return world


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The region's folder after all stages; splits by blocks, so that no chip is dropped."""
    root = tmp_path_factory.mktemp("events")
    manifest = world_at(root).write()
    manifest.write_text(manifest.read_text().replace("block_km = 1.2", 'block_km = 1.2\nevents = "blocks"'))
    build(manifest, root / "out")
    return root / "out/tiny"


def table(folder: Path, stage: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{stage}.parquet").to_pylist()


def roles(folder: Path, cell: str, sensor: str) -> dict[str, str]:
    rows = [c for c in table(folder, "chips") if c["cell"] == cell and c["sensor"] == sensor]
    return {f"{c['datetime']:%m-%d}": c["role"] for c in rows}


def test_acquisitions_before_and_after(ran: Path) -> None:
    """Best: the first and the last (S2), and the S1 nearest to them. Before: the latest; after: the first two."""
    for cell in (name(0, 0), name(1, 0)):
        assert roles(ran, cell, "s2") == {
            "05-20": "best",
            "06-05": "before:river",
            "06-12": "after:river",
            "06-15": "after:river",
            "08-01": "best",
        }
        assert roles(ran, cell, "s1") == {
            "05-21": "best",
            "06-09": "before:river",
            "06-11": "after:river",
            "06-20": "after:river",
            "08-02": "best",
        }
    for cell in (name(0, 1), name(3, 3)):
        assert set(roles(ran, cell, "s2")) == {"05-20", "08-01"}, "3 % covered, or not at all"
    receipt = json.loads((ran / "receipts/chips.json").read_text())
    assert receipt["losers"] == {
        "more than per_cell": 2 * 2 + 14 * 5,
        "too far in time from S2": 14 * 3,
    }
    assert "event 'river' (flood, 2020-06-10 to 2020-06-30) covers 2 cells, and some of 3" in receipt["notes"]


def test_label_rows_of_an_event(ran: Path) -> None:
    rows = {r["cell"]: r for r in table(ran, "labels") if r["event"]}
    assert len(rows) == 16, "all are within 10 km"
    assert {(r["source"], r["event"], str(r["date"]), r["code"]) for r in rows.values()} == {
        ("geojson", "river", "2020-06-10", "flood")
    }
    said = {(c, r): rows[name(c, r)] for c in range(4) for r in range(4)}
    expected = {(0, 0): 1.0, (1, 0): 0.5, (0, 1): 0.03}
    for place, row in said.items():
        assert row["share"] == pytest.approx(expected.get(place, 0.0), abs=1e-4)
        assert row["analysed"] == (1.0 if place[0] < 2 else 0.0)
    assert said[3, 3]["distance_m"] == pytest.approx((900**2 + 1200**2) ** 0.5, abs=1)
    land = [r for r in table(ran, "labels") if not r["event"]]
    assert all(r["analysed"] is None and r["distance_m"] is None for r in land)


def bit(row: dict[str, Any], label: str = "flooded area") -> str:
    mask = 1 << BIT[label]
    if row["label_mask"] & mask:
        assert row["known_mask"] & mask
        return "positive"
    return "negative" if row["known_mask"] & mask else "unknown"


def test_crisis_bits(ran: Path) -> None:
    """Window 06-10 to 06-30, then unknown to 07-20, where the flood is or may be."""
    chips = {c["chip_id"]: c for c in table(ran, "chips")}
    captions = table(ran, "captions")
    for row in captions:
        day, col = f"{chips[row['chip_id']]['datetime']:%m-%d}", int(row["cell"].split("_")[2]) - 1000
        wet = row["cell"] in (name(0, 0), name(1, 0))
        assert bit(row) == ("positive" if wet and "06-10" <= day <= "06-30" else "negative"), (row["chip_id"], col)
        assert row["events"] == (["river"] if bit(row) == "positive" else [])
        assert row["known_mask"] & LAND_COVER_MASK == LAND_COVER_MASK
    flooded = next(r for r in captions if r["cell"] == name(1, 0) and r["events"])
    label = next(x for x in flooded["labels"] if x["name"] == "flooded area")
    assert (label["share"], label["source"]) == (pytest.approx(0.5, abs=1e-4), "river")
    assert flooded["caption_paper"] == "water. flooded area"
    assert "almost entirely water" in flooded["caption_rich"].lower()
    assert "flooded area" in flooded["caption_rich"].lower()
    told = next(e for e in json.loads(flooded["evidence"]) if "event" in e)
    assert told == {
        "event": "river",
        "kind": "flood",
        "says": "positive",
        "days": 1,
        "share": pytest.approx(0.5, abs=1e-4),
        "analysed": 1.0,
        "distance_m": 0.0,
    }


def test_what_is_unknown(tmp_path: Path) -> None:
    """Three S2 chips per cell: in the window, in the weeks after it, and long after."""
    world = World(tmp_path, dates=("2020-06-12T10:00:00Z", "2020-07-05T10:00:00Z", "2020-08-01T10:00:00Z"))
    world.s1_dates = ("2020-06-12T05:00:00Z",)
    area = shapely.union_all([cell_box(0, 0), shapely.box(WEST + 600, NORTH - 600, WEST + 618, NORTH)])
    extent = shapely.box(WEST, NORTH - 2400, WEST + 1500, NORTH)
    world.event("seen", extent, start="2020-06-10")
    world.tail = ""
    world.event("river", area, start="2020-06-10", analysed="events/seen.geojson")
    manifest = world.write()
    manifest.write_text(manifest.read_text().replace('source = "s2-here"', 'source = "s2-here"\nper_cell = 3', 1))
    build(manifest, tmp_path / "out", "captions")
    chips = {c["chip_id"]: c for c in table(tmp_path / "out/tiny", "chips")}
    found: dict[tuple[int, int], list[str]] = {}
    for row in table(tmp_path / "out/tiny", "captions"):
        if chips[row["chip_id"]]["sensor"] == "s2":
            _, _, col, line = row["cell"].split("_")
            found.setdefault((int(col) - 1000, 8335 - int(line)), []).append(bit(row))
    assert found[0, 0] == ["positive", "unknown", "negative"], "covered"
    assert found[1, 0] == ["unknown", "unknown", "negative"], "covered by 3 %"
    assert found[1, 3] == ["negative"] * 3, "analysed, and dry"
    assert found[2, 2] == ["unknown", "unknown", "negative"], "half analysed"
    assert found[3, 1] == ["unknown", "unknown", "negative"], "not analysed"


def test_what_was_not_looked_at_is_unknown_within_the_events_reach(tmp_path: Path) -> None:
    """Three events of 600 m, each in its own extent: 50 km away, 120 km away, and one whose extent holds the region."""
    world = World(tmp_path, dates=("2020-06-12T10:00:00Z", "2020-12-01T10:00:00Z"), s1_dates=("2020-06-12T05:00:00Z",))
    region = shapely.box(WEST, NORTH - 2400, WEST + 2400, NORTH)
    for kind, km, looked_at in (("flood", 50, None), ("earthquake", 120, None), ("fire", 50, region.buffer(600))):
        area = cell_box(-km * 1000 // 600, 0)
        extent = area.buffer(3000, join_style="mitre")
        world.event(f"{kind}-seen", shapely.union(extent, looked_at) if looked_at else extent)
    world.tail = ""  # these files are extents, no events
    for kind, km in (("flood", 50), ("earthquake", 120), ("fire", 50)):
        area = cell_box(-km * 1000 // 600, 0)
        world.event(f"the-{kind}", area, kind=kind, start="2020-06-10", analysed=f"events/{kind}-seen.geojson")
    build(world.write(), tmp_path / "out", "captions")
    chips = {c["chip_id"]: c for c in table(tmp_path / "out/tiny", "chips")}
    for row in table(tmp_path / "out/tiny", "captions"):
        inside = chips[row["chip_id"]]["datetime"].month == 6
        assert bit(row) == ("unknown" if inside else "negative"), "not looked at, in reach"
        assert bit(row, "earthquake damage") == "negative", "out of reach"
        assert bit(row, "burned area") == "negative", "looked at, and nothing there"
    rows = [r for r in table(tmp_path / "out/tiny", "labels") if r["event"]]
    assert {(r["event"], r["share"], r["analysed"], r["distance_m"]) for r in rows} == {
        ("the-flood", 0.0, 0.0, None),
        ("the-fire", 0.0, 1.0, None),
    }


def test_events_reach_the_shards(ran: Path) -> None:
    index = {r["chip_id"]: r for r in pq.read_table(ran / "shards/index.parquet").to_pylist()}
    wet = {key for key, row in index.items() if row["events"]}
    assert len(wet) == 2 * 4
    for path in (ran / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".json"):
                    record = json.loads(tar.extractfile(member).read())  # type: ignore[union-attr]
                    assert record["events"] == (["river"] if record["chip_id"] in wet else [])
                    assert record["licence"] == "unknown"
    card = (ran / "shards/README.md").read_text()
    assert "| river | flood | 2020-06-10 | 20 | 8 |" in card
    assert "| river | event | unknown |" in card


def test_rows_are_accounted_for(ran: Path) -> None:
    for stage in STAGES:
        receipt = json.loads((ran / f"receipts/{stage}.json").read_text())
        assert receipt["rows_in"] == receipt["kept"] + sum(receipt["dropped"].values())


def hit(days: int, share: float = 1.0, event: str = "e", **keys: Any) -> Hit:
    """An event that starts on that day of June 2020."""
    use = Event(id=event, kind="flood", source="geojson", href="x.geojson", **keys)
    return Hit(CrisisEvent(event, "flood", dt.date(2020, 6, days), use.effect_days, use.min_event_share), use, share)


def chosen(tmp_path: Path, hits: list[Hit], *candidates: Any, per_cell: int = 1) -> tuple[dict[str, str], Counter[str]]:
    world = World(tmp_path)
    text = world.write_manifest().read_text()
    (tmp_path / "tiny.toml").write_text(text.replace('-here"\n', f'-here"\nper_cell = {per_cell}\n', 2))
    losers: Counter[str] = Counter()
    found = _choose_for_cell(list(candidates), load_region(tmp_path / "tiny.toml"), losers, hits)
    return {c.scene["scene"]: role for c, role in found}, +losers


def test_the_days_of_a_window_are_inclusive(tmp_path: Path) -> None:
    """Start on the 10th, effect 5 days, 5 days before: [5, 10) and [10, 15]; midnight belongs to its day."""
    days = (4, 5, 9, 10, 15, 16)
    passes = [seen(str(d), d, hour=0) for d in days] + [seen("9 late", 9, hour=23), seen("15 late", 15, hour=23)]
    roles, _ = chosen(tmp_path, [hit(10, effect_days=5, before_days=5, before=9, after=9)], *passes)
    assert {k for k, v in roles.items() if "before:e" in v} == {"5", "9", "9 late"}
    assert {k for k, v in roles.items() if "after:e" in v} == {"10", "15", "15 late"}


def test_one_chip_may_have_several_roles(tmp_path: Path) -> None:
    roles, losers = chosen(
        tmp_path,
        [hit(10, event="a"), hit(14, event="b")],
        seen("1", 1, cloud=0.05),
        seen("12", 12),
        seen("13", 13, cloud=0.01),
        seen("20", 20, cloud=0.02),
    )
    assert roles == {
        "1": "before:a",
        "12": "best after:a",
        "13": "after:a before:b",
        "20": "after:b",
    }
    assert losers == {}


def test_clouded_and_slightly_covered_cells_take_none(tmp_path: Path) -> None:
    passes = [seen("5", 5, cloud=0.2), seen("6", 6, cloud=0.05), seen("11", 11, cloud=0.01), seen("12", 12, nodata=0.2)]
    assert chosen(tmp_path, [hit(10)], *passes)[0] == {"11": "best after:e", "6": "before:e"}
    assert chosen(tmp_path, [hit(10, share=0.04)], *passes)[0] == {"11": "best"}
    assert chosen(tmp_path, [hit(10, before=0, after=0)], *passes)[0] == {"11": "best"}


def test_s1_is_on_the_same_side_of_every_event(tmp_path: Path) -> None:
    """S2 on the 9th. The S1 of the 10th is nearer, but the event began that day, however little of the cell it covers."""
    passes = [
        seen("s2", 9),
        seen("near", 10, "s1", hour=1, platform="s"),
        seen("same side", 6, "s1", platform="s", orbit="descending"),
    ]
    assert set(chosen(tmp_path, [], *passes)[0]) == {"s2", "near"}
    roles, losers = chosen(tmp_path, [hit(10, share=0.01)], *passes)
    assert roles == {"s2": "best", "same side": "best"}
    assert losers == {"other side of an event": 1}
    roles, losers = chosen(tmp_path, [hit(10, share=0.01), hit(8, share=0.01, event="f")], *passes)
    assert roles == {"s2": "best"}
    assert losers == {"other side of an event": 2}


def test_of_two_s1_equally_near_the_one_of_the_first_ones_orbit(tmp_path: Path) -> None:
    passes = [
        seen("first", 1),
        seen("last", 20),
        seen("2", 2, "s1", platform="s", orbit="descending"),
        seen("19", 19, "s1", platform="s"),
        seen("21", 21, "s1", platform="s", orbit="descending"),
    ]
    assert set(chosen(tmp_path, [], *passes, per_cell=2)[0]) == {"first", "last", "2", "21"}


def test_s1_may_go_with_the_s2_of_an_event(tmp_path: Path) -> None:
    """No S1 is near the best S2; one is near the S2 chosen after the event, on its side."""
    roles, _ = chosen(
        tmp_path, [hit(10, after=1)], seen("best", 1), seen("wet", 20, cloud=0.05),
        seen("11", 11, "s1", platform="s"), seen("21", 21, "s1", platform="s"),
    )  # fmt: skip
    assert roles == {"best": "best before:e", "wet": "after:e", "21": "best", "11": "after:e"}


def test_two_kinds_of_event_on_one_cell(tmp_path: Path) -> None:
    world = World(tmp_path, dates=("2020-06-12T10:00:00Z", "2020-07-25T10:00:00Z"))
    world.event("burn", cell_box(0, 0), kind="fire", start="2020-06-01")
    world.event("river", cell_box(0, 0), start="2020-06-10")
    build(world.write(), tmp_path / "out", "captions")
    chips = {c["chip_id"]: c for c in table(tmp_path / "out/tiny", "chips")}
    mine = {
        f"{chips[r['chip_id']]['datetime']:%m-%d}": r
        for r in table(tmp_path / "out/tiny", "captions")
        if r["cell"] == name(0, 0) and chips[r["chip_id"]]["sensor"] == "s2"
    }
    assert mine["06-12"]["caption_paper"] == "water. flooded area. burned area"
    assert mine["06-12"]["events"] == ["burn", "river"]
    assert all(crisis in mine["06-12"]["caption_rich"].lower() for crisis in ("flooded area", "burned area"))
    assert mine["07-25"]["events"] == ["burn"]
    assert (bit(mine["07-25"]), bit(mine["07-25"], "earthquake damage")) == ("negative", "negative")
    assert chips[mine["06-12"]["chip_id"]]["role"] == "best after:burn after:river"


def test_without_land_cover_the_crisis_label_stands_alone(tmp_path: Path) -> None:
    world = World(tmp_path, dates=("2020-06-12T10:00:00Z",))
    world.event("river", cell_box(0, 0), start="2020-06-10")
    manifest = world.write()
    manifest.write_text(manifest.read_text().replace('[[labels]]\nsource = "classes"\n', ""))
    build(manifest, tmp_path / "out")
    rows = table(tmp_path / "out/tiny", "captions")
    kept = [r for r in rows if r["dropped"] is None]
    assert {r["cell"] for r in kept} == {name(0, 0)}
    assert {r["dropped"] for r in rows if r not in kept} == {"no labels"}
    assert all(r["caption_paper"] == "flooded area" and not r["known_mask"] & LAND_COVER_MASK for r in kept)


def splits_of(world: World, out: Path) -> tuple[list[dict[str, Any]], list[str]]:
    build(world.write(), out, "captions")
    receipt = json.loads((out / world.name / "receipts/captions.json").read_text())
    return table(out / world.name, "captions"), receipt["notes"]


def test_an_event_stays_in_one_split(tmp_path: Path) -> None:
    """The flood covers all of the region's cells, which lie in blocks of several splits; most of it lies elsewhere."""
    shares = SplitShares(0.7, 0.1, 0.2)
    world = World(
        tmp_path, dates=("2020-01-05T10:00:00Z", "2020-06-05T10:00:00Z", "2020-06-12T10:00:00Z", "2020-08-20T10:00:00Z")
    )
    region = shapely.box(WEST, NORTH - 2400, WEST + 2400, NORTH)
    world.event("river", region.buffer(6000, join_style="mitre"), start="2020-06-10")
    rows, notes = splits_of(world, tmp_path / "out")
    assert "event 'river' belongs to train" in notes
    assert all(r["split"] == spatial_split(r["block"], shares) for r in rows), "no chip is moved"
    chips = {c["chip_id"]: c for c in table(tmp_path / "out/tiny", "chips")}
    days: dict[tuple[str, bool], set[str | None]] = {}
    for row in rows:
        chip = chips[row["chip_id"]]
        days.setdefault((f"{chip['sensor']} {chip['datetime']:%m-%d}", row["split"] == "train"), set()).add(
            row["dropped"]
        )
    assert {split for r in rows for split in [r["split"]]} > {"train"}
    assert days["s2 06-12", False] == {"split: event"}, "in the window"
    assert days["s2 06-05", False] == {"split: event"}, "its before chips"
    assert days["s2 01-05", False] == {None}, "chosen for itself, long before"
    assert days["s2 08-20", False] == {None}
    assert all(reasons == {None} for (_, train), reasons in days.items() if train)
    receipt = json.loads((tmp_path / "out/tiny/receipts/captions.json").read_text())
    assert receipt["rows_in"] == receipt["kept"] + sum(receipt["dropped"].values())
    torn = sum(r["dropped"] == "split: event" for r in rows)
    assert receipt["dropped"] == {"split: event": torn}, "the reason is told whole"
    build(tmp_path / "tiny.toml", tmp_path / "out")
    receipt = json.loads((tmp_path / "out/tiny/receipts/shards.json").read_text())
    assert receipt["dropped"] == {"split: event": torn}


def test_only_cells_that_an_event_covers_are_held_together(tmp_path: Path) -> None:
    """The flood lies in the upper left cell and far away; its other cells keep their own splits, near as they are."""
    world = World(tmp_path, dates=("2020-06-12T10:00:00Z",))
    elsewhere = next(
        shapely.box(x, NORTH, x + 1200, NORTH + 1200)
        for x in range(WEST - 24_000, WEST, 1200)
        if spatial_split(f"32632_b1.2_{x // 1200}_{NORTH // 1200}", SplitShares(0.7, 0.1, 0.2)) == "test"
    )
    world.event("river", [cell_box(0, 0), elsewhere], start="2020-06-10")
    rows, notes = splits_of(world, tmp_path / "out")
    assert "event 'river' belongs to test" in notes
    assert {r["split"] for r in rows if r["cell"] == name(0, 0)} == {"train"}
    assert {r["cell"] for r in rows if r["dropped"] == "split: event"} == {name(0, 0)}


def test_blocks_let_one_event_train_and_test(tmp_path: Path) -> None:
    world = World(tmp_path, dates=("2020-06-12T10:00:00Z",))
    region = shapely.box(WEST, NORTH - 2400, WEST + 2400, NORTH)
    world.event("river", region.buffer(6000, join_style="mitre"), start="2020-06-10")
    manifest = world.write()
    manifest.write_text(manifest.read_text().replace("block_km = 1.2", 'block_km = 1.2\nevents = "blocks"'))
    build(manifest, tmp_path / "out", "captions")
    rows = table(tmp_path / "out/tiny", "captions")
    assert {r["dropped"] for r in rows} == {None}
    assert len({r["split"] for r in rows}) > 1


def test_another_region_moves_neither_chip_nor_event(tmp_path: Path) -> None:
    world = World(tmp_path, dates=("2020-06-12T10:00:00Z",))
    region = shapely.box(WEST, NORTH - 2400, WEST + 2400, NORTH)
    world.event("river", region, start="2020-06-10")
    whole, notes = splits_of(world, tmp_path / "out")
    west, south, east, north = world.bounds
    world.name, world.manifest = "other", {"bounds": [west, south, (west + east) / 2, north]}
    part, same = splits_of(world, tmp_path / "out")
    assert 0 < len(part) < len(whole)
    known = {r["chip_id"]: (r["split"], r["dropped"], r["known_mask"]) for r in whole}
    assert all(known[r["chip_id"]] == (r["split"], r["dropped"], r["known_mask"]) for r in part)
    assert [n for n in notes if "belongs" in n] == [n for n in same if "belongs" in n]


def test_what_an_edit_of_an_event_redoes(tmp_path: Path) -> None:
    world = world_at(tmp_path)
    manifest = world.write()
    build(manifest, tmp_path / "out")
    assert build(manifest, tmp_path / "out") == []
    seen = geopandas.GeoDataFrame(geometry=[cell_box(0, 0)], crs=32632)
    seen.to_file(tmp_path / "events/seen.gpkg")
    assert build(manifest, tmp_path / "out") == ["labels", "captions", "shards"]
    text = manifest.read_text()
    manifest.write_text(text.replace("analysed =", "# analysed ="))
    assert build(manifest, tmp_path / "out") == ["labels", "captions", "shards"]
    manifest.write_text(text.replace("start = 2020-06-10", "start = 2020-06-10\nafter = 1"))
    assert build(manifest, tmp_path / "out")[0] == "chips"
    manifest.write_text(text)
    build(manifest, tmp_path / "out")
    path = tmp_path / "events/river.geojson"
    frame = geopandas.read_file(path)
    frame.iloc[:1].to_file(path)
    assert build(manifest, tmp_path / "out")[0] == "chips"
    build(manifest, tmp_path / "fresh")
    assert hashes(tmp_path / "fresh") == hashes(tmp_path / "out")


def test_events_of_the_sample_world_are_hashed_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, dates=("2020-06-12T10:00:00Z",))
    world.event("river", cell_box(0, 0), start="2020-06-10")
    world.tail = world.tail.replace("events/", "sandbox://tiny/events/")
    region, store = runner.load(world.write(), str(tmp_path / "out"))
    assert STAGES["chips"].outside(region) == [], "and the world need not be there to say so"
    (tmp_path / "out/sandbox/tiny").mkdir(parents=True)
    # As if it were drawn already: only its events are wanted here.
    (tmp_path / "out/sandbox/tiny" / sandbox_build.DONE).write_text(json.dumps(sandbox_build._about(SIZES["tiny"])))
    assert region.worlds == ["tiny"], "the card says that what shows its event is synthetic"
    (tmp_path / "events").rename(tmp_path / "out/sandbox/tiny/events")
    runner.run_upto(region, store, "captions", quiet=True)
    assert any(r["events"] for r in table(tmp_path / "out/tiny", "captions"))
    for stage in ("chips", "labels", "captions"):
        receipt = read_receipt(store, stage)
        assert receipt
        assert not [o for o in receipt.outside if "river" in o.path]
    monkeypatch.setattr(sandbox, "VERSION", sandbox.VERSION + 1)
    assert states.states(region, store, "chips")["chips"].reason == "'events' changed in the manifest"


def test_an_event_elsewhere_or_at_another_time_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200)
    world.event("far", shapely.box(WEST + 50_000, NORTH, WEST + 51_000, NORTH + 1000), start="2020-06-10")
    world.event("old", cell_box(0, 0), start="2015-06-10")
    code, said = cli("build", str(world.write()), "--to", "captions", "--out", str(tmp_path / "out"))
    assert code == 0, said
    assert "warning: event 'far' lies outside the cells of the region" in said
    assert "warning: event 'old' lies outside the dates of the region, 2020-01-01 to 2020-12-31" in said
    assert "'far' lies outside the dates" not in said
    rows = [r for r in table(tmp_path / "out/tiny", "labels") if r["event"]]
    assert {r["event"] for r in rows} == {"old"}


@pytest.mark.parametrize(("west", "told"), [(WEST, False), (WEST + 5000, True)])
def test_an_extent_that_does_not_touch_its_event_is_told(tmp_path: Path, west: float, told: bool) -> None:
    world = World(tmp_path)
    world.event("seen", shapely.box(west, NORTH - 2400, west + 1500, NORTH), start="2020-06-10")
    world.tail = ""
    world.event("river", cell_box(0, 0), start="2020-06-10", analysed="events/seen.geojson")
    build(world.write(), tmp_path / "out", "labels")
    notes = json.loads((tmp_path / "out/tiny/receipts/labels.json").read_text())["notes"]
    assert any("event 'river' does not touch the event" in note for note in notes) is told
