"""Logic that solutions share. Solutions are source text; a function that they name is copied from here.

Nothing here may import or reach for anything: it passes the same checks as every solution.
"""

from __future__ import annotations

from typing import Any


def first_plan(slots: Any, fits: Any) -> Any:
    """One option for each slot so that ``fits`` holds for every beginning of the plan; None when there is none."""

    def extend(plan: Any) -> Any:
        if len(plan) == len(slots):
            return plan
        for option in slots[len(plan)]:
            longer = [*plan, option]
            if fits(longer):
                found = extend(longer)
                if found is not None:
                    return found
        return None

    return extend([])


def subsets(items: Any, size: Any) -> Any:
    """All choices of ``size`` items, in order."""
    if size == 0:
        return [[]]
    found = []
    for position in range(len(items) - size + 1):
        for rest in subsets(items[position + 1 :], size - 1):
            found.append([items[position], *rest])
    return found


def orders(items: Any) -> Any:
    """All orders of the items."""
    if not items:
        return [[]]
    found = []
    for position in range(len(items)):
        for rest in orders(items[:position] + items[position + 1 :]):
            found.append([items[position], *rest])
    return found
