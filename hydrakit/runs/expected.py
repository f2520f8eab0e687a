"""Expected figures of the heads of a run or of a model's folder: what is known before a test."""

from __future__ import annotations

from pathlib import Path

from hydrakit.plan.results import Metrics, Results, TestResult
from hydrakit.runs.rundir import RunDir
from hydrakit.weights.description import ExpectedFigure, read_model_description

VALIDATION = "the validation split, which selected the weights: too high as an estimate"


def expected_figures(folder: Path) -> dict[str, ExpectedFigure]:
    """Expected figure of each head, by its dataset, from ``results.json`` or ``model.json``.

    In a run, the target has the figure of the test split, and each other dataset the validation
    figure of its head on the body that it belongs to (`Plan.body_round`).

    Args:
        folder: Folder of a run or of a model; without either file, nothing is known.

    Raises:
        PlanError: A file is invalid, or was changed after the run.
    """
    results, description = RunDir(folder).results(), read_model_description(folder)
    own = {} if results is None else figures_of(results)
    return own if description is None else own | description.expected


def figures_of(results: Results) -> dict[str, ExpectedFigure]:
    """Expected figure of each head of a run, from its results."""
    last = results.rounds[-1].heads if results.rounds else {}
    figures = {name: _validation_figure(metrics) for name, metrics in last.items()}
    changing = (each.round for each in results.rounds if each.train not in ("head", "none"))
    last_change = max(changing, default=0)
    last_of = {each.head: each for each in results.rounds}
    for each in results.rounds:
        own = last_of[each.head]
        if own.round < last_change and each.dataset in own.heads:
            figures[each.dataset] = _validation_figure(own.heads[each.dataset])
    if results.test is not None:
        figures[results.target] = _test_figure(results.test, networks=len(results.members))
    return figures


def _test_figure(test: TestResult, *, networks: int) -> ExpectedFigure:
    low = high = None
    if len(test.classes) == 1:
        low, high = test.classes[0].low, test.classes[0].high
    reason = "the test split, which trained and selected nothing"
    if networks:
        reason += f"; of the mean prediction of {networks} networks"
    return ExpectedFigure(
        metric="R2" if test.figures.auc is None else "AUC",
        value=test.figures.score,
        low=low,
        high=high,
        findings=test.findings,
        source="test",
        reason=reason,
    )


def _validation_figure(metrics: Metrics) -> ExpectedFigure:
    metric = "R2" if metrics.auc is None else "AUC"
    return ExpectedFigure(
        metric=metric, value=metrics.score, source="validation", reason=VALIDATION
    )


def figure_text(figure: ExpectedFigure) -> str:
    """A figure in words, such as ``test AUC 0.812 (0.701 to 0.890), 70 findings``."""
    source = {"test": "test", "folds": "cross-validated", "validation": "validation"}
    text = f"{source[figure.source]} {figure.metric} {figure.value:.3f}"
    if figure.low is not None and figure.high is not None:
        text += f" ({figure.low:.3f} to {figure.high:.3f})"
    return text if figure.findings is None else f"{text}, {figure.findings} findings"
