"""Preparation of a dataset: patches of all cases, stored in a cache for later runs."""
