"""A JSON file that carries the hash of itself, so that a byte changed in it is found: receipts, and what says of a run
what it wrote. No file is opened here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

HASH = "sha256"
"""Key of the hash: of the same text without this key."""


def sealed(record: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON object with the hash of itself; the same record gives the same bytes."""
    plain = {key: value for key, value in record.items() if key != HASH}
    return _text({**plain, HASH: hashlib.sha256(_text(plain)).hexdigest()})


def unsealed(data: bytes) -> dict[str, Any]:
    """The object of such a file, without its hash. One without a hash was written by an older version, and is believed.

    Raises ValueError where it is no JSON object, or not, byte for byte, what was written.
    """
    record = from_json(data)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    if HASH in record and sealed(record) != data:
        raise ValueError("a byte differs: it does not have the sha256 that it says of itself")
    if HASH not in record and any(_is_nearly(key) for key in record):
        raise ValueError("a byte differs: the key of its own hash is damaged")
    return {key: value for key, value in record.items() if key != HASH}


def _is_nearly(key: str) -> bool:
    """Whether a key is that of the hash with one character changed."""
    return len(key) == len(HASH) and sum(a != b for a, b in zip(key, HASH, strict=True)) == 1


def from_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError for whatever is none, is nested too deeply, or has half characters
    (a lone surrogate such as \\ud800), which no file and no table can hold."""
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _text(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, default=str) + "\n").encode()
