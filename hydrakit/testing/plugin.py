"""Checks a whole plugin: one that is installed, or a folder with one that is not.

Each plugin is checked in a process of its own (`hydrakit.testing.worker`), so that one that ends
the process, or changes it, is described like any other. A plugin that is not installed is put on
the search path of that process, with the entry points that its ``pyproject.toml`` names.

The process leads a process group, which is killed with it: a plugin's import and its jobs run in
processes that it starts. It also ends, with its group, when this process ends for any reason.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrakit.errors import PluginError, one_line, unknown
from hydrakit.plugins.registry import (
    DISABLED,
    PluginRecord,
    installed_plugins,
    refuse_no_module,
)
from hydrakit.testing.properties import CheckedProperty
from hydrakit.version import DISTRIBUTION

PROJECT = "pyproject.toml"
SECONDS_TO_END = 10  # of the process, after its last result
LIMIT = 900.0
"""Default seconds that a property may take; more than those after which a launcher is described."""


def check_plugin(
    name_or_path: str | Path, data: Path | None = None, *, limit: float = LIMIT
) -> list[CheckedProperty]:
    """Check the properties that a plugin and its components must have.

    Args:
        name_or_path: Name of the entry point or of the distribution of an installed plugin; or a
            folder with a ``pyproject.toml``, or a module file, that need not be installed.
        data: Folder with one folder per dataset, by name; None skips what needs data.
        limit: Seconds that a property may take; one that takes longer is missing, and the last.

    Returns:
        The properties in the order of the checks, also those that are missing (`require` raises an
        error for them) or that could not be checked.

    Raises:
        PluginError: There is no such plugin, or no such folder of data.
    """
    plugins = plugin_checks(name_or_path, data, limit=limit)
    return [each for checks in plugins for each in checks]


def plugin_checks(
    name_or_path: str | Path | None,
    data: Path | None = None,
    disabled: Sequence[str] = (),
    *,
    limit: float = LIMIT,
) -> list[PluginChecks]:
    """The checks of plugins; iterating over one runs it.

    Args:
        name_or_path: As in `check_plugin`; None for all plugins that are not hydrakit's own, or for
            all if there are none.
        data: Folder with one folder per dataset; None skips what needs data.
        disabled: Names of plugins that are not loaded.
        limit: Seconds that a property may take.

    Raises:
        PluginError: There is no such plugin, or no such folder of data.
    """
    if data is not None and not data.is_dir():
        raise PluginError(f"{data}: no such folder: give the folder that holds the datasets")
    if name_or_path is not None:
        project = _Project.at(name_or_path)
        if project is not None:
            return [
                PluginChecks(record, data, tuple(disabled), project, limit)
                for record in project.records
            ]
    records = installed_plugins()
    if name_or_path is None:
        records = [r for r in records if r.distribution != DISTRIBUTION] or records
    else:
        name = _canonical(str(name_or_path))
        known = {each for r in records for each in (r.name, r.distribution)}
        records = [r for r in records if name in (_canonical(r.name), _canonical(r.distribution))]
        if not records:
            raise PluginError(
                f"{unknown('plugin', str(name_or_path), known)} (see `hydrakit plugins list`; a "
                "plugin that is not installed is given as a path, such as ./my-plugin)"
            )
    return [PluginChecks(record, data, tuple(disabled), limit=limit) for record in records]


def _canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class _Project:
    """A distribution that is not installed.

    Attributes:
        records: Its plugins.
        source: Folder of its modules.
    """

    records: tuple[PluginRecord, ...]
    source: Path

    @classmethod
    def at(cls, place: str | Path) -> _Project | None:
        """The distribution in a folder or in a module file; None if the text is a name.

        Raises:
            PluginError: It cannot be read, or names no plugin.
        """
        path = Path(place).expanduser()
        is_path = isinstance(place, Path) or path.name != str(place) or path.suffix == ".py"
        if not is_path and (place in _installed_names() or not path.is_dir()):
            return None
        path = path.resolve()
        if path.is_dir():
            return cls._of_folder(path)
        if path.suffix == ".py" and path.is_file():
            return cls(
                (PluginRecord(name=path.stem, module=path.stem, distribution=path.stem,
                              version="0"),),
                path.parent,
            )  # fmt: skip
        raise PluginError(f"{path}: is neither a folder nor a module file (.py)")

    @classmethod
    def _of_folder(cls, folder: Path) -> _Project:
        file = folder / PROJECT
        try:
            content: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PluginError(
                f"{folder}: has no {PROJECT}: give the folder that has it, or a module file"
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise PluginError(f"{file}: cannot be read: {one_line(str(error))}") from None
        project = content.get("project")
        points = project.get("entry-points") if isinstance(project, dict) else None
        points = points.get("hydrakit") if isinstance(points, dict) else None
        if not isinstance(points, dict) or not points:
            raise PluginError(
                f"{file}: has no table [project.entry-points.hydrakit], which names the plugin: "
                "add it; or install the plugin, and give its name"
            )
        assert isinstance(project, dict)
        records = tuple(
            PluginRecord(
                name=str(name),
                module=str(module).strip(),
                distribution=str(project.get("name") or folder.name),
                version=str(project.get("version") or "0"),
            )
            for name, module in points.items()
        )
        for record in records:
            refuse_no_module(record.name, record.module)
        by_module: dict[str, PluginRecord] = {}
        for record in records:
            first = by_module.setdefault(record.module, record)
            if first is not record:
                raise PluginError(
                    f"{file}: its entry points {first.name!r} and {record.name!r} name the same "
                    f"module {record.module!r}: remove one"
                )
        top = records[0].module.partition(":")[0].partition(".")[0]
        for source in (folder / "src", folder):
            if (source / top).is_dir() or (source / f"{top}.py").is_file():
                return cls(records, source)
        raise PluginError(
            f"{file}: names the module {top!r}, which is neither in {folder} nor in its folder "
            "src: install the plugin (`pip install -e`), and give its name"
        )

    def write_metadata(self, site: Path) -> None:
        """Write what an installer would write about the distribution, but for its files."""
        first = self.records[0]
        name = re.sub("[^A-Za-z0-9.]+", "_", first.distribution)
        info = site / f"{name}-{re.sub('[^A-Za-z0-9.+!]+', '_', first.version)}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {first.distribution}\nVersion: {first.version}\n",
            encoding="utf-8",
        )
        points = "".join(f"{each.name} = {each.module}\n" for each in self.records)
        (info / "entry_points.txt").write_text(f"[hydrakit]\n{points}", encoding="utf-8")


def _installed_names() -> set[str]:
    return {name for each in installed_plugins() for name in (each.name, each.distribution)}


@dataclass(frozen=True)
class PluginChecks:
    """The checks of one plugin; iterating over it runs them, and yields the results as they come.

    Attributes:
        record: The plugin, as its metadata names it.
        data: Folder with one folder per dataset; None for no data.
        disabled: Names of plugins that are not loaded.
        project: Where the plugin is if it is not installed.
        limit: Seconds that a property may take.
    """

    record: PluginRecord
    data: Path | None
    disabled: tuple[str, ...] = ()
    project: _Project | None = None
    limit: float = LIMIT

    def __iter__(self) -> Iterator[CheckedProperty]:
        """Check one property after the other in another process."""
        with tempfile.TemporaryDirectory(
            prefix="hydrakit-check-", ignore_cleanup_errors=True
        ) as name:
            folder = Path(name)
            request = {
                "name": self.record.name,
                "module": self.record.module,
                "data": None if self.data is None else str(self.data.resolve()),
                "folder": str(folder),
            }
            command = [sys.executable, "-P", "-m", "hydrakit.testing.worker", json.dumps(request)]
            process = subprocess.Popen(
                command,
                env=self._environment(folder),
                stdin=subprocess.PIPE,  # its end tells the process that this one has ended
                stdout=subprocess.PIPE,
                encoding="utf-8",
                # A group of its own, to which Ctrl-C does not go.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
            try:
                yield from self._results(process)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS_TO_END)
            finally:
                _end(process)

    def _results(self, process: subprocess.Popen[str]) -> Iterator[CheckedProperty]:
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        begun = {"of": f"plugin {self.record.name!r}", "name": "can be checked"}
        limit = max(self.limit, LIMIT)  # of the start of the process
        fault = (
            "the process of the check ended here ({}): what it printed, if anything, says why; "
            "only commands may end the process"
        )
        while True:
            try:
                line = lines.get(timeout=limit)
            except queue.Empty:
                fault = f"had not finished after {limit:g} s: what follows was not checked"
                break
            if line is None:
                fault = fault.format(_describe_exit(process.wait()))
                break
            ((kind, content),) = json.loads(line).items()
            if kind == "done":
                return
            if kind == "begun":
                begun, limit = content, self.limit
            else:
                yield CheckedProperty(**content)
        _end(process)
        yield CheckedProperty(of=begun["of"], name=begun["name"], fault=fault)

    def _environment(self, folder: Path) -> dict[str, str]:
        """Environment of the process: it finds what this process finds, and the plugin first."""
        search = _own_search_path()
        if self.project is not None:
            self.project.write_metadata(folder / "site")
            search = [str(folder / "site"), str(self.project.source), *search]
        changes = {
            "PYTHONPATH": os.pathsep.join(search),
            "PYTHONOPTIMIZE": "",  # which would leave out the checks
            "HYDRAKIT_CACHE": str(folder / "cache"),
        }
        if self.disabled:
            changes[DISABLED] = ",".join(self.disabled)
        return {**os.environ, **changes}


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Pass on what a process writes; None after its last line."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process that may have ended, and its group."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()


def _own_search_path() -> list[str]:
    """Folders in which this process finds modules, but for those of the interpreter itself."""
    installed = tuple(os.path.join(each, "") for each in (sys.prefix, sys.base_prefix))  # noqa: PTH118
    return [path for path in sys.path if path and not path.startswith(installed)]


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    return signal.Signals(-status).name
