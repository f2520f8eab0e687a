"""A run as data: the rounds, and everything else that decides a result.

A plan is written by a strategy, saved as ``plan.json``, and can be read, compared and edited by a
person. Where the data lies and on which device it is trained are not part of it: they do not
decide the result.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from hydrakit.errors import PlanError
from hydrakit.folder.files import MIB, read_json
from hydrakit.folder.formats import refuse_later
from hydrakit.names import NAME_PATTERN

# What a plan may ask for: far above what anybody trains, and far below what would fill a machine.
MAX_PLAN = 4 * MIB  # bytes of its file
MAX_ROUNDS = 1000
MAX_DATASETS = 100
MAX_EPOCHS = 100_000
MAX_COUNT = 2**20  # of patches of a batch, of random starts
MAX_VIEWS = 1000
MAX_FOLDS = 1000
MAX_PATCH = 1024
MAX_FEATURES = 2**14
MAX_NUMBERS = 2**25  # of a body, 40 times the paper's


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text on one line")
    return text


Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
OptionText = Annotated[str, StringConstraints(max_length=1000)]
Epochs = Annotated[int, Field(gt=0, le=MAX_EPOCHS)]
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Features = Annotated[int, Field(gt=0, le=MAX_FEATURES)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Train = Literal["head", "all", "norm", "none"]
Place = Literal["first", "middle", "last"]
Copies = Literal["group", "drop", "report"]
BootstrapRule = Literal["all", "halving"]
Norm = Literal["batch", "group", "dataset"]
Select = Literal["best", "smoothed", "averaged", "last", "authors"]


class Frozen(BaseModel):
    """A value: cannot be changed, and has no field that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Hyperparameters(Frozen):
    """How one round is trained.

    Attributes:
        learning_rate: Of Adam.
        weight_decay: Decoupled (AdamW); 0 is plain Adam.
        dropout: Probability, in the body's blocks, after its dense layer, and in the head.
        batch_size: Patches per update.
        epochs: At most so many passes over the training patches.
        epoch_size: An epoch holds at most about so many training patches, of all classes together,
            drawn anew in every epoch from a larger dataset; a fixed set holds as many, each with
            its views. None: all of them.
        patience: Stop after so many epochs without a better one; None trains all epochs.
        augmentation: ``fresh`` draws new views of each training patch in every epoch of a round
            that trains all (a head round keeps a fixed set); ``fixed`` draws ``views`` of them
            once; ``none`` trains on the patches as they are.
        views: How many views of each training patch (of the largest class) a fixed set holds.
        loss: Cross-entropy of the logits; or, as the authors did, of their softmax.
        schedule: ``constant``; or ``authors``: ReduceLROnPlateau in ``min`` mode, patience 5,
            stepped with the training AUC.
        select: Which weights a round ends with: of the ``best`` epoch by validation AUC (ties: the
            lower loss); of the best by the ``smoothed`` AUC (mean over the last ``window`` epochs);
            ``averaged`` over the last ``window`` epochs; of the ``last`` epoch; ``authors``: the
            last that matched or beat both the AUC and the accuracy kept so far.
        window: Number of epochs of ``smoothed`` and ``averaged``.
        carry_head: Which epoch's head goes on to later rounds and becomes the reference:
            the ``best`` one, or as the authors did the ``last``.
        feature_dropout: In a head round, keep the dropout after the body's dense layer, as the
            head's first operation (as the authors did).
    """

    learning_rate: PositiveFloat
    dropout: Annotated[float, Field(ge=0, lt=1)]
    batch_size: Count
    epochs: Epochs
    epoch_size: Annotated[int, Field(gt=0, le=2**31)] | None = None
    patience: Epochs | None
    weight_decay: NonNegativeFloat = 0.0
    augmentation: Literal["fresh", "fixed", "none"] = "fresh"
    views: Annotated[int, Field(gt=0, le=MAX_VIEWS)] = 8
    loss: Literal["cross-entropy", "softmax-cross-entropy"] = "cross-entropy"
    schedule: Literal["constant", "authors"] = "constant"
    select: Select = "best"
    window: Epochs = 5
    carry_head: Literal["best", "last"] = "best"
    feature_dropout: bool = False


class Other(Frozen):
    """A further dataset of a round, with its head."""

    dataset: Name
    head: Name


class Round(Frozen):
    """One round: train a head, or body and head, on one dataset, or on several together.

    Attributes:
        dataset: Whose training split is used; its validation split selects the best epoch.
        train: ``head`` freezes the body wholly; ``all`` trains body and head; ``norm`` the head,
            and of the body the scales, shifts and statistics of its normalisation alone; ``none``
            trains nothing: its one epoch tells how the network does as it is.
        head: Name of the head. The first round that names it builds it; later ones train it on.
        hyperparameters: How.
        others: Datasets that are trained on too, each through its own head.
        mix: With others: every ``batch`` holds examples of all datasets, or every ``epoch`` draws
            one of the datasets.
    """

    dataset: Name
    train: Train
    head: Name
    hyperparameters: Hyperparameters
    others: Annotated[tuple[Other, ...], Field(max_length=MAX_DATASETS)] = ()
    mix: Literal["batch", "epoch"] = "batch"

    @model_validator(mode="after")
    def _mixes_what_it_can(self) -> Self:
        names = [self.dataset, *(other.dataset for other in self.others)]
        heads = [self.head, *(other.head for other in self.others)]
        if len(set(names)) < len(names) or len(set(heads)) < len(heads):
            raise ValueError("a dataset or a head is named twice in one round")
        if self.others and self.train != "all":
            raise ValueError(f"a round with 'others' trains 'all', not {self.train!r}")
        return self

    @property
    def datasets(self) -> tuple[str, ...]:
        """All that it trains on."""
        return (self.dataset, *(other.dataset for other in self.others))

    @property
    def heads(self) -> tuple[str, ...]:
        """All that it trains, in the order of `datasets`."""
        return (self.head, *(other.head for other in self.others))


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


class Dataset(Frozen):
    """A dataset of a plan: its adapter's name, the adapter's options, and its split."""

    name: Name
    options: dict[Name, OptionText | int | float | bool] = {}
    split: Split


class BodySpec(Frozen):
    """The body's shape, apart from its input channels, which the data decides.

    Attributes:
        channels: Of the blocks, in order.
        features: What the body gives to a head.
        patch: Side in pixels of the square patches that it takes.
        norm: After every convolution: ``batch`` norm; ``group`` norm, which has no statistics; or
            batch norm with statistics of each ``dataset``.
        datasets: Whose statistics a body keeps apart where ``norm`` is ``dataset``; a run fills in
            those of its plan.
    """

    channels: tuple[Features, ...] = (32, 64, 128)
    features: Features = 256
    patch: Annotated[int, Field(gt=0, le=MAX_PATCH)] = 65
    norm: Norm = "batch"
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


class Plan(Frozen):
    """Everything that decides a result, save the data itself.

    Attributes:
        format: Version of this format.
        strategy: Who listed the rounds (``custom`` once a person edited them, if they like).
        profile: Whose values the rounds began with; for the reader.
        target: The dataset whose test split is read, once, at the end.
        datasets: Each dataset of the rounds, once.
        copies: What becomes of images that are copies of one another: ``group`` keeps them in one
            split, ``drop`` keeps one patient's, ``report`` only tells of them.
        conflicts: Whether copies with different labels are an ``error`` or are to ``keep``.
        head: Name of the head factory.
        body: The body's shape.
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
    head: Name
    body: BodySpec = BodySpec()
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
        return self

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
    def dealt_by(self) -> int:
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
        text = read_json(path, most=MAX_PLAN).decode("utf-8")
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: cannot be read as a plan: {error}") from None
    refuse_later(path, text)
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        raise PlanError(f"{path}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found, on one line."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    if not where.isprintable() or len(where) > 100:
        where = f"{ascii(where)[:100]}..."
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"unknown key {where!r}: remove it, or see `hydrakit plan` for the keys there are"
    if fault["type"] == "missing":
        return f"key {where!r} is missing"
    shown = repr(fault["input"])
    value = f" (is {shown})" if len(shown) <= 60 and where else ""
    return f"{where}: {message}{value}" if where else message
