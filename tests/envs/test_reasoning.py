"""The reasoning family: which data sets pass, the checker that may be killed, tasks and splits."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from envs.reasoning import ReasoningTaskset
from envs.reasoning import checker as checker_module
from envs.reasoning import gym_questions as gym_module
from envs.reasoning.audit import audit
from envs.reasoning.checker import Checker, GoldRejectedError, shared_checker
from envs.reasoning.gym_questions import EXCLUDED, KINDS, check_package, gym_score, make_entry
from envs.reasoning.taskset import check_answer
from envs.taskset import split_of
from envs.types import Episode, InfrastructureError, Message, StopReason

CURVE = "x^2 + y = 1"  # equations are solved, and some take sympy forever
HANGS = r"\boxed{(x + y + z + w + \sqrt{2})^{99} = x}"


@pytest.fixture(scope="module")
def checker():
    checker = Checker()
    yield checker
    checker.close()


def score(taskset: ReasoningTaskset, task, answer: str) -> dict[str, float]:
    episode = Episode(task, (*task.prompt, Message("assistant", answer)), StopReason.ANSWERED, 1)
    return taskset.environment(task).score(episode)


# -- the data sets ------------------------------------------------------------------------------


def test_every_kind_passes_the_audit_at_its_lowest_level(monkeypatch):
    monkeypatch.setattr(
        "envs.reasoning.audit.MAKE_S", 5.0
    )  # a slow machine, and the first entry of a kind loads its code
    failed = [found for kind in KINDS if (found := audit(kind, KINDS[kind][0], (1, 2))).problems]
    assert not failed


def test_the_audit_finds_what_is_wrong_with_an_excluded_kind(monkeypatch):
    monkeypatch.setitem(KINDS, "game_of_life_halting", (1,))
    assert "'zzz' scores 1.0" in str(audit("game_of_life_halting", 1, (1,)).problems)
    monkeypatch.setitem(KINDS, "prime_factorization", (1,))
    assert "makes the scorer raise ValueError" in str(audit("prime_factorization", 1, (1,)).problems)


def test_every_registered_kind_is_used_or_excluded_with_a_reason():
    from reasoning_gym.factory import DATASETS

    assert set(KINDS) | set(EXCLUDED) == set(DATASETS)
    assert not set(KINDS) & set(EXCLUDED)
    assert len(KINDS) >= 55


@pytest.mark.parametrize("kind", ["countdown", "spiral_matrix", "binary_matrix", "puzzle24", "simple_integration"])
def test_no_scorer_evaluates_what_the_policy_wrote(kind, tmp_path):
    target = tmp_path / "written"
    for hostile in (
        f"open({str(target)!r}, 'w').write('x')",
        f"__import__('os').system('touch {target}')",
        f"[].__class__.__base__.__subclasses__() or open('{target}','w')",
    ):
        assert gym_score(kind, 1, 3, hostile) == 0.0
    assert not target.exists()
    _, entry = make_entry(kind, 1, 3)
    assert gym_score(kind, 1, 3, entry["answer"]) == 1.0


def test_another_version_of_the_package_is_refused(monkeypatch):
    monkeypatch.setattr(gym_module, "VERSION", "9.9")
    with pytest.raises(ImportError, match=r"pip install reasoning-gym==9\.9"):
        check_package()
    with pytest.raises(ImportError):
        ReasoningTaskset()
    ReasoningTaskset(stories=1.0)  # word problems need no reasoning-gym


# -- the checker --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("12", r"It is \boxed{12}.", True),
        ("12", "12 apples", True),
        ("12", r"\boxed{12 \text{ apples}}", True),
        ("12", r"\boxed{x = 12}", True),
        ("12", r"\boxed{3 \cdot 4 = 12}", True),
        ("12", r"\boxed{3 \cdot 4}", False),  # still to be worked out
        ("12", r"\boxed{12}\boxed{13}", False),
        ("12", r"\boxed{12 or 13}", False),
        ("12", r"\boxed{\{12, 13\}}", False),
        ("12", r"\boxed{12 \lor 13}", False),
        ("12", r"\boxed{\pm 12}", False),
        ("12", r"\boxed{x}", False),
        ("12", "11 12 13", False),
        ("12", "zzz", False),
        ("3/4", r"\boxed{\frac{6}{8}}", True),
        ("3/4", "0.75 dollars", True),
        ("3/4", "0.7501", False),
        ("1234.5", r"\$1,234.50", True),
    ],
)
def test_mathematical_answers(checker, gold, answer, right):
    verdict = checker.check({"gold": gold, "answer": answer})
    assert (verdict.right, verdict.why) == (right, "")


def test_an_answer_that_hangs_the_scorer_is_wrong_and_the_next_is_checked(checker, monkeypatch):
    assert checker.check({"gold": "12", "answer": "12"}).right
    before = checker.pid
    verdict = checker.check({"gold": CURVE, "answer": HANGS})
    assert (verdict.right, verdict.why) == (False, "too_costly")
    assert checker.check({"gold": "12", "answer": "12"}).right
    assert checker.pid == before  # another one would take seconds to start


def test_answers_that_hang_the_scorer_do_not_wait_for_each_other_until_they_are_masked(checker, monkeypatch):
    """Those of all rollouts of a worker: who still stands in line after LINE_S is too costly, unlooked at."""
    monkeypatch.setattr(checker_module, "LINE_S", 0.0)
    checker.check({"gold": CURVE, "answer": CURVE})
    with checker._line, ThreadPoolExecutor(8) as threads:  # somebody else's turn does not end
        asked = [threads.submit(checker.check, {"gold": CURVE, "answer": HANGS}) for _ in range(8)]
        assert {(v.right, v.why) for v in (one.result(60) for one in asked)} == {(False, "too_costly")}
        assert checker.check({"gold": CURVE, "answer": CURVE}).right  # what needs a look alone has it


def test_a_worker_that_somebody_else_killed_costs_no_answer(checker):
    checker.check({"gold": "12", "answer": "12"})
    os.kill(checker.pid, signal.SIGKILL)
    assert checker.check({"gold": "12", "answer": "12"}).right


def test_what_the_scorer_cannot_read_is_wrong(checker):
    deep = "(" * 4000 + "12" + ")" * 4000
    verdict = checker.check({"gold": "12", "answer": rf"\boxed{{{deep}}}"})
    assert not verdict.right
    assert checker.check({"gold": "12", "answer": "\udcff 12 \x00"}).right is False
    assert checker.check({"gold": "12", "answer": "1" * 10**6}).right is False
    assert checker.check({"gold": "12", "answer": "12"}).right


def test_a_gold_answer_that_is_not_accepted_is_the_machinery_s_fault(checker):
    with pytest.raises(GoldRejectedError, match="cannot be checked"):
        checker.check({"gold": "", "answer": "12"})


def test_a_checker_that_cannot_start_is_the_machinery_s_fault(monkeypatch):
    monkeypatch.setattr(checker_module.sys, "executable", "/nonexistent")
    with pytest.raises(InfrastructureError, match="cannot be started"):
        Checker().check({"gold": "12", "answer": "12"})
    monkeypatch.setattr(checker_module.sys, "executable", "/bin/false")
    with pytest.raises(InfrastructureError, match="did not start"):
        Checker().check({"gold": "12", "answer": "12"})


def test_all_environments_of_a_process_share_one_worker():
    assert shared_checker(gym=False) is shared_checker(gym=False)
    assert shared_checker(gym=False) is not shared_checker(gym=True)


# -- tasks --------------------------------------------------------------------------------------


def test_the_oracle_solves_every_kind_and_nothing_else_does():
    taskset, seen = ReasoningTaskset(seed=1), set()
    for index in range(150):
        task = taskset.task(index)
        if task.metadata["kind"] in seen:
            continue
        seen.add(task.metadata["kind"])
        assert taskset.verify(task) in (None, "guessable"), task
        for answer in ("", "zzz", "I do not know", task.prompt[-1].content):
            assert score(taskset, task, answer)["outcome"] == 0.0, (task, answer)
        assert score(taskset, task, str(task.answer))["outcome"] == 1.0, task  # without a box too
    assert len(seen) > 45


def test_an_answer_that_breaks_the_checker_scores_0_and_is_counted():
    taskset = ReasoningTaskset(stories=1.0)
    curve = replace(taskset.task(0), answer=CURVE)
    assert score(taskset, curve, HANGS) == {"outcome": 0.0, "unchecked": 1.0}
    assert score(taskset, taskset.task(0), "zzz") == {"outcome": 0.0, "unchecked": 0.0}


def test_a_task_whose_entry_has_changed_is_never_scored():
    taskset = ReasoningTaskset(stories=0.0)
    task = taskset.task(0)
    changed = type(task)(**{**vars(task), "metadata": {**task.metadata, "key": "0" * 24}})
    with pytest.raises(InfrastructureError, match="build the data set again"):
        check_answer(changed, "zzz")
    assert taskset.verify(changed) == "gold_rejected"


def test_a_fraction_that_is_not_simplified_is_wrong():
    taskset = ReasoningTaskset(stories=0.0, kinds={"fraction_simplification": 1.0})
    for index in range(4):
        task = taskset.task(index)
        top, bottom = map(int, re.findall(r"\d+", task.prompt[0].content)[:2])
        assert score(taskset, task, rf"\boxed{{\frac{{{top}}}{{{bottom}}}}}")["outcome"] == 0.0
        assert taskset.verify(task) is None


def test_what_is_guessable_or_free_is_rejected():
    taskset = ReasoningTaskset(stories=1.0)
    task = taskset.task(0)
    assert taskset.verify(type(task)(**{**vars(task), "answer": "2"})) == "guessable"


def test_tasks_are_distinct_json_and_of_their_split():
    train = [ReasoningTaskset("train", 2).task(i) for i in range(300)]
    heldout = [ReasoningTaskset("heldout", 3).task(i) for i in range(100)]
    assert len({t.metadata["key"] for t in train}) >= 297
    assert not {t.metadata["key"] for t in train} & {t.metadata["key"] for t in heldout}
    assert all(split_of(t.metadata["key"]) == "heldout" for t in heldout)
    assert {t.metadata["level"] for t in train} == {1, 2, 3, 4}
    assert all(len(json.dumps(dict(t.metadata))) < 500 for t in train)


def test_tasks_are_the_same_in_every_process():
    program = (
        "from envs.reasoning import ReasoningTaskset\n"
        "t = ReasoningTaskset(seed=5)\n"
        "print([(t.task(i).prompt[0].content, t.task(i).answer) for i in range(150)])"
    )
    seen = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        seen.add(
            subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
        )
    assert len(seen) == 1


def test_levels_and_kinds_are_settings():
    easy = ReasoningTaskset(levels=[1], kinds={"chain_sum": 1.0}, stories=0.5)
    tasks = [easy.task(i) for i in range(20)]
    assert {t.metadata["level"] for t in tasks} == {1}
    assert {t.metadata["kind"] for t in tasks if t.metadata["source"] == "reasoning-gym"} == {"chain_sum"}
    lengths = []
    for level in (1, 2, 3, 4):
        hard = ReasoningTaskset(
            levels=[level], kinds={"chain_sum": 1.0, "maze": 1.0, "rotate_matrix": 1.0}, stories=0.0
        )
        lengths.append(sum(len(hard.task(i).prompt[0].content) for i in range(40)))
    assert lengths == sorted(lengths)
    for wrong, message in (
        ({"levels": [9]}, "levels is"),
        ({"kinds": {"nothing": 1.0}}, "kinds has 'nothing'"),
        ({"kinds": {"bf": 1.0}}, "each of the levels"),
        ({"stories": 2.0}, "stories is 2.0"),
    ):
        with pytest.raises(ValueError, match=message):
            ReasoningTaskset(**wrong)


def test_a_policy_that_answers_at_random_scores_about_0():
    taskset, rng = ReasoningTaskset(seed=9), random.Random(9)
    right = sum(score(taskset, taskset.task(i), str(rng.randint(0, 1000)))["outcome"] for i in range(60))
    assert right <= 2
