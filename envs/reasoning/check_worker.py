r"""The process that checks answers. Started by ``checker.py``; one request a line, JSON, on standard input.

    {"gold": "3/4", "answer": "\\frac{6}{8}"}                                        math-verify alone
    {"gold": "2*9", "answer": "9*2", "gym": ["countdown", 1, 7], "key": …, "maths": false}   the data set's scorer first

Two lines come back for each: ``ready`` when the request is understood and the right answer was seen to be right, and
the verdict ``{"right": true}`` or ``{"right": false, "why": …}``. Between the two only the policy's answer can do
harm: it has the request's ``cpu_s`` (``CPU_S``) seconds of CPU time, after which the kernel ends the process
(SIGPROF), whatever library is busy then; it has ``MEMORY_MB`` of address space; it can write no file. The process that
looks at answers is a child, and the next one is there at once (``keep_serving``).
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from functools import lru_cache
from typing import Any, TextIO

from envs.answers.forms import Form, Group, formulas, read, same
from envs.answers.quantity import Number
from envs.final_answer import clean, final_answer, last_line, one_answer

CPU_S = 2.0  # CPU seconds for one answer; wall time would punish answers for a busy machine
MEMORY_MB = 3072
_LONGEST = 20_000  # characters of an answer that are looked at
# Powers that nobody can write out: of numbers to numbers to numbers, to a number of five digits, of a bracket to one of
# three; factorials and binomials alike. What this lets through, CPU_S ends.
_HUGE = re.compile(
    r"\d[\s)}]*\^[\s({]*\d+[\s({)}]*\^|\^[\s({]*-?\d{5}|[)}a-zA-Z]\s*\^[\s({]*-?\d{3}|\d{4}[\s)}]*!|![\s)}]*!"
    r"|binom\s*\{[^{}]*(?:\d{4}|\^)"
)
_UNDONE = re.compile(r"\\(?:int|iint|oint|sum|prod|lim)(?![a-zA-Z])|!")


def candidates(text: str) -> list[str]:
    """The ways to read the one answer of a message: as it stands, cleaned of typography, its last line."""
    whole, line = final_answer(text), last_line(text)
    ways = [whole, clean(whole), clean(whole.replace("\\\\", "\n")), line, clean(line)]
    return list(dict.fromkeys(way for way in ways if way))


def maths_right(gold: str, text: str) -> bool:
    """Whether the answer equals the gold one as mathematics."""
    right, given = _gold(gold), read(one_answer(text))
    if isinstance(right, Group) and isinstance(given, Number):  # 331,337 may be two numbers
        given = read(one_answer(text), thousands=False)
    return right is not None and given is not None and same(right, given, _algebra)


@lru_cache(maxsize=256)
def _gold(gold: str) -> Form | None:
    return read(one_answer(gold))


def _algebra(gold: str, given: str) -> bool:
    """math-verify on two formulas: exact but for decimals, which count to twelve places (its own default is six).
    An integral or a factorial is still to be worked out, unless the right answer has one too."""
    from math_verify import verify

    if _HUGE.search(given.replace("**", "^")) or (_UNDONE.search(given) and not _UNDONE.search(gold)):
        return False
    right, found = _gold_formula(gold), _formula(given)
    if right is None or found is None or _differ(right, found):
        return False
    return bool(verify(right, found, float_rounding=12, timeout_seconds=None))


def _differ(right: Any, found: Any) -> bool:
    """Whether two expressions have different values at a point: far quicker than to simplify their difference."""
    from sympy import Expr, Rational

    if not isinstance(right, Expr) or not isinstance(found, Expr):
        return False
    symbols = sorted(right.free_symbols | found.free_symbols, key=str)
    point = {symbol: Rational(17 + 6 * i, 41 + 2 * i) for i, symbol in enumerate(symbols)}
    values = [expression.xreplace(point).evalf(25) for expression in (right, found)]
    if not all(value.is_number and value.is_finite for value in values):
        return False
    return bool(abs(values[0] - values[1]) > 1e-9 * (abs(values[0]) + abs(values[1])))


def _formula(latex: str) -> Any:
    """The formula as sympy reads it, without evaluating any text as Python; None when it cannot be read. i is the
    imaginary unit. (math-verify's own ``parse`` takes units off and makes x of X.)"""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
    from sympy import Basic, I, MatrixBase, Symbol

    spelling = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="none")
    try:
        found = latex2sympy(
            latex,
            is_real=True,
            normalization_config=spelling,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except Exception:  # of many kinds: the parser's, sympy's, RecursionError
        return None
    if not isinstance(found, (Basic, MatrixBase)):
        return None
    return found.xreplace({s: I if s.name == "i" else Symbol(s.name, real=True) for s in found.free_symbols})


_gold_formula = lru_cache(maxsize=256)(_formula)


def prepare(gold: str) -> None:
    """Read the formulas of a right answer, so that no answer pays for it with its time."""
    form = _gold(gold)
    for latex in formulas(form) if form is not None else ():
        _gold_formula(latex)


def warm_up() -> None:
    """The first parse and comparison take seconds: sympy and the grammar are loaded then."""
    for gold, given in ((r"\frac{x^2}{\sqrt{2}}", r"\frac{x^2 \sqrt{2}}{2}"), ("y = 2x + 1", "y - 2x = 1")):
        _algebra(gold, given)


def judge(request: dict[str, Any], answer: str) -> bool:
    """Whether ``answer`` is right. May take forever, and may raise."""
    if len(answer) > _LONGEST:
        return False
    if "gym" in request:
        from envs.reasoning.gym_questions import gym_score

        kind, level, seed = request["gym"]
        if any(gym_score(kind, level, seed, way) >= 1.0 for way in candidates(answer)):
            return True
        if not request["maths"]:
            return False
    return maths_right(request["gold"], answer)


def _check_entry(request: dict[str, Any]) -> None:
    """The entry that is made here must be the one that the task was made of."""
    from envs.reasoning.gym_questions import make_entry, question_key

    if question_key(make_entry(*request["gym"])[1]["question"]) != request["key"]:
        raise ValueError(f"reasoning-gym makes another entry of {request['gym']} now; build the data set again")


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        request = json.loads(line)
        try:
            if "gym" in request:
                _check_entry(request)
            prepare(request["gold"])
            if not judge(request, request["gold"]):
                raise ValueError(f"the right answer {request['gold']!r} is not accepted")
        except Exception as error:
            _say(replies, {"broken": f"{type(error).__name__}: {error}"})
            continue
        _say(replies, "ready")
        signal.setitimer(signal.ITIMER_PROF, request.get("cpu_s", CPU_S))
        try:
            verdict = {"right": judge(request, request["answer"]), "why": ""}
        except Exception as error:  # the scorer cannot read the answer (MemoryError and RecursionError are among these)
            verdict = {"right": False, "why": f"unreadable: {type(error).__name__}"}
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        _say(replies, verdict)


def keep_serving(requests: TextIO, replies: TextIO) -> None:
    """``serve`` in a child, and in another one when an answer has ended it: this process stays as warm as it is, and a
    new child takes no time to start. Of one that was ended the reply is ``{"ended": <exit code>}``."""
    while True:
        if (child := os.fork()) == 0:
            serve(requests, replies)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if (code := os.waitstatus_to_exitcode(status)) == 0:
            return
        _say(replies, {"ended": code})


def _say(replies: TextIO, value: Any) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent, whose end closes our input
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        warm_up()  # before the limits are taken
        if sys.argv[1:] == ["gym"]:
            import reasoning_gym  # noqa: F401
    except ImportError as error:
        _say(replies, {"broken": f"{error}"})
        return
    for kind, amount in (
        (resource.RLIMIT_AS, MEMORY_MB << 20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (amount, amount))
    _say(replies, "started")
    keep_serving(sys.stdin, replies)


if __name__ == "__main__":
    main()
