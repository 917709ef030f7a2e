"""Importing transformers without what a run does not use: two CPU seconds in each of its processes.

``import transformers`` asks ``importlib.metadata.packages_distributions`` once, which makes a path object of every
installed file and parses every package's metadata as an e-mail. And a configuration class writes its own docstring when
it is imported; to name the model in it, it loads all of transformers' generation and with it torch's compiler.
"""

from __future__ import annotations

import csv
import importlib.metadata as metadata
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

from rl.policy.importing import without_module

_NAME = re.compile(r"^Name:\s*(.+?)\s*$", re.M)
_MODELS = "transformers.models.auto.modeling_auto"


@cache
def config_class(kind: str) -> Any:
    """transformers' configuration class for the ``model_type`` ``kind``; None: it knows none."""
    with without_module(_MODELS):  # its table of models: docstrings do without
        from transformers import CONFIG_MAPPING

        return CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401 (its get finds nothing)


def packages_distributions() -> Mapping[str, list[str]]:
    """What the function of ``importlib.metadata`` returns, five times as fast: names of distributions by top-level
    package."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for one in metadata.distributions():
        for package in _declared(one) or _inferred(one):
            found[package].append(_name(one))
    return dict(found)


def _declared(one: metadata.Distribution) -> list[str]:
    return (one.read_text("top_level.txt") or "").split()


def _inferred(one: metadata.Distribution) -> set[str]:
    """From the list of its Python files."""
    record = one.read_text("RECORD")
    if record is None:  # an old kind of installation
        paths = [str(file) for file in one.files or ()]
    else:
        paths = [row[0] for row in csv.reader(record.splitlines()) if row]
    return {path.split("/", 1)[0] if "/" in path else path[: -len(".py")] for path in paths if path.endswith(".py")}


def _name(one: metadata.Distribution) -> str:
    match = _NAME.search(one.read_text("METADATA") or "")
    return match[1] if match else str(one.metadata["Name"])


def install() -> None:
    """From now on this process asks here. Call it before transformers is imported."""
    metadata.packages_distributions = packages_distributions
