r"""Verifiers: is an answer right, given what a task says about the right one. Plain functions, one per kind.

============  =====================================================  ==============================================
name          accepts                                                reads of the row
============  =====================================================  ==============================================
exact         the same text but for case, quotes, outer punctuation  ``answer``
numeric       the same number: in the last ``\boxed{}`` or the last  ``answer``; ``tolerance``, relative, default 0
              line, with or without a unit
math          the same mathematics (math-verify, in a process that   ``answer``
              is killed when it takes too long)
unit_tests    a Python program that passes every test, in the        ``tests``; ``entry_point`` for tests of a
              sandbox                                                function
============  =====================================================  ==============================================

``env=dataset env.reward=math`` scores a data set with one of them; ``rewards.outcome.Outcome(kind=...)`` scores any
family's final answers.

An unreadable *right* answer is an error, never a 0: it masks the sample. An unreadable answer of the policy is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from envs.final_answer import final_answer, last_line, normalise, number, same_value, without_unit
from envs.sandbox import Limits, Sandbox

Verifier = Callable[[str, dict[str, Any]], Any]

LONGEST = 20_000  # characters of an answer that are looked at; nobody's answer is longer
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
    right = _gold_number(row)
    tolerance = row.get("tolerance") or 0
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r} of the row: give a relative one in [0, 1)")
    if len(answer) > LONGEST:
        return 0.0
    line = last_line(answer)
    given = number(line)
    if given is None:
        given = number(without_unit(line))
    return float(given is not None and abs(given - right) <= Fraction(tolerance) * abs(right))


def math_verify(answer: str, row: dict[str, Any]) -> float:
    """1 when the answer equals the row's as mathematics. The first check of a process starts the checker (seconds).

    Raises:
        GoldRejectedError: the row's own answer is not accepted.
        InfrastructureError: the checker cannot be started, or says nothing.
    """
    from envs.reasoning.checker import shared_checker

    if row.get("answer") is None:
        raise ValueError("the row has no answer: math needs one")
    return float(shared_checker(gym=False).check({"gold": str(row["answer"]), "answer": answer}).right)


def unit_tests(answer: str, row: dict[str, Any]) -> dict[str, float]:
    """Runs the program of the answer (its last code block, or all of it) against ``row["tests"]``, a list of either

        {"input": "3 4", "output": "7"}     standard input and what is to be printed, compared line by line
        {"call": [3, 4], "returns": 7}      JSON arguments of ``row["entry_point"]`` and what it is to return

    Expected values stay outside the sandbox, so that no program can read or fake them. Returns ``outcome`` (all
    passed) and ``tests_passed`` (share); the first test that runs out of time ends the rest.

    Raises:
        ValueError: the row's tests are not of this form.
        SandboxUnavailableError: this machine cannot give a sandbox.
    """
    tests = row.get("tests")
    tests = json.loads(tests) if isinstance(tests, str) else tests
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"tests={tests!r:.100} of the row: give a list of tests")
    fences = _FENCE.findall(answer)
    code = fences[-1] if fences else answer
    passed = 0
    for test in tests:
        ok, late = _passes(code, test, row.get("entry_point")) if len(code) <= LONGEST else (False, True)
        passed += ok
        if late:
            break
    return {"outcome": float(passed == len(tests)), "tests_passed": passed / len(tests)}


VERIFIERS: dict[str, Verifier] = {
    "exact": exact,
    "numeric": numeric,
    "math": math_verify,
    "unit_tests": unit_tests,
}


def _gold_number(row: dict[str, Any]) -> Fraction:
    raw = row.get("answer")
    found = number(final_answer(str(raw))) if raw is not None and not isinstance(raw, bool) else None
    if found is None:
        raise ValueError(f"answer={raw!r:.100} of the row is no number: numeric needs one")
    return found


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
