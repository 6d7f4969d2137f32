"""What a ranking must beat: class frequencies by month, by place, and a plain classifier on the same features.

Every baseline gives (N, 12) scores, one per image and class; a query's score is the sum over its classes.
"""

from __future__ import annotations

import numpy as np

from harmonize.vocabulary import CLASSES
from pipeline.sample import SENSORS
from train.shards import Samples

NEIGHBOURS = 20


def label_matrix(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """(N, 12) labels and (N, 12) known, as floats 0 / 1."""
    bits = np.arange(len(CLASSES))
    labels = (samples["label_mask"].astype(np.int64)[:, None] >> bits) & 1
    known = (samples["known_mask"].astype(np.int64)[:, None] >> bits) & 1
    return labels.astype(float), known.astype(float)


def months(samples: Samples) -> np.ndarray:
    """Calendar month 0-11 of each sample."""
    return samples["datetime"].astype("datetime64[M]").astype(int) % 12


def prior(train: Samples, images: Samples) -> np.ndarray:
    """Share of each class among the training chips of the same sensor and month; of the sensor where none is."""
    labels, known = label_matrix(train)
    scores = np.zeros((len(images), len(CLASSES)))
    for sensor in SENSORS:
        mine = train["sensor"] == sensor
        if not mine.any():
            continue
        overall = _share(labels[mine], known[mine])
        for month in range(12):
            there = (images["sensor"] == sensor) & (months(images) == month)
            same = mine & (months(train) == month)
            scores[there] = _share(labels[same], known[same]) if same.any() else overall
    return scores


def place_prior(train: Samples, images: Samples) -> np.ndarray:
    """Share of each class among the 20 training chips nearest on the globe, of either sensor."""
    labels, known = label_matrix(train)
    here, there = _on_sphere(images), _on_sphere(train)
    number = min(NEIGHBOURS, len(train))
    scores = np.zeros((len(images), len(CLASSES)))
    for start in range(0, len(images), 1024):
        near = np.argpartition(-(here[start : start + 1024] @ there.T), number - 1, axis=1)[:, :number]
        scores[start : start + 1024] = labels[near].sum(1) / np.maximum(known[near].sum(1), 1)
    return scores


def _share(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    return labels.sum(0) / np.maximum(known.sum(0), 1)


def _on_sphere(samples: Samples) -> np.ndarray:
    lon, lat = np.radians(samples["lon"]), np.radians(samples["lat"])
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def classifier(train_vectors: np.ndarray, train: Samples, vectors: np.ndarray, images: Samples) -> np.ndarray:
    """Probability of each class by logistic regression on the model's image embeddings, one fit per sensor.

    It sees the labels directly, without any text: what the embeddings hold, as opposed to what words reach.
    """
    labels, known = label_matrix(train)
    scores = np.zeros((len(images), len(CLASSES)))
    for sensor in SENSORS:
        mine, there = train["sensor"] == sensor, images["sensor"] == sensor
        if mine.any() and there.any():
            scores[there] = _logistic(train_vectors[mine], labels[mine], known[mine], vectors[there])
    return scores


def _logistic(x: np.ndarray, labels: np.ndarray, known: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Ridge-penalised logistic regression of all classes at once, by L-BFGS; unknown labels have no weight."""
    import torch

    features = torch.from_numpy(x).double()
    target, weight = torch.from_numpy(labels), torch.from_numpy(known)
    matrix = torch.zeros(x.shape[1], labels.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(labels.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([matrix, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        each = torch.nn.functional.binary_cross_entropy_with_logits(features @ matrix + bias, target, reduction="none")
        loss = (each * weight).sum() / weight.sum() + 1e-4 * matrix.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        found: np.ndarray = torch.sigmoid(torch.from_numpy(queries).double() @ matrix + bias).numpy()
    return found
