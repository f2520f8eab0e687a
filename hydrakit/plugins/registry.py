"""Find the plugins, and keep one that is broken from harming the others.

A plugin is what an entry point of the group ``hydrakit`` names, in any installed distribution. Each
is loaded on its own: an error is written into its `PluginRecord`, and that plugin then offers
nothing. Names are compared at the end: a name that two plugins offer can be used from neither,
while everything else of theirs works.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from hydrakit import hooks
from hydrakit.errors import PluginError, one_line, unknown
from hydrakit.hooks import DatasetAdapter, HeadFactory, SequenceStrategy
from hydrakit.names import OWN_COMMANDS, is_name
from hydrakit.plugins.guard import PluginSource, guarded

if TYPE_CHECKING:
    import click

MAX_CLASS = 200  # characters of a class's name

OWN_DISTRIBUTION = "hydrakit-imaging"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One plugin, as `hydrakit plugins list` shows it.

    Attributes:
        name: Of the entry point. It says what the author calls the plugin and decides nothing.
        module: What the entry point names.
        distribution: The installed distribution that has the entry point.
        version: Of the distribution.
        datasets: Names that the plugin offers; so with heads, strategies and commands.
        error: Why the plugin could not be loaded, on one line; it then offers nothing.
        clashes: Names of its own that cannot be used because others offer them too, and who.
    """

    name: str
    module: str
    distribution: str
    version: str
    datasets: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    error: str | None = None
    clashes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """All that the installed plugins offer, by name, and what was found wrong with them."""

    datasets: Mapping[str, DatasetAdapter]
    heads: Mapping[str, HeadFactory]
    strategies: Mapping[str, SequenceStrategy]
    commands: Mapping[str, click.Command]
    found: tuple[PluginRecord, ...]
    clashes: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def dataset(self, name: str) -> DatasetAdapter:
        """The dataset adapter of that name.

        Raises:
            PluginError: Nobody offers it, or more than one plugin does.
        """
        return self._choose("dataset", name, self.datasets)

    def head(self, name: str) -> HeadFactory:
        """The head factory of that name.

        Raises:
            PluginError: Nobody offers it, or more than one plugin does.
        """
        return self._choose("head", name, self.heads)

    def strategy(self, name: str) -> SequenceStrategy:
        """The strategy of that name.

        Raises:
            PluginError: Nobody offers it, or more than one plugin does.
        """
        return self._choose("strategy", name, self.strategies)

    def get(self, kind: str, name: str) -> Any:
        if kind == "launcher":
            from hydrakit.compare.launchers import hydrakit_launchers as h
        elif kind == "tracker":
            from hydrakit.observers.trackers import hydrakit_trackers as h
        else:
            return getattr(self, kind)(name)
        return {f.name: f for f in h()}[name]

    def source_of(self, command: str) -> PluginSource | None:
        """Who offers a command; None for one of hydrakit's own."""
        for plugin in self.found:
            if command in plugin.commands and command in self.commands:
                return PluginSource(plugin.module, plugin.distribution, plugin.version)
        return None

    def records(self) -> list[dict[str, Any]]:
        """The plugins as JSON-ready records, in the order of `found`."""
        return [
            {key: list(value) if isinstance(value, tuple) else value for key, value in items}
            for items in (vars(plugin).items() for plugin in self.found)
        ]

    def _choose(self, kind: str, name: str, known: Mapping[str, T]) -> T:
        if name in known:
            return known[name]
        if (kind, name) in self.clashes:
            raise PluginError(self.clashes[kind, name])
        message = unknown(kind, name, known)
        broken = [f"{plugin.name} ({plugin.distribution})" for plugin in self.found if plugin.error]
        if broken:
            message += f"; not loaded: {', '.join(broken)}, see `hydrakit plugins list`"
        raise PluginError(message)


@functools.cache
def load_plugins() -> Plugins:
    """The installed plugins, found once per process (``load_plugins.cache_clear()`` forgets them).

    Never fails because of a plugin: `Plugins.found` tells which are broken, and why.
    """
    entries, broken = _entry_points()
    loaded = [_load(entry) for entry in entries]
    clashes = _clashes(loaded)

    def named(kind: str) -> Mapping[str, Any]:
        offers = ((name, offer) for _, all_ in loaded for k, name, offer in all_ if k == kind)
        return MappingProxyType({n: offer for n, offer in offers if (kind, n) not in clashes})

    return Plugins(
        datasets=named("dataset"),
        heads=named("head"),
        strategies=named("strategy"),
        commands=named("command"),
        found=(*(_with_clashes(plugin, offers, clashes) for plugin, offers in loaded), *broken),
        clashes=MappingProxyType(clashes),
    )


Offer = tuple[str, str, Any]  # kind, name, description


@dataclass(frozen=True)
class _Kind:
    """What one hook gives: its kind, the plural that `PluginRecord` uses, and its class."""

    name: str
    plural: str
    type: Callable[[], type]


def _command_type() -> type:
    import click

    return click.Command


_KINDS = {
    "hydrakit_dataset_adapters": _Kind("dataset", "datasets", lambda: DatasetAdapter),
    "hydrakit_head_factories": _Kind("head", "heads", lambda: HeadFactory),
    "hydrakit_sequence_strategies": _Kind("strategy", "strategies", lambda: SequenceStrategy),
    "hydrakit_commands": _Kind("command", "commands", _command_type),
}


@dataclass(frozen=True)
class _Entry:
    """An entry point and who has it."""

    point: metadata.EntryPoint
    distribution: str
    version: str


def _entry_points() -> tuple[list[_Entry], list[PluginRecord]]:
    """The entry points of the group, each plugin once, and the distributions that are unreadable.

    One distribution may lie twice on the search path: its first place counts, as for imports. And
    one plugin may be named by two distributions, since the toolkit's own carries the shipped
    plugins that also exist alone: the plugin's own distribution is then the one shown.
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
            canonical = re.sub("[-_.]+", "-", entries[0].distribution).lower()
            by_distribution.setdefault(canonical, entries)
    by_module: dict[str, _Entry] = {}
    for entries in by_distribution.values():
        for entry in entries:
            known = by_module.get(entry.point.value)
            if known is None or _order(entry) < _order(known):
                by_module[entry.point.value] = entry
    return sorted(by_module.values(), key=_order), broken


def _entries_of(distribution: metadata.Distribution) -> list[_Entry]:
    # Parsing only where the group is named keeps this quick, and leftovers of other packages quiet.
    if f"[{hooks.ENTRY_POINT_GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
        return []
    points = distribution.entry_points.select(group=hooks.ENTRY_POINT_GROUP)
    told = dict(distribution.metadata.json)  # asking for a missing field warns from 3.12 on
    name, version = (str(told.get(field) or f"no {field}") for field in ("name", "version"))
    return [_Entry(point, name, version) for point in points]


def _unreadable(distribution: metadata.Distribution, error: Exception) -> PluginRecord:
    where = distribution.locate_file("")
    message = f"a distribution in {where} is broken ({_one_line(error)}): install it again"
    return PluginRecord(name="?", module="?", distribution="?", version="?", error=message)


def _order(entry: _Entry) -> tuple[str, bool, str]:
    return entry.point.name, entry.distribution == OWN_DISTRIBUTION, entry.distribution


def _load(entry: _Entry) -> tuple[PluginRecord, list[Offer]]:
    """Import one plugin and ask it for all that it offers; whatever fails is in its record."""
    plugin = PluginRecord(
        name=entry.point.name,
        module=entry.point.value,
        distribution=entry.distribution,
        version=entry.version,
    )
    try:
        offers = list(_ask(entry.point.load()))
        _refuse_repeats(offers)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may call sys.exit() while it is imported
        return replace(plugin, error=_one_line(error)), []
    source = PluginSource(plugin.module, plugin.distribution, plugin.version)
    offers = [(kind, name, guarded(offer, source)) for kind, name, offer in offers]
    names: dict[str, Any] = {
        kind.plural: tuple(name for k, name, _ in offers if k == kind.name)
        for kind in _KINDS.values()
    }
    return replace(plugin, **names), offers


def _ask(plugin: object) -> Iterator[Offer]:
    """Call the hooks of one plugin, and check each answer.

    The plugin gets a manager of its own: pluggy then finds its faults alone, such as parameters
    that a hook has not.
    """
    _refuse_what_is_no_hook(plugin)
    manager = pluggy.PluginManager("hydrakit")
    manager.add_hookspecs(hooks)
    manager.register(plugin)
    for hook, kind in _KINDS.items():
        for offer in _answers(getattr(manager.hook, hook), hook):
            yield kind.name, _checked_name(offer, hook, kind), offer


def _answers(caller: pluggy.HookCaller, hook: str) -> list[object]:
    """All that one plugin gives for one hook."""
    try:
        answers = [list(answer) for answer in caller()]
    except Exception as error:
        raise PluginError(f"{hook}: {_one_line(error)}") from error
    if caller.get_hookimpls() and not answers:
        raise PluginError(f"{hook} returned None: let it yield its descriptions")
    return [offer for answer in answers for offer in answer]


def _refuse_what_is_no_hook(plugin: object) -> None:
    """Raise PluginError for a function that looks like a hook and would never be called.

    pluggy's `check_pending` finds only those that are marked, and does not say what was meant.
    """
    for name, function in inspect.getmembers(plugin, inspect.isroutine):
        marked = getattr(function, "hydrakit_impl", None)
        hook = (marked and marked.get("specname")) or name
        if hook in _KINDS and marked is None:
            raise PluginError(f"{name} is not marked: put @hookimpl above it")
        if hook not in _KINDS and (marked or name.startswith("hydrakit_")):
            raise PluginError(unknown("hook", hook, _KINDS))


def _checked_name(offer: object, hook: str, kind: _Kind) -> str:
    expected = kind.type()
    if not isinstance(offer, expected):
        raise PluginError(f"{hook} gave a {type(offer).__name__}: expected {expected.__name__}")
    name: object = getattr(offer, "name")  # noqa: B009 - all four kinds have one
    if not is_name(name):
        raise PluginError(
            f"{hook} gave the name {name!r}: lower-case letters, digits, '-' and '_' are allowed, "
            "at most 64, and a letter or digit first"
        )
    if kind.name == "command" and name in OWN_COMMANDS:
        raise PluginError(f"{hook} gave the command {name!r}, which is one of hydrakit's own")
    fault = _adapter_fault(offer) if isinstance(offer, DatasetAdapter) else None
    if fault:
        raise PluginError(f"dataset {name!r} {fault}")
    return str(name)


def _adapter_fault(adapter: DatasetAdapter) -> str | None:
    """What would go wrong later with an adapter's own description, or None."""
    classes = adapter.classes
    least, most = {"regression": (1, 1), "multilabel": (1, 999)}.get(adapter.task, (2, 999))
    distinct = isinstance(classes, tuple) and len(set(classes)) == len(classes)
    if not distinct or not least <= len(classes) <= most:
        few = {1: "one or more different names", 2: "two or more different names"}[least]
        few = "one name, that of the number" if most == 1 else few
        return f"has classes {classes!r}: a tuple of {few} is expected"
    for name in classes:
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_CLASS:
            return f"has a class {name!r}: text of one line is expected"
    names = [option.name for option in adapter.options]
    for option in adapter.options:
        if not is_name(option.name) or names.count(option.name) > 1:
            return f"has an option named {option.name!r} that is no name, or is there twice"
        if option.choices and option.default not in option.choices:
            return f"has an option {option.name!r} whose default is not among its choices"
    return None


def _refuse_repeats(offers: Iterable[Offer]) -> None:
    seen = set()
    for kind, name, _ in offers:
        if (kind, name) in seen:
            raise PluginError(f"offers the {kind} {name!r} twice")
        seen.add((kind, name))


def _clashes(loaded: Iterable[tuple[PluginRecord, list[Offer]]]) -> dict[tuple[str, str], str]:
    """For each kind and name that more than one plugin offers: a message that names them all."""
    who: dict[tuple[str, str], list[str]] = {}
    for plugin, offers in loaded:
        for kind, name, _ in offers:
            who.setdefault((kind, name), []).append(f"{plugin.distribution} ({plugin.module})")
    return {
        (kind, name): f"{kind} {name!r} is offered by {' and by '.join(names)}: uninstall one"
        for (kind, name), names in who.items()
        if len(names) > 1
    }


def _with_clashes(
    plugin: PluginRecord, offers: Iterable[Offer], clashes: Mapping[tuple[str, str], str]
) -> PluginRecord:
    own = tuple(clashes[kind, name] for kind, name, _ in offers if (kind, name) in clashes)
    return replace(plugin, clashes=own)


def _one_line(error: BaseException) -> str:
    text = one_line(str(error))
    if isinstance(error, PluginError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
