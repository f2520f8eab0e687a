"""What is prepared anew when files change, and that neither threads nor timing decide anything."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from preparing import PATCH, Files, adapter, every, noise, sample, told

from hydrakit.data.prepared.manifest import Manifest
from hydrakit.data.prepared.prepare import IN_FLIGHT, INDEX_FORMAT, prepare
from hydrakit.errors import DataError
from hydrakit.hooks import Sample


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "thing", tmp_path / "cache", count=5)


def prepared_at_once(files: Files, tmp_path: Path) -> dict[str, object]:
    """What the files give when they are prepared for the first time."""
    whole = Files(files.root, tmp_path / "at once", count=0)
    whole.changes = files.changes
    try:
        return told(whole.prepare())
    finally:
        shutil.rmtree(tmp_path / "at once")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_a_second_start_lists_the_files_and_opens_none(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = files.prepare()
    opened: list[str] = []
    for name in ("open", "read_bytes", "read_text"):
        method = getattr(Path, name)

        def noted(path: Path, *given: object, method=method, **named: object) -> object:
            opened.append(path.name)
            return method(path, *given, **named)

        monkeypatch.setattr(Path, name, noted)
    os_open = os.open

    def noted_too(path: str | Path, *given: Any, **named: Any) -> int:
        opened.append(Path(path).name)
        return os_open(path, *given, **named)

    monkeypatch.setattr(os, "open", noted_too)
    files.prepare()
    assert files.readings == 1
    data = [each for kind in ("index-*", "*.f32", "*.i8") for each in first.folder.glob(kind)]
    assert set(opened) == {path.name for path in data}


def test_only_a_changed_file_is_read_again(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = files.prepare()
    files.loads.clear()
    files.write("1", 77, mtime=1)
    after = files.prepare()
    assert files.loads == ["1"]
    assert messages(caplog) == ["thing: 1 file changed since it was prepared: 1.npy"]
    assert after.index.content != before.index.content
    np.testing.assert_array_equal(after.rows([0, 2, 3, 4]), before.rows([0, 2, 3, 4]))
    assert told(after) == prepared_at_once(files, tmp_path)
    files.prepare()
    assert files.loads == ["1"]
    assert messages(caplog) == []


def test_many_changed_files_are_counted(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.prepare()
    for number in range(5):
        files.write(str(number), number + 50, mtime=1)
    files.prepare()
    assert messages(caplog) == [
        "thing: 5 files changed since they were prepared: 0.npy, 1.npy, 2.npy, and 2 more"
    ]


def test_a_file_that_was_only_touched_is_not_read_again(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    before = files.prepare()
    os.utime(files.root / "1.npy", ns=(10**18 + 5, 10**18 + 5))
    after = files.prepare()
    assert files.readings == 2
    assert len(files.loads) == 5
    assert told(after) == told(before)
    assert messages(caplog) == []


def test_a_file_of_equal_size_and_time_is_noticed(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = files.prepare()
    path = files.root / "1.npy"
    status = path.stat()
    files.write("1", 77, mtime=status.st_mtime_ns - 10**18)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = files.prepare()
    assert messages(caplog) == ["thing: 1 file changed since it was prepared: 1.npy"]
    assert after.index.content != before.index.content
    assert told(after) == prepared_at_once(files, tmp_path)
    other = tmp_path / "other.npy"  # put in its place by a rename, as a download does
    np.save(other, noise(78, 12, 14))
    os.utime(other, ns=(status.st_mtime_ns, status.st_mtime_ns))
    other.replace(path)
    assert files.prepare().index.content not in (before.index.content, after.index.content)


def test_files_that_were_copied_or_linked_are_hashed_and_not_read_again(files: Files) -> None:
    before = files.prepare()
    for path in list(files.root.glob("*.npy")):
        copy = path.with_suffix(".copy")
        shutil.copy2(path, copy)
        copy.replace(path)
    os.link(files.root / "1.npy", files.root.parent / "link")
    files.loads.clear()
    assert told(files.prepare()) == told(before)
    assert files.loads == []


def test_a_manifest_of_an_older_version_costs_only_a_hash(files: Files) -> None:
    before = files.prepare()
    path = before.folder / "manifest.json"
    entries = json.loads(path.read_text())["files"]
    old = [{"path": e["path"], "size": 1, "mtime_ns": 2, "sha256": e["sha256"]} for e in entries]
    path.write_text(json.dumps({"files": old}))
    next(before.folder.glob("index-*")).unlink()
    files.loads.clear()
    assert told(files.prepare()) == told(before)
    assert files.loads == []


def test_fresh_reads_everything_again(files: Files) -> None:
    first = files.prepare()
    assert first.reused_since is None
    before = told(first)
    again = files.prepare()
    assert again.reused_since == next(again.folder.glob("index-*")).stat().st_mtime
    files.loads.clear()
    files.changes = {"label": 1}  # as after an edit of the plugin's code, without a new version
    assert told(files.prepare()) == before
    assert files.loads == []
    fresh = files.prepare(fresh=True)
    assert sorted(files.loads) == ["0", "1", "2", "3", "4"]
    assert fresh.reused_since is None
    assert {case.label for case in fresh.index.cases} == {1}
    assert told(first) == before  # who has the old rows open reads them still
    assert told(files.prepare()) == told(fresh)


def test_an_index_of_an_older_version_is_made_anew_without_reading_an_image(files: Files) -> None:
    whole = files.prepare()
    (path,) = whole.folder.glob("index-*.json")
    content = json.loads(path.read_text())
    del content["images"]
    content["format"] -= 1
    path.unlink()
    now, before = f"index-{INDEX_FORMAT}-", f"index-{INDEX_FORMAT - 1}-"
    path.with_name(path.name.replace(now, before)).write_text(json.dumps(content))
    files.loads.clear()
    again = files.prepare()
    assert files.loads == []
    assert told(again) == told(whole)
    assert again.index == whole.index
    assert [each.name for each in whole.folder.glob("index-*.json")] == [path.name]


def test_rows_that_are_cut_off_while_they_are_read_are_one_line(files: Files) -> None:
    prepared = files.prepare()
    crops = next(prepared.folder.glob("crops-*"))
    os.truncate(crops, crops.stat().st_size - 1)
    prepared.rows([0, 1, 2, 3])
    with pytest.raises(DataError) as error:
        prepared.rows([4])
    assert str(error.value).startswith(f"{crops}: prepared data cannot be read (it has become")
    assert "\n" not in str(error.value)


def test_new_files_are_added_and_lost_ones_left_out(files: Files, tmp_path: Path) -> None:
    files.prepare()
    (files.root / "deeper").mkdir()
    np.save(files.root / "deeper" / "9.npy", noise(9, 12, 14))
    assert len(files.prepare().index.cases) == 6
    assert files.loads[5:] == ["9"]
    (files.root / "1.npy").unlink()
    after = files.prepare()
    assert [case.key for case in after.index.cases] == ["0", "2", "3", "4", "9"]
    assert len(files.loads) == 6
    assert told(after) == prepared_at_once(files, tmp_path)
    files.write("1", 1)
    files.prepare()
    assert len(files.loads) == 6  # its row was still there


def test_another_label_needs_no_image(files: Files, tmp_path: Path) -> None:
    before = files.prepare()
    files.changes = {"label": 1, "patient": "all"}
    (files.root / "labels.csv").write_text("changed")
    after = files.prepare()
    assert len(files.loads) == 5
    assert {case.label for case in after.index.cases} == {1}
    assert not np.array_equal(every(after), every(before))  # z-scored as one patient
    assert told(after) == prepared_at_once(files, tmp_path)


@pytest.mark.parametrize("changes", [{"centre": (3.0, 4.0)}, {"spacing": (0.5, 0.5)}])
def test_another_centre_or_spacing_needs_the_images(
    changes: dict[str, tuple[float, float]], files: Files, tmp_path: Path
) -> None:
    files.prepare()
    files.changes = changes
    (files.root / "positions.csv").write_text("changed")
    after = files.prepare()
    assert len(files.loads) == 10
    assert told(after) == prepared_at_once(files, tmp_path)


def test_cases_that_name_no_file_are_always_read(files: Files, tmp_path: Path) -> None:
    files.changes = {"source": ()}
    for reading in range(1, 6):
        (files.root / "notes.txt").write_text("x" * reading)
        prepared = files.prepare()
        assert len(files.loads) == 5 * reading
        assert told(prepared) == prepared_at_once(files, tmp_path)
        assert (prepared.folder / f"crops-{prepared.index.number}.f32").stat().st_size <= (
            10 * every(prepared)[0].nbytes
        )


def test_one_file_of_many_cases_is_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    look = Manifest._current
    monkeypatch.setattr(
        Manifest, "_current", lambda self, path, name: looks.append(name) or look(self, path, name)
    )
    path = tmp_path / "all.npy"
    np.save(path, noise(1, 40, 8, 9))

    def read(root: Path, options: Any) -> Iterator[Sample]:
        for number in range(40):
            yield sample(
                partial(lambda row: np.load(path)[row], number), key=str(number), source=(path,)
            )

    prepared = prepare(
        adapter(read), tmp_path, options={}, patch=PATCH, cache=tmp_path / "c", threads=8
    )
    assert len(prepared.index.cases) == 40
    assert looks == ["all.npy"]


def test_a_broken_image_is_told_and_tried_again_once_it_is_whole(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = files.root / "1.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    half = files.prepare()
    assert [(case.key, case.reason) for case in half.index.excluded] == [
        ("1", "is not a whole .npy file")
    ]
    assert messages(caplog) == [f"thing: left out: is not a whole .npy file ({path})"]
    files.loads.clear()
    path.write_bytes(whole)
    mended = files.prepare()
    assert files.loads == ["1"]
    assert messages(caplog) == ["thing: 1 file changed since it was prepared: 1.npy"]
    assert len(mended.index.cases) == 5
    assert told(mended) == prepared_at_once(files, tmp_path)


def test_a_file_that_cannot_be_opened_is_told(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    (files.root / "1.npy").unlink()
    (files.root / "1.npy").symlink_to(files.root / "gone.npy")
    prepared = files.prepare()
    reason = "its file cannot be opened (No such file or directory)"
    assert [(case.key, case.reason) for case in prepared.index.excluded] == [("1", reason)]
    assert messages(caplog) == [f"thing: left out: {reason} ({files.root / '1.npy'})"]
    files.prepare()
    assert files.readings == 1


def test_a_file_that_grows_meanwhile_is_an_error(files: Files) -> None:
    path = files.root / "1.npy"

    def read(root: Path, options: Any) -> Iterator[Sample]:
        def load() -> NDArray[np.float32]:
            image = files.load(path)
            with path.open("ab") as file:
                file.write(b"more")
            return image

        yield sample(load, source=(path,))

    with pytest.raises(DataError) as caught:
        files.prepare(read=read)
    assert str(caught.value) == (
        f"{path}: changed while it was prepared: wait until it is complete, then run again"
    )


def test_files_behind_a_link_are_watched_too(files: Files, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (files.root / "linked").symlink_to(elsewhere, target_is_directory=True)
    files.prepare()
    np.save(elsewhere / "8.npy", noise(3, 12, 14))
    files.prepare()
    assert files.readings == 2


def test_folders_elsewhere_are_watched_too(files: Files, tmp_path: Path) -> None:
    root = tmp_path / "declared"
    root.mkdir()

    def read(_: Path, options: Any) -> Iterator[Sample]:
        yield from files.read(files.root, options)

    def prepared() -> int:
        return len(files.prepare(root, read=read, elsewhere=(files.root,)).index.cases)

    assert prepared() == 5
    files.write("6", 6)
    assert prepared() == 6
    assert prepared() == 6
    assert files.readings == 2


def test_a_link_that_leads_nowhere_does_no_harm(files: Files) -> None:
    (files.root / "notes.txt").symlink_to(files.root / "gone.txt")
    assert len(files.prepare().index.cases) == 5
    files.prepare()
    assert files.readings == 1


def test_a_cache_inside_the_dataset_is_not_part_of_it(files: Files) -> None:
    files.cache = files.root / "cache"
    files.prepare()
    files.prepare()
    assert files.readings == 1


# Rows that are used no more


def test_writing_to_what_was_read_leaves_the_files_alone(files: Files) -> None:
    prepared = files.prepare()
    before = told(prepared)
    prepared.rows([0])[...] = 0
    prepared.thumbnails()[...] = 0
    assert told(prepared) == before
    prepared.stored([0])[...] = 0
    assert told(prepared) == before


def test_old_rows_go_when_they_are_the_larger_part(files: Files, tmp_path: Path) -> None:
    first = files.prepare()
    before = told(first)
    row = every(first)[0].nbytes
    for change in range(1, 8):
        files.write(str(change % 5), 100 + change, mtime=change)
        prepared = files.prepare()
        rows = sum(path.stat().st_size for path in prepared.folder.glob("crops-*")) // row
        assert 5 <= rows <= 10
        assert told(prepared) == prepared_at_once(files, tmp_path)
        names = sorted(path.name.split("-")[0] for path in prepared.folder.glob("*-*"))
        assert names == ["crops", "index", "journal", "textures", "thumbnails"]
    assert prepared.index.number == 1
    assert len(files.loads) == 5 + 7
    assert told(first) == before  # who has the old file open sees what was there


def test_images_of_other_channels_begin_a_new_file(files: Files, tmp_path: Path) -> None:
    first = files.prepare()
    before = told(first)
    for number in range(5):
        np.save(files.root / f"{number}.npy", noise(number, 3, 12, 14))
    after = files.prepare()
    assert after.index.channels == 3
    assert told(after) == prepared_at_once(files, tmp_path)
    assert told(first) == before


# Threads


def test_neither_threads_nor_timing_change_anything(tmp_path: Path) -> None:
    random.seed(1)
    found = []
    for threads in (1, 2, 7):
        files = Files(tmp_path / "thing", tmp_path / f"cache-{threads}", count=30)
        files.slow = {str(number): random.random() / 100 for number in range(30)}
        counted: list[int] = []
        prepared = files.prepare(threads=threads, on_case=counted.append)
        assert counted == list(range(1, 31))
        rows = [path.read_bytes() for path in sorted(prepared.folder.glob("*-0.*"))]
        found.append((prepared.index, rows))
    assert found[0] == found[1] == found[2]


def test_a_few_images_are_in_memory_at_once(tmp_path: Path) -> None:
    files = Files(tmp_path / "thing", tmp_path / "cache", count=60)
    ahead: list[int] = []

    def on_case(done: int) -> None:
        time.sleep(0.002)  # whoever writes is slower than those who read
        with files.lock:
            ahead.append(len(files.loads) - done)

    files.prepare(threads=3, on_case=on_case)
    assert len(ahead) == 60
    assert max(ahead) <= 3 * IN_FLIGHT


def test_images_are_read_at_the_same_time(tmp_path: Path) -> None:
    files = Files(tmp_path / "thing", tmp_path / "cache", count=4)
    reading = [0]
    most = [0]
    load = files.load

    def noted(path: Path) -> NDArray[np.float32]:
        with files.lock:
            reading[0] += 1
            most[0] = max(most)
            most.append(reading[0])
        image = load(path)
        with files.lock:
            reading[0] -= 1
        return image

    files.load = noted  # type: ignore[method-assign]
    files.slow = {"": 0.2}
    files.prepare(threads=4)
    assert max(most) >= 2
