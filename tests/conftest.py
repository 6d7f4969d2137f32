"""Fixtures shared by the tests: where the real data is, and one run of the pipeline on it."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "real"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Images of 12 px are too little work to share: on a busy machine threads that wait for each other took ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_folder() -> Path:
    if not (REAL / "real-samples.toml").exists():
        pytest.skip("the real samples are not beside this checkout (../shared/real)")
    return REAL


@pytest.fixture(scope="session")
def real_run(real_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the region real-samples after a run of all stages."""
    from pipeline import runner

    out = tmp_path_factory.mktemp("real")
    region, store = runner.load(real_folder / "real-samples.toml", str(out))
    runner.run_upto(region, store, "shards", quiet=True)
    return out / "real-samples"


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny sample world (synthetic), drawn once: its folder, `…/sandbox/tiny`."""
    from pipeline.sandbox.build import build_world

    return build_world("tiny", tmp_path_factory.mktemp("out") / "sandbox")


SCORES = pytest.StashKey[dict[str, tuple[int, int]]]()


@pytest.fixture(scope="session")
def score(pytestconfig: pytest.Config) -> Callable[[str, int, int], None]:
    """`score(what, passed, total)`: a line of the table at the end; calls for one name add up."""
    lines = pytestconfig.stash.setdefault(SCORES, {})

    def add(what: str, passed: int, total: int) -> None:
        before = lines.get(what, (0, 0))
        lines[what] = (before[0] + passed, before[1] + total)

    return add


LONGEST = (
    "test_world_runs",
    "test_order",
    "test_loader",
    "test_sandbox",
    "test_crash_points",
    "test_cluster",
    "test_real",
)
"""Files that take longest: first, so that no process is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of several processes (`-n`), each tells its scores to the one that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["scores"] = dict(session.config.stash.get(SCORES, {}))


class FromWorkers:
    """What pytest-xdist asks; registered where it is in use alone."""

    def pytest_testnodedown(self, node: Any) -> None:
        lines = node.config.stash.setdefault(SCORES, {})
        for what, (passed, total) in getattr(node, "workeroutput", {}).get("scores", {}).items():
            before = lines.get(what, (0, 0))
            lines[what] = (before[0] + passed, before[1] + total)


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(FromWorkers())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The score, as measured in this run."""
    if lines := config.stash.get(SCORES, {}):
        terminalreporter.section(f"score, {dt.date.today()}")
        for what, (passed, total) in sorted(lines.items()):
            terminalreporter.write_line(f"{what}: {passed:,} of {total:,}")
