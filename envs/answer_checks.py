r"""Verifiers: is an answer right, given what a task says about the right one. Plain functions, one per kind.

============  ==================================================  =====================================================
name          accepts                                             reads of the row
============  ==================================================  =====================================================
exact         the same text but for case, quotes, spaces and      ``answer``
              outer punctuation (.,;:!?)
numeric       the same number, however it is written              ``answer``; ``tolerance``, relative, default 0
math          the same number, list, interval, text or formula    ``answer``; ``question``, ``problem`` or ``prompt``
choice        the same option                                     ``answer``; ``choices`` or ``options``
unit_tests    a Python program that passes every test             ``tests``, ``test_list`` or ``test``; ``entry_point``
============  ==================================================  =====================================================

What counts as the same is the table of docs/rewards.md. ``numeric`` and ``math`` look at one answer: the last box, else
what ``####`` or "the answer is" introduces on the last line, else that line; alternatives are a list and no answer.
``envs.answers.forms`` reads the forms exactly; only formulas go to math-verify, in a process that is killed when it
takes too long. math-verify alone counts numbers equal that agree to six places and accepts what is still to be worked
out, and its time-outs are signals, which threads cannot use.

``env=dataset env.reward=math`` scores a data set with one of them; ``rewards.outcome.Outcome(kind=...)`` scores any
family's final answers.

An unreadable *right* answer is an error, never a 0: it masks the sample. An unreadable answer of the policy is wrong.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from envs.answers.choices import chosen, options_of, right_choice
from envs.answers.forms import Formula, Named, read
from envs.answers.quantity import Number, readings
from envs.answers.typography import tidy
from envs.final_answer import normalise, one_answer, same_value
from envs.sandbox import Limits, Sandbox
from envs.sandbox.asserts import LONGEST_S, TOTAL_S, run_asserts
from envs.types import InfrastructureError

Verifier = Callable[[str, dict[str, Any]], Any]
Asserts = tuple[tuple[str, ...], tuple[str, ...], str | None, bool]  # what run_asserts takes besides the program

LONGEST = 20_000  # characters of an answer that are looked at; nobody's answer is longer
QUESTIONS = ("question", "problem", "prompt")  # columns that may hold what was asked
TEST_LIMITS = Limits(wall_s=10.0, cpu_s=5, memory_mb=256)  # of one test of unit_tests
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
_CALLER = """
import json, os, sys
job = json.loads(sys.stdin.read())
out = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
space = {"__name__": "submission"}
exec(compile(job["code"], "<submission>", "exec"), space)
os.write(out, json.dumps(space[job["function"]](*job["call"])).encode())
"""


def exact(answer: str, row: dict[str, Any]) -> float:
    """1 when the answer equals the row's but for case, quotes, spaces and outer punctuation."""
    if row.get("answer") is None:
        raise ValueError("without an answer column a reward function is needed: env.reward=my_module.my_reward")
    return float(normalise(answer) == normalise(str(row["answer"])))


def numeric(answer: str, row: dict[str, Any]) -> float:
    """1 when |a − b| ≤ tolerance · |b|, a the answer's number and b the row's, both exact fractions.

    Raises:
        ValueError: the row's answer is no number, or its tolerance is not in [0, 1).
    """
    raw = row.get("answer")
    right = _number(str(raw)) if raw is not None and not isinstance(raw, bool) else None
    if right is None:
        raise ValueError(f"answer={raw!r:.100} of the row is no number: numeric needs one")
    tolerance = row.get("tolerance") or 0
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r} of the row: give a relative one in [0, 1)")
    given = _number(answer)
    if given is None:
        return 0.0
    allowed = Fraction(tolerance) * abs(right.value)
    return float(any(abs(value - right.value) <= allowed for value in readings(right, given)))


def math_verify(answer: str, row: dict[str, Any]) -> float:
    """1 when the answer equals the row's as mathematics. The first check of a process starts the checker (seconds).

    Raises:
        GoldRejectedError: the row's own answer is not accepted.
        InfrastructureError: the checker cannot be started, or says nothing.
    """
    from envs.reasoning.checker import shared_checker

    if row.get("answer") is None:
        raise ValueError("the row has no answer: math needs one")
    gold = str(row["answer"])
    if _copied(answer, gold, row):
        return 0.0
    return float(shared_checker(gym=False).check({"gold": gold, "answer": answer}).right)


def choice(answer: str, row: dict[str, Any]) -> float:
    """1 when the answer names the right option and no other (``envs.answers.choices``).

    Raises:
        ValueError: the row's answer names no option.
    """
    options = options_of(row)
    return float(chosen(answer, options) == right_choice(row, options))


def unit_tests(answer: str, row: dict[str, Any]) -> dict[str, float]:
    """Runs the program of the answer (its last code block, or all of it) against the tests of the row:

        tests: [{"input": "3 4", "output": "7"}]    standard input and what is to be printed, compared line by line
        tests: [{"call": [3, 4], "returns": 7}]     JSON arguments of ``entry_point`` and what it is to return
        test_list: ["assert add(3, 4) == 7"]        MBPP; ``test_setup_code`` or ``test_imports`` run before
        test: "def check(candidate): …"             HumanEval, with ``entry_point`` and ``prompt``

    Expected values stay outside the program's sandbox, so that no program can read or fake them
    (``envs.sandbox.asserts``). Returns ``outcome`` (all passed) and ``tests_passed`` (share); the first test that runs
    out of time ends the rest, and so does a quarter of a minute in all.

    Raises:
        ValueError: the row's tests are not of this form, or its own solution (``code``, ``canonical_solution``) fails.
        SandboxUnavailableError: this machine cannot give a sandbox.
    """
    if row.get("tests") is None and isinstance(row.get("test"), str):
        return _human_eval(answer, row)
    if row.get("tests") is None and row.get("test_list") is not None:
        return _mbpp(answer, row)
    tests = row.get("tests")
    tests = json.loads(tests) if isinstance(tests, str) else tests
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"tests={tests!r:.100} of the row: give a list of tests")
    code = program_of(answer)
    passed, deadline = 0, time.monotonic() + TOTAL_S
    for test in tests:
        ok, late = _passes(code, test, row.get("entry_point")) if len(code) <= LONGEST else (False, True)
        passed += ok
        if late or time.monotonic() > deadline:
            break
    return {"outcome": float(passed == len(tests)), "tests_passed": passed / len(tests)}


VERIFIERS: dict[str, Verifier] = {
    "exact": exact,
    "numeric": numeric,
    "math": math_verify,
    "choice": choice,
    "unit_tests": unit_tests,
}

LIMITS_S: dict[str, float] = {"unit_tests": LONGEST_S}  # of those that run what the policy wrote: seconds of one check


def program_of(answer: str, prompt: str = "") -> str:
    """The last code block of an answer, or all of it. A body alone continues ``prompt``, a function's head."""
    fences = _FENCE.findall(answer)
    code = str(fences[-1]) if fences else answer
    return prompt + code if prompt and code[:1].isspace() and not re.search(r"^def ", code, re.MULTILINE) else code


def _number(text: str) -> Number | None:
    if len(text) > LONGEST:
        return None
    form = read(one_answer(text))
    form = form.form if isinstance(form, Named) else form
    return form if isinstance(form, Number) else None


def _copied(answer: str, gold: str, row: dict[str, Any]) -> bool:
    """Whether the answer is a formula of the question, and so may be what was to be worked out."""
    said = one_answer(answer[-LONGEST:])
    if not isinstance(read(said), Formula):
        return False
    formula = _squeezed(said)
    asked = [text for column in QUESTIONS for text in _texts(row.get(column))]
    return len(formula) > 2 and formula != _squeezed(one_answer(gold)) and any(formula in _squeezed(q) for q in asked)


def _texts(asked: Any) -> list[str]:
    """A question: a text, or the messages of a dialogue."""
    if isinstance(asked, list):
        return [str(message["content"]) for message in asked if isinstance(message, Mapping) and "content" in message]
    return [asked] if isinstance(asked, str) else []


def _squeezed(text: str) -> str:
    return re.sub(r"[\s${}]|\\[!,;: ]", "", tidy(text))


def _mbpp(answer: str, row: dict[str, Any]) -> dict[str, float]:
    tests = row["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"test_list={tests!r:.100} of the row: give a list of assert statements")
    before = [*(row.get("test_imports") or []), row.get("test_setup_code") or ""]
    job = (tuple(tests), tuple(part for part in before if part), None, False)
    return _asserted(program_of(answer), job, row.get("code"))


def _human_eval(answer: str, row: dict[str, Any]) -> dict[str, float]:
    name, prompt = row.get("entry_point"), row.get("prompt")
    if not isinstance(name, str) or not isinstance(prompt, str):
        raise ValueError("the row has a test but no text entry_point and prompt: unit_tests needs both")
    solution = row.get("canonical_solution")
    job = ((row["test"],), (prompt + "    pass",), name, True)
    return _asserted(program_of(answer, prompt), job, prompt + solution if solution else None)


def _asserted(code: str, job: Asserts, solution: str | None) -> dict[str, float]:
    """A program's verdict. One that fails is the program's fault only when the row's own solution passes."""
    try:
        passed = run_asserts(code, *job) if len(code) <= LONGEST else [False]
    except TimeoutError:
        passed = [False]
    if not all(passed) and solution and not _solved(solution, job):
        raise ValueError(f"the row's own solution fails its tests: {job[0][0]!r:.200}")
    return {"outcome": float(all(passed)), "tests_passed": sum(passed) / len(passed)}


@lru_cache(maxsize=1024)
def _solved(solution: str, job: Asserts) -> bool:
    try:
        return all(run_asserts(solution, *job))
    except TimeoutError as error:
        raise InfrastructureError("the row's own solution ran out of time in its tests") from error


def _passes(code: str, test: Any, function: Any) -> tuple[bool, bool]:
    """(passed, ran out of time) of one test."""
    sandbox = Sandbox(TEST_LIMITS)
    has = {key for key, value in test.items() if value is not None} if isinstance(test, Mapping) else set()
    if {"input", "output"} <= has:
        result = sandbox.run_python(code, str(test["input"]))
        return result.exit_code == 0 and _lines(result.stdout) == _lines(str(test["output"])), result.timed_out
    if "call" in has and "returns" in test:
        if not isinstance(function, str) or not isinstance(test["call"], list):
            raise ValueError(f"test {test!r:.100} of the row: give entry_point, and call as a list of arguments")
        result = sandbox.run_python(_CALLER, json.dumps({"code": code, "function": function, "call": test["call"]}))
        try:
            returned = json.loads(result.stdout)
        except (ValueError, RecursionError):
            return False, result.timed_out
        return result.exit_code == 0 and _same(returned, test["returns"]), result.timed_out
    raise ValueError(f"test {test!r:.100} of the row: give input and output, or call and returns")


def _lines(text: str) -> list[str]:
    """Lines without trailing spaces, empty ones at the end left out."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _same(given: Any, wanted: Any) -> bool:
    """Equal JSON values; numbers as numbers, everything else of the same type."""
    if isinstance(given, list) and isinstance(wanted, list):
        return len(given) == len(wanted) and all(map(_same, given, wanted))
    if isinstance(given, dict) and isinstance(wanted, dict):
        return given.keys() == wanted.keys() and all(_same(given[key], wanted[key]) for key in given)
    return same_value(given, wanted)
