"""The Python interface, as the package's docstring and `__all__` tell it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import BODY, new_network, plugins

import hydrakit
from hydrakit.errors import PlanError, PluginError
from hydrakit.hooks import DatasetAdapter, FieldOfView, HeadFactory, SequenceStrategy
from hydrakit.plan import BodySpec, Split

PRINT_HEAVY = """
import sys
import hydrakit
assert hydrakit.__version__
assert set(hydrakit.__all__) == set(dir(hydrakit))
print([name for name in ("torch", "numpy", "pydicom", "PIL", "pydantic") if name in sys.modules])
"""


def test_importing_hydrakit_imports_nothing_slow() -> None:
    arguments = [sys.executable, "-c", PRINT_HEAVY]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    assert set(hydrakit.__all__) >= {"run", "make_plan", "load_plugins"}
    for name in hydrakit.__all__:
        assert getattr(hydrakit, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        hydrakit.nothing_of_the_kind  # noqa: B018


def test_from_plan_to_model(tmp_path: Path, data: Path, cache: Path) -> None:
    """The example of the package's docstring, with a body that trains in no time."""
    made = hydrakit.make_plan(
        "hydra",
        ["alpha", "beta", "alpha"],
        plugins=plugins(),
        profile="recommended-0.1",
        epochs=1,
        bootstrap=1,
        batch_size=16,
        splits={"alpha": Split(train=6, val=2, test=2)},
    )
    plan = made.model_copy(update={"body": BODY})
    run = hydrakit.run(
        plan, data=data, out=tmp_path / "first", cache=cache, device="cpu", plugins=plugins()
    )
    model = hydrakit.weights.load_model(run.body_path, run.head_path("alpha"))
    images = torch.randn(3, 1, 16, 16)
    logits = model(images)
    assert logits.shape == (3, 2)
    assert hydrakit.load_plan(run.plan_path) == plan
    body = hydrakit.weights.load_body(run.body_path)
    head = hydrakit.weights.load_head(run.head_path("alpha"))
    assert torch.equal(head(body(images)), logits)


def test_bodies_and_heads_are_saved_and_loaded(tmp_path: Path) -> None:
    body, head = new_network()
    paths = tmp_path / "body.safetensors", tmp_path / "head.safetensors"
    hydrakit.weights.save_body(paths[0], body, trained_on=["alpha"])
    hydrakit.weights.save_head(
        paths[1],
        head,
        body=body,
        dataset="alpha",
        classes=("benign", "malignant"),
        factory="mlp",
        preprocessing=hydrakit.weights.Preprocessing(
            patch=16,
            channels=1,
            field_of_view=FieldOfView(share=1.0),
            normalisation="z-score per patient",
        ),
    )
    images = torch.randn(2, 1, 16, 16)
    expected = head.eval()(body.eval()(images))
    assert torch.equal(hydrakit.weights.load_model(*paths)(images), expected)


def test_the_installed_plugins_are_found() -> None:
    found = hydrakit.load_plugins()
    assert {"prostatex", "brain", "lung"} <= set(found.all(DatasetAdapter))
    assert {"mlp", "linear"} <= set(found.all(HeadFactory))
    assert {"hydra", "transfer", "classical"} <= set(found.all(SequenceStrategy))
    assert hydrakit.load_plugins() is found
    with pytest.raises(PluginError, match="did you mean 'prostatex'"):
        found.get(DatasetAdapter, "prostatx")


def test_a_plan_is_a_value(tmp_path: Path) -> None:
    order = ["prostatex", "brain", "lung", "prostatex"]
    plan = hydrakit.make_plan("hydra", order, profile="paper", seed=4)
    assert isinstance(plan, hydrakit.Plan)
    assert plan == hydrakit.make_plan("hydra", order, profile="paper", seed=4)
    assert plan.body == BodySpec()
    assert len(plan.rounds) == 7
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    assert hydrakit.load_plan(path) == plan
    assert hydrakit.load_plan(path).digest() == plan.digest()
    with pytest.raises(PlanError, match="unknown profile 'papr': did you mean 'paper'"):
        hydrakit.make_plan("hydra", order, profile="papr")
