"""``<run>/inputs``: rows and modules that a call of `rl.train` brought along (rl.commands.python)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

INPUTS = "inputs"


def find_inputs(run: Path) -> None:
    """Put the modules that lie in the folder ``run`` on the module path, of this process and of those that it starts.

    They are named by their content, so several runs do not get in each other's way.
    """
    folder = run / INPUTS
    if folder.is_dir() and (path := str(folder.resolve())) not in sys.path:
        sys.path.append(path)
        importlib.invalidate_caches()


def without_place(env: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """``env`` as a part of a stage's key: which run its rows lie in does not count, they are in the fingerprint."""
    here = f"{run / INPUTS}/"
    return {k: v.removeprefix(here) if isinstance(v, str) else v for k, v in env.items()}
