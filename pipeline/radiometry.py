"""Numbers of pixels, as pure functions of arrays: Sentinel-2 offset, Sentinel-1 power and decibel, nodata shares."""

from __future__ import annotations

import numpy as np

from harmonize.problem import Problem

OFFSET_DN = 1000
"""BOA_ADD_OFFSET of Sentinel-2 L2A from processing baseline 04.00 on, for every band (ESA S2 PSD v14, 2022-01-25)."""
OFFSET_BASELINE = (4, 0)


def baseline_number(baseline: str, where: str) -> tuple[int, int]:
    """'05.10' -> (5, 10), to be compared as integers."""
    try:
        major, _, minor = baseline.partition(".")
        return int(major), int(minor or 0)
    except ValueError:
        raise Problem(f"'{baseline}' is not a processing baseline", where=where, fix="it looks like 05.10") from None


def offset_of(baseline: str | None, subtract: bool, where: str) -> int:
    """DN to subtract from an item: decided by its baseline, never by its date (archives are reprocessed).

    Raises Problem where the offset is wanted and the item does not state its baseline.
    """
    if not subtract:
        return 0
    if baseline is None:
        raise Problem(
            "the item has no s2:processing_baseline, so its offset is unknown",
            where=where,
            fix="set baseline_offset = false for this source if its pixels carry no +1000 offset",
        )
    return OFFSET_DN if baseline_number(baseline, where) >= OFFSET_BASELINE else 0


def remove_offset(dn: np.ndarray, offset: int) -> np.ndarray:
    """uint16 DN -> uint16 reflectance x 10000: 0 stays nodata, else max(DN - offset, 1)."""
    if offset == 0:
        return dn
    return np.where(dn == 0, 0, np.maximum(dn.astype(np.int32) - offset, 1)).astype(np.uint16)


def odd_values(raw: np.ndarray, sensor: str, unit: str, nodata: tuple[float, ...]) -> str | None:
    """Why raw pixels cannot be DN (s2) or backscatter in this unit (s1), as what follows a file's name; None else.

    Taken as they come, they would be stored as plausible numbers: complex ones without their phase, reflectance of 0 to
    1 rounded to 0 and 1, decibels in whole numbers as power.
    """
    if raw.dtype.kind not in "iuf":
        return f"holds {raw.dtype} values, which are no {'DN' if sensor == 's2' else 'backscatter'}"
    if sensor == "s1":
        whole = raw.dtype.kind in "iu" and unit == "power"
        return f"holds {raw.dtype} values, and unit = 'power' has no whole numbers" if whole else None
    if raw.dtype.kind == "f":
        valid = raw[np.isfinite(raw) & (raw != 0) & ~np.isin(raw, nodata)]
        if len(valid) and np.median(valid) < 2:
            return f"holds {raw.dtype} values about {np.median(valid):.3g}: reflectance, where DN (x 10000) are wanted"
    return None


def to_power(raw: np.ndarray, unit: str, nodata: tuple[float, ...]) -> np.ndarray:
    """float32 linear power of raw S1 pixels; nodata, values <= 0 and non-finite ones become NaN.

    This comes before any resampling: zero-filled borders would otherwise bleed inwards by some 2 dB.
    """
    power = raw.astype(np.float32)
    bad = ~np.isfinite(power)
    for value in nodata:
        bad |= raw == value
    if unit == "db":
        power = 10.0 ** (power / np.float32(10))
    elif unit == "amplitude":
        bad |= power <= 0
        power = power * power
    power[bad | (power <= 0)] = np.nan  # in place: a strip of a wide scene is 100 MB
    return power


def to_db(power: np.ndarray) -> np.ndarray:
    """float16 decibel of linear power; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        db = 10.0 * np.log10(power)
    return np.where(np.isfinite(db), db, np.nan).astype(np.float16)


def nodata_share(ten_metre: np.ndarray, sensor: str) -> float:
    """Share of 10 m pixels without data. s2: all four bands are 0. s1: any of VV, VH is NaN."""
    missing = np.isnan(ten_metre).any(axis=0) if sensor == "s1" else (ten_metre == 0).all(axis=0)
    return float(missing.mean())
