from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import adapter

import hydrakit_strategies
from hydrakit.cli import main
from hydrakit.compare.design import make_design
from hydrakit.errors import HydrakitError, PlanError, PluginError
from hydrakit.hooks import DatasetAdapter
from hydrakit.models import bodies, heads
from hydrakit.plan import BodySpec, Hyperparameters, Plan, Split
from hydrakit.plan.profiles import PROFILES, RECOMMENDED_0_1, Profile, make_plan
from hydrakit.plugins import load_plugins
from hydrakit.plugins.options import option_fields
from hydrakit.plugins.registry import Plugins

ROOT = Path(__file__).parent.parent
PAPER = ["prostatex", "brain", "lung", "prostatex"]


def values(plan: Plan, name: str) -> list[Any]:
    return [getattr(round.hyperparameters, name) for round in plan.rounds]


def order(plan: Plan) -> list[str]:
    return [f"{round.dataset} {round.train}" for round in plan.rounds]


@pytest.mark.parametrize("profile", ["paper", "authors"])
def test_table_i(profile: str) -> None:
    plan = make_plan("hydra", PAPER, profile=profile)
    assert order(plan) == [
        "prostatex all",
        "brain head",
        "brain all",
        "lung head",
        "lung all",
        "prostatex head",
        "prostatex all",
    ]
    assert values(plan, "learning_rate") == [1e-8, 1e-7, 1e-8, 1e-5, 1e-8, 1e-5, 1e-9]
    assert values(plan, "dropout") == [0.4, 0.3, 0.3, 0.3, 0.3, 0.3, 0.0]
    assert set(values(plan, "batch_size")) == {128}
    assert set(values(plan, "epochs")) == {2000}
    assert set(values(plan, "patience")) == {None}
    assert set(values(plan, "weight_decay")) == {0.0}
    assert plan.bootstrap == 200
    assert (plan.profile, plan.strategy, plan.target) == (profile, "hydra", "prostatex")


def test_the_papers_other_strategies() -> None:
    transfer = make_plan("transfer", PAPER, profile="paper")
    assert values(transfer, "learning_rate") == [1e-8, 1e-8, 1e-8, 1e-8]
    assert values(transfer, "dropout") == [0.4, 0.3, 0.3, 0.0]
    classical = make_plan("classical", PAPER, profile="paper")
    assert values(classical, "learning_rate") == [1e-8]
    assert values(classical, "dropout") == [0.4]
    assert [dataset.name for dataset in classical.datasets] == ["prostatex"]


@pytest.mark.parametrize("profile", ["paper", "authors"])
@pytest.mark.parametrize("datasets", [PAPER, ["brain", "lung"], ["lung"]], ids=len)
def test_transfer_long_is_transfer_with_more_epochs(profile: str, datasets: list[str]) -> None:
    transfer = make_plan("transfer", datasets, profile=profile)
    longer = make_plan("transfer-long", datasets, profile=profile)
    for one, other in zip(transfer.rounds, longer.rounds, strict=True):
        epochs = {"epochs": one.hyperparameters.epochs}
        assert other.hyperparameters.epochs >= one.hyperparameters.epochs
        assert other.hyperparameters.model_copy(update=epochs) == one.hyperparameters
        assert (other.dataset, other.train, other.head) == (one.dataset, one.train, one.head)


def committed() -> dict[str, list[str]]:
    """The commands of the pages of the examples that write a committed file, by the file."""
    pages = sorted((ROOT / "examples").glob("*/README.md"))
    lines = [line for page in pages for line in page.read_text("utf-8").splitlines()]
    calls = [re.fullmatch(r"hydrakit (.+) > (examples/\S+)", line) for line in lines]
    return {call[2]: shlex.split(call[1]) for call in calls if call}


def test_every_plan_of_the_examples_has_a_command() -> None:
    plans = {path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").rglob("*.json")}
    assert committed().keys() == plans


@pytest.mark.parametrize("path", committed())
def test_the_command_of_an_example_gives_the_committed_file(path: str) -> None:
    result = CliRunner().invoke(main, committed()[path])
    assert result.exit_code == 0
    assert result.stdout == (ROOT / path).read_text("utf-8")


def test_the_paper_profile_has_none_of_the_authors_habits() -> None:
    plan = make_plan("hydra", PAPER, profile="paper")
    assert set(values(plan, "loss")) == {"cross-entropy"}
    assert set(values(plan, "schedule")) == {"constant"}
    assert set(values(plan, "select")) == {"best"}
    assert set(values(plan, "carry_head")) == {"best"}
    assert set(values(plan, "feature_dropout")) == {False}
    assert set(values(plan, "augmentation")) == {"fixed"}


def test_the_authors_profile_has_all_of_them() -> None:
    plan = make_plan("hydra", PAPER, profile="authors")
    assert set(values(plan, "loss")) == {"softmax-cross-entropy"}
    assert set(values(plan, "select")) == {"authors"}
    # Their first head round had no schedule, and the first round's last head was carried on.
    assert values(plan, "schedule") == ["authors", "constant", *["authors"] * 5]
    assert values(plan, "carry_head") == ["last", *["best"] * 6]
    assert values(plan, "feature_dropout") == [round.train == "head" for round in plan.rounds]


def test_a_plan_without_more_words_is_the_recommended_one() -> None:
    plan, profile = make_plan("hydra", ["brain", "prostatex"]), PROFILES["recommended"]
    assert plan.profile == "recommended"
    assert order(plan) == ["brain all", "prostatex head", "prostatex all", "brain head"]
    assert plan.bootstrap == profile.bootstrap
    assert (plan.head.name, plan.seed, plan.body.name) == (profile.head_kind, 0, profile.body)
    assert (plan.ensemble, plan.test_views) == (profile.ensemble, profile.test_views)
    assert plan.dataset("prostatex").split == Split(train=8, val=1, test=1)
    assert plan.dataset("brain").split == Split(train=9, val=1, test=0)
    for dataset in plan.datasets:
        adapter = load_plugins().get(DatasetAdapter, dataset.name)
        assert dataset.options == {
            option.name: option.default for option in option_fields(adapter.options)
        }
    assert make_plan("hydra", ["brain", "prostatex"]) == plan
    assert Plan.model_validate_json(plan.to_json()) == plan


def test_heads_are_fitted_to_the_final_body_where_their_own_has_changed() -> None:
    plan = make_plan("hydra", PAPER)
    supports = [name for name in dict.fromkeys(PAPER) if name != PAPER[-1]]
    assert order(plan)[-2:] == [f"{name} head" for name in supports]
    assert plan.strategy_rounds == len(plan.rounds) - 2
    assert [plan.body_round(head) for head in plan.heads or PAPER] == [None] * len(PAPER)
    off = make_plan("hydra", PAPER, recentre=False)
    assert off.rounds == plan.rounds[:-2]
    assert off.strategy_rounds == len(off.rounds)
    assert [off.body_round(head) for head in supports] == [3, 5]
    assert off.body_round(PAPER[-1]) is None
    asked = make_plan("hydra", PAPER, profile="paper", recentre=True)
    assert order(asked) == order(plan)
    for profile in ("paper", "authors", "recommended-0.1"):
        assert order(make_plan("hydra", PAPER, profile=profile)) == order(off)


@pytest.mark.parametrize(
    ("strategy", "added"),
    [("transfer", 0), ("classical", 0), ("joint", 0), ("norm", 2), ("head", 0), ("probe", 0)],
)
def test_heads_that_fit_or_serve_several_datasets_are_not_trained_again(
    strategy: str, added: int
) -> None:
    plan = make_plan(strategy, PAPER)
    assert len(plan.rounds) - plan.strategy_rounds == added
    assert plan.rounds[: plan.strategy_rounds] == make_plan(strategy, PAPER, recentre=False).rounds


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("strategy", ["hydra", "transfer", "classical"])
def test_changes_apply_to_every_round(profile: str, strategy: str) -> None:
    changes: dict[str, Any] = {
        "epochs": 3,
        "patience": 2,
        "batch_size": 4,
        "learning_rate": 0.02,
        "dropout": 0.1,
    }
    before = make_plan(strategy, PAPER, profile=profile)
    plan = make_plan(
        strategy,
        PAPER,
        profile=profile,
        bootstrap=5,
        seed=9,
        head="linear",
        body_channels=[4, 8],
        **changes,
    )
    for name, value in changes.items():
        assert values(plan, name) == [value] * len(plan.rounds)
    assert (plan.bootstrap, plan.seed, plan.head.name) == (5, 9, "linear")
    assert plan.body == BodySpec(channels=(4, 8))
    for name in ("loss", "schedule", "select", "carry_head", "feature_dropout", "augmentation"):
        assert values(plan, name) == values(before, name)
    assert order(plan) == order(before)


def test_the_rule_of_a_round_the_norm_and_the_share_of_the_target_can_be_chosen() -> None:
    given: dict[str, Any] = {"body_norm": "group", "target_share": 0.25}
    plan = make_plan("hydra", PAPER, select="smoothed", window=3, **given)
    assert values(plan, "select") == ["smoothed"] * 9
    assert values(plan, "window") == [3] * 9
    assert plan.body == BodySpec(norm="group")
    assert plan.dataset("prostatex").split == Split(train=8, val=1, test=1, used=0.25)
    assert {plan.dataset(name).split.used for name in ("brain", "lung")} == {1.0}
    assert Plan.model_validate_json(plan.to_json()) == plan


def test_a_plan_that_uses_all_is_written_as_it_was_before_there_was_a_share() -> None:
    assert '"used"' not in make_plan("hydra", PAPER).to_json()
    assert '"used": 0.5' in make_plan("hydra", PAPER, target_share=0.5).to_json()


def test_a_patience_of_zero_trains_all_epochs() -> None:
    assert values(make_plan("hydra", PAPER, patience=0), "patience") == [None] * 9
    assert values(make_plan("transfer-long", PAPER, patience=0), "patience") == [None] * 4
    assert None not in values(make_plan("hydra", PAPER, profile="recommended-0.1"), "patience")


def test_options_and_splits_go_to_their_dataset() -> None:
    name, option = next(
        (adapter.name, option)
        for adapter in load_plugins().all(DatasetAdapter).values()
        if adapter.name in PAPER
        for option in option_fields(adapter.options)
        if len(option.choices) > 1
    )
    other = next(choice for choice in option.choices if choice != option.default)
    split = Split(train=3, val=1)
    plan = make_plan("hydra", PAPER, options={name: {option.name: other}}, splits={"lung": split})
    assert plan.dataset(name).options[option.name] == other
    assert plan.dataset("lung").split == split
    assert plan.dataset("brain").split == Split(train=9, val=1)


@pytest.mark.parametrize(
    ("strategy", "datasets", "given", "kind", "said"),
    [
        ("hidra", PAPER, {}, PluginError, "unknown strategy 'hidra': did you mean 'hydra'?"),
        ("hydra", ["brian"], {}, PluginError, "unknown dataset 'brian': did you mean 'brain'?"),
        ("hydra", PAPER, {"head": "mpl"}, PluginError, "unknown head 'mpl': did you mean 'mlp'?"),
        (
            "hydra",
            PAPER,
            {"profile": "author"},
            PlanError,
            "unknown profile 'author': did you mean 'authors'?",
        ),
        ("hydra", [], {}, PlanError, "no dataset is named: `--datasets prostatex,brain` names two"),
        (
            "hydra",
            ["prostatex"],
            {"splits": {"brain": Split(train=9, val=1)}},
            PlanError,
            "unknown dataset 'brain': known are prostatex (it is not in this run)",
        ),
        (
            "hydra",
            ["brain", "prostatex"],
            {"options": {"prostatx": {"series": "adc"}}},
            PlanError,
            "unknown dataset 'prostatx': did you mean 'prostatex'? (it is not in this run)",
        ),
        (
            "hydra",
            PAPER,
            {"options": {"brain": {"no-such": 1}}},
            PlanError,
            "unknown option of 'brain' 'no-such': ",
        ),
        (
            "classical",
            ["brain", "prostatex"],
            {"options": {"brain": {"no-such": 1}}},
            PlanError,
            "unknown option of 'brain' 'no-such': ",
        ),
        (
            "hydra",
            PAPER,
            {"splits": {"prostatex": Split(train=9, val=1)}},
            PlanError,
            "the target 'prostatex' has no test share in its split",
        ),
        ("hydra", PAPER, {"epochs": 0}, PlanError, "epochs: must be greater than 0 (is 0)"),
        (
            "hydra",
            PAPER,
            {"learning_rate": -1.0},
            PlanError,
            "learning_rate: must be greater than 0 (is -1.0)",
        ),
        ("hydra", PAPER, {"dropout": 1.0}, PlanError, "dropout: must be less than 1"),
        ("hydra", PAPER, {"window": 3}, PlanError, "--window is for `--select smoothed` and"),
        (
            "hydra",
            PAPER,
            {"target_share": 0.0},
            PlanError,
            "target_share: must be greater than 0",
        ),
        ("hydra", PAPER, {"bootstrap": 0}, PlanError, "bootstrap: must be greater than 0"),
        ("hydra", PAPER, {"seed": -1}, PlanError, "seed: must be at least"),
        ("hydra", PAPER, {"body_channels": []}, PlanError, "a body needs at least one block"),
        (
            "hydra",
            PAPER,
            {"body_channels": [8] * 5},
            PlanError,
            "a patch of 65 pixels is too small for 5 blocks",
        ),
    ],
)
def test_what_is_impossible_is_told_on_one_line(
    strategy: str, datasets: list[str], given: dict[str, Any], kind: type[HydrakitError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        make_plan(strategy, datasets, **given)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_planning_does_not_import_torch() -> None:
    code = (
        "import sys; from hydrakit.plan.profiles import make_plan; "
        "make_plan('hydra', ['brain', 'prostatex']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Digests of plans as version 0.1.0 made them, before bodies and heads were components.
EARLIER: dict[str, tuple[tuple[str, list[str]], dict[str, Any]]] = {
    "705f4aa54333aced0d4f3a1430beb25cdf2ad5abb303794528f9c2753784ab23": (
        ("hydra", ["brain", "lung", "prostatex"]),
        {},
    ),
    "ca30f4e6c937012e83e6290b3300354d790b1d24115b09b69c2b6fb736c54873": (
        ("hydra", ["prostatex", "brain", "lung", "prostatex"]),
        {"profile": "paper", "seed": 3},
    ),
    "8491dfce2962232d002aa8c0ffe1c7d08ac3c29dc9a9442479c03070ac0639b7": (
        ("joint", ["brain", "lung"]),
        {
            "whole": True,
            "options": {"lung": {"slices": 3, "window": "lung"}},
            "body_channels": (8, 16),
            "body_norm": "dataset",
        },
    ),
    "f611525d8d08c67909e47df1b5c68236ec755d9724bd77372defe78395ac2d17": (
        ("transfer", ["brain", "prostatex"]),
        {
            "head": "linear",
            "options": {"prostatex": {"sequences": "t2,dwi"}},
            "split_seed": 4,
            "target_share": 0.5,
        },
    ),
}


@pytest.mark.parametrize("digest", EARLIER)
def test_plans_of_today_have_the_digests_of_earlier_ones(digest: str) -> None:
    arguments, values = EARLIER[digest]
    plan = make_plan(*arguments, **{"profile": "recommended-0.1", **values})
    if plan.profile == "recommended-0.1":  # as it was called then
        plan = plan.model_copy(update={"profile": "recommended"})
    assert plan.digest() == digest
    stored = json.loads(plan.to_json())
    assert stored["head"] == plan.head.name
    assert "heads" not in stored
    assert list(stored["body"]) == ["channels", "features", "patch", "norm", "datasets"]
    assert Plan.model_validate_json(plan.to_json()).digest() == digest


@pytest.fixture
def other_profile(monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A profile in place of `recommended`, with another body, an ensemble and views."""
    profile = Profile(
        name="recommended",
        summary="another recipe",
        bootstrap=1,
        body="small",
        body_options={"patch": 32, "intensities": True},
        head_kind="blend",
        ensemble=5,
        test_views=2,
        all=Hyperparameters(
            learning_rate=1e-3,
            dropout=0.3,
            batch_size=32,
            epochs=20,
            patience=None,
            schedule="cosine",
            warmup=0.1,
            label_smoothing=0.1,
            penalty=0.3,
        ),
        head={"schedule": "constant", "warmup": 0.0, "epochs": 50},
    )
    monkeypatch.setitem(PROFILES, "recommended", profile)
    return profile


def test_a_profile_can_have_a_body_an_ensemble_and_views(other_profile: Profile) -> None:
    plan = make_plan("hydra", ["brain", "prostatex"])
    assert (plan.body.name, plan.patch, plan.ensemble, plan.test_views) == ("small", 32, 5, 2)
    assert (plan.head.name, plan.body.options["intensities"]) == ("blend", True)
    assert values(plan, "penalty") == [0.3, 0.3, 0.3]
    assert values(plan, "schedule") == ["cosine", "constant", "cosine"]
    assert make_plan("hydra", ["brain", "prostatex"], ensemble=1).ensemble == 1


def test_the_body_that_the_user_chooses_has_its_own_options(other_profile: Profile) -> None:
    plan = make_plan("hydra", ["brain", "prostatex"], body="paper")
    assert (plan.body, plan.head.name) == (BodySpec(), "mlp")
    assert values(plan, "penalty") == [None, None, None], "it is for the profile's head"
    # The user's head has its own options, and is trained in steps.
    plan = make_plan("hydra", ["brain", "prostatex"], head="linear")
    assert (plan.body.name, plan.head.name) == ("small", "linear")
    assert values(plan, "penalty") == [None, None, None]
    # Options of the paper's body choose it.
    for given in ({"body_channels": (4, 8)}, {"body_norm": "group"}):
        plan = make_plan("hydra", ["brain", "prostatex"], **given)
        assert plan.body.name == "paper"
    # Options without a body are of the profile's, and those that are not given stay the profile's.
    assert make_plan("hydra", PAPER, body_options={"patch": 48}).patch == 48
    assert make_plan("hydra", PAPER, body="small").patch == 32
    with pytest.raises(PlanError, match="--body-channels is an option of the body 'paper'"):
        make_plan("hydra", PAPER, body="small", body_channels=(4, 8))


def test_a_baseline_is_one_network_whatever_the_profile(other_profile: Profile) -> None:
    plan = make_plan("intensity", ["prostatex"], ensemble=3)
    assert (plan.ensemble, plan.test_views) == (1, 1)


def test_labels_of_a_profile_are_not_smoothed_if_they_are_numbers(other_profile: Profile) -> None:
    number = replace(adapter("size"), task="regression", classes=("size",))
    loaded = Plugins.of(
        *(number, adapter("alpha")),
        *bodies.hydrakit_body_factories(),
        *heads.hydrakit_head_factories(),
        *hydrakit_strategies.hydrakit_sequence_strategies(),
    )
    plan = make_plan("hydra", ["size", "alpha"], plugins=loaded)
    assert values(plan, "label_smoothing") == [0.0, 0.1, 0.1]
    assert values(plan, "schedule")[0] == "cosine"


def test_a_comparison_by_another_recipe_is_another_comparison(other_profile: Profile) -> None:
    def digest(**settings: Any) -> str:
        design = make_design(strategies=("hydra",), datasets=("brain", "prostatex"), **settings)
        return design.digest

    old = digest(settings={"profile": "recommended-0.1"})
    assert digest() != old
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "recommended", replace(RECOMMENDED_0_1, name="recommended"))
        assert digest() == old == digest(settings={"profile": "recommended-0.1"})
