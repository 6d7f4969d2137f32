"""Fixtures shared by the tests: where the real data is, and one run of the pipeline on it."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The score, as measured in this run."""
    if lines := config.stash.get(SCORES, {}):
        terminalreporter.section(f"score, {dt.date.today()}")
        for what, (passed, total) in sorted(lines.items()):
            terminalreporter.write_line(f"{what}: {passed:,} of {total:,}")
