"""Design of a comparison, the plans of its cells, and its folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from hydrakit.compare.named_plans import described, plan_of_cell, refuse_strategy_names
from hydrakit.data.origin import DataOrigin
from hydrakit.errors import DataError, PlanError, command_line, unknown
from hydrakit.hooks import SequenceStrategy
from hydrakit.jobs.states import FAILED, failure_path, status_of
from hydrakit.names import is_name
from hydrakit.plan.edit import (
    FIXED_PATHS,
    edit_existing_rounds,
    no_such_round,
    paths_without_rounds,
    refuse_fixed,
)
from hydrakit.plan.model import MAX_FOLDS, Fold, LeftOut, Plan, Split, load_plan
from hydrakit.plan.profiles import (
    PROFILES,
    RECOMMENDED_0_1,
    TARGET_SPLIT,
    complete_options,
    make_plan,
)
from hydrakit.plan.settings import PlanSettings
from hydrakit.plan.start import StartWeights
from hydrakit.plugins.registry import Plugins
from hydrakit.schema import Frozen, Name, Text, first_fault
from hydrakit.stats.comparison import ComparedPlan
from hydrakit.storage.claims import FOLDER as CLAIMS
from hydrakit.storage.files import write_atomic
from hydrakit.storage.lock import is_first_file
from hydrakit.storage.records import read_record, writable, write_record

FILE = "compare.json"
FORMAT = 4  # latest of this file
MAX_CELLS = 10_000
TUNING = ".tuning"  # suffix of the folder in which a cell is tuned
WRITE_ELSEWHERE = "choose another folder with `--out`"

BASELINES = ("intensity", "probe")
"""Baselines of a comparison, unless it names others or none."""

PATCH_PATHS = ("body.patch", "body.options.patch")
"""Paths of the size of the patches, which is the same for all strategies."""

DEFAULTS_0_1 = {"head": "mlp", "body": "paper", "body_norm": "batch", "ensemble": 1}
"""Settings whose defaults were values in version 0.1, and are those of the profile now."""

BASE = "classical"
"""Strategy whose plans have the datasets and splits that the cells of named plans get."""

SET_BY_CELLS = {"seed", "split_seed", "splits", "whole", "recentre"}
"""Settings of plans that the design chooses for each cell."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a comparison.

    Attributes:
        strategy: Name of the strategy.
        seed: Seed of the plan.
        repeat: Number of the cross-validation's repeat, which is the seed of the splits.
        fold: Number of the fold that is tested.
    """

    strategy: str
    seed: int
    repeat: int
    fold: int

    @property
    def name(self) -> str:
        """Name of the cell and of its folder."""
        return f"{self.strategy}-seed{self.seed}-repeat{self.repeat}-fold{self.fold}"

    @property
    def group(self) -> tuple[int, int, int]:
        """Seed, repeat and fold, which cells of different strategies have in common."""
        return self.seed, self.repeat, self.fold

    def __str__(self) -> str:
        """Name of the cell in messages."""
        return f"{self.strategy}, seed {self.seed}, repeat {self.repeat}, fold {self.fold}"


class Design(Frozen):
    """Strategies to compare, and how.

    Attributes:
        strategies: Names of the strategies; every other one is compared with the first. The name of
            a plan can be among them, which decides its place; the other plans come after them.
        named_plans: Plans that are compared like strategies, by name.
        baselines: Names of strategies that are simple models; the first strategy is compared with
            them before all others.
        datasets: Names of the datasets in the order of training; the last is the target.
        seeds: Number of seeds, from 0.
        folds: Number of folds; None for a single 8-1-1 split.
        leave_out: Subgroup of the target whose values are left out of training and tested, one in
            each fold, in place of folds of random patients; None for those.
        left_out_values: Value of each fold; empty before the data has been read, where ``folds``
            is None.
        repeats: Number of repeats of the cross-validation, each with different folds.
        settings: Further settings of the plans (`PlanSettings`), by name, without default values,
            so that equal designs have equal digests.
        tune: Values that each cell tries on its training part before it is trained, by path;
            see `hydrakit.compare.nested`.
        inner_folds: Number of folds of each training part on which the values are tried.
    """

    strategies: tuple[Name, ...] = ()
    named_plans: dict[Name, Plan] = Field(default_factory=dict)
    baselines: tuple[Name, ...] = ()
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[int, Field(gt=0, le=MAX_CELLS)] = 1
    folds: Annotated[int, Field(ge=2, le=MAX_FOLDS)] | None = 5
    leave_out: Text | None = None
    left_out_values: tuple[Text, ...] = ()
    repeats: Annotated[int, Field(gt=0, le=MAX_CELLS)] = 1
    settings: dict[str, Any] = Field(default_factory=dict)
    tune: dict[str, Annotated[tuple[Any, ...], Field(min_length=2)]] = Field(default_factory=dict)
    inner_folds: Annotated[int, Field(ge=2, le=MAX_FOLDS)] = 3

    @field_validator("settings")
    @classmethod
    def _without_defaults(cls, settings: dict[str, Any]) -> dict[str, Any]:
        known = PlanSettings.model_fields.keys() - SET_BY_CELLS
        for name in settings:
            if name not in known:
                raise ValueError(unknown("setting", name, known))
        if settings.get("body_weights") is not None:
            start = StartWeights.of(settings["body_weights"])
            if isinstance(start, StartWeights):
                settings = {**settings, "body_weights": start.model_dump()}
        defaults = PlanSettings()
        return {
            name: value
            for name, value in _plain(settings).items()
            if value is not None and value != getattr(defaults, name)
        }

    @model_validator(mode="after")
    def _check_design(self) -> Design:
        if len(set(self.all_strategies)) < len(self.all_strategies):
            raise ValueError("a strategy is named twice")
        if self.leave_out is not None and self.repeats > 1:
            raise ValueError(
                "--leave-out tests the same findings in every repeat: leave out --repeats, and "
                "use more --seeds"
            )
        if self.left_out_values and self.leave_out is None:
            raise ValueError("'left_out_values' needs 'leave_out'")
        if self.leave_out is not None and self.folds != (len(self.left_out_values) or None):
            raise ValueError("with 'leave_out', each of the values is one fold")
        if self.folds is None and self.repeats > 1:
            raise ValueError("a single split cannot be repeated: choose a number of folds")
        cells = self.seeds * self.repeats * (self.folds or 1) * len(self.all_strategies)
        if cells > MAX_CELLS:
            raise ValueError(f"the design has {cells} cells, and at most {MAX_CELLS} are possible")
        return self

    @property
    def all_strategies(self) -> tuple[str, ...]:
        """Names of the strategies and plans, then of the baselines that are not among them."""
        plans = (name for name in self.named_plans if name not in self.strategies)
        compared = (*self.strategies, *plans)
        return (*compared, *(name for name in self.baselines if name not in compared))

    @property
    def target(self) -> str:
        """Name of the dataset to test on."""
        return self.datasets[-1]

    @property
    def digest(self) -> str:
        """SHA-256 of the datasets, folds and settings; it stays the same when cells are added."""
        fixed = self.model_dump(mode="json", include={"datasets", "folds", "settings"})
        if self.leave_out is not None:  # its values are of the data, which is compared elsewhere
            fixed |= {"folds": None, "leave_out": self.leave_out}
        fixed["settings"].pop("strangers", None)  # it changes no result
        profile = fixed["settings"].pop("profile", PlanSettings().profile)
        if not PROFILES[profile].same_values(RECOMMENDED_0_1):
            fixed["settings"]["profile"] = profile
        else:  # version 0.1 did not store its defaults
            for name, value in DEFAULTS_0_1.items():
                if fixed["settings"].get(name) == value:
                    del fixed["settings"][name]
        if "body_weights" in fixed["settings"]:
            fixed["settings"]["body_weights"].pop("file", None)  # wherever it is
        if self.tune:
            fixed |= self.model_dump(mode="json", include={"tune", "inner_folds"})
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()

    def cells(self) -> list[Cell]:
        """All cells; those of one (seed, repeat, fold) follow one another."""
        groups = product(range(self.repeats), range(self.seeds), range(self.folds or 1))
        return [
            Cell(strategy=strategy, seed=seed, repeat=repeat, fold=fold)
            for repeat, seed, fold in groups
            for strategy in self.all_strategies
        ]

    def split(self, fold: int) -> Split:
        """The split of the target for a fold."""
        if self.folds is None:
            return TARGET_SPLIT
        if self.leave_out is not None:
            value = LeftOut(subgroup=self.leave_out, value=self.left_out_values[fold])
            return Split(train=8, val=2, left_out=value)
        return Split(train=8, val=2, fold=Fold(index=fold, count=self.folds))

    def with_values(self, values: Sequence[str]) -> Design:
        """The design with the values of ``leave_out`` that the data has, each of them a fold."""
        changes = {"left_out_values": tuple(values), "folds": len(values)}
        return make_design(**{**dict(self), **changes})

    def plans(self, plugins: Plugins) -> dict[Cell, Plan]:
        """Make the plans of all cells: those of one strategy and fold differ only in their seeds.

        Raises:
            PluginError: Unknown strategy, dataset or head.
            PlanError: A plan cannot be made (see `plan`); the message names the strategy.
        """
        if not self.strategies and not self.named_plans:
            raise PlanError("there is no strategy and no plan to compare: name one")
        refuse_strategy_names(self.named_plans, plugins)
        plans: dict[Cell, Plan] = {}
        made: dict[tuple[str, int], Plan] = {}
        for cell in self.cells():
            key = cell.strategy, cell.fold
            if key not in made:
                with naming(cell.strategy):
                    made[key] = self.plan(cell, plugins)
            seeds = {"seed": cell.seed, "split_seed": cell.repeat}
            plans[cell] = made[key].model_copy(update=seeds)
        own = self.named_plans
        if len({plan.patch for (name, _), plan in made.items() if name not in own}) > 1:
            raise PlanError(
                "the strategies have patches of different sizes: set `body.patch`, which is for "
                "all strategies, instead of the whole body"
            )
        return plans

    def base(self, plugins: Plugins, repeat: int = 0, fold: int = 0) -> Plan:
        """Plan with the datasets and splits that the cells of a fold have in common."""
        cell = Cell(strategy=BASE, seed=0, repeat=repeat, fold=fold)
        return self._plan_of_strategy(cell, plugins)

    def described_plans(self, plugins: Plugins) -> dict[str, ComparedPlan]:
        """What each named plan is."""
        strategies = {
            name: plan.strategy
            for name, plan in self.named_plans.items()
            if plan.strategy in plugins.all(SequenceStrategy)
        }
        cells = {
            name: Cell(strategy=strategy, seed=0, repeat=0, fold=0)
            for name, strategy in strategies.items()
        }
        made = {name: self._plan_of_strategy(cell, plugins) for name, cell in cells.items()}
        return described(self.named_plans, made)

    def plan(self, cell: Cell, plugins: Plugins) -> Plan:
        """Make the plan of a cell.

        Raises:
            PluginError: Unknown strategy, dataset or head.
            PlanError: The settings are invalid, a change names rounds that no strategy has, or a
                named plan contradicts the design.
        """
        if cell.strategy in self.named_plans:
            return plan_of_cell(
                cell.strategy,
                self.named_plans[cell.strategy],
                self.base(plugins, cell.repeat, cell.fold),
                seed=cell.seed,
                plugins=plugins,
            )
        return self._plan_of_strategy(cell, plugins)

    def _plan_of_strategy(self, cell: Cell, plugins: Plugins) -> Plan:
        plan = self._unchanged(cell, plugins)
        given = self.settings.get("changes", {})
        changes = self.changes_of(cell.strategy, given, plugins)
        if not changes:
            return plan
        split = f"datasets.{self.target}.split"
        fixed = (f"{split}.{name}" for name in ("test", "fold", "left_out"))
        refuse_fixed(changes, (*FIXED_PATHS, *fixed), by="`compare`")
        for path in paths_without_rounds(plan, changes):
            others = [
                self._unchanged(replace(cell, strategy=name), plugins)
                for name in dict.fromkeys((*self.all_strategies, cell.strategy))
                if name not in self.named_plans and path in self.changes_of(name, given, plugins)
            ]
            if all(paths_without_rounds(other, [path]) for other in others):
                raise PlanError(no_such_round(plan, path))
        return complete_options(edit_existing_rounds(plan, changes), plugins)

    def changes_of(
        self, strategy: str, changes: Mapping[str, Any], plugins: Plugins
    ) -> dict[str, Any]:
        """Changes by path, without those of a body, a head or starts that the strategy replaces."""
        sequence = plugins.get(SequenceStrategy, strategy)
        replaced: set[str] = set()
        if sequence.body not in (None, self.settings.get("body", PlanSettings().body)):
            replaced |= {"body", "body_weights"}
        if sequence.head not in (None, self.settings.get("head", PlanSettings().head)):
            replaced |= {"head", "heads"}
        if sequence.baseline:
            replaced |= {"bootstrap", "bootstrap_rule"}
        return {
            path: value
            for path, value in changes.items()
            if path.partition(".")[0] not in replaced or path in PATCH_PATHS
        }

    def _unchanged(self, cell: Cell, plugins: Plugins) -> Plan:
        """Make the plan of a cell without its ``changes``."""
        return make_plan(
            cell.strategy,
            self.datasets,
            seed=cell.seed,
            split_seed=cell.repeat,
            splits={self.target: self.split(cell.fold)},
            whole=True,
            recentre=False,  # cells are for the target alone
            plugins=plugins,
            **{name: value for name, value in self.settings.items() if name != "changes"},
        )


@contextmanager
def naming(strategy: str) -> Iterator[None]:
    """Name the strategy in an error of the block, unless its message does."""
    try:
        yield
    except (PlanError, DataError) as error:
        if repr(strategy) in str(error):
            raise
        raise type(error)(f"strategy {strategy!r}: {error}") from None


def make_design(**given: Any) -> Design:
    """Make a `Design` from its attributes; its baselines are `BASELINES` if none are given.

    Raises:
        PlanError: An attribute is invalid.
    """
    try:
        return Design.model_validate({"baselines": BASELINES, **given})
    except ValidationError as error:
        raise PlanError(first_fault(error)) from None


def with_named_plans(design: Design, texts: Sequence[str], out: Path) -> Design:
    """The design with plans from files: ``NAME=FILE``, or ``NAME`` of an earlier command.

    Args:
        design: The design.
        texts: Texts of `--plan`.
        out: Folder of the comparison.

    Raises:
        PlanError: A text has another form, a name occurs twice, or a file cannot be read.
    """
    plans: dict[str, Plan] = {}
    for text in texts:
        name, plan = CompareDir(out).named_plan(text)
        if name in plans:
            raise PlanError(f"--plan {name}: is given twice: give each plan another name")
        plans[name] = plan
    return make_design(**{**dict(design), "named_plans": plans})


class Description(Frozen):
    """Content of ``compare.json``.

    Attributes:
        format: Version of this format: 2 without a positive class, 3 where values of a subgroup
            are left out, 4 with looks.
        hydrakit: Version of hydrakit that wrote the file.
        digest: Digest of the design, equal for all cells in the folder.
        design: Design of the last command.
        positive: Class treated as positive in the AUC; None for several labels and for numbers.
        status: Status of each cell: ``done``, ``waiting``, or why it failed.
        data: What the cells are computed from, by dataset, with the splits of the first cell; empty
            in older versions.
        tuned_data: The same for tuned cells, without splits: by the key of what decides the data
            in their plans (`hydrakit.jobs.candidates.data_key`), then by dataset.
        threads: Number of CPU threads of each cell; None in older versions.
        looks: Whether looks at the results were planned (`hydrakit.compare.looks`): seeds and
            repeats then stay the same.
        not_needed: Names of cells that are left out, because they can hardly change the verdict.
    """

    format: Literal[1, 2, 3, 4] = 1
    hydrakit: Text
    digest: Text
    design: Design
    positive: Text | None
    status: Annotated[dict[str, str], Field(max_length=MAX_CELLS)]
    data: dict[Name, DataOrigin] = Field(default_factory=dict)
    tuned_data: dict[Text, dict[Name, DataOrigin]] = Field(default_factory=dict)
    threads: Annotated[int, Field(gt=0)] | None = None
    looks: bool = False
    not_needed: Annotated[tuple[str, ...], Field(max_length=MAX_CELLS)] = ()


class CompareDir:
    """The folder of a comparison.

    Attributes:
        path: Path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def rounds(self) -> Path:
        """Folder of rounds that cells share."""
        return self.path / "rounds"

    def plan_path(self, name: str) -> Path:
        """Path of the copy of a named plan's file."""
        return self.path / "plans" / f"{name}.json"

    @property
    def jobs(self) -> Path:
        """Folder for files of the launcher."""
        return self.path / "jobs"

    @property
    def comparison_path(self) -> Path:
        """Path of ``comparison.json``."""
        return self.path / "comparison.json"

    @property
    def begun(self) -> bool:
        """Whether a comparison has begun in the folder."""
        return (self.path / FILE).is_file()

    def cell(self, cell: Cell) -> Path:
        """Folder of the run of a cell."""
        return self.path / "cells" / cell.name

    def tuning(self, cell: Cell) -> Path:
        """Folder in which a cell is tuned."""
        return self.path / "cells" / f"{cell.name}{TUNING}"

    def inner_rounds(self, cell: Cell) -> Path:
        """Folder of rounds that the cells of one seed, repeat and fold share while tuned.

        It is deleted when all of these cells have ended.
        """
        return self.tuning_rounds / f"seed{cell.seed}-repeat{cell.repeat}-fold{cell.fold}/rounds"

    @property
    def tuning_rounds(self) -> Path:
        """Folder with all folders of `inner_rounds`."""
        return self.path / "tuning"

    def failure_path(self, cell: Cell) -> Path:
        """Path of the file that says why a cell failed."""
        return failure_path(self.cell(cell))

    def started(self) -> set[str]:
        """Names of the cells that have a folder, are tuned, or have failed."""
        try:
            with os.scandir(self.path / "cells") as entries:
                return {entry.name.removesuffix(FAILED).removesuffix(TUNING) for entry in entries}
        except FileNotFoundError:
            return set()

    def status(self, cell: Cell) -> str:
        """Status of a cell: ``done``, ``waiting``, or why it failed, on one line."""
        return status_of(self.cell(cell))

    def check(self, design: Design) -> None:
        """Refuse a folder that is neither new nor empty nor that of the same design.

        Raises:
            PlanError: The folder holds something else.
        """
        path = self.path / FILE
        if path.is_file():
            description = self.description()
            if description.digest != design.digest:
                names = _differing(description.design, design)
                raise PlanError(
                    f"{self.path}: holds a comparison with other {names}: "
                    "only strategies, plans, baselines, seeds and repeats can be added; for other "
                    "changes choose another folder with `--out`"
                )
            before, now = description.design.left_out_values, design.left_out_values
            if now and before != now:
                raise PlanError(
                    f"{self.path}: left out the values {', '.join(before)} of "
                    f"{design.leave_out!r}, and the data now has {', '.join(now)}: restore the "
                    "data, or choose another folder with `--out`"
                )
            for name, each in design.named_plans.items():
                stored = self.plan_path(name)
                if stored.is_file() and load_plan(stored) != each:
                    raise PlanError(
                        f"--plan {name}: is another plan than the one of this name in {stored}: "
                        "give it another name"
                    )
        elif self.path.exists() and not (self.path.is_dir() and self._is_empty()):
            raise PlanError(
                f"{self.path}: is neither empty nor the folder of a comparison: choose another "
                "with `--out`"
            )

    def description(self) -> Description:
        """Read ``compare.json``.

        Raises:
            PlanError: The file cannot be read.
        """
        remedy = "name the folder that `hydrakit compare` printed"
        return read_record(self.path / FILE, Description, remedy=remedy, latest=FORMAT)

    def begin(self) -> None:
        """Create the folder.

        Raises:
            PlanError: The folder cannot be written.
        """
        with writable(self.path, WRITE_ELSEWHERE):
            (self.path / "cells").mkdir(parents=True, exist_ok=True)

    def write_plans(self, design: Design) -> None:
        """Write a copy of each named plan, so that its file is not needed again.

        Raises:
            PlanError: The folder cannot be written.
        """
        with writable(self.path, WRITE_ELSEWHERE):
            for name, plan in design.named_plans.items():
                self.plan_path(name).parent.mkdir(exist_ok=True)
                write_atomic(self.plan_path(name), plan.to_json().encode())

    def named_plan(self, text: str) -> tuple[str, Plan]:
        """Name and plan of ``NAME=FILE``, or of ``NAME`` if the folder has a copy of its file.

        Where the file no longer exists, its copy is read.

        Raises:
            PlanError: The text has another form, or there is no such plan.
        """
        name, equals, file = text.partition("=")
        if not is_name(name) or (equals and not file):
            raise PlanError(f"--plan {text}: is not of the form NAME=FILE")
        stored = self.plan_path(name)
        given = Path(file) if file else stored
        if not given.exists() and stored.is_file():
            given = stored
        if not file and not stored.is_file():
            raise PlanError(
                f"--plan {name}: {self.path} has no plan of this name: name its file, as in "
                f"`{command_line('--plan', f'{name}=FILE')}`"
            )
        return name, load_plan(given)

    def write(self, description: Description) -> None:
        """Write ``compare.json``.

        Raises:
            PlanError: The folder cannot be written.
        """
        with writable(self.path, WRITE_ELSEWHERE):
            write_record(self.path / FILE, description)

    def _is_empty(self) -> bool:
        """Whether the folder holds nothing but the first files of a command that was stopped."""
        names = {path.name for path in self.path.iterdir()} - {"cells", CLAIMS}
        return all(is_first_file(name) or name.startswith(f".{FILE}.") for name in names)


def _differing(before: Design, design: Design) -> str:
    """Names of the settings in which two designs differ."""
    old, new = (
        {
            "datasets": each.datasets,
            "folds": None if each.leave_out else each.folds,
            "leave-out": each.leave_out,
            "tune": each.tune,
            "inner-folds": each.inner_folds,
            **each.settings,
        }
        for each in (before, design)
    )
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(name.replace("_", "-") for name in names)


def _plain(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings after writing them to JSON and reading them back."""
    plain: Mapping[str, Any] = json.loads(json.dumps(settings))
    return plain
