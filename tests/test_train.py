"""Training one round: what is frozen and kept, which epoch is best, and the authors' habits."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import AbstractContextManager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hyperparameters, load_dataset, new_network, round_of
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau

import hydrakit.training.loop
from hydrakit.compute.devices import Compute, thread_count
from hydrakit.data.load import LoadedDataset
from hydrakit.errors import PlanError
from hydrakit.plan.results import EpochRecord, Metrics
from hydrakit.runs import bfloat16
from hydrakit.runs.context import RunContext
from hydrakit.stats.tasks import loss_of
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.evaluation import Reference, compute_metrics, forward_in_batches
from hydrakit.training.loop import TrainingResult, train_round
from hydrakit.training.seeds import Seeds, seeded
from hydrakit.training.selection import is_better

SEEDS = Seeds(plan=3, round=2)
PLAIN: Any = {"task": "classification", "loss": "cross-entropy", "scale": None}
TWICE: Any = {"task": "classification", "loss": "softmax-cross-entropy"}
CPU = torch.device("cpu")


@pytest.fixture
def alpha(data: Path, cache: Path) -> LoadedDataset:
    return load_dataset("alpha", data=data, cache=cache)


def trained_head(loaded: LoadedDataset, *, cached: bool, device: str, **changes: Any) -> tuple:
    body, head = new_network(device=device)
    trained = train_round(
        round_of("alpha", "head", epochs=4, **changes),
        body,
        head,
        loaded,
        seeds=SEEDS,
        cache_features=cached,
    )
    return trained, head


@pytest.mark.parametrize("cached", [True, False])
def test_a_head_round_leaves_the_body_as_it_was(
    data: Path, cache: Path, device: str, cached: bool
) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache, device=device)
    body, head = new_network(device=device)
    before = deepcopy(body.state_dict()), deepcopy(head.state_dict())
    assert {"blocks.0.norm1.running_mean", "blocks.0.norm1.num_batches_tracked"} < set(before[0])
    train_round(
        round_of("alpha", "head", dropout=0.5),
        body,
        head,
        loaded,
        seeds=SEEDS,
        cache_features=cached,
    )
    for name, tensor in body.state_dict().items():
        assert torch.equal(tensor, before[0][name]), name
    assert all(parameter.grad is None for parameter in body.parameters())
    assert {each.device.type for each in (*body.parameters(), *head.parameters())} == {device}
    for name, parameter in head.named_parameters():
        assert not torch.equal(parameter, before[1][name]), name


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.0},
        {"dropout": 0.5},
        {"dropout": 0.5, "feature_dropout": True},
        {"dropout": 0.0, "augmentation": "none", "weight_decay": 0.1},
        {"dropout": 0.0, "augmentation": "fixed", "views": 3, "loss": "softmax-cross-entropy"},
    ],
)
def test_cached_features_train_the_head_that_images_would(
    data: Path, cache: Path, device: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Convolutions in TF32 differ by more than 1e-6 from one batch size to another.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    loaded = load_dataset("alpha", data=data, cache=cache, device=device)
    quick, quick_head = trained_head(loaded, cached=True, device=device, **changes)
    # A head trains on the CPU, where masks of dropout are others than on a GPU.
    where = "cpu" if changes["dropout"] else device
    images = load_dataset("alpha", data=data, cache=cache, device=where)
    slow, slow_head = trained_head(images, cached=False, device=where, **changes)
    exact = 1e-6 if device == "cpu" else 1e-5
    for one, other in zip(quick.epochs, slow.epochs, strict=True):
        assert one.train.loss == pytest.approx(other.train.loss, abs=exact)
        assert one.val.loss == pytest.approx(other.val.loss, abs=exact)
        assert one.val.auc == other.val.auc
    assert quick.epochs[0].train.loss != quick.epochs[-1].train.loss
    for name, tensor in quick_head.state_dict().items():
        images_gave = slow_head.state_dict()[name].to(device)
        torch.testing.assert_close(tensor, images_gave, rtol=0, atol=10 * exact)


def test_feature_dropout_changes_the_training(alpha: LoadedDataset) -> None:
    with_it, _ = trained_head(alpha, cached=True, device="cpu", dropout=0.5, feature_dropout=True)
    without, _ = trained_head(alpha, cached=True, device="cpu", dropout=0.5)
    assert with_it.epochs[0].train.loss != without.epochs[0].train.loss


def test_an_all_round_trains_every_parameter_and_the_statistics(alpha: LoadedDataset) -> None:
    body, head = new_network()
    before = deepcopy(body.state_dict()), deepcopy(head.state_dict())
    train_round(round_of("alpha", dropout=0.0), body, head, alpha, seeds=SEEDS)
    for module, old in zip((body, head), before, strict=True):
        for name, tensor in module.state_dict().items():
            assert not torch.equal(tensor, old[name]), name


def test_a_body_that_was_frozen_is_trained_again_by_the_next_round(alpha: LoadedDataset) -> None:
    body, head = new_network()
    train_round(round_of("alpha", "head"), body, head, alpha, seeds=SEEDS)
    before = deepcopy(body.state_dict())
    train_round(round_of("alpha"), body, head, alpha, seeds=SEEDS)
    assert not torch.equal(body.dense.weight, before["dense.weight"])


def test_the_modules_end_with_the_weights_of_the_best_epoch(alpha: LoadedDataset) -> None:
    for number in range(5):  # where the last epoch is best, nothing is shown: processors round
        body, head = new_network()
        trained = train_round(
            round_of("alpha", epochs=12, learning_rate=0.03),
            body,
            head,
            alpha,
            seeds=Seeds(plan=number, round=2),
        )
        if trained.best.epoch < 12:
            break
    assert trained.best.epoch < 12, "choose a rate at which the last epoch is not the best"
    logits = forward_in_batches(head, forward_in_batches(body, alpha.val.patches))
    assert compute_metrics(logits, alpha.val.labels, **PLAIN) == trained.best.val
    last = trained.last_head
    assert not torch.equal(last["logits.weight"], head.state_dict()["logits.weight"])


def test_best_epochs_have_the_highest_auc_then_the_lowest_loss(alpha: LoadedDataset) -> None:
    trained = all_epochs(alpha, epochs=12, learning_rate=0.03)
    expected = min(trained.epochs, key=lambda e: (-e.val.auc, e.val.loss, e.epoch))
    assert trained.best == expected


def all_epochs(loaded: LoadedDataset, **changes: Any) -> TrainingResult:
    body, head = new_network()
    return train_round(round_of("alpha", **changes), body, head, loaded, seeds=SEEDS)


def record(auc: float, *, loss: float = 0.5, accuracy: float = 0.5, epoch: int = 1) -> EpochRecord:
    val = Metrics(loss=loss, auc=auc, accuracy=accuracy)
    return EpochRecord(epoch=epoch, learning_rate=1.0, train=val, val=val, reference_auc=None)


@pytest.mark.parametrize(
    ("new", "rule", "expected"),
    [
        (record(0.81, loss=0.9), "best", True),
        (record(0.79, loss=0.1), "best", False),
        (record(0.80, loss=0.4), "best", True),
        (record(0.80, loss=0.5), "best", False),
        (record(0.80, accuracy=0.5), "authors", True),
        (record(0.90, accuracy=0.4), "authors", False),
        (record(0.90, accuracy=0.5, loss=9.0), "authors", True),
        (record(0.79, accuracy=0.9), "authors", False),
    ],
)
def test_which_of_two_epochs_is_better(new: EpochRecord, rule: str, expected: bool) -> None:
    assert is_better(new, record(0.80), rule) is expected


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_the_best_of_many_epochs_is_the_first_of_the_best(pairs: list[tuple[int, int]]) -> None:
    epochs = [record(auc / 3, loss=loss / 3, epoch=n) for n, (auc, loss) in enumerate(pairs, 1)]
    best = epochs[0]
    for epoch in epochs[1:]:
        best = epoch if is_better(epoch, best, "best") else best
    assert best == min(epochs, key=lambda each: (-each.val.auc, each.val.loss))


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (3, 4), (None, 9)])
def test_patience_stops_a_round(alpha: LoadedDataset, patience: int | None, epochs: int) -> None:
    # At such a rate no weight moves, so that no epoch is better than the first.
    body, head = new_network()
    still = round_of("alpha", "head", learning_rate=1e-30, epochs=9, patience=patience)
    trained = train_round(still, body, head, alpha, seeds=SEEDS)
    assert trained.best.epoch == 1
    assert len(trained.epochs) == epochs


def test_patience_counts_from_the_best_epoch(alpha: LoadedDataset) -> None:
    trained = all_epochs(alpha, epochs=60, patience=4, learning_rate=0.03)
    assert trained.best.epoch > 1
    assert len(trained.epochs) == trained.best.epoch + 4


def test_the_authors_schedule_lowers_the_rate_while_the_auc_rises(alpha: LoadedDataset) -> None:
    trained = all_epochs(alpha, epochs=20, schedule="authors", learning_rate=1e-3)
    aucs = [epoch.train.auc for epoch in trained.epochs]
    assert np.mean(aucs[-5:]) > np.mean(aucs[:5]), "the case of interest is a rising AUC"
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1e-3)
    theirs = ReduceLROnPlateau(optimiser, mode="min", patience=5)
    rates = []
    for auc in aucs:
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step(auc)
    assert [epoch.learning_rate for epoch in trained.epochs] == rates
    assert rates[-1] < 1e-3


def test_a_constant_schedule_keeps_the_rate(alpha: LoadedDataset) -> None:
    trained = all_epochs(alpha, epochs=10)
    assert {epoch.learning_rate for epoch in trained.epochs} == {3e-3}


def test_the_authors_loss_takes_the_softmax_twice() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.25], [-3.0, 1.0]])
    labels = torch.tensor([0, 1, 1])
    once = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    twice = np.exp(once) / np.exp(once).sum(axis=1, keepdims=True)
    expected = -np.log(twice[np.arange(3), labels]).mean()
    assert float(loss_of(logits, labels, **TWICE)) == pytest.approx(expected)
    plain = functional.cross_entropy(logits, labels)
    assert torch.equal(loss_of(logits, labels, task="classification", loss="cross-entropy"), plain)
    assert loss_of(logits, labels, **TWICE) != plain


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_are_those_of_scikit_learn(classes: int) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(40, classes))
    labels = np.arange(40) % classes
    found = compute_metrics(torch.from_numpy(logits), labels, **PLAIN)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = shares[:, 1] if classes == 2 else shares
    assert found.auc == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))
    assert found.loss == pytest.approx(log_loss(labels, shares))
    assert found.accuracy == accuracy_score(labels, shares.argmax(axis=1))


@pytest.mark.parametrize("train", ["head", "all"])
def test_a_loss_that_is_not_finite_names_round_epoch_and_remedy(
    alpha: LoadedDataset, train: str
) -> None:
    body, head = new_network()
    wild = round_of("alpha", train, learning_rate=1e30)
    with pytest.raises(PlanError, match=rf"round alpha {train}.*epoch 1.*lower.*1e\+30") as caught:
        train_round(wild, body, head, alpha, seeds=SEEDS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("train", ["head", "all"])
def test_the_reference_auc_is_that_of_the_reference_head_on_the_body(
    alpha: LoadedDataset, data: Path, cache: Path, train: str
) -> None:
    beta = load_dataset("beta", data=data, cache=cache)
    body, head = new_network()
    _, other = new_network(seed=9)
    seen: list[float | None] = []
    by_hand: list[float] = []

    def on_epoch(record: EpochRecord) -> None:
        seen.append(record.reference_auc)
        logits = forward_in_batches(other, forward_in_batches(body, alpha.val.patches))
        by_hand.append(roc_auc_score(alpha.val.labels, (logits[:, 1] - logits[:, 0]).numpy()))

    train_round(
        round_of("beta", train, epochs=5, learning_rate=0.03),
        body,
        head,
        beta,
        seeds=SEEDS,
        reference=Reference(other, alpha.val),
        on_epoch=on_epoch,
    )
    assert seen == pytest.approx(by_hand)
    assert (len(set(seen)) == 1) is (train == "head")


def test_every_epoch_takes_each_example_once_in_an_order_of_its_own(alpha: LoadedDataset) -> None:
    examples = TrainingExamples(alpha, hyperparameters(views=2, batch_size=7), SEEDS, fixed=True)
    epochs = [torch.cat([batch for batch, _ in examples.batches(n)]) for n in (1, 2, 1)]
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    sums = [torch.sort(epoch.double().sum(dim=(1, 2, 3))).values for epoch in epochs]
    assert torch.equal(sums[0], sums[1])


@pytest.mark.parametrize("fixed", [True, False])
def test_a_dataset_says_along_which_axes_its_images_may_be_mirrored(
    alpha: LoadedDataset, fixed: bool
) -> None:
    still = {"rotation": 0, "shift": (0, 0), "flips": ("horizontal", "vertical")}
    images = {}
    for flips in (None, ("vertical",), ()):
        settings = hyperparameters(transforms=still, batch_size=100)
        data = dataclasses.replace(alpha, flips=flips)
        examples = TrainingExamples(data, settings, SEEDS, fixed=fixed)
        ((images[flips], _),) = examples.batches(1)
        patches = data.train.unaugmented(data.patch)
        as_stored = torch.cdist(images[flips].flatten(1), patches.flatten(1)).min(dim=1).values
        upside_down = torch.cdist(images[flips].flip(2).flatten(1), patches.flatten(1))
        assert (as_stored < 1e-2).all() == (flips == ())
        either = torch.minimum(as_stored, upside_down.min(dim=1).values)
        assert (either < 1e-2).all() == (flips is not None)


def test_fixed_views_with_noise_are_the_same_in_every_epoch(alpha: LoadedDataset) -> None:
    settings = hyperparameters(transforms={"noise": 0.5, "intensity": 0.5}, batch_size=100)
    examples = TrainingExamples(alpha, settings, SEEDS, fixed=True)
    first, again = (next(examples.batches(epoch))[0] for epoch in (1, 1))
    second = next(examples.batches(2))[0]
    assert torch.equal(first, again)
    distances = torch.cdist(first.flatten(1).double(), second.flatten(1).double()).min(dim=1).values
    assert (distances < 1e-4).all()
    examples = TrainingExamples(alpha, settings, SEEDS, fixed=False)
    fresh = next(examples.batches(2))[0]
    assert (torch.cdist(fresh.flatten(1), first.flatten(1)) > 0.1).all()


def test_fresh_augmentation_draws_new_views_in_every_epoch(alpha: LoadedDataset) -> None:
    examples = TrainingExamples(alpha, hyperparameters(), SEEDS, fixed=False)
    sums = []
    for epoch in (1, 2):
        images = torch.cat([batch for batch, _ in examples.batches(epoch)])
        assert images.shape == (2 * int(alpha.train_labels.bincount().max()), 1, 16, 16)
        sums.append(images.double().sum(dim=(1, 2, 3)).tolist())
    assert not set(sums[0]) & set(sums[1])


def test_every_epoch_draws_its_own_dropout(
    alpha: LoadedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def spy(seed: int, device: torch.device) -> AbstractContextManager[None]:
        seeds.append(seed)
        return seeded(seed, device)

    monkeypatch.setattr(hydrakit.training.loop, "seeded", spy)
    all_epochs(alpha, epochs=3)
    assert len(set(seeds)) == len(seeds) == 3


def test_every_purpose_round_and_plan_has_a_seed_of_its_own() -> None:
    keys = [(), (0,), (1,), (2, 1, 0), (2, 1, 1), (2, 2, 0), (0, 0), (0, 1)]
    seeds = [Seeds(plan, round).of(*key) for plan in (0, 1) for round in (1, 2) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [Seeds(p, r).of(*key) for p in (0, 1) for r in (1, 2) for key in keys]


def test_seeding_gives_the_same_draws_and_puts_the_generators_back(device: str) -> None:
    where = torch.device(device)

    def draw() -> list[torch.Tensor]:
        return [torch.rand(3), torch.rand(3, device=where)]

    torch.manual_seed(5)
    expected = draw()
    torch.manual_seed(5)
    with seeded(1, where):
        inside = draw()
    assert all(map(torch.equal, draw(), expected))
    with seeded(1, where):
        assert all(map(torch.equal, draw(), inside))
    with seeded(2, where):
        assert not any(map(torch.equal, draw(), inside))


def compute(device: str, **changes: Any) -> Compute:
    return Compute(torch.device(device), **changes)


def test_bfloat16_trains_as_float32_does_up_to_rounding(
    data: Path, cache: Path, device: str
) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache, device=device)
    found = {}
    for precision in ("float32", "bfloat16"):
        body, head = new_network(device=device)
        trained = train_round(
            round_of("alpha", epochs=6),
            body,
            head,
            loaded,
            seeds=SEEDS,
            compute=compute(device, precision=precision),
        )
        assert {each.dtype for each in body.parameters()} == {torch.float32}
        found[precision] = trained.epochs
    for exact, quick in zip(*found.values(), strict=True):
        assert quick.train.loss == pytest.approx(exact.train.loss, rel=0.05)
        assert quick.val.loss == pytest.approx(exact.val.loss, rel=0.05)
    assert found["float32"][0].train.loss != found["bfloat16"][0].train.loss, "nothing was rounded"


def test_features_of_a_frozen_body_are_float32_whatever_the_precision(alpha: LoadedDataset) -> None:
    # A round that moves no weight: what is left of bfloat16 would be seen in the figures.
    still = round_of("alpha", "head", learning_rate=1e-30, epochs=1, dropout=0.0)
    records = []
    for precision in ("float32", "bfloat16"):
        body, head = new_network()
        how = compute("cpu", precision=precision)
        records.append(train_round(still, body, head, alpha, seeds=SEEDS, compute=how).best)
    assert records[0].val == records[1].val
    assert records[0].train.loss == pytest.approx(records[1].train.loss, rel=0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own modules raise them
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.parametrize("train", ["head", "all"])
def test_compiled_steps_train_as_others_do_up_to_rounding(alpha: LoadedDataset, train: str) -> None:
    found = []
    for compiled in (False, True):
        body, head = new_network()
        trained = train_round(
            round_of("alpha", train, epochs=3, dropout=0.0),
            body,
            head,
            alpha,
            seeds=SEEDS,
            compute=compute("cpu", compiled=compiled),
        )
        found.append([epoch.val.loss for epoch in trained.epochs])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_a_head_round_runs_on_one_thread_and_gives_the_others_back(alpha: LoadedDataset) -> None:
    seen = []
    with thread_count(2):
        for train in ("head", "all"):
            body, head = new_network()
            train_round(
                round_of("alpha", train, epochs=1),
                body,
                head,
                alpha,
                seeds=SEEDS,
                on_epoch=lambda _: seen.append(torch.get_num_threads()),
            )
        assert torch.get_num_threads() == 2
    assert seen == [1, 2]


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((130, 1, 65, 65), [64, 64, 2]),
        ((70, 2, 32, 32), [64, 6]),
        ((20, 1, 130, 130), [16, 4]),
        ((9, 1, 260, 260), [4, 4, 1]),
        ((2, 1, 640, 640), [1, 1]),
        ((70, 4), [64, 6]),  # features
    ],
)
def test_larger_patches_are_evaluated_in_smaller_batches(
    shape: tuple[int, ...], sizes: list[int]
) -> None:
    seen = []

    class Mean(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return images.flatten(1).mean(dim=1)

    images = torch.randn(shape)
    outputs = forward_in_batches(Mean(), images)
    assert seen == sizes
    torch.testing.assert_close(outputs, images.flatten(1).mean(dim=1))


def a_session(loaded: LoadedDataset, **context: Any) -> Any:
    """What the note about bfloat16 needs of a session: one round of 2 epochs, on the CPU."""
    return SimpleNamespace(
        compute=Compute(torch.device("cpu")),
        context=RunContext(**context),
        plan=SimpleNamespace(rounds=[round_of("alpha", epochs=2)], ensemble=1, patch=65),
        loaded={"alpha": loaded},
        new_network=lambda: SimpleNamespace(new_modules=lambda _: new_network()),
    )


def test_a_long_run_says_how_much_faster_bfloat16_is(
    alpha: LoadedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = []
    monkeypatch.setattr(bfloat16, "measured_gain", lambda *_: gains.append(1.84) or gains[-1])
    monkeypatch.setattr(bfloat16, "cpu_has_bfloat16", lambda: True)
    assert not [*bfloat16.notes_of_bfloat16(a_session(alpha))]  # the run is short
    monkeypatch.setattr(bfloat16, "LONG", 2)
    assert not [*bfloat16.notes_of_bfloat16(a_session(alpha, precision="float32"))]
    assert not gains, "the measurement was not needed"
    (note,) = bfloat16.notes_of_bfloat16(a_session(alpha))
    assert note.startswith("this CPU trains about 1.8 times as fast with `--precision bfloat16`")
    monkeypatch.setattr(bfloat16, "measured_gain", lambda *_: 1.1)
    assert not [*bfloat16.notes_of_bfloat16(a_session(alpha))]
    monkeypatch.setattr(bfloat16, "cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(bfloat16, "measured_gain", lambda *_: 2.0)
    assert not [*bfloat16.notes_of_bfloat16(a_session(alpha))]


def test_measuring_bfloat16_changes_no_random_number(
    alpha: LoadedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "STEPS", 1)
    session, state = a_session(alpha), torch.get_rng_state()
    assert bfloat16.images_of(session, session.plan.rounds) == 2 * len(
        TrainingExamples(alpha, round_of("alpha").hyperparameters, Seeds(0, 1), fixed=False)
    )
    assert bfloat16.measured_gain(session, session.plan.rounds[0]) > 0
    assert torch.equal(torch.get_rng_state(), state)
