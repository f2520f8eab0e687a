"""Looking at cases with a finished network: the test split at a run's end, and any other time."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrakit.errors import DataError, PlanError, WeightsError, unknown
from hydrakit.hooks import DatasetAdapter, OptionValue, Task
from hydrakit.plan.model import Split
from hydrakit.plan.results import TestResult
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.findings import Findings
from hydrakit.weights.format import BodyMetadata, HeadMetadata, read_body, read_head

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from hydrakit.data.load import CaseSet
    from hydrakit.stats.findings import Subgroups
    from hydrakit.stats.tasks import Scale


@dataclass(frozen=True)
class Predictions:
    """What a network said of some cases.

    Attributes:
        dataset: Where they are from.
        split: Which of its splits, or ``all``.
        classes: Names of the classes.
        keys: Of the cases.
        labels: As `tasks.targets_of` gives them.
        outputs: ``(cases, outputs)`` of the head.
        task: What a label is.
        scale: Of a number, over the training split.
        findings: Of which finding each case is an image; None: each of one of its own.
        subgroups: As in `Sample`, of each case; None: nothing is told.
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


def predict(
    model: nn.Module, cases: CaseSet, *, dataset: str, split: str, classes: Sequence[str]
) -> Predictions:
    """What a joined body and head, on the cases' device, says of them."""
    from hydrakit.training.evaluation import forward_in_batches

    return Predictions(
        dataset=dataset,
        split=split,
        classes=tuple(classes),
        keys=tuple(case.key for case in cases.cases),
        labels=cases.labels,
        outputs=forward_in_batches(model, cases.patches).cpu().double().numpy(),
        task=cases.task,
        scale=cases.scale,
        findings=tuple(case.finding for case in cases.cases),
        subgroups=tuple(case.subgroups for case in cases.cases),
    )


def score(predictions: Predictions) -> TestResult:
    """The figures of predictions, every finding counted once.

    Raises:
        DataError: A class has no finding among them.
    """
    from hydrakit.stats import tasks

    task, scale, classes = predictions.task, predictions.scale, predictions.classes
    if not len(predictions.labels):
        raise DataError(f"{predictions.dataset}: no case in split {predictions.split!r}")
    found = Findings.of(predictions.findings or predictions.keys)
    labels = predictions.labels[found.firsts]
    _need_every_class(predictions, labels)
    images = tasks.predictions(predictions.outputs, task=task, scale=scale)
    scores = found.mean_scores(images)
    told = found.subgroups(predictions.subgroups or [{}] * len(images))
    classwise = tasks.class_aucs(scores, labels, task=task, classes=classes)
    outputs = tasks.outputs_of(scores, task=task, scale=scale)
    figures = tasks.metrics_of(outputs, labels, task=task, scale=scale)
    if classwise:  # of the probabilities themselves: the way back to outputs may make ties
        figures = figures.model_copy(
            update={"auc": sum(area.auc for area in classwise) / len(classwise)}
        )
    return TestResult(
        dataset=predictions.dataset,
        split=predictions.split,
        figures=figures,
        findings=len(labels),
        images=len(images),
        task=task,
        classes=classwise,
        subgroups=tasks.subgroup_aucs(scores, labels, told, task=task, classes=classes),
    )


def _need_every_class(
    predictions: Predictions, labels: NDArray[np.int64] | NDArray[np.float64]
) -> None:
    from hydrakit.stats.tasks import strata, strata_names

    held = strata(labels.tolist(), predictions.task, predictions.classes).sum(axis=0)
    names = strata_names(predictions.task, predictions.classes)
    for count, name in zip(held, names, strict=True):
        if count == 0:
            raise DataError(
                f"{predictions.dataset}: no case of class {name!r} in split "
                f"{predictions.split!r}: its AUC cannot be told"
            )


def to_csv(predictions: Sequence[Predictions]) -> str:
    """The text of ``predictions.csv``: a line for each case, an image of a finding.

    Figures are of findings: lines with one name in ``finding`` count once, by their mean. Classes
    and labels have a column ``p_NAME`` each for their probability; several labels of a case are
    joined by ``;``. A number has the columns ``label`` and ``predicted`` alone.
    """
    from hydrakit.data.read import class_names
    from hydrakit.stats import tasks

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    task, classes = predictions[0].task, predictions[0].classes
    columns = [] if task == "regression" else [f"p_{name}" for name in classes]
    writer.writerow(["dataset", "split", "key", "finding", "label", "predicted", *columns])
    for part in predictions:
        scores = tasks.predictions(part.outputs, task=task, scale=part.scale)
        findings = part.findings or part.keys
        for key, finding, label, row in zip(
            part.keys, findings, part.labels.tolist(), scores, strict=True
        ):
            said: object
            if task == "regression":
                shown, said = label[0], row[0]
            elif task == "multilabel":
                present = tuple(int(probability > 0.5) for probability in row)
                shown = ";".join(class_names(label, task, classes))
                said = ";".join(class_names(present, task, classes))
            else:
                shown, said = classes[label], classes[row.argmax()]
            told = part.dataset, part.split, key, finding, shown, said
            writer.writerow([*told, *row[: len(columns)]])
    return text.getvalue()


@dataclass(frozen=True)
class EvaluationResult:
    """The result of evaluating weight files, and what must be said with it."""

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
    options: Mapping[str, OptionValue] | None = None,
    plugins: Plugins | None = None,
    **values: Any,
) -> EvaluationResult:
    """Evaluate a head on a body, on a dataset's files.

    Args:
        body_path: The body's file.
        head_path: The head's file.
        context: Where the data lies and where to compute; None for the defaults.
        dataset: Name of the dataset; None for the one that the head was trained on.
        split: ``train``, ``val``, ``test`` or ``all``.
        splits: The split of every case in training, by key; None to split the dataset as the
            head's file says.
        options: Options of the adapter, in place of those that the head was trained with.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        WeightsError: A file is broken, or the two do not fit each other or the dataset.
        DataError: The dataset cannot be read, or a class is missing.
        PlanError: The dataset has no such split, or an option is wrong.
    """
    context = context_of(context, values)
    with context.active() as compute:
        return _evaluate(
            body_path,
            head_path,
            context,
            dataset=dataset,
            split=split,
            splits=splits,
            options=options,
            plugins=plugins or context.plugins(),
            where=compute.device,
        )


def _evaluate(
    body_path: Path,
    head_path: Path,
    context: RunContext,
    *,
    dataset: str | None,
    split: str,
    splits: Mapping[str, str] | None,
    options: Mapping[str, OptionValue] | None,
    plugins: Plugins,
    where: torch.device,
) -> EvaluationResult:
    """As `evaluate_files`, in the active context."""
    from hydrakit import weights
    from hydrakit.data.load import select
    from hydrakit.data.prepared.prepare import prepare
    from hydrakit.data.quality.leakage import assign_splits, splits_digest

    body, head = read_body(body_path), read_head(head_path)
    name = dataset or head.dataset
    adapter = plugins.get(DatasetAdapter, name)
    if (adapter.task, len(adapter.classes)) != (head.task, len(head.classes)):
        kinds = "" if adapter.task == head.task else f" of a {head.task} task"
        raise WeightsError(
            f"{head_path}: its head knows {len(head.classes)} classes "
            f"({', '.join(head.classes)}){kinds}, but {name!r} has {len(adapter.classes)}"
            f"{kinds and f' of a {adapter.task} task'}: choose another head or dataset"
        )
    told = None if split == "all" or splits else _told_by(head, head_path, name)
    if splits:
        has_it = split in splits.values()
    else:
        has_it = told is not None and (split != "test" or told[0].tests)
    if split != "all" and not has_it:
        raise PlanError(
            f"{name}: had no {split} split in training: use `--split val` or `--split all`"
        )
    model = weights.load_model(body_path, head_path, plugins=plugins).to(where)
    given = {**(head.options if name == head.dataset else {}), **(options or {})}
    prepared = prepare(adapter, context.root_of(name), options=given, patch=body.spec.patch)
    if prepared.index.channels != body.in_channels:
        raise WeightsError(
            f"{body_path}: its body takes images of {body.in_channels} channels, but {name!r} "
            f"gives {prepared.index.channels}"
        )
    if told is not None:
        gate = assign_splits(
            {name: prepared},
            {name: adapter},
            splits={name: told[0]},
            seed=told[1],
            copies=head.copies,
            keep_conflicts=True,
        )
        splits = gate.splits[name]
        if head.splits not in (None, splits_digest(splits)):
            raise PlanError(
                f"{head_path}: {name!r} cannot be split here as it was in training: its cases are "
                "others, or the other datasets of that run decided too: evaluate the run's folder, "
                "or use `--split all`"
            )
    keys = {
        case.key
        for case in prepared.index.cases
        if split == "all" or (splits or {}).get(case.key) == split
    }
    cases = select(
        prepared,
        keys,
        task=head.task,
        scale=head.scale,
        patch=body.spec.patch,
        device=where,
    )
    predictions = predict(model, cases, dataset=name, split=split, classes=adapter.classes)
    return EvaluationResult(result=score(predictions), notes=_notes(body, head, name, split))


def _told_by(head: HeadMetadata, path: Path, dataset: str) -> tuple[Split, int]:
    """How the dataset was split when the head was trained, and the plan's seed."""
    if head.dataset != dataset or head.split is None or head.seed is None:
        raise PlanError(
            f"{path}: does not tell how {dataset!r} was split for training: use `--split all`"
        )
    return head.split, head.seed


def _notes(body: BodyMetadata, head: HeadMetadata, dataset: str, split: str) -> tuple[str, ...]:
    """What a reader of the figures must know."""
    from hydrakit.weights.files import mismatch

    notes = []
    note = mismatch(body, head)
    if note:
        notes.append(note)
    if dataset != head.dataset:
        notes.append(
            f"the head was trained on {head.dataset!r}: its classes {', '.join(head.classes)} are "
            f"read as those of {dataset!r}, in order"
        )
    seen = dataset in (*body.trained_on, head.dataset)
    if seen and split == "all":
        notes.append(f"training used cases of {dataset!r}: figures over all of them flatter")
    elif dataset in body.trained_on and body.seed != head.seed:
        notes.append(
            f"the body was trained on {dataset!r} with another split: "
            "it may have seen these very cases"
        )
    elif split in ("train", "val"):
        notes.append(f"the {split} split took part in training: figures on it flatter")
    return tuple(notes)


def evaluate_run(
    run: Path,
    context: RunContext | None = None,
    *,
    dataset: str | None = None,
    split: str = "test",
    plugins: Plugins | None = None,
    **values: Any,
) -> EvaluationResult:
    """Evaluate a finished run's body with one of its heads; see `evaluate_files`.

    Args:
        run: Folder of the run.
        context: Where to compute, and the folders of datasets that have moved since the run was
            trained: ``data`` says so for this dataset, ``roots`` for each by name.
        dataset: Name of the dataset whose head and cases are taken; None for the target.
        split: ``train``, ``val``, ``test`` or ``all``.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: The run is not finished, or has no such dataset.
        HydrakitError: As `evaluate_files`.
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
        raise PlanError(f"{run}: is not finished: `hydrakit run --resume {run}` goes on")
    splits = rundir.splits()
    if name not in splits:
        raise PlanError(
            f"{run / 'splits.json'}: does not tell of {name!r}: restore it, or evaluate the run's "
            "files with `--body` and `--head`"
        )
    before = {key: Path(path) for key, path in rundir.environment().get("roots", {}).items()}
    if context.data is not None:
        before[name] = context.root_of(name)
    evaluation = evaluate_files(
        rundir.file("body.safetensors"),
        rundir.file(f"heads/{heads[-1]}.safetensors"),
        context.changed(roots={**before, **context.roots}),
        dataset=name,
        split=split,
        splits=splits[name],
        options=plan.dataset(name).options,
        plugins=plugins,
    )
    try:
        rundir.log("evaluated", dataset=name, split=split)
    except OSError as error:
        note = (
            f"{rundir.path / 'events.jsonl'}: cannot be written ({error.strerror}), so that this "
            "reading of labels is not noted there"
        )
        return replace(evaluation, notes=(*evaluation.notes, note))
    return evaluation
