"""What a user would write instead: a plain Lightning loop with MONAI's transforms and cached data.

Patches come from ``.npy`` files into MONAI's `CacheDataset`; each epoch draws a random flip, turn
and shift of each, then trains, validates (AUC and accuracy of both splits) and writes a checkpoint
if the validation AUC is the best so far. A round that trains the head alone freezes the body, which
still sees every image in every epoch.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from monai.data import CacheDataset, DataLoader, set_track_meta
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandAffined, RandFlipd
from torch import Tensor, nn
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

from benchmarks import images
from benchmarks.authors import DROPOUT, RATE, plan_rounds
from benchmarks.harness import Answer
from benchmarks.plain import plain_body, plain_head, starts
from benchmarks.settings import Settings

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.simplefilter("ignore")  # of deprecated functions that these libraries call
set_track_meta(False)  # plain tensors, which are faster


def cached(folder: Path, *, augmented: bool) -> Any:
    """MONAI's cached dataset of the patches in a folder, whose names end in the class."""
    steps: list[Any] = [
        LoadImaged("image", image_only=True),
        EnsureChannelFirstd("image", channel_dim=0),
    ]
    if augmented:
        steps += [
            RandFlipd("image", prob=0.5, spatial_axis=1),
            RandAffined(
                "image",
                prob=1.0,
                rotate_range=math.radians(20),
                translate_range=(0, 0.5),
                padding_mode="border",
            ),
        ]
    items = [
        {"image": str(path), "label": int(path.stem[-1])} for path in sorted(folder.glob("*.npy"))
    ]
    return CacheDataset(items, Compose(steps), progress=False, num_workers=0)


class Data:
    """Loaders of a dataset's training and validation split.

    They load in the process itself: further processes would take the processors from training.
    """

    def __init__(self, work: Path, name: str, *, train: int, val: int, batch: int) -> None:
        seed = 10**6 * sum(map(ord, name))
        folders = [
            images.npy_folder(work, f"{name}-train", count=train, seed=seed),
            images.npy_folder(work, f"{name}-val", count=val, seed=seed + train),
        ]
        self.val_folder = folders[1]
        self.train = DataLoader(cached(folders[0], augmented=True), batch_size=batch, shuffle=True)
        self.val = DataLoader(cached(folders[1], augmented=False), batch_size=batch)


class Network(lightning.LightningModule):
    """A body and a head; the body is trained or frozen."""

    def __init__(self, body: nn.Module, head: nn.Module, *, head_only: bool) -> None:
        super().__init__()
        self.body, self.head, self.head_only = body, head, head_only
        body.requires_grad_(not head_only)
        self.figures = nn.ModuleDict(
            {
                f"{split}_{name}": kind()
                for split in ("train", "val")
                for name, kind in (("auc", BinaryAUROC), ("accuracy", BinaryAccuracy))
            }
        )

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of a frozen body."""
        if self.head_only:
            self.body.eval()

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        return self._step("train", batch)

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Figures of a batch."""
        self._step("val", batch)

    def _step(self, split: str, batch: dict[str, Tensor]) -> Tensor:
        labels = batch["label"]
        logits = self.head(self.body(batch["image"]))
        loss = nn.functional.cross_entropy(logits, labels)
        chances = logits.detach().softmax(dim=1)[:, 1]
        figures: dict[str, Any] = dict(self.figures.items())
        for name, figure in figures.items():
            if name.startswith(split):
                figure.update(chances, labels)
                self.log(name, figure, on_step=False, on_epoch=True)
        self.log(f"{split}_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW of what is trained."""
        moving = [each for each in self.parameters() if each.requires_grad]
        return torch.optim.AdamW(moving, lr=RATE)


class _Clock(Callback):
    """Seconds from the first batch to the end of the last validation; start-up is not counted."""

    began = ended = 0.0

    def on_train_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.ended = time.perf_counter()


def train(network: Network, data: Data, work: Path, *, epochs: int) -> tuple[float, set[str]]:
    """Seconds of some epochs, and the names of their figures."""
    clock = _Clock()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            callbacks=[clock, ModelCheckpoint(folder, monitor="val_auc", mode="max")],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(network, data.train, data.val)
    return clock.ended - clock.began, set(trainer.callback_metrics)


class Epoch:
    """An epoch of a round that trains body and head."""

    def __init__(self, settings: Settings) -> None:
        self.work = Path(settings.work)
        self.data = Data(
            self.work, "support", train=settings.train, val=settings.val, batch=settings.small_batch
        )
        self.network = Network(
            plain_body(dropout=DROPOUT), plain_head(dropout=DROPOUT), head_only=False
        )

    def __call__(self, repeat: int) -> Answer:
        """One epoch."""
        seconds, figures = train(self.network, self.data, self.work, epochs=1)
        return Answer(seconds, {"figures": sorted(figures)})


class Hydra:
    """The rounds of a plan ``hydra`` over one, two, three, one, each a fit of its own.

    As in `authors.Hydra`, a share of each round's epochs is done and the time is multiplied.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.work = Path(settings.work)
        self.data = {
            name: Data(self.work, name, **sizes, batch=settings.small_batch)
            for name, sizes in settings.plan_sizes().items()
        }

    def __call__(self, repeat: int) -> Answer:
        """The plan; to warm up, an epoch of its first round."""
        seconds = self._starts() if repeat else 0.0
        torch.manual_seed(repeat)
        body = plain_body(dropout=0.1)
        heads = {name: plain_head(dropout=0.1) for name in self.data}
        for name, head_only, epochs, measured in plan_rounds(self.settings, repeat):
            network = Network(body, heads[name], head_only=head_only)
            taken, _ = train(network, self.data[name], self.work, epochs=measured)
            seconds += taken * epochs / measured
        return Answer(seconds)

    def _starts(self) -> float:
        """Seconds of eight random starts."""
        began = time.perf_counter()
        every = [(batch["image"], batch["label"]) for batch in self.data["one"].val]
        patches, labels = (torch.cat(parts) for parts in zip(*every, strict=True))
        starts(range(8), patches, labels, batch=16)
        return time.perf_counter() - began
