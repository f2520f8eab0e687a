"""Settings of `make_plan`, which are also the options of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from hydrakit.errors import PlanError, unknown
from hydrakit.plan.edit import parse_value
from hydrakit.plan.model import (
    MAX_ENSEMBLE,
    BodySpec,
    BootstrapRule,
    Conflicts,
    Copies,
    NormKind,
    Split,
)
from hydrakit.plan.start import StartWeights
from hydrakit.plugins.options import option_text
from hydrakit.rounds import (
    MAX_EPOCH_SIZE,
    MAX_EPOCHS,
    Epochs,
    Hyperparameters,
    Probability,
    Select,
)
from hydrakit.schema import Count, Frozen, OptionText, Seed, first_fault

ProfileName = Literal["recommended", "recommended-0.1", "paper", "authors"]


def _help_default(text: str) -> dict[str, JsonValue]:
    """Schema entry with the default in the help text of a field with the default None."""
    return {"help_default": text}


def _of_rounds(name: str, *, zero: str = "", default: str = "") -> Any:
    """A field that replaces a hyperparameter of the profile in every round.

    Args:
        name: Name of the hyperparameter, which also gives the help text.
        zero: Meaning of 0, if 0 stands for None.
        default: Default in the help text.
    """
    help_text = (Hyperparameters.model_fields[name].description or "").split("\n\n")[0]
    return Field(
        default=None,
        description=f"{help_text.removesuffix('.')}; 0: {zero}." if zero else help_text,
        json_schema_extra=_help_default(default) if default else None,
    )


class PlanSettings(Frozen):
    """Everything that determines a plan, except for its strategy and its datasets.

    If a field has a command-line option, the first paragraph below the field is its help text.
    Hyperparameters replace those of the profile in every round; None keeps the profile's.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    options: dict[str, dict[str, OptionText | int | float | bool]] = Field(default_factory=dict)
    """Option of a dataset (`hydrakit datasets info NAME` lists them); may be given several times.

    The values are grouped by dataset.
    """

    splits: dict[str, Split] = Field(
        default_factory=dict,
        json_schema_extra=_help_default("8-1-1 for the target, 9-1 for the others"),
    )
    """Shares of the training, validation and test splits of a dataset."""

    copies: Copies = "group"
    """Copies of an image: put all of them in one split, keep only the copies of one patient, or
    only report them.
    """

    conflicts: Conflicts = "error"
    """Copies of an image that have different labels: refuse the data, keep them, or drop all of
    them.
    """

    strangers: bool = False
    """Patients of the same name in datasets without a common cohort are different people; without
    this option, such datasets are refused.
    """

    profile: ProfileName = "recommended"
    """Complete set of training values; the options below replace some of them in every round."""

    seed: Seed = 0
    """Seed of all random numbers."""

    split_seed: Seed | None = None
    """Seed of the splits, to keep them while ``seed`` changes; None uses ``seed``."""

    whole: bool = False
    """List every dataset in the plan, also those that no round uses.

    Copies of images in an unused dataset then affect the splits of the others, so that plans of
    different strategies have the same splits.
    """

    target_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the target's patients outside the test split to use; the test split stays whole."""

    epochs: Epochs | None = _of_rounds("epochs")
    epoch_size: Annotated[int, Field(ge=0, le=MAX_EPOCH_SIZE)] | None = _of_rounds(
        "epoch_size", zero="all"
    )
    patience: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] | None = _of_rounds(
        "patience", zero="never"
    )
    batch_size: Count | None = _of_rounds("batch_size")
    learning_rate: PositiveFloat | None = _of_rounds("learning_rate")
    dropout: Probability | None = _of_rounds("dropout")

    bootstrap: Count | None = None
    """Number of random starts; training begins from the best on the validation split.

    None uses the number of the strategy, or else of the profile.
    """

    bootstrap_rule: BootstrapRule = "all"
    """Evaluate every random start on all validation cases, or drop weak ones early."""

    head: str | None = Field(default=None, json_schema_extra=_help_default("that of the profile"))
    """Kind of head (`hydrakit plugins list` lists them); DATASET=NAME for one dataset; may be given
    several times.

    In Python, ``head`` is the kind for all datasets that ``heads`` does not name; None is the
    profile's.
    """

    heads: dict[str, str] = Field(default_factory=dict)
    """Kinds of head of single datasets, by dataset."""

    head_options: dict[str, OptionText | int | float | bool | tuple[OptionText | int, ...]] = Field(
        default_factory=dict
    )
    """Option of the head, such as hidden=64,16; DATASET.KEY=VALUE for the head of one dataset; may
    be given several times.
    """

    body: str | None = Field(default=None, json_schema_extra=_help_default("that of the profile"))
    """Kind of body (`hydrakit plugins list` lists them).

    None is the profile's, or ``paper`` if ``body_channels`` or ``body_norm`` is given.
    """

    body_options: dict[str, OptionText | int | float | bool | tuple[OptionText | int, ...]] = Field(
        default_factory=dict
    )
    """Option of the body (`hydrakit plugins info NAME` lists them); may be given several times."""

    body_channels: tuple[PositiveInt, ...] | None = Field(
        default=None,
        json_schema_extra=_help_default(",".join(map(str, BodySpec().channels))),
    )
    """Output channels of each block of the body `paper`, which this option chooses."""

    body_norm: NormKind | None = Field(
        default=None, json_schema_extra=_help_default(BodySpec().norm)
    )
    """Normalisation layers of the body `paper`, which this option chooses: batch norm, group norm,
    or batch norm with separate statistics for each dataset.
    """

    ensemble: Annotated[int, Field(gt=0, le=MAX_ENSEMBLE)] | None = Field(
        default=None, json_schema_extra=_help_default("that of the profile")
    )
    """Number of networks to train with different seeds on the same splits; results are of the mean
    of their predictions.
    """

    recentre: bool | None = Field(
        default=None, json_schema_extra=_help_default("that of the profile")
    )
    """At the end, train each head once more on the frozen final body if later rounds have changed
    the body since the head's last round. A head that several datasets share stays as it is.
    """

    body_weights: Annotated[StartWeights | None, BeforeValidator(StartWeights.of)] = None
    """File of weights that the body begins with: safetensors, or a state_dict of PyTorch.

    In Python, the path of the file. Without it, the weights are random.
    """

    select: Select | None = _of_rounds(
        "select", default="authors with `--profile authors`, else best"
    )
    window: Epochs | None = _of_rounds(
        "window", default=str(Hyperparameters.model_fields["window"].default)
    )

    changes: dict[str, Any] = Field(default_factory=dict)
    """Set one value of the finished plan, such as rounds.all.dropout=0.2 (`hydrakit plan --help`
    has more); may be given several times.

    `hydrakit.plan.edit` describes the paths.
    """

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        if self.window is not None and self.select not in ("smoothed", "averaged"):
            raise ValueError(
                "--window is for `--select smoothed` and `--select averaged`: add one of them"
            )
        return self

    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters that replace those of the profile."""
        values = {
            name: getattr(self, name)
            for name in type(self).model_fields.keys() & Hyperparameters.model_fields.keys()
        }
        given = {name: value for name, value in values.items() if value is not None}
        for name in ("patience", "epoch_size"):
            if given.get(name) == 0:
                given[name] = None
        return given


def make_settings(base: PlanSettings | None, values: Mapping[str, Any]) -> PlanSettings:
    """Return settings with some values replaced; a value of None replaces nothing.

    Raises:
        PlanError: A name is unknown, or a value is invalid.
    """
    for name in values:
        if name not in PlanSettings.model_fields:
            raise PlanError(unknown("setting", name, PlanSettings.model_fields))
    given = {name: value for name, value in values.items() if value is not None}
    profile = given.get("profile")
    if isinstance(profile, str) and profile not in get_args(ProfileName):
        raise PlanError(unknown("profile", profile, get_args(ProfileName)))
    before = {} if base is None else {name: getattr(base, name) for name in base.model_fields_set}
    try:
        return PlanSettings.model_validate({**before, **given})
    except ValidationError as error:
        raise PlanError(first_fault(error)) from None


def as_options(settings: Mapping[str, Any]) -> list[str]:
    """The command-line options that give some settings, by name; the reverse of parsing them.

    Args:
        settings: Values of fields of `PlanSettings`, as a comparison stores them: without
            ``splits`` and ``whole``, which are not options of `compare`.
    """
    words: list[str] = []
    for name, value in settings.items():
        if name in _REPEATED_OPTIONS:
            option, pairs = _REPEATED_OPTIONS[name]
            for key, text in pairs(value):
                words += [option, f"{key}={text}"]
        elif name == "body_weights":
            words += ["--body-weights", StartWeights.model_validate(value).file]
        elif isinstance(value, bool):
            words += [f"--{'' if value else 'no-'}{name.replace('_', '-')}"]
        elif value is not None:
            words += [f"--{name.replace('_', '-')}", option_text(value)]
    return words


def _by_name(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, option_text(value)) for key, value in values.items()]


def _by_dataset(values: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(f"{name}.{key}", text) for name, own in values.items() for key, text in _by_name(own)]


def _as_json(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Values of paths: text that would be read as JSON is quoted, so that it stays text."""
    texts = {
        path: value if isinstance(value, str) and parse_value(value) == value else json.dumps(value)
        for path, value in values.items()
    }
    return list(texts.items())


_REPEATED_OPTIONS: Mapping[str, tuple[str, Callable[[Any], list[tuple[str, str]]]]] = {
    "options": ("--option", _by_dataset),
    "heads": ("--head", _by_name),
    "head_options": ("--head-option", _by_name),
    "body_options": ("--body-option", _by_name),
    "changes": ("--set", _as_json),
}
