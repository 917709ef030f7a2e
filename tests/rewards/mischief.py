"""Reward parts that do everything wrong. Top level of a module, so that child processes can import them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rewards.part import GroupPart, RewardPart, Scored


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")

    __repr__ = __str__


class HangsAsNumber:
    def __float__(self) -> float:
        while True:
            pass


class RaisesAsNumber:
    def __float__(self) -> float:
        raise KeyError("no number")

    def __repr__(self) -> str:
        while True:
            pass


def loops() -> None:
    while True:
        pass


def sleeps_in_c() -> None:
    time.sleep(60)


def holds_the_interpreter() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")  # exponential, in C, with the interpreter's lock held


def swallows_everything() -> None:
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            continue


def raises(error: BaseException) -> Any:
    def do() -> None:
        raise error

    return do


def recurses() -> Any:
    return recurses()


def leaves_a_process_behind() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", os.environ.get("LEFT_BY", "nobody")])
    time.sleep(60)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashes() -> None:
    ctypes.string_at(0)


def closes_its_pipes() -> float:
    os.closerange(0, 64)
    return 0.5


def prints_a_flood() -> float:
    for _ in range(100):
        sys.stdout.write("x" * 1_000_000)
    sys.stdout.flush()
    os.write(1, b"\x00\x00\x00\x02[]")
    return 0.5


NAN = float("nan")
# name → (what it does, the problem that is counted; None: it is harmless). Those that end a process need one.
SYNC: dict[str, tuple[Callable[[], Any], str | None]] = {
    "loops": (loops, "timeout"),
    "sleeps_in_c": (sleeps_in_c, "timeout"),
    "raises": (raises(ValueError("broken")), "raised"),
    "raises_a_novel": (raises(ValueError("x" * 50_000_000)), "raised"),
    "raises_unprintable": (raises(Unprintable()), "raised"),
    "exits": (raises(SystemExit(0)), "raised"),
    "interrupts": (raises(KeyboardInterrupt()), "raised"),
    "recurses": (recurses, "raised"),
    "nan": (lambda: NAN, "not_finite"),
    "inf": (lambda: float("inf"), "not_finite"),
    "minus_inf": (lambda: Scored(float("-inf")), "not_finite"),
    "huge_integer": (lambda: 10**400, "not_finite"),
    "above": (lambda: 1.0001, "out_of_bounds"),
    "below": (lambda: -1e300, "out_of_bounds"),
    "none": (lambda: None, "wrong_type"),
    "text": (lambda: "0.5", "wrong_type"),
    "huge_text": (lambda: "0.5" * 30_000_000, "wrong_type"),
    "list": (lambda: [0.5], "wrong_type"),
    "complex": (lambda: 0.5j, "wrong_type"),
    "function": (lambda: lambda: 0.5, "wrong_type"),  # no pickle carries it
    "type": (lambda: float, "wrong_type"),
    "number_that_raises": (RaisesAsNumber, "raised"),
    "number_that_hangs": (HangsAsNumber, "timeout"),
    "scored_text": (lambda: Scored("0.5"), "wrong_type"),  # type: ignore[arg-type]
    "nan_detail": (lambda: Scored(0.5, {"a": NAN}), "not_finite"),
    "text_detail": (lambda: Scored(0.5, {"a": "b"}), "wrong_type"),  # type: ignore[dict-item]
    "many_details": (lambda: Scored(0.5, {str(i): 1.0 for i in range(10**5)}), "too_large"),
    "strange_detail_name": (lambda: Scored(0.5, {"a/b c": 1.0}), "wrong_type"),
    "huge_detail_name": (lambda: Scored(0.5, {"a" * 10**7: 1.0}), "wrong_type"),
    "details_no_dict": (lambda: Scored(0.5, [1.0]), "wrong_type"),  # type: ignore[arg-type]
    "mask_no_word": (lambda: Scored(0.5, mask="not a word"), "wrong_type"),
    "mask_huge": (lambda: Scored(0.5, mask="m" * 10**7), "wrong_type"),
    "prints_a_flood": (prints_a_flood, None),
}
IN_A_PROCESS: dict[str, tuple[Callable[[], Any], str | None]] = {
    "holds_the_interpreter": (holds_the_interpreter, "timeout"),
    "swallows_everything": (swallows_everything, "timeout"),
    "leaves_a_process_behind": (leaves_a_process_behind, "timeout"),
    "is_killed": (is_killed, "killed"),
    "leaves": (lambda: os._exit(0), "killed"),
    "crashes": (crashes, "killed"),
    "closes_its_pipes": (closes_its_pipes, "killed"),
}


async def awaits_for_ever() -> None:
    await asyncio.Event().wait()


async def refuses_to_be_cancelled() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


async def cancels_itself() -> None:
    raise asyncio.CancelledError


ASYNC: dict[str, tuple[Callable[[], Any], str]] = {
    "awaits_for_ever": (awaits_for_ever, "timeout"),
    "refuses_to_be_cancelled": (refuses_to_be_cancelled, "timeout"),
    "cancels_itself": (cancels_itself, "raised"),
    "blocks_its_loop": (loops, "timeout"),
    "blocks_its_loop_in_c": (sleeps_in_c, "timeout"),
    "raises": (raises(ConnectionError("no judge")), "raised"),
    "exits": (raises(SystemExit(0)), "raised"),
    "nan": (lambda: NAN, "not_finite"),
    "text": (lambda: "I would say 0.5", "wrong_type"),
}


@dataclass(frozen=True, kw_only=True)
class Mischief(RewardPart):
    """0.5 for the answer "fine"; for another it does what it is told."""

    name: str = "bad"
    does: str = "raises"

    def __call__(self, episode, scores):
        return 0.5 if episode.answer == "fine" else (SYNC | IN_A_PROCESS)[self.does][0]()


@dataclass(frozen=True, kw_only=True)
class AsyncMischief(RewardPart):
    name: str = "bad"
    does: str = "raises"

    async def __call__(self, episode, scores):
        if episode.answer == "fine":
            return 0.5
        result = ASYNC[self.does][0]()
        return await result if asyncio.iscoroutine(result) else result


@dataclass(frozen=True, kw_only=True)
class GroupMischief(GroupPart):
    name: str = "bad"
    does: str = "raises"

    def __call__(self, episodes, scores):
        if all(e.answer == "fine" for e in episodes):
            return [0.5] * len(episodes)
        return (SYNC | IN_A_PROCESS)[self.does][0]()


@dataclass(frozen=True, kw_only=True)
class BadKey(RewardPart):
    """Its value is fine, its cache key is not."""

    name: str = "bad"
    cache: bool = True
    does: str = "raises"

    def __call__(self, episode, scores):
        return 0.5

    def cache_key(self, episode, scores):
        return "fine" if episode.answer == "fine" else SYNC[self.does][0]()


@dataclass(frozen=True, kw_only=True)
class BadByTask(RewardPart):
    """Does the task's mischief: ``task.seed`` counts through the list; tasks beyond it are fine."""

    name: str = "bad"

    def __call__(self, episode, scores):
        mischief = [*(SYNC | IN_A_PROCESS).values()]
        return mischief[episode.task.seed][0]() if episode.task.seed < len(mischief) else 0.5
