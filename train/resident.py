"""Samples that stay on the device: each is read from its tar once, and batches are gathered from there."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.sample import DTYPE, GROUPS, group_shape
from train.reader import Reader

if TYPE_CHECKING:
    from train.shards import Samples

SHARE = 0.25
"""Of the device's free memory that samples may take: the rest is the model's and its activations'."""


class Resident:
    """Arrays of samples on a device, filled as they are asked for: a run that goes on need not wait for all of them."""

    def __init__(self, samples: Samples, reader: Reader, device: torch.device) -> None:
        self._reader, self._device = reader, device
        self._lock = threading.Lock()
        self._place = np.zeros(len(samples), np.int64)
        """Row -> place among the samples of its sensor."""
        self._there = np.zeros(len(samples), bool)
        self._arrays: dict[str, dict[str, Tensor]] = {}
        for sensor in sorted(set(samples["sensor"])):
            mine = np.flatnonzero(samples["sensor"] == sensor)
            self._place[mine] = np.arange(len(mine))
            # As 16-bit integers: torch gathers no uint16, and bits are bits.
            self._arrays[sensor] = {
                name: torch.empty((len(mine), *shape), dtype=torch.int16, device=device)
                for name, shape in reader.shapes(sensor).items()
            }

    def batch(self, sensor: str, rows: np.ndarray) -> dict[str, Tensor]:
        """Arrays (B, C, H, W) by group on the device, uint16 or float16, of rows that share a sensor."""
        with self._lock:
            new = np.unique(rows[~self._there[rows]])
            if len(new):
                self._add(sensor, new)
        places = torch.from_numpy(self._place[rows]).to(self._device)
        kind = getattr(torch, DTYPE[sensor])
        return {name: kept.index_select(0, places).view(kind) for name, kept in self._arrays[sensor].items()}

    def _add(self, sensor: str, rows: np.ndarray) -> None:
        arrays = self._reader.buffers(sensor, len(rows))
        self._reader.read_into(rows, arrays)
        places = torch.from_numpy(self._place[rows]).to(self._device)
        for name, array in arrays.items():
            self._arrays[sensor][name].index_copy_(
                0, places, torch.from_numpy(array).view(torch.int16).to(self._device)
            )
        self._there[rows] = True


def fits(samples: Samples, device: torch.device) -> bool:
    """Whether all the samples' arrays take at most SHARE of the free memory of a device."""
    return bytes_of(samples) <= SHARE * free_bytes(device)


def bytes_of(samples: Samples) -> int:
    total = 0
    for sensor, groups in GROUPS.items():
        each = (
            sum(math.prod(group_shape(group, samples.size_px)) for group in groups) * np.dtype(DTYPE[sensor]).itemsize
        )
        total += each * int((samples["sensor"] == sensor).sum())
    return total


def free_bytes(device: torch.device) -> int:
    """Free memory of a device; of a CPU what Linux says is available, which counts the page cache in."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    found = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    return found.get("MemAvailable", 0) * 1024
