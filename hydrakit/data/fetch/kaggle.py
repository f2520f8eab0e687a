"""Fetching of archives of Kaggle with its client, kagglehub, and the user's token.

kagglehub keeps the archive's content in its own cache, where it goes on after an interruption.
"""

from __future__ import annotations

import logging
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

from hydrakit.data.fetch.idc import INSTALL
from hydrakit.errors import DataError, one_line
from hydrakit.sources import KaggleDataset

TOKEN = "a token of kaggle.com/settings in ~/.kaggle/access_token or $KAGGLE_API_TOKEN"


def page(dataset: KaggleDataset) -> str:
    """Address of a dataset's page."""
    return f"https://www.kaggle.com/datasets/{dataset.handle}"


def missing_folders(dataset: KaggleDataset, folder: Path) -> list[str]:
    """The folders of a dataset's archive that are not there."""
    return [name for name in dataset.folders if not (folder / name).is_dir()]


def download(dataset: KaggleDataset, folder: Path) -> None:
    """Download an archive, and copy the needed folders that are missing.

    Raises:
        DataError: kagglehub is not installed, or Kaggle did not give the archive.
        OSError: The folder cannot be written.
    """
    by_hand = (
        f"download the archive from {page(dataset)} (a free account is needed) and unpack its "
        f"folders {' and '.join(f'{name}/' for name in dataset.folders)} into {folder}"
    )
    with redirect_stdout(sys.stderr):  # which it fills with messages
        try:
            import kagglehub
            import requests
            from kagglehub import exceptions
        except ImportError:
            raise DataError(f"kagglehub is not installed: {INSTALL}, or {by_hand}") from None
        logging.getLogger("kagglehub").setLevel(logging.ERROR)
        own = (
            exceptions.BackendError,
            exceptions.CredentialError,
            exceptions.DataCorruptionError,
            exceptions.NotFoundError,
            exceptions.UnauthenticatedError,
        )
        try:
            archive = Path(kagglehub.dataset_download(dataset.handle))
        except requests.ConnectionError:
            raise DataError(
                "no connection to Kaggle: check the network ($HTTPS_PROXY names a proxy); or "
                f"{by_hand}"
            ) from None
        except (*own, OSError, ValueError) as error:  # requests' errors are OSErrors
            raise DataError(
                f"Kaggle did not give {dataset.handle} ({one_line(str(error), 200)}): {TOKEN} may "
                f"be needed; or {by_hand}"
            ) from error
    folder.mkdir(parents=True, exist_ok=True)
    for name in missing_folders(dataset, folder):
        if not (archive / name).is_dir():
            raise DataError(f"{archive}: Kaggle's archive has no folder {name}/: {by_hand}")
        part = folder / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(archive / name, part)
        part.replace(folder / name)
