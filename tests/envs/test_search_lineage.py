"""The lineage family: chains of records, questions one after the other, demonstrators, what a summary says."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

from envs.check import check_taskset
from envs.episode import play_episode
from envs.search.lineage import LineageEnvironment, LineageTaskset
from envs.types import Message, Task, ToolCall

SETTINGS = [{}, {"goal": "count"}, {"questions": 2}, {"goal": "count", "questions": 2, "facts": 0}]


@pytest.mark.parametrize("settings", SETTINGS)
def test_promises(settings: dict) -> None:
    findings = check_taskset(lambda split: LineageTaskset(split, **settings), tasks=30)
    assert [f for f in findings if f.status == "FAILED"] == []


def opened(index: int = 0, **settings) -> tuple[Task, LineageEnvironment]:
    taskset = LineageTaskset(**settings)
    task = taskset.task(index)
    environment = taskset.environment(task)
    assert isinstance(environment, LineageEnvironment)
    return task, environment


def test_the_line_leads_to_the_answer_and_ends_there() -> None:
    task, environment = opened(3, facts=4)
    (line,) = task.metadata["lines"]
    people = line["people"]
    for one, teacher in pairwise(people):
        assert f'The teacher of "person {one}" is "person {teacher}".' in environment.search(f"person {one}")
    last = environment.search(f'teacher of "person {people[-1]}"')
    assert f'The teacher of "person {people[-1]}" is "nobody".' in last
    assert f'The birthplace of "person {people[-1]}" is "{task.answer}".' in last
    assert last.count("\n") == 6  # teacher, doctor, birthplace and four facts
    assert last == environment.search(f"person {people[-1]}")


def test_a_side_line_never_ends_and_never_comes_back() -> None:
    task, environment = opened(3)
    people = task.metadata["lines"][0]["people"]
    at = re.findall(r'doctor of "[^"]*" is "person (\d+)"', environment.search(f"person {people[0]}"))[0]
    for _ in range(50):
        assert int(at) not in people
        at = re.findall(r'teacher of "[^"]*" is "person (\d+)"', environment.search(f"person {at}"))[0]


def test_a_counted_line_goes_on_behind_the_one_asked_for() -> None:
    task, environment = opened(3, goal="count")
    (line,) = task.metadata["lines"]
    assert line["question"].startswith(f"What is the birthplace of teacher {len(line['people']) - 1} before")
    assert '"nobody"' not in environment.search(f"person {line['people'][-1]}")


def test_every_question_must_be_answered_right() -> None:
    task, environment = opened(1, questions=2)
    first, second = (line["answer"] for line in task.metadata["lines"])
    assert environment.step(Message("assistant", first)).messages == (
        Message("user", task.metadata["lines"][1]["question"]),
    )
    assert environment.step(Message("assistant", "Atlantis")).terminated
    _, scores = play_episode(task, opened(1, questions=2)[1], scripted(first, "Atlantis"))
    assert scores == {"outcome": 0.0, "answers": 0.5}
    _, scores = play_episode(task, opened(1, questions=2)[1], scripted(first, second))
    assert scores == {"outcome": 1.0, "answers": 1.0}
    _, scores = play_episode(task, opened(1, questions=2)[1], scripted(first), max_turns=1)
    assert scores == {"outcome": 0.0, "answers": 0.5}


def scripted(*answers: str):
    said = iter(answers)
    return lambda history: Message("assistant", next(said))


def test_the_oracle_counts_in_its_reasoning() -> None:
    task, environment = opened(3, goal="count", min_hops=3, max_hops=3)
    episode, _ = play_episode(task, environment, environment.oracle)
    thoughts = [m.reasoning for m in episode.messages if m.role == "assistant"]
    assert thoughts == [f"I search the teacher. {n} more." for n in (3, 2, 1, 0)] + ["I found the answer."]


def test_a_wrong_query_is_a_tool_error() -> None:
    _, environment = opened()
    result = environment.step(Message("assistant", tool_calls=(ToolCall("search", {"query": "the teacher"}),)))
    assert result.info["counts"] == {"tool_error": 1}
    assert "name a person" in result.messages[0].content


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
    people = task.metadata["lines"][0]["people"]
    record = environment.search(f"person {people[0]}")
    history = (*environment.reset(), environment.oracle(environment.reset()), Message("tool", record))
    rng = random.Random(0)
    moves = [environment.novice(history, rng) for _ in range(400)]
    right = sum(m == environment.oracle(history) for m in moves)
    early = sum(not m.tool_calls for m in moves)
    assert 340 < right < 390
    assert 5 < early < 35


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_hops": 5, "max_hops": 4}, "min_hops=5, max_hops=4"),
        ({"max_hops": 13}, "max_hops=13"),
        ({"goal": "far"}, "goal is 'far'"),
        ({"questions": 0}, "questions is 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LineageTaskset(**settings)


def test_wrong_facts_are_named() -> None:
    with pytest.raises(ValueError, match="facts is 5"):
        opened(facts=5)
