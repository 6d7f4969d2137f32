"""What the doctor looks at elsewhere: the APIs of a region, this machine's clock, and which credentials are set."""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.doctor import Check
from pipeline.sandbox import size_of

if TYPE_CHECKING:
    from pipeline.region import Region

ANSWER_S = 5.0
SKEW_S = 60.0
"""Signed addresses hold for minutes; a store refuses a request of an hour's difference at the latest (S3: 15 min)."""


def apis(region: Region | None) -> Iterator[Check]:
    """The APIs that a region's sources name (all known ones, without a region): whether they answer within ANSWER_S.

    What cannot be reached is told and is not wrong: much of the work needs no network.
    """
    from pipeline.source import known_sources

    sources = region.sources if region else known_sources()
    addresses = sorted({source.api for source in sources.values() if source.api and not size_of(source.api)})
    if region and region.worlds:
        yield Check("api", "ok", "the sample world is served on this machine")
    clocks = []
    for address in addresses:
        check, clock = _ask(address)
        yield check
        clocks += [clock] if clock is not None else []
    if clocks:
        skew = min(clocks, key=abs)
        state = "warning" if abs(skew) > SKEW_S else "ok"
        said = f"this machine's differs from a server's by {abs(skew):.0f} s"
        yield Check("clock", state, said, "set it by NTP: signed addresses and Retry-After are read by it")  # type: ignore[arg-type]


def _ask(address: str) -> tuple[Check, float | None]:
    """Whether an API answers, and by how many seconds this machine's clock is ahead of it."""
    import requests

    from pipeline.stac_io import public

    name, fix = public(address), "check the network and its proxies (HTTPS_PROXY); needed by stage scenes"
    started = time.monotonic()
    try:
        answer = requests.get(address, timeout=ANSWER_S, stream=True)
        answer.close()
    except requests.RequestException as error:  # its text may hold what is secret
        return Check("api", "warning", f"{name} cannot be reached from here ({type(error).__name__})", fix), None
    clock = email.utils.parsedate_tz(answer.headers.get("Date", ""))
    ahead = time.time() - email.utils.mktime_tz(clock) if clock else None
    took = f"{time.monotonic() - started:.1f} s"
    if answer.status_code >= 400:
        return Check(
            "api", "warning", f"{name} answers HTTP {answer.status_code} ({took})", "check its status page"
        ), ahead
    return Check("api", "ok", f"{name} answers ({took})"), ahead


def credentials(region: Region | None, out: str) -> Iterator[Check]:
    """Which are set and which are not, never what they are."""
    signs = {source.sign for source in region.sources.values()} if region else set()
    key = bool(os.environ.get("PC_SDK_SUBSCRIPTION_KEY"))
    optional = "set" if key else "not set (not needed; it raises the rate limit)"
    yield Check("credentials", "ok", f"PC_SDK_SUBSCRIPTION_KEY: {optional}")
    wanted = {
        "s3": ("AWS", _aws(), "aws configure, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        "az": ("Azure", _set("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"), "AZURE_STORAGE_…"),
        "gs": ("Google", _set("GOOGLE_APPLICATION_CREDENTIALS"), "gcloud auth application-default login"),
    }
    needed = {out.partition("://")[0]} if "://" in out else set()
    needed |= {"s3"} if "requester-pays" in signs else set()
    for scheme, (name, found, fix) in wanted.items():
        if scheme in needed:
            state = "ok" if found else "warning"
            said = f"{name}: {'set' if found else 'not set; a machine of that cloud may have a role instead'}"
            yield Check("credentials", state, said, fix)  # type: ignore[arg-type]


def _set(*names: str) -> bool:
    return any(os.environ.get(name) for name in names)


def _aws() -> bool:
    home = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    return _set("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN") or home.exists()
