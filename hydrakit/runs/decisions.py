"""Decisions of a run's heads: chosen on validation findings, and written into the heads' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hydrakit import weights
from hydrakit.data.load import LoadedDataset
from hydrakit.plan.decision import Decision
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.evaluate import Predictions, by_finding, mean_prediction, predict, views_of
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.decisions import fit_decision
from hydrakit.weights.format import read_head


def decision_of(predictions: Predictions, *, networks: int = 1) -> Decision | None:
    """Choose calibration and threshold from the predictions of a validation split.

    Args:
        predictions: Predictions: means over the networks.
        networks: Number of networks.

    Returns:
        The decision; None if the task is not a classification.
    """
    if predictions.task != "classification":
        return None
    _, probabilities, labels = by_finding(predictions)
    return fit_decision(
        probabilities, labels.astype(np.int64), networks=networks, source="validation"
    )


def store_decisions(
    head: str, networks: Sequence[RunDir], each: Sequence[Predictions]
) -> list[Decision | None]:
    """Choose the decisions of a head from validation findings, and write them into its files.

    The file of the first network gets that of the mean prediction, the others get their own, unless
    they have results already.

    Args:
        head: Name of the head.
        networks: Folders of the networks.
        each: Predictions of each network for the validation split.

    Returns:
        The decision of the mean, then that of each network.
    """
    mean = decision_of(mean_prediction(each), networks=len(each))
    own = [mean] if len(each) == 1 else [decision_of(one) for one in each]
    weights.set_decision(networks[0].head_path(head), mean)
    for network, decision in zip(networks[1:], own[1:], strict=True):
        if network.results() is None:
            weights.set_decision(network.head_path(head), decision)
    return [mean, *own]


def decide_other_heads(
    networks: Sequence[tuple[RunDir, Plan]],
    loaded: Mapping[str, LoadedDataset],
    *,
    plugins: Plugins,
    device: torch.device,
) -> None:
    """Choose and write the decisions of all heads but the target's, for classifications.

    Args:
        networks: Folder and plan of each network of a run.
        loaded: Datasets of the plan, by name.
        plugins: Plugins with the factories.
        device: Device to predict on.
    """
    first, plan = networks[0]
    for head in dict.fromkeys(head for round in plan.rounds for head in round.heads):
        described = read_head(first.head_path(head))
        dataset = loaded[described.dataset]
        if head == plan.target_head or dataset.val.task != "classification":
            continue
        predictions = [
            predict(
                weights.load_model(*folder.weights(own, head), plugins=plugins).to(device),
                dataset.val,
                dataset=dataset.name,
                split="val",
                classes=dataset.classes,
                views=views_of(described),
            )
            for folder, own in networks
        ]
        store_decisions(head, [folder for folder, _ in networks], predictions)
