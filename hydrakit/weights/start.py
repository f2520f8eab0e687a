"""Weights from a file that a body begins with: matched by name, and stored in the run's folder.

The file is safetensors, of hydrakit or of others, or a state_dict of PyTorch. A tensor matches one
of the body if names and shapes are equal, after a common beginning of the names is removed
(`PREFIXES`). The weights of the first convolution are converted to the body's number of input
channels (`convert_channels`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from hydrakit.errors import PlanError, WeightsError, one_line
from hydrakit.plan.model import MAX_ROUNDS
from hydrakit.plan.results import StartMatch
from hydrakit.plan.start import StartWeights
from hydrakit.schema import Frozen, Name, Text, first_fault
from hydrakit.storage.digests import cached_digest
from hydrakit.storage.files import open_regular, reason
from hydrakit.storage.records import refuse_later
from hydrakit.version import version
from hydrakit.weights.format import (
    MAX_LINEAGE,
    Ancestor,
    BodyMetadata,
    Sha256Text,
    TrainingCases,
    read_body,
    read_description,
    read_other_tensors,
    read_tensors,
    tensor_digest,
    write_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIXES = ("module", "model", "backbone", "encoder", "body", "network", "net")
"""Beginnings of tensors' names that say nothing about the tensor: ``module.model.conv1.weight``."""

COUNTER = "num_batches_tracked"
"""Tensors of batch norm that are no weights: nobody needs to hear that one is missing."""

LISTED = 6  # names in a message
MAX_NAME = 200  # characters of a tensor's name


@dataclass(frozen=True)
class StartTensors:
    """Tensors that a body begins with.

    Attributes:
        match: How they match the body.
        tensors: Tensors by their names in the body, with its shapes and types.
        trained_on: Datasets that trained them, if hydrakit wrote their file.
        seed: Seed of the splits of their training; None if unknown.
        cases: Images that trained them; None if the file does not say.
        lineage: The trainings that led to them, the oldest first, their own last.
    """

    match: StartMatch
    tensors: Mapping[str, Tensor]
    trained_on: tuple[str, ...] = ()
    seed: int | None = None
    cases: TrainingCases | None = None
    lineage: tuple[Ancestor, ...] = ()


class StartMetadata(Frozen):
    """Metadata of ``start.safetensors`` in the folder of a run.

    Attributes:
        kind: Always ``start``.
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote the file.
        match: How the tensors match the body.
        trained_on: Datasets that trained them, in order.
        seed: As in `StartTensors`.
        cases: Images that trained them; None if unknown.
        lineage: The trainings that led to them, the oldest first, their own last.
        digest: Digest of the tensors.
    """

    kind: Literal["start"] = "start"
    format: Literal[1] = 1
    hydrakit: Text
    match: StartMatch
    trained_on: Annotated[tuple[Name, ...], Field(max_length=MAX_ROUNDS)] = ()
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    cases: TrainingCases | None = None
    lineage: Annotated[tuple[Ancestor, ...], Field(max_length=MAX_LINEAGE)] = ()
    digest: Sha256Text


def check_file(planned: StartWeights) -> Path:
    """Path of the file of a plan's start weights, which is the one that the plan was made with.

    Raises:
        PlanError: The file is missing, or was changed.
    """
    path = Path(planned.file)
    try:
        digest = cached_digest(path).sha256
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{path}: cannot be read ({reason(error)}), and the network begins with its weights: "
            "restore it, or make the plan again"
        ) from None
    if digest != planned.sha256:
        raise PlanError(
            f"{path}: was changed since the plan was made (its SHA-256 differs), and the network "
            "begins with its weights: restore it, or make the plan again"
        )
    return path


def match_start(planned: StartWeights, body: nn.Module) -> StartTensors:
    """Read the file of a plan's start weights, and match its tensors with those of a body.

    Raises:
        PlanError: The file is missing, or was changed since the plan was made.
        WeightsError: It cannot be read, holds numbers that are not finite, or no weights of this
            body.
    """
    import torch

    path = check_file(planned)
    given, metadata = _read(path)
    expected = body.state_dict()
    first = next((name for name, each in body.named_parameters() if each.ndim == 4), None)
    names = _matched_names(given, expected, first)
    tensors, adapted, other_shape = dict[str, "Tensor"](), None, list[str]()
    for name, theirs in names.items():
        wanted, tensor = expected[name], given[theirs]
        if name == first and _only_channels_differ(tensor, wanted):
            channels = tensor.shape[1], wanted.shape[1]
            tensor = convert_channels(tensor, wanted.shape[1])
            adapted = f"{_short(name)}, from {channels[0]} to {channels[1]} input channels"
        if tensor.shape != wanted.shape:
            shapes = f"{tuple(tensor.shape)}, the body has {tuple(wanted.shape)}"
            other_shape.append(f"{_short(name)}: {shapes}")
            continue
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{path}: tensor {_short(theirs)!r} holds numbers that are not finite: give "
                "another file"
            )
        tensors[name] = tensor.to(wanted.dtype, copy=True)
    matched = [name for name in tensors if not name.endswith(COUNTER)]
    if not matched:
        raise WeightsError(
            f"{path}: none of its {len(given)} tensors ({_list(map(_short, given), 2)}) matches "
            f"one of the body ({_list(map(_short, expected), 2)}): give weights of this network, "
            "or choose another with `--body`"
        )
    used = set(names.values())
    return StartTensors(
        StartMatch(
            file=planned.file,
            sha256=planned.sha256,
            matched=len(matched),
            adapted=adapted,
            missing=tuple(
                _short(name) for name in expected if name not in names and COUNTER not in name
            ),
            unexpected=tuple(_short(name) for name in given if name not in used),
            other_shape=tuple(other_shape),
        ),
        tensors,
        trained_on=metadata.trained_on if metadata else (),
        seed=metadata.seed if metadata else None,
        cases=metadata.cases if metadata else None,
        lineage=metadata.chain if metadata else (),
    )


def convert_channels(weight: Tensor, channels: int) -> Tensor:
    """Convert the weights of a convolution to another number of input channels.

    They are summed over the input channels, and each of the new channels gets an equal part. The
    output for a grey image, with equal channels, stays the same.

    Args:
        weight: Weights ``(outputs, channels before, height, width)``.
        channels: New number of input channels.
    """
    return weight.sum(dim=1, keepdim=True).repeat(1, channels, 1, 1) / channels


def describe(match: StartMatch) -> list[str]:
    """Sentences about how start weights match the body."""
    count = match.matched + len(match.missing) + len(match.other_shape)
    text = f"the body begins with {match.file}: {match.matched} of its {count} tensors match"
    lines = [f"{text}; converted: {match.adapted}" if match.adapted else text]
    for what, names in (
        ("not in the file, and random", match.missing),
        ("of another shape in the file, and random", match.other_shape),
        ("in the file, but not in the body", match.unexpected),
    ):
        if names:
            lines.append(f"{len(names)} tensors are {what}: {_list(names, LISTED)}")
    return lines


def write_start(path: Path, start: StartTensors) -> None:
    """Write the tensors into a file; it appears complete or not at all."""
    metadata = StartMetadata(
        hydrakit=version(),
        match=start.match,
        trained_on=start.trained_on,
        seed=start.seed,
        cases=start.cases,
        lineage=start.lineage,
        digest=tensor_digest(start.tensors),
    )
    write_tensors(path, start.tensors, metadata)


def read_start(path: Path, planned: StartWeights, body: nn.Module) -> StartTensors:
    """Read the tensors that `write_start` wrote.

    Raises:
        WeightsError: The file is damaged, or of other weights or of another body than the plan's.
    """
    text = read_description(path)
    refuse_later(path, text, error=WeightsError)
    remedy = "restore it, or delete it: it is then written again"
    try:
        metadata = StartMetadata.model_validate_json(text)
    except ValidationError as error:
        raise WeightsError(f"{path}: cannot be read ({first_fault(error)}): {remedy}") from None
    tensors, expected = read_tensors(path, metadata.digest), body.state_dict()
    if metadata.match.sha256 != planned.sha256 or any(
        name not in expected or tensor.shape != expected[name].shape
        for name, tensor in tensors.items()
    ):
        raise WeightsError(f"{path}: holds other weights than those of the plan: {remedy}")
    return StartTensors(
        metadata.match,
        tensors,
        metadata.trained_on,
        metadata.seed,
        metadata.cases,
        metadata.lineage,
    )


def _read(path: Path) -> tuple[Mapping[str, Tensor], BodyMetadata | None]:
    """Read the tensors of a file, and its metadata if it is a body's file of hydrakit."""
    if not _is_safetensors(path):
        from hydrakit.weights.foreign import read_checkpoint

        remedy = "give safetensors, or a state_dict that torch.save wrote"
        return read_checkpoint(path, remedy=remedy, wrapped=True), None
    tensors = read_other_tensors(path)
    if tensors is not None:
        return tensors, None
    metadata = read_body(path)
    return read_tensors(path, metadata.digest), metadata


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: with the length of a header of JSON."""
    with open_regular(path) as file:
        return file.read(9)[8:] == b"{"


def _matched_names(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], first: str | None
) -> dict[str, str]:
    """Names in a file by the names in the body, with the prefixes that match most tensors."""
    best, most = dict[str, str](), 0
    for ours in _prefixes(expected):
        for theirs in _prefixes(given):
            names = {
                name: other
                for name in expected
                if name.startswith(ours)
                for other in [theirs + name.removeprefix(ours)]
                if other in given
            }
            fitting = sum(
                expected[name].shape == given[other].shape
                or (name == first and _only_channels_differ(given[other], expected[name]))
                for name, other in names.items()
            )
            if fitting > most:
                best, most = names, fitting
    return best


def _prefixes(names: Iterable[str]) -> list[str]:
    """Beginnings of names to remove: none, parts in `PREFIXES`, and the first part of most names.

    The last is what a plugin calls the network within its body.
    """
    names, found = list(names), {"": None}
    for name in names:
        parts = name.split(".")
        for end, part in enumerate(parts[:-1], start=1):
            if part not in PREFIXES:
                break
            found[".".join(parts[:end]) + "."] = None
    firsts = Counter(name.partition(".")[0] for name in names)
    for part, count in firsts.most_common(1):
        if 2 * count > len(names):
            found[f"{part}."] = None
    return list(found)


def _only_channels_differ(tensor: Tensor, wanted: Tensor) -> bool:
    """Whether the weights of a convolution have another number of input channels, and no more."""
    return (
        tensor.ndim == wanted.ndim == 4
        and tensor.shape[1] != wanted.shape[1]
        and tensor.shape[:1] + tensor.shape[2:] == wanted.shape[:1] + wanted.shape[2:]
    )


def _short(name: str) -> str:
    return one_line(name, MAX_NAME)


def _list(names: Iterable[str], most: int) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
