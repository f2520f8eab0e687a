from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from hydrakit.errors import PlanError
from hydrakit.hooks import FieldOfView, Window
from hydrakit.plan import (
    BodySpec,
    Component,
    Dataset,
    Fold,
    Hyperparameters,
    LeftOut,
    Other,
    Plan,
    Round,
    Split,
    load_plan,
)
from hydrakit.plan.model import OtherBody
from hydrakit.plan.start import NetworkWeights, StartWeights
from hydrakit.rounds import Transforms

# Any plan. `test_the_drawn_plans_use_every_field_and_every_choice` says which value is not drawn.

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,10}", fullmatch=True)
positive = st.floats(min_value=1e-12, max_value=1e3)
seeds = st.integers(0, 2**63 - 1)
option_values = st.text(max_size=8) | st.integers(-99, 99) | st.floats(-9, 9) | st.booleans()
component_values = option_values | st.none() | st.lists(option_values, max_size=2).map(tuple)
components = st.builds(
    Component, name=names, options=st.dictionaries(names, component_values, max_size=2)
)
axes = st.lists(st.sampled_from(["horizontal", "vertical"]), unique=True).map(tuple)


def warmed_up(schedule: str, warmup: float, **values: Any) -> Hyperparameters:
    """Hyperparameters with a warm-up where the schedule has one."""
    warmup = warmup if schedule == "cosine" else 0.0
    return Hyperparameters(schedule=schedule, warmup=warmup, **values)


hyperparameters = st.builds(
    warmed_up,
    learning_rate=positive,
    dropout=st.floats(0, 0.99).map(abs),
    batch_size=st.integers(1, 512),
    epochs=st.integers(1, 5000),
    epoch_size=st.none() | st.integers(1, 2**31),
    fill_epochs=st.booleans(),
    patience=st.none() | st.integers(1, 100),
    weight_decay=st.floats(0, 1).map(abs),
    augmentation=st.sampled_from(["fresh", "fixed", "none"]),
    views=st.integers(1, 99),
    loss=st.sampled_from(["cross-entropy", "softmax-cross-entropy"]),
    schedule=st.sampled_from(["constant", "cosine", "authors"]),
    warmup=st.floats(0, 0.9).map(abs),
    label_smoothing=st.floats(0, 0.9).map(abs),
    refresh_statistics=st.booleans(),
    solver=st.sampled_from(["steps", "exact"]),
    penalty=st.none() | positive,
    transforms=st.builds(
        Transforms,
        rotation=st.floats(0, 180).map(abs),
        flips=axes,
        shift=st.tuples(st.integers(0, 64), st.integers(0, 64)),
        scale=st.floats(0, 1).map(abs),
        intensity=st.floats(0, 1).map(abs),
        noise=st.floats(0, 10).map(abs),
    ),
    select=st.sampled_from(["best", "smoothed", "averaged", "last", "authors"]),
    window=st.integers(1, 50),
    carry_head=st.sampled_from(["best", "last"]),
    feature_dropout=st.booleans(),
)


normalisations = st.sampled_from([None, "patient", "image", "dataset", "none"]) | st.builds(
    Window, window=st.tuples(st.floats(-9, 0), st.floats(1, 9))
)
views = st.builds(FieldOfView, share=st.floats(0.1, 1)) | st.builds(
    FieldOfView, millimetres=positive
)
start_weights = st.builds(
    StartWeights,
    file=st.text(st.characters(codec="ascii"), max_size=9),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    channels=st.none() | st.integers(1, 9),
)


left_outs = st.builds(LeftOut, subgroup=names, value=names)


@st.composite
def folds(draw: st.DrawFn) -> Fold:
    count = draw(st.integers(2, 20))
    return Fold(index=draw(st.integers(0, count - 1)), count=count)


@st.composite
def splits(draw: st.DrawFn, *, tests: bool) -> Split:
    """A split with a test share or a fold, or a final one, where it must; else perhaps without."""
    if tests and draw(st.booleans()):
        return Split(train=draw(positive), val=draw(positive), final=True)
    fold = draw(st.none() | folds())
    left_out = draw(st.none() | left_outs) if tests and fold is None else None
    one = fold is None and left_out is None
    test = draw(positive if tests else st.just(0.0) | positive) if one else 0.0
    used = draw(st.just(1.0) | st.floats(0.01, 1))
    inner = draw(st.none() | folds()) if test or not one else None
    return Split(
        train=draw(positive),
        val=draw(positive),
        test=test,
        fold=fold,
        left_out=left_out,
        used=used,
        inner=inner,
    )


@st.composite
def rounds(draw: st.DrawFn, dataset: str, listed: list[str]) -> Round:
    """A round on a dataset; one that trains all may train on others of those listed too."""
    train = draw(st.sampled_from(["head", "all", "norm", "none"]))
    rest = [name for name in listed if name != dataset] if train == "all" else []
    others = draw(st.permutations(rest))[: draw(st.integers(0, len(rest)))]
    settings = draw(hyperparameters)
    if train != "head":
        settings = settings.model_copy(update={"solver": "steps"})
    heads = draw(st.lists(names, min_size=len(others) + 1, max_size=len(others) + 1, unique=True))
    return Round(
        dataset=dataset,
        train=train,
        head=heads[0],
        hyperparameters=settings,
        others=tuple(
            Other(dataset=name, head=head) for name, head in zip(others, heads[1:], strict=True)
        ),
        mix=draw(st.sampled_from(["batch", "epoch"])),
    )


@st.composite
def bodies(draw: st.DrawFn) -> BodySpec | OtherBody:
    if draw(st.integers(0, 3)) == 0:
        options = draw(st.dictionaries(names, component_values, max_size=2))
        patch = draw(st.integers(1, 99))
        return OtherBody(name=draw(names.map("x".__add__)), options={**options, "patch": patch})
    channels = draw(st.lists(st.integers(1, 64), min_size=1, max_size=3))
    smallest = 5 * 2 ** len(channels) - 4
    return BodySpec(
        channels=tuple(channels),
        features=draw(st.integers(1, 512)),
        patch=draw(st.integers(smallest, smallest + 60)),
        norm=draw(st.sampled_from(["batch", "group", "dataset"])),
        datasets=tuple(draw(st.lists(names, max_size=3))),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    listed = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    options = st.dictionaries(names, option_values, max_size=3)
    trained = draw(st.lists(st.sampled_from(listed), min_size=1, max_size=6))
    target = draw(st.sampled_from(trained))
    made = tuple(draw(rounds(name, listed)) for name in trained)
    heads = draw(st.dictionaries(st.sampled_from(listed), components, max_size=2))
    served = {pair for each in made for pair in zip(each.heads, each.datasets, strict=True)}
    if len({head for head, _ in served}) < len(served):  # a head serves two datasets
        heads = {}
    given = draw(st.none() | start_weights)
    begun = st.dictionaries(st.sampled_from([head for head, _ in served]), start_weights)
    members = st.builds(NetworkWeights, body=start_weights, heads=begun)
    return Plan(
        strategy=draw(names),
        profile=draw(names),
        target=target,
        datasets=tuple(
            Dataset(
                name=name,
                options=draw(options),
                split=draw(splits(tests=name == target)),
                normalise=draw(normalisations),
                field_of_view=draw(st.none() | views),
                flips=draw(st.none() | axes),
                channels=draw(st.sampled_from([None, "grey", "repeat", "stem"])),
            )
            for name in listed
        ),
        copies=draw(st.sampled_from(["group", "drop", "report"])),
        conflicts=draw(st.sampled_from(["error", "keep", "drop"])),
        strangers=draw(st.booleans()),
        head=draw(components),
        heads=heads,
        body=draw(bodies()),
        body_weights=given,
        head_weights=draw(begun) if given else {},
        member_weights=tuple(draw(st.lists(members, max_size=2))) if given else (),
        ensemble=draw(st.integers(1, 9)),
        test_views=draw(st.integers(1, 9)),
        bootstrap=draw(st.integers(1, 300)),
        bootstrap_rule=draw(st.sampled_from(["all", "halving"])),
        seed=draw(seeds),
        split_seed=draw(st.none() | seeds),
        rounds=made,
    )


def models_in(value: object) -> Iterator[BaseModel]:
    """A value and all below it that are models."""
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from models_in(getattr(value, name))
    elif isinstance(value, tuple):
        for each in value:
            yield from models_in(each)


def models_of(annotation: object) -> set[type[BaseModel]]:
    """The models that a type is made of, and those of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.values()
        return {annotation}.union(*(models_of(field.annotation) for field in fields))
    return set().union(*map(models_of, get_args(annotation)))


def choices(annotation: object) -> set[str]:
    """The values that a field of this type lists: of a literal, of a truth value, and None."""
    if get_origin(annotation) is Literal:
        return {repr(value) for value in get_args(annotation)}
    if annotation is bool:
        return {"True", "False"}
    if annotation is type(None):
        return {"None"}
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return set().union(*map(choices, get_args(annotation)))
    return set()


def test_the_drawn_plans_use_every_field_and_every_choice() -> None:
    drawn: defaultdict[tuple[type[BaseModel], str], set[str]] = defaultdict(set)

    @settings(max_examples=120, deadline=None, derandomize=True, database=None)
    @given(plans())
    def draw(plan: Plan) -> None:
        for model in models_in(plan):
            for name in type(model).model_fields:
                drawn[type(model), name].add(repr(getattr(model, name)))

    draw()
    models = models_of(Plan)
    assert models >= {Plan, Dataset, Split, Fold, LeftOut, Round, Other, Hyperparameters, BodySpec}
    missing = []
    for model in models:
        for name, field in model.model_fields.items():
            values, listed = drawn[model, name], choices(field.annotation)
            missing += [f"{model.__name__}.{name} is never {value}" for value in listed - values]
            if len(values) < 2 and len(listed) != 1:
                missing.append(f"{model.__name__}.{name} is always {values}")
    assert missing == []


@settings(max_examples=60, deadline=None)
@given(plans())
def test_a_plan_survives_being_written_and_read(plan: Plan) -> None:
    again = Plan.model_validate_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert again.digest() == plan.digest()
    other = again.model_copy(update={"seed": again.seed ^ 1})
    assert other.digest() != plan.digest()


def small() -> dict[str, Any]:
    """A small plan as its file has it."""
    return {
        "format": 1,
        "strategy": "custom",
        "profile": "recommended",
        "target": "prostatex",
        "datasets": [
            {
                "name": "prostatex",
                "options": {"series": "bval", "slices": 3},
                "split": {"train": 8, "val": 1, "test": 1},
            },
            {"name": "brain", "split": {"train": 9, "val": 1}},
        ],
        "head": "mlp",
        "rounds": [
            {"dataset": name, "train": "all", "head": name, "hyperparameters": values}
            for name, values in (
                (name, {"learning_rate": 1e-3, "dropout": 0.3, "batch_size": 8, "epochs": 2})
                for name in ("brain", "prostatex")
            )
        ],
    }


def whole() -> dict[str, Any]:
    plan = small()
    for round in plan["rounds"]:
        round["hyperparameters"]["patience"] = None
    return plan


def write(folder: Path, value: object) -> Path:
    path = folder / "plan.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_a_file_gives_its_plan_with_the_defaults(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path, whole()))
    assert plan.target_head == "prostatex"
    assert plan.dataset("brain").split == Split(train=9, val=1, test=0)
    assert plan.dataset("prostatex").options == {"series": "bval", "slices": 3}
    assert plan.body == BodySpec(channels=(32, 64, 128), features=256, patch=65)
    assert (plan.bootstrap, plan.seed) == (1, 0)
    assert plan.rounds[0].hyperparameters.augmentation == "fresh"
    assert load_plan(write(tmp_path, plan.to_json())) == plan
    with pytest.raises(KeyError):
        plan.dataset("lung")


def test_the_order_of_keys_decides_nothing(tmp_path: Path) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(part) for part in value] if isinstance(value, list) else value

    plan = load_plan(write(tmp_path, whole()))
    other = load_plan(write(tmp_path, turned(whole())))
    assert other == plan
    assert other.digest() == plan.digest()


def _set(*keys: str | int) -> Callable[[dict[str, Any], Any], None]:
    def change(plan: dict[str, Any], value: Any) -> None:
        for key in keys[:-1]:
            plan = plan[key]  # type: ignore[index]
        plan[keys[-1]] = value  # type: ignore[index]

    return change


def _drop(*keys: str | int) -> Callable[[dict[str, Any], Any], None]:
    def change(plan: dict[str, Any], value: Any) -> None:
        for key in keys[:-1]:
            plan = plan[key]  # type: ignore[index]
        del plan[keys[-1]]  # type: ignore[arg-type]

    return change


FIRST = ("rounds", 0, "hyperparameters")


@pytest.mark.parametrize(
    ("change", "value", "said"),
    [
        (
            _set("epoch"),
            3,
            "unknown key 'epoch': remove it, or see `hydrakit plan` for the known keys",
        ),
        (
            _set(*FIRST, "lr"),
            1e-3,
            "unknown key 'rounds.0.hyperparameters.lr': remove it, or see `hydrakit plan` for the "
            "known keys",
        ),
        (_drop("target"), None, "key 'target' is missing"),
        (_drop("rounds", 1, "head"), None, "key 'rounds.1.head' is missing"),
        (
            _set(*FIRST, "learning_rate"),
            0,
            "rounds.0.hyperparameters.learning_rate: must be greater than 0 (is 0)",
        ),
        (
            _set(*FIRST, "learning_rate"),
            float("nan"),
            "rounds.0.hyperparameters.learning_rate: must be a finite number (is nan)",
        ),
        (
            _set(*FIRST, "dropout"),
            1.0,
            "rounds.0.hyperparameters.dropout: must be less than 1 (is 1.0)",
        ),
        (
            _set(*FIRST, "epochs"),
            0,
            "rounds.0.hyperparameters.epochs: must be greater than 0 (is 0)",
        ),
        (
            _set(*FIRST, "patience"),
            -1,
            "rounds.0.hyperparameters.patience: must be greater than 0 (is -1)",
        ),
        (
            _set(*FIRST, "batch_size"),
            1.5,
            "rounds.0.hyperparameters.batch_size: must be a whole number (is 1.5)",
        ),
        (
            _set("rounds", 1, "train"),
            "body",
            "rounds.1.train: must be 'head', 'all', 'norm' or 'none' (is 'body')",
        ),
        (_set("seed"), -1, "seed: must be at least 0 (is -1)"),
        (_set("format"), 0, "format: must be 1 (is 0)"),
        (_set("format"), 2, "was written by a later hydrakit in format 2, and this is hydrakit"),
        (
            _set("head"),
            "My Head",
            "head.name: must be a name: lower-case letters, digits, '-' and '_', at most 64 "
            "(is 'My Head')",
        ),
        (
            _set("datasets", 1, "split"),
            {"train": 9, "val": 0},
            "datasets.1.split.val: must be greater than 0 (is 0)",
        ),
        (_set("rounds"), [], "'rounds' is empty"),
        (_set("rounds", 0, "dataset"), "lung", "'lung' is not in 'datasets'"),
        (_set("target"), "lung", "'lung' is not in 'datasets'"),
        (_set("datasets", 1, "name"), "prostatex", "a dataset is listed twice in 'datasets'"),
        (
            _set("target"),
            "brain",
            "the target 'brain' has no test share in its split",
        ),
        (
            _set("rounds", 1, "dataset"),
            "brain",
            "no round trains on the target 'prostatex'",
        ),
        (_set("body"), {"channels": []}, "body: a body needs at least one block"),
        (
            _set("body"),
            {"patch": 20},
            "body: a patch of 20 pixels is too small for 3 blocks (is {'patch': 20})",
        ),
    ],
)
def test_the_first_fault_is_told_on_one_line(
    change: Callable[[dict[str, Any], Any], None], value: Any, said: str, tmp_path: Path
) -> None:
    plan = whole()
    change(plan, value)
    path = write(tmp_path, plan)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.removeprefix(f"{path}: ").startswith(said)
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1,}', "not json"])
def test_what_is_no_plan_is_told_on_one_line(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_told_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'{"head": "\xe9"}')
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "latin"):
        with pytest.raises(PlanError) as caught:
            load_plan(path)
        assert str(caught.value).startswith(f"{path}: cannot be read as a plan: ")
        assert "\n" not in str(caught.value)


def test_a_plan_cannot_be_changed() -> None:
    plan = Plan.model_validate(whole())
    parts: list[tuple[BaseModel, str, Any]] = [
        (plan, "seed", 3),
        (plan.rounds[0], "train", "head"),
        (plan.rounds[0].hyperparameters, "epochs", 3),
        (plan.datasets[0], "name", "lung"),
        (plan.datasets[0].split, "test", 0.0),
        (plan.body, "patch", 33),
    ]
    for part, name, value in parts:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, value)
    assert plan == Plan.model_validate(whole())


def test_the_head_of_the_target_is_the_last_one_it_trains() -> None:
    plan = whole()
    again = {**plan["rounds"][1], "head": "second"}
    plan["rounds"] = [plan["rounds"][1], again, plan["rounds"][0]]
    assert Plan.model_validate(plan).target_head == "second"


@pytest.mark.parametrize(
    ("patch", "blocks", "side"), [(65, 3, 4), (65, 1, 30), (65, 2, 13), (36, 3, 1), (6, 1, 1)]
)
def test_each_block_takes_four_pixels_off_and_halves(patch: int, blocks: int, side: int) -> None:
    body = BodySpec(patch=patch, channels=(8,) * blocks)
    assert body.flat_side() == side
    with pytest.raises(ValidationError, match="too small"):
        BodySpec(patch=(1 << blocks) + 4 * ((1 << blocks) - 1) - 1, channels=(8,) * blocks)
