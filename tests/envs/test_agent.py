"""Agent: the verifier sees the whole final state, and nothing but the state."""

from __future__ import annotations

import random
from typing import Any

import pytest

from envs.agent.shop import make_shop, open_database, read_database
from envs.agent.taskset import AgentEnvironment, AgentTaskset
from envs.episode import play_episode
from envs.types import Episode, Message, StopReason, Task, ToolCall


def call(tool_name: str, /, **arguments: Any) -> Message:
    return Message("assistant", tool_calls=(ToolCall(tool_name, arguments),))


def opened(errand: str, by_name: bool = True) -> tuple[AgentEnvironment, Task]:
    taskset = AgentTaskset()
    for i in range(1000):
        task = taskset.task(i)
        if task.metadata["errand"] == errand and task.metadata["by_name"] == by_name:
            env = taskset.environment(task)
            env.reset()
            assert isinstance(env, AgentEnvironment)
            return env, task
    raise AssertionError("no such task")


def outcome(env: AgentEnvironment, task: Task) -> float:
    return env.score(Episode(task, (), StopReason.ANSWERED, 1))["outcome"]


def test_shop_is_built_and_read_back() -> None:
    rows = make_shop("x", (482, "Mara Lind", "Oslo"), 317)
    assert len(rows.customers) == len(rows.orders) == 8
    assert rows.order_of(rows.customer("Mara Lind")) == 317
    assert read_database(open_database(rows)) == rows
    assert rows.moved(482, "Rome") != rows
    assert rows.moved(482, "Rome").moved(482, "Oslo") == rows
    assert [s for i, _, s in rows.with_status(317, "shipped").orders if i == 317] == ["shipped"]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_oracle_solves_everything(split: str) -> None:
    taskset = AgentTaskset(split)  # type: ignore[arg-type]
    for i in range(150):
        task = taskset.task(i)
        env = taskset.environment(task)
        episode, scores = play_episode(task, env, env.oracle)
        assert scores == {"outcome": 1.0}
        assert not episode.counts
        assert 2 <= episode.turns <= 4


def test_novice_is_often_wrong() -> None:
    taskset = AgentTaskset()
    outcomes = []
    for i in range(1000):
        task = taskset.task(i)
        env, rng = taskset.environment(task), random.Random(task.id)
        outcomes.append(play_episode(task, env, lambda h, e=env, r=rng: e.novice(h, r))[1]["outcome"])  # type: ignore[misc]
    assert 0.33 < sum(outcomes) / len(outcomes) < 0.47


def test_the_right_change_and_no_other() -> None:
    env, task = opened("move")
    m = task.metadata
    assert outcome(env, task) == 0.0
    env.step(call("set_city", customer_id=m["customer_id"], city=m["city"]))
    assert outcome(env, task) == 1.0
    other = next(row for row in env.expected().customers if row[0] != m["customer_id"])
    env.step(call("set_city", customer_id=other[0], city="Nowhere"))
    assert outcome(env, task) == 0.0  # the errand is done, but another row was touched
    env.step(call("set_city", customer_id=other[0], city=other[2]))
    assert outcome(env, task) == 1.0
    env.close()


def test_saying_done_does_not_do_it() -> None:
    env, task = opened("cancel")
    assert env.step(Message("assistant", "Done.")).terminated
    assert outcome(env, task) == 0.0


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (call("find_customer", name="Nobody Here"), "Error: there is no customer of that name."),
        (
            call("find_customer", name="'; DROP TABLE customers; --"),
            "Error: there is no customer of that name.",
        ),
        (call("find_order", customer_id=1), "Error: there is no order of that customer."),
        (call("set_city", customer_id=1, city="Rome"), "Error: there is no customer of that id."),
        (call("cancel_order", order_id=1), "Error: there is no order of that id."),
        (call("ship_order", order_id=10**30), "Error: ship_order failed: OverflowError"),
    ],
)
def test_impossible_calls_are_told(action: Message, text: str) -> None:
    env, _ = opened("ship")
    before = read_database(env._db)
    result = env.step(action)
    assert result.messages[0].content.startswith(text)
    assert result.info["counts"] == {"tool_error": 1}
    assert read_database(env._db) == before


def test_an_order_is_settled_once() -> None:
    env, task = opened("ship")
    number = task.metadata["order_id"]
    assert env.step(call("cancel_order", order_id=number)).messages[0].content == "ok"
    again = env.step(call("ship_order", order_id=number)).messages[0].content
    assert again == "Error: the order is cancelled already."
    assert outcome(env, task) == 0.0


def test_oracle_recovers_from_a_wrong_first_call() -> None:
    env, task = opened("cancel")
    history = list(task.prompt)
    for action in (call("find_order", customer_id=1), None, None, None, None):
        message = action or env.oracle(history)
        history.append(message)
        history.extend(env.step(message).messages)
    assert history[-1].content == "Done."
    assert outcome(env, task) == 1.0


def test_use_before_reset_is_an_error() -> None:
    taskset = AgentTaskset()
    env = taskset.environment(taskset.task(0))
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(Message("assistant", "Done."))
