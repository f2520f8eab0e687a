"""hydrakit as a contender: parts of a run alone, as heads, random starts and views.

With `ours` and `ours_runs` the only place of the benchmarks that knows how it is called.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import floor, images
from benchmarks.harness import Answer
from benchmarks.ours import CLASSES, a_round, adapter, loaded, new_body, new_head
from benchmarks.settings import Settings
from hydrakit import weights
from hydrakit.data.augment import Views
from hydrakit.data.load import LoadedDataset
from hydrakit.hooks import FieldOfView
from hydrakit.plan import BootstrapRule, Plan
from hydrakit.plan.profiles import make_plan
from hydrakit.plugins import load_plugins
from hydrakit.runs.model import load_model
from hydrakit.runs.network import Network
from hydrakit.runs.predict import cases_in_files, predict_to_csv
from hydrakit.runs.rundir import RunDir
from hydrakit.search.batched_trials import Trial, train_alone, train_together
from hydrakit.training.seeds import INITIALISATION, Seeds


class HeadsAlone:
    """Heads at several learning rates on the cached features of a body, one after the other."""

    EPOCHS = 20

    def __init__(self, settings: Settings) -> None:
        settings = replace(settings, batch=settings.small_batch)
        random = torch.Generator().manual_seed(0)
        count = settings.train + settings.val
        self.features = torch.randn(count, 256, generator=random).to(settings.device)
        self.labels = torch.arange(count, device=settings.device) % 2
        rows = torch.arange(count, device=settings.device).split([settings.train, settings.val])
        self.heads = [new_head(settings) for _ in range(settings.heads)]
        self.trials = []
        for number in range(settings.heads):
            values = a_round("head", settings, epochs=self.EPOCHS, rate=1e-5 * 1.5**number)
            self.trials.append(Trial(values.hyperparameters, rows[0], rows[1], Seeds(number, 2)))

    def __call__(self, repeat: int) -> Answer:
        """All of them; seconds are of one epoch of one head."""
        began = time.perf_counter()
        self._train()
        return Answer((time.perf_counter() - began) / self.EPOCHS / len(self.heads))

    def _train(self) -> None:
        for head, trial in zip(self.heads, self.trials, strict=True):
            train_alone(head, self.features, self.labels, trial, task="classification", scale=None)


class LargeHeadsAlone(HeadsAlone):
    """`HeadsAlone`, at the batch of the other measurements."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, small_batch=settings.batch))


class HeadsTogether(HeadsAlone):
    """The same heads at once."""

    def _train(self) -> None:
        train_together(
            self.heads,
            self.features,
            self.labels,
            self.trials,
            task="classification",
            scale=None,
        )


class LargeHeadsTogether(HeadsTogether):
    """`HeadsTogether`, at the batch of the other measurements."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, small_batch=settings.batch))


def _first_round(settings: Settings, rule: BootstrapRule) -> tuple[Plan, LoadedDataset]:
    """A plan that begins with random starts, and its data, of which only validation matters."""
    data = loaded(settings, "starts", train=2, val=settings.start_cases)
    plugins = load_plugins().including(adapter("starts", count=2))
    plan = make_plan(
        "classical",
        ["starts"],
        profile="recommended-0.1",
        bootstrap=settings.starts,
        bootstrap_rule=rule,
        plugins=plugins,
    )
    return plan, data


class ExportStarts:
    """Write what the random starts are judged by, and their seeds, for the floor."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __call__(self, repeat: int) -> Answer:
        """Write it; the seeds are of as many repeats as there will be."""
        plan, data = _first_round(self.settings, "all")
        seeds = [
            [Seeds(number, 1).of(INITIALISATION, start) for start in range(plan.bootstrap)]
            for number in range(self.settings.start_repeats + 1)
        ]
        np.savez(
            Path(self.settings.work) / floor.STARTS,
            images=data.val.patches.cpu().numpy(),
            labels=data.val.labels,
            seeds=np.array(seeds, dtype=np.int64),
        )
        return Answer(0.0)


class Starts:
    """The random starts that a plan begins with."""

    rule: BootstrapRule = "all"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.plan, self.data = _first_round(settings, self.rule)

    def __call__(self, repeat: int) -> Answer:
        """All of them; to warm up, one."""
        plan = self.plan if repeat else self.plan.model_copy(update={"bootstrap": 1})
        network = Network(
            plan,
            RunDir(Path(self.settings.work)),
            adapters={"starts": adapter("starts", count=2)},
            loaded={"starts": self.data},
            device=torch.device(self.settings.device),
            plugins=load_plugins(),
            channels=self.data.channels,
            fits={},
        )
        began = time.perf_counter()
        found = network.start(Seeds(repeat, 1), lambda _: None)
        seconds = time.perf_counter() - began
        return Answer(seconds, {"chosen": found.chosen, "aucs": found.val_auc})


class StartsHalving(Starts):
    """The same, where hopeless ones are dropped early."""

    rule: BootstrapRule = "halving"


def views(canvases: Tensor, *, batch: int, seed: int) -> Tensor:
    """A random view of each prepared patch, in batches: ``(n, channels, 65, 65)``."""
    generator = torch.Generator().manual_seed(seed)
    drawn = Views.draw(len(canvases), generator)
    rows = torch.arange(len(canvases)).split(batch)
    return torch.cat([drawn[chosen].of(canvases[chosen], 65) for chosen in rows])


class Augmentation:
    """Views of prepared patches, and how far they are from SciPy's."""

    SIDE = 170

    def __init__(self, settings: Settings) -> None:
        self.batch = settings.batch
        few = torch.from_numpy(images.smooth(64, self.SIDE, seed=1))[:, None]
        self.canvases = few.repeat(-(-settings.views // 64), 1, 1, 1)[: settings.views]

    def __call__(self, repeat: int) -> Answer:
        """Draw the views, seconds are of one; in the warm-up, compare them too."""
        if not repeat:
            return Answer(0.0, {"difference": view_difference(self.canvases[:64])})
        began = time.perf_counter()
        views(self.canvases, batch=self.batch, seed=repeat)
        return Answer((time.perf_counter() - began) / len(self.canvases))


def view_difference(canvases: Tensor) -> float:
    """Mean absolute difference of our views from SciPy's, in standard deviations of the image."""
    from benchmarks.truth import view

    drawn = Views.draw(len(canvases), torch.Generator().manual_seed(0))
    ours = views(canvases, batch=len(canvases), seed=0)
    errors = []
    for number, (canvas, found) in enumerate(zip(canvases[:, 0], ours[:, 0], strict=True)):
        true = view(
            canvas.numpy(),
            angle=float(drawn.angle[number]),
            mirrored=bool(drawn.flip[number, 1] < 0),
            shift=float(drawn.shift[number, 1]),
        )
        errors.append(float(np.abs(found.numpy() - true).mean() / canvas.numpy().std()))
    return float(np.mean(errors))


class Predict:
    """Prediction of image files, from the folder to the CSV."""

    def __init__(self, settings: Settings) -> None:
        self.work = Path(tempfile.mkdtemp(dir=settings.work))
        self.folder = images.png_folder(Path(settings.work), count=settings.evaluated)
        body, files = new_body(settings), (self.work / "body", self.work / "head")
        weights.save_body(files[0], body)
        weights.save_head(
            files[1],
            new_head(settings),
            body=body,
            dataset="files",
            classes=CLASSES,
            factory="mlp",
            preprocessing=weights.Preprocessing(
                patch=65,
                channels=1,
                field_of_view=FieldOfView(share=1.0),
                normalisation="z-score per patient",
            ),
        )
        self.model = load_model(body=files[0], head=files[1], device=settings.device)

    def __call__(self, repeat: int) -> Answer:
        """Predict all files; seconds are of one."""
        source = cases_in_files(self.model, [self.folder])
        began = time.perf_counter()
        summary = predict_to_csv(self.model, source, self.work / f"{repeat}.csv")
        return Answer((time.perf_counter() - began) / summary.cases)
