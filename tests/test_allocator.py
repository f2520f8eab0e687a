"""Large blocks stay in the process, and large tensors get large pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hydrakit.compute import devices as allocator

# Page faults of writing to 64 MB, ten times, each time in newly allocated memory.
_SCRIPT = """
import ctypes, resource, sys
from hydrakit.compute.devices import keep_large_blocks

if sys.argv[1] == "keep":
    print(keep_large_blocks())
else:
    print(None)
size = 64 * 2**20
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = ctypes.create_string_buffer(size)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
import torch
tensor = torch.ones(2**23)
with open("/proc/self/smaps") as maps:
    print(any(line.startswith("VmFlags:") and " hg" in line for line in maps))
"""


def faults(how: str) -> tuple[str, int, str]:
    found = subprocess.run(
        [sys.executable, "-c", _SCRIPT, how], check=True, capture_output=True, text=True
    ).stdout.split()
    return found[0], int(found[1]), found[2]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is on Linux")
def test_pages_are_got_once_and_not_in_every_step() -> None:
    kept, few, large_pages = faults("keep")
    if Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        assert large_pages == "True"  # asked for; the system gives them if it is set so
    if kept == "False":
        pytest.skip("the C library is not glibc")
    _, many, _ = faults("leave")
    assert few < many / 3


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_large_blocks() is False
