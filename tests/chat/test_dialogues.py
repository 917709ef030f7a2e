"""What a program sends is found in what was sampled: every sampled token a target once, on the prompt it had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from chat_fixtures import SEARCH, calls, plain, renderer
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.types import Message, ToolCall
from rl.chat.dialogues import Dialogues
from rl.chat.session import Session

SYSTEM, QUESTION = Message("system", "S", tools=(SEARCH,)), Message("user", "Which metal?")
CALL = Message("assistant", "I look.", "look", (ToolCall("search", {"query": "Silver", "n": 1}),))
ANSWER, MORE, FOUND = Message("assistant", "Silver", "found"), Message("user", "Sure?"), Message("tool", "a metal")


def open_session(prompt: Sequence[Message]) -> Session:
    return Session(renderer(), prompt, thinking=True, max_context=10_000)


def tokens_of(message: Message) -> list[int]:
    before = renderer().render([QUESTION], thinking=True)
    return renderer().render([QUESTION, message], thinking=True)[len(before) :]


@dataclass
class Played:
    """An episode, and what the policy saw and said in it."""

    dialogues: Dialogues = field(default_factory=lambda: Dialogues(open_session))
    spans: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def ask(self, *request: Message, says: Message = ANSWER, cut: int | None = None) -> Message:
        turn = self.dialogues.ask(request)
        prompt, tokens = turn.session.prompt_tokens(), tokens_of(says)[:cut]
        number = len(self.spans)
        said = turn.session.append_sampled(tokens, [-number - 0.5] * len(tokens), number, ended=cut is None)
        self.dialogues.answered(turn, said)
        self.spans.append((prompt, tokens))
        return said

    def check(self) -> None:
        """Each span is a target in exactly one segment, behind the prompt that the policy had; nothing else is."""
        segments = self.dialogues.segments()
        for number, (prompt, tokens) in enumerate(self.spans):
            here, end = len(prompt), len(prompt) + len(tokens)
            hits = [
                segment
                for segment in segments
                if segment.tokens[:end].tolist() == [*prompt, *tokens]
                and segment.loss_mask[here:end].all()
                and (segment.versions[here:end] == number).all()
                and (segment.logprobs[here:end] == -number - 0.5).all()
            ]
            assert len(hits) == 1
        assert sum(int(s.loss_mask.sum()) for s in segments) == sum(len(tokens) for _, tokens in self.spans)

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.dialogues.counts)


ECHOES = {
    "as it was": CALL,
    "reasoning dropped": replace(CALL, reasoning=None),
    "arguments in another order": replace(CALL, tool_calls=(ToolCall("search", {"n": 1, "query": "Silver"}),)),
    "spaces trimmed": replace(CALL, content=" I look.\n"),
    "text beside the call dropped": replace(CALL, content=""),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_what_programs_drop_or_write_anew_is_found(echo: Message) -> None:
    played = Played()
    played.ask(SYSTEM, QUESTION, says=CALL)
    played.ask(SYSTEM, QUESTION, echo, FOUND)
    played.check()
    (segment,) = played.dialogues.segments()
    assert segment.tokens.tolist() == renderer().render([SYSTEM, QUESTION, CALL, FOUND, ANSWER], thinking=True)
    assert played.counts == {}


REWRITES = {
    "another text": replace(ANSWER, content="Gold"),
    "a call as text": Message("assistant", 'I call search("Silver")'),
    "an argument changed": replace(CALL, tool_calls=(ToolCall("search", {"query": "Gold", "n": 1}),)),
}


@pytest.mark.parametrize("echo", REWRITES.values(), ids=REWRITES)
def test_what_was_rewritten_is_context_of_a_new_segment(echo: Message) -> None:
    played = Played()
    played.ask(SYSTEM, QUESTION, says=CALL if echo.tool_calls else ANSWER)
    after = FOUND if echo.tool_calls else MORE
    played.ask(SYSTEM, QUESTION, echo, after)
    played.check()
    _, second = played.dialogues.segments()
    assert second.loss_mask.sum() == len(tokens_of(ANSWER))
    assert played.counts == {"history_rewritten": 1}


def test_a_sub_agent_and_its_master_speak_in_turn() -> None:
    played = Played()
    other = (Message("system", "You count."), Message("user", "pears"))
    played.ask(SYSTEM, QUESTION, says=CALL)
    said = played.ask(*other)
    played.ask(SYSTEM, QUESTION, CALL, FOUND)
    played.ask(*other, said, MORE)
    played.check()
    assert played.counts == {"dialogue_begun": 1}
    assert len(played.dialogues.segments()) == 3  # a user's turn drops the reasoning before it: the second branches
    assert [part[-1] for part in played.dialogues.parts] == [ANSWER, ANSWER]


def test_going_back_branches_on_the_tokens_that_are_there() -> None:
    """The second answer is dropped from the history; then the same is asked once more: a vote."""
    played = Played()
    played.ask(SYSTEM, QUESTION, says=CALL)
    played.ask(SYSTEM, QUESTION, CALL, FOUND, says=CALL)
    other = Message("tool", "no such metal")
    played.ask(SYSTEM, QUESTION, replace(CALL, reasoning=None), other)
    played.ask(SYSTEM, QUESTION, replace(CALL, reasoning=None), other, says=CALL)
    played.check()
    assert played.counts == {"dialogue_branched": 2}
    trunk = played.dialogues.segments()[0].tokens.tolist()
    for prompt, _ in played.spans[2:]:
        kept = len(played.spans[0][0]) + len(played.spans[0][1])
        assert prompt[:kept] == trunk[:kept]
    assert played.spans[2][0] == played.spans[3][0]
    assert [len(part) for part in played.dialogues.parts] == [5, 2, 1]  # without what another part has


def test_two_at_once_do_not_share_a_stream() -> None:
    dialogues = Dialogues(open_session)
    first, second = (dialogues.ask((SYSTEM, QUESTION)) for _ in range(2))
    assert first.session is not second.session
    assert first.session.prompt_tokens() == second.session.prompt_tokens()
    assert dialogues.same((SYSTEM, QUESTION)) == [first, second]
    assert dialogues.same((SYSTEM, MORE)) == []
    for turn in (first, second):
        turn.session.append_sampled(tokens_of(ANSWER), [-1.0] * len(tokens_of(ANSWER)), 0, ended=True)
        dialogues.answered(turn, ANSWER)
    assert [s.loss_mask.sum() for s in dialogues.segments()] == [len(tokens_of(ANSWER))] * 2


def test_an_answer_that_was_not_given_is_asked_again_in_its_place() -> None:
    dialogues = Dialogues(open_session)
    dialogues.answered(dialogues.ask((SYSTEM, QUESTION)), None)
    dialogues.ask((SYSTEM, QUESTION))
    assert len(dialogues.all) == 1


def test_a_dialogue_that_got_no_answer_has_not_spoken_last() -> None:
    played = Played()
    played.ask(SYSTEM, QUESTION)
    claimed = Message("assistant", "Gold", "made up")
    played.dialogues.answered(played.dialogues.ask((SYSTEM, QUESTION, claimed, MORE)), None)
    assert [part[-1] for part in played.dialogues.parts] == [MORE, ANSWER]
    played.ask(SYSTEM, QUESTION, claimed, MORE, says=CALL)
    assert [part[-1] for part in played.dialogues.parts] == [ANSWER, CALL]


def test_a_dialogue_goes_on_behind_an_answer_that_was_cut_off() -> None:
    played = Played()
    said = played.ask(SYSTEM, QUESTION, cut=3)
    assert said.parse_error is not None
    shown = Message("assistant", said.content)
    played.ask(SYSTEM, QUESTION, shown, MORE)
    played.ask(SYSTEM, QUESTION, shown, QUESTION)  # and from there another way
    played.check()
    assert played.counts == {"dialogue_branched": 1}


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ((), "no message"),
        ((SYSTEM,), "ends with a message of the role 'system'"),
        ((SYSTEM, QUESTION, ANSWER), "'assistant'"),
        ((SYSTEM, QUESTION, CALL, MORE), "without a result"),
        ((SYSTEM, replace(QUESTION, tools=(SEARCH,))), "has tools"),
    ],
)
def test_what_has_no_form_is_refused_and_leaves_nothing(request_: tuple[Message, ...], why: str) -> None:
    dialogues = Dialogues(open_session)
    with pytest.raises(ValueError, match=why):
        dialogues.ask(request_)
    assert dialogues.all == []


answers = st.builds(lambda text, why: Message("assistant", text, why), plain.map(str.strip), plain)
acts = st.builds(lambda made, why: Message("assistant", "", why, tuple(made)), st.lists(calls, min_size=1), plain)


@given(st.data())
@settings(max_examples=60)
def test_every_sampled_token_is_a_target_once(data: st.DataObject) -> None:
    """A program that continues, goes back, asks twice, starts anew, rewrites: whatever it does."""
    played = Played()
    histories: list[tuple[Message, ...]] = [(SYSTEM, QUESTION)]
    for _ in range(data.draw(st.integers(1, 7))):
        request = data.draw(st.sampled_from(histories))
        says = data.draw(answers | acts)
        said = played.ask(*request, says=says, cut=data.draw(st.none() | st.just(2)))
        echo = Message("assistant", said.content.strip(), None, said.tool_calls)
        change = data.draw(st.sampled_from(["none", "none", "none", "text", "shorter"]))
        if change == "text" and not echo.tool_calls:
            echo = replace(echo, content=f"{echo.content} indeed")
        base = request[2:] if change == "shorter" and len(request) > 2 and request[2].role == "user" else request
        after: list[Any] = [Message("tool", data.draw(plain)) for _ in echo.tool_calls] or [
            Message("user", data.draw(plain))
        ]
        histories.append((*base, echo, *after))
    played.check()
