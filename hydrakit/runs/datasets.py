"""Datasets of a plan: adapters, folders and prepared patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.read import check_root
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext


@dataclass(frozen=True)
class PlanDatasets:
    """Datasets of a plan.

    Attributes:
        adapters: Adapters, by name of the dataset.
        roots: Folders with the files of the datasets, by name.
        prepared: Prepared patches, by name; empty before `prepare_datasets`.
    """

    adapters: Mapping[str, DatasetAdapter]
    roots: Mapping[str, Path]
    prepared: Mapping[str, PreparedDataset]


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
    return PlanDatasets(adapters, roots, {})


def common_channels(prepared: Mapping[str, PreparedDataset]) -> int:
    """Number of image channels, which is equal in all datasets.

    Raises:
        DataError: It is not.
    """
    first, channels = next((name, each.index.channels) for name, each in prepared.items())
    for name, each in prepared.items():
        if each.index.channels != channels:
            raise DataError(
                f"{name}: its images have {each.index.channels} channels, those of {first} have "
                f"{channels}: all datasets of a plan need the same number"
            )
    return channels


def prepare_datasets(plan: Plan, datasets: PlanDatasets, callbacks: RunCallback) -> PlanDatasets:
    """Prepare the datasets of a plan, in the cache of the active context.

    Raises:
        DataError: A dataset cannot be used.
    """
    prepared = {
        dataset.name: prepare(
            datasets.adapters[dataset.name],
            datasets.roots[dataset.name],
            options=dataset.options,
            patch=plan.patch,
            on_case=partial(callbacks.preparing, dataset.name),
        )
        for dataset in plan.datasets
    }
    return PlanDatasets(datasets.adapters, datasets.roots, prepared)
