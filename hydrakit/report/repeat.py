"""What is needed to repeat a run: versions, seeds, and the command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydrakit.plan.model import Plan
from hydrakit.plan.results import DataFacts
from hydrakit.report.markup import Html, element, together
from hydrakit.report.tables import facts_list


def repeat_section(
    plan: Plan,
    *,
    facts: Mapping[str, DataFacts],
    environment: Mapping[str, Any],
    folder: Path,
) -> Html:
    """What decided the result, on what it was computed, and the command that does it again."""
    device = [environment[key] for key in ("device", "device_name") if key in environment]
    plugins = environment.get("plugins", {})
    digests = (
        element("li", f"{name} ", element("code", each.digest)) for name, each in facts.items()
    )
    versions = facts_list(
        [
            ("Strategy", plan.strategy),
            ("Profile", plan.profile),
            ("Seed", plan.seed),
            ("Seed of the splits", plan.split_seed),
            ("Kind of head", str(plan.head)),
            ("Random starts", plan.bootstrap),
            ("Plan (SHA-256)", element("code", plan.digest())),
            ("Data (SHA-256)", element("ul", *digests)),
            ("hydrakit", environment.get("hydrakit")),
            ("Plugins", _listed(plugins.items()) if plugins else None),
            ("Python", environment.get("python")),
            ("torch", environment.get("torch")),
            ("Platform", environment.get("platform")),
            ("Precision", environment.get("precision")),
            ("Device", ", ".join(map(str, device)) if device else None),
            ("Threads", environment.get("threads")),
        ]
    )
    return together(
        (
            element("pre", element("code", command(folder, environment))),
            element(
                "p",
                "The same versions on the same kind of device give the same weights. Other ones "
                "round otherwise, and the figures may then differ.",
            ),
            versions,
        ),
        "\n",
    )


def _listed(pairs: Iterable[tuple[str, object]]) -> Html:
    return element("ul", *(element("li", f"{name}: {value}") for name, value in pairs))


def command(folder: Path, environment: Mapping[str, Any]) -> str:
    """The command that runs a run's plan again, into a new folder."""
    words = ["hydrakit", "run", "--plan", str(folder / "plan.json")]
    roots = {name: Path(root) for name, root in environment.get("roots", {}).items()}
    parents = {root.parent for name, root in roots.items() if root.name == name}
    if len(parents) == 1 and all(root.name == name for name, root in roots.items()):
        words += ["--data", str(parents.pop())]
    else:
        for name, root in roots.items():
            words += ["--root", f"{name}={root}"]
    words += ["--out", f"{folder}-again"]
    if "device" in environment:
        words += ["--device", str(environment["device"])]
    return shlex.join(words)
