"""What a run leaves out before its first step, and between its rounds, to take less time."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from hydrakit.compute.waiting import OTHER, SPINS, VARIABLE, limit_waiting
from hydrakit.errors import PlanError, PluginError
from hydrakit.hooks import HeadFactory
from hydrakit.observers import reports
from hydrakit.observers.reports import PAUSE, ReportWriter
from hydrakit.plugins.guard import PluginSource, guard
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.rundir import RunDir

STEPS = """
import sys, torch
from hydrakit.training.step import EagerAdamW

layer = torch.nn.Linear(2, 1)
optimiser = EagerAdamW(layer.parameters(), lr=0.1, fused=True)
for _ in range(2):
    optimiser.zero_grad()
    layer(torch.ones(3, 2)).sum().backward()
    optimiser.step()
    optimiser.load_state_dict(optimiser.state_dict())
assert torch.is_grad_enabled()
print("torch._dynamo" in sys.modules)
"""


def test_a_training_step_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("given", "set_to"),
    [({}, str(SPINS)), ({VARIABLE: "7"}, "7"), ({OTHER: "active"}, None)],
)
def test_openmp_waits_briefly_unless_the_user_decides(
    given: dict[str, str], set_to: str | None
) -> None:
    environment = dict(given)
    limit_waiting(environment)
    assert environment.get(VARIABLE) == set_to


def test_a_component_is_checked_once_for_the_same_arguments_and_again_after_a_fault() -> None:
    calls, widths = [], [3, 2, 2, 2]

    class Counting(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            calls.append(self.out_features)
            output = super().forward(inputs)
            return torch.cat([output, output], dim=1) if widths.pop(0) == 3 else output

    @dataclass(frozen=True)
    class Options:
        steps: int = 1

    factory = HeadFactory(
        name="counting",
        summary="A head that counts its calls",
        build=lambda features, outputs, options: Counting(features, outputs),
        options=Options,
    )
    built = guard(factory, PluginSource("some.module", "some", "1"))
    with pytest.raises(PluginError, match="for 2 inputs"):
        built.build(4, 2, Options())
    for _ in range(3):
        built.build(4, 2, Options())
    assert calls == [2, 2]
    built.build(4, 3, Options())
    built.build(4, 3, Options(steps=2))
    assert calls == [2, 2, 3, 3]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times at which reports are written, on a clock that only they advance, by 1."""
    clock, times = [100.0], []

    def write(rundir: RunDir, *, plugins: Plugins) -> None:
        times.append(clock[0])
        clock[0] += 1.0
        if (rundir.path / "full").exists():
            raise PlanError("no space")

    class Clock:
        monotonic = staticmethod(lambda: clock[0])

    monkeypatch.setattr("hydrakit.report.page.write_report", write)
    monkeypatch.setattr(reports, "time", Clock)
    return times


def finish(writer: ReportWriter, rounds: int) -> None:
    for number in range(1, rounds + 1):
        writer.finished(number, None, None)  # type: ignore[arg-type]


def test_reports_of_short_rounds_are_left_out_but_not_the_last(
    writes: list[float], tmp_path: Path
) -> None:
    writer = ReportWriter(Plugins(components={}))
    writer.started(None, RunDir(tmp_path), "cpu")  # type: ignore[arg-type]
    finish(writer, 7)
    assert writes == [100.0]
    writer.completed(RunDir(tmp_path))
    assert writes == [100.0, 101.0]
    writer.closed(failed=False)
    assert len(writes) == 2
    assert PAUSE == 10


def test_a_run_that_stops_has_a_report_of_all_its_rounds(
    writes: list[float], tmp_path: Path
) -> None:
    writer = ReportWriter(Plugins(components={}))
    writer.started(None, RunDir(tmp_path), "cpu")  # type: ignore[arg-type]
    finish(writer, 1)
    writer.closed(failed=True)
    assert len(writes) == 1
    finish(writer, 2)
    writer.closed(failed=True)
    assert len(writes) == 2
    finish(writer, 1)
    (tmp_path / "full").touch()
    writer.closed(failed=True)  # the first error counts
    finish(writer, 1)
    with pytest.raises(PlanError, match="no space"):
        writer.closed(failed=False)
