"""Reading a manifest from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harmonize.manifest import Manifest, parse, parse_toml
from harmonize.problem import Problem, nearest

__all__ = ["Manifest", "parse", "read_toml"]


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; a missing or malformed file is a Problem naming it."""
    try:
        return parse_toml(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        others = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        fix = nearest(path.name, others) if others else "check the path; it is relative to the folder you are in"
        raise Problem("there is no such manifest", where=str(path), fix=fix) from None
    except IsADirectoryError:
        raise Problem("this is a folder, a manifest is a .toml file", where=str(path), fix="name the file") from None
    except UnicodeDecodeError as error:
        raise Problem(f"this is not UTF-8: {error}", where=str(path), fix="save it as UTF-8") from None
