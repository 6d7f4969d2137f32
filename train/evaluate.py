"""Evaluation: rank the images of a split for families of queries, beside what needs no images at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harmonize.problem import Problem
from harmonize.queries import UNJUDGED, Query, class_queries, full_matches, label_set_queries, relevance
from harmonize.vocabulary import CLASSES
from pipeline.sample import SENSORS
from train import baselines
from train.checkpoint import write_whole
from train.macro import BAND, add_over_prior, macro, prevalence
from train.metrics import DEPTH, METRICS, block_interval, gain, measures, random_measures, ranking, tie_break
from train.shards import Samples, wanted_split

EVALUATION_VERSION = 2
TREC_FULL = 50_000
"""Corpora up to this many images are written to .trec whole, so that trec_eval's map is ours; larger ones to DEPTH."""
SCOPES = ("all", *SENSORS)
"""Images ranked together: both sensors in one list, and each alone."""


@dataclass(frozen=True)
class Corpus:
    """The images that are searched, and what their rankings need."""

    images: Samples
    ties: np.ndarray
    blocks: np.ndarray

    @classmethod
    def of(cls, images: Samples) -> Corpus:
        _, blocks = np.unique(images["block"].astype(str), return_inverse=True)
        return cls(images, tie_break(images["chip_id"]), blocks)

    def rows(self, scope: str) -> np.ndarray:
        if scope == "all":
            return np.arange(len(self.images))
        return np.flatnonzero(self.images["sensor"] == scope)

    def ranked(self, query: Query, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Judged rows from best to worst, and their grades. scores: (N,) for all images."""
        grades = relevance(query.mask, self.images["label_mask"][rows], self.images["known_mask"][rows])
        judged = grades != UNJUDGED
        rows, grades = rows[judged], grades[judged]
        order = ranking(scores[rows], self.ties[rows])
        return rows[order], grades[order]


def evaluate(
    run: Path, samples: Samples, split: str, min_relevant: int, asked: dict[str, dict[str, float]] | None = None
) -> dict[str, Any]:
    """All measures of a run on a split; written to eval/metrics.json, eval/*.trec and eval/report.html.

    `asked`: scope -> macro mean -> the least that it is to be, shown beside what is found.
    Done already for the same model, samples and options: read back.
    """
    from train.run import file_digest

    images = wanted_split(samples, split)
    of = {
        "model": file_digest(run / "model.safetensors"),
        "samples": samples.sha256,
        "split": split,
        "min_relevant": min_relevant,
        "asked": asked or {},
        "version": EVALUATION_VERSION,
    }
    key = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    path = run / "eval" / "metrics.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if found.get("key") == key and (run / "eval" / "report.html").exists():
            return {**found, "again": True}
    return _evaluate(run, samples, images, {"key": key, **of})


def _evaluate(run: Path, samples: Samples, images: Samples, of: dict[str, Any]) -> dict[str, Any]:
    from train.report import write_report

    corpus, split, min_relevant = Corpus.of(images), of["split"], of["min_relevant"]
    queries, skipped = _queries(images, min_relevant)
    if not queries:
        raise Problem(
            f"no query has {min_relevant} relevant images in split {split} ({len(images)} images)",
            where=str(run),
            fix="ask for fewer with --min-relevant, or evaluate on another split",
        )
    systems = _systems(run, samples, images, queries)
    result: dict[str, Any] = {
        **of,
        "regions": list(samples.regions),
        "synthetic": samples.synthetic,
        "location": json.loads((run / "config.json").read_text())["spec"]["location"] is not None,
        "images": {scope: len(corpus.rows(scope)) for scope in SCOPES},
        "depth": DEPTH,
        "systems": {name: _measure(corpus, queries, scores, min_relevant) for name, scores in systems.items()},
        "skipped": skipped,
    }
    result["systems"]["random"] = _chance(corpus, queries, min_relevant)
    _add_gain(result["systems"])
    add_over_prior(result["systems"])
    result["band"] = list(BAND)
    result["prevalence"] = {scope: prevalence(images, corpus.rows(scope)) for scope in SCOPES}
    result["macro"] = {scope: macro(result["systems"], result["prevalence"][scope], scope) for scope in SCOPES}
    result["intervals"] = _intervals(corpus, queries, systems["model"], min_relevant)
    write_trec(run / "eval", corpus, queries, systems["model"])
    write_report(run, result, images, queries, systems["model"])
    write_whole(run / "eval" / "metrics.json", (json.dumps(result, indent=1, sort_keys=True) + "\n").encode())
    return result


def _queries(images: Samples, min_relevant: int) -> tuple[list[Query], list[dict[str, Any]]]:
    """Queries with enough relevant images, and those without, with the number they have."""
    queries, skipped = [], []
    for query in [*class_queries(), *label_set_queries(images["label_mask"])]:
        count = full_matches(query.mask, images["label_mask"], images["known_mask"])
        if count >= min_relevant:
            queries.append(query)
        elif query.family == "class" or count:
            skipped.append({"query": query.text, "family": query.family, "relevant": count})
    return queries, skipped


def _systems(run: Path, samples: Samples, images: Samples, queries: list[Query]) -> dict[str, np.ndarray]:
    """system -> (Q, N) scores."""
    from train.embed import best_device, cached_embeddings, embed_texts
    from train.model import load_model

    device = best_device()
    model = load_model(run).to(device)
    vectors = cached_embeddings(run, model, samples, device)
    place = {chip: k for k, chip in enumerate(samples["chip_id"])}
    mine = vectors[[place[c] for c in images["chip_id"]]]
    texts = embed_texts(model, device, [q.text for q in queries])
    systems = {"model": texts @ mine.T}
    train = samples.of("train")
    if len(train):
        by_class = {
            "prior-only": baselines.prior(train, images),
            "place-prior": baselines.place_prior(train, images),
            "classifier": baselines.classifier(vectors[samples["split"] == "train"], train, mine, images),
        }
        bits = np.array([[q.mask >> k & 1 for k in range(len(CLASSES))] for q in queries], float)
        systems |= {name: bits @ scores.T for name, scores in by_class.items()}
    return systems


def _enough(corpus: Corpus, query: Query, rows: np.ndarray, min_relevant: int) -> bool:
    images = corpus.images
    return full_matches(query.mask, images["label_mask"][rows], images["known_mask"][rows]) >= min_relevant


def _measure(corpus: Corpus, queries: list[Query], scores: np.ndarray, min_relevant: int) -> dict[str, Any]:
    """scope -> family -> mean measures, and per query."""
    return _collect(
        corpus, queries, min_relevant, lambda k, rows: measures(corpus.ranked(queries[k], scores[k], rows)[1])
    )


def _chance(corpus: Corpus, queries: list[Query], min_relevant: int) -> dict[str, Any]:
    still = np.zeros(len(corpus.images))
    return _collect(
        corpus, queries, min_relevant, lambda k, rows: random_measures(corpus.ranked(queries[k], still, rows)[1])
    )


def _collect(corpus: Corpus, queries: list[Query], min_relevant: int, measure: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for scope in SCOPES:
        rows = corpus.rows(scope)
        each: dict[str, dict[str, Any]] = {}
        for k, query in enumerate(queries):
            if len(rows) and _enough(corpus, query, rows, min_relevant):
                each.setdefault(query.family, {})[query.text] = measure(k, rows)
        found[scope] = {
            family: {
                "queries": len(values),
                **{name: float(np.mean([v[name] for v in values.values()])) for name in METRICS},
                "each": values,
            }
            for family, values in each.items()
        }
    return found


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


def _intervals(corpus: Corpus, queries: list[Query], scores: np.ndarray, min_relevant: int) -> dict[str, Any]:
    """95 % intervals of the model's class family, over spatial blocks."""
    found = {}
    for scope in SCOPES:
        rows = corpus.rows(scope)
        rankings = []
        for k, query in enumerate(queries):
            if query.family == "class" and len(rows) and _enough(corpus, query, rows, min_relevant):
                order, grades = corpus.ranked(query, scores[k], rows)
                rankings.append((grades, corpus.blocks[order]))
        found[scope] = block_interval(rankings)
    return found


def write_trec(folder: Path, corpus: Corpus, queries: list[Query], scores: np.ndarray) -> None:
    """model.trec (our ranking, with strictly falling scores so that trec_eval keeps its order) and qrels.trec."""
    run_lines, qrel_lines = [], []
    for k, query in enumerate(queries):
        order, grades = corpus.ranked(query, scores[k], corpus.rows("all"))
        names = corpus.images["chip_id"][order]
        depth = len(names) if len(corpus.images) <= TREC_FULL else DEPTH
        for rank, name in enumerate(names[:depth], start=1):
            run_lines.append(f"{query.id} Q0 {name} {rank} {len(names) - rank} closp\n")
        qrel_lines += [f"{query.id} 0 {name} {grade}\n" for name, grade in zip(names, grades, strict=True)]
    write_whole(folder / "model.trec", "".join(run_lines).encode())
    write_whole(folder / "qrels.trec", "".join(qrel_lines).encode())


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
