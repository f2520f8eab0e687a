"""A trained model, ready for prediction: its weight files, its networks, and its preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hydrakit import weights
from hydrakit.data.augment import central_view
from hydrakit.data.padding import fill_padding, padding_mask
from hydrakit.data.prepared.crop import Statistics, crop, crop_fault
from hydrakit.data.read import LoadedSample, in_grey
from hydrakit.errors import DataError, PlanError, WeightsError, command_line, unknown
from hydrakit.hooks import FieldOfView, Task, Window
from hydrakit.runs.evaluate import views_of
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.tasks import mean_outputs, outputs_of, predictions
from hydrakit.training.evaluation import forward_in_batches
from hydrakit.weights.folders import is_model_folder, networks_in
from hydrakit.weights.format import BodyMetadata, HeadMetadata, read_body, read_head

if TYPE_CHECKING:
    from hydrakit.plugins.registry import Plugins

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelFiles:
    """Weight files of a model.

    Attributes:
        networks: Body and head of each network; the mean of their predictions is the model's.
        run: Folder of the run that they belong to; None for other files.
    """

    networks: tuple[tuple[Path, Path], ...]
    run: RunDir | None = None


def find_model(path: Path, *, dataset: str | None = None) -> ModelFiles:
    """Find the weight files of a model.

    Args:
        path: Folder of a finished run, or a folder with weights (`hydrakit.weights.folders`).
        dataset: Dataset whose head is used; None for the target of the run, or the only head.

    Raises:
        PlanError: The run is not finished, or a file was changed after it was.
        WeightsError: A file is missing or invalid, or there is no such head.
    """
    if is_model_folder(path):
        return ModelFiles(tuple(networks_in(path, dataset)))
    run = RunDir(path)
    plan = run.plan()
    name = dataset or plan.target
    heads = [each.head for each in plan.rounds if each.dataset == name]
    heads = heads or [
        head
        for each in plan.rounds
        for head, other in zip(each.heads, each.datasets, strict=True)
        if other == name
    ]
    if not heads:
        raise PlanError(f"{path}: {unknown('dataset', name, [d.name for d in plan.datasets])}")
    if run.results() is None:
        command = command_line("hydrakit", "run", "--resume", path)
        raise PlanError(f"{path}: is not finished: continue it with `{command}`")
    return ModelFiles(tuple(each.weights(heads[-1]) for each in run.networks(plan)), run)


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """One network of a model.

    Attributes:
        body: Metadata of its body.
        head: Metadata of its head.
        module: Body and head, which turn images into outputs.
    """

    body: BodyMetadata
    head: HeadMetadata
    module: nn.Module


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model: what it needs of an image, and what it makes of it.

    Attributes:
        files: Weight files.
        networks: Networks in evaluation mode, on the device.
        device: Device of the networks.
    """

    files: ModelFiles
    networks: tuple[LoadedNetwork, ...]
    device: torch.device

    @property
    def head(self) -> HeadMetadata:
        """Metadata of the head of the first network, which describes the images of all."""
        return self.networks[0].head

    @property
    def task(self) -> Task:
        """Kind of label that the model predicts."""
        return self.head.task

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the outputs."""
        return self.head.classes

    @property
    def view(self) -> FieldOfView:
        """Region of an image that the networks see."""
        return self.head.preprocessing.field_of_view or FieldOfView(share=1.0)

    @property
    def needs_patient(self) -> bool:
        """Whether an image is z-scored together with the other images of its patient."""
        return self.head.preprocessing.grey_values.normalise == "patient"

    def canvas(self, sample: LoadedSample) -> tuple[NDArray[np.float32], Statistics]:
        """Crop an image, and compute its statistics for the z-score.

        Args:
            sample: Image with its centre and spacing.

        Returns:
            The prepared patch ``(channels, side, side)`` in the unit of the image, larger than
            what the network sees, and the statistics of the whole image.

        Raises:
            DataError: The image has another number of channels than the networks need, or the field
                of view has no sensible size in its pixels.
        """
        needed = self.head.preprocessing
        if needed.conversion == "grey":
            sample = in_grey(self.head.dataset, sample)
        given = len(sample.image)
        if given != needed.channels and not (needed.conversion == "repeat" and given == 1):
            raise DataError(f"has {given} channels, and the model needs {needed.channels}")
        if self.view.millimetres is not None and sample.spacing is None:
            raise DataError(
                f"has no pixel spacing, and the model sees {self.view.millimetres:g} mm of it"
            )
        fault = crop_fault(sample, self.view, needed.patch)
        if fault is not None:
            raise DataError(fault)
        statistics = Statistics.of(sample.image, sample.padding)
        return crop(sample, self.view, needed.patch), statistics

    def _normalised(
        self, images: Tensor, network: LoadedNetwork, mean: Floats, deviation: Floats
    ) -> Tensor:
        """Normalise views ``(n, channels, height, width)``, before contrast and noise change."""
        grey = network.head.preprocessing.grey_values
        if grey.normalise not in ("patient", "image"):
            middle, half = grey.mean, grey.deviation
            if middle is None or half is None:
                low, high = grey.normalise.window if isinstance(grey.normalise, Window) else (-1, 1)
                middle, half = ((low + high) / 2,), ((high - low) / 2,)
            mean, deviation = np.array([middle]), np.array([half])
        deviation = np.where(deviation > 0, deviation, 1.0)
        shift = torch.from_numpy(mean).float()[:, :, None, None].to(images.device)
        factor = torch.from_numpy(1 / deviation).float()[:, :, None, None].to(images.device)
        return (images - shift) * factor

    def outputs(self, canvases: NDArray[np.float32], mean: Floats, deviation: Floats) -> Floats:
        """Compute the outputs of the model, averaged over networks and views.

        Args:
            canvases: Prepared patches ``(n, channels, side, side)``, from `canvas`.
            mean: Mean of the pixels of each image, or of all images of its patient if
                `needs_patient`, ``(n, channels)``.
            deviation: Their standard deviation, ``(n, channels)``.

        Returns:
            ``(n, outputs)``; `hydrakit.stats.tasks.predictions` makes probabilities of them.
        """
        stored, patch = torch.from_numpy(canvases).to(self.device), self.head.preprocessing.patch
        channels = self.head.preprocessing.channels
        by_network = []
        for network in self.networks:
            grey = network.head.preprocessing.grey_values
            by_view = []
            for view in views_of(network.head):
                if view is None:
                    images = central_view(stored, patch)
                    images = grey.clip(self._normalised(images, network, mean, deviation))
                else:
                    views = view[torch.zeros(len(stored), dtype=torch.int64)].to(self.device)
                    images = self._normalised(views.of(stored, patch), network, mean, deviation)
                    images = grey.clip(views.adjusted(images))
                images = images.expand(-1, channels, -1, -1)
                by_view.append(forward_in_batches(network.module, images).cpu().double().numpy())
            scale = network.head.scale
            outputs = mean_outputs(by_view, task=self.task, scale=scale)
            if scale != self.head.scale:  # a number that another training split standardised
                predicted = predictions(outputs, task=self.task, scale=scale)
                outputs = outputs_of(predicted, task=self.task, scale=self.head.scale)
            by_network.append(outputs)
        return mean_outputs(by_network, task=self.task, scale=self.head.scale)

    def patches(self, canvases: NDArray[np.float32], mean: Floats, deviation: Floats) -> Tensor:
        """Compute what the first network sees, without test-time views.

        Args:
            canvases: As in `outputs`.
            mean: As in `outputs`.
            deviation: As in `outputs`.

        Returns:
            ``(n, channels, patch, patch)``, on the CPU.
        """
        network = self.networks[0]
        needed = network.head.preprocessing
        views = central_view(torch.from_numpy(canvases), needed.patch)
        images = needed.grey_values.clip(self._normalised(views, network, mean, deviation))
        return images.expand(-1, needed.channels, -1, -1)

    def preprocess(
        self,
        image: NDArray[np.float32],
        *,
        spacing: tuple[float, float] | None = None,
        centre: tuple[float, float] | None = None,
        statistics: Statistics | None = None,
    ) -> Tensor:
        """Turn an image into what the first network sees of it, without test-time views.

        Args:
            image: Pixels ``(height, width)`` or ``(channels, height, width)``, in the unit of the
                images of training; `numpy.ma` masks padding.
            spacing: Pixel spacing (row, column) in millimetres.
            centre: Position (row, column) in pixels; None for the centre of the image.
            statistics: Statistics of all images of the patient, for a z-score per patient; None for
                those of this image.

        Returns:
            ``(channels, patch, patch)``, on the CPU.

        Raises:
            DataError: The image lacks what the model needs.
        """
        planes = np.ma.asanyarray(image, dtype=np.float32)
        planes = planes[np.newaxis] if planes.ndim == 2 else planes
        padding = padding_mask(planes)
        sample = LoadedSample(
            image=fill_padding(planes),
            padding=padding,
            label=None,
            patient="image",
            key="image",
            centre=centre,
            spacing=spacing,
        )
        canvas, own = self.canvas(sample)
        used = statistics or own
        mean, deviation = used.mean[np.newaxis], used.standard_deviation()[np.newaxis]
        return self.patches(canvas[np.newaxis], mean, deviation)[0]


def load_model(
    path: Path | None = None,
    *,
    body: Path | None = None,
    head: Path | None = None,
    dataset: str | None = None,
    device: str = "cpu",
    plugins: Plugins | None = None,
) -> Model:
    """Load a trained model for prediction.

    Args:
        path: Folder of a finished run, or a folder with weights: of ``weights swap``, ``finish`` or
            ``export --to hub``.
        body: In place of ``path``: file of a body.
        head: File of a head, with ``body``.
        dataset: Dataset whose head is used; None for the target of the run, or the only head.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        plugins: Plugins with the factories; None loads the installed ones.

    Raises:
        PlanError: The run is not finished, or this machine has no such device.
        PluginError: No plugin offers the factory of a body or of a head.
        WeightsError: A file is missing or invalid, or the networks do not belong together.
    """
    from hydrakit.compute.devices import choose_compute

    if (path is None) == (body is None) or (body is None) != (head is None):
        raise PlanError("give the folder of a model, or the files of a body and of a head")
    if path is not None:
        files = find_model(path, dataset=dataset)
    else:
        assert body is not None
        assert head is not None
        files = ModelFiles(((body, head),))
    return load_networks(files, choose_compute(device).device, plugins=plugins)


def load_networks(
    files: ModelFiles, device: torch.device, *, plugins: Plugins | None = None
) -> Model:
    """Load the networks of a model onto a device.

    Raises:
        PluginError: No plugin offers the factory of a body or of a head.
        WeightsError: A file is invalid, or the networks do not belong together.
    """
    networks = tuple(
        LoadedNetwork(
            read_body(body),
            read_head(head),
            weights.load_model(body, head, plugins=plugins).to(device),
        )
        for body, head in files.networks
    )
    _refuse_other_images(files.networks, networks)
    return Model(files, networks, device)


def _refuse_other_images(
    files: Sequence[tuple[Path, Path]], networks: Sequence[LoadedNetwork]
) -> None:
    """Refuse networks that see other regions of an image, or predict other classes."""
    first = networks[0].head
    for (_, path), network in zip(files[1:], networks[1:], strict=True):
        for what, ours, theirs in (
            ("classes", first.classes, network.head.classes),
            ("task", first.task, network.head.task),
            ("patch", first.preprocessing.patch, network.head.preprocessing.patch),
            ("channels", first.preprocessing.channels, network.head.preprocessing.channels),
            ("conversion", first.preprocessing.conversion, network.head.preprocessing.conversion),
            (
                "field of view",
                first.preprocessing.field_of_view,
                network.head.preprocessing.field_of_view,
            ),
            (
                "normalisation",
                first.preprocessing.grey_values.normalise,
                network.head.preprocessing.grey_values.normalise,
            ),
        ):
            if ours != theirs:
                raise WeightsError(
                    f"{path}: its {what} ({theirs}) is another than that of the first network "
                    f"({ours}), {files[0][1]}: the networks of a model must agree"
                )
