"""Looking at cases with a finished network: the test split at a run's end, and any other time."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.errors import DataError, PlanError, WeightsError, unknown
from hydrakit.hooks import OptionValue
from hydrakit.places import root_of
from hydrakit.plan import Split
from hydrakit.plugins import Plugins, load_plugins
from hydrakit.results import AreaUnderCurve, TestResult
from hydrakit.rundir import RunDir
from hydrakit.stats import newcombe_interval
from hydrakit.weightfile import BodyMetadata, HeadMetadata, read_body, read_head

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from hydrakit.data.load import Cases


@dataclass(frozen=True)
class Predictions:
    """What a network said of some cases.

    Attributes:
        dataset: Where they are from.
        split: Which of its splits, or ``all``.
        classes: Names of the classes.
        keys: Of the cases.
        labels: ``(cases,)`` class indices.
        logits: ``(cases, classes)``.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]


def predict(
    model: nn.Module, cases: Cases, *, dataset: str, split: str, classes: Sequence[str]
) -> Predictions:
    """What a joined body and head, on the cases' device, says of them."""
    from hydrakit.train import outputs

    return Predictions(
        dataset=dataset,
        split=split,
        classes=tuple(classes),
        keys=tuple(case.key for case in cases.cases),
        labels=cases.labels,
        logits=outputs(model, cases.patches).cpu().double().numpy(),
    )


def score(predictions: Predictions) -> TestResult:
    """The figures of predictions, with what the number of cases lets one say.

    Raises:
        DataError: A class has no case among them.
    """
    from hydrakit import metrics
    from hydrakit.results import Figures

    labels, logits = predictions.labels, predictions.logits
    for label, name in enumerate(predictions.classes):
        if not (labels == label).any():
            raise DataError(
                f"{predictions.dataset}: no case of class {name!r} in split "
                f"{predictions.split!r}: its AUC cannot be told"
            )
    probabilities = metrics.softmax(logits)
    chosen = [1] if len(predictions.classes) == 2 else range(len(predictions.classes))
    areas = []
    for label in chosen:
        positive = (labels == label).astype(int)
        auc = metrics.auc(probabilities[:, label], positive)
        positives, negatives = int(positive.sum()), int(len(positive) - positive.sum())
        low, high = newcombe_interval(auc, positives, negatives)
        areas.append(
            AreaUnderCurve(
                class_name=predictions.classes[label],
                auc=auc,
                low=low,
                high=high,
                positives=positives,
                negatives=negatives,
            )
        )
    return TestResult(
        dataset=predictions.dataset,
        split=predictions.split,
        figures=Figures(
            loss=metrics.cross_entropy(logits, labels),
            auc=metrics.auc_from_probabilities(probabilities, labels),
            accuracy=metrics.accuracy(probabilities, labels),
        ),
        classes=tuple(areas),
    )


def to_csv(predictions: Sequence[Predictions]) -> str:
    """The text of ``predictions.csv``: a line for each case, with its class probabilities."""
    from hydrakit import metrics

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = predictions[0].classes
    writer.writerow(["dataset", "split", "key", "label", "predicted", *(f"p_{c}" for c in classes)])
    for part in predictions:
        rows = zip(part.keys, part.labels, metrics.softmax(part.logits), strict=True)
        for key, label, row in rows:
            writer.writerow(
                [part.dataset, part.split, key, classes[label], classes[row.argmax()], *row]
            )
    return text.getvalue()


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating weight files, and what must be said with it."""

    result: TestResult
    notes: tuple[str, ...]


def evaluate_files(
    body_path: Path,
    head_path: Path,
    *,
    root: Path,
    dataset: str | None = None,
    split: str = "test",
    shares: tuple[Split, int] | None = None,
    options: Mapping[str, OptionValue] | None = None,
    device: str = "auto",
    cache: Path | None = None,
    plugins: Plugins | None = None,
) -> Evaluation:
    """Evaluate a head on a body, on a dataset's files.

    Args:
        body_path: The body's file.
        head_path: The head's file.
        root: Folder of the dataset.
        dataset: Its name; None for the one that the head was trained on.
        split: ``train``, ``val``, ``test`` or ``all``.
        shares: How the dataset was split for training, and the plan's seed; None for what the
            head's file tells.
        options: Of the adapter, in place of those that the head was trained with.
        device: As for a run.
        cache: Where prepared data is kept.
        plugins: As loaded; None loads them.

    Raises:
        WeightsError: A file is broken, or the two do not fit each other or the dataset.
        DataError: The dataset cannot be read, or a class is missing.
        PlanError: The dataset has no such split, or an option is wrong.
    """
    from hydrakit import weights
    from hydrakit.data.load import select, share_out
    from hydrakit.data.prepare import prepare
    from hydrakit.engine import choose_device

    plugins = plugins or load_plugins()
    body, head = read_body(body_path), read_head(head_path)
    name = dataset or head.dataset
    adapter = plugins.dataset(name)
    if len(adapter.classes) != len(head.classes):
        raise WeightsError(
            f"{head_path}: its head knows {len(head.classes)} classes "
            f"({', '.join(head.classes)}), but {name!r} has {len(adapter.classes)}: choose "
            "another head or dataset"
        )
    if split != "all":
        shares = shares or _told_by(head, head_path, name)
        if getattr(shares[0], split) == 0:
            raise PlanError(
                f"{name}: had no {split} split in training: use `--split val` or `--split all`"
            )
    where = choose_device(device)
    model = weights.load_model(body_path, head_path, plugins=plugins).to(where)
    given = {**(head.options if name == head.dataset else {}), **(options or {})}
    prepared = prepare(adapter, root, options=given, patch=body.spec.patch, cache=cache)
    if prepared.index.channels != body.in_channels:
        raise WeightsError(
            f"{body_path}: its body takes images of {body.in_channels} channels, but {name!r} "
            f"gives {prepared.index.channels}"
        )
    if split == "all" or shares is None:
        keys = {case.key for case in prepared.index.cases if case.label is not None}
    else:
        dealt = share_out(prepared, adapter, split=shares[0], seed=shares[1])
        keys = {key for key, part in dealt.items() if part == split}
    cases = select(prepared, keys, patch=body.spec.patch, device=where)
    predictions = predict(model, cases, dataset=name, split=split, classes=adapter.classes)
    return Evaluation(result=score(predictions), notes=_notes(body, head, name, split))


def _told_by(head: HeadMetadata, path: Path, dataset: str) -> tuple[Split, int]:
    """How the dataset was split when the head was trained, and the plan's seed."""
    if head.dataset != dataset or head.split is None or head.seed is None:
        raise PlanError(
            f"{path}: does not tell how {dataset!r} was split for training: use `--split all`"
        )
    return head.split, head.seed


def _notes(body: BodyMetadata, head: HeadMetadata, dataset: str, split: str) -> tuple[str, ...]:
    """What a reader of the figures must know."""
    from hydrakit.weights import mismatch

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
    *,
    roots: Mapping[str, Path],
    dataset: str | None = None,
    split: str = "test",
    device: str = "auto",
    cache: Path | None = None,
    plugins: Plugins | None = None,
) -> Evaluation:
    """Evaluate a finished run's body with one of its heads; see `evaluate_files`.

    Args:
        run: Its folder.
        roots: Folders of datasets that are not where they were when the run was trained.
        dataset: Whose head and cases; None for the target.
        split: ``train``, ``val``, ``test`` or ``all``.
        device: As for a run.
        cache: Where prepared data is kept.
        plugins: As loaded; None loads them.

    Raises:
        PlanError: The run is not finished, or has no such dataset.
        HydrakitError: As `evaluate_files`.
    """
    rundir = RunDir(run)
    plan = rundir.plan()
    name = dataset or plan.target
    heads = [round.head for round in plan.rounds if round.dataset == name]
    if not heads:
        raise PlanError(f"{run}: {unknown('dataset', name, [d.name for d in plan.datasets])}")
    if rundir.results() is None:
        raise PlanError(f"{run}: is not finished: `hydrakit run --resume {run}` goes on")
    known = {key: Path(path) for key, path in rundir.environment().get("roots", {}).items()}
    evaluation = evaluate_files(
        rundir.body_path,
        rundir.head_path(heads[-1]),
        root=root_of(name, None, {**known, **roots}),
        dataset=name,
        split=split,
        shares=(plan.dataset(name).split, plan.seed),
        options=plan.dataset(name).options,
        device=device,
        cache=cache,
        plugins=plugins,
    )
    rundir.log("evaluated", dataset=name, split=split)
    return evaluation
