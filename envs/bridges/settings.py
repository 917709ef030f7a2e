"""Settings of a bridge as they come from Hydra, a command line or Python.

    load_object("my_module:words", "observe")    -> the function, or an error that names the field
    plain(env_kwargs)                            -> dicts and lists, whatever containers the configuration is made of

What ends up in ``Task.metadata`` must be JSON values, and Hydra hands over containers of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any


def plain(value: Any) -> Any:
    """The same value in dicts and lists."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    return value


def load_object(path: str, field: str) -> Any:
    """What ``package.module:name`` (or ``package.module.name``) names. Raises ValueError that names ``field``."""
    module_name, _, name = path.replace(":", ".").rpartition(".")
    if not module_name:
        raise ValueError(f"{field}={path!r}: give an import path, package.module:name")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ValueError(f"{field}={path!r}: there is no module {error.name!r} on the Python path") from error
    except AttributeError:
        raise ValueError(f"{field}={path!r}: module {module_name!r} has no {name!r}") from None
