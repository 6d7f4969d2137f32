"""The micro world: as little as makes every stage write, so that a run takes a moment. Four cells of 120 m, one S2 and
two S1 scenes, a label raster, one flood; two regions of it, `whole` and `west`."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import shapely
from world import World

from harmonize.lock import LOCK
from pipeline import labels, pixels, runner
from pipeline.grid import Cell
from pipeline.receipt import read_receipt
from pipeline.stages import STAGES
from pipeline.store import Store
from pipeline.verify import Target, verify
from pipeline.work import Work

CROSSWALKS = (
    "code,name,class,status\n1,a,water,judgement\n2,b,crops,judgement\n0,none,,judgement\n",
    "code,name,class,status\n1,a,trees,judgement\n2,b,crops,judgement\n0,none,,judgement\n",
    "code,name,class,status\n1,a,grass,judgement\n2,b,trees,judgement\n0,none,,judgement\n",
)


@dataclass(frozen=True)
class Wish:
    """What of a manifest the tests edit."""

    max_nodata: float = 0.05
    min_share: float = 0.05
    min_event_share: float = 0.05
    end: str = "2020-12-31"
    seed: int = 0
    quicklook: bool = False
    shard_mb: float = 0.01


def micro(root: Path) -> World:
    s1_dates = ("2020-06-02T05:00:00Z", "2020-06-06T05:00:00Z")
    return World(root, size_m=240, size_px=12, s1_dates=s1_dates, crosswalk=CROSSWALKS[0])


def write_files(world: World) -> None:
    """Everything but manifests."""
    x, y = world.west, world.north
    world.event("flood", shapely.box(x, y - 120, x + 60, y), start="2020-06-04", effect_days=20)
    world.tail = ""
    world.write().unlink()


def write_region(world: World, name: str, wish: Wish | None = None) -> Path:
    """A region's manifest: all of the world, or its western column of cells."""
    wish = wish or Wish()
    west, south, east, north = world.bounds
    tail = (
        '[[events]]\nid = "flood"\nkind = "flood"\nsource = "geojson"\nhref = "events/flood.geojson"\n'
        f"start = 2020-06-04\neffect_days = 20\nmin_event_share = {wish.min_event_share}\n"
        f"[captions]\nmin_share = {wish.min_share}\n"
        f"[shards]\nseed = {wish.seed}\nquicklook = {str(wish.quicklook).lower()}\nshard_mb = {wish.shard_mb}\n"
    )
    manifest = {
        "bounds": [round(b, 7) for b in (west, south, east if name == "whole" else (west + east) / 2, north)],
        "end": wish.end,
        "max_nodata": wish.max_nodata,
    }
    crosswalk = world.root / "labels/classes.csv"
    before = crosswalk.read_bytes()
    path = replace(world, name=name, manifest=manifest, tail=tail).write_manifest()
    path.write_text(path.read_text().replace("block_km = 1.2", "block_km = 0.12\ntrain = 0.4\nval = 0.3\ntest = 0.3"))
    crosswalk.write_bytes(before)
    return path


def build(manifest: Path, out: Path) -> list[str]:
    """Run all stages; names of those that ran."""
    region, store = runner.load(manifest, str(out))
    return [receipt.stage for receipt in runner.run_upto(region, store, "shards", quiet=True)]


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file but receipts, drafts of killed runs too; a lock that a run left behind holds nobody."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK and ("receipts" not in path.parts or path.name.startswith("."))
    }


def identities(manifest: Path, out: Path) -> dict[str, str]:
    """Stage -> identity of its receipt."""
    _, store = runner.load(manifest, str(out))
    found = {stage: read_receipt(store, stage) for stage in STAGES}
    return {stage: receipt.identity for stage, receipt in found.items() if receipt}


def findings(manifest: Path, out: Path, share: float = 1.0) -> list[str]:
    """What verify has to say of a region that is done; its notes too, which are about receipts that do not fit."""
    _, store = runner.load(manifest, str(out))
    report = verify(Target(store, "shards/"), share, quiet=True)
    return [f"{f.file} {f.sample} {f.what}" for f in report.findings] + report.notes


def seen_by_readers(folder: Path) -> list[str]:
    """What is wrong with a folder of shards that says it is whole; nothing where it does not say so."""
    if not (folder / "shards.json").exists():
        return []
    return [f"{f.file} {f.sample} {f.what}" for f in verify(Target(Store(str(folder)), ""), 1.0, quiet=True).findings]


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Runs of this process without what costs most of their time and changes no file: what was read of a raster once is
    remembered, as the tests that want this never change one, and no disk is waited for."""
    strips: dict[Any, Any] = {}
    shares: dict[Any, Any] = {}
    read_strip, measure = pixels.read_strip, labels._measure_window

    def strip_read_once(scene: dict[str, Any], members: list[dict[str, Any]], *rest: Any) -> Any:
        key = (scene["scene"], *(chip["chip_id"] for chip in members))
        if key not in strips:
            strips[key] = read_strip(scene, members, *rest)
        return strips[key]

    def measured_once(work: Work, job: tuple[Any, list[Cell]]) -> Any:
        key = tuple(job[1])
        if key not in shares:
            shares[key] = measure(work, job)
        return shares[key]

    versions = runner.versions_here()
    patch.setattr(pixels, "read_strip", strip_read_once)
    patch.setattr(labels, "_measure_window", measured_once)
    patch.setattr(runner, "versions_here", lambda: versions)
    patch.setattr(os, "fsync", lambda _: None)
