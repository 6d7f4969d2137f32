"""Tables and pictures, for a terminal and for a page that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harmonize.problem import printable

if TYPE_CHECKING:
    from PIL import Image

SYNTHETIC = "SYNTHETIC sample world: these numbers and pictures say nothing about the real Earth"
"""Stands wherever results of the embedded sample world are shown."""
STYLE = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin-bottom:1em}"
    "td,th{padding:2px 10px;text-align:right}th{background:#eee}td:first-child,th:first-child{text-align:left}"
    "tr.strong{font-weight:bold}p.synthetic{background:#fd6;padding:6px 10px;display:inline-block}img{max-width:100%}"
)


@dataclass(frozen=True)
class Table:
    """What is shown as rows of words; rows named in `strong` are set in bold."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = frozenset()
    lines: frozenset[int] = frozenset()
    """Rows that a line is drawn below, on a terminal."""
    note: str = ""
    """Words below the table."""


def print_tables(tables: Sequence[Table]) -> None:
    """Tables on stdout."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a pipe has no width: nothing may be cut off there
    for table in tables:
        shown = RichTable(title=Text(table.title), title_justify="left", title_style="bold")
        for k, words in enumerate(table.head):
            shown.add_column(words, justify="left" if k < 2 else "right")
        for k, row in enumerate(table.rows):
            shown.add_row(
                *(Text(printable(word)) for word in row),
                style="bold" if k in table.strong else None,
                end_section=k in table.lines,
            )
        console.print(shown)
        if table.note:
            console.print(Text(table.note))


def html_table(table: Table) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(h).replace(chr(10), '<br>')}</th>" for h in table.head) + "</tr>"]
    for k, row in enumerate(table.rows):
        start = "<tr class='strong'>" if k in table.strong else "<tr>"
        lines.append(start + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>")
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    return f"<h2>{html.escape(table.title)}</h2><table>{''.join(lines)}</table>{note}"


def html_picture(picture: Image.Image, words: str) -> str:
    """A picture inside the page, as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/jpeg;base64,{data}">'


def png_bytes(picture: Image.Image, key: str) -> bytes:
    """A picture as PNG that says what it was made of: a hash, read back by `key_of`."""
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("key", key)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()


def key_of(path: Path) -> str | None:
    """What a picture of `png_bytes` was made of; None for a missing or broken one, which is to be drawn anew."""
    if not path.exists():
        return None
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()  # to the end: a half written one is no picture
            return str(picture.info.get("key"))
    except (UnidentifiedImageError, OSError):
        return None


def page(title: str, parts: Sequence[str], synthetic: bool) -> bytes:
    """A whole page; one about the sample world says so on top."""
    banner = f"<p class='synthetic'>{html.escape(SYNTHETIC)}</p>" if synthetic else ""
    head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style>"
    return f"{head}<h1>{html.escape(title)}</h1>{banner}{''.join(parts)}".encode()
