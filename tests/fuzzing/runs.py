"""Runs, comparisons, plans and weights of strangers, given to the commands that read them.

Each input is a change of a sound folder. The commands work on a copy of it; each must work, or end
with one line, and nothing outside of the copy may be written. What a refusal took is noted in
``refused.jsonl``: processor time, and memory beyond what the process had before.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

from fuzzing.datasets import Files, check_line
from fuzzing.memory import forget_peak, peak_memory
from fuzzing.mutators import TEXT, Mutator
from fuzzing.mutators_runs import (
    PLAN,
    RUN_JSON,
    SCORES,
    WEIGHTS,
    odd_digests,
    odd_folder,
    odd_holder,
    odd_tree,
    tamper,
)
from hydrakit.cli import main
from hydrakit.compare.design import CompareDir, Design, make_design
from hydrakit.errors import HydrakitError
from hydrakit.plan import Plan
from hydrakit.plugins import load_plugins

NOTES = "refused.jsonl"
WOULD_TRAIN = "all is set up to train"
NOT_COVERED = (
    *("environment.json", "events.jsonl", "compare.json", "comparison.json"),
    "files.json",  # changes of its spaces are none, and nothing lists that of a comparison's rounds
)
MEBIBYTES = 300  # of one command, beyond what the process had
TAMPERINGS = 12  # files that stand for a change of the folder: as many as it has of other kinds


def _beside(folder: Path) -> Path:
    """The folder with all that belongs to a target, save its sound files.

    It has ``work``, the copy that is worked on; ``new``, which commands may make; and what nothing
    may write: ``outside``, ``data``, ``site``.
    """
    return folder.with_name(f"{folder.name}-beside")


def _stand_in(folder: Path) -> None:
    """Install the stand-ins for the commands, with their data beside the folder."""
    from helpers import install_standin, write_data

    beside = _beside(folder)
    (beside / "outside").mkdir(parents=True)
    (beside / "outside" / "file").write_text("private")
    os.environ["HYDRAKIT_DATA"] = str(write_data(beside / "data"))
    sys.path.insert(0, str(install_standin(beside / "site")))
    load_plugins.cache_clear()


def _tamperings(folder: Path, count: int = TAMPERINGS, change: Mutator = odd_folder) -> Files:
    changes = [folder / f"tamper-{number:02d}" for number in range(count)]
    for path in changes:
        path.write_text("{}")
    return dict.fromkeys(changes, (change,))


def _files(folder: Path) -> Files:
    """The files of a run or a comparison, each with the mutators that know its format."""
    known = {".json": RUN_JSON, ".jsonl": RUN_JSON, ".csv": SCORES, ".safetensors": WEIGHTS}
    there = [path for path in sorted(folder.rglob("*")) if path.suffix in known]
    return {path: known[path.suffix] for path in there} | _tamperings(folder)


def _small_plan() -> Plan:
    from helpers import plan_of, round_of

    rounds = [round_of("alpha", epochs=1), round_of("beta", "head", epochs=1)]
    return plan_of(*rounds, round_of("alpha", epochs=1))


def run_folder(folder: Path) -> Files:
    from hydrakit.engine import run

    _stand_in(folder)
    run(_small_plan(), out=folder, device="cpu")
    (folder / ".lock").unlink(missing_ok=True)
    (folder / "files.json").unlink(missing_ok=True)  # so that what is read is what was changed
    for path in folder.rglob("files.json"):
        path.unlink()
    return _files(folder)


def begun_folder(folder: Path) -> Files:
    """A run that was stopped in its last round; its plan is sound, for it would be trained."""
    files = run_folder(folder)
    for name in ("results.json", "predictions.csv", "shown.safetensors", "body.safetensors"):
        (folder / name).unlink()
    for name in ("heads", "rounds/03-alpha-all"):
        shutil.rmtree(folder / name)
    return {path: own for path, own in files.items() if path.is_file() and path.stem != "plan"}


def _comparison(folder: Path) -> CompareDir:
    """A finished comparison, trained in this process."""
    from hydrakit.engine import run

    _stand_in(folder)
    here, rounds = CompareDir(folder), _beside(folder) / "rounds"
    for cell in _design().cells():
        plan = _design().plan(cell, load_plugins())
        run(plan, out=here.cell(cell), device="cpu", round_cache=rounds)
    result = CliRunner().invoke(main, _compare(folder))
    assert result.exit_code == 0, result.output
    rounds.rename(here.rounds)
    return here


def compare_folder(folder: Path) -> Files:
    here = _comparison(folder)
    shutil.rmtree(here.rounds)
    for path in [*folder.rglob("files.json"), *folder.rglob(".lock")]:
        path.unlink()
    cell = here.cell(_design().cells()[0])
    files = {p: own for p, own in _files(folder).items() if p.parent in (folder, cell)}
    return files | _tamperings(folder)


def _every_file(folder: Path) -> Files:
    """Every file below a folder, also those of killed processes, with digests where they are."""
    from helpers import of_the_dead

    holder = f"pid {of_the_dead()} on {platform.node()} since 2026-01-01T00:00:00+00:00\n"
    for here in (folder, *folder.glob("cells/*")):
        (here / "lock.holder").write_text(holder)
        (here / ".round.json.0123456789abcdef").write_text("{")
    own = {"lock.holder": (odd_holder,), "files.json": (odd_digests, *RUN_JSON)}
    files = {
        path: own.get(path.name, changes)
        for path, changes in _files(folder).items()
        if not path.name.startswith("tamper")
    }
    rest = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in files]
    files |= {path: own.get(path.name, TEXT) for path in rest if "tamper" not in path.name}
    shutil.copytree(folder, _beside(folder) / "sound")
    return files | _tamperings(folder, count=len(files) // 2, change=odd_tree)


def finished_folder(folder: Path) -> Files:
    """A finished run with digests, beside an unfinished round that a killed process left."""
    from hydrakit.engine import run

    _stand_in(folder)
    run(_small_plan(), out=folder, device="cpu")
    part = folder / "rounds" / "04-alpha-all.part"
    shutil.copytree(folder / "rounds" / "03-alpha-all", part)
    (part / "body.safetensors").rename(part / "checkpoint.safetensors")
    return _every_file(folder)


def finished_comparison(folder: Path) -> Files:
    _comparison(folder)
    first, *_ = sorted(folder.glob("cells/*"))
    shutil.copytree(first / "rounds" / "01-alpha-all", folder / "rounds" / "ab-01.part")
    files = _every_file(folder)
    files[folder / "cells" / "none.failed"] = TEXT
    (folder / "cells" / "none.failed").write_text("Traceback\nValueError: no\n")
    cells = [path for path in (folder / "cells").iterdir() if path.is_dir() and path != first]
    return {
        path: own for path, own in files.items() if not any(cell in path.parents for cell in cells)
    }


def plan_file(folder: Path) -> Files:
    _stand_in(folder)
    (folder / "plan.json").write_text(_small_plan().to_json(), encoding="utf-8")
    return {folder / "plan.json": PLAN} | _tamperings(folder, 1)


def weight_files(folder: Path) -> Files:
    files = run_folder(folder)
    kept = [folder / "body.safetensors", folder / "heads" / "alpha.safetensors"]
    for path in folder.iterdir():
        if path not in (kept[0], folder / "heads") and not path.name.startswith("tamper"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {path: files[path] for path in [*kept, *sorted(folder.glob("tamper-0[0-3]"))]}


def _design() -> Design:
    settings = {"epochs": 1, "bootstrap": 1, "body_channels": [4, 8], "profile": "recommended-0.1"}
    return make_design(
        baselines=(),
        strategies=("transfer", "classical"),
        datasets=("alpha", "beta", "alpha"),
        folds=2,
        settings=settings,
    )


def _compare(out: Path) -> list[str]:
    words = (
        "compare --strategies transfer,classical --datasets alpha,beta,alpha --folds 2 --seeds 1"
    )
    words += " --no-baselines --profile recommended-0.1 --epochs 1 --bootstrap 1"
    words += " --body-channels 4,8 --jobs 1 --device cpu --out"
    return [*words.split(), str(out)]


# Reading


def _tree(folder: Path, *, without: Sequence[str] = ()) -> dict[str, object]:
    """Every path below a folder, with what is there; links are not followed."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.name in without:
            continue
        if path.is_symlink():
            found[str(path)] = path.readlink()
        elif path.is_dir():
            found[str(path)] = "folder"
            found |= _tree(path)
        else:
            found[str(path)] = path.read_bytes()
    return found


def _copied(folder: Path) -> Path:
    """A fresh copy of the folder, with the change that one of its tamperings tells."""
    work, outside = _beside(folder) / "work", _beside(folder) / "outside"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder, work)
    told = sorted(work.glob("tamper-*"))
    changes = [path.read_bytes() for path in told]
    for path in told:
        path.unlink()
    spared = {work / "results.json", work / "plan.json", *work.glob("cells/*/results.json")}
    spared |= {parent for path in spared for parent in path.parents}
    for change in changes:
        tamper(work, change, outside=outside, spare=spared.__contains__)
    return work


def _is_sound(folder: Path, work: Path) -> bool:
    """Whether all files of a copy that have digests are as they were."""
    for path in (_beside(folder) / "sound").rglob("*"):
        if path.suffix not in (".safetensors", ".json", ".jsonl", ".csv"):
            continue
        inner = path.relative_to(_beside(folder) / "sound")
        ours = work / inner
        unfinished = any(Path(part).suffix == ".part" for part in inner.parts)
        if path.name in NOT_COVERED or path.name.startswith(".") or unfinished:
            continue
        if not ours.is_file() or ours.stat().st_size != path.stat().st_size:
            return False
        if ours.read_bytes() != path.read_bytes():
            return False
    return True


def _invoke(arguments: Sequence[str | Path], notes: Path) -> bool:
    """Whether a command works; else it has said so in one line."""
    before = forget_peak()
    began = time.process_time()
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    took, memory = time.process_time() - began, peak_memory() - before
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    name = " ".join(str(each) for each in arguments[:2] if not isinstance(each, Path))
    assert memory <= MEBIBYTES, f"{name} took {memory} MiB"
    for line in result.output.splitlines():
        assert line.isprintable(), f"{name} prints {line!r}"
    assert result.exit_code in (0, 1), f"{name}: status {result.exit_code}: {result.output[-300:]}"
    if result.exit_code == 0:
        return True
    lines = result.stderr.splitlines()
    if name == "verify" and result.stdout:  # it names what is damaged, or without a digest
        return False
    told = [line for line in lines if line.startswith("hydrakit: ")]
    assert lines, f"{name} fails and says nothing"
    assert lines[-1:] == told[-1:], f"{name}: {result.stderr[-500:]}"
    if lines[-1].endswith(WOULD_TRAIN):
        return True
    check_line(lines[-1])
    with notes.open("a") as file:
        file.write(json.dumps({"command": name, "seconds": took, "mib": memory}) + "\n")
    return False


def _commands(folder: Path, commands: Callable[[Path], Sequence[Sequence[str | Path]]]) -> str:
    return "read" if all(_run_commands(folder, commands)) else "refused"


def _run_commands(
    folder: Path, commands: Callable[[Path], Sequence[Sequence[str | Path]]]
) -> list[bool]:
    """Give a copy of the folder to some commands, one after another; which of them work."""
    beside = _beside(folder)
    before = _tree(beside, without=("work",)) | _tree(folder)
    listed = {path.name for path in folder.parent.iterdir()}
    work = _copied(folder)
    worked = [_invoke(each, folder.parent / NOTES) for each in commands(work)]
    shutil.rmtree(beside / "new", ignore_errors=True)
    after = _tree(beside, without=("work",)) | _tree(folder)
    changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    assert not changed, f"wrote outside: {changed[:3]}"
    new = {path.name for path in folder.parent.iterdir()} - listed
    assert new <= {NOTES, "cache"}, f"wrote beside: {new}"
    return worked


def read_run(folder: Path) -> str:
    return _commands(
        folder,
        lambda run: [
            ["report", run, "--figures", _beside(folder) / "new" / "figures"],
            ["evaluate", run, "--device", "cpu"],
            ["run", "--resume", run, "--device", "cpu"],
        ],
    )


def read_begun(folder: Path) -> str:
    return _commands(
        folder, lambda run: [["report", run], ["run", "--resume", run, "--device", "cpu"]]
    )


def read_comparison(folder: Path) -> str:
    from helpers import cells_here

    with cells_here():
        return _commands(folder, lambda here: [["report", here], _compare(here)])


def read_finished(folder: Path) -> str:
    """What is done with a finished run: nothing may be called sound that is not."""
    sound: list[bool] = []

    def commands(work: Path) -> list[list[str | Path]]:
        sound.append(_is_sound(folder, work))
        listed: list[list[str | Path]] = [
            [name, work, *more] for name in ("status", "verify") for more in ((), ("--json",))
        ]
        return [*listed, ["clean", work, "--yes"], ["status", work]]

    worked = _run_commands(folder, commands)
    assert sound[0] or not any(worked[2:4]), "verify calls a changed folder sound"
    return "read" if all(worked) else "refused"


def read_weight_files(folder: Path) -> str:
    out = _beside(folder) / "new" / "swapped"

    def commands(files: Path) -> list[list[str | Path]]:
        body, head = files / "body.safetensors", files / "heads" / "alpha.safetensors"
        pair: list[str | Path] = ["--body", body, "--head", head]
        return [
            ["weights", "inspect", body],
            ["weights", "inspect", head, "--json"],
            ["weights", "swap", *pair, "--out", out],
            ["evaluate", *pair, "--device", "cpu", "--split", "all"],
        ]

    return _commands(folder, commands)


def _no_training(session: object) -> None:
    """In the place of training: what is set up before it."""
    from hydrakit.models.body import PaperBody

    PaperBody(session.plan.body, in_channels=session.datasets.channels, dropout=0.0)  # type: ignore[attr-defined]
    raise HydrakitError(WOULD_TRAIN)


def read_plan_file(folder: Path) -> str:
    work = _beside(folder) / "work"
    arguments = ["run", "--plan", work / "plan.json", "--out", work / "run", "--device", "cpu"]
    with mock.patch("hydrakit.runs.session.Session.run", _no_training):
        return _commands(folder, lambda _: [arguments])
