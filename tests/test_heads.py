from __future__ import annotations

import subprocess
import sys
import tracemalloc

import pytest
import torch
from torch import nn

from hydrakit.compute.modules import set_dropout
from hydrakit.errors import PlanError
from hydrakit.hooks import HeadFactory, NoOptions
from hydrakit.models.heads import MlpOptions, hydrakit_head_factories
from hydrakit.plugins.options import parse_options

FACTORIES = {factory.name: factory for factory in hydrakit_head_factories()}


def test_the_names_of_the_heads() -> None:
    assert set(FACTORIES) == {"mlp", "linear", "blend"}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize(("features", "classes"), [(256, 2), (5, 4)])
def test_heads_give_logits_for_features(factory: HeadFactory, features: int, classes: int) -> None:
    head = factory.build(features, classes, factory.options())
    logits = head(torch.randn(6, features))
    assert logits.shape == (6, classes)
    assert not torch.allclose(logits.sum(dim=1), torch.ones(6))


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_every_head_has_one_dropout_layer(factory: HeadFactory) -> None:
    head = factory.build(9, 3, factory.options())
    set_dropout(head, 0.9)
    layers = [m for m in head.modules() if isinstance(m, nn.Dropout)]
    assert [layer.p for layer in layers] == [0.9]


def test_mlp_is_the_papers_decision_maker() -> None:
    torch.manual_seed(3)
    head = FACTORIES["mlp"].build(256, 2, MlpOptions()).eval()
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
    head = FACTORIES["linear"].build(6, 3, NoOptions()).eval()
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


def test_the_widths_of_mlp_can_be_chosen() -> None:
    given = parse_options(FACTORIES["mlp"], {"hidden": "32, 16,8"})
    assert given == MlpOptions(hidden=(32, 16, 8))
    head = FACTORIES["mlp"].build(9, 2, given)
    shapes = [tuple(each.weight.shape) for each in head if isinstance(each, nn.Linear)]
    assert shapes == [(32, 9), (16, 32), (8, 16), (2, 8)]
    assert [name for name, each in head.named_children() if isinstance(each, nn.Dropout)] == [
        "dropout"
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"hidden": "64,a"},
            "option mlp.hidden=64,a: must be a list separated by commas",
        ),
        ({"hidden": "6_4"}, "option mlp.hidden=6_4: must be a list separated by commas"),
        ({"hidden": "\u0663"}, "option mlp.hidden=\u0663: must be a list separated by commas"),
        ({"hidden": "64,1.5"}, "option mlp.hidden=64,1.5: must be a list"),
        ({"hidden": ""}, "options of 'mlp': hidden has 0 layers: 1 to 16 allowed"),
        ({"hidden": "0"}, "options of 'mlp': hidden has a layer of 0 units: 1 to 16384"),
        (
            {"width": "3"},
            "unknown option of 'mlp' 'width': known are hidden (see `hydrakit plugins",
        ),
    ],
)
def test_wrong_options_of_a_head_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_options(FACTORIES["mlp"], given)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_giant_head_is_refused_before_it_takes_memory() -> None:
    from hydrakit.models import heads
    from hydrakit.plan import model

    assert heads.MAX_WEIGHTS == model.MAX_WEIGHTS
    tracemalloc.start()
    try:
        with pytest.raises(PlanError, match=r"head 'mlp' with hidden=16384,16384 has 272,662,528 "):
            FACTORIES["mlp"].build(256, 2, MlpOptions(hidden=(2**14, 2**14)))
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
