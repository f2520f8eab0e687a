"""Properties that a component must have, each a name and a function that checks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from hydrakit.errors import HydrakitError, one_line
from hydrakit.plugins.guard import describe_error

Subject = TypeVar("Subject")


class PropertySkipped(Exception):
    """A property cannot be checked here; the message says why, such as "no data"."""


@dataclass(frozen=True)
class Property(Generic[Subject]):
    """A property of a component.

    Attributes:
        name: A few words, such as "two readings give the same cases".
        check: Function that gets the component, with whatever else the check needs. It returns a
            note for the list, such as "3 cases", or an empty text. It raises AssertionError with
            one line that says what is wrong and what to do, or `PropertySkipped`.
    """

    name: str
    check: Callable[[Subject], str]


@dataclass(frozen=True, kw_only=True)
class CheckedProperty:
    """Result of checking one property.

    Attributes:
        of: What was checked, such as "head 'mlp'".
        name: Name of the property.
        fault: One line that says what is wrong; None if the component has the property.
        note: What the check counted or measured, or why it was skipped; may be empty.
        skipped: Whether it could not be checked.
    """

    of: str
    name: str
    fault: str | None = None
    note: str = ""
    skipped: bool = False


def check_properties(
    of: str, subject: Subject, properties: Iterable[Property[Subject]]
) -> Iterator[CheckedProperty]:
    """Check one property after the other; a failed one does not end the list.

    Args:
        of: What is checked, for the list.
        subject: What the checks get.
        properties: The properties.
    """
    for each in properties:
        try:
            note = each.check(subject)
        except PropertySkipped as reason:
            yield CheckedProperty(of=of, name=each.name, note=str(reason), skipped=True)
        except (AssertionError, HydrakitError) as error:
            yield CheckedProperty(of=of, name=each.name, fault=one_line(str(error)))
        except SystemExit as error:
            yield CheckedProperty(of=of, name=each.name, fault=describe_exit(error))
        except Exception as error:
            yield CheckedProperty(of=of, name=each.name, fault=describe_error(error))
        else:
            yield CheckedProperty(of=of, name=each.name, note=note)


def describe_exit(error: SystemExit) -> str:
    """The fault of a component that calls ``sys.exit``, on one line."""
    return f"raised {describe_error(error)}: only commands may end the process"


def require(checked: Iterable[CheckedProperty]) -> list[CheckedProperty]:
    """Return what was checked.

    Raises:
        AssertionError: A property is missing; the message has one line for each fault.
    """
    results = list(checked)
    faults = [f"{each.of}: {each.name}: {each.fault}" for each in results if each.fault]
    if faults:
        raise AssertionError("\n".join(faults))
    return results
