"""Puts back what plugin code changes in the whole process, and says what it was.

A default number type, a number of threads, a working folder or a filter of warnings that a plugin
sets holds for everything that runs after it, and can change results. Random generators are apart
(`SEEDS`): every random number of hydrakit comes from the seed of the plan, so that only checks for
authors of plugins compare them.
"""

from __future__ import annotations

import importlib.util
import locale
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

from hydrakit.compute.signals import SIGNALS

ENVIRONMENT = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
)
"""Environment variables that change how torch computes."""


class _Part(NamedTuple):
    """One part of the state.

    Attributes:
        name: Name for messages.
        module: Module that holds it; without this module it has nothing to read.
        read: Returns the value.
        write: Sets the value again.
    """

    name: str
    module: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _loaded(name: str) -> Any:
    """A module that is imported; the ones that take long are not imported for this."""
    return sys.modules[name]


def _is_loaded(name: str) -> bool:
    """Whether a module is imported completely: another thread may be importing it."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return name in sys.modules and not getattr(spec, "_initializing", False)


def _write_torch_device(device: Any) -> None:
    # Setting the CPU explicitly would slow down every call.
    _loaded("torch").set_default_device(None if device.type == "cpu" else device)


def _read_algorithms() -> tuple[bool, ...]:
    torch = _loaded("torch")
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.mkldnn.enabled,
        cudnn.enabled,
        cudnn.deterministic,
        cudnn.benchmark,
    )


def _write_algorithms(values: tuple[bool, ...]) -> None:
    torch = _loaded("torch")
    cudnn = torch.backends.cudnn
    deterministic, warn_only, torch.backends.mkldnn.enabled, *of_cudnn = values
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    cudnn.enabled, cudnn.deterministic, cudnn.benchmark = of_cudnn


def _flushes_tiny_numbers() -> bool:
    tiny = sys.float_info.min
    return tiny / 2 == 0.0


def _read_pillow() -> tuple[Any, ...]:
    image, file = _loaded("PIL.Image"), _loaded("PIL.ImageFile")
    return image.MAX_IMAGE_PIXELS, file.LOAD_TRUNCATED_IMAGES


def _write_pillow(values: tuple[Any, ...]) -> None:
    image, file = _loaded("PIL.Image"), _loaded("PIL.ImageFile")
    image.MAX_IMAGE_PIXELS, file.LOAD_TRUNCATED_IMAGES = values


def _read_handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in SIGNALS}


def _write_handlers(handlers: dict[int, Any]) -> None:
    if threading.current_thread() is threading.main_thread():  # no other thread can change them
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _read_filters() -> list[Any]:
    """The filters of warnings, without harmless ones: for one message, module or own category.

    Packages add such filters when they are imported, and may keep them.
    """
    return [
        each
        for each in warnings.filters
        if each[0] == "error"
        or (each[1] is None and each[3] is None and each[2].__module__ == "builtins")
    ]


def _write_filters(before: list[Any]) -> None:
    harmless = [each for each in warnings.filters if each not in _read_filters()]
    warnings.filters[:] = [*harmless, *before]  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined] # no public function forgets the cache


def _read_folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a path is not needed
    except OSError:  # it was deleted
        return None


def _write_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _read_root_logger() -> tuple[Any, ...]:
    root = _loaded("logging").root
    return root.level, tuple(root.handlers), root.manager.disable


def _write_root_logger(values: tuple[Any, ...]) -> None:
    logging = _loaded("logging")
    level, handlers, disabled = values
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers
    logging.disable(disabled)


def _read_environment() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ENVIRONMENT}


def _write_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _write_streams(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


def _read_numpy_random() -> Any:
    name, keys, *others = _loaded("numpy.random").get_state()
    return name, keys.tolist(), *others


def _write_torch_random(state: list[int]) -> None:
    torch = _loaded("torch")
    torch.set_rng_state(torch.tensor(state, dtype=torch.uint8))


HANDLERS = "the handlers of signals"

PARTS = (
    _Part(
        "torch's default number type",
        "torch",
        lambda: _loaded("torch").get_default_dtype(),
        lambda dtype: _loaded("torch").set_default_dtype(dtype),
    ),
    _Part(
        "torch's default device",
        "torch",
        lambda: _loaded("torch").get_default_device(),
        _write_torch_device,
    ),
    _Part(
        "torch's number of threads",
        "torch",
        lambda: _loaded("torch").get_num_threads(),
        lambda count: _loaded("torch").set_num_threads(count),
    ),
    _Part(
        "whether torch computes gradients",
        "torch",
        lambda: _loaded("torch").is_grad_enabled(),
        lambda enabled: _loaded("torch").set_grad_enabled(enabled),
    ),
    _Part(
        "the precision of torch's matrix products",
        "torch",
        lambda: _loaded("torch").get_float32_matmul_precision(),
        lambda precision: _loaded("torch").set_float32_matmul_precision(precision),
    ),
    _Part("the choice of torch's algorithms", "torch", _read_algorithms, _write_algorithms),
    _Part(
        "the rounding of tiny numbers to 0",
        "torch",
        _flushes_tiny_numbers,
        lambda flushes: _loaded("torch").set_flush_denormal(flushes),
    ),
    _Part(
        "NumPy's handling of floating-point errors",
        "numpy",
        lambda: _loaded("numpy").geterr(),
        lambda handling: _loaded("numpy").seterr(**handling),
    ),
    _Part("Pillow's limits for images", "PIL.ImageFile", _read_pillow, _write_pillow),
    _Part("the filters of warnings", "warnings", _read_filters, _write_filters),
    _Part(HANDLERS, "signal", _read_handlers, _write_handlers),
    _Part("the working folder", "os", _read_folder, _write_folder),
    _Part(
        "the locale",
        "locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda name: locale.setlocale(locale.LC_ALL, name),
    ),
    _Part("the root logger", "logging", _read_root_logger, _write_root_logger),
    _Part("environment variables of torch and CUDA", "os", _read_environment, _write_environment),
    _Part("standard output", "sys", lambda: (sys.stdout, sys.stderr), _write_streams),
)


SEEDS = (
    _Part(
        "the seed of Python's random numbers",
        "random",
        lambda: _loaded("random").getstate(),
        lambda state: _loaded("random").setstate(state),
    ),
    _Part(
        "the seed of NumPy's random numbers",
        "numpy.random",
        _read_numpy_random,
        lambda state: _loaded("numpy.random").set_state(state),
    ),
    _Part(
        "the seed of torch's random numbers",
        "torch",
        lambda: _loaded("torch").get_rng_state().tolist(),
        _write_torch_random,
    ),
)


class _State:
    """Values of some parts; those of a module that is not loaded are added when it is imported."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.parts = parts
        self.values: dict[str, Any] = {}
        self._waiting = {part.module for part in parts if part.module not in sys.modules}
        self._read(part for part in parts if _is_loaded(part.module))
        if self._waiting:
            sys.meta_path.insert(0, self)

    def _read(self, parts: Iterator[_Part]) -> None:
        self.values.update({part.name: part.read() for part in parts})

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find a module as usual, and read its parts as soon as it is loaded."""
        if name not in self._waiting:
            return None
        self._waiting.remove(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._read(part for part in self.parts if part.module == name)

        with suppress(AttributeError):  # a loader of another kind: nothing is compared
            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def restore(self, *, but: str | None) -> list[str]:
        """Set every part that has changed again, but for one; return their names."""
        # A new list: an import in another thread may be going through the old one.
        sys.meta_path = [each for each in sys.meta_path if each is not self]
        changed = []
        for part in self.parts:
            if part.name == but or part.name not in self.values:
                continue
            if part.read() != self.values[part.name]:
                part.write(self.values[part.name])
                changed.append(part.name)
        return changed


# Reading the state can start the garbage collector, which may close a reader of a plugin: a block
# within this one, in the same thread.
_lock = threading.RLock()
_blocks = 0
_overlap = False
_state: _State | None = None


@contextmanager
def restored(report: Callable[[list[str]], None], *, seeds: bool = False) -> Iterator[None]:
    """Put back what the code of a ``with`` block changes in the process.

    Of blocks that overlap, in one thread or in several, the first reads the state and the last
    restores it, without a report: it is unknown which of them changed something.

    Args:
        report: Called with the names of the parts that were changed, if there are any.
        seeds: Also put back the states of random generators.
    """
    global _blocks, _overlap, _state  # noqa: PLW0603 - the state is that of the process
    but = None
    with _lock:
        _overlap = _blocks > 0
        if not _overlap:
            _state = _State((*PARTS, *SEEDS) if seeds else PARTS)
        _blocks += 1  # last: a signal may have stopped the reading
    try:
        yield
    except KeyboardInterrupt:  # `stoppable` has set the handlers, so that work can be saved
        but = HANDLERS
        raise
    finally:
        changed: list[str] = []
        with _lock:
            _blocks -= 1
            if _blocks == 0 and _state is not None:
                changed, _state = _state.restore(but=but), None
                changed = [] if _overlap else changed
        if changed:
            report(changed)
