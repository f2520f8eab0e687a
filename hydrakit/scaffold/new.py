"""`NewPlugin`: the files of a new plugin, and the names that it may have."""

from __future__ import annotations

import json
import keyword
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from string import Template

from hydrakit.errors import PluginError
from hydrakit.hooks import API
from hydrakit.names import OWN_COMMANDS, is_name
from hydrakit.plugins.registry import KINDS, ComponentKind, Plugins
from hydrakit.storage.records import writable
from hydrakit.version import version

PREFIX = "hydrakit-"
LICENCES = ("MIT", "Apache-2.0", "BSD-3-Clause")
WITH_AUTHOR = ("MIT", "BSD-3-Clause")  # their text names the holder of the copyright
MAX_NAME = 40  # characters: lines of the files then have at most 100
MAX_AUTHOR = 100

_NAME = re.compile("[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}")  # what `_temporary_name` returns


@dataclass(frozen=True, kw_only=True)
class NewPlugin:
    """A plugin to write.

    Attributes:
        name: Name of its distribution, such as ``hydrakit-skin``.
        kinds: Kinds of its components, one of each.
        licence: Its licence, one of `LICENCES`; None for none.
        author: Holder of the copyright; None for no name.
    """

    name: str
    kinds: tuple[ComponentKind, ...]
    licence: str | None = None
    author: str | None = None

    @property
    def module(self) -> str:
        """Name of its module: ``hydrakit_skin`` of ``hydrakit-skin``."""
        return self.name.replace("-", "_")

    @property
    def component(self) -> str:
        """Name of each of its components: ``skin`` of ``hydrakit-skin``."""
        return self.name.removeprefix(PREFIX)

    @property
    def what(self) -> str:
        """What it offers, such as "dataset and head 'skin'"."""
        *first, last = (kind.name for kind in self.kinds)
        return f"{', '.join(first)} and {last}" if first else last

    def refuse_clashes(self, installed: Plugins) -> None:
        """Refuse a name or a licence that would not work.

        Args:
            installed: The installed plugins, whose names are taken.

        Raises:
            PluginError: No kind is given, the name is invalid or taken, or the licence lacks its
                author.
        """
        if not self.kinds:
            *flags, last = (f"--{kind.name}" for kind in KINDS)
            raise PluginError(
                f"a plugin needs a component: add one or more of {', '.join(flags)} and {last}"
            )
        self._refuse_invalid()
        self._refuse_installed(installed)
        if self.licence in WITH_AUTHOR and self.author is None:
            raise PluginError(
                f"the text of the licence {self.licence} names its author: add `--author NAME`"
            )
        if self.author is not None and not (
            self.author.strip() and self.author.isprintable() and len(self.author) <= MAX_AUTHOR
        ):
            raise PluginError(
                f"author {self.author[:MAX_AUTHOR]!r}: write a name of at most {MAX_AUTHOR} "
                "characters on one line"
            )

    def _refuse_invalid(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > MAX_NAME:
            valid = re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")[:MAX_NAME].strip("-")
            valid = valid if _NAME.fullmatch(valid) else f"{PREFIX}skin"
            raise PluginError(
                f"{self.name[:100]!r} cannot name a distribution: write lower-case letters, digits "
                f"and single hyphens, a letter first, at most {MAX_NAME}, such as {valid!r}"
            )
        if keyword.iskeyword(self.module) or self.module in (*sys.stdlib_module_names, "tests"):
            raise PluginError(
                f"{self.name!r} cannot be imported, since {self.module!r} is a word or a module of "
                f"Python: choose another name, such as '{PREFIX}{self.name}'"
            )
        if not is_name(self.component):  # the pattern is stricter: only devices are left
            raise PluginError(
                f"{self.name!r} cannot be used, since {self.component!r} is the name of a device "
                f"of Windows: choose another name, such as '{PREFIX}my-{self.component}'"
            )
        if any(fnmatchcase(self.module, pattern) for pattern in _ignored()):
            raise PluginError(
                f"{self.name!r} cannot be used, since .gitignore hides a folder {self.module!r}, "
                f"also from wheels: choose another name, such as '{PREFIX}{self.name}'"
            )

    def _refuse_installed(self, installed: Plugins) -> None:
        taken = None
        with suppress(metadata.PackageNotFoundError):
            taken = f"the distribution {self.name!r} {metadata.version(self.name)} is installed"
        spec = None if taken else find_spec(self.module)
        if spec is not None and spec.origin is not None:  # a folder alone has none
            taken = f"the module {self.module!r} is installed ({spec.origin})"
        for plugin in installed.records:
            if plugin.name == self.component:
                taken = f"{plugin.distribution} has a plugin {self.component!r}"
            for kind in self.kinds:
                if self.component in plugin.offers.get(kind.name, ()):
                    taken = f"{plugin.distribution} has a {kind.name} {self.component!r}"
        if "command" in {kind.name for kind in self.kinds} and self.component in OWN_COMMANDS:
            taken = f"hydrakit has a command {self.component!r}"
        if taken:
            raise PluginError(f"{self.name!r} cannot be used, since {taken}: choose another name")

    def files(self) -> dict[str, str]:
        """The text of each file, by its path in the folder of the distribution."""
        values = self._values()
        names = {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            ".gitignore": "gitignore",
            ".github/workflows/test.yml": "test.yml",
            f"{self.module}/__init__.py": "__init__.py",
            "tests/test_plugin.py": "test_plugin.py",
        }
        for kind in self.kinds:
            names[f"{self.module}/{kind.name}.py"] = f"{kind.name}.py"
            names[f"tests/test_{kind.name}.py"] = f"test_{kind.name}.py"
        if self.licence is not None:
            names["LICENSE"] = self.licence
        texts = {path: _filled(template, values) for path, template in names.items()}
        return texts | {f"{self.module}/py.typed": ""}

    def _values(self) -> dict[str, str]:
        """What differs between plugins, by its name in the templates."""
        names = {
            "distribution": self.name,
            "module": self.module,
            "component": self.component,
            "what": f"{self.what} {self.component}",
            "versions": _version_range(version()),
            "api": str(API),
            "year": str(date.today().year),
            "author": self.author or "",
        }
        by_name = sorted(self.kinds, key=lambda kind: kind.name)
        return names | {
            "imports": "\n".join(
                f"from {self.module}.{kind.name} import {kind.hook}" for kind in by_name
            ),
            "hooks": "\n".join(f'    "{kind.hook}",' for kind in sorted(by_name, key=_hook)),
            "offers": "\n".join(
                f'        "{kind.name}": ("{self.component}",),'
                for kind in KINDS
                if kind in self.kinds
            ),
            "sections": "".join(_filled(f"{kind.name}.md", names) for kind in self.kinds),
            "licence_lines": self._licence_lines(),
            "licence_advice": _ADVICE if self.licence is None else _LICENSED,
        }

    def _licence_lines(self) -> str:
        """The lines of ``pyproject.toml`` about licence and author."""
        lines = ""
        if self.licence is not None:
            lines += f'license = "{self.licence}"\nlicense-files = ["LICENSE"]\n'
        if self.author is not None:  # JSON text is TOML text
            lines += f"authors = [{{ name = {json.dumps(self.author, ensure_ascii=False)} }}]\n"
        return lines


_ADVICE = (
    "Choose a licence: without one, nobody may use your code. Add its text as `LICENSE`, and "
    '`license = "MIT"`\n   (its SPDX name) to `pyproject.toml`.'
)
_LICENSED = "Check that you may publish it under the licence in [LICENSE](LICENSE)."


def _hook(kind: ComponentKind) -> str:
    return kind.hook


def _filled(template: str, values: Mapping[str, str]) -> str:
    """The text of a template with its names replaced."""
    path = resources.files(__package__).joinpath("templates", f"{template}.tmpl")
    return Template(path.read_text(encoding="utf-8")).substitute(values)


def _ignored() -> list[str]:
    """Names in the folder of a plugin that its ``.gitignore`` hides; hatchling obeys it."""
    lines = _filled("gitignore", {}).splitlines()
    return [line.strip("/") for line in lines if line and not line.startswith("#")]


def _temporary_name() -> str:
    return f".{token_hex(8)}"


def _version_range(current: str) -> str:
    """The versions of hydrakit that a plugin written by this one works with."""
    major, minor = (int(part) for part in re.findall("[0-9]+", current)[:2])
    return f">={major}.{minor},<{major}.{minor + 1}"


def refuse_folder(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        PluginError: It is a file, it is not empty, or it cannot be read.
    """
    with writable(folder, "choose another folder", error=PluginError):
        if not folder.exists() and not folder.is_symlink():
            return
        if not folder.is_dir():
            raise PluginError(f"{folder}: is no folder: choose another one")
        names = sorted(path.name for path in folder.iterdir())
        left = next(filter(_TEMPORARY.fullmatch, names), None)  # of a process that was killed
        if left is not None and len(names) == 1:
            raise PluginError(f"{folder}: holds {left}: delete it, or choose another folder")
        if names:
            also = "" if left is None else f" and holds {left}, which an interrupted command left"
            raise PluginError(f"{folder}: is not empty{also}: choose an empty folder, or a new one")


def write_plugin(plugin: NewPlugin, folder: Path) -> None:
    """Write the files of a plugin into a new or empty folder: all of them, or none.

    They get a temporary folder, and are moved together: the folder itself if it is new, else its
    content, since an empty one may be the working folder of a shell.

    Raises:
        PluginError: The folder cannot be written.
    """
    refuse_folder(folder)
    files = plugin.files()
    empty = folder.is_dir()
    temporary = folder / _temporary_name() if empty else folder.with_name(_temporary_name())
    moved: list[Path] = []
    with writable(folder, "choose another folder", error=PluginError):
        try:
            for name, text in files.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            if not empty:
                temporary.rename(folder)
                return
            for each in sorted(temporary.iterdir()):
                moved.append(each.rename(folder / each.name))
            temporary.rmdir()
        except BaseException:
            _remove([temporary, *moved])
            raise


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
