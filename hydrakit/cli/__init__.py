"""The ``hydrakit`` command.

Modules of this package import little at the top: ``hydrakit --help`` answers at once because torch
and the rest are imported by the functions that need them.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from hydrakit.cli import compare, data, folder, params, plugins, report, run, tune, weights
from hydrakit.compute.signals import describe_stop, stoppable
from hydrakit.errors import HydrakitError, one_line
from hydrakit.plugins.guard import DEBUG, PluginFault, traceback_location


class Program(click.Group):
    """The command group: its own commands, those of plugins, and errors as single lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Own commands and those that plugins offer."""
        from hydrakit.plugins.registry import load_plugins

        return sorted(
            {
                *super().list_commands(ctx),
                *load_plugins(params.disabled_plugins()).all(click.Command),
            }
        )

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """One of its own, else a plugin's."""
        own = super().get_command(ctx, name)
        if own is not None:
            return own
        from hydrakit.plugins.registry import load_plugins

        return load_plugins(params.disabled_plugins()).all(click.Command).get(name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the program's own options; ``--help`` lists the commands of plugins here."""
        try:
            with ctx.scope(cleanup=False):
                return super().parse_args(ctx, args)
        except HydrakitError as error:
            self._tell(error, str(error))
            ctx.exit(1)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; a failure that is the user's to mend becomes one line and status 1.

        That is a `HydrakitError`, and what the system says of a file.

        So does what a plugin raises, in its own command too. A signal that asks to stop becomes one
        line and status 130 or 143.
        """
        try:
            with stoppable(), self._blaming(ctx):
                return super().invoke(ctx)
        except PluginFault as error:
            self._tell(error, f"{one_line(str(error))}{traceback_location(error)}")
            ctx.exit(1)
        except HydrakitError as error:
            self._tell(error, str(error))
            ctx.exit(1)
        except OSError as error:
            if error.filename is None:
                raise
            path = error.filename if error.filename2 is None else error.filename2
            why = error.strerror or type(error).__name__
            self._tell(error, f"{path}: {why}: see that it can be read and written, and what it is")
            ctx.exit(1)
        except KeyboardInterrupt as error:
            stop = describe_stop(error, "give the same command again")
            click.echo(f"hydrakit: {stop}", err=True)
            ctx.exit(stop.status)

    def _tell(self, error: Exception, message: str) -> None:
        if os.environ.get(DEBUG):
            click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        click.echo(f"hydrakit: {one_line(message)}", err=True)

    @contextmanager
    def _blaming(self, ctx: click.Context) -> Iterator[None]:
        """Blame a plugin for what its own command raises, save what is meant for click."""
        from hydrakit.plugins.registry import load_plugins

        try:
            yield
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception:
            name = ctx.invoked_subcommand
            source = load_plugins(params.disabled_plugins()).source_of(name) if name else None
            if source is None:
                raise
            with source.blame(f"command {name!r}"):
                raise


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from hydrakit.version import version

        click.echo(f"hydrakit {version()} (distribution hydrakit-imaging)")
        ctx.exit()


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
@params.no_plugin
def main() -> None:
    """Train one network on several small, unlike medical image datasets.

    A shared body (feature extractor) and one head (decision maker) per dataset, after the paper
    "Hydra: Cancer Detection Leveraging Multiple Heads and Heterogeneous Datasets".

    \b
    Try it on synthetic data:
      hydrakit phantom phantoms
      hydrakit run --strategy hydra --datasets prostatex,brain,lung,prostatex --data phantoms
    """  # noqa: D301 - click reads the backspace, which keeps the lines below it apart


main.add_command(run.run)
main.add_command(run.plan)
main.add_command(run.evaluate)
main.add_command(compare.compare)
main.add_command(compare.verdict)
main.add_command(tune.tune)
main.add_command(tune.order)
main.add_command(data.datasets)
main.add_command(plugins.plugins)
main.add_command(report.report)
main.add_command(folder.verify)
main.add_command(folder.status)
main.add_command(folder.clean)
main.add_command(weights.weights)
