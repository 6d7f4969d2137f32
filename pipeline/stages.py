"""The stages: what each reads, does and writes. `python -m pipeline` prints this table: it is the newcomer's map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import captions, chips, labels, pixels, scenes, screen, shards
from pipeline.region import Region
from pipeline.work import Outcome, Work


def _nothing(_: Any) -> list[Path]:
    return []


@dataclass(frozen=True)
class Stage:
    """One step. Raise `version` whenever what it writes changes: the runner then runs it again everywhere."""

    name: str
    version: int
    reads: tuple[str, ...]
    writes: str
    does: str
    run: Callable[[Work], Outcome]
    params: Callable[[Region], dict[str, Any]]
    outside: Callable[[Region], list[Path]] = _nothing
    """Files that the manifest names and that are not ours."""
    outside_of_inputs: Callable[[Work], list[Path]] = _nothing
    """Files that the stage's input tables name."""


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "scenes", 3, (), "scenes.parquet", "finds the STAC items to use, without duplicates",
            scenes.find_scenes, scenes.params, scenes.outside,
        ),
        Stage(
            "screen", 3, ("scenes",), "screen/*.parquet", "grid x footprints = candidates, with clouds and coverage",
            screen.screen_scenes, screen.params, scenes.region_files, screen.outside,
        ),
        Stage(
            "chips", 2, ("scenes", "screen"), "chips.parquet", "chooses acquisitions per cell and sensor",
            chips.choose_chips, chips.params, chips.outside,
        ),
        Stage(
            "pixels", 3, ("scenes", "chips"), "pixels.parquet", "reads strips, harmonises, cuts and stores chips",
            pixels.cut_pixels, pixels.params, outside_of_inputs=pixels.outside,
        ),
        Stage(
            "labels", 5, ("chips",), "labels.parquet", "area share of every label code and event per cell",
            labels.measure_labels, labels.params, labels.outside,
        ),
        Stage(
            "captions", 4, ("chips", "labels"), "captions.parquet", "label sets, captions and splits",
            captions.write_captions, captions.params, captions.outside,
        ),
        Stage(
            "shards", 6, ("chips", "pixels", "labels", "captions"), "shards/*",
            "WebDataset tars, index, dataset card, Croissant, STAC, sha256 list",
            shards.pack_shards, shards.params,
        ),
    )
}  # fmt: skip


def upto(last: str) -> list[Stage]:
    """The stages from the first to `last`, in order."""
    names = list(STAGES)
    return [STAGES[name] for name in names[: names.index(last) + 1]]


def after(first: str) -> list[str]:
    """`first` and every stage that depends on it, in order."""
    touched = {first}
    for stage in STAGES.values():
        if touched & set(stage.reads):
            touched.add(stage.name)
    return [name for name in STAGES if name in touched]
