"""`shards --info`: what a folder holds, without running or changing anything."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import shapely
from test_bad_input import cli
from test_runner import build, hashes
from world import World

from harmonize.vocabulary import BIT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("info")
    world = World(root / "w", dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))
    x, y = world.west, world.north
    world.event("river", shapely.box(x, y - 600, x + 600, y), start="2020-06-20", licence="CC-BY-NC-4.0")
    path = world.write()
    path.write_text(path.read_text().replace("[sources.s1-here]\n", '[sources.s1-here]\nlicence = "CC-BY-4.0"\n'))
    build(path, root / "out")
    return root


def cells(said: str) -> dict[str, list[str]]:
    """First word or words of a line -> the others, split at two blanks."""
    parts = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines() if line.strip()]
    return {line[0] if line[0] not in ("train", "val", "test") else f"{line[0]} {line[1]}": line[1:] for line in parts}


def test_counts_bytes_licences_and_versions_are_told(built: Path) -> None:
    folder = built / "out/tiny/shards"
    before = hashes(built, receipts=True)
    code, said = cli("shards", str(built / "w/tiny.toml"), "--out", str(built / "out"), "--info")
    assert code == 0, said
    told, index = cells(said), pq.read_table(folder / "index.parquet").to_pylist()
    for (split, sensor), count in Counter((r["split"], r["sensor"]) for r in index).items():
        tars = list(folder.glob(f"{split}-{sensor}-*.tar"))
        size = f"{sum(p.stat().st_size for p in tars) / 1e6:.1f} MB"
        assert told[f"{split} {sensor}"] == [sensor, str(count), str(len(tars)), size]
    for name in ("water", "crops", "flooded area", "trees"):
        has = [r for r in index if r["label_mask"] >> BIT[name] & 1]
        unknown = sum(not r["known_mask"] >> BIT[name] & 1 for r in index)
        expected = [sum(r["split"] == split for r in has) for split in ("train", "val", "test")]
        assert told[name] == [*map(str, expected), str(unknown)]
    bear = sum("river" in r["events"] for r in index)
    assert bear > 0
    assert re.search(rf"^event +samples\nriver +{bear}$", said, re.M)
    assert (told["s1-here"], told["s2-here"]) == (["CC-BY-4.0"], ["unknown"])
    assert told["river"] == ["CC-BY-NC-4.0"]
    assert f"tiny: {len(index)} samples of 60 px" in said
    assert "taken 2020-06-01 to 2020-07-01" in said
    assert "format version 1, vocabulary version 1, .txt holds the caption 'paper', with quick looks" in said
    assert "SYNTHETIC" not in said
    for place in ("out/tiny/shards", "out/tiny"):
        assert cli("shards", str(built / place), "--info") == (0, said)
    assert hashes(built, receipts=True) == before


def test_what_an_older_or_drawn_folder_does_not_say(built: Path, tmp_path: Path) -> None:
    source = built / "out/tiny/shards"
    about = json.loads((source / "shards.json").read_text())
    for key in ("licences", "quicklook", "caption_style"):
        del about[key]
    (tmp_path / "shards.json").write_text(json.dumps(about | {"synthetic": True}))
    (tmp_path / "index.parquet").write_bytes((source / "index.parquet").read_bytes())
    code, said = cli("shards", str(tmp_path), "--info")
    assert code == 0, "no tar is opened"
    assert "SYNTHETIC" in said
    assert "licences: these shards are older than their list" in said
    assert "quick looks unsaid" in said


@pytest.mark.parametrize("what", ["nothing", "damaged", "a manifest before any run"])
def test_where_there_are_no_shards(built: Path, tmp_path: Path, what: str) -> None:
    named, code = tmp_path / "shards", 2
    named.mkdir()
    if what == "damaged":
        (named / "shards.json").write_text("{")
        code = 4
    elif what != "nothing":
        named = built / "w/tiny.toml"
    found, said = cli("shards", str(named), "--out", str(tmp_path), "--info")
    assert found == code
    assert "Traceback" not in said
    assert "fix:" in said
