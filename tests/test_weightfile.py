"""Files that hydrakit did not write, or that were damaged since: each is refused in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hydrakit.errors import WeightsError
from hydrakit.models.body import PaperBody
from hydrakit.plan import BodySpec
from hydrakit.weights import BodyMetadata, load_body, read_metadata, save_body


def refused(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def described(text: str) -> bytes:
    return with_header(json.dumps({"__metadata__": {"hydrakit": text}}).encode())


GOOD = {
    "kind": "body",
    "format": 1,
    "hydrakit": "0.1.0",
    "spec": {"channels": [3], "features": 7, "patch": 20},
    "in_channels": 1,
    "digest": "0" * 64,
}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "header too small"),
        (b"PK\x03\x04 a zip file, or anything else", "header would be"),
        (struct.pack("<Q", 2**63) + b"{}", "header would be"),
        (with_header(b'{"a":' * 3000), "recursion"),
        (with_header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'), "cannot be read"),
        (with_header(b'{"__metadata__":{"hydrakit":1}}'), "cannot be read"),
        (with_header(b"{}"), "has no 'hydrakit' key"),
        (described("["), "description"),
        (described("[" * 100_000), "description"),
        (described('{"kind":"tail"}'), "'kind'"),
        (described(json.dumps(GOOD | {"format": 2})), "format"),
        (described(json.dumps(GOOD | {"extra": 1})), "extra"),
        (described(json.dumps(GOOD | {"in_channels": 0})), "in_channels"),
        (described(json.dumps(GOOD | {"digest": "../../etc"})), "digest"),
        (described(json.dumps(GOOD | {"trained_on": ["../x"]})), "trained_on"),
        (described(json.dumps(GOOD | {"spec": {"patch": 3}})), "too small"),
    ],
)
def test_files_that_are_none_of_ours_are_refused(tmp_path: Path, data: bytes, word: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    refused(lambda: read_metadata(path), str(path), word)
    refused(lambda: load_body(path), str(path), word)


def test_tensors_of_a_type_that_pytorch_has_not_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = {
        "__metadata__": {"hydrakit": json.dumps(GOOD)},
        "a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]},
    }
    path.write_bytes(with_header(json.dumps(header).encode(), b"abc"))
    assert isinstance(read_metadata(path), BodyMetadata)
    refused(lambda: load_body(path), str(path), "'a' is F6_E2M3", "does not write")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        body = PaperBody(BodySpec(channels=(3,), features=7, patch=12), in_channels=1, dropout=0.5)
    path = tmp_path / "short"
    save_body(path, body)
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        refused(lambda: read_metadata(path), str(path))


def test_absent_files_and_folders_are_named(tmp_path: Path) -> None:
    refused(lambda: read_metadata(tmp_path / "absent"), str(tmp_path / "absent"), "no such file")
    refused(lambda: read_metadata(tmp_path), str(tmp_path), "cannot be read")
