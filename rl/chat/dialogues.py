"""The dialogues of one episode in which a program drives: what it sends is found again in what was sampled.

A program (an agent with a loop of its own) sends its whole history with every request. It may drop reasoning, write
arguments anew, trim spaces, replace ids. What it repeats is found by its messages, and stands in the prompt as the
tokens that were sampled; nothing is encoded again::

    request      system user │ assistant tool │ assistant tool          all of it is known, up to the last result
    session      ─────────────────────────────────────────────► + tool  it continues there: the same segment

The requests of an episode are a tree, a path of it is a ``Dialogue`` with its own ``Session``. A request

- continues the dialogue that it repeats up to its last answer;
- else branches off behind the last answer that it repeats, or (the same question again) before it: a new segment, in
  which the tokens so far are context;
- else begins a dialogue of its own: a sub-agent, or a history that the program has rewritten. What is in it was not
  sampled, or is a target elsewhere: it is context.

``counts``: ``dialogue_begun`` (beyond the first), ``dialogue_branched``, ``history_rewritten`` (it holds answers that
nobody gave so).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from envs.message_forms import checked_prompt
from envs.types import Message
from rl.chat.session import Place, Session
from rl.types import Segment, Usage


@dataclass(frozen=True, eq=False)
class Turn:
    """A request that waits for its answer. ``asked``: its messages; ``prompt``: where the session was then."""

    dialogue: Dialogue
    asked: int
    prompt: Place

    @property
    def session(self) -> Session:
        return self.dialogue.session


@dataclass(eq=False)
class Dialogue:
    """One path: ``seen`` as the program has it, in our messages where it repeated them.

    ``turns``, ``ends``: by the number of messages seen, what was asked then, and the places behind answers. ``before``:
    messages of the session that another dialogue has too. ``busy``: it is being answered. ``spoke``: when it was last.
    """

    session: Session
    seen: list[Message]
    before: int = 0
    turns: dict[int, Turn] = field(default_factory=dict)
    ends: dict[int, Place] = field(default_factory=dict)
    busy: bool = False
    spoke: int = 0


class Dialogues:
    """See the module. ``open_session`` makes the token stream of a prompt that is not known."""

    def __init__(self, open_session: Callable[[Sequence[Message]], Session]) -> None:
        self._open = open_session
        self.all: list[Dialogue] = []
        self.counts: Counter[str] = Counter()
        self._spoken = 0

    def ask(self, request: Sequence[Message]) -> Turn:
        """The session of the turn is ready for the policy's answer to ``request``.

        Raises ValueError for messages that the chat format has no form for, or that need no answer; nothing is kept.
        """
        checked_prompt(request)
        found = self._find(request)
        if found is None:
            dialogue = self._begin(request)
        else:
            dialogue, at, place = found
            if dialogue.busy or place != dialogue.session.place():
                session = dialogue.session.branch(place)
                dialogue = Dialogue(session, dialogue.seen[:at], place.messages)
            dialogue.session.append_messages(request[at:])
            dialogue.seen += request[at:]
            if dialogue not in self.all:
                self.all.append(dialogue)
                self.counts["dialogue_branched"] += 1
        turn = Turn(dialogue, len(request), dialogue.session.place())
        dialogue.turns[turn.asked], dialogue.busy = turn, True
        return turn

    def answered(self, turn: Turn, shown: Message | None) -> None:
        """The session of ``turn`` has the policy's answer, and the program gets it as ``shown``; None: it gets none."""
        dialogue = turn.dialogue
        dialogue.busy = False
        if dialogue.session.place() != turn.prompt:  # the policy has spoken, be it what does not parse
            self._spoken += 1
            dialogue.spoke = self._spoken
        if shown is not None:
            dialogue.seen.append(shown)
            dialogue.ends[len(dialogue.seen)] = dialogue.session.place()

    def same(self, request: Sequence[Message]) -> list[Turn]:
        """The turns in which just this was asked, the latest last."""
        n = len(request)
        return [d.turns[n] for d in self.all if n in d.turns and _common(d.seen, request) == n]

    @property
    def parts(self) -> list[tuple[Message, ...]]:
        """All that was said, dialogue by dialogue and without repetitions; last that which spoke last."""
        return [d.session.messages[d.before :] for d in sorted(self.all, key=lambda d: d.spoke)]

    @property
    def total_tokens(self) -> int:
        """Tokens of all segments together."""
        return sum(d.session.total_tokens for d in self.all)

    @property
    def usage(self) -> Usage:
        """Of all dialogues."""
        return sum((d.session.usage for d in self.all), Usage())

    def segments(self) -> list[Segment]:
        """The training samples so far: every sampled token is a target in just one of them."""
        return [segment for d in self.all for segment in d.session.segments()]

    def _find(self, request: Sequence[Message]) -> tuple[Dialogue, int, Place] | None:
        """The dialogue that repeats most of the request, how many messages, and where that is in its session."""
        best: tuple[Dialogue, int, Place] | None = None
        rank = (0, False)
        for dialogue in self.all:
            common = _common(dialogue.seen, request)
            places = {
                n: place
                for n, place in dialogue.ends.items()
                if n <= common and n < len(request) and all(m.role != "assistant" for m in request[n:])
            }
            if common == len(request) and common in dialogue.turns:
                places[common] = dialogue.turns[common].prompt
            for n, place in places.items():
                if (mine := (n, not dialogue.busy and place == dialogue.session.place())) > rank:
                    best, rank = (dialogue, n, place), mine
        return best

    def _begin(self, request: Sequence[Message]) -> Dialogue:
        near = max(self.all, key=lambda d: _common(d.seen, request), default=None)
        known = [] if near is None else near.seen[: _common(near.seen, request)]
        ours = [*known, *request[len(known) :]]  # with the reasoning that belongs to what is repeated
        session = self._open([_with_reasoning(message) for message in ours])
        if self.all:
            rewritten = any(m.role != "system" for m in known) and any(m.role == "assistant" for m in request)
            self.counts["history_rewritten" if rewritten else "dialogue_begun"] += 1
        dialogue = Dialogue(session, ours)
        self.all.append(dialogue)
        return dialogue


def _with_reasoning(message: Message) -> Message:
    """V3.2's format refuses an answer without any reasoning after the last user message."""
    return replace(message, reasoning="") if message.role == "assistant" and message.reasoning is None else message


def _common(ours: Sequence[Message], theirs: Sequence[Message]) -> int:
    """How many first messages are the same."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if not _same(a, b)), min(len(ours), len(theirs)))


def _same(ours: Message, theirs: Message) -> bool:
    """Whether a program that sends ``theirs`` may mean ``ours``: reasoning, outer spaces, the form of arguments and
    text beside calls may be gone."""
    if ours is theirs:
        return True
    if ours.role != theirs.role or _calls(ours) != _calls(theirs):
        return False
    if ours.tools != theirs.tools or ours.response_format != theirs.response_format:
        return False
    said = theirs.content.strip()
    return said == ours.content.strip() or (not said and bool(ours.tool_calls))


def _calls(message: Message) -> list[tuple[str, Any]]:
    return [(call.name, json.dumps(dict(call.arguments), sort_keys=True)) for call in message.tool_calls]
