"""Checks of heads and bodies: everything that training, weight files and export rely on.

A head is checked with a small body of hydrakit, and a body with a head of one dense layer. They are
trained, saved, loaded and exported by the functions that do so for a run.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from hydrakit import weights
from hydrakit.compute.devices import Compute
from hydrakit.compute.modules import count_parameters, is_dropout, output_of, set_dropout
from hydrakit.data.load import LoadedDataset, load
from hydrakit.data.prepared.prepare import prepare
from hydrakit.errors import HydrakitError, PlanError, WeightsError, one_line
from hydrakit.export.model import export_model
from hydrakit.export.programs import check_onnx_installed
from hydrakit.hooks import BodyFactory, FieldOfView, HeadFactory, OptionValue, Task
from hydrakit.models import bodies, heads
from hydrakit.models.body import BodyModule, BodyWithHead
from hydrakit.models.build import build_body, build_head, shapes_fault, shapes_of
from hydrakit.plan.model import PAPER, BodySpec, Component, OtherBody
from hydrakit.plan.results import EpochRecord
from hydrakit.plugins.guard import PluginSource, describe_error, guard, unguarded
from hydrakit.plugins.options import option_fields, option_text, resolve_options
from hydrakit.plugins.process_state import restored
from hydrakit.plugins.registry import Plugins
from hydrakit.rounds import Hyperparameters, Round, Train
from hydrakit.schema import first_fault
from hydrakit.testing.properties import (
    CheckedProperty,
    Property,
    PropertySkipped,
    check_properties,
    require,
)
from hydrakit.testing.synthetic import CLASSES, synthetic_dataset
from hydrakit.training.checkpoint import Checkpointer
from hydrakit.training.loop import train_round
from hydrakit.training.seeds import Seeds, seeded
from hydrakit.training.step import Step
from hydrakit.weights.format import tensor_digest

FEATURES = (256, 139, 11, 1)
"""Numbers of features: of the bodies `paper`, `small` with intensities, `intensity`; the least."""

OUTPUTS: Mapping[Task, tuple[int, ...]] = {
    "classification": (2, 3),
    "regression": (1,),
    "multilabel": (1, 2, 3),
}
CHANNELS = (1, 3)
DATASETS = ("first", "second")
CASES = 4  # of a batch
MANY, LARGE = 64, 100.0  # cases, and a factor of their features, that show a softmax or sigmoid
TRAINING, VALIDATION = 8, 4  # cases of the synthetic dataset
BUILDS = 4  # that are compared with each other
STEPS = 3  # within which each weight must get a gradient: it may wait for one that begins at 0
SETTINGS = Hyperparameters(
    learning_rate=1e-3,
    dropout=0.25,
    batch_size=CASES,
    epochs=2,
    patience=None,
    augmentation="none",
    select="last",
    penalty=1.0,
)
CPU = torch.device("cpu")
SAME = 1e-3  # largest difference of outputs that rounding explains, as a share of the largest one
SAME_IN_BFLOAT16 = 0.1


@dataclass(frozen=True)
class NetworkSubject:
    """A head or a body to check.

    Attributes:
        factory: Its factory.
        options: Some of its options, as a user would give them; the others have their defaults.
        folder: Empty folder for the files of the checks.
    """

    factory: HeadFactory | BodyFactory
    options: Mapping[str, OptionValue]
    folder: Path

    @property
    def is_head(self) -> bool:
        """Whether it is a head."""
        return isinstance(self.factory, HeadFactory)

    @property
    def outputs_are(self) -> str:
        """What it computes for a case."""
        return "logits" if self.is_head else "features"

    @cached_property
    def plugins(self) -> Plugins:
        """Its factory, and the heads and bodies of hydrakit."""
        factory = self.factory
        if unguarded(factory) is factory:  # what it builds is then checked as in a run
            factory = guard(factory, PluginSource(factory.build.__module__, "under", "test"))
        shipped = (*bodies.hydrakit_body_factories(), *heads.hydrakit_head_factories())
        return Plugins.of(*shipped, factory)

    @cached_property
    def can_be_built(self) -> bool:
        """Whether it can be built at all; else nothing more can be checked."""
        try:
            self.build()
        except (Exception, SystemExit):  # the first property says which
            return False
        return True

    @property
    def task(self) -> Task:
        """Kind of label that it is trained on."""
        return self.factory.tasks[0] if isinstance(self.factory, HeadFactory) else "classification"

    @property
    def channels(self) -> tuple[int, ...]:
        """Numbers of channels of images that it is checked with, the usual one first."""
        needed = None if isinstance(self.factory, HeadFactory) else self.factory.needs.channels
        return CHANNELS if needed is None else needed

    @cached_property
    def features(self) -> int:
        """Number of features of a head: the first of `FEATURES` that it does not refuse."""
        for count in FEATURES:
            with suppress(PlanError):
                self.build(features=count)
                return count
        return FEATURES[0]

    @property
    def partner(self) -> OtherBody:
        """The body of a head; its last features are intensities, which some heads need."""
        intensities = self.features > FEATURES[2]
        own = self.features - FEATURES[2] * intensities
        options = {"channels": (4,), "patch": 8, "features": own, "intensities": intensities}
        return OtherBody.model_validate({"name": "small", "options": options})

    def body(self, options: Mapping[str, OptionValue] | None = None) -> BodySpec | OtherBody:
        """The body, or that of a head, as a plan and a weight file name it.

        Raises:
            PlanError: It refuses an option.
        """
        if self.is_head:
            return self.partner
        chosen = resolve_options(self.factory, {**self.options, **(options or {})})
        try:
            if self.factory.name == PAPER:
                return BodySpec.model_validate(chosen)
            return OtherBody.model_validate({"name": self.factory.name, "options": chosen})
        except ValidationError as error:
            raise PlanError(first_fault(error)) from None

    def head(self, options: Mapping[str, OptionValue] | None = None) -> Component:
        """The head, or that of a body, as a plan and a weight file name it.

        Raises:
            PlanError: It refuses an option.
        """
        if not self.is_head:
            return Component(name="linear")
        return Component.of(self.factory, {**self.options, **(options or {})})

    def build(
        self,
        *,
        seed: int = 0,
        options: Mapping[str, OptionValue] | None = None,
        features: int | None = None,
        outputs: int | None = None,
        channels: int | None = None,
    ) -> nn.Module:
        """Build it as a run does, with usual values where none are given.

        Raises:
            PlanError: It refuses an option or a size.
            PluginError: It is no head or no body.
        """
        with seeded(seed, CPU):
            if not self.is_head:
                return self._build_body(self.body(options), channels or self.channels[0])
            return build_head(
                self.head(options),
                features=features or self.features,
                outputs=outputs or len(CLASSES[self.task]),
                plugins=self.plugins,
            )

    def _build_body(self, body: BodySpec | OtherBody, channels: int) -> BodyModule:
        built = build_body(body, in_channels=channels, datasets=DATASETS, plugins=self.plugins)
        built.use(DATASETS[0])
        return built

    def pair(self, module: nn.Module) -> tuple[BodyModule, nn.Module]:
        """The head with a body, or the body with a head."""
        with seeded(1, CPU):
            if self.is_head:
                return self._build_body(self.partner, self.channels[0]), module
            body = cast("BodyModule", module)
            outputs = len(CLASSES[self.task])
            head = build_head(
                self.head(), features=body.features, outputs=outputs, plugins=self.plugins
            )
            return body, head

    def inputs(self, count: int, *, seed: int = 0) -> Tensor:
        """Random features ``(count, features)`` for a head, or images for a body."""
        patch = self.body().patch
        shape = (self.features,) if self.is_head else (self.channels[0], patch, patch)
        return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))

    def step(self, module: nn.Module, *, bfloat16: bool = False) -> Callable[[Tensor], Tensor]:
        """A function that trains on a batch, without dropout, and returns the outputs before it."""
        model = module if self.is_head else BodyWithHead(*self.pair(module))
        set_dropout(model.train(), 0.0)
        step = Step(model, Compute(CPU, "bfloat16" if bfloat16 else "float32"), SETTINGS)

        def train(inputs: Tensor) -> Tensor:
            labels, outputs = torch.arange(len(inputs)), len(CLASSES[self.task])
            if self.task == "classification":
                return step(inputs, labels % outputs, self.task)
            return step(inputs, (labels[:, None] + torch.arange(outputs)) % 2.0, self.task)

        return train

    @cached_property
    def data(self) -> LoadedDataset:
        """Synthetic images to train on."""
        patch, root = self.body().patch, self.folder / "images"
        adapter = synthetic_dataset(
            DATASETS[0], cases=TRAINING + VALIDATION, task=self.task, channels=self.channels[0]
        )
        root.mkdir(exist_ok=True)
        cache = self.folder / "cache"
        prepared = prepare(adapter, root, options={}, patch=patch, cache=cache)
        keys = [case.key for case in prepared.index.cases]
        splits = {key: "train" if row < TRAINING else "val" for row, key in enumerate(keys)}
        return load(prepared, adapter, splits=splits, patch=patch, device=CPU)

    def trained(
        self,
        train: Train,
        module: nn.Module | None = None,
        *,
        checkpointer: Checkpointer | None = None,
        on_epoch: Callable[[EpochRecord], None] = lambda _: None,
        cache_features: bool = True,
    ) -> nn.Module:
        """Train a round of two epochs as a run does.

        Args:
            train: What the round trains.
            module: The head or the body; None builds one.
            checkpointer: As in `train_round`, and so are the others.
            on_epoch: Called after each epoch.
            cache_features: Whether the features of a frozen body are computed once.
        """
        module = self.build() if module is None else module
        body, head = self.pair(module)
        train_round(
            Round(dataset=DATASETS[0], train=train, head="head", hyperparameters=SETTINGS),
            body,
            head,
            self.data,
            seeds=Seeds(0, 1),
            compute=Compute(CPU),
            on_epoch=on_epoch,
            checkpointer=checkpointer,
            cache_features=cache_features,
        )
        return module

    def save(self, module: nn.Module) -> tuple[Path, Path]:
        """Write body and head into a new folder, as that of a model; return both paths."""
        body, head = self.pair(module)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        body_path, head_path = weights.weight_paths(folder, DATASETS[0])
        weights.save_body(body_path, body, component=self.body(), datasets=DATASETS)
        weights.save_head(
            head_path,
            head,
            body=body,
            dataset=DATASETS[0],
            classes=CLASSES[self.task],
            factory=self.head(),
            preprocessing=weights.Preprocessing(
                patch=body.patch,
                channels=body.in_channels,
                field_of_view=FieldOfView(share=1.0),
                normalisation="z-score per patient",
            ),
            task=self.task,
            scale=(0.0, 1.0) if self.task == "regression" else None,
        )
        return body_path, head_path

    def evaluated(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Outputs for some inputs in evaluation mode, without gradients."""
        with torch.no_grad():
            outputs: Tensor = module.eval()(inputs)
        return outputs


def _builds(subject: NetworkSubject) -> str:
    module = subject.build()
    return f"{len(module.state_dict())} tensors, {count_parameters(module):,} weights"


def _leaves_the_process(subject: NetworkSubject) -> str:
    """The guard of a plugin would put the state back, so it is left out."""
    factory, changed = unguarded(subject.factory), list[str]()
    options, inputs = factory.options(**_chosen_options(subject)), subject.inputs(CASES)
    with restored(changed.extend):
        if subject.is_head:
            module = factory.build(subject.features, len(CLASSES[subject.task]), options)
        else:
            module = factory.build(subject.channels[0], options, DATASETS)
            module.use(DATASETS[0])
        module.train()(inputs)
        module.eval()(inputs)
    assert not changed, (
        f"building or computing changed {', '.join(changed)}, for the whole process: set it in a "
        "`with` block that restores it"
    )
    return ""


def _chosen_options(subject: NetworkSubject) -> dict[str, OptionValue]:
    return resolve_options(subject.factory, subject.options)


def _choices(subject: NetworkSubject) -> str:
    chosen, built, refused = _chosen_options(subject), 0, list[str]()
    for field in option_fields(subject.factory.options):
        for value in field.values:
            text = f"{field.name}={option_text(value)}"
            if value == chosen[field.name]:
                continue
            try:
                subject.build(options={field.name: value})
            except PlanError as error:
                refused.append(f"{text} is refused ({one_line(str(error), 80)})")
            except Exception as error:
                raise AssertionError(f"with {text}: {_said(error)}") from error
            else:
                built += 1
    if not (built or refused):
        return "no further values to try"
    return "; ".join([f"further values: {built}", *refused])


def _sizes_of_head(subject: NetworkSubject) -> str:
    assert isinstance(subject.factory, HeadFactory)
    counts = sorted({count for task in subject.factory.tasks for count in OUTPUTS[task]})
    built, refused = list[str](), list[str]()
    for features in sorted(FEATURES):
        for outputs in counts:
            text = f"features={features}, outputs={outputs}"
            try:
                subject.build(features=features, outputs=outputs)
            except PlanError as error:
                refused.append(f"{text} is refused ({one_line(str(error), 80)})")
            except Exception as error:
                raise AssertionError(
                    f"with {text}: {_said(error)}: build any size, or raise PlanError"
                ) from error
            else:
                built.append(text)
    return "; ".join([f"{len(built)} sizes, up to {built[-1]}", *refused])


def _sizes_of_body(subject: NetworkSubject) -> str:
    factory = subject.factory
    assert isinstance(factory, BodyFactory)
    usual, least = subject.body().patch, factory.needs.patch
    assert usual >= least, f"its patch of {usual} pixels is smaller than its needs.patch, {least}"
    built, refused = list[str](), list[str]()
    for channels in subject.channels:
        for patch in sorted({usual, usual + 1, *([least] if least > 1 else [])}):
            text = f"in_channels={channels}, patch={patch}"
            try:
                subject.build(channels=channels, options={"patch": patch})
            except PlanError as error:
                if patch in (usual, least):
                    raise AssertionError(f"with {text}: {error}") from error
                refused.append(f"{text} is refused ({one_line(str(error), 80)})")
            except Exception as error:
                raise AssertionError(
                    f"with {text}: {_said(error)}: say what it can use in `needs`, or "
                    "raise ValueError in __post_init__ of its options"
                ) from error
            else:
                built.append(text)
    return "; ".join([f"{len(built)} sizes, up to {built[-1]}", *refused])


def _same_shapes(subject: NetworkSubject) -> str:
    first, *others = (shapes_of(subject.build(seed=seed)) for seed in range(BUILDS))
    for other in others:
        fault = shapes_fault(first, other)
        assert fault is None, fault
    return f"{BUILDS} builds"


def _same_seed(subject: NetworkSubject) -> str:
    one, other = (_state(subject.build()) for _ in range(2))
    different = _different(one, other)
    assert not different, (
        f"two builds with the same seed differ in {_names(different)}: draw initial weights from "
        "torch's generator of random numbers, such as with torch.nn.init"
    )
    return ""


def _tensors_are_registered(subject: NetworkSubject) -> str:
    module = subject.build()
    subject.step(module)(subject.inputs(CASES))
    registered = {id(each) for each in (*module.parameters(), *module.buffers())}
    for name, layer in module.named_modules():
        for attribute, value in vars(layer).items():
            parts = value if isinstance(value, list | tuple) else [value]
            tensors = [each for each in parts if isinstance(each, Tensor)]
            assert registered.issuperset(map(id, tensors)), (
                f"{f'{name}.' if name else ''}{attribute} is a tensor, but neither a parameter nor "
                "a buffer: it would not be saved, nor be moved to a GPU: use register_buffer or "
                "nn.Parameter"
            )
    return ""


def _finite_outputs(subject: NetworkSubject) -> str:
    module = subject.build()
    width = len(CLASSES[subject.task]) if subject.is_head else cast("BodyModule", module).features
    for training, count in ((False, 1), (False, CASES), (True, CASES)):
        with torch.no_grad():
            output: object = module.train(training)(subject.inputs(count))
        where = f"for {count} cases in {'training' if training else 'evaluation'} mode"
        assert isinstance(output, Tensor), f"{where} it returns a {type(output).__name__}"
        assert output.shape == (count, width), (
            f"{where} it returns {tuple(output.shape)}: {subject.outputs_are} of shape "
            f"{(count, width)} are expected"
        )
        kind = str(output.dtype).removeprefix("torch.")
        assert output.dtype == torch.float32, f"{where} it returns {kind}: float32 is expected"
        assert output.isfinite().all(), f"{where} its {subject.outputs_are} are not finite"
    return ""


def _returns_logits(subject: NetworkSubject) -> str:
    """Constant outputs, as of weights that begin at 0, are not named: they may be anything."""
    tasks = subject.factory.tasks if isinstance(subject.factory, HeadFactory) else ()
    task = next((each for each in ("classification", "multilabel") if each in tasks), None)
    if task is None:
        raise PropertySkipped("it is for numbers only")
    large = LARGE * subject.inputs(MANY, seed=1)
    for count in OUTPUTS[task]:
        try:
            module = subject.build(outputs=count)
        except PlanError:  # its sizes are checked apart
            continue
        usual = subject.evaluated(module, subject.inputs(MANY))
        assert count < 2 or not _sum_to_one(usual), (
            "outputs are probabilities: return logits, without softmax"
        )
        assert count < 2 or not _sum_to_one(usual.exp()), (
            "outputs are logarithms of probabilities: return logits, without log_softmax"
        )
        squashed = subject.evaluated(module, large)
        low, high = float(squashed.min()), float(squashed.max())
        assert not (0 <= low < 0.1 and 0.9 < high <= 1), (
            "all outputs are between 0 and 1, as probabilities: return logits, without sigmoid"
        )
    return ""


def _sum_to_one(outputs: Tensor) -> bool:
    """Whether the outputs of each case are probabilities of classes."""
    sums = outputs.sum(dim=1)
    return bool((outputs >= 0).all() and ((sums - 1).abs() < 1e-4).all())


def _independent_cases(subject: NetworkSubject) -> str:
    module, inputs = subject.build(), subject.inputs(CASES)
    with torch.no_grad():
        module.train()(inputs)  # so that statistics are not those of a new network
    alone = subject.evaluated(module, inputs[:1])
    together = subject.evaluated(module, torch.cat([inputs[:1], 5 * inputs[1:] + 3]))[:1]
    change = _change(alone, together)
    assert change <= SAME, (
        f"in evaluation mode, the {subject.outputs_are} of a case change by {change:.0%} with the "
        "other cases of its batch: use statistics of a batch in training mode only"
    )
    return ""


def _repeated_evaluation(subject: NetworkSubject) -> str:
    module, inputs = subject.build(), subject.inputs(CASES)
    before, outputs = _state(module), []
    for seed in (1, 2):
        with seeded(seed, CPU):
            outputs.append(subject.evaluated(module, inputs))
    changed = _different(before, _state(module))
    assert not changed, (
        f"an evaluation changes {_names(changed)}: change buffers only if `self.training` is True"
    )
    assert torch.equal(*outputs), (
        f"in evaluation mode, the {subject.outputs_are} of the same cases change by "
        f"{_change(*outputs):.0%} from one time to the next: draw random numbers only if "
        "`self.training` is True"
    )
    return ""


def _unchanged_inputs(subject: NetworkSubject) -> str:
    module = subject.build()
    for training in (False, True):
        inputs = subject.inputs(CASES)
        before = inputs.clone()
        outputs = module.train(training)(inputs)
        mode = "training" if training else "evaluation"
        assert torch.equal(inputs, before), (
            f"in {mode} mode it changes its input, which hydrakit uses again: no `inplace=True` on "
            "the input"
        )
        storage = StorageWeakRef(inputs.untyped_storage())
        del inputs, outputs
        if not storage.expired():
            gc.collect()  # what only a circle keeps
        assert storage.expired(), (
            f"in {mode} mode it keeps its input, or what was computed from it: memory would grow, "
            "and the network could not be copied: keep no tensors in attributes"
        )
    return ""


def _gradients(subject: NetworkSubject) -> str:
    module = subject.build()
    train, reached = subject.step(module), set[str]()
    trainable = {name: each for name, each in module.named_parameters() if each.requires_grad}
    # A weight may be that of a single dataset.
    uses: tuple[str | None, ...] = (None,) if subject.is_head else DATASETS
    for number, dataset in product(range(STEPS), uses):
        if dataset is not None:
            cast("BodyModule", module).use(dataset)
        train(subject.inputs(CASES, seed=number))
        for name, parameter in trainable.items():
            if parameter.grad is None:
                continue
            assert parameter.grad.isfinite().all(), f"the gradient of {name!r} is not finite"
            if parameter.grad.any():
                reached.add(name)
    missing = [name for name in trainable if name not in reached]
    assert not missing, (
        f"no gradient reaches {_names(missing)} in {STEPS} steps: use them in forward, without "
        "detach, or set their requires_grad to False"
    )
    fixed = len(list(module.parameters())) - len(trainable)
    return f"{len(trainable)} tensors" + (f", and {fixed} fixed ones" if fixed else "")


def _batch_of_one(subject: NetworkSubject) -> str:
    module = subject.build()
    remedy = "the last batch of an epoch may hold one case: use group or layer norm"
    if not subject.is_head:
        remedy += ", or a larger needs.patch"
    try:
        outputs = subject.step(module)(subject.inputs(1))
    except Exception as error:
        raise AssertionError(f"{describe_error(error)}: {remedy}") from error
    _require_finite(module, outputs, f"after a step on one case: {remedy}")
    return ""


def _bfloat16(subject: NetworkSubject) -> str:
    module, inputs = subject.build(), subject.inputs(CASES)
    exact = subject.evaluated(module, inputs)
    with Compute(CPU, "bfloat16").training():
        rounded = subject.evaluated(module, inputs).float()
    assert rounded.isfinite().all(), f"its {subject.outputs_are} in bfloat16 are not finite"
    change = _change(exact, rounded)
    assert change <= SAME_IN_BFLOAT16, (
        f"its {subject.outputs_are} in bfloat16 differ by {change:.0%} from those in float32: "
        "compute what needs float32 within `torch.autocast(..., enabled=False)`"
    )
    outputs = subject.step(module, bfloat16=True)(inputs)
    _require_finite(module, outputs, "after a step in bfloat16")
    return f"outputs differ by up to {change:.1%}"


def _require_finite(module: nn.Module, outputs: Tensor, when: str) -> None:
    assert outputs.isfinite().all(), f"outputs are not finite {when}"
    broken = [name for name, each in module.state_dict().items() if not each.isfinite().all()]
    assert not broken, f"{_names(broken)} are not finite {when}"


def _dropout(subject: NetworkSubject) -> str:
    module, inputs, outputs = subject.build(), subject.inputs(CASES), []
    set_dropout(module.train(), 0.0)
    for seed in (1, 2):
        with seeded(seed, CPU), torch.no_grad():
            outputs.append(module(inputs))
    random = not torch.equal(*outputs)
    unknown = [
        name
        for name, layer in module.named_modules()
        if "dropout" in type(layer).__name__.lower()
        and not (is_dropout(layer) or list(layer.children()))
    ]
    assert not (random and unknown), (
        f"hydrakit cannot set the probability of {_names(unknown)}: use torch.nn.Dropout, or "
        "inherit from it"
    )
    count = sum(map(is_dropout, module.modules()))
    note = f"layers: {count}" if count else "no layer: the dropout of a plan does not change it"
    return note + ("; random in training for another reason, too" if random else "")


def _copied(subject: NetworkSubject) -> str:
    module = subject.build()
    subject.step(module)(subject.inputs(CASES))
    try:
        copied = output_of(module, subject.inputs(CASES))
    except Exception as error:
        raise AssertionError(
            f"after a training step, copy.deepcopy of it fails ({describe_error(error)}): keep no "
            "tensors in attributes, nor anything that cannot be copied"
        ) from error
    assert torch.equal(copied, subject.evaluated(module, subject.inputs(CASES))), (
        f"a copy gives other {subject.outputs_are}: keep no references to other parts of it"
    )
    return ""


def _saved(subject: NetworkSubject) -> str:
    module, inputs = subject.trained("all"), subject.inputs(CASES)
    wanted = subject.evaluated(module, inputs)
    again = subject.build(seed=1)
    try:
        again.load_state_dict(module.state_dict())
    except RuntimeError as error:
        raise AssertionError(
            f"a new one cannot load the tensors of the trained one ({one_line(str(error), 300)}): "
            "let each build have the same parameters and buffers, and add none later"
        ) from error
    assert torch.equal(subject.evaluated(again, inputs), wanted), (
        f"with the same tensors, a new one gives other {subject.outputs_are} than the trained one: "
        "what training changes must be in parameters or buffers (register_buffer)"
    )
    path = subject.save(module)[subject.is_head]
    if subject.is_head:
        loaded = weights.load_head(path, plugins=subject.plugins)
    else:
        body = weights.load_body(path, plugins=subject.plugins)
        body.use(DATASETS[0])
        loaded = body
    changed = _different(_state(module), _state(loaded))
    assert not changed, f"{_names(changed)} differ after saving and loading"
    assert torch.equal(subject.evaluated(loaded, inputs), wanted), (
        f"saved and loaded, it gives other {subject.outputs_are}"
    )
    assert subject.save(loaded)[subject.is_head].read_bytes() == path.read_bytes(), (
        "saved, loaded and saved again, its file has other bytes"
    )
    return f"{path.stat().st_size:,} bytes"


class _StopError(Exception):
    """Stops a training within its second epoch."""


def _resumed(subject: NetworkSubject) -> str:
    train: Train = "head" if subject.is_head else "all"
    path = subject.folder / "checkpoint.safetensors"

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise _StopError

    wanted = subject.trained(train)
    with suppress(_StopError):
        subject.trained(train, checkpointer=Checkpointer(path, interval=0), on_epoch=stop)
    try:
        resumed = subject.trained(train, checkpointer=Checkpointer(path))
    except WeightsError as error:  # its text is about a file of a user
        raise AssertionError(
            "stopped after an epoch, it cannot be resumed: a new one has other tensors than the "
            "trained one: let each build have the same parameters and buffers, and add none later"
        ) from error
    finally:
        path.unlink()
    changed = _different(_state(wanted), _state(resumed))
    assert not changed, (
        f"stopped after an epoch and resumed, it ends with other {_names(changed)}: what training "
        "changes must be in parameters or buffers, and random numbers must be torch's"
    )
    return ""


def _onnx(subject: NetworkSubject) -> str:
    try:
        check_onnx_installed()
    except PlanError as missing:
        raise PropertySkipped(str(missing)) from None
    body_path, _ = subject.save(subject.build())
    out = Path(tempfile.mkdtemp(dir=subject.folder))
    export_model(body_path.parent, "onnx", out, plugins=subject.plugins)
    return ""


def _frozen(subject: NetworkSubject) -> str:
    body, images = subject.trained("all"), subject.inputs(CASES)
    before, wanted = _state(body), subject.evaluated(body, images)
    for cache_features in (True, False):
        subject.trained("head", body, cache_features=cache_features)
        changed = _different(before, _state(body))
        assert not changed, (
            f"a round that freezes the body changes its {_names(changed)}: change buffers only if "
            "`self.training` is True"
        )
        features = subject.evaluated(body, images)
        assert torch.equal(features, wanted), (
            "after a round that freezes the body, its features differ: what they depend on must be "
            "in parameters or buffers, and must not change"
        )
    return f"{len(before)} tensors"


def _use(subject: NetworkSubject) -> str:
    body = cast("BodyModule", subject.trained("all"))
    before = _state(body)
    features: dict[str, Tensor] = {}
    for name in (*DATASETS, DATASETS[0]):
        body.use(name)
        again = subject.evaluated(body, subject.inputs(CASES))
        assert torch.equal(features.setdefault(name, again), again), (
            "`use` of another dataset and of the first again gives other features"
        )
    changed = _different(before, _state(body))
    assert not changed, f"`use` changes {_names(changed)}: it only chooses among them"
    if not body.by_dataset:
        assert torch.equal(*features.values()), (
            "`use` changes its features, and by_dataset is False: set by_dataset to True"
        )
        body.use("another")
        return "all datasets are treated alike"
    try:
        body.use("another")
    except ValueError:
        return "each dataset is treated in its own way"
    raise AssertionError("`use` of a dataset that it was not built for must raise ValueError")


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors of a module."""
    return {name: each.detach().clone() for name, each in module.state_dict().items()}


def _different(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with other bytes."""
    return [
        name
        for name in one.keys() | other.keys()
        if name not in one
        or name not in other
        or tensor_digest({"": one[name]}) != tensor_digest({"": other[name]})
    ]


def _change(one: Tensor, other: Tensor) -> float:
    """Largest difference of two outputs, as a share of their largest value."""
    largest = max(float(one.abs().max()), float(other.abs().max()), 1e-30)
    return float((one - other).abs().max()) / largest


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, HydrakitError) else describe_error(error)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:3]))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _if_built(check: Callable[[NetworkSubject], str]) -> Callable[[NetworkSubject], str]:
    """The check, skipped for what cannot be built."""

    def checked(subject: NetworkSubject) -> str:
        if not subject.can_be_built:
            raise PropertySkipped("it cannot be built")
        return check(subject)

    return checked


def _properties(
    *named: tuple[str, Callable[[NetworkSubject], str]],
) -> tuple[Property[NetworkSubject], ...]:
    return (
        Property("can be built", _builds),
        *(Property(name, _if_built(check)) for name, check in named),
    )


_BEFORE_TRAINING = (
    ("each value of its options can be built", _choices),
    ("leaves the process as it is", _leaves_the_process),
    ("all builds have tensors of the same names and shapes", _same_shapes),
    ("the same seed gives the same initial weights", _same_seed),
    ("tensors are parameters or buffers", _tensors_are_registered),
    ("outputs are finite and have the right shape", _finite_outputs),
    ("outputs do not depend on the other cases of a batch", _independent_cases),
    ("evaluations repeat, and change nothing", _repeated_evaluation),
    ("its input is neither changed nor kept", _unchanged_inputs),
)
_IN_TRAINING = (
    ("each weight gets a finite gradient", _gradients),
    ("a batch of one case can be trained on", _batch_of_one),
    ("bfloat16 gives nearly the same outputs", _bfloat16),
    ("dropout can be set", _dropout),
    ("can be copied", _copied),
    ("saved and loaded, it is the same", _saved),
    ("stopped and resumed, it is trained to the same bits", _resumed),
    ("can be exported to ONNX", _onnx),
)

HEAD_PROPERTIES: tuple[Property[NetworkSubject], ...] = _properties(
    ("all numbers of features and outputs can be built", _sizes_of_head),
    *_BEFORE_TRAINING,
    ("outputs are logits, not probabilities", _returns_logits),
    *_IN_TRAINING,
)
"""What a head must be and do; each property gets a `NetworkSubject`."""

BODY_PROPERTIES: tuple[Property[NetworkSubject], ...] = _properties(
    ("all numbers of channels and sizes of patches can be built", _sizes_of_body),
    *_BEFORE_TRAINING,
    *_IN_TRAINING,
    ("frozen, it stays the same", _frozen),
    ("`use` treats datasets as it says", _use),
)
"""What a body must be and do; each property gets a `NetworkSubject`."""


def check_head(
    factory: HeadFactory, options: Mapping[str, OptionValue] | None = None
) -> list[CheckedProperty]:
    """Check a kind of head: what training, weight files and export rely on.

    Args:
        factory: Its factory.
        options: Some of its options, as a user would give them; None for the defaults.

    Returns:
        The properties that were checked, or skipped for lack of a package.

    Raises:
        AssertionError: A property is missing; the message has one line for each.
    """
    return _check(f"head {factory.name!r}", HEAD_PROPERTIES, factory, options)


def check_body(
    factory: BodyFactory, options: Mapping[str, OptionValue] | None = None
) -> list[CheckedProperty]:
    """Check a kind of body: what training, weight files and export rely on.

    Args:
        factory: Its factory.
        options: Some of its options, as a user would give them; None for the defaults.

    Returns:
        The properties that were checked, or skipped for lack of a package.

    Raises:
        AssertionError: A property is missing; the message has one line for each.
    """
    return _check(f"body {factory.name!r}", BODY_PROPERTIES, factory, options)


def _check(
    of: str,
    properties: Sequence[Property[NetworkSubject]],
    factory: HeadFactory | BodyFactory,
    options: Mapping[str, OptionValue] | None,
) -> list[CheckedProperty]:
    with tempfile.TemporaryDirectory(prefix="hydrakit-") as folder:
        subject = NetworkSubject(factory, options or {}, Path(folder))
        return require(check_properties(of, subject, properties))
