"""How large the measurements are: handed as JSON to every contender's process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Point:
    """How much work a point of the scale is.

    Attributes:
        patches: Of all datasets together.
        patch: Side of what the network sees, in pixels.
        channels: Of the images.
        datasets: How many.
    """

    patches: int = 1000
    patch: int = 65
    channels: int = 1
    datasets: int = 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the work, and where it is done.

    Attributes:
        work: A folder for files of the measurements, shared by all contenders.
        threads: Of every contender.
        device: Of hydrakit, where it is not the CPU.
        precision: Of hydrakit's training steps.
        compiled: hydrakit's training steps go through `torch.compile`.
        graphs: On a GPU, hydrakit's steps are replayed as CUDA graphs.
        repeats: How often each contender does its work; the median counts.
        train: Patches of a training split.
        val: Patches of a validation split.
        batch: Patches per update, and per reading in the authors' way.
        head_epochs: Epochs of hydrakit's head rounds that are measured.
        steps: Updates in a measured unit of training steps.
        evaluated: Images in a unit of evaluation.
        starts: Random starts.
        start_cases: Validation patches that a start is judged by.
        start_share: The floor looks at one start of so many, and the time is multiplied.
        start_repeats: As ``repeats``, for random starts.
        views: Augmented images in a unit.
        heads: How many heads are trained together.
        small_batch: Patches per update of these, and of whole plans: that of `recommended-0.1`.
        files: Image files that a run's start reads.
        plan_cases: Cases of each dataset of the whole plans.
        plan_epochs: Epochs of their rounds; None for the recommended ones.
        plan_share: The authors' way does one epoch of so many of a whole plan, and the time is
            multiplied.
        plan_repeats: As ``repeats``, for whole plans.
        calls: How often a command is called.
        point: Of the scale.
    """

    work: str
    threads: int = 2
    device: str = "cpu"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compiled: bool = False
    graphs: bool = True
    repeats: int = 3
    train: int = 256
    val: int = 32
    batch: int = 128
    head_epochs: int = 100
    steps: int = 3
    evaluated: int = 512
    starts: int = 200
    start_cases: int = 256
    start_share: int = 20
    start_repeats: int = 2
    views: int = 512
    heads: int = 16
    small_batch: int = 16
    files: int = 1000
    plan_cases: int = 30
    plan_epochs: int | None = None
    plan_share: int = 20
    plan_repeats: int = 2
    calls: int = 15
    point: Point = Point()

    def plan_sizes(self) -> dict[str, dict[str, int]]:
        """Cases of the splits of each dataset of a whole plan, without the test split."""
        cases, tenth = self.plan_cases, self.plan_cases // 10
        return {
            "one": {"train": cases - 2 * tenth, "val": tenth},
            "two": {"train": cases - tenth, "val": tenth},
            "three": {"train": cases - tenth, "val": tenth},
        }


def quick(settings: Settings) -> Settings:
    """The same measurements with less work: a look at whether all is well, not figures to cite."""
    return replace(
        settings,
        train=128,
        val=16,
        head_epochs=20,
        steps=1,
        evaluated=256,
        starts=20,
        start_share=4,
        start_repeats=1,
        views=128,
        heads=4,
        files=100,
        plan_cases=20,
        plan_epochs=4,
        plan_share=2,
        plan_repeats=1,
        calls=3,
    )
