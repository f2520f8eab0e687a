"""Folders with the weights of a model: one body or an ensemble of bodies, and heads.

A model's folder holds ``body.safetensors`` and ``heads/NAME.safetensors``, as the folder of a run
does; the second and all other networks of an ensemble lie in ``members/2``, ``members/3`` and so
on, in folders of the same kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.errors import WeightsError, unknown
from hydrakit.storage.files import write_atomic
from hydrakit.weights.description import FILE, read_model_description
from hydrakit.weights.files import checked_pair, load_model
from hydrakit.weights.format import read_head

if TYPE_CHECKING:
    from hydrakit.plugins.registry import Plugins

BODY = "body.safetensors"
HEADS = "heads"
MEMBERS = "members"


def swap(
    body_path: Path, head_path: Path, out: Path, *, plugins: Plugins | None = None
) -> str | None:
    """Check that a head and a body match, and copy both into a new folder.

    The folder then holds ``body.safetensors`` and ``heads/<dataset>.safetensors``, which ``hydrakit
    evaluate FOLDER`` evaluates.

    Args:
        body_path: File of the body.
        head_path: File of the head.
        out: The new folder, or an empty one.
        plugins: Plugins with the factories; None loads the installed ones.

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


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds a model, and is not the folder of a run."""
    return not (folder / "plan.json").exists() and (folder / BODY).is_file()


def head_datasets(folder: Path) -> dict[str, Path]:
    """Files of the heads of a model's folder, by the dataset of each.

    Raises:
        WeightsError: A file is invalid, or there is no head.
    """
    files = sorted((folder / HEADS).glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder / HEADS}: holds no head: give a folder with a model")
    heads: dict[str, Path] = {}
    for file in files:
        before = heads.setdefault(read_head(file).dataset, file)
        if before != file:
            raise WeightsError(f"{file}: is for the same dataset as {before}: keep one of them")
    return heads


def all_networks(folder: Path) -> list[tuple[Path, dict[str, Path]]]:
    """Body and heads, by dataset, of each network in the folder of a model or a finished run.

    Raises:
        PlanError: ``model.json`` is invalid.
        WeightsError: A file is missing or invalid, or there are not as many networks as
            ``model.json`` says.
    """
    networks = [(folder / BODY, head_datasets(folder))]
    for number in range(2, 2 + len(list(folder.glob(f"{MEMBERS}/*/{BODY}")))):
        member = folder / MEMBERS / str(number)
        if not (member / BODY).is_file():
            raise WeightsError(f"{member / BODY}: is missing: copy the folder {folder} again")
        networks.append((member / BODY, head_datasets(member)))
    description = read_model_description(folder)
    if description is not None and description.networks != len(networks):
        raise WeightsError(
            f"{folder}: holds {len(networks)} networks, and its {FILE} says "
            f"{description.networks}: copy the folder again"
        )
    return networks


def networks_in(folder: Path, dataset: str | None = None) -> list[tuple[Path, Path]]:
    """Body and head of each network of a model's folder, the first network first.

    Args:
        folder: A folder for which `is_model_folder` holds.
        dataset: Dataset of the head; None if the folder has a single head.

    Raises:
        WeightsError: A file is missing or invalid, or the dataset is missing or has to be named.
    """
    (_, heads), *others = networks = all_networks(folder)
    if dataset is None and len(heads) > 1:
        raise WeightsError(
            f"{folder}: has heads for {', '.join(heads)}: name the one to use with `--dataset`"
        )
    name = dataset or next(iter(heads))
    if name not in heads:
        raise WeightsError(f"{folder}: {unknown('head', name, heads)}")
    for body, own in others:
        if name not in own:
            raise WeightsError(f"{body.parent}: has no head for {name!r}: copy {folder} again")
    return [(body, own[name]) for body, own in networks]


def weight_paths(out: Path, dataset: str) -> tuple[Path, Path]:
    """Create an empty folder; return the paths of a body and of a dataset's head in it.

    Args:
        out: The folder.
        dataset: Name of the dataset.

    Raises:
        WeightsError: The folder is not empty, or cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise WeightsError(f"{out}: is not empty: name a new folder")
        heads = out / HEADS
        heads.mkdir()
    except OSError as error:
        raise WeightsError(
            f"{out}: cannot be created ({error.strerror}): name another folder"
        ) from None
    return out / BODY, heads / f"{dataset}.safetensors"
