"""The command line: what each command prints, and that its output can be used further."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from helpers import hydra_plan, plugins, tree, weights_of

from hydrakit.cli import main, progress
from hydrakit.hooks import DatasetAdapter
from hydrakit.names import OWN_COMMANDS
from hydrakit.plan import load_plan
from hydrakit.plugins import load_plugins
from hydrakit.runs.rundir import RunDir

HYDRAKIT = Path(sys.executable).with_name("hydrakit")
SMALL = [
    "--epochs",
    "1",
    "--bootstrap",
    "2",
    "--profile",
    "recommended-0.1",
    "--body-channels",
    "2,2,2",
    "--device",
    "cpu",
]


def call(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.stderr
    return result


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


COMMANDS = dict(commands(main))


@pytest.fixture
def plan_file(standin: Path) -> Path:
    path = standin / "tiny.json"
    path.write_text(hydra_plan().to_json())
    return path


def test_the_commands_are_these() -> None:
    own = {" ".join(path) for path in COMMANDS if path[0] in main.commands}
    assert own == {
        "cache",
        "cache clean",
        "cache list",
        "clean",
        "compare",
        "completion",
        "datasets",
        "datasets add",
        "datasets check",
        "datasets get",
        "datasets info",
        "datasets list",
        "datasets new",
        "doctor",
        "evaluate",
        "export",
        "finish",
        "heads",
        "heads add",
        "job",
        "models",
        "order",
        "plan",
        "plugins",
        "plugins check",
        "plugins info",
        "plugins list",
        "plugins new",
        "predict",
        "report",
        "run",
        "status",
        "tune",
        "verdict",
        "verify",
        "weights",
        "weights import-authors",
        "weights inspect",
        "weights swap",
    }
    assert tuple(sorted(main.commands)) == OWN_COMMANDS
    assert ("phantom",) in COMMANDS  # a plugin's


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_its_help(path: tuple[str, ...]) -> None:
    text = call(*path, "--help").stdout
    assert text.startswith(f"Usage: main {' '.join(path)} ")
    assert call(*path, "-h").stdout == text
    command = COMMANDS[path]
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.opts[0] in text
            assert option.help or option.name in ("seed", "out", "body", "head"), option.name


def test_help_and_version_of_the_program() -> None:
    text = call("--help").stdout
    for name in {path[0] for path in COMMANDS}:
        assert re.search(rf"^  {name} ", text, re.MULTILINE)
    assert "(distribution hydrakit-imaging)" in call("--version").stdout


def test_the_installed_program_answers(tmp_path: Path) -> None:
    for arguments in (["--help"], ["--version"], ["run", "--help"]):
        done = subprocess.run([HYDRAKIT, *arguments], capture_output=True, text=True, check=True)
        assert "hydrakit" in done.stdout
        assert done.stderr == ""


def test_the_installed_program_fails_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [HYDRAKIT, "run", "--plan", "no.json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"hydrakit: no\.json: .*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_the_installed_program_runs_a_plan(
    standin: Path, plan_file: Path, hydra_run: RunDir
) -> None:
    paths = [str(standin.parent / "site"), str(Path(__file__).parent)]
    done = subprocess.run(
        [HYDRAKIT, "run", "--plan", plan_file, "--out", "run", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    assert weights_of(standin / "run") == weights_of(hydra_run.path)
    assert "\x1b" not in done.stdout + done.stderr


def test_a_run_prints_a_line_for_each_round_and_a_table(plan_file: Path) -> None:
    result = call("run", "--plan", plan_file, "--out", "run", "--device", "cpu")
    rounds = hydra_plan().rounds
    lines = result.stderr.splitlines()
    assert lines[:3] == [
        "alpha: 28 train, 10 val, 10 test",
        "beta: 34 train, 14 val",
        "gamma: 34 train, 14 val",
    ]
    assert lines[3] == "run: 7 rounds on cpu"
    assert len(lines) == 11
    for number, (line, round) in enumerate(zip(lines[4:], rounds, strict=True), start=1):
        start = f"round {number} of 7, {round.dataset} {round.train}: val AUC "
        assert re.fullmatch(re.escape(start) + r"[01]\.\d{3} at epoch [12] of 2, \d+\.\d s", line)
    assert_table(result.stdout, RunDir(Path("run")))
    assert "\x1b" not in result.stdout + result.stderr


def assert_table(text: str, rundir: RunDir) -> None:
    results = rundir.results()
    assert results is not None
    for each in results.rounds:
        cells = [str(each.round), each.dataset, each.train, f"{each.best_epoch}/{each.epochs}"]
        cells += [f"{value:.3f}" for value in (each.val.loss, each.val.auc, each.val.accuracy)]
        cells += [] if each.reference_auc is None else [f"{each.reference_auc:.3f}"]
        assert " ".join(cells) in " ".join(text.split())
    (area,) = results.test.classes
    assert f"alpha test: AUC {area.auc:.3f} for 'malignant', 95% interval {area.low:.3f}" in text
    assert f"({area.positives} positive, {area.negatives} negative findings)" in text
    for path in (rundir.body_path, rundir.report_path, rundir.head_path("beta")):
        assert re.search(rf": +{re.escape(str(path))}$", text, re.MULTILINE)
        assert path.is_file()


def test_the_same_command_prints_the_same_table_and_trains_nothing(plan_file: Path) -> None:
    command = ["run", "--plan", plan_file, "--out", "run", "--device", "cpu"]
    first = call(*command)
    before = weights_of(Path("run"))
    again, resumed = call(*command), call("run", "--resume", "run", "--device", "cpu")
    assert again.stdout == resumed.stdout == first.stdout
    assert "round" not in again.stderr
    assert weights_of(Path("run")) == before


def test_a_stopped_run_is_resumed(plan_file: Path, hydra_run: RunDir, data: Path) -> None:
    whole = "run", "--plan", plan_file, "--out", "run", "--device", "cpu"
    call(*whole)
    out = Path("run")
    for name in ("results.json", "predictions.csv", "report.html", "body.safetensors"):
        (out / name).unlink()
    for name in ("05-gamma-all", "06-alpha-head", "07-alpha-all"):
        for path in (out / "rounds" / name).iterdir():
            path.unlink()
        (out / "rounds" / name).rmdir()
    result = call("run", "--resume", out, "--device", "cpu")
    lines = result.stderr.splitlines()[3:]  # the first three tell what the datasets gave
    assert [line.endswith(": done before") for line in lines] == [False, *[True] * 4, *[False] * 3]
    assert weights_of(out) == weights_of(hydra_run.path)


def test_a_run_goes_on_with_the_data_where_it_lay(
    plan_file: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HYDRAKIT_DATA")
    call("run", "--plan", plan_file, "--out", "run", "--device", "cpu", "--data", data)
    Path("run", "results.json").unlink()
    call("run", "--resume", "run", "--device", "cpu")
    assert RunDir(Path("run")).environment()["roots"]["alpha"] == str(data / "alpha")


def test_a_run_without_a_folder_gets_one_of_its_plan(plan_file: Path) -> None:
    text = call("run", "--plan", plan_file, "--device", "cpu").stdout
    (folder,) = Path("runs").iterdir()
    assert folder.name == f"hydra-alpha-{hydra_plan().digest()[:8]}"
    assert f"report:  {folder / 'report.html'}" in text


def test_options_make_the_plan_that_is_run(standin: Path) -> None:
    given = ["--strategy", "transfer", "--datasets", "beta,alpha", "--seed", "3"]
    given += ["--split", "alpha=6-2-2", "--option", "alpha.gain=2", "--head", "linear"]
    given += [
        "--epochs",
        "1",
        "--bootstrap",
        "2",
        "--profile",
        "recommended-0.1",
        "--body-channels",
        "2,2,2",
        "--dropout",
        "0.2",
    ]
    given += ["--patience", "0", "--batch-size", "16", "--learning-rate", "0.01"]
    result = call("run", *given, "--out", "run", "--device", "cpu")
    assert re.search(r"round 1 of 2, beta all: .* \(best of 2 random starts: ", result.stderr)
    plan = load_plan(Path("run", "plan.json"))
    assert call("plan", *given).stdout == Path("run", "plan.json").read_text()
    assert plan.seed == 3
    assert plan.head.name == "linear"
    assert plan.bootstrap == 2
    assert plan.body.channels == (2, 2, 2)
    assert plan.dataset("alpha").options == {"gain": 2.0}
    assert plan.dataset("alpha").split.test == 2
    assert plan.dataset("beta").split.test == 0
    for round in plan.rounds:
        chosen = round.hyperparameters
        assert (chosen.epochs, chosen.patience, chosen.batch_size) == (1, None, 16)
        assert (chosen.learning_rate, chosen.dropout) == (0.01, 0.2)


def test_a_plan_is_printed_edited_and_run(standin: Path) -> None:
    named = ["--strategy", "hydra", "--datasets", "beta,alpha", "--epochs", "1"]
    named += ["--profile", "recommended-0.1"]
    edited = json.loads(call("plan", *named).stdout)
    edited["body"] = {"channels": [4, 8], "features": 8, "patch": 16}
    edited["bootstrap"] = 1
    edited["strategy"] = "custom"
    edited["rounds"][1]["hyperparameters"]["epochs"] = 3
    Path("mine.json").write_text(json.dumps(edited))
    call("run", "--plan", "mine.json", "--out", "run", "--device", "cpu")
    results = RunDir(Path("run")).results()
    assert results is not None
    assert results.strategy == "custom"
    assert [each.epochs for each in results.rounds] == [1, 3, 1]


def test_a_plan_is_written_to_a_new_file(standin: Path) -> None:
    named = ["plan", "--strategy", "classical", "--datasets", "alpha"]
    result = call(*named, "--out", "plan.json")
    assert result.output == ""
    assert Path("plan.json").read_text() == call(*named).stdout
    before = tree(standin)
    assert "plan.json: exists already" in call(*named, "--out", "plan.json", status=1).stderr
    assert "cannot be written" in call(*named, "--out", "no/plan.json", status=1).stderr
    assert tree(standin) == before


def test_long_rounds_are_followed_epoch_by_epoch(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("HYDRAKIT_CACHE", str(Path("cache").absolute()))
    lines = call("run", "--plan", plan_file, "--device", "cpu").stderr
    assert "preparing alpha: 48 cases read" in lines
    assert "bootstrap: 1 of 1 random starts" in lines
    figure = r"-?\d\.\d{3}"
    pattern = (
        rf"round 3 of 7, beta all: epoch 1 of 2, loss {figure} val {figure}, "
        rf"AUC {figure} val {figure} reference {figure}, at most \d+\.\d s left\n"
    )
    assert re.search(pattern, lines)


def test_a_terminal_shows_a_bar_and_keeps_the_rounds(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "150")
    shown = call("run", "--plan", plan_file, "--out", "run", "--device", "cpu").stderr
    assert "\x1b[" in shown
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "run: 7 rounds on cpu" in text
    assert re.search(r"round 7 of 7, alpha all .* 2/2 ", text), "the bar of the last round"
    for number in range(1, 8):
        assert re.search(rf"round {number} of 7, \w+ (head|all): val AUC", text)
    assert "epoch 1 of 2, loss" not in text


def test_evaluating_prints_figures_and_notes(plan_file: Path) -> None:
    call("run", "--plan", plan_file, "--out", "run", "--device", "cpu")
    results = RunDir(Path("run")).results()
    assert results is not None
    (area,) = results.test.classes
    text = call("evaluate", "run", "--device", "cpu").stdout
    assert f"alpha test: AUC {area.auc:.3f} for 'malignant'" in text
    assert f"loss {results.test.figures.loss:.3f}, accuracy" in text
    files = ["--body", "run/body.safetensors", "--head", "run/heads/alpha.safetensors"]
    assert call("evaluate", *files, "--device", "cpu").stdout == text
    swapped = ["--body", "run/body.safetensors", "--head", "run/heads/beta.safetensors"]
    noted = call("evaluate", *swapped, "--split", "val", "--device", "cpu").stdout
    assert "Note: the head of 'beta' was trained on another body" in noted


def test_json_can_be_parsed(plan_file: Path) -> None:
    call("run", "--plan", plan_file, "--out", "run", "--device", "cpu")
    results = RunDir(Path("run")).results()
    assert results is not None

    def parsed(*arguments: str) -> Any:
        return json.loads(call(*arguments, "--json").stdout)

    evaluated = parsed("evaluate", "run", "--device", "cpu")
    assert evaluated.pop("notes") == []
    assert evaluated == results.test.model_dump(mode="json")
    assert {each["name"] for each in parsed("datasets", "list")} >= {"alpha", "brain", "lung"}
    info = parsed("datasets", "info", "alpha")
    assert info["options"][0]["default"] == 1.0
    checked = parsed("datasets", "check", "alpha")
    assert len(checked["usable"]) == 48
    assert checked["usable"][1]["key"] == "c001"
    assert checked["unusable"] == checked["problems"] == []
    listed = {each["name"]: each for each in parsed("plugins", "list")}
    assert listed["standin"]["datasets"] == ["alpha", "beta", "gamma", "delta"]
    inspected = parsed("weights", "inspect", "run/heads/beta.safetensors")
    assert inspected["dataset"] == "beta"
    assert len(inspected["probe"]["features"]) == 8


def test_datasets_are_listed_and_told(standin: Path) -> None:
    listed = call("datasets", "list").stdout
    for name, adapter in plugins().all(DatasetAdapter).items():
        assert re.search(rf"^{name} +{adapter.summary}$", listed, re.MULTILINE)
    info = call("datasets", "info", "delta").stdout
    for words in ("none, some, much", "1 of the image", "--option delta.gain=1.0", "factor of all"):
        assert words in info


def test_plugins_are_listed(standin: Path) -> None:
    text = call("plugins", "list").stdout
    line = r"^standin  \(standin 1\.0\)  \d+ ms\n  datasets:   alpha, beta, gamma, delta$"
    assert re.search(line, text, re.MULTILINE)
    assert "strategies" in text
    assert "BROKEN" not in text
    assert {each.name for each in load_plugins().records} >= {"standin", "heads"}


def test_weight_files_are_inspected_and_swapped(plan_file: Path) -> None:
    call("run", "--plan", plan_file, "--out", "run", "--device", "cpu")
    text = " ".join(call("weights", "inspect", "run/body.safetensors").stdout.split())
    for words in ("kind: body", "channels [4, 8], features 8, patch 16", "alpha, beta, gamma"):
        assert words in text
    text = " ".join(call("weights", "inspect", "run/heads/alpha.safetensors").stdout.split())
    for words in ("kind: head", "classes: benign, malignant", "z-score per patient", "share 1.0"):
        assert words in text
    pair = ["--body", "run/body.safetensors", "--head", "run/heads/beta.safetensors"]
    swapped = call("weights", "swap", *pair, "--out", "new").stdout
    assert "Note: the head of 'beta' was trained on another body" in swapped
    assert str(Path("new", "heads", "beta.safetensors")) in swapped
    assert Path("new", "body.safetensors").read_bytes() == Path(pair[1]).read_bytes()


# --- where standard output and error lead to nowhere


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line with `hydrakit` in place of ``H``."""
    return subprocess.run(
        ["bash", "-c", command.replace("H ", f"{HYDRAKIT} ", 1)],
        capture_output=True,
        check=False,
        cwd=folder,
        env={**os.environ, **environment},
    )


FULL = (
    b"hydrakit: standard output: cannot be written (No space left on device): the command is done, "
    b"but what it printed is incomplete\n"
)


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("H plugins list > /dev/full", 1, FULL),
        ("H --version > /dev/full", 1, FULL),
        ("H plugins list >&-", 0, b""),
        ("H plugins list > /dev/null 2>&-", 0, b""),
        ("H plugins list <&- >&- 2>&-", 0, b""),
        ("H nothing 2> /dev/full", 2, b""),
        ("H run --plan none.json 2>&-", 1, b""),
        ("H plugins list | true; exit ${PIPESTATUS[0]}", 1, b""),
    ],
)
def test_a_stream_that_cannot_be_written_gives_no_traceback(
    tmp_path: Path, command: str, status: int, said: bytes
) -> None:
    done = shell(command, tmp_path)
    assert (done.returncode, done.stderr) == (status, said)
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_without_standard_error_and_says_so_in_its_log(
    standin: Path, plan_file: Path, hydra_run: RunDir
) -> None:
    paths = [str(standin.parent / "site"), str(Path(__file__).parent)]
    command = f"H run --plan {plan_file} --out run --device cpu > /dev/full 2> /dev/full"
    done = shell(command, standin, PYTHONPATH=os.pathsep.join(paths))
    assert done.returncode == 1  # the table of results is lost, and nothing else
    assert weights_of(standin / "run") == weights_of(hydra_run.path)
    log = (standin / "run" / "log.txt").read_text()
    line = "standard error cannot be written (No space left on device): the run goes on without it"
    assert log.count(line) == 1
    assert "Traceback" not in log


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_text_beyond_the_encoding_is_written_as_numbers_and_json_stays_json(
    tmp_path: Path, encoding: str
) -> None:
    folder = tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    (folder / "cases.csv").write_text("image,label\nx.png,neg\ny.png,pos\n", encoding="utf-8")
    (folder / "dataset.toml").write_text(
        'name = "a"\nsummary = "L\u00e4sion \u2264 3 mm"\nclasses = ["neg", "pos"]\n'
        'field_of_view = { share = 1.0 }\ncases = "cases.csv"\n',
        encoding="utf-8",
    )
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    info = shell("H datasets info a --data data", tmp_path, **environment)
    assert info.returncode == 0, info.stderr
    expected = "L\u00e4sion \u2264 3 mm".encode(encoding, errors="backslashreplace")
    assert expected in info.stdout
    plan = "H plan --strategy classical --datasets a --data data --split a=8-1-1"
    done = shell(plan, tmp_path, **environment)
    assert json.loads(done.stdout)["target"] == "a"


def test_json_has_no_characters_beyond_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    from hydrakit.cli.printing import say_json

    value = {"\u00e4": "\u2264 \U0001d49c \x9b"}
    say_json(json.dumps(value, ensure_ascii=False))
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == value


@pytest.mark.parametrize("columns", ["0", "5", "abc"])
def test_a_wrong_width_of_the_terminal_loses_no_table(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrakit.cli.printing import print_table

    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table(["name", "#value"], [["first", 1]])
    assert "first" in capsys.readouterr().out


def test_without_a_home_folder_one_line_says_what_to_give(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.delenv("HYDRAKIT_CACHE")
    stderr = call("run", "--plan", plan_file, status=1).stderr
    assert stderr.splitlines()[-1] == (
        "hydrakit: the home folder is unknown (HOME is not set), and so is the cache: name its "
        "folder with `--cache` or $HYDRAKIT_CACHE"
    )
    root = "alpha=~nobody-of-this-name/x"
    stderr = call("datasets", "check", "alpha", "--root", root, status=2).stderr
    assert f"'{root}': the home folder that ~ stands for is unknown" in stderr
    call("plugins", "list")


def test_an_error_of_a_disk_without_a_file_is_one_line(
    standin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hydrakit.plan.model.load_plan", fail)
    assert call("run", "--plan", "x.json", status=1).stderr == (
        "hydrakit: a file: Input/output error: check the disks and the network; HYDRAKIT_DEBUG=1 "
        "shows where it happened\n"
    )
