"""Which package a bridge needs, in which version, and what to say when it is not there.

    need("gymnasium")   -> the module, or MissingPackage: "... pip install 'gymnasium==1.4.0'"

The pins are the versions that the bridges were run against. A missing package stops the taskset when it
is made, not the import of the bridge's module.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# by the name that is imported: what pip installs
PINS: dict[str, str] = {
    "mcp": "mcp==2.3.0",
    "gymnasium": "gymnasium==1.4.0",
    "textarena": "textarena==0.7.4",
    "websockets": "websockets==17.4",
}


class MissingPackage(ImportError):
    """A bridge's package is not installed. The message has the pip command that fixes it."""


def need(module: str) -> ModuleType:
    """The imported top-level module of a bridge's package. Raises MissingPackage."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise  # the package is there, and something that it needs is not
        raise MissingPackage(f"{module} is not installed: pip install '{PINS[module]}'") from error
