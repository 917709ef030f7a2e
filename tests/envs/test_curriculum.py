"""The curriculum: what it measures, whom it favours, that nobody is dropped, and that it resumes exactly."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable

import pytest
from factory_tasksets import Levels
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.closure import code_hash
from envs.curriculum import CurriculumTaskset
from envs.mixture import MixTaskset
from rl.tracking.metrics import undocumented

LEVELS = "factory_tasksets.Levels"
Skill = Callable[[int, random.Random], list[float]]


def level_of(index: int) -> int:
    return int(Levels().task(index).metadata["level"])


def by_level(*chances: float) -> Skill:
    """A policy that solves level n with probability ``chances[n - 1]``."""
    return lambda index, rng: [float(rng.random() < chances[level_of(index) - 1]) for _ in range(8)]


def trained(taskset: CurriculumTaskset, skill: Skill, steps: int, seed: int = 0) -> list[int]:
    chosen = []
    for step in range(steps):
        index = taskset.next_index()
        chosen.append(index)
        taskset.observe(index, skill(index, random.Random(f"{seed} {step} {index}")))
    return chosen


def test_signal_by_hand() -> None:
    taskset = CurriculumTaskset(of=LEVELS, memory=10)
    taskset.next_index()
    taskset.observe(0, [1.0, 0.0, 0.0, 0.0])  # mean 1/4, variance 3/16, signal 3/4
    bucket = taskset.buckets["levels-1"]
    assert bucket.passed == 0.25
    assert bucket.signal == pytest.approx(1 + (0.75 - 1) / 5)  # the first 1 counts as four groups
    assert taskset.tasks[0] == [0.25, 0.75]
    taskset.observe(2, [1.0, 1.0])
    assert bucket.passed == pytest.approx(0.25 + 0.75 / 2)
    assert bucket.signal == pytest.approx(0.95 + (0 - 0.95) / 6)
    assert (bucket.groups, bucket.silent) == (2, 1)
    taskset.observe(4, [])  # every attempt failed for reasons of the machine
    assert bucket.groups == 2
    taskset.observe(4, [1.0])  # says how hard it is, not whether attempts differ
    assert (bucket.groups, bucket.silent, 4 in taskset.tasks) == (3, 1, False)


def test_before_anything_is_measured_shares_are_the_taskset_s_own() -> None:
    taskset = CurriculumTaskset(of=LEVELS)
    levels = Counter(level_of(taskset.next_index()) for _ in range(2000))
    for level, share in ((1, 3 / 7), (2, 3 / 7), (3, 1 / 7)):
        assert levels[level] / 2000 == pytest.approx(share, abs=0.04)


def test_intermediate_pass_rates_are_favoured_and_nobody_is_dropped() -> None:
    taskset = CurriculumTaskset(of=LEVELS, floor=0.1)
    chosen = trained(taskset, by_level(1.0, 0.5, 0.0), 1500)
    levels = Counter(level_of(index) for index in chosen[500:])
    # level 1 is solved and level 3 hopeless: weight 0.1 each; level 2 weighs 4 · 0.25 · 7/8 on average with 8 attempts
    total = 3 * 0.1 + 3 * 0.875 + 1 * 0.1
    assert levels[1] / 1000 == pytest.approx(3 * 0.1 / total, abs=0.04)
    assert levels[2] / 1000 == pytest.approx(3 * 0.875 / total, abs=0.05)
    assert levels[3] / 1000 == pytest.approx(1 * 0.1 / total, abs=0.02)
    assert levels[3] > 0
    metrics = taskset.metrics()
    assert undocumented(metrics) == []
    assert metrics["curriculum/groups_total"] == 1500
    silent = Counter(level_of(i) for i in chosen)
    assert metrics["curriculum/zero_variance_total"] >= silent[1] + silent[3]
    assert metrics["curriculum/weight/levels-1"] == metrics["curriculum/weight/levels-3"] == 0.1
    assert metrics["curriculum/at_floor"] == pytest.approx(2 / 3)
    assert metrics["curriculum/pass_rate/levels-2"] == pytest.approx(0.5, abs=0.1)


def test_a_bucket_comes_back_when_the_policy_has_changed() -> None:
    taskset = CurriculumTaskset(of=LEVELS, memory=20)
    trained(taskset, by_level(0.5, 0.5, 0.0), 600)
    assert taskset.weight("levels-3") < 0.2
    trained(taskset, by_level(1.0, 1.0, 0.5), 600, seed=1)
    assert taskset.weight("levels-3") > 0.5
    assert taskset.weight("levels-1") < 0.2


def test_tasks_without_variance_weigh_less_within_their_bucket_too() -> None:
    taskset = CurriculumTaskset(of=LEVELS, size=14, floor=0.1)  # 14 tasks: they come again and again
    chosen = Counter(trained(taskset, lambda i, rng: [1.0, 0.0] if i in (1, 8) else [1.0, 1.0], 3000))
    assert set(chosen) == set(range(14))
    level_two = [i for i in range(14) if level_of(i) == 2]
    silent = [chosen[i] for i in level_two if i not in (1, 8)]
    assert min(chosen[1], chosen[8]) > 4 * max(silent)


@settings(max_examples=25)
@given(
    steps=st.integers(1, 40), cut=st.integers(0, 40), late=st.integers(0, 3), seed=st.integers(0, 99),
    size=st.sampled_from([9, 1000]),
)  # fmt: skip
def test_interrupted_anywhere_it_goes_on_with_the_same_tasks(
    steps: int, cut: int, late: int, seed: int, size: int
) -> None:
    """``late``: groups admitted ahead; their measurements come that much later, as in an asynchronous run."""

    def play(taskset: CurriculumTaskset, waiting: list[int], first: int, last: int) -> list[int]:
        admitted = []
        for step in range(first, last):
            while len(waiting) <= late:
                waiting.append(taskset.next_index())
                admitted.append(waiting[-1])
            index = waiting.pop(0)
            taskset.observe(index, by_level(0.9, 0.4, 0.1)(index, random.Random(f"{step}")))
        return admitted

    whole = play(CurriculumTaskset("train", seed, size, of=LEVELS), [], 0, steps)
    cut = min(cut, steps)
    before, waiting = CurriculumTaskset("train", seed, size, of=LEVELS), []
    first = play(before, waiting, 0, cut)
    after = CurriculumTaskset("train", seed, size, of=LEVELS)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert first + play(after, list(waiting), cut, steps) == whole


def test_it_wraps_a_mixture_and_its_members() -> None:
    inner = {"families": {"search": 1, LEVELS: 1}}
    taskset = CurriculumTaskset("train", 3, of="mix", settings=inner)
    assert taskset.task(0) == MixTaskset("train", 3, families={"search": 1, LEVELS: 1}).task(0)
    seen = {taskset.task(taskset.next_index()).family for _ in range(20)}
    assert seen == {"search", "levels"}
    assert set(taskset.buckets) == {"search-1", "levels-1", "levels-2", "levels-3"}
    (member,) = (m for m in taskset.members.values() if m.family == "levels")
    assert isinstance(member, CurriculumTaskset)
    assert {member.task(member.next_index()).family for _ in range(5)} == {"levels"}
    with pytest.raises(ValueError, match=r"env=curriculum env\.of=mix"):
        MixTaskset(families={"curriculum": 1, "search": 1}, settings={"curriculum": {"of": LEVELS}})


def test_caches_know_what_is_inside() -> None:
    one, two = CurriculumTaskset(of=LEVELS), CurriculumTaskset(of="search")
    assert one.fingerprint() == CurriculumTaskset(of=LEVELS, floor=0.2).fingerprint()
    assert code_hash(one) == code_hash(CurriculumTaskset(of=LEVELS, floor=0.2)) != code_hash(two)
    assert one.fingerprint() != two.fingerprint()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="floor=0: must be above 0"):
        CurriculumTaskset(of=LEVELS, floor=0)
    with pytest.raises(ValueError, match="memory=0"):
        CurriculumTaskset(of=LEVELS, memory=0)
