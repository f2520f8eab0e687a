from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hydrakit.errors import WeightsError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plugins import load_plugins
from hydrakit.plugins.options import option_fields
from hydrakit.runs.evaluate import evaluate_files
from hydrakit.weights import HeadMetadata, load_model, read_metadata
from hydrakit.weights.folders import networks_in
from hydrakit.weights.import_authors import import_authors


class AuthorsNetwork(nn.Module):
    """The authors' network as their checkpoints lay it out, without its softmax."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
            for source, kernel in ((inputs, 3), (outputs, 3), (outputs, 1)):
                layers += [nn.Conv2d(source, outputs, kernel), nn.BatchNorm2d(outputs), nn.ELU()]
            layers += [nn.Dropout(0.5), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(2048, 256), nn.ELU(), nn.Dropout(0.5))
        self.last_layer = nn.Sequential(
            nn.Linear(256, 64), nn.ELU(), nn.Dropout(0.5), nn.Linear(64, 16), nn.ELU(),
            nn.Linear(16, 2),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last_layer(self.classifier(self.features(images).flatten(1)))
        return logits


def some_images() -> Tensor:
    return torch.randn(4, 1, 65, 65, generator=torch.Generator().manual_seed(11))


@pytest.fixture
def state() -> dict[str, Tensor]:
    """A state_dict of the authors' layout, with batch-norm statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(12)
        network = AuthorsNetwork()
        network(torch.randn(3, 1, 65, 65))
    return network.state_dict()


def save(state: object, path: Path, *, legacy: bool = True) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_same_output(state: dict[str, Tensor], checkpoint: Path, out: Path) -> None:
    network = AuthorsNetwork()
    network.load_state_dict(state)
    model = load_model(*import_authors(checkpoint, out))
    images = some_images()
    with torch.no_grad():
        torch.testing.assert_close(model(images), network.eval()(images), rtol=0, atol=1e-6)
        assert model(images).std() > 0


@pytest.mark.parametrize("legacy", [True, False])
def test_an_imported_network_gives_the_authors_output(
    state: dict[str, Tensor], tmp_path: Path, legacy: bool
) -> None:
    checkpoint = save(state, tmp_path / "theirs.pth", legacy=legacy)
    assert_same_output(state, checkpoint, tmp_path / "out")


@pytest.mark.parametrize("name", ["authors_bootstrapped_start", "authors_DS1_full_best"])
@pytest.mark.shared
def test_the_real_checkpoints_give_the_authors_output(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    checkpoint = shared_data / "reference" / f"{name}.pth"
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    assert_same_output(state, checkpoint, tmp_path / "out")


def test_the_folder_holds_body_and_head(state: dict[str, Tensor], tmp_path: Path) -> None:
    out = tmp_path / "out"
    checkpoint = save(state, tmp_path / "theirs.pth")
    body, head = import_authors(checkpoint, out, dataset="prostatex")
    assert (body, head) == (out / "body.safetensors", out / "heads" / "prostatex.safetensors")
    said = read_metadata(head)
    assert isinstance(said, HeadMetadata)
    assert said.factory.name == "mlp"
    assert said.dataset == "prostatex"
    assert said.preprocessing.patch == 65
    assert said.preprocessing.field_of_view.millimetres == 65
    assert said.body == read_metadata(body).digest


def test_what_nobody_says_about_a_head_is_unknown(state: dict[str, Tensor], tmp_path: Path) -> None:
    checkpoint = save(state, tmp_path / "theirs.pth")
    files = import_authors(checkpoint, tmp_path / "out")
    assert files[1].name == "unknown.safetensors"
    assert networks_in(tmp_path / "out") == [files]
    said = read_metadata(files[1])
    assert isinstance(said, HeadMetadata)
    assert (said.dataset, said.options) == ("unknown", {})
    assert said.preprocessing.field_of_view is None
    with pytest.raises(WeightsError, match=r"unknown\.safetensors: does not say .*--dataset"):
        evaluate_files(*files, device="cpu")
    with pytest.raises(WeightsError, match=r"classes unknown 1, unknown 2, but 'brain' has .*"):
        evaluate_files(*files, dataset="brain", split="all", device="cpu")
    _, head = import_authors(checkpoint, tmp_path / "lung", dataset="lung", classes=["no", "yes"])
    said = read_metadata(head)
    assert isinstance(said, HeadMetadata)
    assert (said.dataset, said.classes) == ("lung", ("no", "yes"))
    assert said.preprocessing.field_of_view is None


@pytest.mark.parametrize("classes", [["a"], ["a", "a"], ["a", "b", "c"], ["a", "\x1b[31m"]])
def test_classes_that_the_network_has_not_are_refused(
    state: dict[str, Tensor], tmp_path: Path, classes: list[str]
) -> None:
    checkpoint = save(state, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match=r"--classes .*2 classes"):
        import_authors(checkpoint, tmp_path / "out", dataset="lung", classes=classes)
    with pytest.raises(WeightsError, match="--dataset 'A b'"):
        import_authors(checkpoint, tmp_path / "out", dataset="A b")
    assert not (tmp_path / "out").exists()


def test_the_head_fits_the_adapter_of_its_dataset(state: dict[str, Tensor], tmp_path: Path) -> None:
    checkpoint = save(state, tmp_path / "theirs.pth")
    _, head = import_authors(checkpoint, tmp_path / "out", dataset="prostatex")
    said = read_metadata(head)
    assert isinstance(said, HeadMetadata)
    adapter = load_plugins().get(DatasetAdapter, "prostatex")
    assert said.classes == adapter.classes
    assert said.preprocessing.field_of_view == adapter.field_of_view
    options = {option.name: option for option in option_fields(adapter.options)}
    assert set(said.options) <= set(options)
    assert all(value in options[name].choices for name, value in said.options.items())


def test_importing_draws_no_random_numbers(state: dict[str, Tensor], tmp_path: Path) -> None:
    checkpoint = save(state, tmp_path / "theirs.pth")
    before = torch.random.get_rng_state()
    import_authors(checkpoint, tmp_path / "out")
    assert torch.equal(torch.random.get_rng_state(), before)


def refused(path: Path, out: Path, *words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        import_authors(path, out)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message
    assert not out.exists()


def test_other_state_dicts_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path, out = tmp_path / "theirs.pth", tmp_path / "out"
    shape = state | {"last_layer.5.bias": torch.zeros(3)}
    refused(save(shape, path), out, "'last_layer.5.bias' is (3,)", "expected (2,)")
    dtype = state | {"classifier.0.bias": torch.zeros(256, dtype=torch.float64)}
    refused(save(dtype, path), out, "(256,) of float64, expected (256,) of float32")
    further = state | {"more": torch.zeros(1)}
    refused(save(further, path), out, "'more' is (1,) of float32, expected none")
    fewer = {name: tensor for name, tensor in state.items() if name != "features.0.bias"}
    refused(save(fewer, path), out, "'features.0.bias' is none, expected (32,)")
    broken = state | {"classifier.0.bias": torch.full((256,), float("nan"))}
    refused(save(broken, path), out, "'classifier.0.bias'", "not finite")
    sparse = state | {"classifier.0.bias": torch.zeros(256).to_sparse()}
    refused(save(sparse, path), out, "not a state_dict")
    refused(save({}, path), out, "expected")
    refused(save([1, 2], path), out, "a list that is not a state_dict")
    refused(save({"state_dict": state}, path), out, "not a state_dict")


@pytest.mark.parametrize("legacy", [True, False])
def test_truncated_files_are_refused(
    state: dict[str, Tensor], tmp_path: Path, legacy: bool
) -> None:
    data = save(state, tmp_path / "whole.pth", legacy=legacy).read_bytes()
    path = tmp_path / "short.pth"
    for length in (0, 1, 10, 100, 1000, 10_000, len(data) // 2, len(data) - 1000):
        path.write_bytes(data[:length])
        refused(path, tmp_path / "out")


@pytest.mark.parametrize(
    "data", [b"\x80", b"\x80\x02}q\x00.", b"not a checkpoint", b"PK\x03\x04", bytes(200)]
)
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "theirs.pth"
    path.write_bytes(data)
    refused(path, tmp_path / "out", "the authors published")


class Hostile:
    """A pickle of this makes a folder where it is unpickled without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_hostile_pickle_runs_nothing(
    state: dict[str, Tensor], tmp_path: Path, legacy: bool
) -> None:
    marker = tmp_path / "it-ran"
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Hostile(marker)))
    refused(plain, tmp_path / "out", "UnpicklingError")
    inside = save(state | {"more": Hostile(marker)}, tmp_path / "inside.pth", legacy=legacy)
    refused(inside, tmp_path / "out", "UnpicklingError")
    assert not marker.exists()


def test_absent_files_and_full_folders_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    refused(tmp_path / "absent.pth", tmp_path / "out", "no such file")
    checkpoint = save(state, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match="is not empty"):
        import_authors(checkpoint, tmp_path)
