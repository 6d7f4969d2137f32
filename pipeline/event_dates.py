"""Days of events as their files write them: ISO 8601, in UTC or with a zone."""

from __future__ import annotations

import contextlib
import datetime as dt
import re

from harmonize.problem import Problem
from pipeline.manifest import FIRST_DAY, LAST_DAY


def utc_day(value: object, field: str, name: str, where: str, fix: str) -> dt.date | None:
    """The UTC day of a date or a time; None where there is none.

    A time with a zone is moved to UTC: 2018-10-29T23:30-03:00 is the 30th. Without one it is UTC. Anything but year,
    month and day in this order is a Problem: 07/08/2021 is July in one country and August in the next. So is a day
    outside FIRST_DAY to LAST_DAY.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # nan and NaT are no equals
        return None
    said = f"'{str(value).strip()}' in the field {field} of {name}"
    if isinstance(value, dt.datetime):
        return _bounded(_utc(value), said, where, fix)
    if isinstance(value, dt.date):
        return _bounded(value, said, where, fix)
    text = re.sub(r"^(\d{4})/(\d{1,2})/(\d{1,2})\b", _dashes, str(value).strip())
    with contextlib.suppress(ValueError):
        return _bounded(_utc(dt.datetime.fromisoformat(text)), said, where, fix)
    if re.match(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}\b", text):
        raise Problem(f"{said} is unclear: is the day or the month first?", where=where, fix=f"{fix}, as 2021-08-07")
    raise Problem(f"{said} is no day", where=where, fix=fix)


def day_of_milliseconds(value: float, field: str, name: str, where: str, fix: str) -> dt.date:
    """The UTC day of milliseconds since 1970; NaN and what is no day of an event are a Problem."""
    said = f"{value:g} milliseconds in the field {field} of {name}"
    try:
        day = (dt.datetime(1970, 1, 1) + dt.timedelta(milliseconds=value)).date()
    except (OverflowError, ValueError):
        raise Problem(f"{said} are no day", where=where, fix=fix) from None
    return _bounded(day, said, where, fix)


def is_day_of_event(day: dt.date) -> bool:
    return FIRST_DAY <= day <= LAST_DAY


def _bounded(day: dt.date, said: str, where: str, fix: str) -> dt.date:
    if not is_day_of_event(day):
        what = f"{said} is no day of an event: they are from {FIRST_DAY.year} to {LAST_DAY.year}"
        raise Problem(what, where=where, fix=fix)
    return day


def _dashes(match: re.Match[str]) -> str:
    return f"{match[1]}-{int(match[2]):02}-{int(match[3]):02}"


def _utc(moment: dt.datetime) -> dt.date:
    if moment.tzinfo is None or not dt.MINYEAR < moment.year < dt.MAXYEAR:
        return moment.date()  # moved, the first and last hours of the calendar would leave it
    return moment.astimezone(dt.UTC).date()
