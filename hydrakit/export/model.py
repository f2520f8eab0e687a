"""Export of a trained model."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from hydrakit.errors import PlanError
from hydrakit.export import hub
from hydrakit.export.check import TestImages, answers, check
from hydrakit.export.description import ProgramDescription, program_readme
from hydrakit.export.graph import (
    ExportedNetwork,
    left_out_views,
    mirrored_views,
    with_mirrored_views,
)
from hydrakit.export.programs import (
    EXAMPLES,
    INPUT,
    Runner,
    check_onnx_installed,
    output_name,
    write_onnx,
    write_torchscript,
)
from hydrakit.runs.model import Model, find_model, load_networks
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import patiently, write_atomic
from hydrakit.version import version
from hydrakit.weights.folders import head_datasets, is_model_folder

if TYPE_CHECKING:
    from hydrakit.plugins.registry import Plugins

Format = Literal["onnx", "torchscript", "hub"]
README = "README.md"


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes:
        files: Paths of the files.
        notes: What users must know about them, one sentence each.
        address: Address of the repository that the folder was pushed to; None for none.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]
    address: str | None = None


def export_model(
    path: str | Path,
    to: Format,
    out: str | Path,
    *,
    dataset: str | None = None,
    licence: str | None = None,
    push: str | None = None,
    plugins: Plugins | None = None,
) -> Export:
    """Write a trained model for other software, or as a folder to publish.

    The folder appears complete or not at all: each ONNX and TorchScript file is compared with the
    model before.

    Args:
        path: Folder of a finished run, or of a model.
        to: ``onnx``: an ONNX file for each head; ``torchscript``: a TorchScript file for each head;
            ``hub``: the folder of a model, with a model card.
        out: New or empty folder.
        dataset: Dataset whose head is exported; None for all heads.
        licence: Of ``hub``: licence of the weights, as the Hugging Face Hub names it; None for
            ``other``.
        push: Of ``hub``: repository on the Hugging Face Hub that the folder is pushed to.
        plugins: Plugins with the factories; None loads the installed ones.

    Raises:
        PlanError: The run is not finished, the folder is not empty, or a package is missing.
        PluginError: No plugin offers the factory of a body or of a head.
        WeightsError: A file is invalid, PyTorch cannot convert a network, or its file answers
            otherwise than the model.
    """
    path, out = Path(path), Path(out)
    if to == "onnx":
        check_onnx_installed()
    if push is not None:
        hub.check_installed()
    if to != "hub" and (push is not None or licence is not None):
        raise PlanError(f"a licence and a repository are for the format 'hub', not for {to!r}")
    names = datasets_of(path) if dataset is None else [dataset]
    with _new_folder(out) as folder:
        if to == "hub":
            notes = hub.write_folder(path, names, folder, licence=licence, plugins=plugins)
        else:
            notes = _write_programs(path, names, folder, to, plugins)
    files = tuple(sorted(each for each in out.rglob("*") if each.is_file()))
    address = None if push is None else hub.push(out, push)
    return Export(files, tuple(notes), address)


def datasets_of(path: Path) -> list[str]:
    """Datasets with a head in a run or in the folder of a model, the target first."""
    if is_model_folder(path):
        return list(head_datasets(path))
    plan = RunDir(path).plan()
    names = [name for each in reversed(plan.rounds) for name in each.datasets]
    return list(dict.fromkeys([plan.target, *names]))


def _write_programs(
    path: Path,
    names: list[str],
    folder: Path,
    to: Literal["onnx", "torchscript"],
    plugins: Plugins | None,
) -> list[str]:
    """Write a file for each head, and the README; return what users must know."""
    described: dict[str, ProgramDescription] = {}
    notes = []
    for name in names:
        files = find_model(path, dataset=name)
        model = load_networks(files, torch.device("cpu"), plugins=plugins)
        file = f"{name}.onnx" if to == "onnx" else f"{name}.pt"
        described[file] = _write_program(folder / file, model)
        notes += [f"{file}: {note}" for note in described[file].notes]
    write_atomic(folder / README, program_readme(described, to).encode())
    return notes


def _write_program(path: Path, model: Model) -> ProgramDescription:
    images = TestImages.of(model, model.files.run)
    reduced, decision = with_mirrored_views(model), model.decision
    network = ExportedNetwork(reduced, decision.calibration if decision else None).eval()
    about = _describe(model, reduced, network, images)
    needed = model.head.preprocessing
    example = torch.zeros(EXAMPLES, needed.channels, needed.patch, needed.patch)
    write = write_onnx if path.suffix == ".onnx" else write_torchscript
    run: Runner = write(path, network, example, about.model_dump_json())
    check(path.name, run, reduced, images)
    return about


def _describe(
    model: Model, reduced: Model, network: ExportedNetwork, images: TestImages
) -> ProgramDescription:
    left_out, notes = left_out_views(model), list(model.notes())
    difference = mean_difference = None
    if left_out:
        apart = np.abs(answers(model, images) - answers(reduced, images))
        difference, mean_difference = float(apart.max()), float(apart.mean())
        notes.append(
            f"the model also averages {left_out} turned, moved or scaled views of each image, "
            "which need more of it than the patch and are not in this file: its answers differ by "
            f"up to {difference:.2g}, on average {mean_difference:.2g}, on {images.text} images"
        )
    decision, head = model.decision, model.head
    return ProgramDescription(
        hydrakit=version(),
        torch=torch.__version__,
        dataset=head.dataset,
        task=head.task,
        classes=head.classes,
        input=INPUT,
        output=output_name(network),
        preprocessing=head.preprocessing,
        networks=len(model.networks),
        views=len(mirrored_views(reduced.networks[0])),
        left_out_views=left_out,
        difference=difference,
        mean_difference=mean_difference,
        calibration=decision.calibration if decision else None,
        threshold=decision.threshold if decision else None,
        bodies=tuple(each.body.digest for each in model.networks),
        heads=tuple(each.head.digest for each in model.networks),
        checked=len(images.canvases),
        real=images.real,
        notes=tuple(notes),
    )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that gets its name if the ``with`` block succeeds, and is removed otherwise.

    Raises:
        PlanError: There is something else already, or the folder cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PlanError(f"{out}: exists already, and is not an empty folder: name a new one")
    part = out.with_name(f".{out.name}-{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise PlanError(
            f"{out}: cannot be created ({error.strerror}): name another folder"
        ) from None
    try:
        yield part
        if out.exists():
            out.rmdir()
        patiently(lambda: part.rename(out))
    finally:
        shutil.rmtree(part, ignore_errors=True)
