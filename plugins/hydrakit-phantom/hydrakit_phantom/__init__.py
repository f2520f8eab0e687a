"""Command ``hydrakit phantom``, which writes synthetic data in the real formats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hydrakit.hooks import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def hydrakit_commands() -> Iterator[click.Command]:
    """Return the command that writes the phantom."""
    from hydrakit_phantom.command import phantom

    yield phantom
