"""Command-line options for the settings of a plan, generated from the fields of `PlanSettings`.

They come from a copy of its JSON schema, ``plan_options.json``: importing pydantic takes longer
than completing an option in a shell. `write_schema` writes the copy again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hydrakit.cli import params
from hydrakit.cli.completion import names_of

if TYPE_CHECKING:
    from hydrakit.hooks import OptionValue
    from hydrakit.plan.model import Split

Function = TypeVar("Function", bound=Callable[..., Any])
Parse = Callable[[tuple[str, ...]], Mapping[str, Any]]

# Fields with an option, in the order of the help text; --set changes all other values of a plan.
FIELDS = (
    "options",
    "splits",
    "copies",
    "conflicts",
    "strangers",
    "profile",
    "seed",
    "target_share",
    "epochs",
    "epoch_size",
    "patience",
    "batch_size",
    "learning_rate",
    "dropout",
    "bootstrap",
    "bootstrap_rule",
    "head",
    "head_options",
    "body",
    "body_options",
    "body_channels",
    "body_norm",
    "ensemble",
    "recentre",
    "body_weights",
    "select",
    "window",
    "changes",
)

SCHEMA = Path(__file__).with_name("plan_options.json")

MAX_DIGITS = 10  # of a number of channels

METAVARS = {"integer": "N", "number": "X", "string": "NAME", "array": "N,N,..."}


@dataclass(frozen=True)
class _FieldOptions:
    """Placeholder for the options of some fields of `PlanSettings` until they are generated."""

    fields: tuple[str, ...]


class PlanCommand(click.Command):
    """A command with options for fields of `PlanSettings`."""

    @property
    def params(self) -> list[click.Parameter]:
        """All parameters; the first use generates the options of fields."""
        pending = [each for each in self._params if isinstance(each, _FieldOptions)]
        for each in pending:
            index = self._params.index(each)
            self._params[index : index + 1] = _generate(each.fields)
        return self._params

    @params.setter
    def params(self, params: list[Any]) -> None:
        self._params = params


def plan_options(*only: str, without: Collection[str] = ()) -> Callable[[Function], Function]:
    """Decorate a `PlanCommand` with options for fields of `PlanSettings`.

    Args:
        only: Names of the fields; all of `FIELDS` if none is given.
        without: Names of fields to leave out.
    """
    fields = tuple(name for name in only or FIELDS if name not in without)

    def decorate(function: Function) -> Function:
        memo = function.__dict__.setdefault("__click_params__", [])  # as click's own decorators do
        memo.append(_FieldOptions(fields))
        return function

    return decorate


strategy = click.option(
    "--strategy",
    shell_complete=names_of("strategy"),
    metavar="NAME",
    help="Strategy, which defines the training rounds: hydra, transfer, ... "
    "(`hydrakit plugins list` lists all).",
)

datasets = click.option(
    "--datasets",
    callback=params.names,
    shell_complete=names_of("dataset", several=True),
    metavar="A,B,...",
    help="Datasets in the order of training; the last one is the target.",
)


def _generate(fields: Collection[str]) -> list[click.Option]:
    properties = json.loads(SCHEMA.read_bytes())
    return [_option(name, properties[name]) for name in fields]


def schema_text() -> str:
    """Text of ``plan_options.json``: the JSON schema that options are generated from."""
    from hydrakit.plan.settings import PlanSettings

    properties = PlanSettings.model_json_schema()["properties"]
    return json.dumps(properties, indent=1) + "\n"


def write_schema() -> None:
    """Write ``plan_options.json`` again, after a change of `PlanSettings`."""
    SCHEMA.write_text(schema_text(), encoding="utf-8")


def _option(name: str, schema: Mapping[str, Any]) -> click.Option:
    """Build the option of a field from its JSON schema."""
    help_text = " ".join(schema["description"].split("\n\n")[0].split())
    if "help_default" in schema:
        help_text = f"{help_text}  [default: {schema['help_default']}]"
    if name == "head":
        return click.Option(
            ["--head"],
            multiple=True,
            callback=_heads,
            shell_complete=names_of("head"),
            metavar="[DATASET=]NAME",
            help=help_text,
        )
    if name == "body_weights":
        return click.Option(["--body-weights"], type=params.FOLDER, metavar="FILE", help=help_text)
    if name in REPEATED:
        return _repeated(name, help_text)
    default = schema.get("default")
    (kind,) = (each for each in schema.get("anyOf", [schema]) if each["type"] != "null")
    flag = f"--{name.replace('_', '-')}"
    if kind["type"] == "boolean":
        if default is None:
            flag += f"/--no-{name.replace('_', '-')}"
        return click.Option([flag], is_flag=True, default=default, help=help_text)
    return click.Option(
        [flag],
        type=_type(kind),
        metavar=None if "enum" in kind else METAVARS[kind["type"]],
        default=default,
        show_default=default is not None,
        callback=_numbers if kind["type"] == "array" else None,
        shell_complete=names_of("body") if name == "body" else None,
        help=help_text,
    )


def _type(schema: Mapping[str, Any]) -> click.ParamType[Any] | None:
    """The click type of an option, from its JSON schema."""
    if "enum" in schema:
        return click.Choice(schema["enum"])
    if schema["type"] == "integer":
        least = (
            schema["exclusiveMinimum"] + 1 if "exclusiveMinimum" in schema else schema["minimum"]
        )
        most = (
            schema["exclusiveMaximum"] - 1
            if "exclusiveMaximum" in schema
            else schema.get("maximum")
        )
        return params.Whole(least, most)
    if schema["type"] == "number":
        return params.FloatOption(
            min=schema.get("minimum", schema.get("exclusiveMinimum")),
            max=schema.get("maximum", schema.get("exclusiveMaximum")),
            min_open="exclusiveMinimum" in schema,
            max_open="exclusiveMaximum" in schema,
        )
    return None


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    numbers = [number.strip() for number in value.split(",")]
    if not all(
        number.isdecimal() and number.isascii() and len(number) < MAX_DIGITS and int(number)
        for number in numbers
    ):
        raise click.BadParameter(f"{value!r} is not a list such as 32,64,128")
    return [int(number) for number in numbers]


def _heads(ctx: click.Context, _: click.Parameter, value: tuple[str, ...]) -> str | None:
    """The head for all datasets; heads for single datasets are set as the parameter ``heads``."""
    common = [each for each in value if "=" not in each]
    if len(common) > 1:
        raise click.BadParameter(
            f"{' and '.join(common)} are both given for all datasets: name one of them"
        )
    form = "DATASET=NAME"
    ctx.params["heads"] = params.pairs(tuple(each for each in value if "=" in each), form)
    return common[0] if common else None


def _repeated(name: str, help_text: str) -> click.Option:
    """Build an option that may be given several times, each time with a key and a value."""
    flag, metavar, parse = REPEATED[name]

    def callback(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> Any:
        return parse(value)

    return click.Option(
        [flag, name], multiple=True, callback=callback, metavar=metavar, help=help_text
    )


def adapter_options(value: tuple[str, ...]) -> dict[str, dict[str, OptionValue]]:
    """Parse ``DATASET.OPTION=VALUE`` into options by dataset."""
    chosen: dict[str, dict[str, OptionValue]] = {}
    for key, text in params.pairs(value, "DATASET.OPTION=VALUE").items():
        dataset, dot, name = key.partition(".")
        if not (dataset and dot and name):
            raise click.BadParameter(f"{key!r} is not of the form DATASET.OPTION")
        chosen.setdefault(dataset, {})[name] = text
    return chosen


def component_options(value: tuple[str, ...]) -> dict[str, str]:
    """Parse ``KEY=VALUE`` into options of a component."""
    return params.pairs(value, "KEY=VALUE")


def splits(value: tuple[str, ...]) -> dict[str, Split]:
    """Parse ``NAME=8-1-1`` into splits by dataset."""
    if not value:
        return {}
    from pydantic import ValidationError

    from hydrakit.plan.model import Split

    form = "NAME=8-1-1 (train, val, test) or NAME=9-1 (train, val)"
    chosen = {}
    for name, text in params.pairs(value, form).items():
        try:
            train, val, *rest = (float(share) for share in text.split("-"))
            chosen[name] = Split(train=train, val=val, test=rest[0] if rest else 0.0)
        except (ValueError, ValidationError):
            raise click.BadParameter(f"{name}={text} is not of the form {form}") from None
        if len(rest) > 1:
            raise click.BadParameter(f"{name}={text} is not of the form {form}")
    return chosen


def changes(value: tuple[str, ...]) -> dict[str, Any]:
    """Parse ``PATH=VALUE`` into changes of a plan."""
    if not value:
        return {}
    from hydrakit.plan.edit import parse_value

    chosen = params.pairs(value, "PATH=VALUE, such as rounds.all.dropout=0.2")
    return {path: parse_value(text) for path, text in chosen.items()}


REPEATED: Mapping[str, tuple[str, str, Parse]] = {
    "options": ("--option", "NAME.KEY=VALUE", adapter_options),
    "splits": ("--split", "NAME=8-1-1", splits),
    "changes": ("--set", "PATH=VALUE", changes),
    "head_options": ("--head-option", "KEY=VALUE", component_options),
    "body_options": ("--body-option", "KEY=VALUE", component_options),
}
