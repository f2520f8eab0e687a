from __future__ import annotations

import random
import subprocess
import sys

import pytest

from hydrakit.hooks import SequenceStrategy, Settings
from hydrakit.plan import Hyperparameters, Round, RoundPosition, Train
from hydrakit_strategies import hydrakit_sequence_strategies

STRATEGIES = {strategy.name: strategy for strategy in hydrakit_sequence_strategies()}

# Each pair of kind and place has its own number of epochs, so that a round tells what it asked for.
PLACES: list[tuple[Train, RoundPosition]] = [
    (train, place) for train in ("all", "head") for place in ("first", "middle", "last")
]


def hyperparameters(train: Train, place: RoundPosition) -> Hyperparameters:
    epochs = PLACES.index(("head" if train == "head" else "all", place)) + 1
    return Hyperparameters(
        learning_rate=1e-3, dropout=0.0, batch_size=1, epochs=epochs, patience=2 * epochs
    )


def rounds(strategy: str, *datasets: str) -> list[Round]:
    return STRATEGIES[strategy].plan(list(datasets), Settings(hyperparameters))


def told(strategy: str, *datasets: str) -> list[tuple[str, str, str, str]]:
    """Dataset, kind, head and place of each round."""
    listed: list[tuple[str, str, str, str]] = []
    for round in rounds(strategy, *datasets):
        train, place = PLACES[round.hyperparameters.epochs - 1]
        assert train == round.train
        listed.append((round.dataset, round.train, round.head, place))
    return listed


def test_the_names_of_the_strategies() -> None:
    assert list(STRATEGIES) == [
        "hydra",
        "transfer",
        "transfer-long",
        "classical",
        "classical-long",
        "head",
        "norm",
        "parallel",
        "joint",
        "random",
        "intensity",
        "probe",
    ]


def test_hydra_on_the_papers_datasets() -> None:
    assert told("hydra", "prostatex", "brain", "lung", "prostatex") == [
        ("prostatex", "all", "prostatex", "first"),
        ("brain", "head", "brain", "first"),
        ("brain", "all", "brain", "middle"),
        ("lung", "head", "lung", "middle"),
        ("lung", "all", "lung", "middle"),
        ("prostatex", "head", "prostatex", "last"),
        ("prostatex", "all", "prostatex", "last"),
    ]


def test_hydra_on_two_and_on_one() -> None:
    assert told("hydra", "brain", "lung") == [
        ("brain", "all", "brain", "first"),
        ("lung", "head", "lung", "first"),
        ("lung", "all", "lung", "last"),
    ]
    assert told("hydra", "lung") == [("lung", "all", "lung", "first")]


def test_transfer_has_one_head() -> None:
    assert told("transfer", "prostatex", "brain", "lung", "prostatex") == [
        ("prostatex", "all", "shared", "first"),
        ("brain", "all", "shared", "middle"),
        ("lung", "all", "shared", "middle"),
        ("prostatex", "all", "shared", "last"),
    ]
    assert told("transfer", "brain", "lung") == [
        ("brain", "all", "shared", "first"),
        ("lung", "all", "shared", "last"),
    ]
    assert told("transfer", "lung") == [("lung", "all", "shared", "first")]


@pytest.mark.parametrize(
    "datasets", [["lung"], ["brain", "lung"], ["prostatex", "brain", "brain", "lung"]]
)
def test_classical_is_the_target_alone(datasets: list[str]) -> None:
    assert told("classical", *datasets) == [("lung", "all", "lung", "first")]


def test_classical_long_is_hydra_without_its_supports() -> None:
    assert told("classical-long", "lung", "brain", "lung") == [
        ("lung", "all", "lung", "first"),
        ("lung", "head", "lung", "first"),
        ("lung", "all", "lung", "last"),
    ]
    assert told("classical-long", "brain", "lung") == told("classical", "brain", "lung")


def test_head_trains_the_targets_head_once() -> None:
    assert told("head", "brain", "lung") == [("lung", "head", "lung", "last")]


def test_norm_is_hydra_whose_later_rounds_train_the_norm() -> None:
    datasets = ("prostatex", "brain", "prostatex")
    hydra, norm = rounds("hydra", *datasets), rounds("norm", *datasets)
    assert norm[0] == hydra[0]
    assert [round.train for round in norm] == ["all", "head", "norm", "head", "norm"]
    for one, other in zip(norm, hydra, strict=True):
        assert one.model_copy(update={"train": other.train}) == other


def test_random_trains_nothing_and_wants_a_thousand_starts() -> None:
    (only,) = rounds("random", "brain", "lung")
    assert (only.dataset, only.train) == ("lung", "none")
    assert STRATEGIES["random"].bootstrap == 1000
    others = [each for each in STRATEGIES.values() if each.name != "random" and not each.baseline]
    assert all(each.bootstrap is None for each in others)


def test_baselines_solve_the_targets_head_alone() -> None:
    baselines = [each for each in STRATEGIES.values() if each.baseline]
    assert [(each.name, each.body, each.head, each.bootstrap) for each in baselines] == [
        ("intensity", "intensity", "linear", 1),
        ("probe", None, "linear", 1),
    ]
    for each in baselines:
        (only,) = rounds(each.name, "brain", "lung")
        assert (only.dataset, only.train, only.hyperparameters.solver) == ("lung", "head", "exact")
        assert only.hyperparameters.augmentation == "none"


def test_parallel_and_joint_train_all_datasets_in_one_round() -> None:
    (parallel,), (joint,) = (rounds(n, "a", "b", "c", "a") for n in ("parallel", "joint"))
    for round, mix in ((parallel, "epoch"), (joint, "batch")):
        assert (round.datasets, round.heads, round.mix) == (("a", "b", "c"), ("a", "b", "c"), mix)
    assert parallel.hyperparameters.epochs == 3 * joint.hyperparameters.epochs
    assert rounds("joint", "a")[0].others == ()


def test_transfer_long_may_take_as_many_updates_as_hydra() -> None:
    datasets = ("prostatex", "brain", "lung", "prostatex")

    def updates(strategy: str) -> int:
        """Passes over a training split, each view of a fixed set counted."""
        values = [(round.train, round.hyperparameters) for round in rounds(strategy, *datasets)]
        return sum(h.epochs * (h.views if train == "head" else 1) for train, h in values)

    assert updates("transfer-long") == updates("hydra") > updates("transfer")

    def waits(strategy: str) -> int:
        """Epochs without a better one, of all rounds together."""
        return sum(round.hyperparameters.patience or 0 for round in rounds(strategy, *datasets))

    assert waits("transfer-long") == waits("hydra") > waits("transfer") > 0


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_strategies_draw_nothing_and_change_nothing(strategy: SequenceStrategy) -> None:
    datasets = ("brain", "lung", "brain")
    state = random.getstate()
    first = strategy.plan(datasets, Settings(hyperparameters))
    assert strategy.plan(datasets, Settings(hyperparameters)) == first
    assert random.getstate() == state


def test_strategies_need_neither_torch_nor_files() -> None:
    code = """
import sys
import hydrakit_strategies
from hydrakit.hooks import Settings
assert "pydantic" not in sys.modules, "imported by `hydrakit --help`"
strategies = list(hydrakit_strategies.hydrakit_sequence_strategies())
from hydrakit.plan import Hyperparameters
values = Hyperparameters(learning_rate=1, dropout=0, batch_size=1, epochs=1, patience=None)
calls = []
sys.addaudithook(lambda event, _: calls.append(event) if event == "open" else None)
for strategy in strategies:
    strategy.plan(["brain", "lung"], Settings(lambda train, place: values))
assert not calls, "a file was opened"
assert not {"torch", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
