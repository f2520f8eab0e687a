"""What each normalisation of grey values would keep of the difference between the classes.

Measured by a logistic regression on first-order statistics of the training patches
(`hydrakit.models.intensity`), which predicts patients that it has not seen. The statistics are
standardised, so that ``none`` keeps as much as ``dataset``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.quality.summary import GreyChoice, GreyMeasurement
from hydrakit.hooks import DatasetAdapter, Normalise, Window
from hydrakit.plan.grey import rule_text
from hydrakit.plan.model import BodySpec
from hydrakit.plan.results import AreaUnderCurve

if TYPE_CHECKING:
    from hydrakit.stats.findings import Floats
    from hydrakit.stats.score_table import ScoreTable

RULES: tuple[Normalise, ...] = ("patient", "image", "dataset")
MAX_IMAGES = 2000
MIN_PATIENTS = 10
CHUNK = 256  # images at a time


def measure_rules(
    adapter: DatasetAdapter,
    prepared: PreparedDataset,
    splits: Mapping[str, str],
    units: Mapping[str, str],
    *,
    seed: int,
) -> GreyMeasurement:
    """Compare the normalisations on the training split; no other case is used.

    Args:
        adapter: Adapter of the dataset, with its present rule.
        prepared: Its patches.
        splits: Split of every labelled case, by key.
        units: Name of what must stay in one split, by key: a patient, group, or copies.
        seed: Seed of the choice of patients, if there are more than `MAX_IMAGES` images.
    """
    present = adapter.normalise
    fault = _fault(adapter, prepared, splits, units)
    if fault is not None:
        return GreyMeasurement(present=present, recommended=present, text=f"not compared: {fault}")
    rows = _sample(_training_rows(prepared, splits), prepared, units, seed=seed)
    rules = RULES if present in (*RULES, "none") else (*RULES, present)
    tables = {
        rule: _score_tables(adapter, prepared, rows, features, units)
        for rule, features in _features(prepared, rows, rules, splits).items()
    }
    recommended, text = _recommend(present, tables)
    return GreyMeasurement(
        present=present,
        choices=tuple(_choice(rule, of_class) for rule, of_class in tables.items()),
        recommended=recommended,
        text=text,
        images=len(rows),
        training=len(_training_rows(prepared, splits)),
    )


def _training_rows(prepared: PreparedDataset, splits: Mapping[str, str]) -> list[int]:
    cases = enumerate(prepared.index.cases)
    return [row for row, case in cases if splits.get(case.key) == "train"]


def _fault(
    adapter: DatasetAdapter,
    prepared: PreparedDataset,
    splits: Mapping[str, str],
    units: Mapping[str, str],
) -> str | None:
    """Why the normalisations cannot be compared, or None."""
    from hydrakit.stats.tasks import strata, strata_names

    if adapter.task == "regression":
        return "a regression has no classes"
    if not splits:
        return "the cases cannot be split"
    cases = [prepared.index.cases[row] for row in _training_rows(prepared, splits)]
    labels = [case.label for case in cases if case.label is not None]
    members = strata(labels, adapter.task, adapter.classes)
    for column, name in zip(members.T, strata_names(adapter.task, adapter.classes), strict=True):
        patients = len(
            {units[case.key] for case, inside in zip(cases, column, strict=True) if inside}
        )
        if patients < MIN_PATIENTS:
            return (
                f"{name!r} has {patients} patients in the training split, and {MIN_PATIENTS} are "
                "needed"
            )
    return None


def _sample(
    rows: Sequence[int], prepared: PreparedDataset, units: Mapping[str, str], *, seed: int
) -> list[int]:
    """Rows of whole patients, drawn at random, of at most `MAX_IMAGES` images or one patient."""
    if len(rows) <= MAX_IMAGES:
        return list(rows)
    of_unit: dict[str, list[int]] = {}
    for row in rows:
        of_unit.setdefault(units[prepared.index.cases[row].key], []).append(row)
    drawn: list[int] = []
    names = list(of_unit)
    for number in np.random.default_rng(seed).permutation(len(names)):
        if not drawn or len(drawn) + len(of_unit[names[number]]) <= MAX_IMAGES:
            drawn += of_unit[names[number]]
    return sorted(drawn)


def _features(
    prepared: PreparedDataset,
    rows: Sequence[int],
    rules: Sequence[Normalise],
    splits: Mapping[str, str],
) -> dict[Normalise, Floats]:
    """First-order statistics of the unaugmented patches under each rule, ``(cases, features)``."""
    import torch

    from hydrakit.data.load import PatchStore
    from hydrakit.models.intensity import first_order

    patch, cpu = BodySpec().patch, torch.device("cpu")
    stores = {
        rule: PatchStore(prepared, rows, cpu, prepared.index.grey_values(rule, splits))
        for rule in rules
    }
    parts = torch.arange(len(rows)).split(CHUNK)
    return {
        rule: np.concatenate(
            [first_order(store.views(part, None, patch)).double().numpy() for part in parts]
        )
        for rule, store in stores.items()
    }


def _score_tables(
    adapter: DatasetAdapter,
    prepared: PreparedDataset,
    rows: Sequence[int],
    features: Floats,
    units: Mapping[str, str],
) -> dict[str, ScoreTable]:
    """Scores of cases that the regression has not seen, by class or label."""
    from hydrakit.stats.regression import cross_validated_outputs, grouped_folds
    from hydrakit.stats.score_table import Row, gather
    from hydrakit.stats.tasks import positives_of, predictions, targets_of

    cases = [prepared.index.cases[row] for row in rows]
    labels = [case.label for case in cases if case.label is not None]
    targets, groups = targets_of(labels, adapter.task), [units[case.key] for case in cases]
    task, classes = adapter.task, adapter.classes
    folds = grouped_folds(targets, groups, task=task, outputs=len(classes))
    outputs = cross_validated_outputs(features, targets, groups, task=task, outputs=len(classes))
    scores = predictions(outputs, task=task)
    return {
        classes[label]: gather(
            Row(
                finding=case.finding,
                patient=group,
                label=int(is_positive),
                score=float(score),
                fold=int(fold),
            )
            for case, group, is_known, is_positive, score, fold in zip(
                cases, groups, known, positive, scores[:, label], folds, strict=True
            )
            if is_known
        )
        for label, known, positive in positives_of(targets, task=task, classes=classes)
    }


def _choice(rule: Normalise, tables: Mapping[str, ScoreTable]) -> GreyChoice:
    from hydrakit.stats.intervals import mean_auc

    areas = []
    for name, table in tables.items():
        mean = mean_auc(table)
        areas.append(
            AreaUnderCurve(
                class_name=name,
                auc=mean.auc,
                low=mean.low,
                high=mean.high,
                positives=mean.positives,
                negatives=mean.negatives,
            )
        )
    return GreyChoice(rule=rule, classes=tuple(areas))


def _recommend(
    present: Normalise, tables: Mapping[Normalise, Mapping[str, ScoreTable]]
) -> tuple[Normalise, str]:
    """The rule to use, and why.

    Another rule than the present one is recommended if it is better for a class, and worse for
    none: p-value of the paired difference at most 0.05, and its 95 % interval on that side of 0,
    corrected for the number of classes, but not for that of rules, because this is advice and no
    result. Of several such rules, the one with the highest mean difference is recommended.
    """
    from hydrakit.stats.paired import compare
    from hydrakit.stats.verdict import verdicts

    measured: Normalise = "dataset" if present == "none" else present
    gains: dict[Normalise, float] = {}
    reasons: dict[Normalise, str] = {}
    for rule, of_class in tables.items():
        if rule == measured:
            continue
        found = verdicts(
            {(name, name): compare(each, tables[measured][name]) for name, each in of_class.items()}
        )
        better = [each for each in found if each.kind == "better"]
        if better and all(each.kind != "worse" for each in found):
            gains[rule] = sum(each.difference for each in found)
            best = max(better, key=lambda each: each.difference)
            reasons[rule] = (
                f"the AUC for {best.first!r} is {best.difference:.3f} higher ({best.low:.3f} to "
                f"{best.high:.3f}) than with {rule_text(present)}"
            )
    if not gains:
        return present, f"keep {rule_text(present)}: no other choice is better beyond chance"
    rule = max(gains, key=lambda rule: gains[rule])
    return rule, f"use {rule_text(rule)} (normalise = {_in_toml(rule)}): {reasons[rule]}"


def _in_toml(rule: Normalise) -> str:
    if isinstance(rule, Window):
        return f"{{ window = [{rule.window[0]:g}, {rule.window[1]:g}] }}"
    return f'"{rule}"'
