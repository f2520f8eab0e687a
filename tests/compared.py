"""A comparison of three strategies, made up, for the tests of its report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hydrakit.stats.comparison import Comparison
from hydrakit.stats.intervals import mean_auc
from hydrakit.stats.paired import compare
from hydrakit.stats.score_table import Row, gather
from hydrakit.stats.verdict import verdicts

FINDINGS, FOLDS, SEEDS = 80, 4, 2
SHIFTS = {"hydra": 1.4, "transfer": 1.2, "classical": 0.2}


def rows_of(shift: float) -> list[Row]:
    """Scores of findings, two of each patient, every fourth patient positive."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(SEEDS, FINDINGS))
    return [
        Row(
            finding=f"secret-{number:02d}",
            patient=f"p{number // 2}",
            label=int(number // 2 % 4 == 0),
            score=float(1 / (1 + np.exp(-noise[seed, number] - shift * (number // 2 % 4 == 0)))),
            seed=seed,
            fold=number // 2 // 4 % FOLDS,
        )
        for seed in range(SEEDS)
        for number in range(FINDINGS)
    ]


def make_comparison(folder: Path, **changes: object) -> Comparison:
    """Write ``comparison.json`` of the strategies into a folder."""
    tested = {name: gather(rows_of(shift)) for name, shift in SHIFTS.items()}
    first, *others = tested
    differences = {(first, other): compare(tested[first], tested[other]) for other in others}
    one = tested[first]
    found = {name: mean_auc(each) for name, each in tested.items()}
    strategies = [
        {
            "name": name, "val": 0.9, "auc": mean.auc, "low": mean.low, "high": mean.high,
            "cells": mean.cells, "left_out": mean.left_out, "seconds": 100.0, "shared": 2,
            "scores": tested[name].scores.tolist(),
            "mean_scores": tested[name].scores.mean(axis=0).tolist(),
        }
        for name, mean in found.items()
    ]  # fmt: skip
    pairs = [
        {
            "strategy": each.first, "against": each.second, "difference": each.difference,
            "low": each.low, "high": each.high, "p": differences[each.first, each.second].p,
            "p_holm": each.p, "verdict": each.kind, "findings_needed": each.needed,
            "text": each.text,
        }
        for each in verdicts(differences)
    ]  # fmt: skip
    made = Comparison.model_validate(
        {
            "hydrakit": "0.1.0",
            "digest": "cd" * 32,
            "datasets": ("prostatex", "brain", "prostatex"),
            "target": "prostatex",
            "positive": "significant",
            "seeds": SEEDS,
            "repeats": 1,
            "folds": FOLDS,
            "level": 0.95,
            "positives": found[first].positives,
            "negatives": found[first].negatives,
            "patients": found[first].patients,
            "strategies": strategies,
            "pairs": pairs,
            "verdict": "\n".join(str(pair["text"]) for pair in pairs),
            "readings": 24,
            "wanted": 24,
            "failed": {},
            "used": 24,
            "findings": one.findings,
            "labels": one.labels.tolist(),
            "patient_of": one.patients.tolist(),
            "passes": one.passes,
            "fold_of": one.folds.tolist(),
            "images": FINDINGS,
        }
        | changes
    )
    folder.mkdir(exist_ok=True)
    (folder / "comparison.json").write_text(made.model_dump_json(), encoding="utf-8")
    return made
