"""Weights that a run begins with, of its body and of heads: from files, or from its folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from hydrakit.data.origin import splits_digest
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.errors import PlanError, WeightsError, command_line
from hydrakit.hooks import BodyFactory, DatasetAdapter
from hydrakit.models.build import build_body
from hydrakit.plan.model import BodySpec, Component, Plan
from hydrakit.plan.profiles import make_plan
from hydrakit.plan.settings import PlanSettings, make_settings
from hydrakit.plan.start import NetworkWeights, StartWeights
from hydrakit.plugins.options import resolve_options
from hydrakit.plugins.registry import Plugins, load_plugins
from hydrakit.rounds import Round
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import START, START_HEADS, RunDir
from hydrakit.schema import first_fault
from hydrakit.storage.digests import cached_digest
from hydrakit.storage.files import write_atomic
from hydrakit.training.seeds import seeded
from hydrakit.weights.folders import all_networks, is_model_folder
from hydrakit.weights.format import (
    OtherBodySpec,
    TrainingCases,
    cohort_digest,
    read_body,
    read_head,
    seen_in_training,
)
from hydrakit.weights.start import (
    StartTensors,
    check_file,
    describe,
    match_start,
    read_start,
    write_start,
)


def check_start(plan: Plan, rundir: RunDir) -> None:
    """Check that a run can have the weights that it begins with, before data is read.

    Raises:
        PlanError: Neither the run's folder nor their file has them.
        WeightsError: A head in the run's folder is another.
    """
    for number, network in enumerate(rundir.networks(plan), start=1):
        own = plan.member(number)
        if own.body_weights is not None and not (network.path / START).is_file():
            check_file(own.body_weights)
        find_heads(own, network)


def find_heads(plan: Plan, rundir: RunDir) -> dict[str, Path]:
    """Files of the heads that begin with given weights, by name.

    They are in the run's folder or, at its beginning, where the plan says.

    Raises:
        PlanError: A file is missing or was changed.
        WeightsError: A file in the run's folder is another.
    """
    files = {}
    for name, planned in plan.head_weights.items():
        path = rundir.file(f"{START_HEADS}/{name}.safetensors")
        if not path.is_file():
            path = check_file(planned)
        elif cached_digest(path).sha256 != planned.sha256:
            raise WeightsError(
                f"{path}: holds another head than that of the plan: restore it, or delete it: it "
                "is then written again"
            )
        files[name] = path
    return files


def check_start_heads(
    plan: Plan, heads: Mapping[str, Path], adapters: Mapping[str, DatasetAdapter]
) -> None:
    """Check that heads with given weights are those that the plan's rounds train.

    Raises:
        PlanError: The classes or the kind of a head are others.
        WeightsError: A file is invalid.
    """
    for name, path in heads.items():
        metadata = read_head(path)
        pairs = (zip(each.heads, each.datasets, strict=True) for each in plan.rounds)
        dataset = next(other for each in pairs for head, other in each if head == name)
        adapter = adapters[dataset]
        for what, theirs, ours in (
            ("classes", ", ".join(metadata.classes), ", ".join(adapter.classes)),
            ("task", metadata.task, adapter.task),
            ("kind", str(metadata.factory), str(plan.head_of(dataset))),
        ):
            if theirs != ours:
                raise PlanError(
                    f"{path}: its {what} ({theirs}) is not that of {dataset!r} in the plan "
                    f"({ours}): remove {name!r} from 'head_weights', or make the plan again"
                )


def find_start(
    plan: Plan, rundir: RunDir, *, in_channels: int, plugins: Plugins
) -> StartTensors | None:
    """Read the start weights of a run from its folder or, at its beginning, from their file.

    Returns:
        Tensors that the body begins with; None if they are random.

    Raises:
        PlanError: Their file is missing or was changed.
        WeightsError: The file cannot be read, or does not match the body.
    """
    planned = plan.body_weights
    if planned is None:
        return None
    datasets = tuple(dataset.name for dataset in plan.datasets)
    with seeded(plan.seed, torch.device("cpu")):
        body = build_body(plan.body, in_channels=in_channels, datasets=datasets, plugins=plugins)
    if (rundir.path / START).is_file():
        return read_start(rundir.file(START), planned, body)
    return match_start(planned, body)


def refuse_seen_images(
    start: StartTensors | None,
    heads: Mapping[str, Path],
    prepared: PreparedDataset,
    splits: Mapping[str, str],
    *,
    adapter: DatasetAdapter,
    seed: int,
    together: Collection[str],
) -> list[str]:
    """Refuse weights of a body or of heads that were trained on images of a test split.

    Args:
        start: Weights that the body begins with.
        heads: Files of the heads that begin with given weights, by name.
        prepared: Prepared dataset of the target.
        splits: Split of every case of the target, by key.
        adapter: Adapter of the target.
        seed: Seed of the splits.
        together: Datasets that are split together with the target.

    Returns:
        What users must know of weights that may have been trained on its patients.

    Raises:
        PlanError: They were. A file of version 0.1 does not name its images, and is refused if it
            was trained on a dataset of this name with another split.
    """
    name = adapter.name
    cases = prepared.index.cases
    tests = [case.content for case in cases if splits.get(case.key) == "test"]
    used: list[tuple[Path | str, TrainingCases | None]] = []
    other_split: list[tuple[Path | str, int | None]] = []
    if start is not None:
        used.append((start.match.file, start.cases))
        if start.cases is None and name in start.trained_on and start.seed != seed:
            other_split.append((start.match.file, start.seed))
    for path in heads.values():
        head = read_head(path)
        used.append((path, head.cases))
        known = (head.splits, splits_digest(splits)) if head.splits else (head.seed, seed)
        if head.cases is None and head.dataset == name and known[0] != known[1]:
            other_split.append((path, head.seed))
    for file, trained in used:
        seen = 0 if trained is None else sum(seen_in_training(tests, trained))
        if seen:
            raise PlanError(
                f"{file}: its weights were trained on {seen} of the {len(tests)} test images of "
                f"{name!r}: the test result would be too good: give weights of a run with the same "
                "splits (`--split-seed`), or of other data"
            )
    for file, own in other_split if tests else ():
        seed_option = command_line("--split-seed", own)
        remedy = "" if own is None else f"`{seed_option}` and the shares of that training"
        raise PlanError(
            f"{file}: was trained on {name!r} with another split, and does not say on which "
            f"images: the test result would be too good: give {remedy or 'weights of other data'}"
        )
    known_cohorts = {
        other
        for _, trained in used
        if trained is not None and adapter.cohort is not None
        for other, cohort in trained.cohorts.items()
        if cohort == cohort_digest(adapter.cohort) and other not in together
    }
    if not known_cohorts:
        return []
    return [
        f"the given weights were trained on {', '.join(map(repr, sorted(known_cohorts)))}, of the "
        f"same cohort {adapter.cohort!r} as {name!r}: perhaps other images of its test patients, "
        "and the test result may be too good"
    ]


def store_start(
    start: StartTensors | None, heads: Mapping[str, Path], rundir: RunDir, callbacks: RunCallback
) -> None:
    """Store the weights that a run begins with in its folder, once, and say what they are."""
    for name, path in heads.items():
        stored = rundir.path / START_HEADS / f"{name}.safetensors"
        if not stored.is_file():
            stored.parent.mkdir(exist_ok=True)
            write_atomic(stored, path.read_bytes())
    if start is None:
        return
    if not (rundir.path / START).is_file():
        write_start(rundir.path / START, start)
    for line in describe(start.match):
        callbacks.noted(line)
    if heads:
        callbacks.noted(f"the heads {', '.join(heads)} begin with given weights")


def make_plan_from(
    model: Path,
    strategy: str,
    datasets: Sequence[str],
    settings: PlanSettings | None = None,
    *,
    plugins: Plugins | None = None,
    **values: Any,
) -> Plan:
    """Make a plan that begins with a trained model in place of random weights.

    The plan takes its body, and its heads for datasets of the same name and classes. Each network
    of an ensemble begins with one of the model, in turn.

    Args:
        model: Folder of a finished run, or a folder with weights (`hydrakit.weights.folders`).
        strategy: As in `make_plan`, and so are the others.
        datasets: Names of datasets.
        settings: Settings; None uses all defaults.
        plugins: Loaded plugins; None loads the installed ones.
        values: Fields of `PlanSettings`.

    Raises:
        PlanError: As in `make_plan`, or the settings contradict the model.
        WeightsError: A file of the model is missing or invalid.
    """
    given, plugins = make_settings(settings, values), plugins or load_plugins()
    networks = networks_of(model)
    body = read_body(networks[0][0])
    for path, _ in networks[1:]:
        other = read_body(path)
        if (other.spec, other.in_channels) != (body.spec, body.in_channels):
            raise PlanError(f"{path}: is another kind of body than that of the first network")
    plan = make_plan(
        strategy, datasets, _with_body(model, body.spec, given, plugins), plugins=plugins
    )
    if plan.body.name != body.spec.name:
        raise PlanError(
            f"--from {model}: its body is {body.spec.name!r}, and strategy {strategy!r} needs "
            f"{plan.body.name!r}: choose another strategy"
        )
    factory = plugins.get(BodyFactory, plan.body.name)
    own, chosen = (resolve_options(factory, each.options) for each in (body.spec, plan.body))
    if own != chosen:  # by `--set`
        raise PlanError(
            f"--from {model}: its body is {body.spec.name!r} ({_words(own)}), and the plan's has "
            "other options: leave out the changes of the body"
        )
    first = {head: name for each in reversed(plan.rounds) for head, name in _heads_of(each)}
    kinds, begun = dict(plan.heads), list[dict[str, StartWeights]]()
    for _, heads in networks:
        weights = dict[str, StartWeights]()
        for head, name in first.items():
            adapter = plugins.get(DatasetAdapter, name)
            # A head that the first network lacks is of a `heads add` that was stopped.
            both = name in heads and name in networks[0][1]
            known = read_head(heads[name]) if both else None
            if known is None or (known.classes, known.task) != (adapter.classes, adapter.task):
                continue
            if plan.head_of(name) != known.factory:
                _refuse_other_head(model, name, known.factory, given)
                kinds[name] = known.factory
            weights[head] = StartWeights.of(heads[name])
        begun.append(weights)
    bodies = [
        StartWeights.of(path).model_copy(update={"channels": body.in_channels})
        for path, _ in networks
    ]
    changes: dict[str, Any] = {
        "heads": kinds,
        "body_weights": bodies[0],
        "head_weights": begun[0],
    }
    if plan.ensemble > 1:
        pairs = zip(bodies[1:], begun[1:], strict=True)
        members = tuple(NetworkWeights(body=each, heads=own) for each, own in pairs)
        changes["member_weights"] = members[: plan.ensemble - 1]
    if plan.rounds[0].head in begun[0] and given.bootstrap is None:
        changes["bootstrap"] = 1  # all starts would be the same
    try:
        return Plan.model_validate({**dict(plan), **changes})
    except ValidationError as error:
        raise PlanError(first_fault(error)) from None


def networks_of(model: Path) -> list[tuple[Path, dict[str, Path]]]:
    """Body and heads, by dataset, of each network of a model to build upon.

    Raises:
        PlanError: It is a run that is not finished.
        WeightsError: A file is missing or invalid.
    """
    if not is_model_folder(model):
        run = RunDir(model)
        run.plan()
        if run.results() is None:
            command = command_line("hydrakit", "run", "--resume", model)
            raise PlanError(f"{model}: is not finished: continue it with `{command}`")
    return all_networks(model)


def _heads_of(round: Round) -> list[tuple[str, str]]:
    return list(zip(round.heads, round.datasets, strict=True))


def _with_body(
    model: Path, spec: BodySpec | OtherBodySpec, given: PlanSettings, plugins: Plugins
) -> PlanSettings:
    """Settings with the body of a model.

    Raises:
        PlanError: The settings name another body, or other options of it.
    """
    if given.body_weights is not None:
        raise PlanError("--from and --body-weights both give the body: leave out one of them")
    of_paper = {"channels": given.body_channels, "norm": given.body_norm}
    options = given.body_options | {k: each for k, each in of_paper.items() if each is not None}
    factory = plugins.get(BodyFactory, spec.name)
    own = resolve_options(factory, spec.options)
    asked = resolve_options(factory, {**own, **options}) if given.body in (None, spec.name) else {}
    if asked != own:
        other = given.body if not asked else next(k for k in options if asked[k] != own[k])
        raise PlanError(
            f"--from {model}: its body is {spec.name!r} ({_words(own)}), and {other!r} is given "
            "otherwise: leave out the options of the body, or `--from`"
        )
    return given.model_copy(
        update={
            "body": spec.name,
            "body_options": {k: each for k, each in own.items() if each is not None},
            "body_channels": None,
            "body_norm": None,
        }
    )


def _words(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _refuse_other_head(model: Path, dataset: str, kind: Component, given: PlanSettings) -> None:
    """Refuse settings that choose another kind of head for a dataset than a model has."""
    options = [key for key in given.head_options if key.rpartition(".")[0] in ("", dataset)]
    if given.head is not None or dataset in given.heads or options:
        raise PlanError(
            f"--from {model}: its head for {dataset!r} is {kind}, and the options choose another: "
            "leave out `--head` and `--head-option`, or `--from`"
        )
