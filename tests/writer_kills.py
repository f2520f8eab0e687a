"""Kills processes while they write checkpoints, and looks at what they leave; prints the counts.

    python tests/writer_kills.py FOLDER COUNT

Children are forked, for to import torch takes longer than to write a thousand checkpoints.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydrakit.models.heads import build_mlp
from hydrakit.plan import Hyperparameters
from hydrakit.plan.results import EpochRecord, Metrics
from hydrakit.training.checkpoint import Checkpointer, RoundProgress, read_facts
from hydrakit.training.selection import Selection
from hydrakit.training.step import build_optimiser

SETTINGS = Hyperparameters(
    learning_rate=1e-3, dropout=0.0, batch_size=4, epochs=10**5, patience=None
)


def progress() -> RoundProgress:
    """Of a head with 80,000 weights, whose values tell the epoch."""
    head = build_mlp(256, 2)
    optimiser = build_optimiser([head], SETTINGS)
    scheduler = ReduceLROnPlateau(optimiser, mode="min", patience=5)
    return RoundProgress([head], optimiser, scheduler, Selection(SETTINGS, [head]))


def write_on(path: Path) -> None:
    """What a child does: epoch after epoch, each with a checkpoint."""
    now = progress()
    checkpointer = Checkpointer(path, interval=0.0)
    checkpointer.begin(now)
    while True:
        epoch = len(now.records) + 1
        with torch.no_grad():
            for parameter in now.modules[0].parameters():
                parameter.fill_(epoch)
        figures = Metrics(loss=1 / epoch, auc=0.5, accuracy=0.5)
        record = EpochRecord(
            epoch=epoch, learning_rate=1e-3, train=figures, val=figures, reference_auc=None
        )
        now.records.append(record)
        now.selection.add(record)
        checkpointer.epoch_finished(now)


def look(path: Path) -> int:
    """The epoch of what is there; it must be whole, and of one epoch throughout."""
    now = progress()
    Checkpointer(path).begin(now)
    epoch = len(now.records)
    assert read_facts(path).epoch == epoch
    for parameter in now.modules[0].parameters():
        assert bool((parameter == epoch).all())
    return epoch


def stamp(path: Path) -> int:
    """Which file is there."""
    return path.stat().st_ino if path.is_file() else 0


def main(folder: Path, count: int) -> None:
    """Kill as many writers, and count what is bad."""
    chance, path = random.Random(0), folder / "checkpoint.safetensors"
    torch.set_num_threads(1)
    absent = bad = torn = last = 0
    for _ in range(count):
        before = stamp(path)
        child = os.fork()
        if child == 0:
            write_on(path)
        while stamp(path) == before:  # its first one: from here on it is at it all the time
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = [each for each in folder.iterdir() if each != path]
        torn += bool(rest)
        for each in rest:
            each.unlink()
        if not path.is_file():
            absent += 1
            continue
        try:
            epoch = look(path)
            assert epoch >= last
            last = epoch
        except Exception as error:  # counted, and told
            print(repr(error))
            bad += 1
            path.unlink()
            last = 0
    print(f"{count} kills: {bad} bad, {absent} absent, {torn} while writing; epoch {last}")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
