"""Saves, loads and checks bodies and heads, and combines a head with another body.

A head's file names the body of its training (by the digest of the body's tensors), its classes, the
preprocessing of its images, and a probe: features and their logits. A head also works on another
body with the same number of features; `mismatch` then returns a note. `hydrakit.weights.format`
describes the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrakit.errors import PlanError, PluginError, WeightsError, one_line
from hydrakit.hooks import BodyFactory, HeadFactory, OptionValue, Task
from hydrakit.plan.decision import Decision
from hydrakit.plan.model import (
    BodySpec,
    Component,
    Conflicts,
    Copies,
    OtherBody,
    Split,
    StemShape,
)
from hydrakit.plugins.guard import plugin_of
from hydrakit.version import DISTRIBUTION, version
from hydrakit.weights.format import (
    MAX_LINEAGE,
    Ancestor,
    AveragedViews,
    BodyMetadata,
    DatasetCard,
    HeadMetadata,
    OtherBodySpec,
    Preprocessing,
    Probe,
    TrainingCases,
    read_body,
    read_head,
    read_metadata,
    read_shapes,
    read_tensors,
    refuse_other_shapes,
    tensor_digest,
    write_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hydrakit.models.body import BodyModule
    from hydrakit.plugins.registry import Plugins

PROBE_TOLERANCE = 1e-4


def body_digest(body: nn.Module) -> str:
    """SHA-256 of a body's tensors in hexadecimal; equal bodies have equal digests."""
    return tensor_digest(body.state_dict())


def save_body(
    path: Path,
    body: BodyModule,
    *,
    component: BodySpec | OtherBody | None = None,
    datasets: Sequence[str] = (),
    trained_on: Sequence[str] = (),
    seed: int | None = None,
    cases: TrainingCases | None = None,
    lineage: Sequence[Ancestor] = (),
    plan: str | None = None,
    data: Mapping[str, str] | None = None,
    cards: Mapping[str, DatasetCard] | None = None,
) -> BodyMetadata:
    """Write a body's file; it appears complete or not at all.

    Args:
        path: New file in an existing folder.
        body: Body on any device and in any mode.
        component: Kind of body; required if it is not the paper's.
        datasets: Names of the datasets that the body was built for.
        trained_on: Datasets of the rounds that trained it, in order.
        seed: Seed of the splits.
        cases: Images of these rounds.
        lineage: The trainings that led to it, the oldest first, without its own.
        plan: Digest of the plan that trained it.
        data: Content digests of the datasets that trained it under that plan, by name.
        cards: What users must know about these datasets, by name.

    Returns:
        The metadata of the file.

    Raises:
        ValueError: ``component`` is required.
    """
    metadata = BodyMetadata(
        hydrakit=version(),
        spec=_spec_of(body, component, datasets),
        in_channels=body.in_channels,
        digest=body_digest(body),
        trained_on=tuple(trained_on),
        seed=seed,
        cases=cases,
        lineage=tuple(lineage)[-MAX_LINEAGE:],
        plan=plan,
        data=dict(data or {}),
        cards=dict(cards or {}),
        plugin=_release(body),
    )
    write_tensors(path, body.state_dict(), metadata)
    return metadata


def update_metadata(path: Path, **changes: Any) -> None:
    """Write a weight file again with some fields of its metadata changed, and the same tensors.

    Raises:
        WeightsError: The file is invalid or damaged.
    """
    metadata = read_metadata(path)
    tensors = read_tensors(path, metadata.digest)
    write_tensors(path, tensors, metadata.model_copy(update=changes))


def set_decision(path: Path, decision: Decision | None) -> None:
    """Write a decision into a head's file; all else in it stays the same.

    Args:
        path: File of the head.
        decision: Calibration and threshold of its probabilities; None removes the stored one.

    Raises:
        WeightsError: The file is not a head's, or is damaged.
    """
    read_head(path)
    update_metadata(path, decision=decision)


def _spec_of(
    body: BodyModule, component: BodySpec | OtherBody | None, datasets: Sequence[str]
) -> BodySpec | OtherBodySpec:
    if isinstance(component, OtherBody):
        return OtherBodySpec(
            name=component.name,
            options=component.options,
            features=body.features,
            datasets=tuple(datasets),
        )
    spec = getattr(body, "spec", None)
    if not isinstance(spec, BodySpec):
        raise ValueError("component must be given if the body is not the paper's")
    return spec


def save_head(
    path: Path,
    head: nn.Module,
    *,
    body: BodyModule | str,
    dataset: str,
    classes: Sequence[str],
    factory: str | Component,
    preprocessing: Preprocessing,
    datasets: Sequence[str] = (),
    features: int | None = None,
    content: str | None = None,
    cases: TrainingCases | None = None,
    options: Mapping[str, OptionValue] | None = None,
    split: Split | None = None,
    seed: int | None = None,
    copies: Copies = "group",
    conflicts: Conflicts = "error",
    splits: str | None = None,
    task: Task = "classification",
    scale: tuple[float, float] | None = None,
    views: AveragedViews | None = None,
    card: DatasetCard | None = None,
) -> HeadMetadata:
    """Write a head's file; it appears complete or not at all.

    Args:
        path: New file in an existing folder.
        head: Head on any device and in any mode.
        body: Body of the training, or its digest.
        dataset: Dataset of the training.
        classes: Names of the classes by label.
        factory: Name of the factory that built the head, or its name and options.
        preprocessing: Preprocessing of its images.
        datasets: Further datasets of the training, for a head with stems.
        features: Number of features of the body; required if ``body`` is a digest.
        content: Content digest of the dataset.
        cases: Images of the dataset that training used.
        options: Options of the dataset's adapter.
        split: Split of the dataset.
        seed: Seed of the splits.
        copies: Handling of copies of images.
        conflicts: Handling of copies with different labels.
        splits: Digest of the split of every case (`hydrakit.data.origin.splits_digest`).
        task: Kind of label.
        scale: For regression, mean and standard deviation of the number.
        views: Views of each case whose predictions are averaged; None for the patch alone.
        card: What users must know about the dataset.

    Returns:
        The metadata of the file.

    Raises:
        ValueError: ``features`` is required.
        WeightsError: The head's logits are not finite, or not as many as the classes.
    """
    if features is None:
        if isinstance(body, str):
            raise ValueError("features must be given if the body is given by its digest")
        features = body.features
    probe = _probe(path, head, features)
    if len(probe.logits) != len(classes):
        raise WeightsError(
            f"{path}: not written, the head gives {len(probe.logits)} logits for "
            f"{len(classes)} classes: build it for {len(classes)}"
        )
    metadata = HeadMetadata(
        hydrakit=version(),
        factory=Component(name=factory) if isinstance(factory, str) else factory,
        features=features,
        classes=tuple(classes),
        copies=copies,
        conflicts=conflicts,
        splits=splits,
        task=task,
        scale=scale,
        dataset=dataset,
        content=content,
        cases=cases,
        options=dict(options or {}),
        split=split,
        seed=seed,
        body=body if isinstance(body, str) else body_digest(body),
        preprocessing=preprocessing,
        stems=_stems(head, [dataset, *datasets]),
        views=views,
        card=card,
        plugin=_release(head),
        digest=tensor_digest(head.state_dict()),
        probe=probe,
    )
    write_tensors(path, head.state_dict(), metadata)
    return metadata


def _stems(head: nn.Module, datasets: Sequence[str]) -> dict[str, StemShape | None]:
    """Stem of each dataset of a head; empty if the head has none."""
    from hydrakit.models.stem import stem_of

    stems = {name: stem_of(head, name) for name in datasets}
    if not any(stems.values()):
        return {}
    return {name: None if stem is None else stem.shape for name, stem in stems.items()}


def load_body(path: Path, *, dropout: float = 0.0, plugins: Plugins | None = None) -> BodyModule:
    """Load a body, in evaluation mode, on the CPU.

    Args:
        path: File of the body.
        dropout: Probability of its dropout layers, for further training.
        plugins: Plugins with the body's factory; None loads the installed ones.

    Raises:
        PluginError: No plugin offers the factory.
        WeightsError: The file is not a body's, is damaged, or does not match the factory.
    """
    import torch

    from hydrakit.models.build import build_body
    from hydrakit.plugins.registry import load_plugins

    metadata = read_body(path)
    spec, shapes = metadata.spec, read_shapes(path)
    if isinstance(spec, BodySpec):
        _refuse_giant(path, spec, metadata.in_channels, shapes)
    plugins = plugins or load_plugins()
    _require(path, BodyFactory, spec.name, plugins, metadata.plugin)
    with torch.random.fork_rng(devices=[]):  # the initial weights are not used
        body = build_body(
            spec, in_channels=metadata.in_channels, datasets=spec.datasets, plugins=plugins
        )
    what = f"the body {spec.name!r} of its spec"
    _fill(path, body, metadata, shapes=shapes, what=what, dropout=dropout)
    return body


def load_head(path: Path, *, dropout: float = 0.0, plugins: Plugins | None = None) -> nn.Module:
    """Load a head, with its stems if it has some, in evaluation mode, on the CPU.

    Args:
        path: File of the head.
        dropout: Probability of its dropout layers, for further training.
        plugins: Plugins with the head's factory; None loads the installed ones.

    Raises:
        PluginError: No plugin offers the factory.
        WeightsError: The file is not a head's, is damaged, or does not match the factory.
    """
    import torch

    from hydrakit.models.build import build_head
    from hydrakit.models.stem import HeadWithStems
    from hydrakit.plugins.registry import load_plugins

    metadata, shapes = read_head(path), read_shapes(path)
    stems = {name: shape for name, shape in metadata.stems.items() if shape is not None}
    _refuse_giant_stems(path, stems, shapes)
    plugins = plugins or load_plugins()
    _require(path, HeadFactory, metadata.factory.name, plugins, metadata.plugin)
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are not used
            head = build_head(
                metadata.factory,
                features=metadata.features,
                outputs=len(metadata.classes),
                plugins=plugins,
            )
            if stems:
                head = HeadWithStems(head, stems)
    except PlanError as error:
        raise WeightsError(f"{path}: {error}") from None
    what = f"what the head factory {metadata.factory.name!r} builds"
    _fill(path, head, metadata, shapes=shapes, what=what, dropout=dropout)
    _check_probe(path, head, metadata)
    return head


def _require(
    path: Path,
    kind: type[BodyFactory | HeadFactory],
    name: str,
    plugins: Plugins,
    origin: str | None,
) -> None:
    """Refuse a file whose factory no plugin offers; ``origin`` is the plugin that built it."""
    try:
        plugins.get(kind, name, origin=origin)
    except PluginError as error:
        remedy = "" if origin else "; install or enable the plugin that has it"
        raise PluginError(f"{path}: {error}{remedy}") from error


def _release(module: nn.Module) -> str | None:
    """Distribution and version of the plugin that built a body or a head; None for hydrakit's."""
    from hydrakit.models.stem import head_without_stems

    source = plugin_of(head_without_stems(module))
    if source is None or source.distribution == DISTRIBUTION:
        return None
    return one_line(source.release, 200)


def _fill(
    path: Path,
    module: nn.Module,
    metadata: BodyMetadata | HeadMetadata,
    *,
    shapes: Mapping[str, Tensor],
    what: str,
    dropout: float,
) -> None:
    """Load the tensors of a file into a new module, and set it to evaluation mode."""
    from hydrakit.compute.modules import set_dropout

    refuse_other_shapes(path, shapes, expected=module.state_dict(), what=what)
    module.load_state_dict(read_tensors(path, metadata.digest))
    set_dropout(module, dropout)
    module.eval()


def load_model(
    body_path: Path,
    head_path: Path,
    *,
    dataset: str | None = None,
    plugins: Plugins | None = None,
) -> nn.Module:
    """Load a body and a head as one network, in evaluation mode, on the CPU.

    It turns images ``(batch, channels, height, width)`` into logits ``(batch, classes)``. The
    images are those of the dataset: if the head has a stem for them, the network begins with it.
    `mismatch` says whether the head was trained on this body.

    Args:
        body_path: File of the body.
        head_path: File of the head.
        dataset: Dataset of the images, for a body that treats datasets differently and for the
            stems of the head; None for the dataset of the head.
        plugins: Plugins with the factories; None loads the installed ones.

    Raises:
        PluginError: No plugin offers the factory of the body or of the head.
        WeightsError: A file is invalid, or the head or the dataset does not match the body.
    """
    from hydrakit.models.body import BodyWithHead
    from hydrakit.models.stem import stem_of

    head, _ = checked_pair(body_path, head_path)
    body = load_body(body_path, plugins=plugins)
    name, known = dataset or head.dataset, read_body(body_path).spec.datasets
    if body.by_dataset and name not in known:
        raise WeightsError(
            f"{body_path}: its body has separate statistics for {', '.join(known)}, and none for "
            f"{name!r}: choose a body that was trained with {name!r}, or one without statistics "
            "for each dataset (`--body-norm batch`)"
        )
    if name in known:
        body.use(name)
    module = load_head(head_path, plugins=plugins)
    return BodyWithHead(body, module, stem_of(module, head.stem_for(name))).eval()


def mismatch(body: BodyMetadata, head: HeadMetadata) -> str | None:
    """Return a note if a head was trained on another body; None if it was trained on this one.

    Args:
        body: Metadata of the body, from `read_metadata`.
        head: Metadata of the head.

    Raises:
        WeightsError: They cannot be combined: features, patch or channels differ.
    """
    needs = head.preprocessing
    for what, actual, needed in (
        ("features", body.spec.features, head.features),
        ("pixels per patch side", body.spec.patch, needs.patch),
        ("image channels", body.in_channels, head.body_channels),
    ):
        if actual != needed:
            raise WeightsError(
                f"the head of {head.dataset!r} needs a body with {needed} {what}, and this one has "
                f"{actual}: choose another body or head"
            )
    if head.body == body.digest:
        return None
    stored = "" if head.decision is None else ", and its calibration and threshold are for that one"
    return (
        f"the head of {head.dataset!r} was trained on another body ({head.body[:12]}) than this "
        f"one ({body.digest[:12]}){stored}: evaluate the combination before you rely on it"
    )


def checked_pair(body_path: Path, head_path: Path) -> tuple[HeadMetadata, str | None]:
    """Metadata of a head, and the note of `mismatch`.

    Raises:
        WeightsError: A file is invalid, or they cannot be combined.
    """
    body, head = read_body(body_path), read_head(head_path)
    try:
        return head, mismatch(body, head)
    except WeightsError as error:
        raise WeightsError(f"{head_path}, with {body_path}: {error}") from None


def _refuse_giant(
    path: Path, spec: BodySpec, in_channels: int, tensors: Mapping[str, Tensor]
) -> None:
    """Refuse a spec of a body that is larger than the file, before building the body."""
    sizes = (*spec.channels, spec.features, in_channels, spec.flat_side() ** 2)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    if max(sizes) > numbers or len(spec.channels) > len(tensors):
        raise WeightsError(
            f"{path}: its spec needs more than the {numbers} numbers in the file: the file was "
            "changed, copy it again"
        )


def _refuse_giant_stems(
    path: Path, stems: Mapping[str, StemShape], tensors: Mapping[str, Tensor]
) -> None:
    """Refuse stems that are larger than the file, before building them."""
    numbers = sum(tensor.numel() for tensor in tensors.values())
    if sum(stem.images * stem.body for stem in stems.values()) > numbers:
        raise WeightsError(
            f"{path}: its stems need more than the {numbers} numbers in the file: the file was "
            "changed, copy it again"
        )


def _probe(path: Path, head: nn.Module, features: int) -> Probe:
    """Compute the logits of a head for features that all differ."""
    import torch

    from hydrakit.compute.modules import output_of

    ramp = torch.linspace(-1, 1, features)
    logits = output_of(head, ramp[None])[0]
    if not torch.isfinite(logits).all():
        raise WeightsError(
            f"{path}: not written, the head's logits are not finite: its training diverged, "
            "try a lower learning rate"
        )
    return Probe(features=tuple(ramp.tolist()), logits=tuple(logits.tolist()))


def _check_probe(path: Path, head: nn.Module, metadata: HeadMetadata) -> None:
    """Refuse a head with other logits than when it was saved."""
    import torch

    from hydrakit.compute.modules import output_of

    logits = output_of(head, torch.tensor([metadata.probe.features]))
    recorded = torch.tensor([metadata.probe.logits])
    if logits.shape != recorded.shape or not torch.allclose(
        logits, recorded, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE
    ):
        raise WeightsError(
            f"{path}: the head computes {_text(logits)} for its probe, and {_text(recorded)} when "
            f"it was saved: its factory {metadata.factory.name!r} has changed, install the version "
            "of its plugin of that time"
        )


def _text(logits: Tensor) -> str:
    return f"({', '.join(f'{logit:.4g}' for logit in logits.flatten().tolist()[:4])})"
