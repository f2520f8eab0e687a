"""ONNX and TorchScript files, which hold a network as a program."""

from __future__ import annotations

import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hydrakit.errors import PlanError, WeightsError, one_line
from hydrakit.export.graph import ExportedNetwork

if TYPE_CHECKING:
    from torch import Tensor

Images = NDArray[np.float32]
Runner = Callable[[Images], Images]

METADATA_KEY = "hydrakit"
SCRIPT_KEY = "hydrakit.json"
INPUT = "images"
EXAMPLES = 2  # images by which the network is recorded; any other number can be computed
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def output_name(network: ExportedNetwork) -> str:
    """Name of the output: ``probabilities``, or ``numbers`` of a regression."""
    return "numbers" if network.task == "regression" else "probabilities"


def check_onnx_installed() -> None:
    """Check that the packages of the extra `onnx` are installed.

    Raises:
        PlanError: One of them is not.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise PlanError(
            f"--to onnx: {', '.join(missing)} is not installed: "
            "`pip install 'hydrakit-imaging[onnx]'`"
        )


def write_onnx(path: Path, network: ExportedNetwork, example: Tensor, description: str) -> Runner:
    """Write an ONNX file with a dynamic batch.

    Args:
        path: New file.
        network: The network.
        example: Any images ``(2, channels, patch, patch)``.
        description: JSON for its metadata.

    Returns:
        What computes the answers of the file, with onnxruntime.

    Raises:
        WeightsError: PyTorch cannot convert the network.
    """
    import onnxruntime

    with _quiet(), _convertible(path, "ONNX"):
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[output_name(network)],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    graphs = [program.model.graph, *program.model.functions.values()]
    for graph in graphs:
        _strip(graph)
    program.model.metadata_props[METADATA_KEY] = description
    program.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Images) -> Images:
        with _convertible(path, "ONNX"):
            found: Images = session.run(None, {INPUT: images})[0]
        return found

    return run


def _strip(graph: object) -> None:
    """Remove where in hydrakit's code a part comes from: the paths would name a machine's user."""
    graph.metadata_props.clear()  # type: ignore[attr-defined]
    for node in graph.all_nodes():  # type: ignore[attr-defined]
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in graph.inputs:  # type: ignore[attr-defined]
        value.metadata_props.clear()


def write_torchscript(
    path: Path, network: ExportedNetwork, example: Tensor, description: str
) -> Runner:
    """Write a TorchScript file, with ``hydrakit.json`` among its extra files.

    Args:
        path: New file.
        network: The network.
        example: Any images ``(2, channels, patch, patch)``.
        description: Content of ``hydrakit.json``.

    Returns:
        What computes the answers of the file, with PyTorch.

    Raises:
        WeightsError: PyTorch cannot convert the network.
    """
    content = io.BytesIO()
    with _quiet(), torch.no_grad(), _convertible(path, "TorchScript"):
        traced = torch.jit.trace(network, (example,), check_trace=False, _store_inputs=False)
        torch.jit.save(traced, content, _extra_files={SCRIPT_KEY: description})
    _write_without_traces(path, content)
    with _quiet():
        loaded = torch.jit.load(str(path), map_location="cpu")  # noqa: TID251 - written just now

    def run(images: Images) -> Images:
        with torch.no_grad(), _convertible(path, "TorchScript"):
            found: Images = loaded(torch.from_numpy(images)).numpy()
        return found

    return run


def _write_without_traces(path: Path, content: io.BytesIO) -> None:
    """Write an archive of TorchScript without the parts that name files of hydrakit's code."""
    with zipfile.ZipFile(content) as full, zipfile.ZipFile(path, "w") as small:
        for entry in full.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                small.writestr(entry, full.read(entry))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what PyTorch says about itself: deprecated parts, and torchvision that is missing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _convertible(path: Path, kind: str) -> Iterator[None]:
    """Turn the failure of a conversion, which may raise anything, into one line."""
    try:
        yield
    except Exception as error:
        why = one_line(f"{type(error).__name__}: {error}", 300)
        raise WeightsError(
            f"{path.name}: PyTorch {torch.__version__} cannot convert this network to {kind} "
            f"({why}): export it to another format"
        ) from error
