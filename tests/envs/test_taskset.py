"""Tasksets: splits, determinism, resumption, mixtures, lookup by name."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.environment import Environment
from envs.families import taskset_class
from envs.mixture import CYCLE, MixTaskset, _deal
from envs.taskset import Taskset, split_of
from envs.types import Episode, Message, Task


class Words(Taskset):
    family, env_class = "words", Environment

    def task(self, index: int) -> Task:
        key, number = self.draw(index, lambda rng: (f"key {rng.randint(0, 999)}", rng.random()))
        return Task(self.task_id(index), self.family, (Message("user", key),), number, {"key": key})


def test_split_share_and_stability() -> None:
    shares = Counter(split_of(f"key {i}") for i in range(5000))
    assert 0.18 < shares["heldout"] / 5000 < 0.22
    # by hand: sha256("a") begins with ca (202 / 256 = 0.79), sha256("d") with 18 (24 / 256 = 0.09)
    assert split_of("a") == "train"
    assert split_of("d") == "heldout"
    assert split_of("anything", 0.0) == "train"
    assert split_of("anything", 1.0) == "heldout"


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), index=st.integers(0, 10**6))
def test_tasks_depend_on_split_seed_index_alone(seed: int, index: int) -> None:
    for split in ("train", "heldout"):
        one, two = Words(split, seed), Words(split, seed)  # type: ignore[arg-type]
        two.task(index + 1)
        assert one.task(index) == two.task(index)
        assert split_of(one.task(index).metadata["key"]) == split


def test_iteration_resumes_and_starts_over() -> None:
    first = Words(size=5)
    iterator = iter(first)
    seen = [next(iterator).id for _ in range(3)]
    second = Words(size=5)
    second.load_state_dict(first.state_dict())
    assert seen + [t.id for t in second] == [Words().task(i).id for i in range(5)]
    assert len(list(second)) == 5


def test_state_of_another_taskset_is_refused() -> None:
    with pytest.raises(ValueError, match="seed=1"):
        Words(seed=0).load_state_dict(Words(seed=1).state_dict())


@pytest.mark.parametrize("bad", [{"split": "test"}, {"size": 0}])
def test_bad_arguments_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(bad)))):
        Words(**bad)


def test_unknown_settings_reach_the_environment_and_are_refused_there() -> None:
    taskset = Words(max_output_chars=7)
    assert taskset.environment(taskset.task(0)).max_output_chars == 7
    with pytest.raises(TypeError, match="colour"):
        (bad := Words(colour=1)).environment(bad.task(0))


def test_too_few_keys_is_an_error_not_a_hang() -> None:
    with pytest.raises(RuntimeError, match="keys are too few"):
        Words("heldout" if split_of("one") == "train" else "train").draw(0, lambda rng: ("one", None))


@settings(max_examples=50)
@given(weights=st.lists(st.floats(0.05, 10), min_size=1, max_size=5), n=st.integers(1, CYCLE))
def test_every_prefix_of_a_mixture_keeps_the_shares(weights: list[float], n: int) -> None:
    shares = {str(i): w / sum(weights) for i, w in enumerate(weights)}
    slots = _deal(shares)
    assert len(slots) == CYCLE
    assert set(slots) == set(shares)
    if min(shares.values()) >= 2 / CYCLE:
        for name, share in shares.items():
            # the bound of smooth weighted round robin grows with the number of families
            assert abs(slots[:n].count(name) - share * n) < len(shares)


def test_equal_weights_take_turns_and_use_every_task_once() -> None:
    mix = MixTaskset(families={"search": 1, "agent": 1})
    tasks = [mix.task(i) for i in range(2 * CYCLE + 3)]
    assert [t.family for t in tasks[:4]] == ["search", "agent", "search", "agent"]
    assert len({t.id for t in tasks}) == len(tasks)
    assert tasks[2] == mix.members["search"].task(1)
    assert type(mix.environment(tasks[1])).__name__ == "AgentEnvironment"


def test_mixture_passes_settings_and_drops_zero_weights() -> None:
    mix = MixTaskset(families={"search": 1, "agent": 0}, settings={"search": {"top_k": 4}})
    assert list(mix.members) == ["search"]
    assert mix.environment(mix.task(0)).top_k == 4  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"settings\.agent"):
        MixTaskset(families={"search": 1}, settings={"agent": {}})
    with pytest.raises(ValueError, match="above 0"):
        MixTaskset(families={})
    with pytest.raises(ValueError, match="negative"):
        MixTaskset(families={"search": -1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("serch", "give one of search"),
        ("no_such_module.Taskset", "no module 'no_such_module'"),
        ("envs.search.taskset.Nope", "has no 'Nope'"),
        ("envs.types.Task", "not a subclass"),
    ],
)
def test_lookup_errors_say_what_is_wrong(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        taskset_class(name)


def test_lookup_by_path() -> None:
    assert taskset_class("envs.search.taskset:SearchTaskset") is taskset_class("search")


def test_envs_import_no_heavy_library() -> None:
    code = (
        "import sys, envs.environment, envs.mixture, envs.check, envs.search.taskset, envs.agent.taskset\n"
        "print([m for m in ('torch', 'ray', 'vllm', 'transformers', 'rl', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_verify_plays_the_oracle() -> None:
    good, bad = Task("t/1", "t", (Message("user", "?"),), answer="4"), Task("t/2", "t", (Message("user", "?"),))

    class Four(Environment):
        def oracle(self, history: Sequence[Message]) -> Message:
            return Message("assistant", "4")

        def score(self, episode: Episode) -> dict[str, float]:
            return {"outcome": float(episode.answer == self.task.answer)}

    class Fours(Taskset):
        family, env_class = "t", Four

        def task(self, index: int) -> Task:
            return good

    assert Fours().verify(good) is None
    assert Fours().verify(bad) == "oracle_failed"
