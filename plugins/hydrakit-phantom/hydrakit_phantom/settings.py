"""What a phantom is made from, and its defaults."""

from __future__ import annotations

from dataclasses import dataclass

DATASETS = ("prostatex", "brain", "lung")
PATIENTS = 60
FEWEST_PATIENTS = 12
MOST_PATIENTS = 900  # the numbers that no real patient has leave room for so many
DIFFICULTY = 0.5  # chosen by experiment: see the README of this plugin
WIDEST_SEPARATION = 6.0
MARK = "SYNTHETIC PHANTOM: no patient, not for diagnosis"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments that decide every byte of a dataset.

    Attributes:
        patients: How many patients (brain: images) a dataset has, copies not counted.
        seed: Of everything random.
        difficulty: From 0, where the classes hardly overlap, to 1, where they are drawn alike.
    """

    patients: int
    seed: int
    difficulty: float

    @property
    def separation(self) -> float:
        """Distance between the class means of the lesions' scores, in standard deviations."""
        return WIDEST_SEPARATION * (1 - self.difficulty)
