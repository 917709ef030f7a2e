"""The notebook tasks: every kind proves itself in a kernel, guesses fail, tasks are small, distinct and rebuilt."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys

import pytest

from envs.episode import play_episode
from envs.interpreter.notebook import NotebookEnvironment, NotebookTaskset, is_right, usual_answer
from envs.interpreter.notebook_kinds import KINDS as MAKERS
from envs.interpreter.notebook_kinds import LEVELS, TOPICS, make_problem
from envs.taskset import split_of
from envs.types import Episode, Message, StopReason, Task, ToolCall

KINDS = sorted(MAKERS)


def task_of(answer: str, form: str = "number", decimals: int | None = None) -> Task:
    return Task("t", "notebook", (Message("user", "?"),), answer, {"form": form, "decimals": decimals})


def run_program(program: str, files: dict[str, bytes], folder) -> str:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(program, {"__name__": "__main__"})  # our own text, not a policy's
    return printed.getvalue().strip()


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_finds_what_the_generator_knows(kind, tmp_path):
    for level, seed in ((1, 0), (1, 1), (2, 2), (3, 3)):
        problem = make_problem(kind, level, seed)
        task = task_of(problem.answer_text, "list" if isinstance(problem.answer, list) else "number", problem.decimals)
        assert is_right(run_program(problem.program, dict(problem.files), tmp_path), task), (level, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_problems_grow_with_the_level_and_differ(kind):
    sizes = [sum(make_problem(kind, level, seed).size for seed in range(2)) for level in LEVELS]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert len({make_problem(kind, 1, seed).key() for seed in range(15)}) == 15
    assert len({make_problem(kind, 2, seed).answer_text for seed in range(10)}) >= 7  # no answer to guess


def test_there_are_enough_kinds_of_each_topic():
    assert len(KINDS) >= 20
    assert {topic: sum(t == topic for t in TOPICS.values()) for topic in ("data", "maths", "puzzle")} == {
        "data": 13,
        "maths": 11,
        "puzzle": 8,
    }


def test_the_oracle_solves_tasks_of_all_topics_in_a_kernel():
    taskset = NotebookTaskset(seed=4)
    topics: dict[str, Task] = {}
    for index in range(40):
        task = taskset.task(index)
        topics.setdefault(task.metadata["topic"], task)
    assert set(topics) == {"data", "maths", "puzzle"}
    for task in topics.values():
        assert taskset.verify(task) is None, task


def test_an_episode_that_explores_the_files():
    taskset = NotebookTaskset(kinds={"orders_join": 1.0}, levels=[1])
    task = taskset.task(0)
    environment = taskset.environment(task)
    says = iter(
        [
            "import csv\nrows = list(csv.DictReader(open('orders.csv')))",
            "len(rows)",
            "import os; sorted(os.listdir())",
            "1 / 0",
        ]
    )

    def act(_):
        code = next(says, None)
        if code is None:
            return Message("assistant", r"\boxed{0}")
        return Message("assistant", tool_calls=(ToolCall("python", {"code": code}),))

    episode, scores = play_episode(task, environment, act)
    shown = [m.content for m in episode.messages if m.role == "tool"]
    assert shown[:3] == ["(no output)", "63", "['customers.csv', 'orders.csv', 'products.csv']"]
    assert "ZeroDivisionError" in shown[3]
    assert scores == {"outcome": 0.0}
    assert episode.counts == {"empty_output": 1, "tool_error": 1}
    assert "orders.csv" in task.prompt[1].content


def test_a_guess_starts_no_kernel_and_rebuilds_nothing():
    taskset = NotebookTaskset()
    task = taskset.task(0)
    environment = taskset.environment(task)
    assert environment.step(Message("assistant", "12")).terminated
    assert environment._session is None
    assert "problem" not in vars(environment)
    environment.close()


@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        (task_of("12"), ["12", "12.0", "12.", "$12$", "1.2e1"], ["12.1", "-12", "12 13", "", "zzz"]),
        (task_of("1/3"), ["1/3", r"\frac{2}{6}"], ["0.3333", "3"]),
        (task_of("12.340000", decimals=2), ["12.34", "12.3449", "12,34"[:2] + ".34"], ["12.35", "12.3", "12"]),
        (task_of("0.125000", decimals=2), ["0.12", "0.13"], ["0.11", "0.14"]),
        (
            task_of("Ida, Otto", "list"),
            ["Ida, Otto", "ida,otto", '["Ida", "Otto"]', "Ida and Otto"],
            ["Otto, Ida", "Ida"],
        ),
    ],
)
def test_what_counts_as_right(task, right, wrong):
    assert [is_right(answer, task) for answer in right] == [True] * len(right)
    assert [is_right(answer, task) for answer in wrong] == [False] * len(wrong)


def test_the_score_reads_the_box_or_the_last_line():
    environment = NotebookEnvironment(task_of("12"))

    def outcome(text: str) -> float:
        episode = Episode(environment.task, (Message("assistant", text),), StopReason.ANSWERED, 1)
        return environment.score(episode)["outcome"]

    assert outcome(r"There are \boxed{12} of them, not 13.") == 1.0
    assert outcome("I counted.\nAnswer: 12") == 1.0
    assert outcome("11\n12\n13") == 0.0
    assert outcome("") == 0.0


def test_what_can_be_guessed_is_rejected():
    taskset = NotebookTaskset(kinds={"determinant": 1.0}, levels=[1])
    task = taskset.task(0)
    usual = usual_answer("determinant", 1)
    number = task.prompt[1].content.split("[[")[1].split(",")[0]

    def verdict(answer: str) -> str | None:
        return taskset.verify(Task(**{**vars(task), "answer": answer}))

    assert verdict("1") == "guessable"
    assert verdict(usual) == "guessable"
    assert verdict("987654321") == "oracle_failed"
    if number not in ("0", "1", "2", "3", "-1", "10", "100", "42", usual):
        assert verdict(number) == "answer_in_question"


def test_a_task_of_another_version_says_so():
    taskset = NotebookTaskset()
    task = taskset.task(0)
    old = Task(**{**vars(task), "metadata": {**task.metadata, "key": "0" * 24}})
    with pytest.raises(ValueError, match="build the data set again"):
        _ = taskset.environment(old).problem


def test_tasks_are_distinct_small_json_and_of_their_split():
    train = [NotebookTaskset("train", 2, levels=[1, 2, 3]).task(i) for i in range(150)]
    heldout = [NotebookTaskset("heldout", 3, levels=[1, 2, 3]).task(i) for i in range(60)]
    keys = {t.metadata["key"] for t in train}
    assert len(keys) == 150
    assert not keys & {t.metadata["key"] for t in heldout}
    assert all(split_of(t.metadata["key"]) == "heldout" for t in heldout)
    assert max(len(json.dumps(dict(t.metadata)) + t.prompt[1].content) for t in train) < 4000


def test_tasks_are_the_same_in_every_process():
    program = (
        "from envs.interpreter.notebook_kinds import *\n"
        "print([make_problem(k, l, 5).key() + make_problem(k, l, 5).answer_text + make_problem(k, l, 5).program"
        " for k in sorted(KINDS) for l in (1, 2)])"
    )
    seen = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        seen.add(
            subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
        )
    assert len(seen) == 1


def test_settings_are_checked():
    assert NotebookTaskset(topics={"maths": 1.0}).task(0).metadata["topic"] == "maths"
    for wrong, message in (
        ({"levels": [0]}, "levels is"),
        ({"levels": []}, "levels is"),
        ({"kinds": {"nothing": 1.0}}, "kinds has 'nothing'"),
        ({"topics": {"nothing": 1.0}}, "topics has 'nothing'"),
        ({"kinds": {"determinant": 0.0}}, "not all 0"),
    ):
        with pytest.raises(ValueError, match=message):
            NotebookTaskset(**wrong)
    with pytest.raises(ValueError, match="kind is 'x'"):
        make_problem("x", 1, 0)
    with pytest.raises(ValueError, match="level is 7"):
        make_problem("determinant", 7, 0)


@pytest.mark.slow
def test_the_oracle_solves_hundreds_of_tasks_in_a_kernel():
    taskset = NotebookTaskset(seed=11)
    for index in range(300):
        assert taskset.verify(taskset.task(index)) in (None, "guessable", "answer_in_question")
