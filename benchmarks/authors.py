"""The authors' way of training, written anew from its description.

Patches lie on disk, augmented beforehand, one ``.npy`` file each; every epoch reads them one by
one. Training is eager, in float32 and PyTorch's default layout, with the softmax in the network and
a cross-entropy after it. After every epoch the network is evaluated on the training and validation
splits, and on both splits of the reference (the target with its own head), and a checkpoint is
written. A head round sends every image through the whole network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks import images
from benchmarks.harness import Answer
from benchmarks.plain import figures, plain_body, plain_head, starts
from benchmarks.settings import Settings

DROPOUT = 0.3
ALL_EPOCHS, HEAD_EPOCHS = 30, 100  # of the profile `recommended-0.1`
RATE = 1e-5  # of the paper's Table I; it does not matter to the time


class Files:
    """A split: ``.npy`` files with the class in their names."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.npy"))
        self.labels = torch.tensor([int(path.stem[-1]) for path in self.paths])

    def batches(self, size: int, *, shuffled: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, read one by one."""
        count = len(self.paths)
        order = torch.randperm(count) if shuffled else torch.arange(count)
        for chosen in order.split(size):
            patches = [np.load(self.paths[row]) for row in chosen.tolist()]
            yield torch.from_numpy(np.stack(patches)), self.labels[chosen]

    def look(self, network: nn.Module, size: int) -> tuple[float, float, float]:
        """Loss, accuracy and AUC of a network on all of them."""
        network.eval()
        logits, labels = [], []
        with torch.no_grad():
            for patches, truth in self.batches(size, shuffled=False):
                logits.append(network(patches))
                labels.append(truth)
        return figures(torch.cat(logits), torch.cat(labels))


class Dataset:
    """A dataset's training and validation split, as files."""

    def __init__(self, work: Path, name: str, *, train: int, val: int) -> None:
        seed = 10**6 * sum(map(ord, name))
        self.train = Files(images.npy_folder(work, f"{name}-train", count=train, seed=seed))
        self.val = Files(images.npy_folder(work, f"{name}-val", count=val, seed=seed + train))


class Round:
    """A round under way.

    Attributes:
        watched: By name, what is looked at after every epoch, and through which network.
    """

    def __init__(
        self,
        body: nn.Module,
        head: nn.Module,
        data: Dataset,
        *,
        head_only: bool,
        batch: int,
        checkpoint: Path,
        reference: tuple[nn.Module, Dataset] | None,
    ) -> None:
        self.body, self.head, self.data = body, head, data
        self.head_only, self.batch, self.checkpoint = head_only, batch, checkpoint
        self.network = nn.Sequential(body, head)
        self.watched = {"train": (self.network, data.train), "val": (self.network, data.val)}
        if reference is not None:
            network = nn.Sequential(body, reference[0])
            self.watched["reference train"] = network, reference[1].train
            self.watched["reference val"] = network, reference[1].val
        body.requires_grad_(not head_only)
        moving = [each for each in self.network.parameters() if each.requires_grad]
        self.optimiser = torch.optim.Adam(moving, lr=RATE)

    def epoch(self) -> dict[str, tuple[float, float, float]]:
        """Train on every file once; then the figures of all that is watched, and a checkpoint."""
        self.network.train()
        if self.head_only:
            self.body.eval()
        for patches, labels in self.data.train.batches(self.batch, shuffled=True):
            self.optimiser.zero_grad()
            chances = nn.functional.softmax(self.network(patches), dim=1)
            nn.functional.cross_entropy(chances, labels).backward()
            self.optimiser.step()
        found = {name: files.look(net, self.batch) for name, (net, files) in self.watched.items()}
        torch.save(self.network.state_dict(), self.checkpoint)
        return found


class AllEpoch:
    """An epoch of a round that trains body and head, with all its figures and its checkpoint."""

    head_only = False

    def __init__(self, settings: Settings) -> None:
        work = Path(settings.work)
        sizes = {"train": settings.train, "val": settings.val}
        self.round = Round(
            plain_body(dropout=DROPOUT),
            plain_head(dropout=DROPOUT),
            Dataset(work, "support", **sizes),
            head_only=self.head_only,
            batch=settings.batch,
            checkpoint=work / f"{type(self).__name__}.pth",
            reference=(plain_head(), Dataset(work, "target", **sizes)),
        )

    def __call__(self, repeat: int) -> Answer:
        """One epoch."""
        began = time.perf_counter()
        found = self.round.epoch()
        return Answer(time.perf_counter() - began, {"figures": sorted(found)})


class HeadEpoch(AllEpoch):
    """An epoch of a head round: the whole network, of which the head alone is trained."""

    head_only = True


ROUNDS = (
    ("one", False),
    ("two", True),
    ("two", False),
    ("three", True),
    ("three", False),
    ("one", True),
    ("one", False),
)


def plan_rounds(settings: Settings, repeat: int) -> Iterator[tuple[str, bool, int, int]]:
    """Yield the rounds of a plan ``hydra``: dataset, head alone, epochs, and epochs to measure.

    To warm up, it is an epoch of the first round.
    """
    for name, head_only in ROUNDS if repeat else ROUNDS[:1]:
        epochs = settings.plan_epochs or (HEAD_EPOCHS if head_only else ALL_EPOCHS)
        yield name, head_only, epochs, epochs // settings.plan_share if repeat else 1


class Hydra:
    """A whole plan ``hydra`` over one, two, three, one: starts, and seven rounds.

    Its epochs are all alike, so a share of each round's is done and the time is multiplied.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.work = Path(settings.work)
        self.data = {
            name: Dataset(self.work, name, **sizes) for name, sizes in settings.plan_sizes().items()
        }

    def __call__(self, repeat: int) -> Answer:
        """The plan; to warm up, an epoch of its first round."""
        seconds = self._starts() if repeat else 0.0
        torch.manual_seed(repeat)
        body = plain_body(dropout=0.1)
        heads = {name: plain_head(dropout=0.1) for name in self.data}
        rounds = plan_rounds(self.settings, repeat)
        for number, (name, head_only, epochs, measured) in enumerate(rounds):
            training = Round(
                body,
                heads[name],
                self.data[name],
                head_only=head_only,
                batch=16,
                checkpoint=self.work / f"Hydra-{number}.pth",
                reference=(plain_head(), self.data["one"]) if number else None,
            )
            began = time.perf_counter()
            for _ in range(measured):
                training.epoch()
            seconds += (time.perf_counter() - began) * epochs / measured
        return Answer(seconds)

    def _starts(self) -> float:
        """Seconds of eight random starts."""
        began = time.perf_counter()
        patches, labels = next(self.data["one"].val.batches(10**9, shuffled=False))
        starts(range(8), patches, labels, batch=16)
        return time.perf_counter() - began


def view(
    canvas: NDArray[np.float32],
    *,
    angle: float,
    mirrored: bool,
    shift: int,
    turning: Image.Resampling,
    halving: Image.Resampling,
    patch: int = 65,
) -> NDArray[np.float32]:
    """One augmented view with Pillow, step by step as the paper tells (Section III).

    Args:
        canvas: ``(side, side)`` at twice the view's resolution, larger than the view.
        angle: Counter-clockwise, in degrees.
        mirrored: Left to right.
        shift: To the right, in pixels of the canvas.
        turning: The filter of the rotation.
        halving: The filter of the halving.
        patch: Side of the view.

    Returns:
        ``(patch, patch)``.
    """
    image = Image.fromarray(canvas).rotate(angle, turning)
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    moved = image.transform(
        image.size, Image.Transform.AFFINE, (1, 0, -shift, 0, 1, 0), Image.Resampling.NEAREST
    )
    halved = moved.resize((image.width // 2, image.height // 2), halving)
    margin = (halved.width - patch) // 2
    middle = halved.crop((margin, margin, margin + patch, margin + patch))
    return np.asarray(middle, dtype=np.float32)


class Augmentation:
    """Views with Pillow, one after the other, of the authors' crops.

    A crop is of 200 x 200 mm, of which the middle 65 mm become the patch: 400 pixels at twice the
    resolution. Their filters are not known: these are the usual ones for good pictures.
    """

    side = 402  # halved it is odd, as the patch is
    turning = Image.Resampling.BICUBIC
    halving = Image.Resampling.LANCZOS

    def __init__(self, settings: Settings) -> None:
        self.count = settings.views
        self.canvases = images.smooth(16, self.side, seed=1)

    def __call__(self, repeat: int) -> Answer:
        """Draw the views; seconds are of one."""
        random = np.random.default_rng(repeat)
        began = time.perf_counter()
        for number in range(self.count):
            view(
                self.canvases[number % len(self.canvases)],
                angle=random.uniform(-20, 20),
                mirrored=bool(random.integers(2)),
                shift=int(random.integers(-1, 2)),
                turning=self.turning,
                halving=self.halving,
            )
        return Answer((time.perf_counter() - began) / self.count)


class ThriftyAugmentation(Augmentation):
    """The same with no more of the image than a view needs, and the quickest filters."""

    side = 170  # of hydrakit's prepared patches
    turning = Image.Resampling.BILINEAR
    halving = Image.Resampling.BOX
