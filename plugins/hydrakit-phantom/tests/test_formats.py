"""The files are like the real ones, and what surrounds a lesion does not tell its class."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from sklearn.metrics import roc_auc_score

from hydrakit.data.quality.duplicates import content_digest, find_duplicates, texture, thumbnail
from hydrakit.data.read import read_samples
from hydrakit.hooks import DatasetAdapter, Sample
from hydrakit_phantom.write import write_phantom

B_VALUE = (0x0019, 0x100C)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def prostate(phantom):
    """Images of each patient and series description."""
    images = defaultdict(lambda: defaultdict(list))
    for path in sorted((phantom / "prostatex" / "PROSTATEx").rglob("*.dcm")):
        image = dcmread(path)
        assert path.parts[-4] == image.PatientID
        images[image.PatientID][image.SeriesDescription].append(image)
    return images


def test_prostate_sheets_are_like_the_official_ones(phantom, prostate):
    folder = phantom / "prostatex"
    for path in (folder / "ProstateX-Findings-Train.csv", folder / "ProstateX-Images-Train.csv"):
        data = path.read_bytes()
        assert data.count(b"\r\n") == data.count(b"\n") > 12
    findings = table(folder / "ProstateX-Findings-Train.csv")
    assert {row["ProxID"] for row in findings} == set(prostate)
    classes = defaultdict(list)
    for row in findings:
        classes[row["ProxID"]].append(row["ClinSig"])
    assert Counter(map(tuple, classes.values())) == {
        ("FALSE",): 5, ("TRUE",): 5, ("FALSE", "TRUE"): 1, ("TRUE", "FALSE"): 1,
    }  # fmt: skip
    assert any(row["pos"].startswith(" ") for row in findings)
    listed = {
        (row["ProxID"], int(row["DCMSerNum"]), row["DCMSerDescr"])
        for row in table(folder / "ProstateX-Images-Train.csv")
    }
    assert listed == {
        (patient, int(images[0].SeriesNumber), description)
        for patient, series in prostate.items()
        for description, images in series.items()
    }


def test_prostate_voxels_agree_with_positions_and_headers(phantom, prostate):
    rows = table(phantom / "prostatex" / "ProstateX-Images-Train.csv")
    assert len(rows) > 80
    for row in rows:
        images = prostate[row["ProxID"]][row["DCMSerDescr"]]
        matrix = np.array(row["WorldMatrix"].split(","), float).reshape(4, 4)
        lowest = min(images, key=lambda image: np.dot(
            [float(v) for v in image.ImagePositionPatient], matrix[:3, 2]
        ))  # fmt: skip
        # Row 0, column 0 of slice 0 has its middle half a voxel from the matrix's origin.
        middle = matrix @ [0.5, 0.5, 0.5, 1]
        np.testing.assert_allclose(lowest.ImagePositionPatient, middle[:3], atol=2e-3)
        if "sag" not in row["DCMSerDescr"]:
            position = np.append([float(v) for v in row["pos"].split()], 1)
            voxel = np.linalg.solve(matrix, position)[:3]
            ijk = np.array(row["ijk"].split(), int)
            assert np.abs(voxel - ijk).max() < 0.51
            size = [int(v) for v in row["Dim"].split("x")[:3]]
            assert np.all((ijk >= 0) & (ijk < size))


def test_prostate_series_are_those_of_a_real_patient(prostate):
    words = set()
    for series in prostate.values():
        computed = [name for name in series if name.endswith("CALC_BVAL")]
        assert len(computed) == 1
        name = computed[0].removesuffix("CALC_BVAL")
        words.add(name)
        assert {"t2_tse_sag", "t2_tse_tra", name, f"{name}_ADC", computed[0]} <= set(series)
        acquired = [bytes(image[B_VALUE].value) for image in series[name]]
        assert Counter(acquired) == {b"50": 6, b"400 ": 6, b"800 ": 6}
        assert {image.SequenceName for image in series[name]} == {
            "*ep_b50t", "*ep_b400t", "*ep_b800t",
        }  # fmt: skip
        assert {bytes(image[B_VALUE].value) for image in series[computed[0]]} == {b"1000"}
        assert {image.ImageType[3] for image in series[f"{name}_ADC"]} == {"ADC"}
        assert all(B_VALUE not in image for image in series["t2_tse_tra"])
    assert "ep2d_diff_tra_DYNDIST" in words
    assert "diffusie-3Scan-4bval_fs" in words


def test_prostate_images_have_the_traps_of_real_ones(prostate):
    directions = set()
    for series in prostate.values():
        for description, images in series.items():
            assert all("RescaleSlope" not in image for image in images)
            assert all(
                image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian for image in images
            )
            if description.endswith("CALC_BVAL"):
                assert images[0].pixel_array.shape == (128, 84)
                assert images[0].pixel_array.max() < 4096
                ordered = sorted(images, key=lambda image: image.InstanceNumber)
                heights = [float(image.ImagePositionPatient[2]) for image in ordered]
                assert heights in (sorted(heights), sorted(heights, reverse=True))
                directions.add(heights[0] < heights[-1])
        computed = next(images for name, images in series.items() if name.endswith("CALC_BVAL"))
        assert len({image.WindowCenter for image in computed}) > 1
    assert directions == {True, False}
    assert sum(any("diffusie" in name and name.startswith("t2") for name in series)
               for series in prostate.values()) == 1  # fmt: skip


def test_diffusion_images_agree_with_the_adc(prostate):
    series = prostate["ProstateX-9000"]
    adc = np.stack([image.pixel_array for image in series["ep2d_diff_tra_DYNDIST_ADC"]]) * 1e-6
    acquired = series["ep2d_diff_tra_DYNDIST"]
    low, high = (
        np.stack([image.pixel_array for image in acquired if image.SequenceName == name])
        for name in ("*ep_b50t", "*ep_b800t")
    )
    gland = low > 40
    found = np.log(low[gland] / np.maximum(high[gland], 1)) / 750
    assert np.median(found) == pytest.approx(np.median(adc[gland]), rel=0.1)


def test_lung_sheets_are_like_those_in_the_wild(phantom):
    folder = phantom / "lung"
    test = (folder / "TestSet_NoduleData_PublicRelease_wTruth.csv").read_text().splitlines()
    assert test[0].startswith("Scan Number;Nodule Number;Nodule Center x,y Position*;")
    assert test[-4] == ";;;;"
    assert test[-3].startswith('"*specified in pixels, where position (1,1)')
    labels = Counter(line.split(";")[4] for line in test[1:-4])
    assert labels["Suspicious malignant nodule"] >= 1
    assert set(map(str.strip, labels)) == {
        "Benign nodule", "Primary lung cancer", "Suspicious malignant nodule",
    }  # fmt: skip
    assert any(label.endswith(" ") for label in labels)
    calibration = (folder / "calibration.csv").read_text().splitlines()
    assert [line.split(";")[-1] for line in calibration[1:3]] == ["benign", "malignant"]
    assert calibration[2].startswith("CT-Training-lc901;")


def test_lung_images_are_in_hounsfield_units_by_their_tags(phantom):
    paths = sorted((phantom / "lung").rglob("*.dcm"))
    assert len(paths) == 12 * 5
    ids = set()
    for path in paths:
        image = dcmread(path)
        ids.add(image.PatientID)
        assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        units = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        assert units.min() < -850
        assert np.median(units[100:156, 100:156]) < -700
        assert 0 < np.median(units[:20, :20]) < 600
    assert "CT-Training-LC901" in ids
    assert "LUNGx-CT9003" in ids


@pytest.fixture(scope="session")
def brains(tmp_path_factory):
    """A folder with enough brain images to compare the classes."""
    out = tmp_path_factory.mktemp("brains") / "data"
    write_phantom(out, patients=120, datasets=["brain"], difficulty=0)
    return out / "brain"


def test_brain_files_are_mixed_alike_in_both_classes(brains):
    kinds, sizes = {}, {}
    for name in ("yes", "no"):
        kinds[name], sizes[name] = Counter(), Counter()
        for path in (brains / name).iterdir():
            with Image.open(path) as image:
                kinds[name][(image.mode, image.format, path.suffix)] += 1
                sizes[name][image.size] += 1
    assert kinds["yes"] == kinds["no"]
    assert sizes["yes"] == sizes["no"]
    assert {mode for mode, _, _ in kinds["no"]} == {"RGB", "L", "RGBA", "P"}
    assert any(form == "PNG" and end == ".jpg" for _, form, end in kinds["no"])
    assert len(sizes["no"]) > 30


@pytest.mark.parametrize("dataset", ["prostatex", "brain", "lung"])
def test_the_adapters_for_real_data_read_every_case(phantom, dataset):
    loaded = pytest.importorskip("hydrakit.plugins").load_plugins().all(DatasetAdapter)
    adapter = loaded[dataset]
    cases = list(read_samples(adapter, phantom / dataset, {}))
    samples = [case for case in cases if isinstance(case, Sample)]
    assert Counter(sample.label for sample in samples) == {0: 7, 1: 7}
    assert len(cases) - len(samples) == (2 if dataset == "lung" else 0)
    if dataset == "brain":
        # Two files are copies of two others, and nothing else is taken for a copy.
        looks = np.stack([thumbnail(sample.image) for sample in samples])
        copies = find_duplicates(
            looks,
            [content_digest(sample.image) for sample in samples],
            lambda chosen: np.stack([texture(samples[index].image) for index in chosen]),
        )
        assert len(copies) == 2
        return
    assert len({sample.patient for sample in samples}) == 12
    for sample in samples:
        row, column = map(round, sample.centre)
        size = round(4 / sample.spacing[0])
        lesion = sample.image[0, row - size : row + size + 1, column - size : column + size + 1]
        around = np.concatenate(
            [sample.image[0, row - 3 * size, column - size : column + size],
             sample.image[0, row + 3 * size, column - size : column + size]]
        )  # fmt: skip
        assert lesion.mean() > around.mean()


def test_simple_facts_do_not_tell_the_class(brains):
    labels, facts = [], []
    for label, name in enumerate(("no", "yes")):
        for path in sorted((brains / name).iterdir()):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB").convert("L"), float)
            labels.append(label)
            facts.append(
                (path.stat().st_size, pixels.size, pixels.mean(), pixels.std(), pixels.max())
            )
    for values in np.array(facts).T:
        # The standard error of an AUC of 0.5 is 0.05 for 2 x 66 images.
        assert abs(roc_auc_score(labels, values) - 0.5) < 0.12


def test_prostate_files_are_like_the_real_ones(phantom, prostate, shared_data):
    real = shared_data / "prostatex"
    for name in ("ProstateX-Findings-Train.csv", "ProstateX-Images-Train.csv"):
        first = (real / name).read_bytes().split(b"\n")[0]
        assert (phantom / "prostatex" / name).read_bytes().split(b"\n")[0] == first
    # The last one is required by the standard, though the real files lack it.
    marks = {
        "ImageComments", "QualityControlSubject", "DeidentificationMethod", "ReferringPhysicianName"
    }  # fmt: skip
    checked = 0
    for folder in sorted(real.glob("PROSTATEx/ProstateX-0000/*/*")):
        theirs = dcmread(next(iter(sorted(folder.glob("*.dcm")))))
        ours = prostate["ProstateX-9000"].get(theirs.SeriesDescription)
        if not ours:
            continue
        checked += 1
        assert list(ours[0].ImageType) == list(theirs.ImageType)
        assert ours[0].SequenceName == theirs.SequenceName
        assert ours[0].SeriesNumber == theirs.SeriesNumber
        for element in ours[0]:
            if element.keyword in marks or element.tag.group == 0x7FE0:
                continue
            assert element.tag in theirs, element.keyword
            assert element.VR == theirs[element.tag].VR
            assert element.VM == theirs[element.tag].VM or not element.value
    assert checked == 5


def test_lung_sheets_have_the_real_columns(phantom, shared_data):
    for name in ("TestSet_NoduleData_PublicRelease_wTruth.csv", "calibration.csv"):
        theirs, ours = (
            (folder / name).read_text().splitlines()
            for folder in (shared_data / "lung", phantom / "lung")
        )
        assert ours[0] == theirs[0]
        assert ours[-4:-1] == theirs[-4:-1]
