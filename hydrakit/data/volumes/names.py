"""Names of volumes: their planes, and the suffixes of their files."""

from __future__ import annotations

from pathlib import PurePosixPath

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def is_volume_name(path: str) -> bool:
    """Whether a path has the suffix of a volume."""
    return path.lower().endswith(SUFFIXES)


def stem_of(name: str) -> str:
    """Return a file's name without its suffix: ``.nii.gz`` is one."""
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else PurePosixPath(name).stem
