"""Errors in plugin code become one line that names the plugin.

The registry hands out components with guarded functions: an exception that is no `HydrakitError`,
and a result of the wrong type or shape, becomes a `PluginFault`. The callers of these functions
need not know which plugin they come from. What such a function prints goes to standard error, and
what it changes in the whole process is put back (`hydrakit.plugins.process_state`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrakit.compute.streams import printing_for
from hydrakit.errors import HydrakitError, PlanError, PluginError, one_line, printable
from hydrakit.hooks import (
    Body,
    BodyFactory,
    DatasetAdapter,
    HeadFactory,
    Launcher,
    LauncherFactory,
    Remark,
    Sample,
    SequenceStrategy,
    Settings,
    Tracker,
    TrackerFactory,
    Unusable,
)
from hydrakit.plugins.process_state import restored
from hydrakit.sources import IndexedSeries, PublicCollection
from hydrakit.storage.paths import cache_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hydrakit.rounds import Round

MAX_MESSAGE = 200  # characters of an exception's message
LOG = "log.txt"
LOG_BYTES = 2**20  # a larger log in the cache is overwritten
DEBUG = "HYDRAKIT_DEBUG"


class PluginFault(PluginError):
    """A plugin function raised an exception (the ``__cause__``) or returned an invalid result.

    Attributes:
        log: Log file that already has the traceback, if any.
        cache: Cache folder at the time of the error; None if it is unknown.
    """

    log: Path | None = None
    cache: Path | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        with suppress(PlanError):
            self.cache = cache_folder()


@dataclass(frozen=True)
class PluginSource:
    """The plugin that a function belongs to.

    Attributes:
        module: Module that its entry point names.
        distribution: Installed distribution with the entry point.
        version: Version of the distribution.
    """

    module: str
    distribution: str
    version: str

    @property
    def release(self) -> str:
        """Distribution and version, such as ``hydrakit-skin 1.2``."""
        return f"{self.distribution} {self.version}"

    def __str__(self) -> str:
        """The plugin, as messages name it."""
        return f"plugin {self.module} ({self.release})"

    def fault(self, message: str) -> PluginFault:
        """Return the error for this plugin, with its name before the message."""
        return PluginFault(f"{self}: {message}")

    @contextmanager
    def blame(self, function: str) -> Iterator[None]:
        """Run plugin code in a ``with`` block: name the plugin in whatever it does wrong.

        An exception becomes a `PluginFault`, also that of ``sys.exit``. A `HydrakitError` passes,
        since it already explains itself, and so do a MemoryError and an interrupt, which are not
        the plugin's fault.

        Args:
            function: Name of the function for messages, such as ``read of dataset 'skin'``.

        Raises:
            PluginFault: The block raised any other exception.
        """
        try:
            with self.running(function):
                yield
        except (HydrakitError, MemoryError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise self.fault_of(error, function) from error

    def fault_of(self, error: BaseException, function: str) -> PluginFault:
        """The error of this plugin for an exception of one of its functions; open logs have it."""
        fault = self.fault(f"{function} raised {describe_error(error)}")
        fault.log = _write_to_open_logs(fault, error)
        return fault

    @contextmanager
    def running(self, function: str) -> Iterator[None]:
        """Print output of plugin code to standard error, and restore the process after it."""
        token = printing_for.set(str(self))
        try:
            with restored(partial(self._report_changes, function)):
                yield
        finally:
            printing_for.reset(token)

    def _report_changes(self, function: str, changed: Sequence[str]) -> None:
        """Say once what a function changed in the process."""
        message = (
            f"{self}: {function} changed {', '.join(changed)}, for the whole process: put back"
        )
        if message not in _reported:
            _reported.add(message)
            _write_to_open_logs(message)
            processes: Any = sys.modules.get("multiprocessing")
            if processes is None or processes.parent_process() is None:  # which has said it
                print(f"hydrakit: {message}", file=sys.stderr)


_reported: set[str] = set()


def describe_error(error: BaseException) -> str:
    """The type of an exception and the first line of its message, shortened."""
    lines = str(error).splitlines()
    message = one_line(lines[0], MAX_MESSAGE) if lines else ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _write_to_open_logs(message: object, error: BaseException | None = None) -> Path | None:
    """Write a message, and a traceback, to all open log files; return the last of them, if any.

    The logger itself is not used: without a handler it prints to the terminal, which gets one line
    only.
    """
    import logging  # here: `hydrakit --help` imports this module

    logger = logging.getLogger("hydrakit")
    info = None if error is None else (type(error), error, error.__traceback__)
    level = logging.ERROR if error else logging.WARNING
    record = logger.makeRecord(logger.name, level, __file__, 0, str(message), (), info)
    log = None
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
            log = Path(handler.baseFilename)
    return log


def traceback_location(fault: PluginFault) -> str:
    """Return the note that says where the traceback is; write it to the cache's log if needed."""
    if fault.__cause__ is None:
        return ""
    if fault.log is not None:
        return f" (traceback: {fault.log})"
    if fault.cache is None:
        return f" (traceback: set {DEBUG}=1)"
    import os
    import traceback

    from hydrakit.storage.files import open_in_place

    path = fault.cache / LOG
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.is_file() or path.stat().st_size > LOG_BYTES
        descriptor = open_in_place(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as file:
            if new:
                file.truncate(0)
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            lines = [
                f"{now} {fault}",
                *"".join(traceback.format_exception(fault.__cause__)).split("\n"),
            ]
            file.write("".join(f"{printable(line)}\n" for line in lines))
    except (OSError, PlanError):  # PlanError: a link
        return f" (traceback: set {DEBUG}=1)"
    return f" (traceback: {path})"


MARK = "_hydrakit_plugin"
"""Attribute of a module that plugin code built: its plugin, and its name for messages."""


def plugin_of(module: object) -> PluginSource | None:
    """The plugin that built a body or a head; None if hydrakit or a program built it."""
    mark: tuple[PluginSource, str] | None = getattr(module, MARK, None)
    return None if mark is None else mark[0]


_sources: dict[str, PluginSource] = {}
"""Plugins with components, by their top-level package."""


@contextmanager
def blame_networks() -> Iterator[None]:
    """Name the plugin in an exception of a network that it built, in a ``with`` block.

    The methods of a network are called from many places, and `torch.compile` reads them. They are
    therefore not wrapped: the traceback tells whose they are.

    Raises:
        PluginFault: A network or other code of a plugin raised an exception.
    """
    try:
        yield
    except (HydrakitError, MemoryError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        origin = _origin(error)
        if origin is None:
            raise
        source, function = origin
        raise source.fault_of(error, function) from error


def _origin(error: BaseException) -> tuple[PluginSource, str] | None:
    """The plugin and the function in which an exception was raised; None for hydrakit's own."""
    origin: tuple[PluginSource, str] | None = None
    frame, trace = None, error.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        mark = getattr(frame.f_locals.get("self"), "__dict__", {}).get(MARK)
        if mark is not None:
            called = frame.f_code.co_name
            function = "forward" if called.endswith("_call_impl") else called
            origin = mark[0], f"{function} of {mark[1]}"
    if origin is None and frame is not None and not isinstance(error, SystemExit):
        # For example the backward pass of a plugin's function; an exit can be that of a command.
        source = _sources.get(frame.f_globals.get("__name__", "").partition(".")[0])
        if source is not None:
            origin = source, f"function {frame.f_code.co_name}"
    return origin


def unguarded(component: Any) -> Any:
    """Return the component with its own function, if `guard` has guarded it."""
    for kind, (attribute, _) in _GUARDS.items():
        function = getattr(component, attribute, None) if isinstance(component, kind) else None
        given = function.args if isinstance(function, partial) else ()
        if any(isinstance(each, PluginSource) for each in given):
            return given[-1]
    return component


def remember_package(source: PluginSource) -> None:
    """Name a plugin in exceptions that come from its package, such as those of a backward pass."""
    package = source.module.partition(":")[0].partition(".")[0]
    if package != "hydrakit":  # an exception there is a bug of hydrakit
        _sources[package] = source


def guard(component: Any, source: PluginSource) -> Any:
    """Return the component with its function guarded; a command is guarded by the program."""
    for kind, (attribute, guarded) in _GUARDS.items():
        if issubclass(type(component), kind):
            return replace(component, **{attribute: partial(guarded, source, component)})
    return component


_END: Any = object()


def _read(
    source: PluginSource, adapter: DatasetAdapter, root: Path, options: Any
) -> Iterator[Sample | Unusable | Remark]:
    """Yield the cases of a dataset, with their images guarded too."""
    function = f"read of dataset {adapter.name!r}"
    with source.blame(function):
        cases = iter(adapter.read(root, options))
    try:
        while True:
            with source.blame(function):
                case: Any = next(cases, _END)
            if case is _END:
                return
            if not isinstance(case, Sample | Unusable | Remark):
                raise source.fault(
                    f"{function} yielded a {type(case).__name__}: a Sample or an Unusable is "
                    "expected"
                )
            if isinstance(case, Sample) and callable(case.image):
                case = replace(case, image=partial(_image, source, adapter, case.key, case.image))
            yield case
    finally:
        close = getattr(cases, "close", None)  # generators have it
        if close is not None:
            with source.blame(function):
                close()


def reader(adapter: DatasetAdapter) -> str:
    """Text such as ``; read by plugin skin (hydrakit-skin 1.0)``; empty without a plugin."""
    source = _plugin(adapter)
    return "" if source is None else f"; read by {source}"


def _plugin(adapter: DatasetAdapter) -> PluginSource | None:
    source = adapter.read.args[0] if isinstance(adapter.read, partial) else None
    return source if isinstance(source, PluginSource) else None


def needed_series(
    adapter: DatasetAdapter, series: Iterable[IndexedSeries], options: object
) -> list[IndexedSeries]:
    """The series of its public collection that an adapter needs.

    Raises:
        PluginFault: Its function raised an exception.
    """
    assert isinstance(adapter.source, PublicCollection)
    needed, plugin = adapter.source.needed, _plugin(adapter)
    function = f"needed of the source of dataset {adapter.name!r}"
    with nullcontext() if plugin is None else plugin.blame(function):
        return [each for each in series if needed(each, options)]


def _image(
    source: PluginSource, adapter: DatasetAdapter, key: str, image: Callable[[], Any]
) -> Any:
    with source.blame(f"the image of case {key!r} of dataset {adapter.name!r}"):
        return image()


def _build_head(
    source: PluginSource, factory: HeadFactory, features: int, outputs: int, options: Any
) -> nn.Module:
    """Build a head, and check its logits for the features of 2 cases."""
    import torch

    name = f"head {factory.name!r}"
    head: nn.Module = _build_module(
        source, name, partial(factory.build, features, outputs, options)
    )
    with _checked_once(factory, head, features, outputs, options) as check:
        if check:
            inputs = torch.zeros(2, features)
            _check_shape(source, name, head, inputs, width=outputs, result="logits")
    return head


def _build_body(
    source: PluginSource,
    factory: BodyFactory,
    in_channels: int,
    options: Any,
    datasets: Sequence[str],
) -> Body:
    """Build a body, and check its attributes and its features for 2 images."""
    import torch

    name = f"body {factory.name!r}"
    body = _build_module(source, name, partial(factory.build, in_channels, options, datasets))
    for attribute in ("features", "in_channels", "patch", "by_dataset", "use"):
        if not hasattr(body, attribute):
            raise source.fault(f"{name} has no attribute {attribute!r}: see hydrakit.hooks.Body")
    for attribute, expected in (("in_channels", in_channels), ("patch", options.patch)):
        value = getattr(body, attribute)
        if value != expected:
            raise source.fault(f"{name} has {attribute} {value!r}: {expected} is expected")
    with _checked_once(factory, body, in_channels, body.features, options, *datasets) as check:
        if check:
            images = torch.zeros(2, in_channels, body.patch, body.patch)
            _check_shape(source, name, body, images, width=body.features, result="features")
    built: Body = body
    return built


def _build_module(source: PluginSource, name: str, build: Callable[[], object]) -> Any:
    import torch

    with source.blame(f"build of {name}"):
        module = build()
    if not isinstance(module, torch.nn.Module):
        raise source.fault(
            f"build of {name} returned a {type(module).__name__}: a torch.nn.Module is expected"
        )
    if not source.module.startswith("hydrakit."):
        vars(module)[MARK] = source, name
    return module


_passed: dict[int, tuple[object, set[str]]] = {}
"""Modules whose outputs were checked, by the id of their factory; the factory stays referenced."""


@contextmanager
def _checked_once(
    factory: BodyFactory | HeadFactory, module: Any, *given: object
) -> Iterator[bool]:
    """Whether the ``with`` block must check a module: none like it has passed the block yet.

    Modules are alike if their factory was given the same, and their tensors have the same shapes. A
    check takes as long as a training step, and a run builds its body for every random start.
    """
    tensors = [(name, tuple(each.shape)) for name, each in module.state_dict().items()]
    key = repr((given, tensors))
    passed = _passed.setdefault(id(factory), (factory, set()))[1]
    yield key not in passed
    passed.add(key)


def _check_shape(
    source: PluginSource, name: str, module: Any, inputs: Tensor, *, width: int, result: str
) -> None:
    """Raise PluginFault if the output for 2 inputs has not the shape ``(2, width)``."""
    import torch

    from hydrakit.compute.modules import output_of

    with source.blame(f"{name}, given 2 inputs of shape {tuple(inputs.shape[1:])},"):
        output: object = output_of(module, inputs)
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != (2, width):
        raise source.fault(
            f"{name} returned {shape} for 2 inputs: {result} of shape {(2, width)} are expected"
        )


def _plan(
    source: PluginSource, strategy: SequenceStrategy, datasets: Sequence[str], settings: Settings
) -> list[Round]:
    """Return the rounds of a strategy, and check that they train only the given datasets."""
    from hydrakit.rounds import Round

    function = f"plan of strategy {strategy.name!r}"
    with source.blame(function):
        rounds = list(strategy.plan(datasets, settings))
    if not rounds:
        raise source.fault(f"{function} returned no rounds")
    for each in rounds:
        if not isinstance(each, Round):
            raise source.fault(f"{function} returned a {type(each).__name__}: a Round is expected")
        for name in each.datasets:
            if name not in datasets:
                raise source.fault(
                    f"{function} returned a round of {name!r}, which is not among its datasets"
                )
    return rounds


class _GuardedObject:
    """An object of a plugin with all its methods guarded."""

    def __init__(self, source: PluginSource, name: str, target: object) -> None:
        self._source, self._name, self._target = source, name, target

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._target, attribute)
        return partial(self._call, attribute, value) if callable(value) else value

    def _call(self, attribute: str, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        with self._source.blame(f"{attribute} of {self._name}"):
            return method(*given, **named)


def _build_object(
    protocol: type, source: PluginSource, factory: LauncherFactory | TrackerFactory, options: Any
) -> Any:
    """Build an object, check that it has the methods of a protocol, and guard them."""
    name = f"{protocol.__name__.lower()} {factory.name!r}"
    with source.blame(f"build of {name}"):
        built = factory.build(options)
    if not isinstance(built, protocol):
        raise source.fault(
            f"build of {name} returned a {type(built).__name__}: the methods of "
            f"hydrakit.hooks.{protocol.__name__} are expected"
        )
    return _GuardedObject(source, name, built)


# For each class of components: the attribute with the function, and the function that guards it.
_GUARDS: Mapping[type, tuple[str, Callable[..., Any]]] = {
    DatasetAdapter: ("read", _read),
    HeadFactory: ("build", _build_head),
    BodyFactory: ("build", _build_body),
    SequenceStrategy: ("plan", _plan),
    LauncherFactory: ("build", partial(_build_object, Launcher)),
    TrackerFactory: ("build", partial(_build_object, Tracker)),
}
