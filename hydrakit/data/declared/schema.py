"""Model of ``dataset.toml``: its keys, its checks, and the JSON Schema for editors.

A key that is unknown, has the wrong type, or has no effect together with the others is refused;
nothing is guessed. `hydrakit.data.declared.adapter` turns a declaration into a dataset.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveFloat,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from hydrakit.data.declared.patterns import check_template, compile_pattern, part_names
from hydrakit.data.safe_paths import ORDINARY, is_ordinary, join_names, open_file, path_fault, quote
from hydrakit.errors import DataError, unknown
from hydrakit.file_rules import FileRules, Plane
from hydrakit.hooks import (
    ChannelRule,
    FieldOfView,
    NamedNormalise,
    Normalise,
    Task,
    Window,
)
from hydrakit.rounds import FlipAxis
from hydrakit.schema import Frozen, Name
from hydrakit.stats.label_cells import UNSURE
from hydrakit.storage.tables import SUFFIXES, is_table, label_form

FILE = "dataset.toml"
MAX_BYTES = 2**17
MAX_LINE = 10_000  # characters: tomllib's time is quadratic in the length of a dotted key
MAX_CLASS = 60
MAX_MASK_VIEW = 20.0  # times the lesion: more is the whole image
NO_SPLIT = ""  # target of a split that the dataset does not mean
UNKNOWN = ""  # target of a label that means "unknown"
MAX_SLICES = 63  # of a volume, as the channels of an image
NO_DEFAULT = ("default", None)
SPLIT = "{split}"
NONE = "none"  # multi-label: none of the labels is present
PRESENT, ABSENT = "1", "0"  # multi-label: the text of a class's own column

FilledText = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
SplitName = Literal["train", "val", "test"]


class _Table(Frozen):
    """A table of the file: no type is converted, and the docstrings below go into the schema."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)


class View(_Table):
    """How much of an image the network sees around a case's position: give one of the three."""

    millimetres: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Side of a square in millimetres; requires the pixel spacing, from the files or `spacing`."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Fraction of the image's height and of its width; 1.0 is the whole image."""
    mask: Annotated[float, Field(gt=0, le=MAX_MASK_VIEW)] | None = None
    """Side of a square, as a multiple of the longer side of the lesion in the case's mask."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("give either millimetres, share or mask")
        return self


GreyWindow = Annotated[tuple[FiniteFloat, Annotated[FiniteFloat, Field(ge=1)]], Field(strict=False)]


def _check_window(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Give one message for every wrong window, where pydantic has one for each kind."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(
            f'{quote(str(value))} is neither "file" nor [centre, width], two numbers of which the '
            "width is at least 1: correct it"
        ) from None


class GreyRange(_Table):
    """A range of grey values, for `normalise`."""

    window: Annotated[tuple[FiniteFloat, FiniteFloat], Field(strict=False)]
    """Lower and upper end: they become -1 and 1, and values outside become the nearer one."""

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        Window(window=self.window)
        return self


def _check_normalise(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Give one message for every wrong rule, where pydantic has one for each kind."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(
            f'{quote(str(value))} is neither "patient", "image", "dataset", "none" nor '
            "{ window = [low, high] }, two finite numbers of which the first is the lower one: "
            "correct it"
        ) from None


class ImageRules(_Table):
    """How files become channels."""

    colour: Literal["luma", "channels"] = "luma"
    """PNG, JPEG, TIFF and DICOM: "luma" converts every image to grey (ITU-R BT.601), "channels"
    gives three channels, red, green and blue. Transparency is dropped."""
    channels: Literal["first", "last"] | None = None
    """NPY and NPZ arrays with three dimensions: which dimension holds the channels. Without it, a
    first or last dimension of 1, 3 or 4 holds them if the others are at least four times as long
    (and at least 5); images of any other shape are unusable."""
    rescale: bool | None = None
    """DICOM: true applies RescaleSlope and RescaleIntercept, or a modality LUT (CT: Hounsfield
    units), and a file without them is unusable; false keeps the stored values. Without this key,
    they are applied wherever a file has them. NIfTI: the same for scl_slope and scl_inter."""
    window: Annotated[GreyWindow | Literal["file"] | None, WrapValidator(_check_window)] = None
    """[centre, width]: maps these grey values to 0 to 255 and clips the others (DICOM PS3.3,
    C.11.2.1.2). "file": DICOM: applies the file's own first window or VOI LUT."""
    plane: Plane = "axial"
    """Volumes (NIfTI, NRRD, MetaImage): the plane of the slices, by the nearest axis of the volume.
    A volume with one slice shows this slice, whatever its plane is."""
    slices: Annotated[int, Field(ge=1, le=MAX_SLICES)] = 1
    """Volumes: number of neighbouring slices around the chosen one, which become channels; odd.
    They are in the direction to the left, the back or the head; beyond the ends of the volume, its
    last slice is repeated."""
    axes: Literal["LPS", "RAS"] | None = None
    """Volumes: where `x_mm`, `y_mm` and `z_mm` rise to: left, posterior and superior (as in DICOM,
    ITK, 3D Slicer's files), or right, anterior and superior (as in NIfTI). Required with them."""

    @field_validator("slices")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"{value} slices have no middle one: give an odd number")
        return value

    @model_validator(mode="after")
    def _has_grey(self) -> Self:
        if self.window is not None and self.colour == "channels":
            raise ValueError('window: only grey values have one: remove it, or colour = "channels"')
        if self.window == "file" and self.rescale is False:
            raise ValueError(
                'window: "file" is a window of rescaled values: remove it, or rescale = false'
            )
        return self

    @classmethod
    def of(cls, rules: FileRules, *, colour: bool) -> Self:
        """The rules of a head's dataset.

        Args:
            rules: Its rules.
            colour: Whether colours become channels, unless the rules say a window of grey values.
        """
        names = [name for name in cls.model_fields if name != "colour"]
        return cls(
            colour="channels" if colour and rules.window is None else "luma",
            **{name: getattr(rules, name) for name in names},
        )


class Columns(_Table):
    """Names of the columns in the table of cases, or of the arrays (NPZ).

    A field that is not listed here uses the column of the same name.
    """

    path: FilledText | None = None
    """Table: path of the image, relative to `root`, or its name there without folders or suffix, if
    only one file has it; several paths, separated by `;`, become channels. A member of an NPZ is
    `file.npz#member`, one row of a member `file.npz#member[12]`, one page of a TIFF, frame
    of a DICOM image or slice of a volume `file.dcm#[12]`."""
    image: FilledText | None = None
    """NPZ: array of images, one case per row. `{split}` in the names of the arrays stands for the
    names of the splits: image = "{split}_images"."""
    label: FilledText | None = None
    """Label; empty if it is unknown."""
    patient: FilledText | None = None
    """Pseudonymous patient identifier. Without it, DICOM files use their PatientID, and every other
    case, or finding, counts as its own patient."""
    group: FilledText | None = None
    """Group of cases that must stay in one split, in addition to the patient."""
    finding: FilledText | None = None
    """Name of the finding within the patient. A finding counts once, however many images it has."""
    row: FilledText | None = None
    """Position in pixels, down from the centre of the upper left pixel."""
    column: FilledText | None = None
    """Position in pixels, to the right of the centre of the upper left pixel."""
    row_mm: FilledText | None = None
    """Position in millimetres, down from the centre of the upper left pixel."""
    column_mm: FilledText | None = None
    """Position in millimetres, to the right of the centre of the upper left pixel."""
    slice: FilledText | None = None
    """Volumes: index of the slice, from 0, in the order of the file. (Files of other kinds only if
    this key names the column: then as `#[12]` in the path.)"""
    x_mm: FilledText | None = None
    """Volumes: position in the patient in millimetres, in the direction that `images.axes` states.
    With `y_mm` and `z_mm`, it chooses the slice, and is the position in it."""
    y_mm: FilledText | None = None
    """Volumes: see `x_mm`."""
    z_mm: FilledText | None = None
    """Volumes: see `x_mm`."""
    split: FilledText | None = None
    """Split of the case: train, val or test."""
    box_left: FilledText | None = None
    """Box around the lesion in pixels: its left edge; 0 is the left edge of the image."""
    box_top: FilledText | None = None
    """Its upper edge; 0 is the upper edge of the image. Its middle is the position of the case."""
    box_width: FilledText | None = None
    """Its width."""
    box_height: FilledText | None = None
    """Its height."""
    key: FilledText | None = None
    """Unique name of the case; without it, the path."""
    mask: FilledText | None = None
    """CSV: path of the mask of the lesion, as `mask` above; several, separated by `;`, are united.
    """


class Declaration(_Table):
    """A dataset declared in a file, for hydrakit."""

    model_config = ConfigDict(title="dataset.toml")

    name: Name | None = None
    """Name of the dataset; without it, the name of the file's folder."""
    summary: str = ""
    """Description of the dataset in one line."""
    task: Task = "classification"
    """Kind of label: one of the classes, a number, or any number of the classes."""
    classes: Annotated[tuple[FilledText, ...], Field(strict=False, min_length=1)]
    """Names of the classes; of two classes, the second is the positive one. Regression: the one
    name of the number. Multi-label task: the names of the labels."""
    cohort: str | None = None
    """Name of the cohort: datasets of one cohort share patient identifiers."""
    exact_names: bool = False
    """Names of patients, groups and findings that differ only in case, blanks, separators, leading
    zeros or Unicode form are different, and words such as NA or unknown are names, too."""
    empty_patient: Literal["own", "above"] | None = None
    """Meaning of an empty cell for a patient beside others that are not empty: a patient of its
    own, or the one of the row above (merged cells of a spreadsheet)."""
    licence: str = "not stated"
    """Licence under which the data may be used."""
    citation: str = "not stated"
    """How to cite the dataset."""
    how_to_get: str = "ask the author of its dataset.toml."
    """How to obtain the files."""
    root: FilledText = "."
    """Folder of the images, relative to this file's folder, or absolute. Nothing outside it is
    read."""
    field_of_view: View
    """How much of an image the network sees."""
    normalise: Annotated[NamedNormalise | GreyRange, WrapValidator(_check_normalise)] = "patient"
    """Normalisation of grey values, by numbers over whole images: z-score per "patient", per
    "image", or over all images of the training split ("dataset"), or "none", or a range:
    { window = [low, high] }."""
    flips: Annotated[tuple[FlipAxis, ...], Field(strict=False)] | None = None
    """Axes along which training may mirror an image, where a round's augmentation mirrors: leave
    out "horizontal" if left and right matter, "vertical" if above and below do. [] allows none;
    without this key, all are allowed."""
    follow_links: bool = False
    """Links may lead out of the root, and `**` in a pattern follows links to folders."""
    spacing: Annotated[tuple[PositiveFloat, PositiveFloat], Field(strict=False)] | None = None
    """Pixel spacing (row, column) in millimetres, for files that do not state it."""
    cases: FilledText | None = None
    """The table of cases, with one case per row: a .csv, .tsv, .txt or .xlsx, or annotations in the
    COCO format (.json), beside this file or under `root`; or an NPZ under `root` whose arrays are
    the columns. `{split}.csv` are the tables of several splits. Either this or `pattern`."""
    match: Literal["folder"] | None = None
    """"folder": only the last folder of a path in the table counts: `a/b/SERIES/1.dcm` is the image
    in the folder SERIES, or X_SERIES, wherever that is. In the column of masks, it means all images
    there that have the size of the image."""
    merge_rows: bool = False
    """Rows of a table with one key (without this column, one path) are one case, which must agree:
    its box is that around the boxes of all, and its masks are united."""
    pattern: FilledText | None = None
    """Pattern that selects the case files under `root` and reads parts of their paths:
    `{label}/{patient}/*.png`. Parts: label, patient, group, finding, split, key. `*` is any text
    within a name, `?` one character, `**` any folders. Either this or `cases`."""
    masks: Literal["cases"] | None = None
    """Masks beside images (`x_mask.png` beside `x.png`, `masks/x.png` beside `images/x.png`) that
    `pattern` selects are left out; "cases" uses them as cases."""
    mask: FilledText | None = None
    """Mask of each image, from the path of the image: "{folder}/{stem}_mask.png". Parts: folder and
    stem (the image's name without suffix), and those of `pattern`; `*` is any text, and several
    masks are united. The middle of the box around the mask is the position of the case. (In a
    table, a column may give the masks instead.)"""
    no_mask: Literal["whole"] | None = None
    """A case without a mask, or with an empty one, is unusable; "whole": it is used without a
    position, and shows the whole image if the field of view depends on the mask."""
    columns: Columns = Field(default_factory=Columns)
    """Names of the columns of `cases`."""
    label_columns: dict[str, FilledText] = Field(default_factory=dict)
    """Multi-label task, with a column for each class in place of `label`: the columns whose names
    are not those of their classes, edema = "Edema (report)"."""
    subgroups: dict[str, FilledText] = Field(default_factory=dict)
    """Subgroups for which test results are also reported, each with its column: zone = "zone".
    Never use anything that identifies the patient."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Maps labels of the data to classes; "" means that the label is unknown. Case, blanks and the
    decimals of whole numbers make no difference, unless two keys or classes differ in them. In the
    columns of single classes: to "1" (present), "0" (absent) or "" (unknown)."""
    splits: dict[str, SplitName | Literal[""]] = Field(default_factory=dict)
    """Maps split names of the data to train, val or test; "" means that hydrakit chooses the split.
    """
    images: ImageRules = Field(default_factory=ImageRules)
    """How files become channels."""
    channels: ChannelRule | None = None
    """Images in a network that takes another number of channels than they have: "grey" converts
    colour to luminance (always), "repeat" repeats a single channel, "stem" trains a convolution of
    the dataset's own. Without this key, hydrakit chooses and says so. (`images.channels` is another
    thing: a dimension of an array.)"""

    @cached_property
    def label_forms(self) -> Mapping[str, frozenset[str]]:
        """What the labels of each `label_form` mean: a class, `NONE` or `UNKNOWN`."""
        named = [] if self.task == "regression" else [*self.classes]
        named += [NONE] if self.task == "multilabel" else []
        forms: dict[str, frozenset[str]] = {}
        for text, target in (*zip(named, named, strict=True), *self.labels.items()):
            forms[label_form(text)] = forms.get(label_form(text), frozenset()) | {target}
        return forms

    @property
    def has_table(self) -> bool:
        """Whether the cases are in a table, and not in an NPZ file or given by a pattern."""
        name = self.cases or ""
        return is_table(name) or name.lower().endswith(".json")

    @property
    def view(self) -> FieldOfView:
        """The field of view as a `hydrakit.hooks.FieldOfView`."""
        return FieldOfView(**self.field_of_view.model_dump())

    @property
    def rule(self) -> Normalise:
        """The normalisation as on an adapter."""
        given = self.normalise
        return Window(window=given.window) if isinstance(given, GreyRange) else given

    @property
    def file_rules(self) -> FileRules:
        """How its files are read, but for colour, which the network decides."""
        images = self.images.model_dump(exclude={"colour"})
        return FileRules(**images, spacing=self.spacing, no_mask=self.no_mask, masks=self.masks)

    @field_validator("spacing", mode="before")
    @classmethod
    def _check_spacing(cls, value: object) -> object:
        if not (isinstance(value, list) and len(value) == 2 and all(map(_is_positive, value))):
            raise ValueError(
                f"{quote(value)} is not two positive numbers: write spacing = [row, column], in "
                "millimetres"
            )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_classes()
        self._check_labels()
        if (self.cases is None) == (self.pattern is None):
            raise ValueError("give either cases (a table) or pattern (over paths)")
        if self.pattern is not None:
            self._check_pattern(self.pattern)
        elif self.cases is not None:
            self._check_cases(self.cases)
        if self.mask is not None:
            parts = part_names(self.pattern) if self.pattern else []
            check_template(self.mask, parts)
        elif self.pattern is not None and (self.field_of_view.mask or self.no_mask):
            key = "field_of_view" if self.field_of_view.mask else "no_mask"
            raise ValueError(f'{key}: no masks: add mask = "{{folder}}/{{stem}}_mask.png"')
        return self

    def _check_classes(self) -> None:
        count = len(self.classes)
        for name in self.classes:
            if not name.isprintable() or len(name) > MAX_CLASS:
                raise ValueError(
                    f"classes: {quote(name)} holds control characters or is over {MAX_CLASS} "
                    "characters long: shorten it"
                )
        if len(set(self.classes)) != count:
            raise ValueError("classes: a name occurs twice: give different names")
        if self.task == "regression" and count != 1:
            raise ValueError("classes: a regression needs exactly one, the name of its number")
        if self.task != "regression" and count < 2:
            raise ValueError(f"classes: a {self.task} needs two or more")
        if self.task == "multilabel" and any(c == NONE or ";" in c for c in self.classes):
            raise ValueError(f"classes: in a multilabel task, none may be {NONE!r} or contain ';'")
        unsure = {f"{name}{UNSURE}" for name in self.classes} & {*self.classes}
        if self.task == "multilabel" and unsure:
            raise ValueError(
                f"classes: {quote(min(unsure))} means that another class is unknown: rename it"
            )

    def _check_labels(self) -> None:
        for text, label in self.labels.items():
            if label == UNKNOWN:
                continue
            if self.task == "regression":
                number(label, f"labels: {quote(text)}")
            elif label not in self.classes and not self._means_answer(label):
                raise ValueError(
                    f"labels: {quote(text)}: {quote(label)} is none of the classes "
                    f"{join_names(self.classes)}"
                )

        if not self.label_columns:
            return
        if self.task != "multilabel":
            raise ValueError("label_columns: only a multilabel task has them: remove them")
        for name in self.label_columns:
            if name not in self.classes:
                raise ValueError(f"label_columns: {unknown('class', name, self.classes)}")
        if self.columns.label is not None:
            raise ValueError(
                "label_columns: columns.label names one column of all labels: keep one"
            )

    def _means_answer(self, label: str) -> bool:
        """Whether a target under [labels] is none of the classes, but one of a multi-label task."""
        return self.task == "multilabel" and (
            label in (NONE, PRESENT, ABSENT) or label.removesuffix(UNSURE) in self.classes
        )

    def _check_pattern(self, pattern: str) -> None:
        compile_pattern(pattern)
        parts = part_names(pattern)
        if self.empty_patient == "above":
            raise ValueError('empty_patient: only the rows of a table follow one another: "own"')
        if self.empty_patient is not None and "patient" not in parts:
            raise ValueError("empty_patient: the pattern has no {patient}: add it, or remove this")
        if self.columns != Columns() or self.label_columns:
            name = "columns" if self.columns != Columns() else "label_columns"
            raise ValueError(f"{name}: only a table of cases has columns: remove them")
        if self.images.axes is not None:
            raise ValueError("images.axes: only a table of cases has positions: remove it")
        if self.merge_rows:
            raise ValueError("merge_rows: only a table has rows: remove it")
        if self.match is not None:
            raise ValueError("match: only a table has paths: remove it")
        if self.subgroups:
            raise ValueError("subgroups: only a table of cases has columns for them: remove them")
        for table, part in (("labels", "label"), ("splits", "split")):
            if getattr(self, table) and part not in parts:
                raise ValueError(f"{table}: the pattern has no {{{part}}}: add it, or remove them")

    def _check_cases(self, cases: str) -> None:
        fault = path_fault(cases)
        if fault:
            raise ValueError(f"cases: {quote(cases)} {fault}")
        if self.masks is not None:
            raise ValueError("masks: only a pattern selects files: remove it")
        other = "image" if self.has_table else "path"
        if other == "path" and not cases.lower().endswith(".npz"):
            raise ValueError(
                f"cases: {quote(cases)} is neither a table ({', '.join(SUFFIXES)}, .json) nor an "
                ".npz file"
            )
        if self.merge_rows and other == "path":
            raise ValueError("merge_rows: only a table has rows: remove it")
        if self.match is not None and other == "path":
            raise ValueError("match: only a table has paths: remove it")
        if "{" in cases or "}" in cases:
            if other == "path" or part_names(cases) != ["split"]:
                raise ValueError(
                    f"cases: {quote(cases)}: only {SPLIT} may be in the name of a table"
                )
            compile_pattern(cases)
        for name in self.subgroups:
            if not (name.strip() and name.isprintable() and len(name) <= MAX_CLASS):
                raise ValueError(
                    f"subgroups: {quote(name)} is not a printable name of 1 to {MAX_CLASS} "
                    "characters: correct it"
                )
        if getattr(self.columns, other) is not None:
            own = {"image": "path", "path": "image"}[other]
            raise ValueError(f"columns.{other}: this kind of table uses {own} instead")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def number(text: str, what: str) -> float:
    """Parse a number of ordinary size.

    Raises:
        ValueError: The text is not such a number; the message begins with ``what``.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = ": write it with a decimal point" if "," in text else ""
        raise ValueError(f"{what}: {quote(text)} is not a finite number{hint}")
    if not is_ordinary(value):
        raise ValueError(f"{what}: {quote(text)} is not {ORDINARY}: use another unit")
    return value


def parse_declaration(path: Path) -> tuple[Declaration, bytes]:
    """Parse the declaration in a file; return it with the file's content.

    Raises:
        DataError: The file cannot be read or is not a valid declaration; the message names the
            first invalid key.
    """
    try:
        with open_file(path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: is over {MAX_BYTES >> 10} KiB: put the cases into a table")
    try:
        text = content.decode("utf-8-sig")
        if any(len(line) > MAX_LINE for line in text.splitlines()):
            raise DataError(f"{path}: has a line of over {MAX_LINE} characters: break it")
        data = tomllib.loads(text)
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text: save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # ValueError also: a number of 5,000 digits
        raise DataError(f"{path}: is not valid TOML: {_first_line(error)}: correct it") from None
    try:
        return Declaration.model_validate(data), content
    except ValidationError as error:
        raise DataError(f"{path}: {_first_fault(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"]))
    where = where if where.isprintable() and len(where) <= 60 else quote(where)
    if fault["type"] == "extra_forbidden" and "." in where:
        key = where.rpartition(".")[2]
        if key in Declaration.model_fields:
            return f"key {where!r}: move {key} to the top of the file, before the first [table]"
    if fault["type"] == "extra_forbidden":
        tables: list[tuple[str, type[_Table]]] = [("images", ImageRules), ("columns", Columns)]
        for table, keys in tables:
            if where in keys.model_fields:
                return f"key {where!r}: move it below [{table}]"
        return f"{unknown('key', where, _keys())} (docs/dataset-toml.md lists them)"
    if fault["type"] == "missing":
        return f"key {where!r} is missing: add it (docs/dataset-toml.md)"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":  # raised by the checks above, with key and value
        return f"{where}: {message}" if where else message
    return f"{where}: {message} (is {quote(fault['input'])}): correct it (docs/dataset-toml.md)"


def _keys() -> list[str]:
    keys = list(Declaration.model_fields)
    tables: list[tuple[str, type[_Table]]] = [
        ("field_of_view", View),
        ("normalise", GreyRange),
        ("columns", Columns),
        ("images", ImageRules),
    ]
    return keys + [f"{name}.{key}" for name, table in tables for key in table.model_fields]


def json_schema() -> str:
    """Return the JSON Schema of ``dataset.toml`` for editors, as in docs/dataset.schema.json."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_without_null(Declaration.model_json_schema()),
        "oneOf": [{"required": ["cases"]}, {"required": ["pattern"]}],
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _without_null(schema: Any) -> Any:
    """Remove the null that pydantic allows for each absent key, because TOML has no null."""
    if isinstance(schema, list):
        return [_without_null(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _without_null(part) for key, part in schema.items() if (key, part) != NO_DEFAULT}
    types = [each for each in result.get("anyOf", ()) if each != {"type": "null"}]
    if len(types) == 1:
        del result["anyOf"]
        return types[0] | result
    return result
