"""Training steps as CUDA graphs: recorded, replayed, and left alone where that is impossible."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import load_dataset, new_network, plan_of, round_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from hydrakit.compute.devices import Compute, deterministic_algorithms
from hydrakit.compute.graphs import (
    Replayed,
    foreign_layer,
    noticing_synchronisations,
    without_graphs,
)
from hydrakit.data.load import LoadedDataset
from hydrakit.errors import PlanError
from hydrakit.models.heads import build_blend, build_mlp
from hydrakit.plan import Plan
from hydrakit.plan.results import EpochRecord
from hydrakit.runs import compiling
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.tasks import loss_of
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.checkpoint import Checkpointer
from hydrakit.training.evaluation import Reference
from hydrakit.training.loop import train_round
from hydrakit.training.seeds import Seeds
from hydrakit.training.step import Step

CPU = torch.device("cpu")
SEEDS = Seeds(plan=3, round=2)
ASK = torch.ops.aten._local_scalar_dense.default  # what `.item()` and `if tensor` call


def tensors_of(values: object) -> list[Tensor]:
    return [each for each in tree_flatten(values)[0] if isinstance(each, Tensor)]


def memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """A CUDA graph on the CPU.

    It records operations with the tensors that they read and write. As in a recording on a GPU,
    nothing that existed before has changed at its end, and nobody may ask for a number. A replay
    does the same operations on the same memory; what Python decided stays as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.own: set[int] = set()
        self.before: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        self.replays = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is ASK:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in tensors_of((args, kwargs)):
            if memory_of(tensor) not in self.own:
                key = (memory_of(tensor), tensor.shape, tensor.stride(), tensor.storage_offset())
                self.before.setdefault(key, (tensor, tensor.detach().clone()))
        known = {memory_of(each) for each in tensors_of((args, kwargs))}
        result = func(*args, **kwargs)
        self.own |= {memory_of(each) for each in tensors_of(result)} - known
        self.operations.append((func, args, kwargs, result))
        return result

    @contextmanager
    def record(self) -> Iterator[None]:
        state = torch.get_rng_state()
        with self:
            yield
        torch.set_rng_state(state)
        with torch.no_grad():
            for tensor, content in self.before.values():
                tensor.detach().copy_(content)

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, result in self.operations:
                views = any(each.alias_info for each in func._schema.returns)
                if views and not func._schema.is_mutable:
                    continue  # it still shows the memory that it showed
                again = func(*args, **kwargs)
                for old, new in zip(tensors_of(result), tensors_of(again), strict=True):
                    if memory_of(old) != memory_of(new):
                        old.copy_(new)


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Lets graphs be recorded on the CPU; the recordings in order."""
    made: list[Tape] = []

    def graph() -> Tape:
        made.append(Tape())
        return made[-1]

    class Stream:
        def __init__(self, *_: object) -> None:
            pass

        def wait_stream(self, _: Stream) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda tape, stream: tape.record())
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda _: None)
    return made


@pytest.fixture
def alpha(data: Path, cache: Path) -> LoadedDataset:
    return load_dataset("alpha", data=data, cache=cache)


# --- the function


def test_a_function_is_called_then_recorded_then_replayed(tapes: list[Tape]) -> None:
    total, calls = torch.zeros(2), []

    def add(given: Tensor) -> Tensor:
        calls.append(given)
        total.add_(given)
        return total * 2

    replayed = Replayed(add, CPU, warm_up=2)
    results = [replayed(torch.tensor([float(n), 1.0])) for n in range(5)]
    assert [each.tolist() for each in results] == [[0, 2], [2, 4], [6, 6], [12, 8], [20, 10]]
    assert len(calls) == 3, "two calls and a recording"
    assert [tape.replays for tape in tapes] == [3]


def test_other_shapes_and_what_hooks_must_see_are_not_replayed(tapes: list[Tape]) -> None:
    calls: list[int] = []

    def double(given: Tensor) -> Tensor:
        calls.append(len(given))
        return given * 2

    replayed = Replayed(double, CPU, warm_up=1)
    for size in (4, 3, 4, 4, 3):
        assert torch.equal(replayed(torch.ones(size)), torch.full((size,), 2.0))
    assert calls == [4, 3, 4, 3]
    with without_graphs():
        replayed(torch.ones(4))
    assert calls[-1] == 4
    assert tapes[0].replays == 2


def test_a_function_that_waits_for_the_gpu_is_not_recorded(
    tapes: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(given: Tensor) -> Tensor:
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        return given * float(given.sum())

    notes: list[str] = []
    replayed = Replayed(ask, CPU, warm_up=1, on_note=notes.append)
    monkeypatch.setattr(Replayed, "_call", lambda self, *given: ask(*given))
    with pytest.warns(UserWarning, match="synchronizing"):
        assert [replayed(torch.ones(2)).tolist() for _ in range(3)] == [[2, 2]] * 3
    assert tapes == []
    assert len(notes) == 1
    with noticing_synchronisations() as seen:
        warnings.warn("something else", stacklevel=1)
    assert seen == []


def test_a_recording_that_fails_names_the_remedy(tapes: list[Tape]) -> None:
    replayed = Replayed(lambda given: given * float(given.sum()), CPU, warm_up=1)
    replayed(torch.ones(2))
    with pytest.raises(PlanError, match=r"not permitted.*--no-graphs"):
        replayed(torch.ones(2))


def test_layers_of_others_are_noticed() -> None:
    class Drawn(nn.Module):
        pass

    body, head = new_network()
    assert foreign_layer(nn.Sequential(body, head)) is None
    assert foreign_layer(nn.Sequential(build_mlp(4, 2), build_blend(4, 2))) is None
    assert foreign_layer(nn.Sequential(body, Drawn())) == f"{Drawn.__qualname__}"


# --- the training


def trained(
    loaded: LoadedDataset,
    compute: Compute,
    *,
    rate: float = 2**-9,
    device: str = "cpu",
    with_reference: bool = False,
    **values: Any,
) -> tuple[Any, ...]:
    """Records, weights and notes of a round that trains body and head."""
    body, head = new_network(device=device)
    values = {"epochs": 3, "dropout": 0.25, "batch_size": 5, "learning_rate": rate} | values
    notes: list[str] = []
    result = train_round(
        round_of("alpha", **values),
        body,
        head,
        loaded,
        seeds=SEEDS,
        reference=Reference(deepcopy(head), loaded.val) if with_reference else None,
        compute=compute,
        on_note=notes.append,
    )
    weights = {**body.state_dict(), **{f"head {k}": v for k, v in head.state_dict().items()}}
    return result.epochs, weights, notes


@pytest.mark.parametrize("values", [{}, {"schedule": "authors", "loss": "softmax-cross-entropy"}])
def test_a_replayed_round_has_the_bits_of_any_other(
    alpha: LoadedDataset, tapes: list[Tape], values: dict[str, Any]
) -> None:
    plain = trained(alpha, Compute(CPU), with_reference=True, **values)
    replayed = trained(alpha, Compute(CPU, graphs=True), with_reference=True, **values)
    assert replayed[0] == plain[0]
    assert all(torch.equal(replayed[1][name], plain[1][name]) for name in plain[1])
    assert replayed[2] == []
    steps, val = tapes
    assert val.replays == 2, "once after each epoch but the first"
    assert steps.replays > 3
    assert len(alpha.train_labels) % 5, "the last batch is smaller"


def test_a_rate_that_changes_reaches_the_replays(alpha: LoadedDataset, tapes: list[Tape]) -> None:
    gpu = Compute(CPU, graphs=True)
    with without_graphs():
        single = trained(alpha, gpu, schedule="cosine", warmup=0.2)
    assert tapes == []
    replayed = trained(alpha, gpu, schedule="cosine", warmup=0.2)
    assert tapes[0].replays > 1
    assert replayed[0] == single[0]
    assert all(torch.equal(replayed[1][name], single[1][name]) for name in single[1])


def test_a_resumed_round_has_the_bits_of_one_that_was_not_stopped(
    alpha: LoadedDataset, tapes: list[Tape], tmp_path: Path
) -> None:
    def train(path: Path | None, *, stop_after: int | None = None) -> dict[str, Tensor]:
        def stop(record: EpochRecord) -> None:
            if record.epoch == stop_after:
                raise KeyboardInterrupt

        body, head = new_network()
        train_round(
            round_of("alpha", epochs=3, dropout=0.25, batch_size=5, schedule="cosine"),
            body,
            head,
            alpha,
            seeds=SEEDS,
            compute=Compute(CPU, graphs=True),
            on_epoch=stop,
            checkpointer=Checkpointer(path, interval=0),
        )
        return {**body.state_dict(), **head.state_dict()}

    whole = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "checkpoint", stop_after=2)
    resumed = train(tmp_path / "checkpoint")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert len(tapes) == 6, "of steps and of the evaluation, each time"


def test_an_epoch_that_is_not_finite_is_explained(alpha: LoadedDataset, tapes: list[Tape]) -> None:
    with pytest.raises(PlanError, match=r"not finite in epoch \d \(first: batch \d+, the .* of"):
        trained(alpha, Compute(CPU, graphs=True), rate=1e30)
    assert tapes, "it was replayed until then"


def test_a_foreign_layer_is_noted_and_trained_all_the_same(
    alpha: LoadedDataset, tapes: list[Tape]
) -> None:
    class Own(nn.Sequential):
        pass

    body, head = new_network()
    notes: list[str] = []
    train_round(
        round_of("alpha"),
        body,
        Own(head),
        alpha,
        seeds=SEEDS,
        compute=Compute(CPU, graphs=True),
        on_note=notes.append,
    )
    (note,) = notes
    assert "Own" in note
    assert len(tapes) == 1, "the body is evaluated by a graph"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_a_replayed_round_is_that_of_single_kernels(data: Path, cache: Path) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache, device="cuda")
    gpu = loaded.train.device
    with deterministic_algorithms(Compute(gpu)):
        found = {
            graphs: trained(loaded, Compute(gpu, graphs=graphs), device="cuda", with_reference=True)
            for graphs in (False, True)
        }
        again = trained(loaded, Compute(gpu, graphs=True), device="cuda", with_reference=True)
    assert found[True][2] == [], "nothing was in the way of a graph"
    assert again[0] == found[True][0]
    assert all(torch.equal(again[1][name], found[True][1][name]) for name in again[1])
    for one, other in zip(found[True][0], found[False][0], strict=True):
        assert one.train.loss == pytest.approx(other.train.loss, rel=1e-5)
        assert one.val.loss == pytest.approx(other.val.loss, rel=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_the_first_epoch_is_that_of_a_cpu(data: Path, cache: Path) -> None:
    records = []
    for device in ("cpu", "cuda"):
        loaded = load_dataset("alpha", data=data, cache=cache, device=device)
        compute = Compute(loaded.train.device, graphs=device == "cuda")
        records.append(trained(loaded, compute, device=device, dropout=0.0, epochs=1)[0][0])
    for split in ("train", "val"):
        here, there = (getattr(record, split).loss for record in records)
        assert there == pytest.approx(here, rel=1e-4)


# --- what waits for the GPU


@pytest.fixture
def unreadable(data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedDataset:
    """A dataset on a device of which no number can be asked."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
    return load_dataset("alpha", data=data, cache=cache, device="meta")


def test_views_and_steps_ask_for_no_number(unreadable: LoadedDataset) -> None:
    body, head = new_network(dropout=0.25, device="meta")
    model = nn.Sequential(body, head).train()
    values = round_of("alpha", batch_size=5).hyperparameters
    examples = TrainingExamples(unreadable, values, SEEDS, fixed=False)
    sizes = []
    for images, labels in examples.batches(1):
        loss_of(model(images), labels, task="classification", loss="cross-entropy").backward()
        sizes.append(len(labels))
    assert sizes == [5] * (len(examples) // 5) + [len(examples) % 5]
    model.eval()(unreadable.val.patches)
    with pytest.raises(RuntimeError, match="meta"):
        bool(images.isnan().any())


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_losses_ask_for_no_number(task: Any) -> None:
    outputs = torch.empty(4, 3, device="meta", requires_grad=True)
    targets = torch.empty(4, 3, device="meta")
    loss_of(outputs, targets, task=task, loss="cross-entropy", smoothing=0.1).backward()


def test_unknown_answers_count_alike_on_every_device() -> None:
    outputs = torch.randn(6, 3)
    targets = (torch.randn(6, 3) > 0).float()
    here = loss_of(outputs, targets, task="multilabel", loss="cross-entropy")
    # A GPU takes the way of batches with unknown answers always; so does one with an unknown case.
    row = torch.full((1, 3), torch.nan)
    there = loss_of(
        torch.cat([outputs, torch.ones(1, 3)]),
        torch.cat([targets, row]),
        task="multilabel",
        loss="cross-entropy",
    )
    torch.testing.assert_close(here, there)


def test_patches_that_do_not_fit_on_a_gpu_are_read_by_the_batch(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2**40))
    loaded = load_dataset("alpha", data=data, cache=cache, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):  # its rows are asked for
        loaded.train.views(torch.zeros(1, dtype=torch.int64, device="meta"), None, loaded.patch)


def test_views_of_several_batches_at_once_are_those_of_single_ones(
    alpha: LoadedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = round_of("alpha", batch_size=5).hyperparameters
    examples = TrainingExamples(alpha, values, SEEDS, fixed=False)
    alone = list(examples.batches(1))
    monkeypatch.setattr(TrainingExamples, "_batches_ahead", lambda _: 3)
    together = list(examples.batches(1))
    assert len(alone) == len(together) > 3
    for (images, labels), (same, also) in zip(alone, together, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, also)


# --- whether to compile


def test_a_run_compiles_where_it_is_long_enough(
    alpha: LoadedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_can_compile", lambda _: True)
    gpu, loaded, context = torch.device("cuda"), {"alpha": alpha}, RunContext()
    rundir = RunDir(tmp_path / "run")

    def chosen(plan: Plan, *, device: torch.device = gpu, **values: Any) -> bool:
        how = context.changed(**values)
        return compiling.chooses_compiling(plan, how, loaded, rundir, device)

    def plan(epochs: int, train: str = "all") -> Plan:
        return plan_of(round_of("alpha", train, epochs=epochs))

    images = len(TrainingExamples(alpha, round_of("alpha").hyperparameters, SEEDS, fixed=False))
    enough, area = 100, (plan(1).patch / 65) ** 2
    worth = compiling.SAVED_SECONDS * images * area * (enough + 0.5)
    monkeypatch.setattr(compiling, "COMPILING_SECONDS", worth)
    assert chosen(plan(enough + 1))
    assert not chosen(plan(enough))
    assert not chosen(plan(enough + 1), device=CPU)
    assert not chosen(plan(enough + 1, "head"))
    assert not chosen(plan(enough + 1), compiled=False)
    assert not chosen(plan(enough + 1), round_cache=tmp_path), "shares its rounds"
    assert chosen(plan(1), compiled=True)
    assert chosen(plan(1), compiled=True, device=CPU)
    # What a run began with holds, whatever its length, unless the user says otherwise.
    rundir.path.mkdir()
    rundir.plan_path.write_text("{}")
    rundir.write_json("environment.json", {"compiled": False})
    assert not chosen(plan(enough + 1))
    rundir.write_json("environment.json", {"compiled": True})
    assert chosen(plan(1))
    assert not chosen(plan(1), compiled=False)


def test_a_small_batch_is_not_compiled_on_a_gpu() -> None:
    values = round_of("alpha", batch_size=5).hyperparameters
    head = nn.Linear(3, 2)
    step = Step(head, Compute(CPU), values)
    step._forward = nn.Identity()
    assert step._model_for(torch.empty(4, 3)) is step._forward
    step._compute = Compute(torch.device("cuda"))
    assert step._model_for(torch.empty(4, 3)) is head
    assert step._model_for(torch.empty(5, 3)) is step._forward
