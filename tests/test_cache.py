"""``hydrakit cache``: what the cache holds, and what is removed of it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from hydrakit.cli import main
from hydrakit.data.dicom.cache import HeaderCache
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.prepared.prepare import already_prepared, prepare
from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter, FieldOfView, Sample
from hydrakit.maintenance.cache import CacheRemoval, clean_cache, list_cache
from hydrakit.storage.lock import is_read
from hydrakit.storage.paths import using_cache

DAY = 86_400


def read(root: Path, _: object) -> Iterator[Sample]:
    for number in range(2):
        image = np.random.default_rng(number).normal(size=(1, 40, 40)).astype(np.float32)
        yield Sample(key=f"{number}", label=number, patient=f"p{number}", image=image)


def prepared(name: str, root: Path, cache: Path) -> PreparedDataset:
    root.mkdir(exist_ok=True)
    adapter = DatasetAdapter(
        name=name,
        summary="two random images",
        classes=("no", "yes"),
        field_of_view=FieldOfView(share=1.0),
        read=read,
        version="1",
        layout="none",
        how_to_get="they are made here",
        citation="none",
        licence="none",
    )
    prepare(adapter, root, options={}, patch=32, cache=cache)
    with using_cache(cache):
        again = already_prepared(adapter, root, options={}, patch=32)
    assert again is not None
    return again


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with the prepared data of two datasets, the headers of one, and some small files."""
    folder = tmp_path / "cache"
    prepared("alpha", tmp_path / "alpha", folder)
    prepared("beta", tmp_path / "beta", folder)
    with using_cache(folder), HeaderCache(tmp_path / "beta"), HeaderCache(tmp_path / "nowhere"):
        pass
    (folder / "copies-0123456789abcdef.json").write_text("[]")
    (folder / "log.txt").write_text("a traceback")
    return folder


def removed(
    cache: Path, *names: str, days: float | None = None, everything: bool = False
) -> set[str]:
    found = clean_cache(cache, names, days=days, everything=everything, confirm=lambda _: True)
    assert not found.in_use
    return {f"{item.kind} {item.dataset}" for item in found.removed}


def call(cache: Path, *arguments: str, status: int = 0, answer: str | None = None) -> Result:
    words = ["cache", *arguments, "--cache", str(cache)]
    result = CliRunner().invoke(main, words, input=answer)
    assert result.exit_code == status, result.output
    return result


def test_the_list_names_datasets_and_whether_their_images_exist(
    cache: Path, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "alpha")
    content = json.loads(call(cache, "list", "--json").stdout)
    items = {(item["kind"], item["dataset"], item["source_exists"]) for item in content["items"]}
    assert items == {
        ("prepared data", "alpha", False),
        ("prepared data", "beta", True),
        ("DICOM headers", "beta", True),
        ("DICOM headers", None, None),
        ("copies of images", None, None),
        ("log", None, None),
    }
    sizes = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert sum(item["size"] for item in content["items"]) == sizes
    printed = call(cache, "list").stdout
    assert f"{tmp_path / 'alpha'} (gone)" in printed
    assert "`hydrakit cache clean` removes them" in printed


def test_by_default_only_data_of_images_that_are_gone_is_removed(
    cache: Path, tmp_path: Path
) -> None:
    assert call(cache, "clean").stdout == "nothing was removed\n"
    shutil.rmtree(tmp_path / "beta")
    assert "Aborted" in call(cache, "clean", status=1).output
    assert len(list_cache(cache).items) == 6
    done = call(cache, "clean", answer="y\n").stdout
    assert "Remove 2 items" in done
    assert f"removed from {cache}" in done
    assert {item.dataset for item in list_cache(cache).items} == {"alpha", None}


def test_a_dataset_old_items_or_all_are_removed(cache: Path, tmp_path: Path) -> None:
    old = time.time() - 10 * DAY
    for path in (cache / "log.txt", *cache.glob("beta-*/*")):
        os.utime(path, (old, old))
    assert removed(cache, "alpha", days=5) == set()
    assert removed(cache, days=11) == set()
    assert removed(cache, days=9) == {"prepared data beta", "log None"}
    assert removed(cache, "alpha") == {"prepared data alpha"}
    prepared("alpha", tmp_path / "alpha", cache)  # it is prepared again
    assert len(removed(cache, everything=True)) == 3
    assert [path.name for path in cache.rglob("*")] == ["dicom"]
    with pytest.raises(PlanError, match="unknown dataset in the cache 'alpha'"):
        clean_cache(cache, ["alpha"], confirm=lambda _: True)
    assert "leave out NAME" in call(cache, "clean", "alpha", "--all", status=2).stderr


def test_data_that_was_used_is_young_again(cache: Path, tmp_path: Path) -> None:
    old = time.time() - 10 * DAY
    for path in cache.glob("*/*"):
        os.utime(path, (old, old))
    prepared("alpha", tmp_path / "alpha", cache)
    with using_cache(cache), HeaderCache(tmp_path / "nowhere"):
        pass
    assert removed(cache, days=9) == {"prepared data beta", "DICOM headers beta"}


def in_use(cache: Path) -> set[str]:
    found = clean_cache(cache, everything=True, confirm=lambda _: True)
    return {f"{item.kind} {item.dataset}" for item in found.in_use}


def test_what_a_process_uses_is_not_removed(cache: Path, tmp_path: Path) -> None:
    used = prepared("alpha", tmp_path / "alpha", cache)
    (beta,) = cache.glob("beta-*")
    (headers, other) = (cache / "dicom").iterdir()
    connection = sqlite3.connect(headers, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    lock = FileLock(beta / ".lock")
    with lock:
        assert len(in_use(cache)) == 3
    assert used.rows([0, 1]).shape == (2, 1, *used.rows([0]).shape[2:])
    assert not other.exists()
    connection.close()
    assert in_use(cache) == {"prepared data alpha"}
    note = call(cache, "clean", "alpha", "--yes").stderr
    assert "is used by a process, and stays" in note
    (crops,) = used.folder.glob("crops-*.f32")
    assert is_read(crops)
    del used
    assert not is_read(crops)
    assert in_use(cache) == set()
    (cache / "alpha-0123456789abcdef").mkdir()
    (cache / "alpha-0123456789abcdef" / ".lock.soft").touch()
    assert in_use(cache) == {"prepared data alpha"}


def test_what_was_used_since_it_was_listed_is_not_removed(cache: Path, tmp_path: Path) -> None:
    def confirm(_: object) -> bool:
        (cache / next(cache.glob("alpha-*")).name / "index-0.json").touch()
        (path,) = cache.glob("beta-*/source.json")
        os.utime(path, (1, 1))
        (path,) = cache.glob("alpha-*/source.json")
        os.utime(path, (1, 1))
        return True

    found = clean_cache(cache, ["alpha", "beta"], confirm=confirm)
    assert {item.dataset for item in found.in_use} == {"alpha", "beta"}


def test_files_that_are_not_of_hydrakit_and_links_stay(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "crops-0.f32").touch()
    others = [
        cache / "weights.bin",
        cache / "photos-0123456789abcdef" / "picture.png",
        cache / "nested-0123456789abcdef" / "manifest.json" / "x",
        cache / ".new.0123456789abcdef",  # which is being written
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (cache / "linked-0123456789abcdef").symlink_to(tmp_path / "photos")
    (cache / "inside-0123456789abcdef").mkdir()
    (cache / "inside-0123456789abcdef" / "crops-0.f32").symlink_to(tmp_path / "photos/crops-0.f32")
    assert list_cache(cache).others == 5
    removed(cache, everything=True)
    assert all(path.exists() for path in others)
    assert (tmp_path / "photos" / "crops-0.f32").exists()
    assert (cache / "linked-0123456789abcdef").is_symlink()


def test_litter_of_file_browsers_is_ignored_and_goes_with_its_folder(cache: Path) -> None:
    items = list_cache(cache)
    (alpha,) = cache.glob("alpha-*")
    (beta,) = cache.glob("beta-*")
    for folder in (cache, cache / "dicom", alpha):
        (folder / ".DS_Store").write_bytes(b"litter")
    (beta / "Thumbs.db").write_bytes(b"litter")
    assert list_cache(cache) == items
    (beta / "photo.png").touch()  # any other file keeps a folder
    call(cache, "clean", "--all", "--yes")
    assert not alpha.exists()
    assert (beta / "Thumbs.db").exists()
    (beta / "photo.png").unlink()
    call(cache, "clean", "--all", "--yes")
    assert not beta.exists()
    assert list_cache(cache).others == 0  # a cache with litter alone is an empty one


def test_what_killed_processes_left_is_removed(cache: Path) -> None:
    for name in (".alpha-0123456789abcdef.0123456789abcdef", ".copies.json.0123456789abcdef"):
        path = cache / name
        path.mkdir() if name.startswith(".alpha") else path.touch()
        os.utime(path, (1, 1))
    assert removed(cache) == {"left behind None"}
    assert list_cache(cache).others == 0


@pytest.mark.parametrize("name", ["photo.png", "log.txt"])
def test_another_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.md").touch()
    (tmp_path / name).touch()
    for arguments in (["list"], ["clean", "--all", "--yes"]):
        assert "give the cache folder with `--cache`" in call(tmp_path, *arguments, status=1).stderr
    assert "cannot be listed" in call(tmp_path / "notes.md", "list", status=1).stderr


def test_an_absent_cache_holds_nothing(tmp_path: Path) -> None:
    assert list_cache(tmp_path / "none").items == ()
    assert call(tmp_path / "none", "list").stdout.endswith("none: 0 bytes in 0 items\n")
    assert removed(tmp_path / "none", everything=True) == set()
    assert CacheRemoval().removed == ()
