"""What the pages point to exists: links, files, functions and tests; and no page names a place of one machine."""

from __future__ import annotations

import importlib.util
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


def test_the_list_of_modules_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_modules", ROOT / "docs" / "make_modules.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert (ROOT / "docs" / "modules.md").read_text() == made.page(), "run: python docs/make_modules.py"
    modules = [p for top in ("rl", "rewards", "envs") for p in (ROOT / top).rglob("*.py") if p.name != "__init__.py"]
    assert [str(p) for p in modules if not made.sentence(p)] == []


def test_the_walk_names_at_most_ten_files_and_six_hops() -> None:
    """docs/architecture.md follows one task from the command to the weight update."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    walk = text[text.index("## One task's way") : text.index("## Rules of the data")]
    walk = walk[: walk.index("`examples/")]
    files = set(re.findall(r"`(rl/[\w/]+\.py)`", walk))
    assert len(files) <= 10
    assert all((ROOT / file).is_file() for file in files)
    (chain,) = re.findall(r"`(train → [^`]+)`", walk)
    assert len(chain.split(" → ")) - 1 <= 6
    named = {Path(file).stem for file in files}
    assert named == {*chain.split(" → "), "pool", "worker", "rollout"}
    assert len(text.splitlines()) <= 150
