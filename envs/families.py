"""Finding a taskset class: by the short name of a family, or by its import path.

search                    ->  envs.search.taskset.SearchTaskset
my_module.MyTaskset       ->  that class      (``my_module:MyTaskset`` is the same)
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from envs.taskset import Taskset

FAMILIES: dict[str, str] = {
    "search": "envs.search.taskset.SearchTaskset",
    "wiki": "envs.search.wiki.WikiTaskset",
    "code": "envs.code.taskset.CodeTaskset",
    "interpreter": "envs.interpreter.taskset.InterpreterTaskset",
    "agent": "envs.agent.taskset.AgentTaskset",
    "mix": "envs.mixture.MixTaskset",
}


def taskset_class(name: str) -> type[Taskset]:
    """The Taskset class of a short name or an import path. Raises ValueError that says what is wrong."""
    path = FAMILIES.get(name, name).replace(":", ".")
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise ValueError(f"no taskset {name!r}: give one of {', '.join(FAMILIES)}, or package.module.ClassName")
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
