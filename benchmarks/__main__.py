"""``python -m benchmarks``: measure, print a table, and keep it in ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import projection, scale
from benchmarks.harness import PROJECT, Samples
from benchmarks.rows import MEASUREMENTS
from benchmarks.settings import Settings, quick
from benchmarks.table import Row, machine, rows_table, write_parts
from hydrakit.compute.devices import choose_device
from hydrakit.errors import PlanError

PAGE = PROJECT / "docs" / "benchmarks.md"


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What was asked for on the command line."""
    names = [each.name for each in MEASUREMENTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, in 3 minutes")
    parser.add_argument("--only", action="append", choices=names, help="this one; may come again")
    parser.add_argument("--scale", action="store_true", help="cost as work grows, instead")
    parser.add_argument("--device", default="cpu", help="cuda: the paper's run on a GPU, instead")
    parser.add_argument("--compile", action="store_true", help="torch.compile training steps")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (2)")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"the page to write into; without --quick and --only {PAGE.relative_to(PROJECT)}",
    )
    return parser.parse_args(given)


def compare(settings: Settings, only: Sequence[str]) -> dict[str, str]:
    """Take the measurements; the parts of the page, by name."""
    rows: list[Row] = []
    taken: dict[str, Samples] = {}
    for measurement in MEASUREMENTS:
        if measurement.name in only or not only:
            print(f"measuring: {measurement.name}", file=sys.stderr, flush=True)
            taken[measurement.name] = measurement.take(settings)
            rows += measurement.rows(taken[measurement.name], settings)
    parts = {"table": f"## The table\n\n{rows_table(rows)}"}
    if {"head", "epoch", "evaluation"} <= taken.keys():
        parts["projection-cpu"] = projection.on_cpu(taken, settings)
    return parts


def main() -> None:
    """Measure what was asked for."""
    given = arguments(sys.argv[1:])
    try:
        choose_device(given.device)
    except PlanError as error:
        sys.exit(f"benchmarks: {error}")
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as work:
        settings = Settings(
            work=work, threads=given.threads, device=given.device, compiled=given.compile
        )
        page = given.out or (None if given.quick or given.only else PAGE)
        if given.scale:
            plot = page.with_name("benchmarks-scale.svg") if page else None
            parts = {"scale": scale.measure(settings, quick=given.quick, plot=plot)}
        else:
            settings = quick(settings) if given.quick else settings
            if given.device != "cpu":
                parts = {"projection-cuda": projection.on_gpu(settings)}
            else:
                parts = compare(settings, given.only or [])
        facts = machine(command, threads=given.threads)
        parts = {name: f"{part.rstrip()}\n\n{facts}" for name, part in parts.items()}
    print("\n".join(parts.values()))
    if page:
        write_parts(page, parts)


if __name__ == "__main__":
    main()
