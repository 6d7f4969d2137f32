"""How far the label sources of a region agree, for stage captions, and as tables for a person."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from harmonize.agreement import Agreement, agreement_table, agreements
from harmonize.labelset import Evidence
from pipeline import tables
from pipeline.evidence import crosswalks_of, evidence_of
from pipeline.region import Region
from pipeline.store import Store

AGREEMENT = "agreement.json"
"""Every two label sources against each other, class by class."""


def agreement_of(
    region: Region, chips: Iterable[tuple[str, dt.date]], evidence: dict[str, list[Evidence]]
) -> dict[tuple[str, str], Agreement]:
    """How far every two label sources that some cell has both of say the same there, on the days of its chips.

    chips: cell and day of each. All chips of a cell belong into one call.
    """
    order = list(dict.fromkeys(use.source for use in region.labels))
    days: dict[str, set[dt.date]] = defaultdict(set)
    if len(order) > 1:
        for cell, day in chips:
            days[cell].add(day)
    said = ((evidence.get(cell, ()), sorted(of_cell)) for cell, of_cell in sorted(days.items()))
    return agreements(said, order, region.captions.min_share)


def in_short(pair: tuple[str, str], found: Agreement) -> str:
    return (
        f"'{pair[0]}' and '{pair[1]}' see most of the same class in {found.same_dominant:.0%} of {found.cells} cells "
        f"(python -m pipeline agreement REGION says more)"
    )


def record(agreed: dict[tuple[str, str], Agreement]) -> list[dict[str, Any]]:
    """What agreement.json holds."""
    return [{"sources": pair} | found.record() for pair, found in agreed.items()]


def say_agreement(region: Region, store: Store) -> str:
    """A table per pair of sources that some cell has both of."""
    import pyarrow as pa

    read = {name: tables.read_table(store, f"{name}.parquet", tables.SCHEMAS[name]) for name in ("chips", "labels")}
    crosswalks = crosswalks_of(region)
    chips = zip(read["chips"]["cell"].to_pylist(), read["chips"]["datetime"].cast(pa.date32()).to_pylist(), strict=True)
    found = agreement_of(region, chips, evidence_of(read["labels"], crosswalks))
    if not found:
        names = ", ".join(crosswalks) or "none"
        return (
            f"{region.name}: no cell is labelled by two sources; there are: {names}. A second one under [[labels]] "
            "that covers the same ground would be compared."
        )
    parts = []
    for pair, agreed in found.items():
        unsaid = crosswalks[pair[0]].unsaid, crosswalks[pair[1]].unsaid
        parts.append(agreement_table(agreed, pair, unsaid))
    return "\n\n".join(parts)
