"""Session: the token stream of one dialogue. Tokens in, tokens out, append-only.

What the engine sampled is stored as it came and never decoded and encoded again; what the environment
says is rendered once, when it arrives. Each segment is one stream of training data::

    tokens     prompt | sampled | environment | sampled | …
    loss_mask    0    |    1    |      0      |    1    | …

``prompt_tokens()`` is always a prefix of what the segment holds later, and the segment's tokens are
exactly what the engine saw and said. Where the rendered history changes (in thinking mode a new user
message drops the reasoning before it, a context policy drops old tool calls), the session branches: a new
segment with its own prompt.

A response truncated before its stop token stays open: either sampling continues where it stopped
(``append_sampled`` again), or ``append_messages`` first closes it with tokens that carry no loss. A limit on
thinking uses the first: ``close_thinking`` puts the end of the reasoning after what was sampled, as context, and
the response continues from there. A prompt that ends with an unfinished assistant message (``prefix``) opens a
response in the same way: what is given of it is context, and the policy continues behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.types import Message
from rl.chat.renderer import SUMMARY, Renderer
from rl.types import ReplayRecord, Segment, Usage


class SessionError(RuntimeError):
    """Calls in an order that a dialogue cannot have, or arrays that do not fit together."""


@dataclass(frozen=True)
class Place:
    """A point of a dialogue: its first ``messages``, which are the first ``tokens`` of stream number ``stream``.

    ``open_from``: where the last of them begins if it is an answer that was cut off.
    """

    messages: int
    stream: int
    tokens: int
    open_from: int | None = None


class _Stream:
    """The growing columns of one segment, one entry per token."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self.mask: list[bool] = []
        self.logprobs: list[float] = []
        self.versions: list[int] = []
        self.support: list[np.ndarray | None] = []
        self.choices: dict[str, np.ndarray] = {}  # "experts", "indexer": [rows, layers, choices], rows <= len(tokens)
        self.valid = np.zeros(0, dtype=bool)
        self.extend_context(prompt)

    def extend_context(self, tokens: Sequence[int]) -> None:
        n = len(tokens)
        self.tokens += tokens
        self.mask += [False] * n
        self.logprobs += [0.0] * n
        self.versions += [-1] * n
        self.support += [None] * n

    def extend_sampled(
        self, tokens: Sequence[int], logprobs: Sequence[float], versions: Sequence[int], replay: ReplayRecord | None
    ) -> None:
        """``replay`` has one row per token of the whole stream, the new tokens included."""
        self.tokens += tokens
        self.mask += [True] * len(tokens)
        self.logprobs += logprobs
        self.versions += versions
        kept = None if replay is None else replay.support
        self.support += [None] * len(tokens) if kept is None else kept[len(kept) - len(tokens) :]
        if replay is not None:
            self._merge_replay(replay)

    def check_replay(self, record: ReplayRecord, n_tokens: int) -> None:
        """Raise SessionError unless ``record`` fits a stream of ``n_tokens``."""
        if len(record.valid) != n_tokens:
            raise SessionError(
                f"replay has {len(record.valid)} rows for {n_tokens} tokens; "
                "give one row per token from the segment's start"
            )
        for name, rows in _choices(record).items():
            if name in self.choices and rows.shape[1:] != self.choices[name].shape[1:]:
                raise SessionError(
                    f"replay rows of {name} are {rows.shape[1:]} [layers, choices], earlier ones "
                    f"{self.choices[name].shape[1:]}; one policy shape per session"
                )

    def segment(self) -> Segment:
        replay = None
        truncated = any(kept is not None for kept in self.support)
        if self.choices or truncated:
            self._grow(len(self.tokens))
            copies = {name: rows.copy() for name, rows in self.choices.items()}
            replay = ReplayRecord(
                self.valid.copy(),
                experts=copies.get("experts"),
                indexer=copies.get("indexer"),
                support=list(self.support) if truncated else None,
            )
        return Segment(
            tokens=np.asarray(self.tokens, dtype=np.int32),
            loss_mask=np.asarray(self.mask, dtype=bool),
            logprobs=np.asarray(self.logprobs, dtype=np.float32),
            versions=np.asarray(self.versions, dtype=np.int32),
            replay=replay,
        )

    def _merge_replay(self, record: ReplayRecord) -> None:
        """Take the rows of ``record`` that are not known yet.

        The first recording of a row wins: row t belongs to the forward pass that gave the log-prob of
        token t+1, and a later pass over the same prefix (new weights, empty prefix cache) did not.
        """
        count = len(record.valid)
        for name, rows in _choices(record).items():
            self.choices.setdefault(name, np.zeros((0, *rows.shape[1:]), dtype=rows.dtype))
        self._grow(count)
        new = record.valid & ~self.valid[:count]
        for name, rows in _choices(record).items():
            self.choices[name][:count][new] = rows[new]
        self.valid[:count] |= record.valid

    def _grow(self, count: int) -> None:
        for name, rows in self.choices.items():
            if count > len(rows):
                pad = np.zeros((count - len(rows), *rows.shape[1:]), dtype=rows.dtype)
                self.choices[name] = np.concatenate([rows, pad])
        if count > len(self.valid):
            self.valid = np.concatenate([self.valid, np.zeros(count - len(self.valid), dtype=bool)])


def _choices(record: ReplayRecord) -> dict[str, np.ndarray]:
    """The recorded choices of a forward pass, by name."""
    named = {"experts": record.experts, "indexer": record.indexer}
    return {name: rows for name, rows in named.items() if rows is not None}


class Session:
    """One dialogue between an environment and a policy, as messages (a view) and as tokens (the truth).

    ``messages`` is all that was ever said; ``context`` is what the policy sees of it now (they differ after
    ``rewrite``). ``prompt`` ends with a user, developer or tool message, or with an assistant message that the policy
    continues. ``max_context`` is in tokens, prompt and
    response together.
    """

    _open_from: int | None  # where a response without a stop token begins

    def __init__(self, renderer: Renderer, prompt: Sequence[Message], *, thinking: bool, max_context: int) -> None:
        if not prompt or (prompt[-1].role in ("assistant", "system") and not prompt[-1].prefix):
            last = prompt[-1].role if prompt else "nothing"
            raise SessionError(
                f"the prompt ends with {last}; it must end with a user or tool message, or with an assistant message "
                "that the policy continues (prefix)"
            )
        self._begin(renderer, prompt, renderer.render(prompt, thinking=thinking), thinking, max_context)
        if prompt[-1].prefix:
            self._open_from = self.used - len(renderer.prefix_tokens(prompt[-1], thinking=thinking))

    def _begin(
        self, renderer: Renderer, messages: Sequence[Message], tokens: Sequence[int], thinking: bool, max_context: int
    ) -> None:
        self._renderer = renderer
        self._thinking = thinking
        self.max_context = max_context
        self._messages: list[Message] = list(messages)
        self._context: list[Message] = list(messages)
        self._streams = [_Stream(tokens)]
        self._open_from = None
        self.marks: dict[int, str] = {}  # position in ``messages`` → what the context policy did there
        self._usage = Usage()  # of everything but the response that is still open
        self._last = Usage()  # of the last response

    @property
    def messages(self) -> tuple[Message, ...]:
        """The dialogue so far, assistant messages as parsed."""
        return tuple(self._messages)

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """``messages`` without summaries and their requests: what policy and environment said to each other."""
        return tuple(m for i, m in enumerate(self._messages) if self.marks.get(i) != SUMMARY)

    @property
    def context(self) -> tuple[Message, ...]:
        """What the policy sees: the messages that the current segment was rendered from."""
        return tuple(self._context)

    @property
    def used(self) -> int:
        """Tokens in the current segment."""
        return len(self._streams[-1].tokens)

    @property
    def total_tokens(self) -> int:
        """Tokens of all segments together: a prompt counts in each segment that has it."""
        return sum(len(stream.tokens) for stream in self._streams)

    @property
    def is_cut_off(self) -> bool:
        """True while the last response, or what the prompt gives of it, has no stop token."""
        return self._open_from is not None

    @property
    def usage(self) -> Usage:
        """Tokens sent and sampled so far. A response that continued after a truncation is split as a whole."""
        return self._usage + self._last

    def prompt_tokens(self) -> list[int]:
        """What the engine continues from now."""
        if self._context[-1].role == "assistant" and self._open_from is None:
            raise SessionError("the assistant's turn is complete; append_messages before sampling again")
        return list(self._streams[-1].tokens)

    def room(self) -> int:
        """Tokens left in the context window; at most this many may be sampled next (0: no more)."""
        return max(0, self.max_context - self.used)

    def measure(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt made of ``messages``."""
        return len(self._renderer.render(messages, thinking=self._thinking))

    def place(self) -> Place:
        """Where the dialogue is now; ``branch`` goes back there."""
        return Place(len(self._context), len(self._streams) - 1, self.used, self._open_from)

    def branch(self, place: Place) -> Session:
        """A second dialogue that goes on from ``place``, on the very tokens that are before it here.

        There they are context: what was sampled is a target in this session alone. No ``rewrite`` may have come since.
        """
        tokens = self._streams[place.stream].tokens[: place.tokens]
        other = Session.__new__(Session)
        other._begin(self._renderer, self._context[: place.messages], tokens, self._thinking, self.max_context)
        other._open_from = place.open_from
        return other

    def mark(self, what: str) -> None:
        """Note at the last message what a context policy did there."""
        self.marks[len(self._messages) - 1] = what

    def rewrite(self, context: Sequence[Message]) -> None:
        """Let the policy continue from ``context`` alone: a new segment, whose prompt is rendered from it.

        Earlier segments keep their tokens as they are. A truncated response ends here.
        """
        if not context or context[-1].role in ("assistant", "system"):
            raise SessionError("the new context must end with a user or tool message")
        self._context = list(context)
        self._streams.append(_Stream(self._renderer.render(self._context, thinking=self._thinking)))
        self._open_from = None

    def as_ended(self) -> Message:
        """The last response, which was truncated, read as if it had ended there. The dialogue is not changed."""
        if self._open_from is None:
            raise SessionError("the last response was not cut off")
        tokens = self._streams[-1].tokens[self._open_from :]
        return self._parse(tokens, ended=True)

    def tokens_up_to(self, tokens: Sequence[int], texts: Sequence[str]) -> int | None:
        """How many of ``tokens``, sampled after ``prompt_tokens()``, it takes until the answer's text has one of
        ``texts``; None: it never has. What stands in the reasoning does not count."""
        stream = self._streams[-1].tokens
        begun = [] if self._open_from is None else stream[self._open_from :]

        def holds(count: int) -> bool:
            content = self._parse([*begun, *map(int, tokens[:count])], ended=True).content
            return any(text in content for text in texts)

        low, high = 0, len(tokens)  # not the first `low` tokens, but the first `high`
        if not texts or not holds(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        return high

    def append_sampled(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        versions: int | Sequence[int],
        replay: ReplayRecord | None = None,
        *,
        ended: bool,
        cached: int = 0,
    ) -> Message:
        """Append what the engine sampled after ``prompt_tokens()`` and return it as a message.

        ``tokens`` holds the stop token when ``ended``; ``logprobs`` and ``versions`` (or one version for
        all) are per token; ``replay`` has one row per token of the segment so far and of ``tokens``. After a
        truncation the tokens continue the same response, and the message replaces the partial one. ``cached``: tokens
        of the prompt that the engine found in its prefix cache.
        """
        tokens = [int(t) for t in tokens]
        versions = [versions] * len(tokens) if isinstance(versions, int) else [int(v) for v in versions]
        self._check_sampled(tokens, logprobs, versions, ended)
        stream = self._streams[-1]
        if replay is not None:
            stream.check_replay(replay, len(stream.tokens) + len(tokens))
        sent = Usage(1, len(stream.tokens), cached)
        begin = len(stream.tokens) if self._open_from is None else self._open_from
        if self._open_from is not None:
            self._messages.pop()
            self._context.pop()
            sent += Usage(self._last.requests, self._last.prompt, self._last.cached)
        else:
            self._usage = self.usage
        stream.extend_sampled(tokens, [float(x) for x in logprobs], versions, replay)
        self._open_from = None if ended else begin
        response = stream.tokens[begin:]
        # what close_thinking put into the response was not sampled
        kinds = self._renderer.split(response, thinking=self._thinking, sampled=stream.mask[begin:])
        self._last = sent + Usage(thinking=kinds.thinking, tool=kinds.tool, answer=kinds.answer)
        message = self._parse(response, ended=ended)
        self._messages.append(message)
        self._context.append(message)
        return message

    def close_thinking(self) -> bool:
        """End the reasoning of the truncated response with tokens that carry no loss; sampling continues after them.

        False when the response is not inside its reasoning: nothing is appended then. ``room()`` may be 0 afterwards.
        """
        if self._open_from is None:
            raise SessionError("close_thinking without an open response; append_sampled(…, ended=False) before it")
        stream = self._streams[-1]
        closing = self._renderer.end_thinking_tokens(stream.tokens[self._open_from :], thinking=self._thinking)
        if not closing:
            return False
        stream.extend_context(closing)
        response = stream.tokens[self._open_from :]
        self._messages[-1] = self._context[-1] = self._parse(response, ended=False)
        return True

    def append_messages(self, messages: Sequence[Message]) -> None:
        """Append what the environment said: with loss mask 0, or as a new segment if history changes."""
        if not messages:
            return
        if any(message.role == "assistant" for message in messages):
            raise SessionError("append_messages takes the environment's messages; append_sampled the policy's")
        stream = self._streams[-1]
        ended = self._open_from is None and self._context[-1].role == "assistant"
        stop = stream.tokens[-1] if ended else None
        added = self._renderer.render_after(self._context, messages, thinking=self._thinking, stop=stop)
        if added is None:
            prompt = self._renderer.render([*self._context, *messages], thinking=self._thinking)
            self._streams.append(_Stream(prompt))
        else:
            if self._open_from is not None:
                response = stream.tokens[self._open_from :]
                stream.extend_context(self._renderer.close_tokens(response, thinking=self._thinking))
            stream.extend_context(added)
        self._messages += messages
        self._context += messages
        self._open_from = None

    def segments(self) -> list[Segment]:
        """The training samples so far, copies; a segment without a sampled token is left out."""
        return [stream.segment() for stream in self._streams if any(stream.mask)]

    def _parse(self, tokens: list[int], *, ended: bool) -> Message:
        tools = [tool for message in self._context for tool in message.tools]
        return self._renderer.parse(tokens, thinking=self._thinking, ended=ended, tools=tools)

    def _check_sampled(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        versions: Sequence[int],
        ended: bool,
    ) -> None:
        if self._context[-1].role == "assistant" and self._open_from is None:
            raise SessionError("append_sampled twice in a row: the assistant's turn was complete")
        for name, column in (("logprobs", logprobs), ("versions", versions)):
            if len(column) != len(tokens):
                raise SessionError(f"{name} has {len(column)} entries for {len(tokens)} sampled tokens")
        if ended and (not tokens or tokens[-1] not in self._renderer.stop_token_ids):
            raise SessionError(
                f"ended=True but the last of {len(tokens)} sampled tokens is no stop token "
                f"({self._renderer.stop_token_ids}); keep the stop token, or pass ended=False"
            )
