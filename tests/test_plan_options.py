"""Options of the command line that decide a plan: generated from the schema, in plain words."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from click.testing import CliRunner, Result
from helpers import plugins

from hydrakit.cli import main, plan_options
from hydrakit.cli.plan_options import SCHEMA, schema_text
from hydrakit.compare.design import make_design
from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.edit import edit_plan
from hydrakit.plan.profiles import PROFILES, make_plan
from hydrakit.plan.settings import PlanSettings, ProfileName
from hydrakit.plugins import load_plugins
from hydrakit.plugins.options import option_fields
from hydrakit.rounds import Hyperparameters
from hydrakit.search.order import OrderPlanner

TRAINING_COMMANDS = ["run", "plan", "compare", "tune", "order"]
PRINT_SLOW = "print(sorted({'torch', 'pydantic', 'numpy', 'pydicom', 'scipy'} & {*sys.modules}))"
NOT_A_BEGINNING = r"(Of|As|Whose|That|Which)\b"
GIVEN = ["--strategy", "hydra", "--datasets", "brain,prostatex", "--profile", "recommended-0.1"]


def call(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.stderr
    return result


def planned(*arguments: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(call("plan", *GIVEN, *arguments).stdout)
    return read


def options(command: str) -> dict[str, click.Option]:
    found = main.commands[command].params
    return {option.opts[0]: option for option in found if isinstance(option, click.Option)}


@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_each_line_of_the_help_can_be_read_alone(command: str) -> None:
    text = call(command, "--help").stdout
    for line in text.split("Options:")[1].splitlines():
        assert not re.match(NOT_A_BEGINNING, line[34:].strip()), line
    for name, option in options(command).items():
        assert name in text
        assert option.help, name
        assert not re.match(NOT_A_BEGINNING, option.help), name
        assert re.search(r"[.\])]$", option.help), name


@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_every_command_that_plans_can_drop_contradictory_cases(command: str) -> None:
    kind = options(command)["--conflicts"].type
    assert isinstance(kind, click.Choice)
    assert tuple(kind.choices) == ("error", "keep", "drop")


def test_a_plan_that_drops_no_contradictory_cases_is_as_before() -> None:
    default, drop = planned(), planned("--conflicts", "drop")
    assert default["conflicts"] == "error"
    assert {**drop, "conflicts": "error"} == default


def test_no_help_text_is_in_the_code_twice() -> None:
    texts = [
        (field.description or "").split("\n\n")[0]
        for name, field in PlanSettings.model_fields.items()
        if name not in Hyperparameters.model_fields
    ]
    texts += [field.description or "" for field in Hyperparameters.model_fields.values()]
    for name in ("params", "plan_options", "run", "compare", "tune"):
        path = Path(plan_options.__file__).with_name(f"{name}.py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "help":
                value = node.value
                texts += [value.value] if isinstance(value, ast.Constant) else []
    texts = [text.split("  [default:")[0] for text in texts]
    assert all(texts)
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_every_option_stands_for_a_field_and_has_its_default() -> None:
    found = {option.name: option for option in options("run").values()}
    assert set(plan_options.FIELDS) == set(PlanSettings.model_fields) - {
        "whole",
        "split_seed",
        "heads",  # part of --head
    }
    for name in plan_options.FIELDS:
        default = getattr(PlanSettings(), name)
        assert found[name].multiple or found[name].default in (default, click.core.UNSET), name
    assert set(PROFILES) == set(get_args(ProfileName))
    assert list(found["profile"].type.to_info_dict()["choices"]) == list(PROFILES)
    assert found["learning_rate"].help == Hyperparameters.model_fields["learning_rate"].description
    assert "--learning-rate" not in options("tune")
    assert "--split" not in options("compare")


def test_the_help_says_what_zero_means_and_which_default_holds() -> None:
    text = " ".join(call("run", "--help").stdout.split())
    for words in (
        "0: never. [x>=0]",
        "0: all. [x>=0]",
        "[default: 1.0; 0<x<=1]",
        "Dropout probability. [0<=x<1]",
        "[default: 32,64,128]",
        "[default: authors with `--profile authors`, else best]",
        "[default: 5] [x>=1]",
        "[default: 8-1-1 for the target, 9-1 for the others]",
    ):
        assert words in text


@pytest.mark.parametrize("arguments", [["--help"], ["verdict", "--help"], ["plan", "--help"]])
def test_the_help_loads_nothing_slow(arguments: list[str]) -> None:
    code = "import sys; from hydrakit.cli import main; main(sys.argv[1:], standalone_mode=False)"
    command = [sys.executable, "-c", f"{code}; {PRINT_SLOW}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("hydrakit ver", {"verdict", "verify"}),
        ("hydrakit run --bo", {"--body", "--bootstrap", "--body-channels", "--bootstrap-rule"}),
        ("hydrakit run --profile pa", {"paper"}),
        ("hydrakit verdict --me", set()),
    ],
)
def test_a_shell_completes_commands_and_options_without_loading_anything_slow(
    words: str, completed: set[str]
) -> None:
    code = "import atexit, sys; from hydrakit.cli import main"
    command = f'{code}; atexit.register(lambda: exec("{PRINT_SLOW}")); main(prog_name="hydrakit")'
    variables = {
        "_HYDRAKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert completed <= {line.removeprefix("plain,") for line in lines}


def test_the_copy_of_the_schema_is_up_to_date() -> None:
    """Otherwise: ``python -c 'from hydrakit.cli import plan_options as p; p.write_schema()'``."""
    assert SCHEMA.read_text(encoding="utf-8") == schema_text()


def test_settings_can_be_given_as_a_model_or_by_name() -> None:
    datasets, known = ["brain", "prostatex"], PlanSettings(seed=4, epochs=3, patience=0)
    plan = make_plan("hydra", datasets, known)
    assert plan == make_plan("hydra", datasets, seed=4, epochs=3, patience=0, dropout=None)
    assert {round.hyperparameters.patience for round in plan.rounds} == {None}
    other = make_plan("hydra", datasets, known, seed=5)
    assert other == plan.model_copy(update={"seed": 5})
    with pytest.raises(PlanError, match="unknown setting 'epoch': did you mean 'epochs'"):
        make_plan("hydra", datasets, epoch=3)
    with pytest.raises(PlanError, match="--window is for `--select smoothed`"):
        make_plan("hydra", datasets, PlanSettings(select="smoothed", window=3), select="best")


def test_set_changes_what_it_names_and_nothing_else() -> None:
    before = planned()
    after = planned(
        *("--set", "rounds.all.dropout=0.25"),
        *("--set", "rounds.train-head.epochs=50"),
        *("--set", "rounds.1.learning_rate=1e-4"),
        *("--set", "datasets.brain.split.train=7"),
        *("--set", "body.channels=16, 32"),
        *("--set", "copies=drop"),
        *("--set", "bootstrap=4"),
    )
    for round in before["rounds"]:
        round["hyperparameters"]["dropout"] = 0.25
        if round["train"] == "head":
            round["hyperparameters"]["epochs"] = 50
    before["rounds"][0]["hyperparameters"]["learning_rate"] = 1e-4
    before["datasets"][0]["split"]["train"] = 7.0
    before["body"]["channels"] = [16, 32]
    before |= {"copies": "drop", "bootstrap": 4}
    assert after == before
    name, option = next(
        (name, option)
        for name in ("brain", "prostatex")
        for option in option_fields(load_plugins().get(DatasetAdapter, name).options)
        if len(option.choices) > 1
    )
    text = f"datasets.{name}.options.{option.name}={option.choices[-1]}"
    datasets = {each["name"]: each for each in planned("--set", text)["datasets"]}
    assert datasets[name]["options"][option.name] == option.choices[-1]


def test_set_reaches_heads_as_their_own_options_do() -> None:
    after = planned("--set", "head.options.hidden=8,4", "--set", "heads.brain=linear")
    assert after == planned("--head-option", "hidden=8,4", "--head", "brain=linear")
    assert planned("--set", "head=linear") == planned("--head", "linear")
    assert planned("--set", "head.options.hidden=64,16") == planned()  # the default


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rounds.all.dropout", "not of the form PATH=VALUE"),
        ("rounds.all.dropuot=1", "did you mean 'rounds.all.dropout'?"),
        ("rounds.all.dropout=2", "rounds.all.dropout=2: must be less than 1"),
        ("copies=dorp", "must be 'group', 'drop' or 'report'"),
        ("head=mpl", "unknown head 'mpl': did you mean 'mlp'?"),
        ("datasets.prostatex.options.no-such=1", "unknown option of 'prostatex' 'no-such': "),
        ("head.options.hiden=8", "unknown option of 'mlp' 'hiden': did you mean 'hidden'?"),
        ("head.options.hidden=x", "option mlp.hidden=x: must be a list separated by commas"),
        ("head.hidden=8", "unknown path 'head.hidden': did you mean 'head.options.hidden'?"),
        ("heads.mars=linear", "'mars' of 'heads' is not in 'datasets'"),
    ],
)
def test_a_wrong_change_is_refused_in_one_line(change: str, said: str) -> None:
    result = CliRunner().invoke(main, ["plan", *GIVEN, "--set", change])
    assert result.exit_code in (1, 2)
    assert said in result.stderr.splitlines()[-1]
    assert result.stdout == ""


def test_a_whole_plan_is_not_changed_by_set(tmp_path: Path) -> None:
    for option in ("--plan", "--resume"):
        result = call("run", option, tmp_path / "plan.json", "--set", "seed=1", status=2)
        assert f"{option} gives a complete plan: --set cannot change it" in result.stderr


def test_tune_refuses_to_set_what_it_chooses(tmp_path: Path) -> None:
    given = [*GIVEN, "--out", tmp_path / "plan.json", "--set", "rounds.2.dropout=0.1"]
    assert "leave out --set rounds.2.dropout" in call("tune", *given, status=2).stderr


@pytest.mark.usefixtures("standin")
def test_a_dry_run_prints_what_is_set(data: Path) -> None:
    given = ["--strategy", "hydra", "--datasets", "beta,alpha", "--body-channels", "2,2,2"]
    changes = ["--set", "rounds.all.epochs=2", "--set", "datasets.beta.split.train=8"]
    result = call("run", *given, *changes, "--data", data, "--device", "cpu", "--dry-run")
    assert "set:     rounds.all.epochs = 2\n" in result.stdout
    assert "set:     datasets.beta.split.train = 8\n" in result.stdout


def designed(changes: dict[str, Any], *strategies: str) -> Any:
    return make_design(
        baselines=(),
        strategies=strategies or ("hydra", "classical"),
        datasets=("beta", "alpha"),
        folds=2,
        settings={"epochs": 1, "changes": changes},
    )


def test_every_cell_of_a_comparison_gets_the_changes() -> None:
    changes = {"rounds.all.dropout": 0.25, "rounds.train-head.epochs": 7, "copies": "drop"}
    design = designed(changes)
    for cell in design.cells():
        plan = design.plan(cell, plugins())
        assert plan.copies == "drop"
        assert {round.hyperparameters.dropout for round in plan.rounds} == {0.25}
        for round in plan.rounds:
            assert round.hyperparameters.epochs == (7 if round.train == "head" else 1)
    assert designed({}).digest == designed({}).digest != design.digest
    assert "changes" not in designed({}).settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 3}, "seed: `compare` sets this value itself"),
        ({"datasets.alpha.split.test": 2}, "`compare` sets this value itself"),
        ({"rounds": []}, "rounds: `compare` sets this value itself"),
        ({"rounds.train-norm.epochs": 2}, "no round of this plan trains 'norm'"),
        ({"rounds.8.epochs": 2}, "this plan has rounds 1 to"),
        ({"rounds.all.epoch": 2}, "did you mean 'rounds.all.epochs'?"),
    ],
)
def test_a_comparison_refuses_changes_that_no_cell_can_take(
    changes: dict[str, Any], said: str
) -> None:
    design = designed(changes)
    with pytest.raises(PlanError, match=re.escape(said)):
        [design.plan(cell, plugins()) for cell in design.cells()]


def test_every_order_of_a_search_gets_the_changes() -> None:
    def maker(changes: dict[str, Any]) -> OrderPlanner:
        settings = {"epochs": 1, "changes": changes}
        return OrderPlanner("hydra", "alpha", ("beta", "gamma"), 0, settings, plugins())

    changes = {"rounds.train-head.dropout": 0.25, "datasets.gamma.split.train": 7}
    for order in ((), ("beta",), ("gamma", "beta")):
        plan, plain = (maker(each).plan(order, 1) for each in (changes, {}))
        expected = {k: v for k, v in changes.items() if order or k.startswith("datasets")}
        assert plan == edit_plan(plain, expected)
        assert plan.dataset("gamma").split.train == 7
    assert maker(changes).base != maker({}).base
    with pytest.raises(PlanError, match="seed: `order` sets this value itself"):
        maker({"seed": 3}).plan(("beta",), 1)
    with pytest.raises(PlanError, match="this plan has rounds 1 to"):
        maker({"rounds.80.epochs": 3}).plan((), 1)


@pytest.mark.parametrize(
    ("option", "key", "one", "other"),
    [
        ("--head-option", "hidden", "8,4", "16"),
        ("--head", "brain", "mlp", "linear"),
        ("--root", "brain", "one", "other"),
        ("--split", "brain", "8-1-1", "6-2-2"),
        ("--set", "seed", "1", "2"),
    ],
)
def test_two_values_for_one_key_are_refused(option: str, key: str, one: str, other: str) -> None:
    said = call("plan", *GIVEN, option, f"{key}={one}", option, f"{key}={other}", status=2)
    assert f"{key} is given twice: {one!r} and {other!r}" in said.stderr
