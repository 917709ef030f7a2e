"""Demonstrations played by the rollout loop: the segments are those of a rollout under the same settings."""

from __future__ import annotations

import pytest
from rollout_doubles import renderer

from envs.environment import Environment
from envs.episode import play_episode
from envs.search.voyage import VoyageTaskset
from envs.taskset import Taskset
from envs.types import Message, Task
from rl.chat.context_manager import ContextConfig
from rl.chat.v32 import V32Renderer
from rl.data.demos import BEGUN, DemonstrationError, Dropped, demonstrations, tokenise
from rl.data.rehearse import rehearse
from rl.rollout.config import RolloutConfig
from rl.types import Trajectory

LONG = {"max_turns": 40, "max_tokens": 600, "max_context": 6000}
SHORT = ContextConfig("summary", trigger=0.5, summary_request="Sum?", summary_heading="Sum:", summary_tokens=200)


def play(config: RolloutConfig, n: int = 3, novice: float = 0.0, chat: V32Renderer | None = None) -> list[Trajectory]:
    return rehearse(VoyageTaskset(min_hops=3, max_hops=4), range(n), novice, 0, chat or renderer(), config)


def test_without_management_it_is_the_plain_token_stream() -> None:
    (t,) = play(RolloutConfig(**LONG), n=1)
    (segment,) = t.segments
    taskset = VoyageTaskset(min_hops=3, max_hops=4)
    environment = taskset.environment(taskset.task(0))
    messages = [*environment.reset()]
    while not (result := environment.step(action := environment.oracle(messages))).terminated:
        messages += [action, *result.messages]
    (plain,) = tokenise(renderer(), [*messages, action], thinking=True)
    assert segment.tokens.tolist() == plain.tokens.tolist()
    assert segment.loss_mask.tolist() == plain.loss_mask.tolist()


@pytest.mark.parametrize("policy", ["summary", "discard_75"])
def test_the_demonstrator_goes_on_after_a_restart(policy: str) -> None:
    window = max(len(s) for t in play(RolloutConfig(**LONG)) for s in t.segments)
    context = ContextConfig(**{**vars(SHORT), "policy": policy})
    played = play(RolloutConfig(**LONG | {"max_context": window}, context=context))
    assert all(t.reward == 1.0 and t.counts[f"context_{policy}"] for t in played)
    assert all(len(t.segments) > 1 for t in played)
    if policy == "summary":
        segment = played[0].segments[1]
        assert "Go on from" in renderer().tokenizer.decode(segment.tokens[segment.loss_mask].tolist())


def test_drop_makes_a_segment_a_turn() -> None:
    chat = V32Renderer(renderer().tokenizer, "drop")
    (t,) = play(RolloutConfig(**LONG, retention="drop"), n=1, chat=chat)
    assert (t.reward, len(t.segments)) == (1.0, t.turns)


def test_it_is_deterministic_and_the_novice_is_imperfect() -> None:
    one, two = (play(RolloutConfig(**LONG), n=12, novice=1.0) for _ in range(2))
    assert [t.messages for t in one] == [t.messages for t in two]
    assert 0 < sum(t.reward for t in one) < 12


def test_most_failing_is_an_error_that_says_why() -> None:
    class Broken(VoyageTaskset):
        def environment(self, task):
            env = super().environment(task)
            env.oracle = lambda history: (_ for _ in ()).throw(RuntimeError("no idea"))  # type: ignore[method-assign]
            return env

    with pytest.raises(DemonstrationError, match=r"4 of 4 demonstrations failed.*RuntimeError: no idea"):
        rehearse(Broken(), range(4), 0.0, 0, renderer(), RolloutConfig())


def test_a_family_without_summaries_says_so() -> None:
    from envs.search.taskset import SearchTaskset

    environment = SearchTaskset().environment(SearchTaskset().task(0))
    with pytest.raises(NotImplementedError, match="SearchEnvironment has no summarise"):
        environment.summarise((Message("user", "?"),))


class Begun(Environment):
    """The prompt begins the answer, and the oracle says all of it."""

    def oracle(self, history: list[Message]) -> Message:
        assert history[-1].prefix
        return Message("assistant", "The answer is 4.")

    def score(self, episode: object) -> dict[str, float]:
        return {"outcome": float(getattr(episode, "answer", None) == "The answer is 4.")}


class BegunTaskset(Taskset):
    family = "begun"
    env_class = Begun

    def task(self, index: int) -> Task:
        prompt = (Message("user", f"2 + 2? ({index})"), Message("assistant", "The answer is", prefix=True))
        return Task(self.task_id(index), self.family, prompt)


def test_an_answer_that_the_prompt_begins() -> None:
    """What is given is no target; the episode has one message, with what was given in it."""
    taskset = BegunTaskset()
    (t,) = rehearse(taskset, [0], 0.0, 0, renderer(), RolloutConfig(**LONG | {"thinking": False}))
    (segment,) = t.segments
    assert renderer().tokenizer.decode(segment.tokens[segment.loss_mask].tolist()) == " 4.<｜end▁of▁sentence｜>"
    assert [m["role"] for m in t.messages] == ["user", "assistant"]
    assert (t.messages[1]["content"], t.reward) == ("The answer is 4.", 1.0)
    task = taskset.task(0)
    environment = taskset.environment(task)
    episode, scores = play_episode(task, environment, environment.oracle)
    assert (scores["outcome"], [m.prefix for m in episode.messages]) == (1.0, [False, False])


def test_plain_demonstrations_leave_such_tasks_out_and_say_so() -> None:
    dropped = Dropped()
    assert list(demonstrations(BegunTaskset(), [0, 1], 0.0, 0, dropped=dropped)) == []
    assert dropped.counts == {BEGUN: 2}
    assert dropped.words().startswith("2 whose prompt begins the answer (coldstart.as_rollouts=true shows them)")
