"""Language consistency and repetition, by hand."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_doubles import OUTCOME, an_episode

from rewards.language import LanguageConsistency, language_counts, main_language
from rewards.repetition import Repetition, repeated_share


def share(thinking: str, **options) -> float:
    scored = LanguageConsistency(**options)(an_episode("42", reasoning=thinking), OUTCOME)
    return scored.value


def test_a_share_by_hand() -> None:
    # "We add both numbers" is 4 English words (we: a stop word); the Chinese sentence has 5 characters
    text = "We add both numbers. 答案是五十。"
    assert language_counts(text) == {"en": 4, "zh": 5}
    assert share(text, language="en") == pytest.approx(4 / 9)
    assert share(text, language="zh") == pytest.approx(5 / 9)
    assert share(text, language="ru") == 0.0


def test_latin_sentences_are_told_by_their_stop_words() -> None:
    # 6 German words (ich, die, ist: 3 stop words of German, none of English), then 4 English ones (the, is)
    text = "Ich denke, die Antwort ist fünf. So the answer is 5."
    assert language_counts(text, "en") == {"de": 6, "en": 4}
    assert share(text, language="en") == pytest.approx(0.4)
    # a Spanish, a French, an Italian and a Portuguese sentence
    for language, sentence in {
        "es": "Entonces la respuesta es correcta porque los números son iguales",
        "fr": "Donc la réponse est juste parce que les nombres sont égaux",
        "it": "Quindi la risposta è giusta perché gli angoli sono uguali",
        "pt": "Então a resposta é certa porque os números são iguais",
    }.items():
        assert language_counts(sentence).most_common(1)[0][0] == language


def test_a_sentence_that_does_not_tell_counts_for_a_latin_target_only() -> None:
    assert language_counts("Pythagoras theorem: triangle", "en") == {"en": 3}
    assert share("Pythagoras theorem: triangle", language="de") == 1.0
    assert share("Pythagoras theorem: triangle", language="zh") == 0.0


def test_scripts() -> None:
    counts = language_counts("Это ответ. Η απάντηση. 답은 둘. これは答え。 זה שווה. هذا صحيح. यह सही")
    assert counts == {"ru": 2, "el": 2, "ko": 2, "ja": 5, "he": 2, "ar": 2, "hi": 2}  # これは + 答 + え


@pytest.mark.parametrize(
    "text",
    [
        "x = 3 + y2",
        "`das ist nicht so`",
        "```python\ndie = der\n```",
        "$\\text{das ist}$",
        r"\(das ist\)",
        "https://die.der/das",
    ],
)
def test_what_is_no_language_does_not_count(text: str) -> None:
    assert language_counts(text) == {}
    assert share(text, language="en") == 1.0


def test_target_is_the_prompts_language_or_the_default() -> None:
    assert main_language("Wie viele sind es, wenn ich zwei dazu nehme?") == "de"
    assert main_language("2 + 2 = ?") is None
    german = an_episode("4", reasoning="Ich rechne das aus und es ist vier.")
    assert LanguageConsistency()(german, OUTCOME).value == 0.0  # the prompt is "q": English by default
    assert LanguageConsistency(default="de")(german, OUTCOME).value == 1.0


def test_only_what_the_policy_thought_is_measured() -> None:
    mixed = an_episode("Das ist die Antwort und sie ist richtig", reasoning="This is what we want")
    assert LanguageConsistency(language="en")(mixed, OUTCOME).value == 1.0
    assert LanguageConsistency(language="en", where="answer")(mixed, OUTCOME).value == 0.0
    assert LanguageConsistency(language="en", where="all")(mixed, OUTCOME).value == pytest.approx(5 / 13)


@pytest.mark.parametrize("options", [{"language": "klingon"}, {"default": "prompt"}, {"where": "here"}])
def test_language_options_are_checked(options) -> None:
    with pytest.raises(ValueError, match=r"language\.(language|default|where)='\w+': choose"):
        LanguageConsistency(**options)


# -- repetition ----------------------------------------------------------------------------------


def test_repeated_share_by_hand() -> None:
    # a b a b a b: 2-grams ab ba ab ba ab, 2 of 5 distinct
    assert repeated_share(["a b a b a b"], 2) == pytest.approx(1 - 2 / 5)
    assert repeated_share(["a b", "a b"], 2) == pytest.approx(1 - 1 / 2)  # not across messages: no "b a"
    assert repeated_share(["a b c"], 4) == 0.0
    assert repeated_share(["好好好"], 1) == pytest.approx(2 / 3)


def test_repetition_by_hand() -> None:
    part = Repetition(n=2, free=0.2)
    scored = part(an_episode("a b a b a b"), OUTCOME)
    assert (scored.value, scored.details) == (pytest.approx(-(0.6 - 0.2) / 0.8), {"share": pytest.approx(0.6)})
    assert part(an_episode("a b a c"), OUTCOME).value == 0.0  # nothing twice
    assert str(part(an_episode("a"), OUTCOME).value) == "0.0"
    endless = part(an_episode("", reasoning="wait " * 5000), OUTCOME).value
    assert -1.0 <= endless < -0.99


@given(st.text(max_size=300), st.integers(1, 5), st.floats(0, 0.9))
def test_both_stay_in_bounds_on_any_text(text: str, n: int, free: float) -> None:
    episode = an_episode(text, reasoning=text[::-1])
    assert -1.0 <= Repetition(n=n, free=free)(episode, OUTCOME).value <= 0.0
    for language in ("prompt", "en", "zh", "ja"):
        assert 0.0 <= LanguageConsistency(language=language, where="all")(episode, OUTCOME).value <= 1.0


@pytest.mark.parametrize("piece", ["\\(", "\\[", "$", "$$", "`", "```", "a", "好", "a1", "x://", "'a", "1", "_", "\\a"])
def test_time_is_linear_in_the_text(piece: str) -> None:
    text = piece * (30_000 // len(piece))
    began = time.process_time()
    language_counts(text, "en")
    repeated_share([text], 8)
    assert time.process_time() - began < 2.0
