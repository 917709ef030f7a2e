"""What is done without while libraries are loaded: the garbage collector, and modules that they ask for in vain."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """The block makes what stays as long as the process, as imports do: the collector would look through all of it
    again and again as it grows, a sixth of the time that torch takes to load, and find nothing. Afterwards it leaves
    alone what there is."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def without_module(name: str) -> Iterator[None]:
    """Module ``name`` cannot be imported in the block, unless it is loaded already: for a library that goes on without
    it. No other thread may ask for it meanwhile."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what import takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[name]
