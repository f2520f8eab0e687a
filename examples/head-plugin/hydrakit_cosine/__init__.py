"""The plugin `cosine` of hydrakit."""

from hydrakit_cosine.head import hydrakit_head_factories

__all__ = [
    "HYDRAKIT_API",
    "hydrakit_head_factories",
]

HYDRAKIT_API = 1  # the version of the hooks that this plugin was written for
