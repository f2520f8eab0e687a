"""Folders of finished runs, and pages as nodes, for the tests of reports."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from hydrakit.hooks import DatasetAdapter, FieldOfView
from hydrakit.plan import Dataset, Hyperparameters, Plan, Round, Split
from hydrakit.plan.results import (
    Bootstrap,
    DataFacts,
    EpochRecord,
    Metrics,
    Results,
    RoundResult,
    WeightChange,
)
from hydrakit.plugins import Plugins
from hydrakit.report import write_report
from hydrakit.runs.evaluate import Predictions, score, to_csv
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.records import write_lines

VOID = {"meta", "link", "img"}
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
    return Plugins.of(*adapters)


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

# Validation AUC of the three heads (prostatex, brain, lung) after each of the seven rounds.
HEAD_AUCS = [
    (0.70, 0.0, 0.0),
    (0.70, 0.60, 0.0),
    (0.61, 0.80, 0.0),
    (0.61, 0.80, 0.75),
    (0.55, 0.66, 0.85),
    (0.64, 0.66, 0.85),
    (0.78, 0.62, 0.71),
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
                train=Metrics(loss=0.9 / epoch**0.1, auc=0.5, accuracy=0.5),
                val=Metrics(
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
                heads={
                    name: Metrics(loss=0.6, auc=HEAD_AUCS[number - 1][place])
                    for place, name in enumerate(names)
                    if name in {each.head for each in plan.rounds[:number]}
                }
                if rounds == SEVEN
                else {},
                moved=WeightChange(
                    convolutions=0.01 * number, dense=0.02, scales=0.005, statistics=None
                )
                if number > 1 and rounds == SEVEN
                else None,
            )
        )
        with rundir.writing_round(number, round) as part:
            write_lines(part / "metrics.jsonl", records)
            (part / "round.json").write_text(results[-1].model_dump_json(), encoding="utf-8")
    given = {
        "digest": "ab" * 32,
        "channels": 1,
        "counts": {
            "test": {"benign": 15, "significant": 4},
            "train": {"benign": 200, "significant": 60},
            "val": {"benign": 30, "significant": 8},
        },
        "findings": {
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
    rundir.log("test read", dataset=test.dataset, cases=len(test.keys))
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
        text = " ".join([self.text, *(child.words() for child in self.children)]).strip()
        return text.replace("\N{NO-BREAK SPACE}", " ")


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


def part(page: Node, title: str) -> Node:
    """The section of a page with that heading."""
    (found,) = (
        section
        for section in page.all("section")
        if any(heading.words() == title for heading in section.all("h2"))
    )
    return found


def drawn(page: Node, name: str) -> Node:
    """The figure of that name."""
    (found,) = (f for f in page.all("figure") if f.attributes["id"] == f"figure-{name}")
    return found


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
