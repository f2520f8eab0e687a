"""Checks of heads and bodies: hydrakit's own pass, and broken ones are named with what to do."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers import ADAPTERS
from torch import Tensor, nn
from torch.nn import functional

from hydrakit.export import programs
from hydrakit.hooks import BodyFactory, HeadFactory, InputNeeds, NamedComponent
from hydrakit.models.bodies import hydrakit_body_factories
from hydrakit.models.heads import hydrakit_head_factories
from hydrakit.plugins import Plugins
from hydrakit.plugins.guard import PluginSource, guard
from hydrakit.testing import CheckedProperty, check_body, check_head, check_properties
from hydrakit.testing.networks import (
    BODY_PROPERTIES,
    DATASETS,
    HEAD_PROPERTIES,
    NetworkSubject,
)
from hydrakit.testing.whole import WHOLE_PROPERTIES, PluginSubject

HEADS = {each.name: each for each in hydrakit_head_factories()}
BODIES = {each.name: each for each in hydrakit_body_factories()}
LOGITS = "outputs are logits, not probabilities"
ONNX = "can be exported to ONNX"


@dataclass(frozen=True)
class Options:
    patch: int = 8
    kind: Literal["wide", "narrow"] = "wide"


class Body(nn.Module):
    """A body without faults."""

    features, by_dataset = 3, False

    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__()
        self.in_channels, self.patch = in_channels, options.patch
        self.conv = nn.Conv2d(in_channels, 3, kernel_size=3)
        self.norm = nn.GroupNorm(1, 3)
        self.dropout = nn.Dropout()

    def use(self, dataset: str) -> None:
        pass

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.conv(images))
        features: Tensor = self.dropout(maps.mean((2, 3)) + maps.amax((2, 3)))
        return features


class Scaled(Body):
    """A body without faults that has a weight for each dataset."""

    by_dataset, dataset = True, DATASETS[0]

    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        self.scales = nn.ParameterDict({name: torch.ones(1) for name in DATASETS})

    def use(self, dataset: str) -> None:
        if dataset not in self.scales:
            raise ValueError(f"not built for {dataset!r}")
        self.dataset = dataset

    def forward(self, images: Tensor) -> Tensor:
        scaled: Tensor = super().forward(images) * self.scales[self.dataset]
        return scaled


def body_of(network: type[Body], **changes: Any) -> BodyFactory:
    return BodyFactory(
        name="own",
        summary="",
        build=lambda channels, options, datasets: network(channels, options),
        options=Options,
        **changes,
    )


def head_of(build: Callable[[int, int], nn.Module], **changes: Any) -> HeadFactory:
    return HeadFactory(
        name="own",
        summary="",
        build=lambda features, outputs, _: build(features, outputs),
        **changes,
    )


def results(factory: HeadFactory | BodyFactory, folder: Path) -> dict[str, CheckedProperty]:
    """All properties but that of ONNX, which takes seconds."""
    properties = HEAD_PROPERTIES if isinstance(factory, HeadFactory) else BODY_PROPERTIES
    chosen = [each for each in properties if each.name != ONNX]
    checked = check_properties("it", NetworkSubject(factory, {}, folder), chosen)
    return {each.name: each for each in checked}


def fault(factory: HeadFactory | BodyFactory, name: str, folder: Path) -> str:
    properties = HEAD_PROPERTIES if isinstance(factory, HeadFactory) else BODY_PROPERTIES
    chosen = [each for each in properties if each.name == name]
    (checked,) = check_properties("it", NetworkSubject(factory, {}, folder), chosen)
    assert checked.fault is not None, checked
    assert "\n" not in checked.fault
    return checked.fault


@pytest.mark.parametrize(
    "factory",
    [HEADS["linear"], HEADS["blend"], body_of(Scaled), BODIES["intensity"]],
    ids=lambda each: each.name,
)
def test_what_has_no_fault_passes(factory: HeadFactory | BodyFactory, tmp_path: Path) -> None:
    checked = results(factory, tmp_path)
    assert len(checked) >= 18
    assert {name: each.fault for name, each in checked.items() if each.fault or each.skipped} == {}


@pytest.mark.slow
@pytest.mark.parametrize("factory", [*HEADS.values(), *BODIES.values()], ids=lambda each: each.name)
def test_heads_and_bodies_of_hydrakit_pass(factory: HeadFactory | BodyFactory) -> None:
    if isinstance(factory, HeadFactory):
        check_head(factory)
    else:
        check_body(factory)


class NoShape(Body):
    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        self.extra = nn.Parameter(torch.zeros(int(torch.randint(1, 1000, ()))))


class NumpyWeights(Body):
    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        with torch.no_grad():
            self.conv.bias.copy_(torch.from_numpy(np.random.default_rng().normal(size=3)))


class NoNarrow(Body):
    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        if options.kind == "narrow":
            raise RuntimeError("not yet")


class OnePatch(Body):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.reshape(-1, self.in_channels, 8, 8))


class Doubles(Body):
    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        torch.set_default_dtype(torch.float64)


class PlainTensor(Body):
    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        self.shift = torch.ones(3)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.shift


class WideInTraining(Body):
    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return torch.cat([features, features], dim=1) if self.training else features


class BatchMean(Body):
    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features - features.mean(dim=0)


class RandomFeatures(Body):
    def forward(self, images: Tensor) -> Tensor:
        return functional.dropout(super().forward(images))


class InPlace(Body):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.clamp_(-1, 1))


class Keeper(Body):
    def forward(self, images: Tensor) -> Tensor:
        self.last = super().forward(images)
        return self.last.clone()


class NoGradient(Body):
    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        self.unused = nn.Linear(3, 3)


class NaNGradient(Body):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + (self.conv.weight.mean() * 0).abs().sqrt()


class SmallMaps(Body):
    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        self.last = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.last(super().forward(images))
        return features


class NoBfloat16(Body):
    def forward(self, images: Tensor) -> Tensor:
        features = torch.zeros(len(images), 3)
        maps = self.conv(images).mean((2, 3))
        return features.index_add_(0, torch.arange(len(images)), maps)


class OwnDropout(Body):
    class Dropout(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return functional.dropout(features, training=self.training)

    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        self.dropout = self.Dropout()


class Counter(Body):
    """Its features depend on how often it was trained, which no tensor says."""

    steps = 0

    def forward(self, images: Tensor) -> Tensor:
        self.steps += self.training
        return super().forward(images) * (1 + self.steps)


class OtherRandom(Body):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (random.random() if self.training else 1)


class NotFrozen(Body):
    def __init__(self, in_channels: int, options: Options) -> None:
        super().__init__(in_channels, options)
        self.register_buffer("middle", torch.zeros(3))

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        self.middle.lerp_(features.detach().mean(dim=0), 0.1)
        return features - self.middle


class HiddenStatistics(Body):
    factor = 1.0

    def use(self, dataset: str) -> None:
        self.factor = 2.0 if dataset == "second" else 1.0

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.factor


class AnyDataset(HiddenStatistics):
    by_dataset = True


@pytest.mark.parametrize(
    ("network", "name", "words"),
    [
        (NoShape, "all builds have tensors of the same", "differ in 'extra'"),
        (NumpyWeights, "the same seed gives the same", "differ in 'conv.bias': draw initial"),
        (NoNarrow, "each value of its options", "with kind=narrow: plugin "),
        (OnePatch, "all numbers of channels and sizes", "with in_channels=1, patch=9: "),
        (Doubles, "leaves the process as it is", "changed torch's default number type"),
        (PlainTensor, "tensors are parameters or buffers", "shift is a tensor, but neither"),
        (WideInTraining, "outputs are finite", "4 cases in training mode it returns (4, 6): "),
        (BatchMean, "outputs do not depend", "% with the other cases of its batch"),
        (RandomFeatures, "evaluations repeat", "from one time to the next: draw random numbers"),
        (NotFrozen, "evaluations repeat", "an evaluation changes 'middle': change buffers only"),
        (InPlace, "its input is neither", "in evaluation mode it changes its input, which"),
        (Keeper, "its input is neither", "in evaluation mode it keeps its input, or what was"),
        (NoGradient, "each weight gets", "no gradient reaches 'unused.bias', 'unused.weight' in"),
        (NaNGradient, "each weight gets", "the gradient of 'conv.weight' is not finite"),
        (SmallMaps, "a batch of one case", "may hold one case: use group or layer norm, or a"),
        (NoBfloat16, "bfloat16 gives", "RuntimeError: index_add_(): self "),
        (OwnDropout, "dropout can be set", "set the probability of 'dropout': use torch.nn"),
        (Keeper, "can be copied", "after a training step, copy.deepcopy of it fails"),
        (Counter, "saved and loaded", "a new one gives other features than the trained one"),
        (Counter, "stopped and resumed", "it ends with other 'conv.bias', 'conv.weight', 'norm."),
        (OtherRandom, "stopped and resumed", "and random numbers must be torch's"),
        (NotFrozen, "frozen, it stays", "a round that freezes the body changes its 'middle'"),
        (HiddenStatistics, "`use` treats", "and by_dataset is False: set by_dataset to True"),
        (AnyDataset, "`use` treats", "it was not built for must raise ValueError"),
    ],
)
def test_a_broken_body_is_named(network: type[Body], name: str, words: str, tmp_path: Path) -> None:
    (full,) = [each.name for each in BODY_PROPERTIES if each.name.startswith(name)]
    assert words in fault(body_of(network), full, tmp_path)


def test_an_installed_component_is_checked_without_its_guard(tmp_path: Path) -> None:
    installed = guard(body_of(Doubles), PluginSource("own", "hydrakit-own", "1.0"))
    name = "leaves the process as it is"
    assert "changed torch's default number type" in fault(installed, name, tmp_path)
    broken = guard(body_of(NoNarrow), PluginSource("own", "hydrakit-own", "1.0"))
    said = fault(broken, "each value of its options can be built", tmp_path)
    assert "with kind=narrow: plugin own (hydrakit-own 1.0): build of body" in said


def test_a_least_patch_that_its_body_cannot_use_is_named(tmp_path: Path) -> None:
    name = BODY_PROPERTIES[1].name
    small = body_of(Body, needs=InputNeeds(patch=2))
    assert "in_channels=3" not in fault(small, name, tmp_path)
    assert "with in_channels=1, patch=2: " in fault(small, name, tmp_path)
    large = body_of(Body, needs=InputNeeds(patch=9))
    assert "its patch of 8 pixels is smaller than its needs.patch, 9" in fault(
        large, name, tmp_path
    )


def test_what_cannot_be_built_has_one_fault(tmp_path: Path) -> None:
    def build(features: int, outputs: int) -> nn.Module:
        raise ValueError("no weights here")

    checked = results(head_of(build), tmp_path)
    assert [each.fault for each in checked.values() if each.fault] == [
        f"plugin {__name__} (under test): build of head 'own' raised ValueError: no weights here"
    ]
    assert all(each.skipped for each in list(checked.values())[1:])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda features, outputs: nn.Sequential(
                nn.BatchNorm1d(features), nn.Linear(features, outputs)
            ),
            "a batch of one case can be trained on: ValueError: Expected more than 1 value per",
        ),
        (
            lambda features, outputs: nn.Sequential(
                nn.Linear(features, features // 8), nn.Linear(features // 8, outputs)
            ),
            "all numbers of features and outputs can be built: with features=1, outputs=2: ",
        ),
        (
            lambda features, outputs: nn.Sequential(
                nn.ReLU(inplace=True), nn.Linear(features, outputs)
            ),
            "its input is neither changed nor kept: in evaluation mode it changes its input",
        ),
    ],
)
def test_a_broken_head_is_named(
    build: Callable[[int, int], nn.Module], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda name: None)  # no ONNX, which takes seconds
    with pytest.raises(AssertionError) as caught:
        check_head(head_of(build))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"head 'own': {words}")


@pytest.mark.parametrize(
    ("last", "tasks", "words"),
    [
        (
            nn.Softmax(1),
            ("regression", "classification"),
            "outputs are probabilities: return logits, without softmax",
        ),
        (
            nn.LogSoftmax(1),
            ("classification",),
            "outputs are logarithms of probabilities: return logits, without log_softmax",
        ),
        (
            nn.Sigmoid(),
            ("multilabel",),
            "all outputs are between 0 and 1, as probabilities: return logits, without sigmoid",
        ),
    ],
)
def test_a_head_that_returns_probabilities_is_named(
    last: nn.Module, tasks: tuple[Any, ...], words: str, tmp_path: Path
) -> None:
    broken = head_of(
        lambda features, outputs: nn.Sequential(nn.Linear(features, outputs), last),
        tasks=tasks,
    )
    assert fault(broken, LOGITS, tmp_path) == words


@pytest.mark.parametrize("name", HEADS)
def test_logits_of_hydrakit_are_logits(name: str, tmp_path: Path) -> None:
    (logits,) = (each for each in HEAD_PROPERTIES if each.name == LOGITS)
    (checked,) = check_properties("it", NetworkSubject(HEADS[name], {}, tmp_path), [logits])
    assert checked.fault is None
    assert not checked.skipped


@pytest.mark.parametrize("begin", [nn.init.zeros_, nn.init.ones_])
def test_constant_logits_are_no_probabilities(
    begin: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    def build(features: int, outputs: int) -> nn.Module:
        head = nn.Linear(features, outputs)
        nn.init.zeros_(head.weight)
        begin(head.bias)
        return head

    (logits,) = (each for each in HEAD_PROPERTIES if each.name == LOGITS)
    (checked,) = check_properties("it", NetworkSubject(head_of(build), {}, tmp_path), [logits])
    assert checked.fault is None


class Growing(nn.Linear):
    """A head that gets a further weight in training."""

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.register_buffer("seen", torch.ones(1))
        return super().forward(features)


def test_tensors_that_training_adds_are_named_without_a_file(tmp_path: Path) -> None:
    saved = fault(head_of(Growing), "saved and loaded, it is the same", tmp_path)
    assert 'Unexpected key(s) in state_dict: "seen"' in saved
    name = "stopped and resumed, it is trained to the same bits"
    resumed = fault(head_of(Growing), name, tmp_path)
    assert "it cannot be resumed: a new one has other tensors" in resumed
    assert "delete" not in saved + resumed


def test_no_further_values_are_said_in_words(tmp_path: Path) -> None:
    checked = results(head_of(nn.Linear), tmp_path)
    assert checked["each value of its options can be built"].note == "no further values to try"


def test_importing_the_checks_does_not_import_torch() -> None:
    code = "import sys, hydrakit.testing as t; sys.exit('torch' in sys.modules or not t.__all__)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def whole(folder: Path, *components: NamedComponent, data: Path | None = None) -> list[Any]:
    """What is checked of a plugin as a whole."""
    shipped = Plugins.of(*BODIES.values(), *HEADS.values(), *components)
    subject = PluginSubject(components, shipped, data, folder)
    return list(check_properties("all", subject, WHOLE_PROPERTIES))


def test_a_plugin_works_as_a_whole(data: Path, tmp_path: Path) -> None:
    dataset = ADAPTERS[3]  # of three classes
    checked = whole(tmp_path, dataset, body_of(Body), data=data)
    assert [each.fault for each in checked] == [None, None, None]
    assert checked[0].note == (
        "3 rounds of strategy 'check-plain' on dataset 'delta', with body 'own' and head 'mlp'"
    )
    assert checked[2].note == "2 heads"


def test_a_run_that_does_not_resume_is_named(tmp_path: Path) -> None:
    finishes, resumes, moves = whole(tmp_path, body_of(Counter))
    assert "on synthetic images, with body 'own'" in finishes.note
    assert resumes.fault is not None
    assert "other files, such as body.safetensors: what" in resumes.fault
    assert moves.fault is None


def test_a_run_that_fails_has_one_fault(tmp_path: Path) -> None:
    finishes, *others = whole(tmp_path, body_of(NaNGradient))
    assert "the loss is not finite in epoch 1" in str(finishes.fault)
    assert [(each.skipped, each.note) for each in others] == [(True, "the run fails")] * 2
