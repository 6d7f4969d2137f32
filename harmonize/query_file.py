"""queries.json: the queries of one corpus, with how many images answer each. No file is opened here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from harmonize.problem import Problem, nearest
from harmonize.queries import SENSORS, UNJUDGED, DistinctLabels, Query
from harmonize.query_families import MIN_RELEVANT, MOST, choose_queries
from harmonize.vocabulary import BIT, CLASSES, VOCABULARY_VERSION, mask_of, names_of

QUERIES_VERSION = 2
"""Raised when a family, a wording or the rule of relevance changes: results on two versions are not comparable."""
RULE = (
    "grade = number of the query's classes that an image has; 0 with a class of 'without', or of another sensor than "
    "'sensor'; an image whose grade hangs on an unknown class is unjudged: it leaves the ranking and the ideal. "
    "relevant: images that have all of the query's classes."
)


def corpus_digest(chip_ids: Iterable[Any], sensors: Iterable[Any], labels: Iterable[Any], known: Iterable[Any]) -> str:
    """sha256 of a corpus's chips and masks, whatever order they come in."""
    lines = (f"{c} {s} {int(a)} {int(b)}\n" for c, s, a, b in zip(chip_ids, sensors, labels, known, strict=True))
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def queries_record(
    labels: DistinctLabels, digest: str, split: str, min_relevant: int = MIN_RELEVANT, most: int = MOST
) -> dict[str, Any]:
    """What queries.json holds for a corpus: a function of its labels alone.

    digest: `corpus_digest` of the same images. split: what they are, for people.
    """
    queries, skipped = choose_queries(labels, min_relevant, most)
    return {
        "version": QUERIES_VERSION,
        "vocabulary": VOCABULARY_VERSION,
        "of": {"samples": len(labels), "sha256": digest},
        "split": split,
        "min_relevant": min_relevant,
        "most_per_family": most,
        "rule": RULE,
        "queries": [_entry(query, labels.count(query)) for query in queries],
        "skipped": skipped,
    }


def _entry(query: Query, counts: dict[int, int]) -> dict[str, Any]:
    return {
        "id": query.id,
        "family": query.family,
        "text": query.text,
        "classes": names_of(query.mask),
        "without": names_of(query.without),
        "sensor": query.sensor,
        "relevant": counts[query.full],
        "grades": {str(grade): count for grade, count in counts.items() if grade != UNJUDGED},
        "unjudged": counts[UNJUDGED],
    }


KEYS = ("id", "family", "text", "classes", "without", "sensor", "relevant", "grades", "unjudged")
"""Of a query; the last three are counts, which say nothing about another corpus and are not read."""


def read_queries(record: dict[str, Any], where: str = "queries.json") -> list[Query]:
    """The queries of a queries.json, ours or one that a person wrote: id, family, text and classes are enough.

    Raises Problem for another version, an unknown class or sensor, and queries that cannot be told apart.
    """
    if not isinstance(record, dict) or not isinstance(record.get("queries"), list):
        raise Problem("this is no file of queries", where=where, fix="python -m train queries SHARDS…")
    said = (record.get("version"), record.get("vocabulary"))
    if said == (None, None):
        fix = f'add "version": {QUERIES_VERSION}, "vocabulary": {VOCABULARY_VERSION} beside "queries"'
        raise Problem("these queries do not say their version", where=where, fix=fix)
    if said != (QUERIES_VERSION, VOCABULARY_VERSION):
        raise Problem(
            f"queries of version {said[0]} and vocabulary {said[1]}; this program reads {QUERIES_VERSION} and "
            f"{VOCABULARY_VERSION}",
            where=where,
            fix="make the file again with python -m train queries, or use the program that wrote it",
        )
    queries = [_query(entry, f"{where}, queries[{k}]") for k, entry in enumerate(record["queries"])]
    for what, names in (("id", [q.id for q in queries]), ("text", [f"{q.family}: {q.text}" for q in queries])):
        twice = next((name for k, name in enumerate(names) if name in names[:k]), None)
        if twice is not None:
            raise Problem(f"the {what} '{twice}' stands twice", where=where, fix="keep one of the queries")
    return queries


def _query(entry: Any, where: str) -> Query:
    if not isinstance(entry, dict):
        raise Problem("a query is no table", where=where, fix="give id, family, text and classes")
    if unknown := [key for key in entry if key not in KEYS]:
        raise Problem(f"unknown key '{unknown[0]}'", where=where, fix=nearest(unknown[0], KEYS))
    for key in ("id", "family", "text"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise Problem(f"a query has no {key}", where=where, fix=f"give '{key}' as a text")
    if entry["id"].split() != [entry["id"]]:
        raise Problem(f"the id '{entry['id']}' has white space", where=where, fix="use - instead")
    sensor = entry.get("sensor")
    if sensor not in (None, *SENSORS):
        raise Problem(f"there is no sensor '{sensor}'", where=where, fix=f"sensors: {', '.join(SENSORS)}, or null")
    wanted, without = (_mask(entry.get(key, []), key, where) for key in ("classes", "without"))
    if not wanted or wanted & without:
        what = "a query asks for no class" if not wanted else f"'{names_of(wanted & without)[0]}' is asked for and not"
        raise Problem(what, where=where, fix="name the wanted classes in 'classes', and others in 'without'")
    return Query(entry["id"], entry["family"], entry["text"], wanted, without, sensor)


def _mask(names: Any, key: str, where: str) -> int:
    if not isinstance(names, list):
        raise Problem(f"'{key}' is no list of classes", where=where, fix=f"classes: {', '.join(CLASSES)}")
    for name in names:
        if not isinstance(name, str) or name not in BIT:
            raise Problem(f"'{name}' is not in the vocabulary", where=where, fix=nearest(str(name), CLASSES))
    return mask_of(names)
