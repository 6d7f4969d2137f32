"""Shards -> batches -> CLOSP / GeoCLOSP -> checkpoints, evaluation, search. Imports no raster, STAC or dask library."""
