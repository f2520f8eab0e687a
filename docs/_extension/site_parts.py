"""What Sphinx does to the pages: generated parts, links to files outside of docs/, JSON schemas."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from reference import expand, schemas
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parent.parent.parent


def insert_generated(app: Sphinx, docname: str, content: list[str]) -> None:
    """Put the generated parts of a page where its comments name them."""
    content[0] = expand(content[0])


class OutsideLinks(SphinxTransform):
    """Links to files of the repository that are no pages lead to the repository."""

    default_priority = 200

    def apply(self, **kwargs: Any) -> None:
        """Replace the links of a page."""
        page = Path(self.env.doc2path(self.env.docname))
        for node in list(self.document.findall(_is_link)):
            path, _, anchor = node["reftarget"].partition("#")
            anchor = node.get("reftargetid") or anchor
            target = Path(os.path.normpath(page.parent / path))
            if node.get("refdomain") == "doc":  # the name of a page, without its suffix
                target = target.with_name(f"{target.name}.md")
            if target.is_relative_to(self.env.srcdir) or not target.exists():
                continue  # a page, or a link that Sphinx complains of
            address = self._address(target) + (f"#{anchor}" if anchor else "")
            node.replace_self(nodes.reference("", "", *node.children, refuri=address))

    def _address(self, target: Path) -> str:
        path = target.relative_to(ROOT).as_posix()
        if self.config.repository:
            return f"{self.config.repository}/{self.config.repository_files}/{path}"
        page = Path(self.app.outdir, self.app.builder.get_target_uri(self.env.docname))
        return Path(os.path.relpath(target, page.parent)).as_posix()


def _is_link(node: nodes.Node) -> bool:
    kinds = (addnodes.pending_xref, addnodes.download_reference)
    return isinstance(node, kinds) and node.get("reftype") == "myst"


def tidy_signature(  # noqa: PLR0917 - an event of Sphinx
    app: Sphinx,
    what: str,
    name: str,
    described: Any,
    options: Any,
    text: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """A signature that is Python: defaults by name, and none where a class is only a protocol."""
    if text is None:
        return None
    if text == "(*args, **kwargs)":
        return "", returned
    text = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", text)
    return text.replace("<factory>", "..."), returned


def name_attributes(app: Sphinx, document: nodes.document) -> None:
    """Call the fields of a class what its docstring calls them; Sphinx says variables."""
    for name in document.findall(nodes.field_name):
        if name.astext() == "Variables":
            name.children = [nodes.Text("Attributes")]


def write_schemas(app: Sphinx, error: Exception | None) -> None:
    """Write the JSON schemas of all files beside the pages."""
    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir, "schemas")
    folder.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of this with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_config_value("repository", "", "env", str)
    app.add_config_value("repository_files", "blob/main", "env", str)
    app.connect("source-read", insert_generated)
    app.connect("autodoc-process-signature", tidy_signature)
    app.connect("doctree-read", name_attributes)
    app.connect("build-finished", write_schemas)
    app.add_transform(OutsideLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
