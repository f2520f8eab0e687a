"""Runs of every version so far are read, reported, evaluated and gone on with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import plugins, refused, run_plan, tree

from hydrakit import weights
from hydrakit.compare.design import CompareDir
from hydrakit.engine import run
from hydrakit.maintenance.clean import clean
from hydrakit.maintenance.status import RunStatus, status
from hydrakit.maintenance.verify import verify
from hydrakit.plan import load_plan
from hydrakit.report import write_report
from hydrakit.report.comparison import build_comparison
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.evaluate import evaluate_files, evaluate_run
from hydrakit.runs.model import load_model
from hydrakit.runs.predict import cases_of_dataset, predict_to_csv
from hydrakit.runs.rundir import CHECKPOINT, RunDir
from hydrakit.runs.start import make_plan_from
from hydrakit.storage.digests import read_digests
from hydrakit.storage.files import read_rows
from hydrakit.training.checkpoint import read_facts
from hydrakit.weights.format import read_body, read_head

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if re.fullmatch(r"\d+\.\d+", path.name))


@pytest.fixture(params=VERSIONS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what a version made."""
    shutil.copytree(GOLDEN / request.param, tmp_path / request.param)
    return tmp_path / str(request.param)


def test_there_are_runs_of_the_first_version_and_they_are_small() -> None:
    assert VERSIONS[0] == "0.1"
    for version in VERSIONS:
        files = [path for path in (GOLDEN / version).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 300_000


def test_a_finished_run_is_read_and_reported(golden: Path) -> None:
    run = RunDir(golden / "finished")
    results = run.results()
    assert results is not None
    assert results.hydrakit.startswith(f"{VERSIONS[0].split('.')[0]}.")
    plan = run.plan()
    for number, round in enumerate(plan.rounds, start=1):
        assert run.round_result(number, round) == results.rounds[number - 1]
        assert len(run.epochs(number, round)) == results.rounds[number - 1].epochs
    assert run.facts() is not None
    assert run.splits().keys() == {"alpha", "beta"}
    assert "</html>" in write_report(run, plugins=plugins()).read_text(encoding="utf-8")
    found = status(run.path)
    assert isinstance(found, RunStatus)
    assert (found.state, found.done) == ("finished", 3)
    assert verify(run.path).damaged == ()
    weights.load_model(run.body_path, run.head_path("alpha"), plugins=plugins())
    for name, folder in (("alpha", run.path), ("beta", run.path / "rounds" / "01-beta-all")):
        body, head = run.weights(plan, name)
        assert body == folder / "body.safetensors"
        assert weights.mismatch(read_body(body), read_head(head)) is None


def test_a_finished_run_is_evaluated_and_cleaned(golden: Path, tmp_path: Path) -> None:
    run = RunDir(golden / "finished")
    results = run.results()
    assert results is not None
    places: dict[str, Any] = {"cache": tmp_path / "cache", "plugins": plugins(), "device": "cpu"}
    refused(lambda: evaluate_run(run.path, roots={}, **places), "no folder", "--root alpha=")
    roots = {"alpha": golden / "data" / "alpha"}
    for _ in ("whole", "cleaned"):
        found = evaluate_run(run.path, roots=roots, **places).result
        assert found.classes == results.test.classes
        assert found.figures.loss == pytest.approx(results.test.figures.loss, abs=1e-4)
        clean(run.path, lambda _: True)
        assert verify(run.path).damaged == ()
    files = run.body_path, run.head_path("alpha")
    (note,) = evaluate_files(*files, split="all", roots=roots, **places).notes
    if golden.name == "0.1":  # it did not store which cases it was trained on
        assert "training used cases of 'alpha'" in note
        assert "by the names of the datasets" in note
    else:
        assert "training used 15 of these 18 cases" in note
    # Its images changed places: it stored their digest, too.
    with np.load(roots["alpha"] / "cases.npz") as stored:
        arrays = dict(stored)
    np.savez(roots["alpha"] / "cases.npz", **arrays | {"images": arrays["images"][::-1]})
    refused(lambda: evaluate_run(run.path, roots=roots, **places), "alpha: the data has changed")


def test_a_finished_run_predicts(golden: Path, tmp_path: Path) -> None:
    run = RunDir(golden / "finished")
    model = load_model(run.path, plugins=plugins())
    context = RunContext(roots={"alpha": golden / "data" / "alpha"})
    source = cases_of_dataset(model, "alpha", context, plugins())
    predict_to_csv(model, source, tmp_path / "out.csv")
    rows = {row["key"]: row for row in read_rows(tmp_path / "out.csv")}
    expected = read_rows(run.path / "predictions.csv")
    assert expected
    for line in expected:
        row = rows[line["key"]]
        assert row["predicted"] == line["predicted"]
        assert float(row["p_malignant"]) == pytest.approx(float(line["p_malignant"]), abs=1e-4)
        seen = row["seen_in_training"]
        assert (seen == "unknown") == (golden.name == "0.1")  # which did not store it


def test_a_stopped_run_goes_on_within_its_round(golden: Path, tmp_path: Path) -> None:
    run, whole = RunDir(golden / "stopped"), RunDir(golden / "finished")
    done = golden / "stopped" / "rounds" / "01-beta-all"
    before = tree(done)
    resumed: list[tuple[int, int]] = []

    class See(RunCallback):
        def resumed(self, number: int, round: Any, epoch: int) -> None:
            resumed.append((number, epoch))

    run_plan(
        run.plan(),
        run.path,
        data=golden / "data",
        cache=tmp_path / "cache",
        callbacks=[See()],
    )
    assert resumed == [(3, 2)]
    assert tree(done) == before
    assert verify(run.path).damaged == ()
    ours, theirs = run.results(), whole.results()
    assert ours is not None
    assert theirs is not None
    assert ours.test.classes[0].positives == theirs.test.classes[0].positives
    # Other machines and versions of torch give other bits.
    assert ours.test.figures.loss == pytest.approx(theirs.test.figures.loss, abs=0.05)


# --- later versions


def later(path: Path) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    told["format"] = 7
    told["unheard of"] = [1]
    if "hydrakit" in told:
        told["hydrakit"] = "3.1.0"
    path.write_text(json.dumps(told), encoding="utf-8")


WORDS = ("was written by hydrakit 3.1.0 in format 7", "reads format 1", "use that version")


@pytest.mark.parametrize("name", ["plan.json", "results.json", "files.json"])
def test_a_run_of_a_later_version_is_refused_with_the_version_to_use(
    golden: Path, name: str
) -> None:
    run = RunDir(golden / "finished")
    if name != "files.json":
        for path in run.path.rglob("files.json"):
            path.unlink()
    environment = run.path / "environment.json"
    told = json.loads(environment.read_text())
    environment.write_text(json.dumps(told | {"hydrakit": "3.1.0"}))
    later(run.path / name)
    words = [w.replace("format 1", "format 3") if name == "results.json" else w for w in WORDS]
    refused(lambda: write_report(run, plugins=plugins()), str(run.path / name), *words)


def test_a_plan_alone_does_not_tell_its_version(golden: Path) -> None:
    path = golden / "plan.json"
    shutil.copy(golden / "finished" / "plan.json", path)
    later(path)
    refused(lambda: load_plan(path), "a later hydrakit", "format 7", "the version that wrote it")
    path.write_text('{"format": 7, "hydrakit": "\\u001b[31m"}')
    refused(lambda: load_plan(path), "a later hydrakit")


def test_weights_and_progress_of_a_later_version_are_refused(golden: Path) -> None:
    run = RunDir(golden / "stopped")
    progress = run.state_path(3, run.plan().rounds[2]) / CHECKPOINT
    for path, read in (
        (progress, read_facts),
        (golden / "finished" / "body.safetensors", weights.load_body),
    ):
        content = path.read_bytes()
        for old, new in (
            ('\\"format\\":1', '\\"format\\":7'),
            ('\\"hydrakit\\":\\"0', '\\"hydrakit\\":\\"3'),
        ):
            assert content.count(old.encode()) == 1, path
            content = content.replace(old.encode(), new.encode())
        path.write_bytes(content)
        refused(lambda: read(path), str(path), "in format 7", "hydrakit 3.", "use that version")  # noqa: B023


def test_a_comparison_of_a_later_version_is_refused(tmp_path: Path) -> None:
    for name, read in (
        ("compare.json", lambda: CompareDir(tmp_path).description()),
        ("comparison.json", lambda: build_comparison(tmp_path)),
        ("files.json", lambda: read_digests(tmp_path)),
    ):
        (tmp_path / name).write_text('{"format": 7, "hydrakit": "3.1.0"}')
        words = [w if name == "files.json" else w.replace("format 1", "format 4") for w in WORDS]
        refused(read, str(tmp_path / name), *words)


def test_weights_of_another_split_are_refused_although_they_name_no_images(
    tmp_path: Path,
) -> None:
    model = GOLDEN / "0.1" / "finished"
    context = RunContext(data=GOLDEN / "0.1" / "data", cache=tmp_path / "cache", device="cpu")
    plan = make_plan_from(model, "hydra", ["alpha"], plugins=plugins(), seed=5)
    words = "trained on 'alpha' with another split", "--split-seed 0"
    refused(lambda: run(plan, context, out=tmp_path / "run", plugins=plugins()), *words)
    head_only = plan.model_copy(update={"body_weights": None})
    refused(lambda: run(head_only, context, out=tmp_path / "run", plugins=plugins()), *words)
