"""Search: the chips nearest to a text, with what is known of them, and a contact sheet."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from harmonize.problem import Problem, printable
from harmonize.record import sealed, unsealed
from harmonize.vocabulary import names_of
from pipeline.sample import SENSORS
from train.checkpoint import write_whole
from train.metrics import ranking, tie_break
from train.shards import Samples, wanted_split
from train.whole import digests, file_digest, wrong_files

HEAD = ("#", "score", "sensor", "date", "lon lat", "labels", "chip", "scene")
SEARCH_VERSION = 2


def search(run: Path, samples: Samples, text: str, top: int, sensor: str | None, split: str | None) -> Path:
    """Print the best chips for a text and write their contact sheet; its path.

    Searched already with the same model, samples and options: told again from the answer beside the sheet.
    """
    from train.page import png_bytes

    if not text.strip():
        raise Problem("the query is empty", fix='make search QUERY="flooded area next to crops"')
    if sensor not in (None, *SENSORS):
        raise Problem(f"there is no sensor '{sensor}'", fix=f"sensors: {', '.join(SENSORS)}")
    if split:
        wanted_split(samples, split)
    model = file_digest(run / "model.safetensors")
    key = hashlib.sha256(
        json.dumps([SEARCH_VERSION, model, samples.sha256, text, top, sensor, split]).encode()
    ).hexdigest()
    picture, answer = _paths(run, text)
    rows = _said_before(picture, answer, key)
    if rows is None:
        found, scores = _nearest(run, samples, text, top, sensor, split)
        rows = _rows(found, scores)
        write_whole(picture, png_bytes(_sheet(found, scores, text), key))
        write_whole(answer, sealed({"key": key, "rows": rows, "files": digests(picture.parent, [picture.name])}))
    _print(rows)
    return picture


def _paths(run: Path, text: str) -> tuple[Path, Path]:
    slug = "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())[:60] or "query"
    stem = f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return run / "search" / f"{stem}.png", run / "search" / f"{stem}.json"


def _said_before(picture: Path, answer: Path, key: str) -> list[list[str]] | None:
    if not picture.exists() or not answer.exists():
        return None
    try:
        said = unsealed(answer.read_bytes())
    except ValueError:
        return None  # damaged: searched anew
    whole = said.get("key") == key and not any(wrong_files(picture.parent, said.get("files", {})))
    return said["rows"] if whole else None


def _nearest(
    run: Path, samples: Samples, text: str, top: int, sensor: str | None, split: str | None
) -> tuple[Samples, np.ndarray]:
    """The best samples for a text, best first, and their scores."""
    from train.embed import best_device, cached_embeddings, embed_texts
    from train.model import load_model

    device = best_device()
    model = load_model(run).to(device)
    vectors = cached_embeddings(run, model, samples, device)
    keep = np.ones(len(samples), bool)
    keep &= (samples["sensor"] == sensor) if sensor else True
    keep &= (samples["split"] == split) if split else True
    found = samples.where(keep)
    if not len(found):
        raise Problem(
            f"no {sensor} sample is there", where=f"shards of {', '.join(samples.regions)}", fix="drop --sensor"
        )
    scores = vectors[keep] @ embed_texts(model, device, [text])[0]
    best = ranking(scores, tie_break(found["chip_id"]))[:top]
    return found.where(best), scores[best]


def _rows(found: Samples, scores: np.ndarray) -> list[list[str]]:
    rows = []
    for k in range(len(found)):
        place = f"{found['lon'][k]:.4f} {found['lat'][k]:.4f}"
        labels = ", ".join(names_of(int(found["label_mask"][k]))) or "-"
        day = str(found["datetime"][k])[:10]
        names = (str(found[name][k]) for name in ("chip_id", "scene"))
        rows.append([str(k + 1), f"{scores[k]:.3f}", str(found["sensor"][k]), day, place, labels, *names])
    return rows


def _print(rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*HEAD, box=None)
    for row in rows:
        table.add_row(*(Text(printable(word)) for word in row))  # as it is: [red] in an id is no colour
    console = Console()
    # A pipe has no width: nothing may be cut off there.
    console.print(table) if console.is_terminal else Console(width=240).print(table)


def _sheet(found: Samples, scores: np.ndarray, text: str) -> Any:
    from train.contact_sheet import sheet

    return sheet(f'"{text}"', found, [f"{k + 1}.  {score:.3f}" for k, score in enumerate(scores)])
