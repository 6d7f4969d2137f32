"""The embedded sample world: a small synthetic planet, written as COGs with STAC items and served by a real STAC API.

A manifest names it as `api = "sandbox"` (the demo size) or `api = "sandbox:tiny"` (for tests). Its files are named
`sandbox://<size>/…` in manifests and tables, so that no table depends on the folder or the port. Synthetic: no claim
about the real world rests on it.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from harmonize.problem import Problem

SCHEME = "sandbox://"
VERSION = 2
"""Of the world: raised when any of its files changes. Part of the hash of every stage that reads it."""
NAMES = ("demo", "tiny")
"""Of the worlds there are, see `places.SIZES`."""
SYNTHETIC = "Synthetic: drawn by closp's sample world, shows no place on Earth."


def size_of(api: str | None) -> str | None:
    """Which world an `api` names: `sandbox` is the demo size. None: it is no sandbox."""
    name, _, size = (api or "").partition(":")
    return (size or "demo") if name == "sandbox" else None


def size_named_by(href: str | None) -> str | None:
    """Which world a `sandbox://` href is a file of; None for any other."""
    return href.removeprefix(SCHEME).partition("/")[0] if href and href.startswith(SCHEME) else None


def folder_of(out: str) -> Path:
    """Where the worlds of an OUT lie. They are local files, so that a bucket's world lies in data/sandbox."""
    return ((Path("data") if "://" in out else Path(out)) / "sandbox").resolve()


def path_of(href: str, folder: Path) -> Path:
    """The file of a `sandbox://` href. Raises Problem for one that would leave the world's folder."""
    inside = PurePosixPath(href.removeprefix(SCHEME))
    if inside.is_absolute() or ".." in inside.parts:
        raise Problem(f"'{href}' would leave the sample world", fix="name a file of it: sandbox://demo/events/…")
    return folder / inside


def href_of(path: str, folder: Path) -> str | None:
    """`sandbox://…` for a file of the world; None for any other path."""
    inside = Path(path)
    return SCHEME + inside.relative_to(folder).as_posix() if inside.is_relative_to(folder) else None
