"""Importing transformers without what a run does not use: two CPU seconds in each of its processes.

``import transformers`` asks ``importlib.metadata.packages_distributions`` once, which makes a path object of every
installed file and parses every package's metadata as an e-mail. And a configuration class writes its own docstring when
it is imported; to name the model in it, it loads all of transformers' generation and with it torch's compiler.
"""

from __future__ import annotations

import csv
import importlib.metadata as metadata
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

_NAME = re.compile(r"^Name:\s*(.+?)\s*$", re.M)
_MODELS = "transformers.models.auto.modeling_auto"


@cache
def config_class(kind: str) -> Any:
    """transformers' configuration class for the ``model_type`` ``kind``; None: it knows none."""
    with _without_models():
        from transformers import CONFIG_MAPPING

        return CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401 (its get finds nothing)


@contextmanager
def _without_models() -> Iterator[None]:
    """transformers' table of models cannot be imported in the block, unless it is loaded already: its docstrings then
    do without. Of a process that has no other threads which import something, as at its start."""
    if _MODELS in sys.modules:
        yield
        return
    sys.modules[_MODELS] = None  # type: ignore[assignment]  # what import takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[_MODELS]


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
