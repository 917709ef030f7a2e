"""Environments written by a language model behind any OpenAI-compatible endpoint, every part tried before it is kept.

    python -m envs.agent.general.synthesise base_url=http://localhost:8000/v1 model=my-model category="pet shop" n=20 \\
        out=general.jsonl

For each environment: category -> schema and rows -> tools -> task, solution and verifier -> harder versions, with more
tools where they do not suffice. After each step the result is checked in the sandbox; what fails goes back to the
model with the reason, ``rounds`` times at most. Each task that passes is one line of ``out``, complete in itself, which
``StoredTaskset(path=...)`` plays.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.agent.general import synthesis_prompts as prompts
from envs.agent.general.case import SUBMIT, run_solution
from envs.agent.general.checks import find_problem
from envs.agent.general.solution import SAFE_BUILTINS, SolutionError, check_source
from envs.agent.general.stored import StoredCase
from envs.agent.general.synthesis_prompts import ReplyError
from envs.agent.general.world import WorldSpec
from envs.environment import ToolError
from envs.llm import ChatEndpoint, EndpointError

IDEAS = (
    *("pet shop", "museum loans", "car repair", "plant nursery", "theatre tickets", "city bike rental", "ferry line"),
    *("recycling centre", "research laboratory", "ski school", "second-hand books", "film festival"),
)
MAX_ROWS, MAX_TOOLS = 2000, 20


@dataclass(frozen=True)
class Draft:
    """An environment on its way: data and tools, without a task."""

    category: str
    about: str
    spec: WorldSpec
    tools: tuple[dict[str, Any], ...] = ()


@dataclass
class Synthesis:
    """What came of it: tasks (metadata of StoredTaskset), and what was rejected, by reason."""

    tasks: list[dict[str, Any]] = field(default_factory=list)
    rejects: Counter[str] = field(default_factory=Counter)
    environments: int = 0


class Rejected(Exception):
    """A part that does not hold: one word, and details for the model."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def synthesise(
    endpoint: ChatEndpoint,
    categories: Sequence[str] = (),
    n: int = 1,
    levels: int = 3,
    rounds: int = 3,
    rows: int = 40,
    on_task: Callable[[dict[str, Any]], None] | None = None,
) -> Synthesis:
    """``n`` environments with up to ``levels`` tasks each. Raises EndpointError when the server fails."""
    for name, value in (("n", n), ("levels", levels), ("rounds", rounds), ("rows", rows)):
        if value < 1:
            raise ValueError(f"{name} is {value}, must be at least 1")
    done = Synthesis()
    for number in range(n):
        names = tuple(categories) or tuple(IDEAS)
        _Author(endpoint, rounds, rows, done, on_task).environment(names[number % len(names)], levels)
    return done


class _Author:
    """The dialogue about one environment."""

    def __init__(
        self,
        endpoint: ChatEndpoint,
        rounds: int,
        rows: int,
        done: Synthesis,
        on_task: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.endpoint, self.rounds, self.rows, self.done, self.on_task = endpoint, rounds, rows, done, on_task
        self.messages: list[dict[str, str]] = [{"role": "system", "content": prompts.SYSTEM}]

    def environment(self, category: str, levels: int) -> None:
        draft = self._ask(prompts.WORLD.format(category=category, rows=self.rows), lambda r: self._world(category, r))
        if draft is None:
            return
        drafted = self._ask(prompts.TOOLS, lambda reply: with_tools(draft, reply))
        if drafted is None:
            return
        question, calls, found = prompts.TASK.format(builtins=", ".join(SAFE_BUILTINS)), 0, False
        environment = _name(category, drafted)
        for level in range(1, levels + 1):
            made = self._ask(question, lambda reply, d=drafted, c=calls: task_of(d, reply, c))  # type: ignore[misc]
            if made is None:
                break
            drafted, sources, text, calls = made
            digest = hashlib.sha256(json.dumps([text, sources], sort_keys=True).encode()).hexdigest()[:16]
            task = {"key": f"{environment}/{level}/{digest}", "level": level, "environment": environment}
            task |= {"category": category, "system": _system(drafted.about), "task": text, "sources": sources}
            self.done.tasks.append(task)
            found = True
            if self.on_task is not None:
                self.on_task(task)
            question = prompts.HARDER.format(calls=calls)
        self.done.environments += found

    def _world(self, category: str, reply: str) -> Draft:
        return world_of(category, reply, self.rows)

    def _ask(self, question: str, use: Callable[[str], Any]) -> Any:
        """What ``use`` makes of a reply; with repairs. None when all rounds have failed."""
        self.messages.append({"role": "user", "content": question})
        for _ in range(self.rounds):
            reply = self.endpoint.complete(self.messages)
            self.messages.append({"role": "assistant", "content": reply})
            try:
                return use(reply)
            except (Rejected, ReplyError) as error:
                self.done.rejects[error.reason if isinstance(error, Rejected) else "malformed_reply"] += 1
                detail = str(error)[:1500]
                self.messages.append({"role": "user", "content": prompts.REPAIR.format(problem=detail)})
        self.done.rejects["given_up"] += 1
        return None


def world_of(category: str, reply: str, least_rows: int) -> Draft:
    """Schema and rows from a reply. Raises Rejected or ReplyError."""
    data = prompts.json_block(reply)
    try:
        about, schema, rows = str(data["about"]), data["schema"], data["rows"]
        ordered = {t: [{c: row[c] for c in columns} | row for row in rows[t]] for t, columns in schema.items()}
        spec = WorldSpec(category, schema, ordered, {})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Rejected("bad_world", f"{type(error).__name__}: {error}") from None
    if not all(name.isidentifier() for table, columns in schema.items() for name in (table, *columns)):
        raise Rejected("bad_world", "tables and columns must have plain names")
    kinds: dict[str, tuple[type, ...]] = {"text": (str,), "integer": (int,), "number": (int, float)}
    for table, columns in schema.items():
        for row in spec.rows[table]:
            for column, kind in columns.items():
                if isinstance(row[column], bool) or not isinstance(row[column], kinds[kind]):
                    raise Rejected("bad_world", f"{table}.{column} is {kind}, but a row has {row[column]!r}")
    count = sum(len(table) for table in spec.rows.values())
    if not least_rows <= count <= MAX_ROWS or len(schema) < 2:
        raise Rejected(
            "bad_world", f"{len(schema)} tables with {count} rows; wanted 2 or more, with {least_rows} or more"
        )
    return Draft(category, about, spec)


def with_tools(draft: Draft, reply: str) -> Draft:
    """The draft with the tools of a reply added, each tried on the data."""
    tools = {tool["name"]: tool for tool in (*draft.tools, *prompts.tools_in(reply))}
    if not 1 <= len(tools) <= MAX_TOOLS or SUBMIT in tools:
        raise Rejected("bad_tools", f"{len(tools)} tools; wanted 1 to {MAX_TOOLS}, none of them called {SUBMIT}")
    for tool in tools.values():
        try:
            check_source(tool["source"], (), tool["name"])
        except SolutionError as error:
            raise Rejected("bad_tools", f"{tool['name']}: {error}") from None
    tried = Draft(draft.category, draft.about, draft.spec, tuple(tools.values()))
    _try_tools(tried)
    return tried


def _try_tools(draft: Draft) -> None:
    """Call each tool once, with values from the data. It must answer or refuse, in time."""
    world = StoredCase(_sources(draft, None, "", "")).open()
    try:
        for tool in draft.tools:
            arguments = {name: _value(draft.spec, name, kind) for name, kind in tool["parameters"].items()}
            try:
                world.call(tool["name"], arguments)
            except TimeoutError as error:
                raise Rejected("tool_hangs", f"{error}, called with {arguments}") from None
            except ToolError as error:
                if str(error).startswith(f"{tool['name']} failed: "):  # not a refusal in its own words
                    raise Rejected("bad_tools", f"{error}, called with {arguments}") from None
            except SolutionError as error:
                raise Rejected("bad_tools", str(error)) from None
    finally:
        world.close()


def _value(spec: WorldSpec, name: str, kind: str) -> Any:
    """A value for a parameter: from a column or table of that name, else a plain one."""
    for table, columns in spec.schema.items():
        wanted = name if name in columns else spec.key(table) if name in (table, f"{table}_{spec.key(table)}") else None
        if wanted and spec.rows[table] and {"text": "string"}.get(columns[wanted], columns[wanted]) == kind:
            return spec.rows[table][0][wanted]
    return {"string": "", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}[kind]


def task_of(draft: Draft, reply: str, calls: int) -> tuple[Draft, dict[str, Any], str, int]:
    """(draft with further tools, sources, the task's text, calls of its solution), all checks passed."""
    if prompts.tools_in(reply):
        draft = with_tools(draft, reply)
    data = prompts.json_block(reply)
    text, answer = data.get("task"), data.get("answer")
    if not isinstance(text, str) or not text.strip():
        raise ReplyError('the json block has no "task"')
    kinds = ("array", "object", "string", "integer", "number")
    if answer is not None and (
        not isinstance(answer, dict) or answer.get("type") not in kinds or not answer.get("text")
    ):
        raise ReplyError(f'"answer" must be null, or have a type ({", ".join(kinds)}) and a text')
    sources = _sources(draft, answer, prompts.block_with(reply, "solution"), prompts.block_with(reply, "verify"))
    try:
        check_source(sources["verifier"], (), "verify")
    except SolutionError as error:
        raise Rejected("verifier_not_allowed", str(error)) from None
    case = StoredCase(sources)
    if problem := find_problem(case):
        raise Rejected(*problem)
    world = case.open()
    try:
        now = len(run_solution(case, world))
    finally:
        world.close()
    if now <= calls:
        raise Rejected("not_harder", f"the solution makes {now} tool calls, the version before made {calls}")
    if answer is not None:
        text = f"{text.strip()}\n\nCall {SUBMIT} once. result: {answer['text']}"
    return draft, sources, text, now


def _sources(draft: Draft, answer: Any, solution: str, verifier: str) -> dict[str, Any]:
    spec = draft.spec.to_json()
    return {"spec": spec, "tools": list(draft.tools), "answer": answer, "solution": solution, "verifier": verifier}


def _system(about: str) -> str:
    return f"You work for {about}. Use the tools; what they do not tell you, you do not know."


def _name(category: str, draft: Draft) -> str:
    digest = hashlib.sha256(json.dumps(draft.spec.to_json(), sort_keys=True).encode()).hexdigest()
    return f"llm-{'-'.join(category.split())}-{digest[:8]}"


def main(argv: Sequence[str] | None = None) -> int:
    from envs.check import parse_settings

    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        print(
            "also: api_key= levels=3 rounds=3 rows=40 temperature=0.7 max_tokens=8192 timeout_s=300 (of one completion)"
        )
        return 0 if words else 2
    try:
        settings = parse_settings(words)
        out = Path(str(settings.pop("out", "general.jsonl")))
        category = settings.pop("category", [])
        plan = {name: int(settings.pop(name)) for name in ("n", "levels", "rounds", "rows") if name in settings}
        endpoint = ChatEndpoint(**{name: value for name, value in settings.items()})
        with out.open("a", encoding="utf-8") as file:

            def write(task: dict[str, Any]) -> None:
                file.write(json.dumps(task, ensure_ascii=False) + "\n")
                file.flush()
                print(f"{task['key']}: {task['task'][:100]}")

            done = synthesise(endpoint, [category] if isinstance(category, str) else category, on_task=write, **plan)
    except (EndpointError, ValueError, TypeError, OSError) as error:
        print(f"synthesise: {error}", file=sys.stderr)
        return 2
    rejects = ", ".join(f"{name} {count}" for name, count in sorted(done.rejects.items())) or "none"
    print(f"{len(done.tasks)} tasks in {done.environments} environments -> {out}; rejects: {rejects}")
    return 0 if done.tasks else 1


if __name__ == "__main__":
    sys.exit(main())
