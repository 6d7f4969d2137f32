"""Several evaluated runs in one table, from their eval/metrics.json alone; nothing is computed again."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize.problem import Problem
from harmonize.record import unsealed
from harmonize.vocabulary import CLASSES, CRISES
from train.checkpoint import write_whole
from train.evaluate import EVALUATION_VERSION
from train.macro import MEANS, OVER_PRIOR
from train.page import SYNTHETIC, Table, html_table, page
from train.whole import file_digest

SCOPE_WORDS = {"s2": "Sentinel-2", "s1": "Sentinel-1", "all": "both sensors"}
BASELINES = ("classifier", "place-prior", "prior-only", "random")
SAME = ("samples", "split", "min_relevant", "queries", "band")
"""What runs of one table must have been measured on alike."""


@dataclass(frozen=True)
class Measured:
    """An evaluated run: what its column is called, and eval/metrics.json."""

    label: str
    result: dict[str, Any]


def measured(run: Path) -> Measured:
    """The evaluation of a run. Raises Problem where there is none, or one of another model or version."""
    path = run / "eval" / "metrics.json"
    fix = f"make evaluate RUN={run.name}"
    if not path.exists():
        raise Problem(f"run '{run.name}' is not evaluated", where=str(path), fix=fix)
    try:
        result = unsealed(path.read_bytes())
    except ValueError as error:
        raise Problem(f"metrics.json is damaged: {error}", where=str(path), fix=f"remove it, {fix}", code=4) from None
    if result.get("version") != EVALUATION_VERSION or result.get("model") != file_digest(run / "model.safetensors"):
        raise Problem("these are measures of another model, or of another version", where=str(path), fix=fix)
    return Measured(label_of(result), result)


def label_of(result: dict[str, Any]) -> str:
    return "GeoCLOSP" if result["location"] else "CLOSP"


def compare(runs: Sequence[Path], folder: Path) -> list[Table]:
    """The tables of runs; written to compare.html and, last, compare.json in `folder`."""
    found = {run.name: measured(run) for run in runs}
    first_name, first = next(iter(found.items()))
    for name, other in found.items():
        differing = [key for key in SAME if other.result[key] != first.result[key]]
        if differing:
            raise Problem(
                f"runs '{first_name}' and '{name}' were not measured alike: {', '.join(differing)} differ",
                where=", ".join(str(run) for run in runs),
                fix="evaluate both on the same shards, split, --min-relevant and --queries",
            )
    labels = [m.label for m in found.values()]
    named = [
        Measured(m.label if labels.count(m.label) == 1 else f"{m.label} {name}", m.result) for name, m in found.items()
    ]
    tables = tables_of(named)
    title = " and ".join(found)
    parts = [f"<p>{html.escape(notes(first.result))}</p>", *map(html_table, tables)]
    write_whole(folder / "compare.html", page(title, parts, first.result["synthetic"]))
    said = {"runs": list(found), **record(named)}
    write_whole(folder / "compare.json", (json.dumps(said, indent=1, sort_keys=True) + "\n").encode())
    return tables


def record(runs: Sequence[Measured]) -> dict[str, Any]:
    """What the tables say, as numbers."""
    first = runs[0].result
    systems = {scope: {name: values for name, values, _ in _systems(runs, scope) if values} for scope in first["macro"]}
    return {
        **{key: first[key] for key in (*SAME, "synthetic", "regions", "images", "prevalence")},
        "classes": {scope: found["classes"] for scope, found in first["macro"].items()},
        "macro": systems,
        "asked": [bar for run in runs for bar in bars(run)],
    }


def bars(run: Measured) -> list[dict[str, Any]]:
    """What a recipe asks of its run, what was found, and whether it is met; not met where nothing was measured."""
    found = []
    for scope, asked in run.result["asked"].items():
        means = run.result["macro"][scope]["systems"].get("model", {})
        for measure, least in asked.items():
            value = means.get(measure)
            met = value is not None and value >= least
            found.append(
                {"run": run.label, "scope": scope, "measure": measure, "asked": least, "found": value, "met": met}
            )
    return found


def tables_of(runs: Sequence[Measured]) -> list[Table]:
    """Each class per sensor, and last the macro means."""
    return [*(class_table(runs, scope) for scope in ("s2", "s1")), macro_table(runs)]


def macro_table(runs: Sequence[Measured]) -> Table:
    """Means over the classes of the band: a row per scope and system."""
    first = runs[0].result
    rows: list[list[str]] = []
    strong, lines = set(), set()
    for scope, words in SCOPE_WORDS.items():
        number = len(first["macro"][scope]["classes"])
        for name, values, asked in _systems(runs, scope):
            if asked is not None:
                strong.add(len(rows))
            rows.append([words, name, str(number), *_cells(values, asked or {})])
        lines.add(len(rows) - 1)
    low, high = (f"{100 * side:.0f}" for side in first["band"])
    title = f"Macro means over the classes that {low}-{high} % of the images have{_where(first)}"
    head = ("images", "system", "classes", "nDCG@1000", "gain", "asked", "mAP", "over\nprior-only", "asked", "P@10")
    return Table(title, head, rows, frozenset(strong), frozenset(lines), note=SYNTHETIC if first["synthetic"] else "")


def _systems(
    runs: Sequence[Measured], scope: str
) -> list[tuple[str, dict[str, float], dict[str, dict[str, Any]] | None]]:
    """(name, means, bars by measure) of the runs and then of the first run's baselines, which have no bars."""
    found: list[tuple[str, dict[str, float], dict[str, dict[str, Any]] | None]] = []
    for run in runs:
        asked = {bar["measure"]: bar for bar in bars(run) if bar["scope"] == scope}
        found.append((run.label, run.result["macro"][scope]["systems"].get("model", {}), asked))
    first = runs[0].result
    means = first["macro"][scope]["systems"]
    return found + [(name, means.get(name, {}), None) for name in BASELINES if name in first["systems"]]


def _cells(values: dict[str, float], asked: dict[str, dict[str, Any]]) -> list[str]:
    ndcg, gained, ap, over, p10 = (_number(values.get(key), sign=key == OVER_PRIOR) for key in MEANS)
    return [ndcg, gained, _asked(asked.get("ndcg_gain")), ap, over, _asked(asked.get(OVER_PRIOR)), p10]


def _asked(bar: dict[str, Any] | None) -> str:
    if bar is None:
        return ""
    sign = "+" if bar["measure"] == OVER_PRIOR else ""
    return f">= {sign}{bar['asked']:.2f} {'met' if bar['met'] else 'NOT MET'}"


def _number(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def class_table(runs: Sequence[Measured], scope: str) -> Table:
    """One row per class of the vocabulary, asked or not."""
    first = runs[0].result
    inside = set(first["macro"][scope]["classes"])
    rows = []
    for name in CLASSES:
        found = first["prevalence"][scope][name]
        share = f"{100 * found['share']:.1f} % of {found['judged']}"
        each = [_each(run.result, "model", scope, name) for run in runs]
        rows.append(
            [
                f"{name} (crisis)" if name in CRISES else name,
                "yes" if name in inside else _why_not(found, first),
                share,
                *(_number(values.get("ndcg_gain")) for values in each),
                *(_number(values.get("map")) for values in each),
                *(_number(_each(first, system, scope, name).get("map")) for system in ("prior-only", "random")),
            ]
        )
    head = (
        "class", "in the\nmean", "have it", *(f"gain\n{run.label}" for run in runs),
        *(f"mAP\n{run.label}" for run in runs), "mAP\nprior-only", "mAP\nrandom",
    )  # fmt: skip
    strong = frozenset(k for k, row in enumerate(rows) if row[1] == "yes")
    return Table(f"Each class, {SCOPE_WORDS[scope]}{_where(first)}", head, rows, strong)


def _each(result: dict[str, Any], system: str, scope: str, name: str) -> dict[str, float]:
    found: dict[str, float] = (
        result["systems"].get(system, {}).get(scope, {}).get("class", {}).get("each", {}).get(name, {})
    )
    return found


def _why_not(found: dict[str, Any], result: dict[str, Any]) -> str:
    if found["in_band"]:
        return "too few"
    return "rare" if found["share"] < result["band"][0] else "common"


def _where(result: dict[str, Any]) -> str:
    return f", split {result['split']}{' (SYNTHETIC)' if result['synthetic'] else ''}"


def notes(result: dict[str, Any]) -> str:
    """How to read the tables."""
    counts = ", ".join(f"{result['images'][scope]} {words}" for scope, words in SCOPE_WORDS.items())
    return (
        f"Images: {counts}. gain = (nDCG@1000 - random) / (1 - random). 'have it': share of the images judged "
        "for the class; rare and common: outside the mean's band; too few: fewer than "
        f"{result['min_relevant']} have it, so it is not asked. classifier: logistic regression on the first run's "
        "embeddings. prior-only: share of the class by sensor and month; place-prior: among the nearest training chips."
    )
