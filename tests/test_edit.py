"""Changing single values of a plan by their paths."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_plan import plans

from hydrakit.errors import PlanError
from hydrakit.hooks import FieldOfView, Window
from hydrakit.plan import Fold, Hyperparameters, Plan, Round
from hydrakit.plan.edit import edit_plan, leaf_paths
from hydrakit.plan.profiles import make_plan
from hydrakit.rounds import Transforms

PAPER = ["prostatex", "brain", "lung", "prostatex"]


def leaves(plan: Plan) -> dict[str, Any]:
    """Every single value of a plan's JSON, by the path that this module's own reading gives it."""
    found = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for name, below in value.items():
                walk(below, (*path, name))
        elif path == ("datasets",):
            for each in value:
                walk(each, (*path, each["name"]))
        elif path == ("rounds",):
            for number, each in enumerate(value, start=1):
                walk(each, (*path, str(number)))
        else:
            found[".".join(path)] = value

    walk(json.loads(plan.to_json()), ())
    return found


@settings(max_examples=40, deadline=None)
@given(plans(), st.data())
def test_setting_a_value_to_itself_changes_nothing(plan: Plan, data: st.DataObject) -> None:
    found = leaves(plan)
    path = data.draw(st.sampled_from(sorted(found)))
    for spelling in {path, path.replace(".hyperparameters.", ".")}:
        edited = edit_plan(plan, {spelling: found[path]})
        assert edited == plan
        assert edited.to_json() == plan.to_json()
    assert edit_plan(plan, found) == plan


def replaced(plan: Plan, path: str, value: Any) -> Plan:
    """The plan whose JSON has another value at a path, without `edit_plan`."""
    content = json.loads(plan.to_json())
    names = [dataset.name for dataset in plan.datasets]
    first, *way = path.split(".")
    parent, key = content, first
    for part in way:
        parent = parent[key]
        if isinstance(parent, list):
            key = names.index(part) if first == "datasets" else int(part) - 1
        else:
            key = part
    parent[key] = value
    return Plan.model_validate(content)


@settings(max_examples=60, deadline=None)
@given(plans(), plans(), st.data())
def test_a_value_that_is_set_is_read_back_and_the_others_stay(
    plan: Plan, other: Plan, data: st.DataObject
) -> None:
    before, values = leaves(plan), leaves(other)
    path = data.draw(st.sampled_from(sorted(before)))
    value = values.get(path, before[path])
    try:
        expected = replaced(plan, path, value)
    except ValidationError:  # the plan as a whole forbids it, such as a target without rounds
        with pytest.raises(PlanError) as caught:
            edit_plan(plan, {path: value})
        assert path in str(caught.value)
        assert "\n" not in str(caught.value)
    else:
        edited = edit_plan(plan, {path: value})
        assert edited == expected
        assert edited.digest() == expected.digest()


@settings(max_examples=20, deadline=None)
@given(plans(), st.sampled_from([0.125, 0.5]))
def test_all_rounds_are_set_at_once(plan: Plan, dropout: float) -> None:
    edited = edit_plan(plan, {"rounds.all.dropout": dropout})
    one_by_one = {f"rounds.{number + 1}.dropout": dropout for number in range(len(plan.rounds))}
    assert edited == edit_plan(plan, one_by_one)
    assert {round.hyperparameters.dropout for round in edited.rounds} == {dropout}


def dropouts(changes: dict[str, Any]) -> list[float]:
    plan = make_plan("hydra", PAPER, profile="recommended-0.1", dropout=0.0)
    return [round.hyperparameters.dropout for round in edit_plan(plan, changes).rounds]


def test_a_number_goes_before_a_kind_and_a_kind_before_all_in_any_order() -> None:
    changes = {
        "rounds.2.dropout": 0.3,
        "rounds.train-head.dropout": 0.2,
        "rounds.all.dropout": 0.1,
    }
    expected = [0.1, 0.3, 0.1, 0.2, 0.1, 0.2, 0.1]
    assert dropouts(changes) == expected
    assert dropouts(dict(reversed(changes.items()))) == expected


def test_a_value_that_the_plan_does_not_list_yet_may_be_set_by_its_parts() -> None:
    plan = make_plan("hydra", PAPER, profile="recommended-0.1")
    where = "datasets.brain"
    half = edit_plan(plan, {f"{where}.field_of_view.share": 0.5})
    assert half.dataset("brain").field_of_view == FieldOfView(share=0.5)
    assert half.dataset("lung").field_of_view is None
    wide = edit_plan(half, {f"{where}.field_of_view.millimetres": 50})
    assert wide.dataset("brain").field_of_view == FieldOfView(millimetres=50)
    assert edit_plan(wide, {f"{where}.field_of_view": None}) == plan
    assert edit_plan(half, {f"{where}.normalise": "image"}).dataset("brain").normalise == "image"
    window = edit_plan(plan, {f"{where}.normalise.window": "-9,9"})
    assert window.dataset("brain").normalise == Window(window=(-9, 9))
    assert edit_plan(window, {f"{where}.normalise": None}) == plan
    for flips, expected in (
        ("horizontal", ("horizontal",)),
        ("vertical,horizontal", ("vertical", "horizontal")),
        ("", ()),
        ([], ()),
        (None, None),
    ):
        assert edit_plan(plan, {f"{where}.flips": flips}).dataset("brain").flips == expected
    fold = {"index": 1, "count": 5}
    changes = {f"datasets.prostatex.split.fold.{key}": value for key, value in fold.items()}
    edited = edit_plan(plan, {**changes, "datasets.prostatex.split.test": 0})
    assert edited.dataset("prostatex").split.fold == Fold(index=1, count=5)


def test_transforms_patch_views_and_seeds_have_paths() -> None:
    changes = {
        "rounds.all.transforms.rotation": 45,
        "rounds.all.transforms.shift": "4,4",
        "rounds.1.transforms.flips": "",
        "body.patch": 64,
        "test_views": 8,
        "ensemble": 3,
    }
    plan = edit_plan(make_plan("hydra", PAPER, profile="recommended-0.1"), changes)
    table = Transforms(rotation=45, shift=(4, 4))
    assert [round.hyperparameters.transforms for round in plan.rounds[1:]] == [table] * 6
    assert plan.rounds[0].hyperparameters.transforms == table.model_copy(update={"flips": ()})
    assert (plan.patch, plan.test_views, plan.ensemble) == (64, 8, 3)


def test_values_may_be_objects_lists_or_text() -> None:
    plan = make_plan("hydra", PAPER, profile="recommended-0.1")
    fold = {"datasets.prostatex.split.test": 0, "datasets.prostatex.split.fold": '{"no": 1}'}
    for value in ({"index": 1, "count": 5}, Fold(index=1, count=5)):
        edited = edit_plan(plan, fold | {"datasets.prostatex.split.fold": value})
        assert edited.dataset("prostatex").split.fold == Fold(index=1, count=5)
    for channels in ("8,16", "8, 16", [8, 16], (8, 16)):
        assert edit_plan(plan, {"body.channels": channels}).body.channels == (8, 16)
    assert edit_plan(plan, {"body.channels": 8}).body.channels == (8,)
    used = edit_plan(plan, {"datasets.brain.split.used": 0.5})
    assert used.dataset("brain").split.used == 0.5
    none = edit_plan(plan, {"rounds.all.patience": None})
    assert {round.hyperparameters.patience for round in none.rounds} == {None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dropout": 0.1}, "unknown path 'dropout': did you mean 'rounds.all.dropout'?"),
        ({"dropuot": 0.1}, "unknown path 'dropuot': did you mean 'rounds.all.dropout'?"),
        (
            {"rounds.head.epochs": 1},
            "unknown path 'rounds.head.epochs': did you mean 'rounds.train-head.epochs'?",
        ),
        (
            {"rounds.3.hyperparameters.dropuot": 1},
            "unknown path 'rounds.3.hyperparameters.dropuot': did you mean 'rounds.3.dropout'?",
        ),
        (
            {"datasets.brian.split.train": 1},
            "unknown path 'datasets.brian.split.train': did you mean 'datasets.brain.split.train'?",
        ),
        ({"rounds.all": 1}, "unknown path 'rounds.all': add one of its keys: dataset, train, "),
        ({"body.channels.1": 1}, "unknown path 'body.channels.1': body.channels has no keys"),
        ({"xyz": 1}, "unknown path 'xyz': the keys of a plan are format, strategy, "),
        ({"": 1}, "unknown path '': the keys of a plan are format, strategy, "),
        ({"rounds.first.epochs": 1}, "unknown path 'rounds.first.epochs': the keys of rounds are"),
        ({"rounds.0.epochs": 1}, "rounds.0.epochs: there is no such round: this plan has rounds 1"),
        ({"rounds.8.epochs": 1}, "rounds.8.epochs: there is no such round: this plan has rounds 1"),
        (
            {"rounds.train-norm.epochs": 1},
            "rounds.train-norm.epochs: no round of this plan trains 'norm': its rounds train all, ",
        ),
        ({"rounds.2.epochs": "1_0"}, "rounds.2.epochs=1_0: must be a number, written as 10"),
        ({"rounds.2.dropout": "0.1_0"}, "rounds.2.dropout=0.1_0: must be a number, written as 0.1"),
        ({"body.channels": "32,6_4"}, "body.channels=6_4: must be a number, written as 64"),
        ({"rounds.2.dropout": float("nan")}, "rounds.2.dropout=NaN: must be a finite number"),
        ({"rounds.2.epochs": "x"}, 'rounds.2.epochs="x": must be a whole number'),
        ({"rounds.2.dropout": 2}, "rounds.2.dropout=2: must be less than 1"),
        ({"rounds.2.train": "heads"}, "rounds.2.train=\"heads\": must be 'head', 'all', "),
        ({"format": 2}, "format=2: must be 1"),
        (
            {"datasets.prostatex.split.fold": {"index": 0, "count": 2}},
            'datasets.prostatex.split.fold={"index": 0, "count": 2}: a split has a test share or',
        ),
        (
            {"datasets.brain.field_of_view": 0.5},
            "datasets.brain.field_of_view=0.5: must be a table of keys and values: set one of "
            "datasets.brain.field_of_view.millimetres, datasets.brain.field_of_view.share",
        ),
        (
            {"datasets.brain.field_of_view.shar": 1},
            "unknown path 'datasets.brain.field_of_view.shar': did you mean "
            "'datasets.brain.field_of_view.share'?",
        ),
        (
            {"datasets.brain.field_of_view.share": "all"},
            'datasets.brain.field_of_view.share="all": must be a number',
        ),
        (
            {
                "datasets.brain.field_of_view.share": 0.5,
                "datasets.brain.field_of_view.millimetres": 5,
            },
            "datasets.brain.field_of_view.share=0.5: a field of view is one positive size: in ",
        ),
        (
            {"datasets.brain.field_of_view.share": 1.5},
            "datasets.brain.field_of_view.share=1.5: the share of a field of view is at most 1",
        ),
        (
            {"datasets.brain.flips": "left"},
            "datasets.brain.flips=\"left\": must be 'horizontal' or 'vertical'",
        ),
        (
            {"datasets.brain.normalise": "slice"},
            "datasets.brain.normalise=\"slice\": must be 'patient', 'image', ",
        ),
        (
            {"datasets.brain.normalise.window": 3},
            "datasets.brain.normalise.window=3: must be 2 values, separated by commas",
        ),
        (
            {"datasets.brain.normalise": {"window": [1, 0]}},
            'datasets.brain.normalise={"window": [1, 0]}: a window is two finite numbers',
        ),
        (
            {"datasets.brain.normalise": {"low": 1, "high": 2}},
            'datasets.brain.normalise={"low": 1, "high": 2}: ',
        ),
        (
            {"rounds.all.transforms.rotation": 450},
            "rounds.all.transforms.rotation=450: must be at most 180",
        ),
        (
            {"rounds.all.transforms.shift": 4},
            "rounds.all.transforms.shift=4: must be 2 values, separated by commas",
        ),
        (
            {"rounds.all.rotation": 45},
            "unknown path 'rounds.all.rotation': did you mean 'rounds.all.transforms.rotation'?",
        ),
        ({"test_views": 0}, "test_views=0: must be greater than 0"),
        ({"ensemble": "many"}, 'ensemble="many": must be a whole number'),
        ({"target": "mars"}, "'mars' is not in 'datasets' (with target changed)"),
        (
            {"rounds.2.dropout": 0.1, "rounds.2.hyperparameters.dropout": 0.2},
            "rounds.2.dropout and rounds.2.hyperparameters.dropout are the same value: set it once",
        ),
        (
            {"body": {"channels": [8]}, "body.norm": "group"},
            "body.norm is a part of body, which is set too: set one of them",
        ),
    ],
)
def test_what_cannot_be_set_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        edit_plan(make_plan("hydra", PAPER, profile="recommended-0.1"), changes)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_short_path_is_never_ambiguous() -> None:
    assert not Round.model_fields.keys() & Hyperparameters.model_fields.keys()
    paths = leaf_paths(make_plan("hydra", PAPER, profile="recommended-0.1"))
    assert len(paths) == len(set(paths))
    assert "rounds.all.dropout" in paths
