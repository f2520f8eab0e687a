"""``hydrakit models``: the trained bodies and heads below a folder, and what fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from compared import make_comparison
from helpers import refused, tree

import hydrakit
from hydrakit.cli import main
from hydrakit.compare.design import CompareDir, Description, make_design
from hydrakit.maintenance.models import ModelList, list_models
from hydrakit.runs.rundir import RunDir
from hydrakit.weights.description import ExpectedFigure, ModelDescription
from hydrakit.weights.folders import swap
from hydrakit.weights.format import read_body, read_head


def listed(folder: Path, *, cells: bool = False) -> ModelList:
    """The list, for which nothing is changed."""
    before = tree(folder)
    found = list_models(folder, cells=cells)
    assert tree(folder) == before
    return found


def lines(*arguments: str | Path) -> list[str]:
    result = CliRunner().invoke(main, ["models", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout.splitlines()


@pytest.fixture
def runs(hydra_run: RunDir, tmp_path: Path) -> Path:
    """A folder with a run, at some depth."""
    shutil.copytree(hydra_run.path, tmp_path / "runs" / "deep" / "run")
    return tmp_path / "runs"


def test_a_run_is_listed_with_its_figures_and_bodies(runs: Path) -> None:
    run = RunDir(runs / "deep" / "run")
    results = run.results()
    assert results is not None
    (model,) = listed(runs).models
    (network,) = model.networks
    assert (model.path, model.kind, model.target) == (str(run.path), "run", "alpha")
    assert network.body.digest == read_body(run.body_path).digest
    heads = {head.dataset: head for head in network.heads}
    assert set(heads) == {"alpha", "beta", "gamma"}
    area = results.test.classes[0]
    figure = heads["alpha"].expected
    assert figure is not None
    assert (figure.value, figure.low, figure.high) == (area.auc, area.low, area.high)
    assert (figure.metric, figure.source) == ("AUC", "test")
    for name, head in heads.items():
        assert head.body == read_head(run.head_path(name)).body
        assert head.fits == network.body.fits
        assert head.body_path is not None
        assert read_body(Path(head.body_path)).digest == head.body
        last = (
            next(each for each in reversed(results.rounds) if each.dataset == name).heads[name].auc
        )
        assert name == "alpha" or (head.expected is not None and head.expected.value == last)
    assert hydrakit.list_models(runs).models == listed(runs / "deep").models == (model,)


def test_the_command_prints_a_line_for_each_head(runs: Path) -> None:
    head, *others = lines(runs)
    assert head.startswith(f"{runs}/deep/run: run, hydra, target alpha, body ")
    assert len(others) == 3
    assert others[0].startswith("  head alpha (benign, malignant): test AUC ")
    assert others[0].endswith("; fits its body")
    assert ": rounds/03-beta-all/body.safetensors" in others[1]
    printed = CliRunner().invoke(main, ["models", str(runs), "--json"]).stdout
    assert ModelList.model_validate_json(printed) == list_models(runs)


def test_a_model_folder_has_the_figure_of_its_description(runs: Path) -> None:
    run = RunDir(runs / "deep" / "run")
    out = runs / "swapped"
    swap(run.body_path, run.head_path("beta"), out)
    assert next(m for m in listed(runs).models if m.kind == "model").strategy is None
    figure = ExpectedFigure(
        metric="AUC", value=0.75, low=0.5, high=0.9, findings=40, source="folds", reason="fair"
    )
    ModelDescription(
        hydrakit="0.1.0", made_by="ensemble", target="beta", expected={"beta": figure}
    ).write(out)
    shutil.copytree(out, out / "members" / "2", ignore=shutil.ignore_patterns("members"))
    (model,) = (model for model in listed(runs).models if model.kind == "model")
    assert (model.target, len(model.networks)) == ("beta", 2)
    assert model.networks[0].heads[0].expected == figure
    text = next(line for line in lines(runs) if "cross-validated" in line)
    assert "cross-validated AUC 0.750 (0.500 to 0.900), 40 findings; was trained on" in text


def test_a_body_elsewhere_is_found_by_its_digest(runs: Path, hydra_run: RunDir) -> None:
    out = runs / "swapped"
    swap(hydra_run.body_path, hydra_run.head_path("beta"), out)
    other = hydra_run.round_path(3, hydra_run.plan().rounds[2]) / "body.safetensors"
    assert read_body(other).digest == read_head(hydra_run.head_path("beta")).body
    (swapped,) = (model for model in list_models(runs).models if model.kind == "model")
    assert swapped.networks[0].heads[0].body_path is None  # rounds of others are not searched
    swap(other, hydra_run.head_path("beta"), runs / "fitting")
    found = {Path(model.path).name: model for model in list_models(runs).models}
    expected = str(runs / "fitting" / "body.safetensors")
    assert found["swapped"].networks[0].heads[0].body_path == expected


def test_a_comparison_is_a_line_for_each_strategy(runs: Path, hydra_run: RunDir) -> None:
    here = CompareDir(runs / "compared")
    design = make_design(
        strategies=["hydra", "transfer"],
        baselines=[],
        datasets=["alpha", "beta", "alpha"],
        seeds=1,
        folds=2,
        settings={},
    )
    here.begin()
    shutil.copytree(hydra_run.path, here.cell(design.cells()[0]))
    here.write(
        Description(
            hydrakit="0.1.0", digest=design.digest, positive="malignant", design=design, status={}
        )
    )
    (comparison,) = listed(runs).comparisons
    assert [(each.name, each.cells) for each in comparison.strategies] == [
        ("hydra", 1),
        ("transfer", 0),
    ]
    made = make_comparison(here.path)
    (comparison,) = listed(runs).comparisons
    figures = [each.expected for each in comparison.strategies]
    assert [each and each.value for each in figures] == [each.auc for each in made.strategies[:2]]
    assert len(listed(runs).models) == 1
    with_cells = listed(runs, cells=True)
    assert len(with_cells.models) == 2
    assert str(here.cell(design.cells()[0])) in {model.path for model in with_cells.models}
    text = lines(runs)
    assert f"{here.path}: comparison, target alpha, 1 of 4 cells done" in text
    assert text[-1] == f"the cells of comparisons: `hydrakit models {runs} --all`"


def test_what_cannot_be_read_is_a_line_and_the_rest_is_listed(runs: Path) -> None:
    for name in ("head", "body", "results", "plan"):
        shutil.copytree(runs / "deep" / "run", runs / name)
    (runs / "head" / "heads" / "beta.safetensors").write_bytes(b"\xff" * 40)
    (runs / "body" / "body.safetensors").unlink()
    (runs / "results" / "results.json").write_text("{")
    (runs / "plan" / "results.json").unlink()
    (runs / "linked").symlink_to(runs / "deep", target_is_directory=True)
    (runs / "loose.txt").write_text("x")
    found = listed(runs)
    heads = {Path(each.path).name: len(each.networks[0].heads) for each in found.models}
    assert heads == {"run": 3, "head": 2}
    assert found.unfinished == 1
    places = [problem.partition(": ")[0] for problem in found.problems]
    assert places == [
        f"{runs}/body/body.safetensors",
        f"{runs}/head/heads/beta.safetensors",
        f"{runs}/linked",
        f"{runs}/results/results.json",
    ]
    result = CliRunner().invoke(main, ["models", str(runs)])
    assert result.exit_code == 0
    assert "not listed: 1 runs that are not finished" in result.stdout
    assert len(result.stderr.splitlines()) == 4


def test_text_of_strangers_does_not_act(runs: Path) -> None:
    (runs / "deep" / "run").rename(runs / "run\x1b[31m")
    printed = CliRunner().invoke(main, ["models", str(runs)]).stdout
    assert "\x1b" not in printed
    assert "run\\x1b[31m" in printed
    told = json.loads(CliRunner().invoke(main, ["models", str(runs), "--json"]).stdout)
    assert told["models"][0]["path"] == str(runs / "run\x1b[31m")


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    refused(lambda: list_models(tmp_path / "absent"), "absent", "no such folder")
    assert lines(tmp_path) == [f"{tmp_path}: holds no finished run, no comparison and no model"]
