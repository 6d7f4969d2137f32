"""What a person wrote as TOML -> a frozen model, and every mistake -> file, key and fix."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from harmonize.problem import Problem, nearest


class Manifest(BaseModel):
    """Base of everything read from a manifest: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


MOST_DOTS = 500
"""In a line: for a key of n parts tomllib takes memory as n², 1.5 GB for 40 kB of dots."""


def is_there(path: str | Path) -> bool:
    """Whether what a manifest names is there: not what cannot be a name (NUL in it, too long for a disk)."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


M = TypeVar("M", bound=Manifest)


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """The tables of a TOML text; a malformed one is a Problem naming the file it came from."""
    line = next((k for k, line in enumerate(text.splitlines(), 1) if line.count(".") > MOST_DOTS), None)
    if line:
        fix = "write tables as [a.b], and long lists on several lines"
        raise Problem(f"line {line} has more than {MOST_DOTS} dots", where=str(path), fix=fix)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML; a number of thousands of digits; nested too deeply
        said = str(error) if isinstance(error, tomllib.TOMLDecodeError) else f"{error}".partition(";")[0]
        raise Problem(f"this is not valid TOML: {said}", where=str(path), fix="mend the line it names") from None


def parse(model: type[M], data: dict[str, Any], path: Path, prefix: str = "") -> M:
    """`data` as a `model`; the first mistake becomes a Problem that names file, key and fix."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(error, model, path, prefix) from None


def _explain(error: ValidationError, model: type[BaseModel], path: Path, prefix: str) -> Problem:
    mistakes = error.errors(include_url=False)
    # An unknown key is usually the cause of a "missing" one, so it is told first.
    first = next((m for m in mistakes if m["type"] == "extra_forbidden"), mistakes[0])
    key = prefix + _dotted(first["loc"])
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        others = [prefix + _dotted(m["loc"]) for m in mistakes if m["type"] == "extra_forbidden" and m is not first]
        what = f"unknown key '{key}'" + (f", and {', '.join(map(repr, others))}" if others else "")
        return Problem(what, where=str(path), fix=nearest(str(first["loc"][-1]), known))
    if first["type"] == "missing":
        return Problem(f"key '{key}' is missing{more}", where=str(path), fix=f"add '{key} = …'")
    message = first["msg"].removeprefix("Value error, ")
    what, _, fix = message.partition(" | ")
    name = f"'{key}': " if key else ""
    if first["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        fix = nearest(str(first["input"]), expected)
        return Problem(f"'{key}' is {first['input']!r}{more}", where=str(path), fix=fix)
    return Problem(f"{name}{what}{more}", where=str(path), fix=fix or f"it is now {first['input']!r}"[:200])


def _dotted(loc: tuple[int | str, ...]) -> str:
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the keys allowed at `loc` inside `model`."""
    current: Any = model
    for step in loc:
        if isinstance(current, type) and issubclass(current, BaseModel) and step in current.model_fields:
            current = current.model_fields[str(step)].annotation
        inner = [a for a in get_args(current) if isinstance(a, type) and issubclass(a, BaseModel)]
        if inner:
            current = inner[0]
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []
