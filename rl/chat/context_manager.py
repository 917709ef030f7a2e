"""Context management of long agent runs: what happens when the context window is nearly full.

Acts before a turn of the policy, when the prompt fills more than ``trigger`` of ``rollout.max_context`` (V3.2, 4.4):

=========================  ==================================================================================
``none``                   nothing: the window is used to its end, then the episode ends (StopReason.CONTEXT)
``summary``                the policy is asked for a summary (sampled tokens, a turn of its own); the episode
                           continues from the task prompt and that summary
``discard_75``             the first 75 % of the tool-call history is dropped, whole calls with their results
``discard_all``            all of it is dropped; the task prompt stays
``parallel_fewest_step``   nothing within a run: an evaluation plays ``parallel`` runs and takes the finished
                           one with the fewest steps (``rl.rollout.selection``)
=========================  ==================================================================================

A *cycle* is an assistant message together with the tool messages that follow it. Only cycles are dropped: the
prompt, later user messages and the answers to them stay. The session renders what is left as a new segment with its
own prompt; tokens that were sampled before stay, as they are, in the segments before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Interval

from envs.types import Message
from rl.bounds import Bounded, NonNegativeInt, OneOf, PositiveInt
from rl.chat.renderer import SUMMARY

if TYPE_CHECKING:
    from rl.chat.session import Session  # the schema of the commands reads the config here, and needs no arrays

POLICIES = ("none", "summary", "discard_75", "discard_all", "parallel_fewest_step")
_SHARES = {"discard_75": 0.75, "discard_all": 1.0}  # of the cycles


@dataclass
class ContextConfig(Bounded):
    """The ``rollout.context`` config section."""

    section: ClassVar[str] = "rollout.context"

    policy: Annotated[str, OneOf(POLICIES)] = "none"  # none | summary | discard_75 | discard_all | parallel_fewest_step
    trigger: Annotated[float, Interval(gt=0, le=1)] = (
        0.8  # it acts when the prompt of a turn holds more than this share of rollout.max_context
    )
    max_restarts: NonNegativeInt = 16  # summaries or discards of an episode; after that the window is used to its end
    max_total_tokens: PositiveInt | None = (
        None  # all segments of an episode together, prompts included; null: no such budget
    )
    # what the policy reads as a user message when a summary is due, and what stands above the summary afterwards
    summary_request: str = "The context is nearly full. Summarise what you have found and what is still to be done."
    summary_heading: str = "Summary of your work so far:"
    summary_tokens: PositiveInt = 256  # sampled tokens of one summary, reasoning included
    parallel: PositiveInt = 4  # runs among which parallel_fewest_step chooses

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.summary_request:
            raise ValueError("rollout.context.summary_request='': must be some text")

    @property
    def runs(self) -> int:
        """Independent runs that an evaluation plays for each one it reports."""
        return self.parallel if self.policy == "parallel_fewest_step" else 1


class ContextManager:
    """Applies one policy to one session, and enters into ``counts`` what it did.

    ``context_<policy>``: discards or summaries; ``context_summary_unusable``: summaries of which nothing could be
    carried over (no text, a tool call, markup that does not parse), after which only the task prompt is left.
    """

    def __init__(self, config: ContextConfig, session: Session, counts: Counter[str]) -> None:
        self._config, self._session, self._counts = config, session, counts
        self._fixed = len(session.context)  # messages of the task prompt
        self._carrier: tuple[Message, Message] | None = None  # the message with the summary, and as it was without
        self.summarising = False  # True: the next sampled message is a summary
        self.restarts = 0

    def before_turn(self) -> None:
        """Make room if it is time to; afterwards the session is ready for the policy's next message."""
        config, session = self._config, self._session
        full = session.used > config.trigger * session.max_context
        if config.policy in ("none", "parallel_fewest_step") or not full or self.restarts >= config.max_restarts:
            return
        if not cycles(session.context, self._fixed):
            return  # nothing to drop: only the prompt itself is so long
        self.restarts += 1
        self._counts[f"context_{config.policy}"] += 1
        if config.policy == SUMMARY:
            self._ask()
        else:
            session.mark(config.policy)
            session.rewrite(discard(session.context, self._fixed, _SHARES[config.policy]))

    def turn_tokens(self, max_tokens: int) -> int:
        """Tokens that may be sampled in this turn, by its own limit."""
        return self._config.summary_tokens if self.summarising else max_tokens

    def tokens_left(self) -> int:
        """Tokens left of the episode's total budget; a large number without one."""
        budget = self._config.max_total_tokens
        return 2**31 if budget is None else budget - self._session.total_tokens

    def restart(self, summary: Message) -> None:
        """Continue from the task prompt and ``summary``, the policy's answer to the request."""
        session = self._session
        session.mark(SUMMARY)
        self.summarising = False
        if session.is_cut_off:  # as far as it goes: a long summary is of use without its last words
            summary = session.as_ended()
        text = "" if summary.tool_calls or summary.parse_error else summary.content.strip()
        self._counts["context_summary_unusable"] += not text
        kept = discard(session.context[:-2], self._fixed, 1.0)  # without request and answer
        session.rewrite(self._carrying(kept, text))

    def _ask(self) -> None:
        """Ask for a summary. Where request and answer do not fit any more, the oldest cycles are not summarised."""
        session, config = self._session, self._config
        request = Message("user", config.summary_request)
        context = session.context
        room = session.max_context - config.summary_tokens
        while cycles(context, self._fixed) and session.measure([*context, request]) > room:
            first = cycles(context, self._fixed)[0]
            context = (*context[: first.start], *context[first.stop :])
            self._counts["context_summary_cycles_lost"] += 1
        if context != session.context:
            session.rewrite(context)
        session.append_messages([request])
        session.mark(SUMMARY)
        self.summarising = True

    def _carrying(self, kept: Sequence[Message], text: str) -> list[Message]:
        """``kept`` with the summary at the end of its last user message; an earlier summary is removed."""
        messages = list(kept)
        if self._carrier is not None:
            merged, original = self._carrier
            messages = [original if m == merged else m for m in messages]
            self._carrier = None
        if not text:
            return messages
        note = f"{self._config.summary_heading}\n{text}"
        last = messages[-1]
        if last.role not in ("user", "developer"):  # the prompt ends with a tool's result
            return [*messages, Message("user", note)]
        self._carrier = (replace(last, content=f"{last.content}\n\n{note}"), last)
        return [*messages[:-1], self._carrier[0]]


def cycles(messages: Sequence[Message], fixed: int) -> list[range]:
    """Positions of the tool-call cycles behind the first ``fixed`` messages, in order."""
    found: list[range] = []
    at = fixed
    while at < len(messages):
        end = at + 1
        while end < len(messages) and messages[end].role == "tool":
            end += 1
        if messages[at].role == "assistant" and end > at + 1:
            found.append(range(at, end))
        at = end
    return found


def discard(messages: Sequence[Message], fixed: int, share: float) -> tuple[Message, ...]:
    """``messages`` without the first ``share`` of their n cycles: the whole number below share · n, at least one.

    The first ``fixed`` messages, and all that belong to no cycle, stay.
    """
    found = cycles(messages, fixed)
    dropped = {i for cycle in found[: max(1, int(share * len(found)))] for i in cycle}
    return tuple(m for i, m in enumerate(messages) if i not in dropped)
