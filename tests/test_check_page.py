"""The page of a check: it shows what was found, and pictures of the right patches."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checked import CLASSES, picture
from helpers import adapter as standin
from hypothesis import given
from hypothesis import strategies as st
from pages import Node, cells, parse, plotted
from PIL import Image

from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.quality.check import summarise
from hydrakit.data.quality.summary import CheckedCase, Summary
from hydrakit.hooks import DatasetAdapter, Sample, Unusable
from hydrakit.report.charts import histogram
from hydrakit.report.check import check_page
from hydrakit.report.pictures import PER_CLASS, grey_png, spread_rows

PATCH = 65


def samples(count: int = 40, *, channels: int = 1) -> list[Sample | Unusable]:
    def image(number: int) -> np.ndarray:
        size = {"height": 64, "width": 64 + 8 * (number % 5)}
        planes = [picture(100 * c + number, **size) for c in range(channels)]
        return np.stack(planes).astype(np.float32)

    return [
        Sample(
            image=image(number),
            label=number % 2,
            patient=f"person-{number}",
            key=f"key-{number}",
            facts={"scanner": "one" if number % 2 else "two"},
        )
        for number in range(count)
    ]


def page(
    cases: list[Sample | Unusable], folder: Path, **changes: object
) -> tuple[Node, str, Summary, PreparedDataset]:
    adapter: DatasetAdapter = replace(
        standin("lesions", CLASSES), read=lambda _, __: iter(cases), **changes
    )
    root, cache = folder / "lesions", folder / "cache"
    root.mkdir()
    prepared = prepare(adapter, root, options={}, patch=PATCH, cache=cache)
    summary = summarise(adapter, prepared)
    text = check_page(summary, prepared, adapter)
    path = folder / "page.html"
    path.write_text(text)
    return parse(path), text, summary, prepared


def pixels(image: Node) -> np.ndarray:
    source = image.attributes["src"] or ""
    kind, data = source.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_the_page_tells_what_the_summary_holds(tmp_path: Path) -> None:
    cases = samples()
    copied = cases[4]
    assert isinstance(copied, Sample)
    cases[6] = replace(copied, key="key-6", patient="person-6")
    cases.append(Unusable(key="key-x", reason="no image"))
    tree, _, summary, _ = page(cases, tmp_path)
    sections = dict(zip((h.words() for h in tree.all("h2")), tree.all("section")[1:], strict=True))
    verdict = tree.all("section")[0].words()
    assert "No problem was found that would invalidate results" in verdict
    assert "40 of 41 cases are usable" in verdict
    for warning in summary.warnings:
        assert warning.text in verdict
    headers, rows = summary.count_table()
    drawn = cells(sections["Cases"].all("table")[0])
    assert [cell.lower() for cell in drawn[0]] == headers
    assert drawn[1:-1] == [[str(cell) for cell in row] for row in rows[:-1]]
    assert "key-x" in sections["Cases"].words()
    facts = {row[0]: row[1:] for row in cells(sections["Images"].all("table")[0])}
    assert facts["width"] == ["64", "80", "96", "40"]
    assert "height 64" in sections["Images"].words()
    assert "key-4, key-6" in sections["Duplicates"].words()
    assert len(sections["Duplicates"].all("img")) == 2
    told = cells(sections["Shortcuts"].all("table")[0])
    assert told[1][:3] == ["scanner", "malignant", "1.000"]
    assert told[1][4] == "yes"


def test_problems_come_first(tmp_path: Path) -> None:
    tree, _, summary, _ = page(samples(3), tmp_path)
    verdict = tree.all("section")[0]
    assert "1 problem would invalidate results" in verdict.words()
    assert summary.problems[0].text in verdict.words()
    assert cells(tree.all("table")[0])[0] == ["Class", "All", "Patients"]


def test_the_file_needs_nothing_else_and_names_no_patient(tmp_path: Path) -> None:
    tree, text, _, _ = page(samples(), tmp_path)
    for tag in ("script", "iframe", "object", "embed", "form", "base"):
        assert tree.all(tag) == []
    assert all((image.attributes["src"] or "").startswith("data:") for image in tree.all("img"))
    assert not re.search(r"url\(|@import|srcset|xlink", text)
    assert "default-src 'none'" in text
    assert "person-" not in text
    assert "key-" not in text  # no case has a fault
    assert str(tmp_path) not in text
    assert len(text) < 1_000_000


def test_patches_are_what_a_network_sees(tmp_path: Path) -> None:
    tree, _, summary, prepared = page(samples(), tmp_path)
    from torch import from_numpy

    from hydrakit.data.augment import central_view

    rows = [row for row, case in enumerate(summary.cases) if case.label == 0]
    shown = tree.all("ul")
    first = next(node for node in shown if (node.attributes.get("class") or "") == "patches")
    images = first.all("img")
    assert len(images) == PER_CLASS
    assert images[0].attributes["alt"] == "benign, original, 1"
    chosen = [rows[len(rows) * i // PER_CLASS] for i in range(PER_CLASS)]
    seen = central_view(from_numpy(prepared.rows(chosen)), PATCH).numpy()[:, 0]
    for image, plane in zip(images, seen, strict=True):
        grey = pixels(image).astype(float)
        assert grey.shape == (PATCH, PATCH)
        low, high = np.percentile(plane, [0.5, 99.5])
        inside = (plane > low) & (plane < high)
        expected = (plane - low) / (high - low) * 255
        assert np.abs(grey - expected)[inside].max() <= 0.5 + 1e-3
    augmented = next(i for i in tree.all("img") if i.attributes["alt"] == "benign, augmented, 1")
    assert not np.array_equal(pixels(augmented), pixels(images[0]))
    assert len(first.all("path")) == PER_CLASS  # a mark on each centre


def test_channels_are_side_by_side(tmp_path: Path) -> None:
    tree, _, _, _ = page(samples(channels=3), tmp_path)
    wide = [ul for ul in tree.all("ul") if ul.attributes.get("class") == "patches wide"]
    assert len(wide) == 4  # two classes, as they are and augmented
    names = [image.attributes["alt"] for image in wide[0].all("li")[0].all("img")]
    assert names == [f"benign, original, 1, channel {channel}" for channel in (1, 2, 3)]


def test_a_number_is_shown_from_low_to_high(tmp_path: Path) -> None:
    cases: list[Sample | Unusable] = [
        replace(each, label=float((7 * n) % 40))
        for n, each in enumerate(samples())
        if isinstance(each, Sample)
    ]
    tree, _, _, _ = page(cases, tmp_path, task="regression", classes=("age",))
    assert [h.words() for h in tree.all("h3")] == ["age, from low to high"]


def test_the_same_data_gives_the_same_page(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert page(samples(), tmp_path / "a")[1] == page(samples(), tmp_path / "b")[1]


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>$title"
    cases: list[Sample | Unusable] = [*samples(), Unusable(key=evil, reason=evil)]
    tree, _, _, _ = page(cases, tmp_path, citation=evil, summary=evil, classes=("ok", evil))
    assert tree.all("script") == []
    assert tree.words().count(evil) >= 5


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60).filter(lambda v: max(v) - min(v) > 1),
    st.lists(st.floats(-1e3, 1e3), max_size=60),
)
def test_bars_are_numpys(some: list[float], others: list[float]) -> None:
    drawn = histogram("size", "mm", [("one", some), ("two", others)], bins=10)
    tree = parse_text(drawn.html())
    every = some + others
    edges = np.linspace(min(every), max(every), 11)
    for style, values in (("line c0", some), ("line c1", others)):
        (outline,) = plotted(tree.all("svg")[-1], style)
        (left, bottom), (right, _) = outline[0], outline[-1]
        counts = np.histogram(values, edges)[0]
        heights = np.array([bottom - y for _, y in outline[1:-1]]).reshape(10, 2)
        assert np.allclose(heights[:, 0], heights[:, 1])
        assert [y for _, y in (outline[0], outline[-1])] == [bottom, bottom]
        if counts.max():
            unit = heights[:, 0].max() / counts.max()
            np.testing.assert_allclose(heights[:, 0], counts * unit, atol=0.11)
        places = np.array([x for x, _ in outline[1:-1]]).reshape(10, 2)
        np.testing.assert_allclose(
            places[:, 0], left + (right - left) * np.arange(10) / 10, atol=0.11
        )


def parse_text(text: str) -> Node:
    from pages import Tree

    tree = Tree()
    tree.feed(text)
    tree.close()
    return tree.root


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 8))
def test_cases_are_chosen_of_different_patients(owners: list[int], count: int) -> None:
    cases = [
        (row, CheckedCase(key=str(row), label=0, classes=("a",), patient=str(owner), split=None,
                          finding=str(row), subgroups={}, facts={}))
        for row, owner in enumerate(owners)
    ]  # fmt: skip
    rows = spread_rows(cases, count)
    assert len(rows) == len(set(rows)) == min(count, len(owners))
    patients = {owners[row] for row in rows}
    assert len(patients) == min(count, len(set(owners)))


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_patch_without_contrast_is_a_picture_too(value: float) -> None:
    source = grey_png(np.full((3, 4), value, dtype=np.float32), (value, value))
    assert pixels(Node("img", {"src": source})).shape == (3, 4)


def test_contradictory_labels_are_drawn_side_by_side_and_mentioned_only_where_there_are_any(
    tmp_path: Path,
) -> None:
    cases = samples()
    first, twin, other = cases[4], cases[5], cases[6]
    assert isinstance(first, Sample)
    assert isinstance(twin, Sample)
    assert isinstance(other, Sample)
    cases[5] = replace(twin, image=first.image)  # another patient, another label
    cases[6] = replace(other, image=first.image, label=1, patient=first.patient)
    (tmp_path / "with").mkdir()
    tree, _, summary, _ = page(cases, tmp_path / "with")
    (group,) = summary.conflicts
    assert set(group.keys) == {"key-4", "key-5", "key-6"}
    drawn = next(each for each in tree.all("ul") if each.attributes.get("class") == "pairs")
    assert len(drawn.all("img")) == 2
    words = drawn.words()
    assert "different labels: similarity 1.000, texture 1.00" in words
    assert f"key-4 ({CLASSES[0]}) and key-5 ({CLASSES[1]})" in words
    (tmp_path / "without").mkdir()
    cases = samples()
    cases[6] = replace(other, image=first.image)
    tree, _, summary, _ = page(cases, tmp_path / "without")
    assert len(summary.copies) == 1
    assert "ontradictory" not in tree.words()
    assert "different labels" not in tree.words()
