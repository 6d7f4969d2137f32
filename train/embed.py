"""Embeddings of images and texts by a model, and their cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from harmonize.vocabulary import CLASSES
from train.loader import all_of
from train.model import Closp
from train.shards import Samples
from train.vision import to_tensors

BATCH = 128


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def embed_images(model: Closp, samples: Samples, device: torch.device, bar: bool = False) -> np.ndarray:
    """float32 unit vectors (N, D) of samples, in their order."""
    from rich.console import Console
    from rich.progress import track

    vectors = np.zeros((len(samples), model.spec["embed_dim"]), np.float32)
    console = Console(stderr=True)
    with all_of(samples, BATCH, device) as chunks:
        for chunk in track(chunks, "embed", len(chunks), disable=not bar, transient=True, console=console):
            arrays = to_tensors(chunk.arrays, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                vectors[chunk.rows] = model.encode_image(chunk.sensor, arrays).cpu().numpy()
    return vectors


@torch.inference_mode()
def embed_texts(model: Closp, device: torch.device, texts: list[str] | None = None) -> np.ndarray:
    """float32 unit vectors (Q, D) of texts; by default of the classes' names."""
    texts = list(CLASSES) if texts is None else texts
    pieces = [model.encode_text(texts[k : k + BATCH]).cpu().numpy() for k in range(0, len(texts), BATCH)]
    return np.concatenate(pieces) if pieces else np.zeros((0, model.spec["embed_dim"]), np.float32)


def cached_embeddings(run: Path, model: Closp, samples: Samples, device: torch.device) -> np.ndarray:
    """Vectors of all samples; kept below the run, under a name made of the model's and the samples' hashes."""
    from train.checkpoint import write_whole
    from train.vectors import read_vectors, vector_bytes
    from train.whole import file_digest

    key = hashlib.sha256(
        "".join([file_digest(run / "model.safetensors"), *samples["sha256"], *samples["chip_id"]]).encode()
    )
    path = run / "embeddings" / f"{key.hexdigest()[:24]}.safetensors"
    if path.exists():
        vectors = read_vectors(path)
        if vectors.shape == (len(samples), model.spec["embed_dim"]):
            return vectors
    vectors = embed_images(model, samples, device, bar=True)
    for old in path.parent.glob("*.safetensors"):
        old.unlink()
    write_whole(path, vector_bytes(vectors))
    return vectors
