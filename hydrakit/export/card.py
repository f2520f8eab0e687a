"""The model card: what users of a published model must know, in Markdown, filled from its run."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydrakit.errors import command_line, one_line
from hydrakit.export.claim import checklist
from hydrakit.export.description import preprocessing_steps
from hydrakit.plan.model import Plan
from hydrakit.plan.results import Baseline, DataFacts, Results, Subgroup, TestResult
from hydrakit.report.tables import count_of, interval, number
from hydrakit.report.verdict import baseline_text, caveats, interpretation
from hydrakit.weights.description import ExpectedFigure, ModelDescription
from hydrakit.weights.format import BodyMetadata, DatasetCard, HeadMetadata

FEW_PATIENTS = 100
FEW_FINDINGS = 100
SPLITS = ("train", "val", "test")
UNKNOWN = "not known: the weight files do not say"
WAYS = {
    "run": "Trained by one run.",
    "ensemble": "The networks of a cross-validation, whose predictions are averaged.",
    "retrain": "Trained on all cases of the target, after a cross-validation.",
    "swap": "A head that was combined with a body.",
}


@dataclass(frozen=True)
class CardContent:
    """What the card of a model is filled from.

    Attributes:
        description: How the model came about.
        heads: Metadata of its heads, by dataset.
        body: Metadata of the first network's body.
        cards: What is known about the datasets that trained it, by name.
        results: Results of its run; None without one.
        facts: Facts about the data of its run, by dataset; empty without one.
        plan: Plan of its run; None without one.
        has_plan: Whether the folder has the plan's file.
        versions: Versions of the software that trained it, by name.
        licence: Licence of the weights.
        notes: What else users must know, one sentence each.
    """

    description: ModelDescription
    heads: Mapping[str, HeadMetadata]
    body: BodyMetadata
    cards: Mapping[str, DatasetCard]
    results: Results | None
    facts: Mapping[str, DataFacts]
    plan: Plan | None
    has_plan: bool
    versions: Mapping[str, str]
    licence: str
    notes: tuple[str, ...]

    @property
    def target(self) -> str:
        """Dataset that the model is for."""
        return self.description.target

    @property
    def head(self) -> HeadMetadata:
        """Metadata of the target's head."""
        return self.heads[self.target]

    @property
    def expected(self) -> ExpectedFigure | None:
        """Expected figure on the target, if known."""
        return self.description.expected.get(self.target)


def model_card(content: CardContent) -> str:
    """The card as Markdown, with YAML front matter."""
    sections: Sequence[tuple[str, Iterator[str]]] = (
        ("What it is for", _purpose(content)),
        ("Use", _use(content)),
        ("Data", _data(content)),
        ("Preprocessing", _preprocessing(content)),
        ("How good it is", _performance(content)),
        ("Probabilities and decisions", _decisions(content)),
        ("Known weaknesses", _weaknesses(content)),
        ("Repeat the training", _repetition(content)),
        ("CLAIM 2024", _claim(content)),
        ("Origin of the weights", _origin(content)),
    )
    parts = [_front_matter(content), f"# hydrakit model for {_text(content.target)}"]
    for title, lines in sections:
        parts.append("\n".join([f"## {title}", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _front_matter(content: CardContent) -> str:
    """YAML, of which each value is JSON: every YAML reader reads it."""
    fields: dict[str, Any] = {
        "license": content.licence,
        "library_name": "hydrakit",
        "tags": ["hydrakit", "medical-imaging", "radiology", content.head.task],
        "datasets": sorted({*content.cards, *content.heads}),
        "metrics": ["r_squared"] if content.head.task == "regression" else ["roc_auc", "accuracy"],
        "model-index": [_index(content)],
    }
    if content.head.task != "regression":
        fields["pipeline_tag"] = "image-classification"
    lines = (f"{name}: {json.dumps(value)}" for name, value in fields.items() if value != [None])
    return "\n".join(["---", *lines, "---"])


def _index(content: CardContent) -> dict[str, Any] | None:
    """Expected figure as the Hub lists results of models; None if nothing is known."""
    figure = content.expected
    if figure is None:
        return None
    kind = {"AUC": "roc_auc", "R2": "r_squared"}.get(figure.metric, "accuracy")
    regression = content.head.task == "regression"
    return {
        "name": f"hydrakit-{content.target}",
        "results": [
            {
                "task": {"type": "image-regression" if regression else "image-classification"},
                "dataset": {"name": content.target, "type": content.target},
                "metrics": [{"type": kind, "value": round(figure.value, 4), "name": figure.metric}],
            }
        ],
    }


def _text(value: object) -> str:
    """Text of others, in which no character has a meaning in Markdown or HTML."""
    line = html.escape(one_line(str(value)), quote=False)
    for mark in "\\`*_[]|#":
        line = line.replace(mark, f"\\{mark}")
    return line


def _classes(head: HeadMetadata) -> str:
    names = ", ".join(map(_text, head.classes))
    return {
        "classification": f"the classes {names}",
        "multilabel": f"the labels {names}, of which an image may have several or none",
        "regression": f"the number {names}",
    }[head.task]


def _purpose(content: CardContent) -> Iterator[str]:
    card = content.cards.get(content.target)
    about = f" ({_text(card.summary)})" if card else ""
    networks = content.description.networks
    many = f" The predictions of {networks} networks are averaged." if networks > 1 else ""
    yield (
        f"It predicts {_classes(content.head)} for images as those of the dataset "
        f"{_text(content.target)}{about}. {WAYS[content.description.made_by]}{many}"
    )
    others = [name for name in content.heads if name != content.target]
    if others:
        yield ""
        yield f"It also has heads for: {', '.join(map(_text, others))}."
    yield ""
    yield (
        "**For research only.** It is not a medical device, no authority has approved it, and no "
        "decision about a patient may rest on it. It is not for images of other scanners, "
        "protocols, body regions or patients than those of its data, unless you have evaluated it "
        "on them."
    )


def _use(content: CardContent) -> Iterator[str]:
    yield "```sh"
    built = {content.body.plugin, *(each.plugin for each in content.heads.values())} - {None}
    plugins = sorted("==".join(str(each).rsplit(" ", 1)) for each in built)
    yield command_line("pip", "install", "hydrakit-imaging", *plugins)
    chosen = ("--dataset", content.target) if len(content.heads) > 1 else ()
    yield command_line(
        "hydrakit", "predict", "FOLDER", "IMAGES", "--out", "predictions.csv", *chosen
    )
    yield "```"
    yield ""
    yield "```python"
    yield "import hydrakit"
    yield ""
    named = f', dataset="{content.target}"' if len(content.heads) > 1 else ""
    yield f'model = hydrakit.load_model("FOLDER"{named})'
    yield 'print(model.predict(["image.png"]))'
    yield "```"


def _data(content: CardContent) -> Iterator[str]:
    yield "| Dataset | Patients | Labelled cases | By class | Licence | Citation |"
    yield "|---|---|---|---|---|---|"
    names = list(dict.fromkeys([content.target, *content.cards, *content.body.trained_on]))
    for name in names:
        card = content.cards.get(name)
        if card is None:
            yield f"| {_text(name)} | {UNKNOWN} | | | | |"
            continue
        cases = ", ".join(f"{split} {card.cases[split]}" for split in SPLITS if split in card.cases)
        classes = ", ".join(f"{_text(each)} {count}" for each, count in card.classes.items())
        yield (
            f"| {_text(name)}: {_text(card.summary)} | {card.patients} | {cases} | {classes} | "
            f"{_text(card.licence)} | {_text(card.citation)} |"
        )
    yield ""
    yield (
        "This folder holds no image and no identifier of a patient. The weight files hold digests "
        "of the images of the training, by which hydrakit recognises them in other data."
    )
    if content.licence == "other":
        yield ""
        yield (
            "Nobody has chosen a licence for the weights. Mind the licences of the data before you "
            "pass them on."
        )


def _preprocessing(content: CardContent) -> Iterator[str]:
    yield "hydrakit does this by itself, from what the head's file says:"
    for name, head in content.heads.items():
        yield ""
        yield f"Images of {_text(name)}:"
        yield ""
        for place, step in enumerate(preprocessing_steps(head.preprocessing), start=1):
            yield f"{place}. {step}"
        if head.views is not None:
            yield (
                f"\nThe predictions of {head.views.count} views of each image are averaged: the "
                f"first {head.views.count} of the image, its mirror images, and turned, moved or "
                "scaled ones."
            )


def _performance(content: CardContent) -> Iterator[str]:
    results, figure = content.results, content.expected
    if results is not None and results.test is not None:
        facts = content.facts.get(content.target)
        yield from _test_result(results.test, results.baseline, facts)
    elif figure is not None:
        ends = f", 95 % interval {interval(figure.low, figure.high)}" if figure.low else ""
        findings = f" ({count_of(figure.findings, 'finding')})" if figure.findings else ""
        yield (
            f"Expected {figure.metric} on new cases of {_text(content.target)}: "
            f"{number(figure.value)}{ends}{findings}. {_text(figure.reason)}"
        )
    else:
        yield "Nothing is known: evaluate it before you rely on it."
    others = {n: f for n, f in content.description.expected.items() if n != content.target}
    for name, each in others.items():
        yield ""
        yield f"{_text(name)}: {each.metric} {number(each.value)}, from {_text(each.reason)}"


def _test_result(
    test: TestResult, baseline: Baseline | None, facts: DataFacts | None
) -> Iterator[str]:
    """The test result in words, with intervals, subgroups and the baseline."""
    if not test.classes:
        yield (
            f"On the test split of {_text(test.dataset)} ({count_of(test.findings, 'finding')}): "
            f"mean absolute error {number(test.figures.mae)}, R2 {number(test.figures.r2)}."
        )
    for area in test.classes:
        yield (
            f"* AUC {number(area.auc)} for {_text(area.class_name)} on the test split of "
            f"{_text(test.dataset)}, 95 % interval {interval(area.low, area.high)} "
            f"({area.positives} positive, {area.negatives} negative findings). "
            f"{interpretation(area)}"
        )
    if baseline is not None:
        yield ""
        yield _text(baseline_text(baseline, test))
    if facts is not None:
        yield ""
        yield from (f"* {_text(line)}" for line in caveats(test, facts))
    if test.subgroups:
        yield ""
        yield "| Subgroup | Class | Positive | Negative | AUC | 95 % interval |"
        yield "|---|---|---|---|---|---|"
        yield from map(_subgroup_row, test.subgroups)


def _subgroup_row(group: Subgroup) -> str:
    auc = "too few" if group.auc is None else number(group.auc)
    return (
        f"| {_text(group.name)} {_text(group.value)} | {_text(group.class_name)} | "
        f"{group.positives} | {group.negatives} | {auc} | {interval(group.low, group.high)} |"
    )


def _decisions(content: CardContent) -> Iterator[str]:
    for name, head in content.heads.items():
        decision = head.decision
        if head.task != "classification":
            yield f"* {_text(name)}: no calibration, since it is a {head.task}."
            continue
        if decision is None or decision.networks != content.description.networks:
            yield f"* {_text(name)}: probabilities are as the network gives them, not calibrated."
            continue
        source = {"validation": "the validation split", "out-of-fold": "all folds, out of fold"}
        rule = decision.calibration
        words = "not calibrated" if rule is None else f"calibrated ({rule.method})"
        line = f"* {_text(name)}: {words} on {source[decision.source]}."
        limit = decision.threshold
        if limit is not None:
            line += (
                f" A case counts as {_text(head.classes[1])} from a probability of "
                f"{limit.value:.3g} on, chosen for a {limit.aim} of {limit.wished:g}: sensitivity "
                f"{limit.sensitivity:.3f} and specificity {limit.specificity:.3f} there."
            )
        yield " ".join([line, *map(_text, decision.notes)])


def _weaknesses(content: CardContent) -> Iterator[str]:
    found = [f"* {line}" for line in _found_weaknesses(content)]
    found += [f"* {_text(note)}." for note in content.notes]
    found += [f"* {_text(note)}" for note in content.description.notes]
    if content.facts:
        yield from found or ["None of those that hydrakit looks for."]
    else:
        yield from found
        yield ""
        yield "Not known: the folder that was exported does not hold the checks of the data."


def _found_weaknesses(content: CardContent) -> Iterator[str]:
    for name, facts in content.facts.items():
        label = _text(name)
        strong = [each for each in facts.shortcuts if each.strong]
        for each in strong:
            yield (
                f"{label}: a property of the files alone, {_text(each.fact)}, predicts "
                f"{_text(each.class_name)} with AUC {number(each.auc)} "
                f"({interval(each.low, each.high)}). The network may use it in place of the lesion."
            )
        patients = sum(facts.patients.values())
        if patients < FEW_PATIENTS:
            yield f"{label}: few patients ({patients})."
        if facts.copies:
            yield f"{label}: {facts.copies} cases are copies of images of another patient."
        if facts.conflicting:
            yield (
                f"{label}: {len(facts.conflicting)} cases show an image that another case shows "
                "with another label."
            )
        if facts.excluded:
            yield f"{label}: {sum(facts.excluded.values())} cases have no usable image."
    test = content.results.test if content.results is not None else None
    if test is not None and test.findings < FEW_FINDINGS:
        yield f"Few test findings ({test.findings}): the interval of the figure is wide."
    others = [n for n, head in content.heads.items() if head.body != content.body.digest]
    if others:
        yield (
            f"Trained on another body than this one, and not evaluated on it: the heads of "
            f"{', '.join(map(_text, others))}."
        )


def _repetition(content: CardContent) -> Iterator[str]:
    if not content.has_plan:
        yield "The folder has no plan: the model was made of several runs."
        return
    yield "```sh"
    yield "hydrakit run --plan training-plan.json --data DATA --out RUN"
    yield "```"
    yield ""
    yield (
        "DATA holds a folder for each dataset. The same versions on the same kind of device give "
        "the same weights."
    )
    if content.plan is not None and content.plan.body_weights is not None:
        yield ""
        yield (
            "The body began with given weights, whose file is not in this folder (SHA-256 "
            f"{content.plan.body_weights.sha256})."
        )


def _origin(content: CardContent) -> Iterator[str]:
    for name, version in content.versions.items():
        yield f"* {name} {_text(version)}"
    yield f"* Body (SHA-256 of its tensors): {content.body.digest}"
    for name, head in content.heads.items():
        yield f"* Head of {_text(name)}: {head.digest}"
    if content.body.plan is not None:
        yield f"* Plan: {content.body.plan}"
    for name, digest in content.body.data.items():
        yield f"* Data of {_text(name)}: {digest}"
    for ancestor in content.body.lineage:
        plan = f", plan {ancestor.plan}" if ancestor.plan else ""
        data = f", data of {', '.join(map(_text, ancestor.data))}" if ancestor.data else ""
        yield f"* Before: body {ancestor.body}{plan}{data}"


def _claim(content: CardContent) -> Iterator[str]:
    yield (
        "The items of the Checklist for Artificial Intelligence in Medical Imaging (Tejani et al., "
        "Radiology: Artificial Intelligence 2024; 6(4): e240300) that the run can answer."
    )
    yield ""
    yield from checklist(dict(_claim_answers(content)))


def _claim_answers(content: CardContent) -> Iterator[tuple[int, str]]:
    cards, plan, head = content.cards, content.plan, content.head
    test = content.results.test if content.results is not None else None
    if cards:
        sources = (f"{_text(name)}: {_text(card.citation)}" for name, card in cards.items())
        yield 7, "; ".join(sources)
    yield 9, "See Preprocessing."
    if content.facts:
        yield 12, _missing(content.facts)
        yield 35, "; ".join(_included(name, each) for name, each in content.facts.items())
    copies = "" if plan is None or plan.copies == "report" else ", and all copies of an image,"
    yield 20, f"Patients: all cases of a patient{copies} are in one split."
    if plan is not None:
        shares = ", ".join(
            f"{name} {share:g}"
            for name in SPLITS
            for share in [getattr(plan.dataset(content.target).split, name)]
            if share
        )
        left_out = plan.dataset(content.target).split.left_out
        if left_out is not None:
            shares += f", test: {left_out}, which training leaves out"
        yield 10, _selection(plan)
        yield (
            19,
            (
                f"At random by patient, stratified by class: {shares} (seed "
                f"{plan.effective_split_seed})."
            ),
        )
        start = f"Random; the best of {plan.bootstrap} on validation."
        yield 24, start if plan.body_weights is None else "Given weights."
        training = f"{len(plan.rounds)} rounds (strategy {plan.strategy}, profile {plan.profile})"
        yield 25, f"{training}; all numbers are in training-plan.json."
        yield 26, "The epoch of each round by its validation split; the body after the last round."
    body = content.body.spec
    yield (
        22,
        (
            f"Body {body.name} of {body.features} features, head {_text(head.factory)}, patches of "
            f"{head.preprocessing.patch} pixels; config.json."
        ),
    )
    if content.versions:
        yield 23, ", ".join(f"{name} {_text(each)}" for name, each in content.versions.items())
    networks, views = content.description.networks, 1 if head.views is None else head.views.count
    yield 27, f"{count_of(networks, 'network')}, {count_of(views, 'view')} of each image averaged."
    yield from _claim_results(content, test)
    if list(_found_weaknesses(content)):
        yield 40, "See Known weaknesses."
    yield 41, "Research only; see What it is for."
    if content.has_plan:
        yield 42, "training-plan.json and config.json."
    yield 43, f"Software: hydrakit (MIT). Weights: this folder, licence {_text(content.licence)}."


def _claim_results(content: CardContent, test: TestResult | None) -> Iterator[tuple[int, str]]:
    if test is None and content.expected is None:
        return
    regression = content.head.task == "regression"
    yield 28, "Mean absolute error, R2." if regression else "AUC."
    if test is not None and test.classes:
        yield 29, f"{test.level * 100:g} % confidence intervals ({test.method})."
    if test is not None:
        yield 32, f"On the test split: {count_of(test.findings, 'finding')}."
        if test.subgroups:
            yield 30, "Subgroups; see How good it is."
    yield 37, "See How good it is."
    if content.head.decision is not None and content.head.decision.threshold is not None:
        yield 38, "Sensitivity and specificity at the threshold; see Probabilities and decisions."


def _selection(plan: Plan) -> str:
    parts = {each.name: each.split.used for each in plan.datasets if each.split.used < 1}
    if not parts:
        return "None: all labelled cases are used."
    return "; ".join(f"{_text(name)}: {100 * share:g} % used" for name, share in parts.items())


def _missing(facts: Mapping[str, DataFacts]) -> str:
    return "; ".join(
        f"{_text(name)}: {each.unlabelled} cases without a label and "
        f"{sum(each.excluded.values())} without a usable image are left out{_unknown(each)}"
        for name, each in facts.items()
    )


def _unknown(facts: DataFacts) -> str:
    counted = sum(map(Counter, facts.unknown.values()), Counter[str]())
    return "".join(f", {_text(name)} is unknown for {n}" for name, n in counted.items())


def _included(name: str, facts: DataFacts) -> str:
    cases = sum(facts.cases.values()) or sum(sum(each.values()) for each in facts.counts.values())
    left_out = facts.dropped + facts.withheld + facts.unused + sum(facts.excluded.values())
    patients = sum(facts.patients.values())
    return f"{_text(name)}: {patients} patients, {cases} cases included, {left_out} excluded"
