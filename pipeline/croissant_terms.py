"""Names that Croissant 1.1 and its extensions fix: the JSON-LD context, data types, splits, bands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

CONFORMS_TO = [
    "http://mlcommons.org/croissant/1.1",
    "http://mlcommons.org/croissant/geo/1.0",
    "http://mlcommons.org/croissant/RAI/1.0",
]
_OWN = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty",
    "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
    "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
    "subField", "transform",
)  # fmt: skip
"""Terms of Croissant that are written without their prefix."""
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "geocr": "http://mlcommons.org/croissant/geo/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _OWN},
}
DATA_TYPES = {
    "string": "sc:Text",
    "timestamp[us, tz=UTC]": "sc:DateTime",
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "double": "cr:Float64",
    "uint16": "cr:UInt16",
    "float16": "cr:Float16",
}
"""Type of Arrow or numpy -> its name."""
SPLIT_TERMS = {"train": "cr:TrainingSplit", "val": "cr:ValidationSplit", "test": "cr:TestSplit"}

S2_NM = {
    "B01": (443, 27), "B02": (490, 98), "B03": (560, 45), "B04": (665, 38), "B05": (704, 19), "B06": (740, 18),
    "B07": (783, 28), "B08": (842, 145), "B8A": (865, 33), "B09": (945, 26), "B11": (1610, 143), "B12": (2190, 242),
}  # fmt: skip
"""Centre and width (FWHM) in nm, nominal for both satellites, as the Planetary Computer's STAC collection has them."""


def spectral_bands(bands: Iterable[str]) -> list[dict[str, Any]]:
    """GeoCroissant's description of Sentinel-2 bands."""
    return [
        {
            "@type": "geocr:SpectralBand",
            "name": band,
            "geocr:centerWavelength": quantity(S2_NM[band][0], "nm"),
            "geocr:bandwidth": quantity(S2_NM[band][1], "nm"),
        }
        for band in bands
    ]


def quantity(value: float, unit: str) -> dict[str, Any]:
    return {"@type": "sc:QuantitativeValue", "value": value, "unitText": unit}
