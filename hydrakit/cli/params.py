"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from hydrakit.cli.completion import names_of
from hydrakit.compute.signals import CHECKPOINT_SECONDS

Command = TypeVar("Command", bound=Callable[..., Any])


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Combine several click options into one decorator, in the order given."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def names(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    """Parse a list of names such as ``a,b``."""
    return [name.strip() for name in value.split(",") if name.strip()] if value else []


def pairs(value: tuple[str, ...], form: str) -> dict[str, str]:
    """Parse items such as ``KEY=TEXT`` into texts by key."""
    texts: dict[str, str] = {}
    for item in value:
        key, sign, text = item.partition("=")
        if not (key and sign and text):
            raise click.BadParameter(f"{item!r} is not of the form {form}")
        if key in texts:
            raise click.BadParameter(f"{key} is given twice: {texts[key]!r} and {text!r}")
        texts[key] = text
    return texts


def _roots(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, Path]:
    try:
        return {name: Path(path).expanduser() for name, path in pairs(value, "NAME=PATH").items()}
    except RuntimeError:
        raise click.BadParameter(
            f"{' '.join(value)!r}: the home folder that ~ stands for is unknown: write the path "
            "without ~"
        ) from None


class Whole(click.IntRange):
    """Whole numbers in a range, in ASCII digits; the help text does not show an upper limit."""

    def __init__(self, least: int, most: int | None = None) -> None:
        super().__init__(min=least)
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a number."""
        if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]{1,4000}", value.strip()):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        number = super().convert(value, param, ctx)
        if self.most is not None and number > self.most:
            self.fail(f"{number} is too large: at most {self.most}", param, ctx)
        return number


class FloatOption(click.FloatRange):
    """Numbers in a range, in ASCII digits.

    Args:
        infinite: Whether infinity is allowed.
        limits: Those of `click.FloatRange`.
    """

    def __init__(self, *, infinite: bool = False, **limits: Any) -> None:
        super().__init__(**limits)
        self.infinite = infinite

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a number."""
        if isinstance(value, str) and ("_" in value or not value.isascii()):
            self.fail(f"{value!r} is not a number", param, ctx)
        number = super().convert(value, param, ctx)
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


NO_PLUGINS = "hydrakit.no-plugins"  # key of the names given with `--no-plugin` in click's context


def _no_plugins(ctx: click.Context, _: click.Parameter, value: tuple[str, ...]) -> None:
    if value:
        from hydrakit.plugins.registry import disabled_by_environment

        ctx.meta[NO_PLUGINS] = disabled_by_environment() | set(value)


def disabled_plugins() -> frozenset[str] | None:
    """Names of plugins to disable, from `--no-plugin`; None if it was not given."""
    context = click.get_current_context(silent=True)
    names: frozenset[str] | None = None if context is None else context.meta.get(NO_PLUGINS)
    return names


no_plugin = click.option(
    "--no-plugin",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_no_plugins,
    shell_complete=names_of("plugin"),
    metavar="NAME",
    help="Do not load this plugin (see `hydrakit plugins list`); may be given several times.",
)

FOLDER = click.Path(path_type=Path)


def context_options(
    *decorators: Callable[[Command], Command],
) -> Callable[[Command], Command]:
    """Options that are passed to a command as one argument, ``context`` (a `RunContext`)."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_context(*args: Any, **given: Any) -> Any:
            from hydrakit.runs.context import RunContext, context_of
            from hydrakit.storage.paths import using_cache

            names = RunContext.model_fields.keys() & given.keys()
            values = {name: given.pop(name) for name in names}
            values["no_plugins"] = tuple(sorted(disabled_plugins() or ()))
            context = context_of(None, values)
            with using_cache(context.cache):  # plugins may use the cache before a run
                return command(*args, context=context, **given)

        return options(*decorators)(cast("Command", with_context))

    return decorate


_data = click.option(
    "--data",
    type=FOLDER,
    metavar="ROOT",
    help="Folder that holds one folder per dataset.  [default: $HYDRAKIT_DATA, else ./data]",
)
_root = click.option(
    "--root",
    "roots",
    multiple=True,
    callback=_roots,
    metavar="NAME=PATH",
    help="Folder of one dataset outside of --data; may be given several times.",
)
_cache = click.option(
    "--cache",
    type=FOLDER,
    metavar="DIR",
    help="Folder for prepared data.  [default: $HYDRAKIT_CACHE, else ~/.cache/hydrakit]",
)
_device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="Device to compute on: auto (CUDA or else cpu), cpu, cuda, cuda:N, or mps (a Mac's GPU).",
)

places = context_options(_data, _root)
"""Folders of the data, for commands that read only a ``dataset.toml``."""

cache_options = context_options(_cache)
"""The folder of the cache, for commands that read no data."""

data_options = context_options(_data, _root, _cache)
"""Folders of the data and of the cache, for commands that do not compute."""

evaluation_options = context_options(_data, _root, _cache, _device)
"""Folders and the device, for commands that compute but do not train."""

running_options = context_options(
    _data,
    _root,
    _cache,
    _device,
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Number format of training; auto: bfloat16 on a GPU, float32 on a CPU.",
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        help="Make results on a GPU repeatable bit by bit (slower); on a CPU they always are.",
    ),
    click.option(
        "--compile/--no-compile",
        "compiled",
        default=None,
        help="Whether to compile training steps with torch.compile.  [default: only by `run`, for "
        "long runs on a GPU]",
    ),
    click.option(
        "--graphs/--no-graphs",
        default=True,
        show_default=True,
        help="Whether a GPU replays training steps as CUDA graphs, which is faster.",
    ),
    click.option(
        "--threads",
        type=Whole(1, 1024),
        metavar="N",
        help="Number of CPU threads of a run, or of each cell of a comparison; it decides the last "
        "digits of results.  [default: as before if work is resumed, else chosen by PyTorch]",
    ),
    click.option(
        "--checkpoint-every",
        "checkpoint_interval",
        type=FloatOption(min=0, infinite=True),
        default=CHECKPOINT_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="Seconds between two checkpoints within a round; they are written after an epoch.",
    ),
    click.option(
        "--track",
        "trackers",
        multiple=True,
        shell_complete=names_of("tracker"),
        metavar="NAME",
        help="Also send the metrics of every epoch to this tracker: tensorboard, mlflow or a "
        "plugin's tracker; may be given several times.",
    ),
    click.option(
        "--track-to",
        metavar="URI",
        help="Store of the trackers: a folder or, for mlflow, also a URI.  [default: tensorboard "
        "in the run's folder; mlflow in $MLFLOW_TRACKING_URI, else ./mlflow.db]",
    ),
)
"""All options of the run context, for commands that train."""

launcher = click.option(
    "--launcher",
    default="local",
    show_default=True,
    shell_complete=names_of("launcher"),
    metavar="NAME[:OPTION=VALUE,...]",
    help="Start processes by this launcher: local, for this machine, or that of a plugin.",
)


def _jobs(default: str) -> Callable[[Command], Command]:
    return click.option(
        "--jobs",
        type=Whole(1),
        metavar="N",
        help=f"Number of processes that train at the same time.  [default: {default}]",
    )


jobs = _jobs("one per core; on a GPU one per 2 cores and 4 GB of its memory")
search_jobs = _jobs("one run after another in this process, or as --launcher says")

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
join = click.option(
    "--join",
    is_flag=True,
    help="Share the work with the same command on other machines, in a folder that all of them "
    "see; a machine can join and leave at any time.",
)
run_or_comparison = click.argument("folder", type=FOLDER, metavar="RUN_OR_COMPARISON")
new_folder = click.option(
    "--out", type=FOLDER, required=True, metavar="DIR", help="New folder to write to."
)
