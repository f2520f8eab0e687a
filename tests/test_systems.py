"""Functions that Windows or macOS lacks are used only where something else stands in for them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hyperparameters, load_dataset, new_network, refused
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hydrakit.compute.devices import Compute, choose_compute, choose_device
from hydrakit.models.body import BodyWithHead
from hydrakit.models.intensity import first_order
from hydrakit.models.stem import stem_of
from hydrakit.names import is_name
from hydrakit.stats.tasks import loss_of
from hydrakit.storage import files
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.evaluation import forward_in_batches
from hydrakit.training.seeds import Seeds
from hydrakit.training.step import Step

ROOT = Path(__file__).parent.parent
SHIPPED = [*(ROOT / "hydrakit").rglob("*.py"), *(ROOT / "plugins").glob("*/hydrakit_*/**/*.py")]

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty", "syslog"}
LACKING = {
    "os": {
        *("chown", "fork", "forkpty", "fchmod", "fchown", "fdatasync", "geteuid", "getgid"),
        *("getloadavg", "getpgid", "getpriority", "getuid", "killpg", "lchown", "mkfifo", "nice"),
        *("posix_fadvise", "posix_spawn", "pread", "preadv", "pwrite", "register_at_fork"),
        *("sched_getaffinity", "sched_setaffinity", "sched_yield", "sendfile", "setpgid", "setsid"),
        *("statvfs", "sync", "sysconf", "uname", "wait", "waitid", "wait4", "O_CLOEXEC"),
        *("O_DIRECTORY", "O_DIRECT", "O_DSYNC", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "O_TMPFILE"),
        *("WIFEXITED", "WIFSIGNALED", "WEXITSTATUS", "WTERMSIG", "setpriority", "mkdirfd"),
    },
    "signal": {
        *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP"),
        *("SIGTSTP", "SIGUSR1", "SIGUSR2", "alarm", "pause", "pthread_kill", "pthread_sigmask"),
        *("setitimer", "siginterrupt", "sigpending", "sigwait", "sigtimedwait"),
    },
    "time": {"clock_settime", "pthread_getcpuclockid", "tzset", "CLOCK_BOOTTIME"},
}
"""What Windows lacks, or what macOS lacks."""

GUARDED = {
    ("hydrakit/compute/devices.py", "resource"): "behind sys.platform",
    ("hydrakit/compute/processors.py", "sched_getaffinity"): "behind hasattr",
    ("hydrakit/maintenance/doctor.py", "getloadavg"): "behind hasattr",
    ("hydrakit/maintenance/doctor.py", "statvfs"): "behind hasattr",
    ("hydrakit/storage/files.py", "O_DIRECTORY"): "behind os.supports_dir_fd",
    ("hydrakit/storage/lock.py", "fcntl"): "behind sys.platform",
    ("hydrakit/storage/lock.py", "sysconf"): "reads /proc before, which only Linux has",
    **{
        (f"hydrakit/testing/{name}.py", what): "behind hasattr"
        for name in ("plugin", "worker")
        for what in ("killpg", "SIGKILL")
    },
}
LINUX_ONLY = ("plugins/hydrakit-slurm/",)
"""Slurm runs on Linux."""


def uses(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    """Lines and names of what is used of a system that another one lacks."""
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                if name in LACKING.get(module, ()):
                    yield node.lineno, name
            case ast.Import(names=names):
                yield from ((node.lineno, each.name) for each in names if each.name in MODULES)
            case ast.ImportFrom(module=str(module), names=names):
                if module in MODULES:
                    yield node.lineno, module
                lacking = LACKING.get(module, set())
                yield from ((node.lineno, each.name) for each in names if each.name in lacking)


_NAMES = "|".join(sorted(MODULES.union(*LACKING.values())))
CANDIDATE = re.compile(rf"\b({_NAMES})\b|read_text\(|write_text\(|\bopen\(|text=True")
"""What a file has that may break the rules: to parse all files takes ten seconds."""


def nodes(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def test_what_a_system_lacks_is_used_where_it_is_guarded() -> None:
    used, open_in_any_encoding = set(), set()
    assert len(SHIPPED) > 100
    for path in SHIPPED:
        name, text = path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
        if CANDIDATE.search(text) and not name.startswith(LINUX_ONLY):
            inside = nodes(text)
            used |= {(name, what) for _, what in uses(inside)}
            open_in_any_encoding |= {name for _ in unencoded(inside)}
    assert used == GUARDED.keys()
    # What the kernel of Linux says, and nothing else.
    assert open_in_any_encoding == {"hydrakit/maintenance/doctor.py", "hydrakit/storage/lock.py"}


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()",
        "import signal\nsignal.signal(signal.SIGUSR1, print)",
        "import fcntl",
        "from resource import getrusage",
        "from os import getuid",
    ],
)
def test_what_a_system_lacks_is_noticed(source: str) -> None:
    assert list(uses(nodes(source)))


def unencoded(nodes: Sequence[ast.AST]) -> list[int]:
    """Lines that read or write text in the encoding of the system, which may be any."""
    lines = []
    for call in nodes:
        if not isinstance(call, ast.Call) or any(each.arg == "encoding" for each in call.keywords):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        values = [ast.unparse(each) for each in call.args]
        mode = next((each.value for each in call.keywords if each.arg == "mode"), None)
        text = [*values, *([ast.unparse(mode)] if mode is not None else [])]
        is_path = isinstance(call.func, ast.Attribute)
        if name == "read_text" and not values:
            lines.append(call.lineno)
        if name == "write_text" and len(values) < 2:
            lines.append(call.lineno)
        if name == "open" and not any("b'" in each for each in text):
            known = not is_path or any(each in ("'r'", "'w'", "'a'", "'x'") for each in text)
            lines += [call.lineno] if known and len(values) < (4 if not is_path else 3) else []
        if any(each.arg == "text" and ast.unparse(each.value) == "True" for each in call.keywords):
            lines.append(call.lineno)
    return lines


def test_text_in_any_encoding_is_noticed() -> None:
    wrong = "p.read_text()", "p.write_text('a')", "open(p)", "p.open('w')", "run(c, text=True)"
    assert [unencoded(nodes(source)) for source in wrong] == [[1]] * len(wrong)
    right = "open(p, 'rb')", "p.open('rb')", "p.read_text('utf-8')", "archive.open(info)"
    assert [unencoded(nodes(source)) for source in right] == [[]] * len(right)


WITHOUT = """
import os, signal, sys, time
import filelock, numpy, PIL.Image, pydantic, pydicom, rich.progress, safetensors.torch
import scipy.special, torch
for module, names in {lacking!r}.items():
    for name in names:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
for name in {modules!r}:
    sys.modules[name] = None
os.supports_dir_fd = set()
from hydrakit.cli import main
main({arguments!r})
"""
"""A process without what Windows lacks, but for what Python's library and the packages need."""

NEEDED = {"os": {"fork", "register_at_fork", "sysconf", "O_CLOEXEC", "O_NONBLOCK"}}
OWN = {"fcntl", "posix", "pwd", "grp"}  # Python's library and filelock need them


def without(*arguments: str, cwd: Path) -> str:
    lacking = {
        module: sorted(names - NEEDED.get(module, set())) for module, names in LACKING.items()
    }
    code = WITHOUT.format(lacking=lacking, modules=sorted(MODULES - OWN), arguments=[*arguments])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # with the stand-in
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_needs_nothing_that_a_system_lacks(standin: Path) -> None:
    words = "run --strategy classical --datasets alpha --epochs 1 --bootstrap 1 --body-channels 4,8"
    without(*words.split(), "--ensemble", "1", "--out", "run", "--device", "cpu", cwd=standin)
    assert (standin / "run" / "results.json").is_file()


@pytest.mark.parametrize("name", ["con", "nul", "aux", "prn", "com1", "lpt9"])
def test_no_name_is_that_of_a_device_of_windows(name: str) -> None:
    assert not is_name(name)
    assert is_name(f"{name}-data")


def test_a_rename_that_windows_refuses_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(files.time, "sleep", waited.append)
    outcomes = iter([True, True, False])

    def rename() -> None:
        if next(outcomes):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.sys, "platform", "linux")
    with pytest.raises(PermissionError):
        files.patiently(rename)
    assert waited == []
    monkeypatch.setattr(files.sys, "platform", "win32")
    files.patiently(rename)
    assert len(waited) == 1
    monkeypatch.setattr(files, "PATIENCE", -1.0)
    outcomes = iter([True])
    with pytest.raises(PermissionError):
        files.patiently(rename)


# The GPU of a Mac


def test_the_gpu_of_a_mac_is_used_where_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    refused(lambda: choose_device("mps"), "device 'mps'", "--device cpu")
    refused(lambda: choose_device("mps:1"), "device 'mps:1'", "cuda:N or mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    compute = choose_compute("mps")
    assert compute == Compute(torch.device("mps"), "float32", deterministic=False)
    assert not compute.has_float64
    assert compute.for_cached_features().device.type == "cpu"
    refused(lambda: choose_compute("mps", deterministic=True), "--deterministic", "--device cpu")
    assert choose_device("auto").type in ("cpu", "cuda")  # never chosen by itself


class NoFloat64(TorchDispatchMode):
    """Refuses float64, as the GPU of a Mac does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, and look at the results."""
        out = func(*args, **kwargs or {})
        for each in tree_leaves(out):
            assert not isinstance(each, torch.Tensor) or each.dtype != torch.float64, func
        return out


@pytest.mark.slow
def test_steps_and_predictions_need_no_float64(data: Path, cache: Path) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache)
    body, head = new_network()
    settings = hyperparameters(dropout=0.5)
    model = BodyWithHead(body, head, stem_of(head, "alpha")).train()
    with NoFloat64():
        step = Step(model, Compute(torch.device("cpu")), settings)
        examples = TrainingExamples(loaded, settings, Seeds(1, 1), fixed=False)
        for inputs, targets in examples.batches(1):
            step(inputs, targets, loaded.task)
        forward_in_batches(model, loaded.val.patches)
        first_order(loaded.val.patches)
        outputs, numbers = torch.zeros(2, 1, requires_grad=True), torch.ones(2, 1)
        for task in ("regression", "multilabel"):
            loss_of(outputs, numbers, task=task, loss="cross-entropy", smoothing=0.1).backward()
    with pytest.raises(AssertionError), NoFloat64():
        torch.ones(1).double()
