"""The ``hydrakit`` command.

Modules of this package import little at module level, so that ``hydrakit --help`` is fast: torch
and other slow packages are imported by the functions that need them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import (
    cache,
    compare,
    completion,
    data,
    doctor,
    export,
    finish,
    folder,
    heads,
    job,
    models,
    params,
    plugins,
    predict,
    report,
    run,
    tune,
    weights,
)
from hydrakit.cli.printing import printing_plugin_warnings, printing_warnings, say, say_lines
from hydrakit.compute.signals import describe_stop, stoppable
from hydrakit.compute.streams import OUTPUT, dependable, output_failure
from hydrakit.compute.waiting import limit_waiting
from hydrakit.errors import HydrakitError, one_line
from hydrakit.plugins.guard import DEBUG, PluginFault, blame_networks, traceback_location

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Program(click.Group):
    """The command group: built-in commands, commands of plugins, and errors printed as one line."""

    def main(self, *args: Any, **named: Any) -> Any:
        """Run the program; the status is 1 if standard output could not be written completely."""
        limit_waiting()
        with dependable(), printing_plugin_warnings():
            try:
                return super().main(*args, **named)
            except SystemExit as ended:
                failure = output_failure()
                if failure is None or ended.code:
                    raise
                if failure:
                    say(
                        f"hydrakit: {OUTPUT}: cannot be written ({failure}): the command is done, "
                        "but what it printed is incomplete",
                        err=True,
                    )
                raise SystemExit(1) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the built-in commands and of the commands that plugins offer.

        For a shell that completes, only the former: `shell_complete` knows the others.
        """
        if ctx.resilient_parsing:
            return super().list_commands(ctx)
        from hydrakit.plugins.registry import load_plugins

        return sorted(
            {
                *super().list_commands(ctx),
                *load_plugins(params.disabled_plugins()).all(click.Command),
            }
        )

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The built-in command of that name, else a plugin's command."""
        built_in = super().get_command(ctx, name)
        if built_in is not None:
            return built_in
        from hydrakit.plugins.registry import load_plugins

        return load_plugins(params.disabled_plugins()).all(click.Command).get(name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Complete commands and options; no plugin is imported for the commands of plugins."""
        from click.shell_completion import CompletionItem

        from hydrakit.plugins.remembered import remembered_names

        names = remembered_names().get("command", ())
        others = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [*super().shell_complete(ctx, incomplete), *others]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options of the program; ``--help`` loads the plugins to list their commands."""
        try:
            with ctx.scope(cleanup=False):
                return super().parse_args(ctx, args)
        except HydrakitError as error:
            self._print_error(error, str(error))
            ctx.exit(1)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; print an error that the user can correct as one line, with status 1.

        Such errors are `HydrakitError`, file errors of the operating system and all exceptions that
        a plugin raises. A signal to stop prints one line, with status 130 or 143.
        """
        try:
            with stoppable(), printing_warnings(), self._naming_plugin(ctx):
                return super().invoke(ctx)
        except PluginFault as error:
            self._print_error(error, f"{one_line(str(error))}{traceback_location(error)}")
            ctx.exit(1)
        except HydrakitError as error:
            self._print_error(error, str(error))
            ctx.exit(1)
        except OSError as error:
            path = error.filename if error.filename2 is None else error.filename2
            why = error.strerror or str(error) or type(error).__name__
            remedy = "check what it is, and that it can be read and written"
            if path is None:
                path = "a file"
                remedy = f"check the disks and the network; {DEBUG}=1 shows where it happened"
            self._print_error(error, f"{path}: {why}: {remedy}")
            ctx.exit(1)
        except KeyboardInterrupt as error:
            stop = describe_stop(error, "run the same command again")
            say(f"hydrakit: {stop}", err=True)
            ctx.exit(stop.status)

    def _print_error(self, error: Exception, message: str) -> None:
        if os.environ.get(DEBUG):
            import traceback

            say_lines("".join(traceback.format_exception(error)), err=True)
        say(f"hydrakit: {one_line(message)}", err=True)

    @contextmanager
    def _naming_plugin(self, ctx: click.Context) -> Iterator[None]:
        """Name the plugin in an exception of its command or network; those for click pass."""
        from hydrakit.plugins.registry import load_plugins

        try:
            yield
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, SystemExit) as error:
            name = ctx.invoked_subcommand
            plugins = load_plugins(params.disabled_plugins())
            source = plugins.source_of(click.Command, name) if name else None
            if source is None or isinstance(error, SystemExit):  # a command may end with a status
                with blame_networks():
                    raise
            with source.blame(f"command {name!r}"):
                raise


def _version(ctx: click.Context, _: click.Parameter, requested: bool) -> None:
    if requested:
        from hydrakit.version import version

        say(f"hydrakit {version()} (distribution hydrakit-imaging)")
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
    """Train one network on several small, different medical image datasets.

    The network has a shared body (feature extractor) and one head (classifier) per dataset, as in
    the paper "Hydra: Cancer Detection Leveraging Multiple Heads and Heterogeneous Datasets".

    \b
    Try it on synthetic data:
      hydrakit phantom phantoms
      hydrakit run --strategy hydra --datasets prostatex,brain,lung,prostatex --data phantoms
    """  # noqa: D301 - click reads the backspace and does not join the lines below it


main.add_command(run.run)
main.add_command(run.plan)
main.add_command(run.evaluate)
main.add_command(compare.compare)
main.add_command(compare.verdict)
main.add_command(tune.tune)
main.add_command(tune.order)
main.add_command(job.job)
main.add_command(data.datasets)
main.add_command(plugins.plugins)
main.add_command(report.report)
main.add_command(folder.verify)
main.add_command(folder.status)
main.add_command(folder.clean)
main.add_command(weights.weights)
main.add_command(heads.heads)
main.add_command(predict.predict)
main.add_command(finish.finish)
main.add_command(models.models)
main.add_command(export.export)
main.add_command(doctor.doctor)
main.add_command(cache.cache)
main.add_command(completion.completion)
