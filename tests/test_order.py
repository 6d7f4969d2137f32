"""Order: what comes at a position, whoever reads it; policies; and runs that are killed and go on with other ranks."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from commands import run
from fake_shards import write_fake_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from order_ranks import run_job, saved_state

from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES
from train.batches import Batches
from train.draws import counter, first_words, permuted
from train.order import Order, Shuffle, batch_sizes, check_order, turns
from train.recipe import Data, Optim, Recipe, Text, Vision, load_recipe
from train.shards import Samples, open_shards

COUNTS = {("train", "s2"): 6000, ("train", "s1"): 4000}
DATA = Data(batch_size=80, s1_share=0.4, views="caption")  # 96 s2 and 64 s1 a step: an epoch is 62.5 steps
STEPS = 70
SIZE = 160


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_shards(tmp_path_factory.mktemp("order") / "shards", COUNTS, size_px=6)


@pytest.fixture(scope="module")
def train(shards: Path) -> Samples:
    return open_shards([shards]).of("train")


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The cells of each step of a run in one process that nothing happens to."""
    ran = run_job(tmp_path_factory.mktemp("straight") / "job", shards, DATA, 1, 0, STEPS)
    assert ran.codes == [0]
    return ran.steps


def made_up(labels: list[int], sensors: list[str] | None = None, regions: list[int] | None = None) -> Samples:
    """Samples without pixels."""
    count = len(labels)
    columns = {
        "chip_id": np.array([f"c{k}" for k in range(count)], object),
        "sensor": np.array(sensors or ["s2"] * count, object),
        "label_mask": np.array(labels, np.int32),
        "region": np.array(regions or [0] * count, np.int16),
    }
    return Samples(columns, (), 12, ("a", "b", "c"), "")


# ---- The acceptance: a kill at a random sample, other ranks afterwards


def test_an_undisturbed_epoch_has_every_sample_once(train: Samples, undisturbed: list[list[str]]) -> None:
    sensor = dict(zip(train["cell"], train["sensor"], strict=True))
    stream = [cell for cells in undisturbed for cell in cells]
    for name, count in (("s2", 6000), ("s1", 4000)):
        mine = [cell for cell in stream if sensor[cell] == name]
        assert len(set(mine[:count])) == count, "none twice"
        assert set(mine[:count]) == set(train["cell"][train["sensor"] == name]), "none missing"
        assert len(mine) > count, "it goes on in the second epoch, in the middle of a batch"


@pytest.mark.parametrize("workers", [0, 2, 4, 8])
@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("before", [1, 2, 4])
def test_a_killed_run_goes_on_with_what_it_had_not_seen(
    shards: Path, undisturbed: list[list[str]], tmp_path: Path, before: int, after: int, workers: int
) -> None:
    kill_at = random.Random(f"{before} {after} {workers}").randrange(10_000)
    killed = run_job(tmp_path / "a", shards, DATA, before, workers, STEPS, kill_at=kill_at)
    assert -signal.SIGKILL in killed.codes
    assert len(killed.steps) == kill_at // SIZE, "it was in the middle of this step"
    state = saved_state(tmp_path / "a")
    done = state["step"] if state else 0
    assert kill_at // SIZE - done < 3
    resumed = run_job(tmp_path / "b", shards, DATA, after, workers, STEPS, state)
    assert resumed.codes == [0] * after
    # The streams themselves, not sorted: what the first job did up to its last state, then what the second did.
    assert killed.steps[:done] + resumed.steps == undisturbed
    assert resumed.seconds < 1, "from the opened shards to the first batch, up to four ranks at a time"


def test_the_first_batch_after_a_resume_comes_at_once(shards: Path) -> None:
    begun = time.perf_counter()
    batches = Batches(open_shards([shards]).of("train"), DATA, 0)
    batches.resume(batches.state(12_345))
    assert len(batches.batch("s2", 12_345).cells) == 96
    assert time.perf_counter() - begun < 1, "shards opened, position found, pixels read"


# ---- Streams


def stream(batches: Batches, sensor: str, steps: range) -> list[int]:
    return [int(p) for step in steps for p in batches.positions(sensor, step)]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(7, 300), min_size=2, max_size=4),
    worlds=st.lists(st.integers(1, 7), min_size=4, max_size=4),
    sampling=st.sampled_from(["plain", "balanced"]),
)
def test_ranks_share_a_stream_whatever_batch_size_it_goes_on_with(
    train: Samples, sizes: list[int], worlds: list[int], sampling: str
) -> None:
    """Legs of three steps, each with other ranks and another batch size, which begins where the last one ended."""
    state, seen = None, []
    for size, world in zip(sizes, worlds, strict=False):
        data = Data(batch_size=size, sampling=sampling)
        ranks = [Batches(train, data, 0, rank, world) for rank in range(world)]
        if state:
            for rank in ranks:
                rank.resume(json.loads(json.dumps(state)))
        begun = int(state["step"]) if state else 0
        for step in range(begun, begun + 3):
            shares = [rank.positions("s1", step) for rank in ranks]
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
            seen += [int(p) for share in shares for p in share]
        states = [rank.state(begun + 3) for rank in ranks]
        assert all(other == states[0] for other in states)
        state = states[0]
    assert len(seen) == 3 * sum(sizes[: len(worlds)])
    assert seen == list(range(len(seen))), "one stream without a gap, within its first epoch"


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 300), size=st.integers(1, 300), start=st.integers(0, 10_000), seed=st.integers(0, 2**32 - 1)
)
def test_a_plain_epoch_is_a_permutation_and_no_batch_holds_a_sample_twice(
    count: int, size: int, start: int, seed: int
) -> None:
    order, size = Order(made_up([1] * count), "s2", Data(), seed), min(size, count)
    for epoch in range(4):
        assert sorted(order.at(np.arange(count) + epoch * count)) == list(range(count))
    for steps in range(12):
        place = order.position(steps, size, start)
        assert len(set(order.at(np.arange(place, place + size)))) == size
        follows = order.position(1, size, place)
        waiting = follows - place - size
        assert waiting == 0 or (0 < waiting < size and not order.reaches(size))
        assert follows == order.position(steps + 1, size, start)
    some = np.random.default_rng(seed).permutation(5 * count)[:50]
    assert (order.at(some) == [order.at(np.array([p]))[0] for p in some]).all()


def test_large_sets_are_shuffled_without_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.order.MOST_TABLED", 100)
    monkeypatch.setattr("train.order.MOST_APART", 64)
    shuffle = Shuffle(1001, 3, 2, 0)
    epochs = shuffle.at(np.arange(4 * 1001)).reshape(4, 1001)
    assert (np.sort(epochs, axis=1) == np.arange(1001)).all()
    ends = np.concatenate([epochs[:-1, -64:], epochs[1:, :64]], axis=1)
    assert all(len(set(end)) == 128 for end in ends), "65 in a row are different ones, over the end of an epoch too"
    assert len({tuple(epoch[:10]) for epoch in epochs}) == 4


def test_a_position_far_into_a_billion_samples_is_found_at_once() -> None:
    begun = time.perf_counter()
    shuffle = Shuffle(10**9, 0, 2, 0)
    assert len(set(shuffle.at(7 * 10**9 - 500 + np.arange(4096)))) == 4096
    assert time.perf_counter() - begun < 1
    assert sum(start.nbytes for start in shuffle._starts.values()) <= 2 * 8 * 2 * 2**16


@pytest.mark.parametrize("count", [2, 3, 17, 1024, 1025, 50_000])
def test_a_permutation_without_a_table(count: int) -> None:
    once = permuted(np.arange(count), count, 1, 2)
    assert (np.sort(once) == np.arange(count)).all()
    if count > 1000:
        other = permuted(np.arange(count), count, 1, 3)
        assert (once == other).mean() < 0.01
        assert abs(np.corrcoef(np.arange(count), once)[0, 1]) < 0.1
        neighbours = np.abs(np.diff(once)) / count  # of a random one, a third on average
        assert abs(neighbours.mean() - 1 / 3) < 0.05


# ---- Policies


@given(seed=st.integers(0, 2**32 - 1), stream=st.integers(0, 9), start=st.integers(0, 2**32 - 50))
def test_words_are_those_of_numpys_generators(seed: int, stream: int, start: int) -> None:
    positions = np.arange(start, start + 40)
    expected = [counter(seed, stream, 1, int(p)).bit_generator.random_raw() for p in positions]
    assert (first_words(seed, stream, 1, positions) == np.array(expected, np.uint64)).all()


@pytest.mark.parametrize("labels", [[1] * 7, [1, 2, 4, 4, 5], [1] * 1000 + [2, 2, 64]])
@pytest.mark.parametrize("start", [0, 2**32 - 100])
def test_balanced_draws_are_numpys_one_by_one(labels: list[int], start: int) -> None:
    """The README's numbers were measured with these draws: a class, then one of its samples, by `integers`."""
    order = Order(made_up(labels), "s2", Data(sampling="balanced"), 5)
    holders = [np.flatnonzero(np.array(labels) >> k & 1) for k in range(len(CLASSES))]
    holders = [h for h in holders if len(h)]
    positions, expected = np.arange(start, start + 200), []
    for position in positions:
        draw = counter(5, 1, 1, int(position))
        holder = holders[int(draw.integers(len(holders)))]
        expected.append(int(holder[int(draw.integers(len(holder)))]))
    assert order.at(positions).tolist() == expected


def test_a_draw_that_numpy_takes_again_is_taken_again() -> None:
    """Where 2**32 is no multiple of the choices, a few products are unfair: one in 5,000 of a million choices."""
    labels = [1] * 1_000_003
    order = Order(made_up(labels), "s2", Data(sampling="balanced"), 0)
    positions = np.arange(20_000)
    again = first_words(0, 1, 1, positions) & np.uint64(2**32 - 1)
    unfair = np.flatnonzero((again * np.uint64(len(labels)) & np.uint64(2**32 - 1)) < 2**32 % len(labels))
    assert len(unfair), "the case is there"
    expected = [int(counter(0, 1, 1, int(p)).integers(len(labels))) for p in unfair]
    assert order.at(unfair).tolist() == expected


def test_balanced_classes_come_equally_often() -> None:
    labels = [1] * 900 + [2] * 90 + [2048] * 10
    seen = Counter(np.array(labels)[Order(made_up(labels), "s2", Data(sampling="balanced"), 0).at(np.arange(30_000))])
    assert all(abs(n - 10_000) < 5 * np.sqrt(30_000 * 2 / 9) for n in seen.values()), seen


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=3),
    weight=st.floats(0.1, 5),
    start=st.integers(0, 10**9),
)
def test_regions_have_their_share(counts: list[int], weight: float, start: int) -> None:
    regions = [k for k, count in enumerate(counts) for _ in range(count)]
    order = Order(made_up([1] * len(regions), regions=regions), "s2", Data(region_weights={"b": weight}), 0)
    wanted = [max(1, round(count * (weight if k == 1 else 1))) for k, count in enumerate(counts)]
    assert order.length == sum(wanted)
    rows = order.at(np.arange(start, start + order.length))
    assert np.bincount(np.array(regions)[rows], minlength=len(counts)).tolist() == wanted, "any epoch's length in a row"
    half = np.bincount(np.array(regions)[rows[: order.length // 2]], minlength=len(counts))
    assert all(abs(n - w / 2) <= 3 for n, w in zip(half, wanted, strict=True)), "and evenly spread"


def test_a_weighted_region_goes_through_its_samples_evenly() -> None:
    regions = [0] * 50 + [1] * 20
    order = Order(made_up([1] * 70, regions=regions), "s2", Data(region_weights={"b": 2.5}), 0)
    seen = Counter(order.at(np.arange(2 * order.length)).tolist())
    assert {seen[k] for k in range(50)} == {2}
    assert {seen[k] for k in range(50, 70)} == {5}


def test_a_region_that_comes_later_changes_no_other_ones_stream() -> None:
    data = Data(region_weights={"a": 3})
    two = Order(made_up([1] * 50, regions=[0] * 30 + [1] * 20), "s2", data, 0)
    three = Order(made_up([1] * 90, regions=[0] * 30 + [1] * 20 + [2] * 40), "s2", data, 0)
    first, second = (order.at(np.arange(400)) for order in (two, three))
    for rows in (range(30), range(30, 50)):
        one, other = (x[np.isin(x, rows)] for x in (first, second))
        assert (one[: len(other)] == other[: len(one)]).all()


def test_balanced_and_weighted() -> None:
    """Classes equally; within a class, a sample of `b` three times as often."""
    labels, regions = [1] * 30 + [2] * 10, [0] * 20 + [1] * 20
    order = Order(made_up(labels, regions=regions), "s2", Data(sampling="balanced", region_weights={"b": 3}), 0)
    rows = order.at(np.arange(8_000))
    water = rows < 30
    assert abs(water.mean() - 1 / 2) < 0.03
    assert abs((rows[water] >= 20).mean() - 10 * 3 / (20 + 10 * 3)) < 0.04


@settings(max_examples=50, deadline=None)
@given(share=st.floats(0.05, 0.95), size=st.integers(10, 200))
def test_sensors_come_in_their_proportion(share: float, size: int) -> None:
    sizes = batch_sizes({"s2": 1000, "s1": 1000}, Data(batch_size=size, s1_share=share))
    assert sum(sizes.values()) == 2 * size
    assert abs(sizes["s1"] / (2 * size) - share) <= 0.5 / (2 * size) + 1e-9


@given(position=st.integers(0, 10**12), counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=5))
def test_turns_are_numbered_without_a_gap(position: int, counts: list[int]) -> None:
    owner, turn = turns(np.arange(position, position + 300), counts)
    for k in range(len(counts)):
        mine = turn[owner == k]
        assert (np.diff(mine) == 1).all()


def test_a_run_with_chosen_shares_goes_on_as_if_it_had_not_stopped(shards: Path, tmp_path: Path) -> None:
    from train.loop import fit
    from train.model import build_model

    other = write_fake_shards(
        tmp_path / "b", {("train", "s2"): 20, ("train", "s1"): 9}, size_px=6, region="b", first_col=20_000
    )
    samples = open_shards([shards, other])
    samples = samples.where((samples["region"] == 1) | (np.arange(len(samples)) % 100 == 0))
    recipe = Recipe(
        name="shares",
        vision=Vision(s2="test_resnet", s1="test_resnet"),
        text=Text(tower="open_clip", weights="none", pooling="eot", context=16, width=32, layers=1, heads=2),
        data=Data(batch_size=8, s1_share=0.25, region_weights={"b": 3}),
        optim=Optim(steps=9),
        checkpoint_steps=4,
        log_steps=1,
    )  # fmt: skip
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    assert fit(recipe, samples, tmp_path / "straight", build_model(recipe))
    assert not fit(recipe, samples, tmp_path / "stopped", build_model(recipe), stop_at=6)
    kept = json.loads((tmp_path / "stopped" / "checkpoints" / "step-00000004" / "state.json").read_text())["order"]
    assert kept["positions"] == {"s2": 4 * 12, "s1": 4 * 4}
    assert fit(recipe, samples, tmp_path / "stopped", build_model(recipe))
    first, second = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "stopped"))
    assert first == second
    row = json.loads(first.splitlines()[0])
    assert row["loss"] == pytest.approx((12 * row["loss_s2"] + 4 * row["loss_s1"]) / 16), "every sample counts the same"


# ---- What is refused


def test_what_the_samples_do_not_allow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = made_up([1] * 10, regions=[0] * 10)
    with pytest.raises(Problem, match="no region 'aa'") as caught:
        check_order(one, Data(region_weights={"aa": 2}))
    assert "did you mean 'a'" in caught.value.fix
    with pytest.raises(Problem, match="'b' has no training sample"):
        check_order(one, Data(region_weights={"b": 2}))
    with pytest.raises(Problem, match="no training sample is of s1"):
        check_order(one, Data(batch_size=4, s1_share=0.5))
    both = made_up([1] * 10, sensors=["s1"] * 3 + ["s2"] * 7)
    with pytest.raises(Problem, match="wants 4 s1 samples a step, and there are 3"):
        check_order(both, Data(batch_size=4, s1_share=0.5))
    with pytest.raises(Problem, match="wants 0 s1 samples"):
        check_order(both, Data(batch_size=2, s1_share=0.05))
    many = made_up([1] * 4000, regions=[0, 1] * 2000)
    assert Order(many, "s2", Data(region_weights={"a": 1000}), 0).length == 2_002_000
    monkeypatch.setattr("train.order.MOST_TURNS", 2_000_000)
    with pytest.raises(Problem, match="an epoch of 2002000 samples"):
        Order(many, "s2", Data(region_weights={"a": 1000}), 0)
    check_order(both, Data(batch_size=4, s1_share=0.3, region_weights={"a": 2}))


def test_a_state_of_another_stream_is_refused(train: Samples) -> None:
    state = Batches(train, DATA, 0).state(7)
    for other in (Batches(train, DATA, 1), Batches(train.where(np.arange(9_000)), DATA, 0)):
        with pytest.raises(Problem, match="another order"):
            other.resume(state)
    with pytest.raises(Problem, match="another order"):
        Batches(train, DATA.model_copy(update={"sampling": "balanced"}), 0).resume(state)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("region_weights = { fake = 0 }", "greater than 0"),
        ("region_weights = { fake = 'much' }", "region_weights.fake"),
        ("s1_share = 1.0", "less than 1"),
        ("sampling = 'balance'", "did you mean 'balanced'"),
    ],
)
def test_a_recipe_that_says_it_wrong(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(f'name = "wrong"\n[data]\n{line}\n')
    with pytest.raises(Problem) as caught:
        load_recipe(path)
    assert words in str(caught.value)


def test_a_region_that_is_not_there_is_told_before_anything_is_written(shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('name = "wrong"\n[data]\nregion_weights = { flake = 2 }\n')
    said = run("train", "fit", str(path), str(shards), "--runs", str(tmp_path / "runs"))
    assert said.returncode == 2
    assert "did you mean 'fake'" in said.stderr
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "runs").exists()


def test_folders_in_another_order_change_nothing(shards: Path, tmp_path: Path) -> None:
    other = write_fake_shards(tmp_path / "b", {("train", "s1"): 50}, size_px=6, region="b", first_col=20_000)
    one, two = (open_shards(folders).of("train", "s1") for folders in ([shards, other], [other, shards]))
    for data in (Data(), Data(region_weights={"b": 2}), Data(sampling="balanced", region_weights={"b": 2})):
        first, second = (s["chip_id"][Order(s, "s1", data, 0).at(np.arange(6_000))] for s in (one, two))
        assert (first == second).all()
    assert {one.regions[k] for k in one["region"][np.char.startswith(one["cell"].astype(str), "p6_32632_20")]} >= {"b"}
