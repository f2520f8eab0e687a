from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from hydrakit.compute.modules import set_dropout
from hydrakit.errors import PlanError
from hydrakit.hooks import BodyFactory
from hydrakit.plugins import load_plugins
from hydrakit_timm import LEAST_PATCH, TimmOptions, build, import_timm


@pytest.fixture
def timm() -> ModuleType:
    """The package timm; the test is skipped where it cannot be imported."""
    try:
        module: ModuleType = import_timm()
    except PlanError as error:
        pytest.skip(str(error))
    return module


@pytest.mark.parametrize("network", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_the_features_are_what_the_classifier_gets(timm: ModuleType, network: str) -> None:
    whole = timm.create_model(network, in_chans=2, num_classes=3).eval()
    dense = whole.get_classifier()
    body = build(2, TimmOptions(network=network), ())
    assert body.features == dense.in_features
    state = whole.state_dict()
    body.net.load_state_dict({name: state[name] for name in body.net.state_dict()})
    images = torch.randn(2, 2, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(dense(body.eval()(images)), whole(images), rtol=0, atol=1e-3)
    set_dropout(body, 0.5)
    assert (body.train()(images) == 0).any()


def test_an_unknown_network_is_refused(timm: ModuleType) -> None:
    with pytest.raises(PlanError, match="timm has no network 'resnet3'"):
        build(1, TimmOptions(network="resnet3"), ())


def test_the_plugin_offers_the_body() -> None:
    factory = load_plugins().get(BodyFactory, "timm")
    assert factory.options is TimmOptions
    assert (factory.needs.patch, TimmOptions().patch) == (LEAST_PATCH, LEAST_PATCH)


def test_without_timm_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(PlanError, match=r"timm and torchvision, .* torchvision::nms .*\[timm\]"):
        build(1, TimmOptions(), ())


def test_importing_the_plugin_imports_neither_timm_nor_torch() -> None:
    code = "import sys, hydrakit_timm; assert not {'timm', 'torch', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
