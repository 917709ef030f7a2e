"""The voyage family: chains of records, questions one after the other, demonstrators, what a summary says."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

from envs.check import check_taskset
from envs.environment import ToolError
from envs.episode import play_episode
from envs.search.voyage import VoyageEnvironment, VoyageTaskset
from envs.types import Message, Task, ToolCall

SETTINGS = [
    {},
    {"pages": True},
    {"pages": True, "goal": "count"},
    {"goal": "count"},
    {"questions": 2, "max_hops": 4},
    {"goal": "count", "questions": 2, "max_hops": 4, "facts": 0},
    {"names": "words", "goal": "count", "pages": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_promises(settings: dict) -> None:
    findings = check_taskset(lambda split: VoyageTaskset(split, **settings), tasks=30)
    assert [f for f in findings if f.status == "FAILED"] == []


def opened(index: int = 0, **settings) -> tuple[Task, VoyageEnvironment]:
    taskset = VoyageTaskset(**settings)
    task = taskset.task(index)
    environment = taskset.environment(task)
    assert isinstance(environment, VoyageEnvironment)
    return task, environment


def test_the_voyage_leads_to_the_answer_and_ends_there() -> None:
    task, environment = opened(3, pages=True, facts=3)
    (voyage,) = task.metadata["voyages"]
    cities = voyage["cities"]
    for one, following in pairwise(cities):
        assert f'The ship of "{one}" is "{following}".' in environment.search(f"the ship of {one}")
    last = environment.search(f'ship from "{cities[-1]}"')
    assert f'The ship of "{cities[-1]}" is "none".' in last
    assert f'The color of "{cities[-1]}" is "{task.answer}".' in last
    assert last.count("\n") == 5  # ship, road, color and three facts
    assert last == environment.search(cities[-1])
    # of several cities in a query the first one counts
    assert environment.search(f"{cities[1]} or {cities[0]}") == environment.search(cities[1])


@pytest.mark.parametrize("names", ["words", "numbers"])
def test_a_road_leads_away_for_ever(names: str) -> None:
    task, environment = opened(3, names=names, pages=True)
    cities = task.metadata["voyages"][0]["cities"]
    at = re.findall(r'The road of "[^"]*" is "([^"]*)"', environment.search(cities[0]))[0]
    for _ in range(50):
        assert at not in cities
        (at,) = re.findall(r'The ship of "[^"]*" is "([^"]*)"', environment.search(at))


def test_a_counted_voyage_goes_on_behind_the_city_asked_for() -> None:
    task, environment = opened(3, goal="count", pages=True)
    (voyage,) = task.metadata["voyages"]
    assert voyage["question"].startswith(f"What is the color of the city {len(voyage['cities']) - 1} ships from")
    assert '"none"' not in environment.search(voyage["cities"][-1])


def test_every_question_must_be_answered_right() -> None:
    task, environment = opened(1, questions=2, max_hops=4)
    first, second = (voyage["answer"] for voyage in task.metadata["voyages"])
    assert environment.step(Message("assistant", first)).messages == (
        Message("user", task.metadata["voyages"][1]["question"]),
    )
    assert environment.step(Message("assistant", "Atlantis")).terminated
    _, scores = play_episode(task, opened(1, questions=2, max_hops=4)[1], scripted(first, "Atlantis"))
    assert scores == {"outcome": 0.0, "answers": 0.5}
    _, scores = play_episode(task, opened(1, questions=2, max_hops=4)[1], scripted(first, second))
    assert scores == {"outcome": 1.0, "answers": 1.0}
    _, scores = play_episode(task, opened(1, questions=2, max_hops=4)[1], scripted(first), max_turns=1)
    assert scores == {"outcome": 0.0, "answers": 0.5}


def scripted(*answers: str):
    said = iter(answers)
    return lambda history: Message("assistant", next(said))


def test_the_oracle_counts_in_its_reasoning() -> None:
    task, environment = opened(3, goal="count", min_hops=3, max_hops=3)
    episode, _ = play_episode(task, environment, environment.oracle)
    thoughts = [m.reasoning for m in episode.messages if m.role == "assistant"]
    assert thoughts == [f"I search the ship {n} times." for n in (3, 2, 1)] + [
        "I search the color.",
        "I found the answer.",
    ]


def test_a_search_gives_the_one_fact_asked_for() -> None:
    task, environment = opened(3)
    first, second = task.metadata["voyages"][0]["cities"][:2]
    assert environment.search(f'ship of "{first}"') == f'The ship of "{first}" is "{second}".'
    assert environment.search(f"the color of {first}").startswith(f'The color of "{first}" is "')
    last = task.metadata["voyages"][0]["cities"][-1]
    assert environment.search(f"ship of {last}") == (
        f'The ship of "{last}" is "none".\nThe color of "{last}" is "{task.answer}".'
    )
    with pytest.raises(ToolError, match="name what you want to know"):
        environment.search(first)


def test_a_wrong_query_is_a_tool_error() -> None:
    _, environment = opened()
    result = environment.step(Message("assistant", tool_calls=(ToolCall("search", {"query": "the ship"}),)))
    assert result.info["counts"] == {"tool_error": 1}
    assert "name a city" in result.messages[0].content


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("how", ["summary", "last records"])
def test_the_oracle_goes_on_from_what_a_context_policy_leaves(settings: dict, how: str) -> None:
    """After any cycle: from a summary alone, or from the last record alone, it still finds the answer."""
    for index in range(4):
        task, environment = opened(index, **settings)
        prompt = environment.reset()
        context: list[Message] = list(prompt)
        for _ in range(60):
            action = environment.oracle(context)
            result = environment.step(action)
            if result.terminated:
                break
            if result.messages[0].role == "user":  # the next question: nothing before it is needed
                context = [prompt[0], prompt[1], action, *result.messages]
                continue
            context += [action, *result.messages]
            kept = [m for m in context if m.role in ("system", "user") or (m.content and m.role == "assistant")]
            if how == "summary":
                note = environment.summarise(context).content
                plain = kept[-1].content.partition("\n\n")[0]
                context = [*kept[:-1], Message("user", f"{plain}\n\nSummary:\n{note}")]
            else:
                context = [*kept, *context[-2:]]
        assert environment.score(episode_of(task, context))["outcome"] == 1.0


def episode_of(task: Task, messages: Sequence[Message]):
    from envs.types import Episode, StopReason

    return Episode(task, tuple(messages), StopReason.ANSWERED, 1)


def test_the_novice_takes_the_known_wrong_turns() -> None:
    task, environment = opened(2)
    record = environment.search(f"ship of {task.metadata['voyages'][0]['cities'][0]}")
    history = (*environment.reset(), environment.oracle(environment.reset()), Message("tool", record))
    rng = random.Random(0)
    moves = [environment.novice(history, rng) for _ in range(400)]
    right = sum(m == environment.oracle(history) for m in moves)
    early = sum("color" in str(m.tool_calls[0].arguments) for m in moves)
    assert 340 < right < 390
    assert 5 < early < 35


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_hops": 5, "max_hops": 4}, "min_hops=5, max_hops=4"),
        ({"max_hops": 13}, "max_hops=13"),
        ({"goal": "far"}, "goal is 'far'"),
        ({"questions": 0}, "questions is 0"),
        ({"questions": 2, "names": "words"}, "must be between 1 and 1: with names='words' there are 16 cities"),
        ({"names": "towns"}, "names is 'towns'"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoyageTaskset(**settings)


def test_wrong_facts_are_named() -> None:
    with pytest.raises(ValueError, match="facts is 4"):
        opened(facts=4)
