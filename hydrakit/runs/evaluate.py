"""Evaluation of a trained network on the cases of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydrakit.data.origin import (
    DataOrigin,
    in_class_order,
    refuse_changed,
    splits_digest,
)
from hydrakit.data.read import image_channels
from hydrakit.errors import DataError, PlanError, WeightsError, command_line, unknown
from hydrakit.file_rules import FileRules, pixel_rules, rules_text
from hydrakit.hooks import DatasetAdapter, OptionValue, Task
from hydrakit.plan.decision import Decision
from hydrakit.plan.grey import rule_text
from hydrakit.plan.model import Split
from hydrakit.plan.results import DecisionTest, TestResult
from hydrakit.plan.view import view_text
from hydrakit.plugins.options import resolve_options
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.datasets import prepare_as_trained
from hydrakit.runs.earlier import naming_plugins_of_run
from hydrakit.runs.rundir import RunDir, run_of
from hydrakit.stats.findings import Findings
from hydrakit.storage.files import csv_text
from hydrakit.weights.format import (
    UNKNOWN,
    BodyMetadata,
    HeadMetadata,
    Preprocessing,
    cohort_digest,
    read_body,
    read_head,
    seen_in_training,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from hydrakit.data.augment import Views
    from hydrakit.data.load import CaseSet
    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.plan.grey import GreyValues
    from hydrakit.rounds import FlipAxis
    from hydrakit.stats.findings import Subgroups
    from hydrakit.stats.tasks import Scale


@dataclass(frozen=True)
class Predictions:
    """Outputs of a network for some cases of a dataset.

    Attributes:
        dataset: Name of the dataset.
        split: Split of the cases, or ``all``.
        classes: Names of the classes.
        keys: Keys of the cases.
        labels: Labels, as `tasks.targets_of` returns them.
        outputs: Outputs of the head, ``(cases, outputs)``.
        task: Task of the dataset.
        scale: Mean and standard deviation of a regression's training labels.
        findings: Finding that each case is an image of; None if each case is a finding of its own.
        subgroups: Subgroups of each case, as in `Sample`; None for none.
        patients: Patient of each case; None if each finding is of another one.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    labels: NDArray[np.int64] | NDArray[np.float64]
    outputs: NDArray[np.float64]
    task: Task = "classification"
    scale: Scale | None = None
    findings: tuple[str, ...] | None = None
    subgroups: tuple[Subgroups, ...] | None = None
    patients: tuple[str, ...] | None = None


def predict(
    model: nn.Module,
    cases: CaseSet,
    *,
    dataset: str,
    split: str,
    classes: Sequence[str],
    views: Sequence[Views | None] = (None,),
) -> Predictions:
    """Compute the outputs of a body with a head for some cases on the same device.

    Args:
        model: Body with head.
        cases: Cases to predict.
        dataset: Name of the dataset, for the result.
        split: Split of the cases, for the result.
        classes: Names of the classes.
        views: Views of each case whose predicted probabilities, or numbers, are averaged; None is
            the unaugmented patch.

    Raises:
        PlanError: An output is not finite.
    """
    import numpy as np

    from hydrakit.stats.tasks import mean_outputs
    from hydrakit.training.evaluation import forward_in_batches

    patches = (cases.patches if view is None else cases.seen(view) for view in views)
    outputs = mean_outputs(
        [forward_in_batches(model, each).cpu().double().numpy() for each in patches],
        task=cases.task,
        scale=cases.scale,
    )
    wrong = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(wrong):
        raise PlanError(
            f"{dataset}: the network gives numbers that are not finite for {len(wrong)} of "
            f"{len(outputs)} {split} cases, first {cases.cases[wrong[0]].key!r}: correct the code "
            "of its body or head, or train it with a lower learning rate"
        )
    return Predictions(
        dataset=dataset,
        split=split,
        classes=tuple(classes),
        keys=tuple(case.key for case in cases.cases),
        labels=cases.labels,
        outputs=outputs,
        task=cases.task,
        scale=cases.scale,
        findings=tuple(case.finding for case in cases.cases),
        subgroups=tuple(case.subgroups for case in cases.cases),
        patients=tuple(case.patient for case in cases.cases),
    )


def mean_prediction(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of an ensemble: the means of probabilities, or of numbers.

    Args:
        parts: Predictions of the networks for the same cases; those of one network stay the same.
            Networks of a regression may have different scales; the mean has that of the first.
    """
    from hydrakit.stats.tasks import mean_outputs, outputs_of
    from hydrakit.stats.tasks import predictions as predictions_of

    first, outputs = parts[0], []
    for each in parts:
        if each.scale != first.scale:
            numbers = predictions_of(each.outputs, task=each.task, scale=each.scale)
            outputs.append(outputs_of(numbers, task=first.task, scale=first.scale))
        else:
            outputs.append(each.outputs)
    return replace(first, outputs=mean_outputs(outputs, task=first.task, scale=first.scale))


def _known_rules(ours: FileRules | None, theirs: FileRules | None) -> tuple[str, str]:
    """Rules for files in words; older heads, which do not say theirs, have those of the others."""
    known = ours or theirs or FileRules()
    return rules_text(ours or known), rules_text(theirs or known)


def refuse_other_images(files: Sequence[Path], heads: Sequence[HeadMetadata]) -> None:
    """Refuse networks of one model that see other regions of an image, or predict other classes.

    Args:
        files: File of the head of each network.
        heads: Metadata of these heads.

    Raises:
        WeightsError: They do.
    """
    first = heads[0]
    for path, head in zip(files[1:], heads[1:], strict=True):
        ours, theirs = first.preprocessing, head.preprocessing
        for what, one, other in (
            ("classes", first.classes, head.classes),
            ("task", first.task, head.task),
            ("patch", ours.patch, theirs.patch),
            ("channels", ours.channels, theirs.channels),
            ("conversion", ours.conversion, theirs.conversion),
            ("field of view", ours.field_of_view, theirs.field_of_view),
            ("normalisation", ours.grey_values.normalise, theirs.grey_values.normalise),
            ("rules for files", *_known_rules(ours.file_rules, theirs.file_rules)),
        ):
            if one != other:
                raise WeightsError(
                    f"{path}: its {what} ({other}) is another than that of the first network "
                    f"({one}), {files[0]}: the networks of a model must agree"
                )


def views_of(head: HeadMetadata, flips: Collection[FlipAxis] | None = None) -> list[Views | None]:
    """The views of each case whose predictions are averaged; None is the unaugmented patch.

    Args:
        head: Metadata of the head that predicts.
        flips: Axes along which images of the evaluated dataset may be mirrored; None: all.
    """
    from hydrakit.data.augment import allowed, evaluation_views

    if head.views is None:
        return [None]
    return evaluation_views(allowed(head.views.table, flips), head.views.count)


def score(predictions: Predictions, decision: Decision | None = None) -> TestResult:
    """Compute metrics of predictions; every finding counts once, with the mean of its images.

    Args:
        predictions: The predictions.
        decision: Decision of the head, which is judged too.

    Raises:
        DataError: A class has no finding among the cases.
    """
    from hydrakit.stats import tasks

    task, scale, classes = predictions.task, predictions.scale, predictions.classes
    if not len(predictions.labels):
        raise DataError(f"{predictions.dataset}: the split {predictions.split!r} has no case")
    findings, scores, labels = by_finding(predictions)
    _check_classes(predictions, labels)
    images = len(predictions.labels)
    subgroups = findings.subgroups(predictions.subgroups or [{}] * images)
    classwise = tasks.class_aucs(scores, labels, task=task, classes=classes)
    outputs = tasks.outputs_of(scores, task=task, scale=scale)
    metrics = tasks.metrics_of(outputs, labels, task=task, scale=scale)
    if classwise:  # from the probabilities: their conversion back to outputs may create ties
        auc = sum(area.auc for area in classwise) / len(classwise)
        metrics = metrics.model_copy(update={"auc": auc})
    return TestResult(
        dataset=predictions.dataset,
        split=predictions.split,
        figures=metrics,
        findings=len(labels),
        images=images,
        task=task,
        classes=classwise,
        subgroups=tasks.subgroup_aucs(scores, labels, subgroups, task=task, classes=classes),
        decision=None if decision is None else _judge(decision, predictions),
    )


def by_finding(
    predictions: Predictions,
) -> tuple[Findings, NDArray[np.float64], NDArray[np.int64] | NDArray[np.float64]]:
    """Findings of predictions, with the mean predictions for their images, and their labels."""
    from hydrakit.stats import tasks

    findings = Findings.of(predictions.findings or predictions.keys)
    images = tasks.predictions(predictions.outputs, task=predictions.task, scale=predictions.scale)
    return findings, findings.mean_scores(images), predictions.labels[findings.firsts]


def _judge(decision: Decision, predictions: Predictions) -> DecisionTest:
    """The decision on the findings of a classification."""
    from hydrakit.stats.decision_test import judge

    findings, probabilities, labels = by_finding(predictions)
    patients = predictions.patients or tuple(map(str, range(len(predictions.labels))))
    owners = [patients[index] for index in findings.firsts]
    return judge(decision, probabilities, labels.astype("int64"), owners, predictions.classes)


def _check_classes(
    predictions: Predictions, labels: NDArray[np.int64] | NDArray[np.float64]
) -> None:
    """Check that every class has a finding."""
    from hydrakit.stats.tasks import strata, strata_names

    counts = strata(labels.tolist(), predictions.task, predictions.classes).sum(axis=0)
    names = strata_names(predictions.task, predictions.classes)
    for count, name in zip(counts, names, strict=True):
        if count == 0:
            raise DataError(
                f"{predictions.dataset}: no case of class {name!r} in split "
                f"{predictions.split!r}: its AUC cannot be computed: choose another split"
            )


def to_csv(predictions: Sequence[Predictions]) -> str:
    """Text of ``predictions.csv``, with one line for each case.

    Lines with the same name in the column ``finding`` are images of one finding, which counts once.
    Each class has a column ``p_NAME`` with its probability; several labels of a case are written as
    `hydrakit.stats.label_cells` says. A regression has no probabilities, only the columns ``label``
    and ``predicted``.
    """
    from hydrakit.data.read import class_names
    from hydrakit.stats import tasks
    from hydrakit.stats.label_cells import label_cell

    task, classes = predictions[0].task, predictions[0].classes
    columns = [] if task == "regression" else [f"p_{name}" for name in classes]
    rows: list[list[object]] = [
        ["dataset", "split", "key", "finding", "label", "predicted", *columns]
    ]
    for part in predictions:
        scores = tasks.predictions(part.outputs, task=task, scale=part.scale)
        findings = part.findings or part.keys
        for key, finding, label, row in zip(
            part.keys, findings, part.labels.tolist(), scores, strict=True
        ):
            predicted: object
            if task == "regression":
                true, predicted = label[0], row[0]
            elif task == "multilabel":
                present = tuple(int(probability > 0.5) for probability in row)
                true = label_cell(label, classes)
                predicted = ";".join(class_names(present, task, classes))
            else:
                true, predicted = classes[label], classes[row.argmax()]
            fixed = part.dataset, part.split, key, finding, true, predicted
            rows.append([*fixed, *row[: len(columns)]])
    return csv_text(rows)


@dataclass(frozen=True)
class EvaluationResult:
    """Result of an evaluation.

    Attributes:
        result: Metrics.
        notes: Warnings that belong to the metrics, one sentence each.
    """

    result: TestResult
    notes: tuple[str, ...]


def evaluate_files(
    body_path: Path,
    head_path: Path,
    context: RunContext | None = None,
    *,
    dataset: str | None = None,
    split: str = "test",
    splits: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    options: Mapping[str, OptionValue] | None = None,
    others: Sequence[tuple[Path, Path]] = (),
    on_checked: Callable[[], None] = lambda: None,
    plugins: Plugins | None = None,
    **values: Any,
) -> EvaluationResult:
    """Evaluate a body and a head from weight files on the cases of a dataset.

    Classes of head and dataset are matched by their names. The field of view of the head's own
    dataset is that of its training, and predictions are averaged over views if the head's file says
    so. If the head lies in the folder of a run, the run's log records that its cases were read.

    Args:
        body_path: Path of the body's weight file.
        head_path: Path of the head's weight file.
        context: Data folders and device; None for the defaults.
        dataset: Name of the dataset; None for the dataset that the head was trained on.
        split: ``train``, ``val``, ``test`` or ``all``.
        splits: Split of every case in training, by key; None splits the dataset again, by the
            description in the head's file.
        classes: Classes of the dataset that the outputs of the head stand for, in the order of the
            outputs; required if the classes of the head have other names.
        options: Options of the adapter that replace those from the training of the head.
        others: Body and head of each further network of an ensemble, whose predictions are
            averaged with those of the first.
        on_checked: Called when files and data are checked, before the network gets a case.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        WeightsError: A file is invalid, or body, head and dataset do not fit together.
        DataError: The dataset cannot be read, a class has no case, or the data is not that of the
            training whose split is asked for.
        PlanError: The dataset had no such split in training, or an option is wrong.
    """
    context = context_of(context, values)
    source = run_of(head_path)
    if source is not None:
        source.check_log()
    with context.active() as compute:
        evaluation, content = _evaluate(
            body_path,
            head_path,
            context,
            dataset=dataset,
            split=split,
            splits=splits,
            run=None,
            classes=classes,
            options=options,
            plugins=plugins or context.plugins(),
            device=compute.device,
            others=others,
            on_checked=on_checked,
        )
    networks = [(body_path, head_path), *others]
    if source is not None:
        name = evaluation.result.dataset
        facts = (source.facts() or {}).get(name)
        # The split `all` of other images under the same name has none of the run's cases.
        if facts is not None and (split != "all" or options or facts.digest == content):
            return _recorded(evaluation, source, networks)
    elif split == "test":
        note = (
            f"{head_path}: lies in no run's folder, so no log records this use of the test labels"
        )
        return replace(evaluation, notes=(*evaluation.notes, note))
    return evaluation


def _recorded(
    evaluation: EvaluationResult, run: RunDir, networks: Sequence[tuple[Path, Path]]
) -> EvaluationResult:
    """Record an evaluation in the log of a run; a note is added if the log cannot be written."""
    result = evaluation.result
    try:
        run.log_reading("evaluated", networks, dataset=result.dataset, split=result.split)
    except OSError as error:
        note = (
            f"{run.path / 'events.jsonl'}: cannot be written ({error.strerror}), so this use of "
            "the labels is not recorded there"
        )
        return replace(evaluation, notes=(*evaluation.notes, note))
    return evaluation


def _evaluate(
    body_path: Path,
    head_path: Path,
    context: RunContext,
    *,
    dataset: str | None,
    split: str,
    splits: Mapping[str, str] | None,
    run: RunDir | None,
    classes: Sequence[str] | None,
    options: Mapping[str, OptionValue] | None,
    plugins: Plugins,
    device: torch.device,
    others: Sequence[tuple[Path, Path]] = (),
    on_checked: Callable[[], None] = lambda: None,
) -> tuple[EvaluationResult, str]:
    """Evaluate weight files (`evaluate_files`), or those of a run, in an active context.

    Returns:
        The evaluation, and the content digest of the dataset.
    """
    from hydrakit import weights

    paths = [(body_path, head_path), *others]
    networks = [(read_body(path), read_head(other)) for path, other in paths]
    body, head = networks[0]
    name = dataset or head.dataset
    if name == UNKNOWN and dataset is None:
        raise WeightsError(
            f"{head_path}: does not say which dataset its head was trained on: name the one to "
            "evaluate on with `--dataset`"
        )
    adapter = _as_trained(name, head, run, plugins)
    adapter, notes = _match_classes(adapter, head, head_path, classes)
    training_split = None
    if split != "all" and not splits:
        training_split = _training_split(head, head_path, name)
    _check_together(paths, [each for _, each in networks], split)
    if splits:
        exists = split in splits.values()
    else:
        exists = training_split is not None and (split != "test" or training_split[0].tests)
    if split != "all" and not exists:
        remedy = "`--split all`" if split == "val" else "`--split val` or `--split all`"
        raise PlanError(f"{name}: had no {split} split in training: use {remedy}")
    models = [
        weights.load_model(*files, dataset=name, plugins=plugins).to(device) for files in paths
    ]
    all_options = {**(head.options if name == head.dataset else {}), **(options or {})}
    root = context.root_of(name)

    def prepared_by(adapter: DatasetAdapter) -> PreparedDataset:
        return _prepare(adapter, root, all_options, body=(body_path, body), head=(head_path, head))

    prepared = prepared_by(adapter)
    # With `--classes`, the outputs may stand for the classes in another order than in training.
    trained = (run.origins()[name].classes if run is not None else None) or head.classes
    turned = trained != adapter.classes and sorted(trained) == sorted(adapter.classes)
    index = (prepared_by(in_class_order(adapter, trained)) if turned else prepared).index
    # Classes are compared elsewhere, and the weight files say how the images are normalised and
    # what is done with their channels.
    elsewhere = {"classes": None, "normalise": None, "channels": None}
    now = DataOrigin.of(index, adapter).model_copy(update=elsewhere)
    if run is not None:
        _refuse_other_than_run(run, name, now, root=root, body=body_path, head=head_path)
    elif name == head.dataset:
        # With other options, the user asks for other images of the same cases; new data has others.
        in_training = resolve_options(adapter, head.options)
        other = resolve_options(adapter, all_options).items() - in_training.items()
        if other:
            notes.append(f"the options are others than in training ({_options_text(other)})")
        _refuse_other_than_training(head, head_path, now, whole=split == "all", other=bool(other))
    if training_split is not None:
        own, seed = training_split
        splits = _splits_of_training(head, head_path, prepared, adapter, split=own, seed=seed)
    keys = {
        case.key
        for case in prepared.index.cases
        if split == "all" or (splits or {}).get(case.key) == split
    }
    on_checked()
    parts, cases = _predict_each(models, paths, prepared, keys, adapter=adapter, split=split)
    predictions = mean_prediction(parts)
    notes += _foreign_notes(head, head_path, prepared, cases)
    notes += _combination_notes(body, head, adapter)
    together = None if run is None else {each.name for each in run.plan().datasets}
    notes += _training_notes(networks, adapter, cases, split, together=together)
    return _result(predictions, head, notes, networks=len(models)), index.content


def _splits_of_training(
    head: HeadMetadata,
    path: Path,
    prepared: PreparedDataset,
    adapter: DatasetAdapter,
    *,
    split: Split,
    seed: int,
) -> Mapping[str, str]:
    """Split a dataset again as for the training of a head.

    Raises:
        PlanError: The result is another than in the training.
    """
    from hydrakit.data.quality.leakage import assign_splits

    name = adapter.name
    leakage = assign_splits(
        {name: prepared},
        {name: adapter},
        splits={name: split},
        seed=seed,
        copies=head.copies,
        conflicts="drop" if head.conflicts == "drop" else "keep",
    )
    if head.splits not in (None, splits_digest(leakage.splits[name])):
        raise PlanError(
            f"{path}: the training split of {name!r} cannot be reconstructed, because its "
            "cases have changed or the split depended on other datasets of the run: evaluate "
            "the run's folder, or use `--split all`"
        )
    return leakage.splits[name]


def _check_together(
    paths: Sequence[tuple[Path, Path]], heads: Sequence[HeadMetadata], split: str
) -> None:
    """Check that the networks of a model can be evaluated together on a split.

    Raises:
        PlanError: They were trained with different splits, of which one is asked for.
        WeightsError: They need other images, or predict other classes.
    """
    refuse_other_images([path for _, path in paths], heads)
    own = [(each.split, each.seed, each.splits) for each in heads]
    if split != "all" and any(each != own[0] for each in own):
        raise PlanError(
            f"{paths[0][1]}: the {len(own)} networks of the model were trained with different "
            f"splits, so that the {split} cases of one trained others: evaluate new cases, with "
            "`--split all` (`hydrakit models` lists the expected figure)"
        )


def _predict_each(
    models: Sequence[nn.Module],
    paths: Sequence[tuple[Path, Path]],
    prepared: PreparedDataset,
    keys: set[str],
    *,
    adapter: DatasetAdapter,
    split: str,
) -> tuple[list[Predictions], CaseSet]:
    """Predict cases with each network of a model, as its own head's file says.

    Args:
        models: The networks, on one device.
        paths: Body and head of each.
        prepared: The dataset.
        keys: Keys of the cases.
        adapter: Adapter of the dataset.
        split: Split of the cases, for the result.

    Returns:
        The predictions of each network, and the cases.
    """
    from hydrakit.data.load import select

    parts: list[Predictions] = []
    cases, before = None, None
    for model, (_, path) in zip(models, paths, strict=True):
        head = read_head(path)
        grey = _grey_values(head, path, prepared.index.channels)
        if cases is None or before != (head.scale, grey):  # they differ between training splits
            patch, device = head.preprocessing.patch, next(model.parameters()).device
            cases = select(
                *(prepared, keys),
                task=head.task,
                scale=head.scale,
                grey=grey,
                patch=patch,
                device=device,
            )
            before = head.scale, grey
        views = views_of(head, adapter.flips)
        name, classes = adapter.name, adapter.classes
        parts.append(predict(model, cases, dataset=name, split=split, classes=classes, views=views))
    assert cases is not None
    return parts, cases


def _foreign_notes(
    head: HeadMetadata, path: Path, prepared: PreparedDataset, cases: CaseSet
) -> Iterator[str]:
    """Yield what shows that evaluated images have another unit than those of a head's training."""
    import numpy as np

    from hydrakit.data.quality.foreign import MANY, foreign_values

    keys = {case.key for case in cases.cases[:MANY]}
    rows = [row for row, case in enumerate(prepared.index.cases) if case.key in keys]
    images = [prepared.index.images[row] for row in rows]
    foreign = foreign_values(
        _grey_values(head, path, prepared.index.channels),
        np.array([image.mean for image in images]),
        np.array([image.deviation for image in images]),
        prepared.stored(rows),
    )
    if foreign is not None:
        yield f"{cases.dataset}: {foreign}"


def _result(
    predictions: Predictions, head: HeadMetadata, notes: Sequence[str], *, networks: int
) -> EvaluationResult:
    """Metrics of predictions; those of the head's decision if it is for so many networks."""
    decision = head.decision
    if decision is not None and decision.networks != networks:
        note = (
            "calibration and threshold in the head's file are for the mean of "
            f"{decision.networks} networks, and {networks} is evaluated: they are not used"
        )
        notes, decision = [*notes, note], None
    return EvaluationResult(result=score(predictions, decision), notes=tuple(notes))


def _prepare(
    adapter: DatasetAdapter,
    root: Path,
    options: Mapping[str, OptionValue],
    *,
    body: tuple[Path, BodyMetadata],
    head: tuple[Path, HeadMetadata],
) -> PreparedDataset:
    """Prepare the images of a dataset for a body and a head, each given with its file.

    Raises:
        WeightsError: The images have another number of channels than the network needs.
    """
    needed = head[1].preprocessing
    if adapter.name != head[1].dataset:
        needed = _preprocessing_of_other(body[1], head[1], adapter, root, options)
    patch = body[1].spec.patch
    prepared = prepare_as_trained(adapter, root, needed, options=options, patch=patch)
    if prepared.channels != needed.channels:
        raise WeightsError(
            f"{head[0]}, with {body[0]}: need images with {needed.channels} channels, but those of "
            f"{adapter.name!r} have {prepared.channels}: choose another head and body, or other "
            "options of the dataset"
        )
    return prepared


def _preprocessing_of_other(
    body: BodyMetadata,
    head: HeadMetadata,
    adapter: DatasetAdapter,
    root: Path,
    options: Mapping[str, OptionValue],
) -> Preprocessing:
    """Preprocessing of images of another dataset than the head's.

    As in a plan, its rule decides what becomes of the channels, or without one colour becomes grey
    and a single channel is repeated, if the network takes such images.
    """
    needed = head.image_channels(adapter.name, body=body.in_channels)
    images = image_channels(adapter, root, options)
    conversion: Literal["grey", "repeat"] | None = None
    if images is not None and adapter.channels != "stem":
        if adapter.channels == "grey" or (images.colour and needed == 1):
            conversion = "grey"
        elif images.count == 1 < needed:
            conversion = "repeat"
    changes = {"channels": needed, "conversion": conversion}
    return head.preprocessing.model_copy(update=changes)


def _as_trained(
    name: str, head: HeadMetadata, run: RunDir | None, plugins: Plugins
) -> DatasetAdapter:
    """The adapter of a dataset with the values of the run's plan, and the head's field of view.

    A head of another dataset leaves the field of view as it is.
    """
    with naming_plugins_of_run(run, plugins):
        adapter = plugins.get(DatasetAdapter, name)
    if run is not None:
        adapter = run.plan().dataset(adapter.name).applied_to(adapter)
    view = head.preprocessing.field_of_view
    if adapter.name != head.dataset or view is None:
        return adapter
    return replace(adapter, field_of_view=view)


def _grey_values(head: HeadMetadata, path: Path, channels: int) -> GreyValues:
    """How a head's images are normalised."""
    grey = head.preprocessing.grey_values
    if grey.mean is not None and len(grey.mean) != channels:
        raise WeightsError(
            f"{path}: normalises images of {len(grey.mean)} channels, and these have {channels}: "
            "choose another head or dataset"
        )
    return grey


def _refuse_other_than_run(
    run: RunDir, dataset: str, now: DataOrigin, *, root: Path, body: Path, head: Path
) -> None:
    """Refuse a dataset that is not what the run saw; its classes are compared elsewhere."""
    files = "--body", body, "--head", head, "--root", f"{dataset}={root}"
    command = command_line("hydrakit", "evaluate", *files, "--split", "all")
    refuse_changed(
        dataset,
        run.origins()[dataset].model_copy(update={"classes": None}),
        now,
        since=f"the run in {run.path}",
        remedy=f"evaluate the weights on it as new data: `{command}`",
    )


def _refuse_other_than_training(
    head: HeadMetadata, path: Path, now: DataOrigin, *, whole: bool, other: bool
) -> None:
    """Refuse a head's dataset if it is not what the head was trained on.

    Args:
        head: Metadata of the head.
        path: File of the head, for messages.
        now: The dataset as it is.
        whole: Whether all cases are evaluated, which may be new ones.
        other: Whether the options are others than in training, which give other images.
    """
    refuse_changed(
        head.dataset,
        DataOrigin(
            content=None if whole or other else head.content,
            field_of_view=head.preprocessing.field_of_view,
        ),
        now,
        since=f"the training of {path}",
        remedy="train on it as it is now"
        if whole
        else "evaluate the weights on it as new data, with `--split all`",
    )


def _match_classes(
    adapter: DatasetAdapter, head: HeadMetadata, path: Path, classes: Sequence[str] | None
) -> tuple[DatasetAdapter, list[str]]:
    """Bring the classes of a dataset into the order of a head's outputs.

    Args:
        adapter: Adapter of the dataset.
        head: Metadata of the head.
        path: File of the head, for messages.
        classes: The classes in this order, from the user; None matches them by their names.

    Returns:
        The adapter, and a note if the order or the names are others than those of the head.
    """
    name, theirs, ours = adapter.name, ", ".join(head.classes), ", ".join(adapter.classes)
    if (adapter.task, len(adapter.classes)) != (head.task, len(head.classes)):
        kinds = "" if adapter.task == head.task else f" of a {head.task} task"
        raise WeightsError(
            f"{path}: its head has {len(head.classes)} classes ({theirs}){kinds}, but {name!r} has "
            f"{len(adapter.classes)}{kinds and f' of a {adapter.task} task'}: choose another head "
            "or dataset"
        )
    if classes is not None:
        if sorted(classes) != sorted(adapter.classes):
            raise PlanError(
                f"--classes {','.join(classes)}: the classes of {name!r} are {ours}: name each of "
                f"them once, in the order of the head's outputs ({theirs})"
            )
        given = ", ".join(classes)
        note = f"the outputs of the head ({theirs}) are taken for the classes {given} of {name!r}"
        return in_class_order(adapter, classes), [note] if given != theirs else []
    if sorted(head.classes) != sorted(adapter.classes):
        raise WeightsError(
            f"{path}: its head has the classes {theirs}, but {name!r} has {ours}: correct the "
            "names in the data, or say which of its classes the outputs stand for, in their order: "
            f"`{command_line('--classes', ','.join(adapter.classes))}`"
        )
    if head.classes == adapter.classes:
        return adapter, []
    note = f"the classes of {name!r} ({ours}) are in another order than in training ({theirs})"
    return in_class_order(adapter, head.classes), [f"{note}: they are matched by name"]


def _options_text(options: Iterable[tuple[str, OptionValue]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(options))


def _training_split(head: HeadMetadata, path: Path, dataset: str) -> tuple[Split, int]:
    """Split of the dataset in the training of a head, and the seed of the split."""
    if head.dataset != dataset or head.split is None or head.seed is None:
        raise PlanError(
            f"{path}: does not describe the training split of {dataset!r}: use `--split all`"
        )
    return head.split, head.seed


def _combination_notes(
    body: BodyMetadata, head: HeadMetadata, adapter: DatasetAdapter
) -> Iterator[str]:
    """Warnings that body, head and dataset are from different trainings."""
    from hydrakit.weights.files import mismatch

    note = mismatch(body, head)
    if note:
        yield note
    grey = head.preprocessing.grey_values
    others = grey.mean is not None and adapter.name != head.dataset
    if grey.normalise != adapter.normalise or others:
        yield (
            f"the grey values of {adapter.name!r} are normalised as in the head's training "
            f"({grey}), and its own rule is {rule_text(adapter.normalise)}"
        )
    yield from file_rules_notes(head, adapter)
    if adapter.name == head.dataset:
        return
    trained = "" if head.dataset == UNKNOWN else f" was trained on {head.dataset!r}, and"
    yield f"the head{trained} is evaluated on {adapter.name!r}"
    before, now = head.preprocessing.field_of_view, adapter.field_of_view
    if before not in (None, now):
        yield (
            f"the field of view of {adapter.name!r} is {view_text(now)}, and that of the head's "
            f"training was {view_text(before)}"
        )


def file_rules_notes(head: HeadMetadata, adapter: DatasetAdapter) -> Iterator[str]:
    """Yield a note if the files of a dataset are read in another way than those of the training."""
    before, now = head.preprocessing.file_rules, adapter.file_rules
    if before is None or now is None or pixel_rules(before) == pixel_rules(now):
        return
    yield (
        f"the files of {adapter.name!r} are read by its own rules "
        f"({rules_text(pixel_rules(now))}), and those of the head's training by others "
        f"({rules_text(pixel_rules(before))})"
    )


def _training_notes(
    networks: Sequence[tuple[BodyMetadata, HeadMetadata]],
    adapter: DatasetAdapter,
    cases: CaseSet,
    split: str,
    *,
    together: Collection[str] | None,
) -> Iterator[str]:
    """Warnings that training used the evaluated cases, their images, or their patients.

    Args:
        networks: Metadata of body and head of each network.
        adapter: Adapter of the evaluated dataset.
        cases: Evaluated cases.
        split: Their split.
        together: Datasets of the run of all networks, which were split together by patient; None
            if they are of no run.
    """
    name, (body, head) = adapter.name, networks[0]
    if split in ("train", "val") and name == head.dataset:
        yield f"the {split} split was used in training: metrics on it are too high"
        return
    trainings = []
    for network in networks:
        for each in network:
            if each.cases is None:
                yield from _training_notes_by_name(*network, name, split)
                return
            trainings.append(each.cases)
    seen = seen_in_training([case.content for case in cases.cases], *trainings)
    if any(seen):
        yield (
            f"training used {sum(seen)} of these {len(seen)} cases, or copies of their images: "
            "metrics are too high"
        )
        return
    own = together is None and name == head.dataset and body.digest == head.body
    if adapter.cohort is None or (split != "all" and own):
        return
    cohort = cohort_digest(adapter.cohort)
    known = {
        other for each in trainings for other, theirs in each.cohorts.items() if theirs == cohort
    }
    if split != "all":  # their patients were split, and none of these images was used
        known -= {name, *(together or ())}
    if known:
        yield (
            f"training used {', '.join(map(repr, sorted(known)))}, of the same cohort "
            f"{adapter.cohort!r}: perhaps other images of the same patients, and metrics may be "
            "too high"
        )


def _training_notes_by_name(
    body: BodyMetadata, head: HeadMetadata, dataset: str, split: str
) -> Iterator[str]:
    """As `_training_notes`, for files that do not say which cases training used."""
    by_name = "by the names of the datasets; the weight files do not say which cases they used"
    if split == "all" and dataset in (*body.trained_on, head.dataset):
        yield (
            f"training used cases of {dataset!r}: metrics over all cases are too high ({by_name})"
        )
    elif dataset in body.trained_on and body.seed != head.seed:
        yield (
            f"the body was trained on {dataset!r} with another split, which may have contained "
            f"these cases: metrics may be too high ({by_name})"
        )
    elif not body.trained_on:
        yield "nothing says which cases trained these weights: metrics may be too high"
    elif split == "all" and dataset != head.dataset:
        yield f"training did not use these cases ({by_name})"


def evaluate_run(
    run: Path,
    context: RunContext | None = None,
    *,
    dataset: str | None = None,
    split: str = "test",
    classes: Sequence[str] | None = None,
    plugins: Plugins | None = None,
    **values: Any,
) -> EvaluationResult:
    """Evaluate a finished run's body with one of its heads; see `evaluate_files`.

    The predictions of all networks of an ensemble are averaged.

    The data must be what the run used: same images, labels, patients and field of view.

    Args:
        run: Folder of the run.
        context: Device, and the new folders of datasets that were moved after training: ``data``
            for this dataset, ``roots`` for any dataset by name.
        dataset: Name of the dataset to evaluate, with its head; None for the target.
        split: ``train``, ``val``, ``test`` or ``all``.
        classes: As in `evaluate_files`, if the classes of the dataset have other names now.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        DataError: The data has changed since the run.
        PlanError: The run is not finished, or has no such dataset.
        HydrakitError: As in `evaluate_files`.
    """
    context = context_of(context, values)
    rundir = RunDir(run)
    plan = rundir.plan()
    rundir.check_log()
    name = dataset or plan.target
    heads = [round.head for round in plan.rounds if round.dataset == name]
    if not heads:
        raise PlanError(f"{run}: {unknown('dataset', name, [d.name for d in plan.datasets])}")
    if rundir.results() is None:
        command = command_line("hydrakit", "run", "--resume", run)
        raise PlanError(f"{run}: is not finished: continue it with `{command}`")
    for file, content in (("splits.json", rundir.splits()), ("data.json", rundir.facts() or {})):
        if name not in content:
            raise PlanError(
                f"{run / file}: does not contain {name!r}: restore it, or evaluate the weight "
                "files of the run with `--body` and `--head`"
            )
    roots = {key: Path(path) for key, path in rundir.environment().get("roots", {}).items()}
    if context.data is not None:
        roots[name] = context.root_of(name)
    context = context.changed(roots={**roots, **context.roots})
    body, head = rundir.weights(plan, heads[-1])
    others = [member.weights(plan, heads[-1]) for member in rundir.members(plan)]
    with context.active() as compute:
        evaluation, _ = _evaluate(
            body,
            head,
            context,
            dataset=name,
            split=split,
            splits=rundir.splits()[name],
            run=rundir,
            classes=classes,
            options=plan.dataset(name).options,
            plugins=plugins or context.plugins(),
            device=compute.device,
            others=others,
        )
    if body != rundir.body_path:
        note = (
            f"the head of {name!r} is evaluated with the body of its last round, {body}: later "
            "rounds have changed the body (`--recentre` fits all heads to the final one)"
        )
        evaluation = replace(evaluation, notes=(*evaluation.notes, note))
    return _recorded(evaluation, rundir, [(body, head), *others])
