"""Exported models answer as the model, and name nobody."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import BODY, Runner, install_standin, new_network, plan_of, plugins, refused, round_of
from torch import nn

import hydrakit
from hydrakit import weights
from hydrakit.cli import main
from hydrakit.errors import WeightsError
from hydrakit.export import hub, model, programs
from hydrakit.export.check import TOLERANCE, TestImages, answers
from hydrakit.export.claim import ITEMS
from hydrakit.export.graph import ExportedNetwork, left_out_views, with_mirrored_views
from hydrakit.export.model import export_model
from hydrakit.hooks import FieldOfView, HeadFactory, Window
from hydrakit.models.bodies import hydrakit_body_factories
from hydrakit.models.body import PaperBody
from hydrakit.models.heads import hydrakit_head_factories
from hydrakit.plan.decision import Calibration, Decision, Threshold
from hydrakit.plan.grey import GreyValues
from hydrakit.plugins import Plugins
from hydrakit.rounds import Transforms
from hydrakit.runs.evaluate import evaluate_files, evaluate_run
from hydrakit.runs.model import Model, load_model
from hydrakit.runs.rundir import RunDir
from hydrakit.weights.description import ModelDescription
from hydrakit.weights.folders import networks_in
from hydrakit.weights.format import AveragedViews, read_head

GOLDEN = Path(__file__).parent / "golden" / "0.1"
CLASSES = ("benign", "malignant")
PLATT = Calibration(method="platt", slope=0.7, intercept=1.5)
TEMPERATURE = Calibration(method="temperature", slope=0.3)
MIRRORS = Transforms(flips=("horizontal", "vertical"))

needs_onnx = pytest.mark.skipif(
    any(programs.find_spec(name) is None for name in programs.NEEDED),
    reason="needs the extra onnx",
)
needs_hub = pytest.mark.skipif(
    programs.find_spec("huggingface_hub") is None, reason="needs the extra hub"
)


def write_model(folder: Path, *greys: GreyValues, outputs: int = 2, **changes: Any) -> Path:
    """A folder with a network for each way of normalising; they differ in their weights."""
    for number, grey in enumerate(greys or (GreyValues(),), start=1):
        home = folder if number == 1 else folder / "members" / str(number)
        (home / "heads").mkdir(parents=True)
        channels = changes.get("channels", 1)
        body, head = new_network(classes=outputs, seed=number, channels=channels)
        _spread(body, head)
        weights.save_body(home / "body.safetensors", body)
        scale = changes.get("scales", [None] * number)[number - 1]
        weights.save_head(
            home / "heads" / "alpha.safetensors",
            head,
            body=body,
            dataset="alpha",
            classes=changes.get("classes", CLASSES),
            factory="mlp",
            preprocessing=weights.Preprocessing(
                patch=BODY.patch,
                channels=channels,
                field_of_view=changes.get("view", FieldOfView(share=1.0)),
                normalisation=str(grey),
                grey_values=grey,
            ),
            task=changes.get("task", "classification"),
            scale=scale,
            views=changes.get("views"),
        )
    if "decision" in changes:
        weights.set_decision(folder / "heads" / "alpha.safetensors", changes["decision"])
    return folder


def _spread(body: PaperBody, head: nn.Module) -> None:
    """Give the outputs of new networks the mean 0 and the standard deviation 1 on noise."""
    weight, bias = head.get_parameter("logits.weight"), head.get_parameter("logits.bias")
    shape = (64, body.in_channels, BODY.patch, BODY.patch)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = head.eval()(body.eval()(noise))
        deviation = outputs.std(dim=0)
        weight.div_(deviation[:, None])
        bias.copy_((bias - outputs.mean(dim=0)) / deviation)


def decision(rule: Calibration | None, networks: int = 1) -> Decision:
    limit = Threshold(aim="sensitivity", wished=0.9, value=0.25, sensitivity=0.9, specificity=0.5)
    return Decision(networks=networks, source="validation", calibration=rule, threshold=limit)


def z_score(mean: float, deviation: float) -> GreyValues:
    return GreyValues(normalise="dataset", mean=(mean,), deviation=(deviation,))


NUMBER: dict[str, Any] = {"task": "regression", "classes": ("volume",), "outputs": 1}
VARIANTS: dict[str, tuple[tuple[GreyValues, ...], dict[str, Any]]] = {
    "one": ((), {}),
    "temperature": ((), {"decision": decision(TEMPERATURE)}),
    "platt": ((GreyValues(), GreyValues()), {"decision": decision(PLATT, networks=2)}),
    "mirrors": ((), {"views": AveragedViews(count=4, table=MIRRORS)}),
    "other z-scores": ((z_score(10, 2), z_score(-3, 0.5)), {}),
    "window": ((GreyValues(normalise=Window(window=(-100, 300))),), {}),
    "numbers": ((GreyValues(), GreyValues()), {**NUMBER, "scales": [(5.0, 2.0), (50.0, 9.0)]}),
    "labels": ((GreyValues(), GreyValues()), {"task": "multilabel"}),
    "three classes": ((GreyValues(),) * 3, {"classes": ("a", "b", "c"), "outputs": 3}),
}


def loaded(folder: Path) -> Model:
    return load_model(folder, plugins=plugins())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_exported_network_answers_as_the_model(tmp_path: Path, variant: str) -> None:
    greys, changes = VARIANTS[variant]
    trained = loaded(write_model(tmp_path / "model", *greys, **changes))
    images = TestImages.of(trained, None)
    rule = trained.decision.calibration if trained.decision else None
    network = ExportedNetwork(trained, rule).eval()
    with torch.no_grad():
        found = network(trained.patches(images.canvases, *images.unit())).numpy()
    unit = trained.head.scale[1] if trained.head.scale else 1.0
    np.testing.assert_allclose(found, answers(trained, images), atol=TOLERANCE * unit)
    assert left_out_views(trained) == 0
    assert np.ptp(found, axis=0).min() > 0.1 * unit  # the images are not all alike


def test_the_mean_of_numbers_is_in_their_unit(tmp_path: Path) -> None:
    greys, changes = VARIANTS["numbers"]
    both = write_model(tmp_path / "model", *greys, **changes)
    images = TestImages.of(loaded(both), None)
    alone = [
        answers(load_model(body=body, head=head, plugins=plugins()), images)
        for body, head in networks_in(both)
    ]
    assert alone[1].mean() - alone[0].mean() > 20
    np.testing.assert_allclose(answers(loaded(both), images), np.mean(alone, axis=0), atol=1e-4)


def test_extreme_logits_are_calibrated_as_exactly(tmp_path: Path) -> None:
    trained = loaded(write_model(tmp_path / "model", decision=decision(TEMPERATURE)))
    last = [each for each in trained.networks[0].module.modules() if isinstance(each, nn.Linear)]
    with torch.no_grad():
        last[-1].bias.add_(torch.tensor([0.0, 150.0]))  # e^-150 is no number of float32
    images = TestImages.of(trained, None)
    with torch.no_grad():
        patches = trained.patches(images.canvases, *images.unit())
        found = ExportedNetwork(trained, TEMPERATURE).eval()(patches).numpy()
    np.testing.assert_allclose(found, answers(trained, images), atol=TOLERANCE)


def test_views_that_need_more_than_the_patch_are_left_out(tmp_path: Path) -> None:
    views = AveragedViews(count=6, table=MIRRORS)
    folder = write_model(tmp_path / "model", views=views)
    trained = loaded(folder)
    assert left_out_views(trained) == 2
    assert with_mirrored_views(trained).head.views == AveragedViews(count=4, table=MIRRORS)
    done = export_model(str(folder), "torchscript", str(tmp_path / "out"), plugins=plugins())
    (note,) = done.notes
    assert "2 turned, moved or scaled views" in note
    about = described(tmp_path / "out" / "alpha.pt")
    assert (about["views"], about["left_out_views"]) == (4, 2)
    assert 0 < about["mean_difference"] < about["difference"] < 1
    assert f"{about['difference']:.2g}" in note
    assert note.removeprefix("alpha.pt: ") in (tmp_path / "out" / "README.md").read_text()


def described(path: Path) -> dict[str, Any]:
    """What an exported file says about itself."""
    if path.suffix == ".pt":
        files = {"hydrakit.json": ""}
        with programs._quiet():
            torch.jit.load(str(path), _extra_files=files)
        text = files["hydrakit.json"]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map["hydrakit"]
    content: dict[str, Any] = json.loads(text)
    return content


PER_IMAGE = GreyValues(normalise="image")
TO_WINDOW = GreyValues(normalise=Window(window=(-2, 6)))


@pytest.mark.parametrize(
    ("kind", "side", "grey", "view"),
    [
        pytest.param("onnx", 41, PER_IMAGE, FieldOfView(share=0.5), marks=needs_onnx),
        ("torchscript", 41, PER_IMAGE, FieldOfView(share=0.5)),
        ("torchscript", BODY.patch, z_score(3, 2), FieldOfView(share=1.0)),
        ("torchscript", 40, TO_WINDOW, FieldOfView(millimetres=25.0)),
    ],
)
def test_the_example_of_the_readme_gives_the_answer_of_the_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: Any,
    side: int,
    grey: GreyValues,
    view: FieldOfView,
) -> None:
    views = AveragedViews(count=2, table=MIRRORS)
    options: dict[str, Any] = {"view": view, "decision": decision(PLATT, networks=2)}
    folder = write_model(tmp_path / "model", grey, grey, views=views, **options)
    export_model(folder, kind, tmp_path / "out", plugins=plugins())
    readme = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    image = np.random.default_rng(side).normal(2, 3, size=(side, side)).astype(np.float32)
    np.save(tmp_path / "out" / "image.npy", image)
    monkeypatch.chdir(tmp_path / "out")
    with programs._quiet():
        exec(code, {})
    printed = json.loads(capsys.readouterr().out.replace("'", '"'))
    (wanted,) = loaded(folder).predict([image], spacing=(1.0, 1.0))
    assert printed == pytest.approx(wanted.probabilities, abs=TOLERANCE)
    assert "calibration are inside" in readme
    assert "from a probability of 0.25 on, chosen for a sensitivity of 0.9" in readme


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=needs_onnx), "torchscript"])
def test_a_file_for_images_of_three_channels_answers_as_the_model(
    tmp_path: Path, kind: Any
) -> None:
    z_scores = GreyValues(normalise="dataset", mean=(10, 0, -5), deviation=(2, 1, 9))
    views = AveragedViews(count=4, table=MIRRORS)
    folder = write_model(tmp_path / "model", z_scores, channels=3, views=views)
    (path, _) = export_model(folder, kind, tmp_path / "out", plugins=plugins()).files[::-1]
    trained, size = loaded(folder), (3, BODY.patch, BODY.patch)
    noise = np.random.default_rng(2).normal(size=(5, *size)).astype(np.float32)
    images = noise * np.float32([2, 1, 9])[:, None, None] + np.float32([10, 0, -5])[:, None, None]
    patches = np.stack([trained.preprocess(image).numpy() for image in images])
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, {programs.INPUT: patches})[0]
    else:
        with programs._quiet():
            found = torch.jit.load(str(path))(torch.from_numpy(patches)).detach().numpy()
    wanted = [list(each.probabilities.values()) for each in trained.predict(list(images))]
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
    assert np.ptp(found, axis=0).min() > 0.05  # the images are not all alike


@needs_onnx
def test_a_run_is_exported_with_a_file_for_each_head(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = round_of("beta", epochs=1), round_of("alpha", "head", epochs=1)
    run = runner(plan_of(*rounds))
    monkeypatch.syspath_prepend(str(install_standin(tmp_path / "site")))
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["export", str(run.path), "--to", "onnx", str(out)])
    assert result.exit_code == 0, result.output
    names = ["README.md", "alpha.onnx", "beta.onnx"]
    assert [Path(line).name for line in result.stdout.splitlines()] == names
    about = described(out / "alpha.onnx")
    head = read_head(run.head_path("alpha"))
    assert about["classes"] == list(head.classes)
    assert about["preprocessing"] == head.preprocessing.model_dump(mode="json")
    assert (about["networks"], about["checked"]) == (1, 64)
    assert 0 < about["real"] < 64  # examples of the run, and random ones
    assert described(out / "beta.onnx")["real"] == 0  # the examples are of the target
    names_nobody(out, run.path, tmp_path)


def names_nobody(folder: Path, *paths: Path) -> None:
    """Assert that no file below a folder names a patient, a case, a path or a user."""
    forbidden = [str(path).encode() for path in (*paths, Path(__file__).parent.parent, Path.home())]
    forbidden = [path for path in forbidden if len(path) > 2]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        for text in forbidden:
            assert text not in content, f"{path}: {text!r}"
        assert not re.search(rb"(alpha|beta|gamma)-p\d{3}", content), path
        if path.suffix in (".json", ".md"):
            assert not re.search(rb"\bc\d{3}\b", content), path


@pytest.fixture(scope="module")
def ensemble(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run of two networks: to be read, not to be changed."""
    rounds = round_of("beta", epochs=2), round_of("alpha", "head", epochs=2)
    plan = plan_of(*rounds, ensemble=2, test_views=3, seed=3)
    return Runner(tmp_path_factory.mktemp("export"), data, cache)(plan)


def test_a_head_on_another_body_is_left_out_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"alpha": write_model(tmp_path / "one"), "beta": write_model(tmp_path / "two")}
    body = tmp_path / "two" / "body.safetensors"
    weights.save_body(body, new_network(seed=9)[0])
    find = hub.find_model
    monkeypatch.setattr(hub, "find_model", lambda _, dataset: find(folders[dataset]))
    monkeypatch.setattr(model, "datasets_of", lambda _: ["alpha", "beta"])
    done = export_model(tmp_path / "one", "hub", tmp_path / "hub", plugins=plugins())
    (note,) = [note for note in done.notes if "another body than that of 'alpha'" in note]
    assert "`--dataset beta`" in note
    heads = [path.name for path in (tmp_path / "hub" / "heads").iterdir()]
    assert heads == ["alpha.safetensors"]
    assert note in (tmp_path / "hub" / "README.md").read_text().replace("\\", "")


def front_matter(card: str) -> dict[str, Any]:
    """The front matter of a card: each value is JSON."""
    text = card.split("---\n")[1]
    return {name: json.loads(value) for name, value in re.findall(r"(?m)^([\w-]+): (.*)$", text)}


def test_a_published_folder_predicts_and_evaluates_as_its_run(
    ensemble: RunDir, data: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hub"
    done = export_model(ensemble.path, "hub", out, licence="cc-by-4.0", plugins=plugins())
    assert {path.relative_to(out).as_posix() for path in done.files} == {
        *("README.md", "config.json", "model.json", "results.json", "splits.json"),
        *("training-plan.json", "body.safetensors", "members/2/body.safetensors"),
        *(f"{at}heads/{name}.safetensors" for at in ("", "members/2/") for name in NAMES),
    }
    images = np.random.default_rng(0).normal(size=(5, 20, 20)).astype(np.float32)
    before, after = (
        load_model(path, dataset="alpha", plugins=plugins()).predict(images)
        for path in (ensemble.path, out)
    )
    assert [each.probabilities for each in before] == [each.probabilities for each in after]
    places: dict[str, Any] = {"data": data, "cache": cache, "device": "cpu", "plugins": plugins()}
    wanted = evaluate_run(ensemble.path, **places).result
    (body, head), *others = networks_in(out, "alpha")
    found = evaluate_files(body, head, others=others, **places).result
    assert found.figures.auc == pytest.approx(wanted.figures.auc, abs=1e-9)
    assert found.figures.loss == pytest.approx(wanted.figures.loss, abs=1e-6)
    names_nobody(out, ensemble.path, data)
    again = export_model(out, "hub", tmp_path / "again", licence="cc-by-4.0", plugins=plugins())
    names = [path.relative_to(tmp_path / "again") for path in again.files]
    assert names == [path.relative_to(out) for path in done.files]
    for name in names:
        if name.name not in ("README.md", "config.json"):
            assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


NAMES = ("alpha", "beta")


def test_the_model_card_is_filled_from_the_run(ensemble: RunDir, tmp_path: Path) -> None:
    export_model(ensemble.path, "hub", tmp_path / "hub", plugins=plugins())
    card = (tmp_path / "hub" / "README.md").read_text()
    results = ensemble.results()
    facts = ensemble.facts()
    assert results is not None
    assert facts is not None
    (area,) = results.test.classes
    found = front_matter(card)
    assert found["license"] == "other"
    assert found["datasets"] == ["alpha", "beta"]
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(area.auc, abs=1e-4)
    for text in (
        "not a medical device",
        f"AUC {area.auc:.3f} for malignant",
        f"95 % interval {area.low:.3f} to {area.high:.3f}",
        "a logistic regression on 11 intensities (no network) has AUC",
        f"| {sum(facts['alpha'].patients.values())} |",
        "Stand-in for a dataset, 2 classes",
        "Few test findings",
        "Scale it to 32 x 32 pixels",
        "hydrakit run --plan training-plan.json",
        "Nobody has chosen a licence",
        "Funding, and the role of the funders",
        "| 19. Assignment of the data to partitions | At random by patient",
    ):
        assert text in card, text
    splits = json.loads((tmp_path / "hub" / "splits.json").read_text())
    assert splits["alpha"]["cases"] == facts["alpha"].cases
    head = read_head(tmp_path / "hub" / "heads" / "alpha.safetensors")
    assert head.card is not None
    assert head.card.cases == facts["alpha"].cases
    assert sum(head.card.classes.values()) == sum(head.card.cases.values())


@needs_hub
def test_the_hub_reads_the_front_matter(ensemble: RunDir, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    export_model(ensemble.path, "hub", tmp_path / "hub", plugins=plugins())
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.to_dict()["pipeline_tag"] == "image-classification"
    (result,) = card.data.eval_results
    results = ensemble.results()
    assert results is not None
    assert result.metric_value == pytest.approx(results.test.figures.auc, abs=1e-4)


def test_a_run_of_the_first_version_is_exported(tmp_path: Path) -> None:
    run = GOLDEN / "finished"
    export_model(run, "hub", tmp_path / "hub", plugins=plugins())
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "Stand-in for a dataset, 2 classes" in card  # from the installed adapter
    image = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    before, after = (
        load_model(path, dataset="alpha", plugins=plugins()).predict([image])[0].probabilities
        for path in (run, tmp_path / "hub")
    )
    assert before == after
    names_nobody(tmp_path / "hub")
    factories = *hydrakit_body_factories(), *hydrakit_head_factories()
    others = Plugins.of(*factories)
    export_model(run, "hub", tmp_path / "without", plugins=others)  # the adapter is gone
    assert "alpha: not known" in (tmp_path / "without" / "README.md").read_text()
    export_model(run, "torchscript", tmp_path / "ts", dataset="alpha", plugins=plugins())
    assert [path.name for path in (tmp_path / "ts").iterdir() if path.suffix == ".pt"] == [
        "alpha.pt"
    ]


def test_a_file_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model")

    def write_wrong(*given: Any) -> programs.Runner:
        run = programs.write_torchscript(*given)
        return lambda images: run(images) + np.float32(2 * TOLERANCE)

    monkeypatch.setattr(model, "write_torchscript", write_wrong)
    out = tmp_path / "new" / "out"
    words = "alpha.pt: not written", "differ from the model's by up to 2", "64 random images"
    refused(lambda: export_model(folder, "torchscript", out, plugins=plugins()), *words)
    assert list(out.parent.iterdir()) == []


class Branched(nn.Module):
    """A head that computes one of two things, which depends on the images."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        factor = 1 if len(features) > 3 and features.sum() < 1e9 else -50
        return self.linear(features * factor)


class Numeric(Branched):
    """A head that computes outside of PyTorch, which a file cannot hold."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.from_numpy(features.detach().numpy() * 2))


@pytest.mark.parametrize(
    ("kind", "head", "words"),
    [
        pytest.param("onnx", Branched, "cannot convert this network to ONNX", marks=needs_onnx),
        ("torchscript", Branched, "differ from the model's"),
        ("torchscript", Numeric, "alpha.pt"),
    ],
)
def test_a_network_that_cannot_be_converted_is_refused_in_one_line(
    tmp_path: Path, kind: Any, head: type[Branched], words: str
) -> None:
    (tmp_path / "model" / "heads").mkdir(parents=True)
    body, _ = new_network()
    weights.save_body(tmp_path / "model" / "body.safetensors", body)
    weights.save_head(
        tmp_path / "model" / "heads" / "alpha.safetensors",
        head(BODY.features, 2),
        body=body,
        dataset="alpha",
        classes=CLASSES,
        factory="odd",
        preprocessing=weights.Preprocessing(
            patch=BODY.patch, channels=1, field_of_view=None, normalisation="z-score per patient"
        ),
    )
    factory = HeadFactory(
        name="odd", summary="odd", build=lambda features, outputs, _: head(features, outputs)
    )
    mine = Plugins.of(factory, *hydrakit_body_factories())
    out = tmp_path / "out"
    refused(lambda: export_model(tmp_path / "model", kind, out, plugins=mine), words)
    assert not out.exists()


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model")
    full = tmp_path / "full"
    full.mkdir()
    (full / "note.txt").touch()

    def export(*given: Any, **more: Any) -> Any:
        return lambda: export_model(folder, *given, plugins=plugins(), **more)

    refused(export("hub", full), "full: exists already")
    refused(export("hub", full / "note.txt"), "note.txt: exists already")
    refused(export("onnx", tmp_path / "a", push="me/model"), "'hub', not for 'onnx'")
    refused(export("torchscript", tmp_path / "a", licence="mit"), "'hub', not for 'torchscript'")
    refused(export("torchscript", tmp_path / "a", dataset="gamma"), "unknown head 'gamma'")
    missing = lambda name: None  # noqa: E731
    monkeypatch.setattr(programs, "find_spec", missing)
    monkeypatch.setattr(hub, "find_spec", missing)
    refused(export("onnx", tmp_path / "a"), "pip install 'hydrakit-imaging[onnx]'")
    refused(export("hub", tmp_path / "a", push="me/m"), "pip install 'hydrakit-imaging[hub]'")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("cells of /home/ann/cmp/cells, averaged", "cells of cells, averaged"),
        (r"C:\Users\ann\run\body.safetensors", "body.safetensors"),
        ("~/data/scans.csv", "scans.csv"),
        ("see https://www.kaggle.com/a/b", "see https://www.kaggle.com/a/b"),
        ("mm/s, b-value 50/800/1400, and/or", "mm/s, b-value 50/800/1400, and/or"),
        ("'/data/x y'", "'x y'"),
    ],
)
def test_paths_become_names(text: str, public: str) -> None:
    assert hub.without_paths({"a": [text]}) == {"a": [public]}


def test_options_that_are_paths_do_not_leave_the_machine(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    path = folder / "heads" / "alpha.safetensors"
    metadata = read_head(path)
    tensors = weights.load_head(path, plugins=plugins()).state_dict()
    from hydrakit.weights.format import write_tensors

    options = {"sheet": "/home/ann/sheet.csv"}
    write_tensors(path, tensors, metadata.model_copy(update={"options": options}))
    export_model(folder, "hub", tmp_path / "hub", plugins=plugins())
    head = read_head(tmp_path / "hub" / "heads" / "alpha.safetensors")
    assert head.options == {"sheet": "sheet.csv"}
    assert head.digest == metadata.digest


def test_the_checklist_has_all_items() -> None:
    assert list(ITEMS) == list(range(1, 45))


class StandIn(BaseHTTPRequestHandler):
    """The part of the Hub that takes a folder."""

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        server.requests.append((self.path, self.headers.get("Authorization"), content))
        if self.path == "/api/repos/create":
            answer: Any = {"url": f"{server.address}/me/model"}
        elif "/preupload/" in self.path:
            files = json.loads(content)["files"]
            answer = {
                "files": [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for each in files
                ]
            }
        else:
            answer = {"commitUrl": f"{server.address}/me/model/commit/1", "commitOid": "1"}
        self.send(answer)

    def do_GET(self) -> None:
        self.send({"id": "me/model", "sha": "0", "siblings": []})

    def send(self, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def standin_hub() -> Iterator[Any]:
    """A stand-in for the Hub on this machine."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.requests = []
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@needs_hub
def test_a_folder_is_pushed(tmp_path: Path, standin_hub: Any) -> None:
    folder = write_model(tmp_path / "model")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": standin_hub.address,
        "HF_TOKEN": "hf_secret",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    out = tmp_path / "hub"
    command = [sys.executable, "-m", "hydrakit", "export", folder, "--to", "hub", out]
    done = subprocess.run(
        [*map(str, command), "--push", "me/model"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("/me/model")
    sent = {path.split("?")[0]: content for path, _, content in standin_hub.requests}
    created = json.loads(sent["/api/repos/create"])
    assert created.get("private") is True or created.get("visibility") == "private"
    assert {token for _, token, _ in standin_hub.requests} == {"Bearer hf_secret"}
    (commit,) = [content for path, content in sent.items() if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    pushed = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in lines
        if line["key"] == "file"
    }
    files = [path for path in out.rglob("*") if path.is_file()]
    assert pushed == {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@needs_hub
def test_a_refused_push_keeps_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    folder, out = write_model(tmp_path / "model"), tmp_path / "hub"
    words = "--push me/model: ", "is complete", f"hf upload me/model {out}"
    export = lambda: export_model(folder, "hub", out, push="me/model", plugins=plugins())  # noqa: E731
    refused(export, *words)
    assert loaded(out).classes == CLASSES


def test_python_offers_it() -> None:
    assert hydrakit.export_model is export_model


def test_a_model_without_some_of_its_networks_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", GreyValues(), GreyValues())
    about = ModelDescription(hydrakit="0.1.0", made_by="ensemble", target="alpha", networks=2)
    about.write(folder)
    assert len(networks_in(folder)) == 2
    shutil.rmtree(folder / "members" / "2")
    with pytest.raises(WeightsError, match=r"holds 1 networks, and its model.json says 2"):
        networks_in(folder)
