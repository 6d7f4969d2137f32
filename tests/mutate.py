"""Seeded damage for the fuzz: bytes flipped, cut, inserted, doubled; JSON and TOML with other types, huge numbers, depth."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 31, 1 << 63, -(10**30), 1e308, float("inf"), float("-inf"), float("nan"), 0.1, "", "x",
    "\x00", "../../x", "\ud800", "2020-13-45", [], [[]], {}, {"a": 1}, [None], [1, "a"], "é" * 5000,
)  # fmt: skip
DEEP = 20_000
"""Levels of nesting: more than Python's own stack has."""
ODD_TOML = (
    "1", "-1", "1e400", "nan", "inf", "true", '""', '"x"', "[]", "[[]]", "{}", "2020-01-01", "1979-05-27T07:32:00Z", "07:32:00",
    '["a", 1]', "{ a = 1 }", "99999999999999999999999999", '"\\u0000"', "9999-12-31", "0001-01-01", '"' + "a" * 5000 + '"',
    "[" * 500 + "]" * 500,
)  # fmt: skip
ODD_KEYS = ("x", '""', "a.b", "__class__", "é")
NUMBER = re.compile(rb"-?\d+(\.\d+)?")


def mutated(data: bytes, draw: random.Random, kind: str) -> bytes:
    """One damaged form of a file; kind: bytes, json or toml."""
    if kind == "json" and draw.random() < 0.6:
        return _json(data, draw)
    if kind == "toml" and draw.random() < 0.6:
        return _toml(data, draw)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        data = draw.choice(BYTES)(data, draw)
    return data


def _at(data: bytes, draw: random.Random) -> int:
    """A place; every other time in the first or last kilobyte, where headers and footers are."""
    if draw.random() < 0.5:
        near = draw.randrange(min(len(data), 1024) or 1)
        return near if draw.random() < 0.5 else max(0, len(data) - 1 - near)
    return draw.randrange(len(data) or 1)


def _flip(data: bytes, draw: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 32))):
        if out:
            out[_at(data, draw)] = draw.choice((draw.randrange(256), 0, 255, 127, 128))
    return bytes(out)


def _cut(data: bytes, draw: random.Random) -> bytes:
    a = _at(data, draw)
    return data[:a] if draw.random() < 0.5 else data[:a] + data[a + draw.choice((1, 7, 512, len(data) // 3 or 1)) :]


def _insert(data: bytes, draw: random.Random) -> bytes:
    a = _at(data, draw)
    new = draw.choice((b"\x00", b"\xff" * 8, b"[" * DEEP, b"\x00" * 512, draw.randbytes(20), b'"', b"}", b"9" * 400))
    return data[:a] + new + data[a:]


def _double(data: bytes, draw: random.Random) -> bytes:
    a, b = sorted((_at(data, draw), _at(data, draw)))
    return data[:b] + data[a:b] + data[b:]


def _number(data: bytes, draw: random.Random) -> bytes:
    found = list(NUMBER.finditer(data[:200_000]))
    if not found:
        return _flip(data, draw)
    m = draw.choice(found)
    new = draw.choice((b"0", b"-1", b"9" * 30, b"1e999", b"NaN", b"4294967296", b"18446744073709551615", b"9" * 5000))
    return data[: m.start()] + new + data[m.end() :]


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _flip, _cut, _insert, _double, _number)


def _json(data: bytes, draw: random.Random) -> bytes:
    """A value somewhere in it replaced, removed, doubled, or nested deeply."""
    value = copy.deepcopy(json.loads(data))
    for _ in range(draw.choice((1, 1, 2))):
        place, key = _node(value, draw)
        if place is None:
            continue
        how = draw.random()
        if how < 0.7:
            place[key] = copy.deepcopy(draw.choice(ODD))
        elif how < 0.85:
            del place[key]
        elif how < 0.95 and isinstance(place, list):
            place.insert(0, copy.deepcopy(place[key]))
        else:
            place[key] = "DEEP"
    text = json.dumps(value)
    nested = draw.choice(("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP))
    return text.replace('"DEEP"', nested).encode("utf-8", "surrogatepass")


def _node(value: Any, draw: random.Random) -> tuple[Any, Any]:
    """A random place in it: the list or table, and its key there."""
    place, key = None, None
    while isinstance(value, dict | list) and value and (place is None or draw.random() < 0.75):
        place = value
        key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
        value = value[key]
    return place, key


def _toml(data: bytes, draw: random.Random) -> bytes:
    """A line's value replaced, its key changed, or the line removed, doubled or put elsewhere."""
    lines = data.decode().splitlines()
    k = draw.randrange(len(lines))
    how, line = draw.random(), lines[k]
    if how < 0.65 and "=" in line:
        lines[k] = f"{line.partition('=')[0]}= {draw.choice(ODD_TOML)}"
    elif how < 0.75 and "=" in line:
        lines[k] = draw.choice(ODD_KEYS) + " =" + line.partition("=")[2]
    elif how < 0.85:
        del lines[k]
    elif how < 0.95:
        lines.insert(draw.randrange(len(lines)), line)
    else:
        lines[k] = "[" * draw.choice((1, 3, 400)) + line
    return "\n".join(lines).encode()
