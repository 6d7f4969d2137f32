"""The keys of a region's manifest and of a source, as their models have them: `python -m pipeline manifest`."""

from __future__ import annotations

import datetime as dt
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.event import EFFECT_DAYS, Event
from pipeline.region import Captions, Imagery, LabelUse, Region, Shards, Split
from pipeline.source import Source

TABLES: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("", Region, "manifests/regions/<name>.toml; one of bounds, geometry, mgrs"),
    ("[[imagery]]", Imagery, "one or more"),
    ("[[labels]]", LabelUse, "in order of precedence: the first that labels 75 % of a cell rules"),
    ("[[events]]", Event, "crises; effect_days by default: " + ", ".join(f"{k} {n}" for k, n in EFFECT_DAYS.items())),
    ("[captions]", Captions, ""),
    ("[split]", Split, "stratified: 0.18, 0.02, 0.8 by default (the paper's protocol)"),
    ("[shards]", Shards, ""),
    ("[sources.<name>]", Source, "in the manifest, or [<name>] in manifests/sources.toml"),
)
INSIDE = {"path", "world", "base", "imagery", "labels", "events", "captions", "split", "shards", "sources"}
"""Fields that are no keys: where the manifest was read from, and the tables below it."""
WIDTH = 120


def manifest_lines() -> Iterator[str]:
    """Every key with its type, default and meaning."""
    for table, model, about in TABLES:
        yield f"{table}  # {about}" if table and about else table or f"# {about}"
        hidden = INSIDE if model in (Region, Source) else set()
        for name, field in model.model_fields.items():
            if name not in hidden:
                yield from _lines(name, field)
        yield ""


def _lines(name: str, field: FieldInfo) -> Iterator[str]:
    import textwrap

    head = f"  {name:<18}{_type(field.annotation):<38} "
    said = " ".join((field.description or "").split())
    given = "required" if field.is_required() else _default(field)
    texts = textwrap.wrap(". ".join(t for t in (given, said) if t), WIDTH - len(head)) or [""]
    yield (head + texts[0]).rstrip()
    yield from (" " * len(head) + text for text in texts[1:])


def _default(field: FieldInfo) -> str:
    value = field.default
    if value in (PydanticUndefined, None, "", ()):
        return ""
    return f"default {str(value).lower() if isinstance(value, bool) else value}"


def _type(kind: Any) -> str:
    """As a person writes it in TOML."""
    if get_origin(kind) is Annotated:
        return _type(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_type(k) for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is tuple:
        return f"[{_type(get_args(kind)[0])}, …]"
    if get_origin(kind) is dict:
        return "{ key = " + _type(get_args(kind)[1]) + " }"
    names = {str: "text", float: "number", int: "whole number", bool: "true | false", dt.date: "day"}
    return names.get(kind, str(kind))
