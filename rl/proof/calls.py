"""Many questions to a model at once: how many may wait, how many answers one call brings, which calls failed.

A call that fails (``JudgeError``) brings no answers and is counted; among thousands some do. Every other exception is a
defect, ends what was started and goes up. ``check`` raises when not one call came through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from envs.proof.texts import Evaluation, Generation
from rewards.judge import JudgeError

T = TypeVar("T")

# The roles as the functions of rl.proof take them; ``rewards.proof_roles.ProofRoles`` has them as methods. Each gives
# up to n answers, well-formed or not.
Prove = Callable[[str, int], Awaitable[Sequence[Generation]]]  # problem, n
Refine = Callable[[str, str, Sequence[str], int], Awaitable[Sequence[Generation]]]  # problem, solution, critiques, n
Verify = Callable[[str, str, int], Awaitable[Sequence[Evaluation]]]  # problem, solution, n
Assess = Callable[[str, str, str, int], Awaitable[Sequence[Evaluation]]]  # problem, solution, evaluation, n


class Calls:
    """A budget of calls under way. Use one for all work that shares a model.

    Args:
        concurrency: calls under way at once.
        per_call: answers asked for in one call; more are asked for in several.
    """

    def __init__(self, concurrency: int, per_call: int) -> None:
        for name, value in (("concurrency", concurrency), ("per_call", per_call)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.made = 0
        self.failed = 0
        self.last_error: JudgeError | None = None
        self._per_call = per_call
        self._free = asyncio.Semaphore(concurrency)

    async def samples(self, ask: Callable[[int], Awaitable[Sequence[T]]], n: int) -> list[T]:
        """Up to ``n`` answers of ``ask(k)``, asked for at once in calls of at most ``per_call``, in order."""
        whole, rest = divmod(n, self._per_call)
        sizes = [self._per_call] * whole + ([rest] if rest else [])
        answers = await together(self._one(ask, size) for size in sizes)
        return [answer for some in answers for answer in some]

    def check(self) -> None:
        """Raises JudgeError, with the last failure's text, when calls were made and all of them failed."""
        if self.made and self.failed == self.made:
            raise JudgeError(f"all {self.made} calls failed, the last one: {self.last_error}") from self.last_error

    async def _one(self, ask: Callable[[int], Awaitable[Sequence[T]]], size: int) -> Sequence[T]:
        async with self._free:
            self.made += 1
            try:
                return await ask(size)
            except JudgeError as error:
                self.failed += 1
                self.last_error = error
                return ()


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """``asyncio.gather`` of an iterable of coroutines that leaves none running when one raises."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
