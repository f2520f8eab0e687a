"""Named plans of a comparison: plans from files that are compared like strategies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydrakit.errors import PlanError, one_line
from hydrakit.hooks import SequenceStrategy
from hydrakit.plan.model import Plan
from hydrakit.plan.profiles import TARGET_SPLIT, complete_options
from hydrakit.plugins.registry import Plugins
from hydrakit.stats.comparison import ComparedPlan

MAX_DIFFERENCES = 30
MAX_VALUE = 60  # characters of a value


def refuse_strategy_names(names: Mapping[str, Plan], plugins: Plugins) -> None:
    """Refuse names of plans that are names of strategies.

    Raises:
        PlanError: There is such a name.
    """
    for name in names:
        if name in plugins.all(SequenceStrategy):
            raise PlanError(
                f"--plan {name}: is the name of a strategy: choose another name for the plan"
            )


def plan_of_cell(name: str, plan: Plan, base: Plan, *, seed: int, plugins: Plugins) -> Plan:
    """A named plan with the seeds, the fold and all datasets of a cell.

    Args:
        name: Name of the plan in the comparison.
        plan: The plan, as its file has it.
        base: Plan with the datasets, the splits and their seed that all cells of a fold have.
        seed: Seed of the cell.
        plugins: Plugins with the datasets.

    Raises:
        PlanError: The plan contradicts the comparison.
        PluginError: The plan names a component that no plugin offers.
    """
    _refuse_contradictions(plan, base)
    known = {each.name: each for each in plan.datasets}
    split, ours = known[plan.target].split, base.dataset(base.target).split
    if split.model_copy(update={"used": 1.0}) == TARGET_SPLIT:  # the default: it states no wish
        split = ours.model_copy(update={"used": split.used})
    elif ours.fold is not None or ours.left_out is not None:
        tested = {"test": 0.0, "fold": ours.fold, "left_out": ours.left_out}
        split = split.model_copy(update=tested)
    datasets = (known.get(each.name, each) for each in base.datasets)
    content = {
        **dict(plan),
        "strategy": name,
        "strangers": plan.strangers or base.strangers,
        "datasets": tuple(
            each.model_copy(update={"split": split}) if each.name == plan.target else each
            for each in datasets
        ),
        "seed": seed,
        "split_seed": base.split_seed,
    }
    return complete_options(Plan.model_validate(content), plugins)


def _refuse_contradictions(plan: Plan, base: Plan) -> None:
    if plan.target != base.target:
        raise PlanError(
            f"the target of the plan is {plan.target!r}, and that of the comparison is "
            f"{base.target!r}: choose a plan for {base.target!r}"
        )
    ours = [each.name for each in base.datasets]
    for each in plan.datasets:
        if each.name not in ours:
            raise PlanError(
                f"the plan has the dataset {each.name!r}, and the comparison does not: add it to "
                "`--datasets`"
            )
    for key in ("copies", "conflicts"):
        theirs = getattr(plan, key)
        if theirs != getattr(base, key):
            raise PlanError(
                f"the plan has {key} {theirs!r}, and the comparison has {getattr(base, key)!r}: "
                f"they decide the splits, so change the plan, or give `--{key} {theirs}`"
            )
    if plan.inner is not None:
        raise PlanError("the plan is one of a search: choose the plan of a run")


def described(plans: Mapping[str, Plan], made: Mapping[str, Plan]) -> dict[str, ComparedPlan]:
    """What each named plan is.

    Args:
        plans: Named plans, as their files have them.
        made: Plan that the settings of the comparison give for the strategy that each names; absent
            where no plugin offers such a strategy.
    """
    return {
        name: ComparedPlan(
            sha256=hashlib.sha256(plan.to_json().encode()).hexdigest(),
            strategy=plan.strategy,
            rounds=len(plan.rounds),
            differences=None if name not in made else tuple(_differences(plan, made[name])),
        )
        for name, plan in plans.items()
    }


def _differences(plan: Plan, made: Plan) -> Iterator[str]:
    """Values of a plan that another one has not, as ``path=value (value of the other)``."""
    ours, theirs = dict(_values(_content(plan))), dict(_values(_content(made)))
    paths = [path for path in ours if path not in theirs or theirs[path] != ours[path]]
    for path in paths[:MAX_DIFFERENCES]:
        other = f" (there {_text(theirs[path])})" if path in theirs else ""
        yield f"{path}={_text(ours[path])}{other}"
    if len(paths) > MAX_DIFFERENCES:
        yield f"and {len(paths) - MAX_DIFFERENCES} more values"


def _content(plan: Plan) -> dict[str, Any]:
    """The values of a plan that cells do not replace."""
    content = plan.model_dump(mode="json", exclude={"seed", "split_seed", "strategy", "strangers"})
    content["datasets"] = {each.pop("name"): each for each in content["datasets"]}
    del content["datasets"][plan.target]["split"]
    content["rounds"] = {str(number): each for number, each in enumerate(content["rounds"], 1)}
    return content


def _values(value: Any, path: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _values(below, path if key == "hyperparameters" else (*path, key))
    else:
        yield ".".join(path), value


def _text(value: Any) -> str:
    return one_line(value if isinstance(value, str) else json.dumps(value), MAX_VALUE)
