"""``hydrakit doctor``: what it finds, also where something is wrong."""

from __future__ import annotations

import builtins
import errno
import json
import os
import subprocess
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from hydrakit.cli import main
from hydrakit.maintenance import doctor
from hydrakit.maintenance.doctor import MachineReport, cgroup_limit, examine, file_system, short

ROOT = Path(__file__).parent.parent


def call(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def report(tmp_path: Path) -> MachineReport:
    return examine(tmp_path / "runs", tmp_path / "cache")


def check(report: MachineReport, name: str) -> Any:
    return next(each for each in report.checks if each.name == name)


def test_one_screen_tells_what_is_there(tmp_path: Path) -> None:
    text = call("--out", tmp_path / "runs", "--cache", tmp_path / "cache").stdout
    lines = text.splitlines()
    assert len(lines) <= 30
    assert all(len(line) <= 100 for line in lines if str(tmp_path) not in line)
    assert torch.__version__ in text
    assert "locks, hard links, renames and flushing" in " ".join(text.split())
    assert list(tmp_path.iterdir()) == []  # nothing stays


def test_json_has_the_same(tmp_path: Path) -> None:
    record = json.loads(call("--out", tmp_path, "--json").stdout)
    assert record["fit"] is True
    names = [each["name"] for each in record["checks"]]
    for name in ("hydrakit", "torch", "GPU", "processors", "load", "extras", "compressed DICOM"):
        assert name in names or name == "GPU"
    for name in ("folder for runs", "space for runs", "cache", "space for the cache", "plugins"):
        assert name in names
    assert set(record["checks"][0]) == {"name", "value", "remedy", "stops_runs"}


def test_the_extras_are_those_of_the_distribution() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {*project["optional-dependencies"]} - {"bench", "dev", "docs"}
    assert extras == {*doctor.EXTRAS}


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "1.9", "optuna": "3.6.1", "timm": "0.9.16", "torch": "2.10.0+cu128"}

    def version(name: str) -> str:
        if name not in versions:
            raise doctor.metadata.PackageNotFoundError(name)
        return versions[name]

    requires = [
        *("numpy>=1.26", "torch>=2.4", "optuna>=3; extra == 'tune'", 'timm>=1.0; extra == "timm"'),
        *("onnx>=1.17; extra == 'onnx'", "torch>=2.7; extra == 'onnx'", "ruff>=1; extra == 'dev'"),
    ]
    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: requires)
    assert doctor.missing_packages() == {"": ("numpy",), "timm": ("timm",), "onnx": ("onnx",)}
    found = list(doctor._packages())
    assert found[0].stops_runs
    assert any(each.value.startswith("timm (timm): networks of timm") for each in found)


def test_torch_that_cannot_be_imported_stops_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def imported(name: str, *others: Any) -> Any:
        if name == "torch":
            raise OSError("libtorch.so: cannot open shared object file")
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", imported)
    (found,) = doctor._torch()
    assert found.stops_runs
    assert "libtorch.so" in found.value


def test_a_gpu_that_cannot_compute_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nfor execution")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", fails)
    found = {each.name: each for each in doctor._torch()}["GPU cuda:0"]
    assert found.stops_runs
    assert "no kernel image" in found.value


def test_more_threads_than_processors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "9000")
    found = doctor._processors()
    assert found.remedy is not None
    assert "--threads" in found.remedy
    assert not found.stops_runs
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor._processors().remedy is None


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_limit_of_control_groups_is_the_lowest_on_the_way_up(tmp_path: Path) -> None:
    groups, mount = tmp_path / "cgroup", tmp_path / "mount"
    assert cgroup_limit(groups, mount) is None
    put(groups, "0::/job/step\n")
    assert cgroup_limit(groups, mount) is None
    put(mount / "job/step/cpu.max", "max 100000\n")
    put(mount / "job/cpu.max", "150000 100000\n")
    assert cgroup_limit(groups, mount) == 1.5
    put(groups, "4:memory:/a\n3:cpu,cpuacct:/old\n0::/\n")
    put(mount / "cpu/old/cpu.cfs_quota_us", "50000\n")
    put(mount / "cpu/old/cpu.cfs_period_us", "100000\n")
    put(mount / "cpu/cpu.cfs_quota_us", "-1\n")
    put(mount / "cpu/cpu.cfs_period_us", "100000\n")
    assert cgroup_limit(groups, mount) == 0.5


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts, far = tmp_path / "mountinfo", tmp_path / "far away"
    far.mkdir()
    assert file_system(far, mounts) is None
    begin = "22 27 0:21 /"
    escaped = str(far).replace(" ", "\\040")
    put(mounts, f"{begin} / rw shared:1 - ext4 /dev/a rw\n{begin} {escaped} rw - nfs4 s:/x rw\n")
    assert file_system(far, mounts) == "nfs4"
    assert file_system(tmp_path, mounts) == "ext4"
    assert all(doctor.NETWORK.fullmatch(name) for name in ("nfs4", "cifs", "fuse.sshfs", "lustre"))
    assert not doctor.NETWORK.fullmatch("ext4")


@pytest.mark.parametrize(
    ("name", "part", "stops"),
    [("flock", "locks are refused", True), ("link", "hard links are refused", False)],
)
def test_a_folder_without_locks_or_links_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str, stops: bool
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock" if name == "flock" else "os.link", refuses)
    (found,) = doctor._folder(tmp_path)
    assert part in found.value
    assert found.stops_runs is stops
    assert "--out" in found.remedy


def test_a_lock_that_keeps_nobody_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    (found,) = doctor._folder(tmp_path)
    assert "does not keep another process out" in found.value
    done.returncode, done.stderr = 1, "Traceback\nModuleNotFoundError: No module named 'filelock'\n"
    (found,) = doctor._folder(tmp_path)
    assert "could not be tried (ModuleNotFoundError" in found.value


def test_a_folder_that_cannot_be_written_stops_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuses)
    result = call("--out", tmp_path / "runs", status=1)
    assert "!! folder for runs" in result.stdout
    assert "!! cache" in result.stdout
    assert "a run would fail here" in result.stdout


def marked(record: dict[str, Any]) -> list[str]:
    return [each["name"] for each in record["checks"] if each["stops_runs"]]


@pytest.fixture
def in_the_way(tmp_path: Path) -> Path:
    """A folder with a file, a link to itself and a link to nothing."""
    (tmp_path / "afile").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dang").symlink_to("nowhere")
    return tmp_path


WRONG = [
    ("afile", "afile is no folder"),
    ("afile/x/y", "afile is no folder"),
    ("loop", "symbolic links"),
    ("loop/x", "symbolic links"),
    ("dang", "dang is a link whose target does not exist"),
    ("dang/x", "dang is a link whose target does not exist"),
    pytest.param(os.devnull, "is no folder", marks=pytest.mark.skipif(os.name == "nt", reason="")),
    ("x" * 300, "too long"),
    ("new/" + "x" * 300, "too long"),
    ("x" * 5000, "too long"),
]


@pytest.mark.parametrize(("path", "why"), WRONG)
def test_a_path_for_runs_that_cannot_become_a_folder_stops_them(
    in_the_way: Path, path: str, why: str
) -> None:
    before = sorted(in_the_way.iterdir())
    options = ("--out", in_the_way / path, "--cache", in_the_way / "cache")
    record = json.loads(call(*options, "--json", status=1).stdout)
    assert marked(record) == ["folder for runs"]
    (found,) = (each for each in record["checks"] if each["name"] == "folder for runs")
    assert why in found["value"]
    assert found["remedy"] == "choose another folder with `--out`"
    names = [each["name"] for each in record["checks"]]
    assert names.index("space for runs") < names.index("cache") < names.index("plugins")
    text = call(*options, status=1).stdout
    assert text.count("!! ") == 1
    assert max(map(len, text.splitlines())) < 600
    assert sorted(in_the_way.iterdir()) == before


@pytest.mark.parametrize("by_variable", [False, True])
@pytest.mark.parametrize(("path", "why"), WRONG)
def test_a_cache_that_cannot_become_a_folder_stops_runs(
    in_the_way: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: str, by_variable: bool
) -> None:
    if by_variable:
        monkeypatch.setenv("HYDRAKIT_CACHE", str(in_the_way / path))
    options = () if by_variable else ("--cache", in_the_way / path)
    record = json.loads(call("--out", in_the_way, *options, "--json", status=1).stdout)
    assert marked(record) == ["cache"]
    (found,) = (each for each in record["checks"] if each["name"] == "cache")
    assert why in found["value"]
    assert "`" not in found["value"]  # the remedy is told once
    assert found["remedy"] == "choose another folder with `--cache` or $HYDRAKIT_CACHE"
    assert record["checks"][-1]["name"] == "plugins"


def test_links_to_folders_and_folders_to_be_made_are_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    call("--out", tmp_path / "link" / "a" / "b", "--cache", tmp_path / "link")
    assert list((tmp_path / "real").iterdir()) == []


def test_a_full_disk_stops_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    for free, remedy, stops in ((10, True, True), (10**8, True, False), (10**11, False, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage(10**12, 0, free))
        found = doctor._space("space", tmp_path, "`--out`")
        assert (found.remedy is not None, found.stops_runs) == (remedy, stops)
    monkeypatch.setattr(doctor, "_no_files_left", lambda _: True)
    assert doctor._space("space", tmp_path, "`--out`").stops_runs


def test_broken_and_clashing_plugins_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydrakit.plugins.registry import PluginRecord, Plugins

    record = PluginRecord(
        name="skin", module="hydrakit_skin", distribution="skin", version="1", error="SyntaxError"
    )
    clash = "head 'mlp' is offered by a and by b: uninstall one"
    loaded = Plugins(components={}, records=(record,), clashes={("head", "mlp"): clash})
    monkeypatch.setattr("hydrakit.plugins.registry.load_plugins", lambda: loaded)
    texts = [f"{each.name}: {each.value} -> {each.remedy}" for each in doctor._plugins()]
    assert texts[0].startswith("plugins: 1 installed, 1 of them broken")
    assert texts[1].startswith("plugin skin: broken: SyntaxError -> install another version")
    assert texts[2] == "plugins: head 'mlp' is offered by a and by b -> uninstall one"


def test_another_folder_given_as_the_cache_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    found = next(iter(doctor._cache(tmp_path)))
    assert "cannot be used" in found.value
    assert not found.stops_runs


def test_paths_below_the_home_folder_do_not_name_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert short(Path("/home/someone/runs")) == "~/runs"
    assert short(Path("/data/runs")) == "/data/runs"
