"""The root distribution carries the shipped plugins, which are distributions of their own too."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from hydrakit.data.declared.sets import public_sets

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
EXAMPLE = ROOT / "examples" / "third-party-plugin"


def pyproject(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def package(folder: Path) -> str:
    return folder.name.replace("-", "_")


def entry_points(folder: Path) -> dict[str, str]:
    points: dict[str, str] = pyproject(folder)["project"]["entry-points"]["hydrakit"]
    return points


def root_entry_points() -> dict[str, str]:
    """The entry points that the build hook gives to the root distribution."""
    path = ROOT / "plugins" / "entry_points.py"
    spec = importlib.util.spec_from_file_location("entry_points", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = pyproject(ROOT)["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    built: dict[str, Any] = {}
    module.EntryPoints(str(ROOT), config).update(built)
    points: dict[str, str] = built["entry-points"]["hydrakit"]
    return points


def test_the_root_has_the_entry_points_of_all_shipped_plugins() -> None:
    union = {
        "bodies": "hydrakit.models.bodies",
        "heads": "hydrakit.models.heads",
        "launchers": "hydrakit.jobs.launchers",
        "trackers": "hydrakit.observers.trackers",
    }
    for folder in PLUGINS:
        points = entry_points(folder)
        assert not union.keys() & points.keys()
        union |= points
    assert root_entry_points() == union
    assert len(PLUGINS) == 8
    installed = metadata.entry_points(group="hydrakit")
    assert union.items() <= {(point.name, point.value) for point in installed}


def test_the_root_carries_the_packages_of_all_shipped_plugins() -> None:
    tool = pyproject(ROOT)["tool"]
    wheel = tool["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert wheel == ["hydrakit", *(f"plugins/{one.name}/{package(one)}" for one in PLUGINS)]
    names = ["hydrakit", *map(package, PLUGINS)]
    assert tool["mypy"]["packages"] == ["benchmarks", *names]
    assert tool["mypy"]["mypy_path"] == [f"plugins/{folder.name}" for folder in PLUGINS]
    assert tool["ruff"]["lint"]["isort"]["known-first-party"] == names


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_shipped_plugin_agrees_with_the_root(folder: Path) -> None:
    root, project = pyproject(ROOT)["project"], pyproject(folder)["project"]
    assert project["name"] == folder.name
    for key in ("version", "requires-python", "license"):
        assert project[key] == root[key]
    assert project["description"] != "TODO"
    assert (folder / project["readme"]).read_text().startswith(f"# {folder.name}\n")
    assert (folder / package(folder) / "py.typed").is_file()
    assert list((folder / "tests").glob("test_*.py"))
    own = pyproject(folder)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert own == [package(folder)]


@pytest.mark.parametrize("folder", [*PLUGINS, EXAMPLE], ids=lambda folder: folder.name)
def test_a_plugin_depends_on_this_version_and_on_what_the_root_has_too(folder: Path) -> None:
    root = pyproject(ROOT)["project"]
    names = {Requirement(line).name for line in root["dependencies"]}
    for line in pyproject(folder)["project"]["dependencies"]:
        requirement = Requirement(line)
        if requirement.name == root["name"]:
            assert root["version"] in requirement.specifier
            assert requirement.extras <= root["optional-dependencies"].keys()
        else:
            assert requirement.name in names
    assert any(
        Requirement(line).name == root["name"]
        for line in pyproject(folder)["project"]["dependencies"]
    )


def test_no_page_installs_the_unrelated_hydrakit_of_the_public_index() -> None:
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "plugins").glob("*/*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
    wrong = re.compile(r"(pip|uv|pipx)( \w+)* install[^\n`]* hydrakit(?![-\w/])")
    assert [page.name for page in pages if wrong.search(page.read_text(encoding="utf-8"))] == []
    assert len(pages) > len(PLUGINS)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=clean)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder: Path, out: Path, *options: str) -> Path:
    """Build a wheel with the hatchling that is installed here; nothing is downloaded."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options]
    run(*command, folder)
    (wheel,) = out.glob(f"{pyproject(folder)['project']['name'].replace('-', '_')}-*.whl")
    return wheel


class Scratch:
    """A fresh environment that has this one's packages, all but those of this project."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "env", with_pip=False, symlinks=os.name != "nt")
        variables = {"base": str(folder / "env"), "platbase": str(folder / "env")}
        self.scripts = Path(sysconfig.get_path("scripts", "venv", vars=variables))
        site = Path(sysconfig.get_path("purelib", "venv", vars=variables))
        borrowed = folder / "borrowed"
        borrowed.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if "hydrakit" not in path.name and path.suffix != ".pth":
                (borrowed / path.name).symlink_to(path)
        (site / "borrowed.pth").write_text(f"{borrowed}\n")
        self.folder = folder

    def install(self, *what: Path) -> None:
        python = self.scripts / "python"
        offline = ("--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall")
        pip = (sys.executable, "-m", "pip", "--python", str(python), "-q")
        run(*pip, "install", *offline, *what, cwd=self.folder)

    def hydrakit(self, *arguments: str) -> str:
        return run(self.scripts / "hydrakit", *arguments, cwd=self.folder)

    def plugins(self) -> dict[str, dict[str, Any]]:
        records = json.loads(self.hydrakit("plugins", "list", "--json"))
        assert [record for record in records if record["error"] or record["clashes"]] == []
        return {record["module"]: record for record in records}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root's wheel, built from its source distribution."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.mark.slow
def test_the_wheel_holds_all_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    info = f"hydrakit_imaging-{pyproject(ROOT)['project']['version']}.dist-info"
    packages = {"hydrakit", *map(package, PLUGINS)}
    assert {name.split("/")[0] for name in names} == packages | {info}
    assert {name.removesuffix("/py.typed") for name in names if name.endswith("py.typed")} == (
        packages
    )
    sources = {
        f"{folder.name}/{path.relative_to(folder).as_posix()}"
        for folder in [ROOT / "hydrakit", *(one / package(one) for one in PLUGINS)]
        for path in folder.rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources
    sets = {f"hydrakit/data/declared/sets/{name}.toml" for name in ("catalogue", *public_sets())}
    assert sets <= set(names)
    assert not [name for name in names if "test_" in name and "/templates/" not in name]


@pytest.mark.slow
def test_a_wheel_finds_its_plugins_and_those_installed_later(wheel: Path, tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.install(wheel)
    found = scratch.plugins()
    assert set(found) == set(root_entry_points().values())
    assert {record["distribution"] for record in found.values()} == {"hydrakit-imaging"}
    assert "hydrakit-imaging" in scratch.hydrakit("--version")

    scratch.install(EXAMPLE)
    record = scratch.plugins()["hydrakit_skin"]
    assert (record["distribution"], record["datasets"]) == ("hydrakit-skin", ["skin"])


@pytest.mark.slow
@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_shipped_plugin_can_be_installed_alone_too(
    folder: Path, wheel: Path, tmp_path: Path
) -> None:
    alone = build(folder, tmp_path / "dist", "--wheel")
    with zipfile.ZipFile(alone) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {package(folder)}

    scratch = Scratch(tmp_path)
    scratch.install(wheel, alone)
    found = scratch.plugins()
    assert set(found) == set(root_entry_points().values())
    owners = {module: record["distribution"] for module, record in found.items()}
    assert owners == dict.fromkeys(found, "hydrakit-imaging") | {package(folder): folder.name}
