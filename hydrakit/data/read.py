"""Reading a dataset through its adapter, with every sample checked as it comes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hydrakit.errors import DataError, PlanError, unknown
from hydrakit.hooks import DatasetAdapter, Option, OptionValue, Sample, Unusable


def resolve_options(
    adapter: DatasetAdapter, given: Mapping[str, OptionValue]
) -> dict[str, OptionValue]:
    """All of an adapter's options: the given values, checked, and the others' defaults.

    Raises:
        PlanError: An unknown option, or a value that the option does not take.
    """
    known = {option.name: option for option in adapter.options}
    for name in given:
        if name not in known:
            raise PlanError(
                f"{unknown(f'option of {adapter.name!r}', name, known)} "
                f"(see `hydrakit datasets info {adapter.name}`)"
            )
    return {
        name: _parse(adapter, option, given[name]) if name in given else option.default
        for name, option in known.items()
    }


def _parse(adapter: DatasetAdapter, option: Option, value: OptionValue) -> OptionValue:
    where = f"option {adapter.name}.{option.name}={value}"
    kind = type(option.default)
    parsed: OptionValue
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in words:
            raise PlanError(f"{where}: must be true or false")
        parsed = words[str(value).lower()]
    else:
        try:
            parsed = kind(str(value))  # so that 1.5 is no int
        except ValueError:
            raise PlanError(f"{where}: must be of type {kind.__name__}") from None
    if option.choices and parsed not in option.choices:
        raise PlanError(f"{where}: must be one of {', '.join(map(str, option.choices))}")
    return parsed


def check_root(adapter: DatasetAdapter, root: Path) -> None:
    """Raise DataError, with where to get the dataset, if its folder is missing."""
    if not root.is_dir():
        raise DataError(
            f"{adapter.name}: no folder {root}: it should hold {adapter.layout}. "
            f"To get it: {adapter.how_to_get} "
            "To try without data: `hydrakit phantom FOLDER` makes some, then `--data FOLDER`"
        )


def read_samples(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue]
) -> Iterator[Sample | Unusable]:
    """Every case of a dataset, once; images come as ``(channels, height, width)`` float32.

    Args:
        adapter: Who reads.
        root: The dataset's folder.
        options: As given by the user; `resolve_options` fills in the others.

    Raises:
        DataError: The folder is missing, or a case breaks the rules of `Sample`.
    """
    check_root(adapter, root)
    seen: set[str] = set()
    channels: int | None = None
    for case in adapter.read(root, resolve_options(adapter, options)):
        if not isinstance(case, Sample | Unusable):
            raise DataError(
                f"{adapter.name}: its adapter gave a {type(case).__name__}: a Sample or an "
                "Unusable is expected"
            )
        if case.key in seen:
            raise DataError(f"{adapter.name}: case {case.key!r} comes twice")
        seen.add(case.key)
        if isinstance(case, Sample):
            fault = _fault(adapter, case)
            if fault is None:
                image = case.image[np.newaxis] if case.image.ndim == 2 else case.image
                if channels not in (None, len(image)):
                    fault = f"has {len(image)} channels where the ones before had {channels}"
                channels = len(image)
            if fault is not None:
                files = ", ".join(str(path) for path in case.source) or "no file named"
                raise DataError(f"{adapter.name}: case {case.key!r} {fault} ({files})")
            yield _with_image(case, image)
        else:
            yield case


def _with_image(sample: Sample, image: np.ndarray) -> Sample:
    return Sample(**{**vars(sample), "image": image})


def _fault(adapter: DatasetAdapter, sample: Sample) -> str | None:
    """What breaks the rules of `Sample`, or None."""
    image = sample.image
    if not isinstance(image, np.ndarray) or image.dtype != np.float32:
        return "has an image that is not a float32 array"
    if image.ndim not in (2, 3) or 0 in image.shape:
        return f"has an image of shape {image.shape}: (channels, height, width) is expected"
    if not np.isfinite(image).all():
        return "has pixels that are not finite"
    label = sample.label
    is_class = type(label) is int and 0 <= label < len(adapter.classes)
    if label is not None and not is_class:
        return f"has label {label!r}: expected an index into {list(adapter.classes)}"
    if not sample.patient:
        return "has no patient"
    if adapter.field_of_view.millimetres is not None and sample.spacing is None:
        return "has no pixel spacing, which a field of view in millimetres needs"
    if sample.spacing is not None and not all(
        math.isfinite(size) and size > 0 for size in sample.spacing
    ):
        return f"has pixel spacing {sample.spacing}: positive millimetres are expected"
    if sample.centre is not None:
        inside = all(
            -0.5 <= at <= size - 0.5
            for at, size in zip(sample.centre, image.shape[-2:], strict=True)
        )
        if not inside:
            return f"has its centre {sample.centre} outside its image {image.shape[-2:]}"
    return None
