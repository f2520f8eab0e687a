"""The pages of docs/ belong to the site, and its reference has all that the program has.

The site itself: test_site.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import click
import pytest
from site_pages import DOCS, ROOT, expanded, listed, python_examples, reference
from test_links import below, root_context

PAGES = sorted(DOCS.rglob("*.md"))
EXAMPLES = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in (ROOT / "README.md", *PAGES)
    for number, text in enumerate(python_examples(page), 1)
    if not re.fullmatch(r"def .*\n", text)  # a signature
]
FOLDERS = (DOCS / "reference" / "run-folder.md").read_text("utf-8")


def test_every_page_is_listed_once() -> None:
    pages = [path.resolve() for page in PAGES for path in listed(page)]
    assert sorted([*pages, DOCS / "index.md"]) == PAGES


def test_a_page_that_is_listed_nowhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a", "b", "sub/c", "sub/d"):
        (tmp_path / f"{name}.md").touch()
    index = tmp_path / "sub" / "index.md"
    index.write_text(
        "# T\n```{toctree}\n:hidden:\n:glob:\n\nc*\n/a\n```\n```{toctree}\nTitle <d>\ngone\n```\n"
    )
    names = [str(path.relative_to(tmp_path)) for path in listed(index, tmp_path)]
    assert names == ["sub/c.md", "a.md", "sub/d.md", "sub/gone.md"]


def test_an_index_links_every_page_of_its_toctree() -> None:
    """A forge shows no toctree."""
    missing = []
    for page in PAGES:
        text = page.read_text("utf-8")
        targets = {
            (page.parent / link.partition("#")[0]).resolve()
            for link in re.findall(r"\]\(([^)\s]+)\)", text)
        }
        missing += [path for path in listed(page) if path.resolve() not in targets]
    assert missing == []


# Examples


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_imports_what_is_there(text: str) -> None:
    for node in ast.walk(ast.parse(textwrap.dedent(text))):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "hydrakit":
            module = import_module(str(node.module))
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


# Reference


def contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            inner = below(context, name)
            assert inner is not None
            yield from contexts(inner)


def test_the_reference_has_every_command_and_option() -> None:
    page = expanded(DOCS / "reference" / "command-line.md")
    sections = dict(re.findall(r"^```\{program\} (.+)\n```\n((?:.|\n(?!#))*)", page, re.MULTILINE))
    root = root_context()
    root.info_name = "hydrakit"
    names = set()
    for context in contexts(root):
        name = " ".join(["hydrakit", *(each.command.name or "" for each in chain(context)[1:])])
        names.add(name)
        options = re.findall(r"^```\{option\} (.+)\n(.+)", sections[name], re.MULTILINE)
        given = {word for signature, _ in options for word in re.findall(r"--[\w-]+", signature)}
        params = [each for each in context.command.params if isinstance(each, click.Option)]
        assert {word for each in params for word in each.opts if word.startswith("--")} <= given
    assert names == set(sections)
    assert len(names) > 30


def chain(context: click.Context) -> list[click.Context]:
    return [*(chain(context.parent) if context.parent else []), context]


def test_the_reference_has_every_environment_variable() -> None:
    used = {
        name
        for path in (ROOT / "hydrakit").rglob("*.py")
        for name in re.findall(r'"(HYDRAKIT_[A-Z_]+)"', path.read_text("utf-8"))
    }
    page = (DOCS / "reference" / "command-line.md").read_text("utf-8")
    listed_there = set(re.findall(r"^\| `(HYDRAKIT_\w+)`", page, re.MULTILINE))
    assert listed_there == used - {"HYDRAKIT_API"}  # which is a name in a plugin


@pytest.mark.parametrize("name", sorted(reference.PLAN | reference.FORMATS))
def test_every_field_of_a_record_is_explained(name: str) -> None:
    schema = reference.schemas()[f"{name}.schema.json"]
    assert [key for key, part in schema["properties"].items() if "description" not in part] == []


def test_the_page_of_a_record_has_its_fields() -> None:
    page = expanded(DOCS / "reference" / "plan.md")
    assert "\n### Hyperparameters\n" in page
    assert "| `patience` | whole number > 0, ≤ 100,000 or null | required | Stop a round" in page
    assert "| `head` | [Component](#component) | required |" in page
    assert re.search(
        r"\| `dropout` \| number ≥ 0, < 1 \| required \| Dropout probability\.<br>", page
    )


def test_schemas_refuse_what_the_program_refuses() -> None:
    """They are schemas of JSON, and know each key: an unknown one is an error."""
    for name, schema in reference.schemas().items():
        json.dumps(schema, allow_nan=False)
        assert schema["type"] == "object", name
    assert reference.schemas()["plan.schema.json"]["additionalProperties"] is False


def test_the_page_of_folders_names_every_file(golden: Path) -> None:
    patterns = [
        re.sub(r"[A-Z]{4,}|NN|\b\d+\b.*?(?=/|$)", "*", name)
        for cell in re.findall(r"^\| (`.+?) \|", FOLDERS, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", cell)
    ]
    unknown = []
    for path in golden.rglob("*"):
        if path.is_file():
            *folders, name = path.relative_to(golden).parts
            inside = "/".join(
                [*folders[2:], name] if folders[:1] == ["rounds"] else [*folders, name]
            )
            if not any(fnmatch(inside, pattern) for pattern in patterns):
                unknown.append(inside)
    assert [name for name in unknown if name != "checkpoint.safetensors"] == []


@pytest.fixture(params=["finished", "stopped"])
def golden(request: pytest.FixtureRequest) -> Path:
    return Path(__file__).parent / "golden" / "0.1" / str(request.param)
