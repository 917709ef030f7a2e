r"""The process that checks answers. Started by ``checker.py``; one request a line, JSON, on standard input.

    {"gold": "3/4", "answer": "\\frac{6}{8}"}                                        math-verify alone
    {"gold": "2*9", "answer": "9*2", "gym": ["countdown", 1, 7], "key": …, "maths": false}   the data set's scorer first

Two lines come back for each: ``ready`` when the request is understood and the right answer was seen to be right, and
the verdict ``{"right": true}`` or ``{"right": false, "why": …}``. Between the two only the policy's answer can do
harm: it has ``CPU_S`` seconds of CPU time, after which the kernel ends the process (SIGPROF), whatever library
is busy then; it has ``MEMORY_MB`` of address space; it can write no file and start no process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any, TextIO

from envs.final_answer import clean, final_answer, last_line, number, without_unit

CPU_S = 2.0  # CPU seconds for one answer; wall time would punish answers for a busy machine
MEMORY_MB = 3072
_LONGEST = 20_000  # characters of an answer that are looked at


def candidates(text: str) -> list[str]:
    """The ways to read the one answer of a message: as it stands, cleaned of typography, its last line."""
    whole, line = final_answer(text), last_line(text)
    ways = [whole, clean(whole), clean(whole.replace("\\\\", "\n")), line, clean(line)]
    return list(dict.fromkeys(way for way in ways if way))


def maths_right(gold: str, text: str) -> bool:
    """Whether the answer equals the gold one as mathematics."""
    line, right = last_line(text), number(gold)
    given = number(line)
    if given is None:
        given = number(without_unit(line))
    if given is not None and right is not None:
        return given == right
    if right is not None and not any(c.isdigit() for c in line):
        return False  # words: nothing for a parser of formulas
    from math_verify import LatexExtractionConfig, parse, verify

    configs = [LatexExtractionConfig(boxed_match_priority=0)]
    target = parse(f"\\boxed{{{gold}}}", extraction_config=configs, parsing_timeout=None)
    found = parse(f"\\boxed{{{line}}}", extraction_config=configs, parsing_timeout=None)
    return bool(target and found and verify(target, found, timeout_seconds=None))


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
            if not judge(request, request["gold"]):
                raise ValueError(f"the right answer {request['gold']!r} is not accepted")
        except Exception as error:
            _say(replies, {"broken": f"{type(error).__name__}: {error}"})
            continue
        _say(replies, "ready")
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        try:
            verdict = {"right": judge(request, request["answer"]), "why": ""}
        except Exception as error:  # the scorer cannot read the answer (MemoryError and RecursionError are among these)
            verdict = {"right": False, "why": f"unreadable: {type(error).__name__}"}
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        _say(replies, verdict)


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
        import math_verify  # noqa: F401  (slow; before the limits are taken)

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
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
