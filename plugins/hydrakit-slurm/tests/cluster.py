"""A Slurm cluster of one node on the loopback interface, with files in one folder.

Debian and Ubuntu: ``apt-get install slurm-wlm munge``, which `install` does where it may.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")

CONFIGURATION = """\
ClusterName=hydrakit
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class MissingError(Exception):
    """A cluster cannot be started here; the message says why."""


def install() -> None:
    """Install Slurm and MUNGE with apt-get, if they are missing.

    Raises:
        MissingError: It is not possible here.
    """
    if all(map(_program, PROGRAMS)):
        return
    if shutil.which("apt-get") is None or os.getuid() != 0:
        raise MissingError("needs slurm-wlm and munge, or apt-get and the rights to install them")
    command = ["apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not all(map(_program, PROGRAMS)):
        raise MissingError(f"apt-get could not install slurm-wlm and munge: {done.stderr[-300:]}")


@contextmanager
def cluster(folder: Path, *, cpus: int = 2) -> Iterator[Mapping[str, str]]:
    """Start a cluster, and stop it at the end of a ``with`` block.

    Args:
        folder: Folder of its files, which is made; it must be new.
        cpus: Number of processor cores that its node offers, whatever this machine has.

    Yields:
        Environment variables by which the programs of Slurm find it.

    Raises:
        MissingError: Its processes do not start here.
    """
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True, mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
    munge = [f"--{name}={folder / 'munge' / file}" for name, file in names.items()]
    munge += [f"--seed-file={folder / 'munge' / 'seed'}", "--force", "--foreground"]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            user=_user(),
            cpus=cpus,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 2,
            controller_port=_free_port(),
            node_port=_free_port(),
        )
    )
    found = {"SLURM_CONF": str(configuration)}
    with ExitStack() as stack:
        _start(stack, ["munged", *munge], {})
        _wait((folder / "munge" / "socket").exists, "munged")
        _start(stack, ["slurmctld", "-D"], found)
        _start(stack, ["slurmd", "-D"], found)
        _wait(lambda: "idle" in _output(["sinfo", "--noheader", "--format=%T"], found), "slurmd")
        yield found


def _start(stack: ExitStack, command: list[str], variables: Mapping[str, str]) -> None:
    """Start a process, which ends with the stack."""
    path = _program(command[0])
    assert path is not None
    process = subprocess.Popen(
        [path, *command[1:]],
        env=os.environ | dict(variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def stop() -> None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)


def _wait(condition, what: str) -> None:
    limit = time.monotonic() + 60
    while not condition():
        if time.monotonic() > limit:
            raise MissingError(f"{what} does not start here")
        time.sleep(0.1)


def _output(command: list[str], variables: Mapping[str, str]) -> str:
    environment = os.environ | dict(variables)
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    ).stdout


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
