"""The record sets of croissant.json: splits, classes, the index, the arrays with their bands, the quick looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harmonize.vocabulary import CLASSES, CRISES
from pipeline import tables
from pipeline.contents import Contents
from pipeline.croissant_terms import DATA_TYPES, SPLIT_TERMS, quantity, spectral_bands
from pipeline.sample import DTYPE, GROUPS, SPLITS, UNIT, Group, group_shape

if TYPE_CHECKING:
    import pyarrow as pa


def record_sets(contents: Contents) -> list[dict[str, Any]]:
    """All of them. mlcroissant reads splits, classes, index and quick looks; it has no reader for .npy."""
    return [_splits(contents), _classes(), _index(), *_arrays(contents), *_quicklooks(contents)]


def _record_set(name: str, description: str, fields: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    about = {"@type": "cr:RecordSet", "@id": name, "name": name, "description": description}
    return {**about, **more, "field": fields}


def _field(name: str, kind: str, description: str, **more: Any) -> dict[str, Any]:
    about = {"@type": "cr:Field", "@id": name, "name": name.split("/")[-1], "description": description}
    return {**about, "dataType": kind, **more}


def _splits(contents: Contents) -> dict[str, Any]:
    there = [split for split in SPLITS if any(contents.samples[split, sensor] for sensor in contents.sensors)]
    return _record_set(
        "splits",
        "Splits that have samples.",
        [
            _field("splits/name", "sc:Text", "as in the index"),
            _field("splits/url", "sc:URL", "its meaning"),
            _field("splits/samples", "cr:Int64", "samples in it"),
        ],
        dataType="cr:Split",
        key={"@id": "splits/name"},
        data=[
            {
                "splits/name": split,
                "splits/url": SPLIT_TERMS[split],
                "splits/samples": sum(contents.samples[split, sensor] for sensor in contents.sensors),
            }
            for split in there
        ],
    )


def _classes() -> dict[str, Any]:
    return _record_set(
        "classes",
        "Classes in the order of the bits of label_mask and known_mask.",
        [
            _field("classes/bit", "cr:Int64", "bit of the masks"),
            _field("classes/name", "sc:Text", "as in captions"),
            _field("classes/crisis", "sc:Boolean", "whether events give it, not land cover"),
        ],
        key={"@id": "classes/bit"},
        data=[
            {"classes/bit": k, "classes/name": name, "classes/crisis": name in CRISES} for k, name in enumerate(CLASSES)
        ],
    )


def _index() -> dict[str, Any]:
    """The columns of index.parquet, described as its schema does."""
    return _record_set(
        "index",
        "A record per sample.",
        [_column(field) for field in tables.INDEX],
        key={"@id": "index/chip_id"},
    )


def _column(field: pa.Field) -> dict[str, Any]:
    import pyarrow as pa

    meaning = field.metadata[b"meaning"].decode()
    unit = field.metadata.get(b"unit", b"").decode()
    described = f"{meaning}, in {unit}" if unit and unit != "1" else meaning
    more: dict[str, Any] = {"source": {"fileObject": {"@id": "index.parquet"}, "extract": {"column": field.name}}}
    many = pa.types.is_list(field.type)
    if many:
        more |= {"isArray": True, "arrayShape": "-1"}
    if field.name == "split":
        more["references"] = {"field": {"@id": "splits/name"}}
    if field.name == "cell":
        # A token of the world grid, as those of H3 or geohash are.
        more["equivalentProperty"] = "geocr:spatialIndex"
    kind = DATA_TYPES[str(field.type.value_type if many else field.type)]
    return _field(f"index/{field.name}", kind, described, **more)


def _arrays(contents: Contents) -> list[dict[str, Any]]:
    """A record set per sensor and native resolution, with its bands."""
    return [_array(contents, sensor, group) for sensor in contents.sensors for group in GROUPS[sensor]]


def _array(contents: Contents, sensor: str, group: Group) -> dict[str, Any]:
    name = f"{sensor}-{group.name}"
    bands = {
        "@type": "geocr:BandConfiguration",
        "geocr:totalBands": len(group.bands),
        "geocr:bandNameList": list(group.bands),
    }
    spectrum = {"geocr:spectralBandMetadata": spectral_bands(group.bands)} if sensor == "s2" else {}
    array = _field(
        f"{name}/array",
        DATA_TYPES[DTYPE[sensor]],
        f"{UNIT[sensor]}, bands x rows x columns",
        source={"fileSet": {"@id": f"{name}-files"}, "extract": {"fileProperty": "content"}},
        isArray=True,
        arrayShape=",".join(map(str, group_shape(group, contents.region.size_px))),
        **{"geocr:bandConfiguration": bands, **spectrum},
    )
    text = f"Arrays of the {group.resolution_m} m bands, as .npy: read them with numpy, or by their place in the index."
    return _record_set(
        name, text, [_chip_id(name), array], **{"geocr:spatialResolution": quantity(group.resolution_m, "m")}
    )


def _chip_id(name: str) -> dict[str, Any]:
    """The sample that a member of a tar belongs to: its name up to the first dot."""
    source = {
        "fileSet": {"@id": f"{name}-files"},
        "extract": {"fileProperty": "filename"},
        "transform": {"regex": r"^([^.]+)\."},
    }
    return _field(f"{name}/chip_id", "sc:Text", "the sample", source=source)


def _quicklooks(contents: Contents) -> list[dict[str, Any]]:
    if not contents.region.shards.quicklook:
        return []
    found = []
    for sensor in contents.sensors:
        name = f"{sensor}-quicklooks"
        source = {"fileSet": {"@id": f"{name}-files"}, "extract": {"fileProperty": "content"}}
        image = _field(f"{name}/image", "sc:ImageObject", "RGB with a fixed stretch", source=source)
        found.append(_record_set(name, f"Quick looks of {sensor}.", [_chip_id(name), image]))
    return found
