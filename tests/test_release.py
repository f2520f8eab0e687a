"""What a release consists of: its files, and distributions that work without the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import try_release
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    return content


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    cited = read(ROOT / "CITATION.cff")
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", cited["date-released"])
    paper = cited["preferred-citation"]
    readme = (ROOT / "README.md").read_text("utf-8")
    assert re.sub(r"\s+", " ", paper["title"]) in re.sub(r"[\s>]+", " ", readme)
    assert all(each["family-names"] in readme for each in paper["authors"])
    assert str(paper["year"]) in readme


def test_the_forms_ask_for_no_patient_data() -> None:
    assert [form.name for form in FORMS] == ["bug.yml", "config.yml", "dataset.yml", "idea.yml"]
    for form in FORMS:
        content = read(form)
        if form.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= content.keys()
        ids = [each["id"] for each in content["body"] if each["type"] != "markdown"]
        assert len(ids) == len(set(ids))
    for name in ("bug.yml", "dataset.yml"):
        text = (ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text("utf-8")
        assert "patient" in text


def test_the_forge_runs_make_test_on_three_systems() -> None:
    assert [path.name for path in WORKFLOWS] == ["release.yml", "test.yml"]
    (job,) = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"].values()
    matrix = job["strategy"]["matrix"]
    assert matrix["system"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    classifiers = [line for line in PROJECT["classifiers"] if ":: 3." in line]
    assert {f"Programming Language :: Python :: {each}" for each in matrix["python"]} <= {
        *classifiers
    }
    assert job["steps"][-1]["run"] == "make test PYTHON=python"


def test_only_the_job_that_publishes_may_act_as_the_project() -> None:
    for path in WORKFLOWS:
        content = read(path)
        assert content["permissions"] == {"contents": "read"}
        asked = {name: job.get("permissions") for name, job in content["jobs"].items()}
        rest = {name: each for name, each in asked.items() if each is not None}
        assert rest == ({"publish": {"id-token": "write"}} if path.name == "release.yml" else {})


def test_the_image_has_the_tested_python_and_no_root() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", text, re.MULTILINE)
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert {*extras.split(",")} <= PROJECT["optional-dependencies"].keys()
    assert text.index("\nUSER 1000\n") < text.index("\nENTRYPOINT ")
    copied = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    assert all((ROOT / name).exists() for name in copied)
    wheel = ["LICENSE", PROJECT["readme"], "hydrakit", "plugins", "pyproject.toml"]
    assert {*wheel, "constraints.txt"} == {*copied}


def test_the_page_lists_the_extras_for_users() -> None:
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    table = page.partition("## Extras")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z]+)`", row.split("|")[1])}
    assert named == PROJECT["optional-dependencies"].keys() - {"bench", "dev", "docs"}


def make(*arguments: str, **variables: str) -> str:
    command = ["make", "--dry-run", "--directory", str(ROOT), *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
    return subprocess.check_output(command, text=True, env=environment | variables)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_finds_the_environment_on_windows_too() -> None:
    assert ".venv/Scripts/ruff check ." in make("style", OS="Windows_NT")
    assert ".venv/bin/ruff check ." in make("style", OS="")
    assert "tests/try_release.py dist --python python3.13" in make("dist", "PYTHON=python3.13")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_the_distributions_have_good_metadata(dist: Path) -> None:
    wheel, source = try_release.distributions(dist)
    assert try_release.metadata_faults(wheel, source) == []
    assert wheel.name == f"hydrakit_imaging-{PROJECT['version']}-py3-none-any.whl"


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_the_source_gives_the_same_wheel_and_has_the_tests(dist: Path, tmp_path: Path) -> None:
    wheel, source = try_release.distributions(dist)
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--outdir",
        str(tmp_path),
    ]
    subprocess.check_output(command, cwd=ROOT, text=True)
    (direct,) = tmp_path.glob("*.whl")
    assert content(wheel) == content(direct)
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = (path for path in tmp_path.iterdir() if path.is_dir())
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split("\n")
    missing = [name for name in tracked if name and not (root / name).is_file()]
    assert missing == [".gitignore"] or missing == []
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(collect, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.slow
def test_an_installed_wheel_works_without_the_repository(dist: Path, tmp_path: Path) -> None:
    """With the packages of this environment; `make dist` installs them from the index."""
    from test_packaging import Scratch

    scratch = Scratch(tmp_path)
    wheel, _ = try_release.distributions(dist)
    scratch.install(wheel)
    python = scratch.scripts / "python"
    assert "a run" in try_release.try_out(python, tmp_path, PROJECT["version"])
    try_release.check_types(python, tmp_path)
