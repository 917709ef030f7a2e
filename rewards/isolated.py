"""The process in which isolated parts run. Started by ``rewards.isolation``; ends when its input does.

Frames on standard input and output: four bytes of length, then the body. First the pickled parts come in and
``"ready"`` goes out; then each pickled request (index of the part, its arguments, seconds, whether it is a group) gives
``"taken"`` and one reply in JSON. The reply holds numbers and short strings only, so that the parent never loads an
object that a part made.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import pickle
import signal
import struct
from dataclasses import asdict
from typing import Any, BinaryIO

from rewards.part import PartOptions
from rewards.results import Problem, Result, Term, checked, checked_group, raised

HEAD = struct.Struct(">I")
SPARE_S = 5.0  # the kernel ends a late process even if its parent is gone, so much after the parent would have


def attempt(part: PartOptions, arguments: tuple[Any, ...], group: bool) -> list[Result] | Problem:
    """Call ``part`` and check what it gives: one result per episode, or one problem for all. Never raises."""
    try:
        given = part(*arguments)  # type: ignore[operator]
        if inspect.isawaitable(given):
            given = asyncio.run(_awaited(given))
        return checked_group(part, given, len(arguments[0])) if group else [checked(part, given)]
    except BaseException as error:  # foreign code may raise anything, SystemExit included
        return raised(error)


async def attempt_async(part: PartOptions, arguments: tuple[Any, ...], group: bool) -> list[Result] | Problem:
    """The same on a running event loop. A late one is ended by cancellation, and nobody reads what it gives then."""
    try:
        given = await part(*arguments)  # type: ignore[operator]
        return checked_group(part, given, len(arguments[0])) if group else [checked(part, given)]
    except BaseException as error:
        return raised(error)


def encode(results: list[Result] | Problem) -> bytes:
    """A reply as JSON."""
    return json.dumps(asdict(results) if isinstance(results, Problem) else [asdict(r) for r in results]).encode()


def decode(reply: bytes) -> list[Result] | Problem:
    """The inverse of ``encode``."""
    raw = json.loads(reply)
    return [_result(one) for one in raw] if isinstance(raw, list) else Problem(**raw)


def _result(raw: dict[str, Any]) -> Result:
    return Problem(**raw) if "kind" in raw else Term(**raw)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _frame(stream: BinaryIO) -> bytes | None:
    head = stream.read(HEAD.size)
    return stream.read(HEAD.unpack(head)[0]) if len(head) == HEAD.size else None


def _reply(replies: BinaryIO, body: bytes) -> None:
    replies.write(HEAD.pack(len(body)) + body)
    replies.flush()


def main() -> None:
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a part prints must not get between the replies
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent, whose end closes our input
    # When memory runs out the kernel takes a part first, not the rollout worker. Not every system lets us say so.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    pickled = _frame(requests)
    if pickled is None:
        return
    try:
        parts = pickle.loads(pickled)
    except Exception as error:
        _reply(replies, encode(raised(error)))
        return
    _reply(replies, b'"ready"')
    while (request := _frame(requests)) is not None:
        _reply(replies, b'"taken"')  # from here on it is the part's fault when the process ends
        try:
            index, arguments, seconds, group = pickle.loads(request)
        except Exception as error:
            _reply(replies, encode(Problem("unpicklable", raised(error).text)))
            continue
        signal.setitimer(signal.ITIMER_REAL, seconds + SPARE_S)
        results = attempt(parts[index], arguments, group)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        _reply(replies, encode(results))


if __name__ == "__main__":
    main()
