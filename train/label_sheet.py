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
from train.bucket import fetch_some
from train.checkpoint import write_whole
from train.contact_sheet import rows_sheet
from train.metrics import tie_break
from train.page import key_of, png_bytes
from train.shards import Samples, sensors_of, wanted_split

if TYPE_CHECKING:
    from PIL import Image

    from train.tar_file import TarFile

COLUMNS = 8
CANDIDATES = 400
"""Samples of a class that are looked at: enough to find clear ones, and no walk through a large corpus."""
SHEET_VERSION = 1
BLOCK = 512
RECORD_BYTES = 16 << 10
"""Of a tar in a bucket that are fetched behind a sample's arrays: its caption and its record take about 4 kB."""


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
    shares.fetch(have)
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
        self._behind: dict[int, memoryview] = {}
        """row -> what lies behind its arrays, of samples in buckets."""
        self._found: dict[int, dict[str, float]] = {}

    def of(self, row: int) -> dict[str, float]:
        """Shares of one sample; empty where its shard holds no record."""
        if row not in self._found:
            self._found[row] = {label["name"]: float(label["share"]) for label in self._record(row).get("labels", [])}
        return self._found[row]

    def fetch(self, rows: np.ndarray) -> None:
        """Ask for the records of samples in buckets, all at once: `of` would ask for one after the other."""
        wanted = [int(row) for row in rows if self._file(int(row)).url and int(row) not in self._behind]
        self._fetch(wanted, RECORD_BYTES)

    def _fetch(self, rows: list[int], count: int) -> None:
        ranges = [(self._file(row).url, *self._places(row, count)) for row in rows]
        self._behind |= dict(zip(rows, fetch_some(ranges), strict=True))

    def _record(self, row: int) -> dict[str, Any]:
        """The `.json` member of a sample: the tar is read from the end of its arrays on, up to the next sample."""
        chip, at = str(self._samples["chip_id"][row]), 0
        while header := self._bytes(row, at, BLOCK):
            try:
                member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
            except tarfile.HeaderError:
                break  # the end of the tar
            if not member.name.startswith(f"{chip}."):
                break
            at += BLOCK
            if member.name == f"{chip}.json":
                return self._parsed(self._bytes(row, at, member.size), f"{chip} in {self._file(row).name}")
            at += -(-member.size // BLOCK) * BLOCK
        return {}

    def _bytes(self, row: int, at: int, count: int) -> bytes:
        """`count` bytes of a tar, `at` bytes behind a sample's arrays; fewer where the tar ends."""
        tar, file = int(self._samples["tar"][row]), self._file(row)
        if file.url:
            if at + count > len(self._behind.get(row, b"")):
                self._fetch([row], max(at + count, RECORD_BYTES))
            return bytes(self._behind[row][at : at + count])
        if tar not in self._maps:
            self._maps[tar] = np.memmap(file.path, np.uint8, "r")
        start = self._places(row, 0)[0] + at
        return bytes(self._maps[tar][start : start + count])

    def _places(self, row: int, count: int) -> tuple[int, int]:
        """Where the members behind a sample's arrays begin in its tar, and at most `count` bytes on."""
        columns = self._samples.columns
        last = max(int(columns[f"offset_{g}"][row] + columns[f"length_{g}"][row]) for g in ("10m", "20m", "60m"))
        start = -(-last // BLOCK) * BLOCK
        return start, min(start + count, self._file(row).size)

    def _file(self, row: int) -> TarFile:
        return self._samples.files[int(self._samples["tar"][row])]

    @staticmethod
    def _parsed(data: bytes, where: str) -> dict[str, Any]:
        try:
            record: dict[str, Any] = from_json(data)
        except ValueError as error:
            raise Problem(f"a record is damaged: {error}", where=where, fix="make shards again", code=4) from None
        return record
