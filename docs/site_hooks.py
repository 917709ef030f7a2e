"""What mkdocs.yml cannot say.

Formulas become MathML when the site is built, so no page needs a script for them. The script of the diagrams is our
own copy where `make docs-mermaid` has fetched one.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

MERMAID = "vendor/mermaid.min.js"
# How pymdownx.arithmatex (generic) marks LaTeX: \(…\) in a span, \[…\] in a div.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the local mermaid if it was fetched; the theme loads its own otherwise, in the reader's browser."""
    if (Path(config.docs_dir) / MERMAID).is_file():
        config.extra_javascript.append(MERMAID)
    return config


def on_page_content(content: str, page: Page, **_: object) -> str:
    """LaTeX to MathML. A formula that cannot be read ends the build, with the page and the formula."""

    def mathml(match: re.Match[str]) -> str:
        latex = html.unescape(match[2]).strip()
        made: str = convert(latex, display="block" if match[1] == "div" else "inline")
        if unknown := re.search(r"\\\w+", made):  # the converter lets a command that it does not know stand
            raise ValueError(f"{page.file.src_path}: unknown command {unknown[0]} in the formula {latex!r}")
        return made

    return FORMULA.sub(mathml, content)
