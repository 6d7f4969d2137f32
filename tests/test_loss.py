"""Losses against open_clip's ClipLoss and a naive loop; what unknown labels may not do; spherical harmonics."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from open_clip.loss import ClipLoss

from harmonize.vocabulary import ALL_MASK, LAND_COVER_MASK, mask_of
from train.location import spherical_harmonics
from train.loss import each_class, multi_positive, one_to_one, relation, same_place


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_clip_loss_parity(scale: float) -> None:
    images, texts, s = unit(17, 8), unit(17, 8, seed=1), torch.tensor(scale, dtype=torch.float64)
    expected = ClipLoss()(images, texts, s)
    assert torch.allclose(one_to_one(images, texts, s), expected)
    eye = torch.eye(17, dtype=torch.bool)
    ours = multi_positive(images, texts, s, eye, torch.zeros_like(eye))
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)


def test_multi_positive_against_a_loop() -> None:
    images, texts, scale = unit(6, 4), unit(6, 4, seed=1), torch.tensor(5.0, dtype=torch.float64)
    right = torch.eye(6, dtype=torch.bool)
    right[0, 3] = right[2, 1] = right[5, 0] = True
    excluded = torch.zeros(6, 6, dtype=torch.bool)
    excluded[1, 4] = excluded[3, 2] = True
    logits = (scale * images @ texts.T).tolist()

    def one_way(rows: list[list[float]], good: list[list[bool]], out: list[list[bool]]) -> float:
        total = 0.0
        for i, row in enumerate(rows):
            below = math.log(sum(math.exp(v) for j, v in enumerate(row) if not out[i][j]))
            own = [row[j] - below for j in range(len(row)) if good[i][j]]
            total -= sum(own) / len(own)
        return total / len(rows)

    there = one_way(logits, right.tolist(), excluded.tolist())
    turned = [list(column) for column in zip(*logits, strict=True)]
    back = one_way(turned, right.T.tolist(), excluded.T.tolist())
    assert multi_positive(images, texts, scale, right, excluded).item() == pytest.approx((there + back) / 2, rel=1e-5)


def test_duplicate_captions_are_no_negatives() -> None:
    labels = torch.tensor([mask_of(["water"])] * 3 + [mask_of(["crops"])])
    right, excluded = relation(labels, torch.full((4,), ALL_MASK), labels, "contains")
    assert right[:3, :3].all()
    assert not right[3, :3].any()
    assert not excluded.any()


def test_a_pair_that_hangs_on_an_unknown_bit_has_no_weight() -> None:
    water, flood = mask_of(["water"]), mask_of(["flooded area"])
    labels = torch.tensor([water, flood | water, mask_of(["crops"])])
    known = torch.tensor([LAND_COVER_MASK, ALL_MASK, LAND_COVER_MASK])
    texts = torch.tensor([water, flood | water, mask_of(["crops"])])
    right, excluded = relation(labels, known, texts, "contains")
    # Image 0 has water and may be flooded: nobody knows. Image 2 has no water, and that is known: a negative.
    assert excluded.tolist() == [[False, True, False], [False, False, False], [False, False, False]]
    assert right.tolist() == [[True, False, False], [True, True, False], [False, False, True]]
    images, vectors, scale = unit(3, 4), unit(3, 4, seed=1).requires_grad_(), torch.tensor(3.0, dtype=torch.float64)
    logits_gradient = torch.autograd.grad(multi_positive(images, vectors, scale, right, excluded), vectors)[0]
    assert torch.isfinite(logits_gradient).all()


def test_own_text_is_always_right_and_empty_texts_match_nobody() -> None:
    labels = torch.tensor([0, mask_of(["water"])])
    right, _ = relation(labels, torch.full((2,), ALL_MASK), labels, "contains")
    assert right.tolist() == [[True, False], [False, True]]


def test_same_labels_rule_is_equality() -> None:
    labels = torch.tensor([mask_of(["water"]), mask_of(["water", "crops"]), mask_of(["water"])])
    right, _ = relation(labels, torch.full((3,), ALL_MASK), labels, "same-labels")
    assert right.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_chips_of_one_cell_share_their_place() -> None:
    here = same_place(["a", "b", "a"], torch.device("cpu"))
    assert here.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_loss_is_finite_in_bfloat16_at_full_scale() -> None:
    images, texts = unit(32, 16).bfloat16(), unit(32, 16, seed=1).bfloat16()
    eye = torch.eye(32, dtype=torch.bool)
    assert torch.isfinite(multi_positive(images, texts, torch.tensor(100.0), eye, torch.zeros_like(eye)))


def test_spherical_harmonics_equal_satclips() -> None:
    path = ROOT.parent / "shared/reference/facts/satclip_sh_test_vectors.json"
    if not path.exists():
        pytest.skip("the reference vectors are not beside this checkout (../shared/reference)")
    for vector in json.loads(path.read_text())["vectors"]:
        found = spherical_harmonics(torch.tensor([[vector["lon"], vector["lat"]]], dtype=torch.float64), 10)[0]
        assert found.shape == (100,)
        # The vectors are printed with six decimals.
        assert (found[:16] - torch.tensor(vector["first16"], dtype=torch.float64)).abs().max() < 1e-6
        assert found.sum().item() == pytest.approx(vector["sum100"], abs=1e-6)


def test_spherical_harmonics_equal_scipys_up_to_satclips_convention() -> None:
    from scipy.special import sph_harm_y

    lon, lat = 23.4, -51.2
    found = spherical_harmonics(torch.tensor([[lon, lat]], dtype=torch.float64), 10)[0].tolist()
    theta, phi = math.radians(lat + 90), math.radians(lon + 180)
    k = 0
    for n in range(10):
        for m in range(-n, n + 1):
            y = sph_harm_y(n, abs(m), theta, phi)
            sign = (-1) ** m  # scipy has the Condon-Shortley phase, SatCLIP has not
            real = {0: math.pi * y.real}.get(m, math.sqrt(2) * sign * (y.real if m > 0 else y.imag))
            assert found[k] == pytest.approx(real, abs=1e-9)
            k += 1


def test_unknown_classes_have_no_weight() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    labels = torch.tensor([[True, False], [True, True]])
    known = torch.tensor([[True, True], [True, False]])
    loss = each_class(logits, labels, known)
    expected = sum(math.log1p(math.exp(-x)) for x in (2.0, 1.0, 0.5)) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1, 1] == 0
    assert each_class(logits, labels, torch.zeros_like(known)).item() == 0
