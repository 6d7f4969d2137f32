"""Pictures that a command writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harmonize.problem import Problem

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def picture_path(path: Path) -> Path:
    """The path, if a picture can be written there: asked before the work is done."""
    if path.is_dir() or path.suffix.lower() not in SUFFIXES:
        raise Problem(f"'{path}' is no name of a picture", fix=f"give a file that ends in {', '.join(SUFFIXES)}")
    return path


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write it, with the folders above it."""
    try:
        picture_path(path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise Problem(f"the picture cannot be written: {error}", where=str(path), fix="name another place") from None
