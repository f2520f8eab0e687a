"""The folder of a model as it is published: weights, model card, results; and its publication."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from hydrakit.data.origin import splits_digest
from hydrakit.errors import HydrakitError, PlanError, command_line, one_line
from hydrakit.export.card import CardContent, model_card
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.results import DataFacts
from hydrakit.plugins.registry import load_plugins
from hydrakit.runs.expected import figures_of
from hydrakit.runs.model import ModelFiles, find_model, load_networks
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import copy, write_atomic
from hydrakit.version import version
from hydrakit.weights.description import ModelDescription, read_model_description
from hydrakit.weights.folders import BODY, HEADS, MEMBERS
from hydrakit.weights.format import (
    DatasetCard,
    HeadMetadata,
    read_body,
    read_head,
    read_metadata,
    read_tensors,
    write_tensors,
)

if TYPE_CHECKING:
    from hydrakit.plugins.registry import Plugins

CARD = "README.md"
PLAN = "training-plan.json"
COPIED = ("results.json", "splits.json", PLAN)  # of a folder that was exported before

# A path of at least two parts from the root, from the home folder or from a drive; not a URL.
_PATH = re.compile(
    r"(?<![\w/.:\\~])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\"`,;|]+[/\\])+([^\s/\\'\"`,;|]*)"
)


def write_folder(
    path: Path,
    names: Sequence[str],
    folder: Path,
    *,
    licence: str | None,
    plugins: Plugins | None,
) -> list[str]:
    """Write a model as a folder to publish.

    Args:
        path: Folder of a finished run, or of a model.
        names: Datasets whose heads are written.
        folder: Empty folder.
        licence: Licence of the weights; None for ``other``.
        plugins: Plugins with the factories; None loads the installed ones.

    Returns:
        What users must know, one sentence each.

    Raises:
        PlanError: The run is not finished, or a file of it was changed.
        PluginError: No plugin offers the factory of a body or of a head.
        WeightsError: A file is invalid.
    """
    plugins = plugins or load_plugins()
    described = read_model_description(path)
    found = {name: find_model(path, dataset=name) for name in names}
    target = described.target if described and described.target in found else names[0]
    bodies = _bodies(found[target])
    notes = []
    for name in [each for each in names if _bodies(found[each]) != bodies]:
        notes.append(
            f"the head of {name!r} belongs to another body than that of {target!r} and is not in "
            f"this folder: export it alone, with `{command_line('--dataset', name)}`"
        )
        del found[name]
    for files in found.values():
        model = load_networks(files, torch.device("cpu"), plugins=plugins)
        notes += [note for note in model.notes() if note not in notes]
    _write_weights(found, folder)
    run = found[target].run
    results = run.results() if run is not None else None
    description = described or ModelDescription(
        hydrakit=version() if results is None else results.hydrakit,
        made_by="swap" if run is None else "run",
        strategy=None if results is None else results.strategy,
        target=target,
        networks=len(bodies),
        expected={} if results is None else figures_of(results),
    )
    _write_json(folder / "model.json", description.model_dump(mode="json"))
    if run is None:
        for name in COPIED:
            if (path / name).is_file():
                copy(path / name, folder / name)
    else:
        assert results is not None
        _write_json(folder / "results.json", results.model_dump(mode="json"))
        _write_json(folder / "splits.json", _splits(run, found))
        _write_json(folder / PLAN, json.loads(run.plan().to_json()))
    heads = {name: read_head(folder / HEADS / f"{name}.safetensors") for name in found}
    facts = (run.facts() or {}) if run is not None else {}
    content = CardContent(
        description=description,
        heads=heads,
        body=read_body(folder / BODY),
        cards=_cards(heads, folder, facts, plugins),
        results=results,
        facts=facts,
        plan=None if run is None else run.plan(),
        has_plan=(folder / PLAN).is_file(),
        versions=_versions(run),
        licence=licence or "other",
        notes=tuple(notes),
    )
    _write_json(folder / "config.json", _config(content))
    write_atomic(folder / CARD, without_paths(model_card(content)).encode())
    return notes


def _bodies(files: ModelFiles) -> list[str]:
    return [read_body(body).digest for body, _ in files.networks]


def _write_weights(found: Mapping[str, ModelFiles], folder: Path) -> None:
    """Write body and heads of all networks, without paths in their metadata."""
    for name, files in found.items():
        for number, (body, head) in enumerate(files.networks, start=1):
            home = folder if number == 1 else folder / MEMBERS / str(number)
            (home / HEADS).mkdir(parents=True, exist_ok=True)
            if not (home / BODY).exists():
                _copy_weights(body, home / BODY)
            _copy_weights(head, home / HEADS / f"{name}.safetensors")


def _copy_weights(source: Path, target: Path) -> None:
    metadata = read_metadata(source)
    content = metadata.model_dump(mode="json")
    public = without_paths(content)
    if public == content:
        copy(source, target)
    else:
        changed: BaseModel = type(metadata).model_validate(public)
        write_tensors(target, read_tensors(source, metadata.digest), changed)


def without_paths(value: Any) -> Any:
    """JSON, or a text, in which absolute paths are reduced to their last part."""
    if isinstance(value, str):
        return _PATH.sub(lambda found: found[1] or "folder", value)
    if isinstance(value, dict):
        # Digests in base64 may look like paths.
        return {k: each if k == "images" else without_paths(each) for k, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(each) for each in value]
    return value


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(without_paths(value), indent=2) + "\n").encode())


def _splits(run: RunDir, found: Mapping[str, ModelFiles]) -> dict[str, Any]:
    """Number of cases of each split, and the digest that shows whether a split is the same.

    Keys of cases may contain names of patients, and are left out.
    """
    return {
        name: {"cases": dict(sorted(Counter(split.values()).items())), "sha256": digest}
        for name, split in run.splits().items()
        for digest in [splits_digest(split)]
    }


def _cards(
    heads: Mapping[str, HeadMetadata],
    folder: Path,
    facts: Mapping[str, DataFacts],
    plugins: Plugins,
) -> dict[str, DatasetCard]:
    """Cards of the datasets: from the weight files, else from the adapters that are installed."""
    cards = dict(read_body(folder / BODY).cards)
    cards |= {name: head.card for name, head in heads.items() if head.card is not None}
    for name, each in facts.items():
        if name not in cards:  # an older version wrote the weight files
            cards[name] = DatasetCard.of(plugins.all(DatasetAdapter).get(name), each)
    return cards


def _versions(run: RunDir | None) -> dict[str, str]:
    environment = run.environment() if run is not None else {}
    return {
        name: environment[name] for name in ("hydrakit", "python", "torch") if name in environment
    }


def _config(content: CardContent) -> dict[str, Any]:
    """Content of ``config.json``: what the networks are, and what they need of an image."""
    heads = content.heads
    return {
        "library_name": "hydrakit",
        "target": content.description.target,
        "networks": content.description.networks,
        "body": {
            "in_channels": content.body.in_channels,
            "sha256": content.body.digest,
            **content.body.spec.model_dump(mode="json"),
        },
        "heads": {
            name: {
                "factory": head.factory.model_dump(mode="json"),
                "task": head.task,
                "classes": list(head.classes),
                "preprocessing": head.preprocessing.model_dump(mode="json"),
                "views": None if head.views is None else head.views.model_dump(mode="json"),
                "trained_on_this_body": head.body == content.body.digest,
                "sha256": head.digest,
            }
            for name, head in heads.items()
        },
        "versions": {"exported_by": version(), **content.versions},
    }


def check_installed() -> None:
    """Check that the package of the extra `hub` is installed.

    Raises:
        PlanError: It is not.
    """
    if find_spec("huggingface_hub") is None:
        raise PlanError(
            "--push: huggingface_hub is not installed: `pip install 'hydrakit-imaging[hub]'`"
        )


def push(folder: Path, repository: str) -> str:
    """Push a folder to a repository on the Hugging Face Hub; a new repository is private.

    Returns:
        Address of the repository.

    Raises:
        HydrakitError: The Hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="hydrakit", library_version=version())
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export by hydrakit"
        )
    except Exception as error:  # of huggingface_hub and its client, with the reason
        again = command_line("hf", "upload", repository, folder)
        raise HydrakitError(
            f"--push {repository}: {one_line(str(error), 300)}: the folder {folder} is complete: "
            f"log in with `hf auth login`, and push it with `{again}`"
        ) from error
    return str(address)
