"""Running a plan: what it needs is found and checked, then its rounds begin."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydrakit.compute.devices import (
    Compute,
    Precision,
    choose_compute,
    deterministic_algorithms,
    keep_large_blocks,
)
from hydrakit.compute.signals import CHECKPOINT_SECONDS
from hydrakit.data.declared.adapter import plugins_at
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.read import check_root
from hydrakit.errors import HydrakitError
from hydrakit.hooks import DatasetAdapter
from hydrakit.models.build import check_components
from hydrakit.observers.log import logged
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.dry_run import DryRun
from hydrakit.runs.dry_run import dry_run as rehearsed
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.session import Session
from hydrakit.storage.files import NO_ROOM
from hydrakit.storage.paths import root_of


def default_out(plan: Plan) -> Path:
    """Where a plan runs unless told otherwise: the same folder for the same plan."""
    return Path("runs") / f"{plan.strategy}-{plan.target}-{plan.digest()[:8]}"


def run(
    plan: Plan,
    *,
    out: Path | None = None,
    data: Path | None = None,
    roots: Mapping[str, Path] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    deterministic: bool = False,
    compiled: bool = False,
    cache: Path | None = None,
    plugins: Plugins | None = None,
    watcher: RunCallback | None = None,
    test: bool = True,
    trace: bool = False,
    shared: Path | None = None,
    checkpoint_every: float = CHECKPOINT_SECONDS,
) -> RunDir:
    """Run a plan, or what is left of it, and give its folder.

    Args:
        plan: As `make_plan` or `load_plan` gives it.
        out: The run's folder; None for `default_out`. One that holds part of this very plan goes
            on at the first unfinished round, and ends with the same tensors as in one go.
        data: Folder with one folder per dataset; None for `default_data`.
        roots: Folders of datasets that lie elsewhere, by name.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: As for `choose_compute`, like the two below.
        deterministic: The same bits from the same seed on CUDA too, at a cost in speed.
        compiled: Put training steps through `torch.compile`.
        cache: Where prepared data is kept; None for `default_cache`.
        plugins: As loaded; None loads them, and the datasets declared at ``data`` and ``roots``.
        watcher: Told how it goes.
        test: False stops before the test split is read: the rounds are there, the results are not.
        trace: Look at the test split after every epoch too, for a figure; nothing is chosen by it.
        shared: Folder of rounds that several runs share (`hydrakit.runs.round_cache`). A round that
            there is copied in place of training it; one that is not is added.
        checkpoint_every: Seconds between two writings of a round's progress; longer epochs have
            one each.

    Raises:
        HydrakitError: There is no room to write.
        PluginError: The plan names something that no plugin offers.
        PlanError: The plan, the device or the folder is impossible.
        DataError: A dataset cannot be used.
    """
    compute = choose_compute(
        device, precision=precision, deterministic=deterministic, compiled=compiled
    )
    out = out or default_out(plan)
    ready = _Ready(plan, out, data, roots or {}, plugins or plugins_at(data, roots or {}))
    with deterministic_algorithms(compute):
        session = ready.session(
            compute,
            watcher or RunCallback(),
            cache=cache,
            test=test,
            trace=trace,
            shared=shared,
            every=checkpoint_every,
        )
        RunDir.begin(out, plan)
        with session.rundir.locked(), _telling_of_ends(session.rundir), logged(session):
            session.run(ready.places)
    return session.rundir


def dry_run(
    plan: Plan,
    *,
    out: Path | None = None,
    data: Path | None = None,
    roots: Mapping[str, Path] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    deterministic: bool = False,
    compiled: bool = False,
    cache: Path | None = None,
    plugins: Plugins | None = None,
    watcher: RunCallback | None = None,
    trace: bool = False,
) -> DryRun:
    """Check all that a run needs, and measure what it would cost; its folder is not made.

    Data that is not prepared yet is prepared and stays in the cache.

    Args:
        plan: As for `run`, like all that follow.
        out: The run's folder.
        data: Folder with one folder per dataset.
        roots: Folders of datasets that lie elsewhere, by name.
        device: Where to compute.
        precision: Of training steps.
        deterministic: The same bits on CUDA too.
        compiled: Put training steps through `torch.compile`.
        cache: Where prepared data is kept.
        plugins: As loaded.
        watcher: Told how the data is prepared.
        trace: Whether the run would look at the test split after every epoch.

    Raises:
        HydrakitError: As for `run`; or memory or disk would not do.
    """
    compute = choose_compute(
        device, precision=precision, deterministic=deterministic, compiled=compiled
    )
    out = out or default_out(plan)
    ready = _Ready(plan, out, data, roots or {}, plugins or plugins_at(data, roots or {}))
    with deterministic_algorithms(compute):
        return rehearsed(ready.session(compute, watcher or RunCallback(), cache=cache, trace=trace))


class _Ready:
    """What can be checked of a run before data is read: its plugins, its folder, its data's.

    Attributes:
        places: The datasets' folders.
    """

    def __init__(
        self, plan: Plan, out: Path, data: Path | None, roots: Mapping[str, Path], plugins: Plugins
    ) -> None:
        """As the arguments of `run`."""
        self.plan, self.plugins, self.rundir = plan, plugins, RunDir.check(out, plan)
        self.adapters = {
            each.name: plugins.get(DatasetAdapter, each.name) for each in plan.datasets
        }
        check_components(plan, self.adapters, plugins)
        self.places = {name: root_of(name, data, roots) for name in self.adapters}
        for name, adapter in self.adapters.items():
            check_root(adapter, self.places[name])  # all, before the first is read for minutes

    def session(
        self, compute: Compute, watcher: RunCallback, *, cache: Path | None, **more: Any
    ) -> Session:
        """The data prepared, and checked against the plan."""
        if compute.device.type == "cpu":
            keep_large_blocks()
        prepared = _prepare(self.plan, self.adapters, self.places, cache=cache, watcher=watcher)
        session = Session(
            self.plan,
            self.adapters,
            prepared,
            compute,
            self.plugins,
            self.rundir,
            watcher,
            cache=cache,
            **more,
        )
        session.check()
        return session


@contextmanager
def _telling_of_ends(rundir: RunDir) -> Iterator[None]:
    """Note down that a run is stopped from outside; tell in one line that a disk is full."""
    try:
        yield
    except KeyboardInterrupt as error:
        with suppress(OSError):  # a full disk does not make another end of it
            rundir.log("stopped", by=type(error).__name__)
        raise
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(rundir.path).free
        raise HydrakitError(
            f"{error.filename or rundir.path}: cannot be written ({error.strerror}; {free:,} "
            "are free): make room there, then the same command goes on: what is done is kept"
        ) from None


def _prepare(
    plan: Plan,
    adapters: Mapping[str, DatasetAdapter],
    places: Mapping[str, Path],
    *,
    cache: Path | None,
    watcher: RunCallback,
) -> dict[str, PreparedDataset]:
    """The prepared patches of a plan's datasets, by name."""
    return {
        dataset.name: prepare(
            adapters[dataset.name],
            places[dataset.name],
            options=dataset.options,
            patch=plan.patch,
            cache=cache,
            on_case=lambda cases, name=dataset.name: watcher.preparing(name, cases),  # type: ignore[misc]
        )
        for dataset in plan.datasets
    }
