"""The folder of a run: its paths, and the reading and writing of its files.

A finished round is the folder ``rounds/NN-dataset-train``. It is written with the suffix ``.new``
and then renamed. During training the folder with the suffix ``.part`` contains its progress. Other
files are written under a temporary name and renamed.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hydrakit.data.origin import AUTOMATIC, DataOrigin, splits_digest
from hydrakit.errors import PlanError, command_line
from hydrakit.plan.model import Plan, load_plan
from hydrakit.plan.results import (
    FINAL_FORMAT,
    DataFacts,
    Environment,
    EpochRecord,
    Event,
    Results,
    RoundResult,
    TracePoint,
)
from hydrakit.rounds import Round
from hydrakit.schema import Name
from hydrakit.storage.digests import (
    FILE,
    cached_digest,
    check_file,
    read_digests,
    update_digests,
    write_digests,
)
from hydrakit.storage.files import (
    append_line,
    patiently,
    refuse_link,
    sync_folder,
    write_atomic,
)
from hydrakit.storage.lock import is_first_file, locked
from hydrakit.storage.paths import check_utf8
from hydrakit.storage.records import read_appended, read_lines, read_record, read_value
from hydrakit.weights.description import FILE as DESCRIPTION
from hydrakit.weights.folders import MEMBERS
from hydrakit.weights.format import HeadMetadata, read_body, read_head

TRACE = "test-trace.jsonl"

RESTORE = "restore it, or run the plan again in another folder"

_FACTS = TypeAdapter(dict[Name, DataFacts])
_SPLITS = TypeAdapter(dict[Name, dict[str, str]])

CHECKPOINT = "checkpoint.safetensors"
"""Name of the checkpoint in the ``.part`` folder of a round."""

START = "start.safetensors"
"""Name of the file with the weights that the body begins with, if they are not random."""

START_HEADS = "start-heads"
"""Name of the folder with the heads that begin with given weights."""

EXAMPLE_CASES = "shown.safetensors"
SEALED = (
    *("plan.json", "data.json", "splits.json", "results.json", "predictions.csv", DESCRIPTION),
    *("body.safetensors", START, EXAMPLE_CASES),
)
"""Files of a finished run with digests, besides heads and rounds. ``environment.json`` is not among
them: a user may correct the data folders in it."""


class RunDir:
    """Folder of one run.

    Attributes:
        path: Path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def begin(cls, path: Path, plan: Plan) -> RunDir:
        """Create the folder for a plan, or reuse a folder that contains the same plan.

        Raises:
            PlanError: As in `check`, or the folder cannot be written.
            HydrakitError: Another process is starting a run in the same folder.
        """
        here = cls.check(path, plan)
        if here.plan_path.is_file():
            return here
        try:
            path.mkdir(parents=True, exist_ok=True)
            with here.locked():
                cls.check(path, plan)  # another process may have started here
                write_atomic(here.plan_path, plan.to_json().encode())
        except OSError as error:
            raise PlanError(
                f"{path}: cannot be written ({error.strerror}): choose another folder with `--out`"
            ) from None
        return here

    @classmethod
    def check(cls, path: Path, plan: Plan) -> RunDir:
        """Check that a plan can be run in a folder: it is new, empty, or contains the same plan.

        Raises:
            PlanError: The folder contains another plan, or something else than a run, or its name
                is not UTF-8.
        """
        check_utf8(path)
        here = cls(path)
        # Listed before the plan is looked up: another process may be starting a run here.
        content = list(path.iterdir()) if path.is_dir() else []
        if here.plan_path.is_file():
            if here.plan().digest() != plan.digest():
                command = command_line("hydrakit", "run", "--resume", path)
                raise PlanError(
                    f"{path}: contains a run of another plan: choose another folder with `--out`, "
                    f"or continue that run with `{command}`"
                )
            return here
        if path.exists() and not (path.is_dir() and all(map(_precedes_plan, content))):
            raise PlanError(
                f"{path}: is not empty, and not the folder of a run: choose another with `--out`"
            )
        return here

    @property
    def plan_path(self) -> Path:
        """Path of ``plan.json``."""
        return self.path / "plan.json"

    @property
    def body_path(self) -> Path:
        """Path of the final body."""
        return self.path / "body.safetensors"

    @property
    def results_path(self) -> Path:
        """Path of ``results.json``, which exists when the run is evaluated at its end."""
        return self.path / "results.json"

    @property
    def whole(self) -> bool:
        """Whether the run is finished with all its files: their digests are written last."""
        return self.results_path.is_file() and (self.path / FILE).is_file()

    @property
    def report_path(self) -> Path:
        """Path of ``report.html``."""
        return self.path / "report.html"

    def head_path(self, name: str) -> Path:
        """Path of a final head."""
        return self.path / "heads" / f"{name}.safetensors"

    def members(self, plan: Plan) -> list[RunDir]:
        """Folders of the second and all other networks of an ensemble, which are runs, too.

        The first network has no folder of its own: it is trained in the folder of the run.
        """
        folders = range(2, plan.ensemble + 1)
        return [RunDir(self.path / MEMBERS / str(number)) for number in folders]

    def networks(self, plan: Plan) -> list[RunDir]:
        """Folders of all networks of a run, the run's own first."""
        return [self, *self.members(plan)]

    def begun_members(self) -> list[RunDir]:
        """As `members`, without those that have no folder yet; the plan is not read."""
        names = sorted(_names_in(self.path / MEMBERS), key=lambda name: (len(name), name))
        members = [RunDir(self.path / MEMBERS / name) for name in names]
        return [member for member in members if member.plan_path.is_file()]

    def weights(self, plan: Plan, head: str) -> tuple[Path, Path]:
        """Paths of a final head and of the body that it fits, after a check of their digests.

        It is the final body, or that of the head's last round if later rounds have changed the body
        since. (An earlier version may have deleted it; then it is the final body.)

        Args:
            plan: Plan of the run.
            head: Name of the head.

        Raises:
            PlanError: A file was changed.
        """
        number = plan.body_round(head)
        path = self.file(f"heads/{head}.safetensors")
        if number is not None:
            body = self.round_file(number, plan.rounds[number - 1], "body.safetensors")
            if body.is_file():
                return body, path
        return self.file("body.safetensors"), path

    def round_path(self, number: int, round: Round) -> Path:
        """Path of a round's folder, which exists when the round is finished; numbers start at 1."""
        return self.path / "rounds" / f"{number:02d}-{round.dataset}-{round.train}"

    def state_path(self, number: int, round: Round) -> Path:
        """Path of the folder with the progress of an unfinished round."""
        final = self.round_path(number, round)
        return final.with_name(f"{final.name}.part")

    def plan(self) -> Plan:
        """Plan of the run.

        Raises:
            PlanError: The folder is not a run's; or the plan is invalid, or was changed after
                rounds were trained.
        """
        if not self.plan_path.is_file():
            raise PlanError(
                f"{self.path}: is not the folder of a run (it has no plan.json): give the folder "
                "that `hydrakit run` printed"
            )
        for folder in self.round_folders():
            digests = read_digests(folder)
            if digests and digests.plan not in (None, self._plan_digest()):
                raise PlanError(
                    f"{self.plan_path}: was changed after {folder.name} was trained: restore it, "
                    "or run the changed plan in another folder: `hydrakit run --plan FILE`"
                )
        return load_plan(self.plan_path)

    def _plan_digest(self) -> str | None:
        """SHA-256 of ``plan.json``; None during tuning, which has no such file."""
        return cached_digest(self.plan_path).sha256 if self.plan_path.is_file() else None

    def round_folders(self) -> list[Path]:
        """Folders of the finished rounds, in order."""
        folder = self.path / "rounds"
        return [folder / name for name in sorted(_names_in(folder)) if not Path(name).suffix]

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder against other processes (`hydrakit.storage.lock.locked`).

        Raises:
            PlanError: The folder contains a link.
            HydrakitError: Another process holds the lock.
        """
        return locked(self.path)

    def check_disk(self, needed: int) -> int:
        """Check that the folder can be written and has enough space; return its free bytes.

        The folder need not exist: the nearest existing folder above it is checked.

        Raises:
            PlanError: The folder cannot be written, or has fewer free bytes than needed.
        """
        path = self.path.absolute()
        folder = next(each for each in (path, *path.parents) if each.is_dir())
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
        except OSError as error:
            raise PlanError(
                f"{self.path}: cannot be written ({error.strerror}): choose another folder with "
                "`--out`"
            ) from None
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise PlanError(
                f"{self.path}: up to {needed:,} bytes are needed, and {free:,} are free: free some "
                "space, or choose another folder with `--out`"
            )
        return free

    def finished(self, number: int, round: Round) -> bool:
        """Whether a round is finished."""
        return self.round_path(number, round).is_dir()

    def rounds_done(self, plan: Plan) -> int:
        """Number of finished rounds, over all networks of an ensemble."""
        rounds = list(enumerate(plan.rounds, start=1))
        return sum(run.finished(*each) for run in self.networks(plan) for each in rounds)

    @contextmanager
    def writing_round(self, number: int, round: Round) -> Iterator[Path]:
        """Folder to write a round into; it gets its final name if the ``with`` block succeeds."""
        final = self.round_path(number, round)
        new = final.with_name(f"{final.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        if (new / FILE).is_file():  # copied from another folder, with its digests
            update_digests(new, plan=self._plan_digest())
        else:
            write_digests(new, [path.name for path in new.iterdir()], plan=self._plan_digest())
        sync_folder(new)
        patiently(lambda: new.rename(final))
        sync_folder(final.parent)
        self.clear_state(number, round)

    def clear_state(self, number: int, round: Round) -> None:
        """Remove the progress of a finished round."""
        state = self.state_path(number, round)
        if state.is_dir():
            shutil.rmtree(state)

    def round_file(self, number: int, round: Round, name: str) -> Path:
        """Path of a file of a finished round, after a check of its digest.

        Raises:
            PlanError: The file was changed.
        """
        folder = self.round_path(number, round)
        return check_file(folder, name, remedy=lambda: f"restore it, or {self.retraining(folder)}")

    def retraining(self, folder: Path) -> str:
        """Instruction for training a round again; the same seed gives the same weights again."""
        results = f" and {self.results_path}" if self.results_path.exists() else ""
        return f"delete {folder}{results} and run again, which trains it again"

    def file(self, name: str) -> Path:
        """Path of a file of the run, after a check of its digest.

        Raises:
            PlanError: The file was changed after the run was finished.
        """
        return check_file(self.path, name, remedy=lambda: self.remedy(name))

    def remedy(self, name: str) -> str:
        """Instruction for repairing a damaged file of the run."""
        if name == EXAMPLE_CASES:
            command = command_line("hydrakit", "report", self.path)
            return f"delete it, and `{command}` writes it again"
        if name.startswith("rounds/"):
            return f"restore it, or {self.retraining((self.path / name).parent)}"
        whole = all((folder / "body.safetensors").is_file() for folder in self.round_folders())
        if not whole or name == "plan.json":
            return "restore it from a copy, or run the plan again in another folder"
        both = "it" if name == "results.json" else f"it and {self.results_path}"
        return f"restore it, or delete {both} and run again, which writes it again from the rounds"

    def seal(self) -> bool:
        """Write the digests of a finished run's files; see `hydrakit.storage.digests`.

        Returns:
            Whether this call wrote them; False if they exist already.
        """
        if (self.path / FILE).is_file():
            return False
        names = [name for name in SEALED if (self.path / name).is_file()]
        for folder in ("heads", START_HEADS):
            names += [f"{folder}/{path.name}" for path in self.path.glob(f"{folder}/*.safetensors")]
        rounds = [folder.relative_to(self.path) / FILE for folder in self.round_folders()]
        names += [path.as_posix() for path in rounds if (self.path / path).is_file()]
        results = [each.results_path for each in self.members(self.plan())]
        names += [path.relative_to(self.path).as_posix() for path in results]
        write_digests(self.path, names)
        return True

    def unseal(self) -> None:
        """Remove the digests and example cases, since the run will write new results."""
        for name in (FILE, EXAMPLE_CASES):
            (self.path / name).unlink(missing_ok=True)

    def renew(self, name: str) -> None:
        """Update the digest of a file of a finished run that was written again."""
        update_digests(self.path, renewed=[name])

    def round_result(self, number: int, round: Round) -> RoundResult:
        """Result of a finished round.

        Raises:
            PlanError: The file is missing or invalid.
        """
        path = self.round_file(number, round, "round.json")
        result = read_record(path, RoundResult, remedy=f"delete {path.parent} and run again")
        described = result.round, result.dataset, result.train, result.head
        if described != (number, round.dataset, round.train, round.head):
            raise PlanError(
                f"{path}: describes another round than plan.json: delete {path.parent} and run "
                "again"
            )
        return result

    def epochs(self, number: int, round: Round) -> list[EpochRecord]:
        """Records of the epochs of a finished round.

        Raises:
            PlanError: The file is missing or invalid.
        """
        path = self.round_file(number, round, "metrics.jsonl")
        epochs = round.hyperparameters.epochs
        return read_lines(path, EpochRecord, remedy=RESTORE, lines=epochs)

    def trace(self, number: int, round: Round) -> list[TracePoint]:
        """Test metrics of every epoch of a finished round; empty if they were not requested.

        Raises:
            PlanError: The file is invalid.
        """
        path = self.round_path(number, round) / TRACE
        if not path.is_file():
            return []
        return read_lines(path, TracePoint, remedy=RESTORE, lines=round.hyperparameters.epochs)

    def check_rounds(self, plan: Plan) -> None:
        """Check the files of finished rounds that a report needs, before anything is trained.

        Raises:
            PlanError: A file is missing or invalid.
        """
        for number, round in enumerate(plan.rounds, start=1):
            if self.finished(number, round):
                self.round_result(number, round)
                self.epochs(number, round)

    def results(self) -> Results | None:
        """Results of the run; None if it is not finished.

        Raises:
            PlanError: The file is invalid.
        """
        if not self.results_path.is_file():
            return None
        path = self.file("results.json")
        return read_record(path, Results, remedy="delete it and run again", latest=FINAL_FORMAT)

    def facts(self) -> dict[str, DataFacts] | None:
        """Facts about each dataset (``data.json``); None if the run has not read the data yet.

        Raises:
            PlanError: The file is invalid.
        """
        path = self.file("data.json")
        if not path.is_file():
            return None
        return read_value(path, _FACTS, remedy=RESTORE)

    def splits(self) -> dict[str, dict[str, str]]:
        """Split of every labelled case, by dataset and key.

        Raises:
            PlanError: The file is missing or invalid.
        """
        return read_value(self.file("splits.json"), _SPLITS, remedy=RESTORE)

    def origins(self, *, splits: bool = False) -> dict[str, DataOrigin]:
        """What the run was computed from, by dataset; empty if it has not read the data yet.

        Args:
            splits: Whether to read the splits of the cases too.

        Raises:
            PlanError: A file is invalid.
            WeightsError: The run has no facts on its classes, and a head's file is invalid.
        """
        facts = self.facts() or {}
        has_splits = splits and facts and (self.path / "splits.json").is_file()
        split_of = self.splits() if has_splits else {}
        heads: dict[str, HeadMetadata] = {}
        if any(each.classes is None for each in facts.values()):  # an older version wrote them
            paths = sorted(self.path.glob("heads/*.safetensors"))
            for folder in self.round_folders():
                paths += sorted(folder.glob("head*.safetensors"))
            heads = {head.dataset: head for head in map(read_head, paths)}
        origins = {}
        for name, each in facts.items():
            head = heads.get(name)
            view = head.preprocessing.field_of_view if head else each.field_of_view
            origins[name] = DataOrigin(
                content=each.digest,
                classes=head.classes if head else each.classes,
                task=head.task if head else each.task,
                field_of_view=view,
                normalise=each.normalise,
                channels=each.channel_rule or AUTOMATIC,
                splits=splits_digest(split_of[name]) if name in split_of else None,
            )
        return origins

    def write_facts(self, facts: Mapping[str, DataFacts]) -> None:
        """Write ``data.json``."""
        self.write_json("data.json", {name: each.model_dump() for name, each in facts.items()})

    def environment(self) -> dict[str, Any]:
        """Machine, versions and data folders of the run; empty if they were not written.

        Raises:
            PlanError: The file is invalid.
        """
        path = self.path / "environment.json"
        if not path.is_file():
            return {}
        return read_record(path, Environment, remedy=RESTORE).model_dump(exclude_unset=True)

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file into the folder, completely or not at all."""
        write_atomic(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def events(self) -> list[Event]:
        """Events of the run with their times, without incomplete lines.

        Raises:
            PlanError: The file is invalid.
        """
        path = self.path / "events.jsonl"
        return read_appended(path, Event, remedy="restore it") if path.is_file() else []

    def log_reading(
        self, event: str, networks: Sequence[tuple[Path, Path]], **facts: object
    ) -> None:
        """Add a reading of labels to ``events.jsonl``, with the digests of the weights.

        Args:
            event: Kind of event.
            networks: Files of the body and the head of each network.
            facts: Other values of the event.

        Raises:
            PlanError: The log is a link, or not a file.
            WeightsError: A weight file is invalid.
        """
        digests = [
            {"body": read_body(body).digest, "head": read_head(head).digest}
            for body, head in networks
        ]
        self.log(event, **facts, weights=digests)

    def check_log(self) -> None:
        """Check that events can be added to ``events.jsonl``.

        Raises:
            PlanError: It is a link, or not a file.
        """
        refuse_link(self.path / "events.jsonl")

    def log(self, event: str, **facts: object) -> None:
        """Add an event with the current time to ``events.jsonl``.

        Raises:
            PlanError: It is a link, or not a file.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        append_line(self.path / "events.jsonl", json.dumps({"time": now, "event": event, **facts}))


def run_of(file: Path) -> RunDir | None:
    """The run in whose folder a weight file lies, in ``heads`` or in a round; None for others."""
    for folder in list(file.absolute().parents)[1:3]:
        if (folder / "plan.json").is_file():
            return RunDir(folder)
    return None


def _names_in(folder: Path) -> list[str]:
    """Names in a folder; none if it does not exist. `Path.glob` takes ten times as long."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _precedes_plan(path: Path) -> bool:
    """Whether a file is written before ``plan.json`` when a run starts in an empty folder."""
    return is_first_file(path.name) or path.name.startswith(".plan.json.")
