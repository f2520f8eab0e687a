"""Reading of a dataset through its adapter, with checks of every sample."""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.channels import ImageChannels, luminance, refuse_no_grey
from hydrakit.data.identity import normal_name, patient_of
from hydrakit.data.padding import fill_padding, padding_mask
from hydrakit.data.safe_paths import ORDINARY, is_ordinary
from hydrakit.errors import DataError, command_line
from hydrakit.hooks import DatasetAdapter, Label, OptionValue, Remark, Sample, Task, Unusable
from hydrakit.plugins.guard import reader
from hydrakit.plugins.options import parse_options
from hydrakit.stats.label_cells import label_parts

_log = logging.getLogger(__name__)
MAX_SUBGROUPS = 30  # values of one subgroup: with more, each would have too few findings
MAX_SUBGROUP = 64  # characters of its name and of a value: both are headings of reports
_ALL_PADDING = "every pixel is padding, in some channel"
_NO_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, surrogates, line ends


def check_root(adapter: DatasetAdapter, root: Path) -> None:
    """Raise DataError, with instructions to get the dataset, if its folder is missing."""
    if not root.is_dir():
        option = command_line("--root", f"{adapter.name}=PATH")
        raise DataError(
            f"{adapter.name}: no folder {root}: give its folder with `--data` or `{option}`; it "
            f"should hold {adapter.layout}. To get it: {adapter.how_to_get} "
            "To try without data: `hydrakit phantom FOLDER` writes some, then `--data FOLDER`"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedSample(Sample):
    """A sample with its pixels.

    Attributes:
        image: Finite float32 pixels, ``(channels, height, width)``; padding has the values of the
            nearest other pixels.
        padding: Where the image is padding, in its shape; None if nowhere.
    """

    image: NDArray[np.float32]
    padding: NDArray[np.bool_] | None = None


def read_samples(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue]
) -> Iterator[LoadedSample | Unusable]:
    """Yield every case of a dataset once, with its pixels; leave out remarks.

    Args:
        adapter: Adapter of the dataset.
        root: Folder of the dataset.
        options: Adapter options, as given by the user; `parse_options` adds the defaults.

    Raises:
        DataError: The folder is missing, or a case violates the rules of `Sample`.
    """
    channels: int | None = None
    for case in read_cases(adapter, root, options):
        if isinstance(case, Remark):
            continue
        loaded = case if isinstance(case, Unusable) else load_image(adapter, case)
        if isinstance(loaded, LoadedSample):
            check_channels(adapter, loaded, channels=len(loaded.image), before=channels)
            channels = len(loaded.image)
        yield loaded


def read_cases(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue]
) -> Generator[Sample | Unusable | Remark]:
    """Yield every case of a dataset once, as its adapter returns it: an image may be a function.

    Remarks of the adapter are yielded as they come.

    This checks everything except the pixels; `load_image` reads and checks these.

    Args:
        adapter: Adapter of the dataset.
        root: Folder of the dataset.
        options: Adapter options, as given by the user; `parse_options` adds the defaults.

    Raises:
        DataError: The folder is missing, or a case violates the rules of `Sample`.
    """
    check_root(adapter, root)
    keys: set[str] = set()
    consistency = _ConsistencyCheck(adapter)
    for case in adapter.read(root, parse_options(adapter, options)):
        if isinstance(case, Remark):
            if not (isinstance(case.text, str) and case.text.isprintable()):
                raise _wrong(adapter, f"a Remark {case.text!r}: one line is expected")
            yield case
            continue
        if not isinstance(case, Sample | Unusable):
            raise DataError(
                f"{adapter.name}: its adapter returned a {type(case).__name__}: a Sample or an "
                "Unusable is expected"
            )
        if case.key in keys:
            raise _wrong(adapter, f"case {case.key!r} occurs twice: make keys unique")
        keys.add(case.key)
        if not case.key:
            raise _wrong(adapter, "a case has an empty key: give each a key of its own")
        if not _is_text(case.key):
            raise _wrong(adapter, f"key {case.key!r} is not valid text: rename its file")
        if isinstance(case, Sample):
            fault = _metadata_fault(adapter, case) or consistency.fault(case)
            if fault is not None:
                raise _invalid_case(adapter, case, fault)
        yield case


class _ConsistencyCheck:
    """Checks that a dataset's samples are consistent with one another."""

    def __init__(self, adapter: DatasetAdapter) -> None:
        self.adapter = adapter
        self.findings: dict[tuple[str, str], tuple[Label | None, str]] = {}
        self.values: dict[str, set[str]] = {}

    def fault(self, sample: Sample) -> str | None:
        """Return how a sample contradicts earlier samples, or None."""
        if sample.finding is not None:
            exact = self.adapter.exact_names
            finding = patient_of(sample, exact=exact), normal_name(sample.finding, exact=exact)
            label, key = self.findings.setdefault(finding, (sample.label, sample.key))
            if label != sample.label:
                return (
                    f"has label {self._label_text(sample.label)}, but {key!r}, of the same finding "
                    f"{sample.finding!r} of its patient, has {self._label_text(label)}: correct "
                    "one, or name two findings"
                )
        for name, value in sample.subgroups.items():
            values = self.values.setdefault(name, set())
            values.add(value)
            if len(values) > MAX_SUBGROUPS:
                return (
                    f"brings the subgroup {name!r} to more than {MAX_SUBGROUPS} values: use values "
                    "that many findings share, such as a zone or a scanner, or leave it out"
                )
        return None

    def _label_text(self, label: Label | None) -> str:
        names = label_names(label, self.adapter.task, self.adapter.classes)
        if self.adapter.task == "regression" or not names:
            return "none" if label is None else f"{label!r}"
        return ", ".join(map(repr, names))


def image_channels(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue]
) -> ImageChannels | None:
    """Return the channels of a dataset's images, from the first case that can be read.

    Nothing else is read, as far as the adapter allows it.

    Args:
        adapter: Adapter of the dataset.
        root: Folder of the dataset.
        options: Adapter options, as given by the user.

    Returns:
        The channels; None if no case has an image that can be read.

    Raises:
        DataError: The folder is missing, or a case before violates the rules of `Sample`.
    """
    with closing(read_cases(adapter, root, options)) as cases:
        for case in cases:
            if not isinstance(case, Sample):
                continue
            loaded = load_image(adapter, case, warn=False)
            if isinstance(loaded, LoadedSample):
                return ImageChannels(len(loaded.image), stacked=len(case.source) > 1)
    return None


def load_image(
    adapter: DatasetAdapter, sample: Sample, *, warn: bool = True
) -> LoadedSample | Unusable:
    """Load a sample's pixels; if they cannot be read, return an `Unusable`.

    Args:
        adapter: Adapter of the dataset.
        sample: The sample.
        warn: Whether to log a warning if they cannot be read.

    Raises:
        MissingCodecError: No installed package decodes the file, and probably other files.
        DataError: The image violates the rules of `Sample`.
    """
    from hydrakit.data.dicom import MissingCodecError

    image = sample.image
    if not isinstance(image, np.ndarray) and callable(image):
        try:
            image = image()
        except MissingCodecError:
            raise
        except DataError as error:
            return unreadable_case(adapter, sample, str(error), warn=warn)
    fault = _pixel_fault(sample, image)
    if fault is not None:
        raise _invalid_case(adapter, sample, fault)
    loaded = _with_pixels(sample, image)
    return loaded or unreadable_case(adapter, sample, _ALL_PADDING, warn=warn)


def checked(sample: Sample) -> LoadedSample | Unusable:
    """Return a sample of no dataset, whose image is an array, with its pixels as `load_image` does.

    A fault of its image makes it an `Unusable`.
    """
    fault = _pixel_fault(sample, sample.image)
    if fault is not None:
        return Unusable(key=sample.key, reason=fault)
    assert isinstance(sample.image, np.ndarray)
    loaded = _with_pixels(sample, sample.image)
    return loaded or Unusable(key=sample.key, reason=_ALL_PADDING)


def _with_pixels(sample: Sample, image: NDArray[np.float32]) -> LoadedSample | None:
    """A sample with its pixels; None if all of them are padding."""
    planes = image[np.newaxis] if image.ndim == 2 else image
    padding = padding_mask(planes)
    if padding is not None and padding.any(axis=0).all():
        return None
    pixels = {"image": fill_padding(planes), "padding": padding}
    return LoadedSample(**{**vars(sample), **pixels})


def in_grey(dataset: str, sample: LoadedSample) -> LoadedSample:
    """A sample whose image has one channel; what is padding in any channel is padding.

    Raises:
        DataError: The image has neither 1 nor 3 channels.
    """
    refuse_no_grey(dataset, len(sample.image))
    if len(sample.image) == 1:
        return sample
    padding = None
    if sample.padding is not None:
        padding = np.logical_or.reduce(sample.padding, axis=0, keepdims=True)
    return replace(sample, image=luminance(sample.image), padding=padding)


def unreadable_case(
    adapter: DatasetAdapter, sample: Sample, message: str, *, warn: bool = True
) -> Unusable:
    """Return an `Unusable` for a case; a warning names its files, the reason does not."""
    reason = message.splitlines()[0] if message else "its image cannot be read"
    for path in sample.source:
        reason = reason.removeprefix(f"{path}: ")
    if warn:
        _log.warning("%s: left out: %s (%s)", adapter.name, reason, _files(sample))
    return Unusable(key=sample.key, reason=reason)


def check_channels(
    adapter: DatasetAdapter, sample: Sample, *, channels: int, before: int | None
) -> None:
    """Raise DataError if an image and the previous one (None: no image) differ in channels."""
    if before not in (None, channels):
        fault = f"has {channels} channels where the ones before had {before}"
        raise _invalid_case(adapter, sample, fault)


def _invalid_case(adapter: DatasetAdapter, sample: Sample, fault: str) -> DataError:
    return _wrong(adapter, f"case {sample.key!r} {fault} ({_files(sample)})")


def _wrong(adapter: DatasetAdapter, text: str) -> DataError:
    """An error in what an adapter returned; it names the plugin of the adapter."""
    return DataError(f"{adapter.name}: {text}{reader(adapter)}")


def _files(sample: Sample) -> str:
    return ", ".join(str(path) for path in sample.source) or "no file named"


def is_label(label: object, adapter: DatasetAdapter) -> bool:
    """Whether a label is valid for the adapter's task."""
    if adapter.task == "classification":
        return type(label) is int and 0 <= label < len(adapter.classes)
    if adapter.task == "regression":
        return isinstance(label, int | float) and is_ordinary(label)
    return (
        isinstance(label, tuple)
        and len(label) == len(adapter.classes)
        and all(part is None or (type(part) is int and part in (0, 1)) for part in label)
        and any(part is not None for part in label)
    )


def class_names(label: Label | None, task: Task, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names for a label: its class, the present labels, or the number's name.

    A label of several parts may be a row of `hydrakit.stats.tasks.targets_of`.
    """
    if label is None:
        return ()
    if task == "classification":
        return (classes[int(label)],)  # type: ignore[arg-type]
    if task == "multilabel":
        pairs = zip(classes, label, strict=True)  # type: ignore[arg-type]
        return tuple(name for name, part in pairs if part == 1)
    return tuple(classes)


def label_names(label: Label | None, task: Task, classes: Sequence[str]) -> tuple[str, ...]:
    """As `class_names`, with the labels whose answer is unknown: ``fracture?``."""
    if isinstance(label, tuple):
        return tuple(label_parts(label, classes))
    return class_names(label, task, classes)


def _metadata_fault(adapter: DatasetAdapter, sample: Sample) -> str | None:
    """Return how a sample, apart from its pixels, violates the rules of `Sample`, or None."""
    label = sample.label
    if label is not None and not is_label(label, adapter):
        expected = {
            "classification": f"an index into {list(adapter.classes)}: labels count from 0 in the "
            "order of classes",
            "regression": f"a number, {ORDINARY}",
            "multilabel": "a tuple with 0, 1 or None (unknown) for each of "
            f"{list(adapter.classes)}, not None for all of them (then None alone)",
        }
        return f"has label {label!r}: expected {expected[adapter.task]}"
    fault = _name_fault(sample)
    if fault is not None:
        return fault
    for pair in sample.subgroups.items():
        if not all(isinstance(text, str) and 0 < len(text) <= MAX_SUBGROUP for text in pair):
            return (
                f"has the subgroup {pair!r}: a name and a value of 1 to {MAX_SUBGROUP} characters "
                "are needed"
            )
        if not all(map(_is_text, pair)):
            return "has a subgroup that is not valid text"
    if sample.split not in (None, "train", "val", "test"):
        return f"has split {sample.split!r}: train, val or test is expected"
    for name, value in sample.facts.items():
        if not (_is_text(value) if isinstance(value, str) else isinstance(value, int | float)):
            return f"has {value!r} as its fact {name!r}: text or a number is expected"
    if adapter.field_of_view.millimetres is not None and sample.spacing is None:
        return "has no pixel spacing, which a field of view in millimetres needs"
    if adapter.field_of_view.mask is not None and sample.extent is None:
        return "has no extent, which a field of view around the lesion in a mask needs"
    if sample.extent is not None and not all(0 < size < math.inf for size in sample.extent):
        return f"has a lesion of {sample.extent} pixels: positive numbers are expected"
    if sample.spacing is not None and not all(
        math.isfinite(size) and size > 0 for size in sample.spacing
    ):
        return f"has pixel spacing {sample.spacing}: positive millimetres are expected"
    return None


def _name_fault(sample: Sample) -> str | None:
    """Return what is wrong with the names of a sample's patient, group and finding, or None."""
    if not sample.patient:
        return "has no patient"
    if not all(map(_is_text, (sample.patient, sample.group or "", sample.finding or ""))):
        return "has a patient, a group or a finding that is not valid text"
    if sample.group == "":
        return "has an empty group: use None for a case without a group"
    if sample.finding == "":
        return "has a finding without a name"
    return None


def _pixel_fault(sample: Sample, image: object) -> str | None:
    """Return how a sample's image violates the rules of `Sample`, or None."""
    if not isinstance(image, np.ndarray) or image.dtype != np.float32:
        if not isinstance(image, np.ndarray):
            kind = type(image).__name__
            return f"has an image that is not a float32 array but {kind}: give a NumPy array"
        return (
            f"has an image that is not a float32 array but one of {image.dtype}: convert it with "
            "image.astype(np.float32)"
        )
    if image.ndim not in (2, 3) or 0 in image.shape:
        return f"has an image of shape {image.shape}: (channels, height, width) is expected"
    if (~np.isfinite(image)).any():  # of the pixels that are not masked
        return "has pixels that are not finite: give Unusable, or another value"
    if sample.centre is not None:
        in_image = all(
            -0.5 <= at <= size - 0.5
            for at, size in zip(sample.centre, image.shape[-2:], strict=True)
        )
        if not in_image:
            return f"has its centre {sample.centre} outside its image {image.shape[-2:]}"
    return None


def _is_text(value: str) -> bool:
    """Whether a text fits on one line, without undecodable bytes or control characters."""
    return not any(unicodedata.category(character) in _NO_TEXT for character in value)
