"""Train one network on several small, unlike medical image datasets.

A shared body (feature extractor) and one head (decision maker) per dataset::

    from pathlib import Path

    import hydrakit

    plan = hydrakit.make_plan("hydra", ["prostatex", "brain", "lung", "prostatex"])
    run = hydrakit.run(plan, data=Path("data"), out=Path("runs/first"))
    model = hydrakit.load_model(run.path)

Every function takes a plan (what decides a result) and a `RunContext` (where and how to compute).
Names of this module are imported when they are first used, since importing torch takes a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrakit import weights
    from hydrakit.compare.engine import compare as compare_strategies
    from hydrakit.compare.finish import finish
    from hydrakit.engine import check, dry_run, run
    from hydrakit.engine import report as write_report
    from hydrakit.export.model import export_model
    from hydrakit.maintenance.add_head import add_head
    from hydrakit.maintenance.models import list_models
    from hydrakit.plan.edit import edit_plan
    from hydrakit.plan.model import Plan, load_plan
    from hydrakit.plan.profiles import make_plan
    from hydrakit.plan.settings import PlanSettings
    from hydrakit.plugins.registry import load_plugins
    from hydrakit.runs.context import RunContext, read_context
    from hydrakit.runs.evaluate import evaluate_files, evaluate_run
    from hydrakit.runs.model import Model, load_model
    from hydrakit.runs.start import make_plan_from
    from hydrakit.search.order import order
    from hydrakit.search.tune import tune
    from hydrakit.search.values import tune_values

__all__ = [
    "Model",
    "Plan",
    "PlanSettings",
    "RunContext",
    "__version__",
    "add_head",
    "check",
    "compare_strategies",
    "dry_run",
    "edit_plan",
    "evaluate_files",
    "evaluate_run",
    "export_model",
    "finish",
    "list_models",
    "load_model",
    "load_plan",
    "load_plugins",
    "make_plan",
    "make_plan_from",
    "order",
    "read_context",
    "run",
    "tune",
    "tune_values",
    "weights",
    "write_report",
]

__version__: str
"""Version of the installed distribution ``hydrakit-imaging``."""

_HOMES = {
    "Model": "hydrakit.runs.model",
    "Plan": "hydrakit.plan.model",
    "PlanSettings": "hydrakit.plan.settings",
    "RunContext": "hydrakit.runs.context",
    "add_head": "hydrakit.maintenance.add_head",
    "check": "hydrakit.engine",
    "compare_strategies": "hydrakit.compare.engine:compare",
    "dry_run": "hydrakit.engine",
    "edit_plan": "hydrakit.plan.edit",
    "evaluate_files": "hydrakit.runs.evaluate",
    "evaluate_run": "hydrakit.runs.evaluate",
    "finish": "hydrakit.compare.finish",
    "export_model": "hydrakit.export.model",
    "list_models": "hydrakit.maintenance.models",
    "load_model": "hydrakit.runs.model",
    "load_plan": "hydrakit.plan.model",
    "load_plugins": "hydrakit.plugins.registry",
    "make_plan": "hydrakit.plan.profiles",
    "make_plan_from": "hydrakit.runs.start",
    "order": "hydrakit.search.order",
    "read_context": "hydrakit.runs.context",
    "run": "hydrakit.engine",
    "tune": "hydrakit.search.tune",
    "tune_values": "hydrakit.search.values",
    "write_report": "hydrakit.engine:report",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from hydrakit.version import version

        return version()
    if name == "weights":
        return importlib.import_module("hydrakit.weights")
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(importlib.import_module(module), attribute or name)
    raise AttributeError(f"module 'hydrakit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
