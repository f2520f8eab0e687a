"""A round: what a strategy lists, and how each round is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from hydrakit.schema import Count, Frozen, Name

MAX_DATASETS = 100
MAX_EPOCHS = 100_000
MAX_VIEWS = 1000

Epochs = Annotated[int, Field(gt=0, le=MAX_EPOCHS)]
Train = Literal["head", "all", "norm", "none"]
RoundPosition = Literal["first", "middle", "last"]
Select = Literal["best", "smoothed", "averaged", "last", "authors"]


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
