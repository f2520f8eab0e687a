"""Folders with the weights of one body and one head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.errors import WeightsError
from hydrakit.storage.files import write_atomic
from hydrakit.weights.files import checked_pair, load_model

if TYPE_CHECKING:
    from hydrakit.plugins.registry import Plugins


def swap(
    body_path: Path, head_path: Path, out: Path, *, plugins: Plugins | None = None
) -> str | None:
    """Check that a head and a body match, and copy both into a new folder.

    The folder then holds ``body.safetensors`` and ``heads/<dataset>.safetensors``, which ``hydrakit
    evaluate FOLDER`` evaluates.

    Returns:
        The note of `mismatch`, if any.

    Raises:
        PluginError: No plugin offers the factory of the body or of the head.
        WeightsError: A file is invalid, they do not match, or ``out`` is not an empty folder.
    """
    load_model(body_path, head_path, plugins=plugins)
    head, note = checked_pair(body_path, head_path)
    new_body, new_head = weight_paths(out, head.dataset)
    write_atomic(new_body, body_path.read_bytes())
    write_atomic(new_head, head_path.read_bytes())
    return note


def weights_in(folder: Path) -> tuple[Path, Path] | None:
    """Body and head of a folder that `weight_paths` made; None if it is another folder."""
    body, heads = folder / "body.safetensors", sorted(folder.glob("heads/*.safetensors"))
    if (folder / "plan.json").exists() or not body.is_file() or len(heads) != 1:
        return None
    return body, heads[0]


def weight_paths(out: Path, dataset: str) -> tuple[Path, Path]:
    """Create an empty folder; return the paths of a body and of a dataset's head in it.

    Raises:
        WeightsError: The folder is not empty, or cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise WeightsError(f"{out}: is not empty: name a new folder")
        heads = out / "heads"
        heads.mkdir()
    except OSError as error:
        raise WeightsError(
            f"{out}: cannot be created ({error.strerror}): name another folder"
        ) from None
    return out / "body.safetensors", heads / f"{dataset}.safetensors"
