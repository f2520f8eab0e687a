from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from hydrakit import weights
from hydrakit.compute.modules import set_dropout
from hydrakit.errors import PlanError
from hydrakit.hooks import BodyFactory
from hydrakit.models.body import NetworkBody
from hydrakit.plan.model import OtherBody
from hydrakit.plugins import load_plugins
from hydrakit_monai import LEAST_PATCH, MonaiOptions, NetworkName, build, build_classifier

needs_monai = pytest.mark.skipif(
    importlib.util.find_spec("monai") is None, reason="needs hydrakit-imaging[monai]"
)
ONE_OF_EACH: tuple[NetworkName, ...] = ("densenet121", "resnet10", "seresnet50", "efficientnet-b0")


def body_of(network: NetworkName = "resnet10", in_channels: int = 2) -> NetworkBody:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(in_channels, MonaiOptions(network=network), ())


@needs_monai
@pytest.mark.parametrize("network", ONE_OF_EACH)
def test_the_features_are_what_the_classifier_gets(network: NetworkName) -> None:
    whole = build_classifier(network, in_channels=2, outputs=3).eval()
    dense = [each for each in whole.modules() if isinstance(each, nn.Linear)][-1]
    assert dense.out_features == 3
    body = body_of(network)
    assert body.features == dense.in_features
    names = whole.state_dict().keys() & body.net.state_dict().keys()
    assert len(names) == len(body.net.state_dict()) == len(whole.state_dict()) - 2
    body.net.load_state_dict({name: whole.state_dict()[name] for name in names})
    images = torch.randn(2, 2, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(dense(body.eval()(images)), whole(images), rtol=0, atol=1e-3)
    set_dropout(body, 0.5)
    features = body.train()(images[:1])  # the last batch of an epoch may be one image
    assert 0.3 < (features == 0).float().mean() < 0.9


@needs_monai
def test_training_draws_no_random_numbers_but_those_of_dropout() -> None:
    body, images = body_of("efficientnet-b0").train(), torch.randn(2, 2, 64, 64)
    assert torch.equal(body(images), body(images))


@needs_monai
def test_a_resnet_has_the_tensors_of_torchvisions() -> None:
    state = body_of("resnet10").net.state_dict()
    assert state["conv1.weight"].shape == (64, 2, 7, 7)
    assert {"bn1.running_var", "layer1.0.conv2.weight", "layer2.0.downsample.1.weight"} <= set(
        state
    )
    assert "layer2.0.downsample.0.bias" not in state


@needs_monai
def test_a_saved_body_is_loaded_as_it_was(tmp_path: Path) -> None:
    body = body_of()
    component = OtherBody(name="monai", options={"network": "resnet10", "patch": 64})
    weights.save_body(tmp_path / "body.safetensors", body, component=component)
    loaded = weights.load_body(tmp_path / "body.safetensors")
    images = torch.randn(2, 2, 64, 64)
    assert torch.equal(loaded(images), body.eval()(images))


def test_the_plugin_offers_the_body() -> None:
    factory = load_plugins().get(BodyFactory, "monai")
    assert factory.options is MonaiOptions
    assert (factory.needs.patch, MonaiOptions().patch) == (LEAST_PATCH, LEAST_PATCH)
    assert set(ONE_OF_EACH) < set(get_args(NetworkName))


def test_without_monai_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PlanError, match=r"needs the package MONAI: `pip install 'hydrakit-imaging"):
        build(1, MonaiOptions(), ())


@needs_monai
def test_importing_monai_leaves_the_process_as_it_is() -> None:
    code = """
from hydrakit.plugins.process_state import restored
from hydrakit_monai import MonaiOptions, build
changed = []
with restored(changed.extend):
    build(1, MonaiOptions(network="resnet10"), ())
assert not changed, changed
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_plugin_imports_neither_monai_nor_torch() -> None:
    code = "import sys, hydrakit_monai; assert not {'monai', 'torch', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
