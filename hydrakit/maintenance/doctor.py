"""Whether a machine, a folder for runs and the installed packages are fit for hydrakit.

Nothing is changed: what is tried in a folder is tried in a temporary folder, which is removed.
"""

from __future__ import annotations

import errno
import math
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from hydrakit.errors import HydrakitError, command_line, one_line
from hydrakit.maintenance.cache import list_cache
from hydrakit.plugins.registry import Plugins
from hydrakit.schema import Frozen
from hydrakit.storage.files import reason, size_text, write_atomic
from hydrakit.storage.lock import FILES, locked
from hydrakit.version import DISTRIBUTION, version

EXTRAS = {
    "codecs": "compressed DICOM images",
    "figures": "report figures as PDF and PNG",
    "get": "fetching public datasets",
    "hub": "publishing a model on the Hugging Face Hub",
    "mlflow": "sending metrics to MLflow",
    "monai": "networks of MONAI as bodies",
    "onnx": "exporting models as ONNX",
    "slurm": "running jobs in a Slurm queue",
    "tensorboard": "sending metrics to TensorBoard",
    "timm": "networks of timm as bodies",
    "tune": "`tune` with trials that Optuna chooses",
    "xlsx": "tables of cases in .xlsx files",
}
"""What each extra of the distribution is for; those for developers are left out."""

LITTLE_SPACE = 1_000_000_000
"""Free bytes of a disk below which there is a warning."""

TOO_LITTLE_SPACE = 50_000_000
"""Free bytes below which a short run would fail."""

LONGEST_PATH = 500
"""Characters of a path that are shown."""

SLOW_PLUGIN = 300
"""Milliseconds of the import of a plugin that are too many: each command waits for them."""

NETWORK = re.compile(
    r"nfs.*|cifs|smb.*|lustre|gpfs|beegfs.*|ceph|afs|9p|pvfs2|fuse\.(sshfs|glusterfs|ceph.*|rclone)"
)
"""Names of file systems that several machines share."""

_SYNTAXES = {
    "RLE": ("1.2.840.10008.1.2.5",),
    "JPEG": ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"),
    "JPEG Lossless": ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    "JPEG 2000": ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
    "HTJ2K": (
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.4.203",
    ),
}
"""Transfer syntaxes of compressed images (PS3.6, table A-1), by the name of their compression."""

# In another process, since a lock of NFS holds against processes only.
_TRY_LOCK = """
import sys
from filelock import FileLock, Timeout
try:
    FileLock(sys.argv[1]).acquire(timeout=0)
except Timeout:
    sys.exit(3)
"""


class MachineCheck(Frozen):
    """One property of this machine.

    Attributes:
        name: What was examined.
        value: What was found.
        remedy: What to do; None if nothing is wrong.
        stops_runs: Whether a run would fail.
    """

    name: str
    value: str
    remedy: str | None = None
    stops_runs: bool = False


class MachineReport(Frozen):
    """What `examine` found.

    Attributes:
        fit: Whether a run can work.
        checks: The properties of the machine.
    """

    fit: bool
    checks: tuple[MachineCheck, ...]


def examine(out: Path, cache: Path) -> MachineReport:
    """Examine this machine.

    Args:
        out: Folder for runs; it need not exist.
        cache: Cache folder; it need not exist.
    """
    checks = tuple(_checks(out, cache))
    return MachineReport(fit=not any(check.stops_runs for check in checks), checks=checks)


def _checks(out: Path, cache: Path) -> Iterator[MachineCheck]:
    yield MachineCheck(
        name="hydrakit",
        value=f"{version()}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.release()} ({platform.machine()})",
    )
    yield from _torch()
    yield _processors()
    yield from _load()
    yield from _packages()
    yield _codecs()
    yield from _folder(out)
    yield _space("space for runs", out, "`--out`")
    yield from _cache(cache)
    yield from _plugins()


def _torch() -> Iterator[MachineCheck]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield MachineCheck(
            name="torch",
            value=f"cannot be imported: {one_line(str(error), 200)}",
            remedy="install it again: `pip install --force-reinstall torch`",
            stops_runs=True,
        )
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    if torch.version.hip:
        build = f"ROCm {torch.version.hip}"
    threads = torch.get_num_threads()
    yield MachineCheck(
        name="torch",
        value=f"{torch.__version__} ({build}), threads: {threads}, instructions of the CPU: "
        f"{torch.backends.cpu.get_cpu_capability()}, {_cpu_bfloat16()}",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that does not fit: the check says it
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(count):
        yield _cuda_device(number)
    if torch.backends.mps.is_available():
        yield MachineCheck(name="GPU", value="mps (Apple)")
    elif not count:
        yield _no_gpu(torch.version.cuda or torch.version.hip)


def _cpu_bfloat16() -> str:
    """Whether the processor computes in bfloat16 itself, where Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return "bfloat16 unknown"
    fast = re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", text)
    return f"bfloat16 {'in hardware' if fast else 'emulated'}"


def _cuda_device(number: int) -> MachineCheck:
    """A GPU, after a small computation on it."""
    import torch

    name = f"GPU cuda:{number}"
    try:
        properties = torch.cuda.get_device_properties(number)
        torch.ones(8, 8, device=f"cuda:{number}").matmul(torch.ones(8, 8, device=f"cuda:{number}"))
        torch.cuda.synchronize(number)
        free, total = torch.cuda.mem_get_info(number)
        fast = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
    except RuntimeError as error:
        return MachineCheck(
            name=name,
            value=f"cannot compute: {one_line(str(error), 120)}",
            remedy="use `--device cpu`, or install a torch for this GPU and driver: pytorch.org",
            stops_runs=True,
        )
    return MachineCheck(
        name=name,
        value=f"{properties.name}, {size_text(free)} of {size_text(total)} free, {fast}",
    )


def _no_gpu(build: str | None) -> MachineCheck:
    value, remedy = "none", None
    if Path("/proc/driver/nvidia/version").exists():
        value = "none that torch can use, but there is a driver of NVIDIA"
        remedy = "install a torch with CUDA: pytorch.org"
        if build is not None:
            remedy = f"update the driver for CUDA {build}, and check $CUDA_VISIBLE_DEVICES"
    return MachineCheck(name="GPU", value=value, remedy=remedy)


def _processors() -> MachineCheck:
    """The processors that this process may use, and the number of threads."""
    from hydrakit.compute.processors import processors

    usable, limit = processors(), cgroup_limit()
    variable = os.environ.get("OMP_NUM_THREADS")
    value = f"{usable} of {os.cpu_count()} usable"
    if limit is not None:
        value += f", limited to the time of {limit:g} by a control group"
    value += f"; OMP_NUM_THREADS {f'is {variable}' if variable else 'is not set'}"
    most = usable if limit is None else min(usable, max(1, math.ceil(limit)))
    remedy = None
    threads = int(variable) if variable and variable.isdecimal() else usable
    if threads > most:
        remedy = (
            f"{threads} threads would wait for one another: `{command_line('--threads', most)}`"
        )
    return MachineCheck(name="processors", value=value, remedy=remedy)


def cgroup_limit(
    groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Number of processors whose time the control groups of this process allow; None for all.

    Source: cgroups(7); Linux, admin-guide/cgroup-v2, ``cpu.max``; scheduler/sched-bwc.

    Args:
        groups: File with the control groups of the process.
        mount: Folder where control groups are mounted.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not Linux
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mount / "cpu" if controllers else mount
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            limits += _quota(place)
            if place == top:
                break
    return min(limits, default=None)


def _quota(group: Path) -> list[float]:
    """The limit of one control group, if it has one."""
    with suppress(OSError, ValueError):  # ValueError: "max"
        quota, period = (group / "cpu.max").read_text().split()
        return [int(quota) / int(period)]
    with suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return [int(quota) / int(period)] if int(quota) > 0 else []
    return []


def _load() -> Iterator[MachineCheck]:
    if not hasattr(os, "getloadavg"):  # Windows
        return
    from hydrakit.compute.processors import processors

    load, usable = os.getloadavg()[0], processors()
    remedy = None
    if load > usable + 0.5:
        remedy = "other programs compute here: runs take longer, with the same results"
    yield MachineCheck(
        name="load", value=f"{load:.1f} of {os.cpu_count()} processors", remedy=remedy
    )


def _packages() -> Iterator[MachineCheck]:
    """The packages that hydrakit needs, and those of its extras."""
    missing = missing_packages()
    needed = missing.pop("", ())
    if needed:
        yield MachineCheck(
            name="packages",
            value=f"{', '.join(needed)}: missing or too old",
            remedy=f"`pip install --upgrade {DISTRIBUTION}`",
            stops_runs=True,
        )
    installed = [name for name in EXTRAS if name not in missing]
    further = f"; others: `pip install '{DISTRIBUTION}[NAME]'`" if missing else ""
    yield MachineCheck(name="extras", value=f"{', '.join(installed) or 'none'}{further}")
    for name, packages in missing.items():
        yield MachineCheck(
            name="not installed", value=f"{name} ({', '.join(packages)}): {EXTRAS[name]}"
        )


def missing_packages() -> dict[str, tuple[str, ...]]:
    """Packages that are missing or too old, by the extra that needs them, or "" for all."""
    missing: dict[str, tuple[str, ...]] = {}
    for requirement in metadata.requires(DISTRIBUTION) or ():
        match = re.match(r"([\w.-]+)[^;]*?>=([\d.]+)", requirement)
        extra = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", requirement)
        name = extra[1] if extra else ""
        if match is None or (name and name not in EXTRAS):
            continue
        try:
            present = _numbers(metadata.version(match[1])) >= _numbers(match[2])
        except metadata.PackageNotFoundError:
            present = False
        if not present:
            missing[name] = (*missing.get(name, ()), match[1])
    return missing


def _numbers(release: str) -> list[int]:
    """The numbers of a version, for comparison; those after a letter do not count."""
    match = re.match(r"[\d.]*\d", release)
    return [int(number) for number in match[0].split(".")] if match else []


def _codecs() -> MachineCheck:
    """Which compressed DICOM images can be decoded."""
    from pydicom.pixels.decoders.base import get_decoder

    lacking = [
        name
        for name, syntaxes in _SYNTAXES.items()
        if not all(get_decoder(syntax).is_available for syntax in syntaxes)
    ]
    able = ", ".join(name for name in _SYNTAXES if name not in lacking)
    return MachineCheck(
        name="compressed DICOM",
        value=f"read: {able}" + (f"; not read: {', '.join(lacking)}" if lacking else ""),
        remedy=f"`pip install '{DISTRIBUTION}[codecs]'`" if lacking else None,
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists.

    Raises:
        OSError: The folder cannot be made, since something that is no folder is in its way, or a
            name is too long.
    """
    place, absent = folder.absolute(), []
    while True:
        try:
            mode = place.stat().st_mode
            break
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                text = f"{short(place)} is a link whose target does not exist"
                raise FileExistsError(errno.EEXIST, text) from None
            if place == place.parent:
                raise
        absent.append(place.name)
        place = place.parent
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{short(place)} is no folder")
    for name in absent:
        with suppress(FileNotFoundError):
            (place / name).lstat()  # tells whether the name is too long
    return place


def short(path: Path) -> str:
    """A path as text, with ``~`` for the home folder; a long one is cut."""
    path = path.absolute()
    with suppress(RuntimeError, ValueError):
        path = Path("~") / path.relative_to(Path.home())
    text = str(path)
    return text if len(text) <= LONGEST_PATH else f"{text[:LONGEST_PATH]}..."


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Name of the file system of an existing folder, such as ``ext4`` or ``nfs4``; None if unknown.

    Source: proc(5), /proc/[pid]/mountinfo.
    """
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return None
    folder, best, name = folder.resolve(), -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        text = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), before.split()[4])
        point = Path(text)
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, name = len(point.parts), after.split()[0]
    return name


def _folder(out: Path) -> Iterator[MachineCheck]:
    """Whether a folder can hold runs: locks, hard links, renames and flushing are tried there."""
    try:
        place = _existing(out)
    except OSError as error:
        yield MachineCheck(
            name="folder for runs",
            value=f"{short(out)}: cannot be used ({reason(error)})",
            remedy="choose another folder with `--out`",
            stops_runs=True,
        )
        return
    kind = file_system(place)
    where = f"{short(out)}{f' ({kind})' if kind else ''}"
    remedy = "choose a folder on another disk with `--out`"
    try:
        with tempfile.TemporaryDirectory(prefix=".hydrakit-doctor-", dir=place) as name:
            faults, seconds = _tried(Path(name))
    except OSError as error:
        yield MachineCheck(
            name="folder for runs",
            value=f"{where}: cannot be written ({reason(error)})",
            remedy=remedy,
            stops_runs=True,
        )
        return
    if not faults:
        note = None
        if kind is not None and NETWORK.fullmatch(kind):
            note = (
                "a network file system: start the processes of one folder on one machine, or with "
                "`--join`"
            )
        yield MachineCheck(
            name="folder for runs",
            value=f"{where}: locks, hard links, renames and flushing ({seconds * 1e3:.0f} ms) work",
            remedy=note,
        )
    for fault, stops in faults.items():
        yield MachineCheck(
            name="folder for runs",
            value=f"{where}: {fault}",
            remedy=remedy if stops else f"without `--join` this is no fault; else {remedy}",
            stops_runs=stops,
        )


def _tried(folder: Path) -> tuple[dict[str, bool], float]:
    """What fails in an empty folder, each with whether it stops runs; seconds of a flush."""
    faults: dict[str, bool] = {}
    file, other = folder / "file", folder / "other"
    begin = time.perf_counter()
    write_atomic(file, b"1")
    seconds = time.perf_counter() - begin
    write_atomic(file, b"2")
    if file.read_bytes() != b"2":
        faults["a renamed file does not replace another one"] = True
    try:
        os.link(file, other)
    except OSError as error:
        faults[f"hard links are refused ({reason(error)})"] = False
    with suppress(FileNotFoundError):
        other.unlink()
    try:
        with warnings.catch_warnings(action="ignore"), locked(folder):
            command = [sys.executable, "-c", _TRY_LOCK, str(folder / FILES[0])]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            faults["a lock does not keep another process out"] = True
        elif done.returncode != 3:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            faults[f"locks could not be tried ({one_line(lines[-1], 100)})"] = True
    except HydrakitError:
        faults["locks are refused"] = True
    return faults, seconds


def _space(name: str, folder: Path, option: str) -> MachineCheck:
    """Free space of the disk that a folder is on, or will be."""
    try:
        place = _existing(folder)
        usage = shutil.disk_usage(place)
    except OSError as error:
        return MachineCheck(name=name, value=f"unknown ({reason(error)})")
    no_files = hasattr(os, "statvfs") and _no_files_left(place)
    too_little = usage.free < TOO_LITTLE_SPACE or no_files
    value = f"{size_text(usage.free)} of {size_text(usage.total)} free"
    if no_files:
        value += ", but no further file can be made"
    little = too_little or usage.free < LITTLE_SPACE
    return MachineCheck(
        name=name,
        value=value,
        remedy=f"free space there, or choose another disk with {option}" if little else None,
        stops_runs=too_little,
    )


def _no_files_left(folder: Path) -> bool:
    numbers = os.statvfs(folder)
    return numbers.f_files > 0 and numbers.f_favail == 0


def _cache(folder: Path) -> Iterator[MachineCheck]:
    """The cache: what it holds, whether it can be written, and the free space of its disk."""
    where = short(folder)
    option = "`--cache` or $HYDRAKIT_CACHE"
    try:
        place = _existing(folder)
        kind = file_system(place)
        where += f" ({kind})" if kind else ""
        with tempfile.TemporaryDirectory(prefix=".hydrakit-doctor-", dir=place):
            pass
        contents = list_cache(folder)
    except (OSError, HydrakitError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        yield MachineCheck(
            name="cache",
            value=f"{where}: cannot be used ({why})",
            remedy=f"choose another folder with {option}",
            stops_runs=isinstance(error, OSError),
        )
        return
    sets = sum(item.kind == "prepared data" for item in contents.items)
    gone = sum(item.size for item in contents.items if item.source_exists is False)
    yield MachineCheck(
        name="cache",
        value=f"{where}: {size_text(contents.size)}, prepared data of {sets} datasets or settings",
        remedy=f"`hydrakit cache clean` frees {size_text(gone)} of images that are gone"
        if gone
        else None,
    )
    yield _space("space for the cache", folder, option)


def _plugins() -> Iterator[MachineCheck]:
    from hydrakit.plugins.registry import load_plugins

    installed: Plugins = load_plugins()
    broken = [each for each in installed.records if each.error]
    disabled = [each.name for each in installed.records if each.disabled]
    value = f"{len(installed.records)} installed"
    value += f", {len(broken)} of them broken" if broken else ""
    value += f"; disabled: {', '.join(disabled)}" if disabled else ""
    yield MachineCheck(name="plugins", value=value)
    for each in broken:
        yield MachineCheck(
            name=f"plugin {each.name}",
            value=f"broken: {each.error}",
            remedy=f"install another version of {each.distribution}, or uninstall it",
        )
    for each in installed.records:
        if each.import_ms is not None and each.import_ms > SLOW_PLUGIN:
            yield MachineCheck(
                name=f"plugin {each.name}",
                value=f"its import takes {each.import_ms / 1000:.1f} s, also for `--help`",
                remedy=f"ask the authors of {each.distribution} to import packages in functions",
            )
    for clash in dict.fromkeys(installed.clashes.values()):
        what, _, remedy = clash.rpartition(": ")
        yield MachineCheck(name="plugins", value=what, remedy=remedy)
