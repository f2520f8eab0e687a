"""List of the trained models below a folder: bodies and heads, how good each is, and what fits.

Only the headers of weight files are read. Nothing is locked or written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hydrakit.compare.design import FILE as COMPARE
from hydrakit.compare.design import CompareDir
from hydrakit.errors import HydrakitError, PlanError, one_line
from hydrakit.hooks import Task
from hydrakit.runs.expected import expected_figures, figures_of
from hydrakit.runs.rundir import RunDir
from hydrakit.schema import Frozen, Name, PathText, Text
from hydrakit.stats.comparison import FORMAT, Comparison, StrategyResult
from hydrakit.storage.files import MAX_DEPTH, reason
from hydrakit.storage.records import read_record
from hydrakit.weights.description import ExpectedFigure, read_model_description
from hydrakit.weights.folders import BODY, HEADS, MEMBERS
from hydrakit.weights.format import BodyMetadata, HeadMetadata, read_body, read_head

ROUNDS = "rounds"  # folders of that name hold the weights of rounds, which are no models


class ListedBody(Frozen):
    """A body in the list.

    Attributes:
        path: Path of its file.
        digest: Digest of its tensors.
        fits: What it takes and gives, in words; a head with the same words can be combined with it.
        trained_on: Datasets of the rounds that trained it, in order.
    """

    path: PathText
    digest: Text
    fits: Text
    trained_on: tuple[Name, ...]


class ListedHead(Frozen):
    """A head in the list.

    Attributes:
        path: Path of its file.
        dataset: Dataset of its training.
        task: Kind of label.
        classes: Names of its classes.
        digest: Digest of its tensors.
        fits: What it needs of a body, in words, as in `ListedBody`.
        body: Digest of the body that it was trained on.
        body_path: Path of a file with that body; None if there is none below the folder.
        expected: Its expected figure; None if nothing says it.
    """

    path: PathText
    dataset: Name
    task: Task
    classes: tuple[Text, ...]
    digest: Text
    fits: Text
    body: Text
    body_path: PathText | None = None
    expected: ExpectedFigure | None = None


class ListedNetwork(Frozen):
    """A body and the heads beside it."""

    body: ListedBody
    heads: tuple[ListedHead, ...]


class ListedModel(Frozen):
    """A run with results, or a folder with a model.

    Attributes:
        path: Path of the folder.
        kind: ``run``, or ``model`` for a folder with weights alone.
        strategy: Strategy of its plan; None if unknown.
        target: Dataset that it is for; None if unknown.
        networks: Its networks; several in an ensemble, whose figures are of their mean prediction.
    """

    path: PathText
    kind: Literal["run", "model"]
    strategy: Name | None = None
    target: Name | None = None
    networks: tuple[ListedNetwork, ...]


class ListedStrategy(Frozen):
    """A strategy of a comparison.

    Attributes:
        name: Name of the strategy.
        cells: Number of its finished cells.
        expected: Its figure over all test findings; None if the comparison is not finished.
    """

    name: Name
    cells: int
    expected: ExpectedFigure | None = None


class ListedComparison(Frozen):
    """A comparison, with its strategies.

    Attributes:
        path: Path of the folder.
        target: Dataset of the test findings.
        cells: Number of its cells, finished or not.
        strategies: Its strategies.
    """

    path: PathText
    target: Name
    cells: int
    strategies: tuple[ListedStrategy, ...]


class ModelList(Frozen):
    """The models below a folder.

    Attributes:
        folder: Path of the folder.
        models: Runs with results, and folders with a model.
        comparisons: Comparisons.
        unfinished: Number of runs without results.
        problems: Files and folders that cannot be read, each with the reason.
    """

    folder: PathText
    models: tuple[ListedModel, ...]
    comparisons: tuple[ListedComparison, ...]
    unfinished: int
    problems: tuple[PathText, ...]


def list_models(folder: Path | str = Path("runs"), *, cells: bool = False) -> ModelList:
    """List the trained models below a folder; links to folders are not followed.

    Args:
        folder: A folder with runs, comparisons and models at any depth, or one of these.
        cells: Whether each cell of a comparison is listed as a run, too.

    Raises:
        PlanError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PlanError(f"{folder}: there is no such folder: name the folder that holds your runs")
    search = _ModelSearch(cells)
    search.look_into(folder)
    bodies: dict[str, str] = {}
    for model in search.models:
        for network in model.networks:
            bodies.setdefault(network.body.digest, network.body.path)
    return ModelList(
        folder=str(folder),
        models=tuple(_with_bodies(model, bodies) for model in search.models),
        comparisons=tuple(search.comparisons),
        unfinished=search.unfinished,
        problems=tuple(search.problems),
    )


@dataclass
class _ModelSearch:
    """A search for models, and what it has found."""

    cells: bool
    models: list[ListedModel] = field(default_factory=list)
    comparisons: list[ListedComparison] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unfinished: int = 0

    def look_into(self, folder: Path, depth: int = 0) -> None:
        """Add what a folder is; if it is nothing by itself, look into its folders."""
        if depth > MAX_DEPTH:
            self.problems.append(f"{folder}: is nested over {MAX_DEPTH} deep: not searched")
            return
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(f"{folder}: cannot be read ({reason(error)})")
            return
        names = {entry.name for entry in entries}
        try:
            if "plan.json" in names:
                self._add_run(folder)
            elif COMPARE in names:
                self._add_comparison(folder)
            elif BODY in names:
                self._add_model(folder)
            else:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) and entry.name != ROUNDS:
                        self.look_into(Path(entry.path), depth + 1)
                    elif entry.is_symlink() and entry.is_dir():
                        self.problems.append(f"{entry.path}: is a link, which is not followed")
        except (HydrakitError, OSError) as error:
            self.problems.append(one_line(str(error)))

    def _add_run(self, folder: Path) -> None:
        run = RunDir(folder)
        results = run.results()
        if results is None:
            self.unfinished += 1
            return
        folders = [folder, *(folder / MEMBERS / str(each.number) for each in results.members[1:])]
        description = read_model_description(folder)  # of `finish --how retrain`
        self._add(
            folder,
            "run",
            folders,
            figures_of(results) | (description.expected if description else {}),
            strategy=results.strategy,
            target=results.target,
        )

    def _add_model(self, folder: Path) -> None:
        description = read_model_description(folder)
        members = sorted(
            folder.glob(f"{MEMBERS}/*/{BODY}"), key=lambda each: (len(each.parent.name), each)
        )
        self._add(
            folder,
            "model",
            [folder, *(each.parent for each in members)],
            expected_figures(folder),
            strategy=description.strategy if description else None,
            target=description.target if description else None,
        )

    def _add(
        self,
        folder: Path,
        kind: Literal["run", "model"],
        folders: list[Path],
        figures: dict[str, ExpectedFigure],
        *,
        strategy: str | None,
        target: str | None,
    ) -> None:
        networks = tuple(self._networks(folders, figures))
        if networks:
            self.models.append(
                ListedModel(
                    path=str(folder),
                    kind=kind,
                    strategy=strategy,
                    target=target,
                    networks=networks,
                )
            )

    def _networks(
        self, folders: list[Path], figures: dict[str, ExpectedFigure]
    ) -> Iterator[ListedNetwork]:
        for folder in folders:
            try:
                path = folder / BODY
                body = _listed_body(path, read_body(path))
            except HydrakitError as error:
                self.problems.append(one_line(str(error)))
                continue
            heads = []
            for path in sorted((folder / HEADS).glob("*.safetensors")):
                try:
                    head = read_head(path)
                except HydrakitError as error:
                    self.problems.append(one_line(str(error)))
                    continue
                heads.append(_listed_head(path, head, figures.get(head.dataset), folder, body))
            yield ListedNetwork(body=body, heads=tuple(heads))

    def _add_comparison(self, folder: Path) -> None:
        compare_dir = CompareDir(folder)
        design = compare_dir.description().design
        cells, started = design.cells(), compare_dir.started()
        done: Counter[str] = Counter()
        for cell in cells:
            if cell.name in started and RunDir(compare_dir.cell(cell)).results_path.is_file():
                done[cell.strategy] += 1
        figures: dict[str, ExpectedFigure] = {}
        if compare_dir.comparison_path.is_file():
            try:
                figures = _figures_of_comparison(compare_dir)
            except HydrakitError as error:
                self.problems.append(one_line(str(error)))
        self.comparisons.append(
            ListedComparison(
                path=str(folder),
                target=design.target,
                cells=len(cells),
                strategies=tuple(
                    ListedStrategy(name=name, cells=done[name], expected=figures.get(name))
                    for name in design.all_strategies
                ),
            )
        )
        if self.cells:
            for cell in cells:
                if cell.name in started and (compare_dir.cell(cell) / "plan.json").is_file():
                    try:
                        self._add_run(compare_dir.cell(cell))
                    except (HydrakitError, OSError) as error:
                        self.problems.append(one_line(str(error)))


def _figures_of_comparison(compare_dir: CompareDir) -> dict[str, ExpectedFigure]:
    """Figures of a comparison's strategies, by name."""
    comparison = read_record(
        compare_dir.comparison_path,
        Comparison,
        remedy="delete it and run the same `hydrakit compare` command again",
        latest=FORMAT,
    )
    figures = {each.name: _strategy_figure(comparison, each) for each in comparison.strategies}
    return {name: figure for name, figure in figures.items() if figure is not None}


def _strategy_figure(comparison: Comparison, strategy: StrategyResult) -> ExpectedFigure | None:
    """The figure of a strategy; None if it has none."""
    if strategy.quality is None:
        return None
    metric, value, low, high = strategy.quality
    single = comparison.folds is None
    tested = "splits" if single else "folds"
    if comparison.leave_out is not None:
        tested += f" (each {comparison.leave_out.subgroup} left out of training in turn)"
    return ExpectedFigure(
        metric=metric,
        value=value,
        low=low,
        high=high,
        findings=len(comparison.findings),
        source="test" if single else "folds",
        reason=f"mean of the test {tested} of {strategy.cells} cells",
    )


def _listed_body(path: Path, body: BodyMetadata) -> ListedBody:
    fits = _fits_text(body.in_channels, body.spec.patch, body.spec.features)
    return ListedBody(path=str(path), digest=body.digest, fits=fits, trained_on=body.trained_on)


def _listed_head(
    path: Path,
    head: HeadMetadata,
    figure: ExpectedFigure | None,
    folder: Path,
    body: ListedBody,
) -> ListedHead:
    body_path: str | None = body.path
    if head.body != body.digest:
        body_path = _round_body(folder, head.body)
    return ListedHead(
        path=str(path),
        dataset=head.dataset,
        task=head.task,
        classes=head.classes,
        digest=head.digest,
        fits=_fits_text(head.body_channels, head.preprocessing.patch, head.features),
        body=head.body,
        body_path=body_path,
        expected=figure,
    )


def _round_body(folder: Path, digest: str) -> str | None:
    """Path of the body with a digest among those of the rounds of a run."""
    for path in sorted(folder.glob(f"{ROUNDS}/*/{BODY}")):
        try:
            if read_body(path).digest == digest:
                return str(path)
        except HydrakitError:  # it is no part of the model, and `verify` says that it is damaged
            continue
    return None


def _fits_text(channels: int, patch: int, features: int) -> str:
    return f"{channels} x {patch} x {patch} to {features} features"


def _with_bodies(model: ListedModel, bodies: dict[str, str]) -> ListedModel:
    """Name the files of bodies that lie elsewhere below the folder."""
    networks = tuple(
        network.model_copy(
            update={
                "heads": tuple(
                    head
                    if head.body_path is not None
                    else head.model_copy(update={"body_path": bodies.get(head.body)})
                    for head in network.heads
                )
            }
        )
        for network in model.networks
    )
    return model.model_copy(update={"networks": networks})
