"""The site of docs/ builds without a warning, has every page in its reading order, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("mkdocs", reason="the extra docs is not installed; run: make setup")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_there_and_index_comes_first(site: Path) -> None:
    pages = {p.stem for p in (ROOT / "docs").glob("*.md")}
    assert {p.stem for p in site.glob("*.html")} == pages | {"404"}
    order = re.findall(r"^\s+- .*?(\w+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert order[0] == "index"
    reading = ["index", "environments", "models", "recipe", "configuration"]
    assert [name for name in order if name in reading] == reading


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    html = "\n".join(p.read_text() for p in site.glob("*.html"))
    assert re.findall(r'(?:<script[^>]*src|<link[^>]*href|<img[^>]*src)="?https?://[^">\s]+', html) == []


def test_diagrams_are_left_to_the_script(site: Path) -> None:
    assert '<pre class="mermaid"><code>flowchart' in (site / "architecture.html").read_text()


def test_no_money_is_taken_for_a_formula(site: Path) -> None:
    # "$0.0032 beside … $0.06" has dollars in pairs.
    assert "$0.0032" in (site / "cost.html").read_text()
    assert "<math" not in (site / "cost.html").read_text()


def test_formulas_become_mathml(hooks: ModuleType) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_path="page.md"))
    inline = hooks.on_page_content('<p><span class="arithmatex">\\(r_t &lt; 1\\)</span></p>', page)
    assert re.fullmatch(r'<p><math [^>]*display="inline">.*<msub><mi>r</mi><mi>t</mi></msub>.*</math></p>', inline)
    block = hooks.on_page_content('<div class="arithmatex">\\[\n\\frac{1}{G}\n\\]</div>', page)
    assert re.fullmatch(r'<math [^>]*display="block">.*<mfrac>.*</math>', block)
    with pytest.raises(ValueError, match=r"page.md: unknown command \\nosuch"):
        hooks.on_page_content('<span class="arithmatex">\\(\\nosuch\\)</span>', page)
