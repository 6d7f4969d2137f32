"""Evaluation: rank the images of a split for families of queries, beside what needs no images at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harmonize.problem import Problem
from harmonize.qrels import qrels
from harmonize.queries import DistinctLabels, Query
from harmonize.query_families import FEW, choose_queries, class_queries
from harmonize.query_file import QUERIES_VERSION
from harmonize.record import sealed, unsealed
from pipeline.sample import SENSORS
from train.checkpoint import write_parts, write_whole
from train.corpus import SCOPES, Corpus, Scores, systems_of
from train.macro import BAND, add_over_prior, macro, prevalence
from train.metrics import DEPTH, FULL, METRICS, block_interval, full_measures, gain, measures, random_measures
from train.shards import Samples, wanted_split
from train.whole import digests, file_digest, wrong_files

EVALUATION_VERSION = 4
WRITTEN = ("report.html", "model.trec", "qrels.trec")
"""What metrics.json has the sha256 of."""
TREC_FULL = 50_000
"""Corpora up to this many images are written to .trec whole, so that trec_eval's map is ours; larger ones to DEPTH."""


def evaluate(
    run: Path,
    samples: Samples,
    split: str,
    min_relevant: int,
    asked: dict[str, dict[str, float]] | None = None,
    frozen: list[Query] | None = None,
) -> dict[str, Any]:
    """All measures of a run on a split; written to eval/metrics.json, eval/*.trec and eval/report.html.

    `asked`: scope -> macro mean -> the least that it is to be, shown beside what is found. `frozen`: the queries of a
    file instead of those that the families give for these images; of both, those with enough relevant images.
    Done already for the same model, samples and options: read back.
    """
    images = wanted_split(samples, split)
    of = {
        "model": file_digest(run / "model.safetensors"),
        "samples": samples.sha256,
        "split": split,
        "min_relevant": min_relevant,
        "asked": asked or {},
        "queries": _queries_digest(frozen),
        "version": EVALUATION_VERSION,
    }
    key = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    folder = eval_folder(run, _queries_digest(frozen) if frozen is not None else None)
    path = folder / "metrics.json"
    if found := _found_before(folder, key):
        return {**found, "again": True}
    result = _evaluate(run, samples, images, {"key": key, "folder": folder.relative_to(run).as_posix(), **of}, frozen)
    write_whole(path, sealed({**result, "files": digests(folder, WRITTEN)}))
    return result


def _found_before(folder: Path, key: str) -> dict[str, Any] | None:
    """The measures that are there already; None where they are of something else, or damaged: then measured anew."""
    try:
        found = unsealed((folder / "metrics.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    whole = (folder / "report.html").exists() and not any(wrong_files(folder, found.get("files", {})))
    return found if found.get("key") == key and whole else None


def eval_folder(run: Path, digest: str | None) -> Path:
    """Where an evaluation's files are: of a frozen set of queries below the run's own, which they do not replace."""
    return run / "eval" if digest is None else run / "eval" / f"queries-{digest[:8]}"


def _queries_digest(frozen: list[Query] | None) -> str:
    """What tells the queries of two evaluations apart, given the same images."""
    if frozen is None:
        return f"families of version {QUERIES_VERSION}"
    return hashlib.sha256(json.dumps([vars(query) for query in frozen]).encode()).hexdigest()


def _evaluate(
    run: Path, samples: Samples, images: Samples, of: dict[str, Any], frozen: list[Query] | None
) -> dict[str, Any]:
    from train.report import write_report

    corpus, split, min_relevant = Corpus.of(images), of["split"], of["min_relevant"]
    queries, skipped = _asked(corpus.labels, min_relevant, frozen)
    if not queries:
        raise Problem(
            f"no query has {min_relevant} relevant images in split {split} ({len(images)} images)",
            where=str(run),
            fix="ask for fewer with --min-relevant, or evaluate on another split",
        )
    systems = systems_of(run, samples, images, queries)
    measured, intervals = _measure(corpus, queries, systems, min_relevant)
    result: dict[str, Any] = {
        **of,
        "regions": list(samples.regions),
        "synthetic": samples.synthetic,
        "location": json.loads((run / "config.json").read_text())["spec"]["location"] is not None,
        "images": {scope: len(corpus.rows(scope)) for scope in SCOPES},
        "depth": DEPTH,
        "systems": measured,
        "skipped": skipped,
    }
    _add_gain(result["systems"])
    add_over_prior(result["systems"])
    result["band"] = list(BAND)
    result["prevalence"] = {scope: prevalence(images, corpus.rows(scope)) for scope in SCOPES}
    result["macro"] = {scope: macro(result["systems"], result["prevalence"][scope], scope) for scope in SCOPES}
    result["intervals"] = intervals
    write_trec(run / result["folder"], corpus, queries, systems["model"])
    write_report(run, result, images, queries, systems["model"])
    return result


def _asked(
    labels: DistinctLabels, min_relevant: int, frozen: list[Query] | None
) -> tuple[list[Query], list[dict[str, Any]]]:
    """Queries with enough relevant images, and those that are not asked, with the number they have and why."""
    if frozen is None:
        return choose_queries(labels, min_relevant)
    matches = {query.id: labels.full_matches(query) for query in frozen}
    skipped = [
        {"query": q.text, "family": q.family, "relevant": matches[q.id], "why": FEW}
        for q in frozen
        if matches[q.id] < min_relevant
    ]
    return [q for q in frozen if matches[q.id] >= min_relevant], skipped


def _measure(
    corpus: Corpus, queries: list[Query], systems: Mapping[str, Scores], min_relevant: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """system -> scope -> family -> mean measures, and per query; and the 95 % intervals of the model's class family."""
    each: dict[str, Any] = {name: {scope: {} for scope in SCOPES} for name in (*systems, "random")}
    rankings: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {scope: [] for scope in SCOPES}
    for k, query in enumerate(queries):
        scopes = [scope for scope in SCOPES if corpus.enough(query, scope, min_relevant)]
        for name, scores in systems.items():
            found = corpus.ranked_by_scope(query, scores[k], scopes)
            for scope, (rows, grades) in found.items():
                each[name][scope].setdefault(query.family, {})[query.text] = _measured(measures, grades, query)
                if name == "model":
                    each["random"][scope].setdefault(query.family, {})[query.text] = _measured(
                        random_measures, grades, query
                    )
                    if query.family == "class":
                        rankings[scope].append((grades, corpus.blocks[rows]))
    means = {name: {scope: _means(found) for scope, found in scopes.items()} for name, scopes in each.items()}
    # Over spatial blocks: neighbouring chips are no independent draws.
    return means, {scope: block_interval(found) for scope, found in rankings.items()}


def _measured(measure: Callable[[np.ndarray], dict[str, float]], grades: np.ndarray, query: Query) -> dict[str, float]:
    """The measures of a query's ranking, graded and strict. A query of one class has no images that answer it in part.

    To the graded ones an image is relevant if it has any of the query's classes: of `flooded area with crops`, crops
    without a flood are too.
    """
    found = measure(grades)
    return full_measures(found, found if query.full == 1 else measure((grades == query.full).astype(np.int64)))


def _means(families: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    return {
        family: {
            "queries": len(values),
            **{name: float(np.mean([v[name] for v in values.values()])) for name in (*METRICS, *FULL)},
            "each": values,
        }
        for family, values in families.items()
    }


def _add_gain(systems: dict[str, Any]) -> None:
    """Normalised gain of each query over chance, and its mean, beside every nDCG and mAP."""
    for name, scopes in systems.items():
        for scope, families in scopes.items():
            for family, found in families.items():
                chance = systems["random"][scope][family]["each"]
                for metric in ("ndcg", "map"):
                    gains = []
                    for text, values in found["each"].items():
                        values[f"{metric}_gain"] = (
                            0.0 if name == "random" else gain(values[metric], chance[text][metric])
                        )
                        gains.append(values[f"{metric}_gain"])
                    found[f"{metric}_gain"] = float(np.mean(gains))


def write_trec(folder: Path, corpus: Corpus, queries: list[Query], scores: Scores) -> None:
    """model.trec (our ranking, with strictly falling scores so that trec_eval keeps its order) and qrels.trec.

    The ranking leaves out each query's unjudged images. In a corpus of up to TREC_FULL images it is whole, and
    irrelevant images stand in the qrels too, so that `trec_eval -J` measures other rankings; see harmonize.qrels.
    """
    whole = len(corpus.images) <= TREC_FULL
    write_parts(folder / "model.trec", _run_lines(corpus, queries, scores, None if whole else DEPTH))
    write_parts(folder / "qrels.trec", qrels(queries, corpus.images["chip_id"], corpus.labels, zeros=whole))


def _run_lines(corpus: Corpus, queries: list[Query], scores: Scores, depth: int | None) -> Iterator[bytes]:
    for k, query in enumerate(queries):
        order, _ = corpus.ranked(query, scores[k], corpus.rows("all"))
        names = corpus.images["chip_id"][order]
        lines = (
            f"{query.id} Q0 {name} {rank} {len(names) - rank} closp\n"
            for rank, name in enumerate(names[:depth], start=1)
        )
        yield "".join(lines).encode()


def class_map(vectors: np.ndarray, images: Samples, class_vectors: np.ndarray) -> dict[str, float]:
    """Mean average precision over single classes that occur, per sensor that occurs: the validation score of a run."""
    corpus = Corpus.of(images)
    found = {}
    for sensor in SENSORS:
        rows = corpus.rows(sensor)
        values = []
        for k, query in enumerate(class_queries()):
            _, grades = corpus.ranked(query, class_vectors[k] @ vectors.T, rows)
            if (grades > 0).any():
                values.append(measures(grades)["map"])
        if values:
            found[sensor] = float(np.mean(values))
    return found
