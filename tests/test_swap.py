"""Putting a head on another body: what fits, what is said, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from hydrakit.errors import WeightsError
from hydrakit.hooks import FieldOfView
from hydrakit.models.body import PaperBody
from hydrakit.models.heads import build_linear
from hydrakit.plan import BodySpec
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
