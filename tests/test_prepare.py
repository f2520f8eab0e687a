from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparing import PATCH, SIDE, Files, adapter, every, noise, sample, told

from hydrakit.data.prepared.crop import crop
from hydrakit.data.prepared.prepare import IN_FLIGHT, prepare
from hydrakit.data.quality.duplicates import content_digest, texture, thumbnail
from hydrakit.data.quality.shortcuts import image_facts
from hydrakit.data.read import LoadedSample, read_samples
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, FieldOfView, Sample, Unusable
from hydrakit.plugins import load_plugins
from hydrakit.storage.paths import cache_folder

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
    patches = every(prepared)
    assert patches.shape == (4, 2, SIDE, SIDE)
    assert patches.dtype == np.float32
    assert [case.key for case in prepared.index.cases] == list(images)
    for row, case in enumerate(cases):
        own = [image for key, image in images.items() if key[0] == case.patient]
        for channel in range(2):
            pixels = np.concatenate([image[channel].ravel() for image in own]).astype(np.float64)
            raw = crop(case, FieldOfView(share=1.0), PATCH)[channel]
            expected = (raw - pixels.mean()) / pixels.std()
            np.testing.assert_allclose(patches[row, channel], expected, atol=1e-5)


def test_rows_come_as_they_are_asked_for(tmp_path: Path) -> None:
    prepared = Files(tmp_path / "thing", tmp_path / "c", count=5).prepare()
    patches = every(prepared)
    np.testing.assert_array_equal(prepared.rows([3, 0, 3]), patches[[3, 0, 3]])
    assert prepared.rows([]).shape == (0, 1, SIDE, SIDE)
    assert prepared.rows(np.array([2])).shape == (1, 1, SIDE, SIDE)
    with pytest.raises(IndexError):
        prepared.rows([5])


def test_a_small_spread_about_a_large_mean_is_not_lost(tmp_path: Path) -> None:
    image = noise(5, 1, 30, 30).round() + 60000
    prepared = prepare(
        adapter([sample(image)]), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c"
    )
    raw = crop(sample(image), FieldOfView(share=1.0), PATCH)
    expected = (raw - image.astype(np.float64).mean()) / image.astype(np.float64).std()
    np.testing.assert_allclose(every(prepared)[0], expected, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2])
def test_padding_counts_in_no_statistics_and_continues_the_scan(
    tmp_path: Path, channels: int
) -> None:
    image = noise(7, channels, 30, 30, spread=3) + 40
    padding = np.zeros(image.shape, dtype=bool)
    padding[0, :, 24:] = True
    padding[-1, :4] = True
    padded = np.ma.MaskedArray(np.where(padding, np.float32(-2000), image), mask=padding)
    prepared = prepare(
        adapter([sample(lambda: padded)]), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c"
    )
    scan = ~padding.any(axis=0)
    mean, deviation = prepared.index.patients["p"].mean, prepared.index.patients["p"].deviation
    np.testing.assert_allclose(mean, [plane[scan].mean() for plane in image], rtol=1e-6)
    np.testing.assert_allclose(deviation, [plane[scan].std() for plane in image], rtol=1e-6)
    facts = prepared.index.cases[0].facts
    assert facts["padding"] == padding.mean()
    assert 30 < float(facts["border value"]) < 50
    # The nearest pixel of a column beyond column 23 is that of column 23, in the same row.
    filled = image.copy()
    filled[-1, :4] = filled[-1, 4]
    filled[0, :, 24:] = filled[0, :, 23:24]
    raw = crop(sample(filled), FieldOfView(share=1.0), PATCH)
    expected = (raw - np.array(mean)[:, None, None]) / np.array(deviation)[:, None, None]
    np.testing.assert_allclose(every(prepared)[0], expected, atol=1e-4)
    np.testing.assert_allclose(prepared.thumbnails()[0], thumbnail(filled), atol=1e-6)


def test_an_image_of_padding_alone_is_unusable(tmp_path: Path) -> None:
    masked = np.ma.MaskedArray(noise(1, 2, 8, 8), mask=False)
    masked[1] = np.ma.masked
    cases = [sample(noise(2, 2, 8, 8)), sample(lambda: masked, key="padded")]
    prepared = prepare(adapter(cases), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c")
    (excluded,) = prepared.index.excluded
    assert excluded.reason == "every pixel is padding, in some channel"


def test_what_gives_no_image_is_excluded_with_its_reason(tmp_path: Path) -> None:
    half_flat = np.stack([noise(1, 8, 8), np.full((8, 8), 2.0)])
    image = noise(2, 2, 8, 8)
    good = sample(
        image, key="good", label=None, group="g", split="val", facts={"mode": "L", "dose": 3}
    )
    counted: list[int] = []
    prepared = prepare(
        adapter(
            [good, Unusable(key="lost", reason="no such series"), sample(half_flat, key="flat")]
        ),
        tmp_path,
        options={},
        patch=PATCH,
        cache=tmp_path / "c",
        on_case=counted.append,
    )
    assert [case.model_dump() for case in prepared.index.cases] == [
        {
            "key": "good",
            "label": None,
            "patient": "p",
            "group": "g",
            "finding": "good",
            "split": "val",
            "subgroups": {},
            "facts": {**image_facts(LoadedSample(**vars(good))), "mode": "L", "dose": 3.0},
            "content": content_digest(image),
            "named": False,
        }
    ]
    assert [(case.key, case.reason) for case in prepared.index.excluded] == [
        ("lost", "no such series"),
        ("flat", "the image has no contrast"),
    ]
    assert counted == [1, 2, 3]
    pixels = image.reshape(2, -1).astype(np.float64)
    raw = crop(good, FieldOfView(share=1.0), PATCH)
    expected = (raw - pixels.mean(axis=1)[:, None, None]) / pixels.std(axis=1)[:, None, None]
    np.testing.assert_allclose(every(prepared)[0], expected, atol=1e-5)
    np.testing.assert_array_equal(prepared.thumbnails(), thumbnail(image)[np.newaxis])
    np.testing.assert_array_equal(prepared.textures([0]), texture(image)[np.newaxis])


def test_facts_that_are_not_known_are_left_out(tmp_path: Path) -> None:
    case = sample(noise(1, 1, 8, 9), facts={"dose": float("nan"), "echo time": 2, "width": 90.5})
    prepared = prepare(adapter([case]), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c")
    facts = prepared.index.cases[0].facts
    assert "dose" not in facts
    assert facts["echo time"] == 2.0
    assert facts["width"] == 90.5  # the file's own word counts more
    assert facts["size"] == "9 x 8"


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
    assert not list((tmp_path / "c").rglob("index-*"))


def test_images_of_other_channels_are_refused(tmp_path: Path) -> None:
    cases = [sample(noise(1, n, 8, 8), key=str(n)) for n in (2, 1)]
    with pytest.raises(DataError, match="case '1' has 1 channels where the ones before had 2"):
        prepare(adapter(cases), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c")


# The cache


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "thing", tmp_path / "cache")


def test_prepared_data_is_found_again(files: Files) -> None:
    first = files.prepare()
    again = files.prepare()
    given = files.prepare(options={"depth": "1"})  # the default, told
    assert files.readings == 1
    assert sorted(files.loads) == ["0", "1", "2"]
    for other in (again, given):
        assert other.index == first.index
        assert told(other) == told(first)
    assert files.cache is not None
    assert list(files.cache.iterdir()) == [first.folder]


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"depth": 2}},
        {"version": "2"},
        {"classes": ("no", "maybe")},
        {"task": "multilabel"},
        {"field_of_view": FieldOfView(share=0.5)},
        {"patch": PATCH + 2},
        {"name": "other"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_prepared_data_is_made_anew_when_the_adapter_changes(
    changes: dict[str, Any], files: Files
) -> None:
    if "task" in changes:
        files.changes = {"label": None}
    files.prepare()
    files.prepare(**changes)
    assert files.readings == 2
    assert len(files.loads) == 6
    files.prepare(**changes)
    files.prepare()
    assert files.readings == 2


def test_equal_data_elsewhere_has_an_equal_digest(files: Files, tmp_path: Path) -> None:
    here = files.prepare()
    copied = tmp_path / "copied"
    shutil.copytree(files.root, copied, copy_function=shutil.copyfile)
    there = files.prepare(copied)
    assert files.readings == 2
    assert told(there) == told(here)
    assert there.folder != here.folder
    assert len(here.index.content) == 64


@pytest.mark.parametrize(
    "changes",
    [{"label": 1}, {"patient": "q"}, {"group": "g"}, {"split": "test"}],
    ids=lambda changes: next(iter(changes)),
)
def test_the_digest_tells_cases_apart(
    changes: dict[str, Any], files: Files, tmp_path: Path
) -> None:
    before = files.prepare()
    files.changes, files.cache = changes, tmp_path / "other"
    after = files.prepare()
    assert after.index.content != before.index.content


@pytest.mark.parametrize("position", [(0, 0), (6, 7)], ids=["beyond the crop", "within it"])
def test_the_digest_tells_pixels_apart(
    position: tuple[int, int], files: Files, tmp_path: Path
) -> None:
    view = FieldOfView(share=0.1)
    before = files.prepare(field_of_view=view)
    image = noise(1, 12, 14)
    image[position] += 1e-3
    np.save(files.root / "1.npy", image)
    files.cache = tmp_path / "other"
    assert files.prepare(field_of_view=view).index.content != before.index.content


@pytest.mark.parametrize("error", [DataError("no"), RuntimeError("bug"), KeyboardInterrupt()])
def test_a_failed_reading_is_no_prepared_data(error: BaseException, tmp_path: Path) -> None:
    files = Files(tmp_path / "many", tmp_path / "cache", count=20)

    def read(root: Path, options: Any) -> Iterator[Sample]:
        yield from files.read(root, options)
        raise error

    with pytest.raises(type(error)):
        files.prepare(read=read, threads=1)
    assert files.cache is not None
    assert not list(files.cache.rglob("index-*"))
    whole = Files(files.root, tmp_path / "other").prepare()
    assert told(files.prepare()) == told(whole)
    assert 20 <= len(files.loads) <= 20 + IN_FLIGHT  # what was kept is not read again


def _file(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def _cut(folder: Path, pattern: str) -> None:
    path = _file(folder, pattern)
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: _cut(folder, "crops-*"),
        lambda folder: _cut(folder, "thumbnails-*"),
        lambda folder: _cut(folder, "textures-*"),
        lambda folder: _file(folder, "crops-*").unlink(),
        lambda folder: _file(folder, "thumbnails-*").unlink(),
        lambda folder: _file(folder, "textures-*").unlink(),
        lambda folder: _file(folder, "index-*").write_text("{}"),
        lambda folder: _file(folder, "index-*").write_text("{"),
        lambda folder: _file(folder, "index-*").write_bytes(b"\xff\xfe"),
    ],
    ids=[
        *("cut crops", "cut thumbnails", "cut textures"),
        *("no crops", "no thumbnails", "no textures"),
        *("empty index", "cut index", "no text"),
    ],
)
@pytest.mark.parametrize("stale", [False, True], ids=["same files", "changed files"])
def test_a_broken_cache_says_what_to_delete(
    harm: Callable[[Path], Any], stale: bool, files: Files
) -> None:
    folder = files.prepare().folder
    harm(folder)
    if stale:
        files.write("1", 77, mtime=1)
    if stale and list(folder.glob("index-*")) and _is_whole(folder):
        assert len(files.prepare().index.cases) == 3  # the index was of no use any more
        return
    with pytest.raises(DataError) as caught:
        files.prepare()
    message = str(caught.value)
    assert message.startswith(f"{folder}: prepared data cannot be read (")
    assert message.endswith("): delete this folder to prepare it again")
    assert "\n" not in message
    assert files.cache is not None
    assert list(files.cache.iterdir()) == [folder]
    shutil.rmtree(folder)
    assert len(files.prepare().index.cases) == 3


def _is_whole(folder: Path) -> bool:
    rows = [*sorted(folder.glob("*.f32")), *folder.glob("*.i8")]
    sizes = [path.stat().st_size for path in rows]
    return sizes == [3 * SIDE * SIDE * 4, 3 * 576 * 4, 3 * 128 * 128]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", '{"files": [{"path": "0.npy"}]}'),
        ("manifest.json", "[]"),
        ("journal-0.jsonl", "{}\n"),
    ],
)
def test_a_broken_journal_or_manifest_says_what_to_delete(
    name: str, content: str, files: Files
) -> None:
    folder = files.prepare().folder
    assert (folder / name).is_file()
    (folder / name).write_text(content)
    assert len(files.prepare().index.cases) == 3  # not needed while nothing changes
    files.write("1", 77, mtime=1)
    with pytest.raises(DataError) as caught:
        files.prepare()
    assert str(caught.value).startswith(f"{folder}: prepared data cannot be read ({name}")
    assert "\n" not in str(caught.value)


def test_a_lost_index_or_journal_is_made_again(files: Files) -> None:
    before = files.prepare()
    _file(before.folder, "index-*").unlink()
    assert told(files.prepare()) == told(before)
    assert len(files.loads) == 3
    _file(before.folder, "index-*").unlink()
    _file(before.folder, "journal-*").unlink()
    after = files.prepare()
    assert told(after) == told(before)
    assert len(files.loads) == 6
    assert after.index.number != before.index.number  # an open file is not written over


def test_an_unusable_cache_is_named(files: Files) -> None:
    assert files.cache is not None
    files.cache.write_text("in the way")
    with pytest.raises(DataError) as caught:
        files.prepare()
    assert str(caught.value).startswith(f"{files.cache}: prepared data cannot be stored (")
    assert "`--cache` or $HYDRAKIT_CACHE" in str(caught.value)
    assert files.readings == 0


def test_prepared_data_is_read_without_the_right_to_write(files: Files) -> None:
    prepared = files.prepare()
    (prepared.folder / ".lock").unlink()  # to open it would make it again
    prepared.folder.chmod(0o555)
    try:
        assert told(files.prepare()) == told(prepared)
    finally:
        prepared.folder.chmod(0o755)
    assert not (prepared.folder / ".lock").exists()


def test_a_missing_folder_says_how_to_get_the_data(files: Files, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"thing: no folder .*none.*Make them\."):
        files.prepare(tmp_path / "none")
    assert files.cache is not None
    assert not files.cache.exists()


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Files
) -> None:
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    files.cache = None
    files.prepare()
    assert len(list((tmp_path / "mine").iterdir())) == 1
    monkeypatch.delenv("HYDRAKIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hydrakit"
    assert os.environ["HOME"] == str(tmp_path)


@pytest.mark.shared
def test_the_real_brain_images(shared_data: Path, tmp_path: Path) -> None:
    brain = load_plugins().get(DatasetAdapter, "brain")
    first, again = (
        prepare(brain, shared_data / "brain", options={}, patch=PATCH, cache=tmp_path / "c")
        for _ in range(2)
    )
    assert told(again) == told(first)
    assert Counter(case.label for case in first.index.cases) == {0: 98, 1: 155}
    assert first.index.excluded == ()
    patches = every(first)
    samples = {case.key: case for case in read_samples(brain, shared_data / "brain", {})}
    for row, case in enumerate(first.index.cases):
        image = samples[case.key].image.astype(np.float64)
        raw = crop(samples[case.key], brain.field_of_view, PATCH)
        expected = (raw - image.mean()) / image.std()
        np.testing.assert_allclose(patches[row], expected, atol=1e-4)
