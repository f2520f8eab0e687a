"""What users get wrong: each gives one line that says what to change, and changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers import another_process, hydra_plan, plan_of, round_of

from hydrakit import weights
from hydrakit.cli import main
from hydrakit.hooks import FieldOfView
from hydrakit.models.heads import build_linear
from hydrakit.runs.rundir import RunDir

Refused = Callable[..., str]

CLASSICAL = ["run", "--strategy", "classical", "--device", "cpu", "--datasets"]
HYDRA = ["run", "--strategy", "hydra", "--device", "cpu", "--datasets"]


# --- names and values on the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*HYDRA, "alpha,betta"], ["unknown dataset 'betta'", "did you mean 'beta'"]),
        ([*HYDRA, "alpha,xyz"], ["unknown dataset 'xyz'", "known are", "alpha", "brain"]),
        (["run", "--strategy", "hydar", "--datasets", "alpha"], ["'hydar'", "mean 'hydra'"]),
        (["plan", "--strategy", "hydar", "--datasets", "alpha"], ["'hydar'", "mean 'hydra'"]),
        ([*CLASSICAL, "alpha", "--head", "mpl"], ["unknown head 'mpl'", "mean 'mlp'"]),
        (["datasets", "info", "prostatx"], ["'prostatx'", "mean 'prostatex'"]),
        (["datasets", "check", "alfa"], ["'alfa'", "mean 'alpha'"]),
        ([*CLASSICAL, "alpha", "--device", "foo"], ["device 'foo'", "cpu", "cuda:N"]),
        (
            [*CLASSICAL, "alpha", "--option", "alpha.gian=2"],
            ["'gian'", "mean 'gain'", "info alpha"],
        ),
        ([*CLASSICAL, "alpha", "--option", "alpha.gain=two"], ["alpha.gain=two", "number"]),
        ([*CLASSICAL, "alpha", "--option", "beta.gain=2"], ["'beta'", "known are alpha"]),
        ([*CLASSICAL, "lung", "--option", "lung.suspicious=x"], ["=x", "drop, malignant"]),
        ([*CLASSICAL, "alpha", "--split", "alpha=9-1"], ["'alpha'", "no test share"]),
        ([*CLASSICAL, "alpha", "--split", "beta=9-1"], ["'beta'", "known are alpha"]),
        ([*CLASSICAL, "alpha", "--body-channels", "2,2,2,2,2"], ["65 pixels", "5 blocks"]),
        ([*HYDRA, "alpha,alpha", "--root", "alpha=nowhere"], ["alpha: no folder", "nowhere"]),
        (["run", "--resume", "nowhere"], ["nowhere", "not the folder of a run", "hydrakit run"]),
        (["evaluate", "nowhere"], ["nowhere", "not the folder of a run"]),
        (["weights", "inspect", "no.safetensors"], ["no.safetensors", "no such file"]),
        (["weights", "inspect", "."], ["is a folder"]),
        (["run", "--plan", "no.json"], ["no.json"]),
    ],
)
def test_wrong_names_and_values(
    command_refused: Refused, arguments: list[str], words: list[str]
) -> None:
    command_refused(*arguments, words=words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], ["--strategy is needed", "plugins list"]),
        ([*CLASSICAL, "alpha", "--seed", str(2**63)], ["'--seed'", f"{2**63} is too large"]),
        ([*CLASSICAL, "alpha", "--epochs", "100001"], ["'--epochs'", "100001", "at most 100000"]),
        ([*CLASSICAL, "alpha", "--epochs", "1_0"], ["'--epochs'", "'1_0' is not a whole number"]),
        ([*CLASSICAL, "alpha", "--epochs", "٣"], ["'--epochs'", "is not a whole number"]),
        ([*CLASSICAL, "alpha", "--body-channels", "٣"], ["'--body-channels'", "is not a list"]),
        ([*CLASSICAL, "alpha", "--dropout", "nan"], ["'--dropout'", "'nan' is not a finite"]),
        ([*CLASSICAL, "alpha", "--learning-rate", "inf"], ["'--learning-rate'", "'inf'"]),
        ([*CLASSICAL, "alpha", "--learning-rate", "1_0"], ["'--learning-rate'", "'1_0'"]),
        (
            [*CLASSICAL, "alpha", "--checkpoint-every", "nan"],
            ["'--checkpoint-every'", "'nan' is not a finite number"],
        ),
        (["run", "--strategy", "hydra"], ["--datasets is needed", "plugins list"]),
        (["run", "--plan", "a", "--resume", "b"], ["--plan", "--resume", "one of them"]),
        (["run", "--plan", "a", "--strategy", "hydra"], ["--plan", "--strategy cannot change"]),
        (["run", "--resume", "a", "--strategy", "hydra"], ["--resume", "--strategy cannot"]),
        (["run", "--plan", "a", "--datasets", "alpha"], ["--datasets cannot change"]),
        (["run", "--plan", "a", "--body-channels", "2"], ["--body-channels cannot change"]),
        (["run", "--resume", "a", "--epochs", "3"], ["--epochs cannot change"]),
        (["run", "--resume", "a", "--out", "b"], ["leave out --out"]),
        ([*CLASSICAL, "alpha", "--split", "nonsense"], ["'nonsense'", "NAME=8-1-1"]),
        ([*CLASSICAL, "alpha", "--split", "alpha=x-1-1"], ["alpha=x-1-1", "NAME=8-1-1"]),
        ([*CLASSICAL, "alpha", "--split", "alpha=8"], ["alpha=8", "NAME=8-1-1"]),
        ([*CLASSICAL, "alpha", "--split", "alpha=8-1-1-1"], ["alpha=8-1-1-1", "NAME=8-1-1"]),
        ([*CLASSICAL, "alpha", "--split", "alpha=0-1-1"], ["alpha=0-1-1", "NAME=8-1-1"]),
        ([*CLASSICAL, "alpha", "--option", "gain=2"], ["'gain'", "DATASET.OPTION"]),
        ([*CLASSICAL, "alpha", "--option", "alpha.gain"], ["'alpha.gain'", "VALUE"]),
        ([*CLASSICAL, "alpha", "--root", "alpha"], ["'alpha'", "NAME=PATH"]),
        ([*CLASSICAL, "alpha", "--body-channels", "2,x"], ["'2,x'", "32,64,128"]),
        ([*CLASSICAL, "alpha", "--body-channels", "0"], ["'0'", "32,64,128"]),
        ([*CLASSICAL, "alpha", "--profile", "papr"], ["'papr'", "paper"]),
        ([*CLASSICAL, "alpha", "--epochs", "0"], ["--epochs", "0"]),
        ([*CLASSICAL, "alpha", "--dropout", "1"], ["--dropout", "1"]),
        (["evaluate"], ["RUN", "--body", "--head"]),
        (["evaluate", "--body", "a"], ["RUN", "--body", "--head"]),
        (["evaluate", "a", "--body", "b"], ["RUN alone"]),
        (["evaluate", "a", "--split", "tset"], ["'tset'", "test"]),
        (["rnu"], ["'rnu'"]),
    ],
)
def test_wrong_usage(command_refused: Refused, arguments: list[str], words: list[str]) -> None:
    command_refused(*arguments, words=words, status=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(command_refused: Refused) -> None:
    words = ["device 'cuda'", "0 CUDA devices", "--device cpu"]
    command_refused(
        "run", "--strategy", "classical", "--datasets", "alpha", "--device", "cuda", words=words
    )


# --- plan files


def edited(**changes: object) -> str:
    return json.dumps(json.loads(hydra_plan().to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["plan.json"]),
        ("{", ["plan.json", "JSON", "line 1"]),
        ("[]", ["plan.json"]),
        ("{}", ["plan.json", "'strategy' is missing"]),
        ("\0\1", ["plan.json", "JSON"]),
        (edited(sede=1), ["plan.json", "unknown key 'sede'", "hydrakit plan"]),
        (edited(seed="x"), ["plan.json", "seed", "'x'"]),
        (edited(format=2), ["plan.json", "format"]),
        (edited(rounds=[]), ["plan.json", "'rounds' is empty"]),
        (edited(target="delta"), ["plan.json", "'delta'", "'datasets'"]),
        (edited(head="mpl"), ["unknown head 'mpl'", "'mlp'"]),
        (
            json.dumps(json.loads(hydra_plan().to_json())).replace("learning_rate", "rate", 1),
            ["plan.json", "rounds.0.hyperparameters"],
        ),
        (
            json.dumps(json.loads(hydra_plan().to_json())).replace('"beta"', '"betta"'),
            ["unknown dataset 'betta'", "'beta'"],
        ),
    ],
)
def test_wrong_plans(command_refused: Refused, text: str, words: list[str]) -> None:
    Path("plan.json").write_text(text)
    command_refused("run", "--plan", "plan.json", "--device", "cpu", words=words)


def test_a_plan_that_is_no_text(command_refused: Refused) -> None:
    Path("plan.json").write_bytes(b"\xff\xfe{")
    command_refused("run", "--plan", "plan.json", words=["plan.json", "cannot be read"])
    Path("folder").mkdir()
    command_refused("run", "--plan", "folder", words=["folder", "cannot be read"])


def test_one_head_for_datasets_of_unlike_classes(command_refused: Refused) -> None:
    words = ["'shared'", "'alpha'", "'delta'", "a head of its own"]
    command_refused(
        *["run", "--strategy", "transfer", "--datasets", "alpha,delta", "--device", "cpu"],
        words=words,
    )


# --- folders of runs


@pytest.fixture
def plan_file(standin: Path) -> Path:
    path = standin / "tiny.json"
    path.write_text(hydra_plan().to_json())
    return path


def run_in(folder: str, plan_file: Path) -> list[str | Path]:
    return ["run", "--plan", plan_file, "--device", "cpu", "--out", folder]


def test_a_folder_that_another_process_uses(command_refused: Refused, plan_file: Path) -> None:
    RunDir.begin(Path("busy"), hydra_plan())
    with another_process(Path("busy")) as pid:
        words = ["busy", "another process", f"pid {pid} on", "--out"]
        command_refused(*run_in("busy", plan_file), words=words)
        command_refused("run", "--resume", "busy", "--device", "cpu", words=words)


def test_folders_with_something_else_in_them(command_refused: Refused, plan_file: Path) -> None:
    Path("full").mkdir()
    Path("full", "thesis.txt").write_text("four years")
    command_refused(*run_in("full", plan_file), words=["full", "not empty", "--out"])
    command_refused(*run_in("full/thesis.txt", plan_file), words=["thesis.txt", "--out"])
    command_refused(
        *run_in("full/thesis.txt/run", plan_file), words=["thesis.txt", "cannot be written"]
    )
    RunDir.begin(Path("other"), hydra_plan(seed=1))
    command_refused(
        *run_in("other", plan_file), words=["other", "another plan", "--out", "--resume other"]
    )


def test_a_broken_run_folder(command_refused: Refused, hydra_run: RunDir) -> None:
    shutil.copytree(hydra_run.path, "run")
    resume = ["run", "--resume", "run", "--device", "cpu"]
    for name, remedy in (("data", "delete it"), ("results", "delete it"), ("plan", "restore it")):
        path = Path("run", f"{name}.json")
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"a", b"b", 1))
        words = [path.name, "was changed", remedy]
        command_refused(*resume, words=words)
        path.write_bytes(whole)
    for path in Path("run").rglob("files.json"):  # as of an older version
        path.unlink()
    Path("run", "plan.json").write_text("{}")
    command_refused(*resume, words=["plan.json", "'strategy' is missing"])


# --- weight files


def test_heads_that_do_not_fit(command_refused: Refused, hydra_run: RunDir) -> None:
    body = ["evaluate", "--device", "cpu", "--body", hydra_run.body_path, "--head"]
    head = hydra_run.head_path("alpha")
    words = [str(head), "2 classes (benign, malignant)", "'delta' has 3", "choose another"]
    command_refused(*body, head, "--dataset", "delta", words=words)
    command_refused(
        *body, hydra_run.head_path("beta"), words=["beta", "no test split", "--split val"]
    )
    command_refused(*body, hydra_run.body_path, words=["body.safetensors", "is a body, not a head"])
    description = weights.read_metadata(hydra_run.body_path)
    assert isinstance(description, weights.BodyMetadata)
    weights.save_head(
        Path("nine.safetensors"),
        build_linear(9, 2),
        body=description.digest,
        features=9,
        dataset="alpha",
        classes=("benign", "malignant"),
        factory="linear",
        preprocessing=weights.Preprocessing(
            patch=16,
            channels=1,
            field_of_view=FieldOfView(share=1.0),
            normalisation="z-score per patient",
        ),
    )
    words = ["nine.safetensors", "9 features", "has 8", "choose another"]
    command_refused(*body, "nine.safetensors", "--split", "all", words=words)
    command_refused(*body, "nine.safetensors", words=["nine.safetensors", "'alpha'", "--split all"])
    swap = ["weights", "swap", "--body", hydra_run.body_path, "--head", "nine.safetensors"]
    command_refused(*swap, "--out", "new", words=["nine.safetensors", "9 features", "has 8"])


def test_damaged_weights(command_refused: Refused, hydra_run: RunDir) -> None:
    content = bytearray(hydra_run.head_path("alpha").read_bytes())
    content[-3] ^= 1
    Path("bad.safetensors").write_bytes(content)
    body = ["evaluate", "--device", "cpu", "--body", hydra_run.body_path, "--head"]
    command_refused(*body, "bad.safetensors", words=["bad.safetensors", "digest", "copy it again"])
    Path("bad.safetensors").write_bytes(content[:-5])
    command_refused(*body, "bad.safetensors", words=["bad.safetensors", "copy it again"])


def test_runs_that_cannot_be_evaluated(command_refused: Refused, hydra_run: RunDir) -> None:
    run = hydra_run.path
    command_refused(
        "evaluate", run, "--dataset", "beta", words=["beta: had no test split", "--split val"]
    )
    command_refused(
        "evaluate", run, "--dataset", "bata", words=["unknown dataset 'bata'", "'beta'"]
    )
    RunDir.begin(Path("begun"), plan_of(round_of("alpha")))
    command_refused("evaluate", "begun", words=["begun", "not finished", "--resume begun"])


def test_a_model_that_does_not_exist(command_refused: Refused) -> None:
    command_refused("predict", "nosuch", "images", words=["nosuch", "no such folder"])


def test_an_unknown_dataset_says_what_the_data_folder_lacks(tmp_path: Path) -> None:
    (tmp_path / "data" / "lesions").mkdir(parents=True)
    for name, words in {
        "data": f"{tmp_path}/data/lesions has no dataset.toml: `hydrakit datasets new ",
        "dta": f"{tmp_path}/dta: there is no such folder: correct `--data`",
    }.items():
        arguments = ["datasets", "check", "lesions", "--data", str(tmp_path / name)]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 1
        assert "unknown dataset 'lesions'" in done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
