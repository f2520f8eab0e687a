"""Makes the runs that tests of later versions must still be able to use:

    python tests/golden/make.py

For each minor version there is a folder beside this file (``0.1``), with the data of two stand-ins
(`helpers.write_dataset`), a finished run, and one that was stopped within its last round. A folder
is made again only while its version is not released.
"""  # fmt: skip

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from helpers import StopError, plan_of, plugins, round_of, run_plan, write_dataset

import hydrakit
from hydrakit.plan import BodySpec, Round
from hydrakit.plan.results import EpochRecord
from hydrakit.runs.callbacks import RunCallback

HERE = Path(__file__).parent
PLAN = plan_of(
    round_of("beta", epochs=2), round_of("alpha", "head", carry_head="last"),
    round_of("alpha", epochs=3), body=BodySpec(channels=(2, 4), features=4, patch=16),
)  # fmt: skip
LEFT_OUT = ("report.html", "log.txt", ".lock")
"""Is made again, tells of the machine, or says nothing."""


class Stop(RunCallback):
    """Stops in the third epoch of the last round."""

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        if (number, record.epoch) == (3, 3):
            raise StopError


def make(folder: Path) -> None:
    """All of one version."""
    shutil.rmtree(folder, ignore_errors=True)
    data = folder / "data"
    for seed, name in enumerate(("alpha", "beta")):
        write_dataset(data / name, seed=seed, patients=15)
        with np.load(data / name / "cases.npz") as stored:
            arrays = dict(stored)
        np.savez_compressed(data / name / "cases.npz", **arrays)
    with tempfile.TemporaryDirectory() as cache:
        places = {"data": data, "cache": Path(cache), "plugins": plugins()}
        run_plan(PLAN, folder / "finished", **places)
        with suppress(StopError):
            run_plan(PLAN, folder / "stopped", callbacks=[Stop()], checkpoint_interval=0, **places)
    for path in folder.rglob("*"):
        if path.name in LEFT_OUT:
            path.unlink()
    for run in ("finished", "stopped"):
        path = folder / run / "environment.json"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(os.fspath(data), "/gone"), encoding="utf-8")


if __name__ == "__main__":
    make(HERE / ".".join(hydrakit.__version__.split(".")[:2]))
