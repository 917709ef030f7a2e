"""Asserts about a program, judged where the program is not: two sandboxes, and calls that go between them.

    the tests' sandbox       assert f([3, 1]) == [1, 3]      f is a stand-in: it asks, and waits for what comes back
    this process             hands over plain data: the arguments one way, the returned value the other
    the program's sandbox    f([3, 1])                       the program; it never sees the tests or what they expect

So a program can neither read an expected value nor end the tests as passed, and what it returns cannot call itself
equal to everything. What crosses is plain data: numbers, texts, bytes, None, lists, tuples, sets, dicts and iterators
of these, exceptions by the name of their class. A function that returns anything else has not passed; changes that it
makes to its arguments do not come back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from envs.sandbox import Limits, PythonSession

LIMITS = Limits(wall_s=10.0, cpu_s=5, memory_mb=512, output_bytes=1_000_000)
JUDGE_S = 10.0  # for the tests between two calls; they are trusted, what they are given is not
TOTAL_S = 15.0  # of one program with all its calls, so that no program outlasts a reward part's 30 s and is masked
LONGEST_S = TOTAL_S + LIMITS.wall_s + JUDGE_S  # the last call may begin just before TOTAL_S is over
MOST_CALLS = 5000
# Both sides: plain data as JSON. A value is [kind, content] unless it is a number, a text, True, False or None.
_PLAIN = """
import json
def pack(value, depth=0):
    kind = type(value)
    if value is None or kind in (int, float, str, bool): return value
    if depth > 50: raise TypeError("too deep")
    if kind is complex: return ["complex", [value.real, value.imag]]
    if kind in (bytes, bytearray): return ["bytes", value.hex()]
    if isinstance(value, dict):
        return ["dict", [[pack(k, depth + 1), pack(v, depth + 1)] for k, v in dict.items(value)]]
    for base in (list, tuple, set, frozenset):
        if isinstance(value, base): return [base.__name__, [pack(v, depth + 1) for v in base.__iter__(value)]]
    if hasattr(kind, "__next__") or kind in (range, type({}.keys()), type({}.values()), type({}.items())):
        found = []
        for v in value:
            found.append(pack(v, depth + 1))
            if len(found) > 100000: raise TypeError("too long")
        return ["iter" if hasattr(kind, "__next__") else "list", found]
    if kind.__module__ == "collections" and kind.__name__ == "deque":
        return ["deque", [pack(v, depth + 1) for v in value]]
    raise TypeError("no plain data: " + kind.__name__)
def unpack(value):
    if type(value) is not list: return value
    kind, content = value
    if kind == "complex": return complex(*content)
    if kind == "bytes": return bytes.fromhex(content)
    if kind == "dict": return {unpack(k): unpack(v) for k, v in content}
    items = [unpack(v) for v in content]
    if kind == "deque":
        import collections
        return collections.deque(items)
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "iter": iter}[kind](items)
"""
_PROGRAM = (
    _PLAIN
    + """
space = {"__name__": "submission"}
def load(before, code):
    for part in before:
        try: exec(compile(part, "<before>", "exec"), space)
        except Exception: pass
    exec(compile(code, "<submission>", "exec"), space)
def call(job):
    name, args, kwargs = json.loads(job)
    try: reply = {"value": pack(space[name](*unpack(args), **unpack(kwargs)))}
    except BaseException as error: reply = {"raised": type(error).__name__, "text": str(error)[:200]}
    return json.dumps(reply)
"""
)
_TESTS = (
    _PLAIN
    + """
import ast, builtins, queue, threading
calls, replies = queue.Queue(), queue.Queue()
def stand_in(name):
    def function(*args, **kwargs):
        calls.put({"call": json.dumps([name, pack(args), pack(kwargs)])})
        reply = replies.get()
        if "raised" in reply:
            kind = getattr(builtins, reply["raised"], None)
            raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError)(reply["text"])
        return unpack(reply["value"])
    return function
def judge(before, tests, names, check):
    space = {"__name__": "tests"}
    trees = [ast.parse(part) for part in [*before, *tests]]
    if not names:
        nodes = [node for tree in trees for node in ast.walk(tree)]
        made = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        made |= {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        made |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        made |= {(a.asname or a.name).split(".")[0] for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))
                 for a in n.names}
        names = {n.id for n in nodes if isinstance(n, ast.Name)} - made - set(dir(builtins))
    stands = {name: stand_in(name) for name in names}
    space.update(stands)
    for part in before: exec(compile(part, "<before>", "exec"), space)
    space.update(stands)
    if not names: raise NameError("they call no function of the program")
    if check: tests = [*tests, "check(%s)" % names[0]]
    passed = []
    for test in tests:
        try: exec(compile(test, "<test>", "exec"), space)
        except Exception as error: passed.append(False)
        else: passed.append(True)
    return passed[-1:] if check else passed
def work(job):
    try: calls.put({"passed": judge(**job)})
    except BaseException as error: calls.put({"broken": type(error).__name__ + ": " + str(error)[:300]})
def begin(job):
    threading.stack_size(64 << 20)
    threading.Thread(target=work, args=(json.loads(job),), daemon=True).start()
    return json.dumps(calls.get())
def go_on(reply):
    replies.put(json.loads(reply))
    return json.dumps(calls.get())
"""
)


def run_asserts(
    code: str, tests: Sequence[str], before: Sequence[str] = (), name: str | None = None, check: bool = False
) -> list[bool]:
    """Which of ``tests``, pieces of Python that assert something, hold for the program ``code``.

    ``before`` runs first on both sides (imports, helpers). ``name``: the function that the tests call; without one
    every name that they use and nobody defines is one of the program's. ``check``: the tests define ``check(function)``
    (HumanEval), and its verdict is the only one.

    Raises:
        TimeoutError: the program ran out of time.
        ValueError: the tests themselves cannot be run.
        SandboxUnavailableError: this machine cannot give a sandbox.
    """
    failed = [False] * (1 if check else len(tests))
    deadline = time.monotonic() + TOTAL_S
    with PythonSession(LIMITS, _PROGRAM) as program, PythonSession(replace(LIMITS, wall_s=JUDGE_S), _TESTS) as judge:
        loaded = program.run(f"load({list(before)!r}, {code!r})")
        if loaded.timed_out:
            raise TimeoutError
        if loaded.error:
            return failed
        job = json.dumps({"before": list(before), "tests": list(tests), "names": [name] * bool(name), "check": check})
        said = _said(judge.run(f"print(begin({job!r}))"))
        calls = 0
        while "call" in said and calls < MOST_CALLS:
            calls += 1
            answered = program.run(f"print('\\n' + call({said['call']!r}))")
            if answered.timed_out or time.monotonic() > deadline:
                raise TimeoutError
            if answered.restarted:  # it ended itself
                return failed
            said = _said(judge.run(f"print(go_on({_reply(answered.output)!r}))"))
    if "broken" in said and not calls:  # afterwards what the program returned may be to blame
        raise ValueError(f"the tests of the row cannot be run: {said['broken']}")
    passed = said.get("passed", failed)
    return [bool(one) for one in passed]


def _reply(output: str) -> str:
    """The last line of the program's sandbox, as the one JSON object that it may be. It may be anything."""
    try:
        reply = json.loads(output.strip().rpartition("\n")[2])
        kind = reply.keys()
    except (ValueError, RecursionError, AttributeError):
        return json.dumps({"raised": "RuntimeError", "text": "no reply"})
    if kind == {"value"} and _is_packed(reply["value"], 0):
        return json.dumps(reply)
    named = kind == {"raised", "text"} and all(isinstance(text, str) for text in reply.values())
    return json.dumps(reply if named else {"raised": "TypeError", "text": "no plain data"})


def _is_packed(value: Any, depth: int) -> bool:
    if value is None or isinstance(value, (int, float, str)):
        return True
    if depth > 110 or not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        return False
    kind, content = value
    if kind == "bytes":
        return isinstance(content, str)
    if kind == "dict":
        pairs = isinstance(content, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in content)
        return pairs and all(_is_packed(half, depth + 1) for pair in content for half in pair)
    kinds = ("list", "tuple", "set", "frozenset", "iter", "deque", "complex")
    return kind in kinds and isinstance(content, list) and all(_is_packed(part, depth + 1) for part in content)


def _said(result: Any) -> dict[str, Any]:
    """One line of the tests' sandbox, which runs nobody's code but the tests'."""
    if result.error or result.timed_out:
        return {"broken": result.error}
    said: dict[str, Any] = json.loads(result.output)
    return said
