"""What a stored result was computed from, compared with a dataset as it is now.

Runs, comparisons and weight files store a `DataOrigin`, or parts of one. Whatever reads them
compares it with the dataset first, before anything is trained or predicted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from hydrakit.data.prepared.index import Index
from hydrakit.errors import DataError
from hydrakit.hooks import (
    ChannelRule,
    DatasetAdapter,
    Label,
    Normalise,
    Remark,
    Sample,
    Task,
    Unusable,
)
from hydrakit.plan.grey import rule_text
from hydrakit.plan.view import StoredView, view_text
from hydrakit.schema import Frozen, Text

AUTOMATIC: Literal["automatic"] = "automatic"


class DataOrigin(Frozen):
    """What a result was computed from. What an older version did not store is None.

    Attributes:
        content: Content digest of the prepared dataset (`Index.content`). It covers images, fields
            of view, labels, patients and keys.
        classes: Names of the classes, in the order of their labels.
        task: Kind of label.
        field_of_view: Region of the image that the network sees.
        normalise: How its grey values are normalised.
        channels: Rule for images with other channels than the body takes; `AUTOMATIC` if neither
            the plan nor the adapter has one.
        splits: Digest of the split of every case (`splits_digest`).
    """

    content: str | None = None
    classes: tuple[Text, ...] | None = None
    task: Task | None = None
    field_of_view: StoredView | None = None
    normalise: Normalise | None = None
    channels: ChannelRule | Literal["automatic"] | None = None
    splits: str | None = None

    @classmethod
    def of(
        cls, index: Index, adapter: DatasetAdapter, splits: Mapping[str, str] | None = None
    ) -> DataOrigin:
        """Describe a dataset as it is now; ``splits`` is the split of every case, by key."""
        return cls(
            content=index.content,
            classes=adapter.classes,
            task=adapter.task,
            field_of_view=adapter.field_of_view,
            normalise=adapter.normalise,
            channels=adapter.channels or AUTOMATIC,
            splits=None if splits is None else splits_digest(splits),
        )

    def change_to(self, now: DataOrigin) -> str | None:
        """The first difference from another origin, in words; None if there is none.

        What one of the two does not state is not compared. Equal contents show equal images, so the
        field of view is compared only without them.
        """

        def differ(name: str) -> bool:
            before, after = getattr(self, name), getattr(now, name)
            return None not in (before, after) and before != after

        if differ("task"):
            return f"its labels were for {self.task} and are for {now.task}"
        if differ("classes"):
            return f"its classes were {_listed(self.classes)} and are {_listed(now.classes)}"
        if differ("content") or None in (self.content, now.content):
            if differ("field_of_view"):
                before, after = view_text(self.field_of_view), view_text(now.field_of_view)
                return f"its field of view was {before} and is {after}"
            if differ("content"):
                return "its cases, images, labels or patients are others"
        if self.normalise is not None and now.normalise is not None and differ("normalise"):
            before, after = rule_text(self.normalise), rule_text(now.normalise)
            return f"the normalisation of its grey values was {before} and is {after}"
        if differ("channels"):
            return f"its rule for channels was {self.channels} and is {now.channels}"
        return "its cases are in other splits" if differ("splits") else None


def _listed(classes: Sequence[str] | None) -> str:
    return ", ".join(classes or ())


def refuse_changed(
    name: str, before: DataOrigin, now: DataOrigin, *, since: str, remedy: str
) -> None:
    """Raise DataError if a dataset is no longer what a result was computed from.

    Args:
        name: Name of the dataset.
        before: What the result was computed from.
        now: The dataset as it is now.
        since: What happened with the dataset as it was, such as ``the run in RUN began``.
        remedy: What the user can do besides restoring the data.
    """
    change = before.change_to(now)
    if change is not None:
        raise DataError(
            f"{name}: the data has changed since {since} ({change}): restore the data, or {remedy}"
        )


def splits_digest(splits: Mapping[str, str]) -> str:
    """Return the SHA-256 of the split of every case: equal if a dataset is split equally."""
    return hashlib.sha256(json.dumps(sorted(splits.items())).encode()).hexdigest()


def origins_digest(origins: Mapping[str, DataOrigin]) -> str:
    """SHA-256 of the contents, classes, splits and normalisations of several datasets."""
    facts: list[Any] = [
        [name, o.content, o.classes, o.splits]
        # Left out for the rule that earlier versions had, so that their digests stay valid.
        + ([] if o.normalise in (None, "patient") else [str(o.normalise)])
        for name, o in sorted(origins.items())
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def in_class_order(adapter: DatasetAdapter, classes: Sequence[str]) -> DatasetAdapter:
    """Return the adapter with its classes in another order; each case keeps the name of its class.

    Args:
        adapter: Adapter of a dataset.
        classes: The names of its classes in another order.
    """
    order = tuple(classes)
    if order == adapter.classes:
        return adapter
    old = adapter.classes
    new = [order.index(name) for name in old]

    def moved(label: Label | None) -> Label | None:
        # Invalid labels stay as they are: the reader refuses them.
        if adapter.task == "classification" and type(label) is int and 0 <= label < len(old):
            return new[label]
        if isinstance(label, tuple) and len(label) == len(old):
            return tuple(label[old.index(name)] for name in order)
        return label

    def read(root: Path, options: Any) -> Iterator[Sample | Unusable | Remark]:
        for case in adapter.read(root, options):
            yield replace(case, label=moved(case.label)) if isinstance(case, Sample) else case

    # The labels of the cases are others, so data prepared before must not be taken for theirs.
    version = f"{adapter.version} in the order of {', '.join(old)}"
    return replace(adapter, classes=order, version=version, read=read)
