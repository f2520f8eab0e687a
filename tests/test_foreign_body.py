"""Hydra over a body that knows nothing of hydrakit: a plugin's `nn.Sequential` of twenty lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    ADAPTERS,
    Runner,
    StopError,
    hydra_plan,
    load_dataset,
    plan_of,
    round_of,
    weights_of,
)
from torch import nn

import hydrakit_strategies
from hydrakit import weights
from hydrakit.compute.modules import freeze, is_frozen
from hydrakit.errors import PlanError, PluginError
from hydrakit.hooks import BodyFactory, HeadFactory
from hydrakit.models import heads
from hydrakit.models.body import set_trainable
from hydrakit.models.build import build_body, build_head
from hydrakit.plan import Component, Plan, Round, load_plan
from hydrakit.plan.results import EpochRecord
from hydrakit.plugins import Plugins, load_plugins
from hydrakit.plugins.guard import PluginFault
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.evaluate import evaluate_files
from hydrakit.training.loop import train_round
from hydrakit.training.seeds import Seeds

SOURCE = """
from dataclasses import dataclass

from hydrakit.hooks import BodyFactory, hookimpl


@dataclass(frozen=True)
class Options:
    patch: int = 16
    width: int = 6


def build(in_channels, options, datasets):
    from torch import nn

    class Tiny(nn.Sequential):
        features, patch, by_dataset = options.width, options.patch, False

        def use(self, dataset):
            pass

    body = Tiny(
        nn.Conv2d(in_channels, options.width, 5, stride=2),
        nn.BatchNorm2d(options.width),
        nn.ReLU(),
        nn.Dropout2d(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(options.width),
        nn.Dropout(0.5),
    )
    body.in_channels = in_channels
    return body


@hookimpl
def hydrakit_body_factories():
    yield BodyFactory(name="tiny", summary="one convolution", build=build, options=Options)
"""

Install = Callable[..., Path]
TINY = Component(name="tiny", options={"patch": 16, "width": 6})


@pytest.fixture
def plugins(install: Install) -> Plugins:
    """The stand-ins, the shipped heads and strategies, and the foreign body as it is loaded."""
    install("foreign", "foreign_body", SOURCE)
    foreign = load_plugins().get(BodyFactory, "tiny")
    return Plugins.of(
        *ADAPTERS,
        foreign,
        *heads.hydrakit_head_factories(),
        *hydrakit_strategies.hydrakit_sequence_strategies(),
    )


def foreign_plan(**changes: Any) -> Plan:
    plan = hydra_plan().model_dump() | {"body": TINY, "bootstrap": 3} | changes
    return Plan.model_validate(plan)


class _StopAt(RunCallback):
    """Stop a run after the first epoch of a round."""

    def __init__(self, number: int) -> None:
        self.number = number

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        if number == self.number:
            raise StopError


def test_the_plan_names_the_body_and_survives_a_file(tmp_path: Path) -> None:
    plan = foreign_plan()
    assert plan.patch == 16
    assert '"body": {\n    "name": "tiny",' in plan.to_json()
    (tmp_path / "plan.json").write_text(plan.to_json())
    again = load_plan(tmp_path / "plan.json")
    assert again == plan
    assert again.digest() == plan.digest()


@pytest.mark.parametrize("options", [{}, {"patch": 0}, {"patch": "16"}, {"patch": True}])
def test_a_body_without_a_patch_is_no_plan(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a body needs the option 'patch', from 1 to 1024"):
        foreign_plan(body={"name": "tiny", "options": options})


def test_hydra_trains_a_foreign_body(runner: Runner, plugins: Plugins, tmp_path: Path) -> None:
    plan = foreign_plan()
    run = runner(plan, "whole", plugins=plugins)
    results = run.results()
    assert results is not None
    states = [
        weights.load_body(run.round_file(n, each, "body.safetensors"), plugins=plugins).state_dict()
        for n, each in enumerate(plan.rounds, start=1)
    ]
    for number, each in enumerate(plan.rounds[1:], start=1):
        same = [torch.equal(states[number][name], states[number - 1][name]) for name in states[0]]
        assert all(same) if each.train == "head" else not any(same), each

    for stopped_in in (1, 2):  # a round of all, and a head round
        with pytest.raises(StopError):
            runner(plan, f"stop{stopped_in}", plugins=plugins, callbacks=[_StopAt(stopped_in)])
        resumed = runner(plan, f"stop{stopped_in}", plugins=plugins)
        assert weights_of(resumed.path) == weights_of(run.path)
    shared = {"round_cache": tmp_path / "shared", "plugins": plugins}
    first, second = (runner(plan, name, **shared) for name in ("first", "second"))
    assert weights_of(first.path) == weights_of(second.path) == weights_of(run.path)

    described = weights.read_metadata(run.body_path)
    assert isinstance(described, weights.BodyMetadata)
    assert described.spec.model_dump() == {
        "name": "tiny",
        "options": {"patch": 16, "width": 6},
        "features": 6,
        "datasets": ("alpha", "beta", "gamma"),
    }
    found = evaluate_files(
        run.body_path,
        run.head_path("alpha"),
        data=runner.data,
        splits=run.splits()["alpha"],
        split="test",
        cache=runner.cache,
        plugins=plugins,
    )
    assert found.result.figures == results.test.figures
    with pytest.raises(PluginError, match=r"body.safetensors: unknown body 'tiny'.* install it"):
        weights.load_body(run.body_path, plugins=Plugins.of(*ADAPTERS))

    other = runner(foreign_plan(seed=1), "other", plugins=plugins)
    note = weights.swap(
        other.body_path, run.head_path("alpha"), tmp_path / "swapped", plugins=plugins
    )
    assert note is not None
    assert "was trained on another body" in note
    model = weights.load_model(
        tmp_path / "swapped" / "body.safetensors",
        tmp_path / "swapped" / "heads" / "alpha.safetensors",
        plugins=plugins,
    )
    assert model(torch.zeros(3, 1, 16, 16)).shape == (3, 2)


def test_a_body_whose_shapes_vary_is_refused_before_training(
    runner: Runner, plugins: Plugins
) -> None:
    tiny = plugins.get(BodyFactory, "tiny")
    widths = iter(range(5, 1000))

    def build(in_channels: int, options: Any, datasets: Sequence[str]) -> Any:
        return tiny.build(in_channels, replace(options, width=next(widths)), datasets)

    varying = plugins.including(replace(tiny, build=build))
    with pytest.raises(PluginError, match=r"body 'tiny': two builds .* differ in '.*' \(.*x"):
        runner(foreign_plan(), "varies", plugins=varying)
    assert not (runner.folder / "varies").exists()


def network(plugins: Plugins, dropout: float = 0.0) -> tuple[Any, torch.nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = build_body(foreign_plan().body, in_channels=1, datasets=(), plugins=plugins)
        body.train()(torch.randn(8, 1, 16, 16))
        head = build_head(Component(name="mlp"), features=6, outputs=2, plugins=plugins)
    return body, head


@pytest.mark.parametrize("cached", [True, False])
def test_a_head_round_freezes_it_wholly(
    plugins: Plugins, data: Path, cache: Path, cached: bool
) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache)
    body, head = network(plugins)
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    assert {"1.running_var", "6.num_batches_tracked"} <= set(before)
    round = round_of("alpha", "head", dropout=0.5)
    train_round(round, body, head, loaded, seeds=Seeds(0, 2), cache_features=cached)
    assert is_frozen(body)
    holder = torch.nn.Sequential(body, head).train()
    assert holder.training
    assert head.training
    assert not any(layer.training for layer in body.modules())
    images = torch.randn(8, 1, 16, 16)
    assert torch.equal(body(images), body(images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in body.state_dict().items())
    assert all(parameter.grad is None for parameter in body.parameters())


def test_its_cached_features_train_the_head_that_images_would(
    plugins: Plugins, data: Path, cache: Path
) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache)
    states = []
    for cached in (True, False):
        body, head = network(plugins)
        round = round_of("alpha", "head", dropout=0.5, epochs=3)
        train_round(round, body, head, loaded, seeds=Seeds(0, 2), cache_features=cached)
        states.append(head.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=1e-5)


def test_a_norm_round_trains_every_normalisation_and_no_other_weight(
    plugins: Plugins, data: Path, cache: Path
) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache)
    body, head = network(plugins)
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    train_round(round_of("alpha", "norm"), body, head, loaded, seeds=Seeds(0, 2))
    changed = {n for n, tensor in body.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {name for name in before if not name.startswith("0.")}


def test_heads_differ_by_dataset(runner: Runner, plugins: Plugins) -> None:
    linear = Component(name="linear")
    narrow = Component(name="mlp", options={"hidden": (4,)})
    plan = Plan.model_validate(
        plan_of(round_of("beta"), round_of("gamma", "head"), round_of("alpha")).model_dump()
        | {"heads": {"beta": linear, "gamma": narrow}, "body": TINY}
    )
    assert '"heads": {\n    "beta": "linear",\n    "gamma": {\n' in plan.to_json()
    assert Plan.model_validate_json(plan.to_json()) == plan
    run = runner(plan, plugins=plugins)
    kinds = {
        name: weights.read_metadata(run.head_path(name)) for name in ("alpha", "beta", "gamma")
    }
    assert {name: str(each.factory) for name, each in kinds.items()} == {  # type: ignore[union-attr]
        "alpha": "mlp",
        "beta": "linear",
        "gamma": "mlp (hidden=4)",
    }
    head = weights.load_head(run.head_path("gamma"), plugins=plugins)
    assert [name for name, _ in head.named_children()] == ["hidden1", "elu1", "dropout", "logits"]


def test_one_head_is_not_of_two_kinds() -> None:
    rounds = [round_of("beta", head="shared"), round_of("alpha", head="shared")]
    told = plan_of(*rounds).model_dump()
    with pytest.raises(ValueError, match="'beta' and 'alpha' share the head 'shared', but"):
        Plan.model_validate(told | {"heads": {"beta": "linear"}})
    same = Plan.model_validate(told | {"heads": {"beta": "linear", "alpha": "linear"}})
    assert same.head_of("alpha") == Component(name="linear")
    with pytest.raises(ValueError, match="'delta' of 'heads' is not in 'datasets'"):
        Plan.model_validate(told | {"heads": {"delta": "linear"}})


def test_wrong_options_are_refused_before_anything_is_read(
    runner: Runner, plugins: Plugins, tmp_path: Path
) -> None:
    for changes, said in (
        (
            {"body": {"name": "tiny", "options": {"patch": 16, "widht": 3}}},
            "'widht': did you mean",
        ),
        ({"heads": {"beta": {"name": "mlp", "options": {"hidden": [0]}}}}, "hidden has a layer"),
    ):
        with pytest.raises(PlanError, match=said):
            runner(foreign_plan(**changes), plugins=plugins, cache=tmp_path / "none")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "none").exists()


FAULTS = {
    "no module": ("return None", "build of body 'bad' returned a NoneType: a torch.nn.Module is"),
    "no attribute": ("del Bad.features", "body 'bad' has no attribute 'features'"),
    "other channels": ("Bad.in_channels = 3", "body 'bad' has in_channels 3: 1 is expected"),
    "other patch": ("Bad.patch = 3", "body 'bad' has patch 3: 16 is expected"),
    "other features": (
        "Bad.features = 3",
        r"body 'bad' returned \(2, 256\) for 2 inputs: feat",
    ),
    "raises": ("raise KeyError(3)", "build of body 'bad' raised KeyError: 3"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_body_must_not_do_names_its_plugin(install: Install, fault: str) -> None:
    line, said = FAULTS[fault]
    source = f"""
from dataclasses import dataclass
from hydrakit.hooks import BodyFactory, hookimpl

@dataclass(frozen=True)
class Options:
    patch: int = 16

def build(in_channels, options, datasets):
    from torch import nn
    class Bad(nn.Flatten):
        features, in_channels, patch, by_dataset = 256, 1, 16, False
        def use(self, dataset):
            pass
    {line}
    return Bad()

@hookimpl
def hydrakit_body_factories():
    yield BodyFactory(name="bad", summary="", build=build, options=Options)
"""
    install("faulty", "faulty_body", source)
    with pytest.raises(PluginFault, match=r"^plugin faulty_body \(faulty 1.0\): " + said):
        build_body(
            foreign_plan(body={"name": "bad", "options": {"patch": 16}}).body,
            in_channels=1,
            datasets=(),
            plugins=load_plugins(),
        )


NETWORK_FAULTS = {
    "forward": ("forward(self, images)", "return super().forward(images)"),
    "use": ("use(self, dataset)", "pass"),
}


@pytest.mark.parametrize("method", NETWORK_FAULTS)
@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("ValueError('no such lesion')", "raised ValueError: no such lesion"),
        ("SystemExit(0)", "raised SystemExit: 0"),
    ],
)
def test_an_error_in_training_names_the_plugin_of_the_network(
    install: Install, runner: Runner, method: str, error: str, said: str
) -> None:
    head, rest = NETWORK_FAULTS[method]
    faulty = f"""
        def use(self, dataset):
            pass

        def {head}:
            if self.training:
                raise {error}
            {rest}
"""
    usual = "\n        def use(self, dataset):\n            pass\n"
    install("foreign", f"foreign_{method}", SOURCE.replace(usual, faulty))
    tiny = load_plugins().get(BodyFactory, "tiny")
    known = Plugins.of(*ADAPTERS, tiny, *heads.hydrakit_head_factories())
    plan = Plan.model_validate(plan_of(round_of("alpha")).model_dump() | {"body": TINY})
    with pytest.raises(PluginFault) as caught:
        runner(plan, plugins=known)
    named = f"plugin foreign_{method} (foreign 1.0): {method} of body 'tiny' {said}"
    assert str(caught.value) == named
    log = runner.folder / "run" / "log.txt"
    assert caught.value.log == log
    assert f"foreign_{method}.py" in log.read_text()


@pytest.mark.parametrize("train", ["all", "none"])
def test_features_that_are_not_finite_are_one_line(
    install: Install, runner: Runner, train: str
) -> None:
    usual = "\n        def use(self, dataset):\n            pass\n"
    faulty = f"""{usual}
        def forward(self, images):
            return super().forward(images) * (1.0 if self.training else float("nan"))
"""
    install("foreign", f"foreign_nan_{train}", SOURCE.replace(usual, faulty))
    tiny = load_plugins().get(BodyFactory, "tiny")
    known = Plugins.of(*ADAPTERS, tiny, *heads.hydrakit_head_factories())
    plan = plan_of(round_of("alpha", train)).model_dump() | {"body": TINY}
    with pytest.raises(PlanError) as caught:
        runner(Plan.model_validate(plan), plugins=known)
    assert str(caught.value) == (
        "random start 1 of 1 gives numbers that are not finite for 'alpha', before any training: "
        "correct the code or the options of its body and head"
    )


def test_predictions_that_are_not_finite_are_one_line(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrakit.runs.evaluate import predict

    cases = load_dataset("alpha", data=data, cache=cache).val
    outputs = torch.zeros(len(cases.cases), 2)
    outputs[1, 0] = torch.inf
    monkeypatch.setattr("hydrakit.training.evaluation.forward_in_batches", lambda *_: outputs)
    said = (
        rf"^alpha: the network gives numbers that are not finite for 1 of {len(outputs)} val "
        rf"cases, first {cases.cases[1].key!r}: correct the code of its body or head"
    )
    with pytest.raises(PlanError, match=said):
        predict(nn.Identity(), cases, dataset="alpha", split="val", classes=("a", "b"))


def test_a_body_without_a_patch_is_no_body(install: Install) -> None:
    install("patchless", "patchless", SOURCE.replace("    patch: int = 16\n", ""))
    (record,) = [each for each in load_plugins().records if each.module == "patchless"]
    assert record.error == (
        "body 'tiny' has no option 'patch': height and width of its input images in pixels"
    )
    assert "torch" not in record.error
    assert "patchless" in sys.modules


def test_shipped_heads_are_offered() -> None:
    assert {"mlp", "linear"} <= set(load_plugins().all(HeadFactory))


def test_parameters_that_a_body_fixes_stay_fixed_where_only_normalisation_is_trained() -> None:
    body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    body[2].requires_grad_(False)
    for train, trained in (("head", []), ("norm", [2, 3]), ("all", [0, 1, 2, 3]), ("norm", [2, 3])):
        set_trainable(body, train)
        free = [n for n, each in enumerate(body.parameters()) if each.requires_grad]
        assert free == trained


def test_parameters_that_a_body_fixes_stay_fixed() -> None:
    body = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    body[0].requires_grad_(False)
    for frozen in (True, False, True, False):
        freeze(body, frozen)
        assert [each.requires_grad for each in body[0].parameters()] == [False, False]
        assert [each.requires_grad for each in body[1].parameters()] == [not frozen, not frozen]
