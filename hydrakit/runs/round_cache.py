"""A folder of rounds that several runs share, so that each is trained once.

For example, the first round of `hydra`, `transfer` and `classical` is the same training. The folder
stores each round under a key: a digest of everything that decides its result (the rounds up to it,
data, splits, seed, and the software that computed it). If the folder has a round with the same key,
a run copies it instead of training; the files are those that it would have written itself.

The key contains heads by their order and not by their names, which do not influence training.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrakit.data.origin import splits_digest
from hydrakit.errors import PlanError
from hydrakit.hooks import BodyFactory, HeadFactory, Normalise
from hydrakit.plan.model import BodySpec, Plan
from hydrakit.plan.results import RoundResult
from hydrakit.plan.start import facts_of
from hydrakit.storage.digests import damaged_files, update_digests
from hydrakit.storage.files import copy, patiently, sync_folder
from hydrakit.storage.records import read_record, write_record
from hydrakit.version import version

if TYPE_CHECKING:
    from hydrakit.compute.devices import Compute
    from hydrakit.data.channels import ChannelFit
    from hydrakit.plugins.registry import PluginRecord, Plugins
    from hydrakit.rounds import Round
    from hydrakit.runs.rundir import RunDir

FORMAT = 1  # version of the key; to be increased when the content of the key changes


def key_of(
    plan: Plan,
    number: int,
    *,
    contents: Mapping[str, str],
    rules: Mapping[str, Normalise],
    splits: Mapping[str, Mapping[str, str]],
    fits: Mapping[str, ChannelFit],
    compute: Compute,
    plugins: Plugins,
) -> str:
    """Key of a round, 64 hexadecimal digits: rounds with the same key have equal files.

    Args:
        plan: Plan of the run.
        number: Number of the round, from 1.
        contents: Content digests of the prepared datasets, by name.
        rules: How their grey values are normalised, by name.
        splits: Split of every case, by dataset and case key.
        fits: What becomes of the images of datasets with other channels than the body, by name.
        compute: Device and precision of the run.
        plugins: Plugins that offer the plan's heads.
    """
    facts = {
        **_of_plan(plan, number, contents, rules=rules, splits=splits, fits=fits),
        **_of_machine(plan, compute, plugins),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load(folder: Path, key: str, rundir: RunDir, number: int, round: Round) -> bool:
    """Copy a round into a run's folder, if the folder of shared rounds contains it.

    Raises:
        PlanError: A file of the round was changed after it was stored.
        OSError: The round cannot be copied.
    """
    stored = folder / key
    if not stored.is_dir():
        return False
    for name, wrong in damaged_files(stored):
        raise PlanError(
            f"{stored / name}: {wrong}: delete {stored} and run again, which trains the round again"
        )
    with rundir.writing_round(number, round) as new:
        _copy_files(stored, new)
        _rename_head(new, round.head)
        update_digests(new, renewed=["round.json"])
    return True


def store(folder: Path, key: str, rundir: RunDir, number: int, plan: Plan) -> None:
    """Copy a finished round of a run into the folder of shared rounds.

    Raises:
        OSError: The folder cannot be written.
    """
    round, final = plan.rounds[number - 1], folder / key
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{key[:16]}-{secrets.token_hex(8)}.part"
    part.mkdir()
    _copy_files(rundir.round_path(number, round), part)
    _rename_head(part, _heads(plan, number)[round.head])
    update_digests(part, renewed=["round.json"], plan=None)
    sync_folder(part)
    try:
        patiently(lambda: part.rename(final))
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(part)  # another run has stored the same round at the same time
    sync_folder(folder)


def _of_plan(
    plan: Plan,
    number: int,
    contents: Mapping[str, str],
    *,
    rules: Mapping[str, Normalise],
    splits: Mapping[str, Mapping[str, str]],
    fits: Mapping[str, ChannelFit],
) -> dict[str, Any]:
    """Part of the key that describes the plan and its data."""
    from hydrakit.data.load import PAPER_SIDE  # imports torch

    rounds = plan.rounds[:number]
    seen = list(dict.fromkeys(name for round in rounds for name in round.datasets))
    heads = _heads(plan, number)
    renamed = []
    for round in rounds:
        others = [o.model_copy(update={"head": heads[o.head]}) for o in round.others]
        update = {"head": heads[round.head], "others": tuple(others)}
        renamed.append(round.model_copy(update=update).model_dump(mode="json"))
    other_rules = {name: str(rules[name]) for name in seen if rules[name] != "patient"}
    stored = plan.model_dump(mode="json")
    other_heads = {name: head for name, head in stored.get("heads", {}).items() if name in seen}
    begun = facts_of({heads[n]: each for n, each in plan.head_weights.items() if n in heads})
    # The content of a dataset tells grey images from those in colour.
    channels = {
        name: str(fits[name]) for name in seen if name in fits and fits[name].rule != "grey"
    }
    # Datasets that the body is built for. The paper's body needs them only for separate norms.
    by_dataset = not isinstance(plan.body, BodySpec) or plan.body.norm == "dataset"
    return {
        "format": FORMAT,
        "rounds": renamed,
        "reference": plan.rounds[0].dataset == plan.target,
        "seed": plan.seed,
        "dealt by": plan.effective_split_seed,
        "copies": plan.copies,
        **({"conflicts": plan.conflicts} if plan.conflicts == "drop" else {}),
        **({"test views": plan.test_views} if plan.test_views > 1 else {}),  # in heads' files
        "bootstrap": [plan.bootstrap, plan.bootstrap_rule],
        "head": stored["head"],
        **({"heads": other_heads} if other_heads else {}),
        "body": stored["body"],
        **({"body weights": plan.body_weights.facts} if plan.body_weights else {}),
        **({"head weights": begun} if begun else {}),
        "body's datasets": [dataset.name for dataset in plan.datasets] if by_dataset else [],
        "datasets": [plan.dataset(name).model_dump(mode="json") for name in seen],
        **({"channels": channels} if channels else {}),
        "content": [contents[name] for name in seen],
        # Left out for the rule that earlier versions had, so that their keys stay valid.
        **({"normalise": other_rules} if other_rules else {}),
        "splits": [splits_digest(splits[name]) for name in seen],
        # Version 0.1 took more of them at a time, which gives other last bits.
        **({"batches of": "pixels"} if plan.patch > PAPER_SIDE else {}),
    }


def _of_machine(plan: Plan, compute: Compute, plugins: Plugins) -> dict[str, Any]:
    """Part of the key that describes the machine and the installed versions."""
    import torch

    heads = {plan.head_of(dataset.name).name for dataset in plan.datasets}
    heads_by = [_version(each) for each in plugins.records if heads & {*each.offered(HeadFactory)}]
    body_by = [
        _version(each) for each in plugins.records if plan.body.name in each.offered(BodyFactory)
    ]
    return {
        "hydrakit": version(),
        "torch": torch.__version__,
        "head by": heads_by,
        # Left out for the paper's body, so that keys written by earlier versions stay valid.
        **({} if isinstance(plan.body, BodySpec) else {"body by": body_by}),
        "device": compute.device.type,
        "precision": compute.precision,
        "deterministic": compute.deterministic,
        "compiled": compute.compiled,
    }


def _version(record: PluginRecord) -> str:
    return f"{record.distribution} {record.version}"


def _heads(plan: Plan, number: int) -> dict[str, str]:
    """Names for the heads of the first rounds, by their order."""
    names = dict.fromkeys(name for round in plan.rounds[:number] for name in round.heads)
    return {name: f"head-{index}" for index, name in enumerate(names)}


def _copy_files(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()):
        copy(path, target / path.name)


def _rename_head(folder: Path, name: str) -> None:
    path = folder / "round.json"
    remedy = "delete the folder of shared rounds that it came from, and run again"
    result = read_record(path, RoundResult, remedy=remedy)
    write_record(path, result.model_copy(update={"head": name}))
