"""When two names of patients, groups or findings mean the same one."""

from __future__ import annotations

import re
import unicodedata
from typing import Protocol

_SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015]+")
_DECIMAL = re.compile(r"(\d+)(?:\.0+|,0{1,2})")  # "1,000" is a thousand
_ZEROS = re.compile(r"(\D*?)0+(\d+\D*)")  # of names with one number alone, not of hexadecimal ones
# Words that tables and headers hold in place of a name.
_PLACEHOLDERS = frozenset(
    (
        *("na", "n/a", "n.a.", "#n/a", "nan", "nat", "none", "null", "nil", "missing", "undefined"),
        *("unknown", "unnamed", "anonymous", "anon", "anonymized", "anonymised"),
        *("deidentified", "de-identified"),
    )
)


class NamedCase(Protocol):
    """A case with its names: `hydrakit.hooks.Sample` or a prepared case."""

    @property
    def key(self) -> str:
        """Identity of the case."""

    @property
    def patient(self) -> str:
        """Name of its patient."""

    @property
    def named(self) -> bool:
        """Whether the patient's name is known although it equals the key."""


def normal_name(name: str, *, exact: bool = False) -> str:
    """Return the form in which a name is compared: equal forms mean the same patient.

    These make no difference: case, the Unicode form, invisible characters, surrounding blanks, the
    kind and number of separators (blank, ``-``, ``_``), the decimals of a whole number (``3.0``),
    and zeros before the only number of a name (``P007``).

    Args:
        name: Name of a patient, a group or a finding.
        exact: Return the name as it is (`DatasetAdapter.exact_names`).
    """
    if exact:
        return name
    text = name.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = _SEPARATORS.sub("-", text.strip())
    decimal = _DECIMAL.fullmatch(text)
    text = decimal[1] if decimal else text
    zeros = _ZEROS.fullmatch(text)
    return zeros[1] + zeros[2] if zeros else text


def names_nobody(name: str) -> bool:
    """Whether a name is empty, a mark such as ``-``, or a word such as NA, unknown or anonymous."""
    normal = normal_name(name)
    return normal in _PLACEHOLDERS or not any(c.isalnum() for c in normal)


def is_named(case: NamedCase) -> bool:
    """Whether a case gives its patient a name, and not its key in place of one."""
    return case.named or case.patient != case.key


def is_identified(case: NamedCase) -> bool:
    """Whether a case names its patient: a key or a placeholder in place of a name does not."""
    return is_named(case) and not names_nobody(case.patient)


def patient_of(case: NamedCase, *, exact: bool = False) -> str:
    """Return the form in which a case's patient is compared, within its dataset or cohort.

    A key that stands in place of a patient's name is compared as it is.
    """
    return normal_name(case.patient, exact=exact or not is_named(case))
