"""Every kind of notebook problem: importing this module imports the five that define them.

``make_problem("determinant", 2, seed)`` gives one; ``KINDS`` has the makers by name, ``TOPICS`` their topics.
"""

from __future__ import annotations

import random

from envs.interpreter import notebook_maths, notebook_puzzles, notebook_sources, notebook_tables, notebook_traces
from envs.interpreter.notebook_problem import KINDS, LEVELS, TOPICS, Problem

__all__ = ["KINDS", "LEVELS", "TOPICS", "Problem", "make_problem"]

_DEFINING = (notebook_maths, notebook_puzzles, notebook_sources, notebook_tables, notebook_traces)


def make_problem(name: str, level: int, seed: int) -> Problem:
    """The problem that (kind, level, seed) names, the same in every process."""
    if name not in KINDS:
        raise ValueError(f"kind is {name!r}; known: {', '.join(sorted(KINDS))}")
    if level not in LEVELS:
        raise ValueError(f"level is {level}, must be one of {LEVELS}")
    return KINDS[name](random.Random(f"notebook {name} {level} {seed}"), level)
