"""Datasets of a plan: adapters, folders and prepared patches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from hydrakit.data.channels import ChannelFit, ImageChannels, fit_channels, note_of
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.prepared.prepare import already_prepared, prepare
from hydrakit.data.read import check_root, image_channels
from hydrakit.errors import PlanError
from hydrakit.hooks import BodyFactory, DatasetAdapter, OptionValue
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.weights.format import Preprocessing


@dataclass(frozen=True)
class PlanDatasets:
    """Datasets of a plan.

    Attributes:
        adapters: Adapters, by name of the dataset.
        roots: Folders with the files of the datasets, by name.
        prepared: Prepared patches, by name; empty before `prepare_datasets`.
        plugins: Plugins that offer the bodies.
        images: Channels of the images, by name; empty before `prepare_datasets`.
        channels: Number of channels that the body takes; 0 before `prepare_datasets`.
        fits: What becomes of the images of datasets with another number (`fit_channels`), by name.
    """

    adapters: Mapping[str, DatasetAdapter]
    roots: Mapping[str, Path]
    prepared: Mapping[str, PreparedDataset]
    plugins: Plugins
    images: Mapping[str, ImageChannels] = field(default_factory=dict)
    channels: int = 0
    fits: Mapping[str, ChannelFit] = field(default_factory=dict)

    def allowed(self, plan: Plan) -> tuple[int, ...] | None:
        """Numbers of channels that the body of a plan takes; None for any."""
        if plan.body_weights is not None and plan.body_weights.channels is not None:
            return (plan.body_weights.channels,)
        return self.plugins.get(BodyFactory, plan.body.name).needs.channels

    def fitted_to(self, plan: Plan) -> PlanDatasets:
        """The same datasets for a plan: other rounds may need another body.

        Raises:
            DataError: The rule of a dataset for its channels is impossible.
            PlanError: A round cannot train the stem that a dataset needs.
        """
        channels, fits = fit_channels(
            self.images,
            {name: adapter.channels for name, adapter in self.adapters.items()},
            trained={name for round in plan.rounds for name in round.datasets},
            allowed=self.allowed(plan),
        )
        _refuse_exact_behind_stem(plan, fits)
        repeat = {name: fit.repeat for name, fit in fits.items()}
        prepared = {
            name: replace(each, repeat=repeat.get(name, 1)) for name, each in self.prepared.items()
        }
        return replace(self, prepared=prepared, channels=channels, fits=fits)


def find_datasets(plan: Plan, context: RunContext, plugins: Plugins) -> PlanDatasets:
    """Look up the datasets of a plan, and check that their folders exist, before reading any.

    The adapters have the values that the plan replaces.

    Raises:
        PluginError: No plugin offers one of them.
        DataError: A folder is missing.
    """
    adapters = {
        dataset.name: dataset.applied_to(plugins.get(DatasetAdapter, dataset.name))
        for dataset in plan.datasets
    }
    roots = {name: context.root_of(name) for name in adapters}
    for name, adapter in adapters.items():
        check_root(adapter, roots[name])
    return PlanDatasets(adapters, roots, {}, plugins)


def prepare_datasets(
    plan: Plan, datasets: PlanDatasets, callbacks: RunCallback, *, others: Iterable[Plan] = ()
) -> PlanDatasets:
    """Prepare the datasets of a plan, in the cache of the active context.

    If there are several, or one has a rule for its channels, the first image of each is read first.
    What is impossible is refused, and callbacks get a note of what becomes of the channels, before
    anything is prepared.

    Args:
        plan: The plan.
        datasets: Its datasets, from `find_datasets`.
        callbacks: Callbacks for the events of the preparation.
        others: Further plans that will train these datasets.

    Raises:
        DataError: A dataset cannot be used.
        PlanError: A round cannot train the stem that a dataset needs.
    """
    adapters, prepared = datasets.adapters, dict[str, PreparedDataset]()

    def prepare_one(name: str, adapter: DatasetAdapter) -> PreparedDataset:
        return prepare(
            adapter,
            datasets.roots[name],
            options=plan.dataset(name).options,
            patch=plan.patch,
            on_case=partial(callbacks.preparing, name),
        )

    plans = [plan, *others]
    free = all(datasets.allowed(each) is None for each in plans)
    if free and len(adapters) == 1 and all(each.channels is None for each in adapters.values()):
        prepared = {name: prepare_one(name, adapter) for name, adapter in adapters.items()}
    images = _look(plan, datasets, prepared, prepare_one, free=free)
    datasets = replace(datasets, images=images)
    fitted = datasets.fitted_to(plan)
    fits = [datasets.fitted_to(each).fits for each in plans]
    for name, fit in dict.fromkeys(pair for each in fits for pair in each.items()):
        if fit.images != fit.body:
            callbacks.noted(note_of(name, fit, stacked=images[name].stacked))
    for name, adapter in adapters.items():
        grey = name in fitted.fits and fitted.fits[name].rule == "grey"
        if name not in prepared or (grey and adapter.channels is None):
            chosen = replace(adapter, channels="grey") if grey else adapter
            prepared[name] = prepare_one(name, chosen)
    return replace(datasets, prepared=prepared).fitted_to(plan)


def prepare_as_trained(
    adapter: DatasetAdapter,
    root: Path,
    preprocessing: Preprocessing,
    *,
    options: Mapping[str, OptionValue],
    patch: int,
) -> PreparedDataset:
    """Prepare images as those that a head was trained on, whatever rule the adapter has now.

    Args:
        adapter: Adapter of the dataset.
        root: Folder of the dataset.
        preprocessing: Preprocessing of the head.
        options: Options of the adapter, as given by the user.
        patch: Side of the network's patches in pixels.

    Raises:
        DataError: The dataset cannot be used.
    """
    grey = preprocessing.conversion == "grey"
    adapter = replace(adapter, channels="grey" if grey else None)
    prepared = prepare(adapter, root, options=options, patch=patch)
    repeats = preprocessing.conversion == "repeat" and prepared.index.channels == 1
    return replace(prepared, repeat=preprocessing.channels if repeats else 1)


def _look(
    plan: Plan,
    datasets: PlanDatasets,
    prepared: dict[str, PreparedDataset],
    prepare_one: Callable[[str, DatasetAdapter], PreparedDataset],
    *,
    free: bool,
) -> dict[str, ImageChannels]:
    """Channels of the images of each dataset, from what is prepared or from one image.

    What was prepared before is added to ``prepared``. ``free`` says whether the body takes any
    number of channels.
    """

    def look(name: str) -> ImageChannels:
        adapter, root = datasets.adapters[name], datasets.roots[name]
        channels = image_channels(adapter, root, plan.dataset(name).options)
        if channels is None:  # then preparation explains why no case can be used
            prepared[name] = prepare_one(name, adapter)
            channels = ImageChannels(prepared[name].index.channels)
        return channels

    images = {}
    for name, adapter in datasets.adapters.items():
        if name not in prepared:
            earlier = already_prepared(
                adapter, datasets.roots[name], options=plan.dataset(name).options, patch=plan.patch
            )
            if earlier is not None:
                prepared[name] = earlier
        known = prepared.get(name)
        images[name] = look(name) if known is None else ImageChannels(known.index.channels)
    if not free or len({each.count for each in images.values()}) > 1:
        for name in prepared:  # it does not say how many files an image has
            if images[name].colour and datasets.adapters[name].channels is None:
                images[name] = look(name)
    return images


def _refuse_exact_behind_stem(plan: Plan, fits: Mapping[str, ChannelFit]) -> None:
    """Refuse head rounds that solve a head exactly where a stem is to be trained with it.

    Raises:
        PlanError: There is one.
    """
    for number, round in enumerate(plan.rounds, start=1):
        fit = fits.get(round.dataset)
        exact = round.hyperparameters.solver == "exact"
        if exact and fit is not None and fit.rule == "stem":
            raise PlanError(
                f"round {number} ({round.dataset}, {round.train}): its head cannot be solved "
                f"exactly, because the images get a stem ({fit.images} -> {fit.body} channels), "
                "which is trained in steps: use `--set rounds.all.solver=steps`, or datasets with "
                "the same number of channels"
            )
