"""Weight files: save a body or a head, load them, check them, and put a head on another body.

A head's file names the body it was trained on (by the digest of the body's tensors), its classes,
the preprocessing that its input needs, and a probe: features and the logits that the head gave for
them. Swapping is loading plus checking: a head on a body that it was not trained on works, and
`mismatch` says so. How the files are built is told in `hydrakit.weights.format`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.errors import WeightsError
from hydrakit.hooks import OptionValue, Task
from hydrakit.plan.model import BodySpec, Component, Copies, OtherBody, Split
from hydrakit.storage.files import write_atomic
from hydrakit.version import version
from hydrakit.weights.format import (
    BodyMetadata,
    HeadMetadata,
    OtherBodySpec,
    Preprocessing,
    Probe,
    read_body,
    read_head,
    read_metadata,
    read_shapes,
    read_tensors,
    refuse_other_shapes,
    tensor_digest,
    write,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hydrakit.models.body import BodyModule
    from hydrakit.plugins.registry import Plugins

__all__ = [
    "BodyMetadata",
    "HeadMetadata",
    "Preprocessing",
    "Probe",
    "body_digest",
    "load_body",
    "load_head",
    "load_model",
    "mismatch",
    "read_metadata",
    "save_body",
    "save_head",
    "swap",
    "weight_paths",
]

PROBE_TOLERANCE = 1e-4


def body_digest(body: nn.Module) -> str:
    """SHA-256 of a body's tensors, in hexadecimal: equal bodies have equal digests."""
    return tensor_digest(body.state_dict())


def save_body(
    path: Path,
    body: BodyModule,
    *,
    component: BodySpec | OtherBody | None = None,
    datasets: Sequence[str] = (),
    trained_on: Sequence[str] = (),
    seed: int | None = None,
) -> BodyMetadata:
    """Write a body's file, whole or not at all; the folder must exist.

    Args:
        path: The file.
        body: On any device, in any mode; it is left as it is.
        component: The kind of body; needed for any but the paper's.
        datasets: Names of the datasets that it was built for.
        trained_on: Datasets of the rounds that trained it, in order.
        seed: The seed of the splits.

    Returns:
        What the file says.

    Raises:
        ValueError: ``component`` is missing.
    """
    description = BodyMetadata(
        hydrakit=version(),
        spec=_spec_of(body, component, datasets),
        in_channels=body.in_channels,
        digest=body_digest(body),
        trained_on=tuple(trained_on),
        seed=seed,
    )
    write(path, body, description)
    return description


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
        raise ValueError("component must be given where the body is not the paper's")
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
    features: int | None = None,
    options: Mapping[str, OptionValue] | None = None,
    split: Split | None = None,
    seed: int | None = None,
    copies: Copies = "group",
    splits: str | None = None,
    task: Task = "classification",
    scale: tuple[float, float] | None = None,
) -> HeadMetadata:
    """Write a head's file, whole or not at all; the folder must exist.

    Args:
        path: The file.
        head: On any device, in any mode; it is left as it is.
        body: The body that it was trained on, or that body's digest.
        dataset: What it was trained on.
        classes: Names of the classes by label.
        factory: The head factory that built it: its name, or its name and options.
        preprocessing: What its images need.
        features: What it takes from a body; needed where ``body`` is a digest.
        options: Of the dataset's adapter.
        split: Of the dataset.
        seed: Of the plan.
        copies: What became of copies of images.
        splits: Digest of the split of every case (`hydrakit.data.quality.leakage.splits_digest`).
        task: What a label is.
        scale: How a number was standardised: its mean and standard deviation.

    Returns:
        What the file says.

    Raises:
        ValueError: ``features`` is missing.
        WeightsError: The head's logits are not finite, or are not as many as the classes.
    """
    if features is None:
        if isinstance(body, str):
            raise ValueError("features must be given where the body is given by its digest")
        features = body.features
    probe = _probe(path, head, features)
    if len(probe.logits) != len(classes):
        raise WeightsError(
            f"{path}: not written, the head gives {len(probe.logits)} logits for "
            f"{len(classes)} classes: build it for {len(classes)}"
        )
    description = HeadMetadata(
        hydrakit=version(),
        factory=Component(name=factory) if isinstance(factory, str) else factory,
        features=features,
        classes=tuple(classes),
        copies=copies,
        splits=splits,
        task=task,
        scale=scale,
        dataset=dataset,
        options=dict(options or {}),
        split=split,
        seed=seed,
        body=body if isinstance(body, str) else body_digest(body),
        preprocessing=preprocessing,
        digest=tensor_digest(head.state_dict()),
        probe=probe,
    )
    write(path, head, description)
    return description


def load_body(path: Path, *, dropout: float = 0.0, plugins: Plugins | None = None) -> BodyModule:
    """Load a body, in evaluation mode, on the CPU.

    Args:
        path: The file.
        dropout: Probability of its dropout layers, for training it further.
        plugins: Who offers the body's factory; None for the installed ones.

    Raises:
        PluginError: Nobody offers the factory.
        WeightsError: It is no body's file, its tensors are not those that were written, or the
            factory now builds something else.
    """
    import torch

    from hydrakit.compute.modules import set_dropout
    from hydrakit.models.build import build_body
    from hydrakit.plugins.registry import load_plugins

    description = read_body(path)
    spec, shapes = description.spec, read_shapes(path)
    if isinstance(spec, BodySpec):
        _refuse_giant(path, spec, description.in_channels, shapes)
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn for nothing
        body = build_body(
            spec,
            in_channels=description.in_channels,
            datasets=spec.datasets,
            plugins=plugins or load_plugins(),
        )
    what = f"the body {spec.name!r} of its spec"
    refuse_other_shapes(path, shapes, expected=body.state_dict(), what=what)
    body.load_state_dict(read_tensors(path, description.digest))
    set_dropout(body, dropout)
    return body.eval()


def load_head(path: Path, *, dropout: float = 0.0, plugins: Plugins | None = None) -> nn.Module:
    """Load a head, in evaluation mode, on the CPU.

    Args:
        path: The file.
        dropout: Probability of its dropout layers, for training the head further.
        plugins: Who offers the head's factory; None for the installed ones.

    Raises:
        PluginError: Nobody offers the factory.
        WeightsError: It is no head's file, its tensors are not those that were written, or the
            factory now builds something else.
    """
    import torch

    from hydrakit.compute.modules import set_dropout
    from hydrakit.models.build import build_head
    from hydrakit.plugins.registry import load_plugins

    description = read_head(path)
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn for nothing
        head = build_head(
            description.factory,
            features=description.features,
            outputs=len(description.classes),
            plugins=plugins or load_plugins(),
        )
    what = f"what the head factory {description.factory.name!r} builds"
    refuse_other_shapes(path, read_shapes(path), expected=head.state_dict(), what=what)
    head.load_state_dict(read_tensors(path, description.digest))
    _check_probe(path, head, description)
    set_dropout(head, dropout)
    return head.eval()


def load_model(body_path: Path, head_path: Path, *, plugins: Plugins | None = None) -> nn.Module:
    """Load a body with a head on it, in evaluation mode, on the CPU.

    The model takes images ``(batch, channels, height, width)`` and gives logits
    ``(batch, classes)``. Whether the head was trained on this body, `mismatch` tells.

    Raises:
        PluginError: Nobody offers the factory of the body or of the head.
        WeightsError: A file is at fault, or the head does not fit the body.
    """
    from hydrakit.models.body import BodyWithHead

    head, _ = _checked_pair(body_path, head_path)
    body = load_body(body_path, plugins=plugins)
    if head.dataset in read_body(body_path).spec.datasets:
        body.use(head.dataset)
    return BodyWithHead(body, load_head(head_path, plugins=plugins)).eval()


def mismatch(body: BodyMetadata, head: HeadMetadata) -> str | None:
    """Tell in words that a head was trained on another body, or None where it was on this one.

    Such a pair works; how well, only an evaluation tells.

    Raises:
        WeightsError: The pair cannot work: features, patch or channels differ.
    """
    needs = head.preprocessing
    for what, given, taken in (
        ("features", body.spec.features, head.features),
        ("pixels per patch side", body.spec.patch, needs.patch),
        ("image channels", body.in_channels, needs.channels),
    ):
        if given != taken:
            raise WeightsError(
                f"the head of {head.dataset!r} needs a body of {taken} {what}, and this one has "
                f"{given}: choose another body or head"
            )
    if head.body == body.digest:
        return None
    return (
        f"the head of {head.dataset!r} was trained on another body ({head.body[:12]}) than this "
        f"one ({body.digest[:12]}): it works, but how well must be evaluated anew"
    )


def swap(
    body_path: Path, head_path: Path, out: Path, *, plugins: Plugins | None = None
) -> str | None:
    """Put a head on another body: check that they fit, and copy both into a new folder.

    The folder then holds ``body.safetensors`` and ``heads/<dataset>.safetensors``, byte for byte,
    which is all that ``hydrakit evaluate --body --head`` needs.

    Returns:
        What `mismatch` says.

    Raises:
        PluginError: Nobody offers the head's factory.
        WeightsError: A file is at fault, they do not fit, or ``out`` is not an empty folder.
    """
    load_model(body_path, head_path, plugins=plugins)
    head, note = _checked_pair(body_path, head_path)
    new_body, new_head = weight_paths(out, head.dataset)
    write_atomic(new_body, body_path.read_bytes())
    write_atomic(new_head, head_path.read_bytes())
    return note


def weight_paths(out: Path, dataset: str) -> tuple[Path, Path]:
    """Make an empty folder and give the places of a body and of a dataset's head in it.

    Raises:
        WeightsError: The folder holds something already, or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise WeightsError(f"{out}: is not empty: name a new folder")
        heads = out / "heads"
        heads.mkdir()
    except OSError as error:
        raise WeightsError(
            f"{out}: cannot be made a folder ({error.strerror}): name another"
        ) from None
    return out / "body.safetensors", heads / f"{dataset}.safetensors"


def _checked_pair(body_path: Path, head_path: Path) -> tuple[HeadMetadata, str | None]:
    body, head = read_body(body_path), read_head(head_path)
    try:
        return head, mismatch(body, head)
    except WeightsError as error:
        raise WeightsError(f"{head_path}, with {body_path}: {error}") from None


def _refuse_giant(
    path: Path, spec: BodySpec, in_channels: int, tensors: Mapping[str, Tensor]
) -> None:
    """Refuse a spec that asks for more than the file holds, before a body of it is set up."""
    sizes = (*spec.channels, spec.features, in_channels, spec.flat_side() ** 2)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    if max(sizes) > numbers or len(spec.channels) > len(tensors):
        raise WeightsError(
            f"{path}: its spec asks for more than its {numbers} numbers: the file was changed, "
            "copy it again"
        )


def _probe(path: Path, head: nn.Module, features: int) -> Probe:
    """Features of which no two are alike, and what a head that is to be saved gives for them."""
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


def _check_probe(path: Path, head: nn.Module, description: HeadMetadata) -> None:
    """Refuse a head that computes something else than it did when it was saved."""
    import torch

    from hydrakit.compute.modules import output_of

    logits = output_of(head, torch.tensor([description.probe.features]))
    recorded = torch.tensor([description.probe.logits])
    if logits.shape != recorded.shape or not torch.allclose(
        logits, recorded, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE
    ):
        raise WeightsError(
            f"{path}: the head gives {_shown(logits)} for its probe and gave {_shown(recorded)} "
            f"when it was saved: its factory {description.factory.name!r} has changed, install the "
            "plugin's version of that time"
        )


def _shown(logits: Tensor) -> str:
    return f"({', '.join(f'{logit:.4g}' for logit in logits.flatten().tolist()[:4])})"
