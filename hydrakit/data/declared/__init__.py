"""Datasets declared without code: a folder of images with a ``dataset.toml``."""
