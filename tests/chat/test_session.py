"""Session: append-only token streams, masks, branches, replay rows."""

from __future__ import annotations

import numpy as np
import pytest
from chat_fixtures import SEARCH, assistants, plain, renderer
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.types import Message, ToolCall
from rl.chat.session import Session, SessionError
from rl.types import ReplayRecord

SYSTEM = Message("system", "S", tools=(SEARCH,))
PROMPT = (SYSTEM, Message("user", "Which metal?"))
CALL = Message("assistant", reasoning="look", tool_calls=(ToolCall("search", {"query": "Silver"}),))
ANSWER = Message("assistant", "Silver", reasoning="found")


def open_session(*, thinking: bool = True, prompt: tuple[Message, ...] = PROMPT, room: int = 10_000) -> Session:
    return Session(renderer(), prompt, thinking=thinking, max_context=room)


def tokens_of(message: Message, *, thinking: bool = True) -> list[int]:
    """What a policy that writes perfectly would sample for ``message``."""
    prompt = renderer().render([Message("user", "q")], thinking=thinking)
    return renderer().render([Message("user", "q"), message], thinking=thinking)[len(prompt) :]


def say(session: Session, message: Message, version: int = 0, *, thinking: bool = True) -> Message:
    tokens = tokens_of(message, thinking=thinking)
    return session.append_sampled(tokens, [-0.5] * len(tokens), version, ended=True)


def test_a_tool_cycle_is_one_segment() -> None:
    session = open_session()
    prompt = session.prompt_tokens()
    assert prompt == renderer().render(PROMPT, thinking=True)
    assert say(session, CALL, version=3) == CALL
    session.append_messages([Message("tool", "Silver is a metal")])
    say(session, ANSWER, version=4)

    (segment,) = session.segments()
    n_call, n_answer = len(tokens_of(CALL)), len(tokens_of(ANSWER))
    assert len(segment) == len(prompt) + n_call + n_answer + (segment.versions[len(prompt) + n_call :] == -1).sum()
    assert segment.loss_mask.sum() == n_call + n_answer
    assert segment.versions[segment.loss_mask].tolist() == [3] * n_call + [4] * n_answer
    assert (segment.logprobs[segment.loss_mask] == -0.5).all()
    assert (segment.logprobs[~segment.loss_mask] == 0).all()
    assert (segment.versions[~segment.loss_mask] == -1).all()
    assert (segment.tokens.dtype, segment.logprobs.dtype) == (np.int32, np.float32)
    # canonical messages: the stream is the rendering of the dialogue
    assert segment.tokens.tolist() == renderer().render(session.messages, thinking=True)
    assert segment.replay is None


@pytest.mark.parametrize("thinking", [True, False])
@settings(max_examples=60)
@given(st.data())
def test_invariants(thinking: bool, data: st.DataObject) -> None:
    """The stream grows at its end only, and is what the engine saw and said, in order."""
    session = open_session(thinking=thinking)
    seen = [session.prompt_tokens()]
    sampled = branches = 0
    for _ in range(data.draw(st.integers(1, 5))):
        prompt = session.prompt_tokens()
        # any tokens at all, well-formed or not
        tokens = data.draw(
            st.lists(st.integers(2, renderer().tokenizer.vocab_size - 1), min_size=1, max_size=12)
            | assistants(thinking).map(lambda m: tokens_of(m, thinking=thinking)[:-1])
        )
        ended = data.draw(st.booleans())
        tokens = [*tokens, 1] if ended else tokens or [5]
        message = session.append_sampled(tokens, [-1.0] * len(tokens), 0, ended=ended)
        sampled += len(tokens)
        if ended:
            with pytest.raises(SessionError):
                session.prompt_tokens()
        stream = session.segments()[-1].tokens.tolist()
        assert stream == prompt + tokens
        match data.draw(st.sampled_from(["tool", "user", "nothing"])):
            case "tool" if message.tool_calls or message.parse_error:
                session.append_messages([Message("tool", data.draw(plain)) for _ in message.tool_calls or (1,)])
            case "nothing" if not ended:
                assert session.prompt_tokens() == stream
                continue
            case _:
                session.append_messages([Message("user", data.draw(plain))])
                branches += thinking
        after = session.prompt_tokens()
        if len(seen) - 1 < branches:
            seen.append(after)
            assert after == renderer().render(session.messages, thinking=thinking)
        else:
            assert after[: len(stream)] == stream
    segments = session.segments()
    assert len(segments) <= branches + 1
    assert sum(int(s.loss_mask.sum()) for s in segments) == sampled
    for segment, prompt in zip(segments, seen, strict=False):
        assert segment.tokens[: len(prompt)].tolist() == prompt
        assert not segment.loss_mask[: len(prompt)].any()


def test_a_new_user_turn_branches_in_thinking_mode_only() -> None:
    for thinking, n_segments in ((True, 2), (False, 1)):
        session = open_session(thinking=thinking)
        answer = ANSWER if thinking else Message("assistant", "Silver")
        say(session, answer, thinking=thinking)
        session.append_messages([Message("user", "And another?")])
        assert session.prompt_tokens() == renderer().render(session.messages, thinking=thinking)
        assert len(session.segments()) == 1  # nothing sampled in the new one yet
        say(session, answer, thinking=thinking)
        assert len(session.segments()) == n_segments


def test_cut_off_then_continued() -> None:
    session = open_session()
    tokens = tokens_of(CALL)
    first = session.append_sampled(tokens[:5], [-1.0] * 5, 0, ended=False)
    assert first.parse_error == "the response was cut off after 5 tokens; be shorter"
    assert session.is_cut_off
    rest = tokens[5:]
    message = session.append_sampled(rest, [-1.0] * len(rest), 1, ended=True)
    assert message == CALL
    assert session.messages == (*PROMPT, CALL)
    (segment,) = session.segments()
    assert segment.loss_mask.sum() == len(tokens)


def test_cut_off_then_closed_without_loss() -> None:
    session = open_session()
    prompt = session.prompt_tokens()
    tokens = renderer().tokenizer.encode("look at")
    session.append_sampled(tokens, [-1.0] * len(tokens), 0, ended=False)
    session.append_messages([Message("tool", "Error: cut off")])
    text = renderer().tokenizer.decode(session.prompt_tokens()[len(prompt) :])
    result = "\n\n<function_results>\n<result>Error: cut off</result>\n</function_results>\n\n<think>"
    assert text == f"look at</think><｜end▁of▁sentence｜>{result}"
    assert session.prompt_tokens() == renderer().render(session.messages, thinking=True)
    assert session.segments()[0].loss_mask.sum() == len(tokens)


def test_replay_rows_of_several_turns() -> None:
    """The first recording of a row wins; the row of the last sampled token stays invalid."""
    session = open_session()

    def record(n: int, value: int) -> ReplayRecord:
        valid = np.ones(n, dtype=bool)
        valid[-1] = False
        return ReplayRecord(
            valid, np.full((n, 3, 2), value, dtype=np.uint8), np.full((n, 4, 5), -value, dtype=np.int16)
        )

    call, answer = tokens_of(CALL), tokens_of(ANSWER)
    n1 = len(session.prompt_tokens()) + len(call)
    session.append_sampled(call, [-1.0] * len(call), 0, record(n1, 1), ended=True)
    session.append_messages([Message("tool", "Silver")])
    n2 = len(session.prompt_tokens()) + len(answer)
    (pending,) = session.segments()
    assert pending.replay is not None
    assert pending.replay.valid.sum() == n1 - 1
    assert len(pending.replay.valid) == len(pending)
    session.append_sampled(answer, [-1.0] * len(answer), 1, record(n2, 2), ended=True)
    (segment,) = session.segments()
    assert segment.replay is not None
    assert segment.replay.valid.tolist() == [True] * (n2 - 1) + [False]
    assert segment.replay.experts.shape == (n2, 3, 2)
    assert (segment.replay.experts[: n1 - 1] == 1).all()
    assert (segment.replay.experts[n1 - 1 : n2 - 1] == 2).all()
    assert segment.replay.indexer is not None
    assert (segment.replay.indexer[: n1 - 1] == -1).all()
    assert (segment.replay.indexer[n1 - 1 : n2 - 1] == -2).all()


def test_support_is_aligned_with_tokens() -> None:
    session = open_session()
    tokens = tokens_of(ANSWER)
    prompt = len(session.prompt_tokens())
    support = [None] * prompt + [np.array([t], dtype=np.int32) for t in tokens]
    record = ReplayRecord(np.zeros(len(support), dtype=bool), support=support)  # a dense model: nothing but support
    session.append_sampled(tokens, [0.0] * len(tokens), [7] * len(tokens), record, ended=True)
    (segment,) = session.segments()
    assert segment.replay is not None
    assert segment.replay.support is not None
    assert segment.replay.experts is None
    assert [s is not None for s in segment.replay.support] == segment.loss_mask.tolist()


def test_room() -> None:
    session = open_session(room=len(open_session().prompt_tokens()) + 3)
    assert session.room() == 3
    say(session, ANSWER)
    assert session.room() == 0


def test_wrong_use_is_named() -> None:
    with pytest.raises(SessionError, match="ends with system"):
        open_session(prompt=(SYSTEM,))
    session = open_session()
    with pytest.raises(SessionError, match="logprobs has 1 entries for 2"):
        session.append_sampled([5, 1], [0.0], 0, ended=True)
    with pytest.raises(SessionError, match="no stop token"):
        session.append_sampled([5], [0.0], 0, ended=True)
    record = ReplayRecord(np.ones(9999, dtype=bool), np.zeros((9999, 1, 1), dtype=np.uint8))
    with pytest.raises(SessionError, match="replay has 9999 rows"):
        session.append_sampled([1], [0.0], 0, record, ended=True)
    assert session.messages == PROMPT  # nothing of the refused calls stayed
    with pytest.raises(SessionError, match="append_sampled the policy"):
        session.append_messages([ANSWER])
    session.append_sampled([1], [0.0], 0, ended=True)
    with pytest.raises(SessionError, match="turn was complete"):
        session.append_sampled([1], [0.0], 0, ended=True)
