"""The plugin `polish` of hydrakit."""

from hydrakit_polish.strategy import hydrakit_sequence_strategies

__all__ = [
    "HYDRAKIT_API",
    "hydrakit_sequence_strategies",
]

HYDRAKIT_API = 1  # the version of the hooks that this plugin was written for
