"""Any order of edits, deaths and runs: what is there after a run is what a fresh build of the same manifests makes, and
no stage ran again whose inputs were as before.

A death is simulated in this process (`deaths.fall`): from its call on, nothing changes the disk any more, `finally` and
`except` neither; tests/test_crash_points.py holds real deaths.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from deaths import Died, Life, fall
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from micro import CROSSWALKS, Wish, build, findings, hashes, micro, quicken, seen_by_readers, write_files, write_region

from pipeline import runner, states
from pipeline.receipt import Receipt, read_receipt
from pipeline.stages import STAGES

Score = Callable[[str, int, int], None]
NAMES = ("whole", "west")
EDITS: dict[str, tuple[Any, ...]] = {
    "max_nodata": (0.05, 0.5),
    "min_share": (0.05, 0.6),
    "end": ("2020-12-31", "2020-06-04"),
    "seed": (0, 7),
    "shard_mb": (0.01, 1),
}
CALLS = st.one_of(st.integers(1, 12), st.integers(1, 50), st.integers(1, 190))
"""Where a run may die: after an edit most have few calls to die at, one from the start has 190."""


class Machine(RuleBasedStateMachine):
    """Regions of the micro world in one OUT. `fresh` holds what fresh builds make, by all that decides it."""

    home: Path
    fresh: dict[Any, dict[str, str]]
    count: dict[str, int]

    @initialize()
    def start(self) -> None:
        self.count["examples"] += 1
        self.root = Path(tempfile.mkdtemp(dir=self.home))
        self.out = self.root / "out"
        shutil.copytree(self.home / "world", self.root / "world")
        self.world = micro(self.root / "world")
        self.crosswalk = 0
        self.wishes: dict[str, Wish] = {NAMES[0]: Wish()}
        write_region(self.world, NAMES[0])
        self.receipts: dict[str, dict[str, Receipt]] = {}
        self.cut_short: dict[str, set[str]] = {}
        self.whole: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def manifests(self) -> dict[str, Path]:
        return {name: self.root / f"world/{name}.toml" for name in self.wishes}

    def present(self) -> st.SearchStrategy[str]:
        return st.sampled_from(sorted(self.wishes))

    @precondition(lambda self: len(self.wishes) < len(NAMES))
    @rule(data=st.data())
    def add_region(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name in NAMES if name not in self.wishes]))
        self.wishes[name] = Wish()
        write_region(self.world, name)

    @precondition(lambda self: self.wishes)
    @rule(data=st.data())
    def drop_region(self, data: st.DataObject) -> None:
        name = data.draw(self.present())
        self.manifests[name].unlink()
        shutil.rmtree(self.out / name, ignore_errors=True)
        for known in (self.wishes, self.receipts, self.cut_short):
            known.pop(name, None)
        self.whole.discard(name)

    @rule(step=st.integers(1, len(CROSSWALKS) - 1))
    def edit_crosswalk(self, step: int) -> None:
        self.crosswalk = (self.crosswalk + step) % len(CROSSWALKS)
        (self.root / "world/labels/classes.csv").write_text(CROSSWALKS[self.crosswalk])

    @precondition(lambda self: self.wishes)
    @rule(data=st.data(), key=st.sampled_from(sorted(EDITS)))
    def edit_threshold(self, data: st.DataObject, key: str) -> None:
        self.edit(data.draw(self.present()), key)

    def edit(self, name: str, key: str) -> None:
        """The other value of a key of a region's manifest."""
        one, other = EDITS[key]
        new = other if getattr(self.wishes[name], key) == one else one
        self.wishes[name] = replace(self.wishes[name], **{key: new})
        write_region(self.world, name, self.wishes[name])

    @precondition(lambda self: self.wishes)
    @rule(data=st.data(), die_at=CALLS, torn=st.booleans(), key=st.sampled_from([None, *sorted(EDITS)]))
    def crash(self, data: st.DataObject, die_at: int, torn: bool, key: str | None) -> None:
        """A death, mostly in the run after an edit: a run that has nothing to do has nowhere to die."""
        name = data.draw(self.present())
        if key:
            self.edit(name, key)
        life, begun = Life(self.out, die_at, torn, fall), []
        with pytest.MonkeyPatch.context() as patch:
            plain = runner._run
            patch.setattr(runner, "_run", lambda stage, *rest: begun.append(stage.name) or plain(stage, *rest))
            try:
                with life.lived():
                    build(self.manifests[name], self.out)
            except Died:
                self.count["deaths"] += 1
                self.whole.discard(name)
                self.cut_short.setdefault(name, set()).update(begun[-1:])
            else:
                self.whole.add(name)
        assert seen_by_readers(self.out / name / "shards") == []
        region, store = runner.load(self.manifests[name], str(self.out))
        assert list(states.states(region, store, "shards")) == list(STAGES)
        self.look_for_needless(name, begun[:-1] if life.dead else begun)

    @precondition(lambda self: self.wishes)
    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        name = data.draw(self.present())
        self.look_for_needless(name, build(self.manifests[name], self.out))
        self.whole.add(name)
        self.check(name)

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def run_again(self, data: st.DataObject) -> None:
        """Nothing at all is done, also when all files were touched."""
        name = data.draw(st.sampled_from(sorted(self.whole)))
        self.look_for_needless(name, build(self.manifests[name], self.out))
        for path in self.root.glob("world/**/*"):
            os.utime(path)
        with (life := Life(self.out)).lived():
            assert build(self.manifests[name], self.out) == []
        assert life.calls == []
        self.check(name)

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def verify(self, data: st.DataObject) -> None:
        """What a run has finished is whole, also when the manifest was edited since."""
        name = data.draw(st.sampled_from(sorted(self.whole)))
        assert findings(self.manifests[name], self.out, 0.05) == []

    @invariant()
    def a_step(self) -> None:
        self.count["steps"] += 1

    def check(self, name: str) -> None:
        """The region's folder is what a fresh build makes."""
        key = (name, self.crosswalk, *asdict(self.wishes[name]).values())
        if key not in self.fresh:
            with tempfile.TemporaryDirectory(dir=self.home) as folder:
                build(self.manifests[name], Path(folder))
                self.fresh[key] = hashes(Path(folder) / name)
        got = hashes(self.out / name)
        assert got == self.fresh[key], sorted(dict(got.items() ^ self.fresh[key].items()))
        self.count["checks"] += 1

    def look_for_needless(self, name: str, ran: list[str]) -> None:
        """A stage that ran to its end although its last run did so too, with the same inputs."""
        _, store = runner.load(self.manifests[name], str(self.out))
        known, cut_short = self.receipts.setdefault(name, {}), self.cut_short.setdefault(name, set())
        for stage in ran:
            receipt = read_receipt(store, stage)
            assert receipt
            if stage in known and stage not in cut_short and inputs_of(known[stage]) == inputs_of(receipt):
                self.count["needless re-runs"] += 1
                raise AssertionError(f"{stage} of {name} ran again although nothing had changed")
            known[stage] = receipt
            cut_short.discard(stage)
        self.count["stages"] += len(ran)


def inputs_of(receipt: Receipt) -> Any:
    """All that decides what a stage writes."""
    return receipt.version, receipt.params, receipt.inputs, [(o.path, o.sha256) for o in receipt.outside]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("machine")
    write_files(micro(root / "world"))
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        yield root


def explore(home: Path, score: Score, examples: int, steps: int, derandomize: bool) -> None:
    counts = dict.fromkeys(("examples", "checks", "deaths", "needless re-runs", "stages", "steps"), 0)
    Machine.home, Machine.fresh, Machine.count = home, {}, counts
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=derandomize,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),  # to make a failure shorter would take minutes
        ),
    )
    print(counts)
    score("state-machine steps", counts["steps"], counts["steps"])
    score("needless re-runs", counts["needless re-runs"], counts["stages"])
    assert counts["checks"] >= examples
    assert counts["deaths"] >= examples // 2


def test_any_order_of_edits_deaths_and_runs_is_as_a_fresh_build(home: Path, score: Score) -> None:
    explore(home, score, examples=20, steps=30, derandomize=True)


@pytest.mark.soak
def test_many_orders_of_edits_deaths_and_runs_are_as_a_fresh_build(home: Path, score: Score) -> None:
    explore(home, score, examples=200, steps=75, derandomize=False)
