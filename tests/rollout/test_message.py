"""The limit on thinking: where it cuts, what is forced and what is sampled, and that nothing else changes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_doubles import answer, play, renderer, tokenizer

from envs.types import Message, StopReason
from rl.chat import dsml
from rl.chat.session import Session, SessionError
from rl.rollout.config import RolloutConfig
from rl.rollout.engine_api import Generation
from rl.rollout.message import Said, sample_message

PROMPT = (Message("system", "Use the tools."), Message("user", "What is 2 plus 3?"))
THINK_END = tokenizer().token_id(dsml.END_THINK)
EOS = tokenizer().eos_id
WORD = tokenizer().encode(" sum")[0]


@dataclass
class Thinker:
    """A policy that thinks for ``thinking`` tokens and then says ``said`` tokens; told to stop, it answers."""

    thinking: int
    said: int
    prompt_length: int = 0
    requests: list[tuple[list[int], int]] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)

    async def __call__(self, prompt_tokens: list[int], max_tokens: int) -> Generation:
        assert max_tokens >= 1
        self.prompt_length = self.prompt_length or len(prompt_tokens)
        self.requests.append((prompt_tokens, max_tokens))
        response = prompt_tokens[self.prompt_length :]
        if THINK_END in response:
            done = len(response) - 1 - response.index(THINK_END)
            plan = [*[WORD] * (self.said - done), EOS]
        else:
            plan = [*[WORD] * (self.thinking - len(response)), THINK_END, *[WORD] * self.said, EOS]
        tokens = plan[:max_tokens]
        self.sampled += tokens
        reason = "stop" if tokens[-1] == EOS else "length"
        number = len(self.requests)
        return Generation(tokens, [-0.25 * number] * len(tokens), reason, number, [number] * len(tokens))


def sample(
    thinking: int, said: int, room: int = 500, *, max_tokens: int, max_thinking: int | None = None
) -> tuple[Said, Session, Thinker]:
    prompt_length = len(renderer().render(PROMPT, thinking=True))
    session = Session(renderer(), PROMPT, thinking=True, max_context=prompt_length + room)
    policy = Thinker(thinking, said)
    return asyncio.run(sample_message(session, policy, max_tokens, max_thinking)), session, policy


def test_thinking_is_closed_at_the_limit_by_hand() -> None:
    said, session, policy = sample(thinking=50, said=2, max_tokens=100, max_thinking=8)
    assert said.message == Message("assistant", " sum sum", reasoning=" sum" * 8)
    assert (said.sampled_tokens, said.finish_reason, said.counts) == (8 + 3, "stop", {"thinking_cut": 1})
    assert [n for _, n in policy.requests] == [8, 92]
    (segment,) = session.segments()
    response = slice(policy.prompt_length, None)
    assert segment.tokens[response].tolist() == [*[WORD] * 8, THINK_END, WORD, WORD, EOS]
    assert segment.loss_mask[response].tolist() == [True] * 8 + [False] + [True] * 3
    assert segment.logprobs[response].tolist() == [-0.25] * 8 + [0.0] + [-0.5] * 3
    assert segment.versions[response].tolist() == [1] * 8 + [-1] + [2] * 3
    assert segment.tokens.tolist() == renderer().render(session.messages, thinking=True)


@pytest.mark.parametrize(("thinking", "said"), [(3, 2), (3, 40), (7, 0)])
def test_thinking_within_the_limit_changes_nothing(thinking: int, said: int) -> None:
    free, free_session, _ = sample(thinking, said, max_tokens=30)
    limited, session, policy = sample(thinking, said, max_tokens=30, max_thinking=8)
    assert (limited.message, limited.sampled_tokens, limited.finish_reason, limited.counts) == (
        free.message, free.sampled_tokens, free.finish_reason, {},
    )  # fmt: skip
    (one,), (two,) = free_session.segments(), session.segments()
    assert one.tokens.tolist() == two.tokens.tolist()
    assert one.loss_mask.tolist() == two.loss_mask.tolist()
    assert sum(n for _, n in policy.requests[:1]) == 8


@settings(max_examples=150)
@given(
    thinking=st.integers(0, 40),
    said=st.integers(0, 20),
    room=st.integers(1, 60),
    max_tokens=st.integers(2, 50),
    data=st.data(),
)
def test_tokens_stay_true(thinking: int, said: int, room: int, max_tokens: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, max_tokens - 1))
    result, session, policy = sample(thinking, said, room, max_tokens=max_tokens, max_thinking=limit)
    (segment,) = session.segments()
    stream, mask = segment.tokens.tolist(), segment.loss_mask
    # what was sampled is there as it came, and each request was a prefix of the stream
    assert segment.tokens[mask].tolist() == policy.sampled
    assert all(stream[: len(prompt)] == prompt for prompt, _ in policy.requests)
    assert result.sampled_tokens == len(policy.sampled) <= max_tokens
    assert len(stream) - policy.prompt_length <= room + 1  # the forced token may fill the window, never a sampled one
    # what was forced is one </think>, exactly when the thinking was longer than the limit and could reach it
    forced = [i for i in range(policy.prompt_length, len(stream)) if not mask[i]]
    cut = thinking >= limit and room > limit
    assert [stream[i] for i in forced] == [THINK_END] * cut
    assert forced == [policy.prompt_length + limit] * cut
    assert result.counts == ({"thinking_cut": 1} if cut else {})
    assert (segment.logprobs[~mask] == 0).all()
    assert (segment.versions[~mask] == -1).all()
    assert (segment.logprobs[mask] < 0).all()
    assert (segment.versions[mask] >= 1).all()
    # the message is what the stream says
    response = stream[policy.prompt_length :]
    ended = result.finish_reason == "stop"
    assert ended == (stream[-1] == EOS)
    assert result.message == session.messages[-1] == renderer().parse(response, thinking=True, ended=ended)


def test_the_episode_counts_the_cut_and_goes_on() -> None:
    class Answers(Thinker):
        async def __call__(self, prompt_tokens: list[int], max_tokens: int) -> Generation:
            if prompt_tokens[-1] != THINK_END:
                return await super().__call__(prompt_tokens, max_tokens)
            tokens = [*tokenizer().encode("5"), EOS]
            return Generation(tokens, [-0.5] * len(tokens), "stop", 3, [3] * len(tokens))

    t = play([], generate=Answers(60, 0), max_thinking=5)
    assert (t.reward, t.stop_reason, t.turns, t.counts) == (1.0, StopReason.ANSWERED, 1, {"thinking_cut": 1})
    assert t.sampled_tokens == 5 + len(tokenizer().encode("5")) + 1
    # the policy's own end of thinking is no cut
    assert play([answer("5")], max_thinking=100).counts == {}


def test_stop_reasons_with_a_limit() -> None:
    t = play([], generate=Thinker(60, 60), max_thinking=5, max_tokens=20)
    assert (t.stop_reason, t.sampled_tokens, t.counts) == (
        StopReason.MAX_TOKENS, 20, {"max_tokens": 1, "thinking_cut": 1},
    )  # fmt: skip
    said, session, _ = sample(thinking=60, said=5, room=9, max_tokens=20, max_thinking=8)
    assert (said.finish_reason, said.sampled_tokens, session.room()) == ("length", 8, 0)
    assert said.message.reasoning == " sum" * 8


def test_close_thinking_needs_an_open_response() -> None:
    session = Session(renderer(), PROMPT, thinking=True, max_context=500)
    with pytest.raises(SessionError, match="without an open response"):
        session.close_thinking()
    session.append_sampled([WORD, THINK_END, WORD], [-1.0] * 3, 0, ended=False)
    assert not session.close_thinking()
    chat_mode = Session(renderer(), PROMPT, thinking=False, max_context=500)
    chat_mode.append_sampled([WORD], [-1.0], 0, ended=False)
    assert not chat_mode.close_thinking()


@pytest.mark.parametrize("wrong", [{"max_thinking": 0}, {"max_thinking": 160}, {"max_thinking": 8, "thinking": False}])
def test_a_limit_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"rollout.max_thinking={wrong['max_thinking']}: must be"):
        RolloutConfig(**wrong)
