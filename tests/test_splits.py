"""Splits: of blocks, by nothing but their names; stratified, by nothing but cells and labels."""

from __future__ import annotations

import functools
import operator
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from world import World

from harmonize.crosswalk import parse_crosswalk
from harmonize.splits import SplitShares, block_of, deal, spatial_split, stratified_split, unit_interval
from harmonize.vocabulary import CLASSES, mask_of

PAPER = SplitShares(0.18, 0.02, 0.8)
SHARES = SplitShares(0.7, 0.1, 0.2)


def test_spatial_split_nests_and_has_its_shares() -> None:
    blocks = [block_of(32632, 12_000.0 * x + 5, 12_000.0 * y + 5, 12) for x in range(80) for y in range(80)]
    assert len(set(blocks)) == 6400
    first = {b: spatial_split(b, SHARES) for b in blocks}
    for name, share in vars(SHARES).items():
        assert np.mean([s == name for s in first.values()]) == pytest.approx(share, abs=0.02)
    more = {b: spatial_split(b, SplitShares(0.5, 0.1, 0.4)) for b in blocks}
    assert all(more[b] == "test" for b in blocks if first[b] == "test"), "a larger test split holds the smaller one"
    assert unit_interval("32632_b12_50_416") == unit_interval("32632_b12_50_416")
    # Frozen: these values are part of every corpus made so far.
    assert block_of(32632, 600_600, 5_001_000, 12) == "32632_b12_50_416"
    assert round(unit_interval("32632_b12_50_416"), 6) == FROZEN


FROZEN = 0.152758


def test_blocks_count_from_the_equator_in_the_south() -> None:
    assert block_of(32718, 718_500, 9_999_999, 12).endswith("_59_0")
    assert block_of(32618, 718_500, 1, 12).endswith("_59_0")


shares_of_three = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)).filter(any)


@given(shares_of_three, shares_of_three, st.integers(0, 10_000))
def test_changed_shares_nest(first: tuple[int, int, int], second: tuple[int, int, int], k: int) -> None:
    """A block leaves test only if test shrinks, and comes to train only if train grows."""
    a, b = (SplitShares(*(np.array(s) / sum(s))) for s in (first, second))
    before, after = spatial_split(f"32632_b12_{k}_1", a), spatial_split(f"32632_b12_{k}_1", b)
    if before == "test" and b.test >= a.test:
        assert after == "test"
    # test + val and 1 - train differ in the last digit.
    if after == "train" and b.test + b.val >= a.test + a.val:
        assert before == "train"


@given(
    st.sampled_from([32632, 32601, 32660, 32718, 32733]),
    st.floats(160_000, 840_000),
    st.floats(0, 9_999_999),
    st.sampled_from([1.2, 12, 24]),
)
def test_a_point_lies_in_its_block_and_the_split_is_that_of_its_name(
    epsg: int, easting: float, northing: float, block_km: float
) -> None:
    block = block_of(epsg, easting, northing, block_km)
    zone, side, col, row = block.split("_")
    assert (zone, side) == (str(epsg), f"b{block_km:g}")
    metres = block_km * 1000
    outwards = 10_000_000 - northing if zone.startswith("327") else northing
    assert int(col) * metres <= easting <= (int(col) + 1) * metres
    assert int(row) * metres <= outwards <= (int(row) + 1) * metres
    u = unit_interval(block)
    assert spatial_split(block, SHARES) == ("test" if u < 0.2 else "val" if u < 0.2 + 0.1 else "train")


def drawn(seed: int, n: int) -> dict[str, int]:
    """Cells with labels, some classes in half of them and some in one of a thousand."""
    draw = np.random.default_rng(seed)
    bits = draw.random((n, len(CLASSES))) < 10 ** -(draw.random(len(CLASSES)) * 3 + 0.3)
    return {f"cell{k}": int(mask) for k, mask in enumerate(bits.dot(1 << np.arange(len(CLASSES))))}


def errors(masks: dict[str, int], split: dict[str, str], shares: SplitShares) -> dict[str, list[float]]:
    """Cells too many, of every class in every split; last of the split's size."""
    found: dict[str, list[float]] = {}
    for name, share in vars(shares).items():
        inside = [masks[cell] for cell in masks if split[cell] == name]
        counts = [
            (sum(m >> k & 1 for m in inside), sum(m >> k & 1 for m in masks.values())) for k in range(len(CLASSES))
        ]
        found[name] = [got - share * of for got, of in [*counts, (len(inside), len(masks))]]
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 700), shares_of_three)
def test_stratified_is_a_partition_that_keeps_class_shares(seed: int, n: int, parts: tuple[int, int, int]) -> None:
    masks = drawn(seed, n)
    shares = SplitShares(*(np.array(parts) / sum(parts)))
    split = stratified_split(masks, shares)
    assert set(split) == set(masks)
    assert {name for name, share in vars(shares).items() if not share}.isdisjoint(split.values())
    order = np.random.default_rng(seed).permutation(list(masks))
    assert stratified_split({str(cell): masks[cell] for cell in order}, shares) == split, "whatever the order"
    assert max(abs(e) for of_split in errors(masks, split, shares).values() for e in of_split) <= 3
    for labels in set(masks.values()):
        cells = [cell for cell in masks if masks[cell] == labels]
        for name, most in (("test", 1), ("val", 2), ("train", 2)):
            assert abs(sum(split[c] == name for c in cells) - vars(shares)[name] * len(cells)) < most


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 20))
def test_val_is_carved_from_train_never_from_the_searched_set(seed: int, percent: int) -> None:
    masks = drawn(seed, 300)
    without = stratified_split(masks, SplitShares(0.2, 0, 0.8))
    carved = stratified_split(masks, SplitShares((20 - percent) / 100, percent / 100, 0.8))
    assert [c for c in masks if carved[c] == "test"] == [c for c in masks if without[c] == "test"]


@given(
    st.dictionaries(st.integers(0, 4095), st.integers(1, 40), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.02, 0.2, 0.29, 0.5, 0.8, 1.0]),
)
@settings(deadline=None)
def test_label_sets_are_dealt_by_whole_numbers(counts: dict[int, int], share: float) -> None:
    sets = sorted(counts)
    numbers = [counts[s] for s in sets]
    given_ = deal(np.array(sets), np.array(numbers), share)
    for got, of in zip(given_, numbers, strict=True):
        assert abs(got - share * of) < 1
        if abs(share * of - round(share * of)) < 1e-9:
            assert got == round(share * of), "28.999… of 0.29 x 100 is 29"


def test_cells_of_one_label_set_are_dealt_wherever_they_lie() -> None:
    """Names count along the grid: dealt in their order, a split would be one side of the region."""
    cells = [f"32632_{col}_{row}" for col in range(400, 430) for row in range(4000, 4030)]
    split = stratified_split(dict.fromkeys(cells, 5), PAPER)
    for name in ("train", "test"):
        cols = [int(cell.split("_")[1]) for cell in cells if split[cell] == name]
        assert np.mean(cols) == pytest.approx(414.5, abs=2.5)
        assert len(set(cols)) >= 28


def test_one_cell_more_moves_few() -> None:
    """What the docstring states: the border cells of label sets, not the corpus."""
    masks = drawn(1, 2000)
    split = stratified_split(masks, PAPER)
    more = stratified_split({**masks, "another": 5}, PAPER)
    assert sum(split[c] != more[c] for c in masks) <= 3 * len(set(masks.values()))


def test_stratified_split_is_exact_on_a_large_corpus() -> None:
    """40,000 cells with up to 4,096 label sets: each class within 1 % of its share in each split, or within a cell."""
    draw = np.random.default_rng(0)
    often = np.array([0.3, 0.4, 0.2, 0.02, 0.4, 0.2, 0.2, 0.1, 0.02, 0.02, 0.001, 0.0003])
    bits = (draw.random((40_000, 12)) < often).dot(1 << np.arange(12))
    masks = {f"cell{k}": int(mask) for k, mask in enumerate(bits)}
    found = errors(masks, stratified_split(masks, PAPER), PAPER)
    totals = [int((bits >> k & 1).sum()) for k in range(12)] + [len(masks)]
    assert min(totals) < 20
    for name, share in vars(PAPER).items():
        for error, total in zip(found[name], totals, strict=True):
            assert abs(error) <= max(1.0, 0.01 * share * total)


def test_stratified_split_of_the_real_rows(real_folder: Path) -> None:
    """237,871 patches of BigEarthNet with 182 label sets: what the docstring of stratified_split says of them."""
    import pyarrow.parquet as pq

    path = ROOT / "manifests/labels/bigearthnet-19.csv"
    crosswalk = parse_crosswalk(path.read_text("utf-8"), path.name)
    bits = {name: mask_of([class_]) for name, class_ in crosswalk.by_name().items()}
    table = pq.read_table(real_folder / "labels/bigearthnet_v2_labels_train.parquet")
    masks = {
        patch: functools.reduce(operator.or_, map(bits.__getitem__, names))
        for patch, names in zip(table["patch_id"].to_pylist(), table["labels"].to_pylist(), strict=True)
    }
    assert (len(masks), len(set(masks.values()))) == (237_871, 182)
    found = errors(masks, stratified_split(masks, PAPER), PAPER)
    assert max(abs(e) for of_split in found.values() for e in of_split) <= 0.6


def test_stratified_split_does_not_depend_on_the_process() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_splits import *;"
        "s = stratified_split(drawn(3, 500), PAPER); print(hash_of(s))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "4711")
    }  # fmt: skip
    assert said == {hash_of(stratified_split(drawn(3, 500), PAPER)) + "\n"}


def hash_of(split: dict[str, str]) -> str:
    import hashlib

    return hashlib.sha256(repr(sorted(split.items())).encode()).hexdigest()


def test_a_stratified_split_keeps_no_event_whole() -> None:
    """Said is a mistake; not said, the region's parameters state what is done."""
    from harmonize.problem import Problem
    from pipeline.manifest import parse
    from pipeline.region import Split

    assert parse(Split, {"method": "stratified"}, Path("r.toml")).events == "blocks"
    assert parse(Split, {}, Path("r.toml")).events == "whole"
    with pytest.raises(Problem, match="no event stays whole") as caught:
        parse(Split, {"method": "stratified", "events": "whole"}, Path("r.toml"))
    assert "method = 'spatial'" in str(caught.value)


def test_stratified_keeps_a_cell_together(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from pipeline import runner

    world = World(tmp_path, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))
    manifest = world.write()
    manifest.write_text(manifest.read_text().replace("block_km = 1.2", 'method = "stratified"'))
    region, store = runner.load(manifest, str(tmp_path / "out"))
    runner.run_upto(region, store, "captions", quiet=True)
    rows = pq.read_table(tmp_path / "out/tiny/captions.parquet").to_pylist()
    by_cell: dict[str, set[str]] = {}
    for row in rows:
        by_cell.setdefault(row["cell"], set()).add(row["split"])
    assert len(by_cell) == 16
    assert all(len(splits) == 1 for splits in by_cell.values())
    assert {s for splits in by_cell.values() for s in splits} >= {"train", "test"}
