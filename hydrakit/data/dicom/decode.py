"""Decoding of compressed DICOM pixels in a separate process.

The decoders are C and C++ libraries, and a damaged file can crash the process that runs them (GDCM
3.2 ends it by an uncaught exception). A crash of the separate process is reported as a damaged
file, and the next file gets a new process.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrakit.data.dicom.header import first_line, lenient_pydicom

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECODE_SECONDS = 60.0  # a slice takes less than one


Options = Mapping[str, str | int]  # of pydicom's decoders, named as in `as_pixel_options`


def decode(frame: bytes, syntax: str, options: Options) -> NDArray[Any]:
    """Decode a compressed frame; the result is that of pydicom's ``pixel_array``.

    Args:
        frame: The compressed frame.
        syntax: Transfer syntax UID.
        options: Elements that describe its pixels, as pydicom's ``as_pixel_options`` returns them.

    Raises:
        ValueError: The pixels cannot be decoded; the message gives the reason.
    """
    # One decoder for each process: a forked process must not use its parent's.
    return _decoder(os.getpid()).decode(frame, syntax, options)


def decode_here(frame: bytes, syntax: str, options: Options) -> NDArray[Any]:
    """Decode a compressed frame in this process; see `decode`."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    single: dict[str, Any] = {**options, "number_of_frames": 1}
    return get_decoder(syntax).as_array(encapsulate([frame]), index=0, **single)[0]


@cache
def _decoder(_: int) -> Decoder:
    return Decoder()


class Decoder:
    """Decodes frames one after another in a worker process, which starts with the first frame."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, frame: bytes, syntax: str, options: Options) -> NDArray[Any]:
        """Decode a frame in the worker process; see the function `decode`."""
        with self._lock:
            if self._process is None:
                self._process = start_worker("hydrakit.data.dicom.decode")
                atexit.register(self._stop)
            timeout = Timer(DECODE_SECONDS, self._process.kill)
            timeout.start()
            try:
                return self._request(self._process, frame, [syntax, options, len(frame)])
            except (OSError, json.JSONDecodeError):
                self._stop()
                raise ValueError("the decoder crashed or took too long") from None
            finally:
                timeout.cancel()

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @staticmethod
    def _request(
        process: subprocess.Popen[bytes], frame: bytes, description: object
    ) -> NDArray[Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(description).encode() + b"\n" + frame)
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "error" in answer:
            raise ValueError(answer["error"])
        shape, dtype = answer["shape"], np.dtype(answer["dtype"])
        data = process.stdout.read(int(np.prod(shape)) * dtype.itemsize)
        if len(data) != np.prod(shape) * dtype.itemsize:
            raise OSError("the decoder's output is incomplete")
        return np.frombuffer(data, dtype).reshape(shape)


def start_worker(module: str) -> subprocess.Popen[bytes]:
    """Start a process that runs a module's ``serve`` and communicates through pipes.

    `multiprocessing` is not used: it would fork a process that may hold torch's threads, or import
    the user's own script again. The process ends when its standard input is closed.
    """
    home = str(Path(__file__).parents[3])
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from {module} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": home},
    )


def serve() -> None:
    """Worker loop: for each frame on stdin, write a line with shape and dtype, then the pixels.

    A frame comes after a line with its transfer syntax, options and length.
    """
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        syntax, options, length = json.loads(line)
        frame = sys.stdin.buffer.read(length)
        try:
            with lenient_pydicom():
                pixels = np.ascontiguousarray(decode_here(frame, syntax, options))
        except Exception as error:
            # A damaged frame can raise almost any exception, as in read_header.
            out.write(json.dumps({"error": first_line(error)}).encode() + b"\n")
        else:
            shape = {"shape": pixels.shape, "dtype": pixels.dtype.str}
            out.write(json.dumps(shape).encode() + b"\n" + pixels.tobytes())
        out.flush()
