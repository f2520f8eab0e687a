"""`hydrakit plugins check`: good plugins pass, and each fault is described in the right line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hydrakit.cli import main
from hydrakit.errors import PlanError, PluginError
from hydrakit.hooks import LauncherFactory, SequenceStrategy, TrackerFactory
from hydrakit.jobs.launchers import hydrakit_launchers
from hydrakit.plugins.registry import Plugins, components_of
from hydrakit.testing import check_launcher, check_plugin, check_properties, check_strategy, require
from hydrakit.testing.datasets import DATASET_PROPERTIES, DatasetSubject
from hydrakit.testing.descriptions import OPTION_PROPERTIES, SUMMARY_PROPERTIES
from hydrakit.testing.imports import IMPORT_PROPERTIES, ImportSubject, imported_packages
from hydrakit.testing.properties import CheckedProperty
from hydrakit.testing.trackers import TRACKER_PROPERTIES, TrackerSubject
from hydrakit_strategies import hydrakit_sequence_strategies

pytest_plugins = ["hydrakit.testing.fixtures"]

Install = Callable[..., Path]

# A dataset whose cases are the files of its folder; tests replace lines of it.
DATASET = """
from functools import partial

from hydrakit.hooks import DatasetAdapter, FieldOfView, Sample, Unusable, hookimpl


def read(root, options):
    for number, path in enumerate(sorted(root.glob("*.npy"))):
        yield Sample(
            image=partial(load, path),
            label=number % 2,
            patient=f"p{number}",
            key=path.stem,
            source=(path,),
        )


def load(path):
    import numpy as np

    return np.load(path)


@hookimpl
def hydrakit_dataset_adapters():
    yield DatasetAdapter(
        name="files",
        summary="Files of numbers",
        classes=("a", "b"),
        read=read,
        field_of_view=FieldOfView(share=1.0),
        version="1",
        layout="NAME.npy",
        how_to_get="The tests write them.",
        citation="none",
        licence="none",
    )
"""

IMAGE, YIELD, READ = "    return np.load(path)", "        yield Sample(", "\ndef read("
COUNTER = f"\ncounter = iter(range(1000))\n{READ}"
UNUSABLE = "        yield Unusable(key=path.stem + '-b', reason=path.stem + '-b is bad')"
SHARED = "    global last\n    last = path\n    time.sleep(0.01)\n    return np.load(last)"

# For each broken dataset: what replaces lines, and words of each fault by its property.
BROKEN_DATASETS = {
    "differs": (
        {IMAGE: f"{IMAGE} + np.float32(next(counter))", READ: COUNTER,
         "label=number % 2": "label=next(counter) // 6 % 2"},
        {"two readings give the same cases": "two readings differ: case '0' has other label and "},
    ),
    "order": (
        {'sorted(root.glob("*.npy"))': 'sorted(root.glob("*.npy"))[:: next(step)]',
         READ: f"\nstep = iter([1, -1] * 9)\n{READ}"},
        {"two readings give the same cases":
         "case 1 is '0' in the first and '2' in the second: let the order depend on the "
         "files alone: sort them, and draw nothing"},
    ),
    "key": (
        {"key=path.stem": 'key="x"'},
        {"each case has a key of its own": "the key 'x' occurs twice: case 1 ("},
    ),
    "label": (
        {"label=number % 2": "label=number"},
        {"each case has a valid label, patient and spacing": "case '2' has label 2: expected an "
         "index into ['a', 'b']: labels count from 0 in the order of classes"},
    ),
    "pixels": (
        {IMAGE: f"{IMAGE} * np.float32('nan')"},
        {"each image is finite float32": "case '0' has pixels that are not finite: give "
         "Unusable, or another value"},
    ),
    "bytes": (
        {IMAGE: f"{IMAGE}.astype(np.uint8)"},
        {"each image is finite float32": "not a float32 array but one of uint8: convert it with "
         "image.astype(np.float32)"},
    ),
    "text": (
        {"label=number % 2": "label='a'"},
        {"each case has a valid label, patient and spacing": "has label 'a': expected an index "
         "into ['a', 'b']: labels count from 0 in the order of classes"},
    ),
    "exit": (
        {IMAGE: "    raise SystemExit(3)"},
        {"each image is finite float32":
         "raised SystemExit: 3: only commands may end the process"},
    ),
    "prints in read": (
        {READ: "\n\ndef read(root, options):\n    print('one\\ntwo')\n    yield from cases(root)\n"
         "\n\ndef cases(", "root, options):\n    for": "root):\n    for"},
        {"reading prints nothing": "reading printed 'one': every command that reads data would"},
    ),
    "prints in load": (
        {IMAGE: f"    print(path.name)\n{IMAGE}"},
        {"reading prints nothing": "reading printed '0.npy': every command"},
    ),
    "threads": (
        {IMAGE: SHARED, "from functools": "import time\nfrom functools"},
        {"several threads read the same images":
         "with 4 threads at a time: let images share nothing"},
    ),
    "process": (
        {IMAGE: f"    import os\n{IMAGE} + np.float32(os.getpid())"},
        {"another process at the same time reads the same cases":
         "another process reads otherwise: case '0' has other pixels"},
    ),
    "careless": (
        {
            YIELD: f"{UNUSABLE}\n{YIELD}",
            IMAGE: f"    path.with_suffix('.seen').touch()\n    np.seterr(all='raise')\n{IMAGE}",
            "source=(path,)": "source=(path.with_name('table.csv'),)",
        },
        {
            "each cause of unusable cases has one reason": "the reason of '0-b' names the case",
            "source names the files of each image": "the image of '0' opens ",
            "reading changes nothing in the process": "reading changed NumPy's handling of float",
            "reading writes nothing into its folder": ": write into a temporary folder",
        },
    ),
}  # fmt: skip


def changed(source: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        assert old in source
        source = source.replace(old, new, 1)
    return source


def faults(checked: list[CheckedProperty]) -> dict[str, str]:
    return {each.name: each.fault for each in checked if each.fault}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three cases, and a table."""
    root = tmp_path / "data" / "files"
    root.mkdir(parents=True)
    for number in range(3):
        np.save(root / f"{number}.npy", np.full((16, 16), number, np.float32))
    (root / "table.csv").write_text("")
    return root


@pytest.mark.parametrize("name", BROKEN_DATASETS)
def test_a_broken_dataset_is_described(
    name: str, files: Path, install: Install, tmp_path: Path
) -> None:
    replaced, expected = BROKEN_DATASETS[name]
    module = f"tp_check_{name.replace(' ', '_')}"
    source = changed(DATASET, replaced)
    install("tp-check", module, f"import numpy as np\n{source}")
    # Some are read in this process and in another one, which gets the search path of this one.
    subject = dataset_subject(module, files, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "site"))
        checked = list(check_properties("dataset", subject, DATASET_PROPERTIES[:-1]))
    found = faults(checked)
    assert list(found) == list(expected)
    assert [words for missing, words in expected.items() if words not in found[missing]] == []


def dataset_subject(module: str, root: Path, folder: Path) -> DatasetSubject:
    (component,) = components_of(module).values()
    return DatasetSubject(
        adapter=component,
        module=module,
        plugins=Plugins.of(component),
        root=root,
        missing="",
        folder=folder,
    )


BROKEN_IMPORT = """
import random
import warnings

import click
from hydrakit.hooks import hookimpl

import slow_thing

print("hello")
random.seed(3)
warnings.warn("this is old")

@hookimpl
def hydrakit_commands():
    yield click.Command("old")
"""


def test_an_import_that_every_command_suffers_from_is_described(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("tp-check", "tp_check_import", BROKEN_IMPORT)
    install("tp-check", "slow_thing", "import time\ntime.sleep(0.06)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setattr("hydrakit.testing.imports.REPEATS", 1)
    subject = ImportSubject("tp_check_import", tmp_path, limit=0)
    found = faults(list(check_properties("plugin", subject, IMPORT_PROPERTIES)))
    assert found.pop("its import is quick").startswith("it takes ")
    assert found == {
        "its import prints nothing": "it printed 'hello': every command would print it; remove it",
        "its import causes no warning": "it causes the warning 'UserWarning: this is old': correct "
        "what it warns of",
        "its import changes nothing in the process": "it changed the seed of Python's random "
        "numbers, for the whole process: do that inside the functions that need it, and put it "
        "back",
    }
    assert subject.result.packages[0].name == "slow_thing"


def test_packages_are_named_by_whom_a_plugin_imports() -> None:
    lines = """
import time:       100 |        100 |       numpy.core
import time:       200 |        300 |     numpy
import time:       500 |        800 |   skin.read
import time:        10 |         10 |   hydrakit.plan.model
import time:        50 |        860 | skin
""".strip().splitlines()
    named = imported_packages(lines, "skin")
    assert [(each.name, round(each.seconds * 1e6)) for each in named] == [
        ("numpy", 300),
        ("hydrakit.plan.model", 10),
    ]


def strategy(plan: Callable[..., Any]) -> SequenceStrategy:
    return SequenceStrategy(name="tried", summary="A strategy of the tests", plan=plan)


def rounds(datasets: Any, settings: Any, **values: Any) -> list[Any]:
    from hydrakit.rounds import Round

    hyperparameters = settings.hyperparameters("all", "first").model_copy(update=values)
    return [
        Round(dataset=name, train="all", head=name, hyperparameters=hyperparameters)
        for name in datasets
    ]


def drawing(datasets: Any, settings: Any) -> list[Any]:
    import random

    return rounds(datasets, settings, learning_rate=random.random())


def reading(datasets: Any, settings: Any) -> list[Any]:
    Path(__file__).read_text()
    return rounds(datasets, settings)


def popping(datasets: Any, settings: Any) -> list[Any]:
    return rounds([datasets.pop()], settings)


def refusing(datasets: Any, settings: Any) -> list[Any]:
    raise PlanError("no datasets, please")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (drawing, "round 1 has another hyperparameters when it is asked again"),
        (drawing, "it draws random numbers: a plan must depend on its arguments"),
        (reading, f"it opens {__file__}"),
        (popping, "it changes the list of datasets"),
        (refusing, "it refuses every number of datasets: 1 refused: no datasets, please"),
        (lambda datasets, settings: [], "no round trains on 'first', the last of first, which"),
        (lambda datasets, settings: [{}], "it returned a dict"),
        (lambda datasets, settings: rounds(datasets[:1], settings),
         "no round trains on 'second', the last of first, second, which is the target"),
        (lambda datasets, settings: datasets["x"], "TypeError"),
        (lambda datasets, settings: sys.exit(3),
         "raised SystemExit: 3: only commands may end the process"),
    ],
)  # fmt: skip
def test_a_broken_strategy_is_described(plan: Callable[..., Any], words: str) -> None:
    with pytest.raises(AssertionError) as raised:
        check_strategy(strategy(plan))
    assert words in str(raised.value)


def test_a_strategy_may_refuse_a_number_of_datasets() -> None:
    def pairs(datasets: Any, settings: Any) -> list[Any]:
        if len(datasets) != 2:
            raise PlanError("give two datasets")
        return rounds(datasets, settings)

    check_strategy(strategy(pairs))


def test_the_shipped_strategies_pass() -> None:
    for each in hydrakit_sequence_strategies():
        check_strategy(each)
        require(check_properties(each.name, each, SUMMARY_PROPERTIES))


class NeverEnding:
    """A launcher that does nothing."""

    def processes(self, context: object, groups: int) -> int:
        return 1

    def threads(self, groups: int) -> int:
        return 0

    def submit(self, groups: object, folder: Path, *, processes: int) -> None:
        pass

    def poll(self) -> list[Any]:
        return []

    def states(self) -> dict[str, str]:
        return {}

    def cancel(self) -> None:
        pass


class Forgetful(NeverEnding):
    """A launcher that says that jobs have ended that it has not run."""

    def submit(self, groups: Any, folder: Path, *, processes: int) -> None:
        self.ended = [(job, "exit status 0") for group in groups for job in group]

    def poll(self) -> list[Any]:
        ended, self.ended = self.ended, []
        return ended

    def states(self) -> Any:
        return ["RUNNING"]


class Waiting(NeverEnding):
    """A launcher whose poll does not return."""

    def poll(self) -> list[Any]:
        time.sleep(60)
        return []


class Running(Forgetful):
    """A launcher that runs jobs in this process."""

    def submit(self, groups: Any, folder: Path, *, processes: int) -> None:
        super().submit(groups, folder, processes=processes)
        for job, _ in self.ended:
            job.write_failure("there is no such dataset")

    def states(self) -> dict[str, str]:
        return {}

    def threads(self, groups: int) -> int:
        return 1


def launcher(kind: type) -> LauncherFactory:
    return LauncherFactory(name="tried", summary="A launcher", build=lambda options: kind())


def broken_launcher(kind: type, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("hydrakit.testing.launchers.AFTER_CANCEL", 0.05)
    with pytest.raises(AssertionError) as raised:
        check_launcher(launcher(kind), timeout=0.3)
    return str(raised.value)


def test_a_broken_launcher_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    never = broken_launcher(NeverEnding, monkeypatch)
    assert "'one' had not ended after 0.3 s" in never
    assert "threads returned 0 for 2 groups of jobs" in never
    assert "poll had not returned after 0.3 s" in broken_launcher(Waiting, monkeypatch)
    assert "states returned ['RUNNING']: a mapping" in broken_launcher(Forgetful, monkeypatch)
    monkeypatch.setattr(Forgetful, "states", NeverEnding.states)
    assert "'one' ended (exit status 0), but was not run" in broken_launcher(Forgetful, monkeypatch)
    check_launcher(launcher(Running))


@pytest.mark.slow
def test_the_shipped_launcher_passes(cell_processes: None) -> None:
    (factory,) = hydrakit_launchers()
    check_launcher(factory)


class Recorder:
    """A tracker that keeps the steps in a file; ``forgets`` leaves out the last one."""

    forgets = False

    def open(self, folder: Path) -> dict[str, set[int]]:
        self.file = folder / "steps.json"
        self.steps = json.loads(self.file.read_text()) if self.file.exists() else {}
        return {name: set(steps) for name, steps in self.steps.items()}

    def send(self, name: str, value: float, step: int) -> None:
        self.steps.setdefault(name, []).append(step)

    def flush(self) -> None:
        self.file.write_text(json.dumps(self.steps))

    def close(self, *, failed: bool) -> None:
        if self.forgets:
            self.file.unlink(missing_ok=True)


class ForgetfulRecorder(Recorder):
    forgets = True


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Recorder, None),
        (ForgetfulRecorder, "open returned the steps [] of a metric that was recorded at [1, 2]"),
        (object, "it has no method 'open'"),
    ],
)
def test_a_tracker_finds_again_what_it_recorded(
    kind: type, words: str | None, tmp_path: Path
) -> None:
    factory = TrackerFactory(name="tried", summary="A tracker", build=lambda options: kind())
    subject = TrackerSubject(factory, tmp_path)
    found = "".join(faults(list(check_properties("tracker", subject, TRACKER_PROPERTIES))).values())
    assert (words or "") in found
    assert bool(found) == (words is not None)


def test_descriptions_are_for_users() -> None:
    @dataclass(frozen=True)
    class Options:
        size: int = 3

    tried = LauncherFactory(name="tried", summary="", build=NeverEnding, options=Options)
    properties = (*SUMMARY_PROPERTIES, *OPTION_PROPERTIES)
    found = faults(list(check_properties("launcher", tried, properties)))
    assert list(found.values()) == [
        "its summary is empty: say in one line what it is",
        'its option \'size\' has no help: write field(default=..., metadata={"help": "..."})',
    ]
    long = replace(tried, summary="long " * 30)
    (summary,) = check_properties("launcher", long, SUMMARY_PROPERTIES)
    assert summary.fault == "its summary has 150 characters: at most 120 fit in a list"


PROJECT = """
[project]
name = "tp-whole"
version = "1.2"

[project.entry-points.hydrakit]
whole = "tp_whole"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of a plugin that is not installed: a dataset, and a command that cannot start."""
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    source = DATASET.replace("hookimpl\n", "hookimpl\nimport click\n", 1)
    command = """

@click.command()
@click.argument("name", type=int, default="x")
def broken(name):
    pass


@hookimpl
def hydrakit_commands():
    yield broken
"""
    (folder / "src" / "tp_whole.py").write_text(source + command)
    return folder


def test_a_folder_is_checked_without_being_installed(project: Path) -> None:
    done = CliRunner().invoke(
        main, ["plugins", "check", str(project), "--data", str(project), "--json"]
    )
    assert done.exit_code == 1, done.output
    (plugin,) = json.loads(done.stdout)
    whole = {name: plugin[name] for name in ("name", "module", "distribution", "version")}
    assert list(whole.values()) == ["whole", "tp_whole", "tp-whole", "1.2"]
    failed = [each for each in plugin["properties"] if each["state"] == "failed"]
    assert [(each["of"], each["name"]) for each in failed] == [
        ("plugin 'whole'", "files of a dataset are there"),
        ("command 'broken'", "has a help text"),
    ]
    assert f"there is no folder {project}/files: " in failed[0]["text"]
    assert plugin["failed"] == 2
    assert plugin["passed"] + plugin["failed"] + plugin["skipped"] == len(plugin["properties"])
    assert plugin["skipped"] == len(DATASET_PROPERTIES) - 1
    assert "tp_whole" not in sys.modules


@pytest.mark.slow
def test_a_plugin_with_data_passes(
    project: Path, tmp_path: Path, check_plugin: Callable[..., list[CheckedProperty]]
) -> None:
    module = project / "src" / "tp_whole.py"
    module.write_text(DATASET)
    root = tmp_path / "data" / "files"
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(40):
        np.save(root / f"{number:02}.npy", random.normal(size=(16, 16)).astype(np.float32))
    checked = check_plugin(project, data=root.parent)
    assert [each.name for each in checked if each.skipped] == []
    assert {"two readings give the same cases", "a run of two epochs finishes"} <= {
        each.name for each in checked
    }


def test_a_plugin_that_ends_the_process_is_described(tmp_path: Path) -> None:
    module = tmp_path / "tp_ends.py"
    module.write_text("import os\nos._exit(7)\n")
    found = faults(check_plugin(module))
    assert list(found) == ["can be imported, and its hooks are valid", "its components are valid"]
    imported, loaded = found.values()
    assert "the import ended the process with status 7" in imported
    assert "the process of the check ended here (exit status 7)" in loaded


def test_a_missing_package_is_said_once_with_what_to_do(tmp_path: Path) -> None:
    module = tmp_path / "tp_missing.py"
    module.write_text("import no_such_package\n")
    assert faults(check_plugin(module)) == {
        "can be imported, and its hooks are valid": "ModuleNotFoundError: No module named "
        "'no_such_package': install it, or add it to the plugin's dependencies"
    }


def test_a_plugin_that_hangs_is_described(tmp_path: Path) -> None:
    module = tmp_path / "tp_hangs.py"
    module.write_text("while True:\n    pass\n")
    (checked,) = check_plugin(module, limit=1)
    assert checked == CheckedProperty(
        of="plugin 'tp_hangs'",
        name="can be imported, and its hooks are valid",
        fault="had not finished after 1 s: what follows was not checked",
    )


def hanging_check(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A check that hangs in an import, and the processes that it has started."""
    pids = folder / "pids"
    module = folder / "tp_hangs.py"
    module.write_text(
        f"import os, time\nopen({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}} ')\n"
        "time.sleep(10000)\n"
    )
    command = [sys.executable, "-m", "hydrakit", "plugins", "check", str(module)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    while not pids.exists() or len(pids.read_text().split()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    return process, [int(pid) for pid in pids.read_text().split()]


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_check_that_is_stopped_leaves_no_process(name: str, tmp_path: Path) -> None:
    process, started = hanging_check(tmp_path)
    os.kill(process.pid, getattr(signal, name))
    _, printed = process.communicate(timeout=60)
    lines = {"SIGTERM": ["hydrakit: stopped by SIGTERM: run the same command again"]}
    assert printed.splitlines() == lines.get(name, [])
    until = time.monotonic() + 30
    while any(map(is_running, started)):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_plugin_that_offers_nothing_is_described(tmp_path: Path) -> None:
    module = tmp_path / "tp_nothing.py"
    module.write_text("")
    (fault,) = faults(check_plugin(module)).items()
    assert fault[0] == "can be imported, and its hooks are valid"
    assert fault[1].startswith("offers no component: a hook must be a function of the module that")


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ('a = "tp_whole"\nb = "tp_whole"', "its entry points 'a' and 'b' name the same module"),
        ('skin = "tp-whole"', "entry point 'skin' names 'tp-whole', which is no module"),
        ('skin = "tp_whole:x y"', "entry point 'skin' names 'tp_whole:x y', which is no module"),
        ('skin = ""', "entry point 'skin' names '', which is no module"),
    ],
)
def test_wrong_entry_points_are_refused(points: str, words: str, project: Path) -> None:
    (project / "pyproject.toml").write_text(PROJECT.replace('whole = "tp_whole"', points))
    with pytest.raises(PluginError) as raised:
        check_plugin(project)
    assert words in str(raised.value)


def test_results_are_under_the_plugin_that_was_asked_for(install: Install, project: Path) -> None:
    install("a-first", "tp_whole", None, entry="a")
    (project / "src" / "tp_whole.py").write_text("")
    checked = check_plugin(project)
    assert {each.of for each in checked} == {"plugin 'whole'"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-plugin"], "unknown plugin 'no-such-plugin'"),
        (["./no-such-folder"], "is neither a folder nor a module file (.py)"),
        (["."], "has no pyproject.toml: give the folder that has it, or a module file"),
        (["phantom", "--data", "no-such-folder"], "no-such-folder: no such folder"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["plugins", "check", *arguments])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_project_without_a_plugin_is_refused(project: Path) -> None:
    file = project / "pyproject.toml"
    file.write_text("[project]\nname = 'x'\n")
    with pytest.raises(PluginError, match=r"has no table .project.entry-points.hydrakit."):
        check_plugin(project)
    file.write_text("[project\n")
    with pytest.raises(PluginError, match=r"pyproject\.toml: cannot be read"):
        check_plugin(project)
    file.write_text(PROJECT.replace("tp_whole", "tp_other"))
    with pytest.raises(PluginError, match="names the module 'tp_other', which is neither in"):
        check_plugin(project)
