"""The categories by name. A new one: a module with a ``CATEGORY``, and its name here."""

from __future__ import annotations

import importlib

from envs.agent.general.category import Category

_NAMES = (
    "trip",
    "courses",
    "library",
    "bank",
    "clinic",
    "calendar",
    "warehouse",
    "meals",
    "seating",
    "hiring",
    "delivery",
    "tickets",
    "flights",
)

CATEGORIES: dict[str, Category] = {name: importlib.import_module(f"{__name__}.{name}").CATEGORY for name in _NAMES}
