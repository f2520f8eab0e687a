"""Plugin with the launcher `slurm`: runs are trained as jobs of a Slurm cluster."""

from __future__ import annotations

import importlib
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydrakit.errors import PlanError
from hydrakit.hooks import LauncherFactory, hookimpl

if TYPE_CHECKING:
    from hydrakit_slurm.launcher import SlurmLauncher


@dataclass(frozen=True)
class SlurmOptions:
    """Options of the launcher `slurm`: what each of its jobs asks for."""

    partition: str | None = field(
        default=None, metadata={"help": "partition of the cluster; its default one if not given"}
    )
    time: str = field(
        default="60",
        metadata={
            "help": "time limit: minutes, or as Slurm writes it (12:00:00, 1-06); at its end the "
            "job is stopped, queued again and continued"
        },
    )
    memory: str | None = field(default=None, metadata={"help": "memory on the node, such as 8G"})
    cpus: int | None = field(
        default=None, metadata={"help": "processor cores; as many as --threads says, else 1"}
    )
    gpus: int = field(default=0, metadata={"help": "GPUs"})
    account: str | None = field(default=None, metadata={"help": "account that is charged"})
    qos: str | None = field(default=None, metadata={"help": "quality of service"})
    constraint: str | None = field(
        default=None, metadata={"help": "features that the node must have, such as a100"}
    )
    sbatch: str = field(
        default="",
        metadata={"help": "further options in sbatch's words: --reservation=mri --exclude=node7"},
    )
    setup: str = field(
        default="", metadata={"help": "shell commands before the job, such as `module load cuda`"}
    )
    prefix: str = field(
        default="",
        metadata={
            "help": "command that runs `hydrakit job` in a container: "
            "`apptainer exec --nv hydrakit.sif`"
        },
    )
    tasks: int = field(
        default=1000,
        metadata={
            "help": "largest number of tasks in an array; more groups are divided among them"
        },
    )
    grace: int = field(
        default=120,
        metadata={"help": "seconds before the time limit at which a job is stopped and saved"},
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: Slurm would not understand a value, or it is not positive.
        """
        for name, least in (("cpus", 1), ("gpus", 0), ("tasks", 1), ("grace", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: must be {least} or more")
        if self.memory is not None and not re.fullmatch(r"[0-9]+[KMGT]?B?", self.memory):
            raise ValueError(f"memory={self.memory}: write a whole number with a unit, such as 8G")
        if self.minutes * 60 <= self.grace:
            raise ValueError(
                f"time={self.time} is not longer than grace={self.grace} seconds: raise time"
            )
        further_options(self.sbatch)
        for name in ("prefix", "setup"):
            try:
                shlex.split(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}={getattr(self, name)!r}: {error}") from None

    @property
    def minutes(self) -> int:
        """The time limit in minutes, rounded up.

        Raises:
            ValueError: ``time`` is not a time.
        """
        return minutes_of(self.time)


def minutes_of(text: str) -> int:
    """Minutes of a time as Slurm writes it, rounded up.

    The forms are MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, DAYS-HOURS:MINUTES
    and DAYS-HOURS:MINUTES:SECONDS.

    Raises:
        ValueError: The text has another form, or says no time at all.
    """
    match = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?", text, re.ASCII)
    seconds = 0
    if match is not None:
        days, first, second, third = (int(part or 0) for part in match.groups())
        if match[1] is not None:
            seconds = (days * 24 + first) * 3600 + second * 60 + third
        elif match[4] is not None:
            seconds = first * 3600 + second * 60 + third
        else:
            seconds = first * 60 + second
    if not seconds:
        raise ValueError(f"time={text}: write minutes, or HOURS:MINUTES:SECONDS, or DAYS-HOURS")
    return -(-seconds // 60)


_OWN = {"array", "error", "job-name", "no-requeue", "open-mode", "output", "signal", "time"}


def further_options(text: str) -> dict[str, str | bool]:
    """Options of sbatch from a text such as ``--exclude=node7 --exclusive``; True has no value.

    Raises:
        ValueError: A word is no option of the form ``--NAME`` or ``--NAME=VALUE``, or is one that
            hydrakit sets.
    """
    options: dict[str, str | bool] = {}
    for word in shlex.split(text):
        match = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.+))?", word)
        if match is None:
            raise ValueError(f"sbatch={text!r}: {word!r} is not of the form --NAME=VALUE")
        if match[1] in _OWN:
            raise ValueError(f"sbatch={text!r}: --{match[1]} is set by hydrakit: leave it out")
        options[match[1]] = match[2] or True
    return options


def build(options: SlurmOptions) -> SlurmLauncher:
    """Build the launcher.

    Raises:
        PlanError: submitit cannot be imported.
    """
    from hydrakit_slurm.launcher import SlurmLauncher
    from hydrakit_slurm.queue import SlurmQueue

    import_submitit()
    return SlurmLauncher(
        SlurmQueue(options), most=options.tasks, cpus=options.cpus, prefix=options.prefix
    )


def import_submitit() -> None:
    """Import submitit without its changes to the logging of this process.

    Raises:
        PlanError: It cannot be imported.
    """
    name = "SUBMITIT_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = "NOCONFIG"
    try:
        importlib.import_module("submitit")
    except ImportError as error:
        raise PlanError(
            f"launcher 'slurm' needs the package submitit, which cannot be imported ({error}): "
            "`pip install 'hydrakit-imaging[slurm]'`"
        ) from error
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@hookimpl
def hydrakit_launchers() -> Iterator[LauncherFactory]:
    """The launcher `slurm`."""
    yield LauncherFactory(
        name="slurm",
        summary="Jobs of a Slurm cluster, as one array",
        build=build,
        options=SlurmOptions,
    )
