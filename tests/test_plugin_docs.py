"""docs/plugins.md lists every hook, and its examples work."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

from hydrakit import hooks
from hydrakit.errors import PlanError
from hydrakit.hooks import BodyFactory, HeadFactory, SequenceStrategy
from hydrakit.plugins import Plugins, load_plugins
from hydrakit.plugins.options import options_fault, parse_options

DOCS = Path(__file__).parent.parent / "docs" / "plugins.md"
Install = Callable[..., Path]


def hook_functions() -> dict[str, Callable[..., object]]:
    members = inspect.getmembers(hooks, inspect.isfunction)
    return {name: function for name, function in members if name.startswith("hydrakit_")}


def test_the_docs_list_every_hook_with_its_signature() -> None:
    expected = {
        f"def {name}{inspect.signature(function)}".replace("'", "")
        for name, function in hook_functions().items()
    }
    listed = re.findall(r"^def hydrakit_\w+\(.*\) -> .*$", DOCS.read_text(), flags=re.MULTILINE)
    assert set(listed) == expected
    assert len(expected) == 7


@pytest.mark.parametrize("description", ["DatasetAdapter", "Sample", "HeadFactory", "BodyFactory"])
def test_the_docs_name_every_field(description: str) -> None:
    text = DOCS.read_text()
    fields = [field.name for field in dataclasses.fields(getattr(hooks, description))]
    assert [name for name in fields if f"`{name}`" not in text] == []


def test_the_examples_of_the_docs_are_plugins(install: Install) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    examples = [block for block in blocks if "@hookimpl" in block]
    assert len(examples) == 4
    for number, source in enumerate(examples):
        install("docs", f"tp_docs_{number}", source)
    plugins = load_plugins()
    assert [plugin.error for plugin in plugins.records if plugin.distribution == "docs"] == [
        None
    ] * 4
    assert plugins.all(click.Command)["greet"].name == "greet"
    check_head(plugins)
    check_body(plugins)
    check_strategy(plugins)


def check_head(plugins: Plugins) -> None:
    import torch

    with torch.random.fork_rng():
        head = plugins.get(HeadFactory, "normed").build(12, 3, hooks.NoOptions())
        assert head(torch.zeros(5, 12)).shape == (5, 3)


def check_body(plugins: Plugins) -> None:
    import torch

    factory = plugins.get(BodyFactory, "pooled")
    with torch.random.fork_rng():
        body = factory.build(2, factory.options(width=4), ("brain",))
        assert body(torch.zeros(5, 2, 65, 65)).shape == (5, 4)  # type: ignore[operator]


def test_the_options_of_the_docs_are_options(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    (source,) = [block for block in blocks if "SkinOptions" in block]
    module = ModuleType("docs_options")
    monkeypatch.setitem(sys.modules, "docs_options", module)  # where the types are looked up
    exec(source, vars(module))
    options = module.SkinOptions
    factory = hooks.Factory(name="skin", summary="", options=options)
    assert options_fault(factory.options) is None
    given = parse_options(factory, {"light": "polarised", "sizes": "3", "margin": "none"})
    assert given == options(light="polarised", sizes=(3,), margin=None)
    with pytest.raises(PlanError, match=r"options of 'skin': margin is -1\.0: it cannot"):
        parse_options(factory, {"margin": -1.0})


def check_strategy(plugins: Plugins) -> None:
    from hydrakit.plan import Hyperparameters

    asked = []

    def hyperparameters(train: str, place: str) -> Hyperparameters:
        asked.append((train, place))
        return Hyperparameters(learning_rate=0.1, dropout=0, batch_size=1, epochs=1, patience=None)

    rounds = plugins.get(SequenceStrategy, "polish").plan(
        ["a", "b"], hooks.Settings(hyperparameters)
    )
    assert [(one.dataset, one.train, one.head) for one in rounds] == [
        ("a", "all", "a"),
        ("b", "all", "b"),
        ("b", "head", "b"),
    ]
    assert sorted(asked) == [("all", "first"), ("all", "middle"), ("head", "last")]
