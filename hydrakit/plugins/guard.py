"""When a function of a plugin fails: which plugin, of which distribution, in one line.

The registry gives out descriptions with guarded functions. What such a function raises that is no
`HydrakitError`, and a result of the wrong type or shape, becomes a `PluginFault`; so nobody else
needs to know whose function it calls. `hydrakit.plugins.registry` says which guard each kind has.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrakit.errors import HydrakitError, PluginError, one_line
from hydrakit.hooks import (
    Body,
    BodyFactory,
    DatasetAdapter,
    HeadFactory,
    Launcher,
    LauncherFactory,
    Sample,
    SequenceStrategy,
    Settings,
    Tracker,
    TrackerFactory,
    Unusable,
)
from hydrakit.storage.paths import cache_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hydrakit.rounds import Round

MESSAGE = 200  # characters of what was raised that are told
LOG = "log.txt"
LOG_BYTES = 2**20  # of the log in the cache: an older one is then begun anew
DEBUG = "HYDRAKIT_DEBUG"

_log = logging.getLogger("hydrakit")


class PluginFault(PluginError):
    """A function of a plugin raised (its ``__cause__``), or gave what it must not.

    Attributes:
        log: The file of a run that has the traceback already; None where there is none.
        cache: The cache folder that was in use.
    """

    log: Path | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.cache = cache_folder()


@dataclass(frozen=True)
class PluginSource:
    """Whose a function is.

    Attributes:
        module: What the entry point names.
        distribution: The installed distribution that has the entry point.
        version: Of the distribution.
    """

    module: str
    distribution: str
    version: str

    def fault(self, what: str) -> PluginFault:
        """The error for what this plugin did, in words."""
        return PluginFault(f"plugin {self.module} ({self.distribution} {self.version}): {what}")

    @contextmanager
    def blame(self, what: str) -> Iterator[None]:
        """Turn what a block raises into a `PluginFault`, unless it is told well enough already.

        Raises:
            PluginFault: The block raised an error that is no `HydrakitError`. That memory ran out
                is not the plugin's fault; an interrupt or an exit is no error.
        """
        try:
            yield
        except (HydrakitError, MemoryError):
            raise
        except Exception as error:
            fault = self.fault(f"{what} raised {describe_error(error)}")
            fault.log = _logged(fault, error)
            raise fault from error


def describe_error(error: BaseException) -> str:
    """The type of an error and the first line of its message, shortened."""
    lines = str(error).splitlines()
    told = one_line(lines[0], MESSAGE) if lines else ""
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _logged(fault: PluginFault, error: Exception) -> Path | None:
    """Write a traceback into the log files that are open; the last one, or None without any.

    Not through the logger itself: what has no handler goes to the terminal, and there one line is
    enough.
    """
    told = (type(error), error, error.__traceback__)
    record = _log.makeRecord(_log.name, logging.ERROR, __file__, 0, str(fault), (), told)
    log = None
    for handler in _log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
            log = Path(handler.baseFilename)
    return log


def traceback_location(fault: PluginFault) -> str:
    """Keep the traceback of a fault, if it has one, and tell where: a run's log, or the cache's.

    The log in the cache is a regular file, and is begun anew when it has grown.
    """
    if fault.__cause__ is None:
        return ""
    if fault.log is not None:
        return f" (traceback: {fault.log})"
    path = fault.cache / LOG
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.is_file() or path.stat().st_size > LOG_BYTES
        with path.open("w" if new else "a", encoding="utf-8", errors="backslashreplace") as file:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            file.write(f"{now} {fault}\n{''.join(traceback.format_exception(fault.__cause__))}\n")
    except OSError:
        return f" (traceback: set {DEBUG}=1)"
    return f" (traceback: {path})"


_END: Any = object()


def guard_dataset(adapter: DatasetAdapter, source: PluginSource) -> DatasetAdapter:
    """The adapter with a guarded ``read``, whose cases are of the right types."""
    return replace(adapter, read=partial(_read, source, adapter))


def guard_head(factory: HeadFactory, source: PluginSource) -> HeadFactory:
    """The factory with a guarded ``build``, whose heads give a logit for each output."""
    return replace(factory, build=partial(_build_head, source, factory))


def guard_body(factory: BodyFactory, source: PluginSource) -> BodyFactory:
    """The factory with a guarded ``build``, whose bodies are `Body` and give their features."""
    return replace(factory, build=partial(_build_body, source, factory))


def guard_strategy(strategy: SequenceStrategy, source: PluginSource) -> SequenceStrategy:
    """The strategy with a guarded ``plan``, which lists rounds of the given datasets."""
    return replace(strategy, plan=partial(_plan, source, strategy))


def guard_launcher(factory: LauncherFactory, source: PluginSource) -> LauncherFactory:
    """The factory with a guarded ``build``, and launchers whose methods are guarded too."""
    return replace(factory, build=partial(_build_object, source, "launcher", factory, Launcher))


def guard_tracker(factory: TrackerFactory, source: PluginSource) -> TrackerFactory:
    """The factory with a guarded ``build``, and trackers whose methods are guarded too."""
    return replace(factory, build=partial(_build_object, source, "tracker", factory, Tracker))


def _read(
    source: PluginSource, adapter: DatasetAdapter, root: Path, options: Any
) -> Iterator[Sample | Unusable]:
    what = f"read of dataset {adapter.name!r}"
    with source.blame(what):
        cases = iter(adapter.read(root, options))
    try:
        while True:
            with source.blame(what):
                case = next(cases, _END)
            if case is _END:
                return
            yield _checked(source, adapter, case)
    finally:
        close = getattr(cases, "close", None)  # of a generator
        if close is not None:
            close()


def _checked(source: PluginSource, adapter: DatasetAdapter, case: object) -> Sample | Unusable:
    """A case that an adapter gave, with its image guarded too."""
    if not isinstance(case, Sample | Unusable):
        raise source.fault(
            f"read of dataset {adapter.name!r} gave a {type(case).__name__}: a Sample or an "
            "Unusable is expected"
        )
    if isinstance(case, Sample) and callable(case.image):
        return replace(case, image=partial(_image, source, adapter, case.key, case.image))
    return case


def _image(
    source: PluginSource, adapter: DatasetAdapter, key: str, image: Callable[[], Any]
) -> Any:
    with source.blame(f"the image of case {key!r} of dataset {adapter.name!r}"):
        return image()


def _build_head(
    source: PluginSource, factory: HeadFactory, features: int, outputs: int, options: Any
) -> nn.Module:
    """A new head that gives logits ``(2, outputs)`` for the features of 2 cases."""
    import torch

    name = f"head {factory.name!r}"
    head: nn.Module = _module(source, name, partial(factory.build, features, outputs, options))
    _check_shape(source, name, head, torch.zeros(2, features), width=outputs, what="logits")
    return head


def _build_body(
    source: PluginSource,
    factory: BodyFactory,
    in_channels: int,
    options: Any,
    datasets: Sequence[str],
) -> Body:
    """A new body with the attributes of `Body`, and features ``(2, features)`` of 2 images."""
    import torch

    name = f"body {factory.name!r}"
    body = _module(source, name, partial(factory.build, in_channels, options, datasets))
    if not isinstance(body, Body):
        missing = next(each for each in _BODY if not hasattr(body, each))
        raise source.fault(f"{name} has no attribute {missing!r}: see hydrakit.hooks.Body")
    for attribute, built in (("in_channels", in_channels), ("patch", options.patch)):
        if getattr(body, attribute) != built:
            raise source.fault(
                f"{name} has {attribute} {getattr(body, attribute)!r} and was built for {built}"
            )
    images = torch.zeros(2, in_channels, body.patch, body.patch)
    _check_shape(source, name, body, images, width=body.features, what="features")
    return body


_BODY = ("features", "in_channels", "patch", "by_dataset", "use")


def _module(source: PluginSource, name: str, build: Callable[[], object]) -> Any:
    """What a factory builds, if it is a module."""
    import torch

    with source.blame(f"build of {name}"):
        module = build()
    if not isinstance(module, torch.nn.Module):
        raise source.fault(
            f"build of {name} gave a {type(module).__name__}: a torch.nn.Module is expected"
        )
    return module


def _check_shape(
    source: PluginSource, name: str, module: Any, inputs: Tensor, *, width: int, what: str
) -> None:
    """Raise PluginFault where a module does not turn 2 inputs into ``(2, width)`` numbers."""
    import torch

    from hydrakit.compute.modules import output_of

    with source.blame(f"{name}, given 2 inputs of shape {tuple(inputs.shape[1:])},"):
        output: object = output_of(module, inputs)
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != (2, width):
        raise source.fault(
            f"{name} gave {shape} for 2 inputs: {what} of shape {(2, width)} are expected"
        )


class _GuardedObject:
    """An object of a plugin whose methods are guarded."""

    def __init__(self, source: PluginSource, name: str, target: object) -> None:
        self._source, self._name, self._target = source, name, target

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._target, attribute)
        return partial(self._call, attribute, value) if callable(value) else value

    def _call(self, attribute: str, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        with self._source.blame(f"{attribute} of {self._name}"):
            return method(*given, **named)


def _build_object(
    source: PluginSource,
    kind: str,
    factory: LauncherFactory | TrackerFactory,
    protocol: type,
    options: Any,
) -> Any:
    """What a factory builds, if it has the methods of a protocol, with these guarded."""
    name = f"{kind} {factory.name!r}"
    with source.blame(f"build of {name}"):
        built = factory.build(options)
    if not isinstance(built, protocol):
        raise source.fault(
            f"build of {name} gave a {type(built).__name__}: the methods of "
            f"hydrakit.hooks.{protocol.__name__} are expected"
        )
    return _GuardedObject(source, name, built)


def _plan(
    source: PluginSource, strategy: SequenceStrategy, datasets: Sequence[str], settings: Settings
) -> list[Round]:
    from hydrakit.rounds import Round

    what = f"plan of strategy {strategy.name!r}"
    with source.blame(what):
        rounds = list(strategy.plan(datasets, settings))
    if not rounds:
        raise source.fault(f"{what} gave no rounds")
    for each in rounds:
        if not isinstance(each, Round):
            raise source.fault(f"{what} gave a {type(each).__name__}: a Round is expected")
        for name in each.datasets:
            if name not in datasets:
                raise source.fault(f"{what} gave a round of {name!r}, which it was not given")
    return rounds
