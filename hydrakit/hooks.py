"""What a plugin gives to hydrakit: components, each a name, typed options and a function.

A plugin is a module named by an entry point of the group ``hydrakit``. It implements any of the
hooks below with `hookimpl` and yields descriptions; there is nothing to inherit from::

    from hydrakit.hooks import DatasetAdapter, FieldOfView, hookimpl

    @hookimpl
    def hydrakit_dataset_adapters():
        yield DatasetAdapter(name="mydata", ...)

``hydrakit --help`` imports the modules that implement hooks: import torch, pydicom, pydantic and
other slow packages inside the functions that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import pluggy

if TYPE_CHECKING:
    import click
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from hydrakit.rounds import Hyperparameters, Round, RoundPosition, Train

ENTRY_POINT_GROUP = "hydrakit"

hookspec = pluggy.HookspecMarker("hydrakit")
hookimpl = pluggy.HookimplMarker("hydrakit")

Scalar = str | int | float | bool
OptionValue = Scalar | None | tuple[Scalar, ...]

# What a label is: one of several classes, a number, or several yes-or-no answers at once.
Task = Literal["classification", "regression", "multilabel"]
Label = int | float | tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One labelled image as its file gives it, before any normalisation or crop.

    Attributes:
        image: Pixel values, ``(channels, height, width)`` or ``(height, width)``, float32, in the
            file's own unit (CT in Hounsfield units). Must be finite. Or a function without
            parameters that gives them: only what is not yet prepared is then read, and in
            parallel. It is called at most once, perhaps in another thread and after ``read`` has
            gone on or ended. It raises DataError with a short reason, the same for all cases of
            one cause, where the file cannot be read: the case is then told as unusable.
        label: Of a classification, the index into the adapter's ``classes``; of a regression, a
            number; of a multi-label task, 0 or 1 for each of the ``classes``. None where it is
            unknown (prediction only).
        patient: Pseudonymous identifier; the unit of splitting and of z-scoring. A dataset
            without patients gives each image one of its own.
        key: Identity of the sample within its dataset, stable between readings.
        group: Further samples with the same group are kept in one split (an exam, copies).
        finding: What is counted once, however many samples (slices, augmented copies) there are of
            it: their scores are averaged before a test figure is made. A name within the patient:
            those of two patients are two findings, even if their names are equal. All samples of
            a finding have one label. None: a finding of its own, together with exact copies that
            the patient has of it.
        centre: ``(row, column)`` of the lesion in pixels, where (0, 0) is the middle of the upper
            left pixel; None for the image's middle.
        spacing: ``(row, column)`` distance between pixels in millimetres; needed where the
            adapter's field of view is in millimetres.
        split: The split that the dataset itself puts the sample into (``train``, ``val``,
            ``test``); None where that is left to hydrakit.
        facts: What is known of the file and should not tell the label: format, mode, bit depth,
            scanner. Never anything of the patient.
        subgroups: By what test figures are also given apart, and the sample's value: ``{"zone":
            "PZ", "scanner": "Skyra"}``. A value may well go with the label, as a zone does; it is
            never anything of who the patient is. A scanner is a fact too: as a fact it is asked
            whether it tells the label, as a subgroup how well the network does on it.
        source: The files that decide the image's pixels. Once prepared, the image is not read again
            while these and ``centre`` and ``spacing`` stay as they are; without any, it always is.
    """

    image: NDArray[np.float32] | Callable[[], NDArray[np.float32]]
    label: Label | None
    patient: str
    key: str
    group: str | None = None
    centre: tuple[float, float] | None = None
    spacing: tuple[float, float] | None = None
    split: str | None = None
    finding: str | None = None
    facts: Mapping[str, str | float] = field(default_factory=dict)
    subgroups: Mapping[str, str] = field(default_factory=dict)
    source: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values of wrong types.

        Raises:
            TypeError: The message names the case and the attribute.
        """
        for name in ("key", "patient", "group", "split", "finding"):
            _refuse_other_than_text(self, name, optional=name not in ("key", "patient"))
        for name in ("facts", "subgroups"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value):
                raise TypeError(f"case {self.key!r} has {name} that are no mapping of names")
        for name in ("centre", "spacing"):
            pair = getattr(self, name)
            if pair is not None and not _is_pair(pair):
                raise TypeError(f"case {self.key!r} has a {name} that is no pair of numbers")
        if not isinstance(self.source, tuple) or not all(
            isinstance(path, Path) for path in self.source
        ):
            raise TypeError(f"case {self.key!r} has a source that is no tuple of paths")


def _refuse_other_than_text(case: Sample | Unusable, name: str, *, optional: bool = False) -> None:
    value = getattr(case, name)
    if not isinstance(value, str) and not (optional and value is None):
        raise TypeError(
            f"case {case.key!r} has a {name} of type {type(value).__name__}: text is expected"
        )


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, Sequence) and len(value) == 2 and all(isinstance(n, Real) for n in value)
    )


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A case that the dataset lists but that gives no sample, and why.

    Attributes:
        key: The key that its sample would have had.
        reason: One short phrase without patient data, the same for all cases of one cause.
    """

    key: str
    reason: str

    def __post_init__(self) -> None:
        """Refuse values of wrong types.

        Raises:
            TypeError: The key or the reason is no text.
        """
        _refuse_other_than_text(self, "key")
        _refuse_other_than_text(self, "reason")


@dataclass(frozen=True, kw_only=True)
class FieldOfView:
    """How much of an image the network sees around a sample's centre; exactly one is given.

    Attributes:
        millimetres: Side of a square in the image plane; samples then need their ``spacing``.
        share: Part of the image's height and of its width; 1.0 is the whole image.
    """

    millimetres: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        """Refuse anything but exactly one positive size."""
        given = [size for size in (self.millimetres, self.share) if size is not None]
        if len(given) != 1 or not given[0] > 0:
            raise ValueError("a field of view is a positive size, in millimetres or as a share")


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a component that has none."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What all components have in common.

    Attributes:
        name: Lower-case letters, digits, ``-`` and ``_``.
        summary: One line.
    """

    name: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class Factory(Described):
    """A component with typed options.

    Attributes:
        options: A frozen dataclass of the standard library. Each field has a default, and is text,
            a whole number, a number, true or false, a ``Literal`` of such values, a
            ``tuple[..., ...]`` of them, or one of these ``| None``; ``field(metadata={"help":
            ...})`` describes it. Its ``__post_init__`` raises ValueError for values that cannot
            be used. Users set a field with ``NAME=VALUE``, a tuple with ``NAME=64,16``.
    """

    options: type = NoOptions


@dataclass(frozen=True, kw_only=True)
class DatasetAdapter(Factory):
    """A dataset: how to read it, and what people must know about it.

    Its ``name`` is also the name of its folder under the data root. Users set its options with
    ``--option DATASET.NAME=VALUE``.

    Attributes:
        classes: Names of the classes by label; of two, index 1 is the positive one. Of a
            regression, the one name of the number; of a multi-label task, the names of the labels.
        read: ``read(root, options)`` yields every case once, as a `Sample` or as `Unusable`.
            Raises `DataError` where the dataset as a whole cannot be read.
        field_of_view: How much of the image the network sees.
        version: Changes whenever ``read`` gives something else from the same files: prepared
            data of an older version is then made anew.
        layout: The files that ``root`` must hold, in a line or two.
        how_to_get: Where to get them.
        citation: How to cite the dataset; its licence in ``licence``.
        task: What a label is.
        cohort: Whose patients these are. Datasets of one cohort share patient identifiers, and a
            patient is then in the same split of all of them. None: its patients are its own.
        elsewhere: Folders outside of ``root`` that hold files of the dataset too: like ``root``,
            they are watched for changes.
    """

    classes: tuple[str, ...]
    read: Callable[[Path, Any], Iterator[Sample | Unusable]]
    field_of_view: FieldOfView
    version: str
    layout: str
    how_to_get: str
    citation: str
    licence: str
    task: Task = "classification"
    cohort: str | None = None
    elsewhere: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HeadFactory(Factory):
    """A kind of head (decision maker).

    Attributes:
        build: ``build(features, outputs, options)`` gives a new module that turns
            ``(batch, features)`` into logits ``(batch, outputs)``. The shapes of its tensors
            depend on the arguments alone. Softmax belongs to the metrics. Every round sets the
            probability of its dropout layers.
        tasks: What it can learn. Of a regression, the one output is the number; of a multi-label
            task, each output is the logit of one label.
    """

    build: Callable[[int, int, Any], nn.Module]
    tasks: tuple[Task, ...] = ("classification",)


@runtime_checkable
class Body(Protocol):
    """What an ``nn.Module`` must have to serve as a body.

    It turns images ``(batch, in_channels, patch, patch)`` into ``(batch, features)``. Freezing it
    and setting the probability of its dropout layers is done from outside.

    Attributes:
        features: Numbers that it gives for an image.
        in_channels: Channels of the images that it takes.
        patch: Side in pixels of the square images that it takes.
        by_dataset: Whether `use` changes what it computes. A batch then holds images of one
            dataset.
    """

    features: int
    in_channels: int
    patch: int
    by_dataset: bool

    def use(self, dataset: str) -> None:
        """Prepare for images of a dataset; called before every epoch and evaluation.

        Raises:
            ValueError: It treats datasets differently, and was not built for this one.
        """


@dataclass(frozen=True, kw_only=True)
class BodyFactory(Factory):
    """A kind of body (feature extractor).

    Its options have a field ``patch``: the side in pixels of the images that the body takes.

    Attributes:
        build: ``build(in_channels, options, datasets)`` gives a new ``nn.Module`` that is a `Body`.
            ``datasets`` are the names of the plan's datasets, for a body that treats them
            differently. The shapes of its tensors depend on the arguments alone.
    """

    build: Callable[[int, Any, Sequence[str]], Body]


@dataclass(frozen=True)
class Settings:
    """What a strategy may know about how rounds are to be trained.

    Attributes:
        hyperparameters: ``hyperparameters(train, place)`` gives those of the profile (with the
            user's changes) for a round that trains ``"head"``, ``"all"``, ``"norm"`` or ``"none"``
            (the last two have those of ``"all"``) and is the ``"first"``, the ``"last"`` or a
            ``"middle"`` one of its kind.
    """

    hyperparameters: Callable[[Train, RoundPosition], Hyperparameters]


@dataclass(frozen=True, kw_only=True)
class SequenceStrategy(Described):
    """An order of training: which dataset trains what, one round after another.

    Attributes:
        plan: ``plan(datasets, settings)`` lists the rounds for the datasets, of which the last is
            the target. It only describes: no files, no torch, no randomness.
        bootstrap: Number of random starts that it needs, in place of the profile's.
    """

    plan: Callable[[Sequence[str], Settings], list[Round]]
    bootstrap: int | None = None


@runtime_checkable
class Launcher(Protocol):
    """Runs the cells of a comparison somewhere; the comparison's folder is the only channel.

    What became of each cell is in its folder (`hydrakit.compare.design.CompareDir.status`).
    """

    def processes(self, context: Any, groups: int) -> int:
        """How many cells run at once.

        Args:
            context: Where and how (a `hydrakit.RunContext`); ``jobs`` is what the user asked for.
            groups: Number of groups of cells; more processes than these have nothing to do.

        Raises:
            PlanError: There is no such device.
        """

    def run(
        self,
        groups: Sequence[Sequence[tuple[Any, Any]]],
        folder: Path,
        context: Any,
        *,
        processes: int,
        on_poll: Callable[[], None],
        on_killed: Callable[[Any, str], None],
    ) -> None:
        """Run all cells, and return when none is left to run.

        Args:
            groups: Cells that are not done, each with its plan, grouped by what they have in
                common.
            folder: Folder of the comparison.
            context: Where and how to run each cell (a `hydrakit.RunContext`), with ``round_cache``
                set.
            processes: What `processes` returned for all groups, also for those that are done: so
                each cell of a continued comparison has as many threads.
            on_poll: Called a few times a second.
            on_killed: Called with a cell whose process ended before its time, and how it ended.
        """


@dataclass(frozen=True, kw_only=True)
class LauncherFactory(Factory):
    """A way to run the cells of a comparison.

    Attributes:
        build: ``build(options)`` gives a `Launcher`.
    """

    build: Callable[[Any], Launcher]


@runtime_checkable
class Tracker(Protocol):
    """Receives the metrics of a run while it goes on."""

    def open(self, folder: Path) -> dict[str, set[int]]:
        """Begin, or go on, in a run's folder; gives the steps of every metric that it has."""

    def send(self, name: str, value: float, step: int) -> None:
        """Record the value of a metric at a step."""

    def flush(self) -> None:
        """Make safe what was sent."""

    def close(self, *, failed: bool) -> None:
        """End the record: the run is over, or has failed."""


@dataclass(frozen=True, kw_only=True)
class TrackerFactory(Factory):
    """A service that metrics can be sent to.

    Attributes:
        build: ``build(options)`` gives a `Tracker`.
    """

    build: Callable[[Any], Tracker]


@hookspec
def hydrakit_dataset_adapters() -> Iterable[DatasetAdapter]:  # type: ignore[empty-body]
    """The datasets that this plugin can read."""


@hookspec
def hydrakit_head_factories() -> Iterable[HeadFactory]:  # type: ignore[empty-body]
    """The kinds of head that this plugin can build."""


@hookspec
def hydrakit_body_factories() -> Iterable[BodyFactory]:  # type: ignore[empty-body]
    """The kinds of body that this plugin can build."""


@hookspec
def hydrakit_sequence_strategies() -> Iterable[SequenceStrategy]:  # type: ignore[empty-body]
    """The orders of training that this plugin knows."""


@hookspec
def hydrakit_launchers() -> Iterable[LauncherFactory]:  # type: ignore[empty-body]
    """The ways to run the cells of a comparison that this plugin has."""


@hookspec
def hydrakit_trackers() -> Iterable[TrackerFactory]:  # type: ignore[empty-body]
    """The services that this plugin can send metrics to."""


@hookspec
def hydrakit_commands() -> Iterable[click.Command]:  # type: ignore[empty-body]
    """Further commands of the ``hydrakit`` program."""
