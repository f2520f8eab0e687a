"""A round: what a strategy lists, and how each round is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from hydrakit.schema import Count, Frozen, Name

MAX_DATASETS = 100
MAX_EPOCHS = 100_000
MAX_VIEWS = 1000
MAX_EPOCH_SIZE = 2**31

Epochs = Annotated[int, Field(gt=0, le=MAX_EPOCHS)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Train = Literal["head", "all", "norm", "none"]
RoundPosition = Literal["first", "middle", "last"]
Select = Literal["best", "smoothed", "averaged", "last", "authors"]


class Hyperparameters(Frozen):
    """How one round is trained.

    The first paragraph below a field is also the help text of its command-line option, where it has
    one.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    learning_rate: PositiveFloat
    """Adam learning rate."""

    dropout: Probability
    """Dropout probability.

    It applies in the body's blocks, after its dense layer, and in the head.
    """

    batch_size: Count
    """Number of patches in each training step."""

    epochs: Epochs
    """Maximum number of epochs in each round."""

    epoch_size: Annotated[int, Field(gt=0, le=MAX_EPOCH_SIZE)] | None = None
    """Approximate maximum number of training patches in an epoch.

    A larger dataset is sampled anew in every epoch. Classes are balanced, and a fixed set of views
    is limited in the same way. None uses all patches.
    """

    patience: Epochs | None
    """Stop a round after this many epochs without improvement on the validation split.

    None trains all epochs.
    """

    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay (AdamW); 0 is plain Adam."""

    augmentation: Literal["fresh", "fixed", "none"] = "fresh"
    """Augmentation of the training patches.

    ``fresh`` draws new views of each patch in every epoch of a round that trains all (a head round
    uses a fixed set); ``fixed`` draws ``views`` of them once; ``none`` uses the patches as they
    are.
    """

    views: Annotated[int, Field(gt=0, le=MAX_VIEWS)] = 8
    """Number of views of each training patch of the largest class in a fixed set."""

    loss: Literal["cross-entropy", "softmax-cross-entropy"] = "cross-entropy"
    """Cross-entropy of the logits; or, as in the authors' code, of their softmax."""

    schedule: Literal["constant", "authors"] = "constant"
    """Learning rate schedule.

    ``authors`` is ReduceLROnPlateau in ``min`` mode with patience 5, stepped with the training AUC.
    """

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

    carry_head: Literal["best", "last"] = "best"
    """Epoch whose head continues in later rounds and becomes the reference.

    ``last`` is the habit of the authors' code.
    """

    feature_dropout: bool = False
    """In a head round, apply the dropout after the body's dense layer before the head.

    This is a habit of the authors' code.
    """


class Other(Frozen):
    """A further dataset of a round, with its head."""

    dataset: Name
    head: Name


class Round(Frozen):
    """One round: train a head, or body and head, on one dataset, or on several together."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dataset: Name
    """Dataset to train on; its validation split selects the epoch."""

    train: Train
    """Weights that the round trains.

    ``head`` trains the head and freezes the whole body; ``all`` trains body and head; ``norm``
    trains the head and the scales, shifts and statistics of the body's normalisation layers;
    ``none`` trains nothing and only evaluates the network as it is, in one epoch.
    """

    head: Name
    """Name of the head. The first round that names it builds it; later rounds train it further."""

    hyperparameters: Hyperparameters
    """How the round is trained."""

    others: Annotated[tuple[Other, ...], Field(max_length=MAX_DATASETS)] = ()
    """Further datasets to train on at the same time, each through its own head."""

    mix: Literal["batch", "epoch"] = "batch"
    """With others: every ``batch`` holds examples of all datasets, or every ``epoch`` draws one of
    the datasets.
    """

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
