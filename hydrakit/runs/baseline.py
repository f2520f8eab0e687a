"""The baseline of a run: a regression on intensities, trained and tested on the same cases."""

from __future__ import annotations

from hydrakit.data.load import CaseSet, LoadedDataset
from hydrakit.errors import HydrakitError
from hydrakit.hooks import SequenceStrategy
from hydrakit.models.intensity import STATISTICS, first_order
from hydrakit.plan.results import Baseline
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.evaluate import Predictions, score
from hydrakit.training import exact


def is_baseline(strategy: str, plugins: Plugins) -> bool:
    """Whether a strategy is itself a baseline; an unknown one is none."""
    known = plugins.all(SequenceStrategy).get(strategy)
    return known is not None and known.baseline


def intensity_baseline(data: LoadedDataset, test: CaseSet) -> Baseline:
    """Fit a regression on intensities to the training cases, and test it.

    It is the strategy ``intensity``, with a penalty chosen by cross-validation.

    Args:
        data: Training split of the dataset.
        test: Test split of the dataset.
    """
    numbers = len(STATISTICS) * data.channels
    try:
        model = exact.fit(data, exact.features_of(data, first_order), None)
        features = first_order(test.patches).cpu().double().numpy()
        predictions = Predictions(
            dataset=test.dataset,
            split="test",
            classes=data.classes,
            keys=tuple(case.key for case in test.cases),
            labels=test.labels,
            outputs=model.outputs(features),
            task=test.task,
            scale=test.scale,
            findings=tuple(case.finding for case in test.cases),
            subgroups=tuple(case.subgroups for case in test.cases),
        )
        return Baseline(numbers=numbers, test=score(predictions))
    except HydrakitError as error:
        return Baseline(numbers=numbers, reason=str(error))
