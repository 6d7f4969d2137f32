"""Cached embeddings: a safetensors file whose header has the sha256 of the vectors. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from harmonize.problem import Problem
from harmonize.record import HASH
from train.whole import DIFFERS


def vector_bytes(vectors: np.ndarray) -> bytes:
    """The file of vectors (N, D)."""
    from safetensors.numpy import save

    return save({"images": vectors}, {HASH: _digest(vectors)})


def read_vectors(path: Path) -> np.ndarray:
    """Cached vectors (N, D). Raises Problem (code 4) where they are not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            noted, vectors = (file.metadata() or {}).get(HASH), file.get_tensor("images")
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from None
    if noted not in (None, _digest(vectors)):  # older ones have none
        raise _damaged(path, DIFFERS)
    found: np.ndarray = vectors
    return found


def check_vectors(path: Path) -> None:
    """Raises Problem (code 4) where a byte of the file differs, one of its header too."""
    from safetensors.numpy import save

    vectors, data = read_vectors(path), path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if save({"images": vectors}, header.get("__metadata__")) != data:
        raise _damaged(path, DIFFERS)


def _digest(vectors: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()


def _damaged(path: Path, why: str) -> Problem:
    fix = "remove the file: they are computed again"
    return Problem(f"cached embeddings are damaged: {why}", where=str(path), fix=fix, code=4)
