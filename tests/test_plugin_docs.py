"""docs/plugins.md lists every hook, and its examples work."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest
from helpers import plan_of, round_of
from PIL import Image

from hydrakit import hooks
from hydrakit.errors import PlanError
from hydrakit.hooks import BodyFactory, HeadFactory, SequenceStrategy
from hydrakit.jobs.driver import JobDriver, build_launcher
from hydrakit.jobs.job import Job
from hydrakit.plugins import Plugins, load_plugins
from hydrakit.plugins.options import options_fault, parse_options
from hydrakit.runs.context import RunContext

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


def test_the_example_of_the_hooks_is_a_plugin(install: Install, tmp_path: Path) -> None:
    source = inspect.cleandoc(hooks.__doc__ or "").partition("::\n\n")[2].partition("\nEvery ")[0]
    install("docs", "tp_docs_hooks", textwrap.dedent(source))
    plugins = load_plugins()
    assert [each.error for each in plugins.records if each.distribution == "docs"] == [None]
    check_body(plugins)
    (tmp_path / "skin" / "malignant").mkdir(parents=True)
    Image.new("L", (9, 7)).save(tmp_path / "skin" / "malignant" / "patient7-2.png")
    skin = plugins.get(hooks.DatasetAdapter, "skin")
    (sample,) = skin.read(tmp_path / "skin", hooks.NoOptions())
    assert isinstance(sample, hooks.Sample)
    assert (sample.label, sample.patient) == (1, "patient7")
    assert sample.image().shape == (7, 9)  # type: ignore[operator]


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


class Ray(ModuleType):
    """Stands for Ray: a task runs when it is waited for, and several are waited for in turn."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.tasks: list[Callable[[], object]] = []
        self.asked: list[dict[str, object]] = []
        self.cancelled: list[object] = []
        self.exceptions = ModuleType("ray.exceptions")
        self.exceptions.RayError = type("RayError", (Exception,), {})  # type: ignore[attr-defined]

    def init(self, *, address: str, ignore_reinit_error: bool) -> None:
        assert (address, ignore_reinit_error) == ("auto", True)

    def remote(self, **asked: object) -> Callable[..., object]:
        self.asked.append(asked)

        def decorate(function: Callable[..., object]) -> SimpleNamespace:
            def remote(*arguments: object) -> int:
                self.tasks.append(partial(function, *arguments))
                return len(self.tasks) - 1

            return SimpleNamespace(remote=remote)

        return decorate

    def wait(
        self, tasks: list[int], *, num_returns: int, timeout: float
    ) -> tuple[list[int], list[int]]:
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task: int) -> object:
        return self.tasks[task]()

    def cancel(self, task: int) -> None:
        self.cancelled.append(task)


def test_the_launcher_for_ray_runs_jobs(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = DOCS.with_name("cluster.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    install("docs", "tp_docs_ray", source)
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    launcher = build_launcher("ray:gpus=0.5", load_plugins())
    assert isinstance(launcher, hooks.Launcher)
    assert launcher.processes(RunContext(), 3) == 3
    started: list[list[str]] = []

    def command(files: list[Path]) -> list[str]:
        started.append([path.stem for path in files])
        return [sys.executable, "-c", "raise SystemExit(3)"]

    monkeypatch.setattr("hydrakit.jobs.job.job_command", command)
    a, b = (
        Job(name=name, plan=plan_of(round_of("alpha")), out=tmp_path / name, context=RunContext())
        for name in "ab"
    )
    lost: list[str] = []
    with JobDriver(
        launcher, tmp_path / "jobs", 1, on_lost=lambda job, how: lost.append(f"{job.name}: {how}")
    ) as driver:
        driver.run([[a], [b]])
        driver.submit([[a]])
        assert launcher.states() == {"a": "waiting"}
    assert started == [["a"], ["b"], ["a"], ["b"]]
    assert lost == ["a: exit status 3", "b: exit status 3"] * 2
    assert ray.asked[0] == {"num_cpus": 1, "num_gpus": 0.5, "max_retries": 0}
    assert launcher.states() == {}
