"""Receipt: what a stage did, written last, so that its existence means the stage is whole."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.problem import Problem
from harmonize.record import sealed, unsealed
from pipeline.store import file_sha256

if TYPE_CHECKING:
    from pipeline.store import Store


UNREADABLE = "unreadable"
"""The only reason with a text of its own behind it: `unreadable: <file>: <error>`."""


@dataclass(frozen=True)
class Outside:
    """A file that is not ours but decides what a stage writes: a crosswalk, an item, a raster."""

    path: str
    """Relative to the region's manifest, so that a moved checkout needs no re-run."""
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Receipt:
    stage: str
    version: int
    params: dict[str, Any]
    inputs: dict[str, str]
    """Stage -> identity of its receipt."""
    outside: tuple[Outside, ...]
    outputs: dict[str, str]
    """File below the region's folder -> sha256."""
    rows_in: int
    kept: int
    dropped: dict[str, int]
    sizes: dict[str, int] = field(default_factory=dict)
    """File -> bytes: what was cut off is seen without reading it. Older receipts have none."""
    losers: dict[str, int] = field(default_factory=dict)
    """Candidates that were not chosen, by reason (they never were rows)."""
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def identity(self) -> str:
        """Hash of what decides the outputs and of the outputs; free of clocks, mtimes and machines."""
        parts = [self.stage, self.version, self.params, self.inputs, self.outputs]
        return digest([*parts, [[o.path, o.sha256] for o in self.outside]])


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value, keys sorted."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def counted_as(reason: str) -> str:
    """What a dropped row is counted as: its reason, but without the file and the error of an unreadable one."""
    return UNREADABLE if reason.startswith(f"{UNREADABLE}:") else reason


def receipt_name(stage: str) -> str:
    return f"receipts/{stage}.json"


def write_receipt(store: Store, receipt: Receipt) -> None:
    """Raises Problem where another run has taken over."""
    store.check_held()
    store.write(receipt_name(receipt.stage), sealed(asdict(receipt)))


def read_receipt(store: Store, stage: str) -> Receipt | None:
    """The receipt of a stage, None where there is none or it is damaged (the stage then runs again)."""
    name = receipt_name(stage)
    if not store.exists(name):
        return None
    try:
        data = unsealed(store.read(name))
        data["outside"] = tuple(Outside(**o) for o in data["outside"])
        data["notes"] = tuple(data["notes"])
        receipt = Receipt(**data)
    except (ValueError, TypeError, KeyError, IsADirectoryError):
        return None
    return receipt if _is_one(receipt) else None


def _is_one(receipt: Receipt) -> bool:
    """Whether the fields are of their kinds: older receipts have no hash that says so."""
    texts = (receipt.inputs, receipt.outputs, receipt.versions)
    counts = (receipt.dropped, receipt.sizes, receipt.losers)
    return (
        isinstance(receipt.params, dict)
        and all(isinstance(found, dict) for found in (*texts, *counts))
        and all(isinstance(value, str) for found in texts for value in found.values())
        and all(isinstance(value, int) for found in counts for value in found.values())
        and all(isinstance(value, int) for value in (receipt.version, receipt.rows_in, receipt.kept))
    )


def why_none(store: Store, stage: str) -> str:
    """Why `read_receipt` gives none."""
    return "its receipt is damaged" if store.exists(receipt_name(stage)) else "it has not run yet"


def look_at(paths: list[Path], base: Path, before: Receipt | None) -> tuple[Outside, ...]:
    """The outside files as they are now; a file whose size and mtime stand as before is not read again."""
    known = {o.path: o for o in before.outside} if before else {}
    seen = []
    for path in sorted(set(paths)):
        name = Path(os.path.relpath(path, base)).as_posix()
        if not path.exists():
            raise Problem(
                f"a file that a table names is not there: {path}",
                where=str(base),
                fix="restore it, or make redo STAGE=scenes REGION=… to see what the catalogue has now",
            )
        stat = path.stat()
        old = known.get(name)
        if old and (old.size, old.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            seen.append(old)
        else:
            seen.append(Outside(name, stat.st_size, stat.st_mtime_ns, file_sha256(path)))
    return tuple(seen)


def versions_here() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("closp", "numpy", "pyarrow", "rasterio", "rioxarray", "shapely", "pyproj"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
