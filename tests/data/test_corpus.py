"""Demonstrations, drills and the corpus: masks equal what a Session would hold, nothing held out gets in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.mixture import MixTaskset
from envs.types import Message, Task
from rl.chat.session import Session
from rl.chat.tokenizer import train_tokenizer
from rl.chat.v32 import V32Renderer, render_text
from rl.data.corpus import Dialogue, Document, batches, dialogues, encode
from rl.data.demos import Demo, demonstrations, tokenise, written
from rl.data.drills import drill
from rl.rollout.config import RolloutConfig

FAMILIES = ("search", "code", "interpreter", "agent")


@pytest.fixture(scope="module")
def demos() -> list[Demo]:
    """Eight a family, half of them by the imperfect demonstrator."""
    return list(demonstrations(MixTaskset("train", 0), range(32), 0.5, 0))


@pytest.fixture(scope="module")
def renderer(demos: list[Demo]) -> V32Renderer:
    return V32Renderer(train_tokenizer([render_text(d.messages, thinking=True) for d in demos], 1024))


def streams(
    renderer: V32Renderer, messages: Sequence[Message], *, thinking: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(s.tokens, s.loss_mask) for s in tokenise(renderer, messages, thinking=thinking)]


def as_session(renderer: V32Renderer, messages: Sequence[Message], tokens: np.ndarray, mask: np.ndarray, *, thinking):
    """Replay a document as a rollout: each masked run is sampled, everything else comes from the environment."""
    first = next(i for i, m in enumerate(messages) if m.role == "assistant")
    session = Session(renderer, messages[:first], thinking=thinking, max_context=100_000)
    for i, message in enumerate(messages):
        if message.role == "assistant":
            start = len(session.prompt_tokens())
            assert session.prompt_tokens() == tokens[:start].tolist()
            length = int(np.argmin(mask[start:])) if not mask[start:].all() else len(tokens) - start
            sampled = tokens[start : start + length].tolist()
            parsed = session.append_sampled(sampled, [-1.0] * length, 0, ended=True)
            assert (parsed.parse_error, parsed.content) == (None, message.content)
            assert parsed.tool_calls == message.tool_calls
            assert (parsed.reasoning or "") == (message.reasoning or "")
        elif i > first and any(m.role == "assistant" for m in messages[i:]):
            session.append_messages([message])
    return session


def test_a_demonstration_is_what_a_session_would_hold(demos: list[Demo], renderer: V32Renderer) -> None:
    assert {d.family for d in demos} == set(FAMILIES)
    for demo in demos:
        ((tokens, mask),) = streams(renderer, demo.messages, thinking=True)
        (segment,) = as_session(renderer, demo.messages, tokens, mask, thinking=True).segments()
        assert segment.tokens.tolist() == tokens.tolist(), demo.task_id
        assert segment.loss_mask.tolist() == mask.tolist(), demo.task_id


@settings(max_examples=40)
@given(seed=st.integers(0, 5), index=st.integers(0, 10_000))
def test_a_drill_is_what_a_session_would_hold(renderer: V32Renderer, seed: int, index: int) -> None:
    _, messages = drill(seed, index, 6)
    ((tokens, mask),) = streams(renderer, messages, thinking=False)
    (segment,) = as_session(renderer, messages, tokens, mask, thinking=False).segments()
    assert segment.tokens.tolist() == tokens.tolist()
    assert segment.loss_mask.tolist() == mask.tolist()


def test_the_mask_covers_what_the_assistant_wrote_and_nothing_else(renderer: V32Renderer) -> None:
    messages = (
        Message("system", "Repeat."),
        Message("user", '"amber"'),
        Message("assistant", "amber"),
        Message("user", '"7"'),
        Message("assistant", "7"),
    )
    ((tokens, mask),) = streams(renderer, messages, thinking=False)
    runs = [
        renderer.tokenizer.decode([int(t) for t, _ in run])
        for masked, run in itertools.groupby(zip(tokens, mask, strict=True), key=lambda pair: bool(pair[1]))
        if masked
    ]
    eos = renderer.tokenizer.eos
    assert runs == [f"amber{eos}", f"7{eos}"]


def test_an_episode_whose_history_changes_is_several_streams_as_in_a_session(renderer: V32Renderer) -> None:
    messages = [
        Message("user", "one"),
        Message("assistant", "1", reasoning="I count."),
        Message("user", "two"),  # in thinking mode the reasoning before a new user message is dropped
        Message("assistant", "2", reasoning="I count."),
    ]
    session = Session(renderer, messages[:1], thinking=True, max_context=1000)
    for i in (1, 3):
        said = written(renderer, messages[:i], messages[i], thinking=True)
        session.append_sampled(said, [-1.0] * len(said), 0, ended=True)
        session.append_messages(messages[i + 1 : i + 2])
    expected = [(s.tokens.tolist(), s.loss_mask.tolist()) for s in session.segments()]
    assert [(t.tolist(), m.tolist()) for t, m in streams(renderer, messages, thinking=True)] == expected
    assert len(expected) == 2
    assert "I count." not in renderer.tokenizer.decode(expected[1][0][: expected[1][1].index(True)])


def test_a_demonstrator_without_reasoning_thinks_nothing(renderer: V32Renderer) -> None:
    silent = [Message("user", "one"), Message("assistant", "1"), Message("user", "two"), Message("assistant", "2")]
    empty = [replace(m, reasoning="") if m.role == "assistant" else m for m in silent]
    made, same = (streams(renderer, messages, thinking=True) for messages in (silent, empty))
    assert [t.tolist() for t, _ in made] == [t.tolist() for t, _ in same]
    tokens, mask = made[0]
    assert renderer.tokenizer.decode(tokens[mask].tolist()) == f"</think>1{renderer.tokenizer.eos}"
    examples = tokenise(renderer, silent, thinking=True, turns=1)  # the first answer is part of the prompt
    assert [int(s.loss_mask.sum()) for s in examples] == [int(made[1][1].sum())]


def test_demonstrations_are_deterministic_and_in_order(demos: list[Demo]) -> None:
    again = list(demonstrations(MixTaskset("train", 0), range(32), 0.5, 0, threads=1))
    assert again == demos
    assert [d.task_id for d in demos] == [MixTaskset("train", 0).task(i).id for i in range(32)]
    other = list(demonstrations(MixTaskset("train", 0), range(32), 0.5, 1))
    assert other != demos


def test_the_oracle_is_right_and_the_novice_is_not_always(demos: list[Demo]) -> None:
    perfect = list(demonstrations(MixTaskset("train", 0), range(16), 0.0, 0))
    assert {d.outcome for d in perfect} == {1.0}
    novices = list(demonstrations(MixTaskset("train", 0), range(64), 1.0, 0))
    mean = np.mean([d.outcome for d in novices])
    assert 0.1 < mean < 0.9


def test_demonstrations_fit_the_rollouts_of_the_main_job(demos: list[Demo], renderer: V32Renderer) -> None:
    config = RolloutConfig()
    for demo in demos:
        turns = sum(m.role == "assistant" for m in demo.messages)
        ((tokens, _),) = streams(renderer, demo.messages, thinking=True)
        assert turns <= config.turn_limit, demo.task_id
        assert len(tokens) <= config.max_context, demo.task_id


def identity(task: Task) -> tuple[str, ...]:
    """What two tasks have in common when they are the same: the key, or without one all but the id."""
    if "key" in task.metadata:
        return task.family, str(task.metadata["key"])
    return task.family, str(task.prompt), str(task.answer), str(dict(task.metadata))


def test_nothing_held_out_is_in_the_corpus() -> None:
    train, heldout = MixTaskset("train", 0), MixTaskset("heldout", 1234)
    tasks = [heldout.task(i) for i in range(256)]  # what the main job evaluates on
    assert not {identity(task) for task in tasks} & {identity(train.task(i)) for i in range(3000)}

    documents = list(dialogues(train, 96, 0.3, 64, 6, 0))
    asked = {m.content for d in documents for m in d.messages if m.role == "user"}
    # "What is the sum of the list data?" is asked of many lists: there the list is the task.
    unlike = {task.prompt[-1].content for task in tasks if "data" not in task.metadata}
    assert not asked & unlike
    with pytest.raises(ValueError, match="split='heldout'"):
        next(dialogues(heldout, 1, 0.0, 0, 1, 0))


def test_dialogues_are_deterministic_and_count_their_progress() -> None:
    ticks: list[int] = []
    one = list(dialogues(MixTaskset("train", 0), 8, 0.3, 8, 6, 0, ticks.append))
    two = list(dialogues(MixTaskset("train", 0), 8, 0.3, 8, 6, 0))
    assert one == two
    assert sum(ticks) == len(one) == 16
    assert {d.thinking for d in one if d.source in FAMILIES} == {True}


def test_drills_are_right() -> None:
    kinds = set()
    for index in range(300):
        kind, messages = drill(0, index, 4)
        assert drill(0, index, 4) == (kind, messages)
        kinds.add(kind)
        questions = [m.content for m in messages if m.role == "user"]
        answers = [m.content for m in messages if m.role == "assistant"]
        assert [m.role for m in messages] == ["system"] + ["user", "assistant"] * len(answers)
        if kind == "recall":
            facts = dict(line[1:-2].split('" is "') for line in questions[0].splitlines()[:-1])
            assert 1 <= len(facts) <= 4
            asked = [q.splitlines()[-1].removeprefix('What is "').removesuffix('"?') for q in questions]
            assert answers == [facts[a] for a in asked]
            assert len(set(asked)) == len(asked)
        elif kind == "copy":
            assert answers == [q.strip('"') for q in questions]
        else:
            for question, answer in zip(questions, answers, strict=True):
                a, op, b = question.split()
                assert int(answer) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[op]
    assert kinds == {"recall", "copy", "arithmetic"}


def test_batches_hold_every_document_once_an_epoch(renderer: V32Renderer) -> None:
    documents = [Document(np.arange(n, dtype=np.int32), np.ones(n, bool), "x") for n in range(1, 21)]
    stream = batches(documents, 30, 0)
    seen: list[int] = []
    while len(seen) < 40:
        batch = next(stream)
        assert sum(len(d) for d in batch) <= 30
        seen += [len(d) for d in batch]
    assert sorted(seen[:20]) == list(range(1, 21))
    assert sorted(seen[20:40]) == list(range(1, 21))
    assert seen[:20] != seen[20:40]
    longer = Document(np.arange(99, dtype=np.int32), np.ones(99, bool), "x")
    assert [len(d) for d in next(batches([longer], 30, 0))] == [99]  # longer than a batch: alone in one
    with pytest.raises(ValueError, match="no documents"):
        next(batches([], 30, 0))
    first, again = batches(documents, 30, 0), batches(documents, 30, 0)
    for _ in range(10):
        assert [d.tokens.tolist() for d in next(first)] == [d.tokens.tolist() for d in next(again)]


def test_encode_keeps_order_and_source(demos: list[Demo], renderer: V32Renderer) -> None:
    documents = encode(renderer, [Dialogue(d.family, True, d.messages) for d in demos[:6]])
    assert [d.source for d in documents] == [d.family for d in demos[:6]]
    for document in documents:
        assert (document.tokens.dtype, document.loss_mask.dtype) == (np.int32, bool)
        assert len(document.tokens) == len(document.loss_mask)
        assert document.loss_mask[-1]
        assert not document.loss_mask[0]
