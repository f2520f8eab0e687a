"""Example test cases: the patch and saliency map of each, read from ``shown.safetensors``."""

from __future__ import annotations

from pydantic import TypeAdapter

from hydrakit.errors import PlanError, one_line
from hydrakit.report.markup import Html, element, join
from hydrakit.report.pictures import grey_png, intensity_windows, overlay_png
from hydrakit.runs.example_cases import GROUPS, ExampleCase, ImageStack
from hydrakit.runs.rundir import EXAMPLE_CASES, RunDir
from hydrakit.storage.files import MIB
from hydrakit.weights.format import check_header

MAX_BYTES = 128 * MIB  # of the file; two dozen patches take 3 MiB
GROUP_TITLES = dict(
    zip(
        GROUPS,
        (
            "Misclassified, most confident first",
            "Correctly classified, most confident first",
            "Largest errors",
            "Smallest errors",
        ),
        strict=True,
    )
)
_EXAMPLES = TypeAdapter(list[ExampleCase])


def read_examples(rundir: RunDir) -> tuple[list[ExampleCase], ImageStack, ImageStack] | None:
    """Example cases with their patches and saliency maps; None if the folder has none.

    Raises:
        PlanError: The file is broken.
    """
    from safetensors import SafetensorError, safe_open

    path = rundir.file(EXAMPLE_CASES)
    if not path.is_file():
        return None
    try:
        check_header(path)
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        with safe_open(path, framework="numpy") as file:
            examples = _EXAMPLES.validate_json(file.metadata()["shown"])
            patches, maps = file.get_tensor("patches"), file.get_tensor("maps")
        if not len(examples) == len(patches) == len(maps) or patches.shape != maps.shape:
            raise ValueError("its parts do not match")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise PlanError(
            f"{path}: cannot be read ({one_line(str(error), 200)}): delete it and run "
            "`hydrakit report`"
        ) from None
    return examples, patches, maps


def examples_section(rundir: RunDir) -> Html:
    """The example cases, group by group: each patch beside its saliency map."""
    content = read_examples(rundir)
    if content is None:
        return element(
            "p",
            "The run's folder contains no example cases: `hydrakit report` adds them if the data "
            "is available.",
        )
    examples, patches, maps = content
    parts: list[Html] = [
        element(
            "p",
            "Left: the patch as the network receives it. Right: contribution of each pixel to the "
            "output (integrated gradients); orange supports the prediction, blue opposes it. The "
            "map shows what the network uses, not whether it should. Each finding appears once in "
            "a group, with one of its images. Numbers are lines of the test split in "
            "predictions.csv.",
        )
    ]
    for group, title in GROUP_TITLES.items():
        members = [row for row, example in enumerate(examples) if example.group == group]
        if members:
            items = (_example(examples[row], patches[row], maps[row]) for row in members)
            parts += [element("h3", title), element("ul", *items, class_="cases")]
    if {example.group for example in examples} == {"right"}:
        parts.append(element("p", "No test case was misclassified."))
    return join(parts, "\n")


def _example(example: ExampleCase, planes: ImageStack, maps: ImageStack) -> Html:
    pictures = []
    windows = intensity_windows(planes)
    for channel, (plane, saliency) in enumerate(zip(planes, maps, strict=True)):
        suffix = f", channel {channel + 1}" if len(planes) > 1 else ""
        name = f"test case {example.place}{suffix}"
        pictures += [
            element("img", src=grey_png(plane, windows[channel]), alt=name),
            element(
                "img",
                src=overlay_png(plane, windows[channel], saliency),
                alt=f"{name}: contribution of each pixel to the prediction {example.said}",
            ),
        ]
    text = (
        f"{example.place}: predicted ",
        element("b", example.said),
        f", true label {example.label}",
    )
    return element("li", element("div", *pictures, class_="pair"), element("p", *text))
