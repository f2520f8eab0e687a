"""Which supports help a target, and in which order: by validation alone, within a stated budget.

Every order that is tried is trained as a run of its own, without its test; rounds that two orders
begin with are trained once. The best of many orders on one validation split flatters itself, so
each support of the chosen one is then left out in turn, and the difference told with an interval.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from hydrakit.schema import Frozen, Name
from hydrakit.search.supports import LeaveOneOut, OrderEvaluator, Supports
from hydrakit.stats.chance import best_of_chance
from hydrakit.storage.files import refuse_links, write_atomic
from hydrakit.storage.records import read_record
from hydrakit.version import version

BUDGET = 20


class TriedOrder(Frozen):
    """An order that was tried.

    Attributes:
        supports: Between the target's first and its last rounds.
        scores: Validation AUC (of a number, R2) of the last round, by seed.
        score: Their mean.
        seconds: It took.
    """

    supports: tuple[Name, ...]
    scores: tuple[float, ...]
    score: float
    seconds: float


class OrderResult(Frozen):
    """What ``order.json`` holds.

    Attributes:
        format: Version of this format.
        hydrakit: Version that wrote it.
        base: SHA-256 of what all orders have in common.
        strategy: Whose rounds.
        target: Whose validation split judges.
        supports: Those that could be used, as they were named.
        seeds: Of the runs of each order.
        budget: Of runs; None for no limit.
        minutes: Of training; None for no limit.
        search: ``every`` order, the smallest subsets first; or ``greedy``: the best support is
            added at the end, again and again, and what is left of the budget goes to other orders.
            Of a search that is limited by time, greedy comes first too.
        possible: Number of orders that there are.
        tried: Those that were tried, in that order.
        earlier: Further ones that a search in this folder tried before, with another budget; they
            are not chosen from.
        chosen: The supports of the best one: the highest score; ties: fewer supports.
        left_out: What each support of it adds.
        left_out_runs: Runs that this took, beyond the budget.
        luck: The expected best AUC of as many networks that know nothing as orders were tried, on
            as many cases; None where the target has not two classes.
        finished: False while the search goes on.
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


def count_orders(supports: int) -> int:
    """Number of orders of all subsets of so many supports, the empty one included."""
    return sum(math.perm(supports, size) for size in range(supports + 1))


def smallest_first(supports: Sequence[str]) -> Iterator[Supports]:
    """Every order of every subset, smaller ones first."""
    for size in range(len(supports) + 1):
        yield from permutations(supports, size)


def greedy(supports: Sequence[str], score: Callable[[Supports], float]) -> Iterator[Supports]:
    """Orders that add the best support at the end, again and again; then all others.

    Args:
        supports: To choose from.
        score: Of an order that was given before.
    """
    given: set[Supports] = {()}
    yield ()
    best: Supports = ()
    while len(best) < len(supports):
        longer = [(*best, each) for each in supports if each not in best]
        for order in longer:
            given.add(order)
            yield order
        best = max(longer, key=score)
    yield from (order for order in smallest_first(supports) if order not in given)


@dataclass(frozen=True)
class Limits:
    """What a search may cost; see `OrderResult`."""

    runs: int | None
    minutes: float | None

    def allow(self, runs: int, seconds: float) -> bool:
        """Whether there may be so many runs in all, after so many seconds of training."""
        in_time = self.minutes is None or seconds < 60 * self.minutes
        return in_time and (self.runs is None or runs <= self.runs)


@dataclass(frozen=True)
class Maker:
    """Makes the plans of a search.

    Attributes:
        strategy: Name.
        target: The dataset that is first and last.
        supports: All that there are.
        seed: Of the splits, and the first of the runs'.
        settings: Further settings of the plans (`PlanSettings`), by name.
        plugins: As loaded.
    """

    strategy: str
    target: str
    supports: Supports
    seed: int
    settings: Mapping[str, Any]
    plugins: Plugins

    def plan(self, order: Supports, seed: int) -> Plan:
        """Of an order: every plan lists all datasets, so that all have the same splits.

        Raises:
            PlanError: A value is impossible, or the strategy has no use for supports.
        """
        every = self._made(tuple(sorted(self.supports)), self.seed)
        plan = self._made(order, seed).model_copy(update={"datasets": every.datasets})
        changes = self.settings.get("changes")
        if not changes:
            return plan
        refuse_fixed(changes, FIXED_PATHS, by="`order`")
        edit_plan(every, changes)  # all that is changed is in the plan with all supports
        return complete_options(edit_existing_rounds(plan, changes), self.plugins)

    def _made(self, order: Supports, seed: int) -> Plan:
        names = [self.target, *order, self.target] if order else [self.target]
        made = make_plan(
            self.strategy,
            names,
            seed=seed,
            split_seed=self.seed,
            plugins=self.plugins,
            **_for_datasets(self.settings, names),
        )
        used = {name for round in made.rounds for name in round.datasets}
        if not used.issuperset(order):
            raise PlanError(
                f"strategy {self.strategy!r} does not train on supports, so there is no order to "
                "find: choose another (`--strategy hydra`)"
            )
        if made.rounds[-1].dataset != self.target:
            raise PlanError(
                f"strategy {self.strategy!r} does not end with the target: choose another"
            )
        return made

    @property
    def base(self) -> str:
        """SHA-256 of what decides all orders."""
        facts = [version(), self.plan(tuple(sorted(self.supports)), self.seed).digest()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _for_datasets(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Settings of an order's plan: those of other datasets, and changes, are left out."""
    kept = {**settings, "changes": None}
    for field_ in ("options", "heads"):
        kept[field_] = {k: v for k, v in (settings.get(field_) or {}).items() if k in names}
    kept["head_options"] = {
        key: value
        for key, value in (settings.get("head_options") or {}).items()
        if "." not in key or key.partition(".")[0] in names
    }
    return kept


@dataclass(frozen=True)
class OrderSearch:
    """What a search for an order tries.

    Attributes:
        strategy: Name of the strategy that makes the rounds.
        seeds: Number of runs of each order.
        seed: The first of their seeds, and the seed of the splits, which all runs share.
        budget: Maximum number of runs; None for no limit, or 20 without ``minutes``.
        minutes: No run begins after this time; None for no limit.
        settings: Further settings of the plans, as `hydrakit.make_plan` takes them.
    """

    strategy: str = "hydra"
    seeds: int = 1
    seed: int = 0
    budget: int | None = None
    minutes: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


class OrderCallback(RunCallback):
    """Called when something happens in the runs of a search, and after each order."""

    def tried(self, order: TriedOrder, result: OrderResult) -> None:
        """An order has been tried; the result so far."""


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
    """Find which supports help a target, in which order; by its validation split alone.

    An order is the target, its supports and the target again, as in the paper; without supports,
    the target once. The search continues after a stop, and with a larger budget.

    Args:
        supports: Names of datasets.
        target: Name of another one.
        search: What is tried; None for the defaults.
        context: Where and how to compute; None for the defaults.
        out: Folder for ``order.json``, ``plan.json`` with the best order, and the runs; None for
            one under ``runs``, the same for the same arguments.
        callback: Called when something happens.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: A value is impossible, or the folder holds something else.
        PluginError: No plugin offers a name.
        DataError: A dataset cannot be used.
    """
    context, search = context_of(context, values), search or OrderSearch()
    seeds, seed, budget, minutes = search.seeds, search.seed, search.budget, search.minutes
    if budget is None and minutes is None:
        budget = BUDGET
    names = tuple(dict.fromkeys(name for name in supports if name != target))
    _check(names, seeds=seeds, budget=budget, minutes=minutes)
    plugins = plugins or context.plugins()
    maker = Maker(search.strategy, target, names, seed, search.settings, plugins)
    base, possible = maker.base, count_orders(len(names))
    every = minutes is None and (budget is None or possible * seeds <= budget)
    result = OrderResult(
        hydrakit=version(),
        base=base,
        strategy=search.strategy,
        target=target,
        supports=names,
        seeds=tuple(range(seed, seed + seeds)),
        budget=budget,
        minutes=minutes,
        search="every" if every else "greedy",
        possible=possible,
    )
    folder = out or Path("runs") / f"order-{target}-{base[:8]}"
    callback = callback or OrderCallback()
    evaluator = OrderEvaluator(
        folder=folder,
        plan=maker.plan,
        seeds=result.seeds,
        target=plugins.get(DatasetAdapter, target),
        plugins=plugins,
        context=context.for_search(folder / "rounds"),
        callback=callback,
    )
    with context.active():
        return _Search(folder, evaluator, result, callback).run()


def _check(supports: Supports, *, seeds: int, budget: int | None, minutes: float | None) -> None:
    if not supports:
        raise PlanError("no support is named: `--datasets brain,lung` names two")
    if seeds < 1:
        raise PlanError(f"{seeds} seeds: there must be at least one (`--seeds`)")
    if budget is not None and budget < seeds:
        raise PlanError(f"a budget of {budget} runs is not enough for one order with {seeds} seeds")
    if minutes is not None and not minutes > 0:
        raise PlanError(f"{minutes:g} minutes: must be more than 0 (`--minutes`)")


@dataclass
class _Search:
    """A search under way, with its folder."""

    folder: Path
    evaluator: OrderEvaluator
    result: OrderResult
    callback: OrderCallback

    def run(self) -> OrderResult:
        """Try orders while the budget lasts, then leave each support of the best one out."""
        before = self._before()
        supports, limits = self.result.supports, Limits(self.result.budget, self.result.minutes)
        found: dict[Supports, TriedOrder] = {}
        orders = (
            smallest_first(supports)
            if self.result.search == "every"
            else greedy(supports, lambda order: found[order].score)
        )
        for order in orders:
            spent = sum(each.seconds for each in found.values())
            runs = (len(found) + 1) * len(self.result.seeds)
            if found and not limits.allow(runs, spent):
                break
            found[order] = self._try(order, before.get(order))
            earlier = tuple(each for name, each in before.items() if name not in found)
            self._write(tried=tuple(found.values()), earlier=earlier)
            self.callback.tried(found[order], self.result)
        best = max(found.values(), key=lambda each: (each.score, -len(each.supports))).supports
        new = {tuple(name for name in best if name != each) for each in best} - set(found)
        left_out = self.evaluator.left_out(best)
        luck = None
        if self.evaluator.has_two_classes:
            luck = best_of_chance(*self.evaluator.counts(), len(found)).expected
        runs = len(new) * len(self.result.seeds)
        self._write(chosen=best, left_out=left_out, left_out_runs=runs, luck=luck, finished=True)
        plan = self.evaluator.plan(best, self.result.seeds[0])
        write_atomic(self.folder / "plan.json", plan.to_json().encode())
        return self.result

    def _try(self, order: Supports, before: TriedOrder | None) -> TriedOrder:
        began = time.perf_counter()
        scores = self.evaluator.scores(order)
        seconds = time.perf_counter() - began
        if before is not None and len(before.scores) >= len(scores):
            seconds = before.seconds  # of the training, which was done then
        return TriedOrder(supports=order, scores=scores, score=mean(scores), seconds=seconds)

    def _before(self) -> dict[Supports, TriedOrder]:
        """What an earlier search in this folder tried.

        Raises:
            PlanError: The folder holds another search, or something else.
        """
        path = self.folder / "order.json"
        if self.folder.is_dir():
            refuse_links(self.folder)
        if not path.is_file():
            runs = (self.folder / "runs").is_dir()  # stopped before the first order was finished
            used = self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir()))
            if used and not runs:
                raise PlanError(
                    f"{self.folder}: is not empty and not a search's folder: choose another "
                    "with `--out`"
                )
            return {}
        known = read_record(path, OrderResult, remedy="choose another folder with `--out`")
        if known.base != self.result.base:
            raise PlanError(
                f"{self.folder}: holds a search with other datasets or settings: choose another "
                "folder with `--out`"
            )
        return {each.supports: each for each in (*known.tried, *known.earlier)}

    def _write(self, **changes: Any) -> None:
        self.result = self.result.model_copy(update=changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self.result.model_dump_json(indent=2) + "\n"
        write_atomic(self.folder / "order.json", text.encode())
