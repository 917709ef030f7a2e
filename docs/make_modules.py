"""Writes docs/modules.md, every module with the first sentence of its docstring: ``python docs/make_modules.py``."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("envs", "rewards", "rl", "configs", "benchmarks", "examples")
HEAD = """# Every module

One line a file, from the first sentence of its docstring. `python docs/make_modules.py` writes this page, and a test
holds it to the code. [architecture.md](architecture.md) says how the rooms stand to each other.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for top in TOPS:
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            parts.append(section(folder))
    return "\n".join(part for part in parts if part)


def section(folder: Path) -> str:
    """One folder: its own docstring, then its modules."""
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    if not modules:
        return ""
    package = folder / "__init__.py"
    about = sentence(package) if package.is_file() else ""
    lines = [f"## {folder.relative_to(ROOT)}/", ""]
    if about:
        lines += [*wrapped(about, ""), ""]
    for module in modules:
        lines += wrapped(f"`{module.name}`: {sentence(module)}", "- ")
    return "\n".join(lines) + "\n"


def sentence(module: Path) -> str:
    """The first sentence of a module's docstring, on one line, in Markdown."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    first = re.split(r"(?<=\.) (?=[A-Z`(])", paragraph, maxsplit=1)[0]
    return first.replace("``", "`").rstrip(":").rstrip()


def wrapped(text: str, bullet: str) -> list[str]:
    """Lines of at most 120 characters."""
    return textwrap.wrap(
        text, 120, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "modules.md"
    target.write_text(page(), encoding="utf-8")
