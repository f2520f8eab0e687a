"""Saliency maps of predicted images, as PNG files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from hydrakit.errors import PlanError
from hydrakit.models.body import BodyWithHead
from hydrakit.report.pictures import intensity_windows, overlay, png
from hydrakit.runs.example_cases import ImageStack, integrated_gradients
from hydrakit.runs.model import Batch, ImageInput, LoadedNetwork, Model
from hydrakit.storage.files import write_atomic
from hydrakit.storage.records import writable

SCALE = 4  # pixels of a picture for each of a patch
_OTHER = re.compile(r"[^0-9A-Za-z.-]+")


class SaliencyPictures:
    """Writes a picture for each predicted case: the patch, and the patch with its saliency map.

    Orange pixels support the predicted class (for a number: a larger one), blue ones oppose it.
    Maps are means over the networks of the model. Channels are side by side.

    Args:
        model: The model.
        folder: Folder for the pictures; it is created.

    Raises:
        PlanError: The folder cannot be written.
    """

    def __init__(self, model: Model, folder: Path) -> None:
        self.model, self.folder = model, folder
        with writable(folder, "name another folder with `--explain`"):
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, batch: Batch, first: int) -> None:
        """Write the pictures of a batch.

        Args:
            batch: Its cases.
            first: Number of its first case in the file of predictions, from 1.
        """
        rows = [row for row, case in enumerate(batch.cases) if case.reason is None]
        if not rows:
            return
        images = [batch.images[row] for row in rows]
        canvases = np.stack([each.canvas for each in images if isinstance(each, ImageInput)])
        outputs = [self._output(batch, row) for row in rows]
        maps = []
        patches: ImageStack = canvases
        for network in self.model.networks:
            patches, each = self._maps(network, batch, rows, canvases, outputs)
            maps.append(each)
        for row, patch, saliency in zip(rows, patches, np.mean(maps, axis=0), strict=True):
            name = _OTHER.sub("-", batch.cases[row].key)[-60:].strip("-.") or "case"
            path = self.folder / f"{first + row:06d}-{name}.png"
            with writable(path, "name another folder with `--explain`"):
                write_atomic(path, _picture(patch, saliency), sync=False)

    def _output(self, batch: Batch, row: int) -> int:
        """The output to explain: the predicted class, the most probable label, or the number."""
        case = batch.cases[row]
        if isinstance(case.predicted, str):
            return self.model.classes.index(case.predicted)
        return int(np.argmax(list(case.probabilities.values()))) if case.probabilities else 0

    def _maps(
        self,
        network: LoadedNetwork,
        batch: Batch,
        rows: list[int],
        canvases: ImageStack,
        outputs: list[int],
    ) -> tuple[ImageStack, ImageStack]:
        if not isinstance(network.module, BodyWithHead):
            raise PlanError("--explain: this kind of network has no saliency maps: leave it out")
        used = [batch.totals[row] for row in rows]
        mean = np.stack([each.mean for each in used])
        deviation = np.stack([each.standard_deviation() for each in used])
        normalised = self.model.normalised(canvases, network, mean, deviation)
        return integrated_gradients(
            network.module,
            normalised,
            outputs,
            target=network.head.stem_for(network.head.dataset),
            grey=network.head.preprocessing.grey_values,
        )


def _picture(patch: ImageStack, saliency: ImageStack) -> bytes:
    tiles = []
    for plane, window, values in zip(patch, intensity_windows(patch), saliency, strict=True):
        plain = overlay(plane, window, np.zeros_like(values)) / 0.8
        tiles += [plain, overlay(plane, window, values)]
    drawn = np.concatenate(tiles, axis=1).clip(0, 255)
    return png(drawn.repeat(SCALE, axis=0).repeat(SCALE, axis=1))
