"""The policy and an environment take turns: sample a message, step, append what came back, until something ends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from envs.types import Message, StopReason
from rl.chat.context_manager import ContextManager
from rl.rollout.checked_env import CheckedEnv, checked
from rl.rollout.config import RolloutConfig
from rl.rollout.message import EpisodeTimeout, Generate, sample_message
from rl.types import Segment, Usage

if TYPE_CHECKING:
    from rl.chat.session import Session


@dataclass(frozen=True)
class Ended:
    """How the playing ended. ``failure``: a ``Trajectory.failure_kind``; ``outcome``: the score where nothing is to be
    scored, None: the environment scores."""

    stop: StopReason
    failure: str | None = None
    detail: str = ""
    outcome: float | None = None


class Playing(Protocol):
    """An episode from its prompt to its end, and what it leaves."""

    turns: int
    sampled_tokens: int

    async def play(self, env: CheckedEnv) -> Ended: ...

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """What a scorer sees."""
        ...

    @property
    def said(self) -> tuple[Message, ...] | None:
        """``Episode.said``."""
        ...

    @property
    def shown(self) -> list[dict[str, Any]]:
        """All that was said, as stored with the trajectory; ``context`` marks what was not just said in turn."""
        ...

    @property
    def usage(self) -> Usage: ...

    def segments(self) -> list[Segment]: ...


class Turns:
    """See the module. ``observe`` is called with every message, as it comes; ``counts`` gets the events."""

    said = None  # behind the prompt all answers are the policy's

    def __init__(
        self,
        session: Session,
        generate: Generate,
        config: RolloutConfig,
        counts: Counter[str],
        observe: Callable[[Message], None],
    ) -> None:
        self._session, self._generate, self._config = session, generate, config
        self._counts, self._observe = counts, observe
        self._last: tuple[Message, ...] = ()  # messages of the final step: seen by the scorer, never by the policy
        self.turns = self.sampled_tokens = 0

    async def play(self, env: CheckedEnv) -> Ended:
        session, config = self._session, self._config
        self._tell(session.messages)
        context = ContextManager(config.context, session, self._counts)
        while True:
            checked("the managed context", context.before_turn)
            limits = {  # where several are equal the first one names the reason
                StopReason.MAX_TOKENS: context.turn_tokens(config.max_tokens),
                StopReason.CONTEXT: session.room(),
                StopReason.TOTAL_TOKENS: context.tokens_left(),
            }
            bound = min(limits, key=lambda reason: limits[reason])
            if (budget := limits[bound]) < 1:
                return Ended(bound)
            try:
                said = await sample_message(session, self._generate, budget, config.max_thinking)
            except EpisodeTimeout:
                return Ended(StopReason.EPISODE_TIME)
            self.turns, self.sampled_tokens = self.turns + 1, self.sampled_tokens + said.sampled_tokens
            self._counts.update(said.counts)
            self._tell((said.message,))
            if said.finish_reason == "abort":
                return Ended(StopReason.ABORTED, "aborted", "the engine gave up the request")
            if context.summarising:
                context.restart(said.message)
                if self.turns >= config.turn_limit:
                    return Ended(StopReason.MAX_TURNS)
            elif said.finish_reason == "length":
                # a cut of the thinking takes room too: then the window may end before the budget
                return Ended(bound if said.sampled_tokens == budget else StopReason.CONTEXT)
            else:
                result = await env.step(said.message)
                self._counts.update(result.info.get("counts", {}))
                self._tell(result.messages)
                if result.terminated or self.turns >= config.turn_limit:
                    self._last = result.messages
                    return Ended(StopReason.ANSWERED if result.terminated else StopReason.MAX_TURNS)
                checked("step's messages", session.append_messages, result.messages)

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """All but summaries and the requests for them."""
        return (*self._session.dialogue, *self._last)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """``context`` says where the context was rewritten, and by what."""
        said = [m.to_json() for m in (*self._session.messages, *self._last)]
        for position, mark in self._session.marks.items():
            said[position]["context"] = mark
        return said

    @property
    def usage(self) -> Usage:
        return self._session.usage

    def segments(self) -> list[Segment]:
        return self._session.segments()

    def _tell(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._observe(message)
