"""Counts of the source tree: ``python -m benchmarks.structure [ROOT] [--json]``.

ROOT is the checkout to count, by default the one that holds this file. The static counts come from
the syntax trees of the modules of ``ROOT/hydrakit``, without running them:

* lines and modules: every ``*.py`` file, packages' ``__init__.py`` included, blank lines included;
* modules at the top level: ``hydrakit/*.py`` without ``__init__.py`` and ``__main__.py``;
* signatures with ``cache``: functions and methods at any depth, those of the command line too, with
  a parameter of exactly that name;
* parameters: all of the signature, ``*args`` and ``**kwargs`` as one each;
* repeated type names: names that two or more modules define. A definition is a class at any depth,
  or an assignment at the top of a module to a capitalised name that is not all capitals (type
  aliases and type variables; constants and one-letter type variables do not count).

The modules that an import loads are counted in a new process, as names in ``sys.modules`` that
begin with ``hydrakit``: all of them, and again without packages (``__init__.py``).
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
REPEATED = "modules that define each repeated name"
MAKE_PLAN = ("hydrakit.plan.profiles", "hydrakit.planning")
IMPORTED = {
    "a session": ("hydrakit.runs.session", "hydrakit.session"),
    "the training loop": ("hydrakit.training.loop", "hydrakit.train"),
}

# Program that imports a module of a checkout and prints the files of the modules that this loads.
LOADED = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
importlib.import_module(sys.argv[2])
print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.startswith("hydrakit")]))
"""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def present(root: Path, modules: Sequence[str]) -> tuple[str, Path]:
    """The first of these modules (newer layouts first) that the checkout has, and its file."""
    for module in modules:
        if (path := root / f"{module.replace('.', '/')}.py").is_file():
            return module, path
    raise SystemExit(f"{root}: has none of the modules {', '.join(modules)}: name a checkout")


def parameters(function: Function) -> list[str]:
    """Names of all parameters of a function."""
    args = function.args
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return [arg.arg for arg in every if arg is not None]


def parameter_count(root: Path, modules: Sequence[str], name: str) -> int:
    """Number of parameters of a function in the first of these modules that the checkout has."""
    _, path = present(root, modules)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, Function) and node.name == name:
            return len(parameters(node))
    raise SystemExit(f"{path}: defines no function {name}")


def type_names(tree: ast.Module) -> set[str]:
    """Names of classes, type aliases and type variables that a module defines."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assigned = {target.id for target in targets if isinstance(target, ast.Name)}
            names |= {name for name in assigned if name[0].isupper() and not name.isupper()}
    return names


def line_count(path: Path) -> int:
    """Number of lines of a text file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def static_counts(root: Path) -> dict[str, Any]:
    """Counts that need only the text of the files."""
    package = root / "hydrakit"
    trees = {path: ast.parse(path.read_bytes()) for path in sorted(package.rglob("*.py"))}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    signatures = [parameters(node) for node in nodes if isinstance(node, Function)]
    homes: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        for name in type_names(tree):
            homes[name].append(path.relative_to(root).as_posix())
    repeated = {name: paths for name, paths in sorted(homes.items()) if len(paths) > 1}
    top = {path.name for path in package.glob("*.py")}
    return {
        "lines of hydrakit/": sum(map(line_count, trees)),
        "modules of hydrakit/": len(trees),
        "modules at its top level": len(top - {"__init__.py", "__main__.py"}),
        "signatures with cache": sum("cache" in names for names in signatures),
        "parameters of engine.run": parameter_count(root, ["hydrakit.engine"], "run"),
        "parameters of make_plan": parameter_count(root, MAKE_PLAN, "make_plan"),
        "repeated type names": len(repeated),
        "lines of README.md": line_count(root / "README.md"),
        REPEATED: repeated,
    }


def loaded_counts(root: Path, label: str) -> dict[str, int]:
    """Numbers and lines of the modules that an import loads in a new process."""
    module, _ = present(root, IMPORTED[label])
    command = [sys.executable, "-c", LOADED, str(root), module]
    paths = [Path(path) for path in json.loads(subprocess.check_output(command))]
    if root / "hydrakit" / "__init__.py" not in paths:
        raise SystemExit(f"{root}: {module} was imported from another checkout: {paths[0]}")
    counts = {}
    plain = [path for path in paths if path.name != "__init__.py"]
    for kind, chosen in (("", paths), (" without packages", plain)):
        counts[f"modules that {label} loads{kind}"] = len(chosen)
        counts[f"lines that {label} loads{kind}"] = sum(map(line_count, chosen))
    return counts


def main(given: Sequence[str]) -> None:
    """Count one checkout and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure")
    parser.add_argument("root", nargs="?", type=Path, default=PROJECT, help="checkout to count")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args(given)
    root = options.root.resolve()
    counts = static_counts(root)
    for label in IMPORTED:
        counts |= loaded_counts(root, label)
    if options.json:
        print(json.dumps(counts, indent=2))
        return
    repeated = counts.pop(REPEATED)
    rows = [f"{name:<58}{count:>8,}" for name, count in counts.items()]
    print("\n".join(rows + [f"  {name}: {', '.join(paths)}" for name, paths in repeated.items()]))


if __name__ == "__main__":
    main(sys.argv[1:])
