"""Test cases as the report shows them: patches that the head got right or wrong, and why.

Of one finding, a group shows the one image that belongs there most.

`save_shown_cases` writes them to the run's folder (``shown.safetensors``) while the data is
available, so that a report can be written again from the folder alone.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from hydrakit.errors import PlanError, one_line
from hydrakit.hooks import Task
from hydrakit.report.markup import Html, element, together
from hydrakit.report.pictures import coloured, ends_of, png
from hydrakit.runs.rundir import SHOWN, RunDir
from hydrakit.schema import Frozen
from hydrakit.storage.files import MIB, read_rows, write_atomic
from hydrakit.weights.format import check_header

if TYPE_CHECKING:
    from torch import Tensor

    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.models.body import BodyWithHead
    from hydrakit.plugins.registry import Plugins

Maps = NDArray[np.float32]

MAX_SHOWN = 128 * MIB  # of `SHOWN`; two dozen patches take 3
EACH = 8  # cases of a group
STEPS = 32  # of the path of integrated gradients
GROUPS = {
    "wrong": "Wrong, the surest first",
    "right": "Right, the surest first",
    "far": "Furthest from the truth",
    "near": "Nearest to the truth",
}


class ShownCases(Frozen):
    """A test case that is shown. It has no name: only its place in ``predictions.csv``.

    Attributes:
        place: Of its line among those of the test split, from 1.
        group: One of `GROUPS`.
        output: Number of the head's output that the map is of.
        label: The truth.
        said: What the head said, with its score.
    """

    place: int
    group: str
    output: int
    label: str
    said: str


_SHOWN = TypeAdapter(list[ShownCases])


def save_shown_cases(
    rundir: RunDir, prepared: PreparedDataset, *, plugins: Plugins | None = None
) -> None:
    """Choose test cases of a finished run, and keep their patches and saliency maps in its folder.

    Args:
        rundir: Of the run: weights and ``predictions.csv`` are there.
        prepared: The target's patches.
        plugins: As loaded; None loads them.

    Raises:
        PlanError: ``predictions.csv`` is broken, or tells of a case that the data has not.
        WeightsError: A weight file is at fault.
    """
    from safetensors.numpy import save

    from hydrakit import weights
    from hydrakit.models.body import attach_head

    plan = rundir.plan()
    keys, chosen = choose(rundir)
    rows = {case.key: row for row, case in enumerate(prepared.index.cases)}
    absent = [key for key in keys if key not in rows]
    if absent:
        raise PlanError(
            f"{rundir.path / 'predictions.csv'}: {len(absent)} of its cases are not in the data of "
            f"{plan.target}: restore the data that the run had"
        )
    model = attach_head(
        weights.load_body(rundir.file("body.safetensors")),
        weights.load_head(rundir.file(f"heads/{plan.target_head}.safetensors"), plugins=plugins),
    )
    patches, maps = saliency(
        model,
        prepared.rows([rows[key] for key in keys]),
        [each.output for each in chosen],
        target=plan.target,
    )
    text = json.dumps([each.model_dump() for each in chosen])
    content = save({"maps": maps, "patches": patches}, {"shown": text})
    write_atomic(rundir.path / SHOWN, content)
    rundir.renew(SHOWN)


def choose(rundir: RunDir) -> tuple[list[str], list[ShownCases]]:
    """Keys of the test cases to be shown, and what is told of each.

    Raises:
        PlanError: ``predictions.csv`` is absent or broken, or the run is not finished.
    """
    results = rundir.results()
    if results is None:
        raise PlanError(f"{rundir.path}: is not finished: it has no test cases to show")
    path = rundir.file("predictions.csv")
    try:
        lines = [row for row in read_rows(path) if row["split"] == results.test.split]
        told = [_told(place, line, results.test.task) for place, line in enumerate(lines, start=1)]
        findings = [line["finding"] for line in lines]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise PlanError(f"{path}: cannot be read ({error}): restore it") from None
    if results.test.task == "regression":
        nearest = sorted(told, key=lambda pair: pair[0])[: min(EACH, len(told) // 2)]
        near = {each.place for _, each in nearest}
        told = [
            (-error, each.model_copy(update={"group": "near"}))
            if each.place in near
            else (error, each)
            for error, each in told
        ]
    picked: list[ShownCases] = []
    for group in GROUPS:
        inside = [(sure, each) for sure, each in told if each.group == group]
        first: dict[str, ShownCases] = {}  # of each finding
        for _, each in sorted(inside, key=lambda pair: -pair[0]):
            first.setdefault(findings[each.place - 1], each)
        picked += list(first.values())[:EACH]
    return [lines[each.place - 1]["key"] for each in picked], picked


def _told(place: int, line: dict[str, str], task: Task) -> tuple[float, ShownCases]:
    """How sure the head was of a case, and what is told of it."""
    label, predicted = line["label"], line["predicted"]
    if task == "regression":
        error = abs(float(predicted) - float(label))
        said = f"{float(predicted):.4g}"
        truth = f"{float(label):.4g}"
        return error, ShownCases(place=place, group="far", output=0, label=truth, said=said)
    names = [column.removeprefix("p_") for column in line if column.startswith("p_")]
    scores = [float(line[f"p_{name}"]) for name in names]
    if task == "multilabel":
        present = set(label.split(";"))
        sure = [max(score, 1 - score) for score in scores]
        wrong = [
            (score > 0.5) != (name in present) for name, score in zip(names, scores, strict=True)
        ]
        output = max(range(len(names)), key=lambda one: (wrong[one], sure[one]))
        said, right = f"{names[output]} {scores[output]:.2f}", not any(wrong)
    else:
        output = names.index(predicted)
        sure, right = scores, predicted == label
        said = f"{predicted} {scores[output]:.2f}"
    group = "right" if right else "wrong"
    return sure[output], ShownCases(
        place=place, group=group, output=output, label=label or "none", said=said
    )


def saliency(
    model: BodyWithHead, canvases: Maps, outputs: Sequence[int], *, target: str
) -> tuple[Maps, Maps]:
    """What the network sees of some patches, and what each pixel adds to its answer.

    Integrated gradients from the patient's mean value (0, patches being z-scored) to the patch: the
    map's sum is the answer's distance from that of an empty patch. The answer is the logit, of
    several classes its distance from the others' (log-odds).

    Args:
        model: Body and head.
        canvases: Prepared patches ``(n, channels, side, side)``.
        outputs: The output that is asked about, ``(n,)``.
        target: Dataset of the patches.

    Returns:
        Patches and maps, both ``(n, channels, patch, patch)``.

    Source: Sundararajan, Taly and Yan 2017, ICML (the midpoint rule over 32 steps).
    """
    import torch

    from hydrakit.data.augment import central_view

    body = model.body
    if body.spec.norm == "dataset":
        body.use(target)
    patches = central_view(torch.from_numpy(canvases), body.spec.patch)
    model.eval().requires_grad_(False)
    shares = (torch.arange(STEPS) + 0.5) / STEPS
    maps = []
    for patch, output in zip(patches, outputs, strict=True):
        path = (shares[:, None, None, None] * patch).requires_grad_()
        (gradient,) = torch.autograd.grad(answer(model(path), output).sum(), path)
        maps.append(patch * gradient.mean(dim=0))
    found = torch.stack(maps) if maps else torch.zeros_like(patches)
    return patches.numpy().astype(np.float32), found.numpy().astype(np.float32)


def answer(logits: Tensor, output: int) -> Tensor:
    """The logit of an output; with several, less the others' (``logsumexp``): ``(n,)``."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = [place for place in range(logits.shape[1]) if place != output]
    return logits[:, output] - logits[:, others].logsumexp(dim=1)


def read_shown(rundir: RunDir) -> tuple[list[ShownCases], Maps, Maps] | None:
    """What is told of the shown cases, their patches and maps; None where none are kept.

    Raises:
        PlanError: The file is broken.
    """
    from safetensors import SafetensorError, safe_open

    path = rundir.file(SHOWN)
    if not path.is_file():
        return None
    try:
        check_header(path)
        if path.stat().st_size > MAX_SHOWN:
            raise ValueError(f"it has more than {MAX_SHOWN} bytes")
        with safe_open(path, framework="numpy") as file:
            told = _SHOWN.validate_json(file.metadata()["shown"])
            patches, maps = file.get_tensor("patches"), file.get_tensor("maps")
        if not len(told) == len(patches) == len(maps) or patches.shape != maps.shape:
            raise ValueError("its parts do not fit each other")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise PlanError(
            f"{path}: cannot be read ({one_line(str(error), 200)}): delete it and run "
            "`hydrakit report`"
        ) from None
    return told, patches, maps


def cases_section(rundir: RunDir) -> Html:
    """The shown cases, group by group: each patch, and over it what each pixel adds."""
    kept = read_shown(rundir)
    if kept is None:
        return element(
            "p",
            "No patches are kept in the run's folder: `hydrakit report` adds them where the data "
            "is at hand.",
        )
    told, patches, maps = kept
    parts: list[Html] = [
        element(
            "p",
            "Left the patch as the network sees it, right what each pixel adds to the answer "
            "(integrated gradients): orange speaks for what was said, blue against it. Such a map "
            "shows what the network uses, not whether it should. Of a finding with several images "
            "a group shows one. Numbers are lines of the test split in predictions.csv.",
        )
    ]
    for group, title in GROUPS.items():
        inside = [place for place, each in enumerate(told) if each.group == group]
        if inside:
            items = (_case(told[place], patches[place], maps[place]) for place in inside)
            parts += [element("h3", title), element("ul", *items, class_="cases")]
    if not any(each.group == "wrong" for each in told) and told[0].group == "right":
        parts.append(element("p", "No test case was answered wrongly."))
    return together(parts, "\n")


def _case(shown: ShownCases, planes: Maps, maps: Maps) -> Html:
    pictures = []
    for channel, (plane, adds) in enumerate(zip(planes, maps, strict=True), start=1):
        which = f", channel {channel}" if len(planes) > 1 else ""
        name = f"test case {shown.place}{which}"
        ends = ends_of(planes)[channel - 1]
        pictures += [
            element("img", src=png(plane, ends), alt=name),
            element(
                "img",
                src=coloured(plane, ends, adds),
                alt=f"{name}: what each pixel adds to the answer {shown.said}",
            ),
        ]
    words = (f"{shown.place}: said ", element("b", shown.said), f", is {shown.label}")
    return element("li", element("div", *pictures, class_="pair"), element("p", *words))
