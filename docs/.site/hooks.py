"""Give mkdocs the pages that are outside `docs/`, with links and anchors as GitHub has them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT: Final = Path(__file__).parents[2]
_OUTSIDE: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""The page of each file in the root of the repository."""
_LINK: Final = re.compile(r"\[(?P<text>[^\]]*)\]\((?!\w+:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> None:
    """Make the anchors of headings those that links between the files use."""
    config.mdx_configs["toc"] = {"slugify": _slug, "permalink": True, "toc_depth": 3}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from outside the folder."""
    for name, page in _OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(_ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_context: object) -> str:
    """Turn links between files of the repository into links between pages; mkdocs reports those that lead nowhere."""
    names = {page: name for name, page in _OUTSIDE.items()}
    source = names.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewrite(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["path"]))
        found = _OUTSIDE.get(target) or posixpath.relpath(target, "docs")
        if found.startswith("../") and (_ROOT / target).exists():
            # A file that is no page: its name must do.
            return link["text"]
        anchor = f"#{_identifier(link['anchor'][1:])}" if link["anchor"] else ""
        return f"[{link['text']}]({found}{anchor})"

    # Python-Markdown shows the backslash of an escape that it does not need.
    return _LINK.sub(rewrite, markdown).replace("\\<", "&lt;")


def _slug(heading: str, separator: str) -> str:
    return _identifier(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator))


def _identifier(anchor: str) -> str:
    # With a digit first it is no selector of CSS, and the script of the theme stops there.
    return f"_{anchor}" if anchor[:1].isdigit() else anchor
