"""hydrakit as a contender: whole runs, and their start.

With `ours` and `ours_parts` the only place of the benchmarks that knows how it is called.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks import images
from benchmarks.harness import Answer
from benchmarks.ours import adapter, folder, peak
from benchmarks.settings import Settings
from hydrakit.data.load import load
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.quality.leakage import check_leakage
from hydrakit.engine import run
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan import BodySpec, Plan
from hydrakit.plan.profiles import make_plan
from hydrakit.plugins import Plugins, load_plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.paths import using_cache


class StartPrepared:
    """What a run does before it trains, on data that is prepared: open, gate, load."""

    fresh = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.root = images.png_folder(Path(settings.work), count=settings.files)
        self.plugins = load_plugins()
        self.plan = make_plan(
            "classical", ["brain"], profile="recommended-0.1", plugins=self.plugins
        )
        self.cache = folder(Path(settings.work) / "start-cache")

    def __call__(self, repeat: int) -> Answer:
        """One start; the first one of prepared data prepares it."""
        cache = Path(tempfile.mkdtemp(dir=self.settings.work)) if self.fresh else self.cache
        began = time.perf_counter()
        chosen = self.plugins.get(DatasetAdapter, "brain")
        prepared = prepare(chosen, self.root, options={}, patch=65, cache=cache)
        with using_cache(cache):
            gate = check_leakage({"brain": prepared}, {"brain": chosen}, self.plan)
        device = torch.device(self.settings.device)
        load(prepared, chosen, splits=gate.splits["brain"], patch=65, device=device)
        seconds = time.perf_counter() - began
        if self.fresh:
            shutil.rmtree(cache)
        return Answer(seconds)


class StartFiles(StartPrepared):
    """The same from the image files, with an empty cache."""

    fresh = True


def with_datasets(adapters: Mapping[str, DatasetAdapter]) -> Plugins:
    """What is installed, with these datasets instead of its own."""
    return load_plugins().including(*adapters.values())


class Hydra:
    """A whole run of the strategy `hydra` over one, two, three, one, on prepared data."""

    strategy = "hydra"
    datasets = ("one", "two", "three", "one")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        adapters = {name: adapter(name, count=settings.plan_cases) for name in self.datasets}
        self.plugins = with_datasets(adapters)
        work = Path(settings.work)
        self.roots = {name: folder(work / "roots" / name) for name in adapters}
        for name, root in self.roots.items():
            prepare(adapters[name], root, options={}, patch=65, cache=folder(work / "cache"))

    def __call__(self, repeat: int) -> Answer:
        """One run; to warm up, one of a single epoch in each round."""
        plan = make_plan(
            self.strategy,
            self.datasets,
            profile="recommended-0.1",
            seed=repeat,
            patience=0,
            epochs=self.settings.plan_epochs if repeat else 1,
            plugins=self.plugins,
        )
        work = Path(self.settings.work)
        out = Path(tempfile.mkdtemp(dir=work))
        began = time.perf_counter()
        run(
            plan,
            out=out,
            roots=self.roots,
            device=self.settings.device,
            cache=work / "cache",
            plugins=self.plugins,
        )
        seconds = time.perf_counter() - began
        shutil.rmtree(out)
        return Answer(seconds)


class Transfer(Hydra):
    """As `Hydra`, with the strategy `transfer`."""

    strategy = "transfer"


class _Scaled:
    """A point of the scale: datasets of noise below a folder of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.point = settings, settings.point
        point, work = self.point, Path(settings.work)
        names = [f"set{number}" for number in range(point.datasets)]
        count = point.patches // point.datasets
        shape = {"channels": point.channels, "side": point.patch}
        self.adapters = {name: adapter(name, count=count, **shape) for name in names}
        self.roots = {name: folder(work / "roots" / name) for name in names}
        self.cache = folder(work / "cache")


class ScalePrepare(_Scaled):
    """Preparing all of them."""

    def __call__(self, repeat: int) -> Answer:
        """Prepare them; seconds are of all images."""
        began = time.perf_counter()
        made = [
            prepare(each, self.roots[name], options={}, patch=self.point.patch, cache=self.cache)
            for name, each in self.adapters.items()
        ]
        index = made[0].index
        seconds = time.perf_counter() - began
        patches = 4 * self.point.patches * index.channels * index.side**2
        return Answer(seconds, {"patches": patches, **peak(self.settings)})


class _Started(RunCallback):
    """Remembers when the rounds began."""

    at = 0.0

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Now."""
        self.at = time.perf_counter()


class ScaleRun(_Scaled):
    """A run of `hydra` over all of them, with one epoch in each round."""

    def __call__(self, repeat: int) -> Answer:
        """Run it; ``before`` is what it did before its first round."""
        plugins = with_datasets(self.adapters)
        names = list(self.adapters)
        plan = make_plan(
            "hydra", names, profile="recommended-0.1", epochs=1, bootstrap=1, plugins=plugins
        )
        plan = plan.model_copy(update={"body": BodySpec(patch=self.point.patch)})
        out = Path(self.settings.work) / "run"
        started = _Started()
        began = time.perf_counter()
        run(
            plan,
            out=out,
            roots=self.roots,
            device=self.settings.device,
            cache=self.cache,
            plugins=plugins,
            callbacks=[started],
        )
        seconds = time.perf_counter() - began
        return Answer(seconds, {"before": started.at - began, **peak(self.settings)})
