"""Transfer between rounds: every head after every round, and the change of the body's weights."""

from __future__ import annotations

from collections.abc import Sequence

from hydrakit.plan.results import Change, RoundResult, Transfer
from hydrakit.report.charts import HeatMapGrid, heat_map
from hydrakit.report.figure import Figure
from hydrakit.report.markup import Html, bullet_list, join
from hydrakit.report.rounds import ClassCounts, val_interval
from hydrakit.report.svg import Axis, Line, Mark, legend_sample, plot, ticks
from hydrakit.report.tables import ABSENT, interval, number, table
from hydrakit.rounds import Round

WEIGHT_KINDS = {
    "convolutions": "convolutions",
    "dense": "dense layer",
    "scales": "normalisation scales",
    "statistics": "normalisation statistics",
}


def matrix_figure(planned: Sequence[Round], rounds: Sequence[RoundResult]) -> Figure | None:
    """The transfer matrix: validation score of every head after every round.

    Args:
        planned: Rounds of the plan.
        rounds: Finished rounds.

    Returns:
        The figure; None if no round recorded its heads.
    """
    recorded = [each for each in rounds if each.heads]
    heads = list(dict.fromkeys(head for each in recorded for head in each.heads))
    if not recorded:
        return None
    values = [
        [each.heads[head].score if head in each.heads else None for head in heads]
        for each in recorded
    ]
    names = [f"{each.round} {each.dataset} ({each.train})" for each in recorded]
    trained = frozenset(
        (row, heads.index(name))
        for row, each in enumerate(recorded)
        for name in planned[each.round - 1].datasets
    )
    low = min(0.5, *(value for row in values for value in row if value is not None))
    return Figure(
        name="transfer",
        caption="Transfer matrix: validation score of every head after every round.",
        text="Each row is the body after a round. Each column is the validation split of a "
        "dataset, evaluated with its most recently trained head (AUC; R2 for regression). Frame: "
        "datasets trained in that round. Read a column from top to bottom to see how later rounds "
        "improved or degraded a head.",
        drawing=heat_map(
            HeatMapGrid(
                rows=names, columns=heads, values=values, low=low, high=1.0, framed=trained
            ),
            name="transfer",
            title="Validation score of every head after every round",
            description=" ".join(
                _row_description(name, heads, row) for name, row in zip(names, values, strict=True)
            ),
        ),
        columns=("round", "dataset", "trained", *heads),
        rows=[
            (each.round, each.dataset, each.train, *row)
            for each, row in zip(recorded, values, strict=True)
        ],
    )


def _row_description(name: str, heads: Sequence[str], row: Sequence[float | None]) -> str:
    cells = (
        f"{head} {number(value)}"
        for head, value in zip(heads, row, strict=True)
        if value is not None
    )
    return f"After round {name}: {', '.join(cells)}."


def transfer_table(heads: Sequence[Transfer], counts: ClassCounts) -> Html | None:
    """Forgetting and transfer of each head; None if no round recorded its heads.

    Args:
        heads: Scores and changes of each head.
        counts: Validation findings of both classes by dataset; None for other tasks.
    """
    if not heads:
        return None
    headers = (
        *("Head", "First", "Earlier best", "Last", "95 % CI"),
        *("Forgetting", "Backward transfer", "Forward transfer"),
    )
    notes = [
        "First, last: score after the round that created the head, and after the last round. "
        "Earlier best: highest score before the last round. Forgetting: earlier best minus last; a "
        "negative value means that the head ended better than ever before. Backward transfer: last "
        "minus the score after the last round that trained the head, the effect of later rounds on "
        "other datasets. Forward transfer, of a head that was trained again: score after its last "
        "training minus score after its first, the effect of the rounds in between.",
        "All scores are measured on the validation cases that selected the epochs. In parentheses: "
        "95 % confidence intervals of the differences, paired (same cases before and after) and by "
        "patient. An interval that contains 0 is inconclusive. The earlier best is "
        "the maximum of several scores, which makes forgetting look larger.",
    ]
    reasons: dict[str, list[str]] = {}
    for each in heads:
        if each.reason is not None:
            reasons.setdefault(each.reason, []).append(each.dataset)
    notes += [
        f"No confidence interval for {', '.join(names)}: {reason}."
        for reason, names in reasons.items()
    ]
    rows = [_head_row(each, counts.get(each.dataset)) for each in heads]
    return join(
        (table("Forgetting and transfer of each head", headers, rows), bullet_list(notes)), "\n"
    )


def _head_row(head: Transfer, counts: Sequence[int] | None) -> tuple[object, ...]:
    return (
        head.dataset,
        number(head.first),
        number(head.best),
        number(head.last),
        interval(*(val_interval(head.last, counts) or (None, None))),
        *(_change(each) for each in (head.forgotten, head.backward, head.forward)),
    )


def _change(change: Change | None) -> str:
    if change is None:
        return ABSENT
    if change.low is None or change.high is None:
        return f"{change.difference:+.3f}"
    return f"{change.difference:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def weight_change_figure(rounds: Sequence[RoundResult]) -> Figure | None:
    """Relative change of the body's weights in each round; None if no round recorded it."""
    recorded = [(each, each.moved.model_dump()) for each in rounds if each.moved]
    if not recorded:
        return None
    lines, marks, key = [], [], []
    for index, (kind, label) in enumerate(WEIGHT_KINDS.items()):
        points = [
            (float(each.round), moved[kind]) for each, moved in recorded if moved[kind] is not None
        ]
        if not points:
            continue
        style = f"c{index}"
        key.append((legend_sample(style), label))
        lines.append(Line(points=points, style=style))
        marks += [
            Mark(at=at, text=f"round {at[0]:.0f}, {label}: {at[1]:.3g}", style=style, radius=3)
            for at in points
        ]
    highest = max((y for line in lines for _, y in line.points), default=0) or 1.0
    top = ticks(Axis(label="", low=0, high=highest * 1.1))
    text = (
        "Euclidean norm of the change divided by the norm before the round, by kind of weight. A "
        "round that trains only a head does not change the body (0)."
    )
    if recorded[0][0].round != 1:
        text += " The first round starts from random weights and has no value."
    return Figure(
        name="moved",
        caption="Relative change of the body's weights in each round.",
        text=text,
        drawing=plot(
            name="moved",
            title="Relative change of the body's weights in each round",
            description=" ".join(f"{mark.text}." for mark in marks),
            x=Axis(label="round", low=0.5, high=rounds[-1].round + 0.5, whole=True),
            y=Axis(label="relative change", low=0, high=max(highest * 1.05, top[-1])),
            lines=lines,
            marks=marks,
            size=(680, 240),
        ),
        key=key,
        columns=("round", "dataset", "trained", *WEIGHT_KINDS),
        rows=[
            (each.round, each.dataset, each.train, *(moved[kind] for kind in WEIGHT_KINDS))
            for each, moved in recorded
        ],
    )
