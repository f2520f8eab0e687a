"""Finds, loads and checks the installed plugins; a broken one does not affect the others.

A plugin is what an entry point of the group ``hydrakit`` names, in any installed distribution. Each
is loaded separately. If that fails, its `PluginRecord` holds the error, and it offers nothing. If
two plugins offer a component of the same kind and name, neither can be used; their other components
work.

`KINDS` lists the kinds of component. A new kind needs a dataclass and a hook in `hydrakit.hooks`, a
row in `KINDS`, and a guard in `hydrakit.plugins.guard`.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import click
import pluggy

from hydrakit import hooks
from hydrakit.errors import PluginError, command_line, one_line, unknown
from hydrakit.hooks import DatasetAdapter
from hydrakit.names import OWN_COMMANDS, is_name
from hydrakit.plugins.guard import PluginSource, guard, remember_package
from hydrakit.plugins.options import options_fault
from hydrakit.version import DISTRIBUTION, version

MAX_CLASS = 200  # characters of the name of a class

DISABLED = "HYDRAKIT_NO_PLUGINS"
API_NAME = "HYDRAKIT_API"  # attribute with which a plugin states for which hook API it was written

T = TypeVar("T")


class ComponentKind(NamedTuple):
    """A kind of component.

    Attributes:
        name: Name of the kind, for messages.
        plural: Plural of the name, for lists.
        hook: Name of the hook that yields the components.
        type: Class of the components.
    """

    name: str
    plural: str
    hook: str
    type: type


KINDS = (
    ComponentKind("dataset", "datasets", "hydrakit_dataset_adapters", DatasetAdapter),
    ComponentKind("head", "heads", "hydrakit_head_factories", hooks.HeadFactory),
    ComponentKind("body", "bodies", "hydrakit_body_factories", hooks.BodyFactory),
    ComponentKind("strategy", "strategies", "hydrakit_sequence_strategies", hooks.SequenceStrategy),
    ComponentKind("launcher", "launchers", "hydrakit_launchers", hooks.LauncherFactory),
    ComponentKind("tracker", "trackers", "hydrakit_trackers", hooks.TrackerFactory),
    ComponentKind("command", "commands", "hydrakit_commands", click.Command),
)
_BY_HOOK = {kind.hook: kind for kind in KINDS}


def _kind_of(component_class: type) -> ComponentKind:
    return next(kind for kind in KINDS if issubclass(component_class, kind.type))


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """A plugin, as ``hydrakit plugins list`` prints it.

    Attributes:
        name: Name of its entry point.
        module: Module that the entry point names.
        distribution: Installed distribution with the entry point.
        version: Version of the distribution.
        offers: Names of its components, by name of their kind.
        disabled: Whether the user disabled it; it is then not imported, and offers nothing.
        error: Why it could not be loaded, on one line; it then offers nothing.
        clashes: For each component that another plugin offers too, the message that says so.
        import_ms: Milliseconds that its import and its hooks took; None if it was not imported. A
            package that several plugins import counts for the first of them.
    """

    name: str
    module: str
    distribution: str
    version: str
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    disabled: bool = False
    error: str | None = None
    clashes: tuple[str, ...] = ()
    import_ms: float | None = field(default=None, compare=False)

    @property
    def source(self) -> PluginSource:
        """The plugin, as error messages name it."""
        return PluginSource(self.module, self.distribution, self.version)

    @property
    def names(self) -> set[str]:
        """Names by which users can describe and disable it."""
        return {self.name, self.distribution}

    def offered(self, kind: type) -> tuple[str, ...]:
        """Names of its components of a kind, which is given by the class of the components."""
        return self.offers.get(_kind_of(kind).name, ())

    def to_json(self) -> dict[str, Any]:
        """The plugin as a JSON-ready record, with a list of names for each kind."""
        record = {each.name: getattr(self, each.name) for each in fields(self)}
        offers = record.pop("offers")
        record["clashes"] = list(self.clashes)
        return record | {kind.plural: list(offers.get(kind.name, ())) for kind in KINDS}


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """The components of the installed plugins.

    Its methods take the class of the components as their kind: ``plugins.get(HeadFactory, "mlp")``.

    Attributes:
        components: Components by the name of their kind and by their own name.
        records: The plugins.
        clashes: Why a component cannot be used, by the name of its kind and its own name.
        data: Folder in which declared datasets were looked for, for messages; None if in none.
    """

    components: Mapping[str, Mapping[str, Any]]
    records: tuple[PluginRecord, ...] = ()
    clashes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    data: Path | None = None

    @classmethod
    def of(cls, *components: Any) -> Plugins:
        """Only these components, unguarded and without a plugin."""
        return cls(components={}).including(*components)

    def including(self, *components: Any) -> Plugins:
        """These plugins with further components, which replace any of the same kind and name."""
        known = {kind: dict(named) for kind, named in self.components.items()}
        for each in components:
            known.setdefault(_kind_of(type(each)).name, {})[each.name] = each
        return replace(self, components=known)

    def all(self, kind: type[T]) -> Mapping[str, T]:
        """All components of a kind, by name."""
        return self.components.get(_kind_of(kind).name, {})

    def get(self, kind: type[T], name: str, *, origin: str | None = None) -> T:
        """The component of a kind with a name.

        Args:
            kind: Class of the component, such as `hydrakit.hooks.HeadFactory`.
            name: Name of the component.
            origin: Distribution and version that offered it earlier, such as ``hydrakit-skin 1.2``,
                for the message; None if unknown.

        Raises:
            PluginError: No plugin offers it, or several do.
        """
        known, kind_name = self.all(kind), _kind_of(kind).name
        if name in known:
            return known[name]
        if (kind_name, name) in self.clashes:
            raise PluginError(self.clashes[kind_name, name])
        message = unknown(kind_name, name, known)
        if origin is not None:
            message = f"unknown {kind_name} {name!r}: it came from {self._whereabouts(origin)}"
        if issubclass(kind, DatasetAdapter) and self.data is not None and is_name(name):
            message += _undeclared(self.data, name)
        broken = [f"{each.name} ({each.distribution})" for each in self.records if each.error]
        disabled = [f"{each.name} ({each.distribution})" for each in self.records if each.disabled]
        if broken:
            message += f"; not loaded: {', '.join(broken)}, see `hydrakit plugins list`"
        if disabled:
            message += f"; disabled: {', '.join(disabled)}"
        raise PluginError(message)

    def _whereabouts(self, origin: str) -> str:
        """A distribution with its version, and how users get it."""
        distribution = origin.rpartition(" ")[0]
        installed = {each.source.release for each in self.records}
        if origin in installed:
            return f"{origin}, which is installed"
        other = [each for each in sorted(installed) if each.rpartition(" ")[0] == distribution]
        if other:
            return f"{origin}, and {other[0]} is installed: install that version again"
        return f"{origin}, which is not installed: install it if you trust its source"

    def source_of(self, kind: type, name: str) -> PluginSource | None:
        """The plugin that offers a component; None for hydrakit's own commands, and in `of`.

        Args:
            kind: Class of the component.
            name: Name of the component.
        """
        for plugin in self.records:
            if name in plugin.offered(kind) and name in self.all(kind):
                return plugin.source
        return None


def _undeclared(data: Path, name: str) -> str:
    """Say why a dataset of the data folder is unknown; empty if nothing there has its name."""
    if not data.is_dir():
        return f"; {data}: there is no such folder: correct `--data`"
    if not (data / name).is_dir():
        return ""
    command = command_line("hydrakit", "datasets", "new", data / name)
    return f"; {data / name} has no dataset.toml: `{command}` writes one"


def disabled_by_environment() -> frozenset[str]:
    """The names in the environment variable ``HYDRAKIT_NO_PLUGINS``."""
    names = (name.strip() for name in os.environ.get(DISABLED, "").split(","))
    return frozenset(name for name in names if name)


@functools.cache
def load_plugins(disabled: frozenset[str] | None = None) -> Plugins:
    """Load the installed plugins, once per process (``load_plugins.cache_clear()`` repeats it).

    A broken plugin raises no exception: `Plugins.records` holds its error.

    Args:
        disabled: Names of entry points or distributions, whose plugins are not imported; None takes
            the names in the environment variable ``HYDRAKIT_NO_PLUGINS``, separated by commas.

    Raises:
        PluginError: No plugin has a name in ``disabled``.
    """
    if disabled is None:
        return load_plugins(disabled_by_environment())
    entries, broken = _entry_points()
    _refuse_unknown(disabled, entries)
    manager = pluggy.PluginManager("hydrakit")
    manager.add_hookspecs(hooks)
    loaded = [_load(entry, disabled, manager) for entry in entries]
    clashes = _clashes(loaded)
    components = {
        kind.name: MappingProxyType(
            {
                name: component
                for _, offers in loaded
                for (kind_name, name), component in offers.items()
                if kind_name == kind.name and (kind_name, name) not in clashes
            }
        )
        for kind in KINDS
    }
    records = (
        replace(record, clashes=tuple(clashes[key] for key in offers if key in clashes))
        for record, offers in loaded
    )
    return Plugins(
        components=MappingProxyType(components),
        records=(*records, *broken),
        clashes=MappingProxyType(clashes),
    )


Offers = dict[tuple[str, str], Any]  # component by the name of its kind and its own name


def installed_plugins() -> list[PluginRecord]:
    """The plugins that are installed, as their metadata names them: none is imported."""
    return [entry.record for entry in _entry_points()[0]]


def components_of(module: str) -> Offers:
    """Import a plugin; its components, unguarded, by the name of their kind and their own name.

    Args:
        module: Module that its entry point names, perhaps with an object in it: ``package:plugin``.

    Raises:
        PluginError: It is no valid plugin, or offers nothing.
    """
    manager = pluggy.PluginManager("hydrakit")
    manager.add_hookspecs(hooks)
    if not _is_module(module):
        name = next((each.name for each in installed_plugins() if each.module == module), "plugin")
        refuse_no_module(name, module)
    point = metadata.EntryPoint(name="plugin", value=module, group=hooks.ENTRY_POINT_GROUP)
    offers = _collect(point.load(), manager)
    if not offers:
        raise PluginError(
            "offers no component: a hook must be a function of the module that the entry point "
            "names, marked with @hookimpl, and yield its descriptions"
        )
    return offers


class _Entry(NamedTuple):
    """An entry point, and the record of its plugin before it is loaded."""

    point: metadata.EntryPoint
    record: PluginRecord

    @property
    def order(self) -> tuple[str, bool, str]:
        """Sorting key; hydrakit's own distribution comes last among equal names."""
        distribution = self.record.distribution
        return self.record.name, distribution == DISTRIBUTION, distribution


def _entry_points() -> tuple[list[_Entry], list[PluginRecord]]:
    """Find the entry points, one for each plugin, and the distributions with broken metadata.

    If a distribution is twice on the search path, the first place counts, as it does for imports.
    If two distributions name the same plugin, the one that is not hydrakit's own counts: a shipped
    plugin can also be installed alone.
    """
    by_distribution: dict[str, list[_Entry]] = {}
    broken: list[PluginRecord] = []
    for distribution in metadata.distributions():
        try:
            entries = _entries_of(distribution)
        except Exception as error:
            broken.append(_unreadable(distribution, error))
            continue
        if entries:
            canonical = _canonical(entries[0].record.distribution)
            by_distribution.setdefault(canonical, entries)
    entries = [entry for each in by_distribution.values() for entry in each]
    by_module: dict[str, _Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.order):
        by_module.setdefault(entry.point.value, entry)
    return list(by_module.values()), broken


def _entries_of(distribution: metadata.Distribution) -> list[_Entry]:
    # Parse only files that name the group: it is quick, and broken files of others do no harm.
    if f"[{hooks.ENTRY_POINT_GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
        return []
    points = distribution.entry_points.select(group=hooks.ENTRY_POINT_GROUP)
    values = dict(distribution.metadata.json)  # .metadata[...] warns if a field is missing (3.12)
    name, version = (str(values.get(key) or f"no {key}") for key in ("name", "version"))
    return [
        _Entry(
            point,
            PluginRecord(name=point.name, module=point.value, distribution=name, version=version),
        )
        for point in points
    ]


def _unreadable(distribution: metadata.Distribution, error: Exception) -> PluginRecord:
    where = distribution.locate_file("")
    message = f"a distribution in {where} is broken ({_one_line(error)}): install it again"
    return PluginRecord(name="?", module="?", distribution="?", version="?", error=message)


def _refuse_unknown(disabled: Iterable[str], entries: Iterable[_Entry]) -> None:
    known = {name for entry in entries for name in entry.record.names}
    for name in sorted(disabled):
        if name not in known:
            raise PluginError(f"{unknown('plugin', name, known)} (see `hydrakit plugins list`)")


def _load(
    entry: _Entry, disabled: frozenset[str], manager: pluggy.PluginManager
) -> tuple[PluginRecord, Offers]:
    """Import a plugin and collect its components; its record holds any error."""
    record = entry.record
    if disabled & record.names:
        return replace(record, disabled=True), {}
    begun = time.perf_counter()
    try:
        with record.source.running("its import"):
            refuse_no_module(record.name, record.module)
            plugin = entry.point.load()
            _refuse_other_api(plugin)
            offers = _collect(plugin, manager)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may call sys.exit() while it is imported
        return replace(
            record,
            error=f"{_one_line(error)}{_needed_version(error, entry.point)}",
            import_ms=_milliseconds_since(begun),
        ), {}
    record = replace(record, import_ms=_milliseconds_since(begun))
    names: dict[str, tuple[str, ...]] = {}
    for kind, name in offers:
        names[kind] = (*names.get(kind, ()), name)
    if offers:
        remember_package(record.source)
    guarded = {key: guard(component, record.source) for key, component in offers.items()}
    return replace(record, offers=names), guarded


def refuse_no_module(name: str, value: str) -> None:
    """Refuse an entry point whose value has not the form of a module, or of an object in one.

    Args:
        name: Name of the entry point.
        value: What it names.

    Raises:
        PluginError: The value has another form.
    """
    if not _is_module(value):
        raise PluginError(
            f"entry point {name!r} names {value!r}, which is no module: give the name that "
            "`import` takes"
        )


def _is_module(value: str) -> bool:
    """Whether an entry point can name this: ``package.module:object [extra]``, for instance."""
    module, colon, attribute = value.partition("[")[0].partition(":")
    names = [*module.split("."), *(attribute.split(".") if colon else ())]
    return all(name.strip().isidentifier() for name in names)


def _milliseconds_since(begun: float) -> float:
    return round(1000 * (time.perf_counter() - begun), 1)


class _OtherApiError(PluginError):
    """A plugin was written for another hook API."""


def _refuse_other_api(plugin: object) -> None:
    """Refuse a plugin that states another hook API than that of `hydrakit.hooks`."""
    stated = getattr(plugin, API_NAME, hooks.API)
    if type(stated) is not int or stated < 1:
        raise PluginError(f"states {API_NAME} = {stated!r}: a whole number from 1 is expected")
    if stated != hooks.API:
        raise _OtherApiError(f"was written for hook API {stated}, not {hooks.API}")


def _needed_version(error: BaseException, point: metadata.EntryPoint) -> str:
    """Which hydrakit a plugin asks for, if it was written for another one; empty for other errors.

    It says so, or it imports a name from hydrakit that this version does not have.
    """
    missing = error.name if isinstance(error, ImportError) else None
    if not isinstance(error, _OtherApiError) and (missing or "").partition(".")[0] != "hydrakit":
        return ""
    asked = [
        each
        for each in (point.dist.requires if point.dist else None) or ()
        if ";" not in each and _canonical(re.split(r"[^\w.-]", each)[0]) == DISTRIBUTION
    ]
    asks = f"it asks for {one_line(asked[0], 100)}, and " if asked else ""
    return (
        f": {asks}{DISTRIBUTION} {version()} is installed: install another version of the plugin "
        "or of hydrakit"
    )


def _canonical(distribution: str) -> str:
    return re.sub("[-_.]+", "-", distribution).lower()


def _collect(plugin: object, manager: pluggy.PluginManager) -> Offers:
    """Call all hooks of a plugin, and check what they yield.

    The manager holds this plugin alone meanwhile; it checks its hooks, such as their parameters.
    """
    _refuse_wrong_hooks(plugin)
    try:
        manager.register(plugin)
        return _offers(manager)
    finally:
        if manager.is_registered(plugin):  # a plugin that fails validation may not be
            manager.unregister(plugin)


def _offers(manager: pluggy.PluginManager) -> Offers:
    offers: Offers = {}
    for kind in KINDS:
        for component in _call(getattr(manager.hook, kind.hook), kind.hook):
            name = _checked_name(component, kind)
            if (kind.name, name) in offers:
                raise PluginError(f"offers the {kind.name} {name!r} twice")
            offers[kind.name, name] = component
    return offers


def _call(caller: pluggy.HookCaller, hook: str) -> Iterator[object]:
    try:
        results = [list(result) for result in caller()]
    except Exception as error:
        raise PluginError(f"{hook}: {_one_line(error)}") from error
    if caller.get_hookimpls() and not results:
        raise PluginError(f"{hook} returned None: let it yield its descriptions")
    for result in results:
        yield from result


def _refuse_wrong_hooks(plugin: object) -> None:
    """Raise PluginError if a function looks like a hook but would never be called.

    pluggy's `check_pending` finds only marked functions, and does not suggest the right name.
    """
    for name, function in inspect.getmembers(plugin, inspect.isroutine):
        marked = getattr(function, "hydrakit_impl", None)
        hook = (marked and marked.get("specname")) or name
        if hook in _BY_HOOK and marked is None:
            raise PluginError(f"{name} is not marked: put @hookimpl above it")
        if hook not in _BY_HOOK and (marked or name.startswith("hydrakit_")):
            raise PluginError(unknown("hook", hook, _BY_HOOK))


def _checked_name(component: Any, kind: ComponentKind) -> str:
    """Check a component, and return its name.

    Raises:
        PluginError: It has the wrong class, or one of its attributes is invalid.
    """
    if not isinstance(component, kind.type):
        raise PluginError(
            f"{kind.hook} yielded a {type(component).__name__}: expected {kind.type.__name__}"
        )
    name: object = getattr(component, "name")  # noqa: B009 - all kinds have it
    if not is_name(name):
        raise PluginError(
            f"{kind.hook} yielded the name {name!r}: lower-case letters, digits, '-' and '_' are "
            "allowed, at most 64, a letter or digit first, and no device of Windows (such as con)"
        )
    fault = _fault(component)
    if fault:
        raise PluginError(f"{kind.name} {name!r} {fault}")
    return str(name)


def _fault(component: Any) -> str | None:
    """What is wrong with a component apart from its name, or None."""
    if isinstance(component, click.Command) and component.name in OWN_COMMANDS:
        return "is one of hydrakit's own commands"
    if isinstance(component, hooks.Factory) and (fault := options_fault(component.options)):
        return fault
    if isinstance(component, DatasetAdapter):
        return _classes_fault(component)
    if isinstance(component, hooks.BodyFactory) and "patch" not in {
        each.name for each in fields(component.options)
    }:
        return "has no option 'patch': height and width of its input images in pixels"
    return None


def _classes_fault(adapter: DatasetAdapter) -> str | None:
    """What is wrong with the class names of an adapter, or None."""
    classes = adapter.classes
    least, most, expected = {
        "regression": (1, 1, "one name, that of the number"),
        "multilabel": (1, 999, "one or more different names"),
    }.get(adapter.task, (2, 999, "two or more different names"))
    distinct = isinstance(classes, tuple) and len(set(classes)) == len(classes)
    if not distinct or not least <= len(classes) <= most:
        return f"has classes {classes!r}: a tuple of {expected} is expected"
    for name in classes:
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_CLASS:
            return f"has a class {name!r}: text of one line is expected"
    if adapter.task == "multilabel" and (unsure := {f"{name}?" for name in classes} & {*classes}):
        return f"has a class {min(unsure)!r}, which means that another class is unknown: rename one"
    return None


def _clashes(loaded: Sequence[tuple[PluginRecord, Offers]]) -> dict[tuple[str, str], str]:
    """For each component that several plugins offer, a message that names them."""
    plugins: dict[tuple[str, str], list[str]] = {}
    for record, offers in loaded:
        for key in offers:
            plugins.setdefault(key, []).append(f"{record.distribution} ({record.module})")
    return {
        (kind, name): f"{kind} {name!r} is offered by {' and by '.join(names)}: uninstall one"
        for (kind, name), names in plugins.items()
        if len(names) > 1
    }


def _one_line(error: BaseException) -> str:
    text = one_line(str(error))
    if isinstance(error, PluginError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
