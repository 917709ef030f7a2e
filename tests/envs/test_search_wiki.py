"""The hard search tier: its tools, its split, and that accepted tasks need the search that they are meant to need."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import islice

import pytest

from envs.episode import play_episode
from envs.search.wiki import WikiTaskset
from envs.search.wiki_answers import is_right
from envs.search.wiki_corpus import corpus
from envs.search.wiki_judges import JUDGES, fooled
from envs.search.wiki_walks import says
from envs.taskset import Split, split_of
from envs.types import Message, Task, ToolCall

NUMBER = 24


@cache
def tasks(split: Split, number: int = NUMBER) -> tuple[Task, ...]:
    taskset = WikiTaskset(split)
    return tuple(taskset.task(i) for i in range(number))


@cache
def accepted() -> tuple[Task, ...]:
    taskset = WikiTaskset()
    return tuple(task for task in tasks("train") if taskset.verify(task) is None)


@cache
def refused(number: int = 60) -> tuple[tuple[Task, str], ...]:
    """Proposals that did not become tasks, with why."""
    taskset = WikiTaskset()
    found = ((task, reason) for index in range(10_000) for task, reason in taskset.candidates(index))
    return tuple(islice(((task, reason) for task, reason in found if reason is not None), number))


def test_tasks_depend_on_the_index_alone_and_survive_json() -> None:
    other = WikiTaskset()
    for index in (7, 3, 0):
        assert other.task(index) == tasks("train")[index]
    for task in tasks("train")[:20]:
        assert json.loads(json.dumps(dict(task.metadata))) == task.metadata
        assert len(json.dumps(dict(task.metadata))) < 8000


def test_splits_share_no_document_of_a_path() -> None:
    for split in ("train", "heldout"):
        for task in tasks(split):  # type: ignore[arg-type]
            titles = {title for step in task.metadata["steps"] for title in (step["article"], step["source"])}
            titles |= {step["value"] for step in task.metadata["steps"] if step["is_title"]}
            assert {split_of(title) for title in titles} == {split}, task.id


def test_every_task_passes_the_filter_of_a_build() -> None:
    assert accepted() == tasks("train")
    assert {reason for _, reason in refused()} <= {*JUDGES, "unreadable", "answer_in_question", "step_in_question"}


def test_no_form_and_no_answer_is_everywhere() -> None:
    both = (*tasks("train"), *tasks("heldout"))
    templates = Counter(task.metadata["template"] for task in both)
    assert len(templates) > 20
    assert max(Counter(task.answer for task in both).values()) <= 4
    numbers = sum(str(task.answer)[0].isdigit() for task in both)
    assert 0.25 < numbers / len(both) < 0.75


def test_the_oracle_solves_what_is_accepted_and_opens_the_whole_path() -> None:
    taskset = WikiTaskset()
    for task in accepted():
        environment = taskset.environment(task)
        episode, scores = play_episode(task, environment, environment.oracle, max_turns=32)
        assert scores == {"outcome": 1.0, "opened": 1.0}
        assert not episode.counts


def test_an_accepted_task_fools_every_weak_answerer_and_a_rejected_one_does_not() -> None:
    for task in accepted():
        for name, judge in JUDGES.items():
            guesses = list(judge(task.prompt[-1].content, task.metadata))
            assert not any(is_right(guess, task.metadata["accepted"]) for guess in guesses), (name, task.id)
    for task, reason in refused():
        if reason in JUDGES:
            assert fooled(task.prompt[-1].content, task.metadata) == reason
    assert {"one_search"} <= {reason for _, reason in refused()}


def test_neither_the_answer_nor_the_way_is_said() -> None:
    for task in accepted():
        question = task.prompt[-1].content.casefold()
        for step in task.metadata["steps"]:
            assert not says(question, step["value"]), (task.id, step["value"])
        for start in task.metadata["starts"]:
            assert start["article"].casefold() not in question


def test_supporting_lines_stand_in_their_articles_and_name_the_value() -> None:
    for task in tasks("train"):
        for step in task.metadata["steps"]:
            assert step["line"] in corpus()[step["article"]].lines
            assert step["find"].casefold() in step["line"].casefold()
            if step["is_title"]:
                assert step["value"] in {article.title for article in corpus().articles}
            else:
                assert step["value"] in step["line"]


def test_verify_notices_a_line_that_is_not_there_and_another_corpus() -> None:
    taskset, task = WikiTaskset(), accepted()[0]
    steps = [dict(task.metadata["steps"][0], line="Not a line."), *task.metadata["steps"][1:]]
    assert taskset.verify(replace(task, metadata={**task.metadata, "steps": steps})) == "no_support"
    assert taskset.verify(replace(task, metadata={**task.metadata, "corpus": "another==1"})) == "other_corpus"
    wrong = replace(task, metadata={**task.metadata, "accepted": ["nothing of the sort"]})
    assert taskset.verify(wrong) == "oracle_failed"
    asked = Message("user", f"Is the right answer {task.answer}, by any chance?")
    given = replace(task, prompt=(task.prompt[0], asked))
    assert taskset.verify(given) == "answer_in_question"


def test_doing_nothing_is_worth_nothing() -> None:
    taskset = WikiTaskset()
    for task in accepted()[:20]:
        answer = Message("assistant", "I do not know.")
        assert play_episode(task, taskset.environment(task), lambda _, a=answer: a)[1] == {  # type: ignore[misc]
            "outcome": 0.0,
            "opened": 0.0,
        }


def call(environment, name: str, **arguments: object) -> str:  # type: ignore[no-untyped-def]
    result = environment.step(Message("assistant", tool_calls=(ToolCall(name, arguments),)))
    return str(result.messages[0].content)


def test_tools() -> None:
    environment = WikiTaskset().environment(tasks("train")[0])
    assert call(environment, "find", text="Mali") == "Error: no article is open."
    found = call(environment, "search", query="ancient city in Mali north of the Niger River", top_k=3)
    assert len(found.splitlines()) == 3
    assert "] Timbuktu: " in found.splitlines()[0]
    number = found.split("]")[0][1:]
    opened = call(environment, "open", article=number)
    assert opened.startswith(f"[{number}] Timbuktu\n1. City in Tombouctou Region, Mali\n2. Timbuktu is")
    assert call(environment, "open", article="timbuktu") == opened
    assert call(environment, "find", text="one of the 19").startswith("3. It is the capital")
    assert call(environment, "find", text="zebra") == 'Error: "zebra" is not in Timbuktu.'
    assert "has 1 pages, there is no page 2" in call(environment, "open", article="Timbuktu", page=2)
    assert 'there is no article "Timbuktoo"' in call(environment, "open", article="Timbuktoo")
    assert "nothing found" in call(environment, "search", query="qwertzuiop")
    assert "must be between 1 and 10" in call(environment, "search", query="Mali", top_k=50)


def test_long_articles_have_pages_that_together_are_the_article() -> None:
    environment = WikiTaskset().environment(tasks("train")[0])
    longest = max(corpus().articles, key=lambda article: sum(map(len, article.lines)))
    first = call(environment, "open", article=longest.title)
    pages = int(first.rsplit("of ", 1)[1].rstrip("]"))
    assert pages > 1
    text = "\n".join(call(environment, "open", article=longest.title, page=n) for n in range(1, pages + 1))
    assert all(line in text for line in longest.lines)


def test_settings() -> None:
    for index in range(2):
        task = WikiTaskset(depth=2, breadth=1).task(index)
        assert (task.metadata["depth"], task.metadata["breadth"], task.metadata["level"]) == (2, 1, 2)
        task = WikiTaskset(weights={"1x3": 1.0}).task(index)
        assert (task.metadata["level"], task.metadata["breadth"]) == (3, 3)
    for settings, message in (
        ({"depth": 0}, "depth is 0"),
        ({"breadth": 9}, "breadth is 9"),
        ({"weights": {"2-1": 1}}, "'2-1'"),
        ({"weights": {"2x1": -1}}, "must not be negative"),
        ({"depth": 6}, "no such shape"),
    ):
        with pytest.raises(ValueError, match=message):
            WikiTaskset(**settings)  # type: ignore[arg-type]
