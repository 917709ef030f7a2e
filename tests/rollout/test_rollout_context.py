"""Context policies in the episode loop: turns, counts, budgets, stop reasons; and the choice among parallel runs."""

from __future__ import annotations

import pytest
from rollout_doubles import AddEnv, Script, answer, call, play, renderer, spy, tokenizer

from envs.types import Episode, StopReason
from rl.chat.context_manager import ContextConfig
from rl.rollout.selection import fewest_steps
from rl.types import Trajectory

CALL = call("add", a=1, b=1)
ASK = ContextConfig("summary", trigger=0.5, summary_request="Sum?", summary_heading="Sum:", summary_tokens=40)


def window(calls: float) -> int:
    """A context window that is half full after the prompt and so many calls with their results."""
    script = Script([CALL, CALL, answer("5")])
    play([], generate=script, max_context=4000)
    first, second, _ = (len(p) for p in script.prompts)
    return int(2 * (first + calls * (second - first)))


def text(prompt: list[int]) -> str:
    return tokenizer().decode(prompt)


@pytest.mark.parametrize(("policy", "calls_left"), [("discard_all", 0), ("discard_75", 1)])
def test_discards(policy: str, calls_left: int):
    script = Script([CALL, CALL, answer("5")])
    t = play([], generate=script, max_turns=8, max_context=window(1.5), context=ContextConfig(policy, trigger=0.5))
    assert (t.stop_reason, t.turns, t.reward) == (StopReason.ANSWERED, 3, 1.0)
    assert t.counts == {f"context_{policy}": 1}
    assert text(script.prompts[2]).count("<result>2</result>") == calls_left
    assert len(t.segments) == 2
    assert t.sampled_tokens == sum(len(tokenizer().encode(x)) + 1 for x in (CALL, CALL, answer("5")))
    # the readable record is whole, and says where history was dropped
    assert [m["role"] for m in t.messages] == ["system", "user", *["assistant", "tool"] * 2, "assistant"]
    assert [m.get("context") for m in t.messages] == [None] * 5 + [policy] + [None]


def test_a_summary_is_a_turn_of_its_own_that_the_environment_does_not_see():
    seen: list[Episode] = []
    script = Script([CALL, CALL, "I sum.</think>It is 5.", answer("5")])
    t = play([], spy(seen), generate=script, max_turns=8, max_context=window(1.5), context=ASK)
    assert (t.stop_reason, t.turns, t.reward) == (StopReason.ANSWERED, 4, 1.0)
    assert t.counts == {"context_summary": 1}
    assert text(script.prompts[2]).endswith("<｜User｜>Sum?<｜Assistant｜><think>")
    assert "What is 3 plus 2?\n\nSum:\nIt is 5.<｜Assistant｜><think>" in text(script.prompts[3])
    assert len(t.segments) == 3
    assert [m.get("context") for m in t.messages] == [None] * 6 + ["summary", "summary", None]
    (episode,) = seen
    assert [m.content for m in episode.messages if m.role == "user"] == ["What is 3 plus 2?"]
    assert (episode.turns, episode.sampled_tokens) == (4, t.sampled_tokens)  # but it counts


def test_a_summary_is_never_taken_for_the_answer():
    """The turn budget ends the episode right after the summary "5": that is not an answer."""
    t = play([CALL, CALL, "I sum.</think>5"], max_turns=3, max_context=window(1.5), context=ASK)
    assert (t.stop_reason, t.turns, t.reward) == (StopReason.MAX_TURNS, 3, 0.0)
    assert t.counts == {"context_summary": 1, "max_turns": 1}


def test_without_a_policy_the_window_ends_the_episode():
    t = play([CALL] * 30, max_turns=30, max_context=window(1.5))
    assert (t.stop_reason, t.failure_kind) == (StopReason.CONTEXT, None)
    assert t.counts == {"context": 1}


def test_restarts_end_with_the_turn_budget():
    t = play([CALL] * 12, max_turns=12, max_context=window(1.5), context=ContextConfig("discard_all", trigger=0.5))
    assert (t.stop_reason, t.turns) == (StopReason.MAX_TURNS, 12)
    assert t.counts == {"context_discard_all": 5, "max_turns": 1}


def test_total_token_budget():
    settings = ContextConfig("discard_all", trigger=0.5, max_total_tokens=2 * window(1.5))
    t = play([CALL] * 40, max_turns=40, max_context=window(1.5), context=settings)
    assert t.stop_reason is StopReason.TOTAL_TOKENS
    assert t.counts["total_tokens"] == 1
    assert t.failure_kind is None  # a truncation, scored as it stands
    assert t.total_tokens <= 2 * window(1.5)


def test_total_token_budget_within_a_response():
    script = Script([CALL, answer("5")])
    play([], generate=script, max_context=4000)
    left = 5  # of the budget when the second turn begins
    settings = ContextConfig(max_total_tokens=len(script.prompts[1]) + left)
    t = play([CALL, 100], max_context=4000, context=settings)
    assert (t.stop_reason, t.turns) == (StopReason.TOTAL_TOKENS, 2)
    assert t.total_tokens == len(script.prompts[1]) + left


@pytest.mark.parametrize(("retention", "segments"), [("cycle", 1), ("keep", 1), ("drop", 3)])
def test_retention_in_an_episode(retention: str, segments: int, monkeypatch: pytest.MonkeyPatch):
    chat = renderer()
    chat.retention = retention  # type: ignore[assignment]
    monkeypatch.setattr("rollout_doubles.renderer", lambda: chat)
    script = Script([CALL, CALL, answer("5")])
    t = play([], AddEnv, generate=script, retention=retention)
    assert (t.reward, len(t.segments)) == (1.0, segments)
    assert ("I call." in text(script.prompts[-1])) is (retention != "drop")


# -- parallel_fewest_step ----------------------------------------------------------------------


def run(name: str, turns: int, stop: StopReason = StopReason.ANSWERED, failure: str | None = None) -> Trajectory:
    t = Trajectory(name, "task", "add", [], [], stop, failure_kind=failure, turns=turns)
    t.counts["tool_error"] = 1
    return t


def test_the_finished_run_with_the_fewest_steps_is_chosen():
    runs = [
        run("long", 9), run("cut", 2, StopReason.CONTEXT), run("lost", 1, failure="env_error"), run("short", 4),
        run("same", 4),
    ]  # fmt: skip
    chosen = fewest_steps(runs)
    assert chosen.id == "short"
    assert chosen.counts == {
        "tool_error": 1,
        "context_parallel_fewest_step": 1,
        "context_parallel_runs": 5,
        "context_parallel_turns": 20,  # 9 + 2 + 1 + 4 + 4: all are paid for
        "context_parallel_sampled_tokens": 0,
        "context_parallel_total_tokens": 0,
    }


def test_tokens_of_all_runs_are_counted():
    runs = [play([answer("5")]), play([CALL, answer("5")])]
    paid = runs[0].usage + runs[1].usage
    chosen = fewest_steps(runs)
    assert chosen.turns == 1
    assert chosen.usage == paid
    assert chosen.counts["context_parallel_sampled_tokens"] == sum(t.sampled_tokens for t in runs)
    assert chosen.counts["context_parallel_total_tokens"] == sum(t.total_tokens for t in runs)


def test_with_none_finished_an_unfinished_one_stands_for_the_task():
    chosen = fewest_steps([run("lost", 1, failure="env_error"), run("cut", 7, StopReason.MAX_TURNS)])
    assert chosen.id == "cut"


def test_an_evaluation_plays_that_many_runs():
    assert ContextConfig("parallel_fewest_step", parallel=3).runs == 3
    assert ContextConfig("discard_all", parallel=3).runs == 1
