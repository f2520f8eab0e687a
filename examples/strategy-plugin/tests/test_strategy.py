"""Tests of the strategy."""

from hydrakit import make_plan
from hydrakit.hooks import Settings
from hydrakit.plan import Hyperparameters
from hydrakit.testing import check_strategy

from hydrakit_polish.strategy import STRATEGY

VALUES = Hyperparameters(learning_rate=0.001, dropout=0.5, batch_size=64, epochs=2, patience=None)
SETTINGS = Settings(hyperparameters=lambda train, position: VALUES)


def test_it_follows_the_rules_of_strategies() -> None:
    check_strategy(STRATEGY)


def test_the_target_has_one_more_round_of_its_head() -> None:
    rounds = STRATEGY.plan(["target", "support", "target"], SETTINGS)
    assert [(each.dataset, each.train) for each in rounds] == [
        ("target", "all"),
        ("support", "head"),
        ("support", "all"),
        ("target", "head"),
        ("target", "all"),
        ("target", "head"),
    ]
    assert [each.hyperparameters.learning_rate for each in rounds[-2:]] == [0.001, 0.0001]


def test_all_rounds_before_are_those_of_hydra() -> None:
    for datasets in (["brain"], ["brain", "lung"], ["brain", "lung", "prostatex", "brain"]):
        plain = make_plan("hydra", datasets, recentre=False).rounds
        assert make_plan("polish", datasets, recentre=False).rounds[:-1] == plain
