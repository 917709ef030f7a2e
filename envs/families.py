"""Finding a taskset class: by a short name, by the name a plug-in package gave it, or by its import path.

search                    ->  envs.search.taskset.SearchTaskset
my_module.MyTaskset       ->  that class      (``my_module:MyTaskset`` is the same)

An installed package offers short names with the entry point group ``speciale_rl.envs``::

    [project.entry-points."speciale_rl.envs"]
    chess = "my_package.chess:ChessTaskset"

after which ``envs-check chess``, ``env=plugin env.name=chess`` and ``MixTaskset(families={"chess": 1})`` work.
The names below come first: no package can change what they mean.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from typing import Any

from envs.taskset import Split, Taskset

FAMILIES: dict[str, str] = {
    # easy tiers: for a policy of a million parameters
    "search": "envs.search.taskset.SearchTaskset",
    "voyage": "envs.search.voyage.VoyageTaskset",
    "code": "envs.code.taskset.CodeTaskset",
    "interpreter": "envs.interpreter.taskset.InterpreterTaskset",
    "agent": "envs.agent.taskset.AgentTaskset",
    # derivations: how much to think, and how to judge what was thought
    "chain": "envs.reasoning.chain.ChainTaskset",
    "seek": "envs.reasoning.seek.SeekTaskset",
    "prove": "envs.proof.taskset.ProveTaskset",
    "refine": "envs.proof.taskset.RefineTaskset",
    "verify": "envs.proof.taskset.VerifyTaskset",
    "assess": "envs.proof.taskset.AssessTaskset",
    # hard tiers: from real material, for real models
    "wiki": "envs.search.wiki.WikiTaskset",
    "repo": "envs.code.repo.RepoTaskset",
    "releases": "envs.code.releases.ReleasesTaskset",
    "notebook": "envs.interpreter.notebook.NotebookTaskset",
    "general": "envs.agent.general.taskset.GeneralTaskset",
    "worlds": "envs.agent.grammar.taskset.WorldsTaskset",
    "reasoning": "envs.reasoning.taskset.ReasoningTaskset",
    "humaneval": "envs.code.humaneval.HumanEvalTaskset",
    # made of others, or of files
    "mix": "envs.mixture.MixTaskset",
    "curriculum": "envs.curriculum.CurriculumTaskset",
    "built": "envs.built.BuiltTaskset",
    "dataset": "envs.dataset.DatasetTaskset",
    "own_agent": "envs.own_agent.OwnAgentTaskset",
    # formats that people have on disk
    "swe_rows": "envs.foreign.swe_rows.SweRowsTaskset",
    "terminal_tasks": "envs.foreign.terminal_tasks.TerminalTaskset",
    "bfcl": "envs.foreign.bfcl.BfclTaskset",
    # for a small chat model
    "exercise": "envs.exercises.ExerciseTaskset",
}

# Task sets that somebody may ask for and that are not loaded: why
REFUSED: dict[str, str] = {
    "tau2": "the package of tau2-bench is on no index, and its tasks need a user whom a language model plays "
    "(docs/foreign_tasks.md)",
}

# DeepSeek-V3.2's four families, and the name of the hard tier of each
HARD: dict[str, str] = {"search": "wiki", "code": "repo", "interpreter": "notebook", "agent": "worlds"}

ENTRY_POINTS = "speciale_rl.envs"


def taskset_class(name: str) -> type[Taskset]:
    """The Taskset class of a short name or an import path. Raises ValueError that says what is wrong."""
    path = name.replace(":", ".")
    if "." not in path:
        path = (FAMILIES.get(name) or _plugins().get(name) or name).replace(":", ".")
    module_name, _, class_name = path.rpartition(".")
    if not module_name and name in REFUSED:
        raise ValueError(f"no taskset {name!r}: {REFUSED[name]}")
    if not module_name:
        raise ValueError(f"no taskset {name!r}: give one of {', '.join(known())}, or package.module.ClassName")
    try:
        found: Any = getattr(importlib.import_module(module_name), class_name, None)
    except ModuleNotFoundError as error:
        # a module that exists but imports something missing is another mistake than a wrong path
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ValueError(
            f"no taskset {name!r}: there is no module {error.name!r}; "
            "is it on the Python path (run from its folder, or install it)?"
        ) from error
    if found is None:
        raise ValueError(f"no taskset {name!r}: module {module_name!r} has no {class_name!r}")
    if not (inspect.isclass(found) and issubclass(found, Taskset)):
        raise ValueError(f"{name!r} is {found!r}, not a subclass of envs.taskset.Taskset")
    return found


def known() -> list[str]:
    """Every short name: the ones of this package, then those of installed plug-ins."""
    return [*FAMILIES, *(name for name in _plugins() if name not in FAMILIES)]


def names_of(cls: type[Taskset]) -> list[str]:
    """Names by which ``taskset_class`` finds a class: short ones first, its import path last."""
    path = f"{cls.__module__}.{cls.__qualname__}"
    return [*(name for name, own in {**_plugins(), **FAMILIES}.items() if own.replace(":", ".") == path), path]


def open_plugin(name: str, split: Split = "train", seed: int = 0, size: int | None = None, **settings: Any) -> Taskset:
    """The taskset of any name that ``taskset_class`` knows: what ``env=plugin env.name=NAME`` makes."""
    return taskset_class(name)(split=split, seed=seed, size=size, **settings)


def _plugins() -> dict[str, str]:
    """Import paths by the names that installed packages gave them. Raises ValueError for a name given twice."""
    found: dict[str, str] = {}
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda p: (p.name, p.value)):
        if found.setdefault(point.name, point.value) != point.value:
            raise ValueError(
                f"two installed packages offer the taskset {point.name!r} ({found[point.name]} and {point.value}): "
                "give the import path instead of the name"
            )
    return found
