"""Search: the chips nearest to a text, with what is known of them, and a contact sheet."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from harmonize.problem import Problem
from harmonize.vocabulary import names_of
from pipeline.sample import SENSORS
from train.checkpoint import write_whole
from train.metrics import ranking, tie_break
from train.shards import Samples, wanted_split


def search(run: Path, samples: Samples, text: str, top: int, sensor: str | None, split: str | None) -> Path:
    """Print the best chips for a text and write their contact sheet; its path."""
    from train.embed import best_device, cached_embeddings, embed_texts
    from train.model import load_model

    if not text.strip():
        raise Problem("the query is empty", fix='make search QUERY="flooded area next to crops"')
    if sensor not in (None, *SENSORS):
        raise Problem(f"there is no sensor '{sensor}'", fix=f"sensors: {', '.join(SENSORS)}")
    if split:
        wanted_split(samples, split)
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
    _print(found.where(best), scores[best])
    return _write_sheet(run, found.where(best), scores[best], text)


def _print(found: Samples, scores: np.ndarray) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("#", "score", "sensor", "date", "lon lat", "labels", "chip", "scene", box=None)
    for k in range(len(found)):
        place = f"{found['lon'][k]:.4f} {found['lat'][k]:.4f}"
        labels = ", ".join(names_of(int(found["label_mask"][k]))) or "-"
        day = str(found["datetime"][k])[:10]
        score = f"{scores[k]:.3f}"
        table.add_row(str(k + 1), score, found["sensor"][k], day, place, labels, found["chip_id"][k], found["scene"][k])
    console = Console()
    # A pipe has no width: nothing may be cut off there.
    console.print(table) if console.is_terminal else Console(width=240).print(table)


def _write_sheet(run: Path, found: Samples, scores: np.ndarray, text: str) -> Path:
    from train.contact_sheet import sheet

    slug = "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())[:60] or "query"
    name = f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:6]}.png"
    picture = sheet(f'"{text}"', found, [f"{k + 1}.  {score:.3f}" for k, score in enumerate(scores)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_whole(run / "search" / name, buffer.getvalue())
    return run / "search" / name
