"""Licences of sources and events: what each asks for, what they ask for together, and whom to name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

CREATIVE_COMMONS = re.compile(r"cc-by(?P<kind>(?:-nc)?(?:-sa|-nd)?)-(?P<version>\d\.\d)\b")
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
    """As the manifest has it."""
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
KNOWN = {
    "cc0": Terms("", (), "https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0", "CC0-1.0"),
    "public domain": Terms("", ()),
    "cdla-permissive-1.0": Terms(
        "", CONDITIONS[:1], "https://cdla.dev/permissive-1-0/", "cdla-permissive-1.0", "CDLA-Permissive-1.0"
    ),
    "odbl": Terms(
        "",
        CONDITIONS[:2],
        "https://opendatacommons.org/licenses/odbl/1-0/",
        "odbl",
        "ODbL-1.0",
        frozenset({"ODbL-1.0"}),
    ),
    "copernicus sentinel": Terms(
        "", CONDITIONS[:1], "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice"
    ),
    "contains modified copernicus sentinel": Terms("", CONDITIONS[:1]),
    "copernicus": Terms("", CONDITIONS[:1]),
    "commission reuse policy": Terms("", CONDITIONS[:1]),
}
"""How the text of a licence starts, lower case -> what it asks for."""


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
    said = licence.lower()
    if match := CREATIVE_COMMONS.match(said):
        kind, version = match["kind"], match["version"]
        asked = ["attribution"]
        asked += [what for sign, what in zip(("-sa", "-nd", "-nc"), CONDITIONS[1:], strict=True) if sign in kind]
        url = f"https://creativecommons.org/licenses/by{kind}/{version}/"
        spdx = match[0].upper()
        return Terms(licence, tuple(asked), url, match[0], spdx, frozenset({spdx} if "-sa" in kind else ()))
    known = next((terms for start, terms in KNOWN.items() if said.startswith(start)), None)
    return replace(known, name=licence) if known else Terms(licence, None)


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
