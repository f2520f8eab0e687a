"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hydrakit.compute.signals import CHECKPOINT_SECONDS

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


def pairs(value: tuple[str, ...], form: str) -> dict[str, str]:
    """Texts by key, as ``KEY=TEXT``."""
    texts: dict[str, str] = {}
    for item in value:
        key, sign, text = item.partition("=")
        if not (key and sign and text):
            raise click.BadParameter(f"{item!r} is not of the form {form}")
        texts[key] = text
    return texts


def _roots(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, Path]:
    return {name: Path(path).expanduser() for name, path in pairs(value, "NAME=PATH").items()}


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
        help="Number format of training steps; auto: bfloat16 on CUDA, float32 on a CPU.",
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
