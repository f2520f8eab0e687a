from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from hydrakit.errors import PlanError
from hydrakit.evaluate import Predictions, score, to_csv
from hydrakit.hooks import DatasetAdapter, FieldOfView
from hydrakit.plan import Dataset, Hyperparameters, Plan, Round, Split
from hydrakit.plugins import Plugins
from hydrakit.report import write_report
from hydrakit.report.markup import Html, element
from hydrakit.report.roc import area_below, roc_points
from hydrakit.report.svg import Axis, ticks
from hydrakit.report.tables import command
from hydrakit.report.words import meaning
from hydrakit.results import (
    AreaUnderCurve,
    Bootstrap,
    DataFacts,
    EpochRecord,
    Figures,
    Results,
    RoundResult,
)
from hydrakit.rundir import RunDir, write_lines

VOID = {"meta", "link"}
CLASSES = ("benign", "significant")


def adapter(name: str, **changes: object) -> DatasetAdapter:
    given = {
        "name": name,
        "summary": f"Images of {name}",
        "classes": CLASSES,
        "read": lambda root, options: iter(()),
        "field_of_view": FieldOfView(share=1.0),
        "version": "1",
        "layout": "files",
        "how_to_get": "by mail",
        "citation": f"Author A. The {name} set, 2020.",
        "licence": "CC BY 3.0",
    }
    return DatasetAdapter(**{**given, **changes})


def plugins(*adapters: DatasetAdapter) -> Plugins:
    offered = {each.name: each for each in adapters}
    return Plugins(datasets=offered, heads={}, strategies={}, commands={}, found=())


NO_PLUGINS = plugins()

SEVEN = [
    ("prostatex", "all"),
    ("brain", "head"),
    ("brain", "all"),
    ("lung", "head"),
    ("lung", "all"),
    ("prostatex", "head"),
    ("prostatex", "all"),
]


def predictions(
    positives: int, negatives: int, *, shift: float = 1.0, classes: tuple[str, ...] = CLASSES
) -> Predictions:
    """Test cases of which each class's logit is raised in its own cases."""
    rng = np.random.default_rng(3)
    sizes = [negatives, *[positives] * (len(classes) - 1)]
    labels = np.repeat(np.arange(len(classes)), sizes)
    logits = rng.normal(size=(len(labels), len(classes)))
    logits[np.arange(len(labels)), labels] += shift
    keys = tuple(f"secret-{number}" for number in range(len(labels)))
    return Predictions("prostatex", "test", classes, keys, labels, logits.round(2))


def make_run(
    folder: Path,
    *,
    test: Predictions | None = None,
    rounds: list[tuple[str, str]] | None = None,
    epochs: int = 6,
    facts: dict[str, object] | None = None,
    **hyperparameters: object,
) -> RunDir:
    """The folder of a finished run, without weights."""
    rounds = rounds or SEVEN
    test = test or predictions(4, 15)
    settings = Hyperparameters(
        learning_rate=1e-5,
        dropout=0.3,
        batch_size=8,
        epochs=epochs,
        patience=None,
        **hyperparameters,
    )
    names = list(dict.fromkeys(name for name, _ in rounds))
    plan = Plan(
        strategy="hydra",
        profile="recommended",
        target="prostatex",
        datasets=tuple(
            Dataset(
                name=name,
                options={"slice": "geometry"} if name == "prostatex" else {},
                split=Split(train=8, val=1, test=1 if name == "prostatex" else 0),
            )
            for name in names
        ),
        head="mlp",
        seed=11,
        rounds=tuple(
            Round(dataset=name, train=train, head=name, hyperparameters=settings)
            for name, train in rounds
        ),
    )
    rundir = RunDir.begin(folder, plan)
    rng = np.random.default_rng(0)
    results = []
    for number, round in enumerate(plan.rounds, start=1):
        records = [
            EpochRecord(
                epoch=epoch,
                learning_rate=1e-5,
                train=Figures(loss=0.9 / epoch**0.1, auc=0.5, accuracy=0.5),
                val=Figures(
                    loss=0.7 / epoch**0.05 + 0.02 * rng.random(),
                    auc=0.6 + 0.3 * (1 - 1 / epoch) - 0.1 * rng.random(),
                    accuracy=0.625,
                ),
                reference_auc=None if number == 1 else 0.7 - 0.02 * number,
            )
            for epoch in range(1, epochs + 1)
        ]
        best = max(records, key=lambda record: record.val.auc)
        results.append(
            RoundResult(
                round=number,
                dataset=round.dataset,
                train=round.train,
                head=round.head,
                learning_rate=1e-5,
                dropout=0.3,
                best_epoch=best.epoch,
                epochs=epochs,
                val=best.val,
                reference_auc=best.reference_auc,
                seconds=12.5 * number,
                bootstrap=Bootstrap(chosen=1, val_auc=(0.41, 0.63, 0.5)) if number == 1 else None,
            )
        )
        with rundir.writing_round(number, round) as part:
            write_lines(part / "metrics.jsonl", records)
    given = {
        "digest": "ab" * 32,
        "channels": 1,
        "counts": {
            "test": {"benign": 15, "significant": 4},
            "train": {"benign": 200, "significant": 60},
            "val": {"benign": 30, "significant": 8},
        },
        "patients": {"test": 16, "train": 150, "val": 20},
        "unlabelled": 3,
        "excluded": {"no highest-b series": 1, "position outside the volume": 6},
        **(facts or {}),
    }
    rundir.write_facts({name: DataFacts.model_validate(given) for name in names})
    environment = {
        "hydrakit": "0.1.0",
        "python": "3.11.9",
        "torch": "2.13.0",
        "platform": "Linux-6.1",
        "device": "cuda:0",
        "device_name": "NVIDIA H200",
        "threads": 16,
        "plugins": {"brain": "hydrakit-imaging 0.1.0"},
        "roots": {name: f"/data/my sets/{name}" for name in names},
    }
    rundir.write_json("environment.json", environment)
    val = Predictions(
        test.dataset,
        "val",
        test.classes,
        tuple(f"secret-val-{number}" for number in range(4)),
        np.array([0, 1, 0, 1]),
        np.zeros((4, len(test.classes))),
    )
    (folder / "predictions.csv").write_text(to_csv([val, test]), encoding="utf-8")
    finished = Results(
        hydrakit="0.1.0",
        plan=plan.digest(),
        strategy=plan.strategy,
        profile=plan.profile,
        target=plan.target,
        seed=plan.seed,
        rounds=tuple(results),
        test=score(test),
    )
    rundir.results_path.write_text(finished.model_dump_json(indent=2), encoding="utf-8")
    return rundir


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Node] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str) -> list[Node]:
        found = [self] if self.tag == tag else []
        return found + [node for child in self.children for node in child.all(tag)]

    def words(self) -> str:
        return " ".join([self.text, *(child.words() for child in self.children)]).strip()


class Tree(HTMLParser):
    """Reads a page into nodes, and refuses one whose elements do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Node("page", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attributes) == len(attrs), f"<{tag}> has an attribute twice"
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data


def parse(path: Path) -> Node:
    tree = Tree()
    tree.feed(path.read_text(encoding="utf-8"))
    tree.close()
    assert tree.open == [tree.root]
    return tree.root


def report(rundir: RunDir, offered: Plugins = NO_PLUGINS) -> Node:
    path = write_report(rundir, plugins=offered)
    assert path == rundir.path / "report.html"
    return parse(path)


def cells(table: Node) -> list[list[str]]:
    return [
        [cell.words() for cell in row.children if cell.tag in ("td", "th")]
        for row in table.all("tr")
    ]


def plotted(svg: Node, style: str) -> list[list[tuple[float, float]]]:
    """The points of the lines of a style, in units of the drawing."""
    paths = [p.attributes["d"] or "" for p in svg.all("path") if p.attributes["class"] == style]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]
        for path in paths
    ]


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda cases: len({positive for _, positive in cases}) == 2
    )
)
def test_the_curve_is_scikit_learns(cases):
    scores, positive = [score for score, _ in cases], [positive for _, positive in cases]

    points = np.array(roc_points(scores, positive))

    false_rate, true_rate, _ = roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(points, np.column_stack([false_rate, true_rate]))
    assert area_below(points) == pytest.approx(roc_auc_score(positive, scores))


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-6, 1e6),
    st.booleans(),
    st.integers(2, 12),
)
def test_ticks_are_even_and_inside(low, width, whole, most):
    axis = Axis(label="", low=low, high=low + width, whole=whole)
    if axis.high - axis.low < 1e-9 * abs(low):
        return

    found = ticks(axis, most)

    assert len(found) <= most
    slack = 1e-6 * width
    assert all(axis.low - slack <= value <= axis.high + slack for value in found)
    steps = np.diff(found)
    if len(steps):
        assert np.allclose(steps, steps[0], rtol=1e-6, atol=1e-9 * abs(low))
    if whole:
        assert all(value == round(value) for value in found)


def test_ticks_of_usual_axes():
    assert ticks(Axis(label="", low=0, high=1)) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(Axis(label="", low=0.4, high=1)) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert ticks(Axis(label="", low=0.5, high=1.5, whole=True)) == [1]
    assert ticks(Axis(label="", low=0.5, high=420.5, whole=True)) == [100, 200, 300, 400]


def test_only_markup_goes_in_as_markup():
    assert element("p", "a < b", Html("<b>&amp;</b>"), None, 3) == "<p>a &lt; b<b>&amp;</b>3</p>"
    assert element("p", class_='"x"', aria_label="a&b", id=None) == (
        '<p class="&quot;x&quot;" aria-label="a&amp;b"></p>'
    )


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.52, 0.97, "excludes 0.5"),
        (0.31, 0.88, "on these 19 cases the network cannot be told from chance"),
        (0.5, 0.9, "cannot be told from chance"),
        (0.1, 0.45, "worse than chance"),
    ],
)
def test_what_an_interval_means(low, high, said):
    area = AreaUnderCurve(
        class_name="x", auc=(low + high) / 2, low=low, high=high, positives=4, negatives=15
    )
    assert said in meaning(area)
    assert f"from {low:.3f} to {high:.3f}" in meaning(area)


def test_the_verdict_comes_first_and_says_what_it_rests_on(tmp_path):
    rundir = make_run(tmp_path / "run", test=predictions(4, 15, shift=0.3))
    found = rundir.results().test
    page = report(rundir)

    section = page.all("section")[0]
    verdict = section.children[0].words()
    area = found.classes[0]
    assert f"{area.auc:.3f}" in verdict
    assert f"95 % interval {area.low:.3f} to {area.high:.3f}" in verdict
    assert "from 4 positive (significant) and 15 negative cases" in verdict
    words = section.words()
    assert area.low < 0.5 < area.high
    assert "cannot be told from chance" in words
    assert "One positive case weighs 0.250 of the AUC, one negative case 0.067." in words
    assert "The 19 cases are of 16 patients" in words
    assert f"Accuracy {found.figures.accuracy:.3f}" in words
    assert "every time would give 0.789" in words


def test_one_patient_is_one(tmp_path):
    page = report(make_run(tmp_path / "run", facts={"patients": {"test": 1}}))
    assert "The 19 cases are of 1 patient. The" in page.all("section")[0].words()


def test_no_word_of_patients_where_each_has_one_case(tmp_path):
    page = report(make_run(tmp_path / "run", facts={"patients": {"test": 19}}))
    assert "independent" not in page.all("section")[0].words()


def test_more_than_two_classes(tmp_path):
    test = predictions(6, 10, classes=("none", "a", "b"))
    rundir = make_run(tmp_path / "run", test=test)
    page = report(rundir)
    found = rundir.results().test

    verdict = page.all("section")[0]
    assert f"{found.figures.auc:.3f}" in verdict.children[0].words()
    assert "mean of 3 classes, each against the rest (macro average), from 22" in verdict.words()
    rows = cells(verdict.all("table")[0])[1:]
    assert [row[:5] for row in rows] == [
        [a.class_name, str(a.positives), str(a.negatives), f"{a.auc:.3f}",
         f"{a.low:.3f} to {a.high:.3f}"]
        for a in found.classes
    ]  # fmt: skip
    assert "every time would give 0.455" in verdict.words()
    roc = page.all("figure")[2]
    assert [len(plotted(roc.all("svg")[-1], f"line c{number}")) for number in range(4)] == [
        1,
        1,
        1,
        0,
    ]
    for area in found.classes:
        assert f"{area.class_name}: AUC {area.auc:.3f}" in roc.all("ul")[0].words()


def test_the_rounds_are_those_of_the_results(tmp_path):
    rundir = make_run(tmp_path / "run")
    table = report(rundir).all("section")[1].all("table")[0]

    header, *rows, total = cells(table)
    assert header[:3] == ["Round", "Dataset", "Trained"]
    for row, result in zip(rows, rundir.results().rounds, strict=True):
        reference = "–" if result.round == 1 else f"{result.reference_auc:.3f}"
        assert row == [
            str(result.round),
            result.dataset,
            result.train,
            result.head,
            "1e-05",
            "0.3",
            f"{result.best_epoch} of 6",
            f"{result.val.loss:.3f}",
            f"{result.val.auc:.3f}",
            "0.625",
            reference,
            f"{result.seconds:.0f}",
        ]
    assert total[0] == "Total"
    assert total[-1] == "350"


def test_what_the_rounds_need_said(tmp_path):
    words = report(make_run(tmp_path / "a", carry_head="last")).all("section")[1].words()
    assert "best of 3 random starts" in words
    assert "from 0.410 to 0.630" in words
    assert "the last epoch's" in words
    words = (
        report(make_run(tmp_path / "b", rounds=[("prostatex", "all")])).all("section")[1].words()
    )
    assert "Reference AUC: none here" in words
    assert "the last epoch's" not in words


def test_the_roc_is_drawn_where_it_is(tmp_path):
    test = predictions(4, 15)
    figure = report(make_run(tmp_path / "run", test=test)).all("figure")[2]
    svg = figure.all("svg")[-1]

    (diagonal,) = plotted(svg, "line faint dashed")
    (left, bottom), (right, top) = diagonal
    (drawn,) = plotted(svg, "line c0")
    margins = test.logits[:, 1] - test.logits[:, 0]
    false_rate, true_rate, _ = roc_curve(test.labels, margins, drop_intermediate=False)
    found = [((x - left) / (right - left), (y - bottom) / (top - bottom)) for x, y in drawn]
    np.testing.assert_allclose(found, np.column_stack([false_rate, true_rate]), atol=1e-3)
    assert len(svg.all("circle")) == len(drawn)
    caption = figure.all("figcaption")[0].words()
    assert "A step up is 1 of 4 positive cases (0.250)" in caption
    assert "1 of 15 negative cases (0.067)" in caption


def test_a_long_roc_has_no_dots(tmp_path):
    figure = report(make_run(tmp_path / "run", test=predictions(60, 60))).all("figure")[2]
    assert figure.all("svg")[-1].all("circle") == []


def test_the_epochs_are_drawn_where_they_are(tmp_path):
    rundir = make_run(tmp_path / "run")
    auc, loss, _ = report(rundir).all("figure")
    svg = auc.all("svg")[-1]

    (left, chance), (right, _) = plotted(svg, "line faint dashed")[0]
    # One value gives the scale: the chance line is at 0.5, and the axis ends at 1 at its top.
    rect = svg.all("rect")[0].attributes
    top = float(rect["y"])
    found = plotted(svg, "line c0") + plotted(svg, "line c1") + plotted(svg, "line c2")
    found.sort(key=lambda line: line[0][0])
    epochs = [rundir.epochs(n, r) for n, r in enumerate(rundir.plan().rounds, start=1)]
    assert [len(line) for line in found] == [6] * 7
    for number, (line, records) in enumerate(zip(found, epochs, strict=True)):
        for (x, y), record in zip(line, records, strict=True):
            value = 0.5 + 0.5 * (chance - y) / (chance - top)
            assert value == pytest.approx(record.val.auc, abs=1e-3)
            place = 0.5 + 42 * (x - left) / (right - left)
            assert place == pytest.approx(6 * number + record.epoch, abs=0.02)
    assert len(plotted(svg, "line ink dotted")) == 6
    marks = [mark.words() for mark in svg.all("circle")]
    assert marks == [
        f"round {r.round}, best epoch {r.best_epoch}: {r.val.auc:.3f}"
        for r in rundir.results().rounds
    ]
    assert len(svg.all("rect")) == 7
    assert len(plotted(loss.all("svg")[-1], "line c0 dashed")) == 3


def test_one_epoch_of_one_round_is_a_dot(tmp_path):
    auc = report(make_run(tmp_path / "run", rounds=[("prostatex", "all")], epochs=1)).all("figure")[
        0
    ]
    path = next(p for p in auc.all("svg")[-1].all("path") if p.attributes["class"] == "line c0")
    assert re.fullmatch(r"M[\d.]+,[\d.]+h0", path.attributes["d"])


def test_narrow_bands_keep_the_labels_that_fit(tmp_path):
    rounds = [("prostatex", "all"), ("brain", "head")] * 10
    auc = report(make_run(tmp_path / "run", rounds=rounds, epochs=2)).all("figure")[0]
    drawn = [text.words() for text in auc.all("svg")[-1].all("text")]
    assert {str(number) for number in range(1, 21)} < set(drawn)
    assert drawn.count("all") == drawn.count("head") == 10
    assert "prostatex" not in drawn


def test_every_picture_has_a_text_in_its_place(tmp_path):
    page = report(make_run(tmp_path / "run"))
    pictures = [svg for svg in page.all("svg") if svg.attributes.get("role") == "img"]
    assert len(pictures) == 3
    ids = [node.attributes["id"] for tag in ("title", "desc") for node in page.all(tag)
           if "id" in node.attributes]  # fmt: skip
    assert len(set(ids)) == len(ids) == 6
    for svg in pictures:
        title, desc = svg.children[:2]
        named = f"{title.attributes['id']} {desc.attributes['id']}"
        assert svg.attributes["aria-labelledby"] == named
        assert len(title.words()) > 10
        assert len(desc.words()) > 40
    decoration = [svg for svg in page.all("svg") if svg not in pictures]
    assert all(svg.attributes["aria-hidden"] == "true" for svg in decoration)


def test_the_file_needs_nothing_else(tmp_path):
    rundir = make_run(tmp_path / "run")
    page = report(rundir)
    text = rundir.report_path.read_text(encoding="utf-8")

    for tag in ("script", "img", "iframe", "object", "embed", "form", "base"):
        assert page.all(tag) == []
    assert [link.attributes["href"] for link in page.all("link")] == ["data:,"]
    assert not re.search(r"\b(src|srcset|xlink:href)=|url\(|@import", text)
    assert "default-src 'none'" in text
    assert len(text) < 100_000


def test_no_case_is_named(tmp_path):
    rundir = make_run(tmp_path / "run")
    assert "secret-18" in (rundir.path / "predictions.csv").read_text()
    report(rundir)
    assert "secret" not in rundir.report_path.read_text()


def test_text_from_outside_stays_text(tmp_path):
    evil = '<script>alert("1")</script>$title&amp;'
    test = predictions(4, 15, classes=("benign", evil))
    facts = {
        "counts": {"test": {"benign": 15, evil: 4}},
        "excluded": {evil: 2},
    }
    rundir = make_run(tmp_path / "run", test=test, facts=facts)
    rundir.write_json("environment.json", {"torch": evil, "device": evil})
    page = report(
        rundir, plugins(adapter("prostatex", citation=evil, licence=evil, classes=("benign", evil)))
    )

    assert page.all("script") == []
    data = page.all("section")[4].words()
    assert f"2: {evil}" in data
    assert data.count(evil) >= 4
    assert evil in page.all("section")[5].words()


def test_the_data_of_each_dataset(tmp_path):
    rundir = make_run(tmp_path / "run")
    section = report(rundir, plugins(adapter("prostatex"), adapter("lung"))).all("section")[4]

    assert [h.words() for h in section.all("h3")] == ["prostatex (target)", "brain", "lung"]
    assert cells(section.all("table")[0]) == [
        ["Split", "benign", "significant", "All cases", "Patients"],
        ["train", "200", "60", "260", "150"],
        ["val", "30", "8", "38", "20"],
        ["test", "15", "4", "19", "16"],
        ["Total", "245", "72", "317", "186"],
    ]
    target, brain, lung = (
        dict(zip([t.words() for t in dl.all("dt")], [d.words() for d in dl.all("dd")], strict=True))
        for dl in section.all("dl")
    )
    assert target["Excluded"] == "6: position outside the volume 1: no highest-b series"
    assert target["Without a label"] == "3, not used"
    assert target["Split"] == "train 8, val 1, test 1; a patient's cases stay together"
    assert target["Options"] == "slice=geometry"
    assert target["Cite as"] == "Author A. The prostatex set, 2020."
    assert target["Licence"] == "CC BY 3.0"
    assert lung["About"] == "Images of lung"
    assert "Cite as" not in brain
    assert brain["Split"] == "train 8, val 1; a patient's cases stay together"


def test_how_to_repeat(tmp_path):
    rundir = make_run(tmp_path / "run")
    section = report(rundir).all("section")[5]

    given = shlex.split(section.all("pre")[0].words())
    folder = str(tmp_path / "run")
    assert given == ["hydrakit", "run", "--plan", f"{folder}/plan.json", "--data", "/data/my sets",
                     "--out", f"{folder}-again", "--device", "cuda:0"]  # fmt: skip
    words = section.words()
    for said in (rundir.plan().digest(), "ab" * 32, "2.13.0", "cuda:0, NVIDIA H200", "3.11.9"):
        assert said in words


def test_the_command_names_roots_that_lie_apart():
    roots = {"roots": {"brain": "/a/brain", "lung": "/b/LUNGx"}}
    assert command(Path("runs/x"), roots) == (
        "hydrakit run --plan runs/x/plan.json --root brain=/a/brain --root lung=/b/LUNGx "
        "--out runs/x-again"
    )


def test_the_same_folder_gives_the_same_file(tmp_path):
    rundir = make_run(tmp_path / "run")
    first = write_report(rundir).read_bytes()
    assert write_report(rundir).read_bytes() == first
    assert "report.html" in {path.name for path in rundir.path.iterdir()}


def remove(name):
    return lambda rundir: (rundir.path / name).unlink()


def write(name, text):
    return lambda rundir: (rundir.path / name).write_text(text)


def swap_labels(rundir):
    path = rundir.path / "predictions.csv"
    lines = path.read_text().splitlines()
    lines[-1] = lines[-1].replace(",significant,", ",benign,", 1)
    path.write_text("\n".join(lines) + "\n")


def edit_plan(rundir):
    plan = json.loads(rundir.plan_path.read_text())
    plan["rounds"].pop()
    rundir.plan_path.write_text(json.dumps(plan))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove("results.json"), "is not finished: `hydrakit run --resume"),
        (write("results.json", "{}"), r"results\.json: cannot be read"),
        (remove("data.json"), r"data\.json: does not tell of every dataset"),
        (write("data.json", "["), r"data\.json: cannot be read"),
        (write("environment.json", "["), r"environment\.json: cannot be read"),
        (remove("predictions.csv"), r"predictions\.csv: cannot be read .*: delete .*results\.json"),
        (write("predictions.csv", "a,b\n1,2\n"), r"predictions\.csv: has no column 'split'"),
        (
            write("predictions.csv", "split,label,p_significant\ntest,benign,high\n"),
            r"predictions\.csv: is broken",
        ),
        (
            write("predictions.csv", "split,label,p_significant\ntest,benign\n"),
            r"predictions\.csv: is broken",
        ),
        (write("predictions.csv", "split,label,p_significant\n"), "do not give the AUC"),
        (swap_labels, "do not give the AUC"),
        (remove("rounds/03-brain-all/metrics.jsonl"), r"03-brain-all/metrics\.jsonl: cannot be"),
        (write("rounds/03-brain-all/metrics.jsonl", ""), "does not hold the 6 epochs"),
        (edit_plan, r"results\.json: has other rounds than plan\.json"),
    ],
)
def test_a_folder_that_is_not_whole_is_said(tmp_path, harm, message):
    rundir = make_run(tmp_path / "run")
    harm(rundir)
    with pytest.raises(PlanError, match=message) as caught:
        write_report(rundir, plugins=NO_PLUGINS)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_report_does_not_load_torch():
    code = "import sys, hydrakit.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
