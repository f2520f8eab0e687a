"""Fixtures for the tests of the engine and of the shipped plugins."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: tests run several at a time, on small data, and the figures that some of
# them hold differ in the last digits with the number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # no thread computes while it waits

# A shell without job control starts background jobs with SIGINT ignored, and so do their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Nothing is waited for until it is on the disk: a run writes more than a hundred files.

    No test loses power. Those of what is synced, and when, replace `os.fsync` themselves; processes
    that tests start have their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which refuses a closed file as well
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the user's cache."""
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, which lies outside the project; the test is skipped without it."""
    root = Path(os.environ.get("HYDRAKIT_SHARED") or Path(__file__).parent.parent / "shared")
    folder = root / "data" if (root / "data").is_dir() else root
    if not (folder / "prostatex").is_dir():
        pytest.skip(f"no real data at {folder} (set HYDRAKIT_SHARED)")
    return folder
