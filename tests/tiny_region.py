"""The region of the tiny sample world, written out as a manifest: the demo's, with smaller places and chips."""

from __future__ import annotations

import json
import re
from pathlib import Path

import shapely
from conftest import ROOT

from pipeline.sandbox.places import PLACES, SIZES
from pipeline.sandbox.truth import place_outline


def write_region(folder: Path) -> Path:
    """`tiny-world.toml` with its own sources (`api = "sandbox:tiny"`) and the places beside it; the manifest's path."""
    demo = (ROOT / "manifests/regions/demo.toml").read_text()
    text = demo.replace('name = "demo"', 'name = "tiny-world"\nsize_px = 60').replace("demo-places", "tiny-places")
    text = text.replace("sandbox://demo/", "sandbox://tiny/").replace("block_km = 6", "block_km = 1.2")
    sources = (ROOT / "manifests/sources.toml").read_text()
    own = re.findall(r"^\[sandbox-.*?(?=^\[|\Z)", sources, re.S | re.M)
    text += "\n" + "".join(own).replace("[sandbox-", "[sources.sandbox-").replace('"sandbox"', '"sandbox:tiny"')
    folder.mkdir(parents=True, exist_ok=True)
    features = [
        {
            "type": "Feature",
            "properties": {},
            "geometry": json.loads(shapely.to_geojson(place_outline(place, SIZES["tiny"]))),
        }
        for place in PLACES
    ]
    (folder / "tiny-places.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    path = folder / "tiny-world.toml"
    path.write_text(text)
    return path
