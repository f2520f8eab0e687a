"""The head `blend`: a trained layer and an exact regression on the intensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import BODY, Runner, hydra_plan, load_dataset, plan_of, plugins, round_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from hydrakit import weights
from hydrakit.data.load import LoadedDataset
from hydrakit.errors import PlanError
from hydrakit.models.blend import BlendedHead
from hydrakit.models.intensity import first_order
from hydrakit.models.small import SmallBody
from hydrakit.plan import Component
from hydrakit.plan.model import OtherBody
from hydrakit.training import exact
from hydrakit.training.loop import train_round
from hydrakit.training.seeds import Seeds

SEEDS = Seeds(plan=3, round=2)
PATCH = BODY.patch
SMALL = OtherBody(name="small", options={"patch": PATCH, "channels": (4,), "intensities": True})
BLEND = Component(name="blend")


def new_body() -> SmallBody:
    torch.manual_seed(0)
    return SmallBody(
        in_channels=1, patch=PATCH, channels=(4,), norm="group", features=None, intensities=True
    )


@pytest.fixture
def alpha(data: Path, cache: Path) -> LoadedDataset:
    return load_dataset("alpha", data=data, cache=cache)


def test_the_mean_of_two_outputs_in_evaluation_and_one_in_training() -> None:
    head, features = BlendedHead(5, 2), torch.randn(7, 5)
    head.set_regression(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0, 6.0]))
    alone = head.train()(features)
    torch.testing.assert_close(alone, head.logits(features))
    regression = torch.stack(
        [
            features[:, 3] + 2 * features[:, 4] + 5,
            3 * features[:, 3] + 4 * features[:, 4] + 6,
        ],
        dim=1,
    )
    torch.testing.assert_close(head.eval()(features), (alone + regression) / 2)
    other = BlendedHead(5, 2, share=0.8)
    other.load_state_dict({**head.state_dict(), "share": torch.tensor(0.8)})
    torch.testing.assert_close(other.eval()(features), 0.8 * alone + 0.2 * regression)


@pytest.mark.parametrize(("useful", "expected"), [("logits", 0.8), ("regression", 0.2)])
def test_the_share_is_the_best_on_validation(
    alpha: LoadedDataset, useful: str, expected: float
) -> None:
    """One of the two is right and the other wrong, and only one share lets the right one win."""
    labels = torch.from_numpy(alpha.val.labels).float()
    generator = torch.Generator().manual_seed(1)
    right = labels if useful == "logits" else -labels
    features = torch.stack([right, -right, -right], dim=1)
    features += 0.01 * torch.rand(features.shape, generator=generator)
    head = BlendedHead(3, 2)
    with torch.no_grad():
        head.logits.weight.copy_(torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        head.logits.bias.zero_()
    strength = 3.5 if useful == "logits" else 0.4
    head.set_regression(torch.tensor([[-strength], [strength]]), torch.zeros(2))
    assert exact.SHARES[0] == float(head.share) == 0.5
    exact.choose_share(head, features, alpha.val)
    scores = {}
    for share in exact.SHARES:
        mean = share * head.logits(features) + (1 - share) * head.regression(features)
        scores[share] = roc_auc_score(labels, (mean[:, 1] - mean[:, 0]).detach())
    assert [share for share, score in scores.items() if score == 1] == [expected]
    assert float(head.share) == pytest.approx(expected)


@pytest.mark.parametrize("train", ["head", "all"])
def test_its_regression_is_scikit_learns_but_for_a_factor(alpha: LoadedDataset, train: str) -> None:
    body, head = new_body(), BlendedHead(8 + 11, 2)
    round = round_of("alpha", train, epochs=2, penalty=0.5)
    train_round(round, body, head, alpha, seeds=SEEDS)
    numbers = first_order(alpha.train.unaugmented(PATCH)).double().numpy()
    scaler = StandardScaler().fit(numbers)
    oracle = LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000)
    oracle.fit(scaler.transform(numbers), alpha.train_labels.numpy())
    expected = oracle.decision_function(scaler.transform(numbers))
    features = torch.cat([torch.zeros(len(numbers), 8), torch.from_numpy(numbers).float()], dim=1)
    logits = head.regression(features).detach().double().numpy()
    difference = logits[:, 1] - logits[:, 0]
    slope, shift = np.polyfit(expected, difference, 1)
    np.testing.assert_allclose(difference, slope * expected + shift, atol=1e-3)
    np.testing.assert_allclose(difference.mean(), expected.mean(), atol=1e-3)
    assert 0 <= slope <= 1
    assert not head.regression.weight[:, :8].any()


def test_a_run_stores_it_in_the_files_of_the_heads(runner: Runner) -> None:
    done = runner(hydra_plan(body=SMALL, head=BLEND))
    for name in ("alpha", "beta"):
        head = weights.load_head(done.head_path(name), plugins=plugins())
        assert isinstance(head, BlendedHead)
        assert head.regression.weight.any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": BLEND}, "needs the intensities of the image among the features"),
        ({"rounds": (round_of("alpha", penalty=2.0),)}, "'penalty' has no effect in this plan"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    runner: Runner, changes: dict, words: str
) -> None:
    plan = plan_of(round_of("alpha")).model_copy(update=changes)
    with pytest.raises(PlanError, match=words):
        runner(plan)
