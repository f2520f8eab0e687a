"""Checks one plugin in a process of its own, and writes each result as a line of JSON.

`hydrakit.testing.plugin` starts it: ``python -P -m hydrakit.testing.worker REQUEST``. Lines of
standard output are ``{"begun": ...}`` before a property is checked, ``{"checked": ...}`` after it,
and ``{"done": true}`` at the end. Standard input is empty; its end means that the parent process
has ended: the worker then ends too, with its process group.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.hooks import (
    BodyFactory,
    DatasetAdapter,
    Factory,
    HeadFactory,
    LauncherFactory,
    NamedComponent,
    SequenceStrategy,
    TrackerFactory,
)
from hydrakit.plugins.registry import (
    PluginRecord,
    Plugins,
    components_of,
    installed_plugins,
    load_plugins,
)
from hydrakit.storage.paths import root_of
from hydrakit.testing.properties import Property, PropertySkipped, check_properties

if TYPE_CHECKING:
    from hydrakit.testing.imports import ImportSubject

Group = tuple[str, Any, Iterable[Property[Any]]]
"""What is checked, in words; the subject; its properties."""

ORDER = (SequenceStrategy, click.Command, DatasetAdapter, LauncherFactory, TrackerFactory)
"""Classes of components in the order of their checks: strategies before what imports torch."""

IN_RUNS = (HeadFactory, BodyFactory, SequenceStrategy)
"""Classes of components that a run can have; with data, it also has a dataset."""


def main() -> None:
    """Check the plugin that the argument, a record of JSON, describes."""
    request = json.loads(sys.argv[1])
    _end_with_parent()
    logging.getLogger("hydrakit").setLevel(logging.ERROR)  # what is left out is counted
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what plugins and other programs print goes to standard error

    def write(kind: str, content: object) -> None:
        print(json.dumps({kind: content}), file=results, flush=True)

    data = None if request["data"] is None else Path(request["data"])
    groups = _groups(request["name"], request["module"], data, Path(request["folder"]))
    for of, subject, properties in groups:
        for each in properties:
            write("begun", {"of": of, "name": each.name})
            for checked in check_properties(of, subject, [each]):
                write("checked", asdict(checked))
    write("done", True)


def _end_with_parent() -> None:
    """Let this process and its group end when the parent process ends; plugins read no input."""
    parent = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        os.read(parent, 1)
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _groups(plugin_name: str, module: str, data: Path | None, folder: Path) -> Iterator[Group]:
    from hydrakit.testing.imports import IMPORT_PROPERTIES, ImportSubject

    plugin = f"plugin {plugin_name!r}"  # another distribution may name the module otherwise
    imported = ImportSubject(module, folder)
    yield plugin, imported, IMPORT_PROPERTIES
    loaded = _LoadedPlugin(module, data, imported)
    yield plugin, loaded, LOADED_PROPERTIES
    if not loaded.record.offers:  # nor does it if it is broken or disabled
        return
    if data is not None and loaded.record.offered(DatasetAdapter):
        yield plugin, loaded, DATA_PROPERTIES
    checks = _Checks(loaded.record, loaded.plugins, data, folder)
    offered = components_of(module)
    for (kind, name), component in sorted(offered.items(), key=lambda item: _order(item[1])):
        yield from checks.of(f"{kind} {name!r}", component)
    yield from checks.of_all(plugin, offered.values())


def _order(component: object) -> int:
    return next((i for i, kind in enumerate(ORDER) if isinstance(component, kind)), len(ORDER))


@dataclass(frozen=True)
class _LoadedPlugin:
    """A plugin among all that are installed; they are loaded when they are needed.

    Attributes:
        module: Module that its entry point names.
        data: Folder with one folder per dataset; None for no data.
        imported: Its import, whose error is not said twice.
    """

    module: str
    data: Path | None
    imported: ImportSubject

    @cached_property
    def plugins(self) -> Plugins:
        """All plugins."""
        return load_plugins()

    @property
    def record(self) -> PluginRecord:
        """The plugin."""
        return next(each for each in self.plugins.records if each.module == self.module)


def _is_valid(loaded: _LoadedPlugin) -> str:
    record = loaded.record
    assert not record.disabled, "it is disabled: leave out `--no-plugin` and $HYDRAKIT_NO_PLUGINS"
    if record.error and loaded.imported.says(record.error):
        raise PropertySkipped("it cannot be imported")
    assert not record.error, record.error
    return ", ".join(f"{kind} {name}" for kind, names in record.offers.items() for name in names)


def _is_alone(loaded: _LoadedPlugin) -> str:
    assert not loaded.record.clashes, loaded.record.clashes[0]
    return ""


def _has_data(loaded: _LoadedPlugin) -> str:
    names = loaded.record.offered(DatasetAdapter)
    folders = {name: root_of(name, loaded.data, {}) for name in names}
    present = [name for name, folder in folders.items() if folder.is_dir()]
    assert present, (
        f"there is no folder {' or '.join(map(str, folders.values()))}: give `--data` the folder "
        "that has it"
    )
    return ", ".join(present)


LOADED_PROPERTIES = (
    Property("its components are valid", _is_valid),
    Property("no other installed plugin offers the same", _is_alone),
)
"""Properties of a plugin among those that are installed."""

DATA_PROPERTIES = (Property("files of a dataset are there", _has_data),)
"""Properties of a plugin with datasets, where a folder of data is given."""


@dataclass(frozen=True)
class _Checks:
    """The checks of the components of a plugin.

    Attributes:
        record: The plugin.
        plugins: All plugins of this process.
        data: Folder with one folder per dataset; None for no data.
        folder: Folder for temporary files.
    """

    record: PluginRecord
    plugins: Plugins
    data: Path | None
    folder: Path

    def of(self, name: str, component: Any) -> Iterator[Group]:
        """The checks of a component that has this name in the list."""
        from hydrakit.testing.descriptions import OPTION_PROPERTIES, SUMMARY_PROPERTIES

        if isinstance(component, NamedComponent):
            yield name, component, SUMMARY_PROPERTIES
        if isinstance(component, Factory):
            yield name, component, OPTION_PROPERTIES
        if isinstance(component, SequenceStrategy):
            from hydrakit.testing.strategies import STRATEGY_PROPERTIES, StrategySubject

            yield name, StrategySubject(component, self.plugins), STRATEGY_PROPERTIES
        elif isinstance(component, click.Command):
            from hydrakit.testing.commands import COMMAND_PROPERTIES, CommandSubject

            yield name, CommandSubject(component, self._others()), COMMAND_PROPERTIES
        elif isinstance(component, DatasetAdapter):
            yield from self._of_dataset(name, component)
        elif isinstance(component, LauncherFactory):
            from hydrakit.testing.launchers import LAUNCHER_PROPERTIES, LauncherSubject

            yield name, LauncherSubject(component, self._folder(name)), LAUNCHER_PROPERTIES
        elif isinstance(component, TrackerFactory):
            from hydrakit.testing.trackers import TRACKER_PROPERTIES, TrackerSubject

            yield name, TrackerSubject(component, self._folder(name)), TRACKER_PROPERTIES
        elif isinstance(component, HeadFactory | BodyFactory):
            from hydrakit.testing.networks import BODY_PROPERTIES, HEAD_PROPERTIES, NetworkSubject

            properties = HEAD_PROPERTIES if isinstance(component, HeadFactory) else BODY_PROPERTIES
            yield name, NetworkSubject(component, {}, self._folder(name)), properties

    def of_all(self, name: str, components: Iterable[Any]) -> Iterator[Group]:
        """The checks of a run with the components, if a run can have some of them."""
        own = tuple(
            each for each in components if isinstance(each, IN_RUNS) or self._has_files(each)
        )
        if own:
            from hydrakit.testing.whole import WHOLE_PROPERTIES, PluginSubject

            subject = PluginSubject(own, self.plugins, self.data, self._folder(name))
            yield name, subject, WHOLE_PROPERTIES

    def _has_files(self, component: Any) -> bool:
        """Whether a component is a dataset whose folder is there."""
        if self.data is None or not isinstance(component, DatasetAdapter):
            return False
        return root_of(component.name, self.data, {}).is_dir()

    def _of_dataset(self, name: str, adapter: DatasetAdapter) -> Iterator[Group]:
        from hydrakit.testing.datasets import DATASET_PROPERTIES, DatasetSubject

        root, missing = None, "give the folder of its data with `--data ROOT`"
        if self.data is not None:
            place = root_of(adapter.name, self.data, {})
            root = place if place.is_dir() else None
            missing = f"no folder {place}"
        subject = DatasetSubject(
            adapter=adapter,
            module=self.record.module,
            plugins=self.plugins,
            root=root,
            missing=missing,
            folder=self._folder(name),
        )
        yield name, subject, DATASET_PROPERTIES

    def _folder(self, name: str) -> Path:
        folder = self.folder / name.replace(" ", "-").replace("'", "")
        folder.mkdir()
        return folder

    def _others(self) -> tuple[str, ...]:
        """Names of the other plugins, by which they can be disabled."""
        own = {self.record.name, self.record.distribution}
        return tuple(each.name for each in installed_plugins() if each.name not in own)


if __name__ == "__main__":
    main()
