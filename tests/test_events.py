"""What an event says about a chip: windows in UTC days, shares, extents, several events, and the split of events."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize.captions import write_caption
from harmonize.events import CrisisEvent, Touch, crisis_labels, judge, unknown_crises
from harmonize.labelset import Evidence, combine
from harmonize.splits import SplitShares, event_split, spatial_split, torn_from_event
from harmonize.vocabulary import ALL_MASK, BIT, CRISIS_MASK, LAND_COVER_MASK, mask_of

START = dt.date(2018, 10, 29)
FLOOD = CrisisEvent("flood-a", "flood", START, 20, 0.05)


def on(days: int) -> dt.date:
    return START + dt.timedelta(days=days)


COVERED = Touch(0.05, 1.0, 0.0)
SLIVER = Touch(0.049, 1.0, 0.0)
PARTLY = Touch(0.0, 0.99, 3000.0)
CLEAR = Touch(0.0, 1.0, 3000.0)
NEAR = Touch(0.0, None, 10_000.0)
FAR = Touch(0.0, None, 10_000.1)


@pytest.mark.parametrize(
    ("days", "touch", "says"),
    [
        # The window: first day and last day included.
        (-1, COVERED, "negative"),
        (0, COVERED, "positive"),
        (20, COVERED, "positive"),
        (21, COVERED, "unknown"),
        (40, COVERED, "unknown"),
        (41, COVERED, "negative"),
        # Covered by less than min_share, but some: unknown, analysed or not.
        (-1, SLIVER, "negative"),
        (0, SLIVER, "unknown"),
        (21, SLIVER, "unknown"),
        (41, SLIVER, "negative"),
        (5, Touch(1e-6, None, 0.0), "unknown"),
        # Not covered: what was not looked at is unknown.
        (5, PARTLY, "unknown"),
        (5, Touch(0.0, 0.0, 3000.0), "unknown"),
        (5, Touch(0.0, 0.5, float("inf")), "unknown"),
        (21, PARTLY, "unknown"),
        (41, PARTLY, "negative"),
        # Looked at, and nothing there; nobody looked, and it is far: neither can fade.
        (5, CLEAR, "negative"),
        (21, CLEAR, "negative"),
        (5, Touch(0.0, 1.0, 0.0), "negative"),
        (5, NEAR, "unknown"),
        (21, NEAR, "unknown"),
        (5, FAR, "negative"),
        (21, FAR, "negative"),
        # An event that covers enough is there, whatever was analysed.
        (5, Touch(0.3, 0.2, 0.0), "positive"),
        (5, Touch(0.3, None, 0.0), "positive"),
    ],
)
def test_verdicts(days: int, touch: Touch, says: str) -> None:
    verdict = judge(FLOOD, touch, on(days))
    assert (verdict.says, verdict.days) == (says, days)


shares = st.floats(0, 1, allow_nan=False)
touches = st.builds(Touch, shares, st.one_of(st.none(), shares), st.floats(0, 50_000))


@given(touches, shares.filter(lambda s: s < 1), st.integers(-10, 60))
def test_moving_a_chip_out_of_the_analysed_extent_makes_no_known_negative(
    touch: Touch, analysed: float, days: int
) -> None:
    inside = judge(FLOOD, dataclasses.replace(touch, analysed=1.0), on(days)).says
    outside = judge(FLOOD, dataclasses.replace(touch, analysed=analysed), on(days)).says
    if FLOOD.in_window(on(days)):
        assert outside != "negative"
    assert inside == outside or (inside, outside) == ("negative", "unknown")


@given(touches, touches, st.integers(-10, 60))
def test_more_of_an_event_never_makes_it_less_sure(one: Touch, other: Touch, days: int) -> None:
    less, more = sorted((one.share, other.share))
    rank = ["negative", "unknown", "positive"]
    said = [judge(FLOOD, dataclasses.replace(one, share=s), on(days)).says for s in (less, more)]
    assert rank.index(said[0]) <= rank.index(said[1])


FIRE = CrisisEvent("fire-b", "fire", START, 180, 0.05)
SECOND = CrisisEvent("flood-c", "flood", on(10), 20, 0.05)


def test_of_several_events_any_positive_one_counts_then_any_unknown_one() -> None:
    verdicts = [judge(FLOOD, PARTLY, on(12)), judge(SECOND, COVERED, on(12)), judge(FIRE, SLIVER, on(12))]
    assert {label: v.event.id for label, v in crisis_labels(verdicts).items()} == {"flooded area": "flood-c"}
    assert unknown_crises(verdicts) == {"burned area"}
    verdicts = [judge(FLOOD, COVERED, on(15)), judge(SECOND, Touch(0.4, None, 0.0), on(15))]
    labels = combine([], [], on(15), 0.05, verdicts)
    assert labels.shares == {"flooded area": 0.4}, "the event that covers most gives share and id"
    assert labels.sources == {"flooded area": "flood-c"}
    assert labels.events == ["flood-a", "flood-c"], "both events' labels are borne"
    assert combine([], [], on(15), 0.05, verdicts[::-1]) == labels


def flood(days: int) -> CrisisEvent:
    return CrisisEvent(f"flood-{days}", "flood", on(days), 20, 0.05)


@pytest.mark.parametrize(
    ("seen", "unseen", "day", "known"),
    [
        # Two maps of one flood: what one analysed and found dry is known, whatever the other one did not look at.
        ((flood(0), CLEAR), (flood(0), PARTLY), 5, True),
        ((flood(0), CLEAR), (flood(0), Touch(0.0, 0.0, 50_000.0)), 5, True),
        ((flood(0), CLEAR), (flood(0), NEAR), 5, True),
        ((flood(0), CLEAR), (flood(0), PARTLY), 30, True),
        # A sliver of the other one is there; this one did not look at all of the cell either, or it has no extent.
        ((flood(0), CLEAR), (flood(0), SLIVER), 5, False),
        ((flood(0), PARTLY), (flood(0), PARTLY), 5, False),
        ((flood(0), FAR), (flood(0), PARTLY), 5, False),
        # Another kind of event was looked for; the other flood began later; this one's map is too old for the chip.
        ((FIRE, CLEAR), (flood(0), PARTLY), 5, False),
        ((flood(0), CLEAR), (flood(3), PARTLY), 5, False),
        ((flood(3), CLEAR), (flood(0), PARTLY), 5, True),
        ((flood(3), CLEAR), (flood(0), PARTLY), 2, False),
    ],
)
def test_what_one_map_of_a_disaster_shows_is_known(
    seen: tuple[CrisisEvent, Touch], unseen: tuple[CrisisEvent, Touch], day: int, known: bool
) -> None:
    verdicts = [judge(*seen, on(day)), judge(*unseen, on(day))]
    assert unknown_crises(verdicts) == unknown_crises(verdicts[::-1]) == (set() if known else {"flooded area"})


def test_crisis_bits_of_a_label_set() -> None:
    land = [Evidence("a", None, {"crops": 0.9, "water": 0.1})]
    labels = combine(land, ["a"], on(3), 0.05, [judge(FLOOD, Touch(0.2, None, 0.0), on(3)), judge(FIRE, NEAR, on(3))])
    assert labels.label_mask == mask_of(["water", "crops", "flooded area"])
    assert labels.known_mask == ALL_MASK & ~(1 << BIT["burned area"])
    assert labels.sources == {"water": "a", "crops": "a", "flooded area": "flood-a"}
    caption = write_caption(labels, "s1", on(3), 45.0)
    assert caption.paper == "water. crops. flooded area"
    assert "almost entirely crops" in caption.rich.lower()
    assert "a flooded area" in caption.rich.lower()
    before = combine(land, ["a"], on(-3), 0.05, [judge(FLOOD, COVERED, on(-3))])
    assert (before.label_mask, before.known_mask) == (mask_of(["water", "crops"]), ALL_MASK)


def test_a_crisis_label_without_land_cover_is_kept_alone() -> None:
    labels = combine([Evidence("a", None, {"water": 0.5})], ["a"], on(3), 0.05, [judge(FLOOD, COVERED, on(3))])
    assert not labels.empty
    assert (labels.shares, labels.known_mask) == ({"flooded area": 0.05}, CRISIS_MASK)
    caption = write_caption(labels, "s2", on(3), 45.0)
    assert caption.paper == "flooded area"
    assert "a small flooded area" in caption.rich.lower()
    unknown = combine([], [], on(3), 0.05, [judge(FLOOD, SLIVER, on(3))])
    assert unknown.empty, "not knowing is no label"
    assert not unknown.known_mask & 1 << BIT["flooded area"]


def test_a_source_with_crisis_classes_says_them_too() -> None:
    """CORINE has burnt areas (334): they count where no event says more, and an unknown event does not unsay them."""
    corine = [Evidence("corine", None, {"burned area": 0.3, "trees": 0.7})]
    alone = combine(corine, ["corine"], on(3), 0.05)
    assert (alone.shares, alone.known_mask) == ({"trees": 0.7, "burned area": 0.3}, ALL_MASK)
    doubted = combine(corine, ["corine"], on(3), 0.05, [judge(FIRE, NEAR, on(3))])
    assert (doubted.sources["burned area"], doubted.known_mask) == ("corine", ALL_MASK)
    mapped = combine(corine, ["corine"], on(3), 0.05, [judge(FIRE, Touch(0.1, None, 0.0), on(3))])
    assert (mapped.shares["burned area"], mapped.sources["burned area"]) == (0.1, "fire-b")
    little = [Evidence("corine", None, {"burned area": 0.01, "trees": 0.99})]
    assert not combine(little, ["corine"], on(3), 0.05, [judge(FIRE, NEAR, on(3))]).known_mask & 1 << BIT["burned area"]
    assert LAND_COVER_MASK & alone.known_mask == LAND_COVER_MASK


SHARES = SplitShares(0.7, 0.1, 0.2)
blocks = st.dictionaries(st.integers(0, 400).map(lambda k: f"32632_b12_{k}_400"), st.floats(1, 1e8), min_size=1)


def held(by_block: dict[str, float], shares: SplitShares) -> dict[str, float]:
    found = {"train": 0.0, "val": 0.0, "test": 0.0}
    for block, area in by_block.items():
        found[spatial_split(block, shares)] += area
    return found


def test_an_event_belongs_to_the_split_that_holds_most_of_it() -> None:
    by_split = {spatial_split(f"b{k}", SHARES): f"b{k}" for k in range(200)}
    assert set(by_split) == {"train", "val", "test"}
    train, val, test = by_split["train"], by_split["val"], by_split["test"]
    assert event_split({train: 3.0, test: 4.0, val: 2.0}, SHARES) == "test"
    assert event_split({train: 5.0, test: 4.0, val: 2.0}, SHARES) == "train"
    assert event_split({val: 1.0}, SHARES) == "val"
    assert event_split({test: 2.0, train: 2.0}, SHARES) == "train", "of equal ones the first"
    assert torn_from_event("train", ["test"])
    assert torn_from_event("train", ["train", "test"]), "of two events with different splits"
    assert not torn_from_event("train", ["train"])
    assert not torn_from_event("train", [])


@given(blocks)
def test_the_split_of_an_event_is_free_of_order_and_of_all_but_its_blocks(by_block: dict[str, float]) -> None:
    split = event_split(by_block, SHARES)
    assert event_split(dict(reversed(by_block.items())), SHARES) == split
    assert held(by_block, SHARES)[split] == pytest.approx(max(held(by_block, SHARES).values()))


@given(blocks, st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.01, 0.5))
def test_larger_shares_hold_the_smaller_ones(by_block: dict[str, float], test: float, val: float, more: float) -> None:
    """Blocks nest; an event that lies for the most part in a split stays there when that split grows at train's or
    test's cost. (No rule can promise more: with a moved val in between, another split may hold most of it.)"""
    small = SplitShares(1 - test - val, val, test)
    grown = min(1.0, test + more)
    larger = SplitShares(max(0.0, 1 - grown - val), min(val, 1 - grown), grown)
    for block in by_block:
        if spatial_split(block, small) == "test":
            assert spatial_split(block, larger) == "test"
        if spatial_split(block, larger) == "train":
            assert spatial_split(block, small) == "train"
    whole = sum(by_block.values())
    if held(by_block, small)["test"] > 0.501 * whole:
        assert event_split(by_block, larger) == "test"
    if held(by_block, larger)["train"] > 0.501 * whole:
        assert event_split(by_block, small) == "train"
