"""A dataset of small files for the tests of preparing, in this process and in others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.prepared import store
from hydrakit.data.prepared.crop import canvas_side
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.prepared.prepare import prepare
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, FieldOfView, Sample, Unusable

PATCH = 9
SIDE = canvas_side(PATCH)

Cases = Iterable[Sample | Unusable]


def noise(seed: int, *shape: int, spread: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(3, spread, shape)).astype(np.float32)


def sample(image: Any, **changes: Any) -> Sample:
    values: dict[str, Any] = {"label": 0, "patient": "p", "key": "one"}
    pixels = image if callable(image) else np.asarray(image, dtype=np.float32)
    return Sample(image=pixels, **{**values, **changes})


@dataclass(frozen=True)
class DepthOptions:
    depth: int = 1


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


class Files:
    """A dataset of .npy files, with an adapter that counts what it reads.

    Attributes:
        readings: How often the cases were listed.
        loads: Keys of the images that were read, in any order.
        slow: Seconds that an image takes, by key; another one's under "".
        changes: Of each sample.
    """

    def __init__(self, root: Path, cache: Path | None, *, count: int = 3) -> None:
        self.root, self.cache = root, cache
        self.readings, self.loads = 0, list[str]()
        self.slow: dict[str, float] = {}
        self.changes: dict[str, Any] = {}
        self.lock = threading.Lock()
        root.mkdir(exist_ok=True)
        for number in range(count):
            if not (root / f"{number}.npy").exists():
                self.write(str(number), number)

    def write(self, key: str, seed: int, *, mtime: int = 0) -> None:
        """Write an image; a time of change of its own makes sure that the change is seen."""
        path = self.root / f"{key}.npy"
        np.save(path, noise(seed, 12, 14))
        os.utime(path, ns=(10**18 + mtime, 10**18 + mtime))

    def load(self, path: Path) -> NDArray[np.float32]:
        with self.lock:
            self.loads.append(path.stem)
        time.sleep(self.slow.get(path.stem, self.slow.get("", 0)))
        try:
            with self.lock:  # parsing a header in several threads fails in Python 3.11 at times
                image: NDArray[np.float32] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise DataError(f"{path}: is not a whole .npy file") from None
        return image

    def read(self, root: Path, options: Any) -> Iterator[Sample]:
        self.readings += 1
        for path in sorted(root.rglob("*.npy")):
            values = {"key": path.stem, "patient": path.stem[0], "source": (path,)}
            yield sample(partial(self.load, path), **{**values, **self.changes})

    def prepare(self, root: Path | None = None, **changes: Any) -> PreparedDataset:
        names = changes.keys() & {"threads", "on_case", "fresh"}
        to_prepare = {name: changes.pop(name) for name in names}
        options, patch = changes.pop("options", {}), changes.pop("patch", PATCH)
        own = {"options": DepthOptions}
        thing = adapter(changes.pop("read", self.read), **{**own, **changes})
        return prepare(
            thing,
            root or self.root,
            options=options,
            patch=patch,
            cache=self.cache,
            **to_prepare,
        )


def every(prepared: PreparedDataset) -> NDArray[np.float32]:
    """All patches."""
    return prepared.rows(range(len(prepared.index.cases)))


def told(prepared: PreparedDataset) -> dict[str, Any]:
    """What two preparings of the same data have in common."""
    return {
        "content": prepared.index.content,
        "cases": prepared.index.cases,
        "excluded": prepared.index.excluded,
        "patients": prepared.index.patients,
        "patches": every(prepared).tobytes(),
        "thumbnails": prepared.thumbnails().tobytes(),
        "textures": prepared.textures(range(len(prepared.index.cases))).tobytes(),
    }


def start_process(root: Path, cache: Path, **given: Any) -> subprocess.Popen[str]:
    """Prepare the files of a folder in another process, which says when each case is done.

    Args:
        root: The dataset.
        cache: Where it is kept prepared.
        given: ``slow`` seconds for each image; ``commit``: seconds after which rows are made safe;
            ``limit`` of a file's size, in bytes.
    """
    return subprocess.Popen(
        [sys.executable, __file__, str(root), str(cache), json.dumps(given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def main() -> None:
    root, cache, text = sys.argv[1:]
    given = json.loads(text)
    if "limit" in given:  # what is written beyond it fails, as on a full disk
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (given["limit"], resource.RLIM_INFINITY))
    store.COMMIT_SECONDS = given.get("commit", store.COMMIT_SECONDS)
    files = Files(Path(root), Path(cache), count=0)
    files.slow = {"": given.get("slow", 0.0)}
    try:
        prepared = files.prepare(threads=2, on_case=lambda done: print(done, flush=True))
    except DataError as error:
        sys.exit(f"hydrakit: {error}")
    print(json.dumps({"content": prepared.index.content, "readings": files.readings}))


if __name__ == "__main__":
    main()
