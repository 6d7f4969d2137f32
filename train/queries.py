"""The queries of a corpus as files: queries.json, and qrels.trec where it is asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harmonize.problem import Problem
from harmonize.qrels import qrels
from harmonize.queries import DistinctLabels, Query
from harmonize.query_families import FAMILIES
from harmonize.query_file import corpus_digest, queries_record, read_queries
from harmonize.record import from_json
from train.checkpoint import write_parts, write_whole
from train.page import Table
from train.shards import Samples, wanted_split

QRELS = {"qrels.trec": False, "qrels-zeros.trec": True}
"""File -> whether irrelevant images stand in it too, as `trec_eval -J` needs it (see harmonize.qrels)."""


def default_folder(folders: list[Path], split: str) -> Path:
    """Beside the shards of one region: data/<region>/shards -> data/<region>/queries/<split>."""
    if len(folders) > 1:
        raise Problem("queries of several regions have no folder of their own", fix="name one with --out")
    return folders[0].resolve().parent / "queries" / split


def write_queries(samples: Samples, split: str, min_relevant: int, out: Path, wanted: Iterable[str]) -> Table | None:
    """Write the queries of a split; a table of the families. None where the same files are there already.

    wanted: names out of QRELS to write beside queries.json. One that stands beside it belongs to it: where the queries
    change, the files of the old ones are removed first.
    """
    images = wanted_split(samples, split)
    columns = [images[name] for name in ("chip_id", "sensor", "label_mask", "known_mask")]
    labels = DistinctLabels.of(columns[2], columns[3], columns[1])
    record = queries_record(labels, corpus_digest(*columns), split, min_relevant)
    if not record["queries"]:
        raise Problem(
            f"no query has {min_relevant} relevant images in split {split} ({len(images)} images)",
            where=f"shards of {', '.join(samples.regions)}",
            fix="ask for fewer with --min-relevant, or for another split",
        )
    data = (json.dumps(record, indent=1) + "\n").encode()
    path = out / "queries.json"
    if not path.exists() or path.read_bytes() != data:
        for name in ("queries.json", *QRELS):
            (out / name).unlink(missing_ok=True)
    missing = [name for name in QRELS if name in wanted and not (out / name).exists()]
    if path.exists() and not missing:
        return None
    write_whole(path, data)
    for name in missing:
        write_parts(out / name, qrels(read_queries(record), images["chip_id"], labels, QRELS[name]))
    return families_table(record)


def load_queries(path: Path) -> list[Query]:
    """The queries of a queries.json. Raises Problem where it is missing, no file, damaged, or of another version."""
    if path.is_dir():
        inside = path / "queries.json"
        fix = f"did you mean {inside}?" if inside.exists() else "name the file that python -m train queries made"
        raise Problem("this is a folder, not a file of queries", where=str(path), fix=fix)
    if not path.exists():
        raise Problem("there is no such file of queries", where=str(path), fix="python -m train queries SHARDS…")
    try:
        record = from_json(path.read_text("utf-8"))
    except OSError as error:
        raise Problem(f"this cannot be read: {error.strerror}", where=str(path), fix="make it readable") from None
    except (ValueError, RecursionError) as error:
        raise Problem(f"this is not valid JSON: {error}", where=str(path), fix="mend it, or make it again") from None
    return read_queries(record, str(path))


def families_table(record: dict[str, Any]) -> Table:
    """A row per family: queries, relevant and unjudged images of its queries, and what was not asked."""
    skipped = Counter(entry["family"] for entry in record["skipped"])
    rows = []
    for family, words in FAMILIES.items():
        mine = [entry for entry in record["queries"] if entry["family"] == family]
        ranges = [_range(entry[key] for entry in mine) for key in ("relevant", "unjudged")]
        rows.append([family, str(len(mine)), *ranges, str(skipped[family]), words])
    images = f"{record['of']['samples']} images, at least {record['min_relevant']} relevant"
    head = ("family", "queries", "relevant\nimages", "unjudged\nimages", "not asked", "what it asks for")
    return Table(f"Queries of split {record['split']}: {images}", head, rows)


def _range(values: Any) -> str:
    found = sorted(values)
    return f"{found[0]}-{found[-1]}" if found else "-"
