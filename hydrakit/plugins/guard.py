"""When a function of a plugin fails: which plugin, of which distribution, in one line.

The loader hands out descriptions whose functions are watched. What they raise that is no
`HydrakitError`, and what they give that they must not, becomes a `PluginFault`; so nobody else
needs to know whose function it calls.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrakit.errors import HydrakitError, PluginError, one_line
from hydrakit.hooks import (
    DatasetAdapter,
    HeadFactory,
    OptionValue,
    Sample,
    SequenceStrategy,
    Settings,
    Unusable,
)
from hydrakit.storage.paths import cache_folder

if TYPE_CHECKING:
    from torch import nn

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


def guarded(offer: Any, source: PluginSource) -> Any:
    """A plugin's description whose functions blame the plugin; a command is left as it is."""
    if isinstance(offer, DatasetAdapter):
        return replace(offer, read=partial(_read, source, offer))
    if isinstance(offer, HeadFactory):
        return replace(offer, build=partial(_build, source, offer))
    if isinstance(offer, SequenceStrategy):
        return replace(offer, plan=partial(_plan, source, offer))
    return offer


_END: Any = object()


def _read(
    source: PluginSource, adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue]
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
    """A case that an adapter gave, of the right types, and its image watched too."""
    fault = _type_fault(case)
    if fault is not None:
        raise source.fault(f"read of dataset {adapter.name!r} gave {fault}")
    assert isinstance(case, Sample | Unusable)
    if isinstance(case, Sample) and callable(case.image):
        return replace(case, image=partial(_image, source, adapter, case.key, case.image))
    return case


def _type_fault(case: object) -> str | None:
    """What of a case is of a wrong type, so that the engine could not even look at it; or None."""
    if not isinstance(case, Sample | Unusable):
        return f"a {type(case).__name__}: a Sample or an Unusable is expected"
    texts = (
        ("key", "reason") if isinstance(case, Unusable) else ("key", "patient", "group", "split")
    )
    for name in texts:
        value = getattr(case, name)
        if not isinstance(value, str) and not (value is None and name in ("group", "split")):
            return f"a case whose {name} is a {type(value).__name__}: text is expected"
    if isinstance(case, Unusable):
        return None
    if not isinstance(case.facts, Mapping) or not all(isinstance(n, str) for n in case.facts):
        return f"case {case.key!r} with facts that are no mapping of names to values"
    if not isinstance(case.source, tuple) or not all(isinstance(p, Path) for p in case.source):
        return f"case {case.key!r} with a source that is no tuple of paths"
    for name in ("centre", "spacing"):
        pair = getattr(case, name)
        if pair is not None and not _is_pair(pair):
            return f"case {case.key!r} with a {name} that is no pair of numbers"
    return None


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, Sequence) and len(value) == 2 and all(isinstance(n, Real) for n in value)
    )


def _image(
    source: PluginSource, adapter: DatasetAdapter, key: str, image: Callable[[], Any]
) -> Any:
    with source.blame(f"the image of case {key!r} of dataset {adapter.name!r}"):
        return image()


def _build(
    source: PluginSource, factory: HeadFactory, features: int, classes: int, dropout: float
) -> nn.Module:
    """A new head, once it is known to turn features into as many logits as there are classes."""
    import torch

    from hydrakit.compute.modules import logits_of

    what = f"build of head {factory.name!r}"
    with source.blame(what):
        head = factory.build(features, classes, dropout)
    if not isinstance(head, torch.nn.Module):
        raise source.fault(f"{what} gave a {type(head).__name__}: a torch.nn.Module is expected")
    with source.blame(f"head {factory.name!r}, given {features} features of 2 cases,"):
        logits: object = logits_of(head, torch.zeros(2, features))
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (2, classes):
        raise source.fault(
            f"head {factory.name!r} gave {shape} for 2 cases: logits of shape {(2, classes)} are "
            "expected"
        )
    return head


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
