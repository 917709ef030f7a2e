"""Hidden tests of the repo family: the examples of a docstring with other values in them.

    variant_of(doctest, 2)      >>> list(take(2, [10, 20, 30]))   ->   >>> list(take(3, [21, 20, 31]))

A policy reads the docstrings, so it could know their examples by heart, or have its code look them up. What a variant
must print is in no file: the unbroken package prints it once, in a sandbox of its own (``repo_base.record``), and the
answer stays on this side. Equal values change alike within one variant, so that keys still fit. Variants depend
on the docstring alone.
"""

from __future__ import annotations

import ast
import doctest
import random
from dataclasses import replace

from envs.code.repo_packages import Doctest
from envs.syntax import parse

VARIANTS = 4  # of each docstring, as far as its package can run them
MARK = "#"  # path::name#2 is the second variant of path::name


def is_variant(test: str) -> bool:
    return MARK in test


def original_of(test: str) -> str:
    """The docstring's own id."""
    return test.partition(MARK)[0]


def file_of(test: str) -> str:
    """The path of a test's file."""
    return original_of(test).partition("::")[0]


def variant_of(test: Doctest, number: int) -> Doctest | None:
    """Variant ``number`` of a docstring's examples; None when there is nothing in them to change."""
    rng = random.Random(f"{test.id}{MARK}{number}")
    trees = [parse(example.source) for example in test.examples]
    found = {_key(node): node.value for tree in trees for node in _constants(tree)}
    if not found:
        return None
    chosen = [key for key in found if rng.random() < 0.6] or [rng.choice(list(found))]
    texts = [value for value in found.values() if isinstance(value, str)]
    other = {key: _another(rng, found[key], texts) for key in chosen}
    examples = []
    for example, tree in zip(test.examples, trees, strict=True):
        for node in _constants(tree):
            node.value = other.get(_key(node), node.value)
        source = ast.unparse(tree) + "\n"
        examples.append(doctest.Example(source, "", example.exc_msg, example.lineno, 0, example.options))
    if all(new.source == old.source for new, old in zip(examples, test.examples, strict=True)):
        return None
    return replace(test, id=f"{test.id}{MARK}{number}", examples=tuple(examples))


def variants(test: Doctest) -> list[Doctest]:
    """All variants of a docstring's examples that differ from each other."""
    made = [variant_of(test, number) for number in range(1, VARIANTS + 1)]
    return list({tuple(e.source for e in one.examples): one for one in made if one is not None}.values())


def _constants(tree: ast.AST) -> list[ast.Constant]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [node for node in nodes if type(node.value) in (int, float, str)]


def _key(node: ast.Constant) -> tuple[str, object]:
    return type(node.value).__name__, node.value


def _another(rng: random.Random, value: object, texts: list[str]) -> int | float | str:
    """A value of the same type that is near, so that the example still makes sense."""
    if isinstance(value, str):
        ways = [value + value[-1:], value[::-1], value[1:], value + "s", value.swapcase(), f"{value}_{value}"]
        return rng.choice([*ways, *(text for text in texts if text != value)])
    if isinstance(value, int):
        return max(rng.choice([value - 2, value - 1, value + 1, value + 2, value + 3, 2 * value + 1]), 0)
    assert isinstance(value, float)
    return rng.choice([value + 1.0, value / 2, value * 1.5])
