"""The evaluation of one run as a page (eval/report.html) and as tables on the terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonize.queries import Query
from harmonize.query_families import FAMILIES
from train.checkpoint import write_whole
from train.compare import SCOPE_WORDS, Measured, label_of, notes, tables_of
from train.corpus import Scores
from train.metrics import ranking, tie_break
from train.page import Table, html_picture, html_table, page, print_tables
from train.shards import Samples

ORDER = ("model", "classifier", "place-prior", "prior-only", "random")
HEAD = ("nDCG\n@1000", "gain", "mAP", "gain", "P@10", "recall\n@1000", "mAP\nfull", "P@10\nfull")
KEYS = ("ndcg", "ndcg_gain", "map", "map_gain", "p10", "recall", "map_full", "p10_full")
"""Columns of a family's table and their measures; the last two count images that answer a query in full alone."""
TOP = 10


def family_tables(result: dict[str, Any], families: Sequence[str] = ()) -> list[Table]:
    """The means over all queries of each family (of `families`; default: all): a row per scope and system."""
    tables = []
    for family in families or _families(result):
        rows: list[list[str]] = []
        strong: set[int] = set()
        for scope, words in SCOPE_WORDS.items():
            for system in ORDER:
                found = result["systems"].get(system, {}).get(scope, {}).get(family)
                if found:
                    if system == "model":
                        strong.add(len(rows))
                    rows.append([words, system, str(found["queries"]), *(f"{found[key]:.3f}" for key in KEYS)])
        words = f" ({FAMILIES[family]})" if family in FAMILIES else ""
        title = f"All {family} queries{words}, split {result['split']}, at least {result['min_relevant']} relevant"
        if rows:
            tables.append(Table(title, ("images", "system", "queries", *HEAD), rows, frozenset(strong)))
    return tables


def _families(result: dict[str, Any]) -> list[str]:
    """The families that were asked: those of this program in their order, then those of a person's file."""
    found = {family for families in result["systems"]["model"].values() for family in families}
    return sorted(found, key=lambda f: (list(FAMILIES).index(f) if f in FAMILIES else len(FAMILIES), f))


def overview_table(result: dict[str, Any]) -> Table:
    """The model's means over each family, beside chance and prior-only: a row per scope and family."""
    rows, lines = [], set()
    for scope, words in SCOPE_WORDS.items():
        for family in _families(result):
            found, random, prior = (
                result["systems"].get(system, {}).get(scope, {}).get(family)
                for system in ("model", "random", "prior-only")
            )
            if found:
                chance = [f"{other['map']:.3f}" if other else "-" for other in (prior, random)]
                rows.append([words, family, str(found["queries"]), *(f"{found[key]:.3f}" for key in KEYS), *chance])
        lines.add(len(rows) - 1)
    title = f"The model on each family of queries, split {result['split']}"
    head = ("images", "family", "queries", *HEAD, "mAP\nprior-only", "mAP\nrandom")
    return Table(title, head, rows, lines=frozenset(lines))


def print_result(result: dict[str, Any]) -> None:
    """The tables of a run on the terminal; the macro means last."""
    print_tables([*family_tables(result, ("class",)), overview_table(result)])
    for scope, words in SCOPE_WORDS.items():
        found = result["intervals"].get(scope, {})
        if found:
            said = ", ".join(f"{name} {low:.3f}-{high:.3f}" for name, (low, high) in found.items())
            print(f"95 % over spatial blocks, all class queries, {words}: {said}")
    if result["skipped"]:
        few = ", ".join(f"{s['query']} ({s['relevant']})" for s in result["skipped"] if s["family"] == "class")
        others = sum(s["family"] != "class" for s in result["skipped"])
        print(f"not asked, too few relevant images: {few or 'no class'}; {others} queries of other families")
    print_tables(tables_of([Measured(label_of(result), result)]))


def write_report(run: Path, result: dict[str, Any], images: Samples, queries: list[Query], scores: Scores) -> None:
    """One page that needs nothing else: tables, what the labels say, and the best images of each class query."""
    from train.contact_sheet import sheet
    from train.label_sheet import label_sheet

    means = reversed(tables_of([Measured(label_of(result), result)]))
    tables = [*means, overview_table(result), *family_tables(result)]
    parts = [f"<p>{_facts(result)}</p>", *map(html_table, tables)]
    for scope in ("s2", "s1"):
        if len(mine := images.of(sensor=scope)):
            words = f"What the labels say, {SCOPE_WORDS[scope]}"
            parts += [f"<h2>{words}</h2>", html_picture(label_sheet(mine, words), words)]
    parts.append("<h2>The best images of each class query</h2>")
    ties = tie_break(images["chip_id"])
    for k, query in enumerate(queries):
        if query.family == "class":
            best = ranking(scores[k], ties)[:TOP]
            said = [f"{n + 1}.  {score:.3f}" for n, score in enumerate(scores[k][best])]
            picture = html_picture(sheet(query.text, images.where(best), said), query.text)
            parts.append(f"<h3>{html.escape(query.text)}</h3>{picture}")
    title = f"{run.name}, split {result['split']}"
    write_whole(run / result["folder"] / "report.html", page(title, parts, result["synthetic"]))


def _facts(result: dict[str, Any]) -> str:
    regions = ", ".join(result["regions"])
    return html.escape(
        f"Regions: {regions}. {notes(result)} Relevance is the number of the query's classes an image has; images "
        "whose relevance hangs on a class that is unknown for them are left out of that query. mAP, P@10 and recall "
        "count an image with any of the classes as relevant, 'full' only one with all of them. Baselines score a "
        "query by its classes, less those that must not be there, and are told each image's sensor."
    )
