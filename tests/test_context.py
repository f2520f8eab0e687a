"""Where and how a run is computed: one context for every command, cache and process."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from dicom_files import image, save
from helpers import (
    Runner,
    StopError,
    install_standin,
    plan_of,
    plugins,
    prepared_dataset,
    refused,
    round_of,
    weights_of,
)

from hydrakit import engine
from hydrakit.cli import main
from hydrakit.compare.design import CompareDir, make_design
from hydrakit.compare.engine import CompareCallback, compare
from hydrakit.errors import PlanError
from hydrakit.plan import Plan, Round
from hydrakit.plan.profiles import make_plan
from hydrakit.plan.results import EpochRecord, RoundResult
from hydrakit.plugins import load_plugins
from hydrakit.plugins.guard import PluginFault
from hydrakit.runs import earlier
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext, read_context
from hydrakit.runs.datasets import find_datasets, prepare_datasets
from hydrakit.runs.evaluate import evaluate_files, evaluate_run
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.session import Session

if TYPE_CHECKING:
    from conftest import Install

TESTS = Path(__file__).parent

# --- where files are written

PLUGIN = """
from dataclasses import dataclass
from functools import partial

from hydrakit.data.dicom import index_headers, read_pixels
from hydrakit.hooks import DatasetAdapter, FieldOfView, Sample, SequenceStrategy, hookimpl


@dataclass(frozen=True, kw_only=True)
class Options:
    broken: bool = False


def pixels(folder):
    (header,) = index_headers(folder)  # in a thread of the preparation, from a cache of its own
    return read_pixels(header.path)


def read(root, options):
    for number, header in enumerate(index_headers(root)):
        if options.broken and number == 3:
            raise ValueError("no such series")
        yield Sample(
            image=partial(pixels, header.path.parent),
            label=int(header.series_description),
            patient=header.patient_id,
            key=header.path.parent.name,
            source=(header.path,),
        )


def plan(datasets, settings):
    raise ValueError("no such strategy")


@hookimpl
def hydrakit_dataset_adapters():
    yield DatasetAdapter(
        name="scans", summary="", classes=("benign", "malignant"), read=read,
        field_of_view=FieldOfView(share=1.0), version="1", layout="", how_to_get="", citation="",
        licence="", options=Options,
    )


@hookimpl
def hydrakit_sequence_strategies():
    yield SequenceStrategy(name="broken", summary="", plan=plan)
"""

SMALL = [
    "--epochs",
    "1",
    "--bootstrap",
    "1",
    "--profile",
    "recommended-0.1",
    "--body-channels",
    "2,2,2",
    "--device",
    "cpu",
]


class Places:
    """Folders of a user: an empty home and working folder, and those that hydrakit is given."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.cache, self.out = folder / "given-cache", folder / "out"
        for name in ("home", "work", "temporary", "out"):
            (folder / name).mkdir()

    @property
    def elsewhere(self) -> dict[Path, bytes]:
        """Every file outside the cache and the output folder."""
        return {
            path: path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if not (path.is_relative_to(self.cache) or path.is_relative_to(self.out))
            and path.is_file()
        }


@pytest.fixture
def places(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """The same, with DICOM data; the test fails if a file is written elsewhere."""
    places = Places(tmp_path)
    random = np.random.default_rng(0)
    for number in range(40):
        pixels = random.integers(0, 1000, (20, 20), dtype=np.uint16)
        pixels[6:14, 6:14] += 400 * np.uint16(number % 2)
        made = image(
            PatientID=f"p{number}",
            SeriesDescription=str(number % 2),
            Rows=20,
            Columns=20,
            PixelData=pixels.tobytes(),
        )
        save(made, places.data / "scans" / f"c{number}" / "image.dcm")
    install("hydrakit-scans", "tp_scans", PLUGIN)
    for name in ("HYDRAKIT_CACHE", "HYDRAKIT_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))  # for processes of a comparison
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path / "work")
    assert Path.home() == tmp_path / "home"
    before = places.elsewhere
    yield places
    assert places.elsewhere == before
    assert (places.cache / "dicom").is_dir()


def test_nothing_is_written_outside_the_cache_and_the_output(places: Places) -> None:
    context = RunContext(data=places.data, cache=places.cache, device="cpu")
    settings: dict[str, Any] = {
        "epochs": 1,
        "bootstrap": 1,
        "profile": "recommended-0.1",
        "body_channels": (2, 2, 2),
    }
    plan = make_plan("classical", ["scans"], plugins=load_plugins(), **settings)
    estimate = engine.dry_run(plan, context, out=places.out / "run")
    assert estimate.rounds
    run = engine.run(plan, context, out=places.out / "run")
    assert evaluate_run(run.path, cache=places.cache, device="cpu").result.images > 0
    body, head = run.body_path, run.head_path("scans")
    assert evaluate_files(body, head, context, split="val").result.images > 0
    assert engine.check("scans", context)[1] is not None
    run.report_path.unlink()
    (run.path / "shown.safetensors").unlink()
    assert engine.report(run.path, cache=places.cache).no_examples is None
    with pytest.raises(PluginFault, match="no such series") as caught:
        engine.check("scans", context, options={"broken": True})
    assert caught.value.cache == places.cache


def test_so_it_is_with_the_commands(places: Places) -> None:
    where = ["--cache", str(places.cache), "--data", str(places.data)]
    datasets, run = ["--datasets", "scans"], str(places.out / "run")

    def call(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == status, result.output
        return result.stderr

    training = ["--strategy", "classical", *datasets, *SMALL, *where]
    call("run", *training, "--out", run, "--dry-run")
    call("run", *training, "--out", run)
    call("evaluate", run, *where)
    call("datasets", "check", "scans", *where, "--html", str(places.out / "check.html"))
    call("report", run, *where)
    call("tune", *training, "--folds", "2", "--learning-rates", "1e-3", "--dropouts", "0",
         "--out", str(places.out / "tuned.json"))  # fmt: skip
    call("order", "--target", "scans", "--datasets", "scans", *where, status=1)  # no support
    comparing = ["--strategies", "classical", *datasets, *SMALL, *where, "--folds", "2"]
    call(
        "compare",
        "--no-baselines",
        *comparing,
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--out",
        str(places.out / "both"),
    )

    log = places.cache / "log.txt"
    for arguments, said in (
        (["datasets", "check", "scans", *where, "--option", "scans.broken=true"], "series"),
        (["run", *training, "--option", "scans.broken=true"], "series"),
        (["run", *training, "--strategy", "broken"], "strategy"),
        (["compare", "--no-baselines", *comparing, "--strategies", "broken"], "strategy"),
    ):
        log.unlink(missing_ok=True)
        assert f"no such {said} (traceback: {log})" in call(*arguments, status=1)
        assert f"no such {said}" in log.read_text()


# --- as a file


def test_another_process_computes_the_same_bits(
    standin: Path, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context with relative paths and defaults from the environment, read in another folder."""
    plan = plan_of(round_of("beta"), round_of("alpha", "head"), round_of("alpha"))
    Path("links").mkdir()
    Path("links/beta").symlink_to(data / "beta")
    context = RunContext(roots={"beta": Path("links/beta")}, device="cpu", threads=1)
    here = engine.run(plan, context, out=tmp_path / "here")
    context.write(tmp_path / "context.json")
    (tmp_path / "plan.json").write_text(plan.to_json())
    (tmp_path / "far").mkdir()
    code = (
        "import sys; from pathlib import Path; import hydrakit\n"
        "plan, context, out = map(Path, sys.argv[1:])\n"
        "hydrakit.run(hydrakit.Plan.model_validate_json(plan.read_bytes()),\n"
        "             hydrakit.read_context(context), out=out)\n"
    )
    for name in ("HYDRAKIT_DATA", "HYDRAKIT_CACHE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "far"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(TESTS)]))
    names = ("plan.json", "context.json", "there")
    command = [sys.executable, "-c", code, *(str(tmp_path / name) for name in names)]
    subprocess.run(command, cwd=tmp_path / "far", check=True)
    assert weights_of(tmp_path / "there") == weights_of(here.path)
    assert list((tmp_path / "far").iterdir()) == []


def test_a_file_gives_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    context = RunContext(
        data=Path("data"),
        roots={"liver": Path("liver")},
        cache=Path("cache"),
        device="cuda:1",
        precision="bfloat16",
        deterministic=True,
        compiled=True,
        graphs=False,
        threads=3,
        checkpoint_interval=0.5,
        no_plugins=("mine",),
        trackers=("mlflow",),
        track_to="sqlite:///all.db",
        launcher="cluster",
        jobs=7,
        trace_test=True,
        round_cache=Path("rounds"),
    )
    changed = {name for name, value in context if value != getattr(RunContext(), name)}
    assert changed == {*RunContext.model_fields} - {"test"}, "other values than the defaults"
    untested = RunContext(test=False)
    untested.write(tmp_path / "context.json")
    assert not read_context(tmp_path / "context.json").test
    endless = RunContext(checkpoint_interval=math.inf)
    endless.write(tmp_path / "context.json")
    assert read_context(tmp_path / "context.json").checkpoint_interval == math.inf
    context.write(tmp_path / "context.json")
    read = read_context(tmp_path / "context.json")
    assert read == context.resolved()
    assert read.root_of("liver") == tmp_path / "liver"
    assert read.track_to == f"sqlite:///{tmp_path / 'all.db'}"
    for given, absolute in (("t", str(tmp_path / "t")), ("http://host/x", "http://host/x")):
        assert RunContext(track_to=given).resolved().track_to == absolute
    assert read.root_of("lung") == tmp_path / "data" / "lung"
    assert (read.cache, read.round_cache) == (tmp_path / "cache", tmp_path / "rounds")
    RunContext().write(tmp_path / "context.json")
    assert read_context(tmp_path / "context.json").round_cache is None


WRONG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"devise": "cpu"}, ("'devise'", "did you mean 'device'?")),
    ({"self": 1}, ("'self'", "known are", "cache, checkpoint_interval")),
    ({"threads": 0}, ("threads", "is 0")),
    ({"precision": "half"}, ("precision", "'bfloat16'", "is 'half'")),
    ({"trace_test": True, "test": False}, ("trace_test", "test is False", "set one only")),
    ({"roots": {"No Name": "data"}}, ("roots", "No Name")),
    ({"checkpoint_interval": float("nan")}, ("checkpoint_interval", "is nan")),
    ({"device": "c\npu"}, ("device", "one line")),
]


@pytest.mark.parametrize(("values", "words"), WRONG, ids=",".join)
def test_unknown_names_and_wrong_values_are_refused(
    values: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "context.json"
    path.write_text(json.dumps(values))
    refused(lambda: read_context(path), str(path), *words)
    refused(lambda: RunContext().changed(**values), *words)
    if "self" not in values:
        plan = plan_of(round_of("alpha"))
        refused(lambda: engine.run(plan, out=tmp_path / "run", **values), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "\udcff"])
def test_what_is_no_context_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    refused(lambda: read_context(path), str(path), "cannot be read", "RunContext.write")
    path.unlink()
    refused(lambda: read_context(path), str(path), "No such file")


# --- on the command line

OWN = {
    "run": {"launcher", "trace_test"},
    "compare": {"jobs", "launcher", "trace_test"},
    "tune": {"jobs", "launcher"},
    "order": {"jobs", "launcher"},
}
"""Options of some commands alone: of the test, and of many processes."""


def context_options(command: str) -> dict[str, dict[str, Any]]:
    """The options of a command that are values of its context, as click describes them."""
    return {
        str(option.name): option.to_info_dict()
        for option in main.commands[command].params
        if option.name in RunContext.model_fields and isinstance(option, click.Option)
    }


@pytest.mark.parametrize("command", OWN)
def test_all_that_train_have_the_same_options(command: str) -> None:
    own, options = OWN[command], context_options(command)
    assert own <= options.keys()
    shared = {name: described for name, described in options.items() if name not in own}
    assert shared == {
        name: described
        for name, described in context_options("run").items()
        if name not in OWN["run"]
    }
    # What only programs choose: `test` and `round_cache` belong to what a command does.
    known = {*shared, *OWN["run"], *OWN["compare"]}
    assert RunContext.model_fields.keys() - known <= {"no_plugins", "test", "round_cache"}


def test_their_values_arrive(monkeypatch: pytest.MonkeyPatch, standin: Path) -> None:
    given: list[RunContext] = []

    def note(*arguments: object, **_: object) -> None:
        given.extend(each for each in arguments if isinstance(each, RunContext))
        raise StopError

    for name in ("engine.run", "compare.engine.compare", "search.tune.tune", "search.order.order"):
        monkeypatch.setattr(f"hydrakit.{name}", note)
    options = [
        *("--data", "d", "--root", "alpha=a", "--cache", "c", "--device", "cuda:1"),
        *("--precision", "float32", "--deterministic", "--compile", "--threads", "3"),
        *("--checkpoint-every", "7", "--track", "tensorboard", "--track", "mlflow"),
        *("--track-to", "t"),
    ]
    plan = ["--datasets", "alpha,beta,alpha"]
    for arguments in (
        ["run", "--strategy", "hydra", *plan, "--trace-test"],
        [
            "compare",
            "--no-baselines",
            "--strategies",
            "hydra",
            *plan,
            "--jobs",
            "2",
        ],
        ["tune", "--strategy", "hydra", *plan, "--out", "tuned.json"],
        ["order", "--target", "alpha", *plan, "--jobs", "2"],
    ):
        result = CliRunner().invoke(main, [*arguments, *options])
        assert isinstance(result.exception, StopError), result.output
    same = RunContext(
        data=Path("d"),
        roots={"alpha": Path("a")},
        cache=Path("c"),
        device="cuda:1",
        precision="float32",
        deterministic=True,
        compiled=True,
        threads=3,
        checkpoint_interval=7,
        trackers=("tensorboard", "mlflow"),
        track_to="t",
    )
    run, compared, tuned, ordered = given
    assert run == same.changed(trace_test=True)
    assert compared == ordered == same.changed(jobs=2)
    assert tuned == same


# --- callbacks

Events = list[tuple[Any, ...]]


class Recorder(RunCallback):
    """Writes down every call, and stops at one of them.

    Attributes:
        events: What was called, by whom.
    """

    def __init__(self, name: str, events: Events, stop: tuple[Any, ...] = ()) -> None:
        self.name, self.events, self.stop = name, events, stop

    def _note(self, *event: Any) -> None:
        self.events.append((self.name, *event))
        if event == self.stop:
            raise StopError

    def preparing(self, dataset: str, cases: int) -> None:
        self._note("preparing", dataset)

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        assert rundir.facts() is not None
        self._note("started", plan.target, rundir.path.name, device)

    def member(self, number: int, rundir: RunDir) -> None:
        self._note("member", number, rundir.path.name)

    def noted(self, text: str) -> None:
        self._note("noted", text)

    def bootstrapping(self, done: int, of: int) -> None:
        self._note("bootstrapping", done, of)

    def skipped(self, number: int, round: Round) -> None:
        self._note("skipped", number)

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        self._note("resumed", number, epoch)

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        self._note("epoch", number, record.epoch)

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        assert result.round == number
        self._note("finished", number)

    def completed(self, rundir: RunDir) -> None:
        assert rundir.results() is not None
        self._note("completed", rundir.path.name)

    def closed(self, failed: bool) -> None:
        self._note("closed", failed)


TWO_ROUNDS = plan_of(round_of("beta"), round_of("alpha"), bootstrap=2)
FIRST: Events = [
    ("started", "alpha", "run", "cpu"),
    ("bootstrapping", 1, 2),
    ("bootstrapping", 2, 2),
    ("epoch", 1, 1),
    ("epoch", 1, 2),
    ("finished", 1),
]
SECOND: Events = [("epoch", 2, 1), ("epoch", 2, 2), ("finished", 2)]
END: Events = [("completed", "run"), ("closed", False)]

Follow = Callable[..., Events]


@pytest.fixture
def follow(runner: Runner) -> Follow:
    for name in ("alpha", "beta"):  # no call of `preparing`, whatever ran before
        prepared_dataset(name, data=runner.data, cache=runner.cache)

    def follow(*stop: Any, plan: Plan = TWO_ROUNDS, **values: Any) -> Events:
        """The calls of a run; each of two callbacks gets them, the first one first."""
        events: Events = []
        callbacks = [Recorder("a", events), Recorder("b", events, stop)]
        values = {"checkpoint_interval": 0.0} | values
        if stop:
            with pytest.raises(StopError):
                runner(plan, callbacks=callbacks, **values)
        else:
            runner(plan, callbacks=callbacks, **values)
        first, second = ([call for who, *call in events if who == name] for name in "ab")
        assert first == second
        assert [who for who, *_ in events] == ["a", "b"] * len(first)
        return [tuple(call) for call in first]

    return follow


def test_every_event_of_a_run_is_called_in_order(follow: Follow, runner: Runner) -> None:
    methods = {name for name in vars(RunCallback) if not name.startswith("_")}
    assert methods == {name for name in vars(Recorder) if not name.startswith("_")}
    cache = runner.folder / "cache"
    events = follow(cache=cache)
    prepared = [event for event in events if event[0] == "preparing"]
    assert prepared == [("preparing", "beta")] * 48 + [("preparing", "alpha")] * 48
    assert events == [*prepared, *FIRST, *SECOND, *END]
    assert follow(cache=cache) == END  # it is finished
    assert RunDir(runner.folder / "run").report_path.is_file()


def test_every_event_of_a_resumed_run_is_called_in_order(follow: Follow) -> None:
    failed = ("closed", True)
    assert follow("epoch", 1, 2) == [*FIRST[:-1], failed]
    resumed = [FIRST[0], ("resumed", 1, 1), *FIRST[1:3], *FIRST[-2:]]
    assert follow("epoch", 2, 2) == [*resumed, *SECOND[:2], failed]
    again = [FIRST[0], ("skipped", 1), ("resumed", 2, 1), *SECOND[1:]]
    assert follow(test=False) == [*again, ("closed", False)]
    assert follow() == [FIRST[0], ("skipped", 1), ("skipped", 2), *END]


def test_a_run_that_fails_before_its_folder_is_used_is_not_closed(runner: Runner) -> None:
    events: Events = []
    for wrong in ({"device": "cuda:77"}, {"roots": {"beta": Path("/nowhere")}}):
        values = {"callbacks": [Recorder("a", events)], **wrong}
        refused(lambda values=values: runner(TWO_ROUNDS, **values))
    assert events == []
    (runner.folder / "run").mkdir()
    (runner.folder / "run" / "mine.txt").touch()
    refused(lambda: runner(TWO_ROUNDS, callbacks=[Recorder("a", events)]), "--out")
    assert events == []


# --- what a session needs


def test_a_session_loads_nothing_of_the_report(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the import of its module: see test_architecture.py."""

    def reports() -> list[str]:
        return [name for name in sys.modules if name.startswith("hydrakit.report")]

    for name in reports():
        monkeypatch.delitem(sys.modules, name)
    plan, out = plan_of(round_of("alpha", epochs=1)), tmp_path / "run"
    context = RunContext(data=data, cache=cache)
    with context.changed(device="cpu").active() as compute:
        datasets = prepare_datasets(plan, find_datasets(plan, context, plugins()), RunCallback())
        session = Session(plan, datasets, context, compute, plugins(), RunDir(out), RunCallback())
        session.check()
        RunDir.begin(out, plan)
        session.run()
    assert session.rundir.results() is not None
    assert reports() == []


# --- processes of a comparison


def test_a_comparison_that_goes_on_has_as_many_threads_for_each_cell(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = install_standin(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(TESTS)]))
    load_plugins.cache_clear()
    design = make_design(
        baselines=(),
        strategies=("classical",),
        datasets=("alpha",),
        folds=2,
        settings={
            "epochs": 1,
            "bootstrap": 1,
            "profile": "recommended-0.1",
            "body_channels": [2, 4],
        },
    )
    monkeypatch.setattr(earlier, "processors", lambda: 8)
    context = RunContext(data=data, cache=cache, device="cpu", jobs=2)
    begun_with = context.changed(threads=2)
    cells, whole, again = design.cells(), tmp_path / "whole", tmp_path / "again"
    at_once: list[int] = []
    notes: list[str] = []

    class Begun(CompareCallback):
        def begun(self, out: Path, cells: int, rounds: int, at_once_: int) -> None:
            at_once.append(at_once_)

        def noted(self, text: str) -> None:
            notes.append(text)

    assert compare(design, begun_with, out=whole, callback=Begun()).failed == {}
    shutil.copytree(whole, again)
    shutil.rmtree(CompareDir(again).cell(cells[1]))
    shutil.rmtree(CompareDir(again).rounds)
    assert compare(design, context, out=again, callback=Begun()).failed == {}
    load_plugins.cache_clear()
    assert at_once == [2, 2]
    assert notes == []
    for cell in cells:
        runs = [RunDir(CompareDir(out).cell(cell)) for out in (whole, again)]
        assert [run.environment()["threads"] for run in runs] == [2, 2]
        assert weights_of(runs[0].path) == weights_of(runs[1].path)
    # Nothing is left to train, so that only the note is new.
    compare(design, context.changed(threads=3), out=again, callback=Begun())
    assert "used 2 CPU threads each, and the others use 3" in notes[0]


def test_a_comparison_needs_tests(tmp_path: Path) -> None:
    design = make_design(baselines=(), strategies=("classical",), datasets=("alpha",))
    refused(lambda: compare(design, out=tmp_path / "out", test=False), "test=False")
    assert not (tmp_path / "out").exists()


def test_something_else_than_a_plan_or_a_context_is_named(runner: Runner) -> None:
    plan: Any = plan_of(round_of("alpha"))
    with pytest.raises(PlanError, match=r"^context: is 'cpu', and a RunContext is expected: give"):
        engine.run(plan, "cpu")  # type: ignore[arg-type]
    for function in (engine.run, engine.dry_run):
        with pytest.raises(PlanError, match=r"^plan: is 'plan.json', and a Plan is expected: use"):
            function("plan.json")  # type: ignore[operator]


def test_a_file_states_its_format_and_older_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    RunContext(threads=3).write(path)
    written = json.loads(path.read_text())
    assert written["format"] == 1
    del written["format"], written["hydrakit"]  # as version 0.1 wrote it
    path.write_text(json.dumps(written))
    assert read_context(path).threads == 3
    path.write_text(json.dumps({**written, "format": 2, "hydrakit": "9.1", "new": 1}))
    refused(lambda: read_context(path), str(path), "hydrakit 9.1 in format 2", "use that version")
    path.write_text(json.dumps({**written, "format": "x"}))
    refused(lambda: read_context(path), str(path), "format")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="no such names there")
@pytest.mark.parametrize("name", ["data", "cache", "round_cache"])
def test_a_folder_whose_name_is_no_text_is_refused_at_once(tmp_path: Path, name: str) -> None:
    """Weight files and JSON cannot name it: a run would fail after training."""
    path = tmp_path / os.fsdecode(b"b\xff")
    refused(lambda: RunContext().changed(**{name: path}), r"b\xff", "not UTF-8", "rename")
    refused(lambda: RunDir.check(path, plan_of(round_of("alpha"))), r"b\xff", "not UTF-8")
