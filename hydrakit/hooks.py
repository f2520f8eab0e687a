"""Everything that a plugin can add to hydrakit: data classes to fill in, and hooks that yield them.

A plugin is a module that an entry point of the group ``hydrakit`` names. It implements one or more
of the hooks at the end of this file. Each hook yields descriptions: frozen dataclasses that hold a
name and a function. Nothing is inherited or registered. This plugin adds a dataset, a head and a
body::

    from dataclasses import dataclass
    from functools import partial

    from hydrakit.errors import DataError
    from hydrakit.hooks import (
        BodyFactory, DatasetAdapter, FieldOfView, HeadFactory, Sample, hookimpl
    )

    CLASSES = ("benign", "malignant")

    def read(root, options):
        for path in sorted(root.glob("*/*.png")):  # such as malignant/patient7-2.png
            yield Sample(
                image=partial(load, path),
                label=CLASSES.index(path.parent.name),
                patient=path.name.partition("-")[0],
                key=f"{path.parent.name}/{path.name}",
                source=(path,),
            )

    def load(path):
        import numpy as np
        from PIL import Image

        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("L"), dtype=np.float32)
        except (OSError, SyntaxError):
            raise DataError("the image file is missing or damaged") from None

    def build_head(features, outputs, options):
        from torch import nn

        return nn.Sequential(nn.Dropout(), nn.Linear(features, outputs))

    @dataclass(frozen=True)
    class BodyOptions:
        patch: int = 65
        width: int = 16

    def build_body(in_channels, options, datasets):
        from torch import nn

        class Body(nn.Sequential):
            by_dataset = False

            def use(self, dataset):
                pass

        body = Body(
            nn.Conv2d(in_channels, options.width, kernel_size=5),
            nn.BatchNorm2d(options.width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        body.in_channels, body.features, body.patch = in_channels, options.width, options.patch
        return body

    @hookimpl
    def hydrakit_dataset_adapters():
        yield DatasetAdapter(
            name="skin",
            summary="Photographs of skin lesions, benign or malignant",
            classes=CLASSES,
            read=read,
            field_of_view=FieldOfView(share=1.0),
            version="1",
            layout="benign/PATIENT-NUMBER.png and malignant/PATIENT-NUMBER.png",
            how_to_get="Ask the dermatology department for the export of 2024.",
            citation="none",
            licence="for research in this hospital only",
        )

    @hookimpl
    def hydrakit_head_factories():
        yield HeadFactory(name="plain", summary="Dropout, then one dense layer", build=build_head)

    @hookimpl
    def hydrakit_body_factories():
        yield BodyFactory(
            name="pooled", summary="One convolution", build=build_body, options=BodyOptions
        )

Every command of hydrakit imports the modules of all plugins, ``hydrakit --help`` too. Import torch,
pydicom, pydantic, NumPy and other slow packages inside the functions that need them.

If a function of a plugin raises an exception, or returns a value of the wrong type or shape, the
user gets one line that names the plugin, the function and the fault. To tell users what they can
correct, raise an exception of `hydrakit.errors`: its message is printed as it is.
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

    from hydrakit.file_rules import FileRules
    from hydrakit.rounds import FlipAxis, Hyperparameters, Round, RoundPosition, Train
    from hydrakit.sources import KaggleDataset, ManualFile, PublicCollection

__all__ = [
    "API",
    "ENTRY_POINT_GROUP",
    "Body",
    "BodyFactory",
    "ChannelRule",
    "DatasetAdapter",
    "Factory",
    "FieldOfView",
    "HeadFactory",
    "InputNeeds",
    "Label",
    "Launcher",
    "LauncherFactory",
    "NamedComponent",
    "NamedNormalise",
    "NoOptions",
    "Normalise",
    "OptionValue",
    "Remark",
    "Sample",
    "Scalar",
    "SequenceStrategy",
    "Settings",
    "Task",
    "TrackedRun",
    "Tracker",
    "TrackerFactory",
    "Unusable",
    "Window",
    "hookimpl",
    "hydrakit_body_factories",
    "hydrakit_commands",
    "hydrakit_dataset_adapters",
    "hydrakit_head_factories",
    "hydrakit_launchers",
    "hydrakit_sequence_strategies",
    "hydrakit_trackers",
]

API = 1
"""Version of the hook API: the hooks and classes of this module, and how hydrakit calls functions.

New hooks, new fields with defaults and new values that a field may have leave it as it is. It grows
by one when a plugin that was written for it would no longer work (docs/compatibility.md). A plugin
may state the version that it was written for, ``HYDRAKIT_API = 1``, beside its hooks: it is then
refused in one line if that is another one, before its hooks are called.
"""

ENTRY_POINT_GROUP = "hydrakit"
"""Group of the entry points that name plugins."""

hookspec = pluggy.HookspecMarker("hydrakit")

hookimpl = pluggy.HookimplMarker("hydrakit")
"""Decorator that marks a function as the implementation of the hook with its name."""

Scalar = str | int | float | bool
"""A single value of an option."""

OptionValue = Scalar | None | tuple[Scalar, ...]
"""A value of an option, as a plan stores it."""

ChannelRule = Literal["grey", "repeat", "stem"]
"""What to do with images whose number of channels is not that of the body's input."""

Task = Literal["classification", "regression", "multilabel"]
"""Kind of label: one of several classes, a number, or several yes-or-no answers at once."""

Label = int | float | tuple[int | None, ...]
"""Label of a sample: index of its class; its number; or for each answer 1, 0 or None (unknown)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One image of a dataset with its label, before normalisation and cropping.

    Attributes:
        image: Pixel values as a float32 array ``(height, width)`` or ``(channels, height, width)``,
            in the unit of the file (for CT, Hounsfield units); all finite, and the same number of
            channels in the whole dataset. Padding (pixels outside of the scan) may be masked with
            `numpy.ma`: it does not count in the z-score. Better a function without parameters that
            returns this array: hydrakit then reads only images that are not prepared yet, several
            at a time. It calls the function at most once, perhaps in another thread, perhaps after
            ``read`` has ended. If the file cannot be read, the function raises DataError with a
            short reason, the same for all cases with that cause; the case then counts as
            `Unusable`.
        label: For classification, the index of the class in the adapter's ``classes``; for
            regression, a number; for a multi-label task, a tuple with a 1 (present), a 0 (absent)
            or None (unknown: neither trained on nor tested) for each of the ``classes``, of which
            one or more are known. None if the label is unknown: the sample can then only be
            predicted.
        patient: Pseudonym of the patient. All samples of a patient are in the same split and are
            z-scored together. If the dataset does not name the patient, give the key, which
            hydrakit does not take for a name (unless ``named``).
        key: Unique name of the sample in its dataset, the same every time the dataset is read.
        group: Name shared by samples that must be in the same split, such as all images of one
            exam or copies of one image; needed only if they belong to several patients.
        finding: Name of the lesion or other finding in the image. If several samples (slices or
            augmented copies) show one finding, their scores are averaged and it counts once in the
            test metrics. Names of findings are separate for each patient. All samples of a finding
            have the same label. None: the sample is a finding by itself, together with exact
            copies of its image from the same patient.
        centre: ``(row, column)`` of the lesion in pixels; (0, 0) is the centre of the top left
            pixel. None: the centre of the image.
        spacing: ``(row, column)`` distance between neighbouring pixels in millimetres; required if
            the adapter's field of view is in millimetres.
        extent: ``(height, width)`` of the lesion in pixels, as its mask shows it; required if the
            adapter's field of view is a multiple of it.
        split: ``train``, ``val`` or ``test`` if the dataset itself defines its splits. None:
            hydrakit assigns the split.
        facts: Properties of the file that should not predict the label, such as format, bit depth
            or scanner; hydrakit warns if one does. No properties of the patient.
        subgroups: Values by which the test metrics are also reported separately:
            ``{"zone": "PZ", "scanner": "Skyra"}``. They may predict the label, as a zone does.
            Nothing that identifies the patient. A property can be a fact and a subgroup.
        source: Files that determine the pixels. The image is prepared again only if one of them,
            ``centre``, ``spacing`` or ``extent`` changes. Without a source it is prepared again
            every time.
        named: Whether ``patient`` is a patient's name although it equals the key.
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
    extent: tuple[float, float] | None = None
    named: bool = False

    def __post_init__(self) -> None:
        """Check the types of the attributes.

        Raises:
            TypeError: An attribute has the wrong type; the message names the case and it.
        """
        _check_types(
            self,
            {
                "key": (_is_text, "text (str)"),
                "patient": (_is_text, "text (str)"),
                "group": (_is_optional_text, "text (str) or None"),
                "split": (_is_optional_text, "text (str) or None"),
                "finding": (_is_optional_text, "text (str) or None"),
                "facts": (_has_text_keys, "a mapping with keys of text"),
                "subgroups": (_has_text_keys, "a mapping with keys of text"),
                "centre": (_is_optional_pair, "a pair of numbers or None"),
                "spacing": (_is_optional_pair, "a pair of numbers or None"),
                "extent": (_is_optional_pair, "a pair of numbers or None"),
                "source": (_is_paths, "a tuple of pathlib.Path"),
                "named": (lambda value: isinstance(value, bool), "True or False"),
            },
        )


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A case that the dataset lists, but that gives no sample.

    Attributes:
        key: Key that its sample would have.
        reason: Why there is no sample, in one short phrase without patient data, the same for all
            cases with that cause.
    """

    key: str
    reason: str

    def __post_init__(self) -> None:
        """Check the types of the attributes.

        Raises:
            TypeError: The key or the reason is not text.
        """
        text = (_is_text, "text (str)")
        _check_types(self, {"key": text, "reason": text})


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something that users must know about how a dataset was read; it concerns no single case.

    Attributes:
        text: One line without patient data that says what was done and, if it may be wrong, what to
            do about it.
        warning: Whether results may be wrong because of it: runs then print it too. Otherwise only
            ``hydrakit datasets check`` lists it.
    """

    text: str
    warning: bool = False


def _check_types(
    case: Sample | Unusable, rules: Mapping[str, tuple[Callable[[Any], bool], str]]
) -> None:
    for name, (is_valid, expected) in rules.items():
        if not is_valid(getattr(case, name)):
            raise TypeError(f"case {case.key!r}: {name} must be {expected}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_optional_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _has_text_keys(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


def _is_optional_pair(value: object) -> bool:
    return value is None or (
        isinstance(value, Sequence) and len(value) == 2 and all(isinstance(n, Real) for n in value)
    )


def _is_paths(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(path, Path) for path in value)


@dataclass(frozen=True, kw_only=True)
class FieldOfView:
    """Size of the region around a sample's centre that the network sees; give exactly one.

    Attributes:
        millimetres: Side of a square in the image plane. Samples then need their ``spacing``.
        share: Part of the height and of the width of the image; 1.0 is the whole image.
        mask: Side of a square, as a multiple of the longer side of the lesion. Samples then need
            their ``extent``.
    """

    millimetres: float | None = None
    share: float | None = None
    mask: float | None = None

    def __post_init__(self) -> None:
        """Check that exactly one size is given, and that it is positive.

        Raises:
            ValueError: None or both are given, or the size is not positive.
        """
        given = (self.millimetres, self.share, self.mask)
        sizes = [size for size in given if size is not None]
        if len(sizes) != 1 or not sizes[0] > 0:
            raise ValueError(
                "a field of view is one positive size: in millimetres, as a share, or as a "
                "multiple of the lesion in a mask"
            )


@dataclass(frozen=True, kw_only=True)
class Window:
    """A range of grey values: it becomes -1 to 1, and values outside are set to its ends.

    Attributes:
        window: Lower and upper end, in the image's unit.
    """

    window: tuple[float, float]

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic's name, in a plan's record

    def __post_init__(self) -> None:
        """Check that the ends are finite and in order.

        Raises:
            ValueError: They are not.
        """
        low, high = self.window
        if not -float("inf") < low < high < float("inf"):
            raise ValueError("a window is two finite numbers, the lower one first")


NamedNormalise = Literal["patient", "image", "dataset", "none"]
"""Rules by which grey values are normalised before training.

Z-scored by mean and standard deviation over the whole images of each patient, over each image, or
over all images of the training split; or not at all.
"""

Normalise = NamedNormalise | Window
"""How grey values are normalised: by a rule that has a name, or by a window."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Options of a component without options."""


@dataclass(frozen=True, kw_only=True)
class NamedComponent:
    """Attributes that all components have.

    Attributes:
        name: Name that users write: 1 to 64 lower-case letters, digits, ``-`` and ``_``; the first
            is a letter or digit. No other component of that kind has it.
        summary: One line that says what it is, for lists.
    """

    name: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class Factory(NamedComponent):
    """A component with typed options.

    Attributes:
        options: A frozen dataclass of the standard library. Each field has a default, and one of
            these types: ``str``, ``int``, ``float``, ``bool``, a ``Literal`` of such values, a
            ``tuple[..., ...]`` of one of these, or any of these ``| None``.
            ``field(metadata={"help": ...})`` describes the field for users, who set it with
            ``NAME=VALUE`` and a tuple with ``NAME=64,16``. ``__post_init__`` may raise ValueError
            for values that the component cannot use.
    """

    options: type = NoOptions


@dataclass(frozen=True, kw_only=True)
class DatasetAdapter(Factory):
    """A dataset: how hydrakit reads it, and what users must know about it.

    ``name`` is also the name of the dataset's folder below the data root. Users set an option with
    ``--option DATASET.NAME=VALUE``.

    Attributes:
        classes: Names of the classes, in the order of their labels; of two classes, the second is
            the positive one. For regression, the name of the number alone; for a multi-label task,
            the names of the labels.
        read: Function ``read(root, options)`` that yields each case once, as a `Sample` or as
            `Unusable`, always in the same order (sort lists of files), and any number of `Remark`.
            ``root`` is the dataset's folder, ``options`` an instance of the dataclass in
            ``options``. It raises `DataError` if the dataset as a whole cannot be read.
        field_of_view: Region of the image that the network sees.
        version: Any text. Change it whenever ``read`` gives other samples for the same files.
        layout: Files that must be in ``root``, in one or two lines.
        how_to_get: Where users get these files.
        citation: How to cite the dataset.
        licence: Licence of the dataset.
        task: Kind of label.
        cohort: Name of the group of patients: datasets of one cohort use the same identifiers, and
            a patient is in the same split of all of them. None: no other has these patients.
        elsewhere: Further folders of the dataset outside ``root``, also watched for changes.
        normalise: How grey values are normalised, over whole images. A plan may say another rule.
        flips: Axes along which an image may be mirrored, where a round's augmentation mirrors:
            leave out an axis if left and right, or above and below, matter. None: no restriction.
        channels: What to do if the body takes another number of channels: convert colour to
            ``grey`` (luminance), ``repeat`` a single channel, or train a ``stem``, a convolution of
            the dataset's own. None: hydrakit chooses.
        exact_names: Whether names of patients, groups and findings like ``P07`` and ``p7`` differ.
        source: From where ``hydrakit datasets get`` fetches the images (`hydrakit.sources`).
        by_hand: Files that it cannot fetch; it names those that are missing.
        file_rules: How files that are given for prediction are read; None: by default.
    """

    classes: tuple[str, ...]
    read: Callable[[Path, Any], Iterator[Sample | Unusable | Remark]]
    field_of_view: FieldOfView
    version: str
    layout: str
    how_to_get: str
    citation: str
    licence: str
    task: Task = "classification"
    cohort: str | None = None
    elsewhere: tuple[Path, ...] = ()
    normalise: Normalise = "patient"
    flips: tuple[FlipAxis, ...] | None = None
    channels: ChannelRule | None = None
    exact_names: bool = False
    source: PublicCollection | KaggleDataset | None = None
    by_hand: tuple[ManualFile, ...] = ()
    file_rules: FileRules | None = None


@dataclass(frozen=True, kw_only=True)
class HeadFactory(Factory):
    """A kind of head (the paper calls it a decision maker).

    Users choose it with ``--head NAME`` and set an option with ``--head-option NAME=VALUE``.

    Attributes:
        build: Function ``build(features, outputs, options)`` that returns a new ``nn.Module``. The
            module turns features ``(batch, features)`` into logits ``(batch, outputs)``, without
            softmax. The shapes of its tensors depend only on the arguments. At the start of each
            round hydrakit sets the probability of its dropout layers.
        tasks: Kinds of label that it can learn. For regression, its one output is the number; for a
            multi-label task, each output is the logit of one label.
    """

    build: Callable[[int, int, Any], nn.Module]
    tasks: tuple[Task, ...] = ("classification",)


@runtime_checkable
class Body(Protocol):
    """Attributes that an ``nn.Module`` needs to be a body (feature extractor).

    Its ``forward`` turns images ``(batch, in_channels, patch, patch)`` into features
    ``(batch, features)``. hydrakit freezes the module and sets the probability of its dropout
    layers from outside. In evaluation mode, the features of an image must not depend on the other
    images of the batch.

    Attributes:
        features: Number of features that it computes for an image.
        in_channels: Number of channels of its input images.
        patch: Height and width of its input images in pixels.
        by_dataset: Whether `use` changes what it computes. If True, each batch holds images of a
            single dataset.
    """

    features: int
    in_channels: int
    patch: int
    by_dataset: bool

    def use(self, dataset: str) -> None:
        """Prepare for images of a dataset; called before each epoch and each evaluation.

        Raises:
            ValueError: It treats datasets differently, and was not built for this one.
        """


@dataclass(frozen=True, kw_only=True)
class InputNeeds:
    """What a body needs of its input images; a plan that does not meet it is refused.

    Attributes:
        patch: Least height and width in pixels.
        channels: Numbers of channels that it takes. None: any.
        normalise: Rules by which grey values may be normalised (``window`` for any `Window`).
            None: any.
    """

    patch: int = 1
    channels: tuple[int, ...] | None = None
    normalise: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class BodyFactory(Factory):
    """A kind of body (feature extractor).

    Its options must have a field ``patch``: height and width of the input images in pixels. Users
    choose it with ``--body NAME`` and set an option with ``--body-option NAME=VALUE``.

    Attributes:
        build: Function ``build(in_channels, options, datasets)`` that returns a new ``nn.Module``
            with the attributes of `Body`. ``datasets`` are the names of the datasets of the plan,
            for a body that treats them differently. The shapes of its tensors depend only on the
            arguments.
        needs: What it needs of its input images.
    """

    build: Callable[[int, Any, Sequence[str]], Body]
    needs: InputNeeds = InputNeeds()


@dataclass(frozen=True)
class Settings:
    """Values of the user's profile that a strategy puts into its rounds.

    Attributes:
        hyperparameters: Function ``hyperparameters(train, position)`` that returns the values for a
            round. ``train`` is ``"head"``, ``"all"``, ``"norm"`` or ``"none"`` (the last two have
            the values of ``"all"``); ``position`` is ``"first"``, ``"middle"`` or ``"last"`` among
            the rounds with that ``train``.
    """

    hyperparameters: Callable[[Train, RoundPosition], Hyperparameters]


@dataclass(frozen=True, kw_only=True)
class SequenceStrategy(NamedComponent):
    """A training sequence: which dataset trains which weights, round by round.

    Attributes:
        plan: Function ``plan(datasets, settings)`` that returns the list of rounds. ``datasets``
            are names in the order of the user; the last is the target. The function only describes
            rounds: it reads no files, draws no random numbers and does not import torch.
        bootstrap: Number of random starts to choose from. None: the number of the user's profile.
        body: Kind of body that the strategy needs, such as ``intensity``. None: the user's.
        head: Kind of head that it needs. None: the user's.
        baseline: Whether it is a simple model to compare networks with, and no network worth
            training by itself.
    """

    plan: Callable[[Sequence[str], Settings], list[Round]]
    bootstrap: int | None = None
    body: str | None = None
    head: str | None = None
    baseline: bool = False


@runtime_checkable
class Launcher(Protocol):
    """Runs jobs in processes of their own, on this machine or on others.

    A job (`hydrakit.jobs.job.Job`) is a plan to train in a folder. Its file, which ``job.write``
    writes, is all that a process needs: ``hydrakit job FILE ...`` (`hydrakit.jobs.job.job_command`)
    runs one job after another, and continues those that were stopped. Progress and results are in
    the folders of the runs; a launcher says only which processes have ended.

    A launcher may also have ``preview(context, groups, folder, *, processes)``, which returns the
    text of what it would submit for a number of groups, for ``--dry-run``.
    """

    def processes(self, context: Any, groups: int) -> int:
        """Return how many jobs to run at the same time.

        Args:
            context: Where and how to run (a `hydrakit.RunContext`); its ``jobs`` is the number that
                the user asks for.
            groups: Number of groups of jobs; further processes would have nothing to do.

        Raises:
            PlanError: The device does not exist.
        """

    def threads(self, groups: int) -> int:
        """Return the number of CPU threads of each job, if the user names none.

        The last digits of results depend on it, so it must not depend on what else is running.

        Args:
            groups: Number of groups of jobs.
        """

    def submit(self, groups: Sequence[Sequence[Any]], folder: Path, *, processes: int) -> None:
        """Queue jobs, and return. It is called again for further jobs, and for lost ones.

        Args:
            groups: Jobs. Those of a group share rounds, so one process should run them one after
                another.
            folder: Folder for the files of the jobs (``job.write(folder)``), and for whatever the
                launcher writes.
            processes: Number that `processes` returned.
        """

    def poll(self) -> Sequence[tuple[Any, str]]:
        """Wait for at most about half a second, and return the jobs that have ended since.

        Returns:
            Each job whose process has ended, with how it ended in a few words, such as "exit status
            1". Whether the job is done is in its folder; a job that is not is submitted again.
        """

    def states(self) -> Mapping[str, str]:
        """Return the state of jobs that have not ended, by name, for `hydrakit status`.

        It is in the words of the engine, such as "PENDING", and empty if there is nothing to say.
        """

    def cancel(self) -> None:
        """Stop what is running, so that it writes checkpoints, and forget what is queued."""


@dataclass(frozen=True, kw_only=True)
class LauncherFactory(Factory):
    """A way to run jobs, such as the cells of a comparison.

    Attributes:
        build: Function ``build(options)`` that returns a `Launcher`.
    """

    build: Callable[[Any], Launcher]


@runtime_checkable
class Tracker(Protocol):
    """Records the metrics of a run during training.

    A tracker may also have ``describe(run)``, which gets a `TrackedRun` before `open`, and
    ``attach(path)``, which gets the report of a finished run before `close`.
    """

    def open(self, folder: Path) -> dict[str, set[int]]:
        """Start or continue the record of a run.

        Args:
            folder: Folder of the run.

        Returns:
            For each metric that the record already has, the steps of its values.
        """

    def send(self, name: str, value: float, step: int) -> None:
        """Record the value of a metric at a step.

        Args:
            name: Name of the metric, such as ``02-brain-all/val auc``.
            value: Its value.
            step: Number of the epoch, from 1.
        """

    def flush(self) -> None:
        """Write all values sent so far to permanent storage."""

    def close(self, *, failed: bool) -> None:
        """Close the record at the end of the run; ``failed`` says whether an error ended it."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as trackers see it.

    Attributes:
        key: Identifies the run in a store of many runs: unchanged when the run is resumed, and
            another one for a new run in the same folder.
        name: Name of the run's folder.
        folder: The folder, absolute.
        group: Name of the folder of the comparison or the search that the run is a part of.
        parameters: The main values of the plan, each text of at most 500 characters.
    """

    key: str
    name: str
    folder: Path
    group: str | None
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class TrackerFactory(Factory):
    """A service that records the metrics of runs.

    Users choose the store with ``--track-to``, which sets the option ``to`` of trackers that have
    it.

    Attributes:
        build: Function ``build(options)`` that returns a `Tracker`.
    """

    build: Callable[[Any], Tracker]


@hookspec
def hydrakit_dataset_adapters() -> Iterable[DatasetAdapter]:  # type: ignore[empty-body]
    """Yield datasets."""


@hookspec
def hydrakit_head_factories() -> Iterable[HeadFactory]:  # type: ignore[empty-body]
    """Yield kinds of head."""


@hookspec
def hydrakit_body_factories() -> Iterable[BodyFactory]:  # type: ignore[empty-body]
    """Yield kinds of body."""


@hookspec
def hydrakit_sequence_strategies() -> Iterable[SequenceStrategy]:  # type: ignore[empty-body]
    """Yield training sequences."""


@hookspec
def hydrakit_launchers() -> Iterable[LauncherFactory]:  # type: ignore[empty-body]
    """Yield ways to run the cells of a comparison."""


@hookspec
def hydrakit_trackers() -> Iterable[TrackerFactory]:  # type: ignore[empty-body]
    """Yield services that record the metrics of runs."""


@hookspec
def hydrakit_commands() -> Iterable[click.Command]:  # type: ignore[empty-body]
    """Yield further commands of the ``hydrakit`` program."""
