"""The rounds of a plan, and their hyperparameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from hydrakit.schema import Count, Frozen, Name

MAX_DATASETS = 100
MAX_EPOCHS = 100_000
MAX_VIEWS = 1000
MAX_EPOCH_SIZE = 2**31

Epochs = Annotated[int, Field(gt=0, le=MAX_EPOCHS)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Train = Literal["head", "all", "norm", "none"]
"""What a round trains: the head; all; the head and the normalisation layers; or nothing."""

RoundPosition = Literal["first", "middle", "last"]
"""Position of a round among the rounds of a plan that train the same."""

FlipAxis = Literal["horizontal", "vertical"]
Select = Literal["best", "smoothed", "averaged", "last", "authors"]
"""Which epoch gives the weights of a round (`Hyperparameters.select`)."""


class Transforms(Frozen):
    """Random changes of a training patch that give its views; the defaults are the paper's.

    Where a view reaches beyond the prepared patch, border pixels are repeated: about 1 % of the
    pixels of a view at 45 degrees.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    rotation: Annotated[float, Field(ge=0, le=180)] = 20.0
    """Largest rotation in either direction, in degrees."""

    flips: tuple[FlipAxis, ...] = ("horizontal",)
    """Axes along which a view is mirrored with probability 0.5, where the dataset allows it."""

    shift: tuple[Annotated[int, Field(ge=0, le=64)], Annotated[int, Field(ge=0, le=64)]] = (0, 1)
    """Largest shift (down, right) in either direction, in halves of the network's pixels."""

    scale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest change of size: 0.1 enlarges or shrinks by a factor of up to 1.1."""

    intensity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest change of contrast (a factor of 1 plus or minus this) and of brightness (plus or
    minus this, in standard deviations)."""

    noise: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Standard deviation of Gaussian noise that is added to each normalised pixel."""


class Hyperparameters(Frozen):
    """How one round is trained.

    If a field has a command-line option, the first paragraph below the field is its help text.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    learning_rate: PositiveFloat
    """Adam learning rate."""

    dropout: Probability
    """Dropout probability.

    It applies to all dropout layers of the body and the head.
    """

    batch_size: Count
    """Number of patches in each training step."""

    epochs: Epochs
    """Maximum number of epochs in each round."""

    epoch_size: Annotated[int, Field(gt=0, le=MAX_EPOCH_SIZE)] | None = None
    """Approximate maximum number of training patches in an epoch.

    From a larger dataset, every epoch draws a new random subset with balanced classes. A fixed set
    of views is limited in the same way. None uses all patches.
    """

    fill_epochs: bool = False
    """Whether an epoch of a smaller dataset also has about ``epoch_size`` patches: each is used
    several times, in another fresh view each time, so that a round has as many steps."""

    patience: Epochs | None
    """Stop a round after this many epochs without improvement on the validation split.

    None trains all epochs.
    """

    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay (AdamW); 0 is plain Adam."""

    augmentation: Literal["fresh", "fixed", "none"] = "fresh"
    """Augmentation of the training patches.

    ``fresh`` draws a new view of each patch in every epoch of a round that trains the body (a head
    round uses a fixed set); ``fixed`` draws ``views`` views of each patch once; ``none`` uses the
    patches unchanged.
    """

    transforms: Transforms = Transforms()
    """Random changes that give the views."""

    views: Annotated[int, Field(gt=0, le=MAX_VIEWS)] = 8
    """Number of views of each training patch of the largest class in a fixed set."""

    loss: Literal["cross-entropy", "softmax-cross-entropy"] = "cross-entropy"
    """Loss: cross-entropy of the logits or, as in the authors' code, of their softmax."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label's probability that the training loss spreads over all classes.

    It is not part of any reported loss.
    """

    schedule: Literal["constant", "cosine", "authors"] = "constant"
    """Learning rate schedule.

    ``cosine`` falls from the learning rate to 0 over ``epochs``, step by step, after a rise over
    ``warmup``. A round that stops early does not reach the low rates: set patience to None.

    ``authors`` is ReduceLROnPlateau in ``min`` mode with patience 5, stepped with the training AUC.
    """

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the round in which the learning rate of ``cosine`` rises from 0."""

    select: Select = "best"
    """Epoch that gives a round's final weights: the best on validation, the best by a smoothed
    validation score, the average of the last epochs, the last, or by the authors' rule.

    ``best`` compares the validation AUC (on equal AUC, the loss); ``smoothed`` compares the mean
    AUC of ``window`` epochs; ``averaged`` averages the weights of the last ``window`` epochs;
    ``authors`` takes the last epoch in which AUC and accuracy both matched or exceeded those of
    the epoch selected before.
    """

    window: Epochs = 5
    """Number of epochs that --select smoothed and averaged combine."""

    refresh_statistics: bool = False
    """At the end of a round that trains the body, estimate the batch-norm statistics of the final
    weights anew: on the training split, unaugmented and without dropout."""

    solver: Literal["steps", "exact"] = "steps"
    """How a head round finds the head: by training ``steps``, or ``exact``.

    ``exact`` is the minimum of the penalised loss on the body's features of the training patches,
    each once and unaugmented: a logistic or a ridge regression. It needs a head that is one linear
    layer, such as ``linear``. Of the other hyperparameters it uses ``penalty`` alone.
    """

    penalty: PositiveFloat | None = None
    """L2 penalty of ``exact``, and of the regression within the head ``blend``, in units of 1 / C
    of scikit-learn, on standardised features. None chooses it by cross-validation within the
    training split."""

    carry_head: Literal["best", "last"] = "best"
    """Epoch whose head continues in later rounds and becomes the reference.

    The authors' code uses ``last``.
    """

    feature_dropout: bool = False
    """In a head round, apply dropout to the features of the body, as the authors' code does."""

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup and self.schedule != "cosine":
            raise ValueError("'warmup' needs the schedule 'cosine': set it to 0, or set 'schedule'")
        return self

    @model_serializer(mode="wrap")
    def _omit_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields with their defaults: older plans keep their digests."""
        content: dict[str, Any] = serialise(self)
        for name in _NEWER:
            if getattr(self, name) == type(self).model_fields[name].default:
                content.pop(name, None)
        return content


_NEWER = (
    "fill_epochs",
    "transforms",
    "label_smoothing",
    "warmup",
    "refresh_statistics",
    "solver",
    "penalty",
)
"""Hyperparameters that plans of version 0.1 do not have."""


class Other(Frozen):
    """A further dataset of a round.

    Attributes:
        dataset: Name of the dataset.
        head: Name of its head.
    """

    dataset: Name
    head: Name


class Round(Frozen):
    """One round of training, on one dataset or on several at the same time."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dataset: Name
    """Dataset to train on; its validation split selects the epoch."""

    train: Train
    """Weights that the round trains.

    ``head`` trains the head and freezes the whole body; ``all`` trains body and head; ``norm``
    trains the head and the scales, shifts and statistics of the body's normalisation layers;
    ``none`` trains nothing: its one epoch only evaluates the network.
    """

    head: Name
    """Name of the head. The first round that names it builds it; later rounds train it further."""

    hyperparameters: Hyperparameters
    """How the round is trained."""

    others: Annotated[tuple[Other, ...], Field(max_length=MAX_DATASETS)] = ()
    """Further datasets to train on at the same time, each through its own head."""

    mix: Literal["batch", "epoch"] = "batch"
    """How to train on several datasets: every ``batch`` has samples of all, or every ``epoch`` uses
    one that is drawn at random.
    """

    @model_validator(mode="after")
    def _check_datasets(self) -> Self:
        names = [self.dataset, *(other.dataset for other in self.others)]
        heads = [self.head, *(other.head for other in self.others)]
        if len(set(names)) < len(names) or len(set(heads)) < len(heads):
            raise ValueError("a dataset or a head is named twice in one round")
        if self.others and self.train != "all":
            raise ValueError(f"a round with 'others' trains 'all', not {self.train!r}")
        if self.hyperparameters.solver == "exact" and self.train != "head":
            raise ValueError(
                "the solver 'exact' is for rounds that train the head alone, and this one trains "
                f"{self.train!r}"
            )
        return self

    @property
    def trains_body(self) -> bool:
        """Whether the round changes the body."""
        return self.train in ("all", "norm")

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all datasets to train on."""
        return (self.dataset, *(other.dataset for other in self.others))

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads of all datasets, in the order of `datasets`."""
        return (self.head, *(other.head for other in self.others))
