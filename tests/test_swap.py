"""Putting a head on another body: what fits, what is said, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from hydrakit.cli import main
from hydrakit.errors import WeightsError
from hydrakit.hooks import FieldOfView
from hydrakit.maintenance.forecast import forecast, movement_text, synthetic_images
from hydrakit.models.body import PaperBody
from hydrakit.models.heads import build_linear
from hydrakit.plan import BodySpec
from hydrakit.runs.rundir import RunDir
from hydrakit.weights import (
    BodyMetadata,
    HeadMetadata,
    Preprocessing,
    body_digest,
    load_model,
    mismatch,
    read_metadata,
    save_body,
    save_head,
    swap,
)
from hydrakit.weights.format import read_head

SPEC = BodySpec(channels=(3, 5), features=7, patch=20)


def make_body(seed: int, *, spec: BodySpec = SPEC, in_channels: int = 2) -> PaperBody:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PaperBody(spec, in_channels=in_channels, dropout=0.5)


def make_head(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_linear(7, 2)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a body and of a head that was trained on it."""
    body, paths = make_body(1), (tmp_path / "body.safetensors", tmp_path / "head.safetensors")
    save_body(paths[0], body)
    preprocessing = Preprocessing(
        patch=20,
        channels=2,
        field_of_view=FieldOfView(share=1.0),
        normalisation="z-score per patient",
    )
    save_head(
        paths[1],
        make_head(2),
        body=body,
        dataset="lung",
        classes=("benign", "malignant"),
        factory="linear",
        preprocessing=preprocessing,
    )
    return paths


def refused(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_head_on_its_own_body_is_no_mismatch(pair: tuple[Path, Path]) -> None:
    body, head = (read_metadata(path) for path in pair)
    assert isinstance(body, BodyMetadata)
    assert isinstance(head, HeadMetadata)
    assert mismatch(body, head) is None


@pytest.mark.parametrize(
    ("spec", "in_channels", "word"),
    [
        (BodySpec(channels=(3, 5), features=8, patch=20), 2, "7 features"),
        (BodySpec(channels=(3, 5), features=7, patch=21), 2, "20 pixels per patch side"),
        (SPEC, 1, "2 image channels"),
    ],
)
def test_a_head_that_cannot_fit_is_refused(
    pair: tuple[Path, Path], tmp_path: Path, spec: BodySpec, in_channels: int, word: str
) -> None:
    other = tmp_path / "other"
    save_body(other, make_body(1, spec=spec, in_channels=in_channels))
    refused(lambda: load_model(other, pair[1]), str(other), str(pair[1]), word)
    out = tmp_path / "out"
    refused(lambda: swap(other, pair[1], out), word)
    assert not out.exists()


def test_swapping_copies_both_and_says_that_the_body_is_another(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    save_body(other, make_body(9))
    out = tmp_path / "a" / "swapped"
    note = swap(other, pair[1], out)
    assert note is not None
    assert "another body" in note
    assert body_digest(make_body(9))[:12] in note
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    assert files == ["body.safetensors", str(Path("heads") / "lung.safetensors")]
    assert (out / files[0]).read_bytes() == other.read_bytes()
    assert (out / files[1]).read_bytes() == pair[1].read_bytes()
    model = load_model(out / files[0], out / files[1])
    images = torch.randn(2, 2, 20, 20)
    assert torch.equal(model(images), make_head(2).eval()(make_body(9).eval()(images)))


def test_swapping_back_is_no_mismatch(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert swap(*pair, tmp_path / "out") is None


def test_swapping_refuses_a_folder_with_something_in_it(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    refused(lambda: swap(*pair, tmp_path), str(tmp_path), "not empty")
    refused(lambda: swap(*pair, pair[0]), str(pair[0]), "name another")


def test_a_damaged_file_is_not_swapped(pair: tuple[Path, Path], tmp_path: Path) -> None:
    data = bytearray(pair[1].read_bytes())
    data[-2] ^= 1
    pair[1].write_bytes(data)
    out = tmp_path / "out"
    refused(lambda: swap(*pair, out), "digest")
    assert not out.exists()


def test_what_a_foreign_body_changes_is_told_before(hydra_run: RunDir, tmp_path: Path) -> None:
    head, target = hydra_run.head_path("beta"), hydra_run.head_path("alpha")
    results = hydra_run.results()
    assert results is not None
    (expected,) = forecast(hydra_run.body_path, target)
    assert f"has test AUC {results.test.classes[0].auc:.3f} (" in expected
    expected, moved = forecast(hydra_run.body_path, head)
    assert f"has validation AUC {results.rounds[2].heads['beta'].auc:.3f} (" in expected
    assert moved.startswith("on 64 synthetic images, this body changes its probabilities by ")
    first = hydra_run.round_path(1, hydra_run.plan().rounds[0]) / "body.safetensors"
    _, synthetic, examples = forecast(first, target)
    assert "example test cases of the run, this body changes" in examples
    assert synthetic == list(forecast(first, target))[1]  # the images are always the same
    copied = tmp_path / "beta.safetensors"
    copied.write_bytes(head.read_bytes())
    assert ["nothing beside" in each for each in forecast(hydra_run.body_path, copied)] == [1, 0]
    out = tmp_path / "out"
    arguments = ["--body", str(hydra_run.body_path), "--head", str(head), "--out", str(out)]
    result = CliRunner().invoke(main, ["weights", "swap", *arguments])
    assert f"Note: {expected}\nNote: {moved}\n" in result.stderr


def test_movement_by_hand(pair: tuple[Path, Path]) -> None:
    head = read_head(pair[1])
    before = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    after = np.array([[0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    text = movement_text(before, after, head)
    assert "by 0.200 in the mean, and 1 of 3 images change their class" in text
    assert "rank correlation 0.50" in text
    images = synthetic_images(head)
    assert images.shape == (64, 2, 20, 20)
    assert np.allclose(images.mean(axis=(2, 3)), 0, atol=1e-6)
    assert np.allclose(images.std(axis=(2, 3)), 1, atol=1e-5)
