"""Contact sheets of what the labels say: a row of chips per class, to see whether it looks like what it is called."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.problem import Problem
from harmonize.record import from_json
from harmonize.vocabulary import CLASSES
from train.checkpoint import write_whole
from train.contact_sheet import rows_sheet
from train.metrics import tie_break
from train.page import key_of, png_bytes
from train.shards import Samples, sensors_of, wanted_split

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = 8
CANDIDATES = 400
"""Samples of a class that are looked at: enough to find clear ones, and no walk through a large corpus."""
SHEET_VERSION = 1
BLOCK = 512


def write_label_sheets(samples: Samples, folder: Path, split: str | None) -> list[Path]:
    """labels-s2.png and labels-s1.png in `folder`; one that is there for these samples already stays."""
    chosen = wanted_split(samples, split) if split else samples
    key = hashlib.sha256(f"{samples.sha256}/{split}/{SHEET_VERSION}".encode()).hexdigest()
    paths = []
    for sensor in reversed(sensors_of(chosen)):
        path = folder / f"labels-{sensor}.png"
        paths.append(path)
        if key_of(path) == key:
            continue
        where = f"split {split}" if split else "all splits"
        title = f"What the labels say: {', '.join(samples.regions)}, {sensor}, {where}"
        write_whole(path, png_bytes(label_sheet(chosen.of(sensor=sensor), title), key))
    return paths


def label_sheet(samples: Samples, title: str) -> Image.Image:
    """A row of up to 8 samples per class of the vocabulary, largest shares first, with share and date below each."""
    shares = Shares(samples)
    ties = tie_break(samples["chip_id"])
    rows = []
    for k, name in enumerate(CLASSES):
        chosen = clearest(samples, k, shares, ties)
        said = [(shares.of(row).get(name), str(samples["datetime"][row])[:10]) for row in chosen]
        notes = [f"{'share ?' if share is None else f'{100 * share:.0f} %'}  {day}" for share, day in said]
        rows.append((name.replace(" ", "\n"), chosen, notes))
    return rows_sheet(title, samples, rows, COLUMNS)


def clearest(samples: Samples, bit: int, shares: Shares, ties: np.ndarray) -> np.ndarray:
    """Rows of samples that show a class best, one per cell: 8 drawn by hash from the 24 with the largest shares.

    The largest alone would be 8 looks of the purest spot; of the drawn ones the largest share stands first.
    """
    have = np.flatnonzero(samples["label_mask"].astype(np.int64) >> bit & 1)
    have = have[np.argsort(ties[have])][:CANDIDATES]
    share = {int(row): shares.of(int(row)).get(CLASSES[bit]) or 0.0 for row in have}
    best: dict[str, int] = {}
    for row in sorted(share, key=lambda r: (-share[r], ties[r])):
        best.setdefault(str(samples["cell"][row]), row)
    drawn = sorted(list(best.values())[: 3 * COLUMNS], key=lambda r: ties[r])[:COLUMNS]
    return np.array(sorted(drawn, key=lambda r: (-share[r], ties[r])), np.int64)


class Shares:
    """class -> area share of samples, out of the `.json` members beside their arrays in the tars."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._maps: dict[int, np.ndarray] = {}
        self._found: dict[int, dict[str, float]] = {}

    def of(self, row: int) -> dict[str, float]:
        """Shares of one sample; empty where its shard holds no record."""
        if row not in self._found:
            self._found[row] = {label["name"]: float(label["share"]) for label in self._record(row).get("labels", [])}
        return self._found[row]

    def _record(self, row: int) -> dict[str, Any]:
        """The `.json` member of a sample: the tar is read from the sample's first array on, up to the next sample."""
        samples = self._samples
        tar, chip = int(samples["tar"][row]), str(samples["chip_id"][row])
        if tar not in self._maps:
            self._maps[tar] = np.memmap(samples.files[tar].local(), np.uint8, "r")
        data, at = self._maps[tar], int(samples["offset_10m"][row]) - BLOCK
        while at + BLOCK <= len(data):
            try:
                member = tarfile.TarInfo.frombuf(data[at : at + BLOCK].tobytes(), "utf-8", "strict")
            except tarfile.HeaderError:
                break  # the end of the tar
            if not member.name.startswith(f"{chip}."):
                break
            start = at + BLOCK
            if member.name == f"{chip}.json":
                return self._parsed(data[start : start + member.size].tobytes(), f"{chip} in {samples.tars[tar]}")
            at = start + -(-member.size // BLOCK) * BLOCK
        return {}

    @staticmethod
    def _parsed(data: bytes, where: str) -> dict[str, Any]:
        try:
            record: dict[str, Any] = from_json(data)
        except ValueError as error:
            raise Problem(f"a record is damaged: {error}", where=where, fix="make shards again", code=4) from None
        return record
