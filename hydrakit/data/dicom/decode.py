"""Compressed pixels, decoded in a process of their own.

The decoders are C and C++ libraries, and a damaged file can bring down the process that they run
in (GDCM 3.2 ends it by an exception that nobody catches). So they run in one that may be lost: the
file is then told as damaged, and the next one gets a new process.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrakit.data.dicom.header import DicomFile, first_line, lenient

if TYPE_CHECKING:
    from numpy.typing import NDArray

SECONDS = 60.0  # a slice takes less than one


def decode(path: Path) -> NDArray[Any]:
    """The pixels of a file with compressed ones, as pydicom gives them.

    Raises:
        ValueError: They cannot be decoded; the message says why.
    """
    # Not one that a forked process has from its parent.
    return _decoder(os.getpid()).decode(path)


@cache
def _decoder(_: int) -> Decoder:
    return Decoder()


class Decoder:
    """A process that decodes files, one after another; it is started when it is needed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, path: Path) -> NDArray[Any]:
        """As the function `decode`."""
        with self._lock:
            if self._process is None:
                self._process = start_worker("hydrakit.data.dicom.decode")
                atexit.register(self._stop)
            watch = Timer(SECONDS, self._process.kill)
            watch.start()
            try:
                return self._ask(self._process, path)
            except (OSError, json.JSONDecodeError):
                self._stop()
                raise ValueError("the decoder broke down over it") from None
            finally:
                watch.cancel()

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], path: Path) -> NDArray[Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "error" in answer:
            raise ValueError(answer["error"])
        shape, dtype = answer["shape"], np.dtype(answer["dtype"])
        data = process.stdout.read(int(np.prod(shape)) * dtype.itemsize)
        if len(data) != np.prod(shape) * dtype.itemsize:
            raise OSError("cut off")
        return np.frombuffer(data, dtype).reshape(shape)


def start_worker(module: str) -> subprocess.Popen[bytes]:
    """A process that calls a module's ``serve``, and talks through pipes.

    Not `multiprocessing`: that would fork a process which may hold torch's threads, or import the
    user's own script once more. It ends when its standard input is closed.
    """
    home = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from {module} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": home},
    )


def serve() -> None:
    """What a decoder does: for each path, a line that describes the pixels, and the pixels."""
    from pydicom import dcmread

    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        try:
            with DicomFile(Path(json.loads(line))) as file, lenient():
                pixels = np.ascontiguousarray(dcmread(file).pixel_array)
        except Exception as error:
            # A damaged file can raise almost anything, as in read_header.
            out.write(json.dumps({"error": first_line(error)}).encode() + b"\n")
        else:
            shape = {"shape": pixels.shape, "dtype": pixels.dtype.str}
            out.write(json.dumps(shape).encode() + b"\n" + pixels.tobytes())
        out.flush()
