"""Pipes, sockets, devices, deep folders, loops of links and odd names among the data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from declaring import BASE, BY_FOLDER, CSV, NPZ, declare, png, read, refused
from dicom_files import image, save
from helpers import plan_of, round_of

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.declared.guess import guess_declaration
from hydrakit.data.dicom import index_headers, read_header, walk
from hydrakit.data.prepared.manifest import Manifest, listing_digest
from hydrakit.data.read import read_samples
from hydrakit.errors import DataError, PlanError
from hydrakit.hooks import Sample, Unusable
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit_brain import hydrakit_dataset_adapters

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes as files")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")  # endless


def local_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name(f".{path.name}"))
    path.symlink_to(f".{path.name}")


odd_files = pytest.mark.parametrize("make", [pipe, device, local_socket, link_to_pipe])
Make = Callable[[Path], None]


@pytest.fixture(autouse=True)
def _no_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Fail, and do not wait for ever, where a pipe is opened."""

    def fail(number: int, frame: object) -> None:
        raise TimeoutError

    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path / "cache"))
    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@odd_files
def test_what_is_no_file_is_left_out_of_a_folder_with_a_warning(
    tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    save(image(), folder / "a.dcm")
    make(folder / "odd.dcm")
    assert [header.path for header in index_headers(folder)] == [folder / "a.dcm"]
    listing_digest(folder, [], ignore=tmp_path / "cache")
    warnings = [record.getMessage() for record in caplog.records if "odd.dcm" in record.message]
    assert f"{folder / 'odd.dcm'}: it is a pipe, a socket or a device: it is left out" in warnings
    assert len(warnings) == len(set(warnings))
    with pytest.raises(DataError, match=r"odd\.dcm: cannot be read: it is a pipe"):
        read_header(folder / "odd.dcm")
    with pytest.raises(OSError, match="it is a pipe"):
        Manifest(tmp_path, folder).digest(folder / "odd.dcm")


@odd_files
def test_an_image_that_is_no_file_is_unusable(tmp_path: Path, make: Make) -> None:
    folder = declare(tmp_path / "mine", BY_FOLDER)
    png(folder / "benign" / "P1" / "a.png")
    make(folder / "benign" / "P1" / "b.png")
    if make is device:  # it leads out of the root
        refused(folder, "leads out of this folder by a link")
        return
    good, odd = read(folder)
    assert isinstance(good, Sample)
    assert odd == Unusable(key="benign/P1/b.png", reason="its path is not a file")


@odd_files
def test_an_image_of_a_plugin_that_is_no_file_is_unusable(tmp_path: Path, make: Make) -> None:
    for name in ("yes", "no"):
        png(tmp_path / name / "a.png")
    make(tmp_path / "yes" / "b.png")
    (adapter,) = hydrakit_dataset_adapters()
    *_, odd = read_samples(adapter, tmp_path, {})
    reason = "cannot be opened (it is a pipe, a socket or a device)"
    assert odd == Unusable(key="yes/b.png", reason=reason)


@odd_files
def test_a_table_that_is_no_file_is_refused(tmp_path: Path, make: Make) -> None:
    (tmp_path / "files").mkdir()
    csv, npz = declare(tmp_path / "csv", CSV), declare(tmp_path / "npz", BASE + NPZ)
    make(csv / "cases.csv")
    make(tmp_path / "files" / "all.npz")
    words = ["leads out"] if make is device else ["cannot be read", "it is a pipe"]
    refused(csv, "cases.csv", *words)
    refused(npz, "all.npz", *words)
    (tmp_path / "toml").mkdir()
    make(tmp_path / "toml" / "dataset.toml")
    with pytest.raises(DataError, match=r"dataset\.toml: cannot be read: it is a pipe"):
        load_declared(tmp_path / "toml")


@odd_files
def test_a_draft_passes_over_what_is_no_file(tmp_path: Path, make: Make) -> None:
    for name in ("a", "b"):
        png(tmp_path / "png" / name / "1.png")
        make(tmp_path / "png" / name / "2.png")
    make(tmp_path / "png" / "table.csv")
    assert "Images that were read: 2" in guess_declaration(tmp_path / "png")
    (tmp_path / "npz").mkdir()
    make(tmp_path / "npz" / "all.npz")
    with pytest.raises(DataError, match="neither two or more folders"):
        guess_declaration(tmp_path / "npz")
    (tmp_path / "bare").mkdir()
    make(tmp_path / "bare" / "x")
    with pytest.raises(DataError, match="holds no image"):
        guess_declaration(tmp_path / "bare")


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A file below 1,200 folders; pytest could not remove them."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("x.png", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


def test_folders_a_thousand_deep(deep: Path) -> None:
    (found,) = walk(deep)
    assert found.name == "x.png"
    assert len(found.relative_to(deep).parts) == 1201
    with pytest.raises(DataError, match="has folders over 64 levels deep"):
        guess_declaration(deep)
    folder = declare(deep, BASE + 'pattern = "**/*.png"\n')
    refused(folder, "folders are over 64 levels deep")


def test_loops_of_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    png(tmp_path / "a" / "b" / "1.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "here").symlink_to(".")
    assert list(walk(tmp_path)) == [tmp_path / "a" / "b" / "1.png"]
    (tmp_path / "a" / "self").symlink_to("self")
    assert tmp_path / "a" / "self" in list(walk(tmp_path))  # as a broken link: it cannot be read
    with pytest.raises(DataError, match="self: cannot be read"):
        read_header(tmp_path / "a" / "self")


NAME = os.fsdecode(b"d\xffd")


def test_a_file_name_that_is_not_utf8_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", BY_FOLDER)
    for name in ("a", NAME):
        png(folder / "benign" / "P1" / f"{name}.png")
    refused(folder, "d\\udcffd.png", "holds control characters: rename the file")


def test_a_folder_that_is_not_utf8_is_refused_before_a_run(tmp_path: Path) -> None:
    odd = tmp_path / NAME
    odd.mkdir()
    for values in ({"data": odd}, {"roots": {"brain": odd}}, {"cache": odd}):
        with pytest.raises(PlanError, match="its name is not UTF-8: rename"):
            RunContext().changed(**values)
    with pytest.raises(PlanError, match="its name is not UTF-8: rename"):
        RunDir.check(odd / "run", plan_of(round_of("alpha")))


def test_a_dicom_file_in_a_folder_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    save(image(), tmp_path / "dicom" / NAME / "a.dcm")
    for _ in range(2):  # also from the cache of headers
        (header,) = index_headers(tmp_path / "dicom")
        assert header.path.parent.name == NAME
