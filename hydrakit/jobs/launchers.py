"""The built-in launcher; its imports are delayed until it is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydrakit.hooks import Launcher, LauncherFactory, hookimpl


def build_local(_: Any) -> Launcher:
    """Build the pool of processes on this machine."""
    from hydrakit.jobs.pool import LocalPool

    return LocalPool()


@hookimpl
def hydrakit_launchers() -> Iterator[LauncherFactory]:
    """The launcher `local`."""
    yield LauncherFactory(
        name="local",
        summary="Processes on this machine, which share its CPU threads or GPUs",
        build=build_local,
    )
