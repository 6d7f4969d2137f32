"""Reading a manifest from disk."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from harmonize.manifest import Manifest, parse, parse_toml
from harmonize.problem import Problem, nearest

FIRST_DAY, LAST_DAY = dt.date(1900, 1, 1), dt.date(2200, 12, 31)
"""Days of a manifest lie between them: no image is older, and sums of days stay in the calendar."""
MOST_BYTES = 4 << 20
"""Of a manifest."""


def _utc_day(value: Any) -> Any:
    """A time as its UTC day: with a zone it is moved, without one it is taken as UTC."""
    if isinstance(value, str) and "T" in value:
        with contextlib.suppress(ValueError):
            value = dt.datetime.fromisoformat(value)
    if isinstance(value, dt.datetime):
        value = value.astimezone(dt.UTC).date() if value.tzinfo else value.date()
    return value


def _in_calendar(value: dt.date) -> dt.date:
    if not FIRST_DAY <= value <= LAST_DAY:
        raise ValueError(f"{value} is no day of this record | give a day from {FIRST_DAY} to {LAST_DAY}")
    return value


Day = Annotated[dt.date, BeforeValidator(_utc_day), AfterValidator(_in_calendar)]
"""A UTC day of a manifest."""

__all__ = ["Day", "Manifest", "parse", "read_toml"]


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; a missing or malformed file is a Problem naming it."""
    try:
        if path.stat().st_size > MOST_BYTES:
            fix = "a manifest has some kilobytes; name the file of it"
            raise Problem(
                f"this file has {path.stat().st_size >> 20} MiB, and no manifest has", where=str(path), fix=fix
            )
        return parse_toml(path.read_text(encoding="utf-8"), path)
    except (FileNotFoundError, NotADirectoryError):
        others = {p.name for p in path.parent.glob("*.toml")} - {"pyproject.toml"} if path.parent.is_dir() else set()
        fix = nearest(path.name, others) if others else "check the path; it is relative to the folder you are in"
        raise Problem("there is no such manifest", where=str(path), fix=fix) from None
    except IsADirectoryError:
        raise Problem("this is a folder, a manifest is a .toml file", where=str(path), fix="name the file") from None
    except PermissionError:
        raise Problem("this manifest may not be read", where=str(path), fix="check its permissions") from None
    except UnicodeDecodeError as error:
        raise Problem(f"this is not UTF-8: {error}", where=str(path), fix="save it as UTF-8") from None
