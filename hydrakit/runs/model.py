"""A trained model, ready for prediction: its weight files, its networks, and its preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hydrakit import weights
from hydrakit.data.augment import central_view
from hydrakit.data.declared.given import NO_SPACING
from hydrakit.data.identity import is_named, patient_of
from hydrakit.data.padding import fill_padding, padding_mask
from hydrakit.data.prepared.crop import Statistics, crop, crop_fault, is_flat
from hydrakit.data.prepared.prepare import map_in_order, reading_threads
from hydrakit.data.quality.duplicates import content_digest
from hydrakit.data.quality.foreign import foreign_values
from hydrakit.data.read import LoadedSample, checked, in_grey
from hydrakit.errors import DataError, PlanError, command_line, one_line, unknown
from hydrakit.file_rules import FileRules
from hydrakit.hooks import FieldOfView, Sample, Task, Unusable, Window
from hydrakit.plan.decision import Decision
from hydrakit.plan.view import view_text
from hydrakit.runs.evaluate import refuse_other_images, views_of
from hydrakit.runs.predicted import InputCase, PredictedCase, Rule, TrainingImages
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.findings import Floats
from hydrakit.stats.tasks import mean_outputs, outputs_of, predictions
from hydrakit.training.evaluation import forward_in_batches
from hydrakit.weights.folders import is_model_folder, networks_in
from hydrakit.weights.format import BodyMetadata, HeadMetadata, read_body, read_head

if TYPE_CHECKING:
    from hydrakit.data.declared.schema import ImageRules
    from hydrakit.plugins.registry import Plugins

_log = logging.getLogger(__name__)

RowColumn = tuple[float, float]
Each = TypeVar("Each")

BATCH = 256  # cases that are predicted and written together; other batches give other last digits


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
    if not path.exists():
        raise PlanError(f"{path}: there is no such folder: name a run, or a folder with a model")
    if is_model_folder(path):
        return ModelFiles(tuple(networks_in(path, dataset)))
    run = RunDir(path)
    if not run.plan_path.exists() and (any(path.glob("*.onnx")) or any(path.glob("*.pt"))):
        raise PlanError(
            f"{path}: holds ONNX or TorchScript files, which are for other programs: name the run "
            "or the model that `hydrakit export` wrote them from"
        )
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
    return ModelFiles(tuple(each.weights(plan, heads[-1]) for each in run.networks(plan)), run)


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
class ImageInput:
    """An image as the networks get it.

    Attributes:
        canvas: Prepared patch ``(channels, side, side)``, in the unit of the image.
        statistics: Statistics of the whole image.
        content: Digest of its pixels.
        patient: Patient, in the form in which names are compared; None if it is not named.
        centred: Whether its centre stands in for a position.
    """

    canvas: NDArray[np.float32]
    statistics: Statistics
    content: str
    patient: str | None
    centred: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """Some cases that were predicted together.

    Attributes:
        cases: The predictions, in order.
        images: Image of each case, or why it cannot be used.
        totals: Statistics by which each of the usable images is z-scored, by row.
    """

    cases: tuple[PredictedCase, ...]
    images: tuple[ImageInput | str, ...]
    totals: Mapping[int, Statistics]


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

    @property
    def sees_a_part(self) -> bool:
        """Whether the networks see a part of an image, so that its position matters."""
        return self.view.share is None or self.view.share < 1

    @property
    def reads_colour(self) -> bool:
        """Whether image files are read with the channels of their colours."""
        needed = self.head.preprocessing
        return needed.conversion == "grey" or (needed.conversion is None and needed.channels == 3)

    @property
    def file_rules(self) -> FileRules:
        """How image files are read: as those of the training, or by default if no head says it."""
        known = (network.head.preprocessing.file_rules for network in self.networks)
        return next((rules for rules in known if rules is not None), FileRules())

    @property
    def decision(self) -> Decision | None:
        """Calibration and threshold for this number of networks; None if the head has none."""
        decision = self.head.decision
        return decision if decision and decision.networks == len(self.networks) else None

    def notes(self) -> Iterator[str]:
        """Yield what users must know about the model, one sentence each."""
        from hydrakit.weights.files import mismatch

        for network in self.networks:
            note = mismatch(network.body, network.head)
            if note:
                yield note
        decision = self.head.decision
        if decision is not None and self.decision is None:
            yield (
                f"the calibration and the threshold in the head's file are for {decision.networks} "
                f"networks, and these are {len(self.networks)}: they are not used"
            )

    def foreign_values(self, batch: Batch) -> str | None:
        """What shows that the images of a batch have another unit than those of training."""
        read = [image for image in batch.images if isinstance(image, ImageInput)]
        if not read:
            return None
        return foreign_values(
            self.head.preprocessing.grey_values,
            np.stack([image.statistics.mean for image in read]),
            np.stack([image.statistics.standard_deviation() for image in read]),
            np.stack([image.canvas for image in read]),
        )

    def canvas(self, sample: LoadedSample) -> tuple[NDArray[np.float32], Statistics]:
        """Crop an image, and compute its statistics for the z-score.

        Args:
            sample: Image with its centre and spacing.

        Returns:
            The prepared patch ``(channels, side, side)`` in the unit of the image, larger than
            what the network sees, and the statistics of the whole image.

        Raises:
            DataError: The image has another number of channels than the networks need, or a
                channel without contrast, or the field of view has no sensible size in its pixels.
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
        if sample.extent is None and self.view.mask and self.file_rules.no_mask == "whole":
            height, width = sample.image.shape[1:]
            sample = replace(
                sample,
                centre=((height - 1) / 2, (width - 1) / 2),
                extent=(height / self.view.mask, width / self.view.mask),
            )
        if self.view.mask is not None and sample.extent is None:
            raise DataError(f"has no mask, and the model sees {view_text(self.view)}")
        if is_flat(sample.image):
            raise DataError("the image has no contrast")
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

    def normalised(
        self, canvases: NDArray[np.float32], network: LoadedNetwork, mean: Floats, deviation: Floats
    ) -> NDArray[np.float32]:
        """Normalise prepared patches for a network, as `outputs` does; a window does not clip yet.

        Args:
            canvases: Prepared patches ``(n, channels, side, side)``, from `canvas`.
            network: The network.
            mean: As in `outputs`.
            deviation: As in `outputs`.

        Returns:
            ``(n, channels, side, side)``, with as many channels as the network takes.
        """
        images = self._normalised(torch.from_numpy(canvases), network, mean, deviation)
        images = images.expand(-1, network.head.preprocessing.channels, -1, -1)
        return np.ascontiguousarray(images.numpy())

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
        extent: tuple[float, float] | None = None,
        statistics: Statistics | None = None,
    ) -> Tensor:
        """Turn an image into what the first network sees of it, without test-time views.

        Args:
            image: Pixels ``(height, width)`` or ``(channels, height, width)``, as the images of
                training were after `file_rules` (such as a window of grey values, or several
                slices as channels); `numpy.ma` masks padding.
            spacing: Pixel spacing (row, column) in millimetres.
            centre: Position (row, column) in pixels; None for the centre of the image.
            extent: Height and width of the lesion in pixels, for a model whose field of view
                depends on them.
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
            extent=extent,
        )
        canvas, own = self.canvas(sample)
        used = statistics or own
        mean, deviation = used.mean[np.newaxis], used.standard_deviation()[np.newaxis]
        return self.patches(canvas[np.newaxis], mean, deviation)[0]

    def image_input(
        self, case: InputCase, *, spacing: RowColumn | None = None, exact: bool = False
    ) -> ImageInput | str:
        """Read and crop the image of a case; or return why there is no prediction for it.

        Args:
            case: The case.
            spacing: Pixel spacing of an image that does not state it.
            exact: Whether names of patients are compared as they are.

        Raises:
            MissingCodecError: No installed package decodes the file, and probably other files.
        """
        from hydrakit.data.dicom import MissingCodecError

        try:
            sample = case.load()
            if isinstance(sample, Unusable):
                return sample.reason
            if sample.spacing is None and spacing is not None:
                sample = replace(sample, spacing=spacing)
            if self.view.millimetres is not None and sample.spacing is None:
                return NO_SPACING
            canvas, statistics = self.canvas(sample)
        except MissingCodecError:
            raise
        except DataError as error:
            return one_line(str(error), 300)
        return ImageInput(
            canvas=canvas,
            statistics=statistics,
            content=content_digest(sample.image),
            patient=patient_of(sample, exact=exact) if is_named(sample) else None,
            centred=sample.centre is None,
        )

    def patient_statistics(
        self,
        cases: Iterable[InputCase],
        *,
        spacing: RowColumn | None = None,
        exact: bool = False,
        on_case: Callable[[int], None] = lambda _: None,
    ) -> dict[str, Statistics]:
        """Read all images, and compute the statistics of all images of each named patient.

        Args:
            cases: The cases.
            spacing: As in `image_input`.
            exact: As in `image_input`.
            on_case: Called with the number of cases read so far.
        """
        totals: dict[str, Statistics] = {}
        work = partial(self.image_input, spacing=spacing, exact=exact)
        with closing(map_in_order(work, iter(cases), threads=reading_threads())) as outcomes:
            for number, (_, image) in enumerate(outcomes, start=1):
                if isinstance(image, ImageInput) and image.patient is not None:
                    total = totals.get(image.patient)
                    totals[image.patient] = total + image.statistics if total else image.statistics
                on_case(number)
        return totals

    def stream(
        self,
        cases: Iterable[InputCase],
        rule: Rule,
        *,
        totals: Mapping[str, Statistics] | None = None,
        spacing: RowColumn | None = None,
        exact: bool = False,
    ) -> Iterator[Batch]:
        """Predict cases in order, `BATCH` at a time; only a few images are in memory.

        Args:
            cases: The cases.
            rule: How probabilities become decisions.
            totals: Statistics of each patient, for a z-score per patient (`patient_statistics`);
                an image without a patient is z-scored by itself.
            spacing: As in `image_input`.
            exact: As in `image_input`.
        """
        trainings = TrainingImages(
            [each for n in self.networks for each in (n.body.cases, n.head.cases)]
        )
        work = partial(self.image_input, spacing=spacing, exact=exact)
        with closing(map_in_order(work, iter(cases), threads=reading_threads())) as outcomes:
            while pending := list(islice(outcomes, BATCH)):
                yield self._batch(pending, rule, totals or {}, trainings)

    def _batch(
        self,
        pending: Sequence[tuple[InputCase, ImageInput | str]],
        rule: Rule,
        totals: Mapping[str, Statistics],
        trainings: TrainingImages,
    ) -> Batch:
        usable = {
            row: image for row, (_, image) in enumerate(pending) if isinstance(image, ImageInput)
        }
        used = {
            row: totals.get(image.patient, image.statistics) if image.patient else image.statistics
            for row, image in usable.items()
        }
        decisions: dict[int, tuple[Any, ...]] = {}
        if usable:
            outputs = self.outputs(
                np.stack([image.canvas for image in usable.values()]),
                np.stack([each.mean for each in used.values()]),
                np.stack([each.standard_deviation() for each in used.values()]),
            )
            finite = np.flatnonzero(np.isfinite(outputs).all(axis=1))
            values = predictions(outputs[finite], task=self.task, scale=self.head.scale)
            rows = [list(usable)[index] for index in finite]
            decisions = dict(zip(rows, rule.decide(values), strict=True))
        views = self.head.views.count if self.head.views else 1
        cases = []
        for row, (case, image) in enumerate(pending):
            reason: str | None
            if isinstance(image, ImageInput):
                reason = None if row in decisions else "an output of the network is not finite"
                seen = trainings.used(image.content)
            else:
                reason, seen = image, None
            probabilities, predicted, possible = decisions.get(row, ({}, None, None))
            cases.append(
                PredictedCase(
                    key=case.key,
                    finding=case.finding,
                    patient=case.patient,
                    probabilities=probabilities,
                    predicted=predicted,
                    possible=possible,
                    views=0 if reason else views,
                    seen_in_training=seen,
                    reason=reason,
                    label=case.label,
                )
            )
        return Batch(tuple(cases), tuple(image for _, image in pending), used)

    def predict(
        self,
        images: Iterable[Path | str | NDArray[Any]],
        *,
        spacing: RowColumn | Sequence[RowColumn | None] | None = None,
        centre: RowColumn | Sequence[RowColumn | None] | None = None,
        extent: RowColumn | Sequence[RowColumn | None] | None = None,
        patient: str | Sequence[str | None] | None = None,
        calibrate: bool = True,
    ) -> list[PredictedCase]:
        """Predict some images.

        Args:
            images: Image files, which are read by `file_rules`; or arrays ``(height, width)`` or
                ``(channels, height, width)``, as those of `preprocess`.
            spacing: Pixel spacing (row, column) in millimetres, of all images or of each; for a
                file, only if it does not state it, and None for that of `file_rules`.
            centre: Position (row, column) in pixels, of all images or of each; None for the centre
                of the image.
            extent: Height and width of the lesion in pixels, of all images or of each, for a model
                whose field of view depends on them.
            patient: Patient of all images or of each; if the model needs it, the images of a
                patient are z-scored together, otherwise and without a name each by itself.
            calibrate: Whether the calibration and the threshold in the head's file are used.

        Returns:
            One record for each image, in order; `reason` says why one has no prediction. The key
            of a file is its path, that of an array its number, from 0. Grey values in another unit
            than those of training are logged as a warning.

        Raises:
            PlanError: A list has not one value for each image, or is a single path.
        """
        from hydrakit.data.declared.schema import ImageRules

        if isinstance(images, str | Path):
            raise PlanError(f"{images}: a list of images is expected: write [{str(images)!r}]")
        listed = list(images)
        given = [
            _each(name, value, len(listed), is_single)
            for name, value, is_single in (
                ("spacing", spacing, _is_pair),
                ("centre", centre, _is_pair),
                ("extent", extent, _is_pair),
                ("patient", patient, lambda value: isinstance(value, str)),
            )
        ]
        rules = ImageRules.of(self.file_rules, colour=self.reads_colour)
        cases = [
            InputCase(
                key=str(number if isinstance(image, np.ndarray) else image),
                load=partial(_loaded, rules, self.file_rules.spacing, str(number), image, values),
                patient=values[3],
            )
            for number, (image, *values) in enumerate(zip(listed, *given, strict=True))
        ]
        totals = self.patient_statistics(cases) if self.needs_patient and patient else {}
        rule = Rule.of(self.task, self.classes, self.decision if calibrate else None)
        predicted: list[PredictedCase] = []
        foreign = None
        for batch in self.stream(cases, rule, totals=totals):
            predicted += batch.cases
            foreign = foreign or self.foreign_values(batch)
        if foreign is not None:
            _log.warning("%s", foreign)
        return predicted


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(each, int | float) for each in value)
    )


def _each(name: str, value: Any, count: int, is_single: Callable[[object], bool]) -> list[Any]:
    """A value for each image, of one for all images or a list."""
    if value is None or is_single(value):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise PlanError(f"{name}: has {len(values)} values for {count} images: give one for each")
    return values


def _loaded(
    rules: ImageRules,
    unstated: RowColumn | None,
    number: str,
    image: Path | str | NDArray[Any],
    values: Sequence[Any],
) -> LoadedSample | Unusable:
    """Load an image for `Model.predict`.

    Args:
        rules: How a file is read.
        unstated: Pixel spacing of a file that does not state it, if ``values`` has none either.
        number: Key of an array.
        image: The image.
        values: Its spacing, centre, extent and patient.
    """
    from hydrakit.data.declared.arrays import ImageError
    from hydrakit.data.declared.given import location_of
    from hydrakit.data.declared.images import ImageReader

    spacing, centre, extent, patient = values
    key = number if isinstance(image, np.ndarray) else str(image)
    if isinstance(image, np.ndarray):
        pixels: NDArray[np.float32] = np.ma.asanyarray(image, dtype=np.float32)
    else:
        with closing(ImageReader(rules)) as reader:
            try:
                location = location_of(Path(image))
                picture = reader.read(Path(location.file), location.member, location.row)
            except ImageError as error:
                return Unusable(key=key, reason=error.reason)
        pixels, spacing = picture.pixels, picture.spacing or spacing or unstated
    sample = Sample(
        image=pixels,
        label=None,
        patient=patient or key,
        named=bool(patient),
        key=key,
        centre=centre,
        spacing=spacing,
        extent=extent,
    )
    return checked(sample)


def load_model(
    path: str | Path | None = None,
    *,
    body: str | Path | None = None,
    head: str | Path | None = None,
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
        device: ``cpu``, ``cuda``, ``cuda:N``, ``mps`` or ``auto``.
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
        files = find_model(Path(path), dataset=dataset)
    else:
        assert body is not None
        assert head is not None
        files = ModelFiles(((Path(body), Path(head)),))
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
    refuse_other_images([head for _, head in files.networks], [each.head for each in networks])
    return Model(files, networks, device)
