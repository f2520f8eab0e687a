"""What training yields, as data: the records that a run folder keeps and reports read."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from hydrakit.hooks import Task
from hydrakit.plan.model import MAX_ROUNDS
from hydrakit.rounds import MAX_EPOCHS, Train
from hydrakit.schema import Frozen, Name, Seed, Text

PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0, le=2**40)]
Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]


class Metrics(Frozen):
    """How well a network does on some cases.

    Attributes:
        loss: Mean cross-entropy; of a number half its mean squared error, standardised.
        auc: Area under the ROC curve; with more than two classes the macro average of one
            against the rest; of a multi-label task the mean over the labels. None for a number.
        accuracy: Share of cases whose most probable class is right; of a multi-label task the
            share of right answers. None for a number.
        mae: Mean absolute error of a number, in its own unit.
        r2: Coefficient of determination of a number.
    """

    loss: float
    auc: Share | None = None
    accuracy: Share | None = None
    mae: float | None = None
    r2: float | None = None

    @property
    def score(self) -> float:
        """What the best epoch is chosen by, higher being better: the AUC, or R2 of a number."""
        for value in (self.auc, self.r2):
            if value is not None:
                return value
        return float("nan")


class EpochRecord(Frozen):
    """One epoch: a line of ``metrics.jsonl``.

    Attributes:
        epoch: From 1.
        learning_rate: In force during the epoch.
        train: Over the epoch's own training pass: weights still moving, dropout and augmentation
            on.
        val: Of the validation split after the epoch.
        reference_auc: Validation AUC (of a number, R2) on the target, through the head that the
            first round ended with, on the body as it is now (the paper's Fig. 4b); None in the
            round that makes that head, or where the first round is not the target's.
        dataset: In a round over several datasets of which every epoch draws one, the one drawn:
            ``train`` is of its examples.
    """

    epoch: Epoch
    learning_rate: float
    train: Metrics
    val: Metrics
    reference_auc: float | None
    dataset: Name | None = None


class Plateau(Frozen):
    """What `ReduceLROnPlateau` knows; ``best`` is None before the first epoch."""

    best: float | None
    num_bad_epochs: int
    cooldown_counter: int
    last_epoch: int


class CheckpointFacts(Frozen):
    """What a checkpoint says besides its tensors.

    Attributes:
        kind: Always ``checkpoint``.
        format: Version of this description.
        hydrakit: Version that wrote the file.
        epoch: The last one that is over.
        learning_rate: Of the next epoch.
        plateau: Of the schedule.
        kept: The epochs whose weights are kept.
        seconds: Of training so far.
        digest: Of the tensors.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    format: Literal[1] = 1
    hydrakit: str
    epoch: Annotated[int, Field(ge=0)]
    learning_rate: float
    plateau: Plateau
    kept: tuple[int, ...]
    seconds: float
    digest: str


class TracePoint(Frozen):
    """A line of ``test-trace.jsonl``: the target's test AUC (of a number, R2) after an epoch."""

    epoch: int
    test_auc: float


class Bootstrap(Frozen):
    """Which random start began the run: ``val_auc[chosen]`` (of a number, R2) is the highest.

    None stands for a start that was dropped before it was looked at on all cases.
    """

    chosen: Number
    val_auc: tuple[float | None, ...]

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.chosen >= len(self.val_auc):
            raise ValueError(f"of {len(self.val_auc)} starts number {self.chosen} is chosen")
        return self


class WeightChange(Frozen):
    """How far a round moved the body's weights, by kind: ``|after - before| / |before|``.

    Attributes:
        convolutions: Weights and biases of convolutions.
        dense: Weights and biases of the dense layer.
        scales: Scales and shifts of the normalisation.
        statistics: Means and variances of the normalisation; None where it has none.
    """

    convolutions: float
    dense: float
    scales: float
    statistics: float | None


class RoundResult(Frozen):
    """A finished round (``round.json``).

    Attributes:
        round: Number, from 1.
        dataset: Trained on.
        train: What was trained.
        head: Name of the head.
        learning_rate: At the start.
        dropout: Probability.
        best_epoch: The epoch whose weights went on; 0 where nothing was trained.
        epochs: How many were run; 0 where nothing was trained.
        val: Validation figures of the best epoch.
        reference_auc: Of the best epoch; see `EpochRecord`.
        seconds: Of training, on this machine.
        bootstrap: In the first round.
        heads: Validation figures, after this round, of every dataset seen so far, through the head
            that learnt it, by name of the dataset: a row of the transfer matrix.
        moved: What the round changed of the body; in the first round, of its random start.
    """

    round: Annotated[int, Field(ge=1, le=MAX_ROUNDS)]
    dataset: Name
    train: Train
    head: Name
    learning_rate: float
    dropout: float
    best_epoch: Epoch
    epochs: Epoch
    val: Metrics
    reference_auc: float | None
    seconds: Seconds
    bootstrap: Bootstrap | None = None
    heads: dict[Name, Metrics] = Field(default_factory=dict)
    moved: WeightChange | None = None


class Change(Frozen):
    """The validation score of a dataset's head after a round less that after another.

    The cases are the same, the interval is paired and of whole patients.

    Attributes:
        round: Number of the one round.
        against: Number of the other.
        difference: Score after ``round`` less that after ``against``.
        low: Lower end of its 95 % interval; None where `Transfer.reason` says why.
        high: Upper end.
    """

    round: int
    against: int
    difference: float
    low: float | None = None
    high: float | None = None


class Transfer(Frozen):
    """What became of a dataset's head, on its validation cases (AUC; of a number R2).

    Attributes:
        dataset: Whose head, and whose cases.
        first: After the round that first trained it.
        best: The highest before the last round; None where there was no round before.
        last: After the last round.
        forgotten: Best less last.
        backward: Last less after the last round that trained it: what rounds on other datasets did
            to it; None where there was none.
        forward: Of a head that was trained again, after that less after it was first trained: what
            the rounds between brought. None for others.
        reason: Why the differences have no interval; None where they have.
    """

    dataset: Name
    first: float
    best: float | None
    last: float
    forgotten: Change | None = None
    backward: Change | None = None
    forward: Change | None = None
    reason: str | None = None


class AreaUnderCurve(Frozen):
    """An AUC on a test split, with what it rests on.

    Attributes:
        class_name: The class that counts as positive, against all others.
        auc: The estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        positives: Findings of the class.
        negatives: All other findings.
    """

    class_name: Text
    auc: Share
    low: Share
    high: Share
    positives: Number
    negatives: Number


class Subgroup(Frozen):
    """How well a network does on the findings of one subgroup.

    Attributes:
        name: What is told apart: ``zone``.
        value: Which of them: ``PZ``.
        class_name: The class that counts as positive, against all others.
        positives: Findings of the class.
        negatives: All other findings.
        auc: The estimate; None where either are fewer than `hydrakit.stats.findings.MIN_PER_CLASS`.
        low: Lower end of its interval.
        high: Upper end.
    """

    name: Text
    value: Text
    class_name: Text
    positives: Number
    negatives: Number
    auc: Share | None = None
    low: Share | None = None
    high: Share | None = None


class TestResult(Frozen):
    """The target's test split, read once.

    Every finding counts once: the probabilities (of a number, the values) that its images were
    given are averaged.

    Attributes:
        dataset: The target.
        split: Which cases were looked at.
        figures: Over all classes.
        level: Of the intervals.
        method: Of the intervals.
        findings: How many there were.
        images: How many images there were of them.
        task: What a label is.
        classes: One entry for two classes (the second is the positive one), else one for each
            class or label; none for a number.
        subgroups: The same for parts of the findings, where the dataset tells of any: not compared
            with one another.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    dataset: Name
    split: Literal["train", "val", "test", "all"]
    figures: Metrics
    findings: Number
    images: Number
    task: Task = "classification"
    level: Share = 0.95
    method: Text = "Newcombe 2006, method 5"
    classes: tuple[AreaUnderCurve, ...]
    subgroups: tuple[Subgroup, ...] = ()


class ShortcutFact(Frozen):
    """How well a fact that should not matter tells a class; see `hydrakit.data.quality.shortcuts`.

    Attributes:
        fact: Its name.
        class_name: The class that it tells best from the others.
        auc: 0.5 tells nothing.
        low: Lower end of the interval.
        high: Upper end.
        strong: Whether it is worth a warning.
        only: Values that occur with one class alone: value, class, number of patients.
    """

    fact: str
    class_name: Text
    auc: Share
    low: Share
    high: Share
    strong: bool
    only: tuple[tuple[str, str, Number], ...] = ()


class DataFacts(Frozen):
    """What a dataset gave to a run.

    Attributes:
        digest: SHA-256 of its prepared patches and cases.
        channels: Of the images.
        cases: By split.
        counts: Cases by split and class name; a case with several labels counts for each.
        findings: Findings, likewise: several cases may be images of one.
        patients: Distinct patients by split.
        unlabelled: Cases without a label, not used.
        excluded: Number of cases without a usable image, by reason.
        copies: Cases that are copies of another patient's.
        dropped: Copies that were left out.
        withheld: Cases left out since they belong to the target's test split.
        unused: Cases left out since the plan uses a share of the dataset.
        shortcuts: The facts that tell the class, the strongest first.
    """

    digest: str
    channels: Number
    cases: dict[str, Number] = Field(default_factory=dict)
    counts: dict[str, dict[str, Number]]
    findings: dict[str, dict[str, Number]] = Field(default_factory=dict)
    patients: dict[str, Number]
    unlabelled: Number
    excluded: dict[str, Number]
    copies: Number = 0
    dropped: Number = 0
    withheld: Number = 0
    unused: Number = 0
    shortcuts: tuple[ShortcutFact, ...] = ()


class Results(Frozen):
    """A finished run (``results.json``).

    Attributes:
        format: Version of this format.
        hydrakit: Version that wrote it.
        plan: Digest of the plan.
        strategy: Of the plan, like the three that follow.
        profile: Name.
        target: The dataset that was tested.
        seed: Of the plan.
        rounds: In order.
        test: What the test split showed.
        transfer: What became of every head, by dataset in the order of training.
    """

    format: Literal[1] = 1
    hydrakit: Text
    plan: Text
    strategy: Name
    profile: Name
    target: Name
    seed: Seed
    rounds: Annotated[tuple[RoundResult, ...], Field(max_length=MAX_ROUNDS)]
    test: TestResult
    transfer: tuple[Transfer, ...] = ()


class Event(Frozen):
    """Something that happened (a line of ``events.jsonl``).

    Attributes:
        time: When.
        event: What: ``run``, ``round``, ``test read``, ``evaluated``, and others.
        by: Who read the test split.
        dataset: Of what was read or trained.
        split: That was evaluated.
        cases: Number of cases that were read.
    """

    model_config = ConfigDict(extra="allow")

    time: Text
    event: Text
    by: Text | None = None
    dataset: Text | None = None
    split: Text | None = None
    cases: Number | None = None


class Environment(Frozen):
    """On what machine a run was trained, from which files (``environment.json``).

    Attributes:
        hydrakit: Version.
        python: Version.
        torch: Version.
        platform: As Python names it.
        device: As `hydrakit.compute.devices.choose_device` takes it.
        device_name: As its maker calls it.
        precision: Of training steps.
        deterministic: Whether bits repeat on CUDA.
        compiled: Whether training steps were compiled.
        processes: How many trained together.
        threads: Of each.
        plugins: Distribution and version, by name of the entry point.
        roots: Folders of the datasets, by name.
    """

    model_config = ConfigDict(extra="allow")

    hydrakit: Text | None = None
    python: Text | None = None
    torch: Text | None = None
    platform: Text | None = None
    device: Text | None = None
    device_name: Text | None = None
    precision: Text | None = None
    deterministic: bool | None = None
    compiled: bool | None = None
    processes: Number | None = None
    threads: Number | None = None
    plugins: dict[str, str] | None = None
    roots: dict[Name, PathText] | None = None
