r"""The texts of DeepSeekMath-V2 (arXiv 2511.22570), written and read: evaluations, assessments, generations.

    evaluation (V, Z)   Here is my evaluation of the solution: <analysis>
                        Based on my evaluation, the final overal score should be: \boxed{0.5}
    assessment          the same with META_ANALYSIS and META_RATING: an evaluation is rated
    generation (Y, Z)   ## Solution            <Y>
                        ## Self Evaluation     <Z, an evaluation>

Scores are 0, ½, 1. R_format is ``ok`` of what a parser returns. The parsers take any text and never raise; where a text
can be read in two ways they say no, because whatever they accept is a way to a reward. "overal" is the paper's
spelling and part of the check.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EVALUATION = "Here is my evaluation of the solution:"
SCORE = "Based on my evaluation, the final overal score should be:"
META_ANALYSIS = 'Here is my analysis of the "solution evaluation":'
META_RATING = 'Based on my analysis, I rate the "solution evaluation" as:'
SOLUTION_HEADING = "## Solution"
SELF_EVALUATION_HEADING = "## Self Evaluation"
SCORES = (0.0, 0.5, 1.0)

_SPELLED = {"0": 0.0, "0.5": 0.5, "1": 1.0}
_BOX = r"\boxed"
_BOX_SCORE = re.compile(r"\s{0,4}\{\s{0,4}(0|0\.5|1)\s{0,4}\}")
_SOLUTION_LINE = re.compile(rf"^{SOLUTION_HEADING}[ \t\r]*$", re.MULTILINE)
_SELF_EVALUATION_LINE = re.compile(rf"^{SELF_EVALUATION_HEADING}[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True)
class Evaluation:
    """What was read of an evaluation or an assessment.

    ``ok`` is R_format; ``score`` in {0, 0.5, 1}, None unless ok; ``analysis`` the words between the two phrases, ""
    unless ok; ``text`` the whole of it from the first phrase on, "" unless ok; ``problem`` why it is not ok.
    """

    ok: bool
    score: float | None = None
    analysis: str = ""
    text: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Generation:
    """What was read of a generator's output. ``ok`` is R_format(Y, Z): both sections, and Z a well-formed evaluation.

    ``solution`` is Y and ``evaluation`` Z as they could be read, also where the other one is missing; ``problem`` says
    why it is not ok.
    """

    ok: bool
    solution: str = ""
    evaluation: Evaluation = Evaluation(False)
    problem: str = ""

    @property
    def self_score(self) -> float | None:
        """s' in {0, 0.5, 1}; None unless the generation is ok."""
        return self.evaluation.score if self.ok else None


def parse_evaluation(text: str) -> Evaluation:
    r"""Read an evaluation: EVALUATION, later SCORE, and after that a last ``\boxed{}`` that holds 0, 0.5 or 1.

    The last SCORE in the text counts, so that quoting one (from a proof that carries a verdict of its own) decides
    nothing; an evaluation that begins again after it leaves the verdict open and is not ok.
    """
    return _parse(text, EVALUATION, SCORE)


def parse_meta(text: str) -> Evaluation:
    """Read an assessment of an evaluation; its ``score`` is the rating ms. Same rules, other phrases."""
    return _parse(text, META_ANALYSIS, META_RATING)


def parse_generation(text: str) -> Generation:
    """Read Y and Z of a generator's output: each heading once, on a line of its own, in this order.

    A solution that contains a phrase of a verdict is not ok: whoever judges it would find the verdict already given.
    Text before the first heading belongs to neither and is shown to nobody.
    """
    first, second = list(_SOLUTION_LINE.finditer(text)), list(_SELF_EVALUATION_LINE.finditer(text))
    for heading, found in ((SOLUTION_HEADING, first), (SELF_EVALUATION_HEADING, second)):
        if len(found) > 1:
            return Generation(False, problem=f"the heading '{heading}' stands {len(found)} times, must stand once")
    if not first:
        return Generation(False, problem=f"no line '{SOLUTION_HEADING}'")
    if not second:
        solution = text[first[0].end() :].strip()
        return Generation(False, solution, problem=f"no line '{SELF_EVALUATION_HEADING}'")
    if second[0].start() < first[0].start():
        return Generation(False, problem=f"'{SELF_EVALUATION_HEADING}' stands before '{SOLUTION_HEADING}'")
    solution = text[first[0].end() : second[0].start()].strip()
    evaluation = parse_evaluation(text[second[0].end() :])
    problem = evaluation.problem and f"self evaluation: {evaluation.problem}"
    if not solution:
        problem = "the solution is empty"
    for phrase in (EVALUATION, SCORE, META_ANALYSIS, META_RATING):
        if phrase in solution:
            problem = f"the solution contains the phrase '{phrase}', which belongs to a verdict"
    return Generation(not problem, solution, evaluation, problem)


def evaluation_text(analysis: str, score: float) -> str:
    """An evaluation as it must be written. Raises ValueError for a score that is not 0, 0.5 or 1."""
    return f"{EVALUATION}\n{analysis}\n{SCORE} {boxed_score(score)}"


def meta_text(analysis: str, rating: float) -> str:
    """An assessment as it must be written. Raises ValueError for a rating that is not 0, 0.5 or 1."""
    return f"{META_ANALYSIS}\n{analysis}\n{META_RATING} {boxed_score(rating)}"


def generation_text(solution: str, evaluation: str) -> str:
    """A generator's output as it must be written; ``evaluation`` as ``evaluation_text`` makes it."""
    return f"{SOLUTION_HEADING}\n{solution}\n\n{SELF_EVALUATION_HEADING}\n{evaluation}"


def boxed_score(score: float) -> str:
    r"""``\boxed{0}``, ``\boxed{0.5}`` or ``\boxed{1}``. Raises ValueError for any other score."""
    for spelled, value in _SPELLED.items():
        if score == value:
            return f"{_BOX}{{{spelled}}}"
    raise ValueError(f"score={score}: must be 0, 0.5 or 1")


def _parse(text: str, opening: str, closing: str) -> Evaluation:
    start, end = text.find(opening), text.rfind(closing)
    if start < 0:
        return Evaluation(False, problem=f"the phrase '{opening}' is missing")
    if end < 0:
        return Evaluation(False, problem=f"the phrase '{closing}' is missing")
    if end < start or text.find(opening, end) >= 0:
        return Evaluation(False, problem=f"'{opening}' stands after '{closing}'")
    box = text.rfind(_BOX, end)
    if box < 0:
        return Evaluation(False, problem=f"no {_BOX}{{}} after '{closing}'")
    found = _BOX_SCORE.match(text, box + len(_BOX))
    if found is None:
        return Evaluation(False, problem=f"{text[box : box + 40]!r} is not one of the scores 0, 0.5, 1")
    analysis = text[start + len(opening) : end].strip()
    return Evaluation(True, _SPELLED[found[1]], analysis, text[start : found.end()])
