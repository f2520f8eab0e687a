"""What a run's folder says about earlier work on the run, compared with how it is continued."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hydrakit.compute import devices
from hydrakit.compute.processors import processors
from hydrakit.data.origin import DataOrigin, refuse_changed
from hydrakit.errors import PlanError, PluginError, one_line
from hydrakit.plan.model import Plan
from hydrakit.plugins.guard import PluginFault
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.version import DISTRIBUTION, version


def refuse_other_data(
    now: Mapping[str, DataOrigin], expected: Mapping[str, DataOrigin], rundir: RunDir
) -> None:
    """Refuse data that is not what a comparison or the run itself began with.

    Args:
        now: The datasets of the run as they are now, by name.
        expected: The datasets of the run's comparison; empty if it is not a cell of one.
        rundir: Folder of the run.

    Raises:
        DataError: A dataset is another.
        PlanError: The folder has rounds, and does not say which data they are from.
    """
    for name, origin in now.items():
        refuse_changed(
            name,
            # Each cell has its own splits.
            expected.get(name, DataOrigin()).model_copy(update={"splits": None}),
            origin,
            since="the comparison began",
            remedy="start a new comparison with another `--out`",
        )
    if not rundir.plan_path.is_file():  # of a search, which compares digests of rounds
        return
    earlier = rundir.origins(splits=True)
    if not earlier and rundir.round_folders():
        raise PlanError(
            f"{rundir.path / 'data.json'}: is missing, so nothing says which data the finished "
            "rounds are from: restore it, or start a new run with another `--out`"
        )
    for name, origin in now.items() if earlier else ():
        refuse_changed(
            name,
            earlier.get(name, DataOrigin(content="none")),
            origin,
            since=f"the run in {rundir.path} began",
            remedy="start a new run with another `--out`",
        )


def with_threads_of_run(context: RunContext, out: Path) -> RunContext:
    """Context with the number of threads that a run began with, unless the user chose one."""
    rundir = RunDir(out)
    began_with = rundir.environment().get("threads") if rundir.plan_path.is_file() else None
    return with_threads(context, began_with)


def with_threads(context: RunContext, began_with: int | None) -> RunContext:
    """Context with the number of threads that earlier work began with.

    It stays as it is if the user chose a number, and if this machine has fewer processors.
    """
    if context.threads is not None or not 0 < (began_with or 0) <= processors():
        return context
    return context.changed(threads=began_with)


def environment_of(
    compute: devices.Compute, plugins: Plugins, roots: Mapping[str, Path]
) -> dict[str, Any]:
    """Machine, versions and data folders, for ``environment.json``."""
    device = compute.device
    name = {"cpu": "CPU", "mps": "Apple GPU"}.get(device.type) or torch.cuda.get_device_name(device)
    return {
        "hydrakit": version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name,
        "precision": compute.precision,
        "deterministic": compute.deterministic,
        "compiled": compute.compiled,
        "threads": torch.get_num_threads(),
        "plugins": {
            each.name: each.source.release for each in plugins.records if not each.disabled
        },
        "roots": {name: str(path) for name, path in roots.items()},
    }


@contextmanager
def naming_plugins_of_run(rundir: RunDir | None, plugins: Plugins) -> Iterator[None]:
    """Say in a PluginError which plugins a run began with, and this process does not have."""
    try:
        yield
    except PluginFault:
        raise
    except PluginError as error:
        environment = {} if rundir is None else rundir.environment()
        had = set((environment.get("plugins") or {}).values())
        gone = sorted(had - {each.source.release for each in plugins.records})
        names = [one_line(each, 100) for each in gone if not each.startswith(f"{DISTRIBUTION} ")]
        if not names:
            raise
        raise PluginError(
            f"{error}; the run began with {' and '.join(names)}, not installed now: install what "
            "it needs, if you trust its source"
        ) from error


def notes_of_other_bits(
    rundir: RunDir, plan: Plan, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what changed in the way of computing, if that changes the last digits of some round.

    Args:
        rundir: Folder of the run.
        plan: Plan of the run.
        before: ``environment.json`` when the run was stopped; empty if it is new.
        now: The same as it is now.
    """
    names = ["device_name", "precision", "deterministic", "compiled", "torch"]
    names += ["threads"] if now["device"] == "cpu" else []
    changes = [
        f"{name.removesuffix('_name')} {now[name]} in place of {before[name]}"
        for name in names
        if before.get(name) not in (None, now[name])
    ]
    rounds = enumerate(plan.rounds, start=1)
    number, round = next((each for each in rounds if not rundir.finished(*each)), (0, None))
    if round is None or not changes:
        return
    if number == 1 and not rundir.state_path(number, round).is_dir():
        return  # nothing was trained yet
    yield (
        f"{rundir.path}: goes on in another way than it began ({'; '.join(changes)}): from round "
        f"{number} on, the last digits differ from those of a run that was not stopped"
    )
