"""Nothing that a DICOM file says of its patient gets out, save the pseudonymous PatientID.

PS3.15, annex E, table E.1-1 lists the attributes that tell who a patient is. The files here have a
canary in each of them, and beyond: in every attribute of the data dictionary (PS3.6), in curves, in
overlays and in private ones, other than `NEEDED` and those whose values are too short to be
searched for (of two bytes, or of single precision, as PregnancyStatus; tags). Then every command
runs on them, and fails on them, and nothing that it writes or says may hold a canary.

Of the table, `NEEDED` leaves out what images are joined and chosen by: PatientID, which is to be a
pseudonym and is written everywhere; SeriesDescription and the UIDs of object, series and study,
which are kept in the cache of headers and go nowhere else.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from fuzzing.mutators_dicom import element, elements
from helpers import BODY, SUPPORT, TARGET, StopError, round_of
from pydicom import Dataset, dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from hydrakit.cli import main
from hydrakit.engine import run
from hydrakit.plan import Dataset as PlanDataset
from hydrakit.plan import Plan, Round
from hydrakit.plan.results import EpochRecord
from hydrakit.runs.callbacks import RunCallback
from hydrakit_phantom.lung import write_lung
from hydrakit_phantom.prostate import write_prostate
from hydrakit_phantom.settings import Settings

WORD, DATE, TIME, NUMBER = "QCANARYQ", "19330307", "101112.131415", "777031415"
CANARIES = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), WORD),
    **{"DA": DATE, "TM": TIME, "DT": DATE + TIME, "AS": "931Y", "UI": f"2.25.{NUMBER}"},
    **{
        "IS": NUMBER,
        "DS": f"{NUMBER}.5",
        "FD": float(NUMBER),
        "SL": int(NUMBER),
        "UL": int(NUMBER),
    },
    **{"SV": int(NUMBER), "UV": int(NUMBER), "OB": WORD.encode(), "OW": WORD.encode()},
    **{"UN": WORD.encode(), "OB or OW": WORD.encode()},
}
TOLD = (WORD, DATE, TIME, "931Y", NUMBER)  # how a canary would be told
# What hydrakit reads: the pixels and what they mean, where they lie, the scanner, what files and
# cases are joined by, and how an image is chosen.
_NEEDED = """
SpecificCharacterSet SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID PatientID
SeriesNumber SeriesDescription InstanceNumber Modality ImageType SequenceName DiffusionBValue
ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness ManufacturerModelName
MagneticFieldStrength KVP Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation
SamplesPerPixel PhotometricInterpretation NumberOfFrames PlanarConfiguration RescaleSlope
RescaleIntercept RescaleType ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction PixelData
FloatPixelData DoubleFloatPixelData FrameOfReferenceUID ExtendedOffsetTable
ExtendedOffsetTableLengths LengthToEnd
"""
NEEDED = frozenset(_NEEDED.split())
KEPT = (
    *("SeriesDescription", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    "FrameOfReferenceUID",
)
# Some of the table, as a check that the data dictionary has what it says.
PROFILE = """
PatientName PatientBirthDate PatientBirthTime PatientAddress PatientAge PatientSex PatientSize
PatientWeight OtherPatientIDs OtherPatientNames PatientComments PatientTelephoneNumbers
PatientMotherBirthName EthnicGroup Occupation MilitaryRank MedicalRecordLocator Allergies
SmokingStatus AdditionalPatientHistory IssuerOfPatientID AccessionNumber StudyID
StudyDate StudyTime SeriesDate AcquisitionDate AcquisitionDateTime ContentDate InstitutionName
InstitutionAddress InstitutionalDepartmentName ReferringPhysicianName OperatorsName
PerformingPhysicianName NameOfPhysiciansReadingStudy RequestingPhysician StationName
DeviceSerialNumber ProtocolName StudyDescription ImageComments AdmissionID CurrentPatientLocation
FrameOfReferenceUID ReferencedSOPInstanceUID RequestAttributesSequence ContentSequence
ClinicalTrialSubjectID PersonName PersonAddress TextValue DataSetTrailingPadding
"""


def canaries() -> Dataset:
    """Every attribute that is not needed, with a canary."""
    found = Dataset()
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if keyword in NEEDED or tag >> 16 < 8 or tag & 0xFFFF == 0 or tag >> 16 == 0xFFFE:
            continue  # the last three: of the file's or the network's own
        if vr == "SQ":
            item = Dataset()
            item.PatientName, item.PatientBirthDate = WORD, DATE
            found.add(DataElement(tag, "SQ", [item]))
        elif vr in CANARIES:
            found.add(DataElement(tag, vr.split()[0], CANARIES[vr]))
    for tag, vr in ((0x50000005, "US"), (0x50003000, "OW"), (0x60004000, "LT")):  # curve, overlay
        found.add(DataElement(tag, vr, 1 if vr == "US" else CANARIES[vr]))
    found.private_block(0x0009, "SOMEONE", create=True).add_new(1, "LO", WORD)
    found.private_block(0x0029, WORD, create=True).add_new(1, "UN", WORD.encode())
    return found


def mark(folder: Path) -> list[Dataset]:
    """Put the canaries into each DICOM file below a folder; gives what the files hold."""
    extra = {}
    for each in canaries():
        one = Dataset()
        one.add(each)
        file = DicomBytesIO()
        file.is_little_endian, file.is_implicit_VR = True, False
        write_dataset(file, one)
        extra[int(each.tag)] = file.getvalue()
    images = []
    for path in sorted(folder.rglob("*.dcm")):
        found, rest = elements(path.read_bytes())
        assert not rest
        all_of_it = {each[0]: element(*each) for each in found} | extra
        content = b"".join(all_of_it[tag] for tag in sorted(all_of_it))
        path.write_bytes(bytes(128) + b"DICM" + content)
        images.append(dcmread(path, specific_tags=["PatientID", *KEPT]))
    return images


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Dataset]]:
    """A data folder of three datasets with canaries, and the headers of its files."""
    data = tmp_path_factory.mktemp("marked") / "data"
    for name, write, patients in (("prostatex", write_prostate, 8), ("lung", write_lung, 6)):
        (data / name).mkdir(parents=True)
        write(data / name, Settings(patients=patients, seed=0, difficulty=0.5))
    for series in data.glob("prostatex/*/*/*/*"):
        if "CALCBVAL" not in series.name:
            shutil.rmtree(series)
    for number, series in enumerate(sorted(data.glob("lung/*/*/*/*"))):
        path = series.rename(series.with_name("a")) / "1-1.dcm"  # its name was the description
        label = ("benign", "malignant")[number % 2]
        copy = data / "mine" / label / f"{number}.dcm"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (data / "mine" / "dataset.toml").write_text(
        'classes = ["benign", "malignant"]\npattern = "{label}/*.dcm"\n'
        "field_of_view = { millimetres = 60 }\n[images]\nrescale = true\n"
    )
    return data, mark(data)


def plan() -> Plan:
    names = ("prostatex", "lung", "mine")
    splits = dict(zip(names, (TARGET, SUPPORT, SUPPORT), strict=True))
    rounds = [round_of("prostatex"), round_of("lung", "head"), round_of("mine")]
    return Plan(
        strategy="custom",
        profile="custom",
        target="prostatex",
        strangers=True,  # `mine` holds copies of the files of lung
        datasets=tuple(PlanDataset(name=name, split=splits[name]) for name in names),
        head="mlp",
        body=BODY,
        rounds=(*rounds, round_of("prostatex")),
        conflicts="keep",
    )


class Everything:
    """All that is written below a folder, printed, or logged, by where."""

    def __init__(self, folder: Path, *files: Path) -> None:
        self.folder = folder
        self.said = {str(path): path.read_bytes() for path in files}

    def invoke(self, *arguments: str | Path) -> int:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert isinstance(result.exception, SystemExit | None), result.exception
        self.said[" ".join(map(str, arguments))] = result.output.encode()
        return result.exit_code

    def parts(self) -> Iterator[tuple[str, bytes]]:
        yield from self.said.items()
        for path in sorted(self.folder.rglob("*")):
            yield str(path), str(path.relative_to(self.folder)).encode()
            if path.is_file():
                yield str(path), path.read_bytes()

    def holding(self, *texts: str) -> list[tuple[str, str]]:
        """Where any of some texts is found, in any case, as UTF-8 or as UTF-16."""
        found = []
        for where, content in self.parts():
            lower = content.lower()
            for text in texts:
                told = (text.lower().encode(), text.lower().encode("utf-16-le"))
                if any(each in lower for each in told):
                    found.append((text, where))
        return found


class Fail(RunCallback):
    """Fails in the second round as a plugin might, with all that it knows of the data."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        names = " ".join(told_by_names(self.data))
        if number == 2:
            logging.getLogger("hydrakit.data.read").warning("left out: %s", names)
            try:
                raise ValueError(f"{WORD} {names}")
            except ValueError as error:
                said = f"plugin x: epoch raised ValueError: {error}"
                logging.getLogger("hydrakit").error(said, exc_info=error)
                raise StopError(f"{DATE} {names}") from error


def told_by_names(data: Path) -> list[str]:
    """Patients, cases and files of images."""
    patients = {path.name for path in (data / "prostatex").glob("*/*") if path.is_dir()}
    patients |= {path.name for path in (data / "lung").glob("*/*") if path.is_dir()}
    assert len(patients) == 14
    return [*patients, ".dcm", *TOLD]


def test_the_canaries_are_in_the_files(marked: tuple[Path, list[Dataset]]) -> None:
    data, _ = marked
    path = next(data.rglob("*.dcm"))
    image, content = dcmread(path), path.read_bytes()
    assert len(image) > 3000
    for keyword in PROFILE.split():
        assert keyword in image, keyword
    for text in TOLD:
        assert text.encode() in content


def test_nothing_gets_out(
    marked: tuple[Path, list[Dataset]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data, images = marked
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setenv("HYDRAKIT_CACHE", str(out / "cache"))
    monkeypatch.chdir(out)
    all_of_it = Everything(out)
    for name in ("prostatex", "lung", "mine"):
        for more in (["--cases", "--html", f"{name}.html"], ["--json"]):
            all_of_it.invoke("datasets", "check", name, *more, "--data", data)
    run(plan(), out=out / "run", data=data, device="cpu")
    assert_logged(out / "run", data)
    assert all_of_it.invoke("evaluate", "run", "--split", "all", "--data", data) == 0
    for command in ("verify", "status"):
        assert all_of_it.invoke(command, "run") == 0
    assert all_of_it.invoke("clean", "run", "--yes") == 0
    assert all_of_it.invoke("run", "--resume", "run", "--dry-run", "--data", data) == 0

    all_of_it.said["log"] = "\n".join(map(logging.Formatter().format, caplog.records)).encode()
    all_of_it.said["terminal"] = "".join(capfd.readouterr()).encode()
    assert all_of_it.holding(*TOLD) == []
    assert all_of_it.holding(images[0].PatientID), "PatientID is what may be told"
    kept = {str(image[keyword].value) for image in images for keyword in KEPT}
    places = {Path(where).parent for _, where in all_of_it.holding(*kept)}
    assert places == {out / "cache" / "dicom"}


def assert_logged(run: Path, data: Path) -> None:
    """The log tells of rounds, and of no patient, case or file."""
    log = Everything(run / "log.txt", *run.glob("log.txt*"))
    assert log.holding(*told_by_names(data)) == []
    assert b"round 1 of 4, prostatex all" in b"".join(content for _, content in log.parts())


def test_the_log_of_a_run_that_failed_tells_nothing_of_the_data(
    marked: tuple[Path, list[Dataset]], tmp_path: Path
) -> None:
    data, _ = marked
    with pytest.raises(StopError):
        run(plan(), out=tmp_path / "run", data=data, device="cpu", callbacks=[Fail(data)])
    assert_logged(tmp_path / "run", data)
    assert "ValueError" in (tmp_path / "run" / "log.txt").read_text()


def broken(path: Path) -> Iterator[tuple[str, bytes]]:
    """Ways to break a file so that its reader meets a canary where it expects something else."""
    content = path.read_bytes()
    name = content.index(b"PN" + len(WORD).to_bytes(2, "little") + WORD.encode())
    rows = content.index(b"\x28\x00\x10\x00US")
    yield "cut off", content[: len(content) // 2]
    yield "cut off in a canary", content[: name + 8]
    yield "wrong length", content[: name + 2] + b"\xf0\xff" + content[name + 4 :]
    yield "short length", content[: name + 2] + b"\x02\x00" + content[name + 4 :]
    yield "no VR", content[:name] + b"QC" + content[name + 2 :]
    yield "text as rows", content[: rows + 6] + b"\x08\0" + WORD.encode() + content[rows + 10 :]
    yield "no pixels", content[: content.index(b"\xe0\x7f\x10\x00")]
    yield "a character set", content.replace(b"ISO_IR 100", WORD.encode() + b"  ")
    yield (
        "a syntax",
        content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.8." + NUMBER.encode() + b".1.2\0", 1),
    )


@pytest.mark.parametrize("name", ["prostatex", "lung", "mine"])
def test_a_broken_file_tells_nothing(
    name: str,
    marked: tuple[Path, list[Dataset]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    shutil.copytree(marked[0] / name, data / name)
    path = min((data / name).rglob("*.dcm"))
    sound = path.read_bytes()
    statuses = set()
    for how, content in broken(path):
        path.write_bytes(content)
        said = Everything(tmp_path / "cache")
        statuses.add(said.invoke("datasets", "check", name, "--cases", "--data", data))
        said.said["log"] = "\n".join(map(logging.Formatter().format, caplog.records)).encode()
        assert said.holding(*TOLD) == [], how
    assert 1 in statuses
    path.write_bytes(sound)
