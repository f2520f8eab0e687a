"""What is fuzzed: each target's sound files, and the public entry that reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzzing.datasets import (
    Files,
    archive,
    arrays,
    check_line,
    colour,
    declaration,
    declared,
    dicom_files,
    dicom_frames,
    lung_images,
    lung_sheets,
    lung_workbooks,
    mixture,
    odd_dicom,
    patterns,
    pictures,
    prostate_images,
    prostate_sheet,
    read_guess,
    shipped,
    table,
    volumes,
)
from fuzzing.mutators import JSON, odd_safetensors
from fuzzing.mutators_images import JPEG, PNG, TIFF
from fuzzing.runs import (
    begun_folder,
    compare_folder,
    finished_comparison,
    finished_folder,
    plan_file,
    read_begun,
    read_comparison,
    read_finished,
    read_plan_file,
    read_run,
    read_weight_files,
    run_folder,
    weight_files,
)
from hydrakit.errors import HydrakitError


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something to fuzz.

    Attributes:
        inputs: How many in the whole test.
        build: Writes the sound files into a new folder, and gives those that are to be mutated,
            each with the mutators that know its format.
        read: Reads them through a public entry; gives ``read`` or ``unusable``.
    """

    inputs: int
    build: Callable[[Path], Files]
    read: Callable[[Path], str]


# Weight files and plans


def weights(folder: Path) -> Files:
    import torch
    from helpers import BODY

    from hydrakit.hooks import FieldOfView
    from hydrakit.models.body import PaperBody
    from hydrakit.models.heads import build_mlp
    from hydrakit.weights import Preprocessing, save_body, save_head

    torch.manual_seed(0)
    body = PaperBody(BODY, in_channels=1, dropout=0.0)
    save_body(folder / "body.safetensors", body, trained_on=("brain",), seed=1)
    needs = Preprocessing(
        patch=BODY.patch, channels=1, field_of_view=FieldOfView(share=1.0), normalisation="z-score"
    )
    save_head(
        folder / "head.safetensors",
        build_mlp(BODY.features, 2),
        body=body,
        dataset="brain",
        classes=("no", "yes"),
        factory="mlp",
        preprocessing=needs,
    )
    return {folder / f"{name}.safetensors": (odd_safetensors,) for name in ("body", "head")}


def read_weights(folder: Path) -> str:
    """All that reads weights; the most that any of them does is refuse."""
    from hydrakit.weights import load_body, load_head, load_model, read_metadata, swap

    out = folder.parent / "swapped"
    shutil.rmtree(out, ignore_errors=True)
    body, head = folder / "body.safetensors", folder / "head.safetensors"
    refusals: list[HydrakitError] = []
    entries: list[Callable[[], object]] = [
        *(lambda: read_metadata(body), lambda: read_metadata(head)),
        *(lambda: load_body(body), lambda: load_head(head)),
        *(lambda: load_model(body, head), lambda: swap(body, head, out)),
    ]
    for entry in entries:
        try:
            entry()
        except HydrakitError as error:
            check_line(str(error), folder)
            refusals.append(error)
    if refusals:
        assert not out.exists() or not any(out.rglob("*.safetensors")), "swapped, though refused"
        raise refusals[-1]
    written = {path.relative_to(out).parts[0] for path in out.rglob("*.safetensors")}
    assert written == {"body.safetensors", "heads"}, written
    return "read"


def plan(folder: Path) -> Files:
    from helpers import hydra_plan

    (folder / "plan.json").write_text(hydra_plan().to_json(), encoding="utf-8")
    return {folder / "plan.json": JSON}


def read_plan(folder: Path) -> str:
    from hydrakit.plan import load_plan

    found = load_plan(folder / "plan.json")
    (folder / "again.json").write_text(found.to_json(), encoding="utf-8")
    assert load_plan(folder / "again.json").digest() == found.digest()
    return "read"


TARGETS: dict[str, Target] = {
    "dicom-prostatex": Target(inputs=1500, build=prostate_images, read=shipped("prostatex")),
    "dicom-channels": Target(
        inputs=700, build=prostate_images, read=shipped("prostatex", sequences="dwi,t2,adc")
    ),
    "dicom-lung": Target(inputs=1000, build=lung_images, read=shipped("lung", slices="3")),
    "dicom-declared": Target(inputs=2000, build=dicom_files, read=declared),
    "dicom-compressed": Target(inputs=2000, build=dicom_frames, read=declared),
    "dicom-collection": Target(inputs=150, build=odd_dicom, read=declared),
    "jpeg": Target(inputs=1500, build=pictures("JPEG", JPEG), read=declared),
    "png": Target(inputs=1500, build=pictures("PNG", PNG), read=declared),
    "png-colour": Target(inputs=500, build=colour(pictures("PNG", PNG)), read=declared),
    "tiff": Target(inputs=1000, build=pictures("TIFF", TIFF), read=declared),
    "npy": Target(inputs=1000, build=arrays, read=declared),
    "nifti": Target(inputs=500, build=volumes(".nii"), read=declared),
    "nifti-packed": Target(inputs=500, build=volumes(".nii.gz"), read=declared),
    "nrrd": Target(inputs=500, build=volumes(".nrrd"), read=declared),
    "nrrd-files": Target(inputs=500, build=volumes(".nhdr"), read=declared),
    "metaimage": Target(inputs=500, build=volumes(".mha"), read=declared),
    "metaimage-files": Target(inputs=500, build=volumes(".mhd"), read=declared),
    "npz": Target(inputs=800, build=archive, read=declared),
    "xlsx": Target(inputs=900, build=lung_workbooks, read=shipped("lung")),
    "csv-lung": Target(inputs=800, build=lung_sheets, read=shipped("lung")),
    "csv-findings": Target(inputs=800, build=prostate_sheet("Findings"), read=shipped("prostatex")),
    "csv-images": Target(inputs=800, build=prostate_sheet("Images"), read=shipped("prostatex")),
    "csv-cases": Target(inputs=1200, build=table, read=declared),
    "toml": Target(inputs=1200, build=declaration, read=declared),
    "toml-pattern": Target(inputs=800, build=patterns, read=declared),
    "guess": Target(inputs=300, build=mixture, read=read_guess),
    "safetensors": Target(inputs=1200, build=weights, read=read_weights),
    "plan": Target(inputs=1000, build=plan, read=read_plan),
    "run": Target(inputs=400, build=run_folder, read=read_run),
    "run-begun": Target(inputs=100, build=begun_folder, read=read_begun),
    "run-plan": Target(inputs=300, build=plan_file, read=read_plan_file),
    "weights": Target(inputs=300, build=weight_files, read=read_weight_files),
    "run-finished": Target(inputs=400, build=finished_folder, read=read_finished),
    "comparison-finished": Target(inputs=120, build=finished_comparison, read=read_finished),
    "comparison": Target(inputs=200, build=compare_folder, read=read_comparison),
}
