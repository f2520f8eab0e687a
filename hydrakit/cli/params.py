"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hydrakit.compute.signals import CHECKPOINT_SECONDS

if TYPE_CHECKING:
    from hydrakit.hooks import OptionValue
    from hydrakit.plan.model import Split

Command = TypeVar("Command", bound=Callable[..., Any])


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several click options as one decorator, in the order given."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def names(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    """A list of names, as ``a,b``."""
    return [name.strip() for name in value.split(",") if name.strip()] if value else []


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    numbers = [number.strip() for number in value.split(",")]
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise click.BadParameter(f"{value!r} is not a list such as 32,64,128")
    return [int(number) for number in numbers]


def _pairs(value: tuple[str, ...], form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in value:
        key, sign, text = item.partition("=")
        if not (key and sign and text):
            raise click.BadParameter(f"{item!r} is not of the form {form}")
        pairs[key] = text
    return pairs


def _roots(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, Path]:
    return {name: Path(path).expanduser() for name, path in _pairs(value, "NAME=PATH").items()}


def _adapter_options(
    _: click.Context, __: click.Parameter, value: tuple[str, ...]
) -> dict[str, dict[str, OptionValue]]:
    chosen: dict[str, dict[str, OptionValue]] = {}
    for key, text in _pairs(value, "DATASET.OPTION=VALUE").items():
        dataset, dot, name = key.partition(".")
        if not (dataset and dot and name):
            raise click.BadParameter(f"{key!r} is not of the form DATASET.OPTION")
        chosen.setdefault(dataset, {})[name] = text
    return chosen


def _splits(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, Split]:
    form = "NAME=8-1-1 (train, val, test) or NAME=9-1 (train, val)"
    chosen = {}
    for name, text in _pairs(value, form).items():
        from pydantic import ValidationError

        from hydrakit.plan.model import Split

        try:
            train, val, *rest = (float(share) for share in text.split("-"))
            chosen[name] = Split(train=train, val=val, test=rest[0] if rest else 0.0)
        except (ValueError, ValidationError):
            raise click.BadParameter(f"{name}={text} is not of the form {form}") from None
        if len(rest) > 1:
            raise click.BadParameter(f"{name}={text} is not of the form {form}")
    return chosen


NO_PLUGINS = "hydrakit.no-plugins"  # where a context keeps the names that `--no-plugin` gives


def _no_plugins(ctx: click.Context, _: click.Parameter, value: tuple[str, ...]) -> None:
    if value:
        from hydrakit.plugins.registry import disabled_by_environment

        ctx.meta[NO_PLUGINS] = disabled_by_environment() | set(value)


def disabled_plugins() -> frozenset[str] | None:
    """What `load_plugins` is to disable: the names given to `--no-plugin`; None without any."""
    context = click.get_current_context(silent=True)
    names: frozenset[str] | None = None if context is None else context.meta.get(NO_PLUGINS)
    return names


no_plugin = click.option(
    "--no-plugin",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_no_plugins,
    metavar="NAME",
    help="Do not load the plugin of that name (see `hydrakit plugins list`); several times.",
)

FOLDER = click.Path(path_type=Path)

places = options(
    click.option(
        "--data",
        type=FOLDER,
        metavar="ROOT",
        help="Folder with one folder per dataset name.  [default: $HYDRAKIT_DATA, else ./data]",
    ),
    click.option(
        "--root",
        "roots",
        multiple=True,
        callback=_roots,
        metavar="NAME=PATH",
        help="Folder of one dataset that lies elsewhere; may be given several times.",
    ),
)

adapter_options = click.option(
    "--option",
    "options",
    multiple=True,
    callback=_adapter_options,
    metavar="NAME.KEY=VALUE",
    help="Option of a dataset, as `hydrakit datasets info NAME` lists them; several times.",
)


def _cache(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Tell adapters too, which keep what they know of DICOM files there."""
    if value is not None:
        os.environ["HYDRAKIT_CACHE"] = str(value)
    return value


cache = click.option(
    "--cache",
    type=FOLDER,
    callback=_cache,
    metavar="DIR",
    help="Where prepared data is kept.  [default: $HYDRAKIT_CACHE, else ~/.cache/hydrakit]",
)

device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="auto (a GPU where there is one), cpu, cuda or cuda:N.",
)

compute = options(
    device,
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Of training steps.  auto: bfloat16 on CUDA, float32 on a CPU.",
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        help="The same bits from the same seed on CUDA too (slower); a CPU always gives them.",
    ),
    click.option("--compile", "compiled", is_flag=True, help="Compile training steps (torch)."),
)

checkpoint_every = click.option(
    "--checkpoint-every",
    type=click.FloatRange(min=0),
    default=CHECKPOINT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Between two writings of a round's progress; an epoch that lasts longer has one each.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

_datasets = options(
    click.option(
        "--datasets",
        callback=names,
        metavar="A,B,...",
        help="Datasets in the order of training; the last is the target.",
    ),
    adapter_options,
)

_values = options(
    click.option(
        "--copies",
        type=click.Choice(["group", "drop", "report"]),
        default="group",
        show_default=True,
        help="Copies of images: keep them in one split, keep one patient's, or only tell of them.",
    ),
    click.option(
        "--conflicts",
        type=click.Choice(["error", "keep"]),
        default="error",
        show_default=True,
        help="Copies with different labels: refuse the data, or keep them.",
    ),
    click.option(
        "--profile",
        type=click.Choice(["recommended", "paper", "authors"]),
        default="recommended",
        show_default=True,
        help="Complete set of values; the options below change some of them, in every round.",
    ),
)

_training = options(
    click.option(
        "--target-share",
        type=click.FloatRange(min=0, max=1, min_open=True),
        default=1.0,
        show_default=True,
        metavar="SHARE",
        help="Use this share of the target's patients outside the test split, which stays whole.",
    ),
    click.option("--epochs", type=click.IntRange(min=1), help="At most so many in each round."),
    click.option(
        "--epoch-size",
        type=click.IntRange(min=0),
        metavar="N",
        help="At most about N patches in an epoch, drawn anew from larger datasets; 0: all.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(min=0),
        help="Stop a round after so many epochs without a better one; 0: never.",
    ),
    click.option("--batch-size", type=click.IntRange(min=1), help="Patches per update."),
    click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help="Of Adam."),
    click.option(
        "--dropout", type=click.FloatRange(min=0, max=1, max_open=True), help="Probability."
    ),
    click.option(
        "--bootstrap",
        type=click.IntRange(min=1),
        metavar="N",
        help="Random starts, of which the best on validation begins.",
    ),
    click.option(
        "--bootstrap-rule",
        type=click.Choice(["all", "halving"]),
        default="all",
        show_default=True,
        help="Look at every start on all validation cases, or drop hopeless ones early.",
    ),
    click.option("--head", default="mlp", show_default=True, help="Kind of head."),
    click.option(
        "--body-channels",
        callback=_numbers,
        metavar="N,N,...",
        help="Channels of the body's blocks.  [default: 32,64,128]",
    ),
    click.option(
        "--body-norm",
        type=click.Choice(["batch", "group", "dataset"]),
        default="batch",
        show_default=True,
        help="Batch norm, group norm, or batch norm with statistics of each dataset.",
    ),
    click.option(
        "--select",
        type=click.Choice(["best", "smoothed", "averaged", "last", "authors"]),
        help="Which weights a round ends with: of the epoch that is best on validation, of the "
        "best by a moving average, averaged over the last epochs, of the last, or by the "
        "authors' rule.  [default: authors with `--profile authors`, else best]",
    ),
    click.option(
        "--window",
        type=click.IntRange(min=1),
        metavar="N",
        help="Epochs that smoothed and averaged look at.  [default: 5]",
    ),
)

plan_options = options(
    click.option("--strategy", metavar="NAME", help="Order of training: hydra, transfer, ..."),
    _datasets,
    click.option(
        "--split",
        "splits",
        multiple=True,
        callback=_splits,
        metavar="NAME=8-1-1",
        help="Shares of train, val, test.  [default: 8-1-1 for the target, 9-1 for the others]",
    ),
    _values,
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    _training,
)

comparison_options = options(_datasets, _values, _training)
"""Of a plan, save its strategy, its seed and its splits: what the plans of a comparison share."""
