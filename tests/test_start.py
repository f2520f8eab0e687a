"""A body that begins with weights from a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from helpers import ADAPTERS, BODY, Runner, StopError, plan_of, plugins, refused, round_of
from safetensors.torch import save_file
from torch import nn

from hydrakit import weights
from hydrakit.cli import main
from hydrakit.compare.design import make_design
from hydrakit.errors import PlanError, WeightsError
from hydrakit.hooks import BodyFactory, InputNeeds, Window
from hydrakit.models.bodies import SmallOptions, build_small
from hydrakit.models.body import NetworkBody, PaperBody
from hydrakit.models.build import check_builds, check_components
from hydrakit.plan import Plan
from hydrakit.plan.profiles import make_plan
from hydrakit.plan.results import EpochRecord
from hydrakit.plan.settings import PlanSettings, as_options
from hydrakit.plan.start import StartWeights
from hydrakit.rounds import Round
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.search.tune import TuningSearch, tune
from hydrakit.weights.start import convert_channels, describe, match_start

State = dict[str, torch.Tensor]


def body_of(seed: int = 0, *, in_channels: int = 1) -> PaperBody:
    torch.manual_seed(seed)
    return PaperBody(BODY, in_channels=in_channels)


def planned(path: Path) -> StartWeights:
    start = StartWeights.of(path)
    assert isinstance(start, StartWeights)
    return start


def saved(path: Path, state: State) -> StartWeights:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return planned(path)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 5)])
def test_a_converted_convolution_sees_a_grey_image_as_before(before: int, after: int) -> None:
    torch.manual_seed(0)
    old = nn.Conv2d(before, 4, 3)
    new = nn.Conv2d(after, 4, 3)
    new.load_state_dict({"weight": convert_channels(old.weight, after), "bias": old.bias})
    grey = torch.randn(2, 1, 9, 9)
    expected = old(grey.repeat(1, before, 1, 1))
    torch.testing.assert_close(new(grey.repeat(1, after, 1, 1)), expected)


def test_a_network_of_colour_becomes_one_of_grey_images(tmp_path: Path) -> None:
    colour = body_of(1, in_channels=3).eval()
    grey = body_of(2).eval()
    start = match_start(saved(tmp_path / "w.safetensors", colour.state_dict()), grey)
    assert start.match.adapted == "blocks.0.conv1.weight, from 3 to 1 input channels"
    grey.load_state_dict({**grey.state_dict(), **start.tensors})
    images = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(grey(images), colour(images.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "encoder.", "net.", "own."])
@pytest.mark.parametrize("inner", [True, False])
def test_names_match_without_their_prefixes(tmp_path: Path, prefix: str, inner: bool) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(5))
    net(torch.zeros(2, 1, 8, 8))
    state = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    state["classifier.weight"] = torch.zeros(3, 5)
    body = NetworkBody(net, features=5, in_channels=1, patch=8) if inner else net
    start = match_start(saved(tmp_path / "w.safetensors", state), body)
    assert (start.match.matched, start.match.missing, start.match.other_shape) == (8, (), ())
    assert start.match.unexpected == ("classifier.weight",)
    for name, tensor in body.state_dict().items():
        assert torch.equal(start.tensors[name], tensor)


def test_what_does_not_match_is_listed(tmp_path: Path) -> None:
    state = {f"model.{name}": each.half() for name, each in body_of(1).state_dict().items()}
    del state["model.dense.bias"], state["model.blocks.0.norm1.num_batches_tracked"]
    state["model.dense.weight"] = torch.zeros(3, 4)
    state["model.fc.weight"] = torch.zeros(2, 2)
    body = body_of(2)
    start = match_start(saved(tmp_path / "w.safetensors", state), body)
    weights_of_body = [name for name in body.state_dict() if "batches" not in name]
    assert start.match.matched == len(weights_of_body) - 2
    assert start.match.missing == ("dense.bias",)
    assert start.match.unexpected == ("model.fc.weight",)
    assert start.match.other_shape == ("dense.weight: (3, 4), the body has (8, 8)",)
    assert {each.dtype for each in start.tensors.values()} == {torch.float32, torch.int64}
    assert describe(start.match) == [
        f"the body begins with {tmp_path / 'w.safetensors'}: 36 of its 38 tensors match",
        "1 tensors are not in the file, and random: dense.bias",
        "1 tensors are of another shape in the file, and random: "
        "dense.weight: (3, 4), the body has (8, 8)",
        "1 tensors are in the file, but not in the body: model.fc.weight",
    ]


class _Code:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_each_format_is_read(tmp_path: Path) -> None:
    body, state = body_of(2), body_of(1).state_dict()
    torch.save(state, tmp_path / "new.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": state, "lr": [0.1]}, tmp_path / "wrapped.pth")
    weights.save_body(tmp_path / "body.safetensors", body_of(1), trained_on=["alpha"])
    for name in ("new.pth", "old.pth", "wrapped.pth", "body.safetensors"):
        start = match_start(planned(tmp_path / name), body)
        assert start.match.missing == start.match.unexpected == ()
        assert all(torch.equal(start.tensors[key], each) for key, each in state.items())
    assert start.trained_on == ("alpha",)


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    body = body_of()

    def start(name: str) -> Any:
        return lambda: match_start(planned(tmp_path / name), body)

    refused(start("absent"), "absent: cannot be read (No such file", "name a file of weights")
    (tmp_path / "text").write_text("weights")
    refused(start("text"), "text: PyTorch cannot read it as plain tensors")
    torch.save({"a": _Code()}, tmp_path / "code.pth")
    refused(start("code.pth"), "PyTorch cannot read it as plain tensors")
    torch.save({"a": 1}, tmp_path / "number.pth")
    refused(start("number.pth"), "holds a dict that is not a state_dict: give safetensors")
    saved(tmp_path / "other", {"layer1.weight": torch.zeros(2)})
    refused(
        start("other"),
        "none of its 1 tensors (layer1.weight) matches one of the body (blocks.0.conv1.weight, ",
    )
    saved(tmp_path / "nan", body.state_dict() | {"dense.bias": torch.full((8,), torch.nan)})
    refused(start("nan"), "tensor 'dense.bias' holds numbers that are not finite")
    (tmp_path / "cut").write_bytes((tmp_path / "nan").read_bytes()[:-9])
    refused(start("cut"), "cut: cannot be read as safetensors")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of a network for colour images, with a classifier."""
    state = body_of(7, in_channels=3).state_dict() | {"fc.weight": torch.zeros(2, 8)}
    saved(tmp_path / "start.safetensors", state)
    return tmp_path / "start.safetensors"


def plan(file: Path, **changes: Any) -> Plan:
    start = planned(file)
    rounds = (round_of("beta", "head"), round_of("beta"), round_of("alpha"))
    return plan_of(*rounds, body_weights=start, bootstrap=3, **changes)


class _Follow(RunCallback):
    """Collect the notes, and stop the run after the first epoch of a round."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.notes = stop, list[str]()

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        if number == self.stop:
            raise StopError


def body_after(run: RunDir, number: int, plan: Plan) -> State:
    path = run.round_file(number, plan.rounds[number - 1], "body.safetensors")
    return weights.load_body(path, plugins=plugins()).state_dict()


def test_training_begins_with_the_weights_and_goes_on_without_their_file(
    runner: Runner, file: Path, tmp_path: Path
) -> None:
    given = plan(file)
    whole = runner(given, "whole", round_cache=tmp_path / "shared")
    theirs = body_of(7, in_channels=3).state_dict()
    theirs["blocks.0.conv1.weight"] = theirs["blocks.0.conv1.weight"].sum(1, keepdim=True)
    frozen = body_after(whole, 1, given)  # a head round: as it began, from each random start
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in frozen.items())
    chosen = whole.round_result(1, given.rounds[0]).bootstrap
    assert chosen is not None
    assert len(set(chosen.val_auc)) > 1
    results = whole.results()
    assert given.body_weights is not None
    assert results is not None
    assert results.start is not None
    assert (results.start.sha256, results.start.unexpected) == (
        given.body_weights.sha256,
        ("fc.weight",),
    )
    page = whole.report_path.read_text()
    assert given.body_weights.sha256 in page
    assert "but not in the body: fc.weight" in page
    assert "start.safetensors" in json.loads((whole.path / "files.json").read_text())["files"]

    stopped = _Follow(stop=2)
    with pytest.raises(StopError):
        runner(given, "stopped", callbacks=[stopped])
    assert len(stopped.notes) == 2
    assert "1 tensors are in the file, but not in the body: fc.weight" in stopped.notes
    file.unlink()
    resumed = runner(given, "stopped")
    for name in ("body.safetensors", "predictions.csv", "heads/alpha.safetensors"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    refused(
        lambda: runner(given, "new"), "start.safetensors: cannot be read", "make the plan again"
    )
    assert not (tmp_path / "new").exists()


def test_a_changed_file_is_refused_and_a_moved_one_is_the_same_plan(
    runner: Runner, file: Path, tmp_path: Path
) -> None:
    given = plan(file)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(file.read_bytes())
    assert plan(moved).digest() == given.digest()
    assert plan(moved) != given
    assert Plan.model_validate_json(given.to_json()) == given
    assert "body_weights" not in plan_of(round_of("alpha")).to_json()
    saved(file, body_of(8).state_dict())
    assert plan(file).digest() != given.digest()
    refused(lambda: runner(given), "was changed since the plan was made (its SHA-256 differs)")
    assert not (tmp_path / "run").exists()


def test_rounds_are_shared_by_the_weights_and_not_by_their_path(
    runner: Runner, file: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(file.read_bytes())
    runner(plan(file), "first", round_cache=shared)
    count = len(list(shared.iterdir()))
    runner(plan(moved), "second", round_cache=shared)
    assert len(list(shared.iterdir())) == count
    saved(file, body_of(8).state_dict())
    runner(plan(file), "third", round_cache=shared)
    assert len(list(shared.iterdir())) == 2 * count


def test_weights_that_saw_the_test_images_are_refused(runner: Runner, tmp_path: Path) -> None:
    before = runner(plan_of(round_of("alpha")), "before")
    start = planned(before.body_path)
    rounds = (round_of("beta"), round_of("alpha"))
    same = runner(plan_of(*rounds, body_weights=start), "same")
    body = weights.read_metadata(same.body_path)
    assert isinstance(body, weights.BodyMetadata)
    assert body.trained_on == ("alpha", "beta", "alpha")
    # The file of a body whose training images are known is refused on another split of them.
    refused(
        lambda: runner(plan_of(*rounds, body_weights=start, split_seed=5), "other"),
        "its weights were trained on",
        "test images of 'alpha'",
        "`--split-seed`",
    )
    # Whoever trains on nothing but beta passes its images on.
    beta = runner(plan_of(round_of("beta"), body_weights=start), "beta")
    first, second = (weights.read_metadata(each.body_path) for each in (before, beta))
    assert isinstance(first, weights.BodyMetadata)
    assert isinstance(second, weights.BodyMetadata)
    assert first.cases is not None
    assert second.cases is not None
    assert set(first.cases.digests()) < set(second.cases.digests())


def test_tuning_begins_with_the_weights_and_goes_on_without_their_file(
    data: Path, cache: Path, file: Path, tmp_path: Path
) -> None:
    given = plan_of(round_of("alpha", "head", epochs=1), body_weights=planned(file))
    context = RunContext(data=data, cache=cache, device="cpu")
    search = TuningSearch(learning_rates=(1e-3,), dropouts=(0.0,), folds=2)
    out = tmp_path / "tuned.json"
    first = tune(given, out, context, search=search, plugins=plugins())
    assert first.plan.body_weights == given.body_weights
    file.unlink()
    again = tune(given, out, context, search=search, plugins=plugins())
    assert again.plan == first.plan


def test_the_options_name_the_file(standin: Path, file: Path, tmp_path: Path) -> None:
    words = ["--strategy", "hydra", "--datasets", "beta,alpha", "--body-weights", str(file)]
    done = CliRunner().invoke(main, ["plan", *words])
    assert done.exit_code == 0, done.stderr
    made = Plan.model_validate_json(done.stdout)
    assert made.body_weights == planned(file)
    assert make_plan("hydra", ["beta", "alpha"], body_weights=file) == made
    settings = PlanSettings.model_validate({"body_weights": file})
    assert as_options(settings.model_dump(exclude_defaults=True)) == ["--body-weights", str(file)]

    def design(path: Path) -> Any:
        given = {"strategies": ["hydra"], "datasets": ["beta", "alpha"]}
        return make_design(**given, settings={"body_weights": path})

    first = design(file)
    begun = {cell.strategy: each.body_weights for cell, each in first.plans(plugins()).items()}
    # The baseline on intensities has a body of its own, without weights.
    assert begun == {"intensity": None, **dict.fromkeys(("probe", "hydra"), made.body_weights)}
    assert as_options(first.settings) == ["--body-weights", str(file)]
    moved = file.rename(tmp_path / "moved.safetensors")
    assert design(moved).digest == first.digest
    saved(moved, body_of(8).state_dict())
    assert design(moved).digest != first.digest
    with pytest.raises(PlanError, match="cannot be read"):
        design(file)


def test_a_head_is_no_body(hydra_run: RunDir) -> None:
    with pytest.raises(WeightsError, match=r"alpha.safetensors: is a head, not a body"):
        match_start(planned(hydra_run.head_path("alpha")), body_of())


def test_what_a_body_needs_of_its_images_is_checked_before_training() -> None:
    factory = BodyFactory(
        name="picky",
        summary="",
        build=build_small,
        options=SmallOptions,
        needs=InputNeeds(patch=64, channels=(3,), normalise=("dataset", "window")),
    )
    known = plugins().including(factory)
    adapter = replace(ADAPTERS[0], normalise="dataset")

    def check(patch: int = 64, **changes: Any) -> None:
        body = {"name": "picky", "options": {"patch": patch, "channels": (4,)}}
        given = plan_of(round_of("alpha"), body=body)
        check_components(given, {"alpha": replace(adapter, **changes)}, known)
        check_builds(given, {"alpha": adapter}, in_channels=1, plugins=known)

    refused(
        lambda: check(8), "body 'picky' needs patches of 64 pixels or more", "has 8", "patch=64"
    )
    refused(
        lambda: check(normalise="none"),
        "normalised by dataset or window, and the rule of 'alpha' is 'none'",
        "`--set datasets.alpha.normalise=dataset`",
    )
    refused(
        lambda: check(normalise=Window(window=(0, 1))),
        "takes images with 3 channels, and the images of this plan have 1",
    )
