"""Who is the same patient: spellings, placeholders, and patients of several datasets."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import helpers
import numpy as np
import pytest
from checked import picture
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hydrakit.cli import main
from hydrakit.compare.design import make_design
from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.identity import is_identified, names_nobody, normal_name, patient_of
from hydrakit.data.prepared.index import PreparedCase
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.quality.check import summarise
from hydrakit.data.quality.leakage import check_leakage, unit_names
from hydrakit.errors import DataError
from hydrakit.hooks import Sample
from hydrakit.plan import load_plan
from hydrakit.plan.profiles import make_plan
from hydrakit.storage.paths import using_cache

ACCENT = "Å-7"


@pytest.mark.parametrize(
    "spellings",
    [
        ("P07", "p07", " P07 ", "P07\u00a0", "\u200bP07", "P007", "P7"),
        ("7", "007", "7.0", "07.00", "７"),
        ("ProstateX-0012", "prostatex-12", "PROSTATEX_0012", "ProstateX 12", "ProstateX\u20110012"),
        (ACCENT, unicodedata.normalize("NFD", ACCENT), ACCENT.lower()),
        ("0", "000", "0.0"),
    ],
)
def test_spellings_of_one_name(spellings: tuple[str, ...]) -> None:
    assert len({normal_name(name) for name in spellings}) == 1
    assert len({normal_name(name, exact=True) for name in spellings}) == len(spellings)


@pytest.mark.parametrize(
    "names",
    [
        ("7", "70", "17", "7.5"),
        ("P1", "P10", "P11", "Q1"),
        ("a0b1", "a00b1", "a0b01"),  # hexadecimal: zeros within it count
        ("1.2.840.1", "1.2.840.10", "1.2.8401"),
        ("1-2", "12"),
    ],
)
def test_names_of_several(names: tuple[str, ...]) -> None:
    assert len({normal_name(name) for name in names}) == len(names)


@given(st.text(max_size=12))
def test_the_normal_form_is_normal(name: str) -> None:
    assert normal_name(normal_name(name)) == normal_name(name)


def test_what_names_nobody() -> None:
    for name in ("", " ", "-", "?", "NA", "n/a", "nan", "None", "unknown", "ANONYMOUS", "\u200b"):
        assert names_nobody(name), name
    for name in ("7", "Nan Li", "P-NA", "anonymous 3", "0"):
        assert not names_nobody(name), name


def case(key: str, patient: str, **more: Any) -> PreparedCase:
    values = {"label": 0, "group": None, "finding": key}
    return PreparedCase(key=key, patient=patient, **{**values, **more})


def test_a_key_in_place_of_a_patient_is_no_name() -> None:
    one, other = case("no/1.png", "no/1.png"), case("no/01.png", "no/01.png")
    assert not is_identified(one)
    assert patient_of(one) != patient_of(other)
    assert is_identified(case("no/1.png", "1"))
    assert not is_identified(case("no/1.png", "unknown"))
    named = case("P01", "P01", named=True)
    assert is_identified(named)
    assert patient_of(named) == patient_of(case("P1 b", "p1"))


# --- within a dataset


def sample(number: int, patient: str, **more: Any) -> Sample:
    image = picture(number).astype(np.float32) + 10 * number
    values = {"image": image, "label": number % 2, "key": f"k{number}"}
    return Sample(patient=patient, **{**values, **more})


def prepared(folder: Path, name: str, samples: list[Sample], **changes: Any) -> tuple[Any, Any]:
    version = repr([(each.key, each.patient) for each in samples])
    adapter = replace(
        helpers.adapter(name), read=lambda _, __: iter(samples), version=version, **changes
    )
    (folder / name).mkdir(exist_ok=True)
    cache = folder / f"cache {adapter.exact_names}"
    return adapter, prepare(adapter, folder / name, options={}, patch=16, cache=cache)


def test_spellings_of_a_patient_are_one_patient_everywhere(tmp_path: Path) -> None:
    samples = [sample(n, f"{n // 2:03d}" if n % 4 == 0 else f"{n // 2}.0") for n in range(60)]
    samples[0] = replace(samples[0], finding="L1", label=0)
    samples[1] = replace(samples[1], finding="l01", label=0)
    adapter, data = prepared(tmp_path, "alpha", samples)
    assert [c.patient for c in data.index.cases[:2]] == ["000", "0.0"]  # as written
    assert data.index.patients["000"] == data.index.patients["0.0"]  # z-scored together
    assert data.index.cases[0].finding == data.index.cases[1].finding == "k0"
    summary = summarise(adapter, data)
    assert len({c.patient for c in summary.cases}) == 30
    for one, other in zip(summary.cases[::2], summary.cases[1::2], strict=True):
        assert one.split == other.split
    (warning,) = summary.warnings
    assert (warning.kind, warning.text[:41]) == (
        "reading",
        "15 patients are written in several ways (",
    )
    assert "k0 and k1" in warning.text


def test_a_declared_patient_of_the_name_of_its_case_has_a_name(tmp_path: Path) -> None:
    rows = ["path,label,key,patient", "0.png,a,P1,P1", "1.png,a,P1 b,p01", "2.png,b,P2,P2"]
    for number in range(3):
        Image.fromarray(picture(number, height=24, width=24)).save(tmp_path / f"{number}.png")
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    (tmp_path / "dataset.toml").write_text(
        'classes = ["a", "b"]\nfield_of_view = { share = 1.0 }\ncases = "cases.csv"\n'
    )
    adapter = load_declared(tmp_path)
    index = prepare(adapter, tmp_path, options={}, patch=16, cache=tmp_path / "cache").index
    assert len(set(unit_names(["x"] * 3, index.cases, {"x": adapter}, []))) == 2
    assert index.patients["P1"] == index.patients["p01"] != index.patients["P2"]


def test_only_a_name_that_is_also_that_of_others_changes_the_content(tmp_path: Path) -> None:
    def content(*patients: str, named: bool) -> str:
        samples = [sample(n, each, key=f"P{n}", named=named) for n, each in enumerate(patients)]
        adapter = replace(
            helpers.adapter("alpha"), read=lambda _, __: iter(samples), version=repr(samples)
        )
        folder = tmp_path / f"{patients} {named}"
        folder.mkdir()
        return prepare(adapter, folder, options={}, patch=16, cache=folder).index.content

    alone, spelled = ("P0", "P1", "P7", "p07"), ("P0", "P1", "p0", "p7")
    assert content(*alone, named=True) == content(*alone, named=False)
    assert content(*spelled, named=True) != content(*spelled, named=False)


def test_exact_names_are_compared_exactly(tmp_path: Path) -> None:
    samples = [sample(n, "p7" if n % 2 else "P7", finding="1") for n in range(2)]
    with pytest.raises(DataError, match="of the same finding"):
        prepared(tmp_path, "alpha", samples)
    _, data = prepared(tmp_path, "alpha", samples, exact_names=True)
    assert data.index.patients["p7"] != data.index.patients["P7"]
    assert [c.finding for c in data.index.cases] == ["k0", "k1"]


def test_what_is_one_patient_belongs_to_the_content(tmp_path: Path) -> None:
    """It decides the z-score, also where the data itself declares every split."""
    samples = [sample(n, "p7" if n % 2 else "P7", split="train") for n in range(4)]
    one, other = (
        prepared(tmp_path, "alpha", samples, exact_names=exact)[1].index for exact in (False, True)
    )
    assert one.patients != other.patients
    assert one.content != other.content


def test_dropped_conflicts_may_leave_no_case(tmp_path: Path) -> None:
    samples = [replace(sample(n // 2, f"P{n}", key=f"k{n}"), label=n % 2) for n in range(8)]
    adapter, data = prepared(tmp_path, "alpha", samples)
    plan = helpers.plan_of(helpers.round_of("alpha"), conflicts="drop")
    with using_cache(tmp_path), pytest.raises(DataError, match="leaves none"):
        check_leakage({"alpha": data}, {"alpha": adapter}, plan)


def test_groups_are_compared_as_patients_are(tmp_path: Path) -> None:
    samples = [
        sample(n, f"P{n}", group=f"exam {n // 2}" if n % 2 else f"Exam_0{n // 2}")
        for n in range(60)
    ]
    adapter, data = prepared(tmp_path, "alpha", samples)
    cases = summarise(adapter, data).cases
    assert all(a.split == b.split for a, b in zip(cases[::2], cases[1::2], strict=True))


def test_images_without_patients_and_placeholders_are_warned_of(tmp_path: Path) -> None:
    samples = [sample(n, f"k{n}") for n in range(30)]
    adapter, data = prepared(tmp_path, "alpha", samples)
    (warning,) = summarise(adapter, data).warnings
    assert warning.kind == "patients"
    assert "each image counts as its own patient" in warning.text
    samples = [sample(n, f"P{n}" if n < 28 else "unknown") for n in range(30)]
    adapter, data = prepared(tmp_path, "beta", samples)
    (warning,) = summarise(adapter, data).warnings
    assert "k28 is NA, unknown or alike, as is that of 1 other" in warning.text


# --- across datasets


def pair(
    folder: Path, one: list[str], other: list[str], *cohorts: str | None, **changes: Any
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Two datasets of one image per patient, and a plan for them."""
    adapters, data = {}, {}
    for start, name, patients, cohort in zip(
        (0, 500), ("alpha", "beta"), (one, other), cohorts or (None, None), strict=True
    ):
        samples = [sample(start + n, patient) for n, patient in enumerate(patients)]
        adapters[name], data[name] = prepared(folder, name, samples, cohort=cohort)
    plan = make_plan("hydra", ["alpha", "beta", "alpha"], plugins=helpers.plugins(), **changes)
    return adapters, data, plan


def dealt(folder: Path, *given: Any, **changes: Any) -> dict[str, dict[str, str]]:
    begun = changes.pop("begun", False)
    adapters, data, plan = pair(folder, *given, **changes)
    with using_cache(folder / "cache"):
        return cast("Any", check_leakage(data, adapters, plan, begun=begun)).splits


NAMES = [f"ProstateX-{n:04d}" for n in range(40)]


def test_datasets_that_share_patients_without_a_cohort_are_refused(tmp_path: Path) -> None:
    for other in (
        NAMES,
        [name.lower() for name in NAMES],
        NAMES[30:] + [f"Q{n}" for n in range(30)],
    ):
        with pytest.raises(DataError) as error:
            dealt(tmp_path, NAMES, other)
        for words in ("alpha: ", "of its 40 patients", "beta", "cohort = ", "--strangers"):
            assert words in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="40 of its 40"):
        dealt(tmp_path, NAMES, NAMES, "one", "another")


def test_strangers_and_a_cohort_are_the_remedies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = dealt(tmp_path, NAMES, NAMES, strangers=True)
    assert "withheld" not in splits["beta"].values()
    variants = [f"prostatex_{n}" for n in range(40)]
    for other, cohorts in ((NAMES, ("X", "X")), (variants, ("PROSTATEx", "prostatex"))):
        splits = dealt(tmp_path, NAMES, other, *cohorts)
        for n in range(40):
            mine, theirs = splits["alpha"][f"k{n}"], splits["beta"][f"k{500 + n}"]
            assert theirs == ("withheld" if mine == "test" else mine)
    assert caplog.messages == []
    dealt(tmp_path, NAMES, NAMES, begun=True)  # of an earlier version: the work is not lost
    assert "names of patients of beta" in caplog.messages[-1]
    dealt(tmp_path, NAMES, [f"Q{n}" for n in range(40)], "X", "X")
    assert "no patient in common" in caplog.messages[-1]


def test_keys_and_placeholders_are_no_shared_patients(tmp_path: Path) -> None:
    keys = [f"k{n}" for n in range(40)]
    adapters, data, plan = pair(tmp_path, keys, [f"k{500 + n}" for n in range(40)])
    same = [replace(sample(900 + n, f"k{n}"), key=f"k{n}", label=n % 2) for n in range(40)]
    adapters["beta"], data["beta"] = prepared(tmp_path, "beta", same)
    with using_cache(tmp_path / "cache"):
        check_leakage(data, adapters, plan)
    dealt(tmp_path, [*NAMES, "unknown", "NA"], [f"Q{n}" for n in range(40)] + ["unknown", "NA"])


def test_exact_and_other_names_of_one_cohort(tmp_path: Path) -> None:
    adapters, data, plan = pair(tmp_path, NAMES, NAMES, "X", "X")
    samples = [sample(n, name) for n, name in enumerate(NAMES)]
    adapters["alpha"], data["alpha"] = prepared(
        tmp_path, "alpha", samples, cohort="X", exact_names=True
    )
    with using_cache(tmp_path / "cache"):
        splits = check_leakage(data, adapters, plan).splits
    for n in range(40):
        mine, theirs = splits["alpha"][f"k{n}"], splits["beta"][f"k{500 + n}"]
        assert theirs == ("withheld" if mine == "test" else mine)


def test_strangers_do_not_change_what_a_plan_is() -> None:
    given: dict[str, Any] = {"plugins": helpers.plugins()}
    plan = make_plan("hydra", ["alpha", "beta"], **given)
    other = make_plan("hydra", ["alpha", "beta"], strangers=True, **given)
    assert plan.digest() == other.digest()
    assert "strangers" not in plan.to_json()
    assert json.loads(other.to_json())["strangers"] is True
    design = {"strategies": ["hydra"], "datasets": ["alpha", "beta"]}
    designs = [
        make_design(**design, baselines=(), settings={"strangers": each}) for each in (False, True)
    ]
    assert designs[0].digest == designs[1].digest


def test_every_command_refuses_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path / "cache"))
    for start, name in ((0, "adc"), (100, "t2")):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        rows = ["path,label,Patient"]
        for n in range(40):
            Image.fromarray(picture(start + n, height=24, width=24)).save(folder / f"{n}.png")
            rows.append(f"{n}.png,{'ab'[n % 2]},ProstateX-{n:04d}")
        (folder / "cases.csv").write_text("\n".join(rows))
        (folder / "dataset.toml").write_text(
            'classes = ["a", "b"]\nfield_of_view = { share = 1.0 }\ncases = "cases.csv"\n'
        )
    given = ["--datasets", "adc,t2,adc", "--data", str(tmp_path / "data"), "--epochs", "1"]
    out = ["--out", str(tmp_path / "out")]
    for command in (
        ["run", "--strategy", "hydra", *given, *out],
        ["run", "--strategy", "hydra", *given, *out, "--dry-run"],
        ["compare", "--no-baselines", "--strategies", "hydra", *given, *out],
        ["tune", "--strategy", "hydra", *given, *out],
    ):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1, done.output
        assert "40 of its 40 patients" in done.stderr
        assert not (tmp_path / "out" / "rounds").exists()
    plan = tmp_path / "plan.json"
    text = CliRunner().invoke(main, ["plan", "--strategy", "hydra", *given, "--strangers"])
    plan.write_text(text.stdout)
    assert load_plan(plan).strangers


def test_further_splits_of_the_same_data_warn_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = [f"A{n}" for n in range(29)]
    adapters, data, plan = pair(tmp_path, [*one, "a1"], [f"B{n}" for n in range(30)])
    check_leakage(data, adapters, plan, warn=False)
    assert "written in several ways" not in caplog.text
    check_leakage(data, adapters, plan)
    assert "written in several ways" in caplog.text
