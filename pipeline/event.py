"""Event: an entry of a region's manifest under [[events]]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.access import without_secrets
from pipeline.licences import EVENT_TERMS
from pipeline.manifest import Day, Manifest

EFFECT_DAYS = {"flood": 20, "fire": 180, "earthquake": 90}
"""How long each kind can be seen, where the manifest does not say."""
KIND_OF_SOURCE = {"effis": "fire", "shakemap": "earthquake"}
"""Sources that know one kind only."""
MMI = 7.0
"""Modified Mercalli intensity from which a ShakeMap counts as an event: VII, "very strong shaking, moderate damage"
(USGS, ShakeMap scale of Worden et al. 2012); at VI damage is light."""
MOST_DAYS = 3650
"""Ten years: nothing is seen longer, and dates stay those of a calendar."""


class Event(Manifest):
    """A crisis event: where its extent comes from and how long it can be seen."""

    id: str = ""
    """Goes into tables and into the role of chips. Default: from the file's name."""
    kind: Literal["flood", "fire", "earthquake"]
    source: Literal["cems", "geojson", "shakemap", "effis"]
    """geojson: any vector file of polygons. cems: a Copernicus EMS Rapid Mapping package, a folder or a zip. effis:
    burnt areas, one event per fire near the region. shakemap: contours of shaking intensity (cont_mmi.json)."""
    href: str
    layer: str | None = None
    """For a geojson: the layer to read of a file that has several, as a GeoPackage may."""
    analysed: str | None = None
    """Vector file of the extent that was looked at. What is not wholly inside it is unknown, up to 100 km from the
    event's geometry and 10 km from the extent; farther away the event is absent. Without it: unknown up to 10 km."""
    damage: str | None = None
    """For a shakemap: the damage that was seen, as a vector file of polygons or a cems package. The event is then this
    damage, and shaken ground that nobody looked at is unknown. Without it: the event is the shaken ground."""
    mmi: float | None = Field(default=None, ge=1, le=12)
    """For a shakemap: the intensity from which ground counts as shaken; one of the contours of the file."""
    start: Day | None = None
    """First day, UTC. None: the file's features say it in a property `start` or `date`; a package in the file of its
    activation (`eventTime`)."""
    effect_days: int = Field(default=0, ge=1, le=MOST_DAYS)
    """Days from `start` on in which it can be seen. Default by kind."""
    min_event_share: float = Field(default=0.05, gt=0, le=1)
    """Share of a cell that it must cover for its label."""
    before: int = Field(default=1, ge=0, le=100_000)
    """Acquisitions kept per covered cell and sensor besides per_cell: the latest before `start`,"""
    before_days: int = Field(default=60, ge=1, le=MOST_DAYS)
    """at most so many days before,"""
    after: int = Field(default=2, ge=0, le=100_000)
    """and the first in its effect window."""
    licence: str = "unknown"
    attribution: str = ""
    """As that of a source. Default, as of the licence: what is known of the event's source."""

    _plain_hrefs = field_validator("href", "analysed", "damage")(without_secrets)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given: dict[str, Any] = {"id": slug(Path(data["href"]).stem)} if isinstance(data.get("href"), str) else {}
        if data.get("kind") in EFFECT_DAYS:
            given["effect_days"] = EFFECT_DAYS[data["kind"]]
        if data.get("source") in EVENT_TERMS:
            given |= EVENT_TERMS[data["source"]]
        if data.get("source") == "shakemap":
            given["mmi"] = MMI
        return {**given, **data}

    @field_validator("id")
    @classmethod
    def _id(cls, value: str) -> str:
        if value != slug(value) or not value:
            raise ValueError(
                f"'{value}' goes into names | use lower-case letters, digits, - and _: '{slug(value) or 'event-1'}'"
            )
        return value

    @model_validator(mode="after")
    def _fits_source(self) -> Event:
        kind = KIND_OF_SOURCE.get(self.source, self.kind)
        if self.kind != kind:
            raise ValueError(f"kind is '{self.kind}', and '{self.source}' maps every {kind} | write kind = \"{kind}\"")
        for key, source in (("mmi", "shakemap"), ("damage", "shakemap"), ("layer", "geojson")):
            if getattr(self, key) is not None and self.source != source:
                raise ValueError(f"'{key}' is for source = '{source}', and this is '{self.source}' | take {key} away")
        return self


def slug(text: str) -> str:
    """Lower-case letters, digits, - and _ of a text, as names have them."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")
