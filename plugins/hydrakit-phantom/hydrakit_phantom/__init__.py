"""Synthetic data in the real formats: the command ``hydrakit phantom``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hydrakit.hooks import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def hydrakit_commands() -> Iterator[click.Command]:
    """The command that writes the phantom."""
    from hydrakit_phantom.command import phantom

    yield phantom
