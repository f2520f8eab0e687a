"""What a shell completes at the Tab key, and that no plugin is imported for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from hydrakit.cli import main
from hydrakit.hooks import DatasetAdapter
from hydrakit.plugins import load_plugins, remembered
from hydrakit.plugins.remembered import remembered_names

NAMES = {
    "dataset": ["beta", "alpha"],
    "head": ["linear", "mlp"],
    "body": ["small"],
    "strategy": ["hydra", "transfer"],
    "launcher": ["local"],
    "tracker": ["mlflow"],
    "command": ["phantom"],
    "plugin": ["shipped"],
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with one declared dataset; the names of plugins are remembered."""
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "dataset.toml").touch()
    (tmp_path / "data" / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRAKIT_DATA", raising=False)
    write_names()
    return tmp_path / "data"


def write_names() -> None:
    """Write the file of names as for an environment that has these plugins."""
    with pytest.MonkeyPatch.context() as patch:
        names = {kind: sorted(each) for kind, each in NAMES.items()}
        patch.setattr(remembered, "_collected", lambda: names)
        assert remembered_names() == names


def completed(line: str) -> list[str]:
    """Values that complete the last word of a line after ``hydrakit``."""
    *words, last = line.split(" ")
    shell = ShellComplete(main, {}, "hydrakit", "_HYDRAKIT_COMPLETE")
    return [item.value for item in shell.get_completions(words, last)]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("ru", ["run"]),
        ("ph", ["phantom"]),
        ("cache ", ["clean", "list"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("run --strat", ["--strategy"]),
        ("run --strategy ", ["hydra", "transfer"]),
        ("compare --strategies hydra,", ["hydra,hydra", "hydra,transfer"]),
        ("finish folder --strategy t", ["transfer"]),
        ("run --datasets ", ["alpha", "beta", "mine"]),
        ("run --datasets alpha,mine,b", ["alpha,mine,beta"]),
        ("run --data none --datasets ", ["alpha", "beta"]),
        ("run --root far=. --datasets f", ["far"]),
        ("run --head m", ["mlp"]),
        ("run --body ", ["small"]),
        ("run --profile p", ["paper"]),
        ("run --launcher ", ["local"]),
        ("run --track ", ["mlflow"]),
        ("datasets check ", ["alpha", "beta", "mine"]),
        ("datasets add bu", ["busi"]),
        ("plugins info sh", ["shipped"]),
        ("plugins check sh", ["shipped"]),
        ("--no-plugin ", ["shipped"]),
        ("order --target be", ["beta"]),
        ("cache clean ", ["brain"]),
    ],
)
def test_names_and_commands_are_completed(data: Path, line: str, values: list[str]) -> None:
    cache = Path(os.environ["HYDRAKIT_CACHE"])
    (cache / "brain-0123456789abcdef").mkdir()
    (cache / "dicom").mkdir()
    assert completed(line) == values


@pytest.mark.parametrize("line", ["status ru", "run --out ru", "predict m", "run --data "])
def test_the_shell_completes_paths(data: Path, line: str) -> None:
    *words, last = line.split(" ")
    shell = ShellComplete(main, {}, "hydrakit", "_HYDRAKIT_COMPLETE")
    assert [item.type for item in shell.get_completions(words, last)] == ["file"]


PRINTING_MODULES = """
import sys
from hydrakit.cli import main
try:
    main(prog_name="hydrakit")
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
    print(*(name for name in sys.modules if name == "hydrakit.plugins.registry"), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("hydrakit run --strategy hydra --datasets alpha,", ["plain,alpha,alpha"]),
        ("hydrakit phan", ["plain,phantom"]),
    ],
)
def test_a_shell_imports_no_plugin_and_no_slow_package(
    data: Path, words: str, lines: list[str]
) -> None:
    environment = {
        **os.environ,
        "_HYDRAKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    command = [sys.executable, "-c", PRINTING_MODULES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line in lines] == lines
    imported, registry = done.stderr.splitlines()
    slow = {"torch", "numpy", "pydantic", "pydicom"}
    assert not {name for name in imported.split() if name.startswith("hydrakit_") or name in slow}
    assert registry == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert f"_HYDRAKIT_COMPLETE={shell}_complete" in done.stdout
    assert "_hydrakit_completion" in done.stdout
    assert ('string split --max 1 ","' in done.stdout) == (shell == "fish")


def test_bash_completes_by_the_script(data: Path) -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    program = Path(sys.executable).with_name("hydrakit")
    test = (
        f"{script}\nCOMP_WORDS=(hydrakit run --datasets alpha,m); COMP_CWORD=3; COMPREPLY=()\n"
        f"_hydrakit_completion {program}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    done = subprocess.run(["bash", "-c", test], capture_output=True, text=True, check=True)
    assert done.stdout == "alpha,mine\n"


def file_of_names() -> Path:
    (file,) = Path(os.environ["HYDRAKIT_CACHE"]).glob("names-*.json")
    return file


def test_names_are_collected_once_after_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remembered_names()["dataset"] == sorted(load_plugins(frozenset()).all(DatasetAdapter))
    assert "prostatex" in remembered_names()["plugin"]
    monkeypatch.setattr(remembered, "_collected", lambda: {"dataset": ["new"]})
    assert "brain" in remembered_names()["dataset"]  # not collected again
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert remembered_names() == {"dataset": ["new"]}


def test_loading_plugins_writes_no_names() -> None:
    load_plugins.cache_clear()
    load_plugins()
    assert not list(Path(os.environ["HYDRAKIT_CACHE"]).glob("names-*"))


@pytest.mark.parametrize("content", ["", "[1]", '{"names": 3}', "[" * 100_000])
def test_a_damaged_file_of_names_is_replaced(content: str) -> None:
    write_names()
    file_of_names().write_text(content)
    write_names()
    assert json.loads(file_of_names().read_text())["names"]["dataset"] == ["alpha", "beta"]


def test_without_a_cache_folder_names_are_collected_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (Path(os.environ["HYDRAKIT_CACHE"]) / "file").touch()
    monkeypatch.setenv("HYDRAKIT_CACHE", f"{os.environ['HYDRAKIT_CACHE']}/file")
    write_names()
    write_names()
    assert completed("cache clean ") == []
