"""Settings of a phantom, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass

DATASETS = ("prostatex", "brain", "lung")
PATIENTS = 60
MIN_PATIENTS = 12
MAX_PATIENTS = 900  # limit of the patient numbers that no real patient has
DIFFICULTY = 0.5  # chosen by experiment: see the README of this plugin
MAX_SEPARATION = 6.0
MARK = "SYNTHETIC PHANTOM: no patient, not for diagnosis"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments that decide every byte of a dataset.

    Attributes:
        patients: Number of patients (brain: images) of a dataset, without copies.
        seed: Seed of all randomness.
        difficulty: From 0 (the classes hardly overlap) to 1 (the classes have equal distributions).
    """

    patients: int
    seed: int
    difficulty: float

    @property
    def separation(self) -> float:
        """Distance between the class means of the lesions' scores, in standard deviations."""
        return MAX_SEPARATION * (1 - self.difficulty)
