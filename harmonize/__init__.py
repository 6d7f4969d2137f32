"""Meaning: vocabulary, crosswalks, label sets, captions, splits, queries. Plain Python; opens no file and no raster."""
