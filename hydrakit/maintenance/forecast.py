"""What to expect of a head on a body, before anything is written or evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydrakit import weights
from hydrakit.errors import HydrakitError
from hydrakit.report.cases import read_examples
from hydrakit.runs.expected import expected_figures, figure_text
from hydrakit.runs.rundir import run_of
from hydrakit.stats.findings import Floats
from hydrakit.weights.files import checked_pair
from hydrakit.weights.folders import BODY
from hydrakit.weights.format import HeadMetadata, read_body

if TYPE_CHECKING:
    from torch import nn

    from hydrakit.plugins.registry import Plugins

IMAGES = 64  # synthetic images
SEED = 0


def forecast(body_path: Path, head_path: Path, *, plugins: Plugins | None = None) -> Iterator[str]:
    """Yield what is known of a head, and how far a body moves its answers, in sentences.

    The figure is that of the run or of the model's folder in which the head lies. If the body is
    not that of the head's training, and that one lies in the same folder, both compute the answers
    to the same images: example test cases that the run stores, and synthetic images.

    Args:
        body_path: File of the body.
        head_path: File of the head.
        plugins: Plugins with the factories; None loads the installed ones.

    Raises:
        HydrakitError: A file is invalid, or body and head cannot be combined.
    """
    head, _ = checked_pair(body_path, head_path)
    run = run_of(head_path)
    folder = head_path.absolute().parent.parent if run is None else run.path
    figure = expected_figures(folder).get(head.dataset)
    yield (
        f"nothing beside {head_path} says how good its head is"
        if figure is None
        else f"on its own body, the head of {head.dataset!r} has {figure_text(figure)} "
        f"({figure.reason})"
    )
    if read_body(body_path).digest == head.body:
        return
    own = _body_of_training(folder, head)
    if own is None:
        yield (
            f"the body that the head was trained on is not in {folder}, so how far this one moves "
            "its answers is unknown"
        )
        return
    sets = {f"{IMAGES} synthetic images": synthetic_images(head)}
    examples = None if run is None else read_examples(run)
    if examples is not None and run is not None and run.plan().target == head.dataset:
        sets[f"{len(examples[1])} example test cases of the run"] = examples[1]
    pair = [weights.load_model(path, head_path, plugins=plugins) for path in (own, body_path)]
    for name, images in sets.items():
        before, after = (_answers(model, images, head) for model in pair)
        yield f"on {name}, {movement_text(before, after, head)}"


def _body_of_training(folder: Path, head: HeadMetadata) -> Path | None:
    """File of the body that a head was trained on, in the folder of its run or model."""
    for path in (folder / BODY, *sorted(folder.glob(f"rounds/*/{BODY}"))):
        try:
            if read_body(path).digest == head.body:
                return path
        except HydrakitError:  # it is another file than those that were given
            continue
    return None


def synthetic_images(head: HeadMetadata) -> NDArray[np.float32]:
    """Random smooth images ``(images, channels, patch, patch)``, the same for each call.

    Noise of every scale has the same strength, and each image has mean 0 and deviation 1, like
    patches after a z-score. No data is needed, and none of a patient is stored.
    """
    from scipy.ndimage import zoom

    rng = np.random.default_rng(SEED)
    side, channels = head.preprocessing.patch, head.preprocessing.channels
    images = np.zeros((IMAGES, channels, side, side))
    size = 2
    while size <= side:
        coarse = rng.standard_normal((IMAGES, channels, size, size))
        images += zoom(coarse, (1, 1, side / size, side / size), order=1)
        size *= 2
    images -= images.mean(axis=(2, 3), keepdims=True)
    images /= images.std(axis=(2, 3), keepdims=True)
    return np.asarray(head.preprocessing.grey_values.clip(images), dtype=np.float32)


def _answers(model: nn.Module, images: NDArray[np.float32], head: HeadMetadata) -> Floats:
    """Probabilities, or numbers in their unit, ``(images, outputs)``."""
    import torch

    from hydrakit.stats.tasks import predictions
    from hydrakit.training.evaluation import forward_in_batches

    outputs = forward_in_batches(model, torch.from_numpy(images)).double().numpy()
    return predictions(outputs, task=head.task, scale=head.scale)


def movement_text(before: Floats, after: Floats, head: HeadMetadata) -> str:
    """How far answers move, in words: their change, and how much of their order stays.

    Args:
        before: Answers with the body of the training, ``(images, outputs)``.
        after: Answers with the other body.
        head: Metadata of the head.
    """
    from scipy.stats import spearmanr

    change = float(np.abs(before - after).max(axis=1).mean())
    if head.task == "regression":
        text = f"this body changes its numbers by {change:.4g} in the mean"
    else:
        if head.task == "multilabel":
            changed = ((before > 0.5) != (after > 0.5)).any(axis=1)
        else:
            changed = before.argmax(axis=1) != after.argmax(axis=1)
        text = (
            f"this body changes its probabilities by {change:.3f} in the mean, and "
            f"{int(changed.sum())} of {len(before)} images change their class"
        )
    column = min(1, before.shape[1] - 1)
    if np.ptp(before[:, column]) > 0 and np.ptp(after[:, column]) > 0:
        order = float(spearmanr(before[:, column], after[:, column]).statistic)
        text += f"; rank correlation {order:.2f} (1: their order stays)"
    return text
