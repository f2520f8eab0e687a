"""The tables of the report: rounds, and data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Dataset, Plan
from hydrakit.plan.results import DataFacts, RoundResult
from hydrakit.report.levels import val_interval
from hydrakit.report.markup import Html, element, together
from hydrakit.rounds import Round

Counts = Mapping[str, Sequence[int] | None]
"""Validation findings of both classes by dataset; None for tasks that do not have two."""

ABSENT = "–"
SPLITS = ("train", "val", "test")
ROUND_HEADERS = (
    "Round",
    "Dataset",
    "Trained",
    "Head",
    "Learning rate",
    "Dropout",
    "Best epoch",
    "Val. loss",
    "Val. AUC",
    "95 % interval",
    "Val. accuracy",
    "Reference AUC",
    "Seconds",
)


def number(value: float | None) -> str:
    """A figure such as an AUC, to three places; a dash where there is none."""
    return ABSENT if value is None else f"{value:.3f}"


def seconds(value: float) -> str:
    """A duration in seconds, without places that mean nothing."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def table(
    caption: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    words: Sequence[int] = (),
    footer: Sequence[object] | None = None,
) -> Html:
    """A table that scrolls sideways where the screen is narrow.

    Args:
        caption: What it shows.
        headers: Of the columns.
        rows: Cells; each row's first names the row.
        words: Columns, from 0, that hold words rather than numbers.
        footer: A last row, such as a total.
    """

    def row_of(cells: Sequence[object], first: str, others: str) -> Html:
        """A row; ``first`` and ``others`` are the scopes of its cells, "" for plain cells."""
        drawn = []
        for column, cell in enumerate(cells):
            scope = others if column else first
            kind = "words" if column == 0 or column in words else None
            drawn.append(element("th" if scope else "td", cell, scope=scope or None, class_=kind))
        return element("tr", *drawn)

    parts = [
        element("caption", caption),
        element("thead", row_of(headers, "col", "col")),
        element("tbody", together((row_of(row, "row", "") for row in rows), "\n")),
        element("tfoot", row_of(footer, "row", "")) if footer else None,
    ]
    return element(
        "div",
        element("table", *parts),
        class_="scroll",
        role="region",
        tabindex=0,
        aria_label=caption,
    )


def facts_list(facts: Iterable[tuple[str, object]]) -> Html:
    """Names and what is to be said of each; those without a value are left out."""
    pairs = [
        (element("dt", name), element("dd", value)) for name, value in facts if value is not None
    ]
    return element("dl", *(part for pair in pairs for part in pair))


def rounds_table(plan: Plan, rounds: Sequence[RoundResult], counts: Counts) -> Html:
    """The rounds, as in Table I of the paper, and what must be known to read them.

    Args:
        plan: Of the run.
        rounds: Those that are finished, in order.
        counts: For the intervals.
    """
    total = seconds(sum(round.seconds for round in rounds))
    rows = [
        _round_row(result, plan.rounds[result.round - 1], counts.get(result.dataset))
        for result in rounds
    ]
    rows += [
        _coming_row(number, plan.rounds[number - 1], under_way=number == len(rounds) + 1)
        for number in range(len(rounds) + 1, len(plan.rounds) + 1)
    ]
    drawn = table(
        "Table I. Rounds in the order of training",
        ROUND_HEADERS,
        rows,
        words=(1, 2, 3),
        footer=("Total", *[""] * (len(ROUND_HEADERS) - 2), total),
    )
    notes = (element("li", note) for note in _round_notes(plan, rounds) if note)
    return together((drawn, element("ul", *notes)), "\n")


TRAINED = {
    "head": "“head” leaves the body as it is",
    "all": "“all” trains body and head",
    "norm": "“norm” trains the head, and of the body the normalisation alone",
    "none": "“none” trains nothing and looks at the network as it is",
}


def _round_notes(plan: Plan, rounds: Sequence[RoundResult]) -> Iterator[str | None]:
    kinds = dict.fromkeys(("head", "all", *(round.train for round in plan.rounds)))
    yield f"Trained: {'; '.join(TRAINED[kind] for kind in kinds)}."
    yield (
        "Validation figures (val.) are of the round's own dataset, in the best epoch, on the very "
        "cases that chose that epoch: they flatter. They count every image; the interval "
        "(Newcombe) is about the number of findings alone."
    )
    if not rounds:
        return
    if any(round.reference_auc is not None for round in rounds):
        yield (
            "Reference AUC: what the first round's head makes of the validation split of "
            f"{plan.target} on the body after this round. It falls where the body moves away "
            "from what that head reads."
        )
    else:
        yield (
            "Reference AUC: none here. It takes a first round on the target, and later rounds to "
            "follow its head through."
        )
    yield _bootstrap_note(rounds[0])
    if any(round.hyperparameters.carry_head == "last" for round in plan.rounds):
        yield (
            "Body and figures are the best epoch's. Where the plan says so (carry_head), the head "
            "that goes on to later rounds is the last epoch's, as the authors did."
        )
    select = dict.fromkeys(round.hyperparameters.select for round in plan.rounds)
    if list(select) != ["best"]:
        yield f"Which epoch a round ends with (select): {', '.join(select)}."


def _round_row(
    round: RoundResult, planned: Round, counts: Sequence[int] | None
) -> tuple[object, ...]:
    interval = val_interval(round.val.auc, counts)
    return (
        round.round,
        " + ".join(planned.datasets),
        round.train,
        " + ".join(planned.heads),
        f"{round.learning_rate:g}",
        f"{round.dropout:g}",
        f"{round.best_epoch} of {round.epochs}" if round.epochs else ABSENT,
        number(round.val.loss),
        number(round.val.auc),
        f"{number(interval[0])} to {number(interval[1])}" if interval else ABSENT,
        number(round.val.accuracy),
        number(round.reference_auc),
        seconds(round.seconds),
    )


def _coming_row(place: int, planned: Round, *, under_way: bool) -> tuple[object, ...]:
    """A round that is not finished."""
    settings = planned.hyperparameters
    return (
        place,
        " + ".join(planned.datasets),
        planned.train,
        " + ".join(planned.heads),
        f"{settings.learning_rate:g}",
        f"{settings.dropout:g}",
        "under way" if under_way else "to come",
        *[ABSENT] * 6,
    )


def _bootstrap_note(first: RoundResult) -> str | None:
    """Which random start the run began with."""
    if first.bootstrap is None or len(first.bootstrap.val_auc) == 1:
        return None
    aucs = [auc for auc in first.bootstrap.val_auc if auc is not None]
    dropped = len(first.bootstrap.val_auc) - len(aucs)
    early = f" ({dropped} were dropped on a part of the validation cases)" if dropped else ""
    return (
        f"The run began with the best of {len(first.bootstrap.val_auc)} random starts{early}: "
        f"untrained, their validation "
        f"AUCs on {first.dataset} ran from {number(min(aucs))} to {number(max(aucs))}."
    )


def data_section(
    plan: Plan, name: str, *, facts: DataFacts, adapter: DatasetAdapter | None
) -> Html:
    """What one dataset gave: counts, exclusions, options, and where it is from."""
    role = " (target)" if name == plan.target else ""
    dataset = plan.dataset(name)
    said = facts_list(
        [
            ("About", adapter.summary if adapter else None),
            ("Excluded", _excluded(facts)),
            ("Copies", _copies(plan, facts)),
            ("Withheld", _withheld(plan, facts)),
            ("Unused", f"{facts.unused} cases, as the plan says" if facts.unused else None),
            ("Shortcuts", _shortcuts(facts)),
            ("Without a label", f"{facts.unlabelled}, not used" if facts.unlabelled else None),
            ("Split", _shares(dataset)),
            ("Options", _options(dataset)),
            ("Channels", facts.channels),
            ("Cite as", adapter.citation if adapter else None),
            ("Licence", adapter.licence if adapter else None),
        ]
    )
    counted = _counts_table(name, facts, classes=adapter.classes if adapter else ())
    return together((element("h3", name, role), counted, said), "\n")


def _counts_table(name: str, facts: DataFacts, *, classes: tuple[str, ...]) -> Html:
    found = {label for counts in facts.counts.values() for label in counts}
    known = classes if found <= set(classes) else tuple(sorted(found))
    alike = facts.findings == facts.counts
    rows = []
    for split in sorted(facts.counts, key=_split_order):
        counts = [facts.counts[split].get(label, 0) for label in known]
        findings = sum(facts.findings.get(split, {}).values())
        more = () if alike else (findings,)
        rows.append((split, *counts, sum(counts), *more, facts.patients.get(split, 0)))
    total = [sum(column) for column in zip(*(counts for _, *counts in rows), strict=True)]
    return table(
        f"Cases of {name} by split and class",
        ("Split", *known, "All cases", *(() if alike else ("Findings",)), "Patients"),
        rows,
        footer=("Total", *total),
    )


def _split_order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def _excluded(facts: DataFacts) -> Html | str:
    if not facts.excluded:
        return "none"
    reasons = sorted(facts.excluded.items(), key=lambda item: (-item[1], item[0]))
    items = (element("li", f"{count}: {reason}") for reason, count in reasons)
    return element("ul", *items)


def _copies(plan: Plan, facts: DataFacts) -> str:
    """How many cases are copies, and what became of them."""
    if not facts.copies:
        return "none found"
    done = {
        "group": "copies of one image are in one split",
        "drop": f"{facts.dropped} of them left out, so that one patient's are left of each image",
        "report": "left as they are, so copies of one image can be in several splits",
    }
    words = f"{facts.copies} cases are copies of another patient's; {done[plan.copies]}"
    return words + ("; copies with different labels are kept" * (plan.conflicts == "keep"))


def _withheld(plan: Plan, facts: DataFacts) -> str | None:
    if not facts.withheld:
        return None
    return f"{facts.withheld} cases that the test split of {plan.target} has a patient or copy of"


def _shortcuts(facts: DataFacts) -> Html | str:
    """The facts that tell the class strongly, the strongest first."""
    strong = [each for each in facts.shortcuts if each.strong]
    if not strong:
        return "no fact of the files alone tells the class strongly"
    items = (
        element(
            "li",
            f"Warning: {each.fact} alone tells {each.class_name}, AUC {number(each.auc)} "
            f"({number(each.low)} to {number(each.high)})",
        )
        for each in strong
    )
    return element("ul", *items)


def _shares(dataset: Dataset) -> str:
    shares = [(split, getattr(dataset.split, split)) for split in SPLITS]
    words = ", ".join(f"{split} {share:g}" for split, share in shares if share)
    fold = dataset.split.fold
    if fold is not None:
        words += f", test: fold {fold.index} of 0 to {fold.count - 1}"
    if dataset.split.used < 1:
        words += f"; {100 * dataset.split.used:g} % of training and validation used"
    return f"{words}; a patient's cases stay together"


def _options(dataset: Dataset) -> str:
    options = (f"{key}={value}" for key, value in sorted(dataset.options.items()))
    return ", ".join(options) or "none"
