"""One model after a comparison: the networks of its cells, or one trained on all cases."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median_high
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import ADAPTERS, hydra_plan, install_standin, refused, tree, weights_of, write_data

import hydrakit
from hydrakit.cli import main
from hydrakit.compare import finish as finishing
from hydrakit.compare.design import CompareDir, make_design
from hydrakit.compare.engine import compare
from hydrakit.compare.finish import final_plan, find_cells, finish
from hydrakit.data.quality.leakage import assign_splits
from hydrakit.errors import PlanError
from hydrakit.maintenance.clean import clean
from hydrakit.maintenance.models import list_models
from hydrakit.maintenance.status import RunStatus, status
from hydrakit.maintenance.verify import verify
from hydrakit.plan import Plan, Split, load_plan
from hydrakit.plan.results import FINAL_FORMAT
from hydrakit.plugins import load_plugins
from hydrakit.plugins.registry import Plugins
from hydrakit.report import write_report
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.evaluate import evaluate_files, evaluate_run
from hydrakit.runs.model import Floats, Model, load_model
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.comparison import Comparison
from hydrakit.stats.tasks import predictions
from hydrakit.weights.description import read_model_description
from hydrakit.weights.folders import networks_in
from hydrakit.weights.format import read_head

SETTINGS = {
    "epochs": 3,
    "patience": 1,
    "bootstrap": 1,
    "body_channels": [4, 8],
    "ensemble": 2,
    "profile": "recommended-0.1",
}
NETWORKS = 4  # 2 folds of 2 networks


@pytest.fixture(scope="module", autouse=True)
def installed(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The stand-ins as installed plugins, which processes find by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        site = install_standin(tmp_path_factory.mktemp("site"))
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(__file__).parent)]))
        patch.setenv("HYDRAKIT_DATA", str(data))
        patch.setenv("HYDRAKIT_CACHE", str(cache))
        load_plugins.cache_clear()
        yield
    load_plugins.cache_clear()


@pytest.fixture(scope="module")
def compared(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of `transfer` with the baseline `intensity`: to be read, not to be changed."""
    design = make_design(
        strategies=("transfer",),
        baselines=("intensity",),
        datasets=("beta", "alpha"),
        folds=2,
        settings=SETTINGS,
    )
    out = tmp_path_factory.mktemp("comparison") / "out"
    assert compare(design, out=out, jobs=1, device="cpu").failed == {}
    return out


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(compared, tmp_path / "comparison")
    return tmp_path / "comparison"


@pytest.fixture(scope="module")
def ensemble(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ensemble") / "model"
    finish(str(compared), "transfer", out=str(out))
    return out


@pytest.fixture(scope="module")
def retrained(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("retrained") / "model"
    finish(compared, "transfer", out=out, how="retrain", device="cpu")
    return out


def cells_of(comparison: Path) -> list[Path]:
    cells = find_cells(comparison, "transfer").done
    return [CompareDir(comparison).cell(cell) for cell in cells]


def probabilities_of(model: Model) -> Floats:
    """Probabilities for ten images of noise."""
    random = np.random.default_rng(0)
    side = 2 * model.head.preprocessing.patch
    canvases = random.normal(size=(10, 1, side, side)).astype(np.float32)
    mean, deviation = np.zeros((10, 1)), np.ones((10, 1))
    return predictions(model.outputs(canvases, mean, deviation), task="classification")


def test_an_ensemble_averages_the_networks_of_all_cells(compared: Path, ensemble: Path) -> None:
    model = load_model(ensemble)
    assert len(model.networks) == NETWORKS
    each = [probabilities_of(load_model(cell)) for cell in cells_of(compared)]
    np.testing.assert_allclose(probabilities_of(model), np.mean(each, axis=0), atol=1e-12)
    assert not np.allclose(each[0], each[1])


def test_its_expected_figure_is_that_of_the_comparison(compared: Path, ensemble: Path) -> None:
    comparison = Comparison.model_validate_json((compared / "comparison.json").read_bytes())
    strategy = comparison.strategies[0]
    description = read_model_description(ensemble)
    assert description is not None
    assert (description.made_by, description.networks) == ("ensemble", NETWORKS)
    figure = description.expected["alpha"]
    assert (figure.value, figure.low, figure.high) == (strategy.auc, strategy.low, strategy.high)
    assert figure.findings == len(comparison.findings)
    assert figure.source == "folds"
    assert "fair or slightly too low" in figure.reason
    assert description.notes == ()


def test_its_decision_is_from_scores_of_networks_that_had_not_seen_the_finding(
    compared: Path, ensemble: Path
) -> None:
    scores: dict[str, list[float]] = defaultdict(list)
    for cell in cells_of(compared):
        with (cell / "predictions.csv").open() as file:
            for row in csv.DictReader(file):
                if row["split"] == "test":
                    scores[row["finding"]].append(float(row["p_malignant"]))
    decision = read_head(ensemble / "heads/alpha.safetensors").decision
    assert decision is not None
    assert (decision.networks, decision.source) == (NETWORKS, "out-of-fold")
    assert decision.held_out is not None
    second = [row[1] for row in decision.held_out.probabilities]
    np.testing.assert_allclose(sorted(second), sorted(map(np.mean, scores.values())), atol=1e-6)
    assert "scores are those of single cells" in decision.notes[-1]
    others = read_head(ensemble / "members/2/heads/alpha.safetensors").decision
    assert others is None or others.networks != NETWORKS


def test_a_finding_of_several_repeats_counts_once(tmp_path: Path) -> None:
    design = make_design(
        strategies=("intensity",), baselines=(), datasets=("alpha",), folds=2, repeats=2
    )
    compare(design, out=tmp_path / "out", jobs=1, device="cpu")
    cells = find_cells(tmp_path / "out", "intensity")
    assert len(cells.done) == 4
    probabilities, labels = finishing.out_of_fold_scores(cells, ("benign", "malignant"))
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    positive: dict[str, bool] = {}
    for run in cells.runs:
        with (run.path / "predictions.csv").open() as file:
            for row in csv.DictReader(file):
                if row["split"] == "test":
                    repeat = run.path.name.split("-")[2]
                    scores[row["finding"]][repeat].append(float(row["p_malignant"]))
                    positive[row["finding"]] = row["label"] == "malignant"
    assert all(len(each) == 2 for each in scores.values())
    expected = {
        finding: np.mean([np.mean(images) for images in each.values()])
        for finding, each in scores.items()
    }
    pairs = sorted((expected[finding], positive[finding]) for finding in expected)
    np.testing.assert_allclose(sorted(probabilities[:, 1]), [score for score, _ in pairs])
    assert labels.sum() == sum(positive.values())
    finish(tmp_path / "out", "intensity", out=tmp_path / "model")
    assert len(load_model(tmp_path / "model").networks) == 4


def test_no_case_is_a_test_case_of_all_its_networks(ensemble: Path) -> None:
    (first, *others) = networks_in(ensemble, "alpha")
    body, head = first
    for split in ("test", "val"):
        refused(
            lambda split=split: evaluate_files(
                body, head, split=split, others=others, device="cpu"
            ),
            "trained with different splits",
            "--split all",
        )
    result = evaluate_files(body, head, split="all", others=others, device="cpu")
    count = result.result.images
    assert any(f"training used {count} of these {count} cases" in note for note in result.notes)


def test_data_that_lacks_a_dataset_of_the_comparison_is_refused(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunContext, "plugins", lambda _: Plugins.of())
    refused(
        lambda: finish(compared, "transfer", out=tmp_path / "m", how="retrain", data=tmp_path),
        f"{tmp_path / 'beta'}: does not declare the dataset 'beta', which the comparison had in",
        "--root beta=PATH",
    )
    assert not (tmp_path / "m").exists()


def test_cells_that_are_not_finished_are_named(copied: Path, tmp_path: Path) -> None:
    cells = cells_of(copied)
    (cells[1] / "results.json").unlink()
    refused(
        lambda: finish(copied, "transfer", out=tmp_path / "model"),
        "1 of 2 cells",
        cells[1].name,
        "--allow-missing",
    )
    description = finish(copied, "transfer", out=tmp_path / "model", allow_missing=True)
    assert description.networks == 2
    assert cells[1].name in description.notes[0]
    (cells[0] / "results.json").unlink()
    refused(
        lambda: finish(copied, "transfer", out=tmp_path / "other", allow_missing=True), "2 of 2"
    )


def test_what_cannot_be_finished_is_refused(
    compared: Path, ensemble: Path, retrained: Path, tmp_path: Path
) -> None:
    before = tree(ensemble, retrained)
    refused(lambda: finish(compared, "transferr", out=tmp_path / "m"), "did you mean 'transfer'?")
    refused(lambda: finish(ensemble, "transfer", out=tmp_path / "m"), "compare.json")
    refused(lambda: finish(compared, "transfer", out=ensemble), "is not empty")
    refused(lambda: finish(compared, "transfer", out=retrained), "is not empty")
    refused(lambda: finish(compared, "transfer", out=ensemble, how="retrain"), "is not empty")
    refused(lambda: finish(compared, "transfer", out=tmp_path / "m", how="best"), "'best'")  # type: ignore[arg-type]
    assert tree(ensemble, retrained) == before
    assert not (tmp_path / "m").exists()


def test_a_changed_weight_file_is_refused(copied: Path, tmp_path: Path) -> None:
    path = cells_of(copied)[0] / "members/2/body.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(lambda: finish(copied, "transfer", out=tmp_path / "model"), "body.safetensors")
    assert not (tmp_path / "model").exists()


def test_an_ensemble_appears_complete_or_not_at_all(
    compared: Path, ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(finishing, "set_decision", stop)
        with pytest.raises(KeyboardInterrupt):
            finish(compared, "transfer", out=out)
    assert list(tmp_path.iterdir()) == [out]
    assert list(out.iterdir()) == []
    (tmp_path / ".model.new").mkdir()  # of a process that was killed
    finish(compared, "transfer", out=out)
    assert list(tmp_path.iterdir()) == [out]
    assert weights_of(out) == weights_of(ensemble)


def test_retraining_uses_all_cases_and_the_epochs_of_the_cells(
    compared: Path, retrained: Path
) -> None:
    run = RunDir(retrained)
    plan, cells = run.plan(), [RunDir(path) for path in cells_of(compared)]
    assert plan.final
    assert plan.ensemble == 2
    splits = run.splits()
    assert set(splits["alpha"].values()) == {"train", "val"}
    assert splits["alpha"].keys() == cells[0].splits()["alpha"].keys()
    shares = list(splits["alpha"].values())
    assert 0.1 < shares.count("val") / len(shares) < 0.3
    assert set(splits["beta"].values()) == {"train", "val"}
    for number, round in enumerate(plan.rounds, start=1):
        ends = [
            network.round_result(number, own.rounds[number - 1]).best_epoch
            for own, cell in ((cell.plan(), cell) for cell in cells)
            for network in cell.networks(own)
        ]
        assert round.hyperparameters.epochs == median_high(ends)
        assert round.hyperparameters.patience is None
        assert round.hyperparameters.select == "last"
        assert run.round_result(number, round).epochs == median_high(ends)


def test_a_retrained_model_has_no_test(compared: Path, retrained: Path) -> None:
    run = RunDir(retrained)
    results = run.results()
    assert results is not None
    assert (results.format, results.test, results.baseline) == (FINAL_FORMAT, None, None)
    assert [each.figures for each in results.members] == [None, None]
    with pytest.raises(PlanError, match="no test split"):
        _ = results.tested
    with (retrained / "predictions.csv").open() as file:
        assert {row["split"] for row in csv.DictReader(file)} == {"val"}
    events = [each.event for network in (run, *run.begun_members()) for each in network.events()]
    assert "test read" not in events
    description = read_model_description(retrained)
    assert description is not None
    assert (description.made_by, description.networks) == ("retrain", 2)
    figure = description.expected["alpha"]
    assert "estimate by cross-validation" in figure.reason
    comparison = Comparison.model_validate_json((compared / "comparison.json").read_bytes())
    assert figure.value == comparison.strategies[0].auc
    text = write_report(run).read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert "No test split" in text
    assert str(figure) in text
    assert figure.reason in text
    assert len(load_model(retrained).networks) == 2


def test_a_retrained_model_is_listed_with_the_figure_of_the_comparison(retrained: Path) -> None:
    (model,) = list_models(retrained).models
    figures = {head.dataset: head.expected for head in model.networks[0].heads}
    description = read_model_description(retrained)
    assert description is not None
    assert figures["alpha"] == description.expected["alpha"]


def test_commands_for_runs_take_a_retrained_model(retrained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(retrained, run)
    refused(lambda: evaluate_run(run, device="cpu"), "no test split", "--split val")
    assert evaluate_run(run, split="val", device="cpu").result.split == "val"
    found = status(run)
    assert isinstance(found, RunStatus)
    assert found.state == "finished"
    assert verify(run).sound
    hydrakit.write_report(run)
    assert clean(run, lambda _: True)
    assert verify(run).sound
    assert len(load_model(run).networks) == 2
    invoked = CliRunner().invoke(main, ["evaluate", str(run), "--device", "cpu"])
    assert invoked.exit_code == 1
    assert "had no test split in training" in invoked.output
    (run / "model.json").write_text("{}")
    assert [Path(each.path).name for each in verify(run).damaged] == ["model.json"]


class Stopping(RunCallback):
    """Stops a run after its first round."""

    def finished(self, *_: object) -> None:
        """Stop."""
        raise KeyboardInterrupt


def test_a_stopped_retraining_continues_with_the_same_weights(
    compared: Path, retrained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    given: dict[str, Any] = {"out": out, "how": "retrain", "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        finish(compared, "transfer", callbacks=[Stopping()], **given)
    refused(lambda: load_model(out), "is not finished")
    description = finish(compared, "transfer", **given)
    assert weights_of(out) == weights_of(retrained)
    before = tree(out)
    assert finish(compared, "transfer", **given) == description
    assert tree(out) == before


def test_the_plan_of_a_retraining_can_be_run_again(retrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    words = ["run", "--plan", str(retrained / "plan.json"), "--device", "cpu"]
    traced = CliRunner().invoke(main, [*words, "--out", str(out), "--trace-test"])
    assert traced.exit_code == 1
    assert "no test split to trace" in traced.output
    dry = CliRunner().invoke(main, [*words, "--out", str(out), "--dry-run"])
    assert dry.exit_code == 0, dry.output
    done = CliRunner().invoke(main, [*words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "no test split: all cases of the target train and validate" in done.output
    assert weights_of(out) == weights_of(retrained)
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "Nothing says how good the model is" in text


def test_changed_data_is_refused(compared: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    path = tmp_path / "data/alpha/cases.npz"
    with np.load(path) as file:
        content = dict(file)
    content["labels"] = content["labels"].copy()
    content["labels"][0] = 1 - content["labels"][0]
    np.savez(path, **content)
    given: dict[str, Any] = {"data": tmp_path / "data", "cache": tmp_path / "cache"}
    refused(
        lambda: finish(compared, "transfer", out=tmp_path / "m", how="retrain", **given),
        "alpha: the data has changed since the comparison began",
    )
    assert not (tmp_path / "m").exists()


def test_epochs_stay_where_the_learning_rate_falls_over_all_of_them(compared: Path) -> None:
    plan = final_plan(find_cells(compared, "transfer"))
    cells = [RunDir(path) for path in cells_of(compared)]
    round, result = plan.rounds[0], cells[0].round_result(1, cells[0].plan().rounds[0])
    results = [result.model_copy(update={"best_epoch": n, "epochs": n + 5}) for n in (2, 4, 9)]

    def after(**changes: Any) -> tuple[int, str, int | None]:
        given = round.hyperparameters.model_copy(update={"epochs": 30, "patience": 5, **changes})
        changed = finishing._with_epochs(
            round.model_copy(update={"hyperparameters": given}), results
        ).hyperparameters
        return changed.epochs, changed.select, changed.patience

    assert after(select="smoothed") == (4, "last", None)
    assert after(select="averaged") == (9, "averaged", None)
    assert after(select="best", schedule="cosine") == (30, "best", None)


def test_a_final_plan_is_for_the_target_alone() -> None:
    plan = hydra_plan()
    before = plan.digest()

    def changed(dataset: str, **split: Any) -> Plan:
        content = json.loads(plan.to_json())
        for each in content["datasets"]:
            if each["name"] == dataset:
                each["split"] = {"train": 8, "val": 2, **split}
        return Plan.model_validate(content)

    with pytest.raises(ValueError, match="has no test share"):
        changed("alpha")
    with pytest.raises(ValueError, match="a final split uses all cases"):
        changed("alpha", test=1, final=True)
    with pytest.raises(ValueError, match="'beta' has a final split"):
        changed("beta", final=True)
    assert changed("alpha", final=True).final
    assert not plan.final
    assert "final" not in plan.to_json()
    assert plan.digest() == before


def test_cases_that_a_dataset_puts_into_its_test_split_are_used(data: Path, cache: Path) -> None:
    from dataclasses import replace

    from helpers import prepared_dataset

    prepared = prepared_dataset("alpha", data=data, cache=cache)
    cases = tuple(
        case.model_copy(update={"split": "test" if case.patient < "alpha-p010" else None})
        for case in prepared.index.cases
    )
    fixed = replace(prepared, index=prepared.index.model_copy(update={"cases": cases}))
    for final, expected in ((True, {"train", "val"}), (False, {"train", "val", "test"})):
        result = assign_splits(
            {"alpha": fixed},
            {"alpha": ADAPTERS[0]},
            splits={"alpha": Split(train=8, val=2, final=final)},
            seed=0,
            copies="group",
            conflicts="keep",
        )
        assert set(result.splits["alpha"].values()) == expected


def test_the_command(compared: Path, retrained: Path, tmp_path: Path) -> None:
    words = ["finish", str(compared), "--strategy", "transfer"]
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "ensemble")])
    assert done.exit_code == 0, done.output
    assert "4 networks" in done.output
    assert "expected: alpha: AUC" in done.output
    assert f"hydrakit predict {tmp_path / 'ensemble'} IMAGES" in done.output
    folder = ["weights", "inspect", str(tmp_path / "ensemble")]
    refusal = CliRunner().invoke(main, folder).stderr
    assert "give one of its files (body.safetensors, heads/alpha.safetensors" in refusal
    wrong = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "m"), "--device", "cpu"])
    assert wrong.exit_code == 2
    assert "--device is for `--how retrain`" in wrong.output
    words = ["finish", str(compared), "--strategy", "intensity", "--how", "retrain"]
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "r"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "no test split" in done.output
    assert "alpha: expected AUC" in done.output
    assert load_plan(tmp_path / "r/plan.json").strategy == "intensity"
    as_json = [*words, "--out", str(tmp_path / "r"), "--device", "cpu", "--json"]
    again = CliRunner().invoke(main, as_json)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["made_by"] == "retrain"
