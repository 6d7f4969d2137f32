"""The evaluation as a page (eval/report.html) and as a table on the terminal."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from harmonize.queries import Query
from train.checkpoint import write_whole
from train.metrics import ranking, tie_break
from train.shards import Samples

ORDER = ("model", "classifier", "place-prior", "prior-only", "random")
HEAD = ("nDCG@1000", "gain", "mAP", "gain", "P@10", "recall@1000")
KEYS = ("ndcg", "ndcg_gain", "map", "map_gain", "p10", "recall")
SCOPE_WORDS = {"all": "both sensors", "s1": "Sentinel-1", "s2": "Sentinel-2"}
TOP = 10


def rows_of(result: dict[str, Any], family: str) -> list[list[str]]:
    """Scope, system and the means of one family of queries."""
    rows = []
    for scope, words in SCOPE_WORDS.items():
        for system in ORDER:
            found = result["systems"].get(system, {}).get(scope, {}).get(family)
            if found:
                rows.append([words, system, str(found["queries"]), *(f"{found[key]:.3f}" for key in KEYS)])
    return rows


def print_table(result: dict[str, Any]) -> None:
    """The means of every family, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a pipe has no width: nothing may be cut off there
    for family in ("class", "label-set"):
        rows = rows_of(result, family)
        if rows:
            title = f"{family} queries, split {result['split']}, at least {result['min_relevant']} relevant"
            table = Table("images", "system", "queries", *HEAD, title=title, title_justify="left")
            for row in rows:
                table.add_row(*row, style="bold" if row[1] == "model" else None)
            console.print(table)
    for scope, words in SCOPE_WORDS.items():
        found = result["intervals"].get(scope, {})
        if found:
            said = ", ".join(f"{name} {low:.3f}-{high:.3f}" for name, (low, high) in found.items())
            print(f"95 % over spatial blocks, class queries, {words}: {said}")
    if result["skipped"]:
        few = ", ".join(f"{s['query']} ({s['relevant']})" for s in result["skipped"] if s["family"] == "class")
        print(f"not asked, too few relevant images: {few or 'label sets only'}")


def write_report(run: Path, result: dict[str, Any], images: Samples, queries: list[Query], scores: np.ndarray) -> None:
    """One page that needs nothing else: tables, and the best images of each class query."""
    title = f"{run.name}, split {result['split']}"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{_facts(result)}</p>"]
    for family in ("class", "label-set"):
        rows = rows_of(result, family)
        if rows:
            parts += [f"<h2>{family} queries</h2>", _table(["images", "system", "queries", *HEAD], rows)]
    parts += ["<h2>Each class</h2>", _table(["images", "class", *HEAD, "nDCG random"], _per_class(result))]
    ties = tie_break(images["chip_id"])
    for k, query in enumerate(queries):
        if query.family == "class":
            best = ranking(scores[k], ties)[:TOP]
            parts.append(
                f"<h3>{html.escape(query.text)}</h3>{_picture(query.text, images.where(best), scores[k][best])}"
            )
    style = "body{font:14px sans-serif;margin:2em}td,th{padding:2px 10px;text-align:right}th{background:#eee}"
    page = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{style}</style>" + "".join(
        parts
    )
    write_whole(run / "eval" / "report.html", page.encode())


def _facts(result: dict[str, Any]) -> str:
    counts = ", ".join(f"{n} {SCOPE_WORDS[scope]}" for scope, n in result["images"].items())
    regions = html.escape(", ".join(result["regions"]))
    return (
        f"Regions: {regions}. Images: {counts}. Relevance is the number of the query's classes an image has; images "
        f"for which a class of the query is unknown are left out of that query. gain = (m - random) / (1 - random)."
    )


def _per_class(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for scope, words in SCOPE_WORDS.items():
        found = result["systems"]["model"].get(scope, {}).get("class", {}).get("each", {})
        chance = result["systems"]["random"].get(scope, {}).get("class", {}).get("each", {})
        for name, values in found.items():
            rows.append([words, name, *(f"{values[key]:.3f}" for key in KEYS), f"{chance[name]['ndcg']:.3f}"])
    return rows


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows]
    return "<table>" + "".join(lines) + "</table>"


def _picture(title: str, images: Samples, scores: np.ndarray) -> str:
    from train.contact_sheet import sheet

    buffer = io.BytesIO()
    notes = [f"{k + 1}.  {score:.3f}" for k, score in enumerate(scores)]
    sheet(title, images, notes).save(buffer, "JPEG", quality=85)
    return (
        f'<img alt="{html.escape(title)}" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )
