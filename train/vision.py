"""Image towers: a timm model per sensor, fed with all bands on the 10 m grid, and where their weights come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harmonize.problem import Problem, nearest
from pipeline.sample import CANONICAL_BANDS, GROUPS

B10 = 10
"""Place of B10 in the 13 bands of SSL4EO-S12 weights; L2A has no B10."""

STANDARD = {
    # BigEarthNet v1 L2A without clouds, canonical band order (kai-tub/bigearthnet_common; facts/norm_stats.json).
    "s2": (
        (340.77, 429.94, 614.22, 590.24, 950.68, 1792.46, 2075.47, 2218.95, 2266.46, 2246.06, 1594.43, 1009.33),
        (554.81, 572.42, 582.88, 675.89, 729.9, 1096.01, 1273.45, 1365.46, 1356.14, 1302.33, 1079.19, 818.87),
    ),
    # S1 RTC gamma0 in dB, VV VH (TerraMind v1; facts/norm_stats.json).
    "s1": ((-10.93, -17.329), (4.391, 4.459)),
}
PAPER = {"s2": ((0.0,) * 12, (10_000.0,) * 12), "s1": ((0.0, 0.0), (1.0, 1.0))}


def normalisation(kind: str, sensor: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per canonical band, in the units of the shards."""
    return (STANDARD if kind == "standard" else PAPER)[sensor]


def to_tensors(arrays: dict[str, np.ndarray | Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch's arrays on the device, in the 16-bit types they are stored in; those that are there stay."""
    return {name: torch.as_tensor(array).to(device, non_blocking=True) for name, array in arrays.items()}


class ImageTower(nn.Module):
    """Native arrays of one sensor -> features. Stacks, normalises and encodes; augments nothing."""

    def __init__(self, sensor: str, name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.sensor, self.name = sensor, name
        shape = (1, len(mean), 1, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(shape), persistent=False)
        self.trunk = _trunk(name, len(mean), f"key 'vision.{sensor}'")
        self.trunk.to(memory_format=torch.channels_last)
        # Some networks widen what they pool (mobilenetv3, mambaout): that is what comes out.
        self.width = int(getattr(self.trunk, "head_hidden_size", None) or self.trunk.num_features)  # type: ignore[arg-type]
        embed = getattr(self.trunk, "patch_embed", None)
        self.input_px: tuple[int, int] | None = getattr(embed, "img_size", None)
        """Vision transformers take one size only; chips are resized to it."""

    def stack(self, arrays: dict[str, Tensor]) -> Tensor:
        """float32 (B, bands, H, W) at 10 m, normalised; coarser bands repeated, nodata at the mean (0)."""
        ten, order = arrays["10m"], CANONICAL_BANDS[self.sensor]
        side = ten.shape[-1]
        stacked = torch.empty((len(ten), len(order), side, side), device=ten.device)
        for group in GROUPS[self.sensor]:
            places = [order.index(band) for band in group.bands]
            values = (arrays[group.name].float() - self.mean[:, places]) / self.std[:, places]
            small = values.shape[-1]
            # Each pixel written to its square in one go: repeating first costs as much as the network's first layers.
            squares = stacked.view(len(ten), len(order), small, side // small, small, side // small)
            for k, place in enumerate(places):
                squares[:, place] = values[:, k, :, None, :, None]
        if self.sensor == "s1":
            return torch.nan_to_num_(stacked, nan=0.0, posinf=0.0, neginf=0.0)
        missing = (ten.view(torch.int16) == 0).all(dim=1, keepdim=True)
        return stacked.masked_fill_(missing, 0.0)

    def forward(self, stacked: Tensor) -> Tensor:
        """Features (B, width) of what `stack` gives."""
        if self.input_px and tuple(stacked.shape[-2:]) != tuple(self.input_px):
            stacked = nn.functional.interpolate(stacked, self.input_px, mode="bilinear", antialias=True)
        # Pixels next to each other in memory by band: convolutions run up to twice as fast so, on a CPU too.
        features: Tensor = self.trunk(stacked.contiguous(memory_format=torch.channels_last))
        return features


def _trunk(name: str, bands: int, where: str) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise Problem(f"timm has no model '{name}'", where=where, fix=nearest(name, timm.list_models()[:]))
    try:
        return timm.create_model(name, in_chans=bands, num_classes=0)
    except (TypeError, RuntimeError, ValueError) as error:
        what = f"timm cannot build '{name}' with {bands} bands: {error}"
        raise Problem(what, where=where, fix="choose another model") from None


def load_weights(tower: ImageTower, weights: str, where: str) -> None:
    """Fill a tower with the weights a recipe names. Raises Problem where they are missing or do not fit."""
    if weights == "none":
        return
    if weights.startswith("torchgeo:"):
        state = _torchgeo(weights.removeprefix("torchgeo:"), where)
    elif weights == "timm" or weights.startswith("hf-hub:"):
        state = _pretrained(tower, weights, where)
    else:
        state = read_tensors(weights, where)
    state = {k.removeprefix("trunk."): v for k, v in state.items()}
    state = _without_b10(state, tower.trunk.state_dict())
    missing = _load(tower.trunk, state, where)
    if missing:
        raise Problem(
            f"the weights lack {len(missing)} of {tower.name}'s tensors, e.g. {missing[0]}",
            where=where,
            fix=f"use weights of {tower.name}",
        )


def _without_b10(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of 13 bands for 12: the filter of B10 goes, as if B10 were always zero."""
    keep = [k for k in range(13) if k != B10]
    return {
        key: value[:, keep] if value.ndim == 4 and value.shape[1] == 13 and wanted[key].shape[1] == 12 else value
        for key, value in state.items()
        if key in wanted
    }


def _load(trunk: nn.Module, state: dict[str, Tensor], where: str) -> list[str]:
    """Names of the trunk's tensors that `state` lacks."""
    try:
        missing = trunk.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        what = f"the weights do not fit: {str(error).splitlines()[-1].strip()}"
        raise Problem(what, where=where, fix="use weights of the same model and bands") from None
    return list(missing)


def read_tensors(path: str, where: str) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a .pt / .pth file read with weights_only."""
    if not Path(path).exists():
        raise Problem(f"the weights are not there: {path}", where=where, fix="download them there, or use 'none'")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch and safetensors raise all sorts of types
        # Not torch's own words: they advise to open what weights_only refused.
        what = f"the weights cannot be read as tensors alone ({type(error).__name__})"
        raise Problem(
            what, where=where, fix="use safetensors or a state_dict; objects in a file are never opened"
        ) from None
    if not isinstance(state, dict):
        raise Problem("the weights are no state_dict", where=where, fix="use safetensors or a state_dict")
    inner = state.get("state_dict") or state.get("model") or state
    return {str(k): v for k, v in inner.items() if isinstance(v, Tensor)}


def _torchgeo(name: str, where: str) -> dict[str, Tensor]:
    try:
        import torchgeo.models
    except ImportError:
        fix = "install the weights extra: make setup EXTRAS=dev,minilm,weights, or use a file or 'none'"
        raise Problem("torchgeo is not installed", where=where, fix=fix) from None
    try:
        entry = torchgeo.models.get_weight(name)
        state = entry.get_state_dict(progress=False, weights_only=True)
    except (ValueError, KeyError, AttributeError):
        family = getattr(torchgeo.models, name.split(".")[0], ())
        known = [f"{name.split('.')[0]}.{member.name}" for member in family] or ["ResNet50_Weights.SENTINEL2_ALL_MOCO"]
        raise Problem(f"torchgeo has no weights '{name}'", where=where, fix=nearest(name, known)) from None
    except OSError as error:
        what = f"the weights cannot be downloaded: {str(error).splitlines()[0]}"
        raise Problem(what, where=where, fix="download them on a machine with a network and name the file") from None
    return {k: v for k, v in state.items() if not k.startswith(("fc.", "head."))}


def _pretrained(tower: ImageTower, weights: str, where: str) -> dict[str, Tensor]:
    """timm's own weights; it folds three bands into as many as there are."""
    import timm

    name = tower.name if weights == "timm" else weights
    bands = len(CANONICAL_BANDS[tower.sensor])
    try:
        donor = timm.create_model(name, pretrained=True, in_chans=bands, num_classes=0)
    except Exception as error:  # hub clients raise their own types for a missing network
        what = f"the weights cannot be downloaded: {str(error).splitlines()[0]}"
        raise Problem(what, where=where, fix="connect to the hub, name a file, or use 'none'") from None
    return dict(donor.state_dict())
