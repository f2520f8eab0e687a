"""Datasets with different numbers of channels in one body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    BODY,
    StopError,
    new_network,
    plan_of,
    plugins,
    refused,
    round_of,
    run_plan,
    weights_of,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hydrakit import weights
from hydrakit.data.channels import ChannelFit, ImageChannels, fit_channels, luminance
from hydrakit.data.load import load
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.read import image_channels
from hydrakit.hooks import ChannelRule, DatasetAdapter, Sample
from hydrakit.models.blend import BlendedHead
from hydrakit.models.stem import HeadWithStems, head_without_stems, stem_of
from hydrakit.plan import Plan
from hydrakit.plan.model import StemShape
from hydrakit.plan.results import EpochRecord
from hydrakit.rounds import Round
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.evaluate import evaluate_files, evaluate_run
from hydrakit.runs.rundir import RunDir
from hydrakit.training.exact import fit_blend
from hydrakit.weights.format import read_body, read_head

GREY, COLOUR = ImageChannels(1), ImageChannels(3)
STACK = ImageChannels(3, stacked=True)


def fitted(**images: tuple[ImageChannels, ChannelRule | None]) -> tuple[int, dict[str, str]]:
    """The body's channels and the fit of each dataset, all of which train it."""
    body, fits = fit_channels(
        {name: each for name, (each, _) in images.items()},
        {name: rule for name, (_, rule) in images.items()},
        trained=set(images),
    )
    return body, {name: str(fit) for name, fit in fits.items()}


# --- the rules


def test_colour_becomes_grey_and_a_stack_gets_a_stem_beside_single_channels() -> None:
    body, fits = fitted(a=(GREY, None), b=(COLOUR, None), c=(STACK, None))
    assert (body, fits) == (1, {"b": "grey 3 -> 1", "c": "stem 3 -> 1"})


def test_without_single_channels_colour_stays_and_more_channels_get_a_stem() -> None:
    four = ImageChannels(4)
    assert fitted(a=(COLOUR, None), b=(STACK, None)) == (3, {})
    assert fitted(a=(COLOUR, None), b=(four, None)) == (3, {"b": "stem 4 -> 3"})


def test_datasets_that_repeat_or_have_a_stem_adapt_to_the_others() -> None:
    assert fitted(a=(GREY, "repeat"), b=(COLOUR, None)) == (3, {"a": "repeat 1 -> 3"})
    assert fitted(a=(GREY, "stem"), b=(COLOUR, None)) == (3, {"a": "stem 1 -> 3"})
    assert fitted(a=(GREY, "repeat")) == (1, {})


def test_grey_is_grey_whatever_the_others_are() -> None:
    assert fitted(a=(COLOUR, "grey")) == (1, {"a": "grey 3 -> 1"})
    assert fitted(a=(COLOUR, "grey"), b=(STACK, None)) == (
        1,
        {"a": "grey 3 -> 1", "b": "stem 3 -> 1"},
    )


def test_only_datasets_that_train_the_body_decide_its_channels() -> None:
    images = {"a": STACK, "b": GREY}
    assert fit_channels(images, dict.fromkeys(images), trained={"a"}) == (3, {})


def test_a_body_gets_as_many_channels_as_its_kind_takes() -> None:
    images = {"a": COLOUR, "b": GREY, "c": ImageChannels(2)}
    body, fits = fit_channels(images, dict.fromkeys(images), trained=set(images), allowed=(3,))
    assert body == 3
    assert fits == {"b": ChannelFit("repeat", 1, 3), "c": ChannelFit("stem", 2, 3)}


@given(st.integers(1, 9), st.lists(st.booleans(), min_size=1, max_size=5))
def test_equal_channels_change_nothing(count: int, stacked: list[bool]) -> None:
    images = {f"d{n}": ImageChannels(count, each) for n, each in enumerate(stacked)}
    assert fit_channels(images, dict.fromkeys(images), trained=set(images)) == (count, {})


def test_impossible_rules_are_refused() -> None:
    four = ImageChannels(4)
    refused(lambda: fitted(a=(four, "grey")), "a: channels = grey", "4", "channels=stem")
    refused(
        lambda: fitted(a=(COLOUR, "repeat"), b=(ImageChannels(2), None)),
        "a: channels = repeat",
        "3 channels",
        "takes 2",
        "channels=stem",
    )


def test_luminance_is_that_of_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)
    ours = luminance(pixels.transpose(2, 0, 1).astype(np.float32))
    assert ours.shape == (1, 40, 30)
    assert ours.dtype == np.float32
    assert np.abs(ours[0] - expected).max() <= 0.5 + 1e-3  # Pillow rounds


# --- runs


def with_channels(name: str, stack: bool) -> DatasetAdapter:
    """A stand-in whose images have three channels, from one file or from three."""
    usual = plugins().get(DatasetAdapter, name)

    def read(root: Path, options: Any) -> Iterator[Any]:
        for case in usual.read(root, options):
            assert isinstance(case, Sample)
            assert isinstance(case.image, np.ndarray)
            image = np.stack([case.image, case.image[::-1], case.image[:, ::-1]])
            source = case.source * 3 if stack else case.source
            yield replace(case, image=image.astype(np.float32), source=source)

    return replace(usual, read=read)


STAND_INS = plugins().including(
    with_channels("alpha", stack=True), with_channels("beta", stack=False)
)


class Notes(RunCallback):
    """Collects what the user is told, and whether anything was prepared before."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.prepared = 0

    def preparing(self, dataset: str, cases: int) -> None:
        self.prepared += 1

    def noted(self, text: str) -> None:
        assert not self.prepared
        self.texts.append(text)


class Stop(RunCallback):
    """Stops a run after an epoch."""

    def __init__(self, number: int, epoch: int) -> None:
        self.at = number, epoch

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        if (number, record.epoch) == self.at:
            raise StopError


@pytest.fixture(scope="module")
def places(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = tmp_path_factory.mktemp("cache-of-channels")
    return {"data": data, "cache": cache, "plugins": STAND_INS}


def mixed_plan(**changes: Any) -> Plan:
    """A stack, colour and grey images; the stack is the target."""
    return plan_of(
        round_of("alpha"),
        round_of("beta"),
        round_of("gamma", "head"),
        round_of("alpha", "head"),
        round_of("alpha"),
        **changes,
    )


@pytest.fixture(scope="module")
def mixed(places: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    notes = Notes()
    out = tmp_path_factory.mktemp("mixed") / "run"
    run = run_plan(mixed_plan(), out, callbacks=[notes], **places)
    assert len(notes.texts) == 2
    assert "alpha: its stacks of 3 channels get a stem of their own (3 -> 1)" in notes.texts[0]
    assert "beta: its images of 3 channels are converted to grey" in notes.texts[1]
    return run


def body_of(run: RunDir, number: int) -> bytes:
    plan = run.plan()
    return run.round_file(number, plan.rounds[number - 1], "body.safetensors").read_bytes()


def test_a_stem_is_in_the_heads_file_and_the_body_takes_one_channel(mixed: RunDir) -> None:
    body = read_body(mixed.body_path)
    assert body.in_channels == 1
    alpha, beta, gamma = (read_head(mixed.head_path(name)) for name in ("alpha", "beta", "gamma"))
    assert alpha.stems == {"alpha": StemShape(images=3, body=1)}
    assert (alpha.preprocessing.channels, alpha.body_channels) == (3, 1)
    assert (beta.preprocessing.channels, beta.preprocessing.conversion) == (1, "grey")
    assert not beta.stems
    text = gamma.model_dump(mode="json")  # as a version without stems writes it
    assert "stems" not in text
    assert "conversion" not in text["preprocessing"]


def test_a_head_round_trains_the_stem_through_the_frozen_body(mixed: RunDir) -> None:
    plan = mixed.plan()
    first, fourth = (
        mixed.round_file(number, plan.rounds[number - 1], "head.safetensors") for number in (1, 4)
    )
    assert body_of(mixed, 3) == body_of(mixed, 4)
    assert body_of(mixed, 4) != body_of(mixed, 5)
    before, after = (
        stem_of(weights.load_head(path, plugins=STAND_INS), "alpha") for path in (first, fourth)
    )
    assert before is not None
    assert after is not None
    assert not torch.equal(before.weight, after.weight)


def test_a_killed_run_goes_on_to_the_same_bytes(
    mixed: RunDir, places: dict[str, Any], tmp_path: Path
) -> None:
    for number, epoch in ((1, 1), (4, 1), (5, 2)):
        with suppress(StopError):
            stop = Stop(number, epoch)
            out = tmp_path / "run"
            run_plan(mixed_plan(), out, callbacks=[stop], checkpoint_interval=0, **places)
    assert run_plan(mixed_plan(), tmp_path / "run", **places).results() is not None
    assert weights_of(tmp_path / "run") == weights_of(mixed.path)


def test_every_dataset_of_the_run_is_evaluated(mixed: RunDir, places: dict[str, Any]) -> None:
    results = mixed.results()
    assert results is not None
    again = evaluate_run(mixed.path, **places, device="cpu")
    assert again.result == results.test
    for name in ("beta", "gamma"):
        validation = evaluate_run(mixed.path, dataset=name, split="val", **places, device="cpu")
        assert validation.result.images > 0


def test_a_head_with_a_stem_works_on_another_body_that_takes_as_many(
    mixed: RunDir, places: dict[str, Any], tmp_path: Path
) -> None:
    other = run_plan(plan_of(round_of("gamma")), tmp_path / "other", **places)
    note = weights.swap(
        other.body_path, mixed.head_path("alpha"), tmp_path / "swapped", plugins=STAND_INS
    )
    assert note is not None
    assert "another body" in note
    result = evaluate_files(
        tmp_path / "swapped" / "body.safetensors",
        tmp_path / "swapped" / "heads" / "alpha.safetensors",
        **places,
        device="cpu",
    ).result
    assert result.images > 0
    alone = run_plan(plan_of(round_of("alpha")), tmp_path / "alone", **places)
    assert read_body(alone.body_path).in_channels == 3  # nothing to adapt to
    refused(
        lambda: weights.load_model(alone.body_path, mixed.head_path("alpha"), plugins=STAND_INS),
        "1 image channels",
        "this one has 3",
    )


def test_one_head_of_several_datasets_has_a_stem_for_each_that_needs_one(
    places: dict[str, Any], tmp_path: Path
) -> None:
    rounds = [round_of(name, head="shared") for name in ("gamma", "alpha", "gamma")]
    run = run_plan(plan_of(*rounds), tmp_path / "run", **places)
    head = read_head(run.head_path("shared"))
    assert head.stems == {"gamma": None, "alpha": StemShape(images=3, body=1)}
    assert head.image_channels("alpha", body=1) == 3
    assert head.image_channels("another", body=1) == 1
    assert not read_head(run.round_file(1, rounds[0], "head.safetensors")).stems
    assert evaluate_run(run.path, dataset="alpha", split="val", **places, device="cpu").result


def test_datasets_in_one_round_have_their_own_stems(places: dict[str, Any], tmp_path: Path) -> None:
    together = round_of("gamma").model_dump() | {
        "others": [{"dataset": "alpha", "head": "alpha"}],
        "mix": "batch",
    }
    plan = plan_of(Round.model_validate(together))
    run = run_plan(plan, tmp_path / "run", **places)
    assert read_head(run.head_path("alpha")).stems == {"alpha": StemShape(images=3, body=1)}


def test_blended_heads_and_new_statistics_work_behind_a_stem(
    places: dict[str, Any], tmp_path: Path
) -> None:
    options = {"patch": 16, "channels": (4, 8), "norm": "batch", "intensities": True}
    first, second = round_of("gamma"), round_of("alpha", refresh_statistics=True)
    plan = plan_of(first, second, head="blend", body={"name": "small", "options": options})
    run = run_plan(plan, tmp_path / "run", **places)
    head = weights.load_head(run.head_path("alpha"), plugins=STAND_INS)
    assert isinstance(head, HeadWithStems)
    solved = head_without_stems(head)
    assert isinstance(solved, BlendedHead)
    weight = solved.regression.weight
    assert weight.any()
    expected = weight.clone()
    adapter, cache = STAND_INS.get(DatasetAdapter, "alpha"), places["cache"]
    prepared = prepare(adapter, places["data"] / "alpha", options={}, patch=16, cache=cache)
    device = torch.device("cpu")
    data = load(prepared, adapter, splits=run.splits()["alpha"], patch=16, device=device)
    body = weights.load_body(run.body_path, plugins=STAND_INS)
    fit_blend(head, body, data, None)  # on what the trained stem gives
    torch.testing.assert_close(weight, expected)
    results = run.results()
    assert results is not None
    assert evaluate_run(run.path, **places, device="cpu").result == results.test


def test_a_single_channel_can_be_repeated(places: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(round_of("beta"), round_of("gamma"))
    repeat = tuple(
        each.model_copy(update={"channels": "repeat" if each.name == "gamma" else None})
        for each in plan.datasets
    )
    run = run_plan(plan.model_copy(update={"datasets": repeat}), tmp_path / "run", **places)
    assert read_body(run.body_path).in_channels == 3
    needs = read_head(run.head_path("gamma")).preprocessing
    assert (needs.channels, needs.conversion) == (3, "repeat")
    again = evaluate_run(run.path, **places, device="cpu").result
    results = run.results()
    assert results is not None
    assert again == results.test
    assert (run.path / "shown.safetensors").is_file()


def test_what_is_impossible_is_refused_before_anything_is_prepared(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of(round_of("alpha"), round_of("gamma"))
    datasets = tuple(
        each.model_copy(update={"channels": "repeat"}) if each.name == "alpha" else each
        for each in plan.datasets
    )
    notes, cache = Notes(), tmp_path / "cache"
    impossible = plan.model_copy(update={"datasets": datasets})
    places = {"data": data, "cache": cache, "plugins": STAND_INS, "callbacks": [notes]}
    refused(lambda: run_plan(impossible, tmp_path / "run", **places), "alpha", "repeat", "stem")
    assert not notes.prepared
    exact = plan_of(round_of("gamma"), round_of("alpha", "head", solver="exact"))
    refused(lambda: run_plan(exact, tmp_path / "run", **places), "alpha", "exactly", "stem")
    assert not notes.prepared


def test_grey_images_are_prepared_apart_and_look_alike_in_search_of_copies(
    data: Path, tmp_path: Path
) -> None:
    colour = with_channels("beta", stack=False)
    one, other = (
        prepare(
            replace(colour, channels=rule),
            data / "beta",
            options={},
            patch=BODY.patch,
            cache=tmp_path,
        )
        for rule in (None, "grey")
    )
    assert (one.index.channels, other.index.channels) == (3, 1)
    assert one.index.content != other.index.content
    assert [each.content for each in one.index.cases] == [
        each.content for each in other.index.cases
    ]
    sums = one.stored([0])[0].astype(np.float64) * np.array([0.299, 0.587, 0.114])[:, None, None]
    np.testing.assert_allclose(other.stored([0])[0, 0], sums.sum(axis=0), atol=1e-5)


def test_the_first_image_that_can_be_read_tells_the_channels(data: Path) -> None:
    assert image_channels(with_channels("alpha", stack=True), data / "alpha", {}) == STACK
    assert image_channels(with_channels("beta", stack=False), data / "beta", {}) == COLOUR


def test_stems_are_saved_and_loaded_with_their_head(tmp_path: Path) -> None:
    body, head = new_network()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        both = HeadWithStems(head, {"values": StemShape(images=4, body=1)})
    weights.save_body(tmp_path / "body", body)
    weights.save_head(
        tmp_path / "head",
        both,
        body=body,
        dataset="values",  # a name that torch's own containers of modules refuse
        classes=("a", "b"),
        factory="mlp",
        preprocessing=weights.Preprocessing(
            patch=BODY.patch, channels=4, field_of_view=None, normalisation="none"
        ),
    )
    model = weights.load_model(tmp_path / "body", tmp_path / "head", plugins=plugins())
    images = torch.randn(2, 4, BODY.patch, BODY.patch)
    stem = stem_of(both, "values")
    assert stem is not None
    with torch.no_grad():
        expected = head.eval()(body.eval()(stem(images)))
        torch.testing.assert_close(model(images), expected, rtol=0, atol=0)
    wide = read_head(tmp_path / "head").model_dump()
    wide["stems"]["values"] = StemShape(images=2, body=1)
    with pytest.raises(ValueError, match="other images"):
        weights.HeadMetadata.model_validate(wide)
