from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydrakit.errors import DataError, PlanError
from hydrakit.hooks import DatasetAdapter, FieldOfView, Sample, Unusable
from hydrakit.testing import AdapterReport, check_adapter

SAMPLE = Sample(image=np.ones((4, 6), np.float32), label=1, patient="p1", key="s1")


@dataclass(frozen=True)
class SizeOptions:
    size: int = 4


def adapter(read: Callable[..., Iterator[Any]], **changes: Any) -> DatasetAdapter:
    made = DatasetAdapter(
        name="made",
        summary="",
        classes=("a", "b"),
        read=read,
        field_of_view=FieldOfView(share=1.0),
        version="1",
        layout="nothing",
        how_to_get="",
        citation="",
        licence="",
        options=SizeOptions,
    )
    return replace(made, **changes)


def giving(*cases: object) -> Callable[..., Iterator[Any]]:
    return lambda root, options: iter(cases)


def test_counts_are_those_of_the_cases(tmp_path: Path) -> None:
    cases = [
        SAMPLE,
        replace(SAMPLE, key="s2", group="g"),
        replace(SAMPLE, key="s3", group="g", patient="p2", label=0),
        replace(SAMPLE, key="s4", label=None, centre=(0, 5.5), spacing=(0.5, 1)),
        Unusable(key="u1", reason="no image"),
        Unusable(key="u2", reason="no image"),
    ]
    assert check_adapter(adapter(giving(*cases)), tmp_path) == AdapterReport(
        samples={"a": 1, "b": 2},
        unlabelled=1,
        unusable={"no image": 2},
        patients=2,
        groups=3,
        findings=4,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": 3}, "case 3: key must be text (str)"),
        ({"patient": 17}, "case 's1': patient must be text (str)"),
        ({"finding": 17}, "case 's1': finding must be text (str) or None"),
        ({"facts": None}, "case 's1': facts must be a mapping with keys of text"),
        ({"subgroups": {1: "a"}}, "case 's1': subgroups must be a mapping with keys of text"),
        ({"centre": (1, 2, 3)}, "case 's1': centre must be a pair of numbers or None"),
        ({"spacing": ("1", "1")}, "case 's1': spacing must be a pair of numbers or None"),
        ({"source": "a.png"}, "case 's1': source must be a tuple of pathlib.Path"),
        ({"source": ("a.png",)}, "case 's1': source must be a tuple of pathlib.Path"),
    ],
)
def test_a_sample_refuses_values_of_wrong_types(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        replace(SAMPLE, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": ""}, "a case has an empty key"),
        ({"group": ""}, "case 's1' has an empty group"),
    ],
)
def test_an_empty_name_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_adapter(adapter(giving(replace(SAMPLE, **change))), tmp_path)


def test_a_change_of_the_whole_process_is_named(tmp_path: Path) -> None:
    def read(root: Path, options: object) -> Iterator[Sample]:
        np.seterr(all="raise")
        yield SAMPLE

    before = np.geterr()
    with pytest.raises(AssertionError, match="reading changed NumPy's handling of floating-point"):
        check_adapter(adapter(read), tmp_path)
    assert np.geterr() == before


def test_a_source_that_does_not_exist_is_named(tmp_path: Path) -> None:
    sample = replace(SAMPLE, source=(Path("no-such-file"),))
    with pytest.raises(AssertionError, match="'s1': its source does not exist: no-such-file"):
        check_adapter(adapter(giving(sample)), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.ones((4, 6))},
        {"image": np.ones(4, np.float32)},
        {"image": np.full((4, 6), np.nan, np.float32)},
        {"label": 2},
        {"label": np.int64(1)},
        {"label": True},
        {"centre": (0, 6)},
        {"spacing": (0, 1)},
    ],
)
def test_what_the_engine_refuses_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="made: case 's1' has "):
        check_adapter(adapter(giving(replace(SAMPLE, **change))), tmp_path)


def test_a_key_that_comes_twice_is_refused_with_both_cases(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    second = replace(SAMPLE, source=(tmp_path / "a.png",))
    message = rf"the key 's1' occurs twice: case 1 and case 2 \({re.escape(str(tmp_path))}/a\.png\)"
    with pytest.raises(AssertionError, match=message):
        check_adapter(adapter(giving(SAMPLE, second)), tmp_path)


def test_a_field_of_view_in_millimetres_needs_spacing(tmp_path: Path) -> None:
    made = adapter(giving(SAMPLE), field_of_view=FieldOfView(millimetres=5))
    with pytest.raises(DataError, match="no pixel spacing"):
        check_adapter(made, tmp_path)


def test_what_is_neither_sample_nor_unusable_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="returned a tuple: a Sample or an Unusable is expected"):
        check_adapter(adapter(giving((SAMPLE.image, 1))), tmp_path)
    with pytest.raises(AssertionError, match="'u': the reason must be one line"):
        check_adapter(adapter(giving(Unusable(key="u", reason="one\ntwo"))), tmp_path)


def test_readings_that_differ_are_told(tmp_path: Path) -> None:
    numbers = iter(range(100))

    def other_key(root: Path, options: object) -> Iterator[Sample]:
        yield replace(SAMPLE, key=f"s{next(numbers)}")

    def other_pixels(root: Path, options: object) -> Iterator[Sample]:
        yield replace(SAMPLE, image=np.full((4, 6), next(numbers), np.float32))

    with pytest.raises(AssertionError, match="differ: case 1 is 's0' in the first and 's1' in the"):
        check_adapter(adapter(other_key), tmp_path)
    with pytest.raises(AssertionError, match="two readings differ: case 's1' has other pixels"):
        check_adapter(adapter(other_pixels), tmp_path)


def test_options_reach_the_adapter_with_their_defaults(tmp_path: Path) -> None:
    def read(root: Path, options: Any) -> Iterator[Sample]:
        assert root == tmp_path
        size = options.size
        for number in range(size):
            yield replace(SAMPLE, key=str(number))

    assert check_adapter(adapter(read), tmp_path).samples["b"] == 4
    assert check_adapter(adapter(read), tmp_path, {"size": 2}).samples["b"] == 2
    with pytest.raises(PlanError, match="unknown option of 'made' 'sise'"):
        check_adapter(adapter(read), tmp_path, {"sise": 2})
