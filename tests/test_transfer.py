"""Forgetting and transfer: differences of rounds on the same cases, with paired intervals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    Runner,
    hydra_plan,
    plan_of,
    plugins,
    prepared_dataset,
    refused,
    round_of,
    tree,
)
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score

from hydrakit.data.load import CaseSet
from hydrakit.data.quality.leakage import check_leakage
from hydrakit.hooks import DatasetAdapter, Task
from hydrakit.plan import Round
from hydrakit.plan.results import Metrics, RoundResult
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.transfer import FILE, NOT_STORED, NOT_YET, RoundOutputs, transfers, write_outputs
from hydrakit.stats.paired import compare
from hydrakit.stats.score_table import Row, gather

PLAN = hydra_plan()


def result(number: int, round: Round, aucs: dict[str, float]) -> RoundResult:
    return RoundResult(
        round=number, dataset=round.dataset, train=round.train, head=round.head, learning_rate=1,
        dropout=0, best_epoch=1, epochs=1, val=Metrics(loss=1, auc=0.5), reference_auc=None,
        seconds=1, heads={name: Metrics(loss=1, auc=auc) for name, auc in aucs.items()},
    )  # fmt: skip


def by_hand(run: RunDir, folder: Path, data: Path, cache: Path, rounds: tuple[int, int]):
    """alpha's cases after two rounds, compared from the files alone."""
    datasets = {d.name: prepared_dataset(d.name, data=data, cache=cache) for d in PLAN.datasets}
    gate = check_leakage(datasets, {n: plugins().get(DatasetAdapter, n) for n in datasets}, PLAN)
    cases = [
        each
        for each in datasets["alpha"].index.cases
        if run.splits()["alpha"].get(each.key) == "val"
    ]
    parts = []
    for number in rounds:
        path = run.round_path(number, PLAN.rounds[number - 1]) / FILE
        logits = load_file(path)["alpha"].astype(float)
        margins = logits[:, 1] - logits[:, 0]
        parts.append(
            gather(
                Row(
                    finding=each.key,
                    patient=gate.units["alpha"][each.key],
                    label=each.label,
                    score=float(margin),
                )
                for each, margin in zip(cases, margins, strict=True)
            )
        )
    return compare(*parts), [each.label for each in cases], parts


def test_the_intervals_are_those_of_a_paired_comparison(
    hydra_run: RunDir, tmp_path: Path, data: Path, cache: Path
) -> None:
    results = hydra_run.results()
    alpha, beta, gamma = results.transfer
    assert (alpha.dataset, beta.dataset, gamma.dataset) == ("alpha", "beta", "gamma")
    assert alpha.reason is None
    assert alpha.backward is None  # its own round is the last one
    for change in (alpha.forgotten, alpha.forward):
        found, labels, parts = by_hand(
            hydra_run, tmp_path, data, cache, (change.round, change.against)
        )
        assert change.difference == pytest.approx(found.difference, abs=1e-12)
        assert (change.low, change.high) == pytest.approx((found.low, found.high), abs=1e-12)
        aucs = [roc_auc_score(labels, [s[0] for s in each.scores.T]) for each in parts]
        assert change.difference == pytest.approx(aucs[0] - aucs[1])
        assert len(set(parts[0].patients)) < len(labels)  # some patients have two images
    assert (alpha.forward.round, alpha.forward.against) == (7, 1)
    assert (beta.backward.round, beta.backward.against) == (7, 3)
    assert beta.backward.low <= beta.backward.difference <= beta.backward.high


def test_a_head_of_several_classes_has_a_reason_in_place_of_intervals(runner: Runner) -> None:
    run = runner(plan_of(round_of("alpha"), round_of("delta", "head"), round_of("alpha")))
    alpha, delta = run.results().transfer
    assert delta.reason == "intervals are computed for two classes, not for 3"
    assert (delta.backward.round, delta.backward.against) == (3, 2)
    assert (delta.backward.low, delta.backward.high) == (None, None)
    assert alpha.reason is None


@pytest.mark.parametrize(
    ("task", "positives", "why"),
    [
        ("regression", 0, "a regression has no AUC"),
        ("multilabel", 0, "intervals are computed for two classes, not for several labels"),
        ("classification", 5000, "intervals are computed for at most 10,000,000 pairs of cases"),
    ],
)
def test_other_tasks_and_too_many_cases_have_their_reasons(
    tmp_path: Path, task: Task, positives: int, why: str
) -> None:
    labels = np.repeat([1, 0], [positives, 5000])
    val = CaseSet("a", torch.empty(0), labels, (None,) * len(labels), task, None)
    kept = RoundOutputs(RunDir(tmp_path), [round_of("a")], {"a": val}, {"a": {}})
    folder = tmp_path / "rounds" / "01-a-all"
    folder.mkdir(parents=True)
    write_outputs(folder, {"a": torch.zeros(len(labels), 2)})
    assert kept.scores(1, "a") == why


def test_what_rounds_kept_gives_the_figures_of_their_matrix(hydra_run: RunDir) -> None:
    for number, round in enumerate(PLAN.rounds, start=1):
        kept = load_file(hydra_run.round_path(number, round) / FILE)
        told = hydra_run.round_result(number, round).heads
        assert kept.keys() == told.keys()
        assert {name: each.shape[1] for name, each in kept.items()} == {
            name: len(plugins().get(DatasetAdapter, name).classes) for name in told
        }


def test_a_case_made_by_hand() -> None:
    rounds = [round_of(name, train) for name, train in
              [("a", "all"), ("b", "head"), ("b", "all"), ("a", "head"), ("a", "all"),
               ("c", "all")]]  # fmt: skip
    aucs = [
        {"a": 0.70}, {"a": 0.70, "b": 0.60}, {"a": 0.50, "b": 0.80}, {"a": 0.65, "b": 0.80},
        {"a": 0.90, "b": 0.75}, {"a": 0.85, "b": 0.55, "c": 0.6},
    ]  # fmt: skip
    done = [result(n, r, a) for n, (r, a) in enumerate(zip(rounds, aucs, strict=True), start=1)]
    a, b, c = transfers(rounds, done, NOT_YET)
    assert (a.first, a.best, a.last) == (0.70, 0.90, 0.85)
    assert [(x.round, x.against) for x in (a.forgotten, a.backward, a.forward)] == [
        (5, 6), (6, 5), (5, 1)
    ]  # fmt: skip
    assert [x.difference for x in (a.forgotten, a.backward, a.forward)] == pytest.approx(
        [0.05, -0.05, 0.20]
    )
    assert (b.first, b.best, b.last, b.forward) == (0.60, 0.80, 0.55, None)
    assert [(x.round, x.against) for x in (b.forgotten, b.backward)] == [(3, 6), (6, 3)]
    assert (c.best, c.forgotten, c.backward, c.forward, c.reason) == (None,) * 5
    assert a.reason == NOT_YET
    assert transfers(rounds, done[:1], NOT_YET)[0].reason is None  # nothing to compare
    # Of rounds that do not note all heads, what is known is told.
    assert [each.dataset for each in transfers(rounds, done[3:], NOT_STORED)] == ["a", "c"]


def test_rounds_that_share_one_head_are_told_by_dataset() -> None:
    rounds = [round_of("a", head="shared"), round_of("b", head="shared")]
    done = [result(1, rounds[0], {"a": 0.8}), result(2, rounds[1], {"a": 0.6, "b": 0.7})]
    a, b = transfers(rounds, done, NOT_YET)
    assert a.backward.difference == pytest.approx(-0.2)
    assert (b.first, b.last, b.backward) == (0.7, 0.7, None)


def again(run: RunDir, folder: Path) -> RunDir:
    """A copy of a run that has to finish once more."""
    shutil.copytree(run.path, folder)
    (folder / "results.json").unlink()
    return RunDir(folder)


def test_a_resumed_run_tells_the_same(runner: Runner, hydra_run: RunDir) -> None:
    again(hydra_run, runner.folder / "run")
    assert runner(PLAN).results().transfer == hydra_run.results().transfer


def test_rounds_that_kept_nothing_are_said(runner: Runner, hydra_run: RunDir) -> None:
    copy = again(hydra_run, runner.folder / "run")
    (copy.round_path(1, PLAN.rounds[0]) / FILE).unlink()
    alpha, beta, _ = runner(PLAN).results().transfer
    assert (alpha.reason, alpha.forward.low) == (NOT_STORED, None)
    assert beta.reason is None


@pytest.mark.parametrize("fault", ["torn", "other cases", "other dataset"])
def test_a_broken_file_names_its_remedy(runner: Runner, hydra_run: RunDir, fault: str) -> None:
    copy = again(hydra_run, runner.folder / "run")
    path = copy.round_path(7, PLAN.rounds[6]) / FILE
    kept = load_file(path)
    if fault == "torn":
        path.write_bytes(path.read_bytes()[:20])
    elif fault == "other cases":
        save_file(kept | {"alpha": np.zeros((3, 2), np.float32)}, path)
    else:
        save_file({"beta": kept["beta"]}, path)
    refused(lambda: runner(PLAN), str(path), f"delete {path.parent} and run again")
    assert not copy.results_path.exists()


def test_no_patient_is_in_what_rounds_keep(hydra_run: RunDir) -> None:
    keys = set(hydra_run.splits()["alpha"])
    files = {p: c for p, c in tree(hydra_run.path).items() if p.endswith(FILE)}
    assert len(files) == 7
    assert not [key for key in keys for content in files.values() if key.encode() in content]
