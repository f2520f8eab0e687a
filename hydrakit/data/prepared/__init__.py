"""Preparing a dataset: normalised patches in a cache that is read again."""
