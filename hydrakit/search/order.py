"""Search for supports that help a target, and their order, on the validation split of the target.

Every order is trained as a run without a test; rounds that runs have in common are trained once.
The score of the best of many orders is optimistic, so each support of the chosen order is then left
out in turn, which gives the difference with a confidence interval.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.edit import FIXED_PATHS, edit_existing_rounds, edit_plan, refuse_fixed
from hydrakit.plan.model import Plan
from hydrakit.plan.profiles import complete_options, make_plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.earlier import with_threads
from hydrakit.schema import Frozen, Name
from hydrakit.search.launched import context_here, launch_of
from hydrakit.search.order_evaluator import LeaveOneOut, OrderEvaluator, Supports
from hydrakit.stats.chance import best_of_chance
from hydrakit.storage.files import write_atomic
from hydrakit.storage.lock import is_first_file, locked
from hydrakit.storage.records import read_record, writable
from hydrakit.version import version

BUDGET = 20


class TriedOrder(Frozen):
    """An order of supports with its scores.

    Attributes:
        supports: Supports in order, between the first and the last rounds of the target.
        scores: Validation AUC (R2 in regression) of the last round, by seed.
        score: Mean of the scores.
        seconds: Training time, without that of rounds that were trained for another order.
    """

    supports: tuple[Name, ...]
    scores: tuple[float, ...]
    score: float
    seconds: float


class OrderResult(Frozen):
    """Content of ``order.json``.

    Attributes:
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote the file.
        base: SHA-256 of everything that all orders have in common.
        strategy: Strategy to train each order with.
        target: Target dataset, which orders are evaluated on.
        supports: Supports to choose from.
        seeds: Seeds of the runs of each order.
        budget: Maximum number of runs; None for no limit.
        minutes: Maximum training time, added up over all orders; None for no limit.
        search: ``every`` order, those with few supports first; or ``greedy``: the best support is
            added at the end, one at a time, before other orders. A search with a time limit is
            greedy.
        possible: Number of possible orders.
        tried: Orders that were tried, in order of the search.
        earlier: Further orders of an earlier search in this folder with another budget; none of
            them is chosen.
        chosen: Supports of the best order: highest score, then fewest supports.
        left_out: Effect of each support of the chosen order.
        left_out_runs: Number of runs to leave out supports, in addition to the budget.
        luck: Expected best AUC of random classifiers, as many as tried orders, on the validation
            cases; None unless the target has two classes.
        finished: Whether the search is finished.
        threads: Number of CPU threads of the runs; None in older versions.
    """

    format: Literal[1] = 1
    hydrakit: str
    base: str
    strategy: Name
    target: Name
    supports: tuple[Name, ...]
    seeds: tuple[int, ...]
    budget: int | None
    minutes: float | None
    search: Literal["every", "greedy"]
    possible: int
    tried: tuple[TriedOrder, ...] = ()
    earlier: tuple[TriedOrder, ...] = ()
    chosen: tuple[Name, ...] = ()
    left_out: tuple[LeaveOneOut, ...] = ()
    left_out_runs: int = 0
    luck: float | None = None
    finished: bool = False
    threads: int | None = None


def count_orders(supports: int) -> int:
    """Number of orders of all subsets of supports, including the empty one."""
    return sum(math.perm(supports, size) for size in range(supports + 1))


Stages = Iterator[Iterable[Supports]]
"""Orders in groups; those of a group can be trained at the same time."""


def smallest_first(supports: Sequence[str]) -> Stages:
    """Yield every order of every subset of supports, small subsets first.

    Orders of one size are a stage. They share rounds with those of the stage before.
    """
    for size in range(len(supports) + 1):
        yield permutations(supports, size)


def greedy(supports: Sequence[str], score: Callable[[Supports], float]) -> Stages:
    """Yield orders that add the best support at the end, one at a time; then all other orders.

    Args:
        supports: Supports to choose from.
        score: Function that returns the score of an order of an earlier stage.
    """
    yielded: set[Supports] = {()}
    yield [()]
    best: Supports = ()
    while len(best) < len(supports):
        longer = [(*best, each) for each in supports if each not in best]
        yielded.update(longer)
        yield longer
        best = max(longer, key=score)
    for stage in smallest_first(supports):
        yield (order for order in stage if order not in yielded)


@dataclass(frozen=True)
class Limits:
    """Limits of a search.

    Attributes:
        runs: Maximum number of runs; None for no limit.
        minutes: Maximum training time, added up over all orders; None for no limit.
    """

    runs: int | None
    minutes: float | None

    def allow(self, runs: int, seconds: float) -> bool:
        """Whether a total number of runs is allowed after some seconds of training."""
        in_time = self.minutes is None or seconds < 60 * self.minutes
        return in_time and (self.runs is None or runs <= self.runs)


@dataclass(frozen=True)
class OrderPlanner:
    """Makes the plans of orders.

    Attributes:
        strategy: Name of the strategy.
        target: Name of the target dataset, which is trained first and last.
        supports: All supports to choose from.
        seed: Seed of the splits, and first seed of the runs.
        settings: Further settings of the plans (`PlanSettings`), by name.
        plugins: Plugins of this process.
    """

    strategy: str
    target: str
    supports: Supports
    seed: int
    settings: Mapping[str, Any]
    plugins: Plugins

    def plan(self, order: Supports, seed: int) -> Plan:
        """Make the plan of an order; all plans list all datasets, to have the same splits.

        Raises:
            PlanError: A value is invalid, or the strategy does not train on supports.
        """
        complete = self._unchanged(tuple(sorted(self.supports)), self.seed)
        plan = self._unchanged(order, seed).model_copy(update={"datasets": complete.datasets})
        changes = self.settings.get("changes")
        if not changes:
            return plan
        refuse_fixed(changes, FIXED_PATHS, by="`order`")
        edit_plan(complete, changes)  # raises if a path is not in the plan with all supports
        return complete_options(edit_existing_rounds(plan, changes), self.plugins)

    def _unchanged(self, order: Supports, seed: int) -> Plan:
        """Make the plan of an order without its ``changes``."""
        names = [self.target, *order, self.target] if order else [self.target]
        plan = make_plan(
            self.strategy,
            names,
            seed=seed,
            split_seed=self.seed,
            plugins=self.plugins,
            **{**_for_datasets(self.settings, names), "recentre": False},
        )
        used = {name for round in plan.rounds for name in round.datasets}
        if not used.issuperset(order):
            raise PlanError(
                f"strategy {self.strategy!r} does not train on supports, so it has no order to "
                "search for: choose another (`--strategy hydra`)"
            )
        if plan.rounds[-1].dataset != self.target:
            raise PlanError(
                f"strategy {self.strategy!r} does not end with the target: choose another"
            )
        return plan

    @property
    def base(self) -> str:
        """SHA-256 of everything that all orders have in common."""
        facts = [version(), self.plan(tuple(sorted(self.supports)), self.seed).digest()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _for_datasets(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Settings for the plan of an order, without changes and settings of other datasets.

    A search trains one network, also if the profile has an ensemble: it is about supports.
    """
    chosen = {**settings, "changes": None, "ensemble": 1}
    for name in ("options", "heads"):
        chosen[name] = {k: v for k, v in (settings.get(name) or {}).items() if k in names}
    chosen["head_options"] = {
        key: value
        for key, value in (settings.get("head_options") or {}).items()
        if "." not in key or key.partition(".")[0] in names
    }
    return chosen


@dataclass(frozen=True)
class OrderSearch:
    """Settings of a search for an order.

    Attributes:
        strategy: Name of the strategy to train each order with.
        seeds: Number of runs of each order.
        seed: Seed of the splits, which all runs share, and first seed of the runs.
        budget: Maximum number of runs; None for no limit, or 20 without ``minutes``.
        minutes: Training time, added up over the orders tried so far, after which no other order is
            begun; None for no limit.
        settings: Further settings of the plans (`PlanSettings`), by name.
    """

    strategy: str = "hydra"
    seeds: int = 1
    seed: int = 0
    budget: int | None = None
    minutes: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


class OrderCallback(RunCallback):
    """Called when something happens in a search."""

    def tried(self, order: TriedOrder, result: OrderResult) -> None:
        """An order was tried; ``result`` is the result so far."""


def order(
    supports: Sequence[str],
    target: str,
    search: OrderSearch | None = None,
    context: RunContext | None = None,
    *,
    out: Path | None = None,
    callback: OrderCallback | None = None,
    plugins: Plugins | None = None,
    **values: Any,
) -> OrderResult:
    """Find which supports help a target, and in which order, on its validation split.

    An order is trained as the target, its supports and the target again, as in the paper; without
    supports, as the target once. After a stop, or with a larger budget, the same call resumes the
    search. If the context names ``jobs`` or a launcher, several runs are trained at the same time
    in processes of their own, which load the plugins themselves.

    Args:
        supports: Names of the datasets to choose from.
        target: Name of the target dataset.
        search: Settings of the search; None for the defaults.
        context: Where and how to compute; None for the defaults.
        out: Folder for ``order.json``, ``plan.json`` with the best order, and the runs; None for a
            folder in ``runs``, the same for the same arguments.
        callback: Called when something happens.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: A value is invalid, or the folder holds something else.
        PluginError: No plugin offers one of the names.
        DataError: A dataset cannot be used.
    """
    context, search = context_of(context, values), search or OrderSearch()
    seeds, seed, budget, minutes = search.seeds, search.seed, search.budget, search.minutes
    if budget is None and minutes is None:
        budget = BUDGET
    names = tuple(dict.fromkeys(name for name in supports if name != target))
    _check(names, seeds=seeds, budget=budget, minutes=minutes)
    plugins = plugins or context.plugins()
    planner = OrderPlanner(search.strategy, target, names, seed, search.settings, plugins)
    base, possible = planner.base, count_orders(len(names))
    try_all = minutes is None and (budget is None or possible * seeds <= budget)
    result = OrderResult(
        hydrakit=version(),
        base=base,
        strategy=search.strategy,
        target=target,
        supports=names,
        seeds=tuple(range(seed, seed + seeds)),
        budget=budget,
        minutes=minutes,
        search="every" if try_all else "greedy",
        possible=possible,
    )
    folder = out or Path("runs") / f"order-{target}-{base[:8]}"
    callback = callback or OrderCallback()
    earlier = _earlier_search(folder, result)
    context = with_threads(context, earlier.threads if earlier else None)
    launch = launch_of(context, (possible if try_all else len(names)) * seeds, plugins)
    if launch is not None:
        context = context.changed(threads=launch.threads)
    evaluator = OrderEvaluator(
        folder=folder,
        plan=planner.plan,
        seeds=result.seeds,
        target=plugins.get(DatasetAdapter, target),
        plugins=plugins,
        context=context.for_search(folder / "rounds"),
        callback=callback,
        driver=launch.driver(folder, callback) if launch else None,
    )
    with context_here(context).active():
        from torch import get_num_threads

        result = result.model_copy(update={"threads": get_num_threads()})
        if earlier and earlier.threads not in (None, result.threads):
            callback.noted(
                f"{folder}: runs so far used {earlier.threads} CPU threads, and the others use "
                f"{result.threads}: their last digits differ"
            )
        return _Search(folder, evaluator, result, callback, earlier).run()


def _earlier_search(folder: Path, result: OrderResult) -> OrderResult | None:
    """Result of an earlier search in a folder; None if it holds none.

    Raises:
        PlanError: The folder holds another search, or something else.
    """
    path = folder / "order.json"
    if not path.is_file():
        # Stopped within the first order, or while it was submitted.
        runs = any((folder / name).is_dir() for name in ("runs", "jobs"))
        used = folder.exists() and not (
            folder.is_dir() and all(is_first_file(each.name) for each in folder.iterdir())
        )
        if used and not runs:
            raise PlanError(
                f"{folder}: is neither empty nor the folder of a search: choose another with "
                "`--out`"
            )
        return None
    earlier = read_record(path, OrderResult, remedy="choose another folder with `--out`")
    if earlier.base != result.base:
        raise PlanError(
            f"{folder}: holds a search with other datasets or settings: choose another folder with "
            "`--out`"
        )
    return earlier


def _check(supports: Supports, *, seeds: int, budget: int | None, minutes: float | None) -> None:
    if not supports:
        raise PlanError("no support is given: name at least one, as in `--datasets brain,lung`")
    if seeds < 1:
        raise PlanError(f"{seeds} seeds: there must be at least one (`--seeds`)")
    if budget is not None and budget < seeds:
        raise PlanError(f"a budget of {budget} runs is not enough for one order with {seeds} seeds")
    if minutes is not None and not minutes > 0:
        raise PlanError(f"{minutes:g} minutes: must be more than 0 (`--minutes`)")


@dataclass
class _Search:
    """A search in progress.

    Attributes:
        folder: Folder of the search.
        evaluator: Trains and evaluates orders.
        result: Result so far.
        callback: Called after each order.
        earlier: Result of an earlier search in the folder.
    """

    folder: Path
    evaluator: OrderEvaluator
    result: OrderResult
    callback: OrderCallback
    earlier: OrderResult | None

    def run(self) -> OrderResult:
        """Try orders within the limits, then leave out each support of the best order."""
        with writable(self.folder, "choose another folder with `--out`"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            self.earlier = _earlier_search(self.folder, self.result)  # as it is now
            with self.evaluator.driver or nullcontext():
                return self._run()

    def _run(self) -> OrderResult:
        earlier = (*self.earlier.tried, *self.earlier.earlier) if self.earlier else ()
        known = {each.supports: each for each in earlier}
        supports, limits = self.result.supports, Limits(self.result.budget, self.result.minutes)
        tried: dict[Supports, TriedOrder] = {}
        begun: list[Supports] = []

        def within_limits(stage: Iterable[Supports]) -> Iterator[Supports]:
            for order in stage:
                seconds = sum(each.seconds for each in tried.values())
                if begun and not limits.allow((len(begun) + 1) * len(self.result.seeds), seconds):
                    return
                begun.append(order)
                yield order

        stages = (
            smallest_first(supports)
            if self.result.search == "every"
            else greedy(supports, lambda order: tried[order].score)
        )
        for orders in stages:
            stage = list(orders)
            for order in self.evaluator.train(within_limits(stage)):
                tried[order] = self._try(order)
                earlier = tuple(each for supports, each in known.items() if supports not in tried)
                in_order = tuple(tried[each] for each in begun if each in tried)
                self._write(tried=in_order, earlier=earlier)
                self.callback.tried(tried[order], self.result)
            if not tried.keys() >= set(stage):
                break
        best = max(self.result.tried, key=lambda each: (each.score, -len(each.supports))).supports
        new = {tuple(name for name in best if name != each) for each in best} - set(tried)
        left_out = self.evaluator.left_out(best)
        luck = None
        if self.evaluator.has_two_classes:
            luck = best_of_chance(*self.evaluator.counts(), len(tried)).expected
        runs = len(new) * len(self.result.seeds)
        self._write(chosen=best, left_out=left_out, left_out_runs=runs, luck=luck, finished=True)
        plan = self.evaluator.plan(best, self.result.seeds[0])
        write_atomic(self.folder / "plan.json", plan.to_json().encode())
        return self.result

    def _try(self, order: Supports) -> TriedOrder:
        """Evaluate a trained order."""
        scores = self.evaluator.scores(order)
        seconds = self.evaluator.seconds(order)
        return TriedOrder(supports=order, scores=scores, score=mean(scores), seconds=seconds)

    def _write(self, **changes: Any) -> None:
        self.result = self.result.model_copy(update=changes)
        text = self.result.model_dump_json(indent=2) + "\n"
        write_atomic(self.folder / "order.json", text.encode())
