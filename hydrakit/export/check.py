"""Check of an exported file: it answers as the model does, on real patches where there are some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hydrakit.data.prepared.crop import OVERSAMPLING, canvas_side
from hydrakit.errors import WeightsError
from hydrakit.export.programs import Images
from hydrakit.hooks import Window
from hydrakit.runs.model import Model
from hydrakit.runs.rundir import EXAMPLE_CASES, RunDir
from hydrakit.stats.decisions import calibrated
from hydrakit.stats.findings import Floats
from hydrakit.stats.tasks import predictions

IMAGES = 64
TOLERANCE = 1e-5  # of a probability; of a number, as a share of its standard deviation
BATCHES = (1, 7, 56)  # sizes of the batches, which add up to `IMAGES`


@dataclass(frozen=True, eq=False)
class TestImages:
    """Images on which an exported file must answer as the model.

    Attributes:
        canvases: Prepared patches ``(n, channels, side, side)``, in the unit of the images.
        real: How many of them are patches of test cases, or mirror images of these.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    canvases: Images
    real: int

    @classmethod
    def of(cls, model: Model, run: RunDir | None) -> TestImages:
        """Choose images: the example cases of the model's run, then random ones.

        Raises:
            PlanError: The file of the examples was changed.
        """
        needed = model.head.preprocessing
        shape = (needed.channels, needed.patch, needed.patch)
        examples = np.zeros((0, *shape), dtype=np.float32)
        if run is not None and run.plan().target == model.head.dataset:
            examples = _examples(run, shape)
        real = np.concatenate([examples, examples[..., ::-1]])[:IMAGES]
        random = np.random.default_rng(0).normal(size=(IMAGES - len(real), *shape))
        if isinstance(needed.grey_values.normalise, Window):
            random = np.tanh(random)
        patches = np.concatenate([real, random.astype(np.float32)])
        return cls(_canvases(patches, model), len(real))

    def unit(self) -> tuple[Floats, Floats]:
        """Mean 0 and standard deviation 1 of each image: they are z-scored already."""
        shape = self.canvases.shape[:2]
        return np.zeros(shape), np.ones(shape)

    @property
    def text(self) -> str:
        """The images in words."""
        random = len(self.canvases) - self.real
        return " and ".join(
            f"{count} {what}" for count, what in ((self.real, "real"), (random, "random")) if count
        )


def _examples(run: RunDir, shape: tuple[int, ...]) -> Images:
    """Patches of test cases in the folder of a run, as the network sees them."""
    from safetensors.numpy import load

    path = run.file(EXAMPLE_CASES)
    stored = load(path.read_bytes())["patches"] if path.is_file() else np.zeros((0,))
    patches = stored if stored.shape[1:] == shape else np.zeros((0, *shape))
    return np.asarray(patches, dtype=np.float32)


def _canvases(patches: Images, model: Model) -> Images:
    """Prepared patches whose central views are given patches, in the unit of the images."""
    grey = model.head.preprocessing.grey_values
    if isinstance(grey.normalise, Window):
        low, high = grey.normalise.window
        patches = patches * np.float32((high - low) / 2) + np.float32((high + low) / 2)
    elif grey.mean is not None and grey.deviation is not None:
        mean, deviation = (np.array(each, np.float32) for each in (grey.mean, grey.deviation))
        patches = patches * deviation[:, None, None] + mean[:, None, None]
    large = patches.repeat(OVERSAMPLING, axis=-2).repeat(OVERSAMPLING, axis=-1)
    margin = (canvas_side(patches.shape[-1]) - large.shape[-1]) // 2
    border = (margin, margin)
    return np.pad(large, [(0, 0), (0, 0), border, border], mode="edge").astype(np.float32)


def answers(model: Model, images: TestImages) -> Floats:
    """Probabilities ``(n, classes)`` or numbers ``(n, 1)`` of a model, calibrated.

    Raises:
        WeightsError: An output is not finite.
    """
    outputs = model.outputs(images.canvases, *images.unit())
    if not np.isfinite(outputs).all():
        raise WeightsError(
            f"{model.files.networks[0][1]}: the network gives numbers that are not finite, and is "
            "not exported: train it with a lower learning rate"
        )
    predicted = predictions(outputs, task=model.task, scale=model.head.scale)
    decision = model.decision
    return calibrated(predicted, decision.calibration if decision else None)


def check(name: str, run: Callable[[Images], Images], model: Model, images: TestImages) -> None:
    """Check that an exported file answers as the model.

    Args:
        name: Name of the file.
        run: Computes its answers, for a batch of any size.
        model: The model, with the views that the file has.
        images: Images to compare both on.

    Raises:
        WeightsError: An answer differs by more than `TOLERANCE`.
    """
    patches = model.patches(images.canvases, *images.unit()).numpy()
    ends = np.cumsum(BATCHES)
    found = np.concatenate([run(part) for part in np.split(patches, ends[:-1])])
    wanted = answers(model, images)
    difference = np.abs(found - wanted).max() if found.shape == wanted.shape else np.inf
    unit = model.head.scale[1] if model.head.scale is not None else 1.0
    if not difference <= TOLERANCE * unit:
        raise WeightsError(
            f"{name}: not written, its answers differ from the model's by up to {difference:.2g} "
            f"on {images.text} images, and {TOLERANCE * unit:.2g} is allowed: export it with "
            "another version of PyTorch, or to another format"
        )
