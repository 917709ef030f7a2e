"""What the pages point to exists: links, files, functions and tests; and no page names a place of one machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if p.exists())
TESTS = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))


def defines(dotted: str) -> bool:
    """Whether a module, or a class, function, method or attribute of one, exists at ``dotted`` (read, not imported)."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:n])
        if n == len(parts) and (path.is_dir() or path.with_suffix(".py").is_file()):
            return True
        if path.with_suffix(".py").is_file():
            source = path.with_suffix(".py").read_text()
            return all(re.search(rf"^\s*((async )?def|class) {p}\b|\b{p}\s*[:=]", source, re.M) for p in parts[n:])
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_places(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    assert not re.findall(r"(?<![\w.])/(?:home|root|work|Users)/\w+", text)


@pytest.mark.parametrize("page", ["recipe.md", "self_verification.md"])
def test_a_page_of_rules_names_what_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    missing = [name for name in re.findall(r"::(test_\w+)", text) if f"def {name}(" not in TESTS]
    missing += [path for path in re.findall(r"`(tests/[\w/]+\.py)", text) if not (ROOT / path).is_file()]
    missing += [name for name in re.findall(r"`((?:rl|rewards|envs)\.[\w.]+)`", text) if not defines(name)]
    assert missing == []


def test_the_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = [p for p in ROOT.glob("rl/**/*.py") if p.name != "__init__.py"]
    modules += [p for p in (*ROOT.glob("rewards/*.py"), *ROOT.glob("envs/*.py")) if p.name != "__init__.py"]
    assert [str(p.relative_to(ROOT)) for p in modules if f"`{p.name}`" not in text] == []
