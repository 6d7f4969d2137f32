"""Contrastive losses as pure functions of embeddings and label masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def one_to_one(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """open_clip's own ClipLoss: sample k of one side belongs to sample k of the other. (B, D) unit vectors."""
    from open_clip.loss import ClipLoss

    loss: Tensor = ClipLoss()(images, texts, scale)
    return loss


def relation(label_masks: Tensor, known_masks: Tensor, text_masks: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Which texts are right for which images, and which pairs nobody can judge: two (B, B) boolean matrices.

    Image i (label mask L, known mask K), text j (mask T of the classes it names).
    contains: right when T is part of L. same-labels: right when T equals L.
    Not judged: the text names a class that is unknown for the image and nothing known speaks against it; such a pair
    has no weight, as a negative least of all. The own pair is always right.
    """
    labels, known, texts = label_masks[:, None], known_masks[:, None], text_masks[None, :]
    right = (texts & ~labels) == 0 if rule == "contains" else texts == labels
    right = right & (texts != 0)
    possible = (texts & ~(labels | ~known)) == 0
    unknown = possible & ~right & ((texts & ~known) != 0)
    if rule == "same-labels":
        # An image may also hold more than the text says, where it is unknown.
        unknown = unknown & ((labels & ~texts) == 0)
    own = torch.eye(len(label_masks), dtype=torch.bool, device=label_masks.device)
    return right | own, unknown & ~own


def multi_positive(images: Tensor, texts: Tensor, scale: Tensor, right: Tensor, excluded: Tensor) -> Tensor:
    """Symmetric cross-entropy with every right pair a positive of equal weight (UniCL, arXiv 2204.03610).

    images, texts: (B, D) unit vectors. right, excluded: (B, B) booleans, image by text. With the identity as `right`
    and nothing excluded it is ClipLoss.
    """
    logits = (scale * images @ texts.T).float().masked_fill(excluded, float("-inf"))
    return (_one_way(logits, right) + _one_way(logits.T, right.T)) / 2


def _one_way(logits: Tensor, right: Tensor) -> Tensor:
    log_p = F.log_softmax(logits, dim=1)
    weight = right / right.sum(dim=1, keepdim=True)
    # 0 x -inf would be NaN: excluded pairs have no weight anyway.
    return -(weight * log_p.masked_fill(~right, 0.0)).sum(dim=1).mean()


def each_class(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy of every image and class, (B, C) logits; what is unknown for an image has no weight.

    labels, known: (B, C) booleans. 0 where nothing is known.
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def same_place(cells: list[str], device: torch.device) -> Tensor:
    """(B, B): pairs of one cell, which are right for each other's location."""
    number = {cell: k for k, cell in enumerate(dict.fromkeys(cells))}
    index = torch.tensor([number[c] for c in cells], device=device)
    return index[:, None] == index[None, :]


def mean_loss(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Of the losses of a step's batches, by sensor, weighted; the plain mean where all weights are 1."""
    values = torch.stack(list(losses.values()))
    if all(weights[sensor] == 1 for sensor in losses):
        return values.mean()
    shares = torch.tensor([weights[sensor] for sensor in losses], device=values.device)
    return (values * shares).sum() / shares.sum()
