"""From a region manifest to shards. `open_chip` and `open_cell` give users their pixels as xarray."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Users' functions, imported when asked for: importing `pipeline` itself stays free of raster libraries."""
    if name in ("open_chip", "open_cell"):
        from pipeline import show

        return getattr(show, name)
    raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
