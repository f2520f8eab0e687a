"""`hydrakit plugins new`: what it writes works as it is, for each kind and for all together."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_packaging import Scratch, build
from trove_classifiers import classifiers

from hydrakit.cli import main, plugins_new
from hydrakit.errors import PluginError
from hydrakit.names import OWN_COMMANDS
from hydrakit.plugins import load_plugins
from hydrakit.plugins.registry import KINDS
from hydrakit.scaffold import new
from hydrakit.scaffold.new import LICENCES, MAX_NAME, NewPlugin, write_plugin

ROOT = Path(__file__).parent.parent
ALL = [f"--{kind.name}" for kind in KINDS]
LONGEST = f"x{'-long' * 20}"[:MAX_NAME]


def made(name: str = "hydrakit-skin", *kinds: str, licence: str | None = None) -> NewPlugin:
    """A plugin with components of some kinds, or of all."""
    chosen = tuple(kind for kind in KINDS if kind.name in kinds or not kinds)
    return NewPlugin(name=name, kinds=chosen, licence=licence, author="Ada Lovelace")


def call(*arguments: str | Path, status: int = 0) -> str:
    """What ``hydrakit plugins new`` prints."""
    result = CliRunner().invoke(main, ["plugins", "new", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command prints, which must succeed."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | variables
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# What is written


def test_a_whole_distribution_is_written_and_the_next_commands_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = call("hydrakit-skin", "--dataset", "--head", "my skin").splitlines()
    assert printed == [
        "my skin: hydrakit-skin with dataset and head 'skin'; next:",
        "  pip install -e 'my skin[test]'",
        "  pytest 'my skin'",
        "  hydrakit plugins check hydrakit-skin",
        "  grep -rn 'change this' 'my skin'",
    ]
    assert tree(tmp_path / "my skin") == {
        ".github/workflows/test.yml",
        ".gitignore",
        "README.md",
        "hydrakit_skin/__init__.py",
        "hydrakit_skin/dataset.py",
        "hydrakit_skin/head.py",
        "hydrakit_skin/py.typed",
        "pyproject.toml",
        "tests/test_dataset.py",
        "tests/test_head.py",
        "tests/test_plugin.py",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["my skin"]


def test_an_empty_folder_is_used_and_stays_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    number = tmp_path.stat().st_ino
    call("hydrakit-skin", "--command", ".")
    assert tmp_path.stat().st_ino == number
    assert (tmp_path / "hydrakit_skin" / "command.py").is_file()
    assert tree(tmp_path) == set(made("hydrakit-skin", "command").files())


def test_the_folder_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = call("hydrakit-all", "--dataset", "--head", "--body").splitlines()
    assert printed[0] == "hydrakit-all: hydrakit-all with dataset, head and body 'all'; next:"
    assert "  pip install -e 'hydrakit-all[test]'" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["hydrakit-all"]
    assert (tmp_path / "hydrakit-all" / "hydrakit_all" / "body.py").is_file()
    again = call("hydrakit-all", "--dataset", status=1)
    assert again.startswith("hydrakit: hydrakit-all: is not empty: choose")


def test_the_help_shows_the_default_of_the_folder() -> None:
    text = call("--help")
    assert text.splitlines()[0].endswith(" NAME [DIR]")
    assert "./NAME" in text
    assert "  hydrakit plugins new hydrakit-skin --dataset --head\n" in text


@pytest.mark.parametrize("folder", ["-dash", "./-dash"])
def test_a_folder_that_looks_like_an_option_is_printed_as_a_path(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("hydrakit-skin", "--head", "--", folder).splitlines() == [
        "./-dash: hydrakit-skin with head 'skin'; next:",
        "  pip install -e './-dash[test]'",
        "  pytest ./-dash",
        "  hydrakit plugins check hydrakit-skin",
        "  grep -rn 'change this' ./-dash",
    ]
    assert (tmp_path / "-dash" / "pyproject.toml").is_file()


def test_every_kind_has_its_flag_and_its_files() -> None:
    assert list(plugins_new.FLAGS) == [kind.name for kind in KINDS]
    names = {path.name for path in (ROOT / "hydrakit" / "scaffold" / "templates").iterdir()}
    of_kinds = {
        f"{form.format(kind.name)}.tmpl"
        for kind in KINDS
        for form in ("{}.py", "test_{}.py", "{}.md")
    }
    assert of_kinds <= names
    common = ["pyproject.toml", "README.md", "gitignore", "test.yml", "__init__.py"]
    assert names - of_kinds == {f"{name}.tmpl" for name in (*common, "test_plugin.py", *LICENCES)}


@pytest.mark.parametrize("licence", [None, *LICENCES])
def test_the_metadata_is_valid(licence: str | None) -> None:
    files = made(licence=licence).files()
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "hydrakit-skin"
    assert project["entry-points"] == {"hydrakit": {"skin": "hydrakit_skin"}}
    assert set(project["classifiers"]) <= classifiers
    assert "Typing :: Typed" in project["classifiers"]
    assert project["keywords"] == ["hydrakit-plugin"]
    assert project["authors"] == [{"name": "Ada Lovelace"}]
    assert project.get("license") == licence
    assert ("LICENSE" in files) == (licence is not None)
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == root["requires-python"]


def test_the_texts_of_the_licences_are_whole() -> None:
    texts = {name: made(licence=name).files()["LICENSE"] for name in LICENCES}
    own = (ROOT / "LICENSE").read_text()
    assert texts["MIT"].splitlines()[3:] == own.splitlines()[3:]
    assert re.search(r"^Copyright \(c\) 20\d\d Ada Lovelace$", texts["MIT"], re.MULTILINE)
    assert re.search(r"^Copyright \(c\) 20\d\d, Ada Lovelace$", texts["BSD-3-Clause"], re.MULTILINE)
    assert "3. Neither the name of the copyright holder" in texts["BSD-3-Clause"]
    assert texts["Apache-2.0"].count("\n") == 202
    assert "END OF TERMS AND CONDITIONS" in texts["Apache-2.0"]


def test_an_author_is_text_in_the_metadata() -> None:
    plugin = NewPlugin(name="skin", kinds=KINDS[:1], author='Åsa "B" \\ 𝔸')
    project = tomllib.loads(plugin.files()["pyproject.toml"])["project"]
    assert project["authors"] == [{"name": 'Åsa "B" \\ 𝔸'}]


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.2.0", ">=0.2,<0.3"), ("0.10.3.dev1+g12", ">=0.10,<0.11"), ("1.4", ">=1.4,<1.5")],
)
def test_it_depends_on_the_version_that_wrote_it(
    version: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new, "version", lambda: version)
    project = tomllib.loads(made().files()["pyproject.toml"])["project"]
    assert project["dependencies"] == [f"hydrakit-imaging{expected}"]


@pytest.mark.parametrize("name", ["x", LONGEST])
def test_it_passes_ruff_by_its_own_rules_and_by_ours(name: str, tmp_path: Path) -> None:
    plugin = made(name)
    write_plugin(plugin, tmp_path / "new")
    ruff = (sys.executable, "-m", "ruff")
    run(*ruff, "check", "--no-cache", ".", cwd=tmp_path / "new")
    run(*ruff, "format", "--no-cache", "--check", ".", cwd=tmp_path / "new")
    ours = ("--config", ROOT / "pyproject.toml", "--config", "lint.isort.known-first-party=[]")
    source = f"src=[{json.dumps(str(tmp_path / 'new'))}]"
    run(*ruff, "check", "--no-cache", *ours, "--config", source, ".", cwd=tmp_path / "new")


def pass_own_tests(plugin: NewPlugin, tmp_path: Path) -> None:
    """Write a plugin where it is as good as installed, and run its tests in a new process."""
    write_plugin(plugin, tmp_path / "skin")
    info = tmp_path / "hydrakit_skin-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: hydrakit-skin\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[hydrakit]\nskin = hydrakit_skin\n")
    printed = run(
        *(sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"),
        *(f"--basetemp={tmp_path}/t", "skin"),
        cwd=tmp_path,
        PYTHONPATH=f"{tmp_path}{os.pathsep}{tmp_path / 'skin'}",
    )
    assert re.search(r"^\d+ passed in", printed, re.MULTILINE), printed


def test_the_tests_of_a_dataset_a_strategy_a_tracker_and_a_command_pass(tmp_path: Path) -> None:
    """The checks of the other kinds train and export: `test_a_fresh_environment` has them."""
    pass_own_tests(made("hydrakit-skin", "dataset", "strategy", "tracker", "command"), tmp_path)


@pytest.mark.slow
def test_the_tests_of_all_kinds_pass(tmp_path: Path) -> None:
    pass_own_tests(made(), tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Hydrakit_Skin", "lower-case letters, .* such as 'hydrakit-skin'$"),
        ("-skin", "cannot name a distribution"),
        ("3d", "a letter first"),
        ("skin--b", "such as 'skin-b'$"),
        ("../skin", "such as 'skin'$"),
        ("", "such as 'hydrakit-skin'$"),
        (f"{LONGEST}x", "at most 40"),
        ("class", "is a word or a module of Python: .* such as 'hydrakit-class'$"),
        ("json", "'json' is a word or a module of Python"),
        ("numpy", "the distribution 'numpy' [0-9.]+ is installed"),
        ("hydrakit-imaging", "the distribution 'hydrakit-imaging' .* is installed"),
        ("hydrakit-prostatex", "hydrakit-imaging has a dataset 'prostatex'"),
        ("torchgen", "the module 'torchgen' is installed"),
        ("hydrakit-lung", "hydrakit-imaging has a dataset 'lung'"),
        ("hydrakit-mlp", "hydrakit-imaging has a head 'mlp'"),
        ("hydrakit-run", "hydrakit has a command 'run'"),
        ("hydrakit-trackers", "hydrakit-imaging has a plugin 'trackers'"),
        ("con", "'con' is the name of a device of Windows: .* such as 'hydrakit-my-con'$"),
        *((f"hydrakit-{name}", f"'{name}' is .* device") for name in ("prn", "aux", "nul", "com1")),
        ("dist", ".gitignore hides a folder 'dist', .* such as 'hydrakit-dist'$"),
        ("data", ".gitignore hides a folder 'data', .* such as 'hydrakit-data'$"),
        ("runs", ".gitignore hides a folder 'runs', .* such as 'hydrakit-runs'$"),
    ],
)
def test_a_name_that_would_not_work_is_refused(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message) as refused:
        made(name).refuse_clashes(load_plugins())
    assert "\n" not in str(refused.value)


def test_gitignore_hides_no_file_of_a_plugin() -> None:
    lines = made().files()[".gitignore"].splitlines()
    assert {"/build/", "/dist/"} <= set(lines)
    with pytest.raises(PluginError, match=r"'build'.*: choose another name"):  # may be installed
        made("build", "head").refuse_clashes(load_plugins())
    for name in ("hydrakit-dist", "hydrakit-build", "hydrakit-data", "my-con", "hydrakit-com"):
        made(name, "head").refuse_clashes(load_plugins())


def test_a_name_of_another_kind_is_free() -> None:
    made("hydrakit-mlp", "dataset").refuse_clashes(load_plugins())
    made("hydrakit-run", "head").refuse_clashes(load_plugins())


def test_own_commands_are_those_of_the_program() -> None:
    assert set(OWN_COMMANDS) == set(main.commands)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "a plugin needs a component: add one or more of --dataset, --head, --body, --strategy, "
            "--launcher, --tracker and --command",
        ),
        (["--head", "--licence", "MIT"], "the licence MIT names its author: add `--author NAME`"),
        (["--head", "--author", "a\nb"], "author 'a\\nb': write a name of at most 100 characters"),
        (["--head", "--author", " "], "author ' ': write a name"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    arguments: Sequence[str], message: str, tmp_path: Path
) -> None:
    printed = call("hydrakit-skin", *arguments, tmp_path / "new", status=1)
    assert printed.startswith("hydrakit: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, why in (
        ("full", "is not empty"),
        ("file", "is no folder"),
        ("dangling", "is no folder"),
    ):
        printed = call("hydrakit-skin", "--head", tmp_path / name, status=1)
        assert printed.startswith(f"hydrakit: {tmp_path / name}: {why}: choose a")
        assert printed.count("\n") == 1
    assert tree(tmp_path) == {"full/.hidden", "file"}


def test_what_a_killed_command_left_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    script = (
        "import os; from pathlib import Path; from hydrakit.cli import main; "
        "Path.write_text = lambda *_, **__: os._exit(9); "
        f"main(['plugins', 'new', 'hydrakit-skin', '--head', {str(folder)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == 9
    (left,) = folder.iterdir()
    printed = call("hydrakit-skin", "--head", folder, status=1)
    assert printed == (
        f"hydrakit: {folder}: holds {left.name}: delete it, or choose another folder\n"
    )
    (folder / "README.md").write_text("moved")
    printed = call("hydrakit-skin", "--head", folder, status=1)
    assert printed == (
        f"hydrakit: {folder}: is not empty and holds {left.name}, which an interrupted command "
        "left: choose an empty folder, or a new one\n"
    )


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("after", [0, 3, 100])
def test_a_plugin_is_written_whole_or_not_at_all(
    exists: bool, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after some files, or fails when the files are moved to their place."""
    folder = tmp_path / "new"
    if exists:
        folder.mkdir()
    left = [after]
    write, rename = Path.write_text, Path.rename

    def writing(path: Path, *args: object, **named: object) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", str(path))
        return write(path, *args, **named)  # type: ignore[arg-type]

    def renaming(path: Path, target: Path) -> Path:
        if path.name in ("README.md", *(each for each in [path.name] if each.startswith("."))):
            raise OSError(5, "Input/output error", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "write_text", writing)
    monkeypatch.setattr(Path, "rename", renaming)
    with pytest.raises(PluginError, match=r"new: cannot be written .*: choose another folder"):
        write_plugin(made(), folder)
    assert [path.name for path in tmp_path.iterdir()] == (["new"] if exists else [])
    assert tree(tmp_path) == set()


# The long proofs


@pytest.mark.slow
def test_it_passes_mypy(tmp_path: Path) -> None:
    write_plugin(made(), tmp_path / "skin")
    run(sys.executable, "-m", "mypy", "--no-incremental", cwd=tmp_path / "skin")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of hydrakit."""
    return build(ROOT, tmp_path_factory.mktemp("dist"), "--wheel")


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [*([flag] for flag in ALL), ALL], ids=" ".join)
def test_a_fresh_environment_with_only_the_wheel(
    kinds: list[str], wheel: Path, tmp_path: Path
) -> None:
    """Made by the installed program, built into a wheel, installed, tested and listed."""
    scratch = Scratch(tmp_path)
    scratch.install(wheel)
    scratch.hydrakit("plugins", "new", "hydrakit-skin", *kinds, "skin")
    built = build(tmp_path / "skin", tmp_path / "built", "--wheel")
    scratch.install(built)
    record = scratch.plugins()["hydrakit_skin"]
    offered = [kind.name for kind in KINDS if record[kind.plural] == ["skin"]]
    assert [f"--{name}" for name in offered] == kinds
    printed = run(
        *(scratch.scripts / "python", "-m", "pytest", "-q", "-W", "error", "skin"), cwd=tmp_path
    )
    assert " passed in" in printed
