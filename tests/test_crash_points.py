"""Every crash point: a run that dies at any call that changes the disk, and the run after it ends with the same bytes.

The short form takes 40 points; the long one (make soak) all of them, torn writes too, and 200 kills at random times.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from deaths import CODE
from forks import Forks
from micro import build, findings, hashes, identities, micro, seen_by_readers, write_files, write_region

from pipeline.stages import STAGES

Score = Callable[[str, int, int], None]
SEED = 6


@dataclass
class Straight:
    """A run that nothing disturbed, and what it did to the disk."""

    manifest: Path
    out: Path
    expected: dict[str, str]
    identities: dict[str, str]
    calls: list[tuple[str, str]]
    written: dict[str, int]
    elsewhere: list[str]
    seconds: float


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


@pytest.fixture(scope="module")
def straight(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    root = tmp_path_factory.mktemp("micro")
    world = micro(root / "world")
    write_files(world)
    manifest, out = write_region(world, "whole"), root / "straight"
    warm = forks.warm(manifest, root / "warm")
    assert warm["code"] == 0, (root / "warm.log").read_text()
    run = forks.run(manifest, out)
    assert (run["code"], run["threads"]) == (0, 1)
    calls = [(kind, name) for kind, name in run["calls"]]
    assert findings(manifest, out) == []
    return Straight(
        manifest, out, hashes(out), identities(manifest, out), calls, run["written"], run["elsewhere"], run["seconds"]
    )


def recovered(straight: Straight, out: Path) -> str | None:
    """What is wrong after the run that follows a death; None: nothing."""
    if seen := seen_by_readers(out / "whole/shards"):
        return f"shards.json says that the shards are whole: {seen}"
    done = [name for name in STAGES if (out / f"whole/receipts/{name}.json").exists()]
    ran = build(straight.manifest, out)
    if ran != list(STAGES)[len(done) :]:
        return f"{ran} ran again after {done} were done"
    if (got := hashes(out)) != straight.expected:
        return f"other files: {sorted(dict(got.items() ^ straight.expected.items()))}"
    if identities(straight.manifest, out) != straight.identities:
        return "other receipts"
    return "; ".join(findings(straight.manifest, out)) or None


def survived(straight: Straight, forks: Forks, folder: Path, points: list[tuple[int, bool]]) -> list[str]:
    """What went wrong at which of some points."""
    wrong = []
    for call, torn in points:
        out = folder / f"at-{call}{'-torn' if torn else ''}"
        run = forks.run(straight.manifest, out, die_at=call, torn=torn)
        assert run["code"] == CODE, f"call {call} was not reached: {run}, {Path(f'{out}.log').read_text()}"
        if problem := recovered(straight, out):
            kind, name = straight.calls[call - 1]
            wrong.append(f"died at call {call}{' (torn)' if torn else ''}, {kind} of {name}: {problem}")
    return wrong


def all_points(straight: Straight) -> list[tuple[int, bool]]:
    """Before every call, and in the middle of every write."""
    numbered = list(enumerate((kind for kind, _ in straight.calls), start=1))
    return [(n, False) for n, _ in numbered] + [(n, True) for n, kind in numbered if kind == "write"]


def test_there_are_points_of_every_kind(straight: Straight) -> None:
    kinds = Counter(kind for kind, _ in straight.calls)
    assert min(kinds[kind] for kind in ("open", "write", "fsync", "rename")) >= 25
    assert len(straight.calls) >= 150


def test_nothing_writes_beside_the_counter(straight: Straight) -> None:
    """Or there would be crash points that nobody counts: by C code, or outside of OUT."""
    assert straight.elsewhere == []
    sizes = {str(p.relative_to(straight.out)): p.stat().st_size for p in straight.out.rglob("*") if p.is_file()}
    assert straight.written == sizes


def test_a_file_is_on_disk_before_it_takes_its_place(straight: Straight) -> None:
    """For a power cut, which keeps no order but that of fsync."""
    pending: dict[str, str] = {}
    for kind, name in straight.calls:
        if kind in ("open", "write"):
            pending[Path(name).name] = name
        elif kind == "fsync":
            pending.pop(Path(name).name, None)
        elif kind == "rename":
            assert f".{Path(name).name}.tmp" not in pending, name
    assert not pending


def test_dying_at_forty_points_ends_with_the_same_bytes(
    straight: Straight, forks: Forks, tmp_path: Path, score: Score
) -> None:
    points = random.Random(SEED).sample(all_points(straight), 40)
    wrong = survived(straight, forks, tmp_path, points)
    score("crash points", len(points) - len(wrong), len(points))
    assert not wrong, "\n".join(wrong)


@pytest.mark.soak
def test_dying_at_every_point_ends_with_the_same_bytes(
    straight: Straight, forks: Forks, tmp_path: Path, score: Score
) -> None:
    points = all_points(straight)
    wrong = survived(straight, forks, tmp_path, points)
    score("crash points", len(points) - len(wrong), len(points))
    assert not wrong, "\n".join(wrong)


@pytest.mark.soak
def test_kills_at_random_times_end_with_the_same_bytes(
    straight: Straight, forks: Forks, tmp_path: Path, score: Score
) -> None:
    """One to three runs in a row are killed, so that recoveries are too."""
    chance, wrong, hit, lasts_s = random.Random(SEED), [], Counter[int](), straight.seconds
    for trial in range(200):
        out = tmp_path / f"kill-{trial}"
        for k in range(chance.randint(1, 3)):
            run = forks.run(straight.manifest, out, kill_after_s=chance.uniform(0, lasts_s))
            hit[k] += run["code"] == -9
            if run["code"] == 0:
                lasts_s = min(lasts_s, run["seconds"])  # the machine may be less busy now
        if problem := recovered(straight, out):
            wrong.append(f"trial {trial}: {problem}")
    score("random kills", 200 - len(wrong), 200)
    assert not wrong, "\n".join(wrong)
    assert hit[0] >= 100, "most runs ended before they were killed"
    assert hit[1], "no recovery was killed"
