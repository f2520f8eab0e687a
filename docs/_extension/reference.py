"""Reference pages as Markdown, written from the program: its commands, records and their schemas.

A page names what belongs into it in a comment, such as ``<!-- generated: commands -->``. Nothing
here needs Sphinx.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter

from hydrakit.names import NAME_PATTERN

Schema = dict[str, Any]

ROOT = Path(__file__).parent.parent.parent
MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
SHA256 = r"^[0-9a-f]{64}$"


# Commands


def commands() -> str:
    """All commands of hydrakit and of the installed plugins, a section for each."""
    from hydrakit.cli import main

    context = click.Context(main, info_name="hydrakit", **main.context_settings)
    return "\n".join(_command(context))


def _command(context: click.Context) -> Iterator[str]:
    command, path = context.command, context.command_path
    yield f"\n{'#' * max(2, path.count(' ') + 1)} {path}\n"
    yield "```text"
    yield " ".join([path, *command.collect_usage_pieces(context)])
    yield "```\n"
    yield from _help_paragraphs(command.help or "")
    below = list(_below(context))
    for each in below:
        short = _markdown(each.command.get_short_help_str(200))
        yield f"* [{each.command_path}](#{each.command_path.replace(' ', '-')}): {short}"
    yield f"\n```{{program}} {path}\n```\n"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from _option(parameter, context)
    for each in below:
        yield from _command(each)


def _below(context: click.Context) -> Iterator[click.Context]:
    """The commands of a group, with contexts of their own."""
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                yield click.Context(
                    command, info_name=name, parent=context, **command.context_settings
                )


def _help_paragraphs(text: str) -> Iterator[str]:
    """The help text of a command; paragraphs after a backspace keep their lines."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if not paragraph.startswith("\b"):
            yield f"{_markdown(' '.join(paragraph.split()))}\n"
            continue
        title, _, lines = paragraph.removeprefix("\b").strip("\n").partition("\n")
        if lines.startswith("  "):
            yield f"{_markdown(title)}\n"
        else:
            lines = f"{title}\n{lines}"
        yield f"```text\n{inspect.cleandoc(lines)}\n```\n"


def _option(option: click.Option, context: click.Context) -> Iterator[str]:
    # click's own words: the option's names with its metavar, and its help with its default
    names, text = option.get_help_record(context) or ("", "")
    names = names.replace(" / ", ", ")
    yield f"```{{option}} {names}\n{_markdown(text.replace('  [', ' ['))}\n```\n"


def _markdown(text: str) -> str:
    """Text in which only code spans are markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*_<>\[\]])", r"\\\1", part) for part in parts
    )


# Records


def schema_of(record: Any) -> Schema:
    """The JSON schema of a record, with what its docstring says of each field."""
    adapter = TypeAdapter(record)
    schema = adapter.json_schema(mode="validation")
    for part in (schema, *schema.get("$defs", {}).values()):
        _move_descriptions(part)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _move_descriptions(schema: Schema) -> None:
    text, _, attributes = schema.get("description", "").partition("\nAttributes:\n")
    if text:
        schema["description"] = text.strip()
    for name, lines in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
        if name in schema.get("properties", {}):
            schema["properties"][name].setdefault("description", " ".join(lines.split()))


def fields(name: str, schema: Schema, note: str = "", *, seen: set[str]) -> Iterator[str]:
    """Tables of the fields of a record, and of the records in it one level lower.

    Args:
        name: Name of the record, for its heading.
        schema: Its JSON schema.
        note: What is said before its fields.
        seen: Names of the records that have another place on the page; those of this one are
            added.
    """
    yield f"\n## {name}\n"
    yield from _table(schema, note)
    for below, part in schema.get("$defs", {}).items():
        if below not in seen and "properties" in part:
            seen.add(below)
            yield f"\n### {below}\n"
            yield from _table(part)


def _table(schema: Schema, note: str = "") -> Iterator[str]:
    yield f"{_docstring(schema.get('description', ''))}\n"
    yield note
    required = schema.get("required", ())
    yield "```{table}\n:class: fields\n"
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    for name, part in schema.get("properties", {}).items():
        default = "required" if name in required else _default(part)
        meaning = _docstring(part.get("description", "")).replace("\n\n", "<br>")
        cells = (f"`{name}`", type_words(part), default, meaning.replace("\n", " "))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield "```\n"


def _docstring(text: str) -> str:
    """The text of a docstring as Markdown: its code spans have two backticks, its names one."""
    paragraphs = ("\n".join(each.split("\n")) for each in inspect.cleandoc(text).split("\n\n"))
    return "\n\n".join(
        _markdown(re.sub(r"``(.+?)``", r"`\1`", each, flags=re.DOTALL)) for each in paragraphs
    )


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return "empty"
    value = schema["default"]
    if isinstance(value, dict):
        return "its defaults" if value else "empty"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def type_words(schema: Schema) -> str:
    """The type that a JSON schema describes, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_words(each) for each in schema[key]))
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: " + ", ".join(
            map(type_words, schema["prefixItems"])
        )
    return _simple_type(schema)


def _simple_type(schema: Schema) -> str:
    match schema.get("type"):
        case "array":
            return f"list of: {type_words(_schema(schema.get('items')))}"
        case "object":
            by_pattern = schema.get("patternProperties", {}).values()
            values = next(iter(by_pattern), schema.get("additionalProperties"))
            return f"table of: {type_words(_schema(values))}"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "string":
            special = {NAME_PATTERN: "name", SHA256: "SHA-256"}
            return special.get(schema.get("pattern", ""), "text")
        case "integer" | "number" as kind:
            limits = (
                ("≥", schema.get("minimum")),
                (">", schema.get("exclusiveMinimum")),
                ("≤", schema.get("maximum")),
                ("<", schema.get("exclusiveMaximum")),
            )
            words = ", ".join(
                f"{sign} {_number(limit)}" for sign, limit in limits if limit is not None
            )
            return f"{'whole number' if kind == 'integer' else 'number'} {words}".strip()
    return "any"


def _schema(value: Any) -> Schema:
    """A schema; true, or none, is that of anything."""
    return value if isinstance(value, dict) else {}


def _number(value: float) -> str:
    return f"{value:,}" if abs(value) < 10**7 else f"{value:.3g}"


# Pages

PLAN = {"plan": "hydrakit.plan.model:Plan"}

FORMATS = {
    "body": "hydrakit.weights.format:BodyMetadata",
    "head": "hydrakit.weights.format:HeadMetadata",
    "start": "hydrakit.weights.start:StartMetadata",
    "checkpoint": "hydrakit.plan.results:CheckpointFacts",
    "model": "hydrakit.weights.description:ModelDescription",
    "program": "hydrakit.export.description:ProgramDescription",
    "results": "hydrakit.plan.results:Results",
    "round": "hydrakit.plan.results:RoundResult",
    "epoch": "hydrakit.plan.results:EpochRecord",
    "data": "hydrakit.plan.results:DataFacts",
    "environment": "hydrakit.plan.results:Environment",
    "event": "hydrakit.plan.results:Event",
    "test-trace": "hydrakit.plan.results:TracePoint",
    "files": "hydrakit.storage.digests:Digests",
    "compare": "hydrakit.compare.design:Description",
    "comparison": "hydrakit.stats.comparison:Comparison",
    "candidates": "hydrakit.jobs.candidates:CandidateTable",
    "order": "hydrakit.search.order:OrderResult",
    "trial": "hydrakit.search.trials:TrialRecord",
    "context": "hydrakit.runs.context:RunContext",
    "job": "hydrakit.jobs.job:Job",
    "status": "hydrakit.maintenance.status:RunStatus",
    "comparison-status": "hydrakit.maintenance.status:ComparisonStatus",
    "verify": "hydrakit.maintenance.verify:VerifyResult",
    "models": "hydrakit.maintenance.models:ModelList",
    "check": "hydrakit.data.quality.summary:Summary",
}
"""Records that files hold or that ``--json`` prints, by the name of their schema."""


@cache
def schemas() -> dict[str, Schema]:
    """The JSON schemas of all records, by the names of their files."""
    return {_schema_file(name): schema_of(_load(where)) for name, where in (PLAN | FORMATS).items()}


def _schema_file(name: str) -> str:
    return f"{name}.schema.json"


def _load(where: str) -> Any:
    module, name = where.split(":")
    return getattr(import_module(module), name)


def records(places: Mapping[str, str]) -> str:
    """A section for each record, with its fields, those of the records in it, and its schema."""
    seen = {where.partition(":")[2] for where in places.values()}
    lines: list[str] = []
    for name, where in places.items():
        record, file = _load(where), _schema_file(name)
        link = f'JSON schema: <a href="../schemas/{file}" download>{file}</a>\n'
        lines += fields(record.__name__, schema_of(record), link, seen=seen)
    return "\n".join(lines)


def declaration() -> str:
    """The keys of ``dataset.toml``."""
    from hydrakit.data.declared.schema import json_schema

    return "\n".join(fields("dataset.toml", json.loads(json_schema()), seen=set()))


def changelog() -> str:
    """CHANGELOG.md without its title, with links as from a page of the reference."""
    _, _, text = (ROOT / "CHANGELOG.md").read_text("utf-8").partition("\n")
    return re.sub(r"\]\((?![a-z]+:|#)", "](../../", text).replace("](../../docs/", "](../")


GENERATED: dict[str, Callable[[], str]] = {
    "changelog": changelog,
    "commands": commands,
    "declaration": declaration,
    "formats": lambda: records(FORMATS),
    "plan": lambda: records(PLAN),
}


def expand(page: str) -> str:
    """A page with its generated parts."""
    return MARKER.sub(lambda marker: GENERATED[marker[1]](), page)
