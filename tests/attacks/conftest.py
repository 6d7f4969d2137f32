"""Each test here is an attack; how many of them are refused is a line of the score."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

HEAVY = ("rasterio", "rioxarray", "geopandas", "pyogrio", "pystac_client", "PIL.Image")
"""What attacks are measured without."""


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    import importlib

    for name in HEAVY:
        importlib.import_module(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    item.stash[PASSED] = item.stash.get(PASSED, True) and report.passed
    return report


PASSED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def counted(request: pytest.FixtureRequest, score: Callable[[str, int, int], None]) -> Iterator[None]:
    yield
    if request.node.name.startswith("test_control"):  # that the measure works, and what is no attack passes
        return
    score("attacks refused", int(request.node.stash.get(PASSED, False)), 1)
