"""What a language model is asked when it synthesises an environment, and how its replies are read.

A reply is read by its fenced blocks: one ```json block, and ```python blocks that are told apart by the functions
they define. Whatever does not parse raises ReplyError, whose text goes back to the model.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from envs.syntax import parse

SYSTEM = (
    "You build environments for testing assistants that act through tools: a small invented database, typed Python "
    "tools "
    "over it, and tasks that are hard to solve and easy to verify. Reply with the fenced blocks that are asked for. "
    "No real "
    "people or companies. No imports, no clock, no random numbers anywhere."
)

WORLD = """Category: {category}.

Write the data of an environment as one ```json block:
{{"about": "what the assistant works for, a few words",
  "schema": {{"table": {{"column": "text | integer | number"}}}},
  "rows": {{"table": [{{"column": value}}]}}}}
2 to 5 tables with {rows} rows or more in all. The first column of a table is its key; columns may hold other tables'
keys. Vary the values, so that tasks with several constraints have few solutions."""

TOOLS = """Write the tools as one ```python block: 4 to 12 functions, each like

def list_pets(db, kind: str) -> list:
    \"\"\"Names of the pets of a kind.\"\"\"
    return [row["name"] for row in db.all("SELECT name FROM pet WHERE kind = ?", kind)]

The first parameter is db: db.all(sql, *values) gives rows as dicts, db.one(sql, *values) one or None, and
db.run(sql, *values) changes rows. Parameters are str, int, float, bool, list or dict, without defaults. Return JSON
values. Refuse with raise ValueError("why"). A tool answers one narrow question or makes one change; none of
them solves a task."""

TASK = """Propose a task. Reply with

1. a ```json block: {{"task": "what the assistant is asked to do, with all constraints",
   "answer": {{"type": "array | object | string | integer", "text": "what exactly is to be submitted"}}}}
   ("answer": null when the task is to change the database.)
2. a ```python block with def solution(tools): a program that solves it. It may call tools, as in
   tools.list_pets(kind="cat"), and think; it has no database. It ends with tools.submit_result(result=...) if there
   is an answer. What a tool refuses ends it.
3. a ```python block with def verify(start, end, answer): start and end are {{table: [rows]}} before and after, answer
   is what was submitted or None. It returns True, or a string that says what is wrong. It must check the constraints
   one by one and accept every right answer, not only one; it must also check that nothing else was changed.
Functions may use plain Python and these builtins only: {builtins}."""

HARDER = """Make a harder version of that task in the same environment: more constraints that interact, or more
steps. It must need more tool calls than before ({calls}). Reply in the same form, complete. If the tools do not
suffice, put a further ```python block with new tools (functions whose first parameter is db) first."""

REPAIR = "That does not work: {problem}\nSend the complete, corrected reply."

_KINDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object"}
_BLOCK = re.compile(r"```(\w*)[ \t]*\n(.*?)```", re.DOTALL)


class ReplyError(Exception):
    """A reply that cannot be used; the text says why, in words for the model."""


def blocks(reply: str, language: str) -> list[str]:
    """The contents of the fenced blocks of a language."""
    return [text for name, text in _BLOCK.findall(reply) if name.lower() == language]


def json_block(reply: str) -> dict[str, Any]:
    found = blocks(reply, "json")
    if len(found) != 1:
        raise ReplyError(f"there must be one ```json block, there are {len(found)}")
    try:
        value = json.loads(found[0])
    except ValueError as error:
        raise ReplyError(f"the json block is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ReplyError("the json block must be an object")
    return value


def python_blocks(reply: str) -> list[tuple[str, list[ast.FunctionDef]]]:
    """Each ```python block with the functions at its top."""
    found = []
    for text in blocks(reply, "python"):
        try:
            body = parse(text).body
        except (SyntaxError, ValueError, RecursionError) as error:
            raise ReplyError(f"a python block is not Python: {error}") from None
        found.append((text, [node for node in body if isinstance(node, ast.FunctionDef)]))
    return found


def block_with(reply: str, function: str) -> str:
    """The one block that defines ``function``."""
    found = [text for text, functions in python_blocks(reply) if function in [f.name for f in functions]]
    if len(found) != 1:
        raise ReplyError(f"there must be one ```python block with def {function}, there are {len(found)}")
    return found[0]


def tools_in(reply: str) -> list[dict[str, Any]]:
    """The tools of a reply: functions whose first parameter is db, as ``StoredCase`` wants them."""
    found = []
    for _text, functions in python_blocks(reply):
        for function in functions:
            names = [argument.arg for argument in function.args.args]
            if names[:1] == ["db"]:
                found.append(_tool(function))
    return found


def _tool(function: ast.FunctionDef) -> dict[str, Any]:
    description = (ast.get_docstring(function) or "").split("\n\n")[0].replace("\n", " ").strip()
    if not description:
        raise ReplyError(f"the tool {function.name} has no docstring")
    arguments = function.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults or arguments.posonlyargs:
        raise ReplyError(f"the tool {function.name} must have plain parameters without defaults")
    parameters = {}
    for argument in arguments.args[1:]:
        hint = argument.annotation
        base = hint.value if isinstance(hint, ast.Subscript) else hint  # list[str] is a list
        kind = _KINDS.get(base.id) if isinstance(base, ast.Name) else None
        if kind is None:
            raise ReplyError(
                f"parameter {argument.arg} of {function.name} must be annotated with one of {', '.join(_KINDS)}"
            )
        parameters[argument.arg] = kind
    changes = any(isinstance(node, ast.Attribute) and node.attr == "run" for node in ast.walk(function))
    # the annotations have been read; names like list[str] need not be evaluated in the sandbox
    function.returns = None
    for argument in arguments.args:
        argument.annotation = None
    tool = {"name": function.name, "description": description, "parameters": parameters, "changes": changes}
    return {**tool, "source": ast.unparse(function)}
