"""A program drives the episode: it asks for completions, the policy answers them within the limits of a rollout.

request → dialogue (``rl.chat.dialogues``) → prompt tokens → generate → parse → answer. A reply that does not parse
never reaches the program, whose library could not carry it: the policy is told what is wrong, as by any environment,
and speaks again. A limit refuses a request in words; what the program does then is its own affair, and the episode is
truncated unless a later request was answered.

Clients send a request again when they hear nothing. Such a repetition gets the answer of the first; the same request
from a client that has had its answer is another question (a vote), and is sampled anew.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from envs.bridges.openai_exchange import ChatRefusal, ChatReply, ChatRequest, Spent
from envs.driving import Endpoint, mistakes, sendable
from envs.types import InfrastructureError, Message, StopReason
from rl.chat.dialogues import Dialogue, Dialogues, Turn
from rl.rollout.checked_env import CheckedEnv, shortened
from rl.rollout.config import RolloutConfig
from rl.rollout.env_runner import EnvError
from rl.rollout.message import EpisodeTimeout, Generate, sample_message
from rl.rollout.turns import Ended
from rl.types import Segment, Usage

if TYPE_CHECKING:
    from rl.chat.session import Session

# Told to the program by the name that OpenAI's API has for it, or by ours.
_REFUSALS = {
    StopReason.CONTEXT: "context_length_exceeded",
    StopReason.MAX_TURNS: "max_turns",
    StopReason.TOTAL_TOKENS: "total_tokens",
    StopReason.EPISODE_TIME: "episode_time",
}


@dataclass(eq=False)
class _Asked:
    """A request and its reply. ``waiting``: requests that wait for it; ``had``: one of them has got it."""

    turn: Turn
    reply: asyncio.Task[ChatReply]
    waiting: list[ChatRequest]
    had: bool = False


class Driven:
    """One episode. ``connect(driven)`` gives the endpoint that calls ``answer``, for as long as the program runs."""

    def __init__(
        self,
        open_session: Callable[[Sequence[Message]], Session],
        connect: Callable[[Driven], AbstractContextManager[Endpoint]],
        generate: Generate,
        config: RolloutConfig,
        counts: Counter[str],
        observe: Callable[[Message], None],
    ) -> None:
        self._connect, self._generate, self._config, self._counts = connect, generate, config, counts
        self._observe = observe
        self._dialogues = Dialogues(open_session)
        self._asked: list[_Asked] = []
        self._told: dict[Dialogue, int] = {}  # messages that ``observe`` has heard
        self._is_over = False
        self._requests = self._begun = 0  # requests so far; answers that were begun, each of which is a turn
        self._promised = 0  # tokens that may still be sampled for answers that are not there yet
        self._said: list[Message] = []
        # Why a request was refused, and how many there were by then, while none of a later number has been answered.
        self._refused: StopReason | None = None
        self._refused_at = 0
        self._broken: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.turns = self.sampled_tokens = 0

    async def play(self, env: CheckedEnv) -> Ended:
        """Let the program run to its end. Raises what the engine raises, EnvError, EnvTimeout."""
        with self._connect(self) as endpoint:
            driving = asyncio.ensure_future(env.drive(endpoint))
            either: set[asyncio.Future[Any]] = {driving, self._broken}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if self._broken.done():
                    return self._broken.result()
                return self._ended(driving)
            finally:
                self._is_over = True
                self._counts.update(self._dialogues.counts)
                replies = [asked.reply for asked in self._asked]
                for task in (driving, *replies):
                    task.cancel()
                await asyncio.gather(driving, *replies, return_exceptions=True)
                if self._broken.done() and not self._broken.cancelled():
                    self._broken.exception()  # somebody has seen it

    async def answer(self, request: ChatRequest) -> ChatReply:
        """The policy's answer. Raises ChatRefusal; it is cancelled when the episode is over."""
        asked = self._repeated(request)
        if asked is None:
            asked = self._new(request)
        else:
            self._counts["request_repeated"] += 1
        asked.waiting.append(request)
        try:
            reply = await asyncio.shield(asked.reply)
            asked.had = asked.had or not request.is_gone()
            return reply
        finally:
            asked.waiting.remove(request)

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """Dialogue after dialogue, without repetitions; last that which spoke last."""
        return tuple(message for part in self._dialogues.parts for message in part)

    @property
    def said(self) -> tuple[Message, ...]:
        """What the policy said, in the order in which it did: a program may put other answers into a history."""
        return tuple(self._said)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """``context`` is ``dialogue`` where another one begins, or goes on from an earlier place."""
        shown = []
        for number, part in enumerate(self._dialogues.parts):
            said = [message.to_json() for message in part]
            if number and said:
                said[0]["context"] = "dialogue"
            shown += said
        return shown

    @property
    def usage(self) -> Usage:
        return self._dialogues.usage

    def segments(self) -> list[Segment]:
        return self._dialogues.segments()

    def _ended(self, driving: asyncio.Task[None]) -> Ended:
        stop = self._refused or StopReason.ANSWERED
        try:
            driving.result()
        except EnvError as error:
            if isinstance(error.cause, InfrastructureError):
                raise
            if self._refused is not None:  # a program that does not catch the refusal
                return Ended(stop, outcome=0.0)
            if not self.turns:
                raise
            self._counts["agent_raised"] += 1
            detail = f"{error}\n{''.join(traceback.format_exception(error.cause))}"
            return Ended(stop, detail=detail, outcome=0.0)
        if not self.turns and self._refused is None:
            cause = RuntimeError("the program ended without asking the policy anything")
            raise EnvError(f"drive: {cause}", cause)
        return Ended(stop)

    def _repeated(self, request: ChatRequest) -> _Asked | None:
        """The earlier request that this one repeats: its client says so, or has gone without an answer."""
        for turn in reversed(self._dialogues.same(request.messages)):
            asked = next((a for a in self._asked if a.turn is turn), None)
            if asked is None or (asked.reply.done() and (asked.reply.cancelled() or asked.reply.exception())):
                continue
            lost = not asked.had and all(waits.is_gone() for waits in asked.waiting)
            if lost or request.repeats:
                return asked
        return None

    def _new(self, request: ChatRequest) -> _Asked:
        if self._is_over:
            raise ChatRefusal(403, "the episode is over", "episode_over")
        self._requests += 1
        if self._begun >= self._config.turn_limit:
            raise self._refusal(StopReason.MAX_TURNS)
        longest = self._config.longest_observation
        messages = tuple(shortened(m, longest) for m in request.messages)
        try:
            turn = self._dialogues.ask(messages)
        except ValueError as error:
            self._counts["request_refused"] += 1
            raise ChatRefusal(400, str(error)) from error
        self._tell(turn)
        asked = _Asked(turn, asyncio.ensure_future(self._sample(turn, request, self._requests)), [])
        self._asked.append(asked)
        return asked

    async def _sample(self, turn: Turn, request: ChatRequest, number: int) -> ChatReply:
        """Sample the answer to request ``number`` into the turn's session. Raises ChatRefusal; everything else ends the
        episode."""
        shown: Message | None = None
        try:
            reply = await self._speak(turn, request, number)
            shown = reply.message
            return reply
        except EpisodeTimeout:
            raise self._refusal(StopReason.EPISODE_TIME) from None
        except (ChatRefusal, asyncio.CancelledError):
            raise
        except BaseException as error:
            if not self._broken.done():
                self._broken.set_exception(error)
            raise ChatRefusal(500, f"the policy cannot answer: {type(error).__name__}: {error}") from error
        finally:
            self._dialogues.answered(turn, shown)

    async def _speak(self, turn: Turn, request: ChatRequest, number: int) -> ChatReply:
        session, config, options = turn.session, self._config, request.options
        begins = session.usage
        while True:
            if self._begun >= config.turn_limit:
                raise self._refusal(StopReason.MAX_TURNS)
            total, spent = config.context.max_total_tokens, self._dialogues.total_tokens + self._promised
            limits = {
                StopReason.MAX_TOKENS: min(config.max_tokens, options.max_tokens or config.max_tokens),
                StopReason.CONTEXT: session.room(),
                StopReason.TOTAL_TOKENS: 2**31 if total is None else total - spent,
            }
            bound = min(limits, key=lambda reason: limits[reason])
            if (budget := limits[bound]) < 1:
                raise self._refusal(bound)
            self._begun, self._promised = self._begun + 1, self._promised + budget
            try:
                said = await sample_message(session, self._generate, budget, config.max_thinking, options.stop)
            finally:
                self._promised -= budget
            self.turns, self.sampled_tokens = self.turns + 1, self.sampled_tokens + said.sampled_tokens
            self._said.append(said.message)
            self._counts.update(said.counts)
            self._tell(turn)
            if said.finish_reason == "abort":
                if not self._broken.done():
                    ended = Ended(StopReason.ABORTED, "aborted", "the engine gave up the request")
                    self._broken.set_result(ended)
                raise ChatRefusal(500, "the engine gave up the request")
            if number > self._refused_at:
                self._refused = None
            cut = said.finish_reason == "length"
            if cut or said.message.parse_error is None:
                now = session.usage
                used = Spent(
                    now.prompt - begins.prompt, now.cached - begins.cached,
                    now.output - begins.output, now.thinking - begins.thinking,
                )  # fmt: skip
                self._counts.update(mistakes(turn.session.messages, said.message))
                return ChatReply(sendable(replace(said.message, parse_error=None)), cut, used)
            self._counts["malformed_call"] += 1
            wrong = Message("tool", f"Error: {said.message.parse_error}")
            session.append_messages([wrong])
            self._tell(turn)

    def _tell(self, turn: Turn) -> None:
        """Whoever observes hears what is new in the dialogue."""
        said, dialogue = turn.session.messages, turn.dialogue
        for message in said[self._told.get(dialogue, dialogue.before) :]:
            self._observe(message)
        self._told[dialogue] = len(said)

    def _refusal(self, stop: StopReason) -> ChatRefusal:
        self._refused, self._refused_at = stop, self._requests
        limits = {
            StopReason.CONTEXT: f"the context window of {self._config.max_context} tokens is full: send less",
            StopReason.MAX_TURNS: f"the episode is over: it had {self._config.turn_limit} answers",
            StopReason.TOTAL_TOKENS: "the episode is over: its tokens are used up",
            StopReason.EPISODE_TIME: f"the episode is over: it has taken {self._config.episode_s:g} s",
        }
        status = 400 if stop is StopReason.CONTEXT else 403
        return ChatRefusal(status, limits[stop], _REFUSALS[stop])
