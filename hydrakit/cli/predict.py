"""The command ``hydrakit predict``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hydrakit.cli import params
from hydrakit.cli.completion import names_of
from hydrakit.cli.plan_options import PlanCommand, plan_options
from hydrakit.cli.printing import say, say_json

if TYPE_CHECKING:
    from hydrakit.hooks import Label
    from hydrakit.plugins.registry import Plugins
    from hydrakit.runs.context import RunContext
    from hydrakit.runs.evaluate import EvaluationResult
    from hydrakit.runs.model import Model
    from hydrakit.runs.predict import CaseSource, PredictionSummary
    from hydrakit.runs.predicted import Rule

Progress = Callable[[str, int, int | None], None]


def _spacing(
    _: click.Context, __: click.Parameter, value: str | None
) -> tuple[float, float] | None:
    if value is None:
        return None
    number = params.FloatOption(min=0, min_open=True)
    parts = [number.convert(part.strip(), None, None) for part in value.split(",")]
    if len(parts) not in (1, 2):
        raise click.BadParameter(f"{value!r} is not of the form ROW,COLUMN")
    return parts[0], parts[-1]


_share = params.FloatOption(min=0, max=1, min_open=True, max_open=True)


@click.command(cls=PlanCommand, short_help="Predict images with a trained model.")
@click.argument("inputs", nargs=-1, metavar="[MODEL] INPUT...", type=params.FOLDER)
@click.option(
    "--body", type=params.FOLDER, metavar="FILE", help="In place of MODEL: file of a body."
)
@click.option("--head", type=params.FOLDER, metavar="FILE", help="File of a head, with --body.")
@click.option(
    "--dataset",
    shell_complete=names_of("dataset"),
    metavar="NAME",
    help="Dataset whose head predicts.  [default: the target of the run, or the only head]",
)
@click.option(
    "--out",
    type=params.FOLDER,
    default=Path("predictions.csv"),
    show_default=True,
    metavar="FILE",
    help="CSV to write; it appears when it is complete.",
)
@click.option(
    "--pattern",
    metavar="PATTERN",
    help="Files in the folder, and what their paths name, as in dataset.toml: '{patient}/*.png'.",
)
@click.option(
    "--images",
    type=params.FOLDER,
    metavar="DIR",
    help="Folder that the paths in a table are relative to.  [default: that of the table]",
)
@click.option(
    "--spacing",
    callback=_spacing,
    metavar="ROW,COLUMN",
    help="Pixel spacing in millimetres of images that do not state it.",
)
@click.option(
    "--sensitivity",
    type=_share,
    metavar="X",
    help="Use the threshold for this sensitivity on held-out findings.",
)
@click.option(
    "--specificity",
    type=_share,
    metavar="X",
    help="Use the threshold for this specificity on held-out findings.",
)
@click.option(
    "--uncalibrated",
    is_flag=True,
    help="Give the probabilities of the network, and the most probable class: neither calibration "
    "nor threshold in the head's file is used.",
)
@click.option(
    "--conformal",
    type=_share,
    metavar="X",
    help="Also give the set of possible classes that contains the true one with this probability.",
)
@click.option(
    "--labels",
    metavar="FILE|own",
    help="Also compare with labels: those in a table with the columns key and label, or the "
    "input's own.",
)
@click.option(
    "--explain", type=params.FOLDER, metavar="DIR", help="Write a saliency map of each case as PNG."
)
@params.evaluation_options
@plan_options("options")
@params.as_json
@click.pass_context
def predict(
    ctx: click.Context,
    /,
    *,
    inputs: tuple[Path, ...],
    body: Path | None,
    head: Path | None,
    dataset: str | None,
    out: Path,
    pattern: str | None,
    images: Path | None,
    spacing: tuple[float, float] | None,
    sensitivity: float | None,
    specificity: float | None,
    uncalibrated: bool,
    conformal: float | None,
    labels: str | None,
    explain: Path | None,
    context: RunContext,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Predict images with a trained model, and write one line for each.

    MODEL is a finished run, or a folder that `weights swap`, `finish` or `export --to hub` wrote.

    INPUT is the name of a dataset, a folder of images (or with a dataset.toml), image files, or a
    table (.csv, .xlsx) with a column path and, as far as the model needs them, row and column (or
    row_mm and column_mm), row_spacing and column_spacing, patient, and finding.

    To continue a command that was stopped, give it again. docs/predict.md explains the columns.
    """
    if (body is None) != (head is None):
        raise click.UsageError("--body and --head belong together: give both, or a MODEL")
    if len(inputs) < (2 if body is None else 1):
        raise click.UsageError("give a MODEL (or --body and --head) and an INPUT")
    if sensitivity is not None and specificity is not None:
        raise click.UsageError("a threshold is for --sensitivity or for --specificity: give one")
    if uncalibrated and not (sensitivity is None and specificity is None and conformal is None):
        raise click.UsageError(
            "--sensitivity, --specificity and --conformal use what --uncalibrated leaves out"
        )
    model_path, names = (inputs[0], inputs[1:]) if body is None else (None, inputs)

    from hydrakit.errors import DataError, PlanError
    from hydrakit.runs.model import load_model
    from hydrakit.runs.predict import PART, predict_to_csv, read_labels
    from hydrakit.runs.predicted import Rule

    with context.active():
        plugins = context.plugins()
        model = load_model(
            model_path,
            body=body,
            head=head,
            dataset=dataset,
            device=context.device,
            plugins=plugins,
        )
        source = _source(
            model,
            names,
            context,
            plugins,
            pattern=pattern,
            images=images,
            spacing=spacing,
            options=options,
            labels=labels == "own",
        )
        given = sensitivity if specificity is None else specificity
        rule = Rule.of(
            model.task,
            model.classes,
            None if uncalibrated else model.decision,
            aim=None if given is None else "sensitivity" if specificity is None else "specificity",
            wished=given or 0.9,
            coverage=conformal,
        )
        known: Mapping[str, Label] | Literal["own"] | None = None
        if labels is not None:
            known = "own" if labels == "own" else read_labels(Path(labels), model)
        pictures = None
        if explain is not None:
            from hydrakit.report.saliency import SaliencyPictures

            goes_on = out.with_name(out.name + PART).exists()
            if not goes_on and explain.is_dir() and any(explain.iterdir()):
                raise PlanError(f"{explain}: is not empty: name a new folder with `--explain`")
            pictures = SaliencyPictures(model, explain)
        with _progress() as (progress, note):
            summary = predict_to_csv(
                model,
                source,
                out,
                rule=rule,
                spacing=spacing,
                labels=known,
                explain=pictures,
                noted=note,
                on_case=progress,
            )
        figures, failure = None, None
        try:
            figures = None if known is None else _figures(out, model, source)
        except DataError as error:  # the predictions are written, and are reported first
            failure = error
    _print(summary, figures, rule=rule, as_json=as_json)
    if failure is not None:
        raise failure
    if summary.predicted == 0:
        ctx.exit(1)


def _source(
    model: Model,
    names: tuple[Path, ...],
    context: RunContext,
    plugins: Plugins,
    *,
    pattern: str | None,
    images: Path | None,
    spacing: tuple[float, float] | None,
    options: dict[str, Any],
    labels: bool,
) -> CaseSource:
    """The cases that INPUT means: those of a dataset of this name, or else images."""
    from hydrakit.data.declared.adapter import load_declared
    from hydrakit.data.declared.schema import FILE
    from hydrakit.hooks import DatasetAdapter
    from hydrakit.runs.predict import cases_in_files, cases_of_adapter, cases_of_dataset

    name = str(names[0])
    is_name = len(names) == 1 and (
        name in plugins.all(DatasetAdapter) or ("dataset", name) in plugins.clashes
    )
    if not is_name:
        if options:
            raise click.UsageError("--option is for a dataset, and INPUT is none: leave it out")
        if len(names) == 1 and pattern is None and (names[0] / FILE).is_file():
            return cases_of_adapter(model, load_declared(names[0]), names[0])
        return cases_in_files(
            model, names, pattern=pattern, images=images, spacing=spacing, labels=labels
        )
    for option, value in (("--pattern", pattern), ("--images", images)):
        if value is not None:
            raise click.UsageError(
                f"{option} is not for a dataset, and {name!r} is one: write ./{name} for a folder"
            )
    return cases_of_dataset(model, name, context, plugins, options=options.get(name))


def _figures(out: Path, model: Model, source: CaseSource) -> EvaluationResult:
    """Compute the figures, and record in the run that labels were used."""
    from hydrakit.runs.predict import figures_of

    figures = figures_of(out, model, source)
    if model.files.run is not None:
        model.files.run.log("evaluated", dataset=figures.result.dataset, split="all")
    return figures


@contextmanager
def _progress() -> Iterator[tuple[Progress, Callable[[str], None]]]:
    """What shows the progress on a terminal, and what prints notes."""
    from rich.console import Console

    from hydrakit.errors import printable

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None, lambda text: say(f"Note: {text}", err=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    ]
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None, rate="")
        begun: dict[str, tuple[float, int]] = {}

        def show(what: str, done: int, of: int | None) -> None:
            if what not in begun:
                begun[what] = time.monotonic(), done
                bar.reset(task, description=what, total=of, completed=done, rate="")
            start, before = begun[what]
            seconds = time.monotonic() - start
            rate = f"{(done - before) / seconds:.0f} images/s" if seconds > 1 else ""
            bar.update(task, completed=done, total=of, rate=rate)

        def note(text: str) -> None:
            bar.console.print(f"Note: {printable(text)}", highlight=False, markup=False)

        yield show, note


def _print(
    summary: PredictionSummary, figures: EvaluationResult | None, *, rule: Rule, as_json: bool
) -> None:
    import json

    from hydrakit.cli.printing import print_evaluation
    from hydrakit.report.tables import count_of

    if as_json:
        result = summary.model_dump(mode="json")
        if figures is not None:
            result["figures"] = figures.result.model_dump(mode="json")
            result["notes"] += figures.notes
        say_json(json.dumps(result, indent=2))
        return
    without = summary.cases - summary.predicted
    say(f"{summary.out}: {count_of(summary.cases, 'case')}, {without} of them without a prediction")
    for reason, count in summary.reasons.items():
        say(f"  {count_of(count, 'case')}: {reason}")
    if summary.by_class:
        counts = ", ".join(f"{name} {count}" for name, count in summary.by_class.items())
        say(f"predicted: {counts}")
    threshold = rule.threshold
    if threshold is not None:
        say(
            f"  {rule.classes[1]} from a probability of {threshold.value:.3g}, chosen for a "
            f"{threshold.aim} of {threshold.wished:g}: on held-out findings, sensitivity "
            f"{threshold.sensitivity:.2f}, specificity {threshold.specificity:.2f}"
        )
    if summary.seen_in_training and figures is None:  # the figures say so, too
        too = (
            "probabilities are too sure"
            if summary.by_class
            else "predictions are better than for others"
        )
        say(
            f"training used {summary.seen_in_training} of these images, or copies of them: for "
            f"them the {too}"
        )
    if figures is not None:
        print_evaluation(figures, as_json=False)
