"""Going on within a round: the same bits as in one go, whatever the round keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    Runner,
    StopError,
    hydra_plan,
    load_dataset,
    new_network,
    plan_of,
    refused,
    round_of,
    run_plan,
    tree,
    weights_of,
    write_dataset,
)

from hydrakit.data.load import LoadedDataset
from hydrakit.plan import Other, Plan, Round
from hydrakit.plan.results import EpochRecord
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import CHECKPOINT, RunDir
from hydrakit.training.checkpoint import Checkpointer, read_facts
from hydrakit.training.loop import DivergedError, train_round
from hydrakit.training.seeds import Seeds
from hydrakit.weights import format as weightfile

SEEDS = Seeds(1, 1)


class Interrupter(RunCallback):
    """Stops a run in the epochs of some numbers, counted over all that are begun."""

    def __init__(self, *stops: int) -> None:
        self.stops = stops
        self.epochs: list[tuple[int, int]] = []
        self.resumed_after: list[tuple[int, int]] = []

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        self.resumed_after.append((number, epoch))

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        self.epochs.append((number, record.epoch))
        if len(self.epochs) in self.stops:
            raise StopError


def interrupted(
    runner: Runner,
    plan: Plan,
    stops: Iterator[int],
    intervals: Sequence[float | None] = (None,),
    **more: Any,
) -> Interrupter:
    """Run a plan in the folder ``run``, stopping it again and again; ``intervals`` take turns."""
    watcher = Interrupter(*stops)
    for interval in cycle(intervals):
        given = more if interval is None else {"checkpoint_interval": interval, **more}
        with suppress(StopError):
            runner(plan, "run", callbacks=[watcher], **given)
            break
    return watcher


def assert_same(one: Path, other: Path) -> None:
    found, wanted = weights_of(one), weights_of(other)
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        assert found[name] == content, name
    texts = []
    for run in (one, other):
        results = RunDir(run).results()
        assert results is not None
        rounds = [each.model_copy(update={"seconds": 0.0}) for each in results.rounds]
        texts.append(results.model_copy(update={"rounds": tuple(rounds)}).model_dump_json())
    assert texts[0] == texts[1]


HABITS: dict[str, list[Round]] = {
    "best": [round_of("beta", "all", epochs=4), round_of("alpha", "head", epochs=5)],
    "smoothed": [round_of("alpha", epochs=6, select="smoothed", window=3)],
    "averaged": [
        round_of("alpha", epochs=6, select="averaged", window=3),
        round_of("alpha", "head", epochs=4, select="averaged", window=2),
    ],
    "last": [round_of("alpha", epochs=4, select="last", dropout=0.5)],
    "authors": [
        round_of("alpha", epochs=12, select="authors", schedule="authors", carry_head="last"),
        round_of("alpha", "head", epochs=4, feature_dropout=True, dropout=0.3),
    ],
    "patience": [round_of("alpha", epochs=40, patience=2, learning_rate=0.03)],
    "norm": [round_of("alpha", epochs=2), round_of("alpha", "norm", epochs=4)],
    "joint": [
        round_of("alpha", epochs=4).model_copy(
            update={"others": (Other(dataset="beta", head="beta"),)}
        )
    ],
    "parallel": [
        round_of("alpha", epochs=5).model_copy(
            update={"others": (Other(dataset="beta", head="beta"),), "mix": "epoch"}
        )
    ],
    "cosine": [
        round_of("alpha", epochs=5, schedule="cosine", warmup=0.3, select="last"),
        round_of("alpha", "head", epochs=5, schedule="cosine", select="averaged", window=2),
    ],
    "cosine over drawn datasets": [
        round_of("alpha", epochs=5, schedule="cosine", warmup=0.1).model_copy(
            update={"others": (Other(dataset="beta", head="beta"),), "mix": "epoch"}
        )
    ],
    "refreshed": [
        round_of(
            "alpha",
            epochs=4,
            select="averaged",
            window=2,
            refresh_statistics=True,
            label_smoothing=0.1,
            dropout=0.4,
        )
    ],
    "fixed": [round_of("alpha", epochs=4, augmentation="fixed", views=2, weight_decay=0.1)],
}


@pytest.mark.parametrize("name", HABITS)
@pytest.mark.parametrize(
    "intervals",
    [
        (0.0, 1e9),
        pytest.param((0.0,), marks=pytest.mark.slow),
        pytest.param((1e9,), marks=pytest.mark.slow),
    ],
)
def test_stopped_in_every_epoch_a_round_ends_as_in_one_go(
    name: str, intervals: Sequence[float], runner: Runner
) -> None:
    """With a checkpoint after each epoch, and with one at the stop alone."""
    plan = plan_of(*HABITS[name], bootstrap=2)
    whole = runner(plan, "whole")
    epochs = sum(result.epochs for result in (whole.results() or pytest.fail("no results")).rounds)
    watcher = interrupted(runner, plan, iter(range(1, 200, 2)), intervals)
    assert_same(runner.folder / "run", whole.path)
    # Every second epoch was stopped before it was over, and done again: no other was.
    assert len(watcher.epochs) <= 2 * epochs
    assert len(set(watcher.epochs)) == epochs


@pytest.mark.parametrize("norm", ["group", "dataset"])
def test_so_does_a_body_with_another_norm(norm: str, runner: Runner) -> None:
    plan = plan_of(round_of("beta", epochs=3), round_of("alpha", epochs=4))
    plan = plan.model_copy(update={"body": plan.body.model_copy(update={"norm": norm})})
    whole = runner(plan, "whole")
    interrupted(runner, plan, iter((2, 5, 6)))
    assert_same(runner.folder / "run", whole.path)


def test_a_round_goes_on_after_its_last_epoch_and_says_so(runner: Runner) -> None:
    plan = plan_of(round_of("beta", epochs=2), round_of("alpha", epochs=6))
    watcher = interrupted(runner, plan, iter((6,)))
    assert watcher.resumed_after == [(2, 3)]
    assert watcher.epochs == [(1, 1), (1, 2), *((2, epoch) for epoch in (1, 2, 3, 4, 4, 5, 6))]
    assert not list((runner.folder / "run" / "rounds").glob("*.part"))


def test_a_round_whose_patience_had_run_out_is_not_trained_further(runner: Runner) -> None:
    plan = plan_of(round_of("alpha", epochs=40, patience=2, learning_rate=0.03))
    whole = runner(plan, "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "hydrakit.runs.network.Network.save", lambda *_: 1 / 0
        )  # after the last epoch
        with pytest.raises(ZeroDivisionError):
            runner(plan, checkpoint_interval=0.0)
    watcher = Interrupter()
    runner(plan, callbacks=[watcher])
    assert watcher.epochs == []
    assert_same(runner.folder / "run", whole.path)


def test_random_starts_are_not_looked_at_again(runner: Runner) -> None:
    plan = plan_of(round_of("alpha", epochs=2), bootstrap=12)
    whole = runner(plan, "whole")
    seen: list[int] = []

    class Starts(RunCallback):
        def bootstrapping(self, done: int, of: int) -> None:
            if done == 7 and not seen:
                seen.append(done)
                raise StopError

    with pytest.raises(StopError):
        runner(plan, callbacks=[Starts()])
    looked = json.loads(
        (runner.folder / "run" / "rounds" / "01-alpha-all.part" / "bootstrap.json").read_text()
    )
    assert list(looked["looked"]["scores"]["1.0"]) == [str(number) for number in range(7)]
    counted: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        from hydrakit.training import bootstrap

        class Counting(bootstrap.Evaluator):
            def __call__(self) -> Any:
                counted.append(self)
                return super().__call__()

        patch.setattr(bootstrap, "Evaluator", Counting)
        runner(plan)
    assert len(counted) == 5
    assert_same(runner.folder / "run", whole.path)


def test_a_test_trace_goes_on_too(runner: Runner) -> None:
    plan = plan_of(round_of("alpha", epochs=5))
    whole = runner(plan, "whole", trace_test=True)
    interrupted(runner, plan, iter((2, 4)), trace_test=True)
    traces = [
        (run / "rounds" / "01-alpha-all" / "test-trace.jsonl").read_bytes()
        for run in (whole.path, runner.folder / "run")
    ]
    assert traces[0] == traces[1]
    assert len(traces[0].splitlines()) == 5


def test_progress_is_written_now_and_then_alone(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("hydrakit.training.checkpoint.time.monotonic", lambda: now[0])
    written: list[int] = []

    class Clock(RunCallback):
        def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
            path = runner.folder / "run" / "rounds" / "01-alpha-all.part" / CHECKPOINT
            if path.is_file():
                from hydrakit.training.checkpoint import read_facts

                written.append(read_facts(path).epoch)
            now[0] += 2.0

    runner(plan_of(round_of("alpha", epochs=9)), callbacks=[Clock()], checkpoint_interval=5.0)
    assert written == [3, 3, 3, 6, 6, 6]


def test_a_changed_checkpoint_is_named(runner: Runner) -> None:
    plan = plan_of(round_of("alpha", epochs=4))
    with pytest.raises(StopError):
        runner(plan, callbacks=[Interrupter(3)])
    path = runner.folder / "run" / "rounds" / "01-alpha-all.part" / CHECKPOINT
    content = path.read_bytes()
    for at in (5, 300, 4000, -40, -1):
        data = bytearray(content)
        data[at] ^= 0x10
        path.write_bytes(data)
        refused(lambda: runner(plan), str(path), "damaged", "delete it")
    path.unlink()
    runner(plan)
    assert_same(runner.folder / "run", runner(plan, "whole").path)


def test_a_changed_file_of_random_starts_is_named(runner: Runner) -> None:
    plan = plan_of(round_of("alpha", epochs=4), bootstrap=3)
    with pytest.raises(StopError):
        runner(plan, callbacks=[Interrupter(1)])
    path = runner.folder / "run" / "rounds" / "01-alpha-all.part" / "bootstrap.json"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    refused(lambda: runner(plan), str(path), "damaged", "delete it")


def test_a_checkpoint_of_another_round_is_named(tmp_path: Path, data: Path, cache: Path) -> None:
    alpha = load_dataset("alpha", data=data, cache=cache)
    body, head = new_network()
    checkpointer = Checkpointer(tmp_path / CHECKPOINT, interval=0.0)
    train_round(round_of("alpha"), body, head, alpha, seeds=SEEDS, checkpointer=checkpointer)
    again = Checkpointer(tmp_path / CHECKPOINT)
    frozen = round_of("alpha", "head")
    refused(
        lambda: train_round(frozen, body, head, alpha, seeds=SEEDS, checkpointer=again),
        str(tmp_path / CHECKPOINT),
        "belongs to another round",
    )


# --- numbers that are not finite


@pytest.fixture
def alpha(data: Path, cache: Path) -> LoadedDataset:
    return load_dataset("alpha", data=data, cache=cache)


class Explodes(torch.nn.Module):
    """A layer of a head that gives infinity in its n-th training batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
            if self.seen == self.batch:
                return features * math.inf
        return features


@pytest.mark.parametrize("train", ["head", "all"])
def test_the_first_layer_and_batch_that_are_not_finite_are_named(
    alpha: LoadedDataset, train: str
) -> None:
    body, head = new_network()
    per_epoch = len(range(0, 60, 8))
    examples: list[int] = []
    calm = round_of("alpha", train, epochs=3, batch_size=8, augmentation="none")

    class Counts(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            if self.training:
                examples.append(len(features))
            return features

    train_round(calm, body, torch.nn.Sequential(Counts(), head), alpha, seeds=SEEDS)
    per_epoch = len(examples) // 3
    assert per_epoch > 2
    body, head = new_network()
    wild = torch.nn.Sequential(head, Explodes(per_epoch + 2))
    with pytest.raises(
        DivergedError,
        match=r"epoch 2 \(first: batch 2, the output of head of "
        r"alpha\.1\): lower",
    ):
        train_round(calm, body, wild, alpha, seeds=SEEDS)


def test_weights_that_are_not_finite_are_named(alpha: LoadedDataset) -> None:
    body, head = new_network()
    wild = round_of("alpha", learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"first: batch \d+, the (output|weights) of "):
        train_round(wild, body, head, alpha, seeds=SEEDS)


def test_the_best_epoch_before_it_stays_usable(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrakit import weights
    from hydrakit.training.epochs import SingleTaskEpoch

    plan = plan_of(round_of("beta"), round_of("alpha", epochs=6))
    usual, begun = SingleTaskEpoch.epoch, []

    def epoch(self: SingleTaskEpoch, number: int) -> Any:
        begun.append(number)
        found = usual(self, number)
        if self.examples.data.name == "alpha" and number == 4:
            return found.model_copy(update={"loss": math.inf})
        return found

    with monkeypatch.context() as patch:
        patch.setattr(SingleTaskEpoch, "epoch", epoch)
        with pytest.raises(DivergedError) as caught:
            runner(plan)
    folder = runner.folder / "run" / "rounds" / "02-alpha-all.part" / "best"
    assert f"are in {folder}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert begun[-2:] == [4, 4]  # once more, to see where
    weights.load_model(folder / "body.safetensors", folder / "head.safetensors")
    short = plan_of(round_of("beta"), round_of("alpha", epochs=3))
    best = runner(short, "short")
    for name in ("body", "head"):
        wanted = best.path / "rounds" / "02-alpha-all" / f"{name}.safetensors"
        assert (folder / f"{name}.safetensors").read_bytes() == wanted.read_bytes()


# --- memory


def test_memory_that_runs_out_is_told_with_the_batch_that_fits(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrakit.models.body import BodyWithHead

    usual = BodyWithHead.forward

    def forward(self: BodyWithHead, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        return usual(self, images)

    plan = plan_of(
        round_of("beta", batch_size=4, epochs=2), round_of("alpha", batch_size=16, epochs=2)
    )
    with monkeypatch.context() as patch:
        patch.setattr(BodyWithHead, "forward", forward)
        refused(
            lambda: runner(plan),
            "round 2 (alpha, all): cpu ran out of memory with batches of 16",
            "batches of 4 fit: `--batch-size 4`",
        )
    assert RunDir(runner.folder / "run").finished(1, plan.rounds[0])
    assert_same(runner(plan).path, runner(plan, "whole").path)


def test_memory_that_is_there_again_and_none_at_all_are_told_apart(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrakit.models.body import BodyWithHead

    usual, calls = BodyWithHead.forward, []

    def forward(self: BodyWithHead, images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        if always or len(calls) == 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return usual(self, images)

    plan = plan_of(round_of("alpha", epochs=2))
    with monkeypatch.context() as patch:
        patch.setattr(BodyWithHead, "forward", forward)
        always = False
        refused(lambda: runner(plan), "this batch size fits now", "run the same command again")
        always = True
        refused(lambda: runner(plan), "not even one patch fits", "--body-channels")


def test_memory_that_runs_out_before_the_first_start_is_told(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrakit.models.body import PaperBody

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PaperBody, "forward", full)
    refused(lambda: runner(plan_of(round_of("alpha"))), "round 1 (alpha, all)", "--body-channels")


def test_another_failure_of_torch_keeps_its_traceback(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrakit.models.body import BodyWithHead

    def forward(self: BodyWithHead, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(BodyWithHead, "forward", forward)
    with pytest.raises(RuntimeError, match="mat1"):
        runner(plan_of(round_of("alpha")))


def test_hydra_stopped_at_random_places_equals_one_in_one_go(
    tmp_path: Path, data: Path, cache: Path, hydra_run: RunDir
) -> None:
    runner = Runner(tmp_path, data, cache)
    interrupted(runner, hydra_plan(), iter((1, 4, 6, 7, 11, 13, 17)), checkpoint_interval=0.0)
    assert_same(tmp_path / "run", hydra_run.path)
    assert run_plan(hydra_plan(), tmp_path / "run", data=data, cache=cache).results() is not None


# --- a plan or data that was changed within a round


class StopStarts(RunCallback):
    """Stops a run after some random starts."""

    def bootstrapping(self, done: int, of: int) -> None:
        if done == 2:
            raise StopError


@pytest.mark.parametrize("within", ["epochs", "starts"])
def test_a_plan_that_was_edited_within_its_first_round_is_refused(
    runner: Runner, within: str
) -> None:
    plan = plan_of(round_of("alpha", epochs=4), bootstrap=3)
    stop = Interrupter(3) if within == "epochs" else StopStarts()
    with pytest.raises(StopError):
        runner(plan, callbacks=[stop], checkpoint_interval=0)
    out = runner.folder / "run"
    edited = plan_of(round_of("alpha", epochs=4, learning_rate=0.1), bootstrap=3)
    (out / "plan.json").write_text(edited.to_json())
    before = tree(out)
    words = [str(out / "plan.json"), "was changed after", "restore it", "--plan FILE"]
    refused(lambda: runner(edited), *words)
    assert {p: c for p, c in tree(out).items() if "lock" not in p} == {
        p: c for p, c in before.items() if "lock" not in p
    }
    (out / "plan.json").write_text(plan.to_json())
    assert weights_of(runner(plan).path) == weights_of(runner(plan, "whole").path)


def test_progress_of_other_data_is_refused(runner: Runner, tmp_path: Path) -> None:
    plan = plan_of(round_of("alpha", epochs=4))
    with pytest.raises(StopError):
        runner(plan, callbacks=[Interrupter(3)], checkpoint_interval=0)
    write_dataset(tmp_path / "other" / "alpha", seed=77)
    (runner.folder / "run" / "data.json").unlink()
    path = runner.folder / "run" / "rounds" / "01-alpha-all.part" / CHECKPOINT
    refused(lambda: runner(plan, data=tmp_path / "other"), str(path), "computed from other data")
    # A checkpoint of an older version says neither, and is used.
    facts = read_facts(path)
    tensors = weightfile.read_tensors(path, facts.digest)
    old = facts.model_copy(update={"plan": None, "data": None})
    weightfile.write_tensors(path, tensors, old)
    watcher = Interrupter()
    runner(plan, callbacks=[watcher])
    assert watcher.resumed_after == [(1, 2)]
