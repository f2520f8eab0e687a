"""A tracker for hook API 1: lines of text in a file."""

from dataclasses import dataclass, field
from pathlib import Path

from hydrakit.hooks import TrackerFactory, hookimpl

HYDRAKIT_API = 1


@dataclass(frozen=True)
class Options:
    to: str | None = field(default=None, metadata={"help": "folder of the file"})


class Lines:
    """Appends a line for each value to ``golden.txt``."""

    def __init__(self, options):
        self.options = options
        self.path = None
        self.lines = []

    def describe(self, run):
        """Note what run it is."""
        learning_rates = [value for name, value in run.parameters.items() if "rate" in name]
        self.lines.append(f"run {run.name} of {run.group}: {run.key and run.folder.name}")
        self.lines.append(f"learning rates {learning_rates}")

    def open(self, folder):
        """Begin the file, or go on with it; return the steps that it has."""
        self.path = Path(self.options.to or folder) / "golden.txt"
        steps = {}
        if self.path.is_file():
            for line in self.path.read_text().splitlines():
                name, equals, rest = line.partition("=")
                if equals:
                    steps.setdefault(name, set()).add(int(rest.partition("@")[2]))
        return steps

    def send(self, name, value, step):
        """Keep a value until `flush`."""
        self.lines.append(f"{name}={value}@{step}")

    def flush(self):
        """Write all lines."""
        with self.path.open("a") as file:
            file.write("".join(f"{line}\n" for line in self.lines))
        self.lines.clear()

    def attach(self, path):
        """Note the report."""
        self.lines.append(f"report {path.name}")

    def close(self, *, failed):
        """Write the last line."""
        self.lines.append("failed" if failed else "done")
        self.flush()


@hookimpl
def hydrakit_trackers():
    yield TrackerFactory(
        name="golden-lines", summary="Lines of text in a file", build=Lines, options=Options
    )
