"""Queries: the rule of relevance case by case and against all completions, families, files, qrels, and real rows."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from commands import run
from conftest import ROOT
from fake_shards import write_fake_shards

from harmonize.captions import write_caption
from harmonize.crosswalk import parse_crosswalk
from harmonize.labelset import LabelSet
from harmonize.problem import Problem
from harmonize.qrels import qrels
from harmonize.queries import SENSORS, UNJUDGED, DistinctLabels, Query, grades_of
from harmonize.query_families import BEYOND, FAMILIES, FEW_WITH, PARAPHRASES, all_queries, choose_queries
from harmonize.query_file import QUERIES_VERSION, corpus_digest, queries_record, read_queries
from harmonize.views import SYNONYMS
from harmonize.vocabulary import ALL_MASK, CLASSES, CRISES, LAND_COVER, mask_of
from pipeline import sample as contract
from train.corpus import Corpus, class_scores
from train.evaluate import _measured
from train.metrics import measures, random_measures, ranking, tie_break
from train.queries import load_queries
from train.shards import Samples

WATER, CROPS, TREES, FLOOD = (mask_of([name]) for name in ("water", "crops", "trees", "flooded area"))
PLAIN = Query("q", "class", "flooded area", FLOOD)
PAIR = Query("q", "crisis-and-cover", "flooded area with crops", FLOOD | CROPS)
WITHOUT = Query("q", "without", "crops without water", CROPS, WATER)
RADAR = Query("q", "sensor", "radar image of flooded area", FLOOD, sensor="s1")

CASES = [
    # query, there, not known, sensor, grade
    (PLAIN, FLOOD, 0, "s2", 1),
    (PLAIN, CROPS, 0, "s2", 0),
    (PLAIN, CROPS, FLOOD, "s2", UNJUDGED),
    (PLAIN, FLOOD, CROPS | WATER, "s2", 1),
    (PAIR, FLOOD | CROPS | WATER, 0, "s2", 2),
    (PAIR, CROPS, 0, "s2", 1),
    (PAIR, WATER, 0, "s2", 0),
    (PAIR, CROPS, FLOOD, "s2", UNJUDGED),
    (PAIR, WATER, FLOOD, "s2", UNJUDGED),
    (PAIR, FLOOD, ALL_MASK & ~FLOOD, "s2", UNJUDGED),
    (WITHOUT, CROPS, 0, "s2", 1),
    (WITHOUT, CROPS | WATER, 0, "s2", 0),
    (WITHOUT, TREES, 0, "s2", 0),
    (WITHOUT, CROPS, WATER, "s2", UNJUDGED),
    (WITHOUT, TREES, WATER, "s2", 0),  # no crops, so it is irrelevant with water and without
    (WITHOUT, WATER, CROPS, "s2", 0),  # water, so it is irrelevant with crops and without
    (WITHOUT, TREES, CROPS, "s2", UNJUDGED),
    (WITHOUT, TREES, CROPS | WATER, "s2", UNJUDGED),
    (WITHOUT, CROPS, FLOOD, "s2", 1),
    (RADAR, FLOOD, 0, "s1", 1),
    (RADAR, FLOOD, 0, "s2", 0),
    (RADAR, CROPS, FLOOD, "s1", UNJUDGED),
    (RADAR, CROPS, FLOOD, "s2", 0),  # the wrong sensor, flooded or not
]


def grade(query: Query, there: int, known: int, sensor: str) -> int:
    return int(grades_of(query, np.array([there]), np.array([known]), np.array([sensor]))[0])


@pytest.mark.parametrize(("query", "there", "unknown", "sensor", "wanted"), CASES)
def test_the_rule_case_by_case(query: Query, there: int, unknown: int, sensor: str, wanted: int) -> None:
    assert grade(query, there, ALL_MASK & ~unknown, sensor) == wanted
    assert grade(query, there | unknown, ALL_MASK & ~unknown, sensor) == wanted, "an unknown bit says nothing"


def test_unjudged_is_what_another_completion_would_grade_otherwise() -> None:
    """Against the definition: fill in the unknown classes in every way; where all agree, that is the grade."""
    draw = np.random.default_rng(0)
    classes = [1 << int(k) for k in draw.permutation(len(CLASSES))[:5]]
    seen = Counter()
    for _ in range(2000):
        kinds = draw.integers(0, 3, 5)  # of the query: wanted, without, neither
        wanted, without = (sum(c for c, kind in zip(classes, kinds, strict=True) if kind == k) for k in (1, 2))
        sensor = draw.choice([None, "s1"])
        query = Query("q", "f", "t", wanted, without, sensor)
        there, known = (sum(c for c in classes if draw.random() < p) for p in (0.5, 0.7))
        unknown = [c for c in classes if not known & c]
        found = set()
        for bits in itertools.product((0, 1), repeat=len(unknown)):
            whole = there & known | sum(c * b for c, b in zip(unknown, bits, strict=True))
            right = sensor is None and not whole & without
            found.add((whole & wanted).bit_count() if right else 0)
        expected = found.pop() if len(found) == 1 else UNJUDGED
        assert grade(query, there, known, "s2") == expected
        seen[expected] += 1
    assert {UNJUDGED, 0, 1, 2} <= set(seen), "the cases reach every outcome"


def corpus(number: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of a random corpus in which classes are unlike in number and a fifth of the crises are unknown."""
    draw = np.random.default_rng(seed)
    often = np.linspace(0.6, 0.03, len(CLASSES))
    bits = draw.random((number, len(CLASSES))) < often
    unknown = draw.random((number, len(CLASSES))) < np.where(np.arange(len(CLASSES)) < 9, 0.02, 0.2)
    powers = 1 << np.arange(len(CLASSES))
    known = ALL_MASK & ~(unknown * powers).sum(1)
    sensors = draw.choice(SENSORS, number).astype(object)
    ids = np.array([f"c{k:05d}_{s}" for k, s in enumerate(sensors)], object)
    return {"chip_id": ids, "sensor": sensors, "label_mask": (bits * powers).sum(1) & known, "known_mask": known}


def distinct(columns: dict[str, np.ndarray]) -> DistinctLabels:
    return DistinctLabels.of(columns["label_mask"], columns["known_mask"], columns["sensor"])


def record_of(columns: dict[str, np.ndarray], **options: int) -> dict:
    digest = corpus_digest(*(columns[name] for name in ("chip_id", "sensor", "label_mask", "known_mask")))
    return queries_record(distinct(columns), digest, "test", **options)


def test_counts_and_grades_equal_an_image_by_image_count() -> None:
    columns = corpus(700)
    labels = distinct(columns)
    record = record_of(columns)
    assert {entry["family"] for entry in record["queries"]} == set(FAMILIES)
    for query, entry in zip(read_queries(record), record["queries"], strict=True):
        slow = np.array(
            [
                grade(query, int(a), int(k), s)
                for a, k, s in zip(columns["label_mask"], columns["known_mask"], columns["sensor"], strict=True)
            ]
        )
        assert (labels.image_grades(query) == slow).all()
        said = {UNJUDGED: entry["unjudged"]} | {int(g): n for g, n in entry["grades"].items()}
        assert {g: n for g, n in said.items() if n} == Counter(slow.tolist())
        assert entry["relevant"] == (slow == len(entry["classes"])).sum() >= 10
        assert labels.full_matches(query, "s1") == (slow[columns["sensor"] == "s1"] == query.full).sum()


def test_families_ask_for_what_a_corpus_can_answer() -> None:
    lone, both = CROPS | TREES, CROPS | WATER
    masks = np.array([lone] * 30 + [both] * 20 + [both | FLOOD] * 12 + [TREES | WATER] * 9)
    labels = DistinctLabels.of(masks, np.full(len(masks), ALL_MASK), np.full(len(masks), "s2"))
    asked, skipped = choose_queries(labels, 10)
    texts = {query.text: query.family for query in asked}
    assert texts["water. crops"] == "label-set"
    assert texts["flooded area with crops"] == "crisis-and-cover"
    assert texts["crops without water"] == "without"
    assert "flooded area with trees" not in texts
    assert "trees without water" not in texts, "of 39 images with trees 9 have water: too few to tell them apart"
    why = {entry["query"]: (entry["why"], entry["relevant"]) for entry in skipped}
    assert why["trees without water"] == (FEW_WITH, 30)
    assert why["water. trees"][1] == 9
    assert "radar image of crops" not in why, "nobody answers it: not worth a line"
    assert why["built"][1] == 0, "but classes are told"
    assert all(query.sensor == "s2" for query in asked if query.family == "sensor")


def test_a_family_is_bounded_by_its_most_frequent_queries() -> None:
    labels = distinct(corpus(700))
    everything, _ = choose_queries(labels, 10)
    few, skipped = choose_queries(labels, 10, most=5)
    assert max(Counter(query.family for query in few).values()) == 5
    assert [query for query in everything if query in few] == few, "in the same order"
    sets = {q.id: labels.full_matches(q) for q in everything if q.family == "label-set"}
    kept = {q.id for q in few if q.family == "label-set"}
    assert min(sets[i] for i in kept) >= max(n for i, n in sets.items() if i not in kept)
    assert sum(entry["why"] == BEYOND for entry in skipped) == len(everything) - len(few)


def test_the_same_corpus_gives_the_same_file_in_any_order() -> None:
    columns = corpus(400)
    order = np.random.default_rng(1).permutation(400)
    turned = {name: column[order] for name, column in columns.items()}
    assert json.dumps(record_of(turned)) == json.dumps(record_of(columns))
    for zeros in (False, True):
        texts = [
            b"".join(qrels(read_queries(record_of(c)), c["chip_id"], distinct(c), zeros)) for c in (columns, turned)
        ]
        assert texts[0] == texts[1]
    other = {**columns, "label_mask": columns["label_mask"] ^ np.eye(1, 400, dtype=int)[0]}
    assert record_of(other)["of"] != record_of(columns)["of"]


def test_queries_are_told_apart_and_their_classes_are_their_text() -> None:
    queries = all_queries(np.arange(ALL_MASK + 1))
    assert len({query.id for query in queries}) == len(queries)
    assert len({(query.family, query.text) for query in queries}) == len(queries)
    assert all(query.mask and not query.mask & query.without for query in queries)
    assert set(Counter(query.family for query in queries)) == set(FAMILIES)


def test_a_change_of_queries_raises_their_version() -> None:
    """Results on other words are not comparable: where this fails, raise QUERIES_VERSION and pin the new hash."""
    said = json.dumps([[*vars(query).values()] for query in all_queries(np.arange(ALL_MASK + 1))])
    assert (QUERIES_VERSION, hashlib.sha256(said.encode()).hexdigest()[:16]) == (2, "6be43012e09b7356")


def test_paraphrases_are_no_words_of_training() -> None:
    assert list(PARAPHRASES) == list(CLASSES)
    held = [text for texts in PARAPHRASES.values() for text in texts]
    assert len(held) == len(set(held)) >= 24
    assert all(text == text.lower() for text in held)
    training = content_words([*CLASSES, *(text for texts in SYNONYMS.values() for text in texts), *captions()])
    assert {"radar", "optical", "patch", "landscape", "woodland", "july"} <= training, "captions and views were read"
    shared = {
        (text, word, other)
        for text in held
        for word in content_words([text])
        for other in training
        if alike(word, other)
    }
    assert not shared


FUNCTION_WORDS = {
    "a", "an", "and", "after", "are", "as", "at", "beside", "but", "by", "for", "from", "has", "have", "in", "is",
    "it", "its", "nor", "of", "on", "or", "over", "that", "the", "their", "there", "this", "to", "under", "up",
    "was", "went", "what", "where", "which", "with", "without", "also",
}  # fmt: skip


def content_words(texts: Iterable[str]) -> set[str]:
    """Stems of the words that are no articles, prepositions, pronouns or auxiliary verbs; numbers are no words."""
    words = {word for text in texts for word in re.findall("[a-z]+", text.lower())}
    return {stem(word) for word in words - FUNCTION_WORDS}


def stem(word: str) -> str:
    """flooded, flooding, floods -> flood; patches -> patch."""
    return re.sub("(?<=...)(?:ing|ed|es|s)$", "", word)


def alike(a: str, b: str) -> bool:
    """Forms of one word or a compound with it (burn, burnt; land, woodland); short ones begin or end many others."""
    short, long = sorted((a, b), key=len)
    return a == b or (len(short) > 3 and (long.startswith(short) or long.endswith(short)))


def captions() -> Iterator[str]:
    """Rich captions with every frame, class, amount, size, season, month and pass that there is."""
    cover = [{name: share} for name in LAND_COVER for share in (0.06, 0.2, 0.4, 0.6, 0.95)]
    cover += [{"crops": 0.55, "trees": 0.25, "built": 0.12, "water": 0.08}, {}]
    crises = [{}, *({name: share} for name in CRISES for share in (0.06, 0.3, 0.8)), dict.fromkeys(CRISES, 0.3)]
    for k, (land, crisis, seed) in enumerate(itertools.product(cover, crises, range(12))):
        labels = LabelSet(land | crisis, dict.fromkeys(land | crisis, "a"), ALL_MASK)
        day = dt.date(2020, k % 12 + 1, 15)
        orbit = ("ascending", "descending", None)[k % 3]
        yield write_caption(labels, SENSORS[k % 2], day, (0.0, 45.0)[k // 12 % 2], orbit, str(seed)).rich


def test_other_forms_of_a_word_and_compounds_are_found() -> None:
    for a, b in (("flood", "flooded"), ("burnt", "burned"), ("fire", "wildfire"), ("rock", "rocky"), ("land", "lands")):
        assert alike(stem(a), stem(b)), (a, b)
    assert content_words(["what a forest fire left behind"]) == {"forest", "fire", "left", "behind"}
    assert not alike(stem("graze"), stem("grass"))


def test_moving_a_chip_outside_the_analysed_extent_changes_no_metric() -> None:
    """Its crisis becomes unknown: whatever it shows and wherever it is ranked, each query that hangs on it is as if
    the chip were not there, and each other query is as before."""
    columns = corpus(500, seed=3)
    chip = int(np.flatnonzero((columns["known_mask"] == ALL_MASK) & (columns["label_mask"] & FLOOD > 0))[0])
    moved = {name: column.copy() for name, column in columns.items()}
    moved["known_mask"][chip] &= ~FLOOD
    moved["label_mask"][chip] &= ~FLOOD
    rest = {name: np.delete(column, chip) for name, column in columns.items()}
    draw = np.random.default_rng(4)
    hanging = 0
    for query in read_queries(record_of(columns)):
        scores = draw.random(500)
        without_it = measured(query, rest, np.delete(scores, chip))
        asks = (query.mask | query.without) & FLOOD
        grades = [distinct(c).image_grades(query)[chip] for c in (columns, moved)]
        for place in (-1.0, 2.0):
            scores[chip] = place
            if grades[1] == UNJUDGED:
                assert measured(query, moved, scores) == without_it
            else:
                assert grades[1] == grades[0]
                assert measured(query, moved, scores) == measured(query, columns, scores)
        assert (grades[1] == UNJUDGED) <= bool(asks)
        hanging += grades[1] == UNJUDGED
    assert hanging > 10


def measured(query: Query, columns: dict[str, np.ndarray], scores: np.ndarray) -> dict[str, float]:
    grades = distinct(columns).image_grades(query)
    order = ranking(scores, tie_break(columns["chip_id"]))
    return measures(grades[order][grades[order] != UNJUDGED])


@pytest.mark.parametrize("zeros", [False, True])
def test_qrels_give_our_numbers_in_trec_eval(zeros: bool) -> None:
    """Without zeros for a ranking that leaves out the unjudged; with them, and -J, for any ranking."""
    columns = corpus(600, seed=5)
    labels, queries = distinct(columns), read_queries(record_of(columns))[::7]
    text = b"".join(qrels(queries, columns["chip_id"], labels, zeros)).decode()
    judged = pytrec_eval.parse_qrel(text.splitlines())
    draw = np.random.default_rng(6)
    ours, rankings = {}, {}
    for query in queries:
        scores, grades = draw.random(600), labels.image_grades(query)
        ours[query.id] = measured(query, columns, scores)
        rankings[query.id] = {
            str(columns["chip_id"][k]): float(scores[k]) for k in range(600) if zeros or grades[k] != UNJUDGED
        }
        assert not {str(c) for c in columns["chip_id"][grades == UNJUDGED]} & set(judged[query.id])
    names = {"ndcg_cut_1000": "ndcg", "map": "map", "P_10": "p10", "recall_1000": "recall"}
    wanted = {"ndcg_cut.1000", "map", "P.10", "recall.1000"}
    theirs = pytrec_eval.RelevanceEvaluator(judged, wanted, judged_docs_only_flag=zeros).evaluate(rankings)
    for query in queries:
        for name, mine in names.items():
            assert theirs[query.id][name] == pytest.approx(ours[query.id][mine], abs=1e-6), (query, name)


def test_strict_measures_are_those_of_trec_eval_at_the_full_level() -> None:
    """Crops without a flood are relevant to `flooded area with crops` in part: in full they are not."""
    columns = corpus(600, seed=7)
    labels, queries = distinct(columns), read_queries(record_of(columns))
    queries = [query for query in queries if query.family in ("crisis-and-cover", "label-set", "class")][::5]
    draw, lower = np.random.default_rng(8), 0
    for query in queries:
        scores, grades = draw.random(600), labels.image_grades(query)
        order = ranking(scores, tie_break(columns["chip_id"]))
        ranked = grades[order][grades[order] != UNJUDGED]
        found = _measured(measures, ranked, query)
        judged = {"q": {str(k): int(grade) for k, grade in enumerate(ranked)}}
        evaluator = pytrec_eval.RelevanceEvaluator(judged, {"map", "P.10"}, relevance_level=query.full)
        theirs = evaluator.evaluate({"q": {str(k): float(-k) for k in range(len(ranked))}})["q"]
        assert found["map_full"] == pytest.approx(theirs["map"], abs=1e-6), query
        assert found["p10_full"] == pytest.approx(theirs["P_10"]), query
        assert {name: found[name] for name in measures(ranked)} == measures(ranked), "the others are as before"
        lower += found["map_full"] < found["map"]
        assert (query.full == 1) <= (found["map_full"] == found["map"])
    assert lower > len(queries) / 3
    chance = _measured(random_measures, np.array([2, 1, 1, 0]), PAIR)
    assert (chance["p10_full"], chance["p10"]) == (0.25 * 4 / 10, 0.75 * 4 / 10)


def test_a_negative_grade_is_no_unjudged_image_to_trec_eval() -> None:
    """Why unjudged images have no line: a negative grade counts as irrelevant, even with -J it is only left out."""
    ranked = {"q": {"a": 3.0, "unknown": 2.0, "b": 1.0}}
    for grades in ({"a": 1, "b": 1}, {"a": 1, "b": 1, "unknown": -1}, {"a": 1, "b": 1, "unknown": -2}):
        found = pytrec_eval.RelevanceEvaluator({"q": grades}, {"map"}).evaluate(ranked)["q"]["map"]
        assert found == pytest.approx((1 + 2 / 3) / 2)


def test_a_chip_id_with_white_space_cannot_be_a_qrel() -> None:
    columns = corpus(30)
    columns["chip_id"][3] = "a chip"
    with pytest.raises(Problem, match="white space"):
        list(qrels([PLAIN], columns["chip_id"], distinct(columns), False))


def test_baselines_of_classes_answer_every_family() -> None:
    """A perfect classifier is a perfect ranking for every query of one wanted class."""
    columns = corpus(300, seed=8)
    columns["block"] = columns["chip_id"]
    images = Corpus.of(Samples(columns, (), 12, ("fake",), "0"))
    perfect = (columns["label_mask"][:, None] >> np.arange(len(CLASSES)) & 1).astype(float)
    queries = [query for query in read_queries(record_of(columns)) if query.full == 1]
    assert {query.family for query in queries} == {"class", "without", "sensor", "paraphrase"}
    scores = class_scores(queries, images.images, perfect)
    for k, query in enumerate(queries):
        whole = images.ranked(query, scores[k], images.rows("all"))
        assert measures(whole[1])["map"] == 1, query
        for scope, (rows, grades) in images.ranked_by_scope(query, scores[k], ("all", *SENSORS)).items():
            alone = images.ranked(query, scores[k], images.rows(scope))
            assert (rows == alone[0]).all()
            assert (grades == alone[1]).all()


def test_images_of_equal_class_scores_are_ties() -> None:
    """As all images of one sensor and month are to prior-only: file order would rank them otherwise."""
    columns = corpus(1519, seed=9)
    draw = np.random.default_rng(10)
    kind = draw.integers(0, 15, 1519) * 2 + (columns["sensor"] == "s1")
    prior = draw.random((30, len(CLASSES)))[kind]
    queries = read_queries(record_of(columns))
    scores = class_scores(queries, Samples(columns, (), 12, ("fake",), "0"), prior)
    for k in range(len(queries)):
        assert all(np.ptp(scores[k][kind == number]) == 0 for number in range(30))


def test_sensors_are_the_samples_sensors() -> None:
    assert SENSORS == contract.SENSORS
    with pytest.raises(Problem, match="no sensor 's3'"):
        DistinctLabels.of(np.array([1]), np.array([1]), np.array(["s3"]))
    with pytest.raises(Problem, match="not in the vocabulary"):
        DistinctLabels.of(np.array([1 << 14]), np.array([1]), np.array(["s2"]))


GOOD = {"id": "mine", "family": "mine", "text": "fields", "classes": ["crops"]}
BAD = {
    "a version": ({"version": 0}, {}, "version 0 and vocabulary"),
    "a vocabulary": ({"vocabulary": 9}, {}, "vocabulary 9"),
    "no list": ({"queries": None}, {}, "no file of queries"),
    "a class": ({}, {"classes": ["crop"]}, "did you mean 'crops'"),
    "a class not there": ({}, {"without": ["wood"]}, "'wood' is not in the vocabulary"),
    "no class": ({}, {"classes": []}, "asks for no class"),
    "both": ({}, {"without": ["crops"]}, "'crops' is asked for and not"),
    "a text for a list": ({}, {"classes": "crops"}, "no list of classes"),
    "a list in a list": ({}, {"classes": [["water"]]}, "'['water']' is not in the vocabulary"),
    "a number": ({}, {"classes": [3]}, "'3' is not in the vocabulary"),
    "a table for a class": ({}, {"without": [{"name": "water"}]}, "is not in the vocabulary"),
    "sensors": ({}, {"sensor": ["s1"]}, "no sensor '['s1']'"),
    "a table of sensors": ({}, {"sensor": {"s1": True}}, "no sensor"),
    "a list for a text": ({}, {"text": ["fields"]}, "has no text"),
    "a query as a text": ({"queries": ["crops"]}, {}, "a query is no table"),
    "a sensor": ({}, {"sensor": "s3"}, "no sensor 's3'"),
    "an empty text": ({}, {"text": " "}, "has no text"),
    "white space": ({}, {"id": "my query"}, "white space"),
    "an id twice": ({"queries": [GOOD, {**GOOD, "text": "other"}]}, {}, "id 'mine' stands twice"),
    "a text twice": ({"queries": [GOOD, {**GOOD, "id": "other"}]}, {}, "text 'mine: fields' stands twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_of_queries_is_explained(case: str) -> None:
    about, entry, words = BAD[case]
    fine = {"version": QUERIES_VERSION, "vocabulary": 1, "queries": [GOOD]}
    assert read_queries(fine) == [Query("mine", "mine", "fields", CROPS)]
    record = {**fine, **about}
    if entry:
        record["queries"] = [{**GOOD, **entry}]
    with pytest.raises(Problem) as error:
        read_queries(record)
    assert words in str(error.value)


def test_a_missing_or_damaged_file_of_queries_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "queries.json"
    with pytest.raises(Problem, match="no such file"):
        load_queries(path)
    path.write_text('{"version": 1,')
    with pytest.raises(Problem, match="not valid JSON"):
        load_queries(path)
    path.write_text("[]")
    with pytest.raises(Problem, match="no file of queries"):
        load_queries(path)
    path.write_bytes(b'{"version": "\xff"}')
    with pytest.raises(Problem, match="not valid JSON"):
        load_queries(path)
    with pytest.raises(Problem, match="folder, not a file") as error:
        load_queries(tmp_path)
    assert str(path) in str(error.value), "a folder that holds one: it is named"
    path.unlink()
    with pytest.raises(Problem, match="folder, not a file"):
        load_queries(tmp_path)


def test_the_command_writes_what_evaluate_reads(tmp_path: Path) -> None:
    shards = write_fake_shards(tmp_path / "region/shards", {("train", "s1"): 40, ("train", "s2"): 40}, region="region")
    words = ("queries", str(shards), "--split", "train")
    said = run("train", *words, "--qrels")
    assert said.returncode == 0, said.all
    folder = tmp_path / "region/queries/train"
    assert said.stdout.splitlines()[-2:] == [str(folder / "queries.json"), str(folder / "qrels.trec")]
    record = json.loads((folder / "queries.json").read_text())
    assert record["of"]["samples"] == 80
    assert "trees without water" in [entry["text"] for entry in record["queries"]]
    lines = (folder / "qrels.trec").read_text().splitlines()
    assert len(lines) == sum(n for q in record["queries"] for g, n in q["grades"].items() if g != "0")
    assert "written already" in run("train", *words, "--qrels").stderr
    assert run("train", *words, "--zeros").returncode == 0
    assert json.loads((folder / "queries.json").read_text()) == record
    assert (folder / "qrels.trec").exists(), "it belongs to the same queries"
    assert len((folder / "qrels-zeros.trec").read_text().splitlines()) == 80 * len(record["queries"])
    changed = run("train", *words, "--min-relevant", "20")
    assert changed.returncode == 0
    assert not (folder / "qrels.trec").exists(), "qrels of other queries do not stay beside the new ones"
    for more, words_said in (
        (("--min-relevant", "999"), "no query has 999 relevant"),
        (("--split", "val"), "split val is empty"),
    ):
        bad = run("train", "queries", str(shards), "--split", "train", *more)
        assert bad.returncode == 2
        assert words_said in bad.stderr
    several = run("train", "queries", str(shards), str(shards))
    assert several.returncode == 2
    assert "--out" in several.stderr


def test_queries_of_the_real_rows_in_time(real_folder: Path) -> None:
    """237,871 label sets of BigEarthNet v2 (train), in our classes: seconds, and counts that a plain count agrees on."""
    import pyarrow.parquet as pq

    path = ROOT / "manifests/labels/bigearthnet-19.csv"
    crosswalk = parse_crosswalk(path.read_text("utf-8"), path.name)
    bit_of = {name: mask_of([class_]) for name, class_ in crosswalk.by_name().items()}
    table = pq.read_table(real_folder / "labels/bigearthnet_v2_labels_train.parquet", columns=["patch_id", "labels"])
    lists = table["labels"].combine_chunks()
    bits = np.array([bit_of[name] for name in lists.values.to_pylist()])
    masks = np.bitwise_or.reduceat(bits, lists.offsets.to_numpy()[:-1])
    columns = {
        "chip_id": table["patch_id"].to_numpy(),
        "sensor": np.full(len(masks), "s2", object),
        "label_mask": masks,
        "known_mask": np.full(len(masks), ALL_MASK),
    }
    start = time.process_time()
    record = record_of(columns)
    seconds = time.process_time() - start
    assert record["of"]["samples"] == 237_871
    assert seconds < 20
    said = {entry["text"]: entry["relevant"] for entry in record["queries"]}
    assert said["water"] == int((masks & WATER > 0).sum())
    assert said["crops without water"] == int(((masks & CROPS > 0) & (masks & WATER == 0)).sum())
    assert said["water. crops"] == int(((masks & CROPS > 0) & (masks & WATER > 0)).sum())
    queries = read_queries(record)
    tracemalloc.start()
    lines = sum(part.count(b"\n") for part in qrels(queries[:4], columns["chip_id"], distinct(columns), False))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lines == sum(entry["relevant"] for entry in record["queries"][:4])
    assert peak < 500e6, "bytes: one query at a time"


def test_a_misspelt_key_and_a_missing_version_are_told() -> None:
    entry = {"id": "a", "family": "mine", "text": "lakes", "clases": ["water"], "classes": ["water"]}
    record = {"version": QUERIES_VERSION, "vocabulary": 1, "queries": [entry]}
    with pytest.raises(Problem, match="unknown key 'clases'") as raised:
        read_queries(record)
    assert "'classes'" in raised.value.fix
    with pytest.raises(Problem, match="do not say their version") as raised:
        read_queries({"queries": []})
    assert f'"version": {QUERIES_VERSION}' in raised.value.fix
