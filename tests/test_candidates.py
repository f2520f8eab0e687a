"""Search over values of a plan: inner folds alone decide, and every candidate is in the table."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from helpers import (
    PoolBackwards,
    StopError,
    install_standin,
    plan_of,
    plugins,
    refused,
    round_of,
    run_plan,
    tree,
)
from lesions import write_lesions

from hydrakit.cli import main
from hydrakit.data.load import CaseSet
from hydrakit.errors import PlanError
from hydrakit.jobs.candidates import (
    combinations_of,
    parse_choices,
    read_results,
    with_inner_fold,
)
from hydrakit.maintenance.verify import verify
from hydrakit.plan import Fold, Plan, Split, load_plan
from hydrakit.plan.edit import edit_plan
from hydrakit.plan.profiles import complete_options
from hydrakit.plugins import load_plugins
from hydrakit.report.page import build_report
from hydrakit.runs import session
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import RunDir
from hydrakit.search.values import ValuesResult, tune_values

VIEW = "datasets.alpha.field_of_view.share"
EPOCHS = "rounds.all.epochs"
SPLIT = Split(train=6, val=2, fold=Fold(index=0, count=4))


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lesions")
    write_lesions(folder / "alpha")
    write_lesions(folder / "beta", seed=1)
    return folder


@pytest.fixture
def installed(
    lesions: Path, places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The stand-ins as installed plugins, which processes find by themselves."""
    site = install_standin(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(__file__).parent)]))
    monkeypatch.setenv("HYDRAKIT_DATA", str(lesions))
    monkeypatch.setenv("HYDRAKIT_CACHE", str(places["cache"]))
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()


def lesion_plan(**changes: Any) -> Plan:
    rounds = round_of("beta", epochs=1), round_of("alpha", epochs=4)
    plan = plan_of(*rounds, seed=1, **changes)
    target = plan.dataset("alpha").model_copy(update={"split": SPLIT})
    return plan.model_copy(update={"datasets": (plan.dataset("beta"), target)})


@pytest.fixture(scope="module")
def places(lesions: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = tmp_path_factory.mktemp("cache")
    return {"data": lesions, "cache": cache, "device": "cpu", "plugins": plugins()}


def tuned(out: Path, places: dict[str, Any], plan: Plan | None = None, **more: Any) -> ValuesResult:
    values: dict[str, Any] = {"choices": {VIEW: (1.0, 0.5)}, "folds": 2} | more
    choices = values.pop("choices")
    return tune_values(plan or lesion_plan(), choices, out, **(places | values))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, places: dict[str, Any]) -> ValuesResult:
    return tuned(tmp_path_factory.mktemp("tuned") / "plan.json", places)


def figures(result: ValuesResult) -> list[dict[str, Any]]:
    """All candidates, without how long they took."""
    return [each.model_dump(exclude={"seconds"}) for each in result.table.tried]


def runs_of(result: ValuesResult) -> list[RunDir]:
    return [RunDir(path) for path in sorted(result.table_path.parent.glob("runs/*"))]


def test_the_better_field_of_view_is_chosen(whole: ValuesResult) -> None:
    first, second = whole.table.tried
    assert first.values == {VIEW: 1.0}
    assert second.score is not None
    assert first.score is not None
    assert second.score > 0.8 > first.score
    assert whole.table.chosen == 1
    assert load_plan(whole.path) == whole.plan
    assert whole.plan == complete_options(edit_plan(lesion_plan(), {VIEW: 0.5}), plugins())
    assert json.loads(whole.table_path.read_bytes())["tried"][1]["values"] == {VIEW: 0.5}


def test_candidates_are_ordinary_runs_of_plans_with_inner_folds(
    whole: ValuesResult, places: dict[str, Any], tmp_path: Path
) -> None:
    plan = with_inner_fold(edit_plan(lesion_plan(), {VIEW: 0.5}), 1, 2)
    run = run_plan(plan, tmp_path / "run", data=places["data"], cache=places["cache"])
    results = run.results()
    assert results is not None
    assert results.test.figures.score == whole.table.tried[1].scores[1]
    assert [each.event for each in run.events()].count("inner fold read") == 1
    assert "test read" not in {each.event for each in run.events()}
    text, _ = build_report(run, plugins=plugins())
    assert "inner fold 2 of 2 of the cases outside the test split" in text
    assert "records no reading of the test labels" in text


def test_the_runs_stay_without_weights_and_share_rounds(whole: ValuesResult) -> None:
    runs = runs_of(whole)
    assert len(runs) == 4
    shared = [each.event for run in runs for each in run.events()].count("round shared")
    assert shared == 3  # the support's round
    for run in runs:
        assert not list(run.path.rglob("*body.safetensors"))
        assert (run.path / "predictions.csv").is_file()
        assert not run.report_path.is_file()
    assert verify(whole.table_path.parent).sound


def test_no_run_reads_a_case_of_the_test_split(
    places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = run_plan(lesion_plan(), tmp_path / "outer", data=places["data"], cache=places["cache"])
    tested = {key for key, split in outer.splits()["alpha"].items() if split == "test"}
    assert tested
    seen: set[str] = set()
    select, load = session.select, session.load

    def spy_on_select(*args: Any, **more: Any) -> CaseSet:
        seen.update(args[1])
        return select(*args, **more)

    def spy_on_load(*args: Any, **more: Any) -> Any:
        if args[1].name == "alpha":
            seen.update(key for key, split in more["splits"].items() if split in ("train", "val"))
        return load(*args, **more)

    monkeypatch.setattr(session, "select", spy_on_select)
    monkeypatch.setattr(session, "load", spy_on_load)
    result = tuned(tmp_path / "plan.json", places)
    assert seen
    assert not seen & tested
    for run in runs_of(result):
        reserved = {key for key, split in run.splits()["alpha"].items() if split == "reserved"}
        assert reserved == tested


def test_other_test_cases_change_no_choice_and_no_score(
    whole: ValuesResult, places: dict[str, Any], tmp_path: Path
) -> None:
    """The images of the test cases show the other class, as if their labels were wrong."""
    (run, *_) = runs_of(whole)
    tested = [int(key[1:]) for key, split in run.splits()["alpha"].items() if split == "reserved"]
    write_lesions(tmp_path / "alpha", mirrored=tested)
    shutil.copytree(places["data"] / "beta", tmp_path / "beta")
    poisoned = tuned(tmp_path / "plan.json", places | {"data": tmp_path})
    assert figures(poisoned) == figures(whole)
    assert poisoned.plan == whole.plan


class Stop(RunCallback):
    """Stops after some finished rounds."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds

    def finished(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise StopError


def test_a_stopped_search_goes_on_with_the_same_result(
    whole: ValuesResult, places: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    for rounds in (1, 2, 3):
        with pytest.raises(StopError):
            tuned(out, places, callbacks=[Stop(rounds)])
        assert not out.exists()
    result = tuned(out, places)
    assert figures(result) == figures(whole)
    assert result.path.read_bytes() == whole.path.read_bytes()
    before = tree(tmp_path)
    assert figures(tuned(out, places, callbacks=[Stop(1)])) == figures(whole)  # trains nothing
    after = tree(tmp_path)
    assert {path for path in before if before[path] != after.get(path)} <= {
        path for path in before if path.endswith(("lock.holder", "candidates.json"))
    }


def test_more_values_train_only_what_is_new(
    whole: ValuesResult, places: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(whole.path.parent, tmp_path / "copy")
    out = tmp_path / "copy" / whole.path.name
    more = tuned(out, places, choices={VIEW: (1.0, 0.5, 0.7)})
    assert figures(more)[:2] == figures(whole)
    assert len(runs_of(more)) == 6
    assert len(read_results(out.with_suffix(".tuning"))) == 6


def test_rounds_that_candidates_have_in_common_are_trained_once(
    places: dict[str, Any], tmp_path: Path
) -> None:
    choices = {"rounds.2.epochs": (1, 2)}
    result = tuned(tmp_path / "plan.json", places, choices=choices)
    events = [[each.event for each in run.events()] for run in runs_of(result)]
    assert sorted(each.count("round shared") for each in events) == [0, 1, 1, 1]


DIVERGING = {"rounds.all.learning_rate": (1e30, 1e-3)}


@pytest.fixture(scope="module")
def diverging(tmp_path_factory: pytest.TempPathFactory, places: dict[str, Any]) -> ValuesResult:
    out = tmp_path_factory.mktemp("diverging") / "plan.json"
    return tuned(out, places, choices=DIVERGING)


def test_a_candidate_that_diverges_is_not_chosen(
    diverging: ValuesResult, places: dict[str, Any], tmp_path: Path
) -> None:
    assert diverging.table.tried[0].score is None
    assert diverging.table.chosen == 1
    again = tuned(diverging.path, places, choices=DIVERGING, callbacks=[Stop(1)])
    assert figures(again) == figures(diverging)
    choices = {"rounds.all.learning_rate": (1e30, 1e29)}
    refused(
        lambda: tuned(tmp_path / "other.json", places, choices=choices),
        "training diverged with every candidate",
    )


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"seed": (1, 2)}, "seed: `tune` sets this value itself: leave out `--try seed`"),
        ({"datasets.alpha.split.fold.index": (0, 1)}, "`tune` sets this value itself"),
        ({"datasets.alpha.split.used": (0.5, 1)}, "tests other cases than"),
        ({"body.patch": (16, 3)}, "body.patch=3: a patch of 3 pixels is too small"),
        ({"rounds.9.epochs": (1, 2)}, "rounds.9.epochs: there is no such round"),
        ({"copies": ("group", "some")}, 'copies="some": '),
        ({"head.name": ("mlp", "no-such-head")}, "no-such-head"),
        ({EPOCHS: range(1, 40), VIEW: [0.01 * each for each in range(1, 40)]}, "1521 combinations"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_training(
    places: dict[str, Any], tmp_path: Path, choices: dict[str, Any], message: str
) -> None:
    out = tmp_path / "plan.json"
    refused(lambda: tuned(out, places, choices=choices, callbacks=[Stop(1)]), message)
    assert not list(tmp_path.glob("*.tuning/*"))


def test_runs_at_the_same_time_give_the_same_choice(
    diverging: ValuesResult,
    installed: None,
    places: dict[str, Any],
    tmp_path: Path,
    pool_backwards: type[PoolBackwards],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "plan.json"
    launched = places | {"plugins": None, "jobs": 2, "threads": torch.get_num_threads()}
    pool_backwards.polls = 3
    with pytest.raises(KeyboardInterrupt):
        tuned(out, launched, choices=DIVERGING)
    assert len(read_results(out.with_suffix(".tuning"))) == 3
    result = tuned(out, launched, choices=DIVERGING)
    assert pool_backwards.most == 4
    assert figures(result) == figures(diverging)
    assert result.table.chosen == diverging.table.chosen
    assert out.read_bytes() == diverging.path.read_bytes()
    assert [run.path.name for run in runs_of(result)] == [
        run.path.name for run in runs_of(diverging)
    ]
    assert not list(out.with_suffix(".tuning").glob("runs/**/*body.safetensors"))

    def fail(*_: Any, **__: Any) -> None:
        raise PlanError("no room left")

    monkeypatch.setattr("hydrakit.engine.run_cell", fail)
    refused(
        lambda: tuned(tmp_path / "other.json", launched, choices=DIVERGING),
        "rounds.all.learning_rate=1e+30, inner fold 1: no room left",
        "other runs that failed: 3",
    )


def test_values_are_json_or_text() -> None:
    texts = ["a.b=[1,2],[3]", 'c=x, {"w":[1,2]},"p,q"', "d=1,0.5,true,null"]
    assert parse_choices(texts, option="--try") == {
        "a.b": ([1, 2], [3]),
        "c": ("x", {"w": [1, 2]}, "p,q"),
        "d": (1, 0.5, True, None),
    }
    assert combinations_of({"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "is not of the form PATH=V1,V2"),
        (["a=1,"], "is not of the form PATH=V1,V2"),
        (["a=1"], "a choice needs two values or more"),
        (["a=1,2,1"], "lists a value twice"),
        (["a=1,2", "a=3,4"], "is given twice"),
    ],
)
def test_a_wrong_choice_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_choices(texts, option="--try")


def test_the_command_prints_and_writes_all_candidates(installed: None, tmp_path: Path) -> None:
    out = tmp_path / "tuned.json"
    given = [
        *("tune", "--strategy", "classical", "--datasets", "alpha", "--out", str(out)),
        *(
            "--profile",
            "paper",
            "--bootstrap",
            "1",
            "--epochs",
            "1",
            "--body-channels",
            "4",
            "--device",
            "cpu",
        ),
        *("--set", "body.patch=16", "--folds", "2"),
    ]
    choices = ["--try", "rounds.all.weight_decay=0,0.1"]
    result = CliRunner().invoke(main, [*given, *choices])
    assert result.exit_code == 0, result.output
    assert "2 candidates on 2 inner folds: 4 runs of 1 round;" in result.stderr
    assert "2 candidates were tried, without the test split" in result.stdout
    assert result.stdout.count("chosen") == 2
    table = json.loads((tmp_path / "tuned.tuning" / "candidates.json").read_bytes())
    assert [each["values"] for each in table["tried"]] == [
        {"rounds.all.weight_decay": 0},
        {"rounds.all.weight_decay": 0.1},
    ]
    chosen = table["tried"][table["chosen"]]
    plan = load_plan(out)
    assert plan.inner is None
    assert (
        plan.rounds[0].hyperparameters.weight_decay == chosen["values"]["rounds.all.weight_decay"]
    )
    for more, message in (
        ((*choices, "--dropouts", "0"), "--try replaces --learning-rates"),
        ((*choices, "--set", "rounds.all.weight_decay=0.3"), "is both set and tried"),
    ):
        result = CliRunner().invoke(main, [*given, *more])
        assert result.exit_code == 2
        assert message in result.stderr
