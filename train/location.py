"""GeoCLOSP's location tower: SatCLIP's spherical harmonics and SIREN (arXiv 2311.17179, microsoft/satclip)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harmonize.problem import Problem
from train.recipe import Location
from train.vision import read_tensors


def spherical_harmonics(lonlat: Tensor, degrees: int) -> Tensor:
    """Real spherical harmonics of points, (B, 2) lon, lat in degrees -> (B, degrees²), float64.

    Order l = 0..degrees-1, m = -l..l; phi = rad(lon + 180), theta = rad(lat + 90); no Condon-Shortley sign; the m = 0
    terms are pi times the orthonormal ones, as SatCLIP's released weights expect (facts/satclip_sh_test_vectors.json).
    """
    lonlat = lonlat.double()
    phi, theta = torch.deg2rad(lonlat[:, 0] + 180), torch.deg2rad(lonlat[:, 1] + 90)
    x, s = torch.cos(theta), torch.sin(theta)
    legendre = _legendre(x, s, degrees)
    columns = []
    for n in range(degrees):
        for m in range(-n, n + 1):
            k = abs(m)
            norm = math.sqrt((2 * n + 1) / (4 * math.pi) * math.factorial(n - k) / math.factorial(n + k))
            if m == 0:
                columns.append(math.pi * norm * legendre[n, 0])
            else:
                wave = torch.cos(m * phi) if m > 0 else torch.sin(k * phi)
                columns.append(math.sqrt(2) * norm * legendre[n, k] * wave)
    return torch.stack(columns, dim=1)


def _legendre(x: Tensor, s: Tensor, degrees: int) -> dict[tuple[int, int], Tensor]:
    """Associated Legendre polynomials P[l, m] of x = cos(theta), s = sin(theta), by the usual upward recurrence."""
    p = {(0, 0): torch.ones_like(x)}
    for m in range(degrees):
        if m:
            p[m, m] = (2 * m - 1) * s * p[m - 1, m - 1]
        if m + 1 < degrees:
            p[m + 1, m] = (2 * m + 1) * x * p[m, m]
        for n in range(m + 2, degrees):
            p[n, m] = ((2 * n - 1) * x * p[n - 1, m] - (n + m - 1) * p[n - 2, m]) / (n - m)
    return p


class Siren(nn.Module):
    """SIREN: sine layers (w0 = 30 first, then 1) and a linear last layer; parameter names as in SatCLIP's `nnet`."""

    def __init__(self, inputs: int, width: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs if k == 0 else width, width) for k in range(hidden))
        self.last_layer = nn.Linear(width, outputs)
        self.dropout = nn.Dropout(dropout)
        for k, layer in enumerate([*self.layers, self.last_layer]):
            bound = 1 / inputs if k == 0 else math.sqrt(6 / width)
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layer.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for k, layer in enumerate(self.layers):
            x = torch.sin((30.0 if k == 0 else 1.0) * self.dropout(layer(x)))
        return self.last_layer(x)


class LocationTower(nn.Module):
    """(B, 2) lon, lat in degrees -> (B, output) features."""

    def __init__(self, spec: Location) -> None:
        super().__init__()
        self.degrees, self.width = spec.harmonics, spec.output
        self.nnet = Siren(spec.harmonics**2, spec.width, spec.output, spec.hidden, spec.dropout)

    def forward(self, lonlat: Tensor) -> Tensor:
        weight = self.nnet.last_layer.weight
        return self.nnet(spherical_harmonics(lonlat, self.degrees).to(weight.dtype))


def load_satclip(tower: LocationTower, path: str) -> None:
    """Weights of a SatCLIP Lightning checkpoint; only tensors are unpickled (weights_only)."""
    prefix = "model.location.nnet."
    state = read_tensors(path, "key 'location.weights'")
    mine = {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
    try:
        tower.nnet.load_state_dict(mine)
    except RuntimeError as error:
        what = f"these are not SatCLIP weights of this shape: {str(error).splitlines()[-1].strip()}"
        raise Problem(what, where=path, fix="use satclip-*-l10.ckpt with width 512, output 256") from None
