"""Checks of what users read about a component: its summary and the help of its options."""

from __future__ import annotations

from hydrakit.hooks import Factory, NamedComponent
from hydrakit.plugins.options import option_fields, parse_options
from hydrakit.testing.properties import Property

LONGEST_SUMMARY = 120  # characters: it is one line of a list


def _has_a_summary(component: NamedComponent) -> str:
    summary = component.summary
    assert isinstance(summary, str) and summary.strip(), (
        "its summary is empty: say in one line what it is"
    )
    assert summary.isprintable(), "its summary has several lines: lists show one"
    assert len(summary) <= LONGEST_SUMMARY, (
        f"its summary has {len(summary)} characters: at most {LONGEST_SUMMARY} fit in a list"
    )
    return ""


def _describes_options(component: Factory) -> str:
    options = option_fields(component.options)
    for each in options:
        assert each.help.strip(), (
            f"its option {each.name!r} has no help: "
            'write field(default=..., metadata={"help": "..."})'
        )
    parse_options(component, {each.name: each.default for each in options})
    return ", ".join(each.name for each in options)


SUMMARY_PROPERTIES = (Property("its summary is one line", _has_a_summary),)
"""Properties of every component but commands."""

OPTION_PROPERTIES = (
    Property("its options have help texts, and their defaults are valid", _describes_options),
)
"""Properties of every component that has options."""
