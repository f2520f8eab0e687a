"""What the rounds did to one another: heads on later bodies, and how far weights moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydrakit.plan.results import Change, RoundResult, Transfer
from hydrakit.report.charts import HeatMapGrid, heat_map
from hydrakit.report.figure import Figure
from hydrakit.report.levels import val_interval
from hydrakit.report.markup import Html, element, together
from hydrakit.report.svg import Axis, Line, Mark, plot, sample, ticks
from hydrakit.report.tables import ABSENT, number, table
from hydrakit.rounds import Round

KINDS = ("convolutions", "dense", "scales", "statistics")
KIND_WORDS = {
    "convolutions": "convolutions",
    "dense": "dense layer",
    "scales": "normalisation scales",
    "statistics": "normalisation statistics",
}


def matrix_figure(planned: Sequence[Round], rounds: Sequence[RoundResult]) -> Figure | None:
    """The transfer matrix: every head after every round; None where no round tells of it.

    Args:
        planned: The rounds of the plan.
        rounds: Those that are finished.
    """
    told = [each for each in rounds if each.heads]
    heads = list(dict.fromkeys(head for each in told for head in each.heads))
    if not told:
        return None
    values = [
        [each.heads[head].score if head in each.heads else None for head in heads] for each in told
    ]
    known = [value for row in values for value in row if value is not None]
    names = [f"{each.round} {each.dataset} ({each.train})" for each in told]
    trained = frozenset(
        (row, heads.index(name))
        for row, each in enumerate(told)
        for name in planned[each.round - 1].datasets
    )
    low = min(0.5, *known)
    drawing = heat_map(
        HeatMapGrid(rows=names, columns=heads, values=values, low=low, high=1.0, marked=trained),
        name="transfer",
        title="Every head's validation AUC after every round",
        description=" ".join(
            _row_words(name, heads, row) for name, row in zip(names, values, strict=True)
        ),
    )
    return Figure(
        name="transfer",
        caption="Transfer matrix: every head after every round.",
        text="A row is the body after a round; a column is a dataset: its validation split through "
        "the head that learnt it last (AUC; of a number R2). Framed: what the round trained on. "
        "Read a column downwards to see what later rounds gave a head or took from it.",
        drawing=drawing,
        columns=("round", "dataset", "trained", *heads),
        rows=[
            (each.round, each.dataset, each.train, *row)
            for each, row in zip(told, values, strict=True)
        ],
    )


def _row_words(name: str, heads: Sequence[str], row: Sequence[float | None]) -> str:
    cells = (
        f"{head} {number(value)}"
        for head, value in zip(heads, row, strict=True)
        if value is not None
    )
    return f"After round {name}: {', '.join(cells)}."


def transfer_table(
    heads: Sequence[Transfer], counts: Mapping[str, Sequence[int] | None]
) -> Html | None:
    """Forgetting and transfer of each head; None where no round tells of them.

    Args:
        heads: What became of each.
        counts: Validation cases of both classes by dataset; None for other tasks.
    """
    if not heads:
        return None
    headers = (
        *("Head", "First", "Best before", "Last", "95 % interval"),
        *("Forgotten (95 %)", "Backward (95 %)", "Forward (95 %)"),
    )
    rows = [_head_row(each, counts.get(each.dataset)) for each in heads]
    notes = [
        "First: after the round that built the head. Forgotten: best before less last; below 0, "
        "it ended better than ever before. Backward transfer: last less right after the "
        "last round that trained the head: what rounds on other datasets did to it. Forward "
        "transfer: of a head that was trained again, right after that less right after it was "
        "first trained: what the rounds between brought.",
        "All on the validation cases that chose the epochs. Intervals of differences are paired: "
        "of the same cases before and after, with whole patients. One that holds 0 cannot tell. "
        "The best before is the luckiest of several, which makes forgetting look larger.",
    ]
    notes += _reasons(heads)
    return together(
        (
            table("What became of each head", headers, rows),
            element("ul", *(element("li", note) for note in notes)),
        ),
        "\n",
    )


def _head_row(head: Transfer, counts: Sequence[int] | None) -> tuple[object, ...]:
    interval = val_interval(head.last, counts)
    return (
        head.dataset,
        number(head.first),
        number(head.best),
        number(head.last),
        f"{number(interval[0])} to {number(interval[1])}" if interval else ABSENT,
        *(_changed(each) for each in (head.forgotten, head.backward, head.forward)),
    )


def _changed(change: Change | None) -> str:
    if change is None:
        return ABSENT
    if change.low is None or change.high is None:
        return f"{change.difference:+.3f}"
    return f"{change.difference:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def _reasons(heads: Sequence[Transfer]) -> list[str]:
    """Why differences have no interval, once for each reason."""
    found: dict[str, list[str]] = {}
    for each in heads:
        if each.reason is not None:
            found.setdefault(each.reason, []).append(each.dataset)
    return [f"No interval for {', '.join(names)}: {why}." for why, names in found.items()]


def moved_figure(rounds: Sequence[RoundResult]) -> Figure | None:
    """How far each round moved the body's weights; None where no round tells of it."""
    told = [(each, each.moved.model_dump()) for each in rounds if each.moved]
    if not told:
        return None
    lines, marks = [], []
    for place, kind in enumerate(KINDS):
        points = [
            (float(each.round), moved[kind]) for each, moved in told if moved[kind] is not None
        ]
        if not points:
            continue
        style = f"c{place}"
        lines.append(Line(points=points, style=style))
        marks += [
            Mark(
                at=at,
                text=f"round {at[0]:.0f}, {KIND_WORDS[kind]}: {at[1]:.3g}",
                style=style,
                radius=3,
            )
            for at in points
        ]
    highest = max((y for line in lines for _, y in line.points), default=0) or 1.0
    top = ticks(Axis(label="", low=0, high=highest * 1.1))
    drawing = plot(
        name="moved",
        title="How far each round moved the body's weights",
        description=" ".join(f"{mark.text}." for mark in marks),
        x=Axis(label="round", low=0.5, high=rounds[-1].round + 0.5, whole=True),
        y=Axis(label="change / size before", low=0, high=max(highest * 1.05, top[-1])),
        lines=lines,
        marks=marks,
        size=(680, 240),
    )
    return Figure(
        name="moved",
        caption="How far each round moved the body's weights.",
        text="Length of the change over the length before (Euclidean), by kind of weight. A round "
        "that trains a head alone leaves the body as it is: 0."
        + ("" if told[0][0].round == 1 else " The first round starts at random, and has none."),
        drawing=drawing,
        key=[
            (sample(f"c{place}"), KIND_WORDS[kind])
            for place, kind in enumerate(KINDS)
            if any(moved[kind] is not None for _, moved in told)
        ],
        columns=("round", "dataset", "trained", *KINDS),
        rows=[
            (each.round, each.dataset, each.train, *(moved[kind] for kind in KINDS))
            for each, moved in told
        ],
    )
