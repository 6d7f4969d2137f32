"""Files of a world, each whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """A draft to fill in the block; at its end the draft is flushed to the disk and takes its place.

    Each process has drafts of its own: two builds of one world write the same bytes and disturb nobody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def publish_json(path: Path, value: Any) -> None:
    with published(path) as draft:
        draft.write_text(json.dumps(value, sort_keys=True) + "\n")
