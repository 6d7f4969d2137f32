"""--retry-failed: rows that could not be read are tried again, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from test_bad_input import cli
from test_runner import hashes
from world import World

from pipeline import opening, pixels


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "w", size_m=1200, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scenes that were read, in order; `S2-1` is on a server in trouble as long as "trouble" stands in the list."""
    seen: list[str] = []
    plain = pixels.read_strip

    def one(scene: dict[str, Any], *rest: Any) -> Any:
        if scene["scene"] == "S2-1" and "trouble" in seen:
            raise opening.UnreadableRaster("B02.tif: HTTP response code: 503")
        seen.append(scene["scene"])
        return plain(scene, *rest)

    monkeypatch.setattr(pixels, "read_strip", one)
    return seen


def builder(manifest: Path, out: Path) -> Callable[..., tuple[int, str]]:
    return lambda *more: cli("build", str(manifest), "--to", "shards", "--out", str(out), *more)


def test_only_what_failed_is_tried_again(world: World, read: list[str], tmp_path: Path) -> None:
    manifest, out = world.write(), tmp_path / "out"
    build = builder(manifest, out)
    assert builder(manifest, tmp_path / "straight")()[0] == 0
    read[:] = ["trouble"]
    code, said = build()
    assert code == 3
    assert "--retry-failed tries those rows again" in said
    assert read == ["trouble", "S1-0", "S2-0"]
    failed = [row for row in pq.read_table(out / "tiny/pixels.parquet").to_pylist() if row["dropped"]]
    assert {row["dropped"] for row in failed} == {"unreadable: B02.tif: HTTP response code: 503"}
    before = hashes(out)

    read[:] = ["trouble"]
    code, said = build()
    assert (code, read, "pixels:" in said) == (3, ["trouble"], False), "without the word nothing is tried"
    code, said = build("--retry-failed")
    assert code == 3
    assert f"pixels: {len(failed)} rows could not be read and are tried again" in said
    assert "shards:" not in said, "it failed as before, so nothing after it changes"
    assert hashes(out) == before

    read.clear()
    code, said = build("--retry-failed")
    assert (code, read) == (0, ["S2-1"])
    assert hashes(out) == hashes(tmp_path / "straight"), "as if it had never failed"
    read.clear()
    assert build("--retry-failed")[0] == 0
    assert not read, "nothing is left to be tried"


def test_one_stage_alone(world: World, read: list[str], tmp_path: Path) -> None:
    manifest, out = world.write(), tmp_path / "out"
    read[:] = ["trouble"]
    assert builder(manifest, out)()[0] == 3
    read.clear()
    assert cli("pixels", str(manifest), "--out", str(out))[0] == 3
    assert not read
    assert cli("pixels", str(manifest), "--out", str(out), "--retry-failed")[0] == 0
    assert read == ["S2-1"]


def test_a_retry_that_is_stopped_goes_on(
    world: World, read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, out = world.write(), tmp_path / "out"
    build = builder(manifest, out)
    assert builder(manifest, tmp_path / "straight")()[0] == 0
    read[:] = ["trouble"]
    build()
    read.clear()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tables.write_table", lambda *_: (_ for _ in ()).throw(SystemExit(130)))
        assert build("--retry-failed")[0] == 130
    assert build()[0] == 0, "without the word too: the stage is not done"
    assert hashes(out) == hashes(tmp_path / "straight")


def test_a_mended_local_file_is_seen_without_the_word(world: World, tmp_path: Path) -> None:
    manifest, out = world.write(), tmp_path / "out"
    path = world.root / "cogs/s2_0_B03.tif"
    whole = path.read_bytes()
    assert builder(manifest, tmp_path / "straight")()[0] == 0
    path.write_bytes(whole[:2000])
    assert builder(manifest, out)()[0] == 3
    path.write_bytes(whole)
    assert builder(manifest, out)()[0] == 0
    assert hashes(out) == hashes(tmp_path / "straight")
