"""Checks of a dataset: its description and, where its files are, what its adapter reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydrakit.errors import one_line
from hydrakit.hooks import DatasetAdapter, Sample, Unusable
from hydrakit.plugins.process_state import restored
from hydrakit.plugins.registry import Plugins
from hydrakit.storage.paths import using_cache
from hydrakit.testing.adapter import (
    CaseReader,
    Options,
    ReadCase,
    difference_of,
    report_of,
    require_same,
)
from hydrakit.testing.properties import Property, PropertySkipped, describe_exit

THREADS = 4
TOO_FEW = "use the folder of all data, or at least ten patients of each class"


@dataclass(frozen=True, kw_only=True)
class DatasetSubject:
    """A dataset to check.

    Attributes:
        adapter: Its adapter, unguarded.
        module: Module that the entry point of its plugin names.
        plugins: Plugins of this process.
        root: Its folder; None if it is not there.
        missing: Why it is not there.
        folder: Folder for temporary files, such as caches.
        options: Options of the adapter.
    """

    adapter: DatasetAdapter
    module: str
    plugins: Plugins
    root: Path | None
    missing: str
    folder: Path
    options: Options = field(default_factory=dict)

    @property
    def present_root(self) -> Path:
        """Its folder.

        Raises:
            PropertySkipped: It has none.
        """
        if self.root is None:
            raise PropertySkipped(self.missing)
        return self.root

    @cached_property
    def first(self) -> FirstReading:
        """A reading of all cases in this process, past any cache."""
        root = self.present_root
        before = _state_of_files((root, *self.adapter.elsewhere))
        reader = CaseReader(self.adapter, root, self.options)
        cases: list[ReadCase] = []
        changed: list[str] = []
        error: Exception | None = None
        # A file, since what is read may need its number, such as for the output of a program.
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as output,
            using_cache(self.folder / "cache-1"),
            redirect_stdout(output),
            restored(changed.extend),
        ):
            try:
                cases.extend(reader)
            except SystemExit as ended:
                error = AssertionError(describe_exit(ended))
            except Exception as failed:
                error = failed
            output.seek(0)
            printed = output.read()
        return FirstReading(cases, error, reader.stage, changed, before, printed)

    @cached_property
    def other(self) -> OtherReadings:
        """Two further readings at the same time: in threads of this process, and in another one."""
        root = self.present_root
        file = self.folder / f"reading-{self.adapter.name}.json"
        request = {
            "module": self.module,
            "dataset": self.adapter.name,
            "root": str(root),
            "options": dict(self.options),
            "cache": str(self.folder / "cache-2"),
            "file": str(file),
        }
        command = [sys.executable, "-P", "-m", "hydrakit.testing.reader", json.dumps(request)]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        ) as process:
            changed: list[str] = []
            try:
                second = self._again(changed, threads=THREADS)
                printed = process.communicate()[1]
            except BaseException:
                process.kill()
                raise
        last = (printed.splitlines() or [f"status {process.returncode}"])[-1]
        result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        return OtherReadings(second, changed, result, one_line(last, 200))

    def _again(self, changed: list[str], *, threads: int) -> list[ReadCase] | Exception:
        """The cases of a further reading in this process, or its error."""
        with using_cache(self.folder / "cache-3"), restored(changed.extend):
            try:
                reader = CaseReader(self.adapter, self.present_root, self.options, threads=threads)
                return list(reader)
            except SystemExit as ended:
                return AssertionError(describe_exit(ended))
            except Exception as error:
                return error

    @cached_property
    def serial(self) -> list[ReadCase] | Exception:
        """The second reading; if its images alone differ, one without threads."""
        second = self.other.second
        if isinstance(second, list):
            differs = _difference(self.cases, second) is not None
            if not differs or not _lists_the_same(self.cases, second):
                return second
        return self._again([], threads=0)

    @property
    def cases(self) -> list[ReadCase]:
        """All cases.

        Raises:
            PropertySkipped: They cannot be read.
        """
        if self.first.error is not None:
            raise PropertySkipped("its cases cannot be read")
        return self.first.cases


@dataclass(frozen=True)
class FirstReading:
    """The first reading of a dataset.

    Attributes:
        cases: The cases.
        error: What stopped the reading.
        stage: What was being read then; see `CaseReader`.
        changed: What the reading changed in the process.
        before: State of the files before it.
        printed: What it wrote to standard output.
    """

    cases: list[ReadCase]
    error: Exception | None
    stage: str
    changed: list[str]
    before: dict[str, tuple[int, int]]
    printed: str


@dataclass(frozen=True)
class OtherReadings:
    """Readings of a dataset after the first.

    Attributes:
        second: Cases of the reading in threads, or its error.
        changed: What it changed in the process.
        elsewhere: Result of the reading in another process (`hydrakit.testing.reader`); None if it
            failed.
        last: Last line that the other process printed.
    """

    second: list[ReadCase] | Exception
    changed: list[str]
    elsewhere: dict[str, Any] | None
    last: str


def _state_of_files(folders: tuple[Path, ...]) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file below some folders."""
    state = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                status = path.lstat()
                state[str(path)] = status.st_size, status.st_mtime_ns
    return state


def _difference(first: list[ReadCase], second: list[ReadCase]) -> str | None:
    return difference_of(_comparable(first), _comparable(second))


def _lists_the_same(first: list[ReadCase], second: list[ReadCase]) -> bool:
    """Whether two readings differ at most in what functions of images gave."""
    return len(first) == len(second) and all(
        one.case.key == two.case.key
        and all(
            one.digests[name] == two.digests[name]
            for name in one.digests.keys() & two.digests.keys() - {"pixels"}
        )
        for one, two in zip(first, second, strict=True)
    )


def _comparable(cases: list[ReadCase]) -> list[tuple[str, dict[str, str]]]:
    return [(each.case.key, each.digests) for each in cases]


def _is_described(subject: DatasetSubject) -> str:
    adapter = subject.adapter
    for name in ("version", "layout", "how_to_get", "citation", "licence"):
        value = getattr(adapter, name)
        assert isinstance(value, str) and value.strip(), (
            f"its {name} is empty: users read it; write 'none' if there is none"
        )
    return f"{len(adapter.classes)} classes" if adapter.task == "classification" else adapter.task


def _stage(stage: str, note: Callable[[DatasetSubject], str]) -> Callable[[DatasetSubject], str]:
    """A check that fails if the first reading stopped at a stage."""

    def check(subject: DatasetSubject) -> str:
        first = subject.first
        if first.error is not None:
            if first.stage == stage:
                raise first.error
            raise PropertySkipped("its cases cannot be read")
        return note(subject)

    return check


def _count_cases(subject: DatasetSubject) -> str:
    report = report_of(subject.adapter, [each.case for each in subject.cases])
    unnamed = sum(
        isinstance(each.case, Sample) and each.case.patient == each.case.key and not each.case.named
        for each in subject.cases
    )
    parts = [f"{len(subject.cases)} cases", f"{report.patients} patients"]
    parts += [f"{count} {name}" for name, count in report.samples.items()]
    parts += [f"{report.unlabelled} without a label"] * bool(report.unlabelled)
    parts += [f"{unnamed} that name no patient"] * bool(unnamed)
    return ", ".join(parts)


def _says_why_unusable(subject: DatasetSubject) -> str:
    unusable = [each.case for each in subject.cases if isinstance(each.case, Unusable)]
    named = [case for case in unusable if case.key in case.reason]
    different = {case.reason for case in named}
    assert len(different) < 2, (  # a single one may contain the key by chance
        f"the reason of {named[0].key!r} names the case: give all cases with that cause one "
        "reason, which `datasets check` counts"
    )
    reasons = Counter(case.reason for case in unusable)
    return "; ".join(f"{count} {reason!r}" for reason, count in reasons.most_common())


def _reads_the_same_again(subject: DatasetSubject) -> str:
    cases, again = subject.cases, subject.serial
    if isinstance(again, Exception):
        raise again
    require_same(cases, again)
    return ""


def _reads_in_threads(subject: DatasetSubject) -> str:
    cases, second, serial = subject.cases, subject.other.second, subject.serial
    if isinstance(serial, Exception) or _difference(cases, serial) is not None:
        raise PropertySkipped("two readings differ without threads")
    remedy = f"with {THREADS} threads at a time: let images share nothing that they change"
    if isinstance(second, Exception):
        raise AssertionError(f"{one_line(str(second))}, {remedy}")
    difference = _difference(cases, second)
    assert difference is None, f"{difference}, {remedy}"
    return f"{THREADS} at a time"


def _reads_in_processes(subject: DatasetSubject) -> str:
    cases, other = subject.cases, subject.other
    assert other.elsewhere is not None, f"reading failed in another process: {other.last}"
    read = [(key, digests) for key, digests in other.elsewhere["cases"]]
    difference = difference_of(_comparable(cases), read)
    assert difference is None, f"another process reads otherwise: {difference}"
    return ""


def _names_its_sources(subject: DatasetSubject) -> str:
    assert subject.cases is not None
    watched = subject.other.elsewhere
    if watched is None:
        raise PropertySkipped("reading failed in another process")
    if watched["undeclared"]:
        key, path = watched["undeclared"][0]
        raise AssertionError(
            f"the image of {key!r} opens {path}, which is not among its source: name it there, so "
            "that the image is prepared again when that file changes"
        )
    notes = []
    if watched["unnamed"]:
        notes.append(f"{watched['unnamed']} cases without a source, which every run prepares again")
    if watched["unopened"] and watched["opened"]:
        (key, path), count = watched["unopened"][0], len(watched["unopened"])
        notes.append(f"{count} sources are not opened by Python, such as {path} of {key!r}")
    return "; ".join(notes)


def _changes_nothing(subject: DatasetSubject) -> str:
    changed = [*subject.first.changed]
    if not subject.first.error:
        changed += subject.other.changed
    assert not changed, (
        f"reading changed {', '.join(dict.fromkeys(changed))}, for the whole process: put it back"
    )
    return ""


def _prints_nothing(subject: DatasetSubject) -> str:
    printed = subject.first.printed
    first = next((line for line in printed.splitlines() if line.strip()), "")
    assert not printed, (
        f"reading printed {one_line(first, 80)!r}: every command that reads data would print it; "
        "remove it"
    )
    return ""


def _writes_nothing(subject: DatasetSubject) -> str:
    before = subject.first.before
    if not subject.first.error:
        assert subject.other
    after = _state_of_files((subject.present_root, *subject.adapter.elsewhere))
    changed = [
        f"{word} {path}"
        for word, paths in (
            ("wrote", sorted(path for path in after if before.get(path) != after[path])),
            ("removed", sorted(set(before) - set(after))),
        )
        for path in paths
    ]
    more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    assert not changed, (
        f"reading {changed[0]}{more}: a dataset may be read-only or shared: write into a "
        "temporary folder"
    )
    return ""


def _passes_the_leak_gate(subject: DatasetSubject) -> str:
    assert subject.cases is not None
    from hydrakit import engine

    name = subject.adapter.name
    summary, _ = engine.check(
        name,
        options=subject.options,
        plugins=subject.plugins,
        roots={name: subject.present_root},
        cache=subject.folder / "cache-1",
    )
    texts = [
        f"{each.text}: {TOO_FEW}" if each.kind in ("few patients", "empty class") else each.text
        for each in summary.problems
    ]
    assert not texts, "; ".join(texts)
    return "; ".join(each.text for each in summary.warnings if each.kind != "unusable")


DATASET_PROPERTIES = (
    Property("layout, source, citation and licence are given", _is_described),
    Property("each case has a key of its own", _stage("keys", lambda _: "")),
    Property("each case has a valid label, patient and spacing", _stage("cases", _count_cases)),
    Property("each image is finite float32", _stage("images", lambda _: "")),
    Property("each cause of unusable cases has one reason", _says_why_unusable),
    Property("two readings give the same cases", _reads_the_same_again),
    Property("several threads read the same images", _reads_in_threads),
    Property("another process at the same time reads the same cases", _reads_in_processes),
    Property("source names the files of each image", _names_its_sources),
    Property("reading changes nothing in the process", _changes_nothing),
    Property("reading prints nothing", _prints_nothing),
    Property("reading writes nothing into its folder", _writes_nothing),
    Property("the checks for leaks pass (`datasets check`)", _passes_the_leak_gate),
)
"""Properties of a dataset; all but the first need its files."""
