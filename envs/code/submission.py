"""Runs a submitted function on inputs, in the sandbox, and reports what it returned.

Only the inputs go in and only the returned values come out; what they should have been stays outside
the sandbox. A submission that exits early, prints a verdict or patches the harness can spoil its own answers
but never make a wrong one right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from envs.sandbox import Limits, Sandbox

Inputs = tuple[tuple[int, ...], ...]

# One line per input: "=<integer>" for a value, "!<text>" for a failure.
_HARNESS = """
import os, sys
answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

def say(kind, text):
    answers.write(kind + " ".join(str(text).split())[:200] + "\\n")
    answers.flush()

def words(error):
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return type(error).__name__ + (": " + text if text else "")

namespace = {"__name__": "submission"}
problem = None
try:
    exec(compile(SUBMISSION, "<submission>", "exec"), namespace)
    if not callable(namespace.get(FUNCTION)):
        problem = "there is no function " + FUNCTION
except BaseException as error:
    problem = words(error)
for arguments in INPUTS:
    if problem is not None:
        say("!", problem)
        continue
    try:
        value = namespace[FUNCTION](*arguments)
        if type(value) is int:
            say("=", value)
        else:
            say("!", "returned " + repr(value)[:60] + ", not an int")
    except BaseException as error:
        say("!", "raised " + words(error))
"""


@dataclass(frozen=True)
class Outcome:
    """What one input gave: ``value``, or None and ``problem`` in words for the policy."""

    value: int | None
    problem: str = ""


class _Unfinished(Exception):
    def __init__(self, outcomes: tuple[Outcome, ...]) -> None:
        self.outcomes = outcomes


def judge(code: str, function: str, inputs: Inputs, limits: Limits) -> tuple[Outcome, ...]:
    """What ``function`` of the submitted ``code`` returns for every input, in order.

    Answers are remembered: rollouts of one task often submit the same line. A run that was stopped is
    not, because a busy machine may be to blame.
    """
    try:
        return _run(code, function, inputs, limits)
    except _Unfinished as stopped:
        return stopped.outcomes


@lru_cache(maxsize=4096)
def _run(code: str, function: str, inputs: Inputs, limits: Limits) -> tuple[Outcome, ...]:
    header = f"SUBMISSION = {code!r}\nFUNCTION = {function!r}\nINPUTS = {inputs!r}\n"
    result = Sandbox(limits).run_python(header + _HARNESS)
    outcomes = [_outcome(line) for line in result.stdout.splitlines()[: len(inputs)]]
    if result.timed_out:
        missing = Outcome(None, "did not finish in time")
    else:
        missing = Outcome(None, "ended the program")
    outcomes += [missing] * (len(inputs) - len(outcomes))
    if result.timed_out:
        raise _Unfinished(tuple(outcomes))
    return tuple(outcomes)


def _outcome(line: str) -> Outcome:
    if line.startswith("="):
        try:
            return Outcome(int(line[1:]))
        except ValueError:  # the submission wrote over the harness's answers
            return Outcome(None, "gave an unreadable answer")
    return Outcome(None, line[1:] or "gave no answer")
