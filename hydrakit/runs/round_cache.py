"""Rounds that several runs have in common: trained once, and kept by all that decides them.

The first round of `hydra`, `transfer` and `classical` is one and the same training. A folder of
rounds holds such rounds under a key: a digest of the rounds so far, the data and splits that they
saw, the seed, and what computed them. A run that comes to a round whose key is there copies it in
place of training; the files are those that it would have written itself.

Heads are told apart by the order in which they appear, not by their names, which decide nothing.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrakit.data.quality.leakage import splits_digest
from hydrakit.errors import PlanError
from hydrakit.hooks import BodyFactory, HeadFactory
from hydrakit.plan.model import BodySpec, Plan
from hydrakit.plan.results import RoundResult
from hydrakit.storage.digests import damaged_files, update_digests
from hydrakit.storage.files import copy, read_json, sync_folder, write_atomic
from hydrakit.version import version

if TYPE_CHECKING:
    from hydrakit.runs.session import Session

FORMAT = 1  # of the key; changes with what a round is decided by


def key_of(session: Session, number: int) -> str:
    """What decides a round, as 64 hexadecimal digits: rounds of one key give equal files.

    Args:
        session: The run.
        number: Of the round, from 1.
    """
    text = json.dumps({**_of_plan(session, number), **_of_machine(session)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(session: Session, number: int) -> bool:
    """Take a round from the session's folder of shared rounds, if it has one and it is there.

    Raises:
        PlanError: A file of it was changed since it was put there.
        OSError: It cannot be copied.
    """
    if session.shared is None:
        return False
    round, key = session.plan.rounds[number - 1], key_of(session, number)
    kept = session.shared / key
    if not kept.is_dir():
        return False
    for name, wrong in damaged_files(kept):
        raise PlanError(f"{kept / name}: {wrong}: delete {kept} and run again, which trains anew")
    with session.rundir.writing_round(number, round) as folder:
        _copy_files(kept, folder)
        _rename_head(folder, round.head)
        update_digests(folder, renewed=["round.json"])
    session.rundir.log("round shared", round=number, key=key)
    session.watcher.skipped(number, round)
    return True


def store(session: Session, number: int) -> None:
    """Put a finished round into the session's folder of shared rounds, if it has one.

    One that was traced on the test split is kept to its own run.

    Raises:
        OSError: It cannot be written.
    """
    if session.shared is None or session.trace:  # a trace holds test figures: not for others
        return
    plan, key = session.plan, key_of(session, number)
    round, final = plan.rounds[number - 1], session.shared / key
    session.shared.mkdir(parents=True, exist_ok=True)
    part = session.shared / f"{key[:16]}-{secrets.token_hex(8)}.part"
    part.mkdir()
    _copy_files(session.rundir.round_path(number, round), part)
    _rename_head(part, _heads(plan, number)[round.head])
    update_digests(part, renewed=["round.json"], plan=None)
    sync_folder(part)
    try:
        part.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(part)  # two runs at once: what the other put there is the same
    sync_folder(session.shared)


def _of_plan(session: Session, number: int) -> dict[str, Any]:
    """What a plan and its data decide of a round."""
    plan, rounds = session.plan, session.plan.rounds[:number]
    seen = list(dict.fromkeys(name for round in rounds for name in round.datasets))
    heads = _heads(plan, number)
    named = []
    for round in rounds:
        others = [o.model_copy(update={"head": heads[o.head]}) for o in round.others]
        update = {"head": heads[round.head], "others": tuple(others)}
        named.append(round.model_copy(update=update).model_dump(mode="json"))
    told = plan.model_dump(mode="json")
    # What the body is built for; the paper's takes note of datasets where it keeps them apart.
    apart = not isinstance(plan.body, BodySpec) or plan.body.norm == "dataset"
    return {
        "format": FORMAT,
        "rounds": named,
        "reference": plan.rounds[0].dataset == plan.target,
        "seed": plan.seed,
        "dealt by": plan.effective_split_seed,
        "copies": plan.copies,
        "bootstrap": [plan.bootstrap, plan.bootstrap_rule],
        "head": told["head"],
        "heads": {name: each for name, each in told.get("heads", {}).items() if name in seen},
        "body": told["body"],
        "body's datasets": [dataset.name for dataset in plan.datasets] if apart else [],
        "datasets": [plan.dataset(name).model_dump(mode="json") for name in seen],
        "content": [session.prepared[name].index.content for name in seen],
        "splits": [splits_digest(session.loaded[name].splits) for name in seen],
    }


def _of_machine(session: Session) -> dict[str, Any]:
    """What computes a round, as far as it decides the result."""
    import torch

    plan, compute = session.plan, session.compute
    heads = {plan.head_of(dataset.name).name for dataset in plan.datasets}
    return {
        "hydrakit": version(),
        "torch": torch.__version__,
        "built by": [
            f"{plugin.distribution} {plugin.version}"
            for plugin in session.plugins.records
            if heads & {*plugin.offered(HeadFactory)}
            or plan.body.name in plugin.offered(BodyFactory)
        ],
        "device": compute.device.type,
        "precision": compute.precision,
        "deterministic": compute.deterministic,
        "compiled": compute.compiled,
    }


def _heads(plan: Plan, number: int) -> dict[str, str]:
    """Names for the heads of the first rounds that tell of their order alone."""
    names = dict.fromkeys(name for round in plan.rounds[:number] for name in round.heads)
    return {name: f"head-{index}" for index, name in enumerate(names)}


def _copy_files(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()):
        copy(path, target / path.name)


def _rename_head(folder: Path, name: str) -> None:
    path = folder / "round.json"
    try:
        result = RoundResult.model_validate_json(read_json(path))
    except (OSError, ValueError):
        raise PlanError(
            f"{path}: cannot be read: delete the folder of shared rounds that it came from, and "
            "run again"
        ) from None
    renamed = result.model_copy(update={"head": name})
    write_atomic(path, renamed.model_dump_json(indent=2).encode())
