"""The sample contract: what one chip looks like inside a shard, in memory and in the index.

This is the only module of `pipeline` that `train` may import, so it needs numpy and the standard library alone.
Layout and order of the bands: one array per native resolution, never resampled to 10 m on disk (DESIGN §4, §5).
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

FORMAT_VERSION = 1
"""Version of the shard layout, written into shards.json; a reader refuses any other."""

SENSORS: tuple[str, ...] = ("s1", "s2")
SPLITS = ("train", "val", "test")


OF_A_TAR: dict[str, type] = {"url": str, "nsamples": int, "bytes": int, "sha256": str, "split": str, "sensor": str}
"""What shards.json says of each tar."""
SMALLEST_SAMPLE = 4 * 512
"""Bytes in a tar: headers and data of an array and of a text."""
LARGEST_PX = 6000
"""Side of the largest chip, in manifests and for a reader: arrays of this size are taken from memory before any of
their bytes is read."""


@dataclass(frozen=True)
class Group:
    """Bands of one sensor that share a native resolution, stored as one array (C, H, W)."""

    name: str
    """Member name in the tar without `.npy`, also the column prefix in the index: `10m`, `20m` or `60m`."""
    resolution_m: int
    bands: tuple[str, ...]
    """Order along C."""


GROUPS: dict[str, tuple[Group, ...]] = {
    "s2": (
        Group("10m", 10, ("B02", "B03", "B04", "B08")),
        Group("20m", 20, ("B05", "B06", "B07", "B8A", "B11", "B12")),
        Group("60m", 60, ("B01", "B09")),
    ),
    "s1": (Group("10m", 10, ("VV", "VH")),),
}
DTYPE: dict[str, str] = {"s2": "uint16", "s1": "float16"}
"""s2: reflectance x 10000 with the baseline offset removed, 0 = nodata. s1: gamma0 in dB, NaN = nodata."""
UNIT: dict[str, str] = {"s2": "reflectance x 10000", "s1": "gamma0 dB"}
SAID = {
    "bands": {s: {g.name: list(g.bands) for g in groups} for s, groups in GROUPS.items()},
    "dtype": DTYPE,
    "unit": UNIT,
}
"""What shards.json says of the arrays: who reads it would read other channels if it said something else."""
CANONICAL_BANDS: dict[str, tuple[str, ...]] = {
    "s2": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
    "s1": ("VV", "VH"),
}
"""Order wherever the bands of a sensor are stacked into one array."""


def group_shape(group: Group, size_px: int) -> tuple[int, int, int]:
    """Shape (C, H, W) of a group in a chip of `size_px` 10 m pixels."""
    side = size_px * 10 // group.resolution_m
    return len(group.bands), side, side


def to_npy(array: np.ndarray) -> bytes:
    """`.npy` bytes, format 1.0, C order: the uncompressed member of a shard."""
    return b"".join(npy_pieces(array))


def npy_pieces(array: np.ndarray) -> tuple[bytes, memoryview]:
    """The same in two pieces, header and little-endian pixels, which are not copied where they lie so already."""
    return npy_header(array.shape, array.dtype.newbyteorder("<").str), _bytes(array)


def npy_shape(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, Fortran order, type and length of the header that `.npy` bytes of format 1.0 begin with.

    Raises ValueError for whatever else they begin with: numpy parses the text of a damaged header as Python.
    """
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not .npy format 1.0")
        shape, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    except (SyntaxError, tokenize.TokenError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"no readable .npy header: {type(error).__name__}") from None
    return shape, fortran, kind, stream.tell()


@functools.cache
def npy_header(shape: tuple[int, ...], kind: str) -> bytes:
    """What the `.npy` bytes of a little-endian array of this shape and type (`<u2`) begin with."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": kind})
    return buffer.getvalue()


def _bytes(array: np.ndarray) -> memoryview:
    """The little-endian bytes of an array in C order."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return memoryview(little.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def from_npy(data: bytes) -> np.ndarray:
    """Array of `.npy` bytes; object arrays (pickles) are refused."""
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def arrays_sha256(arrays: list[np.ndarray]) -> str:
    """sha256 (hex) of the raw little-endian bytes of a sample's arrays, in member order 10m, 20m, 60m."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(_bytes(array))
    return digest.hexdigest()


def stack_canonical(arrays: dict[str, np.ndarray], sensor: str) -> np.ndarray:
    """All bands of one chip on the 10 m grid, (12, H, W) or (2, H, W), coarser bands repeated, canonical order."""
    side = arrays["10m"].shape[-1]
    planes: dict[str, np.ndarray] = {}
    for group in GROUPS[sensor]:
        repeat = side // arrays[group.name].shape[-1]
        grown = arrays[group.name].repeat(repeat, axis=-2).repeat(repeat, axis=-1)
        planes.update(zip(group.bands, grown, strict=True))
    return np.stack([planes[band] for band in CANONICAL_BANDS[sensor]])


def quicklook(arrays: dict[str, np.ndarray], sensor: str) -> np.ndarray:
    """RGB uint8 (H, W, 3) with a fixed stretch, so that looks are comparable across chips.

    s2: B04 B03 B02, reflectance 0-0.3. s1: VV, VH, VV-VH. VV and VH from -25 to 0 dB, the difference from 0 to 25 dB
    (it is positive over nearly all land, so the same 25 dB width reads best). Nodata is black.
    """
    ten = arrays["10m"]
    if sensor == "s2":
        rgb = ten[[2, 1, 0]].astype(np.float32) / 3000.0
    else:
        vv, vh = ten.astype(np.float32)
        rgb = np.stack([(vv + 25) / 25, (vh + 25) / 25, (vv - vh) / 25])
    rgb = np.nan_to_num(np.clip(rgb, 0, 1), nan=0.0)
    return (rgb.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)


def quicklook_jpeg(arrays: dict[str, np.ndarray], sensor: str) -> bytes:
    """The quick look as JPEG bytes (quality 90, 4:4:4), the `.jpg` member."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(quicklook(arrays, sensor)).save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def shards_wrong(about: Any) -> str | None:
    """What is wrong with the value of a shards.json, its format version and vocabulary apart; None: nothing is.

    Who reads shards may have them from anybody, so nothing of it is believed before this.
    """
    if not isinstance(about, dict):
        return "it is no JSON object"
    shards, index, size = about.get("shards"), about.get("index"), about.get("size_px")
    if not isinstance(shards, list) or not all(_is_shard(shard) for shard in shards):
        return "its list of tars is damaged: each has " + ", ".join(OF_A_TAR)
    for url in (shard["url"] for shard in shards):
        if PurePosixPath(url).name != url or url in ("", ".", "..") or "\0" in url or len(url.encode()) > 255:
            return f"its list of tars is damaged: {url[:80]!r} is not a tar beside it"
    if len(urls := [shard["url"] for shard in shards]) != len(set(urls)):
        return f"it names {next(url for url in urls if urls.count(url) > 1)} twice"
    if not isinstance(index, dict) or index.get("file") != "index.parquet" or not isinstance(index.get("sha256"), str):
        return "it does not name index.parquet with its sha256"
    if type(size) is not int or size % 6 or not 0 < size <= LARGEST_PX:
        return f"its size_px is no multiple of 6 up to {LARGEST_PX}"
    region = about.get("region")
    if not isinstance(region, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", region):
        return "its region is no name"
    for key, wanted in SAID.items():
        if about.get(key) != wanted:
            return f"its {key} are not those of this program"
    described = about.get("described_by") or {}
    if not isinstance(described, dict) or not all(isinstance(one, str) for one in described.values()):
        return "its list of what describes it is damaged"
    return None


def _is_shard(shard: Any) -> bool:
    if not isinstance(shard, dict) or any(type(shard.get(key)) is not kind for key, kind in OF_A_TAR.items()):
        return False
    counts = 0 <= shard["nsamples"] * SMALLEST_SAMPLE <= shard["bytes"] < 2**63
    return counts and shard["split"] in SPLITS and shard["sensor"] in SENSORS
