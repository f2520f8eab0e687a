"""A run as data: the rounds, and everything else that decides a result.

A plan is written by a strategy, saved as ``plan.json``, and can be read, compared and edited by a
person. Where the data lies and on which device it is trained are not part of it: they do not
decide the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
from hydrakit.hooks import Factory, OptionValue
from hydrakit.plugins.options import resolve_options
from hydrakit.rounds import MAX_DATASETS, Round
from hydrakit.schema import Count, Frozen, Name, OptionText, Seed, first_fault
from hydrakit.storage.files import MIB, read_json
from hydrakit.storage.records import refuse_later

# What a plan may ask for: far above what anybody trains, and far below what would fill a machine.
MAX_PLAN = 4 * MIB  # bytes of its file
MAX_ROUNDS = 1000
MAX_FOLDS = 1000
MAX_PATCH = 1024
MAX_FEATURES = 2**14
MAX_NUMBERS = 2**25  # of a body, 40 times the paper's
PAPER = "paper"  # the body whose options a plan has always written as they are


Features = Annotated[int, Field(gt=0, le=MAX_FEATURES)]
Copies = Literal["group", "drop", "report"]
BootstrapRule = Literal["all", "halving"]
NormKind = Literal["batch", "group", "dataset"]


class Fold(Frozen):
    """One fold of a cross-validation: number ``index`` of ``count``, from 0."""

    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=2, le=MAX_FOLDS)]

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"there is no fold {self.index} of {self.count}: they begin at 0")
        return self


class Split(Frozen):
    """Shares of a dataset's cases for training, validation and test.

    Attributes:
        train: Share of training.
        val: Share of validation.
        test: Share of the test; 0 where ``fold`` is given.
        fold: The test split is this fold, and the other cases are shared out between training and
            validation.
        used: Of the cases outside the test split, the share that is used, whole patients at a
            time; 1 uses all. The test split does not depend on it.
    """

    train: PositiveFloat
    val: PositiveFloat
    test: NonNegativeFloat = 0.0
    fold: Fold | None = None
    used: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _tests_once(self) -> Self:
        if self.fold is not None and self.test > 0:
            raise ValueError("a split has a test share or a fold, not both")
        return self

    @model_serializer(mode="wrap")
    def _without_a_used_of_all(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plans from before there was ``used`` keep their digests."""
        told: dict[str, Any] = plain(self)
        if self.used == 1:
            del told["used"]
        return told

    @property
    def tests(self) -> bool:
        """Whether there is a test split."""
        return self.test > 0 or self.fold is not None


StoredScalar = OptionText | int | float | bool


class Component(Frozen):
    """A component of a plan: its name, and its options."""

    name: Name
    options: dict[Name, StoredScalar | tuple[StoredScalar, ...] | None] = Field(
        default_factory=dict
    )

    @classmethod
    def of(cls, factory: Factory, given: Mapping[str, OptionValue]) -> Self:
        """A component with some options: all of them are noted down, unless all are the defaults.

        Raises:
            PlanError: An option is unknown, or its value is not allowed.
        """
        options = resolve_options(factory, given)
        same = options == resolve_options(factory, {})
        return cls.model_validate({"name": factory.name, "options": {} if same else options})

    def __str__(self) -> str:
        """As ``mlp`` or ``mlp (hidden=64,16)``."""
        told = (
            f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in self.options.items()
        )
        return f"{self.name} ({', '.join(told)})" if self.options else self.name


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _text_or_component(head: Component) -> str | Component:
    return head if head.options else head.name


# In JSON the name alone where all options are the defaults.
Head = Annotated[Component, BeforeValidator(_named), PlainSerializer(_text_or_component)]


class Dataset(Component):
    """A dataset of a plan: its adapter's name, all options of the adapter, and its split."""

    split: Split


class BodySpec(Frozen):
    """The shape of the paper's body, apart from its input channels, which the data decides.

    Attributes:
        channels: Channels of the blocks, in order.
        features: Numbers that the body gives to a head.
        patch: Side in pixels of the square patches that it takes.
        norm: After every convolution: ``batch`` norm; ``group`` norm, which has no statistics; or
            batch norm with statistics of each ``dataset``.
        datasets: Whose statistics a body keeps apart where ``norm`` is ``dataset``; a run fills in
            those of its plan.
    """

    channels: tuple[Features, ...] = (32, 64, 128)
    features: Features = 256
    patch: Annotated[int, Field(gt=0, le=MAX_PATCH)] = 65
    norm: NormKind = "batch"
    datasets: Annotated[tuple[Name, ...], Field(max_length=MAX_DATASETS)] = ()

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if not self.channels:
            raise ValueError("a body needs at least one block")
        numbers = self._numbers()
        if numbers > MAX_NUMBERS:
            raise ValueError(
                f"a body of {numbers:,} weights is asked for, and {MAX_NUMBERS:,} are the most: "
                "take fewer channels or features, or a smaller patch"
            )
        return self

    def _numbers(self) -> int:
        """About how many weights the body has."""
        dense = self.channels[-1] * self.flat_side() ** 2 * self.features
        pairs = pairwise((1, *self.channels))
        return dense + sum((9 * (before + after) + after) * after for before, after in pairs)

    def flat_side(self) -> int:
        """Side of the last block's output: each block takes 4 pixels off and halves the rest."""
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
    """A body that is not the paper's; its options have a ``patch``."""

    @model_validator(mode="after")
    def _has_a_patch(self) -> Self:
        patch = self.options.get("patch")
        if type(patch) is not int or not 0 < patch <= MAX_PATCH:
            raise ValueError(f"the options of a body have a patch from 1 to {MAX_PATCH}")
        return self

    @property
    def patch(self) -> int:
        """Side in pixels of the square patches that it takes."""
        patch = self.options["patch"]
        assert isinstance(patch, int)
        return patch


def _body(value: Any) -> BodySpec | OtherBody:
    """The paper's body by its options, or by its name as any other."""
    if isinstance(value, BodySpec | OtherBody):
        return value
    if isinstance(value, Component):
        value = value.model_dump()
    if not isinstance(value, dict) or "name" not in value:
        return BodySpec.model_validate(value)
    if value["name"] != PAPER:
        return OtherBody.model_validate(value)
    return BodySpec.model_validate(Component.model_validate(value).options)


PlannedBody = Annotated[BodySpec | OtherBody, BeforeValidator(_body)]


class Plan(Frozen):
    """Everything that decides a result, except for the data itself.

    Attributes:
        format: Version of this format.
        strategy: Who listed the rounds (``custom`` once a person edited them, if they like).
        profile: Whose values the rounds began with; for the reader.
        target: The dataset whose test split is read, once, at the end.
        datasets: Each dataset of the rounds, once.
        copies: What becomes of images that are copies of one another: ``group`` keeps them in one
            split, ``drop`` keeps one patient's, ``report`` only tells of them.
        conflicts: Whether copies with different labels are an ``error`` or are to ``keep``.
        head: The kind of head.
        heads: Other kinds of head, by dataset.
        body: The body.
        bootstrap: Number of random starts, of which the best on validation begins.
        bootstrap_rule: ``all`` looks at every start on all validation cases; ``halving`` on an
            eighth of them, at the better quarter on half of them, and at the better quarter of
            these on all (where at least 16 cases of each class are left to look at).
        seed: Of everything that is random.
        split_seed: Of the splits alone, where they are to stay while ``seed`` changes.
        rounds: In the order of training.
    """

    format: Literal[1] = 1
    strategy: Name
    profile: Name
    target: Name
    datasets: Annotated[tuple[Dataset, ...], Field(max_length=MAX_DATASETS)]
    copies: Copies = "group"
    conflicts: Literal["error", "keep"] = "error"
    head: Head
    heads: dict[Name, Head] = Field(default_factory=dict)
    body: PlannedBody = BodySpec()
    bootstrap: Count = 1
    bootstrap_rule: BootstrapRule = "all"
    seed: Seed = 0
    split_seed: Seed | None = None
    rounds: Annotated[tuple[Round, ...], Field(max_length=MAX_ROUNDS)]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
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
        if not self.dataset(self.target).split.tests:
            raise ValueError(f"the target {self.target!r} has no test share in its split")
        for name in self.heads:
            if name not in names:
                raise ValueError(f"{name!r} of 'heads' is not in 'datasets'")
        served: dict[str, str] = {}
        for head, name in self.served():
            first = served.setdefault(head, name)
            if self.head_of(first) != self.head_of(name):
                raise ValueError(
                    f"head {head!r} serves both {first!r} and {name!r}, whose 'heads' differ"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_other_heads(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plans from before there were ``heads`` keep their digests."""
        told: dict[str, Any] = plain(self)
        if not self.heads:
            del told["heads"]
        return told

    def served(self) -> list[tuple[str, str]]:
        """The name of a head and a dataset that it serves, in the order of the rounds."""
        return [
            pair for each in self.rounds for pair in zip(each.heads, each.datasets, strict=True)
        ]

    def head_of(self, dataset: str) -> Component:
        """The kind of head that a dataset has."""
        return self.heads.get(dataset, self.head)

    @property
    def patch(self) -> int:
        """Side in pixels of the square patches that the body takes."""
        return self.body.patch

    def dataset(self, name: str) -> Dataset:
        """The dataset of that name.

        Raises:
            KeyError: The plan has none.
        """
        for dataset in self.datasets:
            if dataset.name == name:
                return dataset
        raise KeyError(name)

    @property
    def effective_split_seed(self) -> int:
        """The seed of the splits."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def target_head(self) -> str:
        """Name of the head that the target ends with."""
        return [round.head for round in self.rounds if round.dataset == self.target][-1]

    def to_json(self) -> str:
        """The text of ``plan.json``."""
        return self.model_dump_json(indent=2) + "\n"

    def digest(self) -> str:
        """SHA-256 of the plan, in hexadecimal: equal plans have equal digests."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_plan(path: Path) -> Plan:
    """Read a plan from a JSON file.

    Raises:
        PlanError: The file cannot be read or is not a plan; the message names the first key at
            fault.
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
