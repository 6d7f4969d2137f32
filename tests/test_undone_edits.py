"""An edit, a run that dies at some call, the edit taken back, a run: as if there never had been an edit.

What a run has replaced must not be taken for what an older receipt says was written. The short form takes some calls of
each edit, the long one (make soak) all of them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from deaths import Died, Life, fall
from micro import (
    CROSSWALKS,
    Wish,
    build,
    findings,
    hashes,
    identities,
    micro,
    quicken,
    seen_by_readers,
    write_files,
    write_region,
)
from world import World

from pipeline.receipt import read_receipt, receipt_name
from pipeline.store import Store

Score = Callable[[str, int, int], None]
EDITS = {
    "crosswalk": Wish(),
    "end": Wish(end="2020-06-04"),
    "max_nodata": Wish(max_nodata=0.5),
    "min_share": Wish(min_share=0.6),
    "seed": Wish(seed=7),
    "shard_mb": Wish(shard_mb=1),
}


@dataclass
class Done:
    """A region after a run."""

    world: World
    manifest: Path
    out: Path
    expected: dict[str, str]
    identities: dict[str, str]

    def edited(self, edit: str, back: bool = False) -> None:
        """The manifest or the crosswalk with the edit, or without it again."""
        write_region(self.world, "whole", Wish() if back else EDITS[edit])
        if edit == "crosswalk":
            (self.world.root / "labels/classes.csv").write_text(CROSSWALKS[0 if back else 1])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    root = tmp_path_factory.mktemp("undone")
    world = micro(root / "world")
    write_files(world)
    manifest, out = write_region(world, "whole"), root / "out"
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        build(manifest, out)
        yield Done(world, manifest, out, hashes(out), identities(manifest, out))


def calls_of(done: Done, edit: str, folder: Path) -> int:
    """How many calls a run after the edit has."""
    done.edited(edit)
    with (life := Life(Path(shutil.copytree(done.out, folder)))).lived():
        build(done.manifest, folder)
    return len(life.calls)


def undone(done: Done, edit: str, call: int, out: Path) -> str | None:
    """What is wrong after a death at this call of the edit's run and a run without it; None: nothing."""
    done.edited(edit)
    life = Life(Path(shutil.copytree(done.out, out)), call, die=fall)
    with pytest.raises(Died), life.lived():
        build(done.manifest, out)
    kind, name = life.calls[-1]
    told = f"{edit}, died at call {call}, {kind} of {name}: "
    if seen := seen_by_readers(out / "whole/shards"):
        return f"{told}shards.json says that the shards are whole: {seen}"
    done.edited(edit, back=True)
    build(done.manifest, out)
    if (got := hashes(out)) != done.expected:
        return f"{told}other files: {sorted(dict(got.items() ^ done.expected.items()))}"
    if identities(done.manifest, out) != done.identities:
        return f"{told}other receipts"
    found = findings(done.manifest, out)
    shutil.rmtree(out)
    return f"{told}{found}" if found else None


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_died_and_was_taken_back_leaves_nothing(done: Done, tmp_path: Path, edit: str) -> None:
    calls = calls_of(done, edit, tmp_path / "counted")
    some = random.Random(edit).sample(range(1, calls + 1), 2)
    wrong = [told for call in some if (told := undone(done, edit, call, tmp_path / f"at-{call}"))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.soak
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_died_anywhere_and_was_taken_back_leaves_nothing(
    done: Done, tmp_path: Path, edit: str, score: Score
) -> None:
    calls = calls_of(done, edit, tmp_path / "counted")
    wrong = [told for k in range(1, calls + 1) if (told := undone(done, edit, k, tmp_path / f"at-{k}"))]
    score("edits that died and were taken back", calls - len(wrong), calls)
    assert not wrong, "\n".join(wrong)


def test_candidates_that_no_receipt_names_are_not_read(done: Done, tmp_path: Path) -> None:
    """A job that was given up may finish its file when another run is long done."""
    out = Path(shutil.copytree(done.out, tmp_path / "out"))
    store = Store(str(out / "whole"))
    before = read_receipt(store, "chips")
    stray = store.list("screen")[0]
    store.write(stray.replace("-", "-late-"), store.read(stray))
    store.remove(receipt_name("chips"))
    assert build(done.manifest, out) == ["chips"]
    after = read_receipt(store, "chips")
    assert before
    assert after
    assert (after.rows_in, after.losers) == (before.rows_in, before.losers)
