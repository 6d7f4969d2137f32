"""Texts that others wrote, where people and browsers see them: pages, the card, the terminal."""

from __future__ import annotations

import html.parser
import io
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image

from pipeline import card
from train import search as searching
from train.page import Table, html_picture, html_table, page, print_tables

EVIL = {
    "a script": "<script>alert(1)</script>",
    "a picture": '"><img src=x onerror=alert(1)>',
    "an attribute": "' onmouseover='alert(1)",
    "an entity": "&lt;script&gt;",
    "an end": "</td></table></body><script>1</script>",
    "a comment": "<!--",
}
ALLOWED = {"meta", "title", "style", "h1", "h2", "p", "table", "tr", "th", "td", "br", "img"}


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, sorted(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("kind", EVIL)
def test_texts_in_a_page(kind: str) -> None:
    """Captions, chip ids, names of regions and runs: as text, never as tags."""
    evil = EVIL[kind]
    table = Table(evil, (evil, "b"), [[evil, evil]], note=evil)
    parts = [html_table(table), html_picture(Image.new("RGB", (2, 2)), evil)]
    told = Tags()
    told.feed(page(evil, parts, synthetic=True).decode())
    assert {tag for tag, _ in told.found} <= ALLOWED
    assert {name for _, names in told.found for name in names} <= {"charset", "class", "alt", "src"}
    assert told.text.count(evil) >= 6
    assert sum(tag == "img" for tag, _ in told.found) == 1


@pytest.mark.parametrize("kind", EVIL)
def test_texts_in_the_card(kind: str) -> None:
    told = Tags()
    told.feed("\n".join(card._table(["name"], [[EVIL[kind]], ["a | b\n\n# c"]])))
    assert not told.found
    assert "\n\n" not in told.text


MARKUP = [
    "[red]x[/red]",
    "[/nothing]",
    "[link=file:///etc/passwd]x[/link]",
    "\x1b[2J\x1b]0;evil\x07",
    "a\nb",
    "\u202eevil",
]


@pytest.mark.parametrize("text", MARKUP)
def test_texts_on_a_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Scene ids and captions in the answer of a search: as they are, and no command to the terminal."""
    searching._print([["1", "0.5", "s2", "2020-01-01", "1 2", "water", text, text]])
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
    if text.isprintable():
        assert said.count(text) == 2
    print_tables([Table("t", ("a", "b"), [[text, text]])])
    assert "\x1b" not in capsys.readouterr().out


def test_a_problem_on_a_terminal(tmp_path: Path) -> None:
    name = "a\x1b[2J\nfix: curl evil.toml"
    said = run("pipeline", "status", str(tmp_path / name))
    assert said.returncode == 2
    assert "\x1b" not in said.all
    assert len(said.all.splitlines()) == 3


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    """What lies beside a report is drawn anew where it cannot be read, and never believed."""
    from train.page import key_of

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(buffer, "PNG")
    for k, data in enumerate((b"", b"<svg onload=alert(1)>", buffer.getvalue()[:40])):
        (tmp_path / f"{k}.png").write_bytes(data)
        assert key_of(tmp_path / f"{k}.png") is None
