from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from hydrakit.hooks import HeadFactory
from hydrakit.models.heads import hydrakit_head_factories

FACTORIES = {factory.name: factory for factory in hydrakit_head_factories()}


def test_the_names_of_the_heads() -> None:
    assert set(FACTORIES) == {"mlp", "linear"}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize(("features", "classes"), [(256, 2), (5, 4)])
def test_heads_give_logits_for_features(factory: HeadFactory, features: int, classes: int) -> None:
    head = factory.build(features, classes, 0.5)
    logits = head(torch.randn(6, features))
    assert logits.shape == (6, classes)
    assert not torch.allclose(logits.sum(dim=1), torch.ones(6))


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_dropout_does_not_change_the_shapes(factory: HeadFactory) -> None:
    shapes = [
        {name: tuple(t.shape) for name, t in factory.build(9, 3, p).state_dict().items()}
        for p in (0.0, 0.9)
    ]
    assert shapes[0] == shapes[1]
    layers = [m for m in factory.build(9, 3, 0.9).modules() if isinstance(m, nn.Dropout)]
    assert [layer.p for layer in layers] == [0.9]


def test_mlp_is_the_papers_decision_maker() -> None:
    torch.manual_seed(3)
    head = FACTORIES["mlp"].build(256, 2, 0.5).eval()
    assert [name for name, _ in head.named_children()] == [
        "hidden1",
        "elu1",
        "dropout",
        "hidden2",
        "elu2",
        "logits",
    ]
    state = head.state_dict()
    features = torch.randn(4, 256)
    maps = nn.functional.elu(features @ state["hidden1.weight"].T + state["hidden1.bias"])
    maps = nn.functional.elu(maps @ state["hidden2.weight"].T + state["hidden2.bias"])
    expected = maps @ state["logits.weight"].T + state["logits.bias"]
    torch.testing.assert_close(head(features), expected)
    assert {tuple(t.shape) for name, t in state.items() if name.endswith("weight")} == {
        (64, 256),
        (16, 64),
        (2, 16),
    }


def test_linear_is_one_dense_layer() -> None:
    head = FACTORIES["linear"].build(6, 3, 0.5).eval()
    state = head.state_dict()
    features = torch.randn(4, 6)
    expected = features @ state["logits.weight"].T + state["logits.bias"]
    torch.testing.assert_close(head(features), expected)


def test_listing_the_heads_does_not_import_torch() -> None:
    code = (
        "import sys, hydrakit.models.heads as heads; list(heads.hydrakit_head_factories()); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
