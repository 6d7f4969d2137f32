"""Licences of sources and events: what each asks for, what they ask for together, and whom to name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

CREATIVE_COMMONS = re.compile(r"cc by(?P<kind>(?: nc)?(?: sa| nd)?) (?P<version>\d\.\d)(?: international)?")
CONDITIONS = ("attribution", "share alike", "no derivatives", "non-commercial use")
"""What a licence may ask for, the least restrictive first."""
EVENT_TERMS: dict[str, dict[str, str]] = {
    # https://mapping.emergency.copernicus.eu/terms-and-conditions: Regulation (EU) 2021/696, free, full and open
    "cems": {
        "licence": "Copernicus Emergency Management Service, free and open",
        "attribution": "© European Union, Copernicus Emergency Management Service data",
    },
    # The readme in EFFIS downloads names the owner and the Commission's legal notice (reuse, 2011/833/EU)
    "effis": {
        "licence": "Commission reuse policy (2011/833/EU)",
        "attribution": "© European Union, European Forest Fire Information System (EFFIS) "
        "of the European Commission Joint Research Centre",
    },
    # https://www.usgs.gov/information-policies-and-instructions/copyrights-and-credits
    "shakemap": {
        "licence": "public domain (U.S. Geological Survey)",
        "attribution": "ShakeMap courtesy of the U.S. Geological Survey",
    },
}
"""source of an event -> licence and attribution of its files, where the manifest does not say otherwise."""


@dataclass(frozen=True)
class Terms:
    """What is known of a licence."""

    name: str
    """As the manifest has it; in KNOWN empty."""
    conditions: tuple[str, ...] | None
    """Some of CONDITIONS; None: nobody here knows what the licence asks for."""
    url: str = ""
    hugging_face: str = ""
    """The Hub's identifier of it, empty where it has none."""
    spdx: str = ""
    alike: frozenset[str] = frozenset()
    """Licences among it that want the whole under themselves, by SPDX identifier."""


NO_LICENCE = re.compile("|free and open|via .*", re.IGNORECASE)
"""What stands beside a licence's name and asks for nothing."""
OF_WHAT = re.compile(r" ?\((?:synthetic|(?:the )?(?:images?|imagery|labels?|maps?|captions?|texts?|data))\)$")
"""What a licence is of, behind its name. Other brackets may hold conditions, and are a part of the name."""
YEARS = re.compile(r" (?:\{years\}|\d{4}(?: \d{4})?)$")
"""Of `contains modified Copernicus Sentinel data 2018-2020`, as `_normal` spells it."""
_CC0 = Terms("", (), "https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0", "CC0-1.0")
_CDLA = Terms("", CONDITIONS[:1], "https://cdla.dev/permissive-1-0/", "cdla-permissive-1.0", "CDLA-Permissive-1.0")
_ODBL = Terms(
    "", CONDITIONS[:2], "https://opendatacommons.org/licenses/odbl/1-0/", "odbl", "ODbL-1.0", frozenset({"ODbL-1.0"})
)
_SENTINEL = Terms(
    "", CONDITIONS[:1], "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice"
)
# The decision itself; it asks to name the source (article 6)
_REUSE = Terms("", CONDITIONS[:1], "https://eur-lex.europa.eu/eli/dec/2011/833/oj")
KNOWN = {
    "cc0": _CC0,
    "cc0 1.0": _CC0,
    "cc0 1.0 universal": _CC0,
    "public domain": Terms("", ()),
    "public domain (u.s. geological survey)": Terms(
        "", (), "https://www.usgs.gov/information-policies-and-instructions/copyrights-and-credits"
    ),
    "cdla permissive 1.0": _CDLA,
    "odbl": _ODBL,
    "odbl 1.0": _ODBL,
    "copernicus sentinel data": _SENTINEL,
    "contains modified copernicus sentinel data": _SENTINEL,
    "copernicus land monitoring service": Terms("", CONDITIONS[:1]),
    "copernicus emergency management service": Terms(
        "", CONDITIONS[:1], "https://mapping.emergency.copernicus.eu/terms-and-conditions"
    ),
    "commission reuse policy": _REUSE,
    "commission reuse policy (2011/833/eu)": _REUSE,
}
"""Whole name of a licence as `_normal` spells it -> what it asks for. A name that only begins like one of these may go
on with conditions (`Copernicus Contributing Missions: no redistribution`), so it is unknown."""


def terms_of(licence: str) -> Terms:
    """What a licence of a manifest asks for. Several (`CC-BY-SA-4.0 (the images), CC0-1.0 (the labels)`) ask together,
    and if one of them is unknown they are."""
    parts = [_terms(part) for part in map(str.strip, re.split("[,;]", licence)) if not NO_LICENCE.fullmatch(part)]
    if not parts or any(part.conditions is None for part in parts):
        return Terms(licence, None)
    if len(parts) == 1:
        return replace(parts[0], name=licence)
    asked = tuple(c for c in CONDITIONS if any(c in (part.conditions or ()) for part in parts))
    return Terms(licence, asked, alike=frozenset[str]().union(*(part.alike for part in parts)))


def _terms(licence: str) -> Terms:
    """Of one: Creative Commons by name, Copernicus, public domain and a few more; others are unknown."""
    said = _normal(licence)
    if match := CREATIVE_COMMONS.fullmatch(said):
        kind, version = match["kind"].replace(" ", "-"), match["version"]
        asked = ["attribution"]
        asked += [what for sign, what in zip(("-sa", "-nd", "-nc"), CONDITIONS[1:], strict=True) if sign in kind]
        url = f"https://creativecommons.org/licenses/by{kind}/{version}/"
        name = f"cc-by{kind}-{version}"
        spdx = name.upper()
        return Terms(licence, tuple(asked), url, name, spdx, frozenset({spdx} if "-sa" in kind else ()))
    known = KNOWN.get(said) or KNOWN.get(YEARS.sub("", said))
    return replace(known, name=licence) if known else Terms(licence, None)


def _normal(licence: str) -> str:
    """Lower case, one space for hyphens and white space, without what the licence is of."""
    plain = re.sub(r"(?<=[a-z0-9.])[\s_-]+(?=[a-z0-9(])", " ", licence.lower()).strip().removesuffix(".")
    return OF_WHAT.sub("", plain)


@dataclass(frozen=True)
class RollUp:
    """What several licences ask for together."""

    conditions: tuple[str, ...]
    """All that any of the known ones asks for."""
    strictest: str
    """The known licence that asks for most; empty where none is known."""
    unknown: tuple[str, ...]
    """Whose licence says nothing that we know: sources and events by name."""
    clash: tuple[str, ...]
    """Licences that each want the whole under themselves (share alike), where they differ."""
    one: Terms | None
    """The licence, where all have the same one."""


def roll_up(licences: Mapping[str, str]) -> RollUp:
    """What the licences of these sources and events (name -> licence) ask for together."""
    terms = {name: terms_of(licence) for name, licence in licences.items()}
    known = {t.name: t.conditions for t in terms.values() if t.conditions is not None}
    asked = {condition for conditions in known.values() for condition in conditions}
    alike = sorted(frozenset[str]().union(*(t.alike for t in terms.values())))
    names = sorted(set(licences.values()))
    return RollUp(
        conditions=tuple(c for c in CONDITIONS if c in asked),
        strictest=max(
            known, key=lambda name: ([c in known[name] for c in reversed(CONDITIONS)], -len(name)), default=""
        ),
        unknown=tuple(name for name, t in terms.items() if t.conditions is None),
        clash=tuple(alike) if len(alike) > 1 else (),
        one=terms_of(names[0]) if len(names) == 1 else None,
    )


def with_years(attribution: str, years: list[int]) -> str:
    """The sentence with its `{years}`: `2018`, `2018-2020` or `2016, 2018`; without any, their place goes too."""
    if years:
        return attribution.replace("{years}", _ranges(sorted(set(years))))
    return re.sub(r" +", " ", attribution.replace("({years})", "").replace("{years}", "")).strip()


def _ranges(years: list[int]) -> str:
    """Years in a row as `first-last`."""
    runs: list[list[int]] = []
    for year in years:
        if runs and year == runs[-1][-1] + 1:
            runs[-1].append(year)
        else:
            runs.append([year])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
