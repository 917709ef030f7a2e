"""Small packages made on the spot, as ``envs.code.release_index.Sources`` keeps fetched ones: no network."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from envs.code.release_index import NEEDS, Release, Sources

PKG_INFO = (
    "Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {licence}\n\nFixed: the secret.\n"
)
_RUNS_TESTS = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")

SHAPES = '''"""Shapes."""
import math
from vine.words import plural


def area(width, height):
    """The area of a rectangle."""
    return width {sign} height


class Square:
    """A square of some side."""

    def __init__(self, side):
        self.side = side

    def perimeter(self):
        """Four sides."""
        sides = [self.side] * 4
        total = 0
        for side in sides:
            total += side
        return total

    def describe(self):
        return {describe}


def diagonal(width, height):
    """The distance between opposite corners."""
    return {diagonal}


def unused(value):
    return {unused}
'''
WORDS = '''"""Words."""


def plural(word, count):
    """A word with its number: 1 apple, 2 apples."""
    number = str(count)
    ending = "{ending}"
    if count == 1:
        ending = ""
    return number + " " + word + ending
'''
TESTS = """
import pytest
from vine.shapes import Square, area, diagonal
from vine.words import plural


def test_area_of_a_rectangle():
    assert area(3, 5) == 15


@pytest.mark.parametrize(("side", "expected"), [(1, 4), (2, 8)])
def test_perimeter(side, expected):
    assert Square(side).perimeter() == expected


class TestWords:
    def test_plural_of_many_words(self):
        assert plural("apple", 3) == "3 apples"

    def test_plural_of_one(self):
        assert plural("apple", 1) == "1 apple"


def test_area_of_nothing():
    assert area(0, 0) == 0


def test_side():
    assert Square(3).side == 3


def test_describe_a_square():
    assert Square(2).describe() == "2 by 2"


def test_diagonal():
    assert diagonal(3, 4) == pytest.approx(5)


def test_area_refuses_text():
    with pytest.raises(TypeError):
        area("a", "b")
"""
NEW = {
    "src/vine/__init__.py": '__version__ = "1.1.0"\n',
    "src/vine/shapes.py": SHAPES.format(
        sign="*", describe='f"{self.side} by {self.side}"', diagonal="math.hypot(width, height)", unused="value + 2"
    ),
    "src/vine/words.py": WORDS.format(ending="s"),
    "tests/test_vine.py": TESTS,
    "CHANGELOG.md": "# 1.1.0\n\n- The area of a rectangle is no longer the sum of its sides.\n# 1.0.0\n",
}
OLD = {
    "src/vine/__init__.py": '__version__ = "1.0.0"\n',
    "src/vine/shapes.py": "def _corner(*a):\n    return 0\n\n\n"
    + SHAPES.format(sign="+", describe="str(self.side)", diagonal="_corner(width, height)", unused="value + 1"),
    "src/vine/words.py": WORDS.format(ending="es").replace('"""Words."""', '"""Words, of old."""'),
    "CHANGELOG.md": "# 1.0.0\n",
}


def sdist(name: str, version: str, files: Mapping[str, str], licence: str = "MIT") -> bytes:
    """The archive of one release."""
    content = {"PKG-INFO": PKG_INFO.format(name=name, version=version, licence=licence), **files}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in content.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def add(
    folder: Path, name: str, releases: Mapping[str, tuple[str, Mapping[str, str]]], licence: str = "MIT"
) -> Sources:
    """Put ``{version: (date, files)}`` of a package into a folder of sources."""
    rows = []
    for version, (date, files) in releases.items():
        packed = sdist(name, version, files, licence)
        release = Release(
            name, version, f"{date}T00:00:00Z", f"{name}-{version}.tar.gz", "", hashlib.sha256(packed).hexdigest(), 9
        )
        path = folder / "sdists" / release.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed)
        rows.append(asdict(release))
    (folder / "index").mkdir(exist_ok=True)
    (folder / "index" / f"{name}.json").write_text(json.dumps(rows))
    return Sources.at(folder)


def site(folder: Path) -> None:
    """What runs tests, as links to what is installed here; and an installed copy of vine, which nobody may see."""
    digest = hashlib.sha256(NEEDS.read_bytes() + repr(sys.version_info[:3]).encode()).hexdigest()[:12]
    place = folder / f"site-{digest}"
    place.mkdir(parents=True)
    for name in _RUNS_TESTS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            (place / name).symlink_to(origin.parent)
        else:
            (place / origin.name).symlink_to(origin)
    (place / "vine").mkdir()
    (place / "vine" / "__init__.py").write_text("SECRET = 1\n")
