"""Crosswalk: the class of every code of one label source, as a reviewed CSV says it."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

from harmonize.problem import Problem, nearest
from harmonize.vocabulary import CLASSES

COLUMNS = ("code", "name", "class", "status")
NOTE = "note"
"""A fifth column, which may be left out: why this class and not another."""
STATUSES = ("published", "judgement")


@dataclass(frozen=True)
class Row:
    """One code of a source. `class_` is None where the code says nothing (no data, clouds)."""

    code: str
    name: str
    class_: str | None
    status: str
    note: str = ""


@dataclass(frozen=True)
class Crosswalk:
    """code -> class. Unknown codes stop the run: silence would drop labels."""

    path: str
    rows: dict[str, Row]

    def classify(self, code: str) -> str | None:
        """Class of one source code, None where the source says nothing there. Codes and names are matched exactly."""
        row = self.rows.get(code)
        if row is None:
            raise Problem(f"label code {code} has no class", where=self.path, fix=self._fix(code))
        return row.class_

    @property
    def unmapped(self) -> list[Row]:
        """Codes that say nothing, in the file's order."""
        return [row for row in self.rows.values() if row.class_ is None]

    @property
    def unsaid(self) -> list[str]:
        """Classes of the vocabulary that no code of this source stands for."""
        said = {row.class_ for row in self.rows.values()}
        return [name for name in CLASSES if name not in said]

    def by_name(self) -> dict[str, str | None]:
        """Name -> class. Raises Problem if two codes of one name have two classes."""
        names: dict[str, str | None] = {}
        for row in self.rows.values():
            if names.setdefault(row.name, row.class_) != row.class_:
                what = f"'{row.name}' has two classes: {names[row.name]} and {row.class_}"
                raise Problem(
                    what, where=f"{self.path}, code {row.code}", fix="give both codes one class, or other names"
                )
        return names

    def _fix(self, code: str) -> str:
        """What to do about an unknown code: the code that was meant, if there is one like it, and the line to add."""
        line = f"{_field(code)},<name>,<class>,judgement"
        add = f"add the line '{line}' (leave <class> empty for no data)"
        named = [row.code for row in self.rows.values() if row.name.casefold() == code.casefold()]
        folded = {known.casefold(): known for known in self.rows if not known.isdecimal()}
        close = difflib.get_close_matches(code.casefold(), folded, n=1, cutoff=0.6)
        if close:
            return f"did you mean '{folded[close[0]]}'? Names are matched letter by letter; or {add}"
        if named:
            return f"that is the name of code {' and '.join(named)}, and this crosswalk goes by code; or {add}"
        return add


@dataclass(frozen=True)
class Difference:
    """A name that a crosswalk and another mapping do not give the same class. None: no class on that side, where
    the name is lacking or says no data."""

    name: str
    codes: tuple[str, ...]
    """The crosswalk's codes with this name."""
    ours: str | None
    theirs: str | None
    argument: str = ""
    """The crosswalk's status and note."""


def compare(crosswalk: Crosswalk, published: Mapping[str, str | None]) -> list[Difference]:
    """Where a crosswalk and a mapping of names to classes of the vocabulary differ; empty if they say the same.

    A row is looked up by its code, then by its name. First come the crosswalk's rows in their order (another class, or
    a name that the mapping lacks), then the mapping's names that the crosswalk lacks.
    """
    differ: dict[tuple[str, str | None], list[Row]] = {}
    met = set()
    for row in crosswalk.rows.values():
        name = row.code if row.code in published else row.name
        met.add(name)
        if name not in published or published[name] != row.class_:
            differ.setdefault((name, row.class_), []).append(row)
    ours = [
        Difference(name, tuple(row.code for row in rows), class_, published.get(name), argument(rows[0]))
        for (name, class_), rows in differ.items()
    ]
    return ours + [Difference(name, (), None, theirs) for name, theirs in published.items() if name not in met]


def argument(row: Row) -> str:
    """Who says so, and why."""
    return f"{row.status}: {row.note}" if row.note else row.status


def parse_crosswalk(text: str | bytes, path: str) -> Crosswalk:
    """The crosswalk of a CSV (UTF-8) with the columns code, name, class, status, note (the last may be left out).

    Raises Problem, with the line, for bytes that are not UTF-8, a missing column, too many fields, a code twice (1 and
    1.0 are one), a class outside the vocabulary, an unknown status, or a character that cannot be printed.
    """
    reader = csv.reader(io.StringIO(_decoded(text, path).lstrip("\ufeff"), newline=""), strict=True)
    rows: dict[str, Row] = {}
    lines: dict[str, tuple[int, str]] = {}
    try:
        header = _header(next(reader, []), path)
        for values in reader:
            if not values:
                continue
            where = f"{path}, line {reader.line_num}"
            row = _row(header, values, where)
            if (same := _as_read(row.code)) in lines:
                line, other = lines[same]
                said = "stands twice" if other == row.code else f"is {other} written another way"
                fix = f"keep one of the lines {line} and {reader.line_num}"
                raise Problem(f"code {row.code} {said}", where=where, fix=fix)
            rows[row.code], lines[same] = row, (reader.line_num, row.code)
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise Problem(
            f"this is not CSV: {error}", where=where, fix='close every quote; inside one, write " as ""'
        ) from None
    if not rows:
        raise Problem("this crosswalk has no line", where=path, fix="add 'code,name,class,status,note' lines")
    return Crosswalk(path, rows)


def _as_read(code: str) -> str:
    """'1' of 1, 1.0 and 01: one number is one code, however files write it."""
    number = re.fullmatch(r"0*([0-9]+)(?:\.0*)?", code)
    return number[1] if number else code


def _decoded(text: str | bytes, path: str) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise Problem("a crosswalk is not UTF-8", where=f"{path}, line {line}", fix="save it as UTF-8") from None


def _header(names: list[str], path: str) -> list[str]:
    names = [name.strip() for name in names]
    missing = [c for c in COLUMNS if c not in names]
    if missing:
        apart = next((sign for sign in ";\t" if any(sign in name for name in names)), None)
        fix = f"columns: {', '.join((*COLUMNS, NOTE))}"
        if apart:
            fix += f"; separate them by commas, not by {apart!r}"
        raise Problem(f"a crosswalk lacks the column {', '.join(missing)}", where=path, fix=fix)
    twice = [c for c in (*COLUMNS, NOTE) if names.count(c) > 1]
    if twice:
        raise Problem(f"the column {twice[0]} stands twice", where=f"{path}, line 1", fix="keep one of the two")
    return names


def _row(header: list[str], values: list[str], where: str) -> Row:
    if len(values) > len(header):
        what = f"a line has {len(values)} fields, and there are {len(header)} columns"
        raise Problem(what, where=where, fix="put a field that holds a comma between quotes")
    line = dict(zip(header, (value.strip() for value in values), strict=False))
    code, name, class_, status = (line.get(c, "") for c in COLUMNS)
    for column, value in line.items():
        if odd := [sign for sign in value if not sign.isprintable()]:
            what = f"the {column} holds the character U+{ord(odd[0]):04X}, which is not seen"
            raise Problem(what, where=where, fix="put a space there, or remove it; a row is one line")
    if not code:
        raise Problem("a line has no code", where=where, fix="give the source's code, or remove the line")
    if class_ and class_ not in CLASSES:
        raise Problem(f"'{class_}' is not in the vocabulary", where=where, fix=nearest(class_, CLASSES))
    if status not in STATUSES:
        raise Problem(f"status '{status}' is not known", where=where, fix=f"use {' or '.join(STATUSES)}")
    return Row(code, name, class_ or None, status, line.get(NOTE, ""))


def _field(text: str) -> str:
    """A field as it stands in a line of a CSV."""
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"') else text
