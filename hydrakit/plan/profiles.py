"""Profiles: complete sets of values for a run; and the plan that a strategy makes with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from hydrakit.errors import PlanError, unknown
from hydrakit.hooks import DatasetAdapter, HeadFactory, OptionValue, SequenceStrategy, Settings
from hydrakit.plan.model import BodySpec, BootstrapRule, Copies, Dataset, NormKind, Plan, Split
from hydrakit.plugins.registry import Plugins, load_plugins
from hydrakit.rounds import Hyperparameters, RoundPosition, Select, Train
from hydrakit.schema import first_fault

TARGET_SPLIT = Split(train=8, val=1, test=1)
SUPPORT_SPLIT = Split(train=9, val=1)

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A complete set of values.

    Attributes:
        name: As given to ``--profile``.
        summary: One line.
        bootstrap: Number of random starts.
        all: Hyperparameters of rounds that train body and head.
        head: What differs in rounds that train the head alone.
        places: What differs further, by what a round trains and its place among its kind.
        strategies: What differs further, by strategy.
    """

    name: str
    summary: str
    bootstrap: int
    all: Hyperparameters
    head: Values
    places: Mapping[tuple[Train, RoundPosition], Values] = field(default_factory=dict)
    strategies: Mapping[str, Mapping[tuple[Train, RoundPosition], Values]] = field(
        default_factory=dict
    )

    def hyperparameters(
        self, train: Train, place: RoundPosition, *, strategy: str, changes: Values
    ) -> Hyperparameters:
        """Those of a round, with the user's changes last."""
        if train != "head":
            train = "all"
        values = self.all.model_dump()
        values |= self.head if train == "head" else {}
        values |= self.places.get((train, place), {})
        values |= self.strategies.get(strategy, {}).get((train, place), {})
        return Hyperparameters.model_validate(values | dict(changes))


RECOMMENDED = Profile(
    name="recommended",
    summary="trains well on a few hundred real images in minutes (docs/design.md says how chosen)",
    bootstrap=8,
    all=Hyperparameters(
        learning_rate=3e-4,
        dropout=0.1,
        batch_size=16,
        epochs=30,
        epoch_size=256,  # a support of thousands would take all the time, and the body with it
        patience=8,
        weight_decay=1e-4,
    ),
    head={"learning_rate": 1e-3, "epochs": 100, "patience": 20},
)

# Table I of the paper, for four datasets with the target first and last; other lists take the
# values of the rounds in the same places.
_TABLE_I: Mapping[tuple[Train, RoundPosition], Values] = {
    ("all", "first"): {"learning_rate": 1e-8, "dropout": 0.4},
    ("all", "middle"): {"learning_rate": 1e-8, "dropout": 0.3},
    ("all", "last"): {"learning_rate": 1e-9, "dropout": 0.0},
    ("head", "first"): {"learning_rate": 1e-7, "dropout": 0.3},
    ("head", "middle"): {"learning_rate": 1e-5, "dropout": 0.3},
    ("head", "last"): {"learning_rate": 1e-5, "dropout": 0.3},
}
_PAPER = Hyperparameters(
    learning_rate=1e-8,
    dropout=0.3,
    batch_size=128,
    epochs=2000,
    patience=None,
    augmentation="fixed",
    views=40,
)
# The authors' last transfer round ran at 1e-8 (their run 20200513_P_1e-8_0.0_2000).
_TRANSFER: Mapping[str, Mapping[tuple[Train, RoundPosition], Values]] = {
    "transfer": {("all", "last"): {"learning_rate": 1e-8, "dropout": 0.0}}
}

PAPER = Profile(
    name="paper",
    summary="Table I of the paper: Adam, batch 128, 2,000 epochs, rates 1e-5 to 1e-9, 200 starts",
    bootstrap=200,
    all=_PAPER,
    head={},
    places=_TABLE_I,
    strategies=_TRANSFER,
)

AUTHORS = Profile(
    name="authors",
    summary="as `paper`, with the habits of the authors' code that the paper does not tell",
    bootstrap=200,
    all=_PAPER.model_copy(
        update={"loss": "softmax-cross-entropy", "schedule": "authors", "select": "authors"}
    ),
    # 20200229_DS2Frozen_B_1e-7_0.3_noreducelr_2000
    head={"feature_dropout": True},
    places={
        **_TABLE_I,
        ("all", "first"): {**_TABLE_I["all", "first"], "carry_head": "last"},
        ("head", "first"): {**_TABLE_I["head", "first"], "schedule": "constant"},
    },
    strategies=_TRANSFER,
)

PROFILES = {profile.name: profile for profile in (RECOMMENDED, PAPER, AUTHORS)}


def make_plan(
    strategy: str,
    datasets: Sequence[str],
    *,
    profile: str = "recommended",
    head: str = "mlp",
    seed: int = 0,
    split_seed: int | None = None,
    whole: bool = False,
    options: Mapping[str, Mapping[str, OptionValue]] | None = None,
    splits: Mapping[str, Split] | None = None,
    copies: Copies = "group",
    conflicts: Literal["error", "keep"] = "error",
    target_share: float = 1.0,
    bootstrap: int | None = None,
    bootstrap_rule: BootstrapRule = "all",
    body_channels: Sequence[int] | None = None,
    body_norm: NormKind = "batch",
    epochs: int | None = None,
    epoch_size: int | None = None,
    patience: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    dropout: float | None = None,
    select: Select | None = None,
    window: int | None = None,
    plugins: Plugins | None = None,
) -> Plan:
    """The plan that a strategy makes for a list of datasets, of which the last is the target.

    Args:
        strategy: Name of a strategy, as in `hydrakit plugins list`.
        datasets: Names of datasets, in order; a name may come again.
        profile: Whose values to begin with: ``recommended``, ``paper`` or ``authors``.
        head: Name of a head factory.
        seed: Of everything random.
        split_seed: Of the splits alone, where they are to stay while ``seed`` changes.
        whole: List every dataset, also those that no round uses: a copy in one of them decides
            the splits of another, so that strategies then share their splits.
        options: Options of adapters, by dataset.
        splits: Shares other than 8-1-1 for the target and 9-1 for the others, by dataset.
        copies: What becomes of copies: ``group``, ``drop`` or ``report``.
        conflicts: Whether copies with different labels are an ``error`` or are to ``keep``.
        target_share: Of the target's cases outside the test split, the share that is used.
        bootstrap: Number of random starts, in place of the profile's.
        bootstrap_rule: Whether all of them are looked at on all cases; see `Plan`.
        body_channels: Channels of the body's blocks, in place of 32, 64, 128.
        body_norm: ``batch`` norm, ``group`` norm, or batch norm with statistics of each
            ``dataset``.
        epochs: In place of the profile's, in every round; all below likewise.
        epoch_size: At most about so many patches an epoch; 0 for all.
        patience: Epochs without a better one; 0 for no early stopping.
        batch_size: Patches per update.
        learning_rate: Of Adam.
        dropout: Probability.
        select: Which weights a round ends with, by `Hyperparameters.select`.
        window: Number of epochs that ``smoothed`` and ``averaged`` look at.
        plugins: As loaded; None loads them.

    Raises:
        PluginError: Unknown strategy, dataset or head.
        PlanError: Unknown profile, option or impossible value.
    """
    from hydrakit.plugins.options import resolve_options

    plugins = plugins or load_plugins()
    if profile not in PROFILES:
        raise PlanError(unknown("profile", profile, PROFILES))
    if not datasets:
        raise PlanError("no dataset is named: `--datasets prostatex,brain` names two")
    lister = plugins.get(SequenceStrategy, strategy)
    plugins.get(HeadFactory, head)
    adapters = {name: plugins.get(DatasetAdapter, name) for name in datasets}
    target = datasets[-1]
    options, splits = options or {}, splits or {}
    for given in (options, splits):
        for name in given:
            if name not in adapters:
                raise PlanError(f"{unknown('dataset', name, adapters)} (it is not in this run)")
    resolved = {
        name: resolve_options(adapter, options.get(name, {})) for name, adapter in adapters.items()
    }
    if window is not None and select not in ("smoothed", "averaged"):
        raise PlanError("--window is for `--select smoothed` and `--select averaged`: name one")
    changes = _changes(
        epochs=epochs,
        epoch_size=epoch_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        dropout=dropout,
        patience=patience,
        select=select,
        window=window,
    )
    base = PROFILES[profile]

    def hyperparameters(train: Train, place: RoundPosition) -> Hyperparameters:
        try:
            return base.hyperparameters(train, place, strategy=strategy, changes=changes)
        except ValidationError as error:  # of the user's changes: the strategy is not at fault
            raise PlanError(first_fault(error)) from None

    def split_of(name: str) -> Split:
        split = splits.get(name, TARGET_SPLIT if name == target else SUPPORT_SPLIT)
        if name != target or target_share == 1:
            return split
        return Split.model_validate({**split.model_dump(), "used": target_share})

    channels = BodySpec().channels if body_channels is None else tuple(body_channels)
    try:
        rounds = tuple(lister.plan(list(datasets), Settings(hyperparameters)))
        used = {round.dataset for round in rounds}
        return Plan(
            strategy=strategy,
            profile=profile,
            target=target,
            datasets=tuple(
                Dataset(
                    name=name,
                    options=resolved[name],
                    split=split_of(name),
                )
                for name in adapters
                if whole or name in used
            ),
            copies=copies,
            conflicts=conflicts,
            head=head,
            body=BodySpec(channels=channels, norm=body_norm),
            bootstrap=(lister.bootstrap or base.bootstrap) if bootstrap is None else bootstrap,
            bootstrap_rule=bootstrap_rule,
            seed=seed,
            split_seed=split_seed,
            rounds=rounds,
        )
    except ValidationError as error:
        raise PlanError(first_fault(error)) from None


def _changes(**given: Any) -> dict[str, Any]:
    changes = {name: value for name, value in given.items() if value is not None}
    for name in ("patience", "epoch_size"):
        if changes.get(name) == 0:
            changes[name] = None
    return changes
