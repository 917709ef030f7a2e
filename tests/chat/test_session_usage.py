"""A session counts what it sends and gets: per request, each sampled token once."""

from __future__ import annotations

from chat_fixtures import assistants, plain, renderer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hf_template import HERMES, chat_renderer
from test_session import ANSWER, CALL, open_session, say, tokens_of

from envs.types import Message
from rl.chat.session import Session
from rl.types import Usage


def test_two_turns_by_hand() -> None:
    session = open_session()
    assert session.usage == Usage()
    first, call, answer = len(session.prompt_tokens()), tokens_of(CALL), tokens_of(ANSWER)
    session.append_sampled(call, [-1.0] * len(call), 0, ended=True, cached=16)
    session.append_messages([Message("tool", "Silver is a metal")])
    second = len(session.prompt_tokens())
    session.append_sampled(answer, [-1.0] * len(answer), 0, ended=True, cached=48)
    one, two = (renderer().split(tokens, thinking=True) for tokens in (call, answer))
    assert one.tool > 0
    assert session.usage == Usage(
        requests=2,
        prompt=first + second,
        cached=64,
        thinking=one.thinking + two.thinking,
        tool=one.tool,
        answer=one.answer + two.answer,
    )


def test_a_response_that_goes_on_is_split_as_a_whole() -> None:
    session, tokens = open_session(), tokens_of(CALL)
    prompt, cut = len(session.prompt_tokens()), len(tokens) - 3
    for piece, ended in ((tokens[:cut], False), (tokens[cut:], True)):
        session.append_sampled(piece, [-1.0] * len(piece), 0, ended=ended, cached=16)
    whole = renderer().split(tokens, thinking=True)
    assert session.usage == Usage(2, 2 * prompt + cut, 32, whole.thinking, whole.tool, whole.answer)


def test_a_forced_end_of_thinking_is_not_counted() -> None:
    session = open_session()
    prompt, encode = len(session.prompt_tokens()), renderer().tokenizer.encode
    thought, answer = encode("look at the"), [*encode("Silver"), 1]
    session.append_sampled(thought, [-1.0] * len(thought), 0, ended=False)
    assert session.close_thinking()
    session.append_sampled(answer, [-1.0] * len(answer), 0, ended=True)
    assert session.usage == Usage(2, 2 * prompt + len(thought) + 1, 0, len(thought), 0, len(answer))
    assert session.usage.output == session.segments()[0].loss_mask.sum()


def test_a_forced_end_may_reach_into_the_answer() -> None:
    """The markup that a chat template's end of thinking needs goes on behind its mark."""
    chat = chat_renderer(HERMES)
    session = Session(chat, (Message("user", "q"),), thinking=True, max_context=10_000)
    thought, answer = chat.tokenizer.encode("<think>\nhm"), [*chat.tokenizer.encode("tin"), *chat.stop_token_ids]
    session.append_sampled(thought, [-1.0] * len(thought), 0, ended=False)
    assert session.close_thinking()
    session.append_sampled(answer, [-1.0] * len(answer), 0, ended=True)
    assert (session.usage.thinking, session.usage.answer) == (len(thought), len(answer))


def test_a_branch_sends_its_own_prompt() -> None:
    session = open_session()
    prompt = len(session.prompt_tokens())
    say(session, ANSWER)
    session.append_messages([Message("user", "And another?")])
    prompt += len(session.prompt_tokens())
    say(session, ANSWER)
    assert (session.usage.requests, session.usage.prompt) == (2, prompt)
    assert session.usage.output == 2 * len(tokens_of(ANSWER))


@settings(max_examples=80)
@given(st.data(), st.booleans())
def test_kinds_add_up_to_the_sampled_tokens(data: st.DataObject, thinking: bool) -> None:
    session, sent = open_session(thinking=thinking), 0
    for _ in range(data.draw(st.integers(1, 5))):
        sent += len(session.prompt_tokens())
        tokens = data.draw(
            st.lists(st.integers(2, renderer().tokenizer.vocab_size - 1), min_size=1, max_size=12)
            | assistants(thinking).map(lambda m: tokens_of(m, thinking=thinking)[:-1])
        )
        ended = data.draw(st.booleans())
        tokens = [*tokens, 1] if ended else tokens or [5]
        session.append_sampled(tokens, [-1.0] * len(tokens), 0, ended=ended)
        if ended or data.draw(st.booleans()):
            session.append_messages([Message("user", data.draw(plain))])
        usage = session.usage
        assert usage.thinking + usage.tool + usage.answer == usage.output
        assert usage.output == sum(int(s.loss_mask.sum()) for s in session.segments())
        assert usage.prompt == sent
