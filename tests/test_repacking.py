"""Shards that are written again: whole tars are replaced or added, the others keep their bytes, on disk or in a bucket."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import bucket, s3_address  # noqa: F401  fixtures
from test_cluster import two  # noqa: F401  a fixture
from test_runner import hashes
from world import World

from pipeline import runner, states
from pipeline.cluster import SERIAL, Scheduler
from pipeline.region import Region
from pipeline.shards import _order, plan_tars
from pipeline.tars import planned_bytes
from pipeline.verify import Target, target_of, verify


@pytest.fixture
def world(tmp_path: Path) -> World:
    """24 chips a date in tars of some six each."""
    dates = ("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z")
    return World(tmp_path / "w", dates=dates, tail="[shards]\nshard_mb = 0.25\n")


def run(manifest: Path, out: str | Path, scheduler: Scheduler = SERIAL) -> None:
    region, store = runner.load(manifest, str(out))
    runner.run_upto(region, store, "shards", quiet=True, scheduler=scheduler)


def tars(out: Path) -> dict[str, tuple[int, int, bytes]]:
    """Name -> inode, mtime and bytes: a tar that is written again, even the same, is another file."""
    found = sorted((out / "tiny/shards").glob("*.tar"))
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in found}


def plans(out: Path) -> dict[str, list[str]]:
    """Tar -> its samples, in order."""
    found: dict[str, list[str]] = {}
    for row in pq.read_table(out / "tiny/shards/index.parquet").to_pylist():
        found.setdefault(row["shard"], []).append(row["chip_id"])
    return found


@pytest.mark.parametrize("jobs", ["serial", "two"])
def test_more_chips_add_or_replace_whole_tars(world: World, tmp_path: Path, jobs: str, two: Scheduler) -> None:  # noqa: F811
    scheduler = two if jobs == "two" else SERIAL
    world.manifest = {"end": "2020-06-15"}
    out = tmp_path / "out"
    run(world.write(), out, scheduler)
    before, planned = tars(out), plans(out)
    world.manifest = {}
    run(world.write_manifest(), out, scheduler)
    after, replanned = tars(out), plans(out)
    same = {name for name in before if planned[name] == replanned.get(name)}
    assert {name for name in same if "-s1-" in name} == {name for name in before if "-s1-" in name}, (
        "S1 has no new chip"
    )
    assert len(after) > len(before) > len(same) > 1
    for name in same:
        assert after[name] == before[name], f"{name} was touched, and its samples are the same"
    run(world.root / "tiny.toml", tmp_path / "fresh")
    assert hashes(tmp_path / "fresh") == hashes(out)


def planned(names: list[str]) -> dict[str, tuple[str, ...]]:
    """Tar -> its samples, of chips of one kind in tars of about 400."""
    shards = SimpleNamespace(seed=3, quicklook=False, shard_mb=400 * planned_bytes("s2", 120, False) / 1e6)
    table = pa.table({"split": ["train"] * len(names), "sensor": ["s2"] * len(names), "chip_id": names})
    ordered = table.take(_order(table, 3))
    chips = ordered["chip_id"].to_pylist()
    tars = plan_tars(ordered, cast(Region, SimpleNamespace(size_px=120, shards=shards)))
    return {name: tuple(chips[first : first + count]) for name, first, count in tars}


def test_a_new_chip_changes_one_tar() -> None:
    names = [f"32632_{k}_4000_s2_20200601t100000" for k in range(20_000)]
    before, after = planned(names), planned([*names, "32632_1_4001_s2_20200601t100000"])
    assert len(before) == 50
    assert all(0.8 < len(samples) / 400 < 1.2 for samples in before.values())
    assert sorted(itertools.chain(*before.values())) == sorted(names)
    assert list(before) == list(after)
    assert sum(before[name] != after[name] for name in before) == 1
    assert list(planned(names[:1])) == ["train-s2-000000.tar"]


def test_other_captions_replace_the_tars_that_hold_them(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(world.write(), out)
    before, old = tars(out), pq.read_table(out / "tiny/shards/index.parquet").to_pylist()
    path = world.root / "labels/classes.csv"
    path.write_text(path.read_text().replace("1,a,water", "1,a,trees"))
    run(world.root / "tiny.toml", out)
    after, new = tars(out), pq.read_table(out / "tiny/shards/index.parquet").to_pylist()
    changed = {a["shard"] for a, b in zip(old, new, strict=True) if a["label_mask"] != b["label_mask"]}
    assert {name for name in before if before[name] != after[name]} == changed
    assert changed < set(before), "some tars hold no chip of that class"


def test_fewer_chips_leave_no_tar_behind(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(world.write(), out)
    many = set(tars(out))
    world.manifest = {"end": "2020-06-15"}
    run(world.write_manifest(), out)
    assert set(tars(out)) < many
    assert verify(target_of(str(out / "tiny"), "data"), 1.0, quiet=True).findings == []


def same_in_a_bucket(world: World, tmp_path: Path, out: str) -> Target:
    """The region in a bucket: the same bytes as on disk, whole, and a damaged tar found and written again."""
    world.size_m = 1200
    manifest = world.write()
    run(manifest, tmp_path / "disk")
    run(manifest, out)
    target = target_of(str(manifest), out)
    for name, digest in hashes(tmp_path / "disk/tiny").items():
        assert hashlib.sha256(target.store.read(name)).hexdigest() == digest, name
    report = verify(target, 1.0, quiet=True)
    assert report.findings == []
    assert report.samples == 12
    name = next(name for name in target.store.list("shards") if name.endswith(".tar"))
    data = target.store.read(name)
    target.store.write(name, data[:9000] + bytes([data[9000] ^ 1]) + data[9001:])
    found = verify(target, 0.0, quiet=True).findings
    assert {f.file for f in found} == {name}
    region, store = runner.load(manifest, out)
    runner.redo(region, store, "shards", "shards", quiet=True)
    assert target.store.read(name) == data
    target.store.write(name, data[:-1024])
    assert states.states(region, store, "shards")["shards"].reason == (
        f"{name} has {len(data) - 1024} bytes, {len(data)} were written"
    )
    return target


def test_a_bucket_in_memory_has_the_same_bytes(world: World, tmp_path: Path) -> None:
    import fsspec

    try:
        same_in_a_bucket(world, tmp_path, f"memory://{tmp_path.name}")
    finally:
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


@pytest.mark.soak  # the short form is in test_buckets.py
def test_a_bucket_of_s3_has_the_same_bytes(world: World, tmp_path: Path, bucket: str) -> None:  # noqa: F811
    same_in_a_bucket(world, tmp_path, bucket)
