"""Crosswalk: the class of every code of one label source, as a reviewed CSV says it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from harmonize.problem import Problem, nearest
from harmonize.vocabulary import CLASSES

COLUMNS = ("code", "name", "class", "status")
STATUSES = ("published", "judgement")


@dataclass(frozen=True)
class Row:
    """One code of a source. `class_` is None where the code says nothing (no data, clouds)."""

    code: str
    name: str
    class_: str | None
    status: str


@dataclass(frozen=True)
class Crosswalk:
    """code -> class. Unknown codes stop the run: silence would drop labels."""

    path: str
    rows: dict[str, Row]

    def classify(self, code: str) -> str | None:
        """Class of one source code, None where the source says nothing there."""
        row = self.rows.get(code)
        if row is None:
            raise Problem(
                f"label code {code} has no class",
                where=self.path,
                fix=f"add the line '{code},<name>,<class>,judgement' (leave <class> empty for no data)",
            )
        return row.class_


def parse_crosswalk(text: str, path: str) -> Crosswalk:
    """The crosswalk of a CSV with the columns code, name, class, status (further columns are notes).

    Raises Problem for a missing column, a code twice, a class outside the vocabulary, or an unknown status.
    """
    reader = csv.DictReader(io.StringIO(text.lstrip("\ufeff")))
    missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
    if missing:
        what = f"a crosswalk lacks the column {', '.join(missing)}"
        raise Problem(what, where=path, fix=f"columns: {', '.join(COLUMNS)}")
    rows: dict[str, Row] = {}
    for number, line in enumerate(reader, start=2):
        row = _row(line, f"{path}, line {number}")
        if row.code in rows:
            raise Problem(f"code {row.code} stands twice", where=f"{path}, line {number}", fix="keep one of the lines")
        rows[row.code] = row
    if not rows:
        raise Problem("this crosswalk has no line", where=path, fix="add 'code,name,class,status' lines")
    return Crosswalk(path, rows)


def _row(line: dict[str, str], where: str) -> Row:
    code, name, class_, status = ((line[c] or "").strip() for c in COLUMNS)
    if not code:
        raise Problem("a line has no code", where=where, fix="give the source's code, or remove the line")
    if class_ and class_ not in CLASSES:
        raise Problem(f"'{class_}' is not in the vocabulary", where=where, fix=nearest(class_, CLASSES))
    if status not in STATUSES:
        raise Problem(f"status '{status}' is not known", where=where, fix=f"use {' or '.join(STATUSES)}")
    return Row(code, name, class_ or None, status)
