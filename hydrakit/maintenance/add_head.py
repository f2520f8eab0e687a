"""Adding a head to a trained model: its body stays frozen, and the rest untouched."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrakit import weights
from hydrakit.engine import default_out, run
from hydrakit.errors import PlanError, command_line
from hydrakit.plan.results import Results
from hydrakit.plan.settings import PlanSettings, make_settings
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.expected import figures_of
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.start import make_plan_from, networks_of
from hydrakit.storage.files import patiently, write_atomic
from hydrakit.version import version
from hydrakit.weights.description import ModelDescription, read_model_description
from hydrakit.weights.folders import BODY, HEADS, MEMBERS, is_model_folder
from hydrakit.weights.format import read_body, read_head

STRATEGY = "head"


@dataclass(frozen=True)
class AddedHead:
    """A head that was added to a model.

    Attributes:
        model: Folder of the model, which has the head now.
        run: Folder of the run that trained the head.
        left_out: Datasets of heads that were not copied from a run, since they do not belong to its
            final body.
    """

    model: Path
    run: RunDir
    left_out: tuple[str, ...] = ()


def add_head(
    model: str | Path,
    dataset: str,
    context: RunContext | None = None,
    *,
    out: str | Path | None = None,
    run_out: str | Path | None = None,
    settings: PlanSettings | None = None,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> AddedHead:
    """Train a head for a further dataset on the frozen body of a model, and add it to the model.

    Of an ensemble, each network gets a head. The training is a run of the strategy ``head``, with
    its own split, test and report; if it was stopped, the same call continues it.

    Args:
        model: Folder of a finished run, or a folder with weights (`hydrakit.weights.folders`).
        dataset: Name of the dataset.
        context: Where and how to compute; None for the defaults.
        out: New folder for a copy of the model with the head. None adds the head to ``model``
            itself, which must be no run.
        run_out: Folder of the run that trains the head; None for `hydrakit.engine.default_out`.
        settings: Settings of the plan; None uses all defaults.
        callbacks: Callbacks for the events of the run.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: The model has such a head, its body cannot be frozen for another dataset, or a
            folder cannot be used.
        HydrakitError: The run that trains the head is refused (`hydrakit.engine.run`).
    """
    model, out = Path(model), None if out is None else Path(out)
    context = context_of(context, values)
    plugins = plugins or context.plugins()
    networks = networks_of(model)
    if dataset in networks[0][1]:  # others may have one of a command that was stopped
        raise PlanError(f"{model}: has a head for {dataset!r} already: name another dataset")
    if out is None and not is_model_folder(model):
        raise PlanError(
            f"{model}: is a run, which stays as it is: name a new folder for the model with the "
            "further head (`--out`)"
        )
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PlanError(f"{out}: is not empty: name a new folder")
    if weights.load_body(networks[0][0], plugins=plugins).by_dataset:
        command = command_line("hydrakit", "run", "--from", model)
        raise PlanError(
            f"{networks[0][0]}: has separate statistics for each of its datasets, and none for "
            f"{dataset!r}: train it further with `{command}`"
        )
    fixed = make_settings(settings, {"ensemble": len(networks), "recentre": False})
    plan = make_plan_from(model, STRATEGY, [dataset], fixed, plugins=plugins)
    rundir = run(
        plan,
        context,
        out=default_out(plan) if run_out is None else Path(run_out),
        callbacks=callbacks,
        plugins=plugins,
    )
    trained = [each.head_path(plan.target_head) for each in rundir.networks(plan)]
    for (body, _), head in zip(networks, trained, strict=True):
        if read_body(body).digest != read_head(head).body:
            raise PlanError(f"{head}: was not trained on {body}: delete {rundir.path}, and repeat")
    results = rundir.results()
    assert results is not None
    fitting = _fitting(networks)
    description = _description(model, len(networks), results, [*fitting, dataset])
    if out is None:
        # The first network's head comes last: only then the model has the head.
        description.write(model)
        for (body, _), head in reversed(list(zip(networks, trained, strict=True))):
            write_atomic(body.parent / HEADS / f"{dataset}.safetensors", head.read_bytes())
        return AddedHead(model, rundir)
    _write_copy(networks, trained, out, dataset=dataset, description=description, fitting=fitting)
    left_out = (name for _, heads in networks for name in heads if name not in fitting)
    return AddedHead(out, rundir, tuple(dict.fromkeys(left_out)))


def _fitting(networks: Sequence[tuple[Path, dict[str, Path]]]) -> list[str]:
    """Datasets whose heads belong to the bodies of all networks."""
    digests = [read_body(body).digest for body, _ in networks]
    return [
        name
        for name in networks[0][1]
        if all(
            name in heads and read_head(heads[name]).body == digest
            for digest, (_, heads) in zip(digests, networks, strict=True)
        )
    ]


def _write_copy(
    networks: Sequence[tuple[Path, dict[str, Path]]],
    trained: Sequence[Path],
    out: Path,
    *,
    dataset: str,
    description: ModelDescription,
    fitting: Sequence[str],
) -> None:
    """Write a model with a further head into a new folder, which appears complete or not at all.

    Of its own heads it gets those of ``fitting`` alone.
    """
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for number, ((body, heads), head) in enumerate(zip(networks, trained, strict=True), start=1):
        folder = new if number == 1 else new / MEMBERS / str(number)
        (folder / HEADS).mkdir(parents=True)
        write_atomic(folder / BODY, body.read_bytes())
        for name in fitting:
            write_atomic(folder / HEADS / f"{name}.safetensors", heads[name].read_bytes())
        write_atomic(folder / HEADS / f"{dataset}.safetensors", head.read_bytes())
    description.write(new)
    patiently(lambda: new.rename(out))


def _description(
    model: Path, networks: int, results: Results, heads: Sequence[str]
) -> ModelDescription:
    """Description of a model with a further head, with the expected figures of its heads."""
    if is_model_folder(model):
        known = read_model_description(model)
        of_model = known.expected if known is not None else {}
    else:
        known, own = None, RunDir(model).results()
        assert own is not None
        of_model = {name: each for name, each in figures_of(own).items() if name in heads}
        known = ModelDescription(
            hydrakit=version(),
            made_by="run",
            strategy=own.strategy,
            target=own.target,
            networks=networks,
        )
    if known is None:
        known = ModelDescription(
            hydrakit=version(), made_by="swap", target=results.target, networks=networks
        )
    expected = {**of_model, results.target: figures_of(results)[results.target]}
    return known.model_copy(update={"expected": expected})
