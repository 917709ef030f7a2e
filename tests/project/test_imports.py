"""The rooms stand as docs/architecture.md says: no import circle, no room that reaches up, no two modules of one name.

The graph is read from the sources: every import of a file counts, inside functions too; ``if TYPE_CHECKING`` does not.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOPS = ("envs", "rewards", "rl", "configs")
# A room imports from itself and from the rooms named here, and from COMMON (not so envs, rewards and COMMON itself).
ALLOWED: dict[str, set[str]] = {
    "envs": set(),
    "rewards": set(),
    "rl.types": set(),
    "rl.bounds": set(),
    "rl.chat": set(),
    "rl.policy": set(),
    "rl.objective": set(),
    "rl.evaluation": set(),
    "rl.bases": set(),
    "rl.doctor": set(),
    "rl.proof": {"rewards", "rl.evaluation"},
    "rl.tracking": {"configs", "rewards", "rl.doctor", "rl.evaluation"},
    "rl.rollout": {"rewards", "rl.chat", "rl.policy", "rl.tracking"},
    "rl.learner": {"rl.chat", "rl.policy", "rl.objective", "rl.tracking"},
    "rl.data": {"rewards", "rl.chat", "rl.rollout"},
    "rl.run": {"rewards", "rl.chat", "rl.doctor", "rl.policy", "rl.tracking", "rl.rollout"},
    "rl.view": {"rl.objective", "rl.run", "rl.tracking"},
    "rl.recipes": {"rewards", "rl.chat", "rl.policy", "rl.learner", "rl.proof", "rl.tracking", "rl.rollout", "rl.data",
                   "rl.run"},
    "rl.commands": {"configs", "rewards", "rl.data", "rl.learner", "rl.policy", "rl.recipes", "rl.rollout", "rl.run",
                    "rl.tracking", "rl.view"},
    "configs": {"rewards", "rl.data", "rl.learner", "rl.objective", "rl.proof", "rl.rollout", "rl.tracking",
                "rl.chat"},
}  # fmt: skip
COMMON = {"envs", "rl", "rl.types", "rl.bounds"}
HEAVY = ("torch", "vllm", "ray", "transformers", "datasets", "wandb")
# Names that mean the same in every room: the nouns of a room, its settings, a family's tasks; and a command is named
# like the recipe that it runs.
SHARED = {"__init__", "__main__", "types", "config", "taskset", "environment"}


@cache
def files() -> dict[str, Path]:
    found = {}
    for top in TOPS:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, *, inner: bool = True) -> set[str]:
    """Modules named by the import statements of ``module``; ``inner``: those inside functions too."""
    path = files()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inner:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{origin}.{a.name}" if f"{origin}.{a.name}" in files() else origin for a in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@cache
def graph() -> dict[str, set[str]]:
    return {module: {name for name in imports(module) if name in files()} - {module} for module in files()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node: nodes that reach each other."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(edges[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += edges[node]
        return seen

    reached = {node: reach(node) for node in edges}
    found = {frozenset(o for o in reached[n] if n in reached[o]) for n in edges if n in reached[n]}
    return sorted(sorted(circle) for circle in found)


def test_a_circle_would_be_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_no_import_circle() -> None:
    assert len(graph()) > 250
    assert circles(graph()) == []


def room(module: str) -> str:
    top, _, rest = module.partition(".")
    return f"rl.{rest.partition('.')[0]}" if top == "rl" and rest else top


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_a_room_imports_only_what_it_may(name: str) -> None:
    alone = {"envs": set(), "rewards": {"envs"}, "rl.types": {"envs"}, "rl.bounds": set()}
    common = alone.get(name, COMMON)
    wrong = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        if room(module) == name
        for target in targets
        if room(target) not in {name, *common, *ALLOWED[name]}
    ]
    assert wrong == []


def test_every_room_is_known() -> None:
    assert {room(module) for module in files()} - {"rl"} == set(ALLOWED)


def test_the_root_of_rl_holds_nouns_and_bounds_only() -> None:
    assert sorted(p.name for p in (ROOT / "rl").glob("*.py")) == ["__init__.py", "bounds.py", "types.py"]


@pytest.mark.parametrize(("rooms", "banned"), [
    (("envs", "rewards"), ("torch", "vllm", "ray", "transformers")),
    (("rl.policy", "rl.objective", "rl.learner"), ("ray", "vllm")),
    (("configs", "rl.commands"), HEAVY),
])  # fmt: skip
def test_heavy_libraries_stay_out(rooms: tuple[str, ...], banned: tuple[str, ...]) -> None:
    """envs and rewards never import them; the others not when they are loaded."""
    inner = rooms[0] == "envs"
    wrong = [
        f"{module} imports {name}"
        for module in files()
        if room(module) in rooms
        for name in imports(module, inner=inner)
        if name.partition(".")[0] in banned
    ]
    assert wrong == []


def test_the_schema_loads_no_actor_and_no_engine() -> None:
    seen: set[str] = set()
    todo = ["configs.schema"]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += [name for name in imports(module, inner=False) if name in files()]
    assert len(seen) < 30
    assert not [m for m in seen if any(word in m for word in ("actor", "engine", "worker", "pool", "learner.learner"))]


def test_no_two_modules_of_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in files().items():
        if path.stem not in SHARED and "sandbox.packages" not in module:
            places[path.stem].append(module)
    commands = {"rl.commands": 0, "rl.recipes": 1}
    clashes = {
        stem: sorted(modules)
        for stem, modules in places.items()
        if len(modules) > 1 and {m.rpartition(".")[0] for m in modules} != set(commands)
    }
    assert clashes == {}


def test_the_table_of_rooms_says_what_is_imported() -> None:
    """The last column of docs/architecture.md's table; what every room imports (COMMON) is left out."""
    rows = re.findall(r"^\| `([\w/.]+)` \|[^|]*\| ([^|]*) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    told = {name.removesuffix(".py").rstrip("/").replace("/", "."): cell for name, cell in rows}
    used: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for module, targets in graph().items():
        if (name := room(module)) in used:
            used[name] |= {room(t) for t in targets} - {name} - COMMON
    said = {
        name: {w if w in ("rewards", "configs") else f"rl.{w}" for w in re.findall(r"\w+", told[name])} for name in used
    }
    assert said == used
