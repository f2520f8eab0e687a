from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import hydrakit
from hydrakit import hooks
from hydrakit.cli import main
from hydrakit.compute.signals import StopRequested, stoppable
from hydrakit.errors import PluginError
from hydrakit.hooks import DatasetAdapter, HeadFactory
from hydrakit.names import is_name
from hydrakit.plugins import Plugins, load_plugins
from hydrakit.plugins.process_state import restored
from hydrakit.plugins.registry import KINDS, PluginRecord

HEAD = """
from hydrakit.hooks import HeadFactory, hookimpl

@hookimpl
def hydrakit_head_factories():
    yield HeadFactory(name={name!r}, summary="a head", build=None)
"""

Install = Callable[..., Path]


def found(plugins: Plugins, module: str) -> PluginRecord:
    (one,) = [plugin for plugin in plugins.records if plugin.module == module]
    return one


def test_a_plugin_is_found_with_what_it_offers(install: Install) -> None:
    install("third-party", "tp_good", HEAD.format(name="round-one"), version="2.3")
    plugins = load_plugins()
    assert found(plugins, "tp_good") == PluginRecord(
        name="tp_good",
        module="tp_good",
        distribution="third-party",
        version="2.3",
        offers={"head": ("round-one",)},
    )
    assert plugins.get(HeadFactory, "round-one").summary == "a head"
    assert {"brain"} <= set(plugins.all(DatasetAdapter))


def test_every_hook_is_asked(install: Install) -> None:
    install(
        "third-party",
        "tp_all",
        """
from dataclasses import dataclass
import click
from hydrakit.hooks import (
    BodyFactory, DatasetAdapter, FieldOfView, HeadFactory, LauncherFactory, SequenceStrategy,
    TrackerFactory, hookimpl)

@dataclass(frozen=True)
class Options:
    depth: int = 3
    patch: int = 16

class Plugin:
    @hookimpl
    def hydrakit_dataset_adapters(self):
        return [DatasetAdapter(
            name="all-data", summary="", classes=("a", "b"), read=None,
            field_of_view=FieldOfView(share=1.0), version="1", layout="", how_to_get="",
            citation="", licence="", options=Options)]

    @hookimpl
    def hydrakit_head_factories(self):
        return (HeadFactory(name="all-head", summary="", build=None),)

    @hookimpl
    def hydrakit_body_factories(self):
        yield BodyFactory(name="all-body", summary="", build=None, options=Options)

    @hookimpl(specname="hydrakit_sequence_strategies")
    def orders(self):
        yield SequenceStrategy(name="all-order", summary="", plan=None)

    @hookimpl
    def hydrakit_launchers(self):
        yield LauncherFactory(name="all-launcher", summary="", build=None)

    @hookimpl
    def hydrakit_trackers(self):
        yield TrackerFactory(name="all-tracker", summary="", build=None)

    @hookimpl
    def hydrakit_commands(self):
        yield click.Command("all-command")

plugin = Plugin()
""",
    )
    entry_points = install("further", "tp_all:plugin", None, entry="every") / "entry_points.txt"
    assert "every = tp_all:plugin" in entry_points.read_text()
    plugins = load_plugins()
    plugin = found(plugins, "tp_all:plugin")
    assert plugin.error is None
    assert plugin.offers == {
        "dataset": ("all-data",),
        "head": ("all-head",),
        "body": ("all-body",),
        "strategy": ("all-order",),
        "launcher": ("all-launcher",),
        "tracker": ("all-tracker",),
        "command": ("all-command",),
    }
    assert set(plugin.offers) == {kind.name for kind in KINDS}
    for kind in KINDS:
        (name,) = plugin.offered(kind.type)
        assert plugins.get(kind.type, name).name == name
        assert plugins.all(kind.type)[name] is plugins.get(kind.type, name)
    assert plugins.get(DatasetAdapter, "all-data").classes == ("a", "b")
    assert found(plugins, "tp_all").offers == {}  # the module alone implements nothing


def test_the_table_of_kinds_has_every_hook() -> None:
    specified = {name for name in vars(hooks) if name.startswith("hydrakit_")}
    assert {kind.hook for kind in KINDS} == specified


BROKEN = {
    "import": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "syntax": ("def", "SyntaxError: invalid syntax"),
    "exit": ("import sys; sys.exit('needs a display')", "SystemExit: needs a display"),
    "lines": ("raise RuntimeError('one\\n\\n  two')", "RuntimeError: one two"),
    "misspelt": (
        "from hydrakit.hooks import hookimpl\n@hookimpl\ndef hydrakit_dataset_adapter(): yield 1",
        "unknown hook 'hydrakit_dataset_adapter': did you mean 'hydrakit_dataset_adapters'?",
    ),
    "misspelt-unmarked": (
        "def hydrakit_head_factorys(): yield 1",
        "unknown hook 'hydrakit_head_factorys': did you mean 'hydrakit_head_factories'?",
    ),
    "misspelt-otherwise": (
        "from hydrakit.hooks import hookimpl\n@hookimpl\ndef dataset_adapters(): yield 1",
        "unknown hook 'dataset_adapters': did you mean 'hydrakit_dataset_adapters'?",
    ),
    "unmarked": (
        "def hydrakit_head_factories(): yield 1",
        "hydrakit_head_factories is not marked: put @hookimpl above it",
    ),
    "parameters": (
        "from hydrakit.hooks import hookimpl\n@hookimpl\ndef hydrakit_commands(app): yield 1",
        "PluginValidationError",
    ),
    "raises": (
        HEAD.format(name="lost") + "    raise KeyError('weights')",
        "hydrakit_head_factories: KeyError: 'weights'",
    ),
    "returns-none": (
        "from hydrakit.hooks import hookimpl\n@hookimpl\ndef hydrakit_commands(): pass",
        "hydrakit_commands returned None: let it yield its descriptions",
    ),
    "not-iterable": (
        "from hydrakit.hooks import hookimpl\n@hookimpl\ndef hydrakit_commands(): return 3",
        "hydrakit_commands: TypeError: 'int' object is not iterable",
    ),
    "wrong-class": (
        HEAD.format(name="x").replace("hydrakit_head_factories", "hydrakit_dataset_adapters"),
        "hydrakit_dataset_adapters yielded a HeadFactory: expected DatasetAdapter",
    ),
    "not-a-command": (
        HEAD.format(name="x").replace("hydrakit_head_factories", "hydrakit_commands"),
        "hydrakit_commands yielded a HeadFactory: expected Command",
    ),
    "bad-name": (HEAD.format(name="../Heads"), "yielded the name '../Heads': lower-case letters"),
    "no-name": (HEAD.format(name=None), "yielded the name None: lower-case letters"),
    "twice": (
        HEAD.format(name="again") + '    yield HeadFactory(name="again", summary="", build=None)',
        "offers the head 'again' twice",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_told_and_harms_no_other(install: Install, case: str) -> None:
    source, reason = BROKEN[case]
    module = f"tp_broken_{case.replace('-', '_')}"
    install("broken-one", module, source)
    install("working-one", "tp_working", HEAD.format(name="works"))
    plugins = load_plugins()
    broken = found(plugins, module)
    assert broken.error is not None
    assert reason in broken.error
    assert "\n" not in broken.error
    assert broken.offers == {}
    assert plugins.get(HeadFactory, "works").name == "works"
    assert plugins.get(DatasetAdapter, "brain").name == "brain"


def test_ctrl_c_during_an_import_still_ends_the_program(install: Install) -> None:
    install("interrupted", "tp_interrupted", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins()


ADAPTER = """
from dataclasses import dataclass
from typing import Literal
from hydrakit.hooks import DatasetAdapter, FieldOfView, hookimpl

@dataclass(frozen={frozen})
class Options:
    {options}

@hookimpl
def hydrakit_dataset_adapters():
    yield DatasetAdapter(
        name={name!r}, summary="", classes={classes!r}, read=None,
        field_of_view=FieldOfView(share=1.0), version="1", layout="", how_to_get="",
        citation="", licence="", options={given})
"""
SOUND = {
    "name": "odd",
    "classes": ("a", "b"),
    "options": "a: int = 1",
    "given": "Options",
    "frozen": True,
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": ("a",)}, "dataset 'odd' has classes ('a',): a tuple of two or more"),
        ({"classes": ("a", "a")}, "dataset 'odd' has classes ('a', 'a'): a tuple of two or more"),
        ({"classes": ["a", "b"]}, "dataset 'odd' has classes ['a', 'b']: a tuple of two or more"),
        ({"given": "Options()"}, "dataset 'odd' has options that are not a dataclass"),
        ({"given": "int"}, "dataset 'odd' has options that are not a dataclass"),
        ({"frozen": False}, "dataset 'odd' has options that are not frozen"),
        ({"options": "a: int"}, "has an option 'a' without a default"),
        ({"options": "a: object = 1"}, "has an option 'a' of an unsupported type"),
        ({"options": "a: tuple[int, str] = (1, '')"}, "has an option 'a' of an unsupported type"),
        ({"options": "a: 'Unknown' = 1"}, "has options whose types cannot be read: name 'Unknown'"),
        ({"options": "a: Literal[2, 3] = 1"}, "'a' with a default that its Literal does not allow"),
    ],
)
def test_an_adapter_that_would_fail_later_fails_now(
    install: Install, changes: dict[str, object], reason: str
) -> None:
    install("odd", "tp_odd", ADAPTER.format(**(SOUND | changes)))
    error = found(load_plugins(), "tp_odd").error
    assert error is not None
    assert reason in error


def test_a_shipped_dataset_is_not_replaced_by_one_of_the_same_name(install: Install) -> None:
    source = ADAPTER.format(**(SOUND | {"name": "brain"}))
    install("usurper", "tp_usurper", source + HEAD.format(name="innocent"), entry="brain")
    plugins = load_plugins()
    assert "brain" not in plugins.all(DatasetAdapter)
    with pytest.raises(PluginError) as caught:
        plugins.get(DatasetAdapter, "brain")
    message = str(caught.value)
    assert message == (
        "dataset 'brain' is offered by usurper (tp_usurper) and by hydrakit-imaging "
        "(hydrakit_brain): uninstall one"
    )
    assert found(plugins, "tp_usurper").clashes == (message,)
    assert found(plugins, "hydrakit_brain").clashes == (message,)
    assert plugins.get(HeadFactory, "innocent").name == "innocent"


def test_an_entry_point_of_the_same_name_alone_is_no_clash(install: Install) -> None:
    install("namesake", "tp_namesake", HEAD.format(name="other"), entry="brain")
    plugins = load_plugins()
    assert plugins.get(HeadFactory, "other").name == "other"
    assert plugins.get(DatasetAdapter, "brain").name == "brain"
    assert [plugin.module for plugin in plugins.records if plugin.name == "brain"] == [
        "tp_namesake",
        "hydrakit_brain",
    ]


def test_one_name_for_a_head_and_a_dataset_is_no_clash(install: Install) -> None:
    install("third-party", "tp_brain_head", HEAD.format(name="brain"))
    plugins = load_plugins()
    assert (plugins.get(HeadFactory, "brain").name, plugins.get(DatasetAdapter, "brain").name) == (
        "brain",
        "brain",
    )


def test_a_plugin_named_by_two_distributions_is_loaded_once(install: Install) -> None:
    counted = "import sys\nsys.tp_loads = getattr(sys, 'tp_loads', 0) + 1\n"
    install("hydrakit-imaging-too", "tp_shared", counted + HEAD.format(name="shared"))
    install("a-shared", "tp_shared", None)
    plugins = load_plugins()
    assert found(plugins, "tp_shared").distribution == "a-shared"
    assert plugins.get(HeadFactory, "shared").name == "shared"
    assert vars(sys).pop("tp_loads") == 1


def test_a_shipped_plugin_installed_alone_too_is_shown_as_itself(install: Install) -> None:
    install("hydrakit-brain", "hydrakit_brain", None, entry="brain", version="0.1.0")
    plugins = load_plugins()
    assert found(plugins, "hydrakit_brain").distribution == "hydrakit-brain"
    assert plugins.get(DatasetAdapter, "brain").name == "brain"


def test_a_distribution_that_lies_twice_on_the_path_counts_once(install: Install) -> None:
    install("double", "tp_double", HEAD.format(name="double"), version="1.0", folder="behind")
    install("Double", "tp_double", HEAD.format(name="double"), version="2.0", folder="front")
    plugins = load_plugins()
    assert found(plugins, "tp_double").version == "2.0"
    assert plugins.get(HeadFactory, "double").name == "double"


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        ("[hydrakit]\nthis is no entry point\n", "Name: torn\n"),
        ("[hydrakit]\na = b\n", None),
        ("[hydrakit]\na = b\n", "Name:\nVersion:\n"),
    ],
)
def test_a_distribution_with_broken_metadata_is_told(
    install: Install, text: str, metadata: str | None
) -> None:
    info = install("torn", "tp_torn", None)
    (info / "entry_points.txt").write_text(text)
    (info / "METADATA").unlink()
    if metadata is not None:
        (info / "METADATA").write_text(metadata)
    plugins = load_plugins()
    assert plugins.get(DatasetAdapter, "brain").name == "brain"
    broken = [plugin for plugin in plugins.records if plugin.error]
    assert len(broken) == 1
    if text.endswith("b\n"):
        assert (broken[0].distribution, broken[0].version) == ("no name", "no version")


def test_an_entry_point_that_names_nothing_importable_is_told(install: Install) -> None:
    info = install("nonsense", "tp_nonsense", None)
    (info / "entry_points.txt").write_text("[hydrakit]\nnonsense = not a module!\nempty =\n")
    for name, value in (("nonsense", "not a module!"), ("empty", "")):
        error = found(load_plugins(), value).error
        assert error is not None
        assert f"entry point {name!r} names {value!r}, which is no module" in error


def test_an_unknown_name_suggests_the_nearest_and_tells_what_is_broken(install: Install) -> None:
    with pytest.raises(PluginError, match=r"^unknown dataset 'brian': did you mean 'brain'\?$"):
        load_plugins().get(DatasetAdapter, "brian")
    install("broken-one", "tp_broken", "import no_such_module", entry="brian")
    with pytest.raises(PluginError) as caught:
        load_plugins().get(DatasetAdapter, "brian")
    assert str(caught.value) == (
        "unknown dataset 'brian': did you mean 'brain'?; not loaded: brian (broken-one), "
        "see `hydrakit plugins list`"
    )


def test_plugins_are_loaded_once_and_cannot_be_changed(install: Install) -> None:
    plugins = load_plugins()
    assert load_plugins() is plugins
    with pytest.raises(TypeError):
        plugins.all(DatasetAdapter)["mine"] = None  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plugins.records = ()  # type: ignore[misc]


def test_records_are_json_and_hold_every_field(install: Install) -> None:
    install("third-party", "tp_json", HEAD.format(name="json"))
    install("broken-one", "tp_json_broken", "1 / 0")
    records = [plugin.to_json() for plugin in load_plugins().records]
    assert json.loads(json.dumps(records)) == records
    by_module = {record["module"]: record for record in records}
    of_plugin = {field.name for field in dataclasses.fields(PluginRecord)} - {"offers"}
    assert set(by_module["tp_json"]) == of_plugin | {kind.plural for kind in KINDS}
    assert by_module["tp_json"]["heads"] == ["json"]
    assert by_module["tp_json_broken"]["error"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("name", ["off", "switched-off"])  # entry point, distribution
def test_a_disabled_plugin_is_not_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install("switched-off", "tp_off", "raise RuntimeError('imported')", entry="off")
    plugins = load_plugins(frozenset({name}))
    record = found(plugins, "tp_off")
    assert (record.disabled, record.error, record.offers) == (True, None, {})
    assert plugins.get(DatasetAdapter, "brain").name == "brain"
    with pytest.raises(PluginError, match=r"; disabled: off \(switched-off\)$"):
        plugins.get(HeadFactory, "tp-off")
    assert found(load_plugins(), "tp_off").error is not None
    load_plugins.cache_clear()
    monkeypatch.setenv("HYDRAKIT_NO_PLUGINS", f" {name},brain,")
    assert load_plugins() is load_plugins(frozenset({name, "brain"}))
    assert found(load_plugins(), "tp_off").disabled
    assert "brain" not in load_plugins().all(DatasetAdapter)


def test_disabling_what_is_not_there_is_refused() -> None:
    with pytest.raises(PluginError, match=r"^unknown plugin 'brian': did you mean 'brain'\?"):
        load_plugins(frozenset({"brian"}))


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list"], ["datasets", "list"]])
def test_the_program_disables_plugins(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = CliRunner().invoke(main, ["--no-plugin", "phantom", "--no-plugin", "brain", *arguments])
    assert shown.exit_code == 0
    assert "phantom   " not in shown.output
    assert "brain   " not in shown.output
    assert "prostatex" in shown.output
    if arguments == ["plugins", "list"]:
        assert shown.output.count("  disabled\n") == 2
    monkeypatch.setenv("HYDRAKIT_NO_PLUGINS", "phantom")
    both = CliRunner().invoke(main, ["--no-plugin", "brain", *arguments])
    assert both.output == shown.output
    for refused in (["--no-plugin", "brian", *arguments], ["--no-plugin", "brian", "--help"]):
        result = CliRunner().invoke(main, refused)
        assert result.exit_code == 1
        assert result.stderr == (
            "hydrakit: unknown plugin 'brian': did you mean 'brain'? "
            "(see `hydrakit plugins list`)\n"
        )


def test_the_options_of_a_component_are_shown() -> None:
    shown = CliRunner().invoke(main, ["plugins", "info", "mlp"])
    assert shown.output.splitlines() == [
        "head mlp: The paper's head: hidden layers of 64 and 16 units, with ELU and dropout",
        "  hidden=64,16  (a list separated by commas, each a whole number)",
        "      number of units of each hidden layer",
    ]
    described = json.loads(CliRunner().invoke(main, ["plugins", "info", "brain", "--json"]).output)
    assert [(each["kind"], each.get("options")) for each in described] == [
        ("dataset", []),
        ("plugin", None),
    ]
    refused = CliRunner().invoke(main, ["plugins", "info", "mpl"])
    assert (refused.exit_code, refused.stderr) == (
        1,
        "hydrakit: unknown component or plugin 'mpl': did you mean 'mlp'?\n",
    )


def test_finding_plugins_imports_nothing_slow() -> None:
    code = (
        "import sys; from hydrakit.plugins import load_plugins; "
        "print([p.error for p in load_plugins().records if p.error]); "
        "print(sorted({'torch', 'pydicom', 'PIL', 'openpyxl', 'scipy', 'pydantic', 'numpy'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "[]"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plugins", "list"], ["plugins", "list", "--json"]]
)
def test_commands_that_only_list_import_nothing_slow(arguments: list[str]) -> None:
    code = (
        "import sys; from hydrakit.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "slow = {'torch', 'pydicom', 'PIL', 'openpyxl', 'scipy', 'pydantic'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    *shown, slow = done.stdout.splitlines()
    assert slow == "[]"
    assert any("brain" in line or "plugins" in line for line in shown)


@given(st.text(max_size=8))
def test_names_are_fit_for_files_on_every_system(name: str) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    assert is_name(name) == (bool(name) and set(name) <= allowed and name[0] not in "-_")


def test_no_shipped_plugin_is_broken_or_clashes() -> None:
    plugins = load_plugins()
    assert [(one.module, one.error, one.clashes) for one in plugins.records if one.error] == []
    assert not plugins.clashes


# --- what a plugin does to the process

CHANGES = {
    "number type": ("import torch; torch.set_default_dtype(torch.float64)", "torch's default numb"),
    "device": ("import torch; torch.set_default_device('meta')", "torch's default device"),
    "threads": ("import torch; torch.set_num_threads(torch.get_num_threads() + 1)", "of threads"),
    "gradients": ("import torch; torch.set_grad_enabled(False)", "whether torch computes"),
    "precision": ("import torch; torch.set_float32_matmul_precision('medium')", "the precision of"),
    "deterministic": ("import torch; torch.use_deterministic_algorithms(True)", "algorithms"),
    "oneDNN": ("import torch; torch.backends.mkldnn.enabled = False", "the choice of torch's"),
    "tiny numbers": ("import torch; torch.set_flush_denormal(True)", "rounding of tiny numbers"),
    "numpy": ("import numpy; numpy.seterr(all='raise')", "NumPy's handling of"),
    "pillow": (
        "from PIL import ImageFile; ImageFile.LOAD_TRUNCATED_IMAGES = True",
        "Pillow's limits for images",
    ),
    "warnings as errors": (
        "import warnings; warnings.simplefilter('error', BytesWarning)",
        "the filters of",
    ),
    "no warnings": ("import warnings; warnings.simplefilter('ignore')", "the filters of warnings"),
    "signals": ("import signal; signal.signal(2, signal.SIG_IGN)", "the handlers of signals"),
    "folder": ("import os; os.chdir('/')", "the working folder"),
    "locale": ("import locale; locale.setlocale(locale.LC_NUMERIC, 'C.UTF-8')", "the locale"),
    "root logger": ("import logging; logging.root.setLevel(1)", "the root logger"),
    "no logging": ("import logging; logging.disable(50)", "the root logger"),
    "environment": ("import os; os.environ['OMP_NUM_THREADS'] = '99'", "environment variables"),
    "streams": ("import sys; sys.stdout = sys.stderr", "standard output"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_plugin_changes_in_the_process_is_put_back_and_named(
    install: Install, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import PIL.ImageFile
    import torch

    from hydrakit.plugins.process_state import PARTS

    source, part = CHANGES[change]
    module = f"tp_changes_{change.replace(' ', '_')}"
    before = {each.name: each.read() for each in PARTS}
    install("changing", module, f"{source}\n{HEAD.format(name='changing')}")
    plugins = load_plugins()
    assert {each.name: each.read() for each in PARTS} == before
    assert found(plugins, module).offers == {"head": ("changing",)}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hydrakit: plugin {module} (changing 1.0): its import changed ")
    assert part in line
    assert torch.get_default_dtype() is torch.float32
    assert not PIL.ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_stop_within_a_plugin_is_not_its_change_of_handlers() -> None:
    reports: list[list[str]] = []
    after: list[object] = []

    def stop() -> None:
        with stoppable():
            try:
                with restored(reports.append):
                    os.kill(os.getpid(), signal.SIGTERM)
            finally:
                after.append(signal.getsignal(signal.SIGTERM))

    with pytest.raises(StopRequested):
        stop()
    assert reports == []
    assert after == [signal.SIG_IGN]  # a repeated SIGTERM does not stop the saving of work


def test_filters_for_one_warning_may_stay(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    with warnings.catch_warnings():
        source = "import warnings; warnings.filterwarnings('ignore', message='of a library')"
        install("filtering", "tp_filtering", f"{source}\n{HEAD.format(name='filtering')}")
        load_plugins()
        assert capsys.readouterr().err == ""
        warnings.warn("of a library", stacklevel=1)  # warnings are errors in these tests
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", stacklevel=1)


def test_the_state_of_a_package_that_the_plugin_imports_first_is_known(install: Install) -> None:
    source = (
        "import torch\nassert torch.get_num_threads() != 7\ntorch.set_num_threads(7)\n"
        "torch.set_default_dtype(torch.float64)\n"
    )
    info = install("first", "tp_first", f"{source}{HEAD.format(name='first')}")
    program = (
        "import sys\nfrom hydrakit.plugins import load_plugins\nassert 'torch' not in sys.modules\n"
        "assert 'first' in load_plugins().components['head']\nimport torch\n"
        "print(torch.get_num_threads(), torch.get_default_dtype())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(info.parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout == "1 torch.float32\n"
    assert "changed torch's default number type, torch's number of threads" in done.stderr


def test_what_a_plugin_prints_goes_to_standard_error_with_its_name(install: Install) -> None:
    source = (
        "import os, sys\nprint('one\\ntwo', end=' ')\nprint('three')\nos.write(1, b'four\\n')\n"
        "os.system('echo five')\n"
    )
    info = install("noisy", "tp_noisy", f"{source}{HEAD.format(name='noisy')}")
    done = subprocess.run(
        [sys.executable, "-m", "hydrakit", "plugins", "list", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(info.parent)},
    )
    assert [each["module"] for each in json.loads(done.stdout) if each["module"] == "tp_noisy"]
    name = "plugin tp_noisy (noisy 1.0): "
    assert sorted(done.stderr.splitlines()) == ["five", "four", f"{name}one", f"{name}two three"]


def test_a_reader_that_is_closed_while_the_state_is_read_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the garbage collector may do it: in the same thread, within the block."""
    from hydrakit.plugins import process_state

    closed: list[str] = []

    def collect() -> str:
        if not closed:
            closed.append("once")
            with process_state.restored(closed.extend):
                pass
        return "the same"

    part = process_state._Part("a part", "os", collect, lambda _: None)
    monkeypatch.setattr(process_state, "PARTS", (part,))

    def block() -> None:
        with process_state.restored(closed.extend):
            pass

    thread = threading.Thread(target=block, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert (closed, process_state._blocks) == (["once"], 0)


def test_an_import_in_another_thread_asks_every_finder_when_a_block_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes through the list of finders, from which the block takes its own."""
    from hydrakit.plugins import process_state

    part = process_state._Part("a part", "no_such_module", lambda: 0, lambda _: None)
    monkeypatch.setattr(process_state, "PARTS", (part,))
    before = list(sys.meta_path)
    with restored(lambda _: None):
        finders = iter(sys.meta_path)
        next(finders)
    assert list(finders) == sys.meta_path == before


# --- for which version of hydrakit a plugin was written


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "HYDRAKIT_API = 2",
            "was written for hook API 2, not 1: it asks for hydrakit-imaging>=9,<10, ",
        ),
        ("HYDRAKIT_API = '1'", "states HYDRAKIT_API = '1': a whole number from 1 is expected"),
        ("from hydrakit.hooks import Unheard", ": it asks for hydrakit-imaging>=9,<10, and "),
        ("import hydrakit.unheard", ": it asks for hydrakit-imaging>=9,<10, and "),
    ],
)
def test_a_plugin_for_another_hydrakit_says_which(
    install: Install, source: str, reason: str
) -> None:
    info = install("later", f"tp_later_{len(source)}", f"{source}\n{HEAD.format(name='later')}")
    needs = ["numpy>=1", "hydrakit-imaging[get]>=8 ; extra == 'x'", "hydrakit-imaging>=9,<10"]
    with (info / "METADATA").open("a") as file:
        file.write("".join(f"Requires-Dist: {each}\n" for each in needs))
    (error,) = [each.error for each in load_plugins().records if each.distribution == "later"]
    assert error is not None
    assert reason in error
    assert "'later'" not in error
    if "asks" in reason:
        assert f"and hydrakit-imaging {hydrakit.__version__} is installed: install" in error


def test_a_plugin_that_states_this_api_or_none_is_loaded(install: Install) -> None:
    install("stated", "tp_stated", f"HYDRAKIT_API = {hooks.API}\n{HEAD.format(name='stated')}")
    assert load_plugins().get(HeadFactory, "stated").name == "stated"


def test_an_unknown_name_says_which_plugin_had_it(install: Install) -> None:
    install("third-party", "tp_renamed", HEAD.format(name="renamed"), version="2.0")
    plugins = load_plugins()
    for origin, words in {
        "third-party 1.5": ", and third-party 2.0 is installed: install that version again",
        "third-party 2.0": ", which is installed",
        "elsewhere 1.0": ", which is not installed: install it if you trust its source",
    }.items():
        with pytest.raises(PluginError) as caught:
            plugins.get(HeadFactory, "formerly", origin=origin)
        assert str(caught.value) == f"unknown head 'formerly': it came from {origin}{words}"


# --- `plugins list` and `plugins info`


def test_the_list_has_times_and_its_status_says_whether_all_is_well(install: Install) -> None:
    install(
        "third-party", "tp_timed", f"import time\ntime.sleep(0.02)\n{HEAD.format(name='timed')}"
    )
    shown = CliRunner().invoke(main, ["plugins", "list"])
    assert shown.exit_code == 0
    (line,) = [line for line in shown.output.splitlines() if line.startswith("tp_timed")]
    assert re.fullmatch(r"tp_timed  \(third-party 1\.0\)  \d+ ms", line)
    record = found(load_plugins(), "tp_timed")
    assert record.import_ms is not None
    assert record.import_ms >= 20
    install("broken-one", "tp_unsound", "1 / 0")
    for arguments in (["plugins", "list"], ["plugins", "list", "--json"]):
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, result.stderr) == (1, "")
        assert "ZeroDivisionError" in result.output
    load_plugins.cache_clear()
    without = CliRunner().invoke(main, ["--no-plugin", "broken-one", "plugins", "list"])
    assert without.exit_code == 0
    assert "tp_unsound  (broken-one 1.0)\n  disabled\n" in without.output


def test_a_clash_is_a_fault_of_the_list(install: Install) -> None:
    install("one", "tp_one", HEAD.format(name="both"))
    install("two", "tp_two", HEAD.format(name="both"))
    result = CliRunner().invoke(main, ["plugins", "list"])
    assert result.exit_code == 1
    assert result.output.count("CLASH: head 'both' is offered by one (tp_one) and by two") == 2


def test_a_plugin_and_its_distribution_are_described(install: Install) -> None:
    info = install("two-kinds", "tp_kinds", HEAD.format(name="kinds"), entry="kinds")
    install("two-kinds", "tp_other_kinds", "1 / 0")
    with (info / "METADATA").open("a") as file:
        file.write(
            "Summary: Heads of two kinds\nProject-URL: Homepage, https://example.org/kinds\n"
        )
    both = CliRunner().invoke(main, ["plugins", "info", "two-kinds"])
    assert re.sub(r"in \d+ ms", "in N ms", both.output).splitlines() == [
        "distribution two-kinds 1.0: Heads of two kinds",
        "  https://example.org/kinds",
        "  plugin kinds: module tp_kinds, imported in N ms",
        "    head kinds: a head",
        "  plugin tp_other_kinds: module tp_other_kinds, imported in N ms",
        "    BROKEN: ZeroDivisionError: division by zero",
    ]
    # A component and a plugin of one name are both described.
    named = CliRunner().invoke(main, ["plugins", "info", "kinds", "--json"])
    head, plugin = json.loads(named.output)
    assert (head["kind"], plugin["kind"], plugin["heads"]) == ("head", "plugin", ["kinds"])
    assert plugin["components"] == [{"kind": "head", "name": "kinds", "summary": "a head"}]
    assert (plugin["summary"], plugin["error"]) == ("Heads of two kinds", None)
    refused = CliRunner().invoke(main, ["plugins", "info", "two-kind"])
    assert refused.stderr == (
        "hydrakit: unknown component or plugin 'two-kind': did you mean 'two-kinds'?\n"
    )


def test_a_warning_of_a_plugin_is_one_line_once(install: Install) -> None:
    import warnings

    source = (
        "import warnings\ndef warn():\n    warnings.warn('the option depth\\nends with 2.0: use "
        "layers', FutureWarning, stacklevel=2)\nwarn()\nwarn()\n"
        "warnings.warn('for programmers', DeprecationWarning)\n"
    )
    install("warning", "tp_warning", f"{source}{HEAD.format(name='warning')}")
    with warnings.catch_warnings():
        warnings.simplefilter("default", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        result = CliRunner().invoke(main, ["plugins", "info", "warning"])
    assert result.exit_code == 0
    assert result.stderr == (
        "hydrakit: plugin tp_warning (warning 1.0): warning: the option depth ends with 2.0: "
        "use layers\n"
    )
