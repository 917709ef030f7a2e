"""The episode loop: order of things, stop reasons, deadlines, what the trajectory records."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_doubles import AddEnv, Script, answer, call, play, renderer, spy, tokenizer

from envs.types import Episode, Message, StepResult, StopReason
from rl.rollout.config import RolloutConfig


def test_a_two_turn_episode():
    script = Script([call("add", a=3, b=2), answer("5")])
    t = play([], generate=script)
    assert (t.stop_reason, t.failure_kind, t.turns, t.counts) == (StopReason.ANSWERED, None, 2, {})
    assert t.reward == 1.0
    assert t.reward_parts["outcome"] == 1.0
    assert (t.id, t.task_id, t.family) == ("t-0-0", "add/train/0/17", "add")
    assert [m["role"] for m in t.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert t.messages[3]["content"] == "5"
    (segment,) = t.segments
    # The stream is what the engine saw: each prompt is a prefix of it, and the sampled spans are untouched.
    tokens = segment.tokens.tolist()
    for prompt in script.prompts:
        assert tokens[: len(prompt)] == prompt
    sampled = [*tokenizer().encode(call("add", a=3, b=2)), tokenizer().eos_id]
    start = len(script.prompts[0])
    assert tokens[start : start + len(sampled)] == sampled
    assert segment.loss_mask[start : start + len(sampled)].all()
    assert not segment.loss_mask[:start].any()
    assert t.sampled_tokens == segment.loss_mask.sum()
    assert set(segment.versions[segment.loss_mask]) == {3}
    assert set(segment.versions[~segment.loss_mask]) == {-1}
    assert tokens == renderer().render([*_messages(t)], thinking=True)
    assert t.usage.requests == 2
    assert t.usage.prompt == sum(len(prompt) for prompt in script.prompts)
    assert t.usage.output == t.sampled_tokens
    assert t.usage.tool > 0


def test_every_message_is_told_as_it_comes():
    told: list[Message] = []
    calls_at: list[int] = []

    class Watched(AddEnv):
        def step(self, action: Message) -> StepResult:
            calls_at.append(len(told))
            return super().step(action)

    t = play([call("add", a=3, b=2), answer("5")], Watched, observe=told.append)
    assert [m.to_json() for m in told] == t.messages
    assert calls_at == [3, 5]  # system, user and the call are told before the tool runs


@settings(max_examples=25)
@given(
    st.lists(
        st.sampled_from([call("add", a=1, b=1), call("nope"), answer("5"), "no thought", "</think>", 3, 40]),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([4, 24, 160]),
)
def test_kinds_of_tokens_add_up(texts, max_tokens):
    script = Script([*texts, *[answer("5")] * 4])
    t = play([], generate=script, max_tokens=max_tokens)
    assert t.usage.thinking + t.usage.tool + t.usage.answer == t.usage.output == t.sampled_tokens
    assert (t.usage.requests, t.usage.cached) == (t.turns, 0)
    assert t.usage.prompt == sum(len(prompt) for prompt in script.prompts)


def _messages(t):
    from envs.types import ToolCall

    for raw in t.messages:
        calls = tuple(ToolCall(**c) for c in raw.pop("tool_calls", []))
        yield Message(**{**raw, "tools": tuple(raw.get("tools", ())), "tool_calls": calls})


def test_wrong_answer_is_reward_zero_and_no_failure():
    t = play([answer("6")])
    assert (t.reward, t.failure_kind, t.stop_reason) == (0.0, None, StopReason.ANSWERED)


def test_turn_budget():
    seen: list[Episode] = []
    t = play([call("add", a=1, b=1)] * 3, spy(seen), max_turns=2)
    assert (t.stop_reason, t.turns, t.counts) == (StopReason.MAX_TURNS, 2, {"max_turns": 1})
    assert seen[0].stop_reason is StopReason.MAX_TURNS
    # The last result is in the view, not in the tokens: no turn is left to read it.
    assert t.messages[-1] == {"role": "tool", "content": "2"}
    assert t.segments[0].loss_mask[-1]
    assert t.failure_kind is None


def test_response_cut_off_at_max_tokens():
    seen: list[Episode] = []
    t = play([200], spy(seen), max_tokens=20)
    assert (t.stop_reason, t.turns, t.sampled_tokens) == (StopReason.MAX_TOKENS, 1, 20)
    assert t.counts == {"max_tokens": 1}
    assert (t.failure_kind, t.reward) == (None, 0.0)
    assert seen[0].answer is None
    assert seen[0].sampled_tokens == 20


def test_several_versions_are_kept_per_token():
    class Changing(Script):
        async def __call__(self, prompt_tokens, max_tokens):
            generation = await super().__call__(prompt_tokens, max_tokens)
            generation.version_per_token[0] = 2
            return generation

    (segment,) = play([], generate=Changing([answer("5")])).segments
    assert segment.versions[segment.loss_mask].tolist()[:2] == [2, 3]


def test_engine_abort_is_a_masked_sample():
    class Aborting(Script):
        async def __call__(self, prompt_tokens, max_tokens):
            generation = await super().__call__(prompt_tokens, max_tokens)
            generation.finish_reason = "abort"
            return generation

    t = play([], generate=Aborting([answer("5")]))
    assert (t.stop_reason, t.failure_kind, t.counts) == (StopReason.ABORTED, "aborted", {"aborted": 1})
    assert t.reward_parts == {}


def test_an_engine_that_fails_is_not_swallowed():
    async def dead(prompt_tokens, max_tokens):
        raise RuntimeError("no engine")

    with pytest.raises(RuntimeError, match="no engine"):
        play([], generate=dead)


def test_an_episode_out_of_time_is_truncated_and_scored():
    """Sampling for long is the policy's doing: were it masked, a bad episode had only to be long."""
    seen: list[Episode] = []

    class Slow(Script):
        async def __call__(self, prompt_tokens, max_tokens):
            if self.prompts:
                await asyncio.sleep(30)
            return await super().__call__(prompt_tokens, max_tokens)

    t = play([], spy(seen), generate=Slow([call("add", a=1, b=1), answer("5")]), episode_s=1.0)
    assert (t.stop_reason, t.failure_kind, t.turns) == (StopReason.EPISODE_TIME, None, 1)
    assert t.counts == {"episode_time": 1}
    assert (t.reward, t.reward_parts["outcome"]) == (0.0, 0.0)
    assert seen[0].answer is None
    assert t.segments[0].loss_mask.any()


def test_a_step_is_not_cut_by_the_end_of_the_episode():
    """It has its own deadline: many slow calls, each within it, end as a truncation and not as a failure."""

    class Slow(AddEnv):
        def step(self, action):
            time.sleep(0.4)
            return super().step(action)

    t = play([call("add", a=1, b=1), answer("5")], Slow, episode_s=0.3)
    assert (t.stop_reason, t.failure_kind, t.turns) == (StopReason.EPISODE_TIME, None, 1)
    assert t.messages[-1] == {"role": "tool", "content": "2"}


def test_an_environment_cannot_change_the_task_of_its_group():
    seen: list[Episode] = []

    class Writes(AddEnv):
        def reset(self):
            self.task.metadata["written"] = 40
            return super().reset()

        def score(self, episode):
            seen.append(episode)
            return super().score(episode)

    t = play([answer("5")], Writes)
    assert t.failure_kind is None
    assert "written" not in seen[0].task.metadata


def test_half_a_surrogate_that_a_tool_repeats_is_replaced():
    class Echo(AddEnv):
        def step(self, action):
            return StepResult((Message("tool", "there is no \ud83d"),)) if action.tool_calls else super().step(action)

    t = play([call("add", a=1, b=1), answer("5")], Echo)
    assert (t.failure_kind, t.reward) == (None, 1.0)
    assert t.messages[3]["content"] == "there is no ?"


def test_async_environments_are_accepted():
    class AsyncEnv(AddEnv):
        async def reset(self):
            await asyncio.sleep(0)
            return super().reset()

        async def step(self, action):
            await asyncio.sleep(0)
            return super().step(action)

        async def score(self, episode):
            return super().score(episode)

        async def close(self):
            self.closed = True

    t = play([call("add", a=3, b=2), answer("5")], AsyncEnv)
    assert (t.reward, t.failure_kind, t.counts) == (1.0, None, {})


def test_a_new_user_turn_branches_into_a_second_segment():
    class TwoQuestions(AddEnv):
        asked = False

        def step(self, action):
            if self.asked:
                return super().step(action)
            self.asked = True
            return StepResult((Message("user", "Sure?"),))

    script = Script([answer("6"), answer("5")])
    t = play([], TwoQuestions, generate=script)
    assert t.reward == 1.0
    assert len(t.segments) == 2
    assert t.segments[1].tokens.tolist()[: len(script.prompts[1])] == script.prompts[1]


def test_close_runs_once_and_its_failure_is_counted_not_masked():
    closed = []

    class Leaky(AddEnv):
        def close(self):
            closed.append(1)
            raise OSError("still busy")

    t = play([answer("5")], Leaky)
    assert (closed, t.failure_kind, t.reward) == ([1], None, 1.0)
    assert t.counts == {"env_close_failed": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_p", 0.0), ("max_turns", 0), ("temperature", -1.0), ("step_s", 0), ("min_p", 1.0)],
)
def test_config_errors_name_the_field(field: str, value: float):
    with pytest.raises(ValueError, match=f"rollout.{field}={value!r}"):
        RolloutConfig(**{field: value})
