"""The format of weight files: safetensors with one metadata key, which holds JSON.

With several keys the header's order would vary from save to save. So equal tensors and equal
descriptions give equal files, byte for byte. What a file says can be read without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from hydrakit.errors import WeightsError, one_line
from hydrakit.hooks import FieldOfView, OptionValue, Task
from hydrakit.plan.model import (
    MAX_PATCH,
    MAX_ROUNDS,
    BodySpec,
    Copies,
    Features,
    Head,
    OtherBody,
    Split,
)
from hydrakit.rounds import MAX_DATASETS
from hydrakit.schema import Frozen, Name, Text
from hydrakit.storage.files import open_regular, write_atomic
from hydrakit.storage.records import refuse_later
from hydrakit.version import version

if TYPE_CHECKING:
    from torch import Tensor, nn

METADATA_KEY = "hydrakit"
MAX_HEADER = 2**20  # bytes; the paper's body needs 8 thousand, a head 10 thousand
MAX_BYTES = 2**32  # of a file; the most that a plan's body can have are 2**27
MAX_CLASSES = 999
MAX_SIDE = 2**31  # of a tensor

_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

Channels = Annotated[int, Field(gt=0, le=1024)]
Sha256Text = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Preprocessing(Frozen):
    """What an image must go through before it fits the network.

    Attributes:
        patch: Side in pixels of the square that the network sees.
        channels: Of the image.
        field_of_view: How much of the image the patch shows.
        normalisation: How pixel values were normalised, in words: ``z-score per patient``.
    """

    patch: Annotated[int, Field(gt=0, le=MAX_PATCH)]
    channels: Channels
    field_of_view: FieldOfView
    normalisation: Text


class Probe(Frozen):
    """Features ``(features,)`` and the logits ``(classes,)`` that the head gave for them."""

    features: tuple[float, ...]
    logits: tuple[float, ...]


class OtherBodySpec(OtherBody):
    """How a body that is not the paper's was built.

    Attributes:
        features: Numbers that it gives to a head.
        datasets: Names of the datasets of its plan.
    """

    features: Features
    datasets: Annotated[tuple[Name, ...], Field(max_length=MAX_DATASETS)] = ()


def _spec(value: Any) -> BodySpec | OtherBodySpec:
    if isinstance(value, BodySpec | OtherBodySpec):
        return value
    if isinstance(value, dict) and "name" in value:
        return OtherBodySpec.model_validate(value)
    return BodySpec.model_validate(value)


class BodyMetadata(Frozen):
    """What a body's file says.

    Attributes:
        kind: Always ``body``.
        format: Version of this description.
        hydrakit: Version that wrote the file.
        spec: The shape of the paper's body; or the factory, options and features of another.
        in_channels: Channels of the images that it takes.
        digest: Of its tensors (`body_digest`).
        trained_on: Datasets of the rounds that trained it, in order; empty where none did or
            nobody knows.
        seed: Of the plan that trained it, which decided the splits; None where there was none.
    """

    kind: Literal["body"] = "body"
    format: Literal[1] = 1
    hydrakit: Text
    spec: Annotated[BodySpec | OtherBodySpec, BeforeValidator(_spec)]
    in_channels: Channels
    digest: Sha256Text
    trained_on: Annotated[tuple[Name, ...], Field(max_length=MAX_ROUNDS)] = ()
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class HeadMetadata(Frozen):
    """What a head's file says.

    Attributes:
        kind: Always ``head``.
        format: Version of this description.
        hydrakit: Version that wrote the file.
        factory: The head factory that builds it, with its options.
        features: What it takes from a body.
        classes: Names of the classes by label; of a number, its name.
        task: What a label is.
        scale: Mean and standard deviation of a number over the training split: the head gives
            the number less the mean, divided by the standard deviation.
        dataset: What it was trained on.
        options: The adapter's options then.
        split: The dataset's split then; None where there was none of hydrakit's.
        seed: Of the plan that trained it; None where there was none.
        copies: What became of copies of images then, which decides the splits too.
        splits: Digest of the split of every case then (`splits_digest`).
        body: Digest of the body that it was trained on.
        preprocessing: What its images need.
        digest: Of its tensors.
        probe: Features and the logits that it gave for them.
    """

    kind: Literal["head"] = "head"
    format: Literal[1] = 1
    hydrakit: Text
    factory: Head
    features: Features
    classes: Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_CLASSES)]
    task: Task = "classification"
    scale: tuple[float, float] | None = None
    dataset: Name
    options: dict[Name, OptionValue] = Field(default_factory=dict)
    split: Split | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    copies: Copies = "group"
    splits: Sha256Text | None = None
    body: Sha256Text
    preprocessing: Preprocessing
    digest: Sha256Text
    probe: Probe

    @model_validator(mode="after")
    def _probe_fits(self) -> Self:
        if (len(self.probe.features), len(self.probe.logits)) != (self.features, len(self.classes)):
            raise ValueError("the probe has other numbers of features or logits than the head")
        return self


_DESCRIPTION: TypeAdapter[BodyMetadata | HeadMetadata] = TypeAdapter(
    Annotated[BodyMetadata | HeadMetadata, Field(discriminator="kind")]
)


def read_metadata(path: Path) -> BodyMetadata | HeadMetadata:
    """Read what a weight file says, without its tensors and without torch.

    Raises:
        WeightsError: It is no weight file of hydrakit, or of a version that this one cannot read.
    """
    text = read_description(path)
    refuse_later(path, text, error=WeightsError)
    try:
        return _DESCRIPTION.validate_json(text)
    except ValidationError as error:
        raise WeightsError(
            f"{path}: its description is not one that hydrakit {version()} reads "
            f"({_fault(error)}): read it with the version that wrote it"
        ) from None


def read_description(path: Path) -> str:
    """The JSON that describes what is in a file of tensors, once its header is known to be sound.

    Raises:
        WeightsError: hydrakit did not write the file, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_header(path)
        with safe_open(path, framework="np") as tensors:
            text: str | None = (tensors.metadata() or {}).get(METADATA_KEY)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    if text is None:
        raise WeightsError(
            f"{path}: is safetensors, but hydrakit did not write it: its header has no "
            f"{METADATA_KEY!r} key"
        )
    return text


def check_header(path: Path) -> None:
    """See that a file can be given to safetensors, which believes any length of a header.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file, or it or its header is too long.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ValueError(f"it has {size} bytes, and {MAX_BYTES} are allowed")
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header would be {length} bytes long, and {MAX_HEADER} are allowed")


def read_body(path: Path) -> BodyMetadata:
    """Read what a body's file says.

    Raises:
        WeightsError: As `read_metadata`; or it is a head's file.
    """
    description = read_metadata(path)
    if isinstance(description, HeadMetadata):
        raise WeightsError(f"{path}: is a head, not a body: give a body's file here")
    return description


def read_head(path: Path) -> HeadMetadata:
    """Read what a head's file says.

    Raises:
        WeightsError: As `read_metadata`; or it is a body's file.
    """
    description = read_metadata(path)
    if isinstance(description, BodyMetadata):
        raise WeightsError(f"{path}: is a body, not a head: give a head's file here")
    return description


def write(path: Path, module: nn.Module, description: Frozen) -> None:
    """Write a module's tensors and their description, whole or not at all.

    Raises:
        WeightsError: The header would be too long to be read again.
    """
    write_tensors(path, module.state_dict(), description)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], description: BaseModel) -> None:
    """Write tensors of any device and their description, whole or not at all.

    Raises:
        WeightsError: The header would be too long to be read again.
    """
    from safetensors.torch import save

    # Copies, for safetensors refuses tensors that share memory, as tied weights do.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(
        description.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    data = save(copies, {METADATA_KEY: text})
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER or len(data) > MAX_BYTES:
        raise WeightsError(
            f"{path}: not written, it would have {len(data)} bytes, {length} of them header, and "
            f"{MAX_BYTES} and {MAX_HEADER} are allowed: build a smaller network"
        )
    write_atomic(path, data)


def read_shapes(path: Path) -> dict[str, Tensor]:
    """A file's tensors without their numbers, once its header is known to be sound.

    They are on the device ``meta``: whether a file holds what it should is known before memory is
    taken for it.

    Raises:
        WeightsError: One is of a type that hydrakit does not write, or has an impossible shape.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    shapes = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                told = file.get_slice(name)
                dtype, shape = _TYPES.get(told.get_dtype()), told.get_shape()
                if dtype is None or max(shape, default=0) > MAX_SIDE:
                    raise WeightsError(
                        f"{path}: tensor {one_line(name, 99)!r} is {told.get_dtype()} of shape "
                        f"{one_line(str(shape), 99)}, which hydrakit does not write: copy it again"
                    )
                shapes[name] = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    return shapes


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """Read a file's tensors, once its header is known to be sound (`read_metadata`).

    Raises:
        WeightsError: Their digest is not the one that the file's description names.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    if tensor_digest(tensors) != digest:
        raise WeightsError(
            f"{path}: its tensors are not those that its description was written for (their "
            f"digest is not {digest[:12]}): the file was changed or damaged, copy it again"
        )
    return tensors


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted tensors' names, types, shapes and bytes."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(head).encode() + b"\n")
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def refuse_other_shapes(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    expected: Mapping[str, Tensor],
    what: str,
    remedy: str = "read it with the version of hydrakit and plugins that wrote it",
) -> None:
    """Raise WeightsError for the first tensor whose name, shape or type is not as expected.

    Args:
        path: The file that the tensors come from.
        tensors: Those of the file.
        expected: Tensors of the right names, shapes and types; their values are not looked at.
        what: What the file should hold, in words.
        remedy: What the user can do.
    """
    for name in sorted({*tensors, *expected}):
        given, wanted = (
            f"{tuple(t.shape)} of {str(t.dtype).removeprefix('torch.')}"
            if t is not None
            else "none"
            for t in (tensors.get(name), expected.get(name))
        )
        if given != wanted:
            raise WeightsError(
                f"{path}: does not hold {what}: tensor {one_line(name, 99)!r} is {given}, expected "
                f"{wanted}: {remedy}"
            )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = getattr(error, "strerror", None) or one_line(str(error), 200)
    return WeightsError(
        f"{path}: cannot be read as safetensors ({reason}): give a file that hydrakit wrote, or "
        "copy it again"
    )


def _fault(error: ValidationError) -> str:
    """The first fault of a description, on one line."""
    fault: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    return " ".join(f"{where}: {fault['msg']}".split())[:200]
