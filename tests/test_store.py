from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrakit.data.prepared import store as store_module
from hydrakit.data.prepared.crop import Statistics
from hydrakit.data.prepared.store import THUMBNAIL, NewEntry, Store, open_rows
from hydrakit.data.quality.duplicates import TEXTURE

SIDE = 4


@pytest.fixture(autouse=True, scope="module")
def _commit_when_told() -> Iterator[None]:
    """Rows are made safe by `commit` alone, however slow the machine is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store_module, "COMMIT_SECONDS", 1e9)
        yield


def made(number: int, *, channels: int = 1) -> NewEntry:
    random = np.random.default_rng(number)
    image = random.normal(size=(channels, SIDE, SIDE)).astype(np.float32)
    return NewEntry(
        signature=f"s{number}",
        crop=image,
        thumbnail=random.normal(size=THUMBNAIL).astype(np.float32),
        texture=random.integers(-31, 32, (TEXTURE, TEXTURE)).astype(np.int8),
        statistics=Statistics.of(image),
        content=f"c{number}",
        facts={"width": 4.0, "size": "4 x 4"},
    )


def assert_holds(store: Store, numbers: list[int], *, channels: int = 1) -> None:
    """The rows and the entries are those of these images, in this order."""
    assert [entry.signature for entry in store.entries] == [f"s{number}" for number in numbers]
    assert [entry.row for entry in store.entries] == list(range(len(numbers)))
    if not numbers:
        return
    crops, thumbnails, textures = open_rows(
        store.folder, store.number, rows=len(numbers), channels=channels, side=SIDE
    )
    for row, number in enumerate(numbers):
        expected, entry = made(number, channels=channels), store.entries[row]
        np.testing.assert_array_equal(crops.read([row])[0], expected.crop)
        np.testing.assert_array_equal(thumbnails.read([row])[0], expected.thumbnail)
        np.testing.assert_array_equal(textures.read([row])[0], expected.texture)
        assert entry.crop == hashlib.sha256(expected.crop.tobytes()).hexdigest()
        statistics = entry.statistics
        assert statistics.count == SIDE * SIDE
        np.testing.assert_array_equal(statistics.mean, expected.statistics.mean)
        np.testing.assert_array_equal(statistics.squares, expected.statistics.squares)


def filled(folder: Path, count: int) -> None:
    with Store(folder, side=SIDE) as store:
        for number in range(count):
            store.append(made(number))


def journal(folder: Path) -> Path:
    return folder / "journal-0.jsonl"


def test_rows_and_entries_come_back(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with Store(tmp_path, side=SIDE) as store:
        assert_holds(store, [0, 1, 2])
        store.append(made(7))
    with Store(tmp_path, side=SIDE) as store:
        assert_holds(store, [0, 1, 2, 7])
        assert store.channels == 1
        assert store.entries[0].facts == {"width": 4.0, "size": "4 x 4"}


def test_rows_that_are_not_committed_do_not_count(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    lost = Store(tmp_path, side=SIDE)
    lost.append(made(8))
    lost.append(made(9))
    lost._close()  # as if the process were killed: nothing is committed
    with Store(tmp_path, side=SIDE) as store:
        assert_holds(store, [0, 1])
        store.append(made(5))
        store.commit()
        assert_holds(store, [0, 1, 5])


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_torn_last_line_is_ignored_and_its_row_written_over(tmp_path: Path, cut: int) -> None:
    filled(tmp_path, 3)
    content = journal(tmp_path).read_bytes()
    journal(tmp_path).write_bytes(content[:-cut])
    with Store(tmp_path, side=SIDE) as store:
        assert_holds(store, [0, 1])
        store.append(made(6))
    with Store(tmp_path, side=SIDE) as store:
        assert_holds(store, [0, 1, 6])


def test_a_journal_that_was_half_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_at, failing = store_module._write_at, [True]

    def torn(file: object, position: int, data: bytes) -> None:
        if data.startswith(b'{"row"') and failing:
            failing.clear()
            write_at(file, position, data[: len(data) // 2])  # type: ignore[arg-type]
            raise OSError(28, "No space left on device")
        write_at(file, position, data)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "_write_at", torn)
    store = Store(tmp_path, side=SIDE)
    for number in range(3):
        store.append(made(number))
    with pytest.raises(OSError, match="No space left"):
        store.commit()
    store.__exit__(None, None, None)
    with Store(tmp_path, side=SIDE) as again:
        assert_holds(again, [0, 1, 2])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"row":1', b'"row":2', "journal-0.jsonl: line 2 does not follow the one before"),
        (b'"row":1', b'"raw":1', "journal-0.jsonl: line 2 is broken"),
        (b'{"row":1', b"\0\0\0\0", "journal-0.jsonl: line 2 is broken"),
    ],
)
def test_a_broken_line_is_an_error(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    filled(tmp_path, 3)
    content = journal(tmp_path).read_bytes()
    assert content.count(old) == 1
    journal(tmp_path).write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match=said):
        Store(tmp_path, side=SIDE)


@pytest.mark.parametrize("name", ["crops-0.f32", "thumbnails-0.f32", "textures-0.i8"])
def test_missing_rows_are_an_error(tmp_path: Path, name: str) -> None:
    filled(tmp_path, 3)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1])
    with pytest.raises(ValueError, match=name):
        Store(tmp_path, side=SIDE)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        Store(tmp_path, side=SIDE)


def test_compacting_keeps_the_used_rows_and_leaves_the_open_ones(tmp_path: Path) -> None:
    filled(tmp_path, 5)
    with Store(tmp_path, side=SIDE) as store:
        opened = open_rows(tmp_path, 0, rows=5, channels=1, side=SIDE)
        before = [rows.read(range(5)) for rows in opened]
        used = [store.entries[row] for row in (4, 1)]
        moved = store.compact(used)
        assert [(entry.row, entry.signature) for entry in moved] == [(0, "s4"), (1, "s1")]
        assert_holds(store, [4, 1])
        store.append(made(9))
        store.commit()
        store.remove_other_numbers()
        for rows, expected in zip(opened, before, strict=True):
            np.testing.assert_array_equal(rows.read(range(5)), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("crops-1.f32", "journal-1.jsonl", "textures-1.i8", "thumbnails-1.f32")
    ]
    with Store(tmp_path, side=SIDE) as store:
        assert store.number == 1
        assert_holds(store, [4, 1, 9])


def test_rows_of_other_channels_begin_a_new_file(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    with Store(tmp_path, side=SIDE) as store:
        store.append(made(3, channels=2))
        store.append(made(4, channels=2))
        assert store.number == 1
    with Store(tmp_path, side=SIDE) as store:
        assert_holds(store, [3, 4], channels=2)
        assert not list(tmp_path.glob("*-0.*"))


def test_rows_without_a_journal_are_not_written_over(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    crops, *_ = open_rows(tmp_path, 0, rows=2, channels=1, side=SIDE)
    before = crops.read([0, 1])
    journal(tmp_path).unlink()
    with Store(tmp_path, side=SIDE) as store:
        assert (store.number, store.entries) == (1, [])
        store.append(made(8))
    np.testing.assert_array_equal(crops.read([0, 1]), before)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 99)),
        st.just(("commit", 0)),
        st.just(("kill", 0)),
        st.tuples(st.just("tear"), st.integers(1, 400)),
        st.tuples(st.just("compact"), st.integers(1, 3)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_happens_the_committed_rows_are_there(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(folder, side=SIDE)
        safe: list[int] = []  # what the journal holds
        held: list[int] = []
        for step, value in steps:
            if step == "append":
                store.append(made(value))
                held.append(value)
            elif step == "commit":
                store.commit()
                safe = list(held)
            elif step == "compact" and held:
                store.compact(store.entries[::value])
                safe = held = held[::value]
                held = list(held)
            elif step in ("kill", "tear"):
                store._close()
                path = folder / f"journal-{store.number}.jsonl"
                if step == "tear" and safe and path.exists():
                    content = path.read_bytes()
                    kept = content[:-value] if value < len(content) else b""
                    path.write_bytes(kept)
                    safe = safe[: kept.count(b"\n")]
                store = Store(folder, side=SIDE)
                held = list(safe)
                assert_holds(store, safe)
        store.__exit__(None, None, None)
        with Store(folder, side=SIDE) as again:
            assert_holds(again, held)
