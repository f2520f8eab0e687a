"""A run's folder: every path and format in it.

A finished round is the folder ``rounds/NN-dataset-train``, which is written as ``.new`` and
renamed. While it trains, ``.part`` holds its progress. Other files are written beside their place
and renamed.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hydrakit.errors import PlanError
from hydrakit.plan.model import Plan, load_plan
from hydrakit.plan.results import (
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
    read_json,
    refuse_link,
    refuse_links,
    sync_folder,
    write_atomic,
)
from hydrakit.storage.lock import FILES, locked
from hydrakit.storage.records import read_lines, read_record, read_value, readable

TRACE = "test-trace.jsonl"

RESTORE = "restore it, or run the plan again in another folder"

IN_PLACE = (".lock", "lock.holder", "events.jsonl", "log.txt")
"""Files that are written where they lie; all others are written beside their place and renamed."""


_FACTS = TypeAdapter(dict[Name, DataFacts])
_SPLITS = TypeAdapter(dict[Name, dict[str, str]])

CHECKPOINT = "checkpoint.safetensors"
"""Of a round under way, in its folder of progress."""

SHOWN = "shown.safetensors"
OWN = (
    *("plan.json", "data.json", "splits.json", "results.json", "predictions.csv"),
    *("body.safetensors", SHOWN),
)
"""What a finished run must keep as it is, besides heads and rounds. Not ``environment.json``: where
the data lay may be put right."""


class RunDir:
    """The folder of one run.

    Attributes:
        path: Of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def begin(cls, path: Path, plan: Plan) -> RunDir:
        """Make the folder to run a plan in, or go on in one begun with the very same plan.

        Raises:
            PlanError: As `check`, or the folder cannot be written.
            HydrakitError: Another process is beginning in the very folder.
        """
        here = cls.check(path, plan)
        if here.plan_path.is_file():
            return here
        try:
            path.mkdir(parents=True, exist_ok=True)
            with here.locked():
                cls.check(path, plan)  # another process may have begun here
                write_atomic(here.plan_path, plan.to_json().encode())
        except OSError as error:
            raise PlanError(
                f"{path}: cannot be written ({error.strerror}): choose another folder with `--out`"
            ) from None
        return here

    @classmethod
    def check(cls, path: Path, plan: Plan) -> RunDir:
        """See that a plan can be run in a folder: new, empty, or begun with the very same plan.

        Raises:
            PlanError: The folder holds another plan, or something else than a run.
        """
        here = cls(path)
        # Before the plan is looked for: another process may begin here this very moment.
        there = list(path.iterdir()) if path.is_dir() else []
        if here.plan_path.is_file():
            if here.plan() != plan:
                raise PlanError(
                    f"{path}: holds a run of another plan: choose another folder with `--out`, "
                    f"or go on with that one by `hydrakit run --resume {path}`"
                )
            return here
        if path.exists() and not (path.is_dir() and all(map(_is_of_a_beginning, there))):
            raise PlanError(
                f"{path}: is not empty and not a run's folder: choose another with `--out`"
            )
        return here

    @property
    def plan_path(self) -> Path:
        """Of ``plan.json``."""
        return self.path / "plan.json"

    @property
    def body_path(self) -> Path:
        """Of the body that the run ended with."""
        return self.path / "body.safetensors"

    @property
    def results_path(self) -> Path:
        """Of ``results.json``, which exists once the run is finished."""
        return self.path / "results.json"

    @property
    def report_path(self) -> Path:
        """Of ``report.html``."""
        return self.path / "report.html"

    def head_path(self, name: str) -> Path:
        """Of a head as its last round left it."""
        return self.path / "heads" / f"{name}.safetensors"

    def round_path(self, number: int, round: Round) -> Path:
        """Of a round's folder, finished or not yet there; numbers begin at 1."""
        return self.path / "rounds" / f"{number:02d}-{round.dataset}-{round.train}"

    def state_path(self, number: int, round: Round) -> Path:
        """Of the folder with the progress of a round under way."""
        final = self.round_path(number, round)
        return final.with_name(f"{final.name}.part")

    def plan(self) -> Plan:
        """The plan of this run.

        Raises:
            PlanError: The folder is not a run's, or its plan is broken, or was changed since rounds
                were trained by it.
        """
        if not self.plan_path.is_file():
            raise PlanError(
                f"{self.path}: is not a run's folder, it has no plan.json: name the one that "
                "`hydrakit run` printed"
            )
        for folder in self.round_folders():
            digests = read_digests(folder)
            if digests and digests.plan not in (None, self._plan_digest()):
                raise PlanError(
                    f"{self.plan_path}: was changed since {folder.name} was trained by it: restore "
                    "it, or run the changed plan in another folder: `hydrakit run --plan FILE`"
                )
        return load_plan(self.plan_path)

    def _plan_digest(self) -> str | None:
        """SHA-256 of the file; rounds that are trained while a plan is tuned have none."""
        return cached_digest(self.plan_path).sha256 if self.plan_path.is_file() else None

    def round_folders(self) -> list[Path]:
        """The finished rounds' folders, in order."""
        return sorted(path for path in self.path.glob("rounds/*") if not path.suffix)

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out; as `hydrakit.storage.lock.locked`.

        Raises:
            PlanError: The folder holds a link.
        """
        self._refuse_links()
        return locked(self.path)

    def _refuse_links(self) -> None:
        with readable(self.path, "see that you may read it"):
            refuse_links(self.path)
            for name in IN_PLACE:
                refuse_link(self.path / name)

    def finished(self, number: int, round: Round) -> bool:
        """Whether a round is done."""
        return self.round_path(number, round).is_dir()

    @contextmanager
    def writing_round(self, number: int, round: Round) -> Iterator[Path]:
        """A folder to write a round into, which gets its name when the block ends well."""
        final = self.round_path(number, round)
        new = final.with_name(f"{final.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        if (new / FILE).is_file():  # copied with its files
            update_digests(new, plan=self._plan_digest())
        else:
            write_digests(new, [path.name for path in new.iterdir()], plan=self._plan_digest())
        sync_folder(new)
        new.rename(final)
        sync_folder(final.parent)
        self.clear_state(number, round)

    def clear_state(self, number: int, round: Round) -> None:
        """Remove the progress of a round that is finished."""
        state = self.state_path(number, round)
        if state.is_dir():
            shutil.rmtree(state)

    def round_file(self, number: int, round: Round, name: str) -> Path:
        """The path of a file of a finished round, as it was written.

        Raises:
            PlanError: It was changed.
        """
        folder = self.round_path(number, round)
        return check_file(folder, name, remedy=f"restore it, or {self.again(folder)}")

    def again(self, folder: Path) -> str:
        """How a round is trained again: it seeds itself, so that later ones still rest on it."""
        results = f" and {self.results_path}" if self.results_path.exists() else ""
        return f"delete {folder}{results} and run again, which trains it again"

    def file(self, name: str) -> Path:
        """The path of one of the run's own files, as it was written.

        Raises:
            PlanError: It was changed since the run was finished.
        """
        return check_file(self.path, name, remedy=self.remedy(name))

    def remedy(self, name: str) -> str:
        """What to do where one of the run's own files is damaged."""
        if name == SHOWN:
            return f"delete it, and `hydrakit report {self.path}` makes it again"
        if name.startswith("rounds/"):
            return f"restore it, or {self.again((self.path / name).parent)}"
        whole = all((folder / "body.safetensors").is_file() for folder in self.round_folders())
        if not whole or name == "plan.json":
            return "restore it from a copy, or run the plan again in another folder"
        both = "it" if name == "results.json" else f"it and {self.results_path}"
        return f"restore it, or delete {both} and run again, which makes it from the rounds"

    def seal(self) -> bool:
        """Write the digests of the finished run's files, once; see `hydrakit.storage.digests`.

        Returns:
            Whether this call wrote them.
        """
        if (self.path / FILE).is_file():
            return False
        names = [name for name in OWN if (self.path / name).is_file()]
        names += [f"heads/{path.name}" for path in self.path.glob("heads/*.safetensors")]
        rounds = [folder.relative_to(self.path) / FILE for folder in self.round_folders()]
        names += [path.as_posix() for path in rounds if (self.path / path).is_file()]
        write_digests(self.path, names)
        return True

    def unseal(self) -> None:
        """Go on writing: what was made of earlier results counts no more."""
        for name in (FILE, SHOWN):
            (self.path / name).unlink(missing_ok=True)

    def renew(self, name: str) -> None:
        """One of a finished run's own files was written again."""
        update_digests(self.path, renewed=[name])

    def round_result(self, number: int, round: Round) -> RoundResult:
        """The summary of a finished round.

        Raises:
            PlanError: Its file is absent or broken.
        """
        path = self.round_file(number, round, "round.json")
        result = read_record(path, RoundResult, remedy=f"delete {path.parent} and run again")
        told = result.round, result.dataset, result.train, result.head
        if told != (number, round.dataset, round.train, round.head):
            raise PlanError(
                f"{path}: is of another round than plan.json tells: delete {path.parent} and run "
                "again"
            )
        return result

    def epochs(self, number: int, round: Round) -> list[EpochRecord]:
        """The epochs of a finished round.

        Raises:
            PlanError: Its file is absent or broken.
        """
        path = self.round_file(number, round, "metrics.jsonl")
        epochs = round.hyperparameters.epochs
        return read_lines(path, EpochRecord, remedy=RESTORE, lines=epochs)

    def trace(self, number: int, round: Round) -> list[TracePoint]:
        """The test figures of every epoch of a finished round; none where they were not asked for.

        Raises:
            PlanError: Their file is broken.
        """
        path = self.round_path(number, round) / TRACE
        if not path.is_file():
            return []
        return read_lines(path, TracePoint, remedy=RESTORE, lines=round.hyperparameters.epochs)

    def check_rounds(self, plan: Plan) -> None:
        """Read what a report needs of the finished rounds, before anything is trained.

        Raises:
            PlanError: A file of theirs is absent or broken.
        """
        for number, round in enumerate(plan.rounds, start=1):
            if self.finished(number, round):
                self.round_result(number, round)
                self.epochs(number, round)

    def results(self) -> Results | None:
        """The results, or None while the run is not finished.

        Raises:
            PlanError: The file is broken.
        """
        if not self.results_path.is_file():
            return None
        return read_record(self.file("results.json"), Results, remedy="delete it and run again")

    def facts(self) -> dict[str, DataFacts] | None:
        """What each dataset gave, or None before the data was first read.

        Raises:
            PlanError: The file is broken.
        """
        path = self.file("data.json")
        if not path.is_file():
            return None
        return read_value(path, _FACTS, remedy=RESTORE)

    def splits(self) -> dict[str, dict[str, str]]:
        """The split of every labelled case, by dataset and key.

        Raises:
            PlanError: The file that tells it is missing or broken.
        """
        return read_value(self.file("splits.json"), _SPLITS, remedy=RESTORE)

    def write_facts(self, facts: Mapping[str, DataFacts]) -> None:
        """Write ``data.json``."""
        self.write_json("data.json", {name: each.model_dump() for name, each in facts.items()})

    def environment(self) -> dict[str, Any]:
        """What was written of the machine and of where the data lay.

        Raises:
            PlanError: The file is broken.
        """
        path = self.path / "environment.json"
        if not path.is_file():
            return {}
        return read_record(path, Environment, remedy=RESTORE).model_dump(exclude_unset=True)

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file of the folder, whole or not at all."""
        write_atomic(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def events(self) -> list[Event]:
        """What happened when; a last line that a kill cut off is passed over.

        Raises:
            PlanError: The file that tells it is broken.
        """
        path = self.path / "events.jsonl"
        if not path.is_file():
            return []
        with readable(path, RESTORE):
            lines = read_json(path).split(b"\n")
        found = []
        for place, line in enumerate(lines, start=1):
            try:
                found += [Event.model_validate_json(line)] if line.strip() else []
            except ValidationError:
                if place == len(lines):
                    break
                raise PlanError(
                    f"{path}: line {place} is no event: restore the file, or remove that line"
                ) from None
        return found

    def check_log(self) -> None:
        """See that ``events.jsonl`` can be added to.

        Raises:
            PlanError: It is a link or no file.
        """
        refuse_link(self.path / "events.jsonl")

    def log(self, event: str, **facts: object) -> None:
        """Add a line to ``events.jsonl``: what happened when.

        Raises:
            PlanError: It is a link or no file.
        """
        self.check_log()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        append_line(self.path / "events.jsonl", json.dumps({"time": now, "event": event, **facts}))


def _is_of_a_beginning(path: Path) -> bool:
    """Whether a file is there before a plan is: one begins here, or was stopped at once."""
    return path.name in FILES or path.name.startswith(".plan.json.")
