"""A plan: everything that determines the result of a run, except for the data.

A strategy lists the rounds of a plan. A run saves its plan as ``plan.json``, which people can read,
compare and edit. The place of the data and the device do not determine the result, and are not part
of the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PlainSerializer,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from hydrakit.errors import PlanError
from hydrakit.hooks import ChannelRule, DatasetAdapter, Factory, Normalise, OptionValue
from hydrakit.plan.start import Channels, NetworkWeights, StartWeights, facts_of
from hydrakit.plan.view import StoredView
from hydrakit.plugins.options import resolve_options
from hydrakit.rounds import MAX_DATASETS, MAX_VIEWS, FlipAxis, Round
from hydrakit.schema import (
    Count,
    Frozen,
    Name,
    OptionText,
    Seed,
    Text,
    VersionedName,
    first_fault,
)
from hydrakit.storage.files import MIB, read_json
from hydrakit.storage.records import refuse_later

# Limits of a plan: far above any real plan, and far below what would fill the memory.
MAX_PLAN = 4 * MIB  # bytes of the file
MAX_ROUNDS = 1000
MAX_FOLDS = 1000
MAX_ENSEMBLE = 100
MAX_PATCH = 1024
MAX_FEATURES = 2**14
MAX_WEIGHTS = 2**25  # weights of a body: 40 times as many as the paper's
PAPER = "paper"  # plans list the options of this body without its name

Features = Annotated[int, Field(gt=0, le=MAX_FEATURES)]
Copies = Literal["group", "drop", "report"]
"""Handling of copies of an image: all in one split, only those of one patient, or only reported."""

Conflicts = Literal["error", "keep", "drop"]
"""Handling of copies with different labels: refused, used, or left out."""

BootstrapRule = Literal["all", "halving"]
"""How random starts are compared: all to the end, or half of them left out again and again."""

NormKind = Literal["batch", "group", "dataset"]
"""Normalisation layers: batch norm, group norm, or batch norm with statistics of each dataset."""


class Fold(Frozen):
    """One fold of a cross-validation.

    Attributes:
        index: Number of the fold, counted from 0.
        count: Number of folds.
    """

    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=2, le=MAX_FOLDS)]

    @model_validator(mode="after")
    def _check_index(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"fold {self.index} of {self.count} does not exist: folds start at 0")
        return self


class LeftOut(Frozen):
    """A value of a subgroup that is left out of training.

    Attributes:
        subgroup: Name of the subgroup, such as ``scanner``.
        value: The value, such as ``Skyra``.
    """

    subgroup: Text
    value: Text

    def __str__(self) -> str:
        """Text such as ``scanner 'Skyra'``."""
        return f"{self.subgroup} {self.value!r}"


class Split(Frozen):
    """Shares of a dataset's cases for training, validation and test.

    Attributes:
        train: Share of the training split, relative to ``val`` and ``test``.
        val: Share of the validation split.
        test: Share of the test split; 0 if ``fold`` or ``left_out`` is given.
        fold: Fold that is the test split; training and validation share the other cases.
        left_out: Value of a subgroup whose findings are the test split; training and validation
            share the cases of other patients (`hydrakit.data.quality.left_out`).
        used: Share of the patients outside the test split to use; 1 uses all. The test split does
            not depend on it.
        inner: Fold of the cases outside the test split that takes the place of the test split, for
            a search; the cases of the test split itself are not used.
        final: Whether all cases train and validate, also those that the dataset itself puts into a
            test split: for the model that `hydrakit finish --how retrain` trains.
    """

    train: PositiveFloat
    val: PositiveFloat
    test: NonNegativeFloat = 0.0
    fold: Fold | None = None
    left_out: LeftOut | None = None
    used: Annotated[float, Field(gt=0, le=1)] = 1.0
    inner: Fold | None = None
    final: bool = False

    @model_validator(mode="after")
    def _check_test(self) -> Self:
        if self.fold is not None and self.test > 0:
            raise ValueError("a split has a test share or a fold, not both")
        if self.left_out is not None and (self.fold is not None or self.test > 0):
            raise ValueError("a split with 'left_out' has no test share and no fold")
        if self.inner is not None and not self.tests:
            raise ValueError("an inner fold needs a test split: a test share or a fold")
        if self.final and (self.tests or self.used < 1):
            raise ValueError("a final split uses all cases: it has no test split and no 'used'")
        return self

    @model_serializer(mode="wrap")
    def _omit_default_used(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields with their defaults: older plans keep their digests."""
        content: dict[str, Any] = serialise(self)
        if self.used == 1:
            content.pop("used", None)
        for name in ("inner", "left_out"):
            if getattr(self, name) is None:
                content.pop(name, None)
        if not self.final:
            content.pop("final", None)
        return content

    @property
    def tests(self) -> bool:
        """Whether there is a test split."""
        return self.test > 0 or self.fold is not None or self.left_out is not None


StoredScalar = OptionText | int | float | bool


class Component(Frozen):
    """A component of a plan.

    Attributes:
        name: Its name.
        options: Its options by name; those that are missing have their defaults.
    """

    name: Name
    options: dict[Name, StoredScalar | tuple[StoredScalar, ...] | None] = Field(
        default_factory=dict
    )

    @classmethod
    def of(cls, factory: Factory, given: Mapping[str, OptionValue]) -> Self:
        """Describe a component; list all its options, or none if all have their defaults.

        Args:
            factory: The component.
            given: Values of some of its options.

        Raises:
            PlanError: An option is unknown, or its value is not allowed.
        """
        options = resolve_options(factory, given)
        same = options == resolve_options(factory, {})
        return cls.model_validate({"name": factory.name, "options": {} if same else options})

    def __str__(self) -> str:
        """Text such as ``mlp`` or ``mlp (hidden=64,16)``."""
        options = (
            f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in self.options.items()
        )
        return f"{self.name} ({', '.join(options)})" if self.options else self.name


def _parse_head(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _serialise_head(head: Component) -> str | Component:
    return head if head.options else head.name


# In JSON only the name if all options have their defaults.
Head = Annotated[Component, BeforeValidator(_parse_head), PlainSerializer(_serialise_head)]


class Dataset(Component):
    """A dataset of a plan: name and options of its adapter, and its split.

    Attributes:
        split: Shares of its splits.
        normalise: How its grey values are normalised; None for the adapter's rule.
        field_of_view: Region of the image that the network sees; None for the adapter's.
        flips: Axes along which its images may be mirrored; None for the adapter's. A new plan
            states those of the adapter, so that the plan decides which views a run trains on.
        channels: What to do if the body takes another number of channels; None for the adapter's
            rule.
    """

    split: Split
    normalise: Normalise | None = None
    field_of_view: StoredView | None = None
    flips: tuple[FlipAxis, ...] | None = None
    channels: ChannelRule | None = None

    @model_validator(mode="after")
    def _check_view(self) -> Self:
        if self.field_of_view is not None and (self.field_of_view.share or 0) > 1:
            raise ValueError("the share of a field of view is at most 1, the whole image")
        return self

    @model_serializer(mode="wrap")
    def _omit_none(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields with their defaults: older plans keep their digests."""
        content: dict[str, Any] = serialise(self)
        for name in DATASET_VALUES:
            if getattr(self, name) is None:
                content.pop(name, None)
        return content

    def applied_to(self, adapter: DatasetAdapter) -> DatasetAdapter:
        """The adapter with the values that this plan replaces."""
        given = {name: getattr(self, name) for name in DATASET_VALUES}
        return replace(adapter, **{name: each for name, each in given.items() if each is not None})


DATASET_VALUES = ("normalise", "field_of_view", "flips", "channels")
"""Values of an adapter that a plan can replace."""


class StemShape(Frozen):
    """Numbers of channels of a stem (`hydrakit.models.stem`).

    Attributes:
        images: Channels of the dataset's images.
        body: Channels that the body takes.
    """

    images: Channels
    body: Channels


class BodySpec(Frozen):
    """The shape of the paper's body; only its number of input channels comes from the data.

    Attributes:
        channels: Number of output channels of each block.
        features: Number of features that the body computes for an image.
        patch: Height and width of the input images in pixels.
        norm: Normalisation after every convolution: ``batch`` norm, ``group`` norm (which has no
            statistics), or batch norm with separate statistics for each ``dataset``.
        datasets: Datasets with separate statistics if ``norm`` is ``dataset``; a run fills in the
            datasets of its plan.
    """

    channels: tuple[Features, ...] = (32, 64, 128)
    features: Features = 256
    patch: Annotated[int, Field(gt=0, le=MAX_PATCH)] = 65
    norm: NormKind = "batch"
    datasets: Annotated[tuple[Name, ...], Field(max_length=MAX_DATASETS)] = ()

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if not self.channels:
            raise ValueError("a body needs at least one block")
        weights = self._weight_count()
        if weights > MAX_WEIGHTS:
            raise ValueError(
                f"a body with {weights:,} weights exceeds the limit of {MAX_WEIGHTS:,}: use fewer "
                "channels or features, or a smaller patch"
            )
        return self

    def _weight_count(self) -> int:
        """The approximate number of weights of the body."""
        dense = self.channels[-1] * self.flat_side() ** 2 * self.features
        pairs = pairwise((1, *self.channels))
        return dense + sum((9 * (before + after) + after) * after for before, after in pairs)

    def flat_side(self) -> int:
        """Height and width of the last block's output: a block removes 4 pixels, then halves it."""
        side = self.patch
        for _ in self.channels:
            side = (side - 4) // 2
        if side < 1:
            raise ValueError(
                f"a patch of {self.patch} pixels is too small for {len(self.channels)} blocks"
            )
        return side

    @property
    def name(self) -> str:
        """Name of the body factory."""
        return PAPER

    @property
    def options(self) -> dict[str, Any]:
        """The factory's options."""
        return self.model_dump(exclude={"datasets"})


class OtherBody(Component):
    """A body that is not the paper's; its options include ``patch``."""

    @model_validator(mode="after")
    def _check_patch(self) -> Self:
        patch = self.options.get("patch")
        if type(patch) is not int or not 0 < patch <= MAX_PATCH:
            raise ValueError(f"a body needs the option 'patch', from 1 to {MAX_PATCH}")
        return self

    @property
    def patch(self) -> int:
        """Height and width of the input images in pixels."""
        patch = self.options["patch"]
        assert isinstance(patch, int)
        return patch


def _parse_body(value: Any) -> BodySpec | OtherBody:
    """Parse the paper's body, by its options alone or with its name, or any other body."""
    if isinstance(value, BodySpec | OtherBody):
        return value
    if isinstance(value, Component):
        value = value.model_dump()
    if not isinstance(value, dict) or "name" not in value:
        return BodySpec.model_validate(value)
    if value["name"] != PAPER:
        return OtherBody.model_validate(value)
    return BodySpec.model_validate(Component.model_validate(value).options)


PlannedBody = Annotated[BodySpec | OtherBody, BeforeValidator(_parse_body)]


class Plan(Frozen):
    """Everything that determines the result of a run, except for the data.

    Attributes:
        format: Version of this format.
        strategy: Name of the strategy that listed the rounds, for readers; any name such as
            ``custom`` after edits.
        profile: Name of the profile with the initial values of the rounds, for readers.
        target: Dataset that the run is for; its test split, if any, is read once, at the end.
        datasets: All datasets of the rounds, each once.
        copies: Handling of images that are copies of one another: ``group`` puts them into one
            split, ``drop`` drops those of all patients but one, ``report`` only reports them.
        conflicts: Handling of copies with different labels: they are an ``error``, hydrakit may
            ``keep`` them, or ``drop`` drops all of them, since the right label is unknown.
        strangers: Whether patients of the same name in datasets without a common cohort are
            different people; otherwise such a plan is refused. It changes no result, and is not
            part of the digest.
        head: Kind of head of all datasets that ``heads`` does not name.
        heads: Kinds of head by dataset.
        body: Body that all datasets share.
        body_weights: Weights that the body begins with; None for random ones.
        head_weights: Files of the heads that begin with given weights, by the name of the head.
        member_weights: Weights that the second and further networks of the ensemble begin with, if
            they are others than those of the first. An ensemble with more networks than weights
            uses them in turn.
        ensemble: Number of networks, trained with different seeds on the same splits, whose
            predicted probabilities are averaged.
        test_views: Number of views of each case whose predicted probabilities are averaged in the
            final predictions; 1 is the unaugmented patch alone.
        bootstrap: Number of random starts; training begins from the best on validation.
        bootstrap_rule: ``all`` evaluates every start on all validation cases. ``halving`` evaluates
            them on an eighth of the cases, the best quarter on half of the cases, and the best
            quarter of these on all; it skips steps with fewer than 16 cases of a class.
        seed: Seed of all random numbers.
        split_seed: Seed of the splits, if they must stay the same for another ``seed``.
        rounds: Rounds in the order of training.
    """

    format: Literal[1] = 1
    strategy: Name
    profile: VersionedName
    target: Name
    datasets: Annotated[tuple[Dataset, ...], Field(max_length=MAX_DATASETS)]
    copies: Copies = "group"
    conflicts: Conflicts = "error"
    strangers: bool = False
    head: Head
    heads: dict[Name, Head] = Field(default_factory=dict)
    body: PlannedBody = BodySpec()
    body_weights: StartWeights | None = None
    head_weights: dict[Name, StartWeights] = Field(default_factory=dict)
    member_weights: Annotated[tuple[NetworkWeights, ...], Field(max_length=MAX_ENSEMBLE)] = ()
    ensemble: Annotated[int, Field(gt=0, le=MAX_ENSEMBLE)] = 1
    test_views: Annotated[int, Field(gt=0, le=MAX_VIEWS)] = 1
    bootstrap: Count = 1
    bootstrap_rule: BootstrapRule = "all"
    seed: Seed = 0
    split_seed: Seed | None = None
    rounds: Annotated[tuple[Round, ...], Field(max_length=MAX_ROUNDS)]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) != len(names):
            raise ValueError("a dataset is listed twice in 'datasets'")
        if not self.rounds:
            raise ValueError("'rounds' is empty")
        for name in [self.target, *(name for round in self.rounds for name in round.datasets)]:
            if name not in names:
                raise ValueError(f"{name!r} is not in 'datasets'")
        if all(round.dataset != self.target for round in self.rounds):
            raise ValueError(f"no round trains on the target {self.target!r}")
        for name in self.heads:
            if name not in names:
                raise ValueError(f"{name!r} of 'heads' is not in 'datasets'")
        first_dataset: dict[str, str] = {}
        for round in self.rounds:
            for head, name in zip(round.heads, round.datasets, strict=True):
                first = first_dataset.setdefault(head, name)
                if self.head_of(first) != self.head_of(name):
                    raise ValueError(
                        f"{first!r} and {name!r} share the head {head!r}, but have different "
                        "kinds of head in 'heads'"
                    )
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.body_weights is None and (self.head_weights or self.member_weights):
            raise ValueError("'head_weights' and 'member_weights' need 'body_weights'")
        for each in (self.head_weights, *(network.heads for network in self.member_weights)):
            for name in each:
                if all(name not in round.heads for round in self.rounds):
                    raise ValueError(f"no round trains the head {name!r} of 'head_weights'")
        return self

    @model_validator(mode="after")
    def _check_test(self) -> Self:
        if not (self.final or self.dataset(self.target).split.tests):
            raise ValueError(f"the target {self.target!r} has no test share in its split")
        for dataset in self.datasets:
            if dataset.split.final and dataset.name != self.target:
                raise ValueError(f"{dataset.name!r} has a final split, and is not the target")
            if dataset.split.left_out is not None and dataset.name != self.target:
                raise ValueError(f"{dataset.name!r} has 'left_out', and is not the target")
        return self

    @model_serializer(mode="wrap")
    def _omit_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields with their defaults: older plans keep their digests."""
        content: dict[str, Any] = serialise(self)
        for name in ("heads", "strangers", "body_weights", "head_weights", "member_weights"):
            if not getattr(self, name):
                content.pop(name, None)
        for name in ("ensemble", "test_views"):
            if getattr(self, name) == 1:
                content.pop(name, None)
        return content

    def member(self, number: int) -> Plan:
        """Plan of one network of the ensemble, from 1: the same splits, and another seed.

        The first has the plan's own seed. The seeds of the others are so far away that plans with
        seeds 0, 1, 2 have no network in common.
        """
        weights = self._weights_of(number)
        if number == 1:
            return self.model_copy(update={"ensemble": 1, **weights})
        digest = hashlib.sha256(f"{self.seed}, network {number} of an ensemble".encode()).digest()
        seed = int.from_bytes(digest[:6], "big")
        changes = {"seed": seed, "split_seed": self.effective_split_seed, "ensemble": 1}
        return self.model_copy(update={**changes, **weights})

    def _weights_of(self, number: int) -> dict[str, Any]:
        """Fields of the weights that a network of the ensemble begins with."""
        turn = (number - 1) % (1 + len(self.member_weights))
        if turn == 0:
            return {"member_weights": ()}
        own = self.member_weights[turn - 1]
        return {"body_weights": own.body, "head_weights": own.heads, "member_weights": ()}

    def head_of(self, dataset: str) -> Component:
        """The kind of head of a dataset."""
        return self.heads.get(dataset, self.head)

    @property
    def patch(self) -> int:
        """Height and width of the body's input images in pixels."""
        return self.body.patch

    def dataset(self, name: str) -> Dataset:
        """The dataset with a name.

        Raises:
            KeyError: The plan has no such dataset.
        """
        for dataset in self.datasets:
            if dataset.name == name:
                return dataset
        raise KeyError(name)

    @property
    def effective_split_seed(self) -> int:
        """Seed of the splits."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def inner(self) -> Fold | None:
        """Inner fold that takes the place of the test split; None in a plan of no search."""
        return self.dataset(self.target).split.inner

    @property
    def final(self) -> bool:
        """Whether all cases of the target train and validate, so that there is no test."""
        return self.dataset(self.target).split.final

    @property
    def target_head(self) -> str:
        """Name of the target's head at the end of the run."""
        return [round.head for round in self.rounds if round.dataset == self.target][-1]

    @property
    def last_body_round(self) -> int:
        """Number of the last round that trains the body; 0 if none does."""
        trains = (number for number, each in enumerate(self.rounds, 1) if each.trains_body)
        return max(trains, default=0)

    @property
    def strategy_rounds(self) -> int:
        """Number of rounds without those at the end that only fit other heads to the final body."""
        count, least = len(self.rounds), max(self.last_body_round, 1)
        while count > least and _fits_other_head(self.rounds[count - 1], self.target):
            count -= 1
        return count

    def body_round(self, head: str) -> int | None:
        """Number of the round whose body a head of the finished run belongs to.

        None is the final body. The target's head always goes with it, as in the results.
        """
        last = max(number for number, each in enumerate(self.rounds, 1) if head in each.heads)
        return None if head == self.target_head or last >= self.last_body_round else last

    def to_json(self) -> str:
        """The text of ``plan.json``."""
        return self.model_dump_json(indent=2) + "\n"

    def digest(self) -> str:
        """SHA-256 of what determines the result, in hexadecimal."""
        content = self.model_dump(mode="json")
        content.pop("strangers", None)
        if self.body_weights is not None:
            content["body_weights"] = self.body_weights.facts
        if self.head_weights:
            content["head_weights"] = facts_of(self.head_weights)
        if self.member_weights:
            content["member_weights"] = [
                [each.body.facts, facts_of(each.heads)] for each in self.member_weights
            ]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _fits_other_head(round: Round, target: str) -> bool:
    return round.train == "head" and round.dataset != target


def load_plan(path: Path) -> Plan:
    """Read a plan from a JSON file.

    Raises:
        PlanError: The file cannot be read or is not a plan; the message names the first wrong key.
    """
    try:
        text = read_json(path, max_bytes=MAX_PLAN).decode("utf-8")
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: cannot be read as a plan: {error}") from None
    refuse_later(path, text)
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        raise PlanError(f"{path}: {first_fault(error)}") from None
