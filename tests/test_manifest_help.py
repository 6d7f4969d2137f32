"""`python -m pipeline manifest` names every key that a manifest may have, and no other."""

from __future__ import annotations

from commands import run

from pipeline.manifest_help import INSIDE, TABLES


def test_every_key_is_told_with_its_meaning() -> None:
    said = run("pipeline", "manifest")
    assert said.returncode == 0
    lines = said.stdout.splitlines()
    for table, model, _ in TABLES:
        if table:
            assert any(line.startswith(table) for line in lines)
        for name in set(model.model_fields) - INSIDE:
            assert any(line.startswith(f"  {name} ") for line in lines), (table, name)
    assert not [line for line in lines if line.startswith("  path ")]
    assert max(map(len, lines)) <= 120


def test_defaults_and_types_are_those_of_the_models() -> None:
    said = " ".join(run("pipeline", "manifest").stdout.split())
    for words in (
        "size_px whole number default 120",
        "method spatial | stratified default spatial",
        "flood | fire | earthquake required",
        "bounds [number, …] west, south, east, north",
    ):
        assert words in said
