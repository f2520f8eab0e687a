"""Train one network on several small, unlike medical image datasets.

A shared body (feature extractor) and one head (decision maker) per dataset::

    import hydrakit

    plan = hydrakit.make_plan("hydra", ["prostatex", "brain", "lung", "prostatex"])
    run = hydrakit.run(plan, data=Path("data"), out=Path("runs/first"))
    model = hydrakit.weights.files.load_model(run.body_path, run.head_path("prostatex"))

Names of this module are imported when they are first used, since torch takes its time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrakit import weights
    from hydrakit.engine import run
    from hydrakit.plan.edit import edit_plan
    from hydrakit.plan.model import Plan, load_plan
    from hydrakit.plan.profiles import make_plan
    from hydrakit.plan.settings import PlanSettings
    from hydrakit.plugins.registry import load_plugins

__all__ = [
    "Plan",
    "PlanSettings",
    "__version__",
    "edit_plan",
    "load_plan",
    "load_plugins",
    "make_plan",
    "run",
    "weights",
]

__version__: str

_HOMES = {
    "Plan": "hydrakit.plan.model",
    "PlanSettings": "hydrakit.plan.settings",
    "edit_plan": "hydrakit.plan.edit",
    "load_plan": "hydrakit.plan.model",
    "load_plugins": "hydrakit.plugins.registry",
    "make_plan": "hydrakit.plan.profiles",
    "run": "hydrakit.engine",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from hydrakit.version import version

        return version()
    if name == "weights":
        return importlib.import_module("hydrakit.weights.files")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hydrakit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
