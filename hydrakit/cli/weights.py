"""The commands ``hydrakit weights inspect``, ``import-authors`` and ``swap``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from hydrakit.cli import params
from hydrakit.cli.completion import names_of
from hydrakit.cli.printing import say, say_json
from hydrakit.errors import WeightsError, command_line, one_line

if TYPE_CHECKING:
    from hydrakit.weights.format import BodyMetadata


@click.group(short_help="Inspect, import and swap weight files.")
def weights() -> None:
    """Inspect weight files, import them, and combine a head with another body."""


@weights.command()
@click.argument("file", type=params.FOLDER)
@params.as_json
def inspect(file: Path, as_json: bool) -> None:
    """Print the contents of a safetensors FILE of hydrakit and the input that it expects."""
    from hydrakit.file_rules import rules_text
    from hydrakit.weights.format import BodyMetadata, HeadMetadata, read_metadata

    if file.is_dir():
        _refuse_folder(file)
    description = read_metadata(file)
    _note_ensemble(file)
    _note_other_body(file)
    if as_json:
        say_json(description.model_dump_json(indent=2))
        return
    facts = description.model_dump(mode="json", exclude={"probe"}, exclude_none=True)
    if description.cases is not None:
        facts["cases"]["images"] = len(description.cases.digests())
    facts.get("preprocessing", {}).pop("grey_values", None)  # its words are printed
    if isinstance(description, HeadMetadata) and description.preprocessing.file_rules is not None:
        facts["preprocessing"]["file_rules"] = rules_text(description.preprocessing.file_rules)
    if isinstance(description, HeadMetadata) and description.decision is not None:
        facts["decision"] = description.decision.words(description.classes)
    if isinstance(description, BodyMetadata):
        facts["lineage"] = _steps(description)
    for key, value in facts.items():
        text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else _text(value)
        say(f"{key + ':':16}{one_line(text, 2**20)}")


def _refuse_folder(folder: Path) -> NoReturn:
    """Refuse a folder in place of a weight file, with the files in it.

    Raises:
        WeightsError: Always.
    """
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*.safetensors"))]
    first = [path for path in files if len(path.parts) < 3]  # not those of rounds and members
    names = ", ".join(map(str, (first or files)[:20]))
    raise WeightsError(
        f"{folder}: is a folder: give one of its files ({one_line(names, 500)})"
        if files
        else f"{folder}: is a folder without weight files: give a .safetensors file"
    )


def _note_ensemble(file: Path) -> None:
    """Say if a file is of a run whose results are of several networks."""
    from hydrakit.runs.rundir import RunDir

    folder = file.parent.parent if file.parent.name == "heads" else file.parent
    members = RunDir(folder).begun_members()
    if members:
        command = command_line("hydrakit", "evaluate", folder)
        note = f"one of the {len(members) + 1} networks of an ensemble: `{command}`"
        say(f"Note: {file}: is of {note} averages all of them", err=True)


def _note_other_body(file: Path) -> None:
    """Say if a head of a run does not belong to the run's final body."""
    from hydrakit.runs.rundir import RunDir

    run = RunDir(file.parent.parent)
    if file.parent.name != "heads" or not run.plan_path.is_file():
        return
    plan = run.plan()
    if any(file.stem in round.heads for round in plan.rounds):
        number = plan.body_round(file.stem)
        if number is not None:
            body = run.round_path(number, plan.rounds[number - 1]) / "body.safetensors"
            say(
                f"Note: {file}: belongs to the body of round {number}, {body}, and not to the "
                "final body, which later rounds have changed",
                err=True,
            )


def _steps(body: BodyMetadata) -> list[str]:
    """The trainings that led to a body, in plain words, the oldest first."""
    steps = []
    for number, each in enumerate(body.chain, start=1):
        own = body.trained_on if each.body == body.digest else ()  # older files have no more
        names = list(each.data or dict.fromkeys(own))
        text = f"trained on {' and '.join(names)}" if names else "its training is unknown"
        plan = f" by plan {each.plan[:12]}" if each.plan else ""
        steps.append(f"{number}. body {each.body[:12]}: {text}{plan}")
    return steps


def _text(value: object) -> str:
    """A value as text; a dictionary as a list of names and values."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items()) or "none"


@weights.command("import-authors")
@click.argument("file", type=params.FOLDER)
@params.new_folder
@click.option(
    "--dataset",
    shell_complete=names_of("dataset"),
    default="unknown",
    show_default=True,
    metavar="NAME",
    help="Dataset that the head was trained on; the checkpoint does not say it.",
)
@click.option(
    "--classes",
    callback=params.names,
    metavar="A,B",
    help="Names of its classes, in the order of the outputs.  [default: those of the authors for "
    "prostatex, else unknown]",
)
def import_authors(file: Path, out: Path, dataset: str, classes: list[str]) -> None:
    """Convert a checkpoint FILE.pth of the paper's authors to safetensors of body and head."""
    from hydrakit.weights.import_authors import import_authors as convert

    for path in convert(file, out, dataset=dataset, classes=classes or None):
        say(path)


@weights.command()
@click.option(
    "--body", type=params.FOLDER, required=True, metavar="FILE", help="Weights of the body."
)
@click.option(
    "--head", type=params.FOLDER, required=True, metavar="FILE", help="Weights of the head."
)
@params.new_folder
def swap(body: Path, head: Path, out: Path) -> None:
    """Combine a head with another body, after checking that they fit together."""
    from hydrakit.maintenance.forecast import forecast
    from hydrakit.weights.folders import swap as swap_head

    for sentence in forecast(body, head):
        say(f"Note: {sentence}", err=True)
    note = swap_head(body, head, out)
    for file in (body, head):
        _note_ensemble(file)
    if note:
        say(f"Note: {note}")
    say(out / "body.safetensors")
    for path in sorted((out / "heads").iterdir()):
        say(path)
