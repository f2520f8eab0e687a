"""Find the plugins, and keep one that is broken from harming the others.

A plugin is what an entry point of the group ``hydrakit`` names, in any installed distribution. Each
is loaded on its own: an error is written into its `PluginRecord`, and that plugin then offers
nothing. Names are compared at the end: a name that two plugins offer can be used from neither,
while everything else of theirs works.

What kinds of component there are is one table, `KINDS`: a new kind is a dataclass and a hook in
`hydrakit.hooks`, and a row here.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from types import MappingProxyType
from typing import Any, TypeVar

import click
import pluggy

from hydrakit import hooks
from hydrakit.errors import PluginError, one_line, unknown
from hydrakit.hooks import DatasetAdapter
from hydrakit.names import OWN_COMMANDS, is_name
from hydrakit.plugins import guard
from hydrakit.plugins.guard import PluginSource
from hydrakit.plugins.options import options_fault

MAX_CLASS = 200  # characters of a class's name

OWN_DISTRIBUTION = "hydrakit-imaging"
DISABLED = "HYDRAKIT_NO_PLUGINS"

T = TypeVar("T")


def _no_fault(_: Any) -> str | None:
    return None


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
    return None


def _body_fault(factory: hooks.BodyFactory) -> str | None:
    if "patch" not in {each.name for each in fields(factory.options)}:
        return "has no option 'patch': the side in pixels of the images that it takes"
    return None


def _command_fault(command: click.Command) -> str | None:
    return "is one of hydrakit's own commands" if command.name in OWN_COMMANDS else None


def _unguarded(offer: Any, _: PluginSource) -> Any:
    return offer


@dataclass(frozen=True, kw_only=True)
class ComponentKind:
    """A kind of component.

    Attributes:
        name: In messages.
        plural: In lists.
        hook: The hook that gives its descriptions.
        type: The class of these.
        fault: What is wrong with a description besides its name and options, or None.
        guarded: A description whose functions name the plugin when they fail.
    """

    name: str
    plural: str
    hook: str
    type: type
    fault: Callable[[Any], str | None] = _no_fault
    guarded: Callable[[Any, PluginSource], Any]


KINDS = (
    ComponentKind(
        name="dataset",
        plural="datasets",
        hook="hydrakit_dataset_adapters",
        type=DatasetAdapter,
        fault=_adapter_fault,
        guarded=guard.guard_dataset,
    ),
    ComponentKind(
        name="head",
        plural="heads",
        hook="hydrakit_head_factories",
        type=hooks.HeadFactory,
        guarded=guard.guard_head,
    ),
    ComponentKind(
        name="body",
        plural="bodies",
        hook="hydrakit_body_factories",
        type=hooks.BodyFactory,
        fault=_body_fault,
        guarded=guard.guard_body,
    ),
    ComponentKind(
        name="strategy",
        plural="strategies",
        hook="hydrakit_sequence_strategies",
        type=hooks.SequenceStrategy,
        guarded=guard.guard_strategy,
    ),
    ComponentKind(
        name="launcher",
        plural="launchers",
        hook="hydrakit_launchers",
        type=hooks.LauncherFactory,
        guarded=guard.guard_launcher,
    ),
    ComponentKind(
        name="tracker",
        plural="trackers",
        hook="hydrakit_trackers",
        type=hooks.TrackerFactory,
        guarded=guard.guard_tracker,
    ),
    ComponentKind(
        name="command",
        plural="commands",
        hook="hydrakit_commands",
        type=click.Command,
        fault=_command_fault,
        guarded=_unguarded,
    ),
)
_BY_HOOK = {kind.hook: kind for kind in KINDS}


def _kind_of(described: type) -> ComponentKind:
    """The kind of a class of descriptions."""
    return next(kind for kind in KINDS if issubclass(described, kind.type))


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One plugin, as `hydrakit plugins list` shows it.

    Attributes:
        name: Name of its entry point. It says what the author calls the plugin.
        module: What the entry point names.
        distribution: The installed distribution that has the entry point.
        version: Version of the distribution.
        offers: Names of its components, by the name of their kind.
        disabled: Whether the user switched it off; it is then not imported, and offers nothing.
        error: Why the plugin could not be loaded, on one line; it then offers nothing.
        clashes: Names of its own that cannot be used because others offer them too, and who.
    """

    name: str
    module: str
    distribution: str
    version: str
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    disabled: bool = False
    error: str | None = None
    clashes: tuple[str, ...] = ()

    def offered(self, kind: type) -> tuple[str, ...]:
        """Names of its components of a kind, which is given by the class of their descriptions."""
        return self.offers.get(_kind_of(kind).name, ())

    def to_json(self) -> dict[str, Any]:
        """The plugin as a JSON-ready record, with a list of names for each kind."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        offers = told.pop("offers")
        told["clashes"] = list(self.clashes)
        return told | {kind.plural: list(offers.get(kind.name, ())) for kind in KINDS}


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """The components of the installed plugins, and what is wrong with these.

    A kind is asked for by the class of its descriptions: ``plugins.get(HeadFactory, "mlp")``.

    Attributes:
        components: Descriptions by the name of their kind, and by their own name.
        records: The plugins.
        clashes: Why a name cannot be used, by kind and name.
    """

    components: Mapping[str, Mapping[str, Any]]
    records: tuple[PluginRecord, ...] = ()
    clashes: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, *descriptions: Any) -> Plugins:
        """These components alone, as they are, without any plugin."""
        return cls(components={}).including(*descriptions)

    def including(self, *descriptions: Any) -> Plugins:
        """The same with these components, in place of any of the same kind and name."""
        components = {kind: dict(known) for kind, known in self.components.items()}
        for each in descriptions:
            components.setdefault(_kind_of(type(each)).name, {})[each.name] = each
        return replace(self, components=components)

    def all(self, kind: type[T]) -> Mapping[str, T]:
        """The components of a kind, by name."""
        return self.components.get(_kind_of(kind).name, {})

    def get(self, kind: type[T], name: str) -> T:
        """The component of a kind with that name.

        Raises:
            PluginError: Nobody offers it, or more than one plugin does.
        """
        known, word = self.all(kind), _kind_of(kind).name
        if name in known:
            return known[name]
        if (word, name) in self.clashes:
            raise PluginError(self.clashes[word, name])
        message = unknown(word, name, known)
        broken = [f"{each.name} ({each.distribution})" for each in self.records if each.error]
        disabled = [f"{each.name} ({each.distribution})" for each in self.records if each.disabled]
        if broken:
            message += f"; not loaded: {', '.join(broken)}, see `hydrakit plugins list`"
        if disabled:
            message += f"; disabled: {', '.join(disabled)}"
        raise PluginError(message)

    def source_of(self, command: str) -> PluginSource | None:
        """Who offers a command; None for one of hydrakit's own."""
        for plugin in self.records:
            if command in plugin.offered(click.Command) and command in self.all(click.Command):
                return PluginSource(plugin.module, plugin.distribution, plugin.version)
        return None


def disabled_by_environment() -> frozenset[str]:
    """The names that the environment variable ``HYDRAKIT_NO_PLUGINS`` lists."""
    names = (name.strip() for name in os.environ.get(DISABLED, "").split(","))
    return frozenset(name for name in names if name)


@functools.cache
def load_plugins(disabled: frozenset[str] | None = None) -> Plugins:
    """The installed plugins, loaded once per process (``load_plugins.cache_clear()`` forgets them).

    Never fails because of a plugin: `Plugins.records` says which are broken, and why.

    Args:
        disabled: Names of entry points, or of distributions, whose plugins are not imported; None
            for those that the environment variable ``HYDRAKIT_NO_PLUGINS`` names, with commas.

    Raises:
        PluginError: No plugin has a name that is to be disabled.
    """
    if disabled is None:
        return load_plugins(disabled_by_environment())
    entries, broken = _entry_points()
    _refuse_unknown(disabled, entries)
    loaded = [_load(entry, disabled) for entry in entries]
    clashes = _clashes(loaded)
    components: dict[str, Mapping[str, Any]] = {}
    for kind in KINDS:
        offers = ((name, offer) for _, all_ in loaded for k, name, offer in all_ if k == kind.name)
        components[kind.name] = MappingProxyType(
            {name: offer for name, offer in offers if (kind.name, name) not in clashes}
        )
    return Plugins(
        components=MappingProxyType(components),
        records=(*(_with_clashes(plugin, offers, clashes) for plugin, offers in loaded), *broken),
        clashes=MappingProxyType(clashes),
    )


Offer = tuple[str, str, Any]  # kind, name, description


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


def _names_of(entry: _Entry) -> set[str]:
    """The names by which a plugin can be disabled."""
    return {entry.point.name, entry.distribution}


def _refuse_unknown(disabled: Iterable[str], entries: Iterable[_Entry]) -> None:
    known = {name for entry in entries for name in _names_of(entry)}
    for name in sorted(disabled):
        if name not in known:
            raise PluginError(f"{unknown('plugin', name, known)} (it was to be disabled)")


def _load(entry: _Entry, disabled: frozenset[str]) -> tuple[PluginRecord, list[Offer]]:
    """Import one plugin and ask it for all that it offers; whatever fails is in its record."""
    plugin = PluginRecord(
        name=entry.point.name,
        module=entry.point.value,
        distribution=entry.distribution,
        version=entry.version,
    )
    if disabled & _names_of(entry):
        return replace(plugin, disabled=True), []
    try:
        offers = list(_ask(entry.point.load()))
        _refuse_repeats(offers)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may call sys.exit() while it is imported
        return replace(plugin, error=_one_line(error)), []
    source = PluginSource(plugin.module, plugin.distribution, plugin.version)
    offers = [
        (kind.name, name, kind.guarded(offer, source))
        for kind in KINDS
        for each, name, offer in offers
        if each == kind.name
    ]
    names = {
        kind.name: tuple(name for each, name, _ in offers if each == kind.name) for kind in KINDS
    }
    return replace(plugin, offers={kind: each for kind, each in names.items() if each}), offers


def _ask(plugin: object) -> Iterator[Offer]:
    """Call the hooks of one plugin, and check each answer.

    The plugin gets a manager of its own: pluggy then finds its faults alone, such as parameters
    that a hook has not.
    """
    _refuse_what_is_no_hook(plugin)
    manager = pluggy.PluginManager("hydrakit")
    manager.add_hookspecs(hooks)
    manager.register(plugin)
    for kind in KINDS:
        for offer in _answers(getattr(manager.hook, kind.hook), kind.hook):
            yield kind.name, _checked_name(offer, kind), offer


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
        if hook in _BY_HOOK and marked is None:
            raise PluginError(f"{name} is not marked: put @hookimpl above it")
        if hook not in _BY_HOOK and (marked or name.startswith("hydrakit_")):
            raise PluginError(unknown("hook", hook, _BY_HOOK))


def _checked_name(offer: Any, kind: ComponentKind) -> str:
    """The name of a description, once all of it is known to be sound.

    Raises:
        PluginError: It is of another class than its hook gives, or something in it is wrong.
    """
    if not isinstance(offer, kind.type):
        raise PluginError(
            f"{kind.hook} gave a {type(offer).__name__}: expected {kind.type.__name__}"
        )
    name: object = getattr(offer, "name")  # noqa: B009 - every kind has one
    if not is_name(name):
        raise PluginError(
            f"{kind.hook} gave the name {name!r}: lower-case letters, digits, '-' and '_' are "
            "allowed, at most 64, and a letter or digit first"
        )
    fault = options_fault(offer.options) if isinstance(offer, hooks.Factory) else None
    fault = fault or kind.fault(offer)
    if fault:
        raise PluginError(f"{kind.name} {name!r} {fault}")
    return str(name)


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
