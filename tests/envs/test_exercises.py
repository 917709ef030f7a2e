"""The exercises for a small chat model: answers by hand, splits apart, form told from substance, a tool that counts."""

from __future__ import annotations

import pytest

from envs.episode import demonstrator, play_episode
from envs.exercises import KINDS, TOOLS, ExerciseTaskset, compare
from envs.types import Message, ToolCall


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_is_paid_and_silence_is_not(kind: str) -> None:
    taskset = ExerciseTaskset("heldout", 0, kind=kind)
    for index in range(20):
        task = taskset.task(index)
        assert task.family == kind
        assert str(task.answer) not in task.prompt[-1].content or kind not in (*TOOLS, "add")
        environment = taskset.environment(task)
        _, scores = play_episode(task, environment, demonstrator(environment), max_turns=2)
        assert scores == {"outcome": 1.0, "form": 1.0, "lenient": 1.0}
        other = taskset.environment(task)
        _, scores = play_episode(task, other, lambda history: Message("assistant", ""), max_turns=2)
        assert scores == {"outcome": 0.0, "form": 0.0, "lenient": 0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_held_out_share_no_question(kind: str) -> None:
    asked = {
        split: {ExerciseTaskset(split, 0, kind=kind).task(i).metadata["key"] for i in range(300)}
        for split in ("train", "heldout")
    }
    assert not asked["train"] & asked["heldout"]
    assert len(asked["heldout"]) >= 20


@pytest.mark.parametrize(
    ("answer", "gold", "words", "expected"),
    [
        ("horse", "horse", ["stone", "horse"], (True, True, True)),
        ("stone", "horse", ["stone", "horse"], (False, True, False)),
        ("The last word is horse.", "horse", ["stone", "horse"], (False, False, True)),
        ("RIVER", "RIVER", [], (True, True, True)),
        ("STONE", "RIVER", [], (False, True, False)),
        ("It is RIVER", "RIVER", [], (False, False, True)),
        (" 7 ", "7", [], (True, True, True)),
        ("8", "7", [], (False, True, False)),
        ("4 + 3 = 7", "7", [], (False, False, True)),
        ("seven", "7", [], (False, False, False)),
        ("river", "river", [], (True, True, True)),
        ("stone", "river", [], (False, True, False)),
        ("It is river", "river", [], (False, False, True)),
    ],
)
def test_form_is_told_from_substance(
    answer: str, gold: str, words: list[str], expected: tuple[bool, bool, bool]
) -> None:
    assert compare(answer, gold, {"words": words}) == expected


@pytest.mark.parametrize("kind", TOOLS)
def test_a_guess_without_the_tool_is_not_paid(kind: str) -> None:
    taskset = ExerciseTaskset("train", 0, kind=kind)
    task = taskset.task(0)
    _, scores = play_episode(
        task, taskset.environment(task), lambda history: Message("assistant", str(task.answer)), max_turns=2
    )
    assert scores == {"outcome": 0.0, "form": 0.0, "lenient": 0.0}
    wrong = Message("assistant", tool_calls=(ToolCall(TOOLS[kind], {"thing": "cathedral"}),))
    result = taskset.environment(task).step(wrong)
    assert "no cathedral is known" in result.messages[0].content
    assert result.info["counts"] == {"tool_error": 1}


def test_examples_are_the_same_for_every_task() -> None:
    taskset = ExerciseTaskset("train", 3, kind="who", shots=2)
    first, second = taskset.task(0).prompt, taskset.task(1).prompt
    assert first[:-1] == second[:-1]
    assert [m.role for m in first] == ["system", "user", "assistant", "user", "assistant", "user"]
    with pytest.raises(ValueError, match="kind='whom': must be one of last, upper"):
        ExerciseTaskset("train", 0, kind="whom")
    with pytest.raises(ValueError, match="shots=-1"):
        ExerciseTaskset("train", 0, shots=-1)
