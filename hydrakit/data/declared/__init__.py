"""Datasets without code: a folder of images with a `dataset.toml`."""
