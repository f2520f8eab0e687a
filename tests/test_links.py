"""What the pages for readers name exists: files, headings, commands and options."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from site_pages import ROOT, expanded

from hydrakit.cli import main

PAGES = sorted(ROOT.glob("*.md"))
for folder in ("docs", "examples", "plugins"):
    PAGES += sorted((ROOT / folder).rglob("*.md"))
FENCE = re.compile(r"^( *)(```+|~~~+)[^\n]*\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?:(?: {4}|\t)[^\n]*\n+)+")
SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^\s)>]+)>?(?:\s+[\"'(][^)]*)?\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]: *<?([^\s>]+)", re.MULTILINE)
ATTRIBUTE = re.compile(r"""<[^>]*\b(?:href|src)\s*=\s*["']([^"']+)["']""")
FOLDERS = ("benchmarks/", "docs/", "examples/", "hydrakit/", "plugins/", "tests/")
OTHER_OPTIONS = {"--build-arg", "--gpus", "--no-deps", "--nv"}  # of Docker, pip and Apptainer

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


# Links


def spans(text: str) -> list[str]:
    """The code spans of a page, each on one line."""
    return [" ".join(span.split()) for _, span in SPAN.findall(FENCE.sub("", text))]


def anchors(text: str) -> set[str]:
    """The anchors of a page: those of its headings, as GitHub makes them, and its own."""
    text = FENCE.sub("", text)
    found = set(re.findall(r"""<\w+[^>]*\b(?:id|name)\s*=\s*["']([^"']+)["']""", text))
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^ {0,3}#{1,6} +(.+?)(?: +#+)? *$", text, re.MULTILINE):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def links(text: str) -> list[str]:
    """The targets of a page's links and images that are not on the web."""
    text = SPAN.sub("", FENCE.sub("", text))
    targets = [target for form in (LINK, REFERENCE, ATTRIBUTE) for target in form.findall(text)]
    return [target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:", target)]


def is_dead(link: str, page: Path, root: Path) -> bool:
    """Whether a link of a page leads to no file below the root, or to no heading of the file."""
    path, _, anchor = unquote(link).partition("#")
    target = (page.parent / path).resolve() if path else page.resolve()
    if not target.is_relative_to(root.resolve()) or not target.exists():
        return True
    return anchor != "" and (target.is_dir() or anchor not in anchors(expanded(target)))


def dead_links(page: Path, root: Path) -> list[str]:
    return [link for link in links(page.read_text("utf-8")) if is_dead(link, page, root)]


@every_page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert dead_links(page, ROOT) == []


def test_dead_links_are_noticed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (tmp_path / "outside.md").touch()
    (root / "docs" / "other.md").write_text(
        "# Some `code` & *words*: yes\n## Twice\n## Twice\n```\n# no heading\n```\n"
    )
    page = root / "page.md"
    good = ["docs/other.md", "docs", "docs/other.md#some-code--words-yes", "#here", "#own"]
    good += ["docs/other.md#twice", "docs/other.md#twice-1", "https://example.org/none"]
    bad = ["none.md", "docs/none.md#twice", "docs/other.md#none", "docs/other.md#no-heading"]
    bad += ["docs/other.md#twice-2", "#nowhere", "../outside.md", "docs#twice", "/docs/other.md"]
    lines = ["# Here", '<a id="own"></a>', *(f"a [link]({target}), and" for target in good + bad)]
    lines += ["![image\nof two lines](none.svg)", "[reference]: gone.md", '<img src="gone.png">']
    lines += ["`[code](gone.md)`", "```", "[code](gone.md)", "```", '[x](gone.md "title")']
    page.write_text("\n".join(lines))
    assert Counter(dead_links(page, root)) == Counter(
        [*bad, "none.svg", "gone.md", "gone.md", "gone.png"]
    )


@every_page
def test_every_path_of_the_project_exists(page: Path) -> None:
    """A path in backticks that begins with a folder of the project; it may hold a ``*``."""
    named = [span for span in spans(page.read_text("utf-8")) if span.startswith(FOLDERS)]
    paths = [span.rstrip("/") for span in named if re.fullmatch(r"[\w./*-]+", span)]
    assert [path for path in paths if not any(ROOT.glob(path))] == []


# Commands


def lines_of_code(text: str) -> Iterator[str]:
    """Each code span, and each line of a code block, with those that a ``\\`` joins to it."""
    rest = FENCE.sub("\n", text)
    yield from spans(INDENTED.sub("\n", rest))
    for block in [*(block for _, _, block in FENCE.findall(text)), *INDENTED.findall(rest)]:
        yield from re.sub(r"\\\n", " ", block).splitlines()


def call_of(line: str) -> list[str] | None:
    """The words after ``hydrakit`` where a line calls it, up to a pipe or the like."""
    called = re.match(r"\s*(?:\$ +)?(?:\w+=\S+ +)*(?:[\w./ -]+ -m +)?hydrakit(?: +(.*))?$", line)
    if called is None:
        return None
    lexer = shlex.shlex(called[1] or "", posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    return list(takewhile(lambda word: not set(word) <= set("|&;<>"), lexer))


def root_context() -> click.Context:
    return click.Context(main, **main.context_settings)


def options(context: click.Context) -> set[str]:
    params = context.command.get_params(context)
    return {name for param in params for name in (*param.opts, *param.secondary_opts)}


def below(context: click.Context, name: str) -> click.Context | None:
    """A command of a group, or None."""
    assert isinstance(context.command, click.Group)
    command = context.command.get_command(context, name)
    return None if command is None else click.Context(command, parent=context)


def every_option(context: click.Context) -> set[str]:
    """The options of a command, and those of all commands below it."""
    found = options(context)
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            inner = below(context, name)
            assert inner is not None
            found |= every_option(inner)
    return found


def unknown_words(words: Sequence[str]) -> list[str]:
    """The options of a call, and the command, that the program does not have."""
    context, unknown = root_context(), []
    for word in (word.strip("[]") for word in words):
        if re.match(r"--?[a-z]", word):
            option = word.partition("=")[0]
            unknown += [option] if option not in options(context) else []
        elif isinstance(context.command, click.Group):
            inner = below(context, word)
            if inner is None:
                return [*unknown, *([] if word.isupper() or word == "..." else [word])]
            context = inner
    return unknown


def wrong_calls(text: str) -> list[tuple[str, list[str]]]:
    """The calls on a page that the program would refuse, each with the words that it lacks."""
    calls = [(line.strip(), call_of(line)) for line in lines_of_code(text)]
    judged = [(line, unknown_words(words)) for line, words in calls if words is not None]
    return [(line, unknown) for line, unknown in judged if unknown]


@every_page
def test_every_call_has_a_command_and_options_that_exist(page: Path) -> None:
    assert wrong_calls(page.read_text("utf-8")) == []


@every_page
def test_every_option_named_alone_exists(page: Path) -> None:
    alone = [span for span in spans(page.read_text("utf-8")) if span.startswith("--")]
    named = {re.split(r"[ =]", span, maxsplit=1)[0] for span in alone}
    assert named - every_option(root_context()) - OTHER_OPTIONS == set()


def test_wrong_calls_are_noticed() -> None:
    page = r"""# Page
Say `hydrakit run
--seeds 3` or `hydrakit datasets lst`, `hydrakit plan ...`, `hydrakit COMMAND --help`, `hydrakit`.

    $ HYDRAKIT_CACHE=x hydrakit evaluated RUN   # no such command
    hydrakit run --data DIR --seed=1 -h | grep --none

```sh
torchrun --nproc-per-node 2 -m hydrakit run --devices cuda
hydrakit compare --strategies hydra \
  --fold 5 && ls --none    # --no-option of it
hydrakit weights swap --body "a --b" [--out DIR]
see hydrakit nothing
```
"""
    assert [unknown for _, unknown in wrong_calls(page)] == [
        ["--seeds"], ["lst"], ["--devices"], ["--fold"], ["evaluated"],
    ]  # fmt: skip
