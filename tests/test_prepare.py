from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from hydrakit.data.prepare import (
    Statistics,
    canvas_side,
    crop,
    default_cache,
    prepare,
)
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, FieldOfView, Option, OptionValue, Sample, Unusable

PATCH = 9
SIDE = canvas_side(PATCH)

Cases = Iterable[Sample | Unusable]


def sample(image: NDArray[Any], **changes: Any) -> Sample:
    values: dict[str, Any] = {"label": 0, "patient": "p", "key": "one"}
    pixels = np.asarray(image, dtype=np.float32)
    return Sample(image=pixels, **{**values, **changes})


def adapter(read: Callable[..., Iterator[Any]] | Cases, **changes: Any) -> DatasetAdapter:
    values: dict[str, Any] = {
        "name": "thing",
        "summary": "For tests.",
        "classes": ("no", "yes"),
        "read": read if callable(read) else lambda root, options: iter(read),
        "field_of_view": FieldOfView(share=1.0),
        "version": "1",
        "layout": "images as .npy files",
        "how_to_get": "Make them.",
        "citation": "none",
        "licence": "none",
    }
    return DatasetAdapter(**{**values, **changes})


def noise(seed: int, *shape: int, spread: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(3, spread, shape)).astype(np.float32)


# The z-score


def test_images_are_z_scored_by_patient_and_channel(tmp_path: Path) -> None:
    images = {
        "a1": noise(1, 2, 20, 31, spread=2),
        "b1": noise(2, 2, 40, 18, spread=9) + 100,
        "a2": noise(3, 2, 55, 25, spread=5) - 7,
        "a3": noise(4, 2, 10, 10, spread=1),
    }
    cases = [
        sample(image, key=key, patient=key[0], label=int(key[0] == "b"))
        for key, image in images.items()
    ]
    prepared = prepare(adapter(cases), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c")
    assert prepared.patches.shape == (4, 2, SIDE, SIDE)
    assert prepared.patches.dtype == np.float32
    assert [case.key for case in prepared.index.cases] == list(images)
    for row, case in enumerate(cases):
        own = [image for key, image in images.items() if key[0] == case.patient]
        for channel in range(2):
            pixels = np.concatenate([image[channel].ravel() for image in own]).astype(np.float64)
            raw = crop(case, FieldOfView(share=1.0), PATCH)[channel]
            expected = (raw - pixels.mean()) / pixels.std()
            np.testing.assert_allclose(prepared.patches[row, channel], expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        arrays(
            np.float32,
            st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 6)),
            elements=st.floats(-3000, 3000, width=32),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_statistics_over_images_are_those_over_their_pixels(
    images: list[NDArray[np.float32]],
) -> None:
    statistics = Statistics(2)
    for image in images:
        statistics.add(image)
    pixels = np.concatenate([image.reshape(2, -1) for image in images], axis=1).astype(np.float64)
    np.testing.assert_allclose(statistics.mean, pixels.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(statistics.standard_deviation(), pixels.std(axis=1), atol=1e-6)


def test_a_small_spread_about_a_large_mean_is_not_lost(tmp_path: Path) -> None:
    image = noise(5, 1, 30, 30).round() + 60000
    prepared = prepare(
        adapter([sample(image)]), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c"
    )
    raw = crop(sample(image), FieldOfView(share=1.0), PATCH)
    expected = (raw - image.astype(np.float64).mean()) / image.astype(np.float64).std()
    np.testing.assert_allclose(prepared.patches[0], expected, atol=1e-4)


def test_what_gives_no_image_is_excluded_with_its_reason(tmp_path: Path) -> None:
    half_flat = np.stack([noise(1, 8, 8), np.full((8, 8), 2.0)])
    counted: list[int] = []
    prepared = prepare(
        adapter(
            [
                sample(noise(2, 2, 8, 8), key="good", label=None, group="g"),
                Unusable(key="lost", reason="no such series"),
                sample(half_flat, key="flat"),
            ]
        ),
        tmp_path,
        options={},
        patch=PATCH,
        cache=tmp_path / "c",
        on_case=counted.append,
    )
    assert [case.model_dump() for case in prepared.index.cases] == [
        {"key": "good", "label": None, "patient": "p", "group": "g"}
    ]
    assert [(case.key, case.reason) for case in prepared.index.excluded] == [
        ("lost", "no such series"),
        ("flat", "the image has no contrast"),
    ]
    assert counted == [1, 2, 3]
    pixels = noise(2, 2, 8, 8).reshape(2, -1).astype(np.float64)
    raw = crop(sample(noise(2, 2, 8, 8)), FieldOfView(share=1.0), PATCH)
    expected = (raw - pixels.mean(axis=1)[:, None, None]) / pixels.std(axis=1)[:, None, None]
    np.testing.assert_allclose(prepared.patches[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ([], "thing: no usable case in "),
        ([Unusable(key="a", reason="no series")], ": 1 cases, the first: no series (see `hydrakit"),
    ],
)
def test_a_dataset_without_usable_cases_is_an_error(
    cases: list[Unusable], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        prepare(adapter(cases), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "c").iterdir()) == []


# The cache


class Files:
    """A dataset of .npy files, with an adapter that counts how often it reads."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache, self.readings = root, cache, 0
        root.mkdir()
        for number in range(3):
            np.save(root / f"{number}.npy", noise(number, 12, 14))

    def read(self, root: Path, options: Mapping[str, OptionValue]) -> Iterator[Sample]:
        self.readings += 1
        for path in sorted(root.rglob("*.npy")):
            image = np.load(path, allow_pickle=False)
            yield sample(image, key=path.stem, patient=path.stem, source=(path,))

    def prepare(self, root: Path | None = None, **changes: Any) -> Any:
        options, patch = changes.pop("options", {}), changes.pop("patch", PATCH)
        own = {"options": (Option(name="depth", default=1, help="For tests."),)}
        thing = adapter(self.read, **{**own, **changes})
        return prepare(thing, root or self.root, options=options, patch=patch, cache=self.cache)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "thing", tmp_path / "cache")


def test_prepared_data_is_found_again(files: Files) -> None:
    first = files.prepare()
    again = files.prepare()
    given = files.prepare(options={"depth": "1"})  # the default, told
    assert files.readings == 1
    for other in (again, given):
        assert other.index == first.index
        np.testing.assert_array_equal(other.patches, first.patches)
    assert [path.name for path in files.cache.iterdir()] == [
        Path(first.patches.filename).parent.name
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"depth": 2}},
        {"version": "2"},
        {"classes": ("no", "maybe")},
        {"field_of_view": FieldOfView(share=0.5)},
        {"patch": PATCH + 2},
        {"name": "other"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_prepared_data_is_made_anew_when_the_adapter_changes(
    changes: dict[str, Any], files: Files
) -> None:
    files.prepare()
    files.prepare(**changes)
    assert files.readings == 2
    files.prepare(**changes)
    files.prepare()
    assert files.readings == 2


def test_prepared_data_is_made_anew_when_a_file_changes(files: Files) -> None:
    before = files.prepare()
    path = files.root / "1.npy"
    np.save(path, noise(77, 12, 14))
    os.utime(path, ns=(10**18, 10**18))
    changed = files.prepare()
    assert files.readings == 2
    assert changed.index.content != before.index.content
    np.testing.assert_array_equal(changed.patches[[0, 2]], before.patches[[0, 2]])
    (files.root / "deeper").mkdir()
    np.save(files.root / "deeper" / "3.npy", noise(3, 12, 14))
    assert len(files.prepare().index.cases) == 4
    path.unlink()
    assert len(files.prepare().index.cases) == 3
    assert files.readings == 4


def test_files_behind_a_link_are_watched_too(files: Files, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (files.root / "linked").symlink_to(elsewhere, target_is_directory=True)
    files.prepare()
    np.save(elsewhere / "3.npy", noise(3, 12, 14))
    files.prepare()
    assert files.readings == 2


def test_a_link_that_leads_nowhere_does_no_harm(files: Files) -> None:
    (files.root / "notes.txt").symlink_to(files.root / "gone.txt")
    assert len(files.prepare().index.cases) == 3
    files.prepare()
    assert files.readings == 1


def test_equal_data_elsewhere_has_an_equal_digest(files: Files, tmp_path: Path) -> None:
    here = files.prepare()
    copied = tmp_path / "copied"
    shutil.copytree(files.root, copied, copy_function=shutil.copyfile)
    there = files.prepare(copied)
    assert files.readings == 2
    assert there.index.content == here.index.content
    assert len(here.index.content) == 64
    other_label = adapter(
        lambda root, options: (
            sample(case.image, key=case.key, patient=case.patient, label=1)
            for case in files.read(root, options)
        )
    )
    relabelled = prepare(other_label, copied, options={}, patch=PATCH, cache=tmp_path / "other")
    np.testing.assert_array_equal(relabelled.patches, here.patches)
    assert relabelled.index.content != here.index.content


@pytest.mark.parametrize("error", [DataError("no"), RuntimeError("bug"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_failed_reading(error: BaseException, tmp_path: Path) -> None:
    def read(root: Path, options: Mapping[str, OptionValue]) -> Iterator[Sample]:
        yield sample(noise(1, 8, 8))
        raise error

    with pytest.raises(type(error)):
        prepare(adapter(read), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_two_that_prepare_the_same_at_once_both_get_it(files: Files) -> None:
    inner: list[Any] = []

    def read(root: Path, options: Mapping[str, OptionValue]) -> Iterator[Sample]:
        if not inner:  # another process begins later and is done first
            inner.append(None)
            inner.append(prepare(thing, root, options={}, patch=PATCH, cache=files.cache))
        yield from files.read(root, options)

    thing = adapter(read)
    outer = prepare(thing, files.root, options={}, patch=PATCH, cache=files.cache)
    assert inner[1] is not None
    assert outer.index == inner[1].index
    assert len(list(files.cache.iterdir())) == 1


def test_patches_are_mapped_and_cannot_be_written(files: Files) -> None:
    prepared = files.prepare()
    assert isinstance(prepared.patches, np.memmap)
    assert not prepared.patches.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        prepared.patches[0] = 0


def _cut_short(folder: Path) -> None:
    data = (folder / "patches.f32").read_bytes()
    (folder / "patches.f32").write_bytes(data[:-4])


@pytest.mark.parametrize(
    "harm",
    [
        _cut_short,
        lambda folder: (folder / "patches.f32").unlink(),
        lambda folder: (folder / "index.json").write_text("{}"),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "index.json").unlink(),
    ],
    ids=["cut", "no patches", "empty index", "cut index", "no text", "no index"],
)
def test_a_broken_cache_says_what_to_delete(harm: Callable[[Path], Any], files: Files) -> None:
    prepared = files.prepare()
    folder = Path(prepared.patches.filename).parent
    del prepared
    harm(folder)
    with pytest.raises(DataError) as caught:
        files.prepare()
    message = str(caught.value)
    assert message.startswith(f"{folder}: prepared data cannot be read (")
    assert message.endswith("): delete this folder to prepare anew")
    assert "\n" not in message
    assert list(files.cache.iterdir()) == [folder]
    shutil.rmtree(folder)
    assert len(files.prepare().index.cases) == 3


def test_an_unusable_cache_is_named(files: Files) -> None:
    files.cache.write_text("in the way")
    with pytest.raises(DataError) as caught:
        files.prepare()
    assert str(caught.value).startswith(f"{files.cache}: prepared data cannot be kept there (")
    assert "`--cache` or $HYDRAKIT_CACHE" in str(caught.value)
    assert files.readings == 0


def test_a_missing_folder_says_how_to_get_the_data(files: Files, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"thing: no folder .*none.*Make them\."):
        files.prepare(tmp_path / "none")
    assert not files.cache.exists()


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Files
) -> None:
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"
    files.cache = None  # type: ignore[assignment]
    files.prepare()
    assert len(list((tmp_path / "mine").iterdir())) == 1
    monkeypatch.delenv("HYDRAKIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "hydrakit"
