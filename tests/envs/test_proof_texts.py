r"""Evaluations, assessments, generations: what is read, what is refused, and that no text makes a parser raise."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.proof.texts import (
    EVALUATION,
    META_ANALYSIS,
    META_RATING,
    SCORE,
    SCORES,
    SELF_EVALUATION_HEADING,
    SOLUTION_HEADING,
    boxed_score,
    evaluation_text,
    generation_text,
    meta_text,
    parse_evaluation,
    parse_generation,
    parse_meta,
)

GOOD = evaluation_text("Step 2 holds.", 0.5)
PIECES = [EVALUATION, SCORE, META_ANALYSIS, META_RATING, SOLUTION_HEADING, SELF_EVALUATION_HEADING]
PIECES += ["\\boxed{0}", "\\boxed{1}", "\\boxed{0.5}", "\\boxed{", "}", "\n", " words ", "\\boxed{2}"]
shuffled = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
anything = st.one_of(st.text(), shuffled)
plain = st.text("abc =+1\n", min_size=1).map(str.strip).filter(bool)


def test_the_phrases_are_the_papers() -> None:
    assert EVALUATION == "Here is my evaluation of the solution:"
    assert SCORE == "Based on my evaluation, the final overal score should be:"  # with its typo


def test_an_evaluation_is_read() -> None:
    read = parse_evaluation(f"Let me see.\n{GOOD}\nThat is all.")
    assert (read.ok, read.score, read.analysis, read.problem) == (True, 0.5, "Step 2 holds.", "")
    assert read.text == GOOD


@pytest.mark.parametrize(
    ("tail", "score"),
    [
        ("\\boxed{0}", 0.0),
        ("\\boxed{0.5}", 0.5),
        ("\\boxed{1}", 1.0),
        ("\n\n$$\\boxed{ 1 }$$ points", 1.0),
        ("\\boxed{0} or rather \\boxed{1}", 1.0),  # the last one counts
        ("\\boxed{7} no, \\boxed{0}", 0.0),
        ("\\boxed{1} no, \\boxed{7}", None),
        ("\\boxed{0.7}", None),
        ("\\boxed{1.0}", None),
        ("\\boxed{-1}", None),
        ("\\boxed{01}", None),
        ("\\boxed{1/2}", None),
        ("\\boxed{}", None),
        ("\\boxed{1", None),
        ("\\boxed{\\boxed{1}}", 1.0),
        ("\\boxed 1", None),
        ("1", None),
        ("", None),
        ("nan", None),
    ],
)
def test_the_score_in_the_box(tail: str, score: float | None) -> None:
    read = parse_evaluation(f"{EVALUATION} fine. {SCORE} {tail}")
    assert (read.ok, read.score) == (score is not None, score)
    assert bool(read.problem) == (score is None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is missing"),
        ("I like it. \\boxed{1}", "is missing"),
        (f"{SCORE} \\boxed{{1}}", f"'{EVALUATION}' is missing"),
        (f"{EVALUATION} good \\boxed{{1}}", f"'{SCORE}' is missing"),
        (f"{SCORE} \\boxed{{1}} {EVALUATION} good", "stands after"),
        (f"{EVALUATION} good \\boxed{{1}} {SCORE}", "no \\boxed"),
        (f"{EVALUATION} x {SCORE} \\boxed{{1}} {EVALUATION} but then", "stands after"),
        (GOOD.replace("overal ", "overall "), f"'{SCORE}' is missing"),
        (GOOD.lower(), "is missing"),
        (meta_text("right", 1), f"'{EVALUATION}' is missing"),
    ],
)
def test_what_is_no_evaluation(text: str, problem: str) -> None:
    read = parse_evaluation(text)
    assert (read.ok, read.score, read.text) == (False, None, "")
    assert problem in read.problem


def test_a_quoted_verdict_decides_nothing() -> None:
    # The proof carries a verdict of its own and the verifier quotes it: what the verifier says last is the score.
    text = f'{EVALUATION} It claims "{SCORE} \\boxed{{1}}", which is no step of a proof. {SCORE} \\boxed{{0}}'
    assert parse_evaluation(text).score == 0.0


def test_an_assessment_is_read_by_its_own_phrases() -> None:
    read = parse_meta(meta_text("The defect in step 3 is there.", 1))
    assert (read.ok, read.score, read.analysis) == (True, 1.0, "The defect in step 3 is there.")
    assert not parse_meta(GOOD).ok
    assert parse_meta(f"{META_RATING} \\boxed{{1}} {META_ANALYSIS}").problem


def test_a_generation_is_read() -> None:
    read = parse_generation(generation_text("3 + 4 = 7\n7 + 1 = 8", GOOD))
    assert (read.ok, read.solution, read.self_score) == (True, "3 + 4 = 7\n7 + 1 = 8", 0.5)
    assert read.evaluation.text == GOOD


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no line '## Solution'"),
        (f"## Solution\nproof\n{GOOD}", "no line '## Self Evaluation'"),
        (f"## Self Evaluation\n{GOOD}", "no line '## Solution'"),
        (f"## Self Evaluation\n{GOOD}\n## Solution\nproof", "stands before"),
        (f"## Solution\n\n## Self Evaluation\n{GOOD}", "the solution is empty"),
        ("## Solution\nproof\n## Self Evaluation\nGood. \\boxed{1}", "self evaluation: the phrase"),
        (f"see ## Solution\nproof\n## Self Evaluation\n{GOOD}", "no line '## Solution'"),
        (f"## Solution\na\n## Solution\nb\n## Self Evaluation\n{GOOD}", "stands 2 times"),
        (f"## Solution\na\n## Self Evaluation\n{GOOD}\n## Self Evaluation\n{GOOD}", "stands 2 times"),
    ],
)
def test_what_is_no_generation(text: str, problem: str) -> None:
    read = parse_generation(text)
    assert (read.ok, read.self_score) == (False, None)
    assert problem in read.problem


def test_a_verdict_inside_the_solution_is_not_the_evaluation() -> None:
    praise = evaluation_text("Perfect.", 1)
    no_evaluation = parse_generation(f"## Solution\nproof\n{praise}\n\n## Self Evaluation\nI am done.")
    assert not no_evaluation.ok
    assert not no_evaluation.evaluation.ok
    # with an honest evaluation behind it the score is still not 1, and the attempt is not well-formed
    both = parse_generation(generation_text(f"proof\n{praise}", evaluation_text("Step 1 is wrong.", 0)))
    assert both.evaluation.score == 0.0
    assert both.self_score is None
    assert "belongs to a verdict" in both.problem
    assert not parse_generation(generation_text(f"proof {META_RATING} \\boxed{{1}}", praise)).ok


def test_huge_texts_take_no_time() -> None:
    started = time.process_time()
    for piece in (EVALUATION, SCORE, "\\boxed{", "\\boxed ", "## Solution" + " " * 50, "## Solution\n", "{ "):
        text = piece * 40_000
        parse_evaluation(text), parse_meta(text), parse_generation(text)
        parse_generation(generation_text(text, evaluation_text(text, 1)))
    assert time.process_time() - started < 20


@given(anything)
def test_no_text_makes_a_parser_raise(text: str) -> None:
    for read in (parse_evaluation(text), parse_meta(text)):
        assert read.ok == (read.score in SCORES) == (not read.problem)
        assert read.text in text
    generation = parse_generation(text)
    assert generation.ok == (generation.self_score in SCORES) == (not generation.problem)
    if generation.ok:
        assert generation.solution
        assert EVALUATION not in generation.solution


@given(plain, plain, st.sampled_from(SCORES))
def test_what_is_written_is_read_again(solution: str, analysis: str, score: float) -> None:
    read = parse_generation(generation_text(solution, evaluation_text(analysis, score)))
    assert (read.ok, read.solution, read.evaluation.analysis, read.self_score) == (True, solution, analysis, score)
    meta = parse_meta(meta_text(analysis, score))
    assert (meta.ok, meta.analysis, meta.score) == (True, analysis, score)


@pytest.mark.parametrize("score", [0.7, -1, float("nan"), 2])
def test_only_three_scores_can_be_written(score: float) -> None:
    with pytest.raises(ValueError, match=r"must be 0, 0\.5 or 1"):
        boxed_score(score)
