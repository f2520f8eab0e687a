"""The format of weight files: safetensors with one metadata key, which holds JSON.

With several keys, their order in the header would vary. With one, files with equal tensors and
metadata are equal, byte for byte. Reading the metadata does not need torch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from hydrakit.errors import WeightsError, one_line
from hydrakit.file_rules import FileRules
from hydrakit.hooks import DatasetAdapter, OptionValue, Task
from hydrakit.plan.decision import Decision
from hydrakit.plan.grey import PER_PATIENT, GreyValues
from hydrakit.plan.model import (
    MAX_PATCH,
    MAX_ROUNDS,
    BodySpec,
    Conflicts,
    Copies,
    Features,
    Head,
    OtherBody,
    Split,
    StemShape,
)
from hydrakit.plan.results import DataFacts
from hydrakit.plan.start import Channels
from hydrakit.plan.view import StoredView
from hydrakit.rounds import MAX_DATASETS, MAX_VIEWS, Transforms
from hydrakit.schema import Frozen, Name, Text
from hydrakit.storage.files import MAX_WEIGHTS, open_regular, write_atomic
from hydrakit.storage.records import refuse_later
from hydrakit.version import version

if TYPE_CHECKING:
    from torch import Tensor

METADATA_KEY = "hydrakit"
MAX_HEADER = 2**20  # bytes of the header; the paper's body needs 8 thousand, a head 10 thousand
MAX_CLASSES = 999
MAX_LINEAGE = 100
NOT_KNOWN = "not known"
MAX_WORDS = 900  # characters of a text about a dataset
MAX_SIDE = 2**31  # length of a tensor's axis
UNKNOWN = "unknown"  # dataset of a head that does not say which dataset trained it
IMAGE_BYTES = 5  # of an image's digest: another image equals one of 20,000 with p = 2e-8
MAX_IMAGES = 20_000

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

Sha256Text = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Preprocessing(Frozen):
    """Preprocessing that turns an image into the input of the network.

    Attributes:
        patch: Height and width of the input image in pixels.
        channels: Number of channels of the image, after the conversion.
        field_of_view: Region of the image that the patch shows; None if unknown.
        normalisation: Normalisation of the pixel values, in words: ``z-score per patient``.
        conversion: What is done with the channels of the image: ``grey`` for the luminance of
            colour, ``repeat`` for one channel that is repeated; None for nothing.
        grey_values: The same with its numbers, for `hydrakit.data.load`. The file has it only if it
            is not the z-score per patient.
        file_rules: How the files of its dataset were read; None if its adapter does not say, or an
            older version wrote the file.
    """

    patch: Annotated[int, Field(gt=0, le=MAX_PATCH)]
    channels: Channels
    field_of_view: StoredView | None
    normalisation: Text
    conversion: Literal["grey", "repeat"] | None = None
    grey_values: GreyValues = PER_PATIENT
    file_rules: FileRules | None = None

    @model_serializer(mode="wrap")
    def _omit_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields with their defaults: such files are as before these fields."""
        content: dict[str, Any] = serialise(self)
        if self.conversion is None:
            content.pop("conversion", None)
        if self.grey_values == PER_PATIENT:
            content.pop("grey_values", None)
        rules, default = content.pop("file_rules", None), FileRules()
        if rules is not None:
            content["file_rules"] = {
                name: value
                for name, value in rules.items()
                if getattr(self.file_rules, name) != getattr(default, name)
            }
        return content


class AveragedViews(Frozen):
    """Views of each case whose predicted probabilities are averaged: `evaluation_views`.

    Attributes:
        count: Number of views, the unaugmented patch among them.
        table: What the others are drawn from.
    """

    count: Annotated[int, Field(gt=1, le=MAX_VIEWS)]
    table: Transforms


class Probe(Frozen):
    """Test values of a head.

    Attributes:
        features: Values of one case, ``(features,)``.
        logits: Logits that the head computed for them, ``(outputs,)``.
    """

    features: tuple[float, ...]
    logits: tuple[float, ...]


def _base64(text: str) -> str:
    if len(base64.b64decode(text, validate=True)) % IMAGE_BYTES:
        raise ValueError("is not a list of digests")
    return text


class TrainingCases(Frozen):
    """The images that trained weights or selected their epoch, to recognise them in other data.

    It holds digests of pixels and nothing about patients: who does not have an image learns nothing
    about it.

    Attributes:
        images: The first `IMAGE_BYTES` bytes of the content digests of the images, sorted, in
            base64; of more than `MAX_IMAGES`, the smallest.
        cohorts: Digests of the cohorts of the datasets that have one, by name of the dataset.
    """

    images: Annotated[str, StringConstraints(max_length=2**18), AfterValidator(_base64)] = ""
    cohorts: dict[Name, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, contents: Iterable[str], cohorts: Mapping[str, str | None]) -> TrainingCases:
        """Describe images and cohorts.

        Args:
            contents: Content digests of the images.
            cohorts: Cohorts of the datasets by name; None for a dataset without one.
        """
        images = sorted({_prefix(content) for content in contents if content})[:MAX_IMAGES]
        return cls(
            images=base64.b64encode(b"".join(images)).decode(),
            cohorts={
                name: cohort_digest(cohort)
                for name, cohort in sorted(cohorts.items())
                if cohort is not None
            },
        )

    def including(self, other: TrainingCases) -> TrainingCases:
        """The images and cohorts of both."""
        images = sorted({*self.digests(), *other.digests()})[:MAX_IMAGES]
        return TrainingCases(
            images=base64.b64encode(b"".join(images)).decode(),
            cohorts=dict(sorted({**other.cohorts, **self.cohorts}.items())),
        )

    def digests(self) -> list[bytes]:
        """The stored digests, sorted."""
        content = base64.b64decode(self.images)
        return [content[i : i + IMAGE_BYTES] for i in range(0, len(content), IMAGE_BYTES)]


def cohort_digest(cohort: str) -> str:
    """Short digest of the name of a cohort."""
    return hashlib.sha256(cohort.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _prefix(content: str) -> bytes:
    return bytes.fromhex(content[: 2 * IMAGE_BYTES])


def seen_in_training(contents: Sequence[str], *trainings: TrainingCases) -> list[bool]:
    """Whether each image, given by its content digest, was used in one of several trainings."""
    known = {digest for each in trainings for digest in each.digests()}
    return [bool(content) and _prefix(content) in known for content in contents]


class Ancestor(Frozen):
    """One training that led to a body.

    Attributes:
        body: Digest of the body at the end of the training.
        plan: Digest of the plan; None if no plan trained it.
        data: Content digests of the datasets that trained it, by name.
    """

    body: Sha256Text
    plan: Sha256Text | None = None
    data: Annotated[dict[Name, Sha256Text], Field(max_length=MAX_DATASETS)] = Field(
        default_factory=dict
    )


class DatasetCard(Frozen):
    """What users of a model must know about a dataset that trained it.

    Attributes:
        summary: What it is, in one line.
        citation: How to cite it.
        licence: Its licence.
        patients: Number of patients, of all splits.
        cases: Number of labelled cases of each split, by its name.
        classes: Number of labelled cases of each class over all splits, by its name; empty for a
            regression.
    """

    summary: Text
    citation: Text
    licence: Text
    patients: Annotated[int, Field(ge=0)]
    cases: dict[Name, int]
    classes: dict[Text, int]

    @classmethod
    def of(cls, adapter: DatasetAdapter | None, facts: DataFacts) -> DatasetCard:
        """Describe a dataset by its adapter, if known, and by the facts of the run that used it."""
        classes: Counter[str] = Counter()
        for counts in facts.counts.values():
            classes.update(counts)
        by_split = {split: sum(counts.values()) for split, counts in facts.counts.items()}
        return cls(
            summary=one_line(adapter.summary, MAX_WORDS) if adapter else NOT_KNOWN,
            citation=one_line(adapter.citation, MAX_WORDS) if adapter else NOT_KNOWN,
            licence=one_line(adapter.licence, MAX_WORDS) if adapter else NOT_KNOWN,
            patients=sum(facts.patients.values()),
            cases=facts.cases or by_split,
            classes={} if facts.task == "regression" else dict(classes),
        )


class OtherBodySpec(OtherBody):
    """A body that is not the paper's, as it was built.

    Attributes:
        features: Number of features that it computes for an image.
        datasets: Names of the datasets of its plan.
    """

    features: Features
    datasets: Annotated[tuple[Name, ...], Field(max_length=MAX_DATASETS)] = ()


def _parse_spec(value: Any) -> BodySpec | OtherBodySpec:
    if isinstance(value, BodySpec | OtherBodySpec):
        return value
    if isinstance(value, dict) and "name" in value:
        return OtherBodySpec.model_validate(value)
    return BodySpec.model_validate(value)


class BodyMetadata(Frozen):
    """Metadata of a body's file.

    Attributes:
        kind: Always ``body``.
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote the file.
        spec: Shape of the paper's body; for another body, its factory, options and features.
        in_channels: Number of channels of its input images.
        digest: Digest of its tensors.
        trained_on: Datasets of the rounds that trained it, in order; empty if unknown.
        seed: Seed of the plan's splits; None if no plan trained it.
        cases: Images of the rounds that trained it; None if an older version wrote the file.
        lineage: The trainings that led to it, the oldest first, without its own: those of the
            weights that it began with.
        plan: Digest of the plan that trained it; None if no plan did, or an older version.
        data: Content digests of the datasets that trained it under that plan, by name.
        cards: What users must know about these datasets, by name.
        plugin: Distribution and version of the plugin that built it, such as ``hydrakit-skin 1.2``;
            the file has it only if that is another distribution than hydrakit.
    """

    kind: Literal["body"] = "body"
    format: Literal[1] = 1
    hydrakit: Text
    spec: Annotated[BodySpec | OtherBodySpec, BeforeValidator(_parse_spec)]
    in_channels: Channels
    digest: Sha256Text
    trained_on: Annotated[tuple[Name, ...], Field(max_length=MAX_ROUNDS)] = ()
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    cases: TrainingCases | None = None
    lineage: Annotated[tuple[Ancestor, ...], Field(max_length=MAX_LINEAGE)] = ()
    plan: Sha256Text | None = None
    data: Annotated[dict[Name, Sha256Text], Field(max_length=MAX_DATASETS)] = Field(
        default_factory=dict
    )
    cards: Annotated[dict[Name, DatasetCard], Field(max_length=MAX_DATASETS)] = Field(
        default_factory=dict
    )
    plugin: Text | None = None

    @property
    def chain(self) -> tuple[Ancestor, ...]:
        """The trainings that led to it, the oldest first, its own last."""
        own = Ancestor(body=self.digest, plan=self.plan, data=self.data)
        return (*self.lineage, own)[-MAX_LINEAGE:]

    @model_serializer(mode="wrap")
    def _omit_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields with their defaults: such files are as before these fields."""
        content: dict[str, Any] = serialise(self)
        for name in ("lineage", "plan", "data", "cards", "plugin"):
            if not getattr(self, name):
                content.pop(name, None)
        return content


class HeadMetadata(Frozen):
    """Metadata of a head's file. They describe its training, too.

    Attributes:
        kind: Always ``head``.
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote the file.
        factory: Factory of the head, with its options.
        features: Number of features that it needs from a body.
        classes: Names of the classes by label; for regression, the name of the number.
        task: Kind of label.
        scale: For regression, mean and standard deviation of the number in the training split, by
            which the head's output is standardised.
        dataset: Dataset of the training; `UNKNOWN` if nothing says which.
        content: Content digest of the dataset (`hydrakit.data.origin.DataOrigin`).
        cases: Images of the dataset that training used; None if an older version wrote the file.
        options: Options of the dataset's adapter.
        split: Split of the dataset; None if hydrakit did not split it.
        seed: Seed of the plan's splits; None if no plan trained the head.
        copies: Handling of copies of images, which affects the splits.
        conflicts: Handling of copies with different labels; the file has it only if they were
            dropped, which affects the splits.
        splits: Digest of the split of every case (`splits_digest`).
        body: Digest of the body of the training.
        preprocessing: Preprocessing of its images.
        stems: For a head with stems, the stem of each dataset that trained the head, or None for
            one whose images go into the body as they are; the file has it only if there is a stem.
        views: Views of each case whose predictions are averaged; the file has it only if there are
            several.
        decision: Calibration and threshold of its probabilities; the file has it only at the end of
            a run.
        plan: Digest of the plan that trained it; None if no plan did, or an older version.
        card: What users must know about its dataset; None if an older version wrote the file.
        plugin: Distribution and version of the plugin that built it, such as ``hydrakit-skin 1.2``;
            the file has it only if that is another distribution than hydrakit.
        digest: Digest of its tensors, those of the stems among them.
        probe: Features and their logits, to check that the factory still builds the same head.
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
    content: Sha256Text | None = None
    cases: TrainingCases | None = None
    options: dict[Name, OptionValue] = Field(default_factory=dict)
    split: Split | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    copies: Copies = "group"
    conflicts: Conflicts = "error"
    splits: Sha256Text | None = None
    body: Sha256Text
    preprocessing: Preprocessing
    stems: Annotated[dict[Name, StemShape | None], Field(max_length=MAX_DATASETS)] = Field(
        default_factory=dict
    )
    views: AveragedViews | None = None
    decision: Decision | None = None
    plan: Sha256Text | None = None
    card: DatasetCard | None = None
    plugin: Text | None = None
    digest: Sha256Text
    probe: Probe

    def stem_for(self, dataset: str) -> str:
        """Dataset whose stem, if any, images of a dataset need: its own if it trained the head."""
        return dataset if dataset in self.stems else self.dataset

    def image_channels(self, dataset: str, *, body: int) -> int:
        """Number of channels that images of a dataset need.

        Args:
            dataset: Name of the dataset.
            body: Number of channels that the body takes.
        """
        stem = self.stems.get(self.stem_for(dataset))
        return body if stem is None else stem.images

    @property
    def body_channels(self) -> int:
        """Number of channels that the body must take."""
        stem = next(filter(None, self.stems.values()), None)
        return self.preprocessing.channels if stem is None else stem.body

    @model_validator(mode="after")
    def _probe_fits(self) -> Self:
        if (len(self.probe.features), len(self.probe.logits)) != (self.features, len(self.classes)):
            raise ValueError("the probe has not as many features and logits as the head")
        return self

    @model_validator(mode="after")
    def _stems_fit(self) -> Self:
        if len({stem.body for stem in self.stems.values() if stem is not None}) > 1:
            raise ValueError("the stems are for bodies with different numbers of channels")
        own = self.image_channels(self.dataset, body=self.body_channels)
        if own != self.preprocessing.channels:
            raise ValueError("the stem of its dataset takes other images than its preprocessing")
        return self

    @model_validator(mode="after")
    def _decision_fits(self) -> Self:
        if self.decision is not None:
            if self.task != "classification":
                raise ValueError("only a classification has a decision")
            self.decision.check_classes(len(self.classes))
        return self

    @model_serializer(mode="wrap")
    def _omit_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields that have no effect: such files are as before these fields.

        ``conflicts`` affects splits only if copies were dropped.
        """
        content: dict[str, Any] = serialise(self)
        for name in ("views", "decision", "plan", "card", "plugin"):
            if getattr(self, name) is None:
                content.pop(name, None)
        if self.conflicts != "drop":
            content.pop("conflicts", None)
        if not self.stems:
            content.pop("stems", None)
        return content


_METADATA: TypeAdapter[BodyMetadata | HeadMetadata] = TypeAdapter(
    Annotated[BodyMetadata | HeadMetadata, Field(discriminator="kind")]
)


def read_metadata(path: Path) -> BodyMetadata | HeadMetadata:
    """Read the metadata of a weight file, without its tensors and without torch.

    Raises:
        WeightsError: The file is not a weight file of hydrakit, or a later version wrote it.
    """
    text = read_description(path)
    refuse_later(path, text, error=WeightsError)
    try:
        return _METADATA.validate_json(text)
    except ValidationError as error:
        fault: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        reason = one_line(f"{where}: {fault['msg']}", 200)
        raise WeightsError(
            f"{path}: hydrakit {version()} cannot read its description ({reason}): read it with "
            "the version that wrote it"
        ) from None


def read_body(path: Path) -> BodyMetadata:
    """Read the metadata of a body's file.

    Raises:
        WeightsError: The file is not a weight file of hydrakit, a later version wrote it, or it
            holds a head.
    """
    metadata = read_metadata(path)
    if isinstance(metadata, HeadMetadata):
        raise WeightsError(f"{path}: is a head, not a body: give a body's file here")
    return metadata


def read_head(path: Path) -> HeadMetadata:
    """Read the metadata of a head's file.

    Raises:
        WeightsError: The file is not a weight file of hydrakit, a later version wrote it, or it
            holds a body.
    """
    metadata = read_metadata(path)
    if isinstance(metadata, BodyMetadata):
        raise WeightsError(f"{path}: is a body, not a head: give a head's file here")
    return metadata


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of reading safetensors into a WeightsError."""
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except (OSError, ValueError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(str(error), 200)
        raise WeightsError(
            f"{path}: cannot be read as safetensors ({reason}): give a file that hydrakit wrote, "
            "or copy it again"
        ) from None


def read_description(path: Path) -> str:
    """Check the header of a file, and read the JSON that describes the file.

    Raises:
        WeightsError: The file is damaged, or hydrakit did not write it.
    """
    from safetensors import safe_open

    with _readable(path):
        check_header(path)
        with safe_open(path, framework="np") as file:
            text: str | None = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise WeightsError(
            f"{path}: is safetensors, but not of hydrakit: its header has no {METADATA_KEY!r} key"
        )
    return text


def read_other_tensors(path: Path) -> dict[str, Tensor] | None:
    """Read the tensors of a safetensors file that others wrote; None if hydrakit wrote it.

    Raises:
        WeightsError: The file is damaged.
    """
    from safetensors import safe_open

    with _readable(path):
        check_header(path)
        with safe_open(path, framework="pt") as file:
            if METADATA_KEY in (file.metadata() or {}):
                return None
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def check_header(path: Path) -> None:
    """Check the size of a file and of its header; safetensors would accept any size.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a regular file, or it or its header is too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_WEIGHTS:
            raise ValueError(f"it has {size} bytes, and {MAX_WEIGHTS} are allowed")
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header would be {length} bytes long, and {MAX_HEADER} are allowed")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: BaseModel) -> None:
    """Write tensors of any device and their metadata; the file appears complete or not at all.

    Raises:
        WeightsError: The file would be too large to be read again.
    """
    from safetensors.torch import save

    # Copies, because safetensors refuses tensors that share memory, such as tied weights.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(
        metadata.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    data = save(copies, {METADATA_KEY: text})
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER or len(data) > MAX_WEIGHTS:
        raise WeightsError(
            f"{path}: not written, it would have {len(data)} bytes, {length} of them header, and "
            f"{MAX_WEIGHTS} and {MAX_HEADER} are allowed: build a smaller network"
        )
    write_atomic(path, data)


def read_shapes(path: Path) -> dict[str, Tensor]:
    """Read the names, shapes and types of a file's tensors, after `read_metadata`.

    The tensors are on the device ``meta``: they need no memory for their values.

    Raises:
        WeightsError: A tensor has a type that hydrakit does not write, or an impossible shape.
    """
    import torch
    from safetensors import safe_open

    shapes = {}
    with _readable(path), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is not a mapping
            stored = file.get_slice(name)
            dtype, shape = _TYPES.get(stored.get_dtype()), stored.get_shape()
            if dtype is None or max(shape, default=0) > MAX_SIDE:
                raise WeightsError(
                    f"{path}: tensor {one_line(name, 99)!r} is {stored.get_dtype()} of shape "
                    f"{one_line(str(shape), 99)}, which hydrakit does not write: copy it again"
                )
            shapes[name] = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
    return shapes


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """Read a file's tensors, after `read_metadata`.

    Raises:
        WeightsError: The digest of the tensors is not the one in the metadata.
    """
    from safetensors import safe_open

    with _readable(path), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if tensor_digest(tensors) != digest:
        raise WeightsError(
            f"{path}: its tensors do not match its description (their digest is not "
            f"{digest[:12]}): the file was changed or damaged, copy it again"
        )
    return tensors


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors, sorted by name."""
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
    """Raise WeightsError for the first tensor with an unexpected name, shape or type.

    Args:
        path: File of the tensors, for the message.
        tensors: Tensors of the file.
        expected: Tensors with the expected names, shapes and types.
        what: What the file should hold, in words.
        remedy: What the user can do.
    """
    for name in sorted({*tensors, *expected}):
        actual, wanted = (
            f"{tuple(t.shape)} of {str(t.dtype).removeprefix('torch.')}"
            if t is not None
            else "none"
            for t in (tensors.get(name), expected.get(name))
        )
        if actual != wanted:
            raise WeightsError(
                f"{path}: does not hold {what}: tensor {one_line(name, 99)!r} is {actual}, "
                f"expected {wanted}: {remedy}"
            )
