"""Origin of a result: use of the test labels, data, and how to reproduce the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrakit.errors import command_line
from hydrakit.hooks import DatasetAdapter, OptionValue
from hydrakit.plan.model import Dataset, Plan
from hydrakit.plan.results import DataFacts, Event, StartMatch
from hydrakit.plugins.options import option_text
from hydrakit.report.markup import Html, bullet_list, element, join
from hydrakit.report.tables import description_list, interval, number, table
from hydrakit.runs.rundir import RunDir
from hydrakit.weights.start import describe

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LabelReadings:
    """How often the test labels of a run were read.

    Attributes:
        entries: Time and cause of each reading; those after every epoch are one entry.
        count: Number of readings.
        traced: Number of readings after an epoch, by `hydrakit run --trace-test`.
    """

    entries: tuple[str, ...]
    count: int
    traced: int


def label_readings(rundir: RunDir, target: str) -> LabelReadings:
    """Readings of the test labels, from ``events.jsonl``.

    Raises:
        PlanError: The file is broken.
    """
    entries, traced = [], []
    # The networks of an ensemble have logs of their own; the run reads the labels for all of them.
    events = [("", each) for each in rundir.events()]
    for member in rundir.begun_members():
        name = f", network {member.path.name} of the ensemble"
        events += [(name, each) for each in member.events() if each.by != "ensemble"]
        events.sort(key=lambda pair: pair[1].time)
    for network, each in events:
        if each.event == "test read" and each.by == "trace":
            traced.append(each.time)
        elif each.event == "test read":
            cases = f", {each.cases} cases" if each.cases else ""
            cases += _weights_text(each)
            by = "run of its ensemble" if each.by == "ensemble" else "run"
            entries.append(f"{each.time}, by the {by}{cases}{network}")
        elif each.event == "evaluated" and each.dataset == target and each.split in ("test", "all"):
            split = f"split {each.split}{_weights_text(each)}"
            entries.append(f"{each.time}, by `hydrakit evaluate`, {split}{network}")
    count = len(entries) + len(traced)
    if traced:
        entries.insert(
            0, f"{traced[0]} to {traced[-1]}, after each of {len(traced)} epochs (--trace-test)"
        )
    return LabelReadings(tuple(entries), count, len(traced))


def _weights_text(event: Event) -> str:
    """The weights that were evaluated, in words; empty if an older version logged the event."""
    if not event.weights:
        return ""
    first, several = event.weights[0], len(event.weights) > 1
    number = f"{len(event.weights)} networks, first " if several else ""
    return f", {number}body {first.body[:12]} and head {first.head[:12]}"


def readings_list(readings: LabelReadings) -> Html:
    """How often the test labels were read, when, and by which command."""
    if not readings.count:
        return element("p", "events.jsonl records no reading of the test labels.")
    if readings.count == 1:
        text = "The test labels were read once, after the last round."
    else:
        text = (
            f"The test labels were read {readings.count} times. Selecting a model by any of these "
            "readings makes its test result optimistic."
        )
    return element("div", element("p", text), bullet_list(readings.entries))


def data_section(
    plan: Plan, name: str, *, facts: DataFacts, adapter: DatasetAdapter | None
) -> Html:
    """One dataset: counts, exclusions, options, citation and licence."""
    role = " (target)" if name == plan.target else ""
    dataset = plan.dataset(name)
    details = description_list(
        [
            ("About", adapter.summary if adapter else None),
            ("Excluded", _excluded(facts)),
            ("Duplicates", _duplicates(plan, facts)),
            ("Contradictory labels", _conflicting(plan, facts)),
            ("Withheld", _withheld(plan, facts)),
            ("Unused", f"{facts.unused} cases, by the plan's split" if facts.unused else None),
            ("Shortcuts", _shortcuts(facts)),
            ("Without label", f"{facts.unlabelled} cases, unused" if facts.unlabelled else None),
            ("Split", _split(dataset)),
            ("Options", _options(dataset)),
            ("Channels", facts.channels),
            ("Citation", adapter.citation if adapter else None),
            ("Licence", adapter.licence if adapter else None),
        ]
    )
    counts = _counts_table(name, facts, classes=adapter.classes if adapter else ())
    unknown = _unknown_table(name, facts)
    return join((element("h3", name, role), counts, *unknown, details), "\n")


def _unknown_table(name: str, facts: DataFacts) -> list[Html]:
    """Cases of which a label is unknown, which it does not train and which do not test it."""
    if not facts.unknown:
        return []
    counted = {label for counts in facts.unknown.values() for label in counts}
    labels = [label for label in facts.classes or () if label in counted]
    rows = [
        (split, *(facts.unknown[split].get(label, 0) for label in labels))
        for split in sorted(facts.unknown, key=_split_order)
    ]
    return [table(f"Cases of {name} for which a label is unknown", ("Split", *labels), rows)]


def _counts_table(name: str, facts: DataFacts, *, classes: tuple[str, ...]) -> Html:
    labels = {label for counts in facts.counts.values() for label in counts}
    known = classes if labels <= set(classes) else tuple(sorted(labels))
    one_image_each = facts.findings == facts.counts
    rows = []
    for split in sorted(facts.counts, key=_split_order):
        counts = [facts.counts[split].get(label, 0) for label in known]
        findings = () if one_image_each else (sum(facts.findings.get(split, {}).values()),)
        rows.append((split, *counts, sum(counts), *findings, facts.patients.get(split, 0)))
    total = [sum(column) for column in zip(*(counts for _, *counts in rows), strict=True)]
    return table(
        f"Cases of {name} by split and class",
        ("Split", *known, "All cases", *(() if one_image_each else ("Findings",)), "Patients"),
        rows,
        footer=("Total", *total),
    )


def _split_order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def _excluded(facts: DataFacts) -> Html | str:
    if not facts.excluded:
        return "none"
    reasons = sorted(facts.excluded.items(), key=lambda item: (-item[1], item[0]))
    return bullet_list(f"{count}: {reason}" for reason, count in reasons)


def _duplicates(plan: Plan, facts: DataFacts) -> str:
    """Number of duplicate images, and their treatment."""
    if not facts.copies:
        return "none"
    treatment = {
        "group": "duplicates of an image are in the same split",
        "drop": f"{facts.dropped} of them were removed, so that each image has one patient",
        "report": "they were not changed, so duplicates of an image can be in different splits",
    }
    return f"{facts.copies} cases duplicate an image of another patient; {treatment[plan.copies]}"


def _conflicting(plan: Plan, facts: DataFacts) -> Html | str | None:
    """Cases that duplicate one image with different labels, and their treatment."""
    if not facts.conflicting:
        return None
    dropped = "none of them is used, since the right label is unknown"
    treatment = dropped if plan.conflicts == "drop" else "they are treated like other duplicates"
    cases = f"{len(facts.conflicting)} cases"
    return join(
        (
            f"{cases} show an image that another case shows with another label; {treatment}.",
            element("details", element("summary", "Their keys"), bullet_list(facts.conflicting)),
        )
    )


def _withheld(plan: Plan, facts: DataFacts) -> str | None:
    if not facts.withheld:
        return None
    return (
        f"{facts.withheld} cases that share a patient or an image with the test split of "
        f"{plan.target}"
    )


def _shortcuts(facts: DataFacts) -> Html | str:
    """File properties that predict the class well, strongest first."""
    strong = [each for each in facts.shortcuts if each.strong]
    if not strong:
        return "none: no file property alone predicts the class well"
    return bullet_list(
        f"Warning: {each.fact} alone predicts {each.class_name}, AUC {number(each.auc)} "
        f"({interval(each.low, each.high)})"
        for each in strong
    )


def _split(dataset: Dataset) -> str:
    shares = [(split, getattr(dataset.split, split)) for split in SPLITS]
    text = ", ".join(f"{split} {share:g}" for split, share in shares if share)
    fold = dataset.split.fold
    if fold is not None:
        text += f", test: fold {fold.index} of 0 to {fold.count - 1}"
    if dataset.split.left_out is not None:
        text += f", test: {dataset.split.left_out}, which training leaves out"
    if dataset.split.used < 1:
        text += f"; {100 * dataset.split.used:g} % of the training and validation data used"
    return f"{text}; all cases of a patient are in one split"


def _options(dataset: Dataset) -> str:
    return _settings(dataset.options) or "none"


def _settings(options: Mapping[str, OptionValue]) -> str:
    return ", ".join(f"{key}={option_text(value)}" for key, value in sorted(options.items()))


def reproduction_section(
    plan: Plan,
    *,
    facts: Mapping[str, DataFacts],
    environment: Mapping[str, Any],
    folder: Path,
    start: StartMatch | None = None,
) -> Html:
    """The command that repeats the run, with versions, seeds and digests."""

    def versions() -> Iterator[tuple[str, object]]:
        device = [str(environment[key]) for key in ("device", "device_name") if key in environment]
        plugins = environment.get("plugins", {})
        digests = (
            element("li", f"{name} ", element("code", each.digest)) for name, each in facts.items()
        )
        yield "Strategy", plan.strategy
        yield "Profile", plan.profile
        yield "Seed", plan.seed
        yield "Split seed", plan.split_seed
        yield "Networks of the ensemble", plan.ensemble if plan.ensemble > 1 else None
        yield "Head", plan.head
        yield "Body", f"{plan.body.name} ({_settings(plan.body.options)})"
        if plan.body_weights is not None:
            yield "Weights that the body began with", plan.body_weights.file
            yield "Their file (SHA-256)", element("code", plan.body_weights.sha256)
            yield "Match", bullet_list(describe(start)) if start else None
            if plan.head_weights:
                yield "Heads that began with given weights", ", ".join(plan.head_weights)
        yield "Random initialisations", plan.bootstrap
        if plan.test_views > 1:
            yield "Averaged views of each case", plan.test_views
        yield "Plan (SHA-256)", element("code", plan.digest())
        yield "Data (SHA-256)", element("ul", *digests)
        yield "hydrakit", environment.get("hydrakit")
        yield (
            "Plugins",
            bullet_list(f"{n}: {v}" for n, v in plugins.items()) if plugins else None,
        )
        yield "Python", environment.get("python")
        yield "torch", environment.get("torch")
        yield "Platform", environment.get("platform")
        yield "Precision", environment.get("precision")
        yield "Device", ", ".join(device) or None
        yield "Threads", environment.get("threads")

    note = (
        "The same versions on the same type of device with the same number of threads give "
        "identical weights. Others round differently, and the results can differ."
    )
    return join(
        (
            element("pre", element("code", rerun_command(folder, environment))),
            element("p", note),
            description_list(versions()),
        ),
        "\n",
    )


def rerun_command(folder: Path, environment: Mapping[str, Any]) -> str:
    """The command that runs the plan of a run again, into a new folder."""
    words = ["hydrakit", "run", "--plan", folder / "plan.json", *place_options(environment)]
    return command_line(*words, "--out", f"{folder}-again")


def place_options(environment: Mapping[str, Any]) -> list[str]:
    """Options of a command for the data folders and the device of a run."""
    words = []
    roots = {name: Path(root) for name, root in environment.get("roots", {}).items()}
    parents = {root.parent for name, root in roots.items() if root.name == name}
    if len(parents) == 1 and all(root.name == name for name, root in roots.items()):
        words += ["--data", str(parents.pop())]
    else:
        for name, root in roots.items():
            words += ["--root", f"{name}={root}"]
    if "device" in environment:
        words += ["--device", str(environment["device"])]
    if "threads" in environment:
        words += ["--threads", str(environment["threads"])]
    return words
