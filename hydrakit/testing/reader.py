"""Reads a dataset in a process of its own, and writes down which files it opened.

`hydrakit.testing.datasets` starts it: ``python -P -m hydrakit.testing.reader REQUEST``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydrakit.hooks import DatasetAdapter, Remark, Sample, Unusable
from hydrakit.plugins.registry import components_of
from hydrakit.storage.paths import using_cache
from hydrakit.testing.adapter import CaseReader, Options
from hydrakit.testing.opened import opened_files


def read_watched(adapter: DatasetAdapter, root: Path, options: Options) -> dict[str, Any]:
    """Read a dataset, and compare the files that it opens with the sources of its cases.

    Returns:
        A JSON-ready record: ``cases``, the key and the digests of each case; ``undeclared``, cases
        with a file that the function of their image opened, but that is not among their sources;
        ``unopened``, cases with a source that nothing opened; ``unnamed``, the number of cases
        without sources; ``opened``, the number of files below the dataset's folders that were
        opened.
    """
    folders = [os.path.realpath(each) for each in (root, *adapter.elsewhere)]
    samples: list[Sample] = []
    of_images: list[tuple[Sample, list[str]]] = []

    def noting(root: Path, options: object) -> Iterator[Sample | Unusable | Remark]:
        for case in adapter.read(root, options):
            if not isinstance(case, Sample):
                yield case
                continue
            samples.append(case)
            image = case.image
            if not callable(image):
                yield case
                continue

            def load(case: Sample = case, image: Any = image) -> Any:
                before = len(opened)
                try:
                    return image()
                finally:
                    of_images.append((case, opened[before:]))

            yield replace(case, image=load)

    with opened_files() as opened:
        cases = list(CaseReader(replace(adapter, read=noting), root, options))
    undeclared = [
        (case.key, path)
        for case, paths in of_images
        if case.source
        for path in sorted({os.path.realpath(each) for each in paths})
        if _is_below(path, folders)
        and not _is_below(path, [os.path.realpath(each) for each in case.source])
    ]
    read = {os.path.realpath(each) for each in opened}
    unopened = [
        (case.key, str(path))
        for case in samples
        for path in case.source
        if path.is_file() and os.path.realpath(path) not in read
    ]
    return {
        "cases": [(each.case.key, each.digests) for each in cases],
        "undeclared": undeclared,
        "unopened": unopened,
        "unnamed": sum(not case.source for case in samples),
        "opened": sum(_is_below(path, folders) for path in read),
    }


def _is_below(path: str, folders: list[str]) -> bool:
    return any(path == each or path.startswith(os.path.join(each, "")) for each in folders)  # noqa: PTH118


def main() -> None:
    """Read the dataset that the argument, a record of JSON, describes."""
    request = json.loads(sys.argv[1])
    adapter = components_of(request["module"])["dataset", request["dataset"]]
    with using_cache(Path(request["cache"])):
        result = read_watched(adapter, Path(request["root"]), request["options"])
    Path(request["file"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
