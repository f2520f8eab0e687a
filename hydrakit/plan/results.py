"""Records of the results of a run, which its folder stores."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from hydrakit.errors import PlanError
from hydrakit.hooks import ChannelRule, Normalise, Task
from hydrakit.plan.decision import Calibration, Share, Threshold
from hydrakit.plan.model import MAX_ENSEMBLE, MAX_ROUNDS
from hydrakit.plan.view import StoredView
from hydrakit.rounds import MAX_EPOCHS, Train
from hydrakit.schema import Frozen, Name, PathText, Seed, Text, VersionedName

RootText = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
Number = Annotated[int, Field(ge=0, le=2**40)]
Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]


class Metrics(Frozen):
    """Metrics of a network on some cases.

    Attributes:
        loss: Mean cross-entropy; for regression, half the mean squared error of the standardised
            number. For a multi-label task, this and the following count known labels only.
        auc: Area under the ROC curve; for more than two classes, the macro average of each class
            against the others; for a multi-label task, the mean over the labels; None for
            regression.
        accuracy: Share of cases with the right most probable class; for a multi-label task, the
            share of right answers; None for regression.
        mae: Mean absolute error of a regression, in the unit of the number.
        r2: Coefficient of determination of a regression.
    """

    loss: float
    auc: Share | None = None
    accuracy: Share | None = None
    mae: float | None = None
    r2: float | None = None

    @property
    def score(self) -> float:
        """Score that selects the best epoch; higher is better. AUC, or R2 for regression."""
        score = self.r2 if self.auc is None else self.auc
        return float("nan") if score is None else score


class EpochRecord(Frozen):
    """An epoch: one line of ``metrics.jsonl``.

    Attributes:
        epoch: Number of the epoch, from 1.
        learning_rate: Learning rate during the epoch; with the schedule ``cosine``, of its last
            step.
        train: Metrics of the training steps, with dropout and augmentation, while the weights
            change.
        val: Metrics of the validation split after the epoch.
        reference_auc: Validation AUC (for regression, R2) of the target with the current body and
            the head from the end of the first round (Fig. 4b of the paper). None in the first
            round, or if the first round is not on the target.
        dataset: Dataset of the epoch, if a round on several datasets uses one in each epoch;
            ``train`` are its metrics.
    """

    epoch: Epoch
    learning_rate: float
    train: Metrics
    val: Metrics
    reference_auc: float | None
    dataset: Name | None = None


class Plateau(Frozen):
    """State of the schedule `ReduceLROnPlateau`; ``best`` is None before the first epoch."""

    best: float | None
    num_bad_epochs: int
    cooldown_counter: int
    last_epoch: int


class CheckpointFacts(Frozen):
    """Metadata of a checkpoint.

    Attributes:
        kind: Always ``checkpoint``.
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote the file.
        epoch: Number of finished epochs.
        learning_rate: Learning rate of the next epoch; ``cosine`` computes it anew.
        plateau: State of the learning rate schedule.
        kept: Epochs of the stored weights.
        seconds: Training time so far.
        digest: Digest of the tensors.
        plan: Digest of the plan of the run; None in older versions.
        data: Digest of what the run was computed from (`hydrakit.data.origin.origins_digest`); None
            in older versions.
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
    plan: str | None = None
    data: str | None = None


class TracePoint(Frozen):
    """Test figure of the target after an epoch: a line of ``test-trace.jsonl``.

    Attributes:
        epoch: Number of the epoch, from 1.
        test_auc: AUC of its test split; for regression, R2.
    """

    epoch: int
    test_auc: float


class Bootstrap(Frozen):
    """Selection of the random start that a run begins with.

    Attributes:
        chosen: Index of the start with the highest score.
        val_auc: Validation AUC (for regression, R2) of each start; None if it was dropped before an
            evaluation on all cases.
    """

    chosen: Number
    val_auc: tuple[float | None, ...]

    @model_validator(mode="after")
    def _check_chosen(self) -> Self:
        if self.chosen >= len(self.val_auc):
            raise ValueError(f"start {self.chosen} of {len(self.val_auc)} does not exist")
        return self


class WeightChange(Frozen):
    """Relative change of the body's weights in a round: ``|after - before| / |before|``.

    Attributes:
        convolutions: Change of the weights and biases of convolutions.
        dense: Change of the weights and biases of the dense layer.
        scales: Change of the scales and shifts of normalisation layers.
        statistics: Change of the means and variances of normalisation layers, if they have any.
    """

    convolutions: float
    dense: float
    scales: float
    statistics: float | None


class RoundResult(Frozen):
    """A finished round (``round.json``).

    Attributes:
        round: Number of the round, from 1.
        dataset: Dataset of the training.
        train: Weights that it trained, as in `hydrakit.rounds.Round`.
        head: Name of the head.
        learning_rate: Learning rate at the start.
        dropout: Dropout probability.
        best_epoch: Epoch that gave the final weights; 0 if nothing was trained.
        epochs: Number of epochs; 0 if nothing was trained.
        val: Validation metrics of the final weights: those of the best epoch, unless they are
            averaged, or their batch-norm statistics are estimated anew.
        reference_auc: Reference AUC of the best epoch (`EpochRecord.reference_auc`).
        seconds: Training time.
        bootstrap: Selection of the random start, in the first round.
        heads: Validation metrics after this round of each dataset trained so far, with its own
            head, by dataset: a row of the transfer matrix.
        moved: Change of the body in this round; in the first round, from its random start.
        penalty: Penalty of a head that was solved exactly; None for any other.
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
    penalty: float | None = None

    @model_serializer(mode="wrap")
    def _omit_no_penalty(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit ``penalty`` if there is none: most files are as earlier versions wrote them."""
        content: dict[str, Any] = serialise(self)
        if self.penalty is None:
            content.pop("penalty", None)
        return content


class Change(Frozen):
    """Difference of a dataset's validation scores after two rounds.

    The 95 % confidence interval is paired, since the cases are the same, and resamples patients.

    Attributes:
        round: Number of one round.
        against: Number of the other round.
        difference: Score after ``round`` minus score after ``against``.
        low: Lower end of the interval; None if `Transfer.reason` says why there is none.
        high: Upper end of the interval.
    """

    round: int
    against: int
    difference: float
    low: float | None = None
    high: float | None = None


class Transfer(Frozen):
    """Validation scores (AUC; for regression, R2) of a dataset in the course of a run.

    Attributes:
        dataset: Name of the dataset; the scores are those of its head.
        first: Score after the first round that trained the head.
        best: Highest score before the last round; None if no earlier round trained the head.
        last: Score after the last round.
        forgotten: Best score minus last score.
        backward: Last score minus score after the last round that trained the head: the effect of
            later rounds on other datasets. None if there are none.
        forward: For a head that was trained again: score after that minus score after its first
            training, the effect of the rounds in between. None for other heads.
        reason: Why the differences have no confidence interval; None if they have one.
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
    """AUC of one class on a test split.

    Attributes:
        class_name: Class that counts as positive; all others are negative.
        auc: Estimated AUC.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
        positives: Number of positive findings.
        negatives: Number of negative findings.
    """

    class_name: Text
    auc: Share
    low: Share
    high: Share
    positives: Number
    negatives: Number


class Subgroup(Frozen):
    """AUC of one class in a subgroup of the findings.

    Attributes:
        name: Property that defines the subgroup, such as ``zone``.
        value: Value of the property, such as ``PZ``.
        class_name: Class that counts as positive; all others are negative.
        positives: Number of positive findings.
        negatives: Number of negative findings.
        auc: Estimated AUC; None if there are fewer positive or negative findings than
            `hydrakit.stats.findings.MIN_PER_CLASS`.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
    """

    name: Text
    value: Text
    class_name: Text
    positives: Number
    negatives: Number
    auc: Share | None = None
    low: Share | None = None
    high: Share | None = None


class Estimate(Frozen):
    """A figure with its 95 % confidence interval; None for both ends if there is none."""

    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None


class ProbabilityFigures(Frozen):
    """How good probabilities are (`hydrakit.stats.decision_test`).

    Attributes:
        log_loss: Mean negative logarithm of the true class's probability.
        brier: Brier score: of the second of two classes, or summed over more classes.
        error: Expected calibration error: of the second of two classes, or of the most probable one
            of more.
        error_by_chance: 95 % quantile of this error for perfectly calibrated probabilities.
    """

    log_loss: Estimate
    brier: Estimate
    error: Share
    error_by_chance: Share


class DecisionTest(Frozen):
    """The stored decision of a head, judged on findings that it was not chosen on.

    Attributes:
        decision: The decision, in words.
        threshold: Its threshold; None if the most probable class is predicted.
        calibration: Its correction of the probabilities; None if they stay as they are.
        before: Figures of the probabilities of the network.
        after: Figures of the corrected probabilities; None if nothing corrects them.
        log_loss_change: Log loss after minus before, on the same findings.
        brier_change: Brier score after minus before.
        sensitivity: Share of the second class's findings that are predicted so, with two classes.
        specificity: Share of the first class's findings that are predicted so.
        classes: Names of the classes.
        confusion: Number of findings by true class (row) and predicted class (column).
    """

    decision: Annotated[str, StringConstraints(max_length=5000)]
    threshold: Threshold | None = None
    calibration: Calibration | None = None
    before: ProbabilityFigures
    after: ProbabilityFigures | None = None
    log_loss_change: Estimate | None = None
    brier_change: Estimate | None = None
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    classes: tuple[Text, ...]
    confusion: tuple[tuple[Number, ...], ...]


class TestResult(Frozen):
    """Metrics of a network on the test split of a dataset.

    Each finding counts once, with the mean prediction for its images.

    Attributes:
        dataset: Name of the dataset.
        split: Split of the cases.
        figures: Metrics over all classes.
        level: Level of the confidence intervals.
        method: Method of the confidence intervals.
        findings: Number of findings.
        images: Number of images of these findings.
        task: Kind of label.
        classes: AUC of the second class if there are two, else of each class or label; empty for
            regression.
        subgroups: AUC of each class in each subgroup, if the dataset defines subgroups; these are
            not compared with one another.
        decision: The head's stored decision on these findings; None in older versions, without one,
            and for other tasks than classification. The file has it only if it is there.
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
    decision: DecisionTest | None = None

    @model_serializer(mode="wrap")
    def _omit_no_decision(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit ``decision`` if there is none: such files are as earlier versions wrote them."""
        content: dict[str, Any] = serialise(self)
        if self.decision is None:
            content.pop("decision", None)
        return content


class Baseline(Frozen):
    """The logistic (or ridge) regression on intensities beside a run's network.

    Attributes:
        numbers: Number of statistics of the grey values that it uses.
        test: Its metrics on the same test split; None if there are none.
        reason: Why there are none; None if there are.
    """

    numbers: Number
    test: TestResult | None = None
    reason: Text | None = None


class ShortcutFact(Frozen):
    """How well a property of the files predicts the class (`hydrakit.data.quality.shortcuts`).

    Attributes:
        fact: Name of the property.
        class_name: Class that it predicts best.
        auc: AUC of this prediction; 0.5 is chance.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
        strong: Whether hydrakit warns of it.
        only: Values that occur in a single class: value, class, number of patients.
    """

    fact: str
    class_name: Text
    auc: Share
    low: Share
    high: Share
    strong: bool
    only: tuple[tuple[str, str, Number], ...] = ()


class DataFacts(Frozen):
    """The data of a dataset that a run uses.

    Attributes:
        digest: SHA-256 of the prepared patches and cases.
        channels: Number of channels of the images.
        cases: Number of cases by split.
        counts: Number of cases by split and class; a case with several labels counts for each.
        findings: Number of findings by split and class; a finding may have several cases.
        unknown: Number of cases by split and label for which the label is unknown; empty if each
            case has all of its labels.
        patients: Number of patients by split.
        unlabelled: Number of cases without a label, which are not used.
        excluded: Number of cases without a usable image, by reason.
        copies: Number of cases that are copies of cases of another patient.
        conflicting: Keys of the cases that have a copy with another label; ``conflicts`` of the
            plan says whether the run uses them.
        dropped: Number of copies that are not used.
        withheld: Number of cases that are not used because the target's test split has them.
        unused: Number of cases that are not used because the plan uses a share of the dataset.
        shortcuts: Properties of the files that predict the class, the strongest first.
        classes: Names of the classes in the order of their labels; None in older versions.
        task: Kind of label; None in older versions.
        field_of_view: Region of the image that the network sees; None in older versions.
        normalise: How its grey values are normalised.
        channel_rule: Rule of plan or adapter for images with other channels than the body takes;
            None for none.
    """

    digest: str
    channels: Number
    cases: dict[str, Number] = Field(default_factory=dict)
    counts: dict[str, dict[str, Number]]
    findings: dict[str, dict[str, Number]] = Field(default_factory=dict)
    unknown: dict[str, dict[str, Number]] = Field(default_factory=dict)
    patients: dict[str, Number]
    unlabelled: Number
    excluded: dict[str, Number]
    copies: Number = 0
    conflicting: tuple[str, ...] = ()
    dropped: Number = 0
    withheld: Number = 0
    unused: Number = 0
    shortcuts: tuple[ShortcutFact, ...] = ()
    classes: tuple[Text, ...] | None = None
    task: Task | None = None
    field_of_view: StoredView | None = None
    normalise: Normalise = "patient"
    channel_rule: ChannelRule | None = None

    @model_serializer(mode="wrap")
    def _omit_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields with their defaults: most files are as earlier versions wrote them."""
        content: dict[str, Any] = serialise(self)
        for name in ("conflicting", "channel_rule", "unknown"):
            if not getattr(self, name):
                content.pop(name, None)
        if self.normalise == "patient":
            content.pop("normalise", None)
        return content


ENSEMBLE_FORMAT = 2
"""Format of the results of an ensemble."""

FINAL_FORMAT = 3
"""Format of the results of a run without a test split (`Split.final`)."""


class Member(Frozen):
    """A network of an ensemble.

    Attributes:
        number: Number of the network, from 1.
        seed: Seed of its plan.
        figures: Its own test metrics; None without a test split.
        seconds: Training time of its rounds.
    """

    number: Annotated[int, Field(ge=1, le=MAX_ENSEMBLE)]
    seed: Seed
    figures: Metrics | None
    seconds: Seconds


class StartMatch(Frozen):
    """How the weights that a body begins with match its tensors.

    Attributes:
        file: Path of their file, as the user gave it.
        sha256: SHA-256 of the file.
        matched: Number of the body's tensors that the file has.
        adapted: First convolution whose weights were converted to another number of input channels,
            in words; None if none was.
        missing: Tensors of the body that the file does not have; they begin at random.
        unexpected: Tensors of the file that the body does not have.
        other_shape: Tensors that have another shape in the file, in words; they begin at random.
    """

    file: PathText
    sha256: Text
    matched: Number
    adapted: Text | None = None
    missing: tuple[Text, ...] = ()
    unexpected: tuple[Text, ...] = ()
    other_shape: tuple[Text, ...] = ()


class Results(Frozen):
    """A finished run (``results.json``).

    Attributes:
        format: Version of this format: 2 for the results of an ensemble, 3 for those of a run
            without a test split.
        hydrakit: Version of hydrakit that wrote the file.
        plan: Digest of the plan.
        strategy: Strategy of the plan.
        profile: Profile of the plan.
        target: Target of the plan.
        seed: Seed of the plan.
        rounds: Results of the rounds, in order; in an ensemble those of the first network.
        test: Metrics of the target's test split; in an ensemble those of the mean prediction. None
            without a test split.
        transfer: Scores of each dataset in the course of the run, in the order of training; in an
            ensemble those of the first network.
        baseline: A regression on intensities on the same cases; None in older versions, and if the
            plan's strategy is itself a baseline.
        start: Weights that the body began with; None if they were random.
        members: Networks of the ensemble; empty for a single network.
        other_bodies: Heads that do not belong to the final body, since later rounds have changed
            it, with the number of the round whose body they belong to; empty in older versions.
    """

    format: Literal[1, 2, 3] = 1
    hydrakit: Text
    plan: Text
    strategy: Name
    profile: VersionedName
    target: Name
    seed: Seed
    rounds: Annotated[tuple[RoundResult, ...], Field(max_length=MAX_ROUNDS)]
    test: TestResult | None
    transfer: tuple[Transfer, ...] = ()
    baseline: Baseline | None = None
    start: StartMatch | None = None
    members: Annotated[tuple[Member, ...], Field(max_length=MAX_ENSEMBLE)] = ()
    other_bodies: dict[Name, Annotated[int, Field(ge=1, le=MAX_ROUNDS)]] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _test_fits(self) -> Self:
        if (self.test is None) != (self.format == FINAL_FORMAT):
            raise ValueError(f"only results of format {FINAL_FORMAT} have no test")
        if self.test and not all(each.figures for each in self.members):
            raise ValueError("a network of the ensemble has no test metrics")
        return self

    @property
    def tested(self) -> TestResult:
        """Metrics of the test split, in results that have one.

        Raises:
            PlanError: The run has no test split.
        """
        if self.test is None:
            raise PlanError(f"a run on all cases of {self.target!r} has no test split")
        return self.test

    @property
    def seconds(self) -> float:
        """Training time of all networks."""
        return sum(each.seconds for each in self.members or self.rounds)

    @model_serializer(mode="wrap")
    def _omit_none(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields with their defaults: such files are as before these fields."""
        content: dict[str, Any] = serialise(self)
        for name in ("baseline", "start", "members", "other_bodies"):
            if not getattr(self, name):
                content.pop(name, None)
        return content


class WeightDigests(Frozen):
    """Digests of the tensors of a body and of a head."""

    body: Text
    head: Text


class Event(Frozen):
    """An event of a run (a line of ``events.jsonl``).

    Attributes:
        time: Date and time of the event.
        event: Kind of event: ``run``, ``round``, ``test read``, ``evaluated`` and others;
            ``inner fold read`` in a run whose inner fold takes the place of the test split.
        by: What read the test split: ``results``, ``trace``, or ``ensemble`` for a network of an
            ensemble, whose run read it once for all networks.
        dataset: Dataset that was trained or evaluated.
        split: Split that was evaluated.
        cases: Number of cases that were evaluated.
        weights: Weights that were evaluated: one pair for each network; empty in older versions.
    """

    model_config = ConfigDict(extra="allow")

    time: Text
    event: Text
    by: Text | None = None
    dataset: Text | None = None
    split: Text | None = None
    cases: Number | None = None
    weights: Annotated[tuple[WeightDigests, ...], Field(max_length=MAX_ENSEMBLE)] = ()


class Environment(Frozen):
    """Machine, software and folders of a run (``environment.json``).

    Attributes:
        hydrakit: Version of hydrakit.
        python: Version of Python.
        torch: Version of PyTorch.
        platform: Operating system and processor, from Python's `platform` module.
        device: Device, as in `hydrakit.compute.devices.choose_device`.
        device_name: Name of the GPU or processor.
        precision: Precision of the training steps.
        deterministic: Whether results on CUDA are repeatable, bit by bit.
        compiled: Whether training steps were compiled.
        processes: Number of processes that trained together.
        threads: Number of CPU threads of each process.
        plugins: Distribution and version of each plugin, by name of its entry point.
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
    roots: dict[Name, RootText] | None = None
