"""The cells of a comparison: which runs it has, and the plan of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from hydrakit.errors import PlanError, one_line, unknown
from hydrakit.plan.edit import (
    FIXED_PATHS,
    edit_rounds_there_are,
    no_such_round,
    paths_without_rounds,
    refuse_fixed,
)
from hydrakit.plan.model import MAX_FOLDS, Fold, Plan, Split
from hydrakit.plan.profiles import TARGET_SPLIT, check_changed, make_plan
from hydrakit.plan.settings import PlanSettings
from hydrakit.plugins.registry import Plugins
from hydrakit.schema import Frozen, Name, Text, first_fault
from hydrakit.storage.files import read_whole
from hydrakit.storage.lock import FILES
from hydrakit.storage.records import read_record, writable, write_record

FILE = "compare.json"
MAX_CELLS = 10_000
WRITE_ELSEWHERE = "choose another folder with `--out`"

OF_CELLS = {"seed", "split_seed", "splits", "whole"}
"""Settings of a plan that the design itself decides for each cell."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a comparison.

    Attributes:
        strategy: Name.
        seed: Of its plan.
        repeat: Of the cross-validation; decides the splits.
        fold: Whose cases are tested.
    """

    strategy: str
    seed: int
    repeat: int
    fold: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.strategy}-seed{self.seed}-repeat{self.repeat}-fold{self.fold}"

    @property
    def group(self) -> tuple[int, int, int]:
        """What it has in common with the cells of the other strategies: seed, repeat, fold."""
        return self.seed, self.repeat, self.fold

    def __str__(self) -> str:
        """As it is called in messages."""
        return f"{self.strategy}, seed {self.seed}, repeat {self.repeat}, fold {self.fold}"


class Design(Frozen):
    """What is compared.

    Attributes:
        strategies: Names; every other one is compared with the first.
        datasets: Names in the order of training; the last is the target.
        seeds: Number of seeds, which begin at 0.
        folds: Number of folds; None for a single 8-1-1 split.
        repeats: Of the cross-validation, each with folds of its own.
        settings: Further settings of the plans (`PlanSettings`), by name. Defaults are left out, so
            that the same design has the same digest.
    """

    strategies: Annotated[tuple[Name, ...], Field(min_length=1)]
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[int, Field(gt=0, le=MAX_CELLS)] = 1
    folds: Annotated[int, Field(ge=2, le=MAX_FOLDS)] | None = 5
    repeats: Annotated[int, Field(gt=0, le=MAX_CELLS)] = 1
    settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("settings")
    @classmethod
    def _without_defaults(cls, settings: dict[str, Any]) -> dict[str, Any]:
        known = PlanSettings.model_fields.keys() - OF_CELLS
        for name in settings:
            if name not in known:
                raise ValueError(unknown("setting", name, known))
        defaults = PlanSettings()
        return {
            name: value
            for name, value in _plain(settings).items()
            if value is not None and value != getattr(defaults, name)
        }

    @model_validator(mode="after")
    def _names_each_once(self) -> Design:
        if len(set(self.strategies)) < len(self.strategies):
            raise ValueError("a strategy is named twice")
        if self.folds is None and self.repeats > 1:
            raise ValueError("a single split cannot be repeated: give it folds")
        cells = self.seeds * self.repeats * (self.folds or 1) * len(self.strategies)
        if cells > MAX_CELLS:
            raise ValueError(f"{cells} cells are asked for, and {MAX_CELLS} are the most")
        return self

    @property
    def target(self) -> str:
        """The dataset that is tested."""
        return self.datasets[-1]

    @property
    def digest(self) -> str:
        """SHA-256 of what all cells have in common: others can be added, it stays the same."""
        fixed = self.model_dump(mode="json", include={"datasets", "folds", "settings"})
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()

    def cells(self) -> list[Cell]:
        """All of them, those of one (seed, repeat, fold) after one another."""
        groups = product(range(self.repeats), range(self.seeds), range(self.folds or 1))
        return [
            Cell(strategy=strategy, seed=seed, repeat=repeat, fold=fold)
            for repeat, seed, fold in groups
            for strategy in self.strategies
        ]

    def split(self, fold: int) -> Split:
        """Of the target, in a fold."""
        if self.folds is None:
            return TARGET_SPLIT
        return Split(train=8, val=2, fold=Fold(index=fold, count=self.folds))

    def plan(self, cell: Cell, plugins: Plugins) -> Plan:
        """The plan of a cell.

        Raises:
            PluginError: Unknown strategy, dataset or head.
            PlanError: The settings are impossible, or a change concerns rounds that no strategy
                has.
        """
        plan = self._unchanged(cell, plugins)
        changes = self.settings.get("changes")
        if not changes:
            return plan
        split = f"datasets.{self.target}.split"
        refuse_fixed(changes, (*FIXED_PATHS, f"{split}.test", f"{split}.fold"), by="`compare`")
        for path in paths_without_rounds(plan, changes):
            others = [
                self._unchanged(replace(cell, strategy=name), plugins) for name in self.strategies
            ]
            if all(paths_without_rounds(other, [path]) for other in others):
                raise PlanError(no_such_round(plan, path))
        return check_changed(edit_rounds_there_are(plan, changes), plugins)

    def _unchanged(self, cell: Cell, plugins: Plugins) -> Plan:
        """The plan of a cell before the changes of its values."""
        return make_plan(
            cell.strategy,
            self.datasets,
            seed=cell.seed,
            split_seed=cell.repeat,
            splits={self.target: self.split(cell.fold)},
            whole=True,
            plugins=plugins,
            **{name: value for name, value in self.settings.items() if name != "changes"},
        )


def make_design(**given: Any) -> Design:
    """A `Design` from its attributes.

    Raises:
        PlanError: One of them is impossible.
    """
    try:
        return Design.model_validate(given)
    except ValidationError as error:
        raise PlanError(first_fault(error)) from None


class Description(Frozen):
    """What ``compare.json`` holds.

    Attributes:
        format: Version of this format.
        hydrakit: Version that wrote it.
        digest: Of the design: what all cells in the folder have in common.
        design: What the last command asked for.
        positive: The class whose AUC is told.
        status: Of each cell of the design: ``done``, ``waiting``, or why it failed.
    """

    format: Literal[1] = 1
    hydrakit: Text
    digest: Text
    design: Design
    positive: Text
    status: Annotated[dict[str, str], Field(max_length=MAX_CELLS)]


class CompareDir:
    """The folder of a comparison.

    Attributes:
        path: Of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def rounds(self) -> Path:
        """The rounds that cells have in common."""
        return self.path / "rounds"

    @property
    def comparison_path(self) -> Path:
        """Of ``comparison.json``."""
        return self.path / "comparison.json"

    def cell(self, cell: Cell) -> Path:
        """The run of a cell."""
        return self.path / "cells" / cell.name

    def failure_path(self, cell: Cell) -> Path:
        """Where a process tells why a cell failed."""
        return self.path / "cells" / f"{cell.name}.failed"

    def status(self, cell: Cell) -> str:
        """``done``, ``waiting``, or why it failed, on one line."""
        if (self.cell(cell) / "results.json").is_file():
            return "done"
        try:
            told = read_whole(self.failure_path(cell))
        except FileNotFoundError:
            return "waiting"
        except (OSError, ValueError):
            return f"{self.failure_path(cell)}: cannot be read"
        lines = told.decode("utf-8", "replace").split("\n")
        return next((one_line(line) for line in reversed(lines) if line.strip()), "unknown")

    def check(self, design: Design) -> None:
        """See that a comparison can go on here: in a new or empty folder, or its own.

        Raises:
            PlanError: The folder holds something else.
        """
        path = self.path / FILE
        if path.is_file():
            before = self.description()
            if before.digest != design.digest:
                raise PlanError(
                    f"{self.path}: holds a comparison with other {_differing(before, design)}: "
                    "strategies, seeds and repeats can be added, for others choose another folder "
                    "with `--out`"
                )
        elif self.path.exists() and not (self.path.is_dir() and self._is_empty()):
            raise PlanError(
                f"{self.path}: is not empty and not a comparison's folder: choose another with "
                "`--out`"
            )

    def description(self) -> Description:
        """What ``compare.json`` says.

        Raises:
            PlanError: It cannot be read.
        """
        remedy = "name the folder that `hydrakit compare` printed"
        return read_record(self.path / FILE, Description, remedy=remedy)

    def begin(self) -> None:
        """Make the folder.

        Raises:
            PlanError: It cannot be written.
        """
        with writable(self.path, WRITE_ELSEWHERE):
            (self.path / "cells").mkdir(parents=True, exist_ok=True)

    def write(self, description: Description) -> None:
        """Write ``compare.json``.

        Raises:
            PlanError: The folder cannot be written.
        """
        with writable(self.path, WRITE_ELSEWHERE):
            write_record(self.path / FILE, description)

    def _is_empty(self) -> bool:
        """Whether there is nothing in it, save what was begun and at once stopped."""
        begun = {*FILES, "cells"}
        names = {path.name for path in self.path.iterdir()}
        return all(name in begun or name.startswith(f".{FILE}.") for name in names)


def _differing(before: Description, design: Design) -> str:
    old, new = (
        {"datasets": d.datasets, "folds": d.folds, **d.settings} for d in (before.design, design)
    )
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(name.replace("_", "-") for name in names)


def _plain(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings as they come back from JSON."""
    read: Mapping[str, Any] = json.loads(json.dumps(settings))
    return read
