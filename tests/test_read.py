from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from hydrakit.data.dicom import MissingCodecError
from hydrakit.data.read import load_image, read_cases, read_samples
from hydrakit.errors import DataError, PlanError
from hydrakit.hooks import DatasetAdapter, FieldOfView, OptionValue, Remark, Sample, Unusable
from hydrakit.plugins.options import resolve_options

IMAGE = np.arange(12, dtype=np.float32).reshape(3, 4)


def sample(**changes: Any) -> Sample:
    values: dict[str, Any] = {"image": IMAGE, "label": 0, "patient": "p", "key": "one"}
    return Sample(**{**values, **changes})


def adapter(cases: Iterable[Any] = (), **changes: Any) -> DatasetAdapter:
    def read(root: Path, options: Any) -> Iterator[Any]:
        yield from cases

    values: dict[str, Any] = {
        "name": "thing",
        "summary": "For tests.",
        "classes": ("no", "yes"),
        "read": read,
        "field_of_view": FieldOfView(share=1.0),
        "version": "1",
        "layout": "a few files",
        "how_to_get": "Make them.",
        "citation": "none",
        "licence": "none",
    }
    return DatasetAdapter(**{**values, **changes})


def test_cases_come_in_order_with_channels_first(tmp_path: Path) -> None:
    given = [
        sample(centre=(1.0, 2.0), spacing=(0.5, 0.7), group="g", source=(Path("a"),)),
        Unusable(key="two", reason="no image"),
        sample(key="three", label=None, image=IMAGE[np.newaxis]),
    ]
    first, second, third = read_samples(adapter(given), tmp_path, {})
    assert isinstance(first, Sample)
    assert isinstance(third, Sample)
    assert first.image.shape == third.image.shape == (1, 3, 4)
    np.testing.assert_array_equal(first.image[0], IMAGE)
    assert {k: v for k, v in vars(first).items() if k not in ("image", "padding")} == {
        k: v for k, v in vars(given[0]).items() if k != "image"
    }
    assert second == given[1]
    assert third.label is None


def test_remarks_come_with_the_cases_and_not_with_the_samples(tmp_path: Path) -> None:
    given = [Remark(text="2 files are not used"), sample()]
    assert list(read_cases(adapter(given), tmp_path, {})) == given
    assert len(list(read_samples(adapter(given), tmp_path, {}))) == 1
    with pytest.raises(DataError, match=r"thing: a Remark 'a\\nb': one line"):
        list(read_cases(adapter([Remark(text="a\nb")]), tmp_path, {}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": IMAGE.astype(np.float64)}, "an image that is not a float32 array"),
        ({"image": IMAGE.tolist()}, "an image that is not a float32 array"),
        ({"image": IMAGE[0]}, "an image of shape (4,)"),
        ({"image": IMAGE[:, :0]}, "an image of shape (3, 0)"),
        ({"image": np.where(IMAGE == 5, np.nan, IMAGE).astype(np.float32)}, "not finite"),
        ({"image": np.where(IMAGE == 5, np.inf, IMAGE).astype(np.float32)}, "not finite"),
        ({"label": 2}, "label 2: expected an index into ['no', 'yes']"),
        ({"label": -1}, "label -1"),
        ({"label": True}, "label True"),
        ({"label": 1.0}, "label 1.0"),
        ({"patient": ""}, "has no patient"),
        ({"patient": "p\udc80"}, "a patient, a group or a finding that is not valid text"),
        ({"group": "\udc80"}, "a patient, a group or a finding that is not valid text"),
        ({"split": "testing"}, "split 'testing': train, val or test is expected"),
        ({"facts": {"mode": None}}, "None as its fact 'mode': text or a number is expected"),
        ({"facts": {"mode": "\udc80"}}, "'\\udc80' as its fact 'mode': text or a number"),
        ({"spacing": (1.0, 0.0)}, "pixel spacing (1.0, 0.0): positive millimetres"),
        ({"spacing": (float("nan"), 1.0)}, "pixel spacing (nan, 1.0)"),
        ({"centre": (3.0, 1.0)}, "its centre (3.0, 1.0) outside its image (3, 4)"),
        ({"centre": (1.0, -0.6)}, "its centre (1.0, -0.6) outside"),
        ({"centre": (1.0, float("nan"))}, "its centre (1.0, nan) outside"),
    ],
)
def test_a_case_that_breaks_a_rule_is_named(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    cases = [sample(key="bad", source=(tmp_path / "bad.png",), **changes)]
    with pytest.raises(DataError) as caught:
        list(read_samples(adapter(cases), tmp_path, {}))
    message = str(caught.value)
    assert message.startswith("thing: case 'bad' has ")
    assert said in message
    assert message.endswith(f"({tmp_path / 'bad.png'})")
    assert "\n" not in message


def test_parts_of_a_label_may_be_unknown_but_not_all(tmp_path: Path) -> None:
    for label in [(0, 1), (None, 0), (1, None)]:
        labelled = adapter([sample(label=label)], task="multilabel")
        assert list(read_samples(labelled, tmp_path, {}))
    for label in [(None, None), (1,), (1, 2), (1, np.nan), (True, 0), [0, 1], 1]:
        labelled = adapter([sample(label=label)], task="multilabel")
        with pytest.raises(DataError, match="a tuple with 0, 1 or None"):
            list(read_samples(labelled, tmp_path, {}))
    # All images of a finding have one label, of which the same parts are unknown.
    pair = [sample(label=(1, 0), finding="f"), sample(key="two", label=(1, None), finding="f")]
    with pytest.raises(DataError, match=r"'no', 'yes\?', but 'one', of the same finding"):
        list(read_samples(adapter(pair, task="multilabel"), tmp_path, {}))


def test_a_key_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for case in (sample(key="a\udcff"), Unusable(key="a\udcff", reason="none")):
        with pytest.raises(DataError, match=r"thing: key 'a\\udcff' is not valid text: rename"):
            list(read_samples(adapter([case]), tmp_path, {}))


# Images that are functions


class Lazy:
    """A function that gives an image, or fails, and counts its calls."""

    def __init__(self, gives: object) -> None:
        self.gives, self.calls = gives, 0

    def __call__(self) -> Any:
        self.calls += 1
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


def test_an_image_may_be_a_function_that_is_called_once(tmp_path: Path) -> None:
    lazy = Lazy(IMAGE)
    (case,) = read_samples(adapter([sample(image=lazy)]), tmp_path, {})
    assert isinstance(case, Sample)
    np.testing.assert_array_equal(case.image, IMAGE[np.newaxis])
    assert lazy.calls == 1


def test_cases_are_read_and_checked_without_their_images(tmp_path: Path) -> None:
    lazy = Lazy(IMAGE)
    given = [sample(image=lazy), Unusable(key="two", reason="lost"), sample(key="three")]
    assert list(read_cases(adapter(given), tmp_path, {})) == given
    with pytest.raises(DataError, match="case 'one' has label 2"):
        list(read_cases(adapter([sample(image=lazy, label=2)]), tmp_path, {}))
    assert lazy.calls == 0


@pytest.mark.parametrize("message", ["{path}: is cut short", "is cut short", "is cut short\nat 7"])
def test_an_image_that_cannot_be_read_is_unusable_and_its_file_named(
    message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "one.png"
    broken = sample(image=Lazy(DataError(message.format(path=path))), source=(path,))
    cases = list(read_samples(adapter([broken, sample(key="two")]), tmp_path, {}))
    assert cases[0] == Unusable(key="one", reason="is cut short")
    assert isinstance(cases[1], Sample)
    assert [record.getMessage() for record in caplog.records] == [
        f"thing: left out: is cut short ({path})"
    ]


def test_a_missing_codec_stops_the_reading(tmp_path: Path) -> None:
    lacking = sample(image=Lazy(MissingCodecError("one.dcm: install a codec")))
    with pytest.raises(MissingCodecError):
        list(read_samples(adapter([lacking]), tmp_path, {}))


def test_a_bug_in_a_function_stays_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        load_image(adapter(), sample(image=Lazy(ZeroDivisionError())))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "an image that is not a float32 array but NoneType: give a NumPy array"),
        (
            IMAGE.astype(np.float64),
            "an image that is not a float32 array but one of float64: convert it with "
            "image.astype(np.float32)",
        ),
        (
            np.full((3, 4), np.nan, dtype=np.float32),
            "pixels that are not finite: give Unusable, or another value",
        ),
        (IMAGE[:2], "its centre (2.0, 1.0) outside its image (2, 4)"),
    ],
)
def test_what_a_function_gives_is_checked(image: object, said: str, tmp_path: Path) -> None:
    bad = sample(image=Lazy(image), centre=(2.0, 1.0), source=(tmp_path / "bad.png",))
    with pytest.raises(DataError) as caught:
        list(read_samples(adapter([bad]), tmp_path, {}))
    assert str(caught.value) == f"thing: case 'one' has {said} ({tmp_path / 'bad.png'})"


def test_the_outer_edges_of_an_image_are_inside_it(tmp_path: Path) -> None:
    cases = [
        sample(key=str(centre), centre=centre)
        for centre in [(-0.5, -0.5), (2.5, 3.5), (-0.5, 3.5), (1.0, 1.5)]
    ]
    assert len(list(read_samples(adapter(cases), tmp_path, {}))) == 4


def test_a_field_of_view_in_millimetres_needs_spacing(tmp_path: Path) -> None:
    millimetres = adapter([sample()], field_of_view=FieldOfView(millimetres=50))
    with pytest.raises(DataError, match="'one' has no pixel spacing, which a field of view in mil"):
        list(read_samples(millimetres, tmp_path, {}))


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    two_channels = sample(key="two", image=np.stack([IMAGE, IMAGE]))
    with pytest.raises(DataError, match="'two' has 2 channels where the ones before had 1"):
        list(read_samples(adapter([sample(), two_channels]), tmp_path, {}))
    for again in (sample(), Unusable(key="one", reason="again")):
        with pytest.raises(DataError, match="case 'one' occurs twice"):
            list(read_samples(adapter([sample(), again]), tmp_path, {}))
    with pytest.raises(
        DataError, match="its adapter returned a dict: a Sample or an Unusable is exp"
    ):
        list(read_samples(adapter([{}]), tmp_path, {}))


def test_a_missing_folder_says_how_to_get_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(read_samples(adapter(), tmp_path / "none", {}))
    message = str(caught.value)
    assert message.startswith(f"thing: no folder {tmp_path / 'none'}: give its folder with ")
    assert "`--root thing=PATH`; it should hold a few files." in message
    assert "Make them." in message
    assert "`hydrakit phantom FOLDER`" in message


@dataclass(frozen=True, kw_only=True)
class ThingOptions:
    series: Literal["adc", "bval"] = "adc"
    slices: int = 3
    width: float = 1.5
    copies: bool = True


OPTIONED = adapter(options=ThingOptions)


def test_options_have_their_defaults_and_the_types_of_these() -> None:
    assert resolve_options(OPTIONED, {}) == {
        "series": "adc",
        "slices": 3,
        "width": 1.5,
        "copies": True,
    }
    given: dict[str, OptionValue] = {
        "copies": "no",
        "width": "2",
        "slices": "12",
        "series": "bval",
    }
    resolved = resolve_options(OPTIONED, given)
    assert list(resolved.items()) == [
        ("series", "bval"),
        ("slices", 12),
        ("width", 2.0),
        ("copies", False),
    ]
    assert [type(value) for value in resolved.values()] == [str, int, float, bool]
    assert resolve_options(OPTIONED, resolved) == resolved


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"serie": "adc"}, "unknown option of 'thing' 'serie': did you mean 'series'?"),
        ({"series": "t2"}, "option thing.series=t2: must be one of adc, bval"),
        ({"slices": "many"}, "option thing.slices=many: must be a whole number"),
        ({"slices": 1.5}, "option thing.slices=1.5: must be a whole number"),
        ({"width": "wide"}, "option thing.width=wide: must be a number"),
        ({"copies": "maybe"}, "option thing.copies=maybe: must be true or false"),
    ],
)
def test_wrong_options_are_told(given: dict[str, OptionValue], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        resolve_options(OPTIONED, given)
    assert str(caught.value).startswith(said)


def test_the_adapter_gets_every_option(tmp_path: Path) -> None:
    seen: list[ThingOptions] = []

    def read(root: Path, options: Any) -> Iterator[Sample]:
        assert root == tmp_path
        seen.append(options)
        yield sample()

    list(read_samples(adapter(read=read, options=OPTIONED.options), tmp_path, {"slices": "5"}))
    assert seen == [ThingOptions(slices=5)]
