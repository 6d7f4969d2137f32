"""Days of events as their files write them: ISO 8601, in UTC or with a zone."""

from __future__ import annotations

import datetime as dt
import re

from harmonize.problem import Problem


def utc_day(value: object, field: str, name: str, where: str, fix: str) -> dt.date | None:
    """The UTC day of a date or a time; None where there is none.

    A time with a zone is moved to UTC: 2018-10-29T23:30-03:00 is the 30th. Without one it is UTC. Anything but year,
    month and day in this order is a Problem: 07/08/2021 is July in one country and August in the next.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # nan and NaT are no equals
        return None
    if isinstance(value, dt.datetime):
        return _utc(value)
    if isinstance(value, dt.date):
        return value
    text = re.sub(r"^(\d{4})/(\d{1,2})/(\d{1,2})\b", _dashes, str(value).strip())
    try:
        return _utc(dt.datetime.fromisoformat(text))
    except ValueError:
        pass
    said = f"'{text}' in the field {field} of {name}"
    if re.match(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}\b", text):
        raise Problem(f"{said} is unclear: is the day or the month first?", where=where, fix=f"{fix}, as 2021-08-07")
    raise Problem(f"{said} is no day", where=where, fix=fix)


def _dashes(match: re.Match[str]) -> str:
    return f"{match[1]}-{int(match[2]):02}-{int(match[3]):02}"


def _utc(moment: dt.datetime) -> dt.date:
    return (moment.astimezone(dt.UTC) if moment.tzinfo else moment).date()
