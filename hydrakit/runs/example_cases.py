"""Example test cases for the report, each with a saliency map: ``shown.safetensors``.

The maps need the network and the data. `save_example_cases` therefore computes them when the run is
finished, and stores patches and maps in the run's folder; reports read only this folder.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.origin import DataOrigin, in_class_order
from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter, Task
from hydrakit.runs.datasets import prepare_as_trained
from hydrakit.runs.rundir import EXAMPLE_CASES, RunDir
from hydrakit.schema import Frozen
from hydrakit.stats.label_cells import has_label
from hydrakit.storage.files import read_rows, write_atomic
from hydrakit.weights.format import read_head

if TYPE_CHECKING:
    from torch import Tensor

    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.models.body import BodyWithHead
    from hydrakit.plan.grey import GreyValues
    from hydrakit.plan.model import Plan
    from hydrakit.plugins.registry import Plugins
    from hydrakit.runs.context import RunContext

ImageStack = NDArray[np.float32]

GROUPS = ("wrong", "right", "far", "near")
GROUP_SIZE = 8  # at most this many cases in a group
MAX_THREADS = 1024  # as in `RunContext`
PATH_STEPS = 32  # steps along the path of integrated gradients


class ExampleCase(Frozen):
    """A test case in the report, identified by its line in ``predictions.csv`` only.

    Attributes:
        place: Line of the case among those of the test split, from 1.
        group: One of `GROUPS`: wrong or right class, or for a regression a large or small error.
        output: Index of the output that the saliency map explains.
        label: True label.
        said: Prediction, with its score.
    """

    place: int
    group: str
    output: int
    label: str
    said: str


def save_example_cases(
    rundir: RunDir, prepared: PreparedDataset, *, plugins: Plugins | None = None
) -> None:
    """Write example test cases of a finished run, with saliency maps, into its folder.

    Args:
        rundir: Folder of the run, with weights and ``predictions.csv``.
        prepared: Patches of the target.
        plugins: Loaded plugins; None loads them.

    Raises:
        PlanError: ``predictions.csv`` is invalid, or lists a case that the data does not contain.
        WeightsError: A weight file is invalid.
    """
    from safetensors.numpy import save

    from hydrakit import weights
    from hydrakit.compute.devices import thread_count
    from hydrakit.models.body import attach_head
    from hydrakit.models.stem import stem_of

    plan = rundir.plan()
    keys, examples = choose_examples(rundir)
    rows = {case.key: row for row, case in enumerate(prepared.index.cases)}
    absent = [key for key in keys if key not in rows]
    if absent:
        raise PlanError(
            f"{rundir.path / 'predictions.csv'}: {len(absent)} of its cases are not in the data of "
            f"{plan.target}: restore the data that the run used"
        )
    path = rundir.file(_head_file(plan))
    head = weights.load_head(path, plugins=plugins)
    body = weights.load_body(rundir.file("body.safetensors"), plugins=plugins)
    model = attach_head(body, head, stem_of(head, plan.target))
    grey = read_head(path).preprocessing.grey_values
    # Rounding depends on the number of threads: use that of the run, also if another process with
    # another number completes it, so that a run that was stopped gets the same maps.
    with thread_count(_threads(rundir)):
        patches, maps = integrated_gradients(
            model,
            prepared.rows([rows[key] for key in keys], grey),
            [example.output for example in examples],
            target=plan.target,
            grey=grey,
        )
    text = json.dumps([example.model_dump() for example in examples])
    content = save({"maps": maps, "patches": patches}, {"shown": text})
    write_atomic(rundir.path / EXAMPLE_CASES, content)
    rundir.renew(EXAMPLE_CASES)


def _head_file(plan: Plan) -> str:
    """Path of the file of the target's head within the run's folder."""
    return f"heads/{plan.target_head}.safetensors"


def _threads(rundir: RunDir) -> int | None:
    """Number of CPU threads of the run; None if its folder states no possible number."""
    threads = rundir.environment().get("threads")
    return threads if threads and threads <= MAX_THREADS else None


def add_example_cases(rundir: RunDir, context: RunContext, plugins: Plugins) -> str | None:
    """Add example cases to a finished run; return why it has none, if so."""
    if rundir.results() is None or (rundir.path / EXAMPLE_CASES).is_file():
        return None
    plan = rundir.plan()
    if plan.inner is not None:
        return f"{rundir.path}: is a run of a search, so the report shows no patches"
    if plan.final:
        return f"{rundir.path}: has no test split, so the report shows no patches"
    root = context.root_of(plan.target)
    if not root.is_dir():
        return (
            f"{root}: does not exist, so the report shows no patches: name the folder of the data "
            "with `--data` or `--root`"
        )
    adapter = plan.dataset(plan.target).applied_to(plugins.get(DatasetAdapter, plan.target))
    # The head's file says how its images are normalised.
    before = rundir.origins().get(plan.target, DataOrigin()).model_copy(update={"normalise": None})
    if before.classes is not None and sorted(before.classes) == sorted(adapter.classes):
        adapter = in_class_order(adapter, before.classes)
    prepared = prepare_as_trained(
        adapter,
        root,
        read_head(rundir.file(_head_file(plan))).preprocessing,
        options=plan.dataset(plan.target).options,
        patch=plan.patch,
    )
    change = before.model_copy(update={"channels": None}).change_to(
        DataOrigin.of(prepared.index, adapter)
    )
    if change is not None:
        return (
            f"{plan.target}: the data has changed since the run ({change}), so the report shows no "
            "patches: restore the data to see them"
        )
    save_example_cases(rundir, prepared, plugins=plugins)
    return None


def choose_examples(rundir: RunDir) -> tuple[list[str], list[ExampleCase]]:
    """Keys and descriptions of the example cases, group by group.

    A group is sorted by confidence (for a regression by error). It contains each finding once,
    with the image that has the highest rank.

    Raises:
        PlanError: ``predictions.csv`` is missing or invalid, or the run is not finished.
    """
    results = rundir.results()
    if results is None:
        raise PlanError(f"{rundir.path}: the run is not finished and has no test cases yet")
    path, test = rundir.file("predictions.csv"), results.tested
    try:
        lines = [row for row in read_rows(path) if row["split"] == test.split]
        ranked = [
            _ranked_example(place, line, test.task) for place, line in enumerate(lines, start=1)
        ]
        findings = [line["finding"] for line in lines]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise PlanError(f"{path}: cannot be read ({error}): restore it") from None
    if test.task == "regression":
        ranked = _with_smallest_errors(ranked)
    chosen: list[ExampleCase] = []
    for group in GROUPS:
        members = [(rank, example) for rank, example in ranked if example.group == group]
        by_finding: dict[str, ExampleCase] = {}
        for _, example in sorted(members, key=lambda pair: -pair[0]):
            by_finding.setdefault(findings[example.place - 1], example)
        chosen += list(by_finding.values())[:GROUP_SIZE]
    return [lines[example.place - 1]["key"] for example in chosen], chosen


def _with_smallest_errors(
    ranked: Sequence[tuple[float, ExampleCase]],
) -> list[tuple[float, ExampleCase]]:
    """Move the cases of a regression with the smallest errors to the group ``near``."""
    nearest = sorted(ranked, key=lambda pair: pair[0])[: min(GROUP_SIZE, len(ranked) // 2)]
    places = {example.place for _, example in nearest}
    return [
        (-error, example.model_copy(update={"group": "near"}))
        if example.place in places
        else (error, example)
        for error, example in ranked
    ]


def _ranked_example(place: int, line: dict[str, str], task: Task) -> tuple[float, ExampleCase]:
    """Description of a case, and its rank within its group: confidence, or error."""
    label, predicted = line["label"], line["predicted"]
    if task == "regression":
        error = abs(float(predicted) - float(label))
        prediction, truth = f"{float(predicted):.4g}", f"{float(label):.4g}"
        return error, ExampleCase(place=place, group="far", output=0, label=truth, said=prediction)
    names = [column.removeprefix("p_") for column in line if column.startswith("p_")]
    scores = [float(line[f"p_{name}"]) for name in names]
    if task == "multilabel":
        confidence = [max(score, 1 - score) for score in scores]
        present = [has_label(label, name) for name in names]
        known = [answer is not None for answer in present]
        wrong = [answer is (not score > 0.5) for answer, score in zip(present, scores, strict=True)]
        output = max(range(len(names)), key=lambda one: (wrong[one], known[one], confidence[one]))
        prediction, right = f"{names[output]} {scores[output]:.2f}", not any(wrong)
    else:
        output = names.index(predicted)
        confidence, right = scores, predicted == label
        prediction = f"{predicted} {scores[output]:.2f}"
    group = "right" if right else "wrong"
    return confidence[output], ExampleCase(
        place=place, group=group, output=output, label=label or "none", said=prediction
    )


def integrated_gradients(
    model: BodyWithHead,
    canvases: ImageStack,
    outputs: Sequence[int],
    *,
    target: str,
    grey: GreyValues,
) -> tuple[ImageStack, ImageStack]:
    """Compute network inputs, and the contribution of each of their pixels to an output.

    Gradients are integrated from an empty patch (0: the mean of z-scored patches, the middle of a
    window) to the patch: a map sums to the difference of the two output scores (see
    `output_score`).

    Args:
        model: Body and head.
        canvases: Prepared patches ``(n, channels, side, side)``.
        outputs: Index of the output to explain, for each patch.
        target: Name of the patches' dataset.
        grey: How the patches are normalised.

    Returns:
        Patches and maps, both ``(n, channels, patch, patch)``.

    Source: Sundararajan, Taly and Yan 2017, ICML (the midpoint rule over 32 steps).
    """
    import torch

    from hydrakit.data.augment import central_view

    body = model.body
    body.use(target)
    model.eval().requires_grad_(False)
    device = next(model.parameters()).device
    patches = grey.clip(central_view(torch.from_numpy(canvases), body.patch)).to(device)
    shares = (torch.arange(PATH_STEPS, device=device) + 0.5) / PATH_STEPS
    maps = []
    for patch, output in zip(patches, outputs, strict=True):
        path = (shares[:, None, None, None] * patch).requires_grad_()
        (gradient,) = torch.autograd.grad(output_score(model(path), output).sum(), path)
        maps.append(patch * gradient.mean(dim=0))
    stacked = torch.stack(maps) if maps else torch.zeros_like(patches)
    return patches.cpu().numpy().astype(np.float32), stacked.cpu().numpy().astype(np.float32)


def output_score(logits: Tensor, output: int) -> Tensor:
    """Logit of a single output, or log-odds of one output against all others, ``(n,)``."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = [index for index in range(logits.shape[1]) if index != output]
    return logits[:, output] - logits[:, others].logsumexp(dim=1)
