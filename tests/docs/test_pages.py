"""What the pages point to exists: links, files, functions, tests and fields; formulas that GitHub renders; and no page
names a place of one machine."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if p.exists())
RULES = ("recipe.md", "self_verification.md")  # pages of rules: equation, function, test, field


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


def named_tests(page: str) -> Iterator[tuple[str, str]]:
    """(file, function) of every test that a page names; ``::test_x`` alone is in the file named before it."""
    file = ""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", page):
        file = path or file
        if name:
            yield file, name


def rules(page: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(title, {"function", "test", "field": text}) of every section of a page of rules that has such a list."""
    for section in re.split(r"^#+ ", (ROOT / "docs" / page).read_text(), flags=re.M)[1:]:
        items = re.findall(r"^- (function|test|field):(.*(?:\n  .*)*)", section, re.M)
        if items:
            assert [kind for kind, _ in items] == ["function", "test", "field"], section
            yield section.splitlines()[0], dict(items)


@pytest.mark.parametrize("page", RULES)
def test_a_page_of_rules_names_what_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    missing = [path for path in re.findall(r"`(tests/[\w/]+\.py)", text) if not (ROOT / path).is_file()]
    missing += [
        f"{file}::{name}" for file, name in named_tests(text) if f"def {name}(" not in (ROOT / file).read_text()
    ]
    missing += [name for name in re.findall(r"`((?:rl|rewards|envs)\.[\w.]+)`", text) if not defines(name)]
    assert missing == []
    found = list(rules(page))
    assert found
    for title, rule in found:
        assert re.search(r"`(rl|rewards|envs)\.", rule["function"]), f"{title}: no function"
        assert list(named_tests(rule["test"])), f"{title}: no test"


def test_every_rule_of_the_recipe_has_its_function_test_and_field() -> None:
    text = (ROOT / "docs" / "recipe.md").read_text()
    assert re.findall(r"^### (.*)", text, re.M) == [title for title, _ in rules("recipe.md")]


@pytest.mark.parametrize("page", RULES)
def test_the_fields_of_the_rules_exist(page: str) -> None:
    fields = (ROOT / "docs" / "configuration.md").read_text()
    for title, rule in rules(page):
        for name in re.findall(r"`([a-z_]+(?:\.[a-z_<>]+)+)`", rule["field"]):
            known = f"**`{name}`**" in fields or f"\n### {name}\n" in fields
            parent = name.rsplit(".", 1)[0]
            assert known or f"- **`{parent}`** = `{{" in fields, f"{title}: no field {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_formulas_are_what_github_renders(page: Path) -> None:
    """Fences are closed, braces and environments pair, none that GitHub or Markdown breaks."""
    text = page.read_text()
    blocks = re.findall(r"^```math\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) == text.count("```math")
    for block in blocks:
        bare = re.sub(r"\\[{}]", "", block)
        assert bare.count("{") == bare.count("}"), block
        assert sorted(re.findall(r"\\begin\{(\w+)\}", block)) == sorted(re.findall(r"\\end\{(\w+)\}", block))
        assert len(re.findall(r"\\left\b", block)) == len(re.findall(r"\\right\b", block)), block
        assert "\n\n" not in block, block
        assert not re.search(r"\\(operatorname|newcommand|def|label|ref|href|require|unicode)\b", block), block
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.M | re.S)
    for formula in re.findall(r"\$[^$\d\s][^$]*?\$", prose):
        assert not re.search(r"\\[^a-zA-Z]", formula), f"{formula}: in a line use no {chr(92)} before punctuation"


def test_the_list_of_modules_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_modules", ROOT / "docs" / "make_modules.py")
    assert spec is not None
    assert spec.loader is not None
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
    assert named == {*chain.split(" → "), "pool", "player", "rollout"}
    assert len(text.splitlines()) <= 150
