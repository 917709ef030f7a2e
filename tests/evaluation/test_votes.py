"""What counts as a vote, and which votes are the same."""

from __future__ import annotations

import pytest

from envs.types import Episode, Message, StopReason, Task, ToolCall
from rl.evaluation.votes import answer_key, answer_of

ASK = Message("user", "How many?")
CALL = Message("assistant", "I look.", tool_calls=(ToolCall("search", {}),))


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ((Message("assistant", " 12 ", reasoning="9 + 3"),), "12"),
        ((CALL, Message("tool", "12"), Message("assistant", "12")), "12"),
        ((Message("assistant", "12"), Message("tool", "saved")), "12"),
        ((CALL,), None),
        ((Message("assistant", "1", parse_error="cut off"),), None),
        ((Message("assistant", "  "),), None),
        ((), None),
    ],
)
def test_the_vote_is_the_episodes_answer(said: tuple[Message, ...], answer: str | None) -> None:
    messages = (ASK, *said)
    assert answer_of([m.to_json() for m in messages]) == answer
    episode = Episode(Task("t", "f", (ASK,)), messages, StopReason.ANSWERED, 1)
    assert (episode.answer or None) == answer


@pytest.mark.parametrize(
    "same",
    [
        ("Oslo", "oslo.", '"Oslo"', "Answer: Oslo", "I looked twice.\n**Answer:** Oslo"),
        ("1250", "1,250", "1250.0", r"so it is \boxed{1{,}250} in all", "1250 apples", "$1,250", "Answer: 1250"),
        ("1/2", "0.5", r"\boxed{\frac{1}{2}}"),
        ("def f():\n    return 1", "def f():\n    return 1\n"),
    ],
)
def test_the_same_answer(same: tuple[str, ...]) -> None:
    assert len({answer_key(text) for text in same}) == 1


def test_other_answers_stay_apart() -> None:
    texts = ["Oslo", "Bergen", "12", "-12", "1.2", "12 or 13", "def f():\n    return 1", "def g():\n    return 1"]
    assert len({answer_key(text) for text in texts}) == len(texts)
