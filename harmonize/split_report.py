"""What a split is worth: how the classes are spread over it, and what of train can be seen in val and test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harmonize.splits import SplitShares
from harmonize.vocabulary import CLASSES

SPLITS = ("train", "val", "test")
NEAR_M = (1200.0, 5000.0)
"""Distances for which the report says how many cells have a train cell at most so far away: a default chip, 5 km."""
TOUCH_M = 10.0
"""One pixel: up to so much counts as nothing. A metre of the grid is up to 0.1 % more or less than one of the ground,
and two cells with one of 1.2 km between them are to be 1.2 km apart wherever they lie in their zone."""
UNEVEN = 0.1
"""Relative deviation of a class's share from the corpus's that is marked for people."""


@dataclass(frozen=True)
class SplitColumns:
    """The chips that are kept, one entry of each column per chip; n chips, in any order."""

    cell: Sequence[str]
    block: Sequence[str]
    split: Sequence[str]
    sensor: Sequence[str]
    scene: Sequence[str]
    events: Sequence[Sequence[str]]
    """Ids of the events whose label the chip bears; may be empty."""
    label_mask: np.ndarray
    known_mask: np.ndarray
    lon: np.ndarray
    """Of the cell's centre, degrees."""
    lat: np.ndarray
    epsg: np.ndarray
    """CRS of the cell, EPSG:326zz or 327zz."""
    side_m: float
    """Side of a cell."""


def split_report(chips: SplitColumns, target: SplitShares | None = None) -> dict[str, Any]:
    """Numbers of every split, class by class, and of leakage from train into val and test; JSON-able.

    `chips`, `cells`, `held`: how much there is. `share` of a class: of the chips where it is known whether it is there;
    `deviation`: that share over the corpus's, minus 1. `held`: part of the class's cells that the split holds, to be
    compared with `target`, the share the manifest asks for. A share of nothing is None. Shares are 0-1.

    For leakage see `_leakage`. 650,000 chips take some seconds and less than 1 GB.
    """
    split, names = _codes(chips.split, SPLITS)
    assert len(names) == len(SPLITS), f"no such split: {', '.join(names[len(SPLITS) :])}"
    cell, cells = _codes(chips.cell)
    first = _first_of_each(cell, np.asarray(chips.lon), np.asarray(chips.lat))
    sensor, sensors = _codes(chips.sensor)
    masks = np.zeros(len(cells), np.int64)
    np.bitwise_or.at(masks, cell, np.asarray(chips.label_mask, np.int64))
    columns = {"cells": cell, "blocks": _codes(chips.block)[0], "scenes": _codes(chips.scene)[0]}
    corpus = _classes(chips, np.ones(len(split), bool), masks, None)
    splits: dict[str, Any] = {}
    for k, name in enumerate(SPLITS):
        inside = split == k
        counts = {what: len(np.unique(codes[inside])) for what, codes in columns.items()}
        splits[name] = {
            "chips": int(inside.sum()),
            **counts,
            "held": _ratio(counts["cells"], len(cells)),
            "target": None if target is None else vars(target)[name],
            "sensors": {
                s: n
                for s, j in sorted(zip(sensors, range(len(sensors)), strict=True))
                if (n := int((inside & (sensor == j)).sum()))
            },
            "classes": _classes(chips, inside, masks[np.unique(cell[inside])], corpus),
        }
    points = corners(chips.lon[first], chips.lat[first], chips.epsg[first], chips.side_m)
    report = {"chips": len(split), "cells": len(cells), "side_m": chips.side_m, "corpus": corpus, "splits": splits}
    report["leakage"] = {SPLITS[k]: _leakage(split, k, columns, points, chips.events) for k in (1, 2)}
    return report | {"warnings": _warnings(report)}


def _codes(values: Iterable[str], names: Iterable[str] = ()) -> tuple[np.ndarray, list[str]]:
    """Each value's number, int64 (n,), and the names by number; `names` fixes the first of them."""
    values = list(values)
    numbers = {name: k for k, name in enumerate(dict.fromkeys([*names, *values]))}
    return np.fromiter(map(numbers.__getitem__, values), np.int64, len(values)), list(numbers)


def _first_of_each(cell: np.ndarray, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Index of one row of each cell, int64 (cells,): on the grid all are alike; of imported chips that lie differently
    in one cell the westernmost stands for all."""
    order = np.lexsort((lat, lon, cell))
    return order[np.flatnonzero(np.diff(cell[order], prepend=-1))]


def _ratio(part: float, whole: float) -> float | None:
    return round(float(part / whole), 6) if whole else None


def _classes(
    chips: SplitColumns, inside: np.ndarray, masks: np.ndarray, corpus: dict[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """class -> its numbers among the chips `inside` (bool, n); masks: of their cells, all chips of each together."""
    labels, known = np.asarray(chips.label_mask)[inside], np.asarray(chips.known_mask)[inside]
    found: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(CLASSES):
        number, of = int((labels >> k & 1).sum()), int((known >> k & 1).sum())
        row: dict[str, Any] = {"chips": number, "known": of, "share": _ratio(number, of)}
        row["cells"] = int((masks >> k & 1).sum())
        if corpus is not None:
            whole = corpus[name]
            row["deviation"] = _ratio(number * whole["known"] - whole["chips"] * of, whole["chips"] * of)
            row["held"] = _ratio(row["cells"], whole["cells"])
        found[name] = row
    return found


def _leakage(
    split: np.ndarray,
    k: int,
    columns: dict[str, np.ndarray],
    points: np.ndarray,
    events: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """What val or test (split k) shares with train.

    cells, blocks, scenes, events: how many are in both; no cell may be. `chips_of_scenes`: part of the split's chips
    that come from a scene train has chips of. `nearest_m`, `median_m`: from a cell of this split to the nearest one of
    train, as `distances` measures; `touching`, `within`: part of the split's cells that touch a train cell, or have one
    at most so many metres away. None where one of the two is empty.
    """
    train, mine = split == 0, split == k
    both = {what: np.intersect1d(codes[train], codes[mine]) for what, codes in columns.items()}
    of_events = [{name for row in np.flatnonzero(rows) for name in events[int(row)]} for rows in (train, mine)]
    leak: dict[str, Any] = {what: len(codes) for what, codes in both.items()}
    leak["events"] = sorted(of_events[0] & of_events[1])
    leak["chips_of_scenes"] = _ratio(np.isin(columns["scenes"][mine], both["scenes"]).sum(), mine.sum())
    cells = columns["cells"]
    far = distances(points[np.unique(cells[mine])], points[np.unique(cells[train])])
    far = np.where(far <= TOUCH_M, 0.0, far)
    known = bool(len(far)) and bool(np.isfinite(far).all())
    leak["nearest_m"] = round(float(far.min()), 1) if known else None
    leak["median_m"] = round(float(np.median(far)), 1) if known else None
    leak["touching"] = _ratio((far == 0).sum(), len(far)) if known else None
    leak["within"] = {
        f"{near:g}": _ratio((far <= near + TOUCH_M).sum(), len(far)) if known else None for near in NEAR_M
    }
    return leak


A_M, F = 6_378_137.0, 1 / 298.257223563
"""WGS84: semi-major axis and flattening."""
R_M = 6_371_008.8
"""Mean radius of the earth, to turn a chord into a way along the surface; at 100 km they differ by one metre."""


def corners(lon: np.ndarray, lat: np.ndarray, epsg: np.ndarray, side_m: float) -> np.ndarray:
    """Corners of square cells in earth-centred metres (WGS84), (n, 4, 3); of 1.2 km cells to 0.1 m.

    lon, lat: of the centres, degrees (n,). epsg: UTM zone of each, which says how the square is turned and scaled (grid
    convergence and point scale of the transverse Mercator on the sphere; Snyder 1987, doi:10.3133/pp1395, eq. 8-4).
    """
    lam, phi = np.radians(np.asarray(lon, float)), np.radians(np.asarray(lat, float))
    off = np.radians((np.asarray(lon, float) - (np.asarray(epsg) % 100 * 6 - 183) + 180) % 360 - 180)
    turn = np.arctan(np.tan(off) * np.sin(phi))
    half = side_m / 2 / (0.9996 * (1 + (off * np.cos(phi)) ** 2 / 2))
    e2 = F * (2 - F)
    n = A_M / np.sqrt(1 - e2 * np.sin(phi) ** 2)
    centre = np.stack([n * np.cos(phi) * np.cos(lam), n * np.cos(phi) * np.sin(lam), n * (1 - e2) * np.sin(phi)], -1)
    east = np.stack([-np.sin(lam), np.cos(lam), np.zeros_like(lam)], -1)
    north = np.stack([-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)], -1)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    x, y = half[:, None] * (cos * east - sin * north), half[:, None] * (sin * east + cos * north)
    return np.stack([centre + a * x + b * y for a in (-1, 1) for b in (-1, 1)], 1)


def distances(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """Metres from each of `these` cells to the nearest of `those`, (n,); infinite where there are none.

    these, those: corners (n, 4, 3), (m, 4, 3). Measured between the nearest corners: on one grid that is the gap
    between the squares. Across the border of two zones, or off the grid, it is up to half a side more.
    """
    from scipy.spatial import cKDTree

    if not len(these) or not len(those):
        return np.full(len(these), np.inf)
    tree = cKDTree(those.reshape(-1, 3), balanced_tree=False, compact_nodes=False)
    chord = tree.query(these.reshape(-1, 3), workers=-1)[0].reshape(-1, 4).min(1)
    return 2 * R_M * np.arcsin(np.minimum(chord / (2 * R_M), 1))


def _warnings(report: dict[str, Any]) -> list[str]:
    """What a person must know before using the split."""
    found: list[str] = []
    for name, split in report["splits"].items():
        if not split["chips"]:
            found.append(f"split {name} is empty")
            continue
        lacking = [c for c, row in split["classes"].items() if report["corpus"][c]["chips"] and not row["chips"]]
        if lacking:
            found.append(f"split {name} has no {', '.join(sorted(lacking))}")
    for name, leak in report["leakage"].items():
        if leak["cells"]:
            found.append(f"{leak['cells']} cells are in train and in {name}")
        if leak["events"]:
            found.append(f"events in train and in {name}: {', '.join(leak['events'])}")
    return found


def split_notes(report: dict[str, Any]) -> list[str]:
    """The report in a few lines: chips per split, leakage, warnings."""
    counts = ", ".join(f"{name} {split['chips']}" for name, split in report["splits"].items())
    return [f"chips per split: {counts}", *leakage_lines(report), *(f"warning: {w}" for w in report["warnings"])]


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report as a table for people: sizes, classes, leakage, warnings."""
    splits, lines = report["splits"], [f"{'':<20}" + "".join(f"{name:>14}" for name in SPLITS)]
    for what in ("chips", "cells", "blocks", "scenes"):
        lines.append(f"{what:<20}" + "".join(f"{split[what]:>14,}" for split in splits.values()))
    lines.append(f"{'share of cells':<20}" + "".join(f"{_percent(split['held']):>14}" for split in splits.values()))
    if splits["train"]["target"] is not None:
        lines.append(f"{'  asked for':<20}" + "".join(f"{_percent(s['target']):>14}" for s in splits.values()))
    lines.append("share of the chips that have a class (* more than a tenth from the corpus's), and of its cells held:")
    for name, whole in report["corpus"].items():
        if whole["chips"]:
            lines.append(f"  {name:<18}" + "".join(f"{_class_text(s['classes'][name]):>14}" for s in splits.values()))
    return [*lines, *leakage_lines(report), *(f"warning: {text}" for text in report["warnings"])]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _class_text(row: dict[str, Any]) -> str:
    mark = "*" if row["deviation"] is not None and abs(row["deviation"]) > UNEVEN else ""
    held = "-" if row["held"] is None else f"{row['held']:.0%}"
    return f"{mark}{_percent(row['share'])} {held:>4}"


def leakage_lines(report: dict[str, Any]) -> list[str]:
    """One line for val and one for test: how near train is, and what they share with it."""
    lines = []
    for name, leak in report["leakage"].items():
        if leak["nearest_m"] is None:
            continue
        near = ", ".join(f"{_percent(share)} within {float(m) / 1000:g} km" for m, share in leak["within"].items())
        lines.append(
            f"train to {name}: nearest {leak['nearest_m']:,.0f} m, median {leak['median_m']:,.0f} m; of {name}'s cells "
            f"{_percent(leak['touching'])} touch one of train, {near}; {leak['scenes']} scenes are in both "
            f"({_percent(leak['chips_of_scenes'])} of {name}'s chips), {len(leak['events'])} events"
        )
    return lines
