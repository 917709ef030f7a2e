"""Python's garbage collector while libraries are loaded."""

from __future__ import annotations

import gc
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
