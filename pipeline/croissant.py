"""croissant.json: the shards described for machines, as Croissant 1.1 with GeoCroissant 1.0 and RAI fields.

Specifications: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html, …/croissant-geo-spec.html and
…/croissant-rai-spec.html. Plain JSON; the tests have mlcroissant read it.
"""

from __future__ import annotations

from typing import Any

from harmonize.vocabulary import CLASSES
from pipeline.contents import Contents
from pipeline.croissant_records import record_sets
from pipeline.croissant_terms import CONFORMS_TO, CONTEXT, quantity
from pipeline.licences import terms_of
from pipeline.limits import limits
from pipeline.sample import FORMAT_VERSION, GROUPS, SPLITS
from pipeline.sandbox import SYNTHETIC

NPY = "https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"
PARQUET = "application/x-parquet"
"""As mlcroissant names it."""
PAPER = "https://arxiv.org/abs/2507.10403"


def describe(contents: Contents, files: dict[str, tuple[int, str]]) -> dict[str, Any]:
    """The JSON-LD of the shards; `files`: name -> bytes and sha256 of the Parquet files beside the tars.

    `creator` and `datePublished` are left out, though mlcroissant recommends a date: the program knows neither, and a
    harvester would believe whatever stood there. Whoever publishes the corpus adds them.
    """
    region = contents.region
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": region.name,
        "description": _description(contents),
        "version": f"{FORMAT_VERSION}.0.0",
        "isLiveDataset": False,
        "citeAs": f"{region.name}: chips of Sentinel-1 and Sentinel-2 with captions, made with closp after {PAPER}",
        "license": list(dict.fromkeys(terms_of(said).url or said for said in contents.licences.values())),
        "creditText": [text for text in dict.fromkeys(contents.attributions.values()) if text],
        "keywords": ["Sentinel-1", "Sentinel-2", "Earth observation", "image-text retrieval", *_present(contents)],
        "inLanguage": "en",
        **_where_and_when(contents),
        **_responsible(contents),
        "distribution": [*_files(contents, files), *_members(contents)],
        "recordSet": record_sets(contents),
    }


def _description(contents: Contents) -> str:
    text = (
        f"{contents.rows} chips of Sentinel-1 and Sentinel-2 of {contents.region.size_px * 10 / 1000:g} km with labels "
        "and captions, as WebDataset tars. index.parquet says where each array lies, stac.parquet has every chip as a "
        "STAC item."
    )
    return f"{text} {SYNTHETIC}" if contents.region.worlds else text


def _present(contents: Contents) -> list[str]:
    """Classes that any sample has."""
    return [name for name in CLASSES if any(contents.classes[name, split] for split in SPLITS)]


def _where_and_when(contents: Contents) -> dict[str, Any]:
    """A box of each UTM zone: one around all may span oceans, and zones never cross the antimeridian."""
    boxes = [f"{south:.6f} {west:.6f} {north:.6f} {east:.6f}" for west, south, east, north in contents.boxes.values()]
    return {
        "spatialCoverage": [{"@type": "sc:Place", "geo": {"@type": "sc:GeoShape", "box": box}} for box in boxes],
        "temporalCoverage": f"{contents.first:%Y-%m-%d}/{contents.last:%Y-%m-%d}",
        "geocr:coordinateReferenceSystem": crs(contents),
        "geocr:spatialResolution": quantity(10, "m"),
        "geocr:samplingStrategy": _sampling(contents),
        "geocr:spatialBias": _bias(contents),
    }


def crs(contents: Contents) -> str:
    """GeoCroissant has one CRS per dataset: that of all chips, else that of the boxes and of the index's lon and lat.
    The zone of each chip begins the name of its cell, and is its item's proj:code."""
    return f"EPSG:{min(contents.boxes) if len(contents.boxes) == 1 else 4326}"


def _sampling(contents: Contents) -> str:
    region = contents.region
    text = (
        f"{contents.distinct['cell']} whole cells of a fixed grid of {region.size_px * 10} m in the UTM zones. "
        f"Per cell and sensor up to {max(use.per_cell for use in region.imagery)} acquisitions from {region.start} to "
        f"{region.end} with at most {region.max_cloud:.0%} cloud and {region.max_nodata:.0%} nodata, spread over time"
    )
    if region.events:
        text += ", and further ones before and after each event"
    return f"{text}. Splits: {_of_split(contents)}."


def _of_split(contents: Contents) -> str:
    split = contents.region.split
    if split.method == "spatial":
        return f"blocks of {split.block_km:g} km, each wholly in one split"
    return "stratified over cells by their labels; cells of two splits may be neighbours"


def _bias(contents: Contents) -> str:
    return (
        f"Only the places of the manifest: {contents.distinct['block']} blocks in {len(contents.boxes)} UTM zone(s). "
        "Cells of which neither land cover nor a crisis class is known are left out, and so are Sentinel-2 chips of "
        "places under lasting cloud."
    )


def _responsible(contents: Contents) -> dict[str, Any]:
    """RAI fields that can be answered from the manifest and the tables; others are left out."""
    region = contents.region
    used = dict.fromkeys(use.source for use in region.imagery)
    raw = ", ".join(region.source(name).collection or name for name in used)
    maps = ", ".join(dict.fromkeys([*(use.source for use in region.labels), *(event.id for event in region.events)]))
    return {
        "rai:dataCollection": "Drawn by a program." if region.worlds else "Cut out of archives of satellite images.",
        "rai:dataCollectionType": ["Others"] if region.worlds else ["Secondary Data analysis"],
        "rai:dataCollectionRawData": f"Imagery: {raw}. Labels: {maps or 'none'}.",
        "rai:dataCollectionTimeframe": [f"{day:%Y-%m-%d}" for day in (contents.first, contents.last)],
        "rai:dataCollectionMissingData": "S2 pixels without data are 0 in all 10 m bands, those of S1 are NaN.",
        "rai:dataPreprocessingProtocol": [
            "S2: the offset of baselines from 04.00 on is removed; bands stay at their native resolution.",
            "S1: gamma0, linear power to dB after resampling.",
        ],
        "rai:dataAnnotationProtocol": "No person labelled the chips: a class counts from "
        f"{region.captions.min_share:g} of a cell's area on a land-cover map, a crisis class by the share of the "
        "cell that an event's map covers. Captions are written from these by templates.",
        "rai:annotationsPerItem": "0",
        "rai:dataLimitations": limits(contents),
        "rai:dataBiases": [_bias(contents)],
        "rai:personalSensitiveInformation": ["None: pixels of 10 m show no persons."],
    }


def _files(contents: Contents, files: dict[str, tuple[int, str]]) -> list[dict[str, Any]]:
    about = {
        "index.parquet": "A row per sample: where its arrays lie, labels, captions, split, place and time.",
        "stac.parquet": "A row per sample as a STAC item (stac-geoparquet 1.1.0).",
    }
    found = [_file(name, PARQUET, *files[name], about[name]) for name in about if name in files]
    for shard in contents.shards:
        text = f"{shard['nsamples']} samples of {shard['sensor']}, split {shard['split']}."
        found.append(_file(shard["url"], "application/x-tar", shard["bytes"], shard["sha256"], text))
    return found


def _file(name: str, kind: str, size: int, sha256: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": description,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": kind,
        "sha256": sha256,
    }


def _members(contents: Contents) -> list[dict[str, Any]]:
    """Members of the tars, by sensor and kind."""
    sets = []
    for sensor in contents.sensors:
        kinds = [(g.name, f"*.{g.name}.npy", NPY) for g in GROUPS[sensor]] + [
            ("captions", "*.txt", "text/plain"),
            ("records", "*.json", "application/json"),
        ]
        if contents.region.shards.quicklook:
            kinds.append(("quicklooks", "*.jpg", "image/jpeg"))
        inside = [{"@id": shard["url"]} for shard in contents.shards if shard["sensor"] == sensor]
        sets += [_set(f"{sensor}-{kind}", includes, form, inside) for kind, includes, form in kinds]
    return sets


def _set(name: str, includes: str, form: str, inside: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "containedIn": inside,
        "encodingFormat": form,
        "includes": includes,
    }
