"""`RunContext`: where and how a run is computed, without influence on what is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from hydrakit.compute.signals import CHECKPOINT_SECONDS
from hydrakit.data.declared.adapter import plugins_at
from hydrakit.errors import PlanError, one_line, unknown
from hydrakit.schema import Frozen, Name, Precision, Text, first_fault
from hydrakit.storage.files import write_atomic
from hydrakit.storage.paths import absolute_store, check_utf8, default_data, root_of, using_cache
from hydrakit.storage.records import FORMAT, read_value
from hydrakit.version import version

if TYPE_CHECKING:
    from hydrakit.compute.devices import Compute
    from hydrakit.plugins.registry import Plugins


class RunContext(Frozen):
    """Where and how to compute; the plan says what to compute.

    A context can be written to a file and read in another process (`write`, `read_context`).
    Objects of one process (callbacks, plugins that are not installed) are therefore separate
    arguments of the functions that take a context.

    Attributes:
        data: Folder with one folder per dataset; None for ``$HYDRAKIT_DATA``, else ``./data``.
        roots: Folders of datasets that are elsewhere, by name.
        cache: Folder of all caches; None for ``$HYDRAKIT_CACHE``, else ``~/.cache/hydrakit``.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: Precision of training steps; ``auto`` is bfloat16 on CUDA, else float32.
        deterministic: Whether CUDA repeats the same bits from the same seed, which costs speed.
        compiled: Whether training steps use `torch.compile`; None lets a run on a GPU choose, by
            how long it is (`hydrakit.runs.compiling`). The last bits of results depend on it.
        graphs: Whether a GPU replays training steps and evaluations as CUDA graphs. It changes no
            result.
        threads: Number of CPU threads of a run, and of each cell of a comparison. The last bits of
            results depend on it. None for the number that the folder's earlier work began with,
            else torch's default, which a comparison divides among its cells.
        checkpoint_interval: Seconds between two checkpoints within a round; a longer epoch is
            followed by one each time. Infinity writes none between the rounds' ends.
        no_plugins: Names of installed plugins that are not loaded.
        trackers: Names of experiment trackers that receive the metrics of every epoch.
        track_to: Folder or URI of the store of the trackers; None for each tracker's default.
        launcher: Component that runs the jobs of a comparison or a search, or a run that is not to
            run in this process: ``NAME`` or ``NAME:option=value,...``.
        jobs: Number of jobs that run at the same time; None lets the launcher choose.
        trace_test: Whether the test split is evaluated after every epoch, for a figure. The test
            metrics never influence training.
        test: False ends a run before the test split is read; such a run has rounds, but no results.
        round_cache: Folder of rounds that several runs share; see `hydrakit.runs.round_cache`.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    data: Path | None = None
    roots: dict[Name, Path] = Field(default_factory=dict)
    cache: Path | None = None
    device: Text = "auto"
    precision: Precision = "auto"
    deterministic: bool = False
    compiled: bool | None = None
    graphs: bool = True
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    checkpoint_interval: Annotated[float, Field(ge=0, allow_inf_nan=True)] = CHECKPOINT_SECONDS
    no_plugins: tuple[Text, ...] = ()
    trackers: tuple[Name, ...] = ()
    track_to: Text | None = None
    launcher: Text = "local"
    jobs: Annotated[int, Field(gt=0, le=10_000)] | None = None
    trace_test: bool = False
    test: bool = True
    round_cache: Path | None = None

    @model_validator(mode="after")
    def _trace_needs_test(self) -> Self:
        if self.trace_test and not self.test:
            raise ValueError("trace_test evaluates the test split, and test is False: set one only")
        return self

    def root_of(self, name: str) -> Path:
        """Folder of a dataset."""
        return root_of(name, self.data, self.roots)

    def plugins(self) -> Plugins:
        """Installed plugins, and datasets that ``dataset.toml`` files in the data folders declare.

        Raises:
            PluginError: ``no_plugins`` names one that is not installed.
            DataError: A ``dataset.toml`` is invalid.
        """
        return plugins_at(self.data, self.roots, frozenset(self.no_plugins) or None)

    def compute(self) -> Compute:
        """Device, precision and repeatability on this machine.

        Raises:
            PlanError: This machine has no such device.
        """
        from hydrakit.compute.devices import choose_compute

        return choose_compute(
            self.device,
            precision=self.precision,
            deterministic=self.deterministic,
            compiled=bool(self.compiled),
            graphs=self.graphs,
        )

    @contextmanager
    def active(self) -> Iterator[Compute]:
        """Use this context's cache, device, algorithms and threads within a ``with`` block.

        Raises:
            PlanError: As in `compute`.
        """
        from hydrakit.compute.devices import deterministic_algorithms, thread_count

        compute = self.compute()
        with using_cache(self.cache), deterministic_algorithms(compute), thread_count(self.threads):
            yield compute

    def changed(self, /, **values: Any) -> RunContext:
        """Copy of the context with other values.

        Raises:
            PlanError: A name or a value is wrong.
        """
        for name in values:
            if name not in RunContext.model_fields:
                raise PlanError(unknown("value of a run's context", name, RunContext.model_fields))
        changed = {**dict(self), **values}
        roots = changed["roots"].values() if isinstance(changed["roots"], Mapping) else ()
        try:
            for path in (changed["data"], changed["cache"], changed["round_cache"], *roots):
                if isinstance(path, Path):
                    check_utf8(path)
            return RunContext.model_validate(changed)
        except ValidationError as error:
            raise PlanError(first_fault(error)) from None

    def for_search(self, rounds: Path) -> RunContext:
        """Copy of the context for the runs of a search, which share rounds and do not use the test.

        Args:
            rounds: Folder of shared rounds.

        Raises:
            PlanError: ``trace_test`` is set.
        """
        if self.trace_test:
            raise PlanError("a search never reads the test split: remove trace_test")
        return self.changed(test=False, round_cache=rounds.resolve())

    def resolved(self) -> RunContext:
        """Copy with absolute paths, independent of working folder and environment variables."""
        from hydrakit.plugins.registry import disabled_by_environment
        from hydrakit.storage.paths import cache_folder

        return self.changed(
            no_plugins=tuple(sorted({*self.no_plugins} or disabled_by_environment())),
            data=(self.data or default_data()).resolve(),
            roots={name: path.resolve() for name, path in self.roots.items()},
            cache=(self.cache or cache_folder()).resolve(),
            round_cache=self.round_cache and self.round_cache.resolve(),
            track_to=self.track_to and absolute_store(self.track_to),
        )

    def write(self, path: Path) -> None:
        """Write the context, with absolute paths, as JSON.

        Raises:
            OSError: The file cannot be written.
        """
        values = self.resolved().model_dump(mode="json")
        text = json.dumps({"format": FORMAT, "hydrakit": version(), **values}, indent=2)
        write_atomic(path, text.encode())


def read_context(path: Path) -> RunContext:
    """Read a context that `RunContext.write` wrote.

    Raises:
        PlanError: The file cannot be read, is not a context, or a later version wrote it.
    """
    adapter = TypeAdapter(dict[str, Any])
    values = read_value(path, adapter, remedy="give a file that `RunContext.write` wrote")
    if values.pop("format", FORMAT) != FORMAT:  # the first version wrote none
        raise PlanError(f"{path}: its format is not {FORMAT}: give a file of `RunContext.write`")
    values.pop("hydrakit", None)
    try:
        return RunContext().changed(**values)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def context_of(context: RunContext | None, values: dict[str, Any]) -> RunContext:
    """Context of a call with a context, with values by name, or with both.

    Raises:
        PlanError: A name or a value is wrong, or the context is something else.
    """
    if context is not None and not isinstance(context, RunContext):
        raise PlanError(
            f"context: is {one_line(repr(context), 60)}, and a RunContext is expected: give single "
            'values by name, such as `device="cpu"`'
        )
    return (context or RunContext()).changed(**values)
