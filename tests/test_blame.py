"""A plugin that fails: one line names it, its distribution and version; the log has the rest."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hydrakit.cli import main
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plugins import load_plugins
from hydrakit.plugins.guard import LOG_BYTES, PluginFault, PluginSource, describe_error

Install = Callable[..., Path]

MODULE = """
import click
import numpy as np
from hydrakit.hooks import (
    DatasetAdapter, FieldOfView, HeadFactory, Sample, SequenceStrategy, Unusable, hookimpl)

def sample(number, **changes):
    image = np.random.default_rng(number).normal(size=(20, 20)).astype(np.float32)
    given = dict(image=image, label=number % 2, patient=f"p{number}", key=f"k{number}")
    return Sample(**(given | changes))

def broken():
    raise ValueError("no such lesion\\nSECRET second line")

def read(root, options):
    yield from map(sample, range(20))

def build(features, classes, options):
    from torch import nn
    return nn.Linear(features, classes)

def plan(datasets, settings):
    from hydrakit.plan import Round
    name = datasets[-1]
    how = settings.hyperparameters("all", "first")
    return [Round(dataset=name, train="all", head=name, hyperparameters=how)]

@click.group()
def tool():
    pass

@tool.command()
@click.option("--how", default="raise")
def work(how):
    if how == "usage":
        raise click.UsageError("not like this")
    if how == "exit":
        raise click.exceptions.Exit(3)
    broken()

@hookimpl
def hydrakit_dataset_adapters():
    yield DatasetAdapter(
        name="moles", summary="", classes=("a", "b"), read=lambda *given: read(*given),
        field_of_view=FieldOfView(share=1.0), version="1", layout="", how_to_get="", citation="",
        licence="")

@hookimpl
def hydrakit_head_factories():
    yield HeadFactory(name="odd", summary="", build=lambda *given: build(*given))

@hookimpl
def hydrakit_sequence_strategies():
    yield SequenceStrategy(name="odd", summary="", plan=lambda *given: plan(*given))

@hookimpl
def hydrakit_commands():
    yield tool
"""

HEADER = "hydrakit: plugin tp_faulty (hydrakit-faulty 4.2): "
CHECK = ["datasets", "check", "moles", "--root", "moles=moles"]
RUN = ["run", "--strategy", "classical", "--datasets", "moles", "--root", "moles=moles"]
RUN += [
    "--device",
    "cpu",
    "--epochs",
    "1",
    "--bootstrap",
    "1",
    "--profile",
    "recommended-0.1",
    "--body-channels",
    "4",
    "--out",
    "run",
]
HEAD, STRATEGY = [*RUN, "--head", "odd"], ["odd" if w == "classical" else w for w in RUN]
RAISED = "raised ValueError: no such lesion (traceback: "


def define(name: str, body: str, given: str = "*given") -> str:
    return f"\ndef {name}({given}):\n    {body}\n"


KINDS = {
    "read raises": (define("read", "broken()"), CHECK, "read of dataset 'moles'", RAISED),
    "read fails midway": (
        define("read", "yield sample(1)\n    broken()"),
        CHECK,
        "read of dataset 'moles'",
        RAISED,
    ),
    "read gives nothing": (define("read", "return None"), CHECK, "read of dataset", "TypeError"),
    "read gives something else": (
        define("read", "yield sample(1)\n    yield (1, 2)"),
        CHECK,
        "read of dataset 'moles' yielded a tuple",
        "a Sample or an Unusable is expected",
    ),
    "read gives None among cases": (
        define("read", "yield sample(1)\n    yield None"),
        CHECK,
        "read of dataset 'moles' yielded a NoneType",
        "a Sample or an Unusable is expected",
    ),
    "a sample of wrong types": (
        define("read", "yield sample(1, patient=7)"),
        CHECK,
        "read of dataset 'moles' raised TypeError: case 'k1': patient must",
        "be text (str)",
    ),
    "read ends the process": (
        define("read", "import sys; sys.exit()"),
        CHECK,
        "read of dataset 'moles'",
        "raised SystemExit (traceback: ",
    ),
    "an image ends the process": (
        define("read", "yield from (sample(n, image=exit) for n in range(20))"),
        RUN,
        "the image of case 'k0' of dataset 'moles'",
        "raised SystemExit",
    ),
    "build ends the process": (
        define("build", "raise SystemExit(0)"),
        HEAD,
        "build of head 'odd'",
        "raised SystemExit: 0",
    ),
    "plan ends the process": (
        define("plan", "raise SystemExit(0)"),
        STRATEGY,
        "plan of strategy 'odd'",
        "raised SystemExit: 0",
    ),
    "facts that are none": (
        define("read", "yield sample(1, facts=None)"),
        CHECK,
        "read of dataset 'moles' raised TypeError: case 'k1': facts must",
        "be a mapping",
    ),
    "a centre that is none": (
        define("read", "yield sample(1, centre=('a', 2))"),
        CHECK,
        "raised TypeError: case 'k1': centre must",
        "be a pair of numbers",
    ),
    "an image raises": (
        define("read", "yield from (sample(n, image=broken) for n in range(20))"),
        RUN,
        "the image of case 'k0' of dataset 'moles'",
        RAISED,
    ),
    "build raises": (define("build", "broken()"), HEAD, "build of head 'odd'", RAISED),
    "build gives no module": (
        define("build", "return None"),
        HEAD,
        "build of head 'odd' returned a NoneType",
        "a torch.nn.Module is expected",
    ),
    "a head that takes other features": (
        define("build", "from torch import nn; return nn.Linear(7, classes)", "f, classes, d"),
        HEAD,
        "head 'odd', given 2 inputs of shape (256,), raised RuntimeError",
        "(traceback: ",
    ),
    "a head of other classes": (
        define("build", "from torch import nn; return nn.Linear(features, 9)", "features, c, d"),
        HEAD,
        "head 'odd' returned (2, 9) for 2 inputs",
        "logits of shape (2, 2)",
    ),
    "a head whose width varies": (
        "widths = [3]\n"
        + define(
            "build",
            "from torch import nn; widths.append(widths[-1] + 1); "
            "return nn.Sequential(nn.Linear(features, widths[-1]), nn.Linear(widths[-1], 2))",
            "features, c, d",
        ),
        HEAD,
        "head 'odd': two builds with the same arguments differ in '0.weight' (",
        "must depend only on the arguments of build",
    ),
    "a head that draws its layers": (
        define(
            "build",
            "import torch; from torch import nn; n = int(torch.randint(1, 10**6, ())) % 7; "
            "return nn.Sequential(*[nn.Linear(features, features)] * n, nn.Linear(features, 2))",
            "features, c, d",
        ),
        HEAD,
        "head 'odd': two builds with the same arguments differ in '",
        "must depend only on the arguments of build",
    ),
    "plan raises": (define("plan", "broken()"), STRATEGY, "plan of strategy 'odd'", RAISED),
    "plan gives nothing": (define("plan", "return None"), STRATEGY, "plan of strat", "TypeError"),
    "plan gives no rounds": (
        define("plan", "return []"),
        STRATEGY,
        "plan of",
        "returned no rounds",
    ),
    "plan gives something else": (
        define("plan", "return ['moles']"),
        STRATEGY,
        "plan of strategy 'odd' returned a str",
        "a Round is expected",
    ),
    "plan names other data": (
        define("plan", "return [r.model_copy(update={'dataset': 'x'}) for r in sound(*given)]"),
        STRATEGY,
        "plan of strategy 'odd' returned a round of",
        "'x', which is not among its datasets",
    ),
    "a command raises": ("", ["tool", "work"], "command 'tool'", RAISED),
}


@pytest.fixture
def faulty(install: Install, standin: Path) -> Callable[[str], None]:
    """Installs the plugin with some of its functions replaced; the dataset's folder is there."""
    (standin / "moles").mkdir()

    def write(changed: str) -> None:
        source = f"{MODULE}\nsound = plan\n{changed}"
        install("hydrakit-faulty", "tp_faulty", source, version="4.2")

    return write


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin: Path) -> Path:
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_one_line_names_plugin_distribution_and_version(
    faulty: Callable[[str], None], own_cache: Path, kind: str
) -> None:
    changed, arguments, what, why = KINDS[kind]
    faulty(changed)
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    *before, line = result.stderr.splitlines()
    assert line.startswith(f"{HEADER}{what}" if "case 'k1'" not in what else HEADER)
    assert what in line
    assert why in line
    assert "Traceback" not in result.output
    assert "SECRET" not in result.output
    assert [each for each in before if "raised" in each or "File" in each] == []
    _, found, rest = line.partition(" (traceback: ")

    if found:
        text = Path(rest.removesuffix(")")).read_text()
        # A run's own log tells the places alone, for an exception may say more than it should.
        in_a_run = Path("run", "log.txt").is_file()
        assert in_a_run or "Traceback (most recent call last)" in text
        assert "tp_faulty.py" in text or why != RAISED


def test_a_sound_plugin_is_left_alone(faulty: Callable[[str], None], own_cache: Path) -> None:
    faulty("")
    for arguments in (CHECK, [*HEAD[:-2], "--head", "odd"]):
        result = invoke(*arguments)
        assert "raised" not in result.output
        assert "plugin tp_faulty" not in result.output
    assert Path("run", "results.json").is_file()
    assert invoke("tool", "work", "--how", "exit").exit_code == 3
    usage = invoke("tool", "work", "--how", "usage")
    assert usage.exit_code == 2
    assert usage.stderr.endswith("Error: not like this\n")
    assert not (own_cache / "log.txt").exists()


def test_the_debug_variable_shows_the_traceback_too(
    faulty: Callable[[str], None], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(define("plan", "broken()"))
    monkeypatch.setenv("HYDRAKIT_DEBUG", "1")
    result = invoke(*STRATEGY)
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "SECRET second line" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(HEADER)


def test_a_log_that_cannot_be_written_is_said(
    faulty: Callable[[str], None], own_cache: Path
) -> None:
    faulty(define("plan", "broken()"))
    own_cache.write_text("a file in its place")
    line = invoke(*STRATEGY).stderr
    assert line.endswith("lesion (traceback: set HYDRAKIT_DEBUG=1)\n")


def test_the_log_does_not_grow_for_ever(faulty: Callable[[str], None], own_cache: Path) -> None:
    faulty(define("plan", "broken()"))
    for _ in range(2):
        invoke(*STRATEGY)
    log = own_cache / "log.txt"
    assert log.read_text().count("Traceback") == 2
    log.write_text("x" * (LOG_BYTES + 1))
    invoke(*STRATEGY)
    assert log.read_text().count("Traceback") == 1
    assert "x" * 100 not in log.read_text()


def test_a_runs_log_has_it_where_one_is_open(
    faulty: Callable[[str], None], own_cache: Path, tmp_path: Path
) -> None:
    faulty(define("plan", "broken()"))
    handler = logging.FileHandler(tmp_path / "run.log")
    logging.getLogger("hydrakit").addHandler(handler)
    try:
        line = invoke(*STRATEGY).stderr
    finally:
        logging.getLogger("hydrakit").removeHandler(handler)
        handler.close()
    assert line.endswith(f"(traceback: {tmp_path / 'run.log'})\n")
    assert "SECRET second line" in (tmp_path / "run.log").read_text()
    assert not own_cache.exists()


@pytest.mark.usefixtures("cell_processes")
def test_a_cell_of_a_comparison_says_it_too(
    faulty: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path
) -> None:
    faulty(
        define(
            "build",
            "import multiprocessing; from torch import nn; "
            "return broken() if multiprocessing.parent_process() else nn.Linear(features, 2)",
            "features, c, d",
        )
    )
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]).strip(
            os.pathsep
        ),
    )
    arguments = [
        "compare",
        "--no-baselines",
        "--strategies",
        "classical",
        "--datasets",
        "moles",
        "--head",
        "odd",
    ]
    arguments += ["--root", "moles=moles", "--folds", "2", "--seeds", "1", "--jobs", "1"]
    result = invoke(
        *arguments,
        "--device",
        "cpu",
        "--out",
        "compared",
        "--profile",
        "recommended-0.1",
        "--body-channels",
        "4",
    )
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("hydrakit: cell")]
    assert len(lines) == 2
    for line in lines:
        assert f"{HEADER.removeprefix('hydrakit: ')}build of head 'odd' raised" in line
        path = Path(line.partition("(traceback: ")[2].removesuffix(")"))
        assert "SECRET second line" in path.read_text()
    assert "SECRET" not in result.output


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, DataError])
def test_what_is_no_fault_of_a_plugin_passes(error: type[BaseException]) -> None:
    source = PluginSource("m", "d", "1")
    with pytest.raises(error) as caught, source.blame("it"):
        raise error("told")
    assert not isinstance(caught.value, PluginFault)


def test_a_stop_of_an_iteration_is_a_fault() -> None:
    told = pytest.raises(PluginFault, match=r"plugin m \(d 1\): it raised StopIteration")
    with told, PluginSource("m", "d", "1").blame("it"):
        raise StopIteration


def test_an_error_is_told_in_a_short_printable_line() -> None:
    assert describe_error(ValueError("one\ntwo")) == "ValueError: one"
    assert describe_error(ValueError()) == "ValueError"
    assert describe_error(ValueError("a\x1b[31mb\u202e")) == r"ValueError: a\x1b[31mb\u202e"
    assert len(describe_error(ValueError("x" * 10_000))) < 250


def test_a_reading_that_is_left_early_is_closed(
    faulty: Callable[[str], None], tmp_path: Path
) -> None:
    faulty(
        define(
            "read",
            "try:\n        yield sample(1)\n    finally:\n        (root / 'closed').touch()",
            "root, _",
        )
    )
    cases = load_plugins().get(DatasetAdapter, "moles").read(tmp_path, {})
    next(cases)
    assert not (tmp_path / "closed").exists()
    cases.close()  # type: ignore[attr-defined]
    assert (tmp_path / "closed").exists()


SAMPLES = {
    "an unknown label": ("label=7", "case 'k1' has label 7: expected an index into ['a', 'b']"),
    "no patient": ("patient=''", "case 'k1' has no patient"),
    "an empty key": ("key=''", "a case has an empty key"),
    "pixels that are no numbers": ("image=np.full((9, 9), np.nan, np.float32)", "not finite"),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_an_error_about_a_sample_names_plugin_and_distribution(
    faulty: Callable[[str], None], own_cache: Path, kind: str
) -> None:
    changes, said = SAMPLES[kind]
    faulty(define("read", f"yield sample(0)\n    yield sample(1, {changes})"))
    result = invoke(*CHECK)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("hydrakit: moles: ")
    assert said in line
    assert line.endswith("; read by plugin tp_faulty (hydrakit-faulty 4.2)")


def test_what_a_function_changes_in_the_process_is_put_back(
    faulty: Callable[[str], None], own_cache: Path
) -> None:
    import torch

    here = Path.cwd()
    body = "os.chdir('/')\n    torch.set_default_dtype(torch.float64)\n    print('hello')"
    faulty("import os, torch" + define("plan", f"{body}\n    return sound(*given)"))
    try:
        plan = invoke("plan", *STRATEGY[1:7])
    finally:
        changed = torch.get_default_dtype(), Path.cwd()
        torch.set_default_dtype(torch.float32)
        os.chdir(here)
    assert changed == (torch.float32, here)
    assert json.loads(plan.stdout)["strategy"] == "odd"
    assert plan.stderr.splitlines() == [
        "plugin tp_faulty (hydrakit-faulty 4.2): hello",
        f"{HEADER}plan of strategy 'odd' changed torch's default number type, the working folder, "
        "for the whole process: put back",
    ]
