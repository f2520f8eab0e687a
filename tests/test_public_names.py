"""Every public name is explained: in its docstring, in the reference and in docs/compatibility.md.

The tests read the source and import nothing of it.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import hydrakit

PACKAGE = Path(hydrakit.__file__).parent
DOCS = PACKAGE.parent / "docs"
REFERENCE = sorted((DOCS / "reference").glob("*.md"))

PUBLIC = (
    "hydrakit",
    "hydrakit.errors",
    "hydrakit.file_rules",
    "hydrakit.hooks",
    "hydrakit.jobs.job",
    "hydrakit.models.body",
    "hydrakit.plan",
    "hydrakit.plugins",
    "hydrakit.runs.callbacks",
    "hydrakit.sources",
    "hydrakit.testing",
    "hydrakit.weights",
)

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign


@cache
def source(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, also those of its ``if TYPE_CHECKING``."""
    for each in tree.body:
        yield from each.body if isinstance(each, ast.If) else [each]


def public_names(module: str) -> list[str]:
    """The names in ``__all__``."""
    for each in source(module).body:
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(each.value)
            return names
    raise AssertionError(f"{module} has no __all__")


def definition(module: str, name: str) -> tuple[Definition, str]:
    """The definition of a name, wherever it is imported from, and the docstring of the name."""
    body = list(statements(source(module)))
    for each, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name == name:
            return each, ast.get_docstring(each) or ""
        if isinstance(each, ast.Assign | ast.AnnAssign) and name in assigned(each):
            return each, string_of(following)
        if isinstance(each, ast.ImportFrom):
            for alias in each.names:
                if name != (alias.asname or alias.name):
                    continue
                assert each.module is not None
                inner = f"{each.module}.{alias.name}"
                if PACKAGE.joinpath(*inner.split(".")[1:]).is_dir():
                    return source(inner), ast.get_docstring(source(inner)) or ""
                return definition(each.module, alias.name)
    raise AssertionError(f"{module}.{name} is not defined")


def assigned(statement: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return [ast.unparse(each) for each in targets]


def string_of(statement: ast.stmt | None) -> str:
    """The text of a statement that is only a text: the docstring of what is above it."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return str(statement.value.value)
    return ""


def section(docstring: str, title: str) -> list[str] | None:
    """The names that a section of a docstring explains; None without that section."""
    match = re.search(rf"^{title}:\n((?:    .*\n|\n)+)", f"{inspect.cleandoc(docstring)}\n", re.M)
    return None if match is None else re.findall(r"^    (\w+): ", match[1], flags=re.M)


def faults(module: str, name: str) -> Iterator[str]:
    """What is missing in the docstring of a public name, and in those of its methods."""
    node, docstring = definition(module, name)
    yield from faults_of(f"{module}.{name}", node, docstring)


def faults_of(name: str, node: Definition, docstring: str) -> Iterator[str]:
    if not docstring:
        yield f"{name} has no docstring"
    if isinstance(node, ast.FunctionDef):
        parameters = [
            each.arg
            for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            if each.arg not in ("self", "cls")
        ]
        explained = section(docstring, "Args")
        if explained is None and len(parameters) > 1:
            yield f"{name} has {len(parameters)} parameters and no Args"
        for each in parameters if explained is not None else ():
            if each not in explained:
                yield f"{name} does not explain {each}"
    if isinstance(node, ast.ClassDef):
        yield from faults_of_class(name, node, docstring)


def faults_of_class(name: str, node: ast.ClassDef, docstring: str) -> Iterator[str]:
    explained = section(docstring, "Attributes") or []
    for each, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(each, ast.AnnAssign):
            field = ast.unparse(each.target)
            other = "_of_rounds" in ast.unparse(each)  # has the text of a hyperparameter
            text = other or string_of(following) or field in explained
            if not field.startswith("_") and not text:
                yield f"{name} does not explain {field}"
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
            yield from faults_of(f"{name}.{each.name}", each, ast.get_docstring(each) or "")
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            parameters = [arg.arg for arg in (*each.args.args[1:], *each.args.kwonlyargs)]
            in_class = section(docstring, "Args") or []
            yield from (
                f"{name} does not explain {arg}" for arg in parameters if arg not in in_class
            )


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_and_its_parameters_are_explained(module: str) -> None:
    names = public_names(module)
    assert len(names) == len(set(names))
    assert [fault for name in names for fault in faults(module, name)] == []
    assert ast.get_docstring(source(module))


def test_what_is_missing_is_noticed() -> None:
    code = (
        "def f(a, *, b):\n    '''Do it.\n\n    Args:\n        a: One.\n    '''\n"
        "def g(a, b):\n    '''Do it.'''\n"
        "class C:\n    '''It.\n\n    Attributes:\n        x: One.\n    '''\n    x: int\n"
        "    y: int\n    z: int\n    '''Three.'''\n    def m(self): pass\n"
        "    def __init__(self, x): ...\n"
        "D = 3\n"
    )
    found = [
        fault
        for node in ast.parse(code).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign)
        for fault in faults_of(
            getattr(node, "name", "D"),
            node,
            "" if isinstance(node, ast.Assign) else ast.get_docstring(node) or "",
        )
    ]
    assert found == [
        "f does not explain b",
        "g has 2 parameters and no Args",
        "C does not explain y",
        "C.m has no docstring",
        "C does not explain x",
        "D has no docstring",
    ]


def test_the_public_modules_are_those_of_the_page_on_compatibility() -> None:
    text = (DOCS / "compatibility.md").read_text(encoding="utf-8")
    table = text.partition("## Public names")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(PUBLIC)


DIRECTIVE = re.compile(r"^\.\. (?:auto)?(\w+):: (hydrakit[\w.]*)((?:\n +:.*)*)", re.M)


def of_reference(text: str) -> Iterator[tuple[str, str]]:
    """Module and name of each directive of a page; of a module's ``:members:``, each name."""
    for kind, target, options in DIRECTIVE.findall(text):
        if kind == "module":
            members = re.search(r":members:(.*)", options)
            if members is not None:
                given = [each.strip() for each in members[1].split(",") if each.strip()]
                yield from ((target, name) for name in given or public_names(target))
        elif target in PUBLIC:
            yield target.rpartition(".")[0], target.rpartition(".")[2]
        else:
            module, _, name = target.rpartition(".")
            yield module, name


@pytest.mark.skipif(not REFERENCE, reason="the reference is not written yet")
def test_the_reference_has_every_public_name_and_no_other() -> None:
    """A name has a directive, or a page of records has it in backticks or as a heading."""
    pages = [path.read_text(encoding="utf-8") for path in REFERENCE]
    directives = {each for page in pages for each in of_reference(page)}
    wrong = {
        f"{module}.{name}"
        for module, name in directives
        if module not in PUBLIC or name not in public_names(module)
    }
    assert wrong == set()
    words = {word for page in pages for word in re.findall(r"(?:`|^#+ )(\w+)", page, flags=re.M)}
    known = words | {name for _, name in directives}  # one module may also offer names of another
    missing = [
        f"{module}.{name}"
        for module in PUBLIC
        for name in public_names(module)
        if name not in known
    ]
    assert missing == []
