"""Search over any values of a plan, by cross-validation within its training data.

A candidate is a set of values that replace those of the plan. It is trained and tested as any run
is, but on inner folds: the cases outside the test split are divided into folds, and each fold is
tested by a network trained on the others. The cases of the test split itself, and what supports
share with them, are not used at all, so a choice does not depend on them.

The best candidate has the highest mean test AUC (R2 in regression) over the inner folds, then the
lowest loss, then the first place. Its score is too high as an estimate, because it is the best of
many.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

from pydantic import Field

from hydrakit.data.origin import DataOrigin
from hydrakit.data.quality.leakage import check_leakage
from hydrakit.data.quality.split import RESERVED
from hydrakit.errors import DataError, PlanError, command_line, one_line
from hydrakit.models.build import check_builds, check_components, check_heads
from hydrakit.plan.edit import FIXED_PATHS, edit_plan, parse_value, refuse_fixed
from hydrakit.plan.model import MAX_FOLDS, Fold, Plan
from hydrakit.plan.profiles import complete_options
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.datasets import PlanDatasets, find_datasets, prepare_datasets
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.transfer import FILE as VALIDATION_OUTPUTS
from hydrakit.schema import Frozen, Name, Text
from hydrakit.storage.digests import FILE as DIGESTS
from hydrakit.storage.digests import read_digests, update_digests
from hydrakit.storage.files import append_line, delete
from hydrakit.storage.lock import locked
from hydrakit.storage.records import read_appended, read_record, writable, write_record
from hydrakit.training.loop import DivergedError
from hydrakit.version import version

FOLDS = 3
FILE = "candidates.json"
RESULTS = "inner.jsonl"
MAX_CANDIDATES = 1000
MAX_VALUE = 60  # characters of a value in a message

PlanValues = Mapping[str, Any]
Origins = Mapping[str, Mapping[str, DataOrigin]]


class InnerResult(Frozen):
    """Result of a candidate on one inner fold: a line of ``inner.jsonl``.

    Attributes:
        digest: SHA-256 of the run's plan and of the contents of its datasets.
        values: Values of the candidate, by path.
        fold: Number of the inner fold.
        folds: Number of inner folds.
        score: AUC (R2 in regression) on the inner fold; None if training diverged.
        loss: Loss on the inner fold; None if training diverged.
        findings: Number of findings of the inner fold; None if training diverged.
        seconds: Training time, with that of rounds shared with other runs.
    """

    digest: Text
    values: dict[str, Any]
    fold: Annotated[int, Field(ge=0)]
    folds: Annotated[int, Field(ge=2)]
    score: float | None
    loss: float | None
    findings: int | None
    seconds: float


class Candidate(Frozen):
    """A candidate with its results.

    Attributes:
        values: Values that replace those of the plan, by path.
        scores: AUC (R2 in regression) on each inner fold; None where training diverged.
        score: Mean of the scores; None if training diverged on a fold.
        loss: Mean loss; None if training diverged on a fold.
        seconds: Training time of all folds.
    """

    values: dict[str, Any]
    scores: tuple[float | None, ...]
    score: float | None
    loss: float | None
    seconds: float

    @classmethod
    def of(cls, results: Sequence[InnerResult]) -> Candidate:
        """Summarise the results on all inner folds."""
        scores = [each.score for each in results if each.score is not None]
        losses = [each.loss for each in results if each.loss is not None]
        diverged = len(scores) < len(results)
        return cls(
            values=results[0].values,
            scores=tuple(each.score for each in results),
            score=None if diverged else mean(scores),
            loss=None if diverged else mean(losses),
            seconds=sum(each.seconds for each in results),
        )


class CandidateTable(Frozen):
    """Content of ``candidates.json``: every candidate that was tried, and the choice.

    Attributes:
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote the file.
        plan: Digest of the plan whose values were replaced.
        target: Target of the plan.
        folds: Number of inner folds.
        of: Number of candidates of the search.
        tried: Candidates that were tried so far, in order.
        chosen: Index of the chosen candidate; None until all were tried.
    """

    format: Literal[1] = 1
    hydrakit: Text
    plan: Text
    target: Name
    folds: Annotated[int, Field(ge=2)]
    of: Annotated[int, Field(gt=0)]
    tried: tuple[Candidate, ...]
    chosen: int | None = None

    @property
    def best(self) -> Candidate:
        """The chosen candidate."""
        assert self.chosen is not None
        return self.tried[self.chosen]


def parse_choices(texts: Iterable[str], *, option: str) -> dict[str, tuple[Any, ...]]:
    """Parse ``PATH=V1,V2`` into values by path.

    A value is JSON, or text as it stands; commas within brackets, braces and quotes belong to a
    value: ``body.channels=[16,32],[32,64]``.

    Args:
        texts: Texts of the option.
        option: Name of the option, for messages.

    Raises:
        PlanError: A text has another form, a path occurs twice, or a path has fewer than two
            different values.
    """
    choices: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        path, equals, rest = text.partition("=")
        values = [parse_value(each.strip()) for each in _split_values(rest)]
        if not (path and equals) or "" in values:
            raise PlanError(f"{option} {text}: is not of the form PATH=V1,V2")
        if path in choices:
            raise PlanError(f"{option} {path}: is given twice: list all values in one option")
        if len(values) < 2:
            raise PlanError(
                f"{option} {text}: a choice needs two values or more: list them as PATH=V1,V2, or "
                f"set a single value with `{command_line('--set', text)}`"
            )
        if len({json.dumps(each) for each in values}) < len(values):
            raise PlanError(f"{option} {text}: lists a value twice")
        choices[path] = tuple(values)
    return choices


def _split_values(text: str) -> list[str]:
    """Split at commas outside of brackets, braces and quotes."""
    parts, depth, quoted, escaped = [""], 0, False, False
    for character in text:
        if character == "," and not depth and not quoted:
            parts.append("")
            continue
        parts[-1] += character
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{") - (character in "]}")
    return parts


def combinations_of(choices: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values of some paths; the last path varies fastest.

    Raises:
        PlanError: There are too many.
    """
    count = math.prod(len(values) for values in choices.values())
    if count > MAX_CANDIDATES:
        raise PlanError(
            f"{count} combinations of values, and at most {MAX_CANDIDATES} are possible: list fewer"
        )
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def refuse_fixed_choices(target: str, paths: Iterable[str], *, by: str, option: str) -> None:
    """Refuse paths of values that a search sets itself.

    Args:
        target: Target of the plan.
        paths: Paths of the choices.
        by: Command that sets the values.
        option: Option that gave the paths.

    Raises:
        PlanError: There is such a path.
    """
    split = f"datasets.{target}.split"
    parts = (f"{split}.{name}" for name in ("test", "fold", "left_out", "inner"))
    refuse_fixed(paths, (*FIXED_PATHS, *parts), by=by, option=option)


def with_values(plan: Plan, values: PlanValues, plugins: Plugins) -> Plan:
    """The plan of a candidate.

    Raises:
        PlanError: A path or a value is invalid.
        PluginError: A value names a component that no plugin offers.
    """
    return complete_options(edit_plan(plan, values), plugins)


def with_inner_fold(plan: Plan, index: int, count: int) -> Plan:
    """The plan, with an inner fold in the place of its test split.

    Raises:
        PlanError: The plan is one of a search itself.
    """
    if plan.inner is not None:
        raise PlanError("the plan tests an inner fold itself: choose the plan of a run")
    datasets = tuple(
        each.model_copy(
            update={
                "split": each.split.model_copy(update={"inner": Fold(index=index, count=count)})
            }
        )
        if each.name == plan.target
        else each
        for each in plan.datasets
    )
    return plan.model_copy(update={"datasets": datasets})


def values_text(values: PlanValues) -> str:
    """The values of a candidate on one line."""
    return ", ".join(
        f"{path}={one_line(value if isinstance(value, str) else json.dumps(value), MAX_VALUE)}"
        for path, value in values.items()
    )


def data_key(plan: Plan) -> str:
    """Key of everything in a plan that decides the prepared data: datasets and size of patches."""
    facts = [
        plan.patch,
        [each.model_dump(mode="json", exclude={"split"}) for each in plan.datasets],
    ]
    return _digest(facts)[:16]


class CandidateCheck:
    """Prepares the data of candidates, and checks everything that can be checked before training.

    Args:
        context: Where and how to compute; its cache must be active.
        plugins: Plugins of this process.
        callback: Called while cases are read.
    """

    def __init__(self, context: RunContext, plugins: Plugins, callback: RunCallback) -> None:
        self._context, self._plugins, self._callback = context, plugins, callback
        self._datasets: dict[str, PlanDatasets] = {}
        self._networks: set[str] = set()
        self._tested: dict[str, tuple[frozenset[str], frozenset[str]]] = {}

    @property
    def origins(self) -> Origins:
        """What the candidates are computed from: by `data_key`, then by dataset."""
        return {
            key: {
                name: DataOrigin.of(each.index, datasets.adapters[name])
                for name, each in datasets.prepared.items()
            }
            for key, datasets in self._datasets.items()
        }

    def check(self, plan: Plan, candidates: Sequence[PlanValues], folds: int) -> None:
        """Check all candidates of a plan on all inner folds.

        Raises:
            PlanError: A value is invalid, or candidates test different cases.
            DataError: A dataset cannot be used, or is too small for this number of folds.
            PluginError: A value names a component that no plugin offers.
        """
        if not 2 <= folds <= MAX_FOLDS:
            raise PlanError(f"{folds} inner folds: there must be from 2 to {MAX_FOLDS}")
        first: list[tuple[frozenset[str], frozenset[str]]] | None = None
        for values in candidates:
            with _naming(values):
                changed = with_values(plan, values, self._plugins)
                datasets = self._prepare(changed)
                self._check_network(changed, datasets)
                tested = [
                    self._tested_cases(with_inner_fold(changed, index, folds), datasets)
                    for index in range(folds)
                ]
            if first is not None and tested != first:
                raise PlanError(
                    f"{values_text(values)}: tests other cases than {values_text(candidates[0])}, "
                    "so that their scores cannot be compared: leave out values that decide the "
                    "test split"
                )
            first = tested

    def _prepare(self, plan: Plan) -> PlanDatasets:
        key = data_key(plan)
        if key not in self._datasets:
            datasets = find_datasets(plan, self._context, self._plugins)
            check_components(plan, datasets.adapters, self._plugins)
            self._datasets[key] = prepare_datasets(plan, datasets, self._callback)
        return self._datasets[key]

    def _check_network(self, plan: Plan, datasets: PlanDatasets) -> None:
        """Check body and heads, once for plans that differ in seeds and splits alone."""
        facts = plan.model_dump(mode="json", exclude={"seed", "split_seed"})
        for each in facts["datasets"]:
            del each["split"]
        if (key := _digest(facts)) in self._networks:
            return
        check_components(plan, datasets.adapters, self._plugins)
        check_heads(plan, datasets.adapters)
        channels = datasets.fitted_to(plan).channels
        check_builds(plan, datasets.adapters, in_channels=channels, plugins=self._plugins)
        self._networks.add(key)

    def _tested_cases(
        self, plan: Plan, datasets: PlanDatasets
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Keys of the cases of an inner fold, and of the cases of the test split."""
        splits = {each.name: each.split.model_dump(mode="json") for each in plan.datasets}
        key = _digest(
            [data_key(plan), splits, plan.effective_split_seed, plan.copies, plan.conflicts]
        )
        if key not in self._tested:
            leakage = check_leakage(
                datasets.prepared, datasets.adapters, plan, warn=not self._tested
            )
            of = leakage.splits[plan.target]
            self._tested[key] = (
                frozenset(case for case, split in of.items() if split == "test"),
                frozenset(case for case, split in of.items() if split == RESERVED),
            )
        return self._tested[key]


@contextmanager
def _naming(values: PlanValues) -> Iterator[None]:
    """Name the values of a candidate in an error of the block, unless its message does."""
    try:
        yield
    except (PlanError, DataError) as error:
        if any(str(error).startswith(path) for path in values):
            raise
        raise type(error)(f"{values_text(values)}: {error}") from None


@dataclass(frozen=True)
class InnerRun:
    """A run of a candidate on an inner fold.

    Attributes:
        digest: SHA-256 of the plan and of the contents of its datasets.
        plan: Plan of the candidate, with the inner fold in the place of its test split.
        values: Values of the candidate, by path.
        fold: Number of the inner fold.
        out: Folder of the run.
        origins: What the run must be computed from, by dataset.
    """

    digest: str
    plan: Plan
    values: dict[str, Any]
    fold: int
    out: Path
    origins: Mapping[str, DataOrigin]

    @property
    def beginning(self) -> str:
        """Digest that runs have in common if they train the same first round on the same fold."""
        return self.plan.model_copy(update={"rounds": self.plan.rounds[:1]}).digest()

    def result(self, folds: int, *, diverged: bool) -> InnerResult:
        """Result of the run, read from its folder; without figures if training diverged."""
        result = InnerResult(
            digest=self.digest,
            values=self.values,
            fold=self.fold,
            folds=folds,
            score=None,
            loss=None,
            findings=None,
            seconds=0.0,
        )
        if diverged:
            return result
        results = RunDir(self.out).results()
        assert results is not None
        figures = results.tested.figures
        changes: dict[str, Any] = {"seconds": sum(each.seconds for each in results.rounds)}
        if math.isfinite(figures.score) and math.isfinite(figures.loss):
            changes |= {"score": figures.score, "loss": figures.loss}
            changes["findings"] = results.tested.findings
        return result.model_copy(update=changes)


TrainInner = Callable[[Sequence[InnerRun]], Generator[tuple[InnerRun, bool]]]
"""Trains runs on inner folds; yields each one when it has ended, and whether training diverged."""


def in_turn(train: Callable[[InnerRun], object]) -> TrainInner:
    """Train runs one after another in this process.

    Args:
        train: Function that trains a run in its folder.
    """

    def train_all(runs: Sequence[InnerRun]) -> Generator[tuple[InnerRun, bool]]:
        for run in runs:
            diverged = False
            try:
                with _naming(run.values):
                    train(run)
            except DivergedError:
                diverged = True
            yield run, diverged

    return train_all


@dataclass(frozen=True)
class CandidateSearch:
    """Trains and tests candidates on inner folds, and chooses one.

    The folder gets ``inner.jsonl``, a line for each finished run, ``candidates.json``, and the
    runs in ``runs``, named by digests. A finished run loses its weights: many runs would fill a
    disk. After a stop, the same search continues; with other candidates it trains only new ones.

    Attributes:
        folder: Folder of the search.
        plan: Plan whose values are replaced.
        candidates: Candidates.
        folds: Number of inner folds.
        plugins: Plugins of this process.
        origins: What the runs must be computed from (`CandidateCheck.origins`).
        train: Function that trains runs. The order in which they end changes no choice.
        on_run: Called with the numbers of finished runs and of all runs.
    """

    folder: Path
    plan: Plan
    candidates: Sequence[PlanValues]
    folds: int
    plugins: Plugins
    origins: Origins
    train: TrainInner
    on_run: Callable[[int, int], None] = lambda done, of: None

    def run(self) -> CandidateTable:
        """Test all candidates, and choose one.

        Raises:
            PlanError: Training diverged with every candidate, or a file cannot be read or written.
            DataError: A dataset cannot be used.
            HydrakitError: Another process works in the folder.
        """
        with writable(self.folder, "choose another folder with `--out`"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            return self._run()

    @property
    def runs(self) -> list[list[InnerRun]]:
        """The runs of each candidate, in order of the inner folds."""
        runs = []
        for values in self.candidates:
            plan = with_values(self.plan, values, self.plugins)
            runs.append([self._inner_run(plan, dict(values), fold) for fold in range(self.folds)])
        return runs

    def _inner_run(self, plan: Plan, values: dict[str, Any], fold: int) -> InnerRun:
        inner = with_inner_fold(plan, fold, self.folds)
        origins = self.origins[data_key(inner)]
        contents = {name: each.content for name, each in origins.items()}
        digest = _digest([inner.digest(), contents])
        return InnerRun(digest, inner, values, fold, self.folder / "runs" / digest[:16], origins)

    def _run(self) -> CandidateTable:
        by_candidate, known = self.runs, read_results(self.folder)
        runs = [run for each in by_candidate for run in each]
        for run in runs:
            if run.digest in known:
                self._tidy(run, known[run.digest])
        table = self._write(None, by_candidate, known)
        waiting = {run.digest: run for run in runs if run.digest not in known}
        with closing(self.train(list(waiting.values()))) as ended:
            for run, diverged in ended:
                result = known[run.digest] = run.result(self.folds, diverged=diverged)
                append_line(self.folder / RESULTS, result.model_dump_json())
                self._tidy(run, result)
                self.on_run(sum(each.digest in known for each in runs), len(runs))
                table = self._write(table, by_candidate, known)
        scored = [
            (each.score, -each.loss, -index)
            for index, each in enumerate(table.tried)
            if each.score is not None and each.loss is not None
        ]
        if not scored:
            raise PlanError(
                f"{self.folder / FILE}: training diverged with every candidate: try lower learning "
                "rates (rounds.all.learning_rate)"
            )
        table = table.model_copy(update={"chosen": -max(scored)[2]})
        write_record(self.folder / FILE, table)
        return table

    def _write(
        self,
        before: CandidateTable | None,
        by_candidate: Sequence[Sequence[InnerRun]],
        known: Mapping[str, InnerResult],
    ) -> CandidateTable:
        """Write the table of the candidates whose runs have all ended, if it has grown."""
        tried = tuple(
            Candidate.of([known[run.digest] for run in runs])
            for runs in by_candidate
            if all(run.digest in known for run in runs)
        )
        if before is not None and len(tried) == len(before.tried):
            return before
        table = CandidateTable(
            hydrakit=version(),
            plan=self.plan.digest(),
            target=self.plan.target,
            folds=self.folds,
            of=len(self.candidates),
            tried=tried,
        )
        if tried:
            write_record(self.folder / FILE, table)
        return table

    def _tidy(self, run: InnerRun, result: InnerResult) -> None:
        """Delete what a run with a result needs no more."""
        if not run.out.is_dir():
            return
        if result.score is None:
            delete(self.folder, run.out)  # its unfinished round can be of no use
        else:
            _delete_weights(RunDir(run.out))


def read_results(folder: Path) -> dict[str, InnerResult]:
    """Results of the finished runs of a search, by digest.

    Raises:
        PlanError: The file cannot be read.
    """
    path = folder / RESULTS
    if not path.is_file():
        return {}
    records = read_appended(path, InnerResult, remedy="delete it to start again")
    return {each.digest: each for each in records}


def read_table(folder: Path) -> CandidateTable | None:
    """Table of a search; None if no candidate was tried yet.

    Raises:
        PlanError: The file cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    return read_record(path, CandidateTable, remedy="delete it and run the same command again")


def _delete_weights(run: RunDir) -> None:
    """Delete the weights of a finished run, after removing their digests.

    It can be repeated after a stop, and does nothing if there are none.
    """
    weights = [path for path in run.path.rglob("*.safetensors") if path.name != VALIDATION_OUTPUTS]
    if not weights:
        return
    lists = sorted(run.path.rglob(DIGESTS), key=lambda path: -len(path.parts))
    for folder in [path.parent for path in lists]:  # the innermost first
        digests = read_digests(folder)
        renewed = [
            path.relative_to(folder).as_posix()
            for path in lists
            if path.parent != folder and path.is_relative_to(folder)
        ]
        update_digests(
            folder,
            without=[
                path.relative_to(folder).as_posix()
                for path in weights
                if path.is_relative_to(folder)
            ],
            renewed=[name for name in renewed if digests and name in digests.files],
        )
    for path in weights:
        delete(run.path, path)


def _digest(value: object) -> str:
    """SHA-256 of a value, by its JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
