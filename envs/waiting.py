"""A coroutine's result, also where an event loop runs already (a notebook's): ``asyncio.run`` refuses there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """What ``coroutine`` returns, run to its end in a loop of its own; what it raises is raised."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:  # a thread has no loop yet
        return thread.submit(asyncio.run, coroutine).result()
