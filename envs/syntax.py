"""Python's parser, for code that runs in several threads.

CPython 3.11 keeps the depth of the tree that it hands out in the interpreter, not in the thread: when two threads parse
at once, both may end with a SystemError (AST constructor recursion depth mismatch). Rollouts and examinations parse in
threads, so all of them come here.
"""

from __future__ import annotations

import ast
import threading

_one_at_a_time = threading.RLock()  # a destructor that runs meanwhile may parse too


def parse(text: str | bytes) -> ast.Module:
    """``ast.parse``; raises what that raises."""
    with _one_at_a_time:
        return ast.parse(text)


def expression(text: str) -> ast.expr:
    """The tree of one expression; raises what ``ast.parse`` raises."""
    with _one_at_a_time:
        return ast.parse(text, mode="eval").body
