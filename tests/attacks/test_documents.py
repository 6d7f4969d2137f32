"""Each claim of the threat model names tests that are there."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

LINES = [line for line in (ROOT / "docs/threat-model.md").read_text().splitlines() if "::" in line]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_control_a_claim_has_its_tests(line: str) -> None:
    for file, name in re.findall(r"`(test_\w+\.py)::(\w+)`", line):
        path = next(p for p in (ROOT / "tests/attacks" / file, ROOT / "tests" / file) if p.exists())
        assert f"def {name}(" in path.read_text(), f"{file} has no {name}"


def test_control_every_claim_names_one() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    claims = [line for line in text.partition("## Not protected")[0].splitlines() if line.startswith("| ")]
    assert len(claims) > 10
    assert all("::" in claim for claim in claims[1:])
