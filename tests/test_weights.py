from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from hydrakit.compute.modules import freeze, is_frozen
from hydrakit.errors import PluginError, WeightsError
from hydrakit.hooks import FieldOfView, HeadFactory
from hydrakit.models.bodies import hydrakit_body_factories
from hydrakit.models.body import PaperBody
from hydrakit.models.heads import build_linear, build_mlp, hydrakit_head_factories
from hydrakit.plan import BodySpec, Split
from hydrakit.plugins import Plugins
from hydrakit.weights import (
    HeadMetadata,
    Preprocessing,
    body_digest,
    load_body,
    load_head,
    load_model,
    read_metadata,
    save_body,
    save_head,
)
from hydrakit.weights.format import MAX_HEADER, tensor_digest

SPEC = BodySpec(channels=(3, 5), features=7, patch=20)
PREPROCESSING = Preprocessing(
    patch=20,
    channels=2,
    field_of_view=FieldOfView(millimetres=65.0),
    normalisation="z-score per patient",
)


def plugins_with(*factories: HeadFactory) -> Plugins:
    return Plugins.of(*factories, *hydrakit_body_factories())


PLUGINS = plugins_with(*hydrakit_head_factories())


def make_body(seed: int, *, spec: BodySpec = SPEC, in_channels: int = 2) -> PaperBody:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = PaperBody(spec, in_channels=in_channels, dropout=0.5)
        body(torch.randn(4, in_channels, spec.patch, spec.patch))  # moves batch-norm statistics
    return body


def make_head(seed: int, *, features: int = 7, classes: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_mlp(features, classes)


def write_head(path: Path, head: nn.Module, body: PaperBody | str, **changes: Any) -> HeadMetadata:
    arguments: dict[str, Any] = {
        "dataset": "lung",
        "classes": ("benign", "malignant"),
        "factory": "mlp",
        "preprocessing": PREPROCESSING,
    }
    return save_head(path, head, body=body, **(arguments | changes))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a body and of a head that was trained on it."""
    body = make_body(1)
    save_body(tmp_path / "body.safetensors", body, trained_on=("prostatex", "lung"))
    write_head(tmp_path / "head.safetensors", make_head(2), body)
    return tmp_path / "body.safetensors", tmp_path / "head.safetensors"


def header_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    header: dict[str, Any] = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return header


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a file's description and leave its tensors as they are."""
    data = path.read_bytes()
    body = data[8 + struct.unpack("<Q", data[:8])[0] :]
    header = header_of(path)
    description = json.loads(header["__metadata__"]["hydrakit"])
    change(description)
    header["__metadata__"]["hydrakit"] = json.dumps(description)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def refused(action: Callable[[], object], *words: str) -> str:
    """The message of the WeightsError that the action raises: one line with all the words."""
    with pytest.raises(WeightsError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_a_body_comes_back_as_it_was(pair: tuple[Path, Path]) -> None:
    saved, loaded = make_body(1), load_body(pair[0], dropout=0.25)
    assert loaded.spec == SPEC
    assert loaded.in_channels == 2
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.dropout.p == 0.25
    assert saved.state_dict().keys() == loaded.state_dict().keys()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
        assert tensor.dtype == loaded.state_dict()[name].dtype
    images = torch.randn(3, 2, 20, 20)
    assert torch.equal(saved.eval()(images), loaded(images))


def test_a_loaded_body_can_be_trained_further(pair: tuple[Path, Path]) -> None:
    body = load_body(pair[0], dropout=0.5).train()
    optimizer = torch.optim.SGD(body.parameters(), lr=0.1)
    body(torch.randn(4, 2, 20, 20)).sum().backward()
    optimizer.step()
    assert body_digest(body) != body_digest(make_body(1))


def test_a_head_comes_back_as_it_was(pair: tuple[Path, Path]) -> None:
    saved, loaded = make_head(2).eval(), load_head(pair[1], dropout=0.25, plugins=PLUGINS)
    features = torch.randn(4, 7)
    assert torch.equal(saved(features), loaded(features))
    assert not loaded.training
    assert [m.p for m in loaded.modules() if isinstance(m, nn.Dropout)] == [0.25]


def test_a_model_gives_the_output_of_body_and_head(pair: tuple[Path, Path]) -> None:
    model = load_model(*pair, plugins=PLUGINS)
    images = torch.randn(4, 2, 20, 20)
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(images), make_head(2).eval()(make_body(1).eval()(images)))


def test_installed_plugins_are_used_where_none_are_given(pair: tuple[Path, Path]) -> None:
    features = torch.randn(4, 7)
    assert torch.equal(load_head(pair[1])(features), make_head(2).eval()(features))


def test_loading_draws_no_random_numbers(pair: tuple[Path, Path]) -> None:
    before = torch.random.get_rng_state()
    load_model(*pair, plugins=PLUGINS)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_files_say_what_is_needed_to_use_them(tmp_path: Path) -> None:
    body = make_body(1)
    said_by_body = save_body(tmp_path / "b", body, trained_on=("prostatex",), seed=7)
    said_by_head = write_head(
        tmp_path / "h",
        make_head(2),
        body,
        options={"slice": "nearest", "strict": True, "size": 3},
        split=Split(train=0.7, val=0.3),
        seed=7,
    )
    assert read_metadata(tmp_path / "b") == said_by_body
    assert read_metadata(tmp_path / "h") == said_by_head
    assert said_by_body.kind == "body"
    assert said_by_body.trained_on == ("prostatex",)
    assert said_by_body.seed == 7
    assert said_by_body.digest == said_by_head.body == body_digest(body)
    assert said_by_head.classes == ("benign", "malignant")
    assert said_by_head.options == {"slice": "nearest", "strict": True, "size": 3}
    assert said_by_head.split == Split(train=0.7, val=0.3)
    assert said_by_head.seed == 7
    assert said_by_head.preprocessing == PREPROCESSING
    assert len(said_by_head.probe.features) == 7
    assert len(set(said_by_head.probe.features)) == 7
    expected = make_head(2).eval()(torch.tensor([said_by_head.probe.features]))
    assert said_by_head.probe.logits == tuple(expected[0].tolist())


def test_the_digest_of_a_body_may_stand_for_it(tmp_path: Path) -> None:
    body, head = make_body(1), make_head(2)
    write_head(tmp_path / "a", head, body)
    write_head(tmp_path / "b", head, body_digest(body), features=7)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(ValueError, match="features must be given"):
        write_head(tmp_path / "c", head, body_digest(body))


def test_equal_tensors_and_descriptions_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        body = make_body(1)
        save_body(tmp_path / f"{name}-body", body, trained_on=("lung",))
        # The order in which options are given is none of the description's.
        options = {"x": 1, "y": 2} if name == "a" else {"y": 2, "x": 1}
        write_head(tmp_path / f"{name}-head", make_head(2), body, options=options)
    for kind in ("body", "head"):
        assert (tmp_path / f"a-{kind}").read_bytes() == (tmp_path / f"b-{kind}").read_bytes()


def test_the_header_holds_one_compact_sorted_key(pair: tuple[Path, Path]) -> None:
    for path in pair:
        metadata = header_of(path)["__metadata__"]
        assert list(metadata) == ["hydrakit"]
        described = json.loads(metadata["hydrakit"])
        compact = json.dumps(described, sort_keys=True, separators=(",", ":"))
        assert metadata["hydrakit"] == compact


def test_saving_leaves_the_modules_alone(tmp_path: Path) -> None:
    body, head = make_body(1), make_head(2)
    freeze(body)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    write_head(tmp_path / "h", head, body)
    save_body(tmp_path / "b", body)
    assert all(module.training for module in head.modules())
    assert is_frozen(body)
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


def test_the_digest_depends_on_names_types_shapes_and_values() -> None:
    values = torch.arange(6, dtype=torch.int32)
    digests = {
        tensor_digest(tensors)
        for tensors in (
            {"a": values},
            {"b": values},
            {"a": values.reshape(2, 3)},
            {"a": values.view(torch.float32)},
            {"a": values.flip(0)},
            {"a": values, "b": torch.tensor(1)},
        )
    }
    assert len(digests) == 6
    assert tensor_digest({"a": values, "b": values}) == tensor_digest({"b": values, "a": values})
    assert body_digest(make_body(1)) == body_digest(make_body(1)) != body_digest(make_body(2))


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    def build(features: int, classes: int, dropout: float) -> nn.Module:
        first, second = nn.Linear(features, features), nn.Linear(features, features)
        second.weight = first.weight
        return nn.Sequential(first, nn.ELU(), second, build_linear(features, classes))

    factory = HeadFactory(name="tied", summary="", build=build)
    head = build(7, 2, 0.0)
    write_head(tmp_path / "h", head, make_body(1), factory="tied")
    loaded = load_head(tmp_path / "h", plugins=plugins_with(factory))
    features = torch.randn(3, 7)
    assert torch.equal(loaded(features), head.eval()(features))


def test_metadata_is_read_without_torch(pair: tuple[Path, Path]) -> None:
    code = (
        "import sys, pathlib; from hydrakit.weights import read_metadata\n"
        "for path in sys.argv[1:]: read_metadata(pathlib.Path(path))\n"
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, pair)]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_head_that_diverged_is_not_written(tmp_path: Path) -> None:
    head = make_head(2)
    with torch.no_grad():
        next(head.parameters()).fill_(float("nan"))
    path = tmp_path / "h"
    refused(lambda: write_head(path, head, make_body(1)), str(path), "not finite", "learning rate")
    assert not path.exists()


def test_a_head_with_other_classes_is_not_written(tmp_path: Path) -> None:
    head = make_head(2, classes=3)
    refused(lambda: write_head(tmp_path / "h", head, make_body(1)), "3 logits for 2 classes")


def test_a_header_too_long_to_be_read_is_not_written(tmp_path: Path) -> None:
    classes = tuple(f"{number}{'é' * 900}" for number in range(999))
    assert len("".join(classes)) < MAX_HEADER  # but JSON writes six characters for one
    path = tmp_path / "h"
    refused(lambda: write_head(path, make_head(999), make_body(1), classes=classes), "not written")
    assert not path.exists()


def test_body_and_head_are_not_taken_for_each_other(pair: tuple[Path, Path]) -> None:
    body, head = pair
    refused(lambda: load_body(head), str(head), "is a head, not a body")
    refused(lambda: load_head(body, plugins=PLUGINS), str(body), "is a body, not a head")
    refused(lambda: load_model(head, body, plugins=PLUGINS), str(head), "is a head, not a body")


@pytest.mark.parametrize("which", [0, 1])
def test_changed_tensors_are_found(pair: tuple[Path, Path], which: int) -> None:
    data = bytearray(pair[which].read_bytes())
    data[-2] ^= 1
    pair[which].write_bytes(data)
    refused(lambda: load_model(*pair, plugins=PLUGINS), str(pair[which]), "digest", "copy it again")


def test_tensors_of_another_shape_are_found(pair: tuple[Path, Path]) -> None:
    def narrower(description: dict[str, Any]) -> None:
        description["spec"]["channels"] = [3, 4]

    rewrite(pair[0], narrower)
    refused(lambda: load_body(pair[0]), "'blocks.1.conv1.bias' is (5,)", "expected (4,)")

    def third_class(description: dict[str, Any]) -> None:
        description["classes"].append("third")
        description["probe"]["logits"].append(0.0)

    rewrite(pair[1], third_class)
    message = refused(lambda: load_head(pair[1], plugins=PLUGINS), "expected (3,) of float32")
    assert "'logits.bias' is (2,) of float32" in message


def test_a_missing_or_further_tensor_is_found(tmp_path: Path) -> None:
    body = make_body(1)
    write_head(tmp_path / "h", make_head(2), body)

    def rename(description: dict[str, Any]) -> None:
        description["factory"] = "linear"

    rewrite(tmp_path / "h", rename)
    refused(
        lambda: load_head(tmp_path / "h", plugins=PLUGINS),
        "does not hold what the head factory 'linear' builds",
        "'hidden1.bias' is (64,) of float32, expected none",
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("features", 10**9), ("channels", [3, 10**18]), ("patch", 10**9), ("channels", [3] * 16)],
)
def test_a_spec_that_asks_for_too_much_is_refused_at_once(
    pair: tuple[Path, Path], key: str, value: object
) -> None:
    def grow(description: dict[str, Any]) -> None:
        description["spec"][key] = value
        if key == "channels" and value == [3] * 16:
            description["spec"]["patch"] = 2**16 * 5

    rewrite(pair[0], grow)
    refused(lambda: load_body(pair[0]), str(pair[0]))


def test_a_factory_that_computes_something_else_is_found(pair: tuple[Path, Path]) -> None:
    def build(features: int, classes: int, dropout: float) -> nn.Module:
        head = build_mlp(features, classes)
        head.elu1, head.elu2 = nn.Tanh(), nn.Tanh()
        return head

    changed = plugins_with(HeadFactory(name="mlp", summary="", build=build))
    refused(lambda: load_head(pair[1], plugins=changed), str(pair[1]), "probe", "'mlp'")


def test_an_unknown_factory_names_the_nearest(tmp_path: Path) -> None:
    write_head(tmp_path / "h", make_head(2), make_body(1), factory="mlpp")
    with pytest.raises(PluginError, match=r"/h: .*'mlpp'.*'mlp'.*install or enable"):
        load_head(tmp_path / "h", plugins=PLUGINS)


def test_a_probe_of_another_length_is_refused(pair: tuple[Path, Path]) -> None:
    def shorten(description: dict[str, Any]) -> None:
        description["probe"]["features"].pop()

    rewrite(pair[1], shorten)
    refused(lambda: load_head(pair[1], plugins=PLUGINS), str(pair[1]), "probe")


def test_other_programs_can_read_the_files(pair: tuple[Path, Path]) -> None:
    with safe_open(pair[0], framework="np") as file:
        assert file.get_tensor("dense.weight").shape == (7, 5 * 2 * 2)
