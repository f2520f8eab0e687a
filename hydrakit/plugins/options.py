"""Options of components: given values are checked, and defaults fill in the rest."""

from __future__ import annotations

from collections.abc import Mapping

from hydrakit.errors import PlanError, unknown
from hydrakit.hooks import DatasetAdapter, Option, OptionValue


def resolve_options(
    adapter: DatasetAdapter, given: Mapping[str, OptionValue]
) -> dict[str, OptionValue]:
    """All of an adapter's options: the given values, checked, and the others' defaults.

    Raises:
        PlanError: An unknown option, or a value that the option does not take.
    """
    known = {option.name: option for option in adapter.options}
    for name in given:
        if name not in known:
            raise PlanError(
                f"{unknown(f'option of {adapter.name!r}', name, known)} "
                f"(see `hydrakit datasets info {adapter.name}`)"
            )
    return {
        name: _parse(adapter, option, given[name]) if name in given else option.default
        for name, option in known.items()
    }


def _parse(adapter: DatasetAdapter, option: Option, value: OptionValue) -> OptionValue:
    where = f"option {adapter.name}.{option.name}={value}"
    kind = type(option.default)
    parsed: OptionValue
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in words:
            raise PlanError(f"{where}: must be true or false")
        parsed = words[str(value).lower()]
    else:
        try:
            parsed = kind(str(value))  # so that 1.5 is no int
        except ValueError:
            raise PlanError(f"{where}: must be of type {kind.__name__}") from None
    if option.choices and parsed not in option.choices:
        raise PlanError(f"{where}: must be one of {', '.join(map(str, option.choices))}")
    return parsed
