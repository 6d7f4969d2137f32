"""What must not be said: signatures and keys in addresses, and secrets of the environment."""

from __future__ import annotations

import logging
import os
import re
import traceback
from typing import Any

SIGNATURES = frozenset({
    "sig", "se", "sp", "sv", "sr", "st", "skoid",  # Azure shared access signatures
    "signature", "expires", "key-pair-id", "policy", "awsaccesskeyid", "googleaccessid",
    "token", "access_token", "subscription-key", "apikey", "api_key", "key",
})  # fmt: skip
"""Parameters of an address that sign it or hold a key, beside x-amz-… and x-goog-…; lower case."""
LEAST = 6
"""Characters of a secret: shorter ones would be found in everything."""

_QUERY = re.compile(r"(://[^\s?#'\"<>]*)\?[^\s'\"<>)]*")
_PARAMETER = re.compile(rf"(?i)\b((?:{'|'.join(sorted(SIGNATURES))}|x-amz-[a-z-]+|x-goog-[a-z-]+)=)[^\s&'\"<>)]+")
_USER = re.compile(r"://[^/?#\s'\"@]*@")
_SECRET_NAME = re.compile(
    r"(?i)(KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|CONNECTION_STRING)(?!.*_(FILE|PATH|UR[IL])$)"
)


def redacted(text: str) -> str:
    """A text without query strings of addresses, signatures, passwords, and values of secret environment variables."""
    for value in secrets_here():
        text = text.replace(value, "***")
    text = _USER.sub("://***@", text)
    return _PARAMETER.sub(r"\1***", _QUERY.sub(r"\1?***", text))


def secrets_here() -> list[str]:
    """Values of environment variables that are secret by their names; the longest first."""
    found = {v for k, v in os.environ.items() if _SECRET_NAME.search(k) and len(v) >= LEAST}
    return sorted(found, key=lambda v: (-len(v), v))


def guard_logs() -> None:
    """From now on no log record of this process holds a secret, whoever writes it (GDAL and urllib3 name addresses)."""
    before = logging.getLogRecordFactory()
    if getattr(before, "guards", False):
        return

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # logging would print its arguments as they are
            record.msg, record.args, text = "(a message that its arguments do not fit)", None, ""
        if text and (told := redacted(text)) != text:
            record.msg, record.args = told, None
        if record.exc_info and record.exc_info[0]:
            record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info))).rstrip()
        return record

    make.guards = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)
