"""Views of captions for training: the same seed gives the same text, and no text says what is not there."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fake_shards import write_fake_shards
from hypothesis import given
from hypothesis import strategies as st

from harmonize import wording
from harmonize.captions import paper_text, write_caption
from harmonize.labelset import LabelSet
from harmonize.problem import Problem
from harmonize.views import SYNONYMS, half_view, seed_of, subset_view, view, view_and_mask
from harmonize.vocabulary import CLASSES, CRISES, LAND_COVER, mask_of
from train.batches import Batches
from train.draws import counter
from train.recipe import RICH_TOKENS, Data, load_recipe
from train.shards import open_shards

NAMES = st.lists(st.sampled_from(CLASSES), min_size=1, unique=True)
KINDS = st.sampled_from(["order", "subset", "synonyms"])
SEEDS = st.integers(0, 2**64 - 1)
CLASS_OF = {word: name for name, words in SYNONYMS.items() for word in (name, *words)}


def classes_in(text: str) -> list[str]:
    """The classes of a view's text, by name or synonym."""
    return [CLASS_OF[word] for word in text.split(". ")]


@given(NAMES, KINDS, SEEDS)
def test_a_view_names_some_of_the_classes_and_no_other(names: list[str], kind: str, seed: int) -> None:
    text, mask = view_and_mask(names, kind, seed)
    said = classes_in(text)
    assert len(said) == len(set(said)) >= 1
    assert set(said) <= set(names)
    assert mask == mask_of(said)
    if kind == "order":
        assert sorted(said) == sorted(names)
    if kind != "synonyms":
        assert said == text.split(". ")


@given(NAMES, KINDS, SEEDS)
def test_the_same_seed_gives_the_same_text(names: list[str], kind: str, seed: int) -> None:
    text = view(names, kind, seed)
    assert text == view(names[::-1], kind, seed) == view(paper_text(names), kind, seed)


def test_views_are_even() -> None:
    """Sizes, first classes and words of 6,000 seeds, within five standard deviations."""
    names = ["water", "crops", "burned area"]
    texts = [classes_in(view(names, "subset", seed)) for seed in range(6000)]
    for counts in (Counter(len(t) for t in texts), Counter(t[0] for t in texts)):
        assert len(counts) == 3
        assert all(abs(n - 2000) < 5 * (6000 * 2 / 9) ** 0.5 for n in counts.values()), counts
    orders = Counter(view(names, "order", seed) for seed in range(6000))
    assert len(orders) == 6
    assert all(abs(n - 1000) < 5 * (6000 * 5 / 36) ** 0.5 for n in orders.values()), orders
    words = Counter(view(["trees"], "synonyms", seed) for seed in range(6000))
    assert set(words) == {"trees", *SYNONYMS["trees"]}
    assert all(abs(n - 2000) < 5 * (6000 * 2 / 9) ** 0.5 for n in words.values()), words


def test_seeds_of_places_differ() -> None:
    seeds = {seed_of(a, b, c) for a in range(12) for b in range(12) for c in range(12)}
    assert len(seeds) == 12**3
    assert seed_of(1, 23) != seed_of(12, 3)


def test_views_that_were_written_once_stay() -> None:
    """The texts of a run are those of its seeds: a change here changes every run that goes on."""
    names = ["water", "trees", "crops", "built"]
    assert [view(names, "synonyms", seed) for seed in range(4)] == [
        "crops",
        "buildings and roads. tree cover",
        "built. trees",
        "built-up area. water. woodland",
    ]


def test_nothing_to_name_is_an_empty_text_and_a_wrong_word_is_told() -> None:
    assert view_and_mask("", "synonyms", 1) == view_and_mask([], "order", 1) == ("", 0)
    with pytest.raises(Problem, match="'tree' is no class") as raised:
        view("water. tree", "order", 1)
    assert "did you mean 'trees'" in raised.value.fix
    with pytest.raises(Problem, match="there is no view 'subsets'"):
        view("water", "subsets", 1)  # type: ignore[arg-type]


@given(st.integers(1, 2**12 - 1), SEEDS)
def test_synonym_views_are_the_caption_or_part_of_it(label_mask: int, seed: int) -> None:
    text, mask = half_view("The caption.", label_mask, "synonyms", seed)
    if text == "The caption.":
        assert mask == label_mask
    else:
        assert mask == mask_of(classes_in(text)) == mask & label_mask
    assert half_view("", 0, "synonyms", seed) == ("", 0)


def test_half_of_the_synonym_views_are_the_caption() -> None:
    whole = sum(half_view("The caption.", 7, "synonyms", seed_of(0, seed))[0] == "The caption." for seed in range(4000))
    assert abs(whole - 2000) < 5 * 1000**0.5


def test_subset_views_of_measured_runs_stay() -> None:
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([0, 3, 1, 6])))
    label = mask_of(["water", "crops", "built"])
    assert [subset_view("the caption", label, draw)[0] for _ in range(8)] == [
        "the caption",
        "water",
        "the caption",
        "built. crops",
        "the caption",
        "the caption",
        "crops. built",
        "water. built",
    ]


def test_views_of_a_batch_are_those_of_its_generators(tmp_path: Path) -> None:
    """Those that stay the caption are found all at once: by the very numbers that one generator each would give."""
    samples = open_shards([write_fake_shards(tmp_path / "shards", {("train", "s2"): 200})])
    plan = Batches(samples, Data(batch_size=200), seed=5).plan("s2", 3)
    positions, chosen = Batches(samples, Data(batch_size=200), seed=5).positions("s2", 3), samples.where(plan.rows)
    assert plan.texts == [
        subset_view(str(caption), int(mask), counter(5, 3, 1, int(position)))[0]
        for caption, mask, position in zip(chosen["caption_paper"], chosen["label_mask"], positions, strict=True)
    ]
    whole = np.mean([text == caption for text, caption in zip(plan.texts, chosen["caption_paper"], strict=True)])
    assert 0.4 < whole < 0.9


def test_a_batch_of_synonym_views(tmp_path: Path) -> None:
    """Texts name what `text_masks` says, come back by position alone, and are off unless a recipe asks for them."""
    assert Data().views == "subsets"
    train = open_shards([write_fake_shards(tmp_path / "shards", {("train", "s2"): 20})]).of("train")
    data = Data(batch_size=10, views="synonyms")
    batches, seen = Batches(train, data, 0), set()
    for step in range(20):
        batch = batches.batch("s2", step)
        for text, mask, label in zip(batch.texts, batch.text_masks, batch.label_masks, strict=True):
            assert mask_of(classes_in(text)) == mask == mask & label
            seen.update(text.split(". "))
    assert seen & {word for words in SYNONYMS.values() for word in words}
    assert seen & set(CLASSES)
    assert Batches(train, data, 0).batch("s2", 7).texts == batches.batch("s2", 7).texts
    assert Batches(train, data, 1).batch("s2", 7).texts != batches.batch("s2", 7).texts


def test_no_text_is_cut(tmp_path: Path) -> None:
    """The longest captions fit into what a recipe must offer them; half of ordinary ones are as short as is said."""
    from open_clip.tokenizer import SimpleTokenizer

    def tokens(shares: dict[str, float], orbit: str | None) -> list[int]:
        said = LabelSet(shares, {}, 0)
        captions = (write_caption(said, "s1", dt.date(2020, 1, 1), 50.0, orbit, str(k)) for k in range(2000))
        return [2 + len(tokenizer.encode(caption.rich)) for caption in captions]

    tokenizer = SimpleTokenizer()
    all_crises = dict.fromkeys(CRISES, 0.5)
    for cover in (dict.fromkeys(LAND_COVER, 1 / 9), dict.fromkeys(LAND_COVER, 0.05) | {"built": 0.6}):
        assert 70 < max(tokens(cover | all_crises, "descending")) <= RICH_TOKENS
    assert np.median(tokens({"water": 0.1, "trees": 0.3, "crops": 0.6}, None)) <= 34
    recipe = tmp_path / "cut.toml"
    recipe.write_text('name = "cut"\n[data]\nstyle = "rich"\n[text]\ncontext = 64\n')
    with pytest.raises(Problem, match="rich captions have up to 96 tokens") as raised:
        load_recipe(recipe)
    assert raised.value.fix == "set text.context = 96"


def test_synonyms_stand_for_one_class_each() -> None:
    assert set(SYNONYMS) == set(CLASSES)
    assert len(CLASS_OF) == sum(1 + len(words) for words in SYNONYMS.values())
    assert all(len(words) >= 2 and all(w == w.lower().strip() for w in words) for words in SYNONYMS.values())


TELLING = {
    "forest", "pasture", "agricultural", "houses", "streets", "settlement", "lake", "lakes", "river", "rivers", "sea",
    "swamp", "desert", "glacier", "flooding", "wildfire", "seismic", "collapsed",
}  # fmt: skip
"""Words that evaluation keeps to itself, in paraphrases of the classes; test_queries compares all of theirs."""


def training_phrases() -> list[str]:
    """Whatever the trainer may read besides the classes' names: synonyms and all pieces of the rich captions."""
    pieces = [*wording.FRAMES, *wording.IMAGES.values(), *wording.INSTRUMENTS.values()]
    pieces += [text for amounts in wording.PHRASES.values() for both in amounts for text in both]
    pieces += [wording.crisis((name,), (size,)) for name in CRISES for size in (-1, 0, 1)]
    return [text.lower() for text in (*pieces, *(word for words in SYNONYMS.values() for word in words))]


def test_training_never_sees_the_telling_words() -> None:
    for text in training_phrases():
        assert not set(re.findall(r"\w+", text)) & TELLING, text
