"""Search: the index finds the fact that a question asks for, and the demonstrators do what they say."""

from __future__ import annotations

import random
from collections import Counter

import pytest

import envs.words
from envs.episode import play_episode
from envs.search.books import ATTRIBUTES, library
from envs.search.index import SearchIndex, library_index
from envs.search.taskset import SearchTaskset
from envs.taskset import split_of
from envs.types import Message, ToolCall
from envs.words import Naming


@pytest.mark.parametrize(("naming", "size"), [("numbers", 2800), ("words", 6400)])
def test_every_fact_is_the_best_hit_of_its_own_query(naming: Naming, size: int) -> None:
    index = library_index(0, naming)
    facts = list(library(0, naming).facts.values())
    assert len(facts) == size
    for fact in facts[::7]:
        assert index.search(f'{fact.attribute} of "{fact.entity}"') == [fact.passage]


def test_ranking_ties_and_odd_queries() -> None:
    index = SearchIndex(["red cat", "red dog", "blue dog", "red cat"])
    assert index.search("red cat", top_k=2) == ["red cat", "red cat"]
    assert index.search("dog", top_k=5) == ["red dog", "blue dog"]  # equal scores: by number
    assert index.search("RED cat!!", top_k=1) == ["red cat"]
    for query in ("", "  ", '"', "text:(", "AND OR NOT", "zebra", "\x00", "*", "a" * 10_000):
        assert index.search(query) == []


def test_words_stand_in_one_list_only() -> None:
    lists = {name: value for name, value in vars(envs.words).items() if isinstance(value, tuple)}
    counts = Counter(word.lower() for words in lists.values() for word in words)
    counts.update(ATTRIBUTES)
    assert [word for word, n in counts.items() if n > 1] == []
    assert all(word.isascii() and word.isalpha() for word in counts)


def test_entities_belong_to_one_split_and_so_do_their_authors() -> None:
    world = library()
    for (entity, attribute), fact in world.facts.items():
        if attribute == "author":
            assert split_of(entity) == split_of(fact.value)
    for split in ("train", "heldout"):
        taskset = SearchTaskset(split)
        for i in range(200):
            task = taskset.task(i)
            assert split_of(task.metadata["entity"]) == split


@pytest.mark.parametrize("top_k", [1, 5])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_oracle_solves_everything(split: str, top_k: int) -> None:
    taskset = SearchTaskset(split, top_k=top_k)  # type: ignore[arg-type]
    for i in range(150):
        task = taskset.task(i)
        env = taskset.environment(task)
        episode, scores = play_episode(task, env, env.oracle)
        assert scores == {"outcome": 1.0}
        assert episode.turns == task.metadata["hops"] + 1
        assert not episode.counts


def test_shares_of_hops_and_of_novice_success() -> None:
    taskset = SearchTaskset()
    tasks = [taskset.task(i) for i in range(1000)]
    assert 0.24 < sum(t.metadata["hops"] == 2 for t in tasks) / 1000 < 0.36
    outcomes = []
    for task in tasks:
        env, rng = taskset.environment(task), random.Random(task.id)
        outcomes.append(play_episode(task, env, lambda h, e=env, r=rng: e.novice(h, r))[1]["outcome"])  # type: ignore[misc]
    assert 0.33 < sum(outcomes) / len(outcomes) < 0.47


def test_a_known_episode_word_by_word() -> None:
    taskset = SearchTaskset(two_hop=1.0)
    task = taskset.task(0)
    title, world = task.metadata["entity"], library()
    author = world.value(title, "author")
    env = taskset.environment(task)
    texts = [m.content for m in play_episode(task, env, env.oracle)[0].messages if m.role == "tool"]
    last = task.metadata["chain"][1]
    assert texts == [
        f'The author of "{title}" is "{author}".',
        f'The {last} of "{author}" is "{world.value(author, last)}".',
    ]


def test_nothing_found_is_told() -> None:
    taskset = SearchTaskset()
    env = taskset.environment(taskset.task(0))
    result = env.step(Message("assistant", tool_calls=(ToolCall("search", {"query": "qwertz"}),)))
    assert result.messages[0].content == "Error: nothing found; use other words."
    with pytest.raises(ValueError, match="top_k is 0"):
        SearchTaskset(top_k=0).environment(taskset.task(0))
