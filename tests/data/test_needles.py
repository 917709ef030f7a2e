"""Needle documents: exact length, one right answer per question, reproducible, held-out splits never trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rl.data.needle_task import NeedleTask
from rl.data.needles import ASK, BOS, SPLITS, Split, needle_document


@st.composite
def cases(draw: st.DrawFn) -> tuple[NeedleTask, int, int]:
    keys = draw(st.integers(6, 20))
    facts = draw(st.integers(4, keys))
    task = NeedleTask(
        keys=keys,
        values=draw(st.integers(4, 9)),
        fillers=draw(st.integers(1, 9)),
        facts=facts,
        questions=draw(st.integers(1, facts)),
        seed=draw(st.integers(0, 5)),
    )
    return task, draw(st.integers(0, 1000)), task.min_length + draw(st.integers(0, 60))


@settings(max_examples=100)
@given(cases(), st.sampled_from(SPLITS))
def test_every_question_has_exactly_one_right_answer(case: tuple[NeedleTask, int, int], split: Split) -> None:
    task, index, length = case
    document = needle_document(task, split, index, length)
    words = [task.words()[t] for t in document.tokens]
    ask = words.index("<ask>")
    haystack, questions = words[:ask], words[ask + 1 :]
    assert len(words) == length
    assert words[0] == "<bos>"
    facts = [word.split("=") for word in haystack if "=" in word]
    assert len(facts) == task.facts == len({key for key, _ in facts})
    assert not any(word[0] in "KV" for word in haystack if "=" not in word)
    assert len(questions) == 2 * task.questions
    table = dict(facts)
    for key, value in zip(questions[::2], questions[1::2], strict=True):
        assert table[key] == value
    assert len(set(questions[::2])) == task.questions
    # Targets are the answers and nothing else, and the noted positions are theirs.
    assert np.flatnonzero(document.loss_mask).tolist() == document.answer_at.tolist()
    assert [words[i] for i in document.answer_at] == questions[1::2]
    assert [words[i] for i in document.fact_at] == [f"{k}={table[k]}" for k in questions[::2]]


@settings(max_examples=40)
@given(cases())
def test_the_same_again_and_no_fact_set_in_two_splits(case: tuple[NeedleTask, int, int]) -> None:
    task, index, length = case
    first_fact = 2 + task.keys + task.values
    last_fact = first_fact + task.keys * task.values

    def fact_sets(split: Split) -> set[tuple[int, ...]]:
        documents = [needle_document(task, split, index + i, length).tokens for i in range(4)]
        return {tuple(sorted(t for t in tokens if first_fact <= t < last_fact)) for tokens in documents}

    again = needle_document(task, "train", index, length)
    assert np.array_equal(needle_document(task, "train", index, length).tokens, again.tokens)
    train, validation, test = (fact_sets(split) for split in SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_facts_stand_at_every_depth() -> None:
    task = NeedleTask(keys=8, facts=8, questions=8)
    at = np.concatenate([needle_document(task, "train", i, 124).fact_at for i in range(200)])
    assert (at.min(), at.max()) == (1, 106)  # the haystack is 1 … 106, <ask> stands at 107
    assert np.histogram(at, bins=4, range=(1, 107))[0] == pytest.approx([400] * 4, rel=0.15)


def test_the_seed_changes_the_documents() -> None:
    a, b = (needle_document(NeedleTask(seed=s), "train", 0, 300).tokens for s in (0, 1))
    assert (a[0], b[0]) == (BOS, BOS)
    assert (a != b).any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"facts": 65}, "data.needles.facts=65"),
        ({"facts": 8, "questions": 9}, "data.needles.questions=9"),
        ({"values": 1}, "data.needles.values=1"),
        ({"keys": 2, "facts": 2, "questions": 1, "values": 3}, "make only 9 different sets of facts"),
    ],
)
def test_impossible_settings_name_the_field(change: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NeedleTask(**change)


def test_a_document_that_is_too_short_says_how_long_it_must_be() -> None:
    task = NeedleTask(keys=4, facts=4, questions=2, values=8)
    assert len(needle_document(task, "train", 0, 10).tokens) == 10
    with pytest.raises(ValueError, match="at least 10"):
        needle_document(task, "train", 0, 9)


def test_the_tokenizer_knows_every_word(tmp_path: Path) -> None:
    task = NeedleTask(keys=3, values=8, fillers=2, facts=3, questions=1)
    task.save_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert len(task.words()) == task.vocab_size == tokenizer.get_vocab_size() == 2 + 3 + 8 + 24 + 2
    document = needle_document(task, "train", 0, 12)
    text = " ".join(task.words()[t] for t in document.tokens)
    assert tokenizer.encode(text).ids == document.tokens.tolist()
    assert tokenizer.token_to_id("<ask>") == ASK
