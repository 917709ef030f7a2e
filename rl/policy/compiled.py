"""Loops compiled by numba (a part of vLLM), for CPUs. Load it where it is used: that takes a second and 100 MB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite.binding import ffi

# vLLM, when an engine starts, reads the __dict__ of every object of every loaded module; this one would look it up as a
# function of the LLVM library, and a second engine of the process would not start.
ffi.lib._fntab["__dict__"] = {}


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiled at the first call, and kept on disk where there is a place for it."""

    def made(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            kept: Callable[..., Any] = numba.njit(function, cache=True, nogil=True, error_model="numpy", **options)
        except RuntimeError:  # no folder that may be written
            kept = numba.njit(function, nogil=True, error_model="numpy", **options)
        return kept

    return made
