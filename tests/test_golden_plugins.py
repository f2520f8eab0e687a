"""Plugins that were written for an earlier hook API still work: one of each kind, never changed."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import hydrakit
from hydrakit.cli import main
from hydrakit.data.read import read_samples
from hydrakit.errors import PlanError, PluginError
from hydrakit.hooks import (
    API,
    BodyFactory,
    DatasetAdapter,
    HeadFactory,
    LauncherFactory,
    Remark,
    Sample,
    SequenceStrategy,
    TrackerFactory,
    Unusable,
)
from hydrakit.jobs.driver import JobDriver, build_launcher
from hydrakit.jobs.job import Job
from hydrakit.plugins import Plugins, load_plugins
from hydrakit.plugins.guard import needed_series
from hydrakit.plugins.options import parse_options, resolve_options
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.sources import IndexedSeries
from hydrakit.testing import check_adapter
from hydrakit.weights.format import read_body, read_head

GOLDEN = Path(__file__).parent / "golden" / "plugins-api-1"
DIGEST = "8fdb1a3ebf491355863202be7396e262c0a170b6e5051dc4afdf308392d9cda1"
"""Of the files of the plugins: if it has changed, change the files back."""

OFFERS = {
    "golden-body": {"body": ("golden-scaled", "golden-pooled")},
    "golden-command": {"command": ("golden-plan",)},
    "golden-dataset": {"dataset": ("golden-spots", "golden-depths", "golden-signs")},
    "golden-head": {"head": ("golden-layers",)},
    "golden-launcher": {"launcher": ("golden-one-by-one",)},
    "golden-strategy": {"strategy": ("golden-together", "golden-alone")},
    "golden-tracker": {"tracker": ("golden-lines",)},
}


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """The installed plugins, with these ones among them."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(GOLDEN))
    load_plugins.cache_clear()
    yield load_plugins()
    load_plugins.cache_clear()
    for name in [name for name in sys.modules if name.startswith("golden_")]:
        del sys.modules[name]


def write_spots(root: Path, patients: int = 20) -> Path:
    """Images of the dataset ``golden-spots``, below the data root."""
    random = np.random.default_rng(0)
    for number in range(patients):
        folder = root / "golden-spots" / ("malignant" if number % 2 else "benign")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.normal(size=(20, 20)).astype(np.float32) + number % 2
        np.save(folder / f"P{number:02}-1.npy", pixels)
    return root


def test_the_files_are_as_they_were_written() -> None:
    digest = hashlib.sha256()
    for path in sorted(GOLDEN.rglob("*")):
        if path.is_file() and path.suffix not in (".pyc", ".md"):
            digest.update(f"{path.relative_to(GOLDEN).as_posix()}\n".encode())
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    assert digest.hexdigest() == DIGEST


def test_they_are_loaded(golden: Plugins) -> None:
    records = [each for each in golden.records if each.distribution == "hydrakit-golden"]
    assert {each.name: dict(each.offers) for each in records} == OFFERS
    assert {(each.error, each.clashes) for each in records} == {(None, ())}
    assert {sys.modules[each.module].HYDRAKIT_API for each in records} == {API}


def test_a_dataset_is_read(golden: Plugins, tmp_path: Path) -> None:
    adapter = golden.get(DatasetAdapter, "golden-spots")
    root = write_spots(tmp_path, patients=4) / "golden-spots"
    (root / "unknown").mkdir()
    shutil.copy(root / "benign" / "P00-1.npy", root / "unknown" / "P09-2.npy")
    report = check_adapter(adapter, root)
    assert (report.samples, report.unlabelled) == ({"benign": 2, "malignant": 2}, 1)
    assert (report.patients, report.findings) == (5, 5)
    given = {"light": "polarised", "own_splits": "yes", "skip": "2", "margin": "0.5"}
    cases = list(adapter.read(root, parse_options(adapter, given)))
    first = next(case for case in cases if isinstance(case, Sample))
    assert (first.split, first.subgroups) == ("train", {"zone": "arm"})
    assert [case.warning for case in cases if isinstance(case, Remark)] == [False, True]
    assert [case.reason for case in cases if isinstance(case, Unusable)] == [
        "is skipped by an option"
    ]
    with pytest.raises(PlanError, match=r"margin is -1\.0: it cannot be negative"):
        parse_options(adapter, {"margin": "-1"})
    assert resolve_options(adapter, {})["skip"] == ()
    series = IndexedSeries(
        patient="P", series_uid="1", modality="XC", description="", images=1, size=1, doi="",
        licence="", url="",
    )  # fmt: skip
    assert needed_series(adapter, [series], parse_options(adapter, {})) == [series]


def test_a_regression_and_several_labels_are_read(golden: Plugins, tmp_path: Path) -> None:
    depths, signs = (golden.get(DatasetAdapter, f"golden-{name}") for name in ("depths", "signs"))
    pixels = np.arange(3 * 64, dtype=np.float32).reshape(3, 8, 8) - 5
    np.save(tmp_path / "P1.npy", pixels)
    (tmp_path / "depths.csv").write_text("P1,3.5\n")
    (case,) = read_samples(depths, tmp_path, {})
    assert (case.label, case.padding is None) == (3.5, False)
    (tmp_path / "signs").mkdir()
    for name in ("P1-1-0", "P1-x-1"):
        np.save(tmp_path / "signs" / f"{name}.npy", pixels[0])
    report = check_adapter(signs, tmp_path / "signs")
    assert (report.samples, report.groups) == ({"redness": 1, "swelling": 1}, 1)


def test_heads_and_bodies_are_built(golden: Plugins) -> None:
    with torch.random.fork_rng():
        for name in ("golden-scaled", "golden-pooled"):
            factory = golden.get(BodyFactory, name)
            body = factory.build(1, parse_options(factory, {"width": "3"}), ("a", "b"))
            body.use("b")
            features = body(torch.zeros(2, 1, 16, 16))  # type: ignore[operator]
            assert features.shape == (2, 3)
        head = golden.get(HeadFactory, "golden-layers")
        built = head.build(3, 2, parse_options(head, {"hidden": "5,4"}))
        assert built(features).shape == (2, 2)
    assert set(head.tasks) == {"classification", "regression", "multilabel"}


def test_strategies_plan(golden: Plugins) -> None:
    names = ["golden-spots", "golden-depths", "golden-spots"]
    together = hydrakit.make_plan("golden-together", names)
    trained = [round.train for round in together.rounds[: together.strategy_rounds]]
    assert trained == ["all", "norm", "all", "head"]
    assert (together.rounds[0].datasets, together.rounds[0].mix) == (tuple(names[:2]), "epoch")
    alone = hydrakit.make_plan("golden-alone", names[:1])
    assert (alone.body.name, alone.head.name) == ("golden-pooled", "golden-layers")
    assert golden.get(SequenceStrategy, "golden-alone").baseline


def test_a_run_uses_them_and_its_files_name_them(
    golden: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_spots(tmp_path / "data")
    given = ["--datasets", "golden-spots", "--epochs", "1", "--strategy", "golden-together"]
    given += ["--body", "golden-scaled", "--head", "golden-layers", "--device", "cpu"]
    given += ["--track", "golden-lines", "--track-to", str(tmp_path), "--data", str(data)]
    out = tmp_path / "run"
    done = CliRunner().invoke(main, ["run", *given, "--ensemble", "1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "golden.txt").read_text().splitlines()
    assert lines[0] == "run run of None: run"
    assert lines[-2:] == ["report report.html", "done"]
    run = RunDir(out)
    assert read_body(run.body_path).plugin == "hydrakit-golden 1.0"
    assert read_head(run.head_path("golden-spots")).plugin == "hydrakit-golden 1.0"

    hydrakit.export_model(out, "hub", tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert "\npip install hydrakit-imaging hydrakit-golden==1.0\n" in card

    without = load_plugins(frozenset({"golden-body", "golden-head"}))
    came = "it came from hydrakit-golden 1.0, which is installed; disabled: golden-body"
    with pytest.raises(
        PluginError, match=f"body.safetensors: unknown body 'golden-scaled': {came}"
    ):
        hydrakit.weights.load_body(run.body_path, plugins=without)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(GOLDEN)])
    load_plugins.cache_clear()
    with pytest.raises(PluginError) as caught:
        hydrakit.weights.load_head(run.head_path("golden-spots"))
    assert str(caught.value) == (
        f"{run.head_path('golden-spots')}: unknown head 'golden-layers': it came from "
        "hydrakit-golden 1.0, which is not installed: install it if you trust its source"
    )
    gone = CliRunner().invoke(main, ["run", "--resume", str(out)])
    assert gone.exit_code == 1
    assert "unknown dataset 'golden-spots'" in gone.stderr
    assert "; the run began with hydrakit-golden 1.0, not installed now: install" in gone.stderr


def test_a_launcher_runs_jobs(
    golden: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = build_launcher("golden-one-by-one:prefix=", golden)
    assert golden.get(LauncherFactory, "golden-one-by-one").name == "golden-one-by-one"
    assert "1 at a time, on auto" in launcher.preview(RunContext(), 2, tmp_path, processes=1)  # type: ignore[attr-defined]
    exits = [sys.executable, "-S", "-c", "raise SystemExit(3)"]
    monkeypatch.setattr("hydrakit.jobs.job.job_command", lambda _: exits)
    plan = hydrakit.make_plan("golden-alone", ["golden-spots"])
    jobs = [Job(name=name, plan=plan, out=tmp_path / name, context=RunContext()) for name in "ab"]
    lost: list[str] = []
    with JobDriver(
        launcher, tmp_path / "jobs", 1, on_lost=lambda job, how: lost.append(f"{job.name} {how}")
    ) as driver:
        driver.run([[jobs[0]], [jobs[1]]])
        driver.submit([[jobs[0]]])
        assert launcher.states() == {"a": "PENDING"}
    assert sorted(lost) == ["a exit status 3"] * 2 + ["b exit status 3"] * 2
    assert launcher.states() == {}


def test_a_tracker_records(golden: Plugins, tmp_path: Path) -> None:
    factory = golden.get(TrackerFactory, "golden-lines")
    for step, seen in ((1, {}), (2, {"auc": {1}})):
        tracker = factory.build(parse_options(factory, {}))
        assert tracker.open(tmp_path) == seen
        tracker.send("auc", 0.5, step)
        tracker.close(failed=False)


def test_a_command_runs(golden: Plugins) -> None:
    done = CliRunner().invoke(main, ["golden-plan", "golden-spots"])
    assert (done.exit_code, done.output) == (0, "4 rounds\n")
    refused = CliRunner().invoke(main, ["golden-plan", "golden-spots", "--seed", "10"])
    assert (refused.exit_code, refused.stderr) == (
        1, "hydrakit: --seed 10: is too large: choose one from 0 to 9\n"
    )  # fmt: skip
