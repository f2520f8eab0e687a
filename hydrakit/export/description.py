"""What an exported file says about itself: JSON in its metadata, and the README beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hydrakit.file_rules import FileRules
from hydrakit.hooks import FieldOfView, Task, Window
from hydrakit.plan.decision import Calibration, Threshold
from hydrakit.plan.grey import GreyValues
from hydrakit.plan.view import view_text
from hydrakit.schema import Frozen, Name, Text
from hydrakit.weights.format import Preprocessing

Kind = Literal["onnx", "torchscript"]


class ProgramDescription(Frozen):
    """Metadata of an ONNX or TorchScript file.

    Attributes:
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote the file.
        torch: Version of PyTorch that converted the network.
        dataset: Dataset of the head.
        task: Kind of label.
        classes: Names of the classes or labels in the order of the outputs; for a regression, the
            name of the number.
        input: Name of the input: ``(batch, channels, patch, patch)``, float32.
        output: Name of the output: ``(batch, classes)``, float32.
        preprocessing: What turns an image into the input.
        networks: Number of networks whose mean the file gives.
        views: Number of mirror images of each patch in this mean, the patch among them.
        left_out_views: Number of test-time views of the model that the file does not have.
        difference: Largest difference of an answer from the model with these views, on the images
            of the check; None if there are none.
        mean_difference: Their mean difference.
        calibration: Correction of the probabilities, which is in the output already.
        threshold: Probability from which on a case counts as the second of two classes.
        bodies: Digest of the body of each network.
        heads: Digest of the head of each network.
        checked: Number of images on which the file was compared with the model.
        real: How many of these are patches of test cases.
        notes: What else users must know, one sentence each.
    """

    format: Literal[1] = 1
    hydrakit: Text
    torch: Text
    dataset: Name
    task: Task
    classes: tuple[Text, ...]
    input: Text
    output: Text
    preprocessing: Preprocessing
    networks: int
    views: int
    left_out_views: int = 0
    difference: float | None = None
    mean_difference: float | None = None
    calibration: Calibration | None = None
    threshold: Threshold | None = None
    bodies: tuple[Text, ...]
    heads: tuple[Text, ...]
    checked: int
    real: int
    notes: tuple[Text, ...] = Field(default=())


def preprocessing_steps(needed: Preprocessing) -> list[str]:
    """How an image becomes the input of the network: instructions, one sentence or two each."""
    steps = list(_reading(needed.file_rules or FileRules()))
    if needed.conversion == "grey":
        steps.append("Turn colour into grey (luminance: 0.299 R + 0.587 G + 0.114 B).")
    view, side = needed.field_of_view, needed.patch
    if view is None:
        steps.append("The region of the image that the network saw in training is not known.")
    elif view.millimetres is not None:
        steps.append(
            f"Cut out the square of {view_text(view)} around the finding, with the pixel spacing "
            "of the image. Repeat the border pixels where it reaches beyond the image."
        )
    elif view.mask is not None:
        steps.append(
            f"Cut out the square of {view_text(view)} around it: {view.mask:g} times the longer "
            "side of the box around the mask, with the middle of this box in its middle. Repeat "
            "the border pixels where it reaches beyond the image."
        )
    elif view.share == 1:
        steps.append("Take the whole image.")
    else:
        steps.append(
            f"Cut out the middle part around the finding: {view.share:g} of the height and of the "
            "width. Repeat the border pixels where it reaches beyond the image."
        )
    steps.append(
        f"Scale it to {2 * side} x {2 * side} pixels: bilinear, with antialiasing (as Pillow "
        f"does). If it is {side} x {side} pixels of the image, repeat each pixel instead. Then "
        f"take the mean of each block of 2 x 2 pixels, which leaves {side} x {side}."
    )
    steps.append(_normalisation(needed.grey_values))
    if needed.conversion == "repeat":
        steps.append(f"Repeat the single channel {needed.channels} times.")
    return steps


def _reading(rules: FileRules) -> Iterator[str]:
    """How a file becomes pixels, where it is not the default."""
    if rules.slices > 1:
        yield (
            f"Take {rules.slices} neighbouring slices of the volume in the {rules.plane} plane as "
            "channels, the one that is predicted in the middle."
        )
    elif rules.plane != "axial":
        yield f"Take a slice of the volume in the {rules.plane} plane."
    if rules.rescale is not None:
        yield (
            "Apply slope and intercept of the file to the grey values."
            if rules.rescale
            else "Leave the grey values as they are stored, without slope and intercept."
        )
    if isinstance(rules.window, tuple):
        centre, width = rules.window
        yield (
            f"Map the window of centre {centre:g} and width {width:g} to grey values from 0 to 255 "
            "(DICOM PS3.3, C.11.2.1.2), and set values outside to the ends."
        )
    elif rules.window is not None:
        yield "Map the window that the DICOM file states to grey values from 0 to 255."
    if rules.spacing is not None:
        row, column = rules.spacing
        yield f"If a file states no pixel spacing, it is {row:g} x {column:g} mm (row, column)."
    if rules.no_mask is not None:
        yield "If an image has no mask, take the whole image."


def _normalisation(grey: GreyValues) -> str:
    rule = grey.normalise
    if isinstance(rule, Window):
        low, high = rule.window
        return (
            f"Map grey values from {low:g} to {high:g} to -1 to 1, and set values outside to the "
            "ends."
        )
    if rule == "patient":
        return (
            "Subtract the mean of all pixels of all images of the patient, and divide by their "
            "standard deviation, each channel for itself. For a single image, use its own pixels."
        )
    if rule == "image":
        return (
            "Subtract the mean of all pixels of the whole image, and divide by their standard "
            "deviation, each channel for itself."
        )
    if grey.mean is not None and grey.deviation is not None:
        mean = ", ".join(f"{each:.6g}" for each in grey.mean)
        deviation = ", ".join(f"{each:.6g}" for each in grey.deviation)
        return f"Subtract {mean} and divide by {deviation} (one number for each channel)."
    return "Leave the grey values as they are."


def program_readme(files: dict[str, ProgramDescription], kind: Kind) -> str:
    """The README of a folder with ONNX or TorchScript files, by their names."""
    parts = [
        "# Trained networks\n\n"
        f"Written by hydrakit {next(iter(files.values())).hydrakit}. Research software: not a "
        "medical device, and not for decisions about patients."
    ]
    for name, each in files.items():
        parts.append(_section(name, each))
    first = next(iter(files))
    parts.append(_example(first, files[first], kind))
    return "\n\n".join(parts) + "\n"


def _section(name: str, about: ProgramDescription) -> str:
    needed = about.preprocessing
    shape = f"(batch, {needed.channels}, {needed.patch}, {needed.patch})"
    outputs = ", ".join(about.classes)
    lines = [f"## {name}", "", f"Head of the dataset `{about.dataset}`.", "", "Preprocessing:", ""]
    lines += [f"{n}. {step}" for n, step in enumerate(preprocessing_steps(needed), start=1)]
    meaning = {
        "classification": f"the probability of each class: {outputs}",
        "multilabel": f"the probability of each label: {outputs}",
        "regression": f"the number {outputs}, in its unit",
    }[about.task]
    averaged = []
    if about.networks > 1:
        averaged.append(f"{about.networks} networks")
    if about.views > 1:
        averaged.append(f"{about.views} mirror images of the patch")
    mean = f" It is the mean of {' and '.join(averaged)}." if averaged else ""
    inside = {"classification": " Softmax is inside.", "multilabel": " Sigmoid is inside."}
    text = inside.get(about.task, "")
    if about.calibration is not None:
        text = " Softmax and calibration are inside."
    lines += [
        "",
        f"Input `{about.input}`: float32 {shape}. Output `{about.output}`: {meaning}.{mean}{text}",
    ]
    if about.threshold is not None:
        lines += [
            "",
            f"A case counts as {about.classes[1]} from a probability of "
            f"{about.threshold.value:.4g} on, chosen for a {about.threshold.aim} of "
            f"{about.threshold.wished:g}.",
        ]
    lines += ["", f"Checked: its answers equal the model's on {about.checked} images."]
    lines += [f"\nNote: {note}." for note in about.notes]
    return "\n".join(lines)


def _example(name: str, about: ProgramDescription, kind: Kind) -> str:
    """Code that predicts one image, for the first file."""
    needed, side = about.preprocessing, about.preprocessing.patch
    lines = ["import json", "", "import numpy as np"]
    lines += ["import onnxruntime"] if kind == "onnx" else ["import torch"]
    lines += ["from PIL import Image", ""]
    if kind == "onnx":
        lines += [
            f'session = onnxruntime.InferenceSession("{name}")',
            'about = json.loads(session.get_modelmeta().custom_metadata_map["hydrakit"])',
        ]
    else:
        lines += [
            'files = {"hydrakit.json": ""}',
            f'network = torch.jit.load("{name}", _extra_files=files)',
            'about = json.loads(files["hydrakit.json"])',
        ]
    several = needed.channels > 1 and needed.conversion is None
    shape = "channels, height, width" if several else "height, width"
    reading = len(list(_reading(needed.file_rules or FileRules())))
    read = f", after step {reading}" if reading else ""
    lines += [
        f'image = np.load("image.npy").astype(np.float32)  # ({shape}){read}',
        "planes = image" if several else "planes = image[np.newaxis]",
        "height, width = planes.shape[1:]",
        *_region_lines(needed.field_of_view),
        f"exact = region == ({side}, {side})",
        "method = Image.Resampling.NEAREST if exact else Image.Resampling.BILINEAR",
        f"size = ({2 * side}, {2 * side})",
        "scaled = [Image.fromarray(plane).resize(size, method, box=box) for plane in planes]",
        f"patch = np.stack(scaled).reshape(-1, {side}, 2, {side}, 2).mean((2, 4))",
        *_normalising_lines(needed.grey_values),
    ]
    if needed.conversion == "repeat":
        lines += [f"patch = patch.repeat({needed.channels}, axis=0)"]
    lines += ["images = patch[np.newaxis].astype(np.float32)"]
    if kind == "onnx":
        lines += [f'(answers,) = session.run(None, {{"{about.input}": images}})']
    else:
        lines += ["answers = network(torch.from_numpy(images)).detach().numpy()"]
    lines += ['print(dict(zip(about["classes"], answers[0].tolist())))']
    return "## Example\n\nOne image, from `image.npy`:\n\n```python\n" + "\n".join(lines) + "\n```"


def _region_lines(view: FieldOfView | None) -> list[str]:
    if view is None or view.share == 1:
        return ["region, box = (height, width), (0, 0, width, height)"]
    if view.mask is not None:
        lines = [
            "lesion = (10.0, 12.0)  # height and width of the box around the mask, in pixels",
            "spacing = (1.0, 1.0)  # of the image: row, column",
            f"side = {view.mask:g} * max(lesion[0] * spacing[0], lesion[1] * spacing[1])",
            "region = (side / spacing[0], side / spacing[1])",
        ]
    elif view.millimetres is not None:
        lines = [
            "spacing = (1.0, 1.0)  # of the image, in millimetres: row, column",
            f"region = ({view.millimetres:g} / spacing[0], {view.millimetres:g} / spacing[1])",
        ]
    else:
        lines = [f"region = ({view.share:g} * height, {view.share:g} * width)"]
    return [
        *lines,
        "row, column = (height - 1) / 2, (width - 1) / 2  # position of the finding",
        "top, left = row + 0.5 - region[0] / 2, column + 0.5 - region[1] / 2",
        "box = (left, top, left + region[1], top + region[0])  # must lie inside the image",
    ]


def _normalising_lines(grey: GreyValues) -> list[str]:
    rule = grey.normalise
    if isinstance(rule, Window):
        low, high = rule.window
        middle, half = (low + high) / 2, (high - low) / 2
        return [f"patch = ((patch - {middle:g}) / {half:g}).clip(-1, 1)"]
    if rule in ("patient", "image"):
        return [
            "mean, deviation = planes.mean((1, 2)), planes.std((1, 2))",
            "patch = (patch - mean[:, None, None]) / deviation[:, None, None]",
        ]
    if grey.mean is not None:
        return [
            'grey = about["preprocessing"]["grey_values"]',
            'mean, deviation = np.array(grey["mean"]), np.array(grey["deviation"])',
            "patch = (patch - mean[:, None, None]) / deviation[:, None, None]",
        ]
    return []
