"""The whole pipeline on the tiny sample world (synthetic), over its STAC API, against the world's own truth table."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from commands import run
from conftest import ROOT
from tiny_region import write_region

from harmonize.crosswalk import parse_crosswalk
from harmonize.vocabulary import BIT, CLASSES, CRISIS_OF_KIND, LAND_COVER
from pipeline import runner
from pipeline.grid import parse_cell
from pipeline.parts import read_chip
from pipeline.receipt import read_receipt
from pipeline.sandbox import SYNTHETIC
from pipeline.sandbox.acquisitions import scenes_of
from pipeline.sandbox.landscape import load_ground
from pipeline.sandbox.places import BY_NAME, PLACES, SIZES
from pipeline.sandbox.truth import _positions, cells_in
from pipeline.store import Store
from pipeline.verify import target_of, verify

SCENES = {scene.id: scene for scene in scenes_of(SIZES["tiny"])}
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_region(tmp_path_factory.mktemp("manifest"))


@pytest.fixture(scope="module")
def ran(tiny_world: Path, manifest: Path) -> Path:
    """The region's folder after all stages."""
    region, store = runner.load(manifest, str(tiny_world.parent.parent))
    runner.run_upto(region, store, "shards", quiet=True)
    return Path(store.root)


def table(folder: Path, stage: str) -> Rows:
    return pq.read_table(folder / f"{stage}.parquet").to_pylist()


def truth(world: Path, name: str) -> Rows:
    return pq.read_table(world / f"truth_{name}.parquet").to_pylist()


def test_scenes_are_all_there_but_the_older_copies(ran: Path) -> None:
    kept = {row["scene"]: row for row in table(ran, "scenes")}
    copies = [s for s in SCENES.values() if s.baseline == "05.00"]
    older = {
        s.id for c in copies for s in SCENES.values() if s.when == c.when and s.tile == c.tile and s.baseline != "05.00"
    }
    assert len(older) == len(copies) == 2
    assert set(kept) == set(SCENES) - older
    receipt = read_receipt(Store(str(ran)), "scenes")
    assert receipt
    assert receipt.dropped == {"duplicate": 2}
    for name, row in kept.items():
        scene = SCENES[name]
        assert (row["epsg"], row["baseline"], row["orbit"], row["tile"]) == (
            scene.epsg,
            scene.baseline,
            scene.orbit,
            scene.tile,
        )
        assert row["datetime"] == scene.when
        assert (row["west"], row["south"], row["east"], row["north"]) == pytest.approx(scene.bounds)
        assert all(href.startswith("sandbox://tiny/") for href in json.loads(row["assets"]).values())


def test_all_of_it_is_whole(ran: Path) -> None:
    """Every key, count, caption and hash: with events, two maps and all that is dropped."""
    report = verify(target_of(str(ran), "data"), 1.0, quiet=True)
    assert [(f.file, f.sample, f.what) for f in report.findings] == []
    assert report.notes == []


def test_no_table_names_a_port_or_a_folder(ran: Path, tiny_world: Path) -> None:
    said = b"".join(p.read_bytes() for p in ran.rglob("*") if p.suffix in (".json", ".parquet", ".md"))
    assert b"127.0.0.1" not in said
    assert str(tiny_world.parent).encode() not in said


def test_clouds_and_gaps_of_the_chosen_are_those_of_the_truth(ran: Path, tiny_world: Path) -> None:
    seen = {(row["cell"], row["scene"]): row for row in truth(tiny_world, "seen")}
    compared = 0
    for chip in table(ran, "chips"):
        scene = SCENES[chip["scene"]]
        known = seen[chip["cell"], chip["scene"]]
        if chip["sensor"] == "s2":
            assert chip["cloud"] <= 0.10
            if scene.epsg == chip["epsg"]:
                assert chip["cloud"] == pytest.approx(known["cloud"], abs=1e-5)
                compared += 1
        assert known["nodata"] <= 0.05 + 0.03 or chip["sensor"] == "s1"
    assert compared > 300


def test_a_cell_gets_the_clear_acquisitions_it_has(ran: Path, tiny_world: Path) -> None:
    """As many S2 chips as clear passes in the cell's own zone, up to per_cell (two) and what events add."""
    chips = Counter(chip["cell"] for chip in table(ran, "chips") if chip["sensor"] == "s2")
    clear: dict[str, set[dt.datetime]] = {}
    for row in truth(tiny_world, "seen"):
        scene = SCENES[row["scene"]]
        if (
            scene.sensor == "s2"
            and row["nodata"] == 0
            and row["cloud"] <= 0.10
            and scene.epsg == parse_cell(row["cell"]).epsg
        ):
            clear.setdefault(row["cell"], set()).add(scene.when)
    assert all(chips[cell] >= min(2, len(passes)) for cell, passes in clear.items())
    assert len(clear) > 100


def test_one_chip_a_cell_sensor_and_pass(ran: Path) -> None:
    """Where tiles of one pass overlap, and where two zones see a cell, the cell's own zone wins."""
    chips = table(ran, "chips")
    passes = Counter((c["cell"], c["sensor"], SCENES[c["scene"]].place, SCENES[c["scene"]].number) for c in chips)
    assert max(passes.values()) == 1
    zones = {c["epsg"] for c in chips if SCENES[c["scene"]].place == "mediterranean"}
    assert zones == {32632, 32633}
    for chip in chips:
        if chip["sensor"] == "s2":
            assert SCENES[chip["scene"]].epsg == chip["epsg"]
    tiles = {SCENES[c["scene"]].tile for c in chips if SCENES[c["scene"]].place == "delta" and c["sensor"] == "s2"}
    assert len(tiles) == 2


def test_stored_pixels_are_the_files_pixels_without_the_offset(ran: Path, tiny_world: Path) -> None:
    """Every tenth S2 chip against rasterio's own window of the COG; both kinds of baseline are among them."""
    chips = {c["chip_id"]: c for c in table(ran, "chips")}
    baselines = set()
    for row in [r for r in table(ran, "pixels") if r["part"] and "_s2_" in r["chip_id"]][::10]:
        chip = chips[row["chip_id"]]
        scene = SCENES[chip["scene"]]
        arrays = read_chip(Store(str(ran)), row["part"], row["row"], "s2", 60)
        for group, key, place, step in (("10m", "B04", 2, 1), ("20m", "B11", 4, 2), ("60m", "B09", 1, 6)):
            with rasterio.open(tiny_world / f"cogs/{scene.id}/{key}.tif") as raster:
                window = raster.window(*[chip[side] for side in ("west", "south", "east", "north")])
                dn = raster.read(1, window=window.round_offsets().round_lengths()).astype(int)
            assert dn.shape == (60 // step, 60 // step)
            assert np.array_equal(arrays[group][place], np.where(dn == 0, 0, np.maximum(dn - scene.offset, 1)))
        baselines.add(scene.baseline)
    assert baselines == {"03.01", "04.00", "05.00"}


def test_radar_borders_are_gaps_and_power_is_in_db(ran: Path, tiny_world: Path) -> None:
    """Zeros and -32768 both end as NaN; a chip's mean power is that of the file around it, off its grid or not."""
    chips = {c["chip_id"]: c for c in table(ran, "chips")}
    rows = [r for r in table(ran, "pixels") if "_s1_" in r["chip_id"]]
    assert any(r["dropped"] == "nodata" for r in rows)
    for row in [r for r in rows if r["part"] and not r["dropped"]][::15]:
        chip = chips[row["chip_id"]]
        scene = SCENES[chip["scene"]]
        vv = read_chip(Store(str(ran)), row["part"], row["row"], "s1", 60)["10m"][0].astype(float)
        if scene.epsg != chip["epsg"]:
            continue
        with rasterio.open(tiny_world / f"cogs/{scene.id}/vv.tif") as raster:
            window = raster.window(*[chip[side] for side in ("west", "south", "east", "north")])
            power = raster.read(1, window=window.round_offsets().round_lengths())
        assert np.nanmean(10 ** (vv / 10)) == pytest.approx(power[power > 0].mean(), rel=0.05)


MAPS = {"sandbox-dynamic-world": 10, "sandbox-corine": 100}
"""Label source -> metres of its pixels."""
Shares = dict[str, np.ndarray]
"""Cell -> area share of each land-cover class."""


def truth_of(world: Path, sources: dict[str, str], dx: int = 0, dy: int = 0) -> Shares:
    """What is on the ground of cells (sources: cell -> its label source), from the ground's own arrays; with a shift,
    as a map would have it that lies `dx`, `dy` of its pixels from where it should."""
    found: Shares = {}
    for place in PLACES:
        ground = load_ground(world / "ground" / place.name, place, SIZES["tiny"])
        for cell in cells_in(place, SIZES["tiny"]):
            if cell.name in sources:
                x, y = _positions(cell, 10, place.epsg)
                x, y = x + dx * MAPS[sources[cell.name]], y + dy * MAPS[sources[cell.name]]
                rows, cols = ((ground.north - y) // 10).astype(int), ((x - ground.west) // 10).astype(int)
                counts = np.bincount(ground.cover[rows, cols].ravel(), minlength=len(LAND_COVER))
                found[cell.name] = counts / x.size
    return found


def test_labels_of_every_cell_against_the_truth(ran: Path, tiny_world: Path) -> None:
    """Area shares that the stages found, by class, against the ground: each map's own error and no more, and less than
    a map would have that lies one of its pixels off."""
    crosswalks = {
        name: parse_crosswalk((ROOT / f"manifests/labels/{name.removeprefix('sandbox-')}.csv").read_text(), name)
        for name in MAPS
    }
    found: dict[str, Shares] = {name: {} for name in MAPS}
    for row in table(ran, "labels"):
        if row["source"] in crosswalks and row["code"] is not None:
            class_ = crosswalks[row["source"]].classify(row["code"])
            shares = found[row["source"]].setdefault(row["cell"], np.zeros(len(LAND_COVER)))
            if class_:
                shares[BIT[class_]] += row["share"]
    cells = {row["cell"]: row for row in truth(tiny_world, "cells")}
    seen = {chip["cell"] for chip in table(ran, "chips")}
    assert set(found["sandbox-dynamic-world"]) == seen <= set(cells)
    assert set(found["sandbox-corine"]) == {cell for cell in seen if BY_NAME[cells[cell]["place"]].europe}

    def error(name: str, true: Shares) -> float:
        """Mean error of a class's share."""
        return float(np.mean([np.abs(shares - true[cell]) for cell, shares in found[name].items()]))

    for name, most in (("sandbox-dynamic-world", 0.0036), ("sandbox-corine", 0.0208)):  # measured: 0.0027, 0.0160
        sources = dict.fromkeys(found[name], name)
        own = error(name, {cell: np.array(row["cover"]) for cell, row in cells.items()})
        assert error(name, truth_of(tiny_world, sources)) == pytest.approx(own)
        assert own < most, (name, own)
        for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            moved = error(name, truth_of(tiny_world, sources, *shift))
            assert own < moved, (name, shift, own, moved)


def test_the_two_maps_of_europe_are_compared(ran: Path) -> None:
    """CORINE rules where it is, and agrees with Dynamic World as two maps of one ground do."""
    (found,) = json.loads((ran / "agreement.json").read_text())
    assert found["sources"] == ["sandbox-corine", "sandbox-dynamic-world"]
    assert 0.7 < found["same_dominant"] < 1
    assert 0.6 < found["at_most"] < 1
    ruled = {label["source"] for row in table(ran, "captions") for label in row["labels"] if row["cell"][:5] == "32634"}
    assert "sandbox-dynamic-world" not in ruled


def test_crisis_bits_against_the_truth(ran: Path, tiny_world: Path) -> None:
    """Positive where the mask covers the cell clearly and the day lies in the window; known and absent before it."""
    events = {d.id: d for place in PLACES for d in place.disasters}
    days = {"flood": 20, "fire": 180, "earthquake": 90}
    share = {(r["cell"], e["event"]): e["share"] for r in truth(tiny_world, "cells") for e in r["events"]}
    chips = {c["chip_id"]: c for c in table(ran, "chips")}
    right: Counter[str] = Counter()
    for row in table(ran, "captions"):
        chip = chips[row["chip_id"]]
        for name, event in events.items():
            if (row["cell"], name) not in share or share[row["cell"], name] < 0.15:
                continue
            age = (chip["datetime"].date() - event.start).days
            bit = 1 << BIT[CRISIS_OF_KIND[event.kind]]
            says = row["label_mask"] & bit, row["known_mask"] & bit
            # Another event of this kind near by may leave the bit unknown: cells outside what was analysed of it.
            same = [d for place in PLACES if event in place.disasters for d in place.disasters if d.kind == event.kind]
            others = [d for d in same if d != event and chip["datetime"].date() >= d.start]
            if others:
                continue
            if 0 <= age <= days[event.kind]:
                assert says == (bit, bit), (row["chip_id"], name)
                assert name in row["events"]
                right[f"{event.kind} in"] += 1
            elif age < 0:
                assert says == (0, bit), (row["chip_id"], name)
                right[f"{event.kind} before"] += 1
    assert all(right[f"{kind} {when}"] > 3 for kind in days for when in ("in", "before")), right


def test_before_and_after_each_event(ran: Path, tiny_world: Path) -> None:
    roles = Counter(role.split(":")[0] for c in table(ran, "chips") for role in c["role"].split())
    assert roles["before"] > 20
    assert roles["after"] > roles["before"]
    events = {d.id: d for place in PLACES for d in place.disasters}
    for chip in table(ran, "chips"):
        for role in chip["role"].split():
            when, _, name = role.partition(":")
            if name:
                age = (chip["datetime"].date() - events[name].start).days
                assert age < 0 if when == "before" else age >= 0


def test_whatever_describes_the_shards_says_synthetic(ran: Path) -> None:
    """On its own page: the card, Croissant and the STAC collection are read without each other."""
    card = (ran / "shards/README.md").read_text()
    croissant, collection = (
        json.loads((ran / f"shards/{name}.json").read_text()) for name in ("croissant", "collection")
    )
    for text in (card, croissant["description"], croissant["rai:dataLimitations"][0], collection["description"]):
        assert SYNTHETIC in text
    assert "Contains modified Copernicus Sentinel data" not in card, "nobody's data"
    assert len(croissant["spatialCoverage"]) == len(collection["summaries"]["proj:code"]) > 3, "a box per zone"


def test_two_training_steps_and_their_metrics(ran: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "two-steps.toml"
    tiny = (ROOT / "manifests/recipes/tiny.toml").read_text()
    recipe.write_text(tiny.replace('name = "tiny"', 'name = "two-steps"').replace("steps = 300", "steps = 2"))
    runs = str(tmp_path / "runs")
    said = run("train", "fit", str(recipe), str(ran / "shards"), "--runs", runs)
    assert said.returncode == 0, said.all
    said = run("train", "evaluate", "--runs", runs, "--split", "train")
    assert said.returncode == 0, said.all
    assert "SYNTHETIC" in said.stdout
    metrics = json.loads((tmp_path / "runs/two-steps-tiny-world/eval/metrics.json").read_text())
    asked = metrics["systems"]["model"]["all"]["class"]["each"]
    assert set(asked) == set(CLASSES)
    assert all(0 < values["ndcg"] <= 1 for values in asked.values())


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


KILLS = ("sandbox/tiny/items/sentinel-*/*.json", "tiny-world/screen/*", "tiny-world/pixels/*.arrow",
         "tiny-world/receipts/labels.json", "tiny-world/shards/*.tar")  # fmt: skip
"""The run is killed as soon as one of these is there that was not there when it began."""


def test_killed_anywhere_the_same_shards(ran: Path, tiny_world: Path, manifest: Path, tmp_path: Path) -> None:
    """kill -9 of the whole process group at five moments, the first while the world is drawn, and the same command
    again until it ends."""
    command = [sys.executable, "-m", "pipeline", "build", str(manifest), "--to", "shards", "--out", str(tmp_path)]
    for pattern in KILLS:
        assert not list(tmp_path.glob(pattern)), pattern
        work = subprocess.Popen(
            [*command, "--scheduler", "serial"], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            while not list(tmp_path.glob(pattern)):
                assert work.poll() is None, f"it ended without {pattern}"
                time.sleep(0.005)
            assert work.poll() is None, f"it had ended when {pattern} was seen"
        finally:
            if work.poll() is None:
                os.killpg(work.pid, signal.SIGKILL)
            work.wait()
    subprocess.run([*command, "--scheduler", "serial"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert hashes(tmp_path / "tiny-world/shards") == hashes(ran / "shards")
    for folder in ("labels", "items/sentinel-2-l2a", "cogs/" + next(iter(sorted(SCENES)))):
        assert hashes(tmp_path / "sandbox/tiny" / folder) == hashes(tiny_world / folder)
