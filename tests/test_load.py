from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydrakit.data.augment import central_view
from hydrakit.data.load import LoadedDataset, load, select
from hydrakit.data.prepared.crop import canvas_side
from hydrakit.data.prepared.index import PreparedDataset, open_prepared
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.quality.leakage import assign_splits
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, FieldOfView, Sample
from hydrakit.plan import Split
from hydrakit.plan.grey import PER_PATIENT

PATCH = 5
SIDE = canvas_side(PATCH)
CPU = torch.device("cpu")
SPLIT = Split(train=6, val=2, test=2)


def read(root: Path, options: Any) -> Iterator[Sample]:
    """Forty labelled cases, two of each patient, and three without a label."""
    random = np.random.default_rng(8)
    for number in range(43):
        yield Sample(
            image=random.normal(size=(2, 12, 10)).astype(np.float32),
            label=(number // 2) % 2 if number < 40 else None,
            patient=f"p{number // 2}",
            group=None if number % 5 else "exam",
            key=f"case {number}",
        )


ADAPTER = DatasetAdapter(
    name="thing",
    summary="For tests.",
    classes=("no", "yes"),
    read=read,
    field_of_view=FieldOfView(share=1.0),
    version="1",
    layout="nothing",
    how_to_get="Make them.",
    citation="none",
    licence="none",
)


def share_out(prepared: PreparedDataset, seed: int) -> dict[str, str]:
    gate = assign_splits(
        {"thing": prepared},
        {"thing": ADAPTER},
        splits={"thing": SPLIT},
        seed=seed,
        copies="report",  # 12 x 10 pixels of noise: nothing is a copy
        conflicts="keep",
    )
    return gate.splits["thing"]


def loaded_of(prepared: PreparedDataset, seed: int = 3) -> LoadedDataset:
    return load(prepared, ADAPTER, splits=share_out(prepared, seed), patch=PATCH, device=CPU)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("thing")
    return prepare(ADAPTER, folder, options={}, patch=PATCH, cache=folder / "cache")


def rows_of(prepared: PreparedDataset, splits: dict[str, str], name: str) -> list[int]:
    cases = enumerate(prepared.index.cases)
    return [row for row, case in cases if splits.get(case.key) == name]


def test_training_and_validation_cases_keep_their_labels(prepared: PreparedDataset) -> None:
    loaded = loaded_of(prepared)
    assert (loaded.name, loaded.classes, loaded.patch) == ("thing", ("no", "yes"), PATCH)
    assert loaded.channels == 2
    train = rows_of(prepared, loaded.splits, "train")
    val = rows_of(prepared, loaded.splits, "val")
    cases = prepared.index.cases
    shown = loaded.train.unaugmented(PATCH)
    assert shown.dtype == torch.float32
    expected = central_view(torch.from_numpy(prepared.rows(train)), PATCH)
    torch.testing.assert_close(shown, expected, atol=1e-6, rtol=1e-6)
    assert loaded.train_labels.dtype == torch.int64
    assert loaded.train_labels.tolist() == [cases[row].label for row in train]
    assert loaded.val.cases == tuple(cases[row] for row in val)
    assert loaded.val.labels.tolist() == [cases[row].label for row in val]
    middle = central_view(torch.from_numpy(prepared.rows(val)), PATCH)
    torch.testing.assert_close(loaded.val.patches, middle, atol=1e-6, rtol=1e-6)


def test_no_test_case_is_loaded(prepared: PreparedDataset) -> None:
    loaded = loaded_of(prepared)
    test = rows_of(prepared, loaded.splits, "test")
    assert len(test) == Counter(loaded.splits.values())["test"] > 0
    unlabelled = [row for row, case in enumerate(prepared.index.cases) if case.label is None]
    hidden = prepared.rows(test + unlabelled)
    small = central_view(torch.from_numpy(hidden), PATCH).flatten(1)
    for images in (loaded.train.unaugmented(PATCH), loaded.val.patches):
        assert torch.cdist(images.flatten(1), small).min() > 0.1
    with pytest.raises(IndexError):
        loaded.train.views(torch.tensor([len(loaded.train)]), None, PATCH)
    keys = {case.key for case in loaded.val.cases}
    assert keys.isdisjoint(prepared.index.cases[row].key for row in test)


def test_every_labelled_case_is_dealt_once_whole_patients_at_a_time(
    prepared: PreparedDataset,
) -> None:
    splits = share_out(prepared, 3)
    labelled = [case for case in prepared.index.cases if case.label is not None]
    assert set(splits) == {case.key for case in labelled}
    assert len(labelled) == 40
    homes: dict[str, set[str]] = {}
    for case in labelled:
        homes.setdefault(case.patient, set()).add(splits[case.key])
        if case.group is not None:
            homes.setdefault(case.group, set()).add(splits[case.key])
    assert all(len(home) == 1 for home in homes.values())
    assert share_out(prepared, 3) == splits
    assert share_out(prepared, 4) != splits


def test_selected_cases_come_in_the_order_of_the_rows(prepared: PreparedDataset) -> None:
    keys = {"case 42", "case 7", "case 30"}  # the last has no label, so nothing to be compared with
    chosen = select(
        prepared, keys, task="classification", scale=None, grey=PER_PATIENT, patch=PATCH, device=CPU
    )
    assert [case.key for case in chosen.cases] == ["case 7", "case 30"]
    assert chosen.labels.tolist() == [1, 1]
    expected = central_view(torch.from_numpy(prepared.rows([7, 30])), PATCH)
    torch.testing.assert_close(chosen.patches, expected, atol=1e-6, rtol=1e-6)


def test_selecting_nothing_gives_nothing(prepared: PreparedDataset) -> None:
    nothing = select(
        prepared,
        {"no such case"},
        task="classification",
        scale=None,
        grey=PER_PATIENT,
        patch=PATCH,
        device=CPU,
    )
    assert nothing.patches.shape == (0, 2, PATCH, PATCH)
    assert nothing.labels.shape == (0,)
    assert nothing.labels.dtype == np.int64
    assert nothing.cases == ()


def test_what_is_loaded_can_be_changed_and_the_file_stays(tmp_path: Path) -> None:
    prepared = prepare(ADAPTER, tmp_path, options={}, patch=PATCH, cache=tmp_path / "cache")
    every = range(len(prepared.index.cases))
    before = prepared.rows(every)
    prepared.stored(every)[...] = 0
    again = open_prepared(next(prepared.folder.glob("index-*.json")))
    np.testing.assert_array_equal(again.rows(every), before)


def test_a_dataset_without_labels_cannot_be_trained_on(tmp_path: Path) -> None:
    def unlabelled(root: Path, options: Any) -> Iterator[Sample]:
        for case in read(root, options):
            yield dataclasses.replace(case, label=None)

    blind = dataclasses.replace(ADAPTER, read=unlabelled)
    prepared = prepare(blind, tmp_path, options={}, patch=PATCH, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="thing: no case has a label"):
        share_out(prepared, 0)
