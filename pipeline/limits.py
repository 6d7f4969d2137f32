"""Known limits of a corpus, said from its manifest and its counts: the card and Croissant have the same sentences."""

from __future__ import annotations

from harmonize.vocabulary import CLASSES, CRISES, LAND_COVER
from pipeline.contents import Contents, Days
from pipeline.evidence import crosswalks_of
from pipeline.region import Region
from pipeline.sample import SPLITS
from pipeline.sandbox import SYNTHETIC

ADDED_UP = (
    ("cems", "hit", "as a package's monitorings show it"),
    ("effis", "burnt", "a fire's area is that of its last update"),
)
"""Sources of events that tell one extent for all days, what happens later, and why."""


def limits(contents: Contents) -> list[str]:
    """A sentence per limit, the most serious first."""
    region, split = contents.region, contents.region.split
    found = [SYNTHETIC] if region.worlds else []
    found += [_map(name, days) for name, days in contents.maps.items()]
    found += _unsaid(region)
    found.append(
        f"A class counts from {region.captions.min_share:g} of a cell's area: what covers less is there and not named."
        if region.captions.min_share
        else "A class counts from the first pixel on: captions name what can hardly be seen."
    )
    found += _unknown(contents)
    found += _missing(contents)
    found += _shaken(region)
    if split.method == "spatial":
        found.append(
            f"Splits are blocks of {split.block_km:g} km: cells on both sides of a block's edge are neighbours and "
            "may be alike."
        )
    else:
        found.append(
            "Splits deal out cells by their labels: test cells may lie beside train cells, which flatters scores."
        )
    found.append(
        f"Places: {contents.distinct['cell']} cells in {contents.distinct['block']} blocks, from "
        f"{contents.first:%Y-%m-%d} to {contents.last:%Y-%m-%d}; nothing is known of other places and years."
    )
    return found


def _shaken(region: Region) -> list[str]:
    """Earthquakes without damage that was seen: what shook is not what fell."""
    return [
        f"{event.id} is ground that shook at intensity {event.mmi:g} or more, not damage that anybody saw."
        for event in region.events
        if event.source == "shakemap" and not event.damage
    ]


def _unsaid(region: Region) -> list[str]:
    """Classes that a label source has no code for, and crises that a land-cover map says."""
    found = []
    for name, crosswalk in crosswalks_of(region).items():
        if mute := [c for c in LAND_COVER if c in crosswalk.unsaid]:
            found.append(f"{name} has no code for {', '.join(mute)}: where it rules, they count as absent.")
        if said := [c for c in CRISES if any(row.class_ == c for row in crosswalk.rows.values())]:
            found.append(f"{name} has codes for {', '.join(said)}: as of its own date, whenever the chip was taken.")
    return found


def _map(name: str, days: Days) -> str:
    if days.first is None or days.last is None or days.gap is None:
        return f"{name} does not say when it was made: how much changed until a chip was taken is unknown."
    shown = f"{days.first}" if days.first == days.last else f"{days.first} to {days.last}"
    median, longest = days.gap
    return (
        f"{name} shows {shown}: to the nearest map of a chip's cell it is {median} days (median), {longest} at most, "
        "and what changed in between is labelled wrongly."
    )


def _unknown(contents: Contents) -> list[str]:
    """Classes that some chips may have without anybody knowing."""
    crises = [f"{name} {contents.unknown[name]}" for name in CRISES if contents.unknown[name]]
    found = []
    if crises:
        found.append(
            f"Crisis classes that are unknown, of {contents.rows} samples: {', '.join(crises)} (near or after an "
            "event, or outside what was analysed)."
        )
    if lacking := contents.unknown[CLASSES[0]]:
        found.append(f"Land cover is unknown for {lacking} samples: no map rules there.")
    if contents.region.events:
        found.append("A crisis class is absent where no event of the manifest says it: other events are not seen.")
        found += _first_days(contents.region)
    else:
        found.append("The manifest names no event: crisis classes are there only where a land-cover map has them.")
    return found


def _first_days(region: Region) -> list[str]:
    """Events whose files add up what was seen on several days."""
    return [
        f"{event.id}: what was first {hit} days later ({seen}) counts from the event's first day on."
        for event in region.events
        for source, hit, seen in ADDED_UP
        if event.source == source
    ]


def _missing(contents: Contents) -> list[str]:
    """Classes that one split has and another one lacks, and splits without samples."""
    found = []
    for split in SPLITS:
        if not any(contents.samples[split, sensor] for sensor in contents.sensors):
            found.append(f"Split {split} is empty.")
            continue
        lacking = [
            name
            for name in CLASSES
            if not contents.classes[name, split] and any(contents.classes[name, other] for other in SPLITS)
        ]
        if lacking:
            found.append(f"Split {split} has no {', '.join(lacking)}.")
    return found
