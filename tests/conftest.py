"""Fixtures for the tests of the engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hydrakit.plugins import load_plugins
from hydrakit.runs.rundir import RunDir

if TYPE_CHECKING:
    from helpers import PoolBackwards, Runner

sys.path.insert(0, str(Path(__file__).parent))  # `helpers`, for the tests and as a plugin

Install = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(scope="session", autouse=True)
def _cells_here() -> Iterator[None]:
    """Cells of comparisons run in the process of the tests; see `helpers.cells_here`."""
    from helpers import cells_here

    with cells_here():
        yield


@pytest.fixture
def cell_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of comparisons run in processes of their own, as users have them."""
    from helpers import LOCAL_POOL

    monkeypatch.setattr("hydrakit.jobs.pool.LocalPool", LOCAL_POOL)


@pytest.fixture
def pool_backwards(monkeypatch: pytest.MonkeyPatch) -> type[PoolBackwards]:
    """A pool that runs the last job first, in the process of the tests."""
    from helpers import PoolBackwards

    class Pool(PoolBackwards):
        pass

    monkeypatch.setattr("hydrakit.jobs.pool.LocalPool", Pool)
    return Pool


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in datasets: to be read, not to be changed."""
    from helpers import write_data

    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stand-in datasets are kept prepared."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def hydra_run(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run of `helpers.hydra_plan`: to be read, not to be changed."""
    from helpers import hydra_plan, run_plan

    out = tmp_path_factory.mktemp("finished") / "run"
    return run_plan(hydra_plan(), out, data=data, cache=cache)


@pytest.fixture
def standin(
    tmp_path: Path, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty current folder, with the stand-ins installed: as plugins and as default data."""
    from helpers import install_standin

    monkeypatch.syspath_prepend(str(install_standin(tmp_path / "site")))
    monkeypatch.setenv("HYDRAKIT_DATA", str(data))
    monkeypatch.setenv("HYDRAKIT_CACHE", str(cache))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    load_plugins.cache_clear()
    yield work
    load_plugins.cache_clear()


@pytest.fixture
def command_refused(standin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Calls a command that must fail, and leave the disk as it was."""
    from click.testing import CliRunner
    from helpers import tree

    from hydrakit.cli import main

    cache = tmp_path / "own-cache"
    cache.mkdir()
    monkeypatch.setenv("HYDRAKIT_CACHE", str(cache))

    def without_cache() -> dict[str, bytes | None]:
        return {
            path: content
            for path, content in tree(tmp_path).items()
            if not Path(path).is_relative_to(cache) and Path(path).name != "log.txt"
        }

    def refused(*arguments: str | Path, words: list[str], status: int = 1) -> str:
        # Data that was read well before the fault shows may be kept prepared: a cache is for that,
        # and a run's log for telling of the fault.
        before = without_cache()
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        # Warnings of the cases that are left out come before the error.
        lines = [line for line in result.stderr.splitlines() if ": left out: " not in line]
        if status == 1:
            assert len(lines) == 1, result.stderr
            assert lines[0].startswith("hydrakit: ")
        else:
            assert lines[0].startswith("Usage: ")
            assert lines[-1].startswith("Error: ")
        for word in words:
            assert word in lines[-1]
        assert not list(cache.glob("*.part"))
        assert without_cache() == before
        return lines[-1]

    return refused


@pytest.fixture
def runner(tmp_path: Path, data: Path, cache: Path) -> Runner:
    """Runs plans on the stand-ins, in folders below ``tmp_path``."""
    from helpers import Runner

    return Runner(tmp_path, data, cache)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn."""
    import torch

    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if not made or made.returncode != 0:
        pytest.skip("a small file system can be mounted by root alone, and not in every container")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a module and the metadata of a distribution into a folder on the search path."""
    before = set(sys.modules)

    def install(
        distribution: str,
        module: str,
        source: str | None,
        *,
        entry: str | None = None,
        version: str = "1.0",
        folder: str = "site",
    ) -> Path:
        site = tmp_path / folder
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        points = info / "entry_points.txt"
        text = points.read_text() if points.exists() else "[hydrakit]\n"
        points.write_text(f"{text}{entry or module} = {module}\n")
        if source is not None:
            (site / f"{module}.py").write_text(source)
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(str(site))
        load_plugins.cache_clear()
        return info

    yield install
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    load_plugins.cache_clear()
