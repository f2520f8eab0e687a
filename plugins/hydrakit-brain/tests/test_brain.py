from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hydrakit.data.read import read_samples
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable
from hydrakit.testing import check_adapter
from hydrakit_brain import hydrakit_dataset_adapters
from hydrakit_brain.reading import load_grey

(BRAIN,) = hydrakit_dataset_adapters()
RNG = np.random.default_rng(5)


def picture(height: int = 40, width: int = 50) -> np.ndarray:
    """A smooth random image, so that a resized copy still looks like it."""
    small = RNG.integers(0, 256, size=(9, 9), dtype=np.uint8)
    scaled = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(scaled)


def save(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def grey_of(path: Path) -> np.ndarray:
    return load_grey(path)


def read(root: Path) -> dict[str, Sample | Unusable]:
    return {case.key: case for case in read_samples(BRAIN, root, {})}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save(tmp_path / "yes" / "Y1.jpg", picture(), format="JPEG")
    save(tmp_path / "no" / "1 no.jpeg", picture(), format="JPEG")
    return tmp_path


def test_a_sample_is_the_whole_grey_image_with_its_folders_label(root: Path) -> None:
    pixels = picture()
    path = save(root / "yes" / "Y2.png", pixels)
    sample = read(root)["yes/Y2.png"]
    assert isinstance(sample, Sample)
    np.testing.assert_array_equal(sample.image[0], pixels.astype(np.float32))
    assert (sample.label, sample.patient, sample.source) == (1, "yes/Y2.png", (path,))
    assert BRAIN.field_of_view.share == 1.0
    assert check_adapter(BRAIN, root).samples == {"healthy": 1, "tumour": 2}


def test_order_and_keys_are_the_same_in_every_reading(root: Path) -> None:
    assert list(read(root)) == list(read(root)) == ["no/1 no.jpeg", "yes/Y1.jpg"]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_grey_values_do_not_depend_on_the_files_mode(tmp_path: Path, mode: str) -> None:
    pixels = picture()
    grey = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(pixels)
        image.putpalette(bytes(value for value in range(256) for _ in range(3)))
    else:
        image = grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(picture()))
    if mode == "CMYK":  # PNG cannot hold it, and JPEG changes the values a little
        path = save(tmp_path / "image.jpg", image, format="JPEG", quality=100, subsampling=0)
        assert np.abs(grey_of(path) - pixels).max() <= 4
        return
    path = save(tmp_path / "image.jpg", image, format="PNG")
    with Image.open(path) as stored:
        assert stored.mode in (mode, "I")  # 16-bit grey is "I" in older Pillow
    np.testing.assert_array_equal(grey_of(path), pixels.astype(np.float32))


def test_a_palette_with_transparent_entries_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(picture())
    expected = np.asarray(image, dtype=np.float32)
    image.putpalette(bytes(value for value in range(256) for _ in range(3)))
    path = save(tmp_path / "a.png", image, transparency=bytes(range(256)))
    np.testing.assert_array_equal(grey_of(path), expected)


def test_colour_becomes_bt601_luma(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 256, size=(7, 5, 3), dtype=np.uint8)
    expected = rgb @ np.array([0.299, 0.587, 0.114])
    got = grey_of(save(tmp_path / "a.png", rgb))
    assert np.abs(got - expected).max() <= 0.51  # rounded to whole grey values


def test_equal_stems_and_names_in_both_folders_are_different_samples(root: Path) -> None:
    for name in ("yes/Y92.jpg", "yes/Y92.png", "no/Y92.png"):
        save(root / name, picture(), format="PNG")
    assert {"yes/Y92.jpg", "yes/Y92.png", "no/Y92.png"} < set(read(root))


@pytest.mark.parametrize(
    ("name", "form", "mode", "expected"),
    [
        ("a.png", "PNG", "L", {"format": "PNG", "suffix": ".png", "mode": "L", "bit depth": 8}),
        ("b.JPG", "PNG", "P", {"format": "PNG", "suffix": ".JPG", "mode": "P", "bit depth": 8}),
        ("c.jpeg", "JPEG", "RGB", {"format": "JPEG", "suffix": ".jpeg", "mode": "RGB"}),
        ("d.png", "PNG", "1", {"format": "PNG", "mode": "1", "bit depth": 1}),
        ("e.png", "PNG", "I;16", {"format": "PNG", "bit depth": 16}),
    ],
)
def test_facts_are_those_of_the_content(
    root: Path, name: str, form: str, mode: str, expected: dict[str, str | float]
) -> None:
    pixels = picture(40, 50)
    is_deep = mode == "I;16"
    image = Image.fromarray(pixels.astype(np.uint16) * 257 if is_deep else pixels)
    save(root / "no" / name, image if is_deep else image.convert(mode), format=form)
    sample = read(root)[f"no/{name}"]
    assert isinstance(sample, Sample)
    assert {**sample.facts, **expected, "width": 50, "height": 40} == sample.facts
    assert set(sample.facts) == {"format", "suffix", "mode", "bit depth", "width", "height"}
    assert sample.group is None


def test_folders_and_suffixes_in_any_case(tmp_path: Path) -> None:
    save(tmp_path / "YES" / "Y1.JPG", picture(), format="JPEG")
    save(tmp_path / "No" / "N1.Png", picture(), format="PNG")
    assert list(read(tmp_path)) == ["no/N1.Png", "yes/Y1.JPG"]


def test_the_archives_second_copy_is_not_read(root: Path) -> None:
    save(root / "brain_tumor_dataset" / "yes" / "Y1.jpg", picture())
    save(root / "brain_tumor_dataset" / "no" / "N1.jpg", picture())
    assert len(read(root)) == 2


def test_folders_one_level_deeper_are_found(root: Path, tmp_path: Path) -> None:
    inner = tmp_path / "brain_tumor_dataset"
    inner.mkdir()
    for name in ("yes", "no"):
        (root / name).rename(inner / name)
    assert list(read(tmp_path)) == ["no/1 no.jpeg", "yes/Y1.jpg"]


def test_a_broken_file_is_told_and_the_others_are_read(root: Path) -> None:
    whole = (root / "yes" / "Y1.jpg").read_bytes()
    (root / "yes" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "yes" / "empty.png").write_bytes(b"")
    (root / "no" / "page.jpg").write_text("<html>sign in</html>")
    (root / "no" / "notes.txt").write_text("notes")
    (root / "no" / "Thumbs.db").write_bytes(b"litter")
    (root / "no" / ".DS_Store").write_bytes(b"litter")
    cases = read(root)
    broken = {key: case.reason for key, case in cases.items() if isinstance(case, Unusable)}
    again = "is not a whole JPEG or PNG image: download it again"
    assert broken == {
        "yes/cut.jpg": again,
        "yes/empty.png": again,
        "no/page.jpg": again,
        "no/notes.txt": "is not a .jpg, .jpeg or .png file: convert it, or move it elsewhere",
    }
    assert len(cases) == 6


def test_a_link_to_a_file_that_is_gone_is_told_as_such(root: Path) -> None:
    (root / "yes" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    case = read(root)["yes/gone.jpg"]
    assert isinstance(case, Unusable)
    assert case.reason == "cannot be opened (No such file or directory)"


def test_every_truncation_of_a_png_is_unusable_or_whole(tmp_path: Path) -> None:
    data = save(tmp_path / "a.png", picture(12, 12)).read_bytes()
    for length in range(len(data)):
        (tmp_path / "cut.png").write_bytes(data[:length])
        try:
            cut = load_grey(tmp_path / "cut.png")
        except DataError:
            continue
        assert cut.shape == (12, 12)


def test_every_changed_byte_gives_an_image_or_a_reason(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG"):
        data = bytearray(save(tmp_path / "a.png", picture(9, 9), format=kind).read_bytes())
        for at in range(len(data)):
            changed = data.copy()
            changed[at] ^= 0x15
            (tmp_path / "changed.png").write_bytes(changed)
            with suppress(DataError):
                assert load_grey(tmp_path / "changed.png").ndim == 2


def test_an_image_beyond_pillows_limit_is_unusable(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 50)
    save(root / "yes" / "warned.png", np.zeros((50, 50), np.uint8))
    save(root / "yes" / "refused.png", np.zeros((90, 90), np.uint8))
    cases = read(root)
    for key in ("yes/warned.png", "yes/refused.png"):
        case = cases[key]
        assert isinstance(case, Unusable)
        assert case.reason == "has more than 2000 pixels: scale it down"
    assert isinstance(cases["yes/Y1.jpg"], Sample)


def test_a_dataset_without_its_folders_is_refused(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        DataError, match=r"neither .*empty nor a folder directly below it holds yes/"
    ):
        read(empty)
    (root / "yes" / "Y1.jpg").unlink()
    with pytest.raises(DataError, match=r"no \.jpg, \.jpeg, \.png file in .*yes"):
        read(root)
    (root / "yes").rmdir()
    with pytest.raises(DataError, match=r"no folder yes/ beside the other one in "):
        read(root)


def test_two_places_to_read_from_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        save(tmp_path / folder / "yes" / "a.png", picture())
    with pytest.raises(DataError, match="more than one folder: one, two"):
        read(tmp_path)


def test_real_images(shared_data: Path) -> None:
    folder = shared_data / "brain"
    checked = check_adapter(BRAIN, folder)
    assert checked.samples == {"healthy": 98, "tumour": 155}
    assert checked.unusable == {}
    assert checked.patients == 253
    samples = [case for case in read_samples(BRAIN, folder, {}) if isinstance(case, Sample)]
    modes = {(sample.label, sample.facts["mode"]) for sample in samples}
    assert {mode for label, mode in modes if label == 1} == {"L", "RGB"}
    assert {mode for label, mode in modes if label == 0} == {"L", "RGB", "RGBA", "P"}
    named_wrongly = [
        sample
        for sample in samples
        if sample.facts["format"] == "PNG" and sample.source[0].suffix.lower() == ".jpg"
    ]
    assert len(named_wrongly) == 6
