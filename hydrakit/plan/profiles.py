"""Profiles (complete sets of training values), and `make_plan`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from hydrakit.errors import PlanError, unknown
from hydrakit.hooks import (
    BodyFactory,
    DatasetAdapter,
    HeadFactory,
    OptionValue,
    SequenceStrategy,
    Settings,
)
from hydrakit.plan.edit import edit_plan
from hydrakit.plan.model import PAPER as PAPER_BODY
from hydrakit.plan.model import BodySpec, Component, Dataset, OtherBody, Plan, Split
from hydrakit.plan.settings import PlanSettings, ProfileName, make_settings
from hydrakit.plugins.options import resolve_options
from hydrakit.plugins.registry import Plugins, load_plugins
from hydrakit.rounds import Hyperparameters, Round, RoundPosition, Train, Transforms
from hydrakit.schema import first_fault

TARGET_SPLIT = Split(train=8, val=1, test=1)
SUPPORT_SPLIT = Split(train=9, val=1)

DEFAULT_HEAD = "mlp"

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A complete set of training values.

    Attributes:
        name: Value of ``--profile``.
        summary: One line that says what it is for.
        bootstrap: Number of random starts.
        body: Kind of body.
        body_options: Options of the body that differ from its own defaults.
        head_kind: Kind of head.
        head_options: Options of the head that differ from its own defaults.
        ensemble: Number of networks whose predictions are averaged.
        test_views: Number of views of each case whose predictions are averaged.
        recentre: Whether heads are fitted to the final body at the end of a run.
        all: Hyperparameters of rounds that train the body.
        head: Other values for rounds that train only the head.
        positions: Other values by what a round trains and by its position among such rounds.
        strategies: Other values by strategy, then as in ``positions``.
    """

    name: ProfileName
    summary: str
    bootstrap: int
    body: str = PAPER_BODY
    body_options: Mapping[str, OptionValue] = field(default_factory=dict)
    head_kind: str = DEFAULT_HEAD
    head_options: Mapping[str, OptionValue] = field(default_factory=dict)
    ensemble: int = 1
    test_views: int = 1
    recentre: bool = False
    all: Hyperparameters
    head: Values
    positions: Mapping[tuple[Train, RoundPosition], Values] = field(default_factory=dict)
    strategies: Mapping[str, Mapping[tuple[Train, RoundPosition], Values]] = field(
        default_factory=dict
    )

    def same_values(self, other: Profile) -> bool:
        """Whether another profile gives the same plans, apart from its name."""
        return replace(self, name=other.name, summary=other.summary) == other

    def hyperparameters(
        self, train: Train, position: RoundPosition, *, strategy: str, head: str, changes: Values
    ) -> Hyperparameters:
        """Hyperparameters of a round; the user's changes take precedence.

        Solver and penalty of the profile are for its kind of head: another one is trained in steps.
        """
        if train != "head":
            train = "all"
        values = self.all.model_dump()
        values |= self.head if train == "head" else {}
        values |= self.positions.get((train, position), {})
        values |= self.strategies.get(strategy, {}).get((train, position), {})
        values |= {} if head == self.head_kind else {"solver": "steps", "penalty": None}
        return Hyperparameters.model_validate(values | dict(changes))


RECOMMENDED_0_1 = Profile(
    name="recommended-0.1",
    summary="as `recommended` was in version 0.1",
    bootstrap=8,
    all=Hyperparameters(
        learning_rate=3e-4,
        dropout=0.1,
        batch_size=16,
        epochs=30,
        epoch_size=256,  # so that a support of thousands of patches does not dominate the training
        patience=8,
        weight_decay=1e-4,
    ),
    head={"learning_rate": 1e-3, "epochs": 100, "patience": 20},
)

RECOMMENDED = Profile(
    name="recommended",
    summary="trains well on a few hundred real images in minutes (docs/design.md says how chosen)",
    bootstrap=1,
    body="small",
    body_options={"intensities": True},
    head_kind="blend",
    ensemble=3,
    test_views=2,
    recentre=True,
    all=Hyperparameters(
        learning_rate=1e-3,
        dropout=0.15,
        batch_size=32,
        epochs=40,
        epoch_size=256,  # so that a support of thousands of patches does not dominate the training
        fill_epochs=True,  # nor a set of a hundred get too few steps
        patience=None,
        weight_decay=1e-2,
        label_smoothing=0.1,
        transforms=Transforms(rotation=20, shift=(2, 2), scale=0.1, intensity=0.1),
        schedule="cosine",
        warmup=0.1,
        select="averaged",
        window=5,
        refresh_statistics=True,  # for bodies with batch norm; `small` has group norm
        penalty=0.3,
    ),
    head={"epochs": 10},
    positions={("all", "middle"): {"epochs": 10}, ("all", "last"): {"epochs": 20}},
)

# Table I of the paper is for four datasets with the target first and last. Other lists of datasets
# use the values of the rounds in the same positions.
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
_LAST_TRANSFER: Mapping[tuple[Train, RoundPosition], Values] = {
    ("all", "last"): {"learning_rate": 1e-8, "dropout": 0.0}
}
_TRANSFER = {"transfer": _LAST_TRANSFER, "transfer-long": _LAST_TRANSFER}

PAPER = Profile(
    name="paper",
    summary="Table I of the paper: Adam, batch 128, 2,000 epochs, rates 1e-5 to 1e-9, 200 starts",
    bootstrap=200,
    all=_PAPER,
    head={},
    positions=_TABLE_I,
    strategies=_TRANSFER,
)

AUTHORS = Profile(
    name="authors",
    summary="as `paper`, with details of the authors' code that the paper does not mention",
    bootstrap=200,
    all=_PAPER.model_copy(
        update={"loss": "softmax-cross-entropy", "schedule": "authors", "select": "authors"}
    ),
    # 20200229_DS2Frozen_B_1e-7_0.3_noreducelr_2000
    head={"feature_dropout": True},
    positions={
        **_TABLE_I,
        ("all", "first"): {**_TABLE_I["all", "first"], "carry_head": "last"},
        ("head", "first"): {**_TABLE_I["head", "first"], "schedule": "constant"},
    },
    strategies=_TRANSFER,
)

PROFILES: dict[ProfileName, Profile] = {
    profile.name: profile for profile in (RECOMMENDED, RECOMMENDED_0_1, PAPER, AUTHORS)
}


def make_plan(
    strategy: str,
    datasets: Sequence[str],
    settings: PlanSettings | None = None,
    *,
    plugins: Plugins | None = None,
    **values: Any,
) -> Plan:
    """Make the plan of a strategy for some datasets.

    Example: ``make_plan("hydra", ["brain", "prostatex"], seed=1, epochs=3)``.

    Args:
        strategy: Name of a strategy (``hydrakit plugins list`` lists them).
        datasets: Names of datasets in order; the last is the target. A name may occur again.
        settings: Everything else that determines a plan; None uses all defaults.
        plugins: Loaded plugins; None loads the installed ones. `RunContext.plugins` also has the
            datasets that a ``dataset.toml`` declares.
        values: Fields of `PlanSettings`, which replace those of ``settings``.

    Raises:
        PluginError: A strategy, dataset, head or body is unknown.
        PlanError: A setting or option is unknown, or a value is invalid.
    """
    chosen = _with_components_of_profile(make_settings(settings, values))
    profile = PROFILES[chosen.profile]
    plugins = plugins or load_plugins()
    if not datasets:
        raise PlanError("no dataset is named: `--datasets prostatex,brain` names two")
    sequence = plugins.get(SequenceStrategy, strategy)
    chosen = _with_components_of(sequence, chosen, plugins)
    adapters = {name: plugins.get(DatasetAdapter, name) for name in datasets}
    for given in (chosen.options, chosen.splits, chosen.heads):
        for name in given:
            if name not in adapters:
                raise PlanError(f"{unknown('dataset', name, adapters)} (it is not in this run)")
    resolved = {
        name: resolve_options(adapter, chosen.options.get(name, {}))
        for name, adapter in adapters.items()
    }
    try:
        round_settings = _round_settings(strategy, chosen)
        planned = sequence.plan(list(datasets), round_settings)
        if profile.recentre if chosen.recentre is None else chosen.recentre:
            planned = [*planned, *_recentring(planned, datasets[-1], round_settings)]
        rounds = tuple(_without_smoothed_numbers(round, adapters) for round in planned)
        used = {name for round in rounds for name in round.datasets}
        head, heads = _heads(chosen, adapters, plugins)
        plan = Plan(
            strategy=strategy,
            profile=chosen.profile,
            target=datasets[-1],
            datasets=tuple(
                Dataset(
                    name=name,
                    options=resolved[name],
                    split=_split(name, chosen, target=datasets[-1]),
                    flips=adapter.flips,
                )
                for name, adapter in adapters.items()
                if chosen.whole or name in used
            ),
            copies=chosen.copies,
            conflicts=chosen.conflicts,
            strangers=chosen.strangers,
            head=head,
            heads=heads,
            body=_body(chosen, plugins),
            body_weights=chosen.body_weights,
            ensemble=1 if sequence.baseline else chosen.ensemble or profile.ensemble,
            test_views=1 if sequence.baseline else profile.test_views,
            bootstrap=_bootstrap(sequence, chosen),
            bootstrap_rule=chosen.bootstrap_rule,
            seed=chosen.seed,
            split_seed=chosen.split_seed,
            rounds=rounds,
        )
    except ValidationError as error:
        raise PlanError(first_fault(error)) from None
    return complete_options(edit_plan(plan, chosen.changes), plugins) if chosen.changes else plan


def _with_components_of_profile(settings: PlanSettings) -> PlanSettings:
    """Settings with the profile's body and head where the user chose none.

    Another body or head than the profile's has its own default options. The profile's head is for
    the profile's body, whose features it may need; another body has the head ``mlp``.
    """
    profile = PROFILES[settings.profile]
    # Options that only the paper's body has choose it.
    of_paper = {"channels": settings.body_channels, "norm": settings.body_norm}
    given = {name for name, value in of_paper.items() if value is not None}
    body = settings.body or (PAPER_BODY if given else profile.body)
    head = settings.head or (profile.head_kind if body == profile.body else DEFAULT_HEAD)
    body_options = {} if body != profile.body else dict(profile.body_options)
    head_options = {} if head != profile.head_kind else dict(profile.head_options)
    for name in given:
        body_options.pop(name, None)
    return settings.model_copy(
        update={
            "body": body,
            "body_options": body_options | settings.body_options,
            "head": head,
            "head_options": head_options | settings.head_options,
        }
    )


def _with_components_of(
    sequence: SequenceStrategy, settings: PlanSettings, plugins: Plugins
) -> PlanSettings:
    """Settings with the body and the head of a strategy in place of the user's.

    Options of another body or head that the user chose do not apply to them, except for the patch.
    """
    given: dict[str, Any] = {}
    if sequence.body not in (None, settings.body):
        patch = _body(settings, plugins).patch
        given |= {"body": sequence.body, "body_options": {"patch": patch}}
        given |= {"body_channels": None, "body_norm": None, "body_weights": None}
    if sequence.head not in (None, settings.head) or (sequence.head and settings.heads):
        given |= {"head": sequence.head, "heads": {}, "head_options": {}}
    return settings.model_copy(update=given)


def _bootstrap(sequence: SequenceStrategy, settings: PlanSettings) -> int:
    """Number of random starts; that of a baseline is its own, since it trains no start."""
    if sequence.baseline and sequence.bootstrap is not None:
        return sequence.bootstrap
    return settings.bootstrap or sequence.bootstrap or PROFILES[settings.profile].bootstrap


def complete_options(plan: Plan, plugins: Plugins) -> Plan:
    """Check the components of an edited plan, and add the options that it does not list.

    Raises:
        PluginError: A dataset, head or body is unknown.
        PlanError: A component has no such option, or does not allow its value.
    """
    datasets = tuple(
        each.model_copy(
            update={
                "options": resolve_options(plugins.get(DatasetAdapter, each.name), each.options)
            }
        )
        for each in plan.datasets
    )
    changed = {
        "datasets": datasets,
        "head": _head(plan.head.name, plan.head.options, plugins),
        "heads": {
            name: _head(each.name, each.options, plugins) for name, each in plan.heads.items()
        },
    }
    factory = plugins.get(BodyFactory, plan.body.name)
    if isinstance(plan.body, OtherBody):
        options = resolve_options(factory, plan.body.options)
        changed["body"] = plan.body.model_copy(update={"options": options})
    try:
        return Plan.model_validate({**dict(plan), **changed})
    except ValidationError as error:
        raise PlanError(first_fault(error)) from None


def _head(name: str, options: Mapping[str, OptionValue], plugins: Plugins) -> Component:
    return Component.of(plugins.get(HeadFactory, name), options)


def _round_settings(strategy: str, settings: PlanSettings) -> Settings:
    """The hyperparameters that a strategy gets for its rounds."""
    profile, changes = PROFILES[settings.profile], settings.hyperparameters()
    head = settings.head or profile.head_kind

    def hyperparameters(train: Train, position: RoundPosition) -> Hyperparameters:
        return profile.hyperparameters(
            train, position, strategy=strategy, head=head, changes=changes
        )

    return Settings(hyperparameters)


def _recentring(rounds: Sequence[Round], target: str, settings: Settings) -> Iterator[Round]:
    """Head rounds that fit heads to the final body, if it has changed since their last round.

    The target's comes first. A head that several datasets share serves all of them as it is.
    """
    datasets: dict[str, set[str]] = {}
    changed: dict[str, bool] = {}  # whether the body has changed since the head's last round
    for round in rounds:
        changed = dict.fromkeys(changed, True) if round.trains_body else changed
        for head, name in zip(round.heads, round.datasets, strict=True):
            datasets.setdefault(head, set()).add(name)
            changed[head] = False
    own = {head: name for head, (name, *others) in datasets.items() if not others}
    for head in sorted(own, key=lambda head: own[head] != target):
        if changed[head]:
            values = settings.hyperparameters("head", "last")
            yield Round(dataset=own[head], train="head", head=head, hyperparameters=values)


def _without_smoothed_numbers(round: Round, adapters: Mapping[str, DatasetAdapter]) -> Round:
    """The round, without the profile's label smoothing if all its labels are numbers."""
    settings = round.hyperparameters
    tasks = {adapters[name].task for name in round.datasets if name in adapters}
    if not settings.label_smoothing or tasks != {"regression"}:
        return round
    settings = settings.model_copy(update={"label_smoothing": 0.0})
    return round.model_copy(update={"hyperparameters": settings})


def _split(name: str, settings: PlanSettings, *, target: str) -> Split:
    split = settings.splits.get(name, TARGET_SPLIT if name == target else SUPPORT_SPLIT)
    if name != target or settings.target_share == 1:
        return split
    return Split.model_validate({**split.model_dump(), "used": settings.target_share})


def _heads(
    settings: PlanSettings, datasets: Collection[str], plugins: Plugins
) -> tuple[Component, dict[str, Component]]:
    """The head of all datasets, and the different heads of some of them."""
    own: dict[str, dict[str, OptionValue]] = {name: {} for name in settings.heads}
    common: dict[str, OptionValue] = {}
    for key, value in settings.head_options.items():
        dataset, dot, option = key.rpartition(".")
        if not dot:
            common[option] = value
        elif dataset in datasets:
            own.setdefault(dataset, {})[option] = value
        else:
            raise PlanError(f"{unknown('dataset', dataset, datasets)} (it is not in this run)")
    kind_of_all = settings.head or DEFAULT_HEAD
    kinds = {name: settings.heads.get(name, kind_of_all) for name in own}
    for name, kind in kinds.items():
        if kind == kind_of_all:  # the common options are its defaults
            own[name] = {**common, **own[name]}
    heads = {name: _head(kind, own[name], plugins) for name, kind in kinds.items()}
    return _head(kind_of_all, common, plugins), heads


def _body(settings: PlanSettings, plugins: Plugins) -> BodySpec | OtherBody:
    body, options = settings.body or PAPER_BODY, settings.body_options
    # By the options --body-channels and --body-norm, which only the paper's body has.
    values = {"channels": settings.body_channels, "norm": settings.body_norm}
    given = {name: value for name, value in values.items() if value is not None}
    factory = plugins.get(BodyFactory, body)
    if body != PAPER_BODY:
        for name in given:
            raise PlanError(
                f"--body-{name} is an option of the body {PAPER_BODY!r}: for {body!r}, use "
                "`--body-option`"
            )
        resolved = resolve_options(factory, options)
        return OtherBody.model_validate({"name": body, "options": resolved})
    for name in given.keys() & options.keys():
        raise PlanError(f"the body option {name} is given twice: leave out --body-{name}")
    return BodySpec.model_validate(resolve_options(factory, {**options, **given}))
