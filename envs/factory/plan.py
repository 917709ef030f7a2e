"""What is to be built: which families, how many tasks of each split, and what decides whether a task is kept.

    plan = plan_of({"family": "search", "n": 50275})
    plan.sources[0].target      "envs.search.wiki.WikiTaskset": the hard tier, unless tier="easy"
    plan.parts                  (source 0, train, 50,275 tasks) and (source 0, heldout, 500 tasks)

Everything that decides the result is in the plan, and nothing else: the same plan gives the same data set
with any number of workers, interrupted or not.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from envs.families import FAMILIES, HARD, taskset_class
from envs.taskset import Split

# The numbers of tasks that DeepSeek-V3.2's report gives for its four agent families
MIXES: dict[str, dict[str, int]] = {"v32": {"code": 24_667, "search": 50_275, "agent": 4_417, "interpreter": 5_908}}

NOT_BUILT = ("mix", "curriculum", "built", "dataset")  # serve tasks of others
SPLITS: dict[str, tuple[Split, ...]] = {"train": ("train",), "heldout": ("heldout",), "both": ("train", "heldout")}


@dataclass(frozen=True)
class Source:
    """One family of the data set: the taskset that makes its tasks and later plays them."""

    name: str  # as it was asked for
    target: str  # import path of the Taskset class
    settings: dict[str, Any]  # its keywords
    version: int  # Taskset.version when it was built


@dataclass(frozen=True)
class Part:
    """A number of tasks of one split of one source."""

    source: int
    split: Split
    wanted: int


@dataclass(frozen=True)
class Plan:
    sources: tuple[Source, ...]
    parts: tuple[Part, ...]
    seed: int = 0
    keep: str = ""  # import path of keep(task, taskset) -> why not, or None
    keep_settings: dict[str, Any] = field(default_factory=dict)  # its further keywords
    verify_s: float = 300.0  # seconds that making or verifying one task may take
    patience: int = 2000  # candidates in a row without a task that is kept, after which a part has run out
    build_s: float = 0.0  # seconds of building after which a part ends with what it has; 0: none

    def to_json(self) -> dict[str, Any]:
        raw = asdict(self)
        raw["sources"], raw["parts"] = list(raw["sources"]), list(raw["parts"])
        return raw

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Plan:
        sources = tuple(Source(**source) for source in raw["sources"])
        return Plan(**{**raw, "sources": sources, "parts": tuple(Part(**part) for part in raw["parts"])})


def plan_of(options: Mapping[str, Any]) -> Plan:
    """The plan of the ``key=value`` words of ``envs-build``; words it does not know go to the taskset.

    Raises ValueError that names the word, its value and the fix.
    """
    rest = dict(options)
    family, mix = rest.pop("family", None), rest.pop("mix", None)
    tier, split = rest.pop("tier", "hard"), rest.pop("split", "both")
    n, heldout, share = rest.pop("n", None), rest.pop("heldout", None), float(rest.pop("share", 1.0))
    shared = {
        name: rest.pop(name)
        for name in ("seed", "keep", "keep_settings", "verify_s", "patience", "build_s")
        if name in rest
    }
    if (family is None) == (mix is None):
        raise ValueError("give either family=NAME or mix=NAME")
    if tier not in ("hard", "easy"):
        raise ValueError(f"tier={tier}: use hard or easy")
    if split not in SPLITS:
        raise ValueError(f"split={split}: use {', '.join(SPLITS)}")
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share={share}: must be above 0 and at most 1")
    if mix is None:
        if n is None or int(n) < 1:
            raise ValueError(f"n={n}: say how many tasks, at least 1")
        wanted, settings = {str(family): int(n)}, {str(family): rest}
    else:
        if mix not in MIXES:
            raise ValueError(f"mix={mix}: use {', '.join(MIXES)}")
        if n is not None:
            raise ValueError(f"n={n}: a mix has its own numbers; scale them with share=0.1")
        wanted, settings = MIXES[mix], dict(rest.pop("settings", {}))
        if unknown := [*rest, *(name for name in settings if name not in wanted)]:
            raise ValueError(f"{unknown[0]}: mix={mix} knows no such word; settings={{...}} has keywords by family")
    sources, parts = [], []
    for number, (name, full) in enumerate(wanted.items()):
        sources.append(source_of(name, tier, settings.get(name, {})))
        count = max(1, round(full * share))
        for one in SPLITS[split]:
            small = max(1, min(500, count // 20)) if heldout is None else int(heldout)
            parts.append(Part(number, one, small if split == "both" and one == "heldout" else count))
    classes = [taskset_class(source.target) for source in sources]
    if len({cls.family for cls in classes}) < len(classes):
        raise ValueError(f"mix={mix}: two of its tasksets have the same Taskset.family: build them apart")
    plan = Plan(tuple(sources), tuple(parts), **shared)
    for name, value, note in (("verify_s", plan.verify_s, ""), ("build_s", plan.build_s, " (0: as long as it takes)")):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: must be a number of seconds, at least 0{note}")
    if plan.keep:
        keep_function(plan)
    return plan


def source_of(name: str, tier: str, settings: Mapping[str, Any]) -> Source:
    """The source of a family's name (of its hard tier, unless ``tier`` is easy), a short name or an import path."""
    resolved = HARD.get(name, name) if tier == "hard" else name
    if resolved in NOT_BUILT:
        raise ValueError(f"family={name}: it serves tasks of others; build {', '.join(HARD)} or one of your own")
    cls = taskset_class(resolved)
    target = FAMILIES.get(resolved) or f"{cls.__module__}.{cls.__qualname__}"
    if taskset_class(target) is not cls:
        raise ValueError(f"family={name}: {target} is not the class itself; it must stand at the top of a module")
    return Source(name, target, dict(settings), cls.version)


def keep_function(plan: Plan) -> Any:
    """What ``keep=`` names. Raises ValueError when there is no such function."""
    module_name, _, name = plan.keep.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name, None) if module_name else None
    except ModuleNotFoundError as error:
        raise ValueError(f"keep={plan.keep}: {error}") from error
    if not callable(found):
        raise ValueError(f"keep={plan.keep}: no such function; give package.module.function")
    return found
