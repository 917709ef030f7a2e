"""General agent: every template of every category makes tasks that its solution solves and weak answers do not."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.agent.general.case import SUBMIT, ProgramCase, run_solution
from envs.agent.general.categories import CATEGORIES
from envs.agent.general.checks import reject_reason
from envs.agent.general.environment import case_of, turns_of
from envs.agent.general.solution import check_source
from envs.agent.general.taskset import GeneralTaskset, environment_id
from envs.agent.general.world import Database
from envs.episode import play_episode
from envs.taskset import split_of
from envs.types import Message, Task, ToolCall

KEPT = (None, "too_easy")


def test_there_are_enough_categories() -> None:
    assert len(CATEGORIES) >= 12
    for name, category in CATEGORIES.items():
        assert category.name == name
        assert len(category.templates) >= 3
        assert 5 <= len(category.tools) + len(category.extra) <= 16


@pytest.mark.parametrize("name", CATEGORIES)
def test_every_template_and_level_is_solved_by_its_solution(name: str) -> None:
    wanted = {(t.name, level) for t in CATEGORIES[name].templates for level in (1, 4)}
    for level in (1, 4):
        taskset = GeneralTaskset(categories=[name], levels=[level])
        for index in range(30):
            task = taskset.task(index)
            if (task.metadata["template"], level) not in wanted:
                continue
            case = case_of(task)
            check_source(case.solution, list(case.tools))
            assert reject_reason(case) in KEPT, task.metadata
            environment = taskset.environment(task)
            episode, scores = play_episode(task, environment, environment.oracle, max_turns=40)
            assert scores == {"outcome": 1.0}
            assert not episode.counts
            wanted.discard((task.metadata["template"], level))
            if not wanted & {(t.name, level) for t in CATEGORIES[name].templates}:
                break
    assert not wanted


def test_trip_has_the_tools_of_the_paper() -> None:
    trip = CATEGORIES["trip"]
    offered = {tool.name for tool in (*trip.tools, *trip.extra)} | {SUBMIT}
    places = ("hotel", "restaurant", "attraction")
    assert offered == {
        "get_all_cities",
        "get_city_transport",
        "get_infos_by_city",
        "get_inter_city_transport",
        "get_weather_by_city_date",
        SUBMIT,
        *(f"get_all_{place}s_by_city" for place in places),
        *(f"get_city_by_{place}" for place in places),
        *(f"get_infos_by_{place}" for place in places),
    }
    assert len(offered) == 15


def trip_plan() -> tuple[Task, ProgramCase, list[dict[str, Any]]]:
    taskset = GeneralTaskset(categories=["trip"], levels=[1])
    task = next(t for t in map(taskset.task, range(50)) if t.metadata["template"] == "three_days")
    case = ProgramCase(task.metadata)
    world = case.open()
    run_solution(case, world)
    return task, case, world.submitted


def test_trip_constraints_are_each_checked() -> None:
    _, case, plan = trip_plan()

    def verdict(day: int, **changed: Any) -> str | None:
        return case.judge(case.start, [{**d, **changed} if i == day else d for i, d in enumerate(plan)])

    assert case.judge(case.start, plan) is None
    assert list(plan[0]) == [
        "time",
        "city",
        "hotel",
        "afternoon_restaurant",
        "afternoon_attraction",
        "evening_restaurant",
    ]
    assert "dates" in str(verdict(0, time="2025-10-02"))
    assert "city stands twice" in str(verdict(0, city=plan[1]["city"]))
    assert "city stands twice" in str(verdict(0, city=case.need["start"]))
    elsewhere = next(h for h in case.start.all("hotel") if h["city"] != plan[0]["city"])
    assert "not in" in str(verdict(0, hotel=elsewhere["name"]))
    assert "restaurant stands twice" in str(verdict(2, evening_restaurant=plan[2]["afternoon_restaurant"]))
    assert verdict(0, hotel="Nowhere Hotel") is not None
    assert case.judge(case.start, "a nice trip") is not None
    assert case.judge(case.start, None) == "nothing was submitted"
    # any plan that holds is right, not only the reference: another hotel of day 1 is as good
    others = [h["name"] for h in case.start.all("hotel", city=plan[0]["city"]) if h["name"] != plan[0]["hotel"]]
    assert [verdict(0, hotel=name) for name in others] == [None] * len(others)


def test_trip_budget_of_day_two() -> None:
    from envs.agent.general.categories.trip import tier_holds

    def holds(hotel: int, prices: tuple[int, int], stars: tuple[float, float], ticket: int) -> bool:
        meals = [{"price": p, "stars": s} for p, s in zip(prices, stars, strict=True)]
        return tier_holds({"price": hotel}, meals, {"ticket": ticket})

    assert holds(800, (175, 174), (4.0, 4.0), 119)
    assert not holds(800, (175, 175), (4.0, 4.0), 119)
    assert not holds(800, (100, 100), (4.0, 3.9), 119)
    assert not holds(800, (100, 100), (4.0, 4.0), 120)
    assert holds(799, (900, 900), (4.0, 1.0), 179)
    assert not holds(799, (900, 900), (3.9, 3.9), 179)
    assert not holds(500, (9, 9), (5.0, 5.0), 180)
    assert holds(499, (900, 900), (3.2, 1.0), 999)
    assert not holds(200, (9, 9), (3.1, 3.1), 0)


def test_tasks_are_small_deterministic_and_read_back() -> None:
    first, second = GeneralTaskset(), GeneralTaskset()
    for index in (7, 3, 0, 11):
        task = first.task(index)
        assert task == second.task(index)
        read = json.loads(json.dumps(dict(task.metadata)))
        assert read == dict(task.metadata)
        assert len(json.dumps(read)) < 4000
        copy = Task(task.id, task.family, task.prompt, metadata=read)
        environment = first.environment(copy)
        assert play_episode(copy, environment, environment.oracle, max_turns=40)[1]["outcome"] == 1.0


def test_splits_share_no_environment() -> None:
    train, heldout = GeneralTaskset("train"), GeneralTaskset("heldout")
    mine = {train.task(i).metadata["environment"] for i in range(60)}
    theirs = {heldout.task(i).metadata["environment"] for i in range(60)}
    assert not mine & theirs
    assert {split_of(name) for name in mine} == {"train"}
    assert {split_of(name) for name in theirs} == {"heldout"}
    task = heldout.task(0)
    assert task.metadata["key"].startswith(task.metadata["environment"] + "/")


@pytest.mark.parametrize("name", CATEGORIES)
def test_environments_differ(name: str) -> None:
    worlds = [CATEGORIES[name].world(seed) for seed in range(12)]
    assert len({json.dumps(dict(world.rows), sort_keys=True) for world, _ in worlds}) == 12
    assert len({tuple(tool.name for tool in tools) for _, tools in worlds}) > 3
    assert CATEGORIES[name].world(3)[0] == worlds[3][0]
    assert environment_id(name, 3) == f"{name}-0003"


def valid_looking(case: ProgramCase, name: str, rng: random.Random) -> dict[str, Any]:
    """Random arguments of the right types, from the data where they can be."""
    values: dict[str, list[Any]] = {"string": [], "integer": [], "array": [[]], "object": [{}], "number": [1.0]}
    for rows in case.start.rows.values():
        for row in rows:
            for value in row.values():
                values[
                    "integer" if isinstance(value, int) else "string" if isinstance(value, str) else "number"
                ].append(value)
    properties = case.tools[name].schema["parameters"]["properties"]
    return {key: rng.choice(values[schema["type"]]) for key, schema in properties.items()}


def test_doing_nothing_and_random_tools_score_nothing() -> None:
    taskset = GeneralTaskset()
    for index in range(26):
        task = taskset.task(index)
        case = ProgramCase(task.metadata)
        environment = taskset.environment(task)
        assert play_episode(task, environment, lambda _: Message("assistant", "Done."))[1]["outcome"] == 0.0
        rng = random.Random(index)

        def act(history: Any, case: ProgramCase = case, rng: random.Random = rng) -> Message:
            name = rng.choice(list(case.tools))
            return Message("assistant", tool_calls=(ToolCall(name, valid_looking(case, name, rng)),))

        assert play_episode(task, taskset.environment(task), act, max_turns=12)[1]["outcome"] == 0.0


@settings(max_examples=40)
@given(
    st.integers(0, 60),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=6),
)
def test_no_answer_breaks_a_verifier(index: int, answer: Any) -> None:
    case = ProgramCase(GeneralTaskset().task(index).metadata)
    assert case.judge(case.start, answer) is not None


def test_submitting_ends_the_episode() -> None:
    task, _, plan = trip_plan()
    environment = GeneralTaskset().environment(task)
    environment.reset()
    result = environment.step(Message("assistant", tool_calls=(ToolCall(SUBMIT, {"result": plan}),)))
    assert result.terminated
    wrong = environment.step(Message("assistant", tool_calls=(ToolCall(SUBMIT, {"result": "x"}),)))
    assert wrong.info["counts"] == {"bad_arguments": 1}


def test_tools_of_a_task_run_under_a_deadline_too() -> None:
    taskset = GeneralTaskset(categories=["library"], tool_timeout_s=20.0)
    task = taskset.task(0)
    environment = taskset.environment(task)
    assert play_episode(task, environment, environment.oracle, max_turns=16)[1]["outcome"] == 1.0


def test_refusals_are_told_and_counted() -> None:
    taskset = GeneralTaskset(categories=["bank"])
    task = taskset.task(0)
    environment = taskset.environment(task)
    environment.reset()
    case = ProgramCase(task.metadata)
    one, two = (row["number"] for row in case.start.all("account")[:2])
    call = ToolCall("transfer", {"source": one, "target": two, "amount": 10**6})
    result = environment.step(Message("assistant", tool_calls=(call,)))
    assert result.info["counts"] == {"tool_error": 1}
    assert "must keep" in result.messages[0].content


def test_database_gives_back_what_it_was_made_of() -> None:
    for category in CATEGORIES.values():
        world, _ = category.world(1)
        database = Database(world)
        assert database.spec() == world
        database.close()


def test_levels_add_constraints() -> None:
    calls: dict[int, list[int]] = {1: [], 4: []}
    words: Counter[int] = Counter()
    for level in (1, 4):
        taskset = GeneralTaskset(levels=[level])
        for index in range(26):
            task = taskset.task(index)
            case = ProgramCase(task.metadata)
            world = case.open()
            calls[level].append(len(run_solution(case, world)))
            words[level] += len(task.prompt[-1].content.split())
            world.close()
    assert words[4] > 1.2 * words[1]
    assert sum(calls[4]) > sum(calls[1])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"levels": [5]}, "levels is"),
        ({"categories": ["zoo"]}, "no category 'zoo'"),
        ({"environments": 3}, "environments is 3"),
    ],
)
def test_settings_are_checked(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneralTaskset(**setting)


def test_a_task_of_another_recipe_is_refused() -> None:
    metadata = {**GeneralTaskset().task(0).metadata, "recipe": 0}
    with pytest.raises(ValueError, match="recipe 0"):
        ProgramCase(metadata)


def test_turns_ask_for_what_has_been_read_and_change_in_order() -> None:
    task, case, _ = trip_plan()
    world = case.open()
    steps = run_solution(case, world)
    turns = turns_of(steps, case, task.prompt[-1].content)
    assert sorted(map(id, steps)) == sorted(id(step) for turn in turns for step in turn)
    assert [step.name for step in turns[0]] == ["get_all_cities"]
    kinds = ("hotel", "restaurant", "attraction")
    assert {step.name for step in turns[1]} == {f"get_all_{kind}s_by_city" for kind in kinds}
    assert [step.name for step in turns[-1]] == [SUBMIT]
    assert len(turns) < len(steps) / 4


def test_an_environment_may_lack_a_column_and_the_tools_that_need_it() -> None:
    worlds = [CATEGORIES["bank"].world(seed) for seed in range(40)]
    assert {world.has("customer.city") for world, _ in worlds} == {True, False}
    for world, tools in worlds:
        if not world.has("customer.city"):
            assert "city" not in world.all("customer")[0]
            assert "list_customers_by_city" not in [tool.name for tool in tools]
        assert {"find_customer", "get_customer", "transfer"} <= {tool.name for tool in tools}
