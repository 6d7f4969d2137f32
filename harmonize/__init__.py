"""Meaning: vocabulary, crosswalks, label sets, captions, splits, queries. Plain Python; opens no file and no raster
(`python -m harmonize` alone reads the crosswalks that it prints)."""
