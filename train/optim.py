"""The optimiser of a model, and its learning rate over a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from train.recipe import Optim

if TYPE_CHECKING:
    from torch import Tensor

    from train.model import Closp


def optimiser_of(model: Closp, optim: Optim) -> torch.optim.Optimizer:
    """AdamW; norms, biases and the scale are not decayed; the text tower may have its own rate."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = optim.lr_text if optim.lr_text and name.startswith("text.") else optim.lr
        decay = 0.0 if parameter.ndim < 2 else optim.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    settings = [
        {"params": p, "lr": r, "base_lr": r, "weight_decay": d}
        for (r, d), p in sorted(groups.items(), key=lambda g: g[0])
    ]
    return torch.optim.AdamW(settings, foreach=False)


def learning_rate(optim: Optim, step: int, total: int) -> float:
    """Factor of the learning rate at a step: cosine to zero after a linear warm-up, or the paper's OneCycle."""
    warm = max(1, round(optim.warmup * total))
    if optim.schedule == "cosine":
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    # OneCycle as torch has it: cosine from max/1e6 up to max, then down to max/1e12 (the published train.py).
    low, high, last = 1e-6, 1.0, 1e-12
    if step < warm:
        return high + (low - high) / 2 * (1 + math.cos(math.pi * step / warm))
    return last + (high - last) / 2 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
