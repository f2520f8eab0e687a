from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrakit.data.augment import central_view
from hydrakit.data.load import LoadedDataset, PatchStore, load, select
from hydrakit.data.prepared.crop import canvas_side
from hydrakit.data.prepared.index import PreparedDataset, open_prepared
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.quality.leakage import assign_splits
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, FieldOfView, Normalise, Sample, Window
from hydrakit.plan import Split
from hydrakit.plan.grey import PER_PATIENT, GreyValues

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


def grey_cases(change: Any = lambda number, image: image) -> list[Sample]:
    """Eighteen images of several sizes, two of each patient; some have padding."""
    random = np.random.default_rng(3)
    cases = []
    for number in range(18):
        image = random.normal(number, 1 + number % 3, (2, 12 + number % 4, 10)).astype(np.float32)
        image = change(number, image)
        if number % 3 == 0:
            image[:, :2] = -2000
            image = np.ma.MaskedArray(image, mask=image == -2000)
        cases.append(
            Sample(image=image, label=number % 2, patient=f"p{number // 2}", key=f"case {number}")
        )
    return cases


def prepare_cases(folder: Path, cases: list[Sample], rule: Normalise = "patient") -> Any:
    """An adapter of some cases with its prepared patches."""
    own = dataclasses.replace(ADAPTER, read=lambda root, options: iter(cases), normalise=rule)
    return own, prepare(own, folder, options={}, patch=PATCH, cache=folder / "cache")


SPLITS = {f"case {n}": ("train", "train", "val", "test")[n // 2 % 4] for n in range(18)}


@pytest.mark.parametrize(
    "rule", ["patient", "image", "dataset", "none", Window(window=(-1.0, 12.0))], ids=str
)
def test_grey_values_are_normalised_over_whole_images(rule: Normalise, tmp_path: Path) -> None:
    cases = grey_cases()
    own, prepared = prepare_cases(tmp_path, cases, rule)
    loaded = load(prepared, own, splits=SPLITS, patch=PATCH, device=CPU)

    def numbers(row: int) -> tuple[Any, Any]:
        """What is subtracted and divided by: over pixels that are no padding, of whole images."""
        if isinstance(rule, Window):
            return 5.5, 6.5
        if rule == "none":
            return 0.0, 1.0
        together = {
            "image": [row],
            "patient": [n for n, case in enumerate(cases) if case.patient == cases[row].patient],
            "dataset": [n for n in range(18) if SPLITS[f"case {n}"] == "train"],
        }[rule]
        pixels = [np.ma.asarray(cases[n].image).astype(float).reshape(2, -1) for n in together]
        joined = [np.concatenate([each[c].compressed() for each in pixels]) for c in range(2)]
        return (np.array([f(each) for each in joined])[:, None, None] for f in (np.mean, np.std))

    for split, images in (("train", loaded.train.unaugmented(PATCH)), ("val", loaded.val.patches)):
        rows = rows_of(prepared, SPLITS, split)
        for row, image in zip(rows, images.numpy(), strict=True):
            mean, deviation = numbers(row)
            (stored,) = central_view(torch.from_numpy(prepared.stored([row])), PATCH).numpy()
            expected = (stored - mean) / deviation
            if isinstance(rule, Window):
                expected = expected.clip(-1, 1)
            np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)
            canvas = torch.from_numpy(prepared.rows([row], loaded.grey))
            np.testing.assert_allclose(
                loaded.grey.clip(central_view(canvas, PATCH))[0], expected, rtol=1e-5, atol=1e-5
            )


def test_the_numbers_of_a_dataset_are_those_of_its_training_images_alone(tmp_path: Path) -> None:
    def brighter(number: int, image: Any) -> Any:
        return image if SPLITS[f"case {number}"] == "train" else image * 50 + 7

    loaded = []
    for name, change in (("one", lambda number, image: image), ("other", brighter)):
        (tmp_path / name).mkdir()
        own, prepared = prepare_cases(tmp_path / name, grey_cases(change), "dataset")
        loaded.append(load(prepared, own, splits=SPLITS, patch=PATCH, device=CPU))
    assert loaded[0].grey == loaded[1].grey
    before, after = (each.train.unaugmented(PATCH) for each in loaded)
    assert torch.equal(before, after)
    assert not torch.equal(loaded[0].val.patches, loaded[1].val.patches)


@settings(max_examples=5, deadline=None)
@given(st.floats(0.1, 100), st.floats(-1000, 1000))
def test_a_dataset_s_normalisation_does_not_see_its_unit(factor: float, shift: float) -> None:
    images = []
    for a, b in ((1.0, 0.0), (factor, shift)):
        with TemporaryDirectory() as folder:
            cases = grey_cases(
                lambda number, image, a=a, b=b: image * np.float32(a) + np.float32(b)
            )
            own, prepared = prepare_cases(Path(folder), cases, "dataset")
            loaded = load(prepared, own, splits=SPLITS, patch=PATCH, device=CPU)
            images.append(torch.cat([loaded.train.unaugmented(PATCH), loaded.val.patches]))
    torch.testing.assert_close(images[0], images[1], rtol=1e-2, atol=1e-2)


def test_a_channel_without_contrast_outside_of_its_padding_becomes_0(tmp_path: Path) -> None:
    image = np.full((2, 12, 10), 4, dtype=np.float32)
    image[0] = np.arange(120).reshape(12, 10)
    image[1, 0] = np.arange(10)  # masked, since the other channel is padding there
    mask = np.zeros(image.shape, dtype=bool)
    mask[0, 0] = True
    flat = Sample(image=np.ma.MaskedArray(image, mask=mask), label=0, patient="p", key="case 0")
    _, prepared = prepare_cases(tmp_path, [flat])
    for rule in ("patient", "image"):
        store = PatchStore(prepared, [0], CPU, GreyValues(normalise=rule))  # type: ignore[arg-type]
        assert torch.isfinite(store.unaugmented(PATCH)).all()
        assert (store.unaugmented(PATCH)[0, 1, -1] == 0).all()
