"""Imports checkpoints that the paper's authors published: one state_dict for body and head.

Their network is one module: ``features`` (a Sequential with, for each of three blocks, three times
convolution, batch norm and ELU, then dropout and max pooling), ``classifier`` and ``last_layer``. A
softmax without weights follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hydrakit.errors import WeightsError
from hydrakit.hooks import FieldOfView
from hydrakit.models.body import PaperBody
from hydrakit.models.heads import build_mlp
from hydrakit.names import NAME_PATTERN, is_name
from hydrakit.plan.model import BodySpec
from hydrakit.weights.files import save_body, save_head
from hydrakit.weights.folders import weight_paths
from hydrakit.weights.foreign import read_checkpoint
from hydrakit.weights.format import UNKNOWN, Preprocessing, refuse_other_shapes

PROSTATEX = "prostatex"
PROSTATEX_CLASSES = ("benign", "significant")
PROSTATEX_OPTIONS = {"slice": "instance"}  # the authors used InstanceNumber k + 1
PROSTATEX_VIEW = FieldOfView(millimetres=65.0)
UNKNOWN_CLASSES = ("unknown 1", "unknown 2")
IN_CHANNELS = 1
NORMALISATION = "z-score per patient and class"

_LAYERS_PER_BLOCK = 11  # conv, batch norm, ELU, three times; dropout; max pooling
_BODY_LAYERS = {
    f"blocks.{block}.{layer}{i + 1}": f"features.{_LAYERS_PER_BLOCK * block + 3 * i + offset}"
    for block in range(3)
    for i in range(3)
    for offset, layer in enumerate(("conv", "norm"))
} | {"dense": "classifier.0"}
_HEAD_LAYERS = {"hidden1": "last_layer.0", "hidden2": "last_layer.3", "logits": "last_layer.5"}


def import_authors(
    path: Path,
    out: Path,
    *,
    dataset: str = UNKNOWN,
    classes: Sequence[str] | None = None,
) -> tuple[Path, Path]:
    """Convert a checkpoint of the paper's authors to a body and a head in a new folder.

    Together they compute the output of the authors' network before its softmax. The checkpoint does
    not say which datasets trained it, so the body's ``trained_on`` stays empty, and what the caller
    does not say about the head stays unknown. For ``prostatex``, classes, slices and field of view
    (the central 65 mm) are those of the authors' code.

    Args:
        path: File written by ``torch.save(model.state_dict())``, in the old or the new format.
        out: New or empty folder.
        dataset: Dataset of the head.
        classes: Names of its classes, in the order of the outputs.

    Returns:
        The body's file and the head's file.

    Raises:
        WeightsError: The file is not such a checkpoint, ``out`` is not an empty folder, or a name
            is invalid.
    """
    if not is_name(dataset):
        raise WeightsError(f"--dataset {dataset!r}: is not the name of a dataset ({NAME_PATTERN})")
    known = dataset == PROSTATEX
    names = tuple(classes or (PROSTATEX_CLASSES if known else UNKNOWN_CLASSES))
    if not len(names) == len(set(names)) == len(UNKNOWN_CLASSES) or not all(
        name and name.isprintable() for name in names
    ):
        raise WeightsError(
            f"--classes {','.join(names)!r}: the authors' networks have {len(UNKNOWN_CLASSES)} "
            "classes: give as many different names"
        )
    state = read_checkpoint(path, remedy="give a checkpoint as the authors published it")
    with torch.random.fork_rng(devices=[]):  # the initial weights are not used
        body = PaperBody(BodySpec(), in_channels=IN_CHANNELS)
        head = build_mlp(body.features, len(names))
    body_names = _names(_BODY_LAYERS, body.state_dict())
    head_names = _names(_HEAD_LAYERS, head.state_dict())
    expected = {theirs: body.state_dict()[ours] for ours, theirs in body_names.items()}
    expected |= {theirs: head.state_dict()[ours] for ours, theirs in head_names.items()}
    refuse_other_shapes(
        path,
        state,
        expected=expected,
        what="the paper's network",
        remedy="give a checkpoint as the authors published it",
    )
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{path}: tensor {name!r} holds numbers that are not finite: give another "
                "checkpoint"
            )
    body.load_state_dict({ours: state[theirs] for ours, theirs in body_names.items()})
    head.load_state_dict({ours: state[theirs] for ours, theirs in head_names.items()})

    body_path, head_path = weight_paths(out, dataset)
    save_body(body_path, body)
    save_head(
        head_path,
        head,
        body=body,
        dataset=dataset,
        classes=names,
        factory="mlp",
        options=PROSTATEX_OPTIONS if known else {},
        preprocessing=Preprocessing(
            patch=body.patch,
            channels=IN_CHANNELS,
            field_of_view=PROSTATEX_VIEW if known else None,
            normalisation=NORMALISATION,
        ),
    )
    return body_path, head_path


def _names(layers: Mapping[str, str], state: Mapping[str, Tensor]) -> dict[str, str]:
    """The authors' name of each tensor: ``{"blocks.0.conv1.weight": "features.0.weight"}``."""
    return {
        name: f"{layers[layer]}.{tensor}"
        for name in state
        for layer, _, tensor in (name.rpartition("."),)
    }
