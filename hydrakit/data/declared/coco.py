"""Annotations in the COCO format (JSON) as a table of cases.

The format is that of https://cocodataset.org/#format-data, as annotation tools export it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydrakit.data.declared.schema import NONE
from hydrakit.data.safe_paths import quote
from hydrakit.errors import DataError
from hydrakit.storage.tables import Cells, NamedRow, Sheet, Table

_SIZE = {"image_width": "width", "image_height": "height"}  # fields, and their columns
HEADER = ("path", "label", "group", "key", "box_left", "box_top", "box_width", "box_height")
SUFFIX = ".json"


def is_coco(data: object) -> bool:
    """Whether a JSON value has the lists of a COCO file."""
    return isinstance(data, dict) and all(
        isinstance(data.get(name), list) for name in ("images", "annotations", "categories")
    )


def coco_table(path: Path, content: bytes, *, multilabel: bool = False) -> Table:
    """Return the annotations of a COCO file as a table, with one row for each.

    The columns are those of `HEADER`, and what each image states besides, such as ``patient_id``.
    All annotations of an image are in one group. An image without annotations has one row without a
    label.

    Args:
        path: Path of the file, for messages.
        content: Its content.
        multilabel: One row for each image, with the names of all its categories.

    Raises:
        DataError: The file is not in this format.
    """
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        text = (str(error).splitlines() or [""])[0][:200]
        raise DataError(f"{path}: is not valid JSON ({text}): export it again") from None
    if not is_coco(data):
        raise DataError(
            f"{path}: has no lists of images, annotations and categories, as COCO files have: "
            "export it in this format, or write a table"
        )
    try:
        rows = _rows(data, multilabel=multilabel)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {_reason(error)}: export it again") from None
    more = _more(data["images"])
    header: Cells = (*HEADER, *more)
    listed: list[NamedRow] = [("images", header)]
    listed += [
        (place, (*cells, *(_text(image.get(name)) for name in more)))
        for place, image, cells in rows
    ]
    return Table(path, header, "images", Sheet(lambda: iter(listed)), ())


def size_columns(header: Sequence[str]) -> dict[str, str]:
    """The columns of the size of an image, by their fields; none if one is missing."""
    return _SIZE if all(column in header for column in _SIZE.values()) else {}


def stated_size(fields: Mapping[str, str]) -> tuple[int, int] | None:
    """Height and width of the image that a box was drawn in, if its fields state them."""
    width, height = (fields.get(field, "") for field in _SIZE)
    sizes = [int(text) for text in (height, width) if text.isdecimal()]
    return (sizes[0], sizes[1]) if len(sizes) == 2 and min(sizes) > 0 else None


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"an entry has no {error.args[0]!r}"
    return (str(error).splitlines() or ["is not as COCO files are"])[0][:200]


def _more(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """What images state besides their path: names that are no column yet, and simple values."""
    names = {
        name: None
        for image in images
        for name, value in image.items()
        if isinstance(value, str | int | float) and name not in (*HEADER, "file_name")
    }
    return list(names)


def _rows(
    data: Mapping[str, Any], *, multilabel: bool
) -> list[tuple[str, Mapping[str, Any], list[str]]]:
    names = {each["id"]: str(each["name"]) for each in data["categories"]}
    images = {each["id"]: each for each in data["images"]}
    if len(names) < len(data["categories"]) or len(images) < len(data["images"]):
        raise ValueError("two of its images or categories have one id")
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for each in data["annotations"]:
        if each["image_id"] not in images or each["category_id"] not in names:
            raise ValueError(f"annotation {quote(each['id'])} is of no image or category")
        by_image[each["image_id"]].append(each)
    rows = []
    for number, image in images.items():
        path, found = str(image["file_name"]), by_image[number]
        if multilabel or not found:
            labels = ";".join(dict.fromkeys(names[each["category_id"]] for each in found))
            cells = [path, labels or (NONE if multilabel else ""), path, path, "", "", "", ""]
            rows.append((f"image {number}", image, cells))
            continue
        for each in found:
            key = path if len(found) == 1 else f"{path}#{each['id']}"
            box = [_text(float(value)) for value in each.get("bbox") or ()] or [""] * 4
            if len(box) != 4:
                raise ValueError(f"annotation {quote(each['id'])} has a bbox without 4 numbers")
            cells = [path, names[each["category_id"]], path, key, *box]
            rows.append((f"annotation {each['id']}", image, cells))
    return rows


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) else ""
