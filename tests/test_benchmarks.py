"""The benchmarks: that contenders do what they are said to do, in turns, and what is written."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import nn

from benchmarks import authors, images, plain, projection, scale, table, truth
from benchmarks.__main__ import main
from benchmarks.harness import PROJECT, Answer, Samples, Spread, in_turns
from benchmarks.rows import MEASUREMENTS
from benchmarks.settings import Point, Settings
from benchmarks.stacked import StackedNetwork, stacked_loss
from benchmarks.worker import contender
from hydrakit.models.body import PaperBody, attach_head
from hydrakit.models.heads import build_mlp
from hydrakit.plan import BodySpec, Hyperparameters
from hydrakit.training.step import build_optimiser

# A contender that notes when it worked, in a file that all of them share; the third cannot.
FAKE = """
import sys
name, path = sys.argv[1:]
print("ready", flush=True)
for line in sys.stdin:
    with open(path, "a") as log:
        log.write(f"{name}{line}")
    if name == "broken":
        sys.exit(3)
    print('{"seconds": %s, "facts": {"name": "%s"}}' % (len(name) * (1 + int(line)), name))
    sys.stdout.flush()
"""


def tiny(work: Path) -> Settings:
    one = ("threads", "repeats", "steps", "start_share", "start_repeats", "plan_repeats")
    sizes = dict.fromkeys(one, 1) | dict.fromkeys(("heads", "plan_epochs", "plan_share"), 2)
    sizes |= dict.fromkeys(("val", "batch", "evaluated", "start_cases", "views"), 4)
    sizes |= {"train": 8, "head_epochs": 3, "starts": 3, "files": 20, "plan_cases": 20}
    return Settings(work=str(work), point=Point(patches=40, datasets=2), **sizes)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that contenders share."""
    return tmp_path_factory.mktemp("benchmarks")


# The networks


@pytest.mark.parametrize("training", [False, True])
def test_the_plain_network_is_hydrakits(training: bool) -> None:
    torch.manual_seed(0)
    body, head = PaperBody(BodySpec(), in_channels=2, dropout=0.0), build_mlp(256, 3)
    ours = attach_head(body, head)
    theirs = nn.Sequential(plain.plain_body(inputs=2), plain.plain_head(classes=3))
    shown = torch.randn(6, 2, 65, 65)
    ours.train()
    ours(shown)  # batch-norm statistics move from 0 and 1
    plain.take_weights(theirs, list(ours.state_dict().values()))
    ours.train(training)
    theirs.train(training)
    torch.testing.assert_close(ours(shown), theirs(shown), rtol=1e-4, atol=1e-5)
    if training:  # and what it learnt of these images
        after = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        for one, other in after:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_seed_gives_the_plain_network_hydrakits_weights() -> None:
    torch.manual_seed(5)
    ours = attach_head(PaperBody(BodySpec(), in_channels=1, dropout=0.0), build_mlp(256, 2))
    torch.manual_seed(5)
    theirs = nn.Sequential(plain.plain_body(), plain.plain_head())
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_other_tensors_are_not_taken() -> None:
    with pytest.raises(ValueError, match="not the tensors"):
        plain.take_weights(plain.plain_head(), [torch.zeros(1)])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=40))
def test_auc_is_that_of_scikit_learn(cases: list[tuple[int, int]]) -> None:
    scores = np.array([score for score, _ in cases], dtype=np.float64)
    labels = np.array([label for _, label in cases])
    if len(set(labels.tolist())) == 2:
        assert plain.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_figures_are_those_of_scikit_learn() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 2), torch.arange(30) % 2
    chances = torch.softmax(logits.double(), 1)
    loss, accuracy, auc = plain.figures(logits, labels)
    assert loss == pytest.approx(log_loss(labels, torch.softmax(chances, 1)), rel=1e-5)
    assert accuracy == pytest.approx(accuracy_score(labels, chances.argmax(1)))
    assert auc == pytest.approx(roc_auc_score(labels, chances[:, 1]))


@pytest.mark.parametrize("copies", [1, 3])
def test_stacked_networks_learn_what_each_learns_alone(copies: int) -> None:
    torch.manual_seed(0)
    spec = BodySpec(channels=(4, 8), patch=20, features=6)
    networks = [
        attach_head(PaperBody(spec, in_channels=2, dropout=0.0), build_mlp(6, 3))
        for _ in range(copies)
    ]
    for network in networks:
        network(torch.randn(4, 2, 20, 20))  # batch-norm statistics move from 0 and 1
    together = StackedNetwork(networks).train()
    images, labels = torch.randn(copies, 5, 2, 20, 20), torch.arange(5 * copies).view(copies, 5) % 3
    values = Hyperparameters(learning_rate=2**-9, dropout=0, batch_size=5, epochs=1, patience=None)
    steps = [build_optimiser([each.train()], values) for each in networks]
    joint = build_optimiser([together], values)
    for _ in range(3):
        for network, step, shown, expected in zip(networks, steps, images, labels, strict=True):
            step.zero_grad()
            nn.functional.cross_entropy(network(shown), expected).backward()
            step.step()
        joint.zero_grad()
        stacked_loss(together(images), labels).backward()
        joint.step()
    torch.testing.assert_close(
        together(images), torch.stack([n(i) for n, i in zip(networks, images, strict=True)])
    )
    after = StackedNetwork(networks).state_dict()
    for name, tensor in together.state_dict().items():
        # Batch norm takes away what a bias before it adds: Adam makes a step of its rounding.
        if not name.endswith(("conv1.bias", "conv2.bias", "conv3.bias", "running_mean")):
            torch.testing.assert_close(tensor, after[name], rtol=1e-4, atol=1e-5)


# The authors' way


def authors_round(work: Path, *, head_only: bool) -> authors.Round:
    return authors.Round(
        plain.plain_body(dropout=0.3),
        plain.plain_head(dropout=0.3),
        authors.Dataset(work, "support", train=8, val=4),
        head_only=head_only,
        batch=4,
        checkpoint=work / f"{head_only}.pth",
        reference=(plain.plain_head(), authors.Dataset(work, "target", train=8, val=4)),
    )


def test_a_head_round_of_the_authors_trains_the_head_alone(work: Path) -> None:
    training = authors_round(work, head_only=True)
    body = {name: tensor.clone() for name, tensor in training.body.state_dict().items()}
    head = [parameter.clone() for parameter in training.head.parameters()]
    training.epoch()
    for name, tensor in training.body.state_dict().items():
        assert torch.equal(tensor, body[name]), name
    after = zip(training.head.parameters(), head, strict=True)
    assert not any(torch.equal(one, other) for one, other in after)


def test_an_epoch_of_the_authors_gives_four_figures_and_a_checkpoint(work: Path) -> None:
    training = authors_round(work, head_only=False)
    before = next(training.body.parameters()).clone()
    found = training.epoch()
    assert set(found) == {"train", "val", "reference train", "reference val"}
    assert not torch.equal(before, next(training.body.parameters()))
    saved = torch.load(training.checkpoint, weights_only=True)
    for name, tensor in training.network.state_dict().items():
        assert torch.equal(saved[name], tensor), name
    shown = torch.from_numpy(np.stack([np.load(path) for path in training.data.val.paths]))
    logits = plain.looked_at(training.network, shown, batch=4)
    assert found["val"] == pytest.approx(plain.figures(logits, torch.tensor([0, 1, 0, 1])))


def test_files_are_read_once_in_an_epoch_in_another_order(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = authors.Dataset(work, "support", train=8, val=4).train
    read: list[Path] = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda path: read.append(path) or load(path))
    torch.manual_seed(0)
    labels = torch.cat([found for _, found in files.batches(3, shuffled=True)])
    assert sorted(read) == files.paths
    assert read != files.paths
    assert [int(path.stem[-1]) for path in read] == labels.tolist()


# Augmented views


def test_scipys_view_without_a_turn_is_the_mean_of_pixels() -> None:
    canvas = images.noise(0, 1, 170)[0]
    seen = truth.view(canvas, angle=0.0, mirrored=False, shift=0)
    assert seen == pytest.approx(
        canvas[20:150, 20:150].reshape(65, 2, 65, 2).mean((1, 3)), rel=1e-4, abs=1e-6
    )
    moved = truth.view(canvas, angle=0.0, mirrored=True, shift=1)
    turned = canvas[20:150, 20:150][:, ::-1]
    assert moved[:, 1:-1] == pytest.approx(
        np.roll(turned, 1, axis=1).reshape(65, 2, 65, 2).mean((1, 3))[:, 1:-1], rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("kind", [authors.Augmentation, authors.ThriftyAugmentation])
def test_pillows_views_are_scipys(kind: type[authors.Augmentation]) -> None:
    for seed, mirrored in enumerate((True, False)):
        canvas = images.smooth(1, kind.side, seed=seed)[0]
        how = {"angle": 17.0, "mirrored": mirrored, "shift": 1}
        seen = authors.view(canvas, **how, turning=kind.turning, halving=kind.halving)
        assert np.abs(seen - truth.view(canvas, **how)).mean() < 0.02 * canvas.std()


def test_our_views_are_scipys() -> None:
    from benchmarks.ours_parts import view_difference

    assert view_difference(torch.from_numpy(images.smooth(8, 170, seed=3))[:, None]) < 0.01


# Working in turns


def test_contenders_work_in_turns_after_a_warm_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = {name: [sys.executable, "-c", FAKE, name, str(log)] for name in ("a", "bb", "ccc")}
    samples = in_turns(commands, repeats=2, threads=1)
    assert log.read_text().split() == [
        "a0",
        "bb0",
        "ccc0",
        "a1",
        "bb1",
        "ccc1",
        "a2",
        "bb2",
        "ccc2",
    ]
    assert samples.warm["bb"] == Answer(2, {"name": "bb"})
    assert samples.seconds("ccc") == [6, 9]
    assert samples.ratio("ccc", "a") == Spread(3, 3, 3)
    assert samples.median("a") == 2.5


def test_a_contender_that_ends_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAKE, "broken", str(tmp_path / "log")]
    with pytest.raises(RuntimeError, match="broken: its process ended with 3"):
        in_turns({"broken": command}, repeats=1, threads=1)


def test_ratios_are_of_neighbours() -> None:
    answers = {"slow": [Answer(10), Answer(40)], "fast": [Answer(5), Answer(10)]}
    assert Samples({}, answers).ratio("slow", "fast") == Spread(3.0, 2.5, 3.5)


EVERY = dict.fromkeys(
    name for each in MEASUREMENTS for name in (*each.before, *each.contenders.values())
)
MORE = ("ours.AllEpochs", "ours_runs.ScalePrepare", "ours_runs.ScaleRun", "projection.Limits")


WHOLE = [name for name in EVERY if name.endswith(("Hydra", "Transfer"))]
"""Contenders that train whole plans: units of seconds."""


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(each, marks=pytest.mark.slow) for each in WHOLE),
        *(each for each in (*EVERY, *MORE) if each not in WHOLE),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:::monai")
@pytest.mark.filterwarnings("ignore:::lightning", "ignore:::torch.jit")
def test_every_contender_does_a_unit_of_work(work: Path, name: str) -> None:
    if name.startswith("lightning_loop."):
        pytest.importorskip("lightning", reason="needs hydrakit-imaging[bench]")
        pytest.importorskip("monai", reason="needs hydrakit-imaging[bench]")
    settings = tiny(work)
    if name == "floor.Starts":  # reads what the other writes
        contender("ours_parts.ExportStarts", settings)(0)
    unit = contender(name, settings)
    warm, answer = unit(0), unit(1)
    assert warm.seconds >= 0
    assert answer.seconds > 0 or name in ("ours_parts.ExportStarts", "projection.Limits")


def test_starts_one_by_one_do_as_well(work: Path) -> None:
    settings = tiny(work)
    contender("ours_parts.ExportStarts", settings)(0)
    ours = contender("ours_parts.Starts", settings)(1).facts["aucs"]
    theirs = contender("floor.Starts", settings)(1).facts["aucs"]
    assert theirs == pytest.approx(ours)


def test_a_contender_whose_packages_are_missing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = [sys.executable, "-c", FAKE, "a", str(tmp_path / "log")]
    monkeypatch.setattr("benchmarks.rows.worker_command", lambda *_: fake)
    plans = next(each for each in MEASUREMENTS if each.name == "plans")
    lacking = replace(plans, needs={"c": ("lightning", "no_such_package")})
    samples = lacking.take(tiny(tmp_path))
    assert set(samples.answers) == {"a", "hydra", "transfer"}
    assert "without contender 'c', which needs" in capsys.readouterr().err
    assert len(lacking.rows(samples, tiny(tmp_path))) == 2


# What is written


def test_rows_of_every_measurement_are_made_of_its_contenders() -> None:
    facts = {"before": 1.0, "chosen": 0, "aucs": [0.5], "difference": 0.0}
    for each in MEASUREMENTS:
        answers = {name: [Answer(2.0, facts), Answer(2.0, facts)] for name in each.contenders}
        warm = {name: Answer(2.0, facts) for name in each.contenders}
        rows = each.rows(Samples(warm, answers), Settings(work=""))
        assert rows
        assert rows[0].target


def test_the_table_says_what_is_reached() -> None:
    spread = Spread(2.4123, 2.3, 2.5)
    told = {"target": "2", "measured": table.quartiles(spread), "times": "", "note": ""}
    rows = [table.Row(what=f"a | {met}", met=met, **told) for met in (True, False, None)]
    found = "2 | 2.41 times (2.30 to 2.50)"
    assert table.rows_table(rows).splitlines()[2:] == [
        f"| a \\| True | {found} | yes |  |  |",
        f"| a \\| False | {found} | no |  |  |",
        f"| a \\| None | {found} |  |  |  |",
    ]


def test_durations() -> None:
    seconds = {7200: "2.00 h", 90: "1.50 min", 1: "1.00 s", 0.0123: "12.3 ms", 4e-6: "4.00 µs"}
    assert {each: table.shown(each) for each in seconds} == seconds


def test_a_device_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--device", "cuda"])
    with pytest.raises(SystemExit, match=r"^benchmarks: device 'cuda': .*use `--device cpu`"):
        main()


def test_a_part_of_the_page_takes_the_place_of_its_own_kind(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    table.write_parts(page, {"one": "first\n", "two": "second"})
    table.write_parts(page, {"one": "anew \\1", "three": "third"})
    text = page.read_text()
    assert text.startswith("# What hydrakit costs\n")
    assert "first" not in text
    places = [text.index(part) for part in ("anew \\1", "second", "third")]
    assert places == sorted(places)
    assert text.count("<!-- begin") == text.count("<!-- end") == 3


def test_the_command_measures_help_alone_and_leaves_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    given = ["--quick", "--only", "help", "--threads", "1", "--out", str(page)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *given],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "`hydrakit --help`, processor time over bare Python" in done.stdout
    assert done.stdout.strip() in page.read_text().replace("<!-- end table -->", "")
    version = metadata.version("torch")
    for fact in ("machine: ", "threads: 1", f"torch: {version}", "date: ", "command: "):
        assert fact in done.stdout


# The projection and the scale


def test_the_demands_of_an_image() -> None:
    # Operations by hand, 2 for each multiplication: side after, channels in and out, kernel.
    layers = [(63, 1, 32, 3), (61, 32, 32, 3), (61, 32, 32, 1)]
    layers += [(28, 32, 64, 3), (26, 64, 64, 3), (26, 64, 64, 1)]
    layers += [(11, 64, 128, 3), (9, 128, 128, 3), (9, 128, 128, 1)]
    convolutions = sum(side**2 * into * out * kernel**2 for side, into, out, kernel in layers)
    dense = 2048 * 256 + 256 * 64 + 64 * 16 + 16 * 2
    moved = sum((s + k - 1) ** 2 * into + s**2 * out for s, into, out, k in layers)
    moved += 2048 + 256 + 256 + 64 + 64 + 16 + 16 + 2
    found = projection.demands(torch.float32)
    assert found["forward flops"] == 2 * (convolutions + dense)
    assert found["forward bytes"] == 4 * moved
    # Backward costs twice as much, save that nobody asks for the image's gradient.
    assert found["step flops"] == 3 * found["forward flops"] - 2 * 63**2 * 32 * 9


def test_the_projection_adds_up() -> None:
    rounds = projection.Rounds(
        patches=1600, all_epoch=2.0, head_epoch=0.01, features=3.0, image=0.001
    )
    seconds = [each for _, _, each in rounds.parts()]
    assert seconds == pytest.approx([400, 160_000, 90, 600])
    limits = {"name": "x", "type": "float32", "flops": 1e12, "bytes": 1e11}
    text = projection.report("x", rounds, limits | projection.demands(torch.float32), "Memory: 1.")
    assert "| the whole run |  |  | 44.7 h |" in text


def cost(name: str, point: Point, power: float, step: float) -> scale.Cost:
    """On a machine where a step takes so long."""
    work = step * scale.work_of(name, point) ** power
    return scale.Cost(
        point,
        Answer(work, {"resident": 3e9, "patches": 1e9}),
        Answer(2 * work, {"resident": 1e9, "before": 0.1}),
        step,
    )


def costs(power: float) -> dict[str, list[scale.Cost]]:
    """On a machine that becomes slower and slower."""
    return {
        name: [cost(name, point, power, 1.0 + number) for number, point in enumerate(points)]
        for name, points in scale.SERIES.items()
    }


def test_exponents_tell_what_is_worse_than_linear() -> None:
    assert scale.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    linear, worse = scale.fits(costs(1.0)), scale.fits(costs(1.5))
    assert linear.count("| 1.00 | 1.00 | yes | 2.00 GB | no |") == len(scale.SERIES)
    assert worse.count("| 1.50 | 1.50 | no | 2.00 GB | no |") == len(scale.SERIES)
    assert scale.points_table(costs(1.0)).count("\n") == 2 + sum(map(len, scale.SERIES.values()))


def test_the_plot_is_one_svg_file() -> None:
    root = ElementTree.fromstring(scale.drawn(costs(1.0)))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(scale.SERIES) <= set(words)


def test_files_for_the_authors_and_the_start(tmp_path: Path) -> None:
    folder = images.npy_folder(tmp_path, "x", count=3, seed=0)
    assert [path.stem[-1] for path in sorted(folder.iterdir())] == ["0", "1", "0"]
    assert images.npy_folder(tmp_path, "x", count=3, seed=1) == folder  # as it is
    pictures = images.png_folder(tmp_path, count=3, side=16)
    assert len(list((pictures / "no").iterdir())) == 2
    with Image.open(next((pictures / "yes").iterdir())) as image:
        assert (image.mode, image.size) == ("L", (16, 16))
    assert len(list(tmp_path.iterdir())) == 2
