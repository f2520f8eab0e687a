"""CUDA graphs: work that is recorded once and then started as a whole.

A training step of the paper's network starts some 270 kernels, and Python takes longer to start
them than the GPU to run them. A graph starts all of them in one call. The kernels are the same, and
so are their random numbers: torch's default generator of the GPU continues through a replay as it
does through single kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from hydrakit.errors import PlanError

WARM_UP = 3  # calls before a function is recorded: libraries and the optimiser set up their memory

_allowed = ContextVar("graphs_allowed", default=True)


@contextmanager
def without_graphs() -> Iterator[None]:
    """Call functions themselves within a ``with`` block, so that hooks of their modules run."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def foreign_layer(module: nn.Module) -> str | None:
    """Class of the first layer that is neither PyTorch's nor hydrakit's; None if there is none.

    A graph repeats what was recorded. A layer of somebody else may decide anew in every call, in
    Python, what it computes; nothing would notice that its decision is not made any more.
    """
    for layer in module.modules():
        if not type(layer).__module__.startswith(("torch.nn.", "hydrakit.models.")):
            return type(layer).__qualname__
    return None


class Replayed:
    """A function of tensors on a GPU, which is recorded as a CUDA graph and then replayed.

    The first calls run as usual and count like any others. The function is recorded for the shapes
    of the first call; calls with other shapes run as usual. It must not synchronise, and must read
    and write other tensors than its arguments at the same place in memory each time.

    Args:
        function: Function to replay; it returns one tensor.
        device: Device of all tensors.
        warm_up: Number of calls before it is recorded.
        on_note: Called with a sentence if the function cannot be recorded.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        device: torch.device,
        *,
        warm_up: int = WARM_UP,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._function = function
        self._device = device
        self._warm_up = warm_up
        self._on_note = on_note
        self._shapes: list[torch.Size] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output = torch.empty(0)
        self._stream = torch.cuda.Stream(device)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Result of the function, in memory of its own."""
        shapes = [each.shape for each in inputs]
        if self._shapes is None:
            self._shapes = shapes
        if self._warm_up < 0 or shapes != self._shapes or not _allowed.get():
            return self._call(*inputs)
        if self._warm_up > 0:
            return self._warm(*inputs)
        if self._graph is None:
            self._record(inputs)
            assert self._graph is not None
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output.clone()

    def _call(self, *inputs: Tensor) -> Tensor:
        """Call the function on the stream that records it (PyTorch's notes on CUDA graphs)."""
        now = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            output = self._function(*inputs)
        now.wait_stream(self._stream)
        return output

    def _warm(self, *inputs: Tensor) -> Tensor:
        """Call the function before it is recorded; the last time, notice whether it synchronises.

        A recording that fails leaves torch's random generator unusable, so it is not tried then.
        """
        self._warm_up -= 1
        if self._warm_up > 0:
            return self._call(*inputs)
        with noticing_synchronisations() as seen:
            output = self._call(*inputs)
        if seen:
            self._warm_up = -1
            self._on_note(
                "the GPU waits for Python in each step, because a part of the network needs a "
                "number from it: without a CUDA graph, steps are slower"
            )
        return output

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [each.clone() for each in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._output = self._function(*self._inputs)
        except RuntimeError as error:
            cause = error.__context__ or error  # after its cause, the end of a recording fails too
            reason = str(cause).strip().partition("\n")[0]
            raise PlanError(
                f"the network cannot be recorded as a CUDA graph ({reason}): run the same command "
                "again with --no-graphs"
            ) from error
        self._graph = graph


@contextmanager
def noticing_synchronisations() -> Iterator[list[str]]:
    """Collect, within a ``with`` block, warnings that Python waited for the GPU.

    The list is complete after the block.
    """
    seen: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode(before)
    messages = [str(each.message) for each in caught]
    seen += [text for text in messages if "called a synchronizing" in text]
