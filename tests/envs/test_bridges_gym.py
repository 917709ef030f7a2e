"""Gymnasium bridge: real toy_text episodes, solved by value iteration, lost by giving up."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from envs.bridges.gym import FrozenLakeTaskset, GymEnvironment, GymTaskset, TabularEnvironment, see
from envs.bridges.tabular import best_actions
from envs.check import check_taskset
from envs.episode import play_episode
from envs.mixture import MixTaskset
from envs.types import InfrastructureError, Message, Task, ToolCall

gymnasium = pytest.importorskip("gymnasium", reason="pip install 'gymnasium==1.4.0'")

TAXI: dict[str, Any] = {
    "env_id": "Taxi-v4",
    "actions": ["south", "north", "east", "west", "pickup", "dropoff"],
    "success": 1,
}
CLIFF: dict[str, Any] = {
    "env_id": "CliffWalking-v1",
    "actions": ["up", "right", "down", "left"],
    "bounds": [-100, -13],
    "split_by": "seed",
}


def act(action: Any) -> Message:
    return Message("assistant", tool_calls=(ToolCall("act", {"action": action}),))


def opened(taskset: GymTaskset, index: int = 0) -> GymEnvironment:
    environment = taskset.environment(taskset.task(index))
    assert isinstance(environment, GymEnvironment)
    environment.reset()
    return environment


def words(observation: Any, env: Any) -> str:
    return f"you stand on square {observation} of {env.observation_space.n}"


def first_digit(text: str) -> int | None:
    return next((int(c) for c in text if c.isdigit()), None)


@pytest.mark.parametrize("cls", [FrozenLakeTaskset, GymTaskset])
def test_envs_check_finds_nothing(cls: type[GymTaskset]) -> None:
    settings = {} if cls is FrozenLakeTaskset else CLIFF
    findings = check_taskset(lambda split: cls(split=split, **settings), tasks=10)
    assert not [finding for finding in findings if finding.status == "FAILED"]
    assert {f.check for f in findings if f.status == "skipped"} == {"novice", "other process"}


def test_value_iteration_by_hand() -> None:
    # 0 -a0-> 1 (reward 0) -a0-> end (reward 1); 0 -a1-> end (reward 0.9): 0.99 * 1 > 0.9, but 0.8 * 1 is not
    model = {0: {0: [(1.0, 1, 0.0, False)], 1: [(1.0, 2, 0.9, True)]}, 1: {0: [(1.0, 2, 1.0, True)]}}
    assert best_actions(model)[0] == 0
    assert best_actions(model, discount=0.8)[0] == 1
    # a sure 0.5 against 1 with probability 0.4: the mean counts
    chance = {0: {0: [(0.4, 1, 1.0, True), (0.6, 1, 0.0, True)], 1: [(1.0, 1, 0.5, True)]}}
    assert best_actions(chance) == {0: 1}


def test_the_oracle_takes_the_shortest_way_along_the_cliff() -> None:
    taskset = GymTaskset(**CLIFF)
    task = taskset.task(0)
    environment = taskset.environment(task)
    episode, scores = play_episode(task, environment, environment.oracle, max_turns=64)
    assert (episode.turns, scores) == (13, {"outcome": 1.0})  # up, eleven times right, down


def test_the_oracle_brings_every_passenger() -> None:
    taskset = GymTaskset(**TAXI)
    for i in range(5):
        task = taskset.task(i)
        environment = taskset.environment(task)
        assert play_episode(task, environment, environment.oracle, max_turns=64)[1] == {"outcome": 1.0, "success": 1.0}


def test_no_taxi_starts_in_both_splits() -> None:
    train, heldout = GymTaskset("train", **TAXI), GymTaskset("heldout", **TAXI)
    starts = [{taskset.task(i).prompt[0].content for i in range(60)} for taskset in (train, heldout)]
    assert len(starts[0]) > 40
    assert not starts[0] & starts[1]


def test_a_fall_costs_what_the_bounds_say() -> None:
    environment = opened(GymTaskset(**{**CLIFF, "bounds": [-200, 0]}, max_steps=2))
    environment.step(act("right"))  # over the cliff: -100, and back to the start
    assert environment.score(None) == {"outcome": 0.0}  # type: ignore[arg-type]  # left before the end
    assert environment.step(act("up")).terminated  # -1
    assert environment.score(None) == {"outcome": pytest.approx(99 / 200)}  # type: ignore[arg-type]
    environment.close()
    worse = opened(GymTaskset(**CLIFF, max_steps=2))
    worse.step(act("right"))
    worse.step(act("right"))
    assert worse.score(None) == {"outcome": 0.0}  # type: ignore[arg-type]  # below the bounds
    worse.close()


def test_falling_through_the_ice_ends_the_episode_and_the_message() -> None:
    taskset = FrozenLakeTaskset()
    task = taskset.task(0)
    lake = {**task.metadata, "env_kwargs": {"desc": ["SH", "FG"], "is_slippery": False}}
    start = "Observation: 0\nred[S]H\nFG"
    own = Task("x", "frozen_lake", (Message("user", start),), metadata=lake, seed=1)
    environment = taskset.environment(own)
    environment.reset()
    both = Message("assistant", tool_calls=(ToolCall("act", {"action": "right"}), ToolCall("act", {"action": "left"})))
    result = environment.step(both)
    assert result.terminated
    assert result.messages[0].content == "Observation: 1\n  (Right)\nSred[H]\nFG"
    assert result.messages[1].content == "Error: the episode is over."
    assert environment.score(None) == {"outcome": 0.0, "success": 0.0}  # type: ignore[arg-type]
    environment.close()


def test_max_steps_end_the_episode() -> None:
    environment = opened(FrozenLakeTaskset(max_steps=2))
    assert not environment.step(act("left")).terminated
    assert environment.step(act("left")).terminated
    environment.close()


def test_doing_nothing_and_anything() -> None:
    taskset = FrozenLakeTaskset()
    nothing, anything = [], []
    for i in range(40):
        task, rng = taskset.task(i), random.Random(i)
        nothing.append(play_episode(task, taskset.environment(task), lambda _: Message("assistant", "G"))[1]["outcome"])
        moves = lambda _, r=rng: act(r.choice(["left", "down", "right", "up"]))  # noqa: E731
        anything.append(play_episode(task, taskset.environment(task), moves)[1]["outcome"])
    assert sum(nothing) == 0.0
    assert sum(anything) <= 4


def test_a_task_from_disk_is_the_same_lake() -> None:
    taskset = FrozenLakeTaskset()
    task = taskset.task(3)
    back = Task(task.id, task.family, task.prompt, None, json.loads(json.dumps(dict(task.metadata))), task.seed)
    other = FrozenLakeTaskset(seed=99)
    environment = other.environment(back)
    assert play_episode(back, environment, environment.oracle, max_turns=64)[1]["outcome"] == 1.0


def test_settings_from_hydra_become_json() -> None:
    instantiate = pytest.importorskip("hydra.utils").instantiate
    config = {"_target_": "envs.bridges.gym.GymTaskset", **CLIFF, "env_kwargs": {"is_slippery": False}}
    taskset = instantiate(config)
    task = taskset.task(0)
    assert json.loads(json.dumps(dict(task.metadata)))["env_kwargs"] == {"is_slippery": False}
    environment = taskset.environment(task)
    assert play_episode(task, environment, environment.oracle, max_turns=64)[1] == {"outcome": 1.0}


def test_another_start_than_the_task_says_is_told() -> None:
    taskset = GymTaskset(**TAXI)
    task = taskset.task(0)
    other = Task(task.id, task.family, task.prompt, None, task.metadata, task.seed + 1)
    environment = taskset.environment(other)
    with pytest.raises(InfrastructureError, match="starts differently"):
        environment.reset()
    environment.close()


def test_without_a_tool_the_text_names_the_action() -> None:
    taskset = GymTaskset(**CLIFF, plain=True)
    task = taskset.task(0)
    assert "Answer with one action: up, right, down, left." in task.prompt[0].content
    environment = opened(taskset)
    assert not environment.tools
    for text in ("up or down?", "upward", "", "I go\nhome"):
        result = environment.step(Message("assistant", text))
        assert result.info["counts"] == {"malformed_call": 1}
        assert result.messages == (Message("user", "Error: name one action: up, right, down, left."),)
    result = environment.step(Message("assistant", "Down is the cliff.\nSo: UP!"))
    assert result.messages[0].role == "user"
    assert result.messages[0].content.startswith("Observation: 24\n")
    environment.close()
    task = taskset.task(1)
    solver = taskset.environment(task)
    assert play_episode(task, solver, solver.oracle, max_turns=64)[1] == {"outcome": 1.0}


def test_own_words_for_seeing_and_acting() -> None:
    taskset = GymTaskset(**CLIFF, plain=True, observe=f"{__name__}:words", parse=f"{__name__}:first_digit")
    environment = opened(taskset)
    assert taskset.task(0).prompt[0].content.endswith("you stand on square 36 of 48")
    assert environment.step(Message("assistant", "number 0")).messages[0].content == "you stand on square 24 of 48"
    assert environment.step(Message("assistant", "number 9")).info["counts"] == {"malformed_call": 1}
    environment.close()


def test_numbers_and_colours_in_words() -> None:
    env = gymnasium.make("Blackjack-v1")
    assert see((17, 10, 0), env) == "Observation: (17, 10, 0)"
    env.close()
    taxi = gymnasium.make("Taxi-v4", render_mode="ansi")
    taxi.reset(seed=0)
    taxi.unwrapped.s = taxi.unwrapped.encode(0, 0, 4, 0)  # with the passenger at the destination: colours nest
    picture = see(1, taxi)
    taxi.close()
    assert "\x1b" not in picture
    assert "magenta[green[R]]" in picture


def test_only_environments_with_a_model_have_an_oracle() -> None:
    assert isinstance(opened(GymTaskset(**TAXI)), TabularEnvironment)
    assert type(opened(GymTaskset(env_id="Blackjack-v1", success=1))) is GymEnvironment


def test_it_stands_in_a_mixture() -> None:
    path = "envs.bridges.gym.FrozenLakeTaskset"
    mix = MixTaskset(
        families={path: 1, "envs.bridges.gym.GymTaskset": 1}, settings={"envs.bridges.gym.GymTaskset": TAXI}
    )
    for i in range(4):
        task = mix.task(i)
        environment = mix.environment(task)
        assert play_episode(task, environment, environment.oracle, max_turns=64)[1]["outcome"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": "Taxi-v4"}, "bounds=None and success=None"),
        ({**CLIFF, "bounds": [1, 0]}, "first must be below"),
        ({**TAXI, "actions": ["a", "b"]}, "Taxi-v4 has 6 actions"),
        ({**TAXI, "split_by": "luck"}, "split_by='luck'"),
        ({**TAXI, "observe": "nowhere"}, "observe='nowhere'"),
        ({"env_id": "Pendulum-v1", "success": 1}, "only Discrete is supported"),
    ],
)
def test_settings_that_do_not_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        GymTaskset(**settings).task(0)
