"""The test of form: it lets sound questions pass and sees every kind of fault that is put into one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.search.wiki_readable import flaws

SOUND = (
    "Which American philosopher died in the same year as the biologist who taught at Harvard University?",
    "Take the opera that was first performed at La Fenice. Who composed that opera?",
    "How many years lie between the birth of the poet who wrote an hour of prose and the death of a U.S. general?",
    "Of the film by an honest man, the song from 1962 and a unique play, which is the oldest?",
    "What is the population of the island country in Oceania (the largest one) that has a one-party system?",
)
questions = st.sampled_from(SOUND)


@given(questions)
def test_sound_questions_pass(question: str) -> None:
    assert flaws(question) == []


@given(questions, st.data())
def test_a_word_said_twice_is_seen(question: str, data: st.DataObject) -> None:
    words = question.split()
    at = data.draw(st.sampled_from([at for at, word in enumerate(words) if word.isalpha()]))
    word = words[at]
    assert flaws(" ".join([*words[:at], word, *words[at:]]))


@given(questions, st.data())
def test_a_dangling_word_before_the_mark_is_seen(question: str, data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(("of", "the", "and", "by", "a", "with", "from")))
    assert "dangling word" in flaws(f"{question.rstrip('?')} {word}?")


@given(questions, st.sampled_from(("(", ")", '"', "{", "]", "“")))
def test_an_open_bracket_or_quote_is_seen(question: str, mark: str) -> None:
    assert flaws(f"{question[:-1]} {mark}x?")


@given(questions, st.sampled_from(("[1]", "<ref>", "{{cite}}", "&nbsp;", "'''bold'''", "None", "https://a.b")))
def test_rests_of_markup_are_seen(question: str, rest: str) -> None:
    assert flaws(f"{question[:-1]} {rest}?")


@pytest.mark.parametrize(
    ("question", "flaw"),
    [
        ("Which river flows into a ocean that is very deep?", "a or an"),
        ("Which river flows past an university that is very old?", "a or an"),
        ("which river flows past a town that is very old?", "no sentence"),
        ("Take the river. which town lies on that river?", "sentence in lower case"),
        ("Which river flows past the the town on the hill?", "doubled word"),
        ("Which river is the a tributary of that long river?", "two articles"),
        ("Which river is is not a tributary of that river?", "two verbs"),
        ("Which river flows past the old town ?", "space before a mark"),
        ("Which river flows past  the old town?", "double space"),
        ("Which city who lies on the river is very old?", "who of a thing"),
        ("Take the king of whom the queen of the long river was the wife.", "turned about"),
        ("Which river?", "length"),
        (f"Which river {'flows and ' * 60}ends?", "length"),
        (
            "Which town was built on the sandy island of Java that was built on the sandy island of Java?",
            "said twice",
        ),
    ],
)
def test_each_flaw_by_hand(question: str, flaw: str) -> None:
    assert flaw in flaws(question)
