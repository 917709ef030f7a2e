"""``envs-play``: act in an environment yourself, at the terminal.

    envs-play search                    task 0
    envs-play agent index=7 split=heldout

What you type becomes the assistant's message::

    search author of Silver Harbor                        a call: a tool's name and its arguments, in order or by name;
    move apples boxes=3                                   what has several words, among others, in quotes
    search {"query": "author of \\"Silver Harbor\\""}      the same as JSON, over as many lines as it takes to close
    python code<<                                         a call whose argument ``code`` is the lines that follow,
    print(6 * 7)                                          up to the line <<  (other arguments before it:
    <<                                                    edit a.py text<<)
    "Mara Lind"                                           anything else is the final answer; << alone begins a long one
    :oracle    what the oracle would do now, done         :tools    the tools again
    :all       the last message in full                   :quit     leave

A call that cannot be right is made all the same, as a policy would make it; then the tool's signature is shown.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from envs.check import parse_settings
from envs.environment import Environment
from envs.episode import play_episode
from envs.families import known, taskset_class
from envs.tools import Tool, check_arguments
from envs.types import Message, Task, ToolCall

_COLORS = {
    "system": "magenta",
    "developer": "magenta",
    "user": "bold cyan",
    "assistant": "green",
    "tool": "yellow",
}


END = "<<"  # begins and ends text of several lines
SHOWN_LINES = 40  # of a tool's output
_LONG = re.compile(rf"(?P<before>|[^{{].*|\{{.*\}})(?:^|\s)(?P<name>\w+){END}")  # a line that begins it


class Quit(Exception):
    """The player leaves: the input ended or was ``:quit``."""


def parse_line(line: str, tools: Mapping[str, Tool]) -> Message:
    """What was typed (it may be several lines) as an assistant message: a call, or else an answer.

    Arguments that cannot be read make a message with ``parse_error``, as a policy's would.
    """
    text = line.strip()
    name, rest = _call(text, tools)
    if name is None:
        return Message("assistant", text)
    properties = tools[name].schema["parameters"]["properties"] if name in tools else {}
    first, _, lines = rest.partition("\n")
    long = _LONG.fullmatch(first)
    try:
        arguments = _arguments(long["before"] if long else rest, properties)
    except ValueError as error:
        return Message("assistant", text, parse_error=str(error))
    if long:
        arguments[long["name"]] = lines
    return Message("assistant", tool_calls=(ToolCall(name, arguments),))


def signature(tool: Tool) -> str:
    """How a tool is called: ``move(item: "apples" | "forks", boxes?: integer)``; ``?`` marks what may be left out."""
    parameters = tool.schema["parameters"]
    required = parameters.get("required", ())
    shown = (f"{key}{'' if key in required else '?'}: {_kind(kind)}" for key, kind in parameters["properties"].items())
    return f"{tool.name}({', '.join(shown)})"


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_kind(option) for option in schema["anyOf"])
    if schema.get("type") == "array" and "items" in schema:
        return f"[{_kind(schema['items'])}, …]"
    return str(schema.get("type", "any"))


def _arguments(text: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as they were typed: JSON, or words in the order of ``properties`` or named.

    Raises ValueError that says what cannot be read.
    """
    if text.startswith("{"):
        try:
            arguments = json.loads(text, strict=False)  # a line break inside a string is a line break
        except json.JSONDecodeError as error:
            raise ValueError(f"the arguments are not JSON: {error}.") from error
        if not isinstance(arguments, dict):
            raise ValueError("the arguments must be a JSON object.")
        return arguments
    if text and [_kind(kind) for kind in properties.values()] == ["string"]:
        (only,) = properties
        if not text.startswith(f"{only}="):
            return {only: _unquoted(text)}  # all of the line, apostrophes and all
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"the arguments cannot be read: {error}.") from error
    parts = [word.partition("=") for word in words]
    named = {key: value for key, equals, value in parts if equals and key in properties}
    unnamed = ["".join(part) for part in parts if not (part[1] and part[0] in properties)]
    free = [key for key in properties if key not in named]
    if len(unnamed) > len(free):
        raise ValueError(f"{unnamed[len(free)]!r} is one argument too many; put what belongs together in quotes.")
    found = dict(zip(free, unnamed, strict=False)) | named
    return {key: _value(found[key], properties[key]) for key in properties if key in found}


def _unquoted(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:
        return text
    return words[0] if len(words) == 1 else text


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    """``text`` as the JSON value that ``schema`` wants; where it cannot be that, as it is: the tool says why."""
    options = schema.get("anyOf", [schema])
    kinds = {option.get("type") for option in options}
    if kinds <= {"string", "null"}:
        return None if "null" in kinds and text == "null" else text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    if "boolean" in kinds and text.lower() in ("true", "yes", "false", "no"):
        return text.lower() in ("true", "yes")
    for option in options:
        if option.get("type") == "array":
            return [_value(part.strip(), option.get("items", {"type": "string"})) for part in text.split(",")]
    return text


def read_entry(read: Callable[[str], str], tools: Collection[str]) -> str:
    """One line, or as many as belong together. Raises EOFError at the end of input."""
    text = read("> ").strip()
    if text == END:
        return "\n".join(_until_end(read))
    name, rest = _call(text, tools)
    if name is not None and _LONG.fullmatch(rest):
        return "\n".join([text, *_until_end(read)])
    while name is not None and rest.startswith("{") and _unfinished(rest):
        line = read("… ")
        if not line.strip():
            break  # an empty line ends what would never close
        text, rest = f"{text}\n{line}", f"{rest}\n{line}"
    return text


def _call(text: str, tools: Collection[str]) -> tuple[str | None, str]:
    """(the tool's name, the rest) of what looks like a call, else (None, text)."""
    name, _, rest = text.partition(" ")
    rest = rest.lstrip()
    return (name, rest) if name in tools or rest.startswith("{") else (None, text)


def _until_end(read: Callable[[str], str]) -> list[str]:
    lines: list[str] = []
    while (line := read("… ")) != END:
        lines.append(line)
    return lines


def _unfinished(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        # the text ended where the reader wanted more; more lines do not fix any other mistake
        return error.pos >= len(text) or error.msg.startswith("Unterminated string")
    return False


def play(task: Task, environment: Environment, read: Callable[[str], str], console: Console) -> dict[str, float]:
    """One episode with a person. ``read(prompt)`` gives a line and raises EOFError at the end of input."""

    mistake: list[str] = []  # the signature of the tool that was just called wrongly

    def act(history: Sequence[Message]) -> Message:
        while True:
            try:
                line = read_entry(read, environment.tools)
            except EOFError:
                raise Quit from None
            if line == ":quit":
                raise Quit
            if line == ":tools":
                _show_tools(environment, console)
            elif line == ":all":
                show(history[-1], console, lines=None)
            elif line == ":oracle":
                try:
                    return environment.oracle(history)
                except NotImplementedError as error:
                    console.print(f"[red]{escape(str(error))}[/]")
            elif line:
                message = parse_line(line, environment.tools)
                mistake[:] = _corrected(message, line, environment.tools)
                return message

    def observe(message: Message) -> None:
        show(message, console)
        if message.role != "assistant":
            for line in mistake:
                console.print(f"[dim]           {escape(line)}[/]")
            mistake.clear()

    _show_tools(environment, console)
    episode, scores = play_episode(task, environment, act, max_turns=1000, observe=observe)
    counts = ", ".join(f"{name} {n}" for name, n in episode.counts.items())
    shown = ", ".join(f"{name} {value:g}" for name, value in scores.items())
    console.print(f"[bold]{shown}[/]  after {episode.turns} turns" + (f"  ({counts})" if counts else ""))
    return scores


def _corrected(message: Message, line: str, tools: Mapping[str, Tool]) -> list[str]:
    """The signature of the tool that ``message`` calls wrongly, if it does; of every tool when there is none such."""
    name = message.tool_calls[0].name if message.tool_calls else _call(line.strip(), tools)[0]
    if name is None:
        return []
    if name not in tools:
        return [signature(tool) for tool in tools.values()]
    wrong = message.parse_error or check_arguments(tools[name].schema, message.tool_calls[0].arguments)
    return [signature(tools[name])] if wrong else []


def show(message: Message, console: Console, lines: int | None = SHOWN_LINES) -> None:
    """Print a message: thinking dimmed, then the text, then calls. ``lines``: of a tool's output; None for all."""
    content = message.content.splitlines()
    if message.role == "tool" and lines is not None and len(content) > lines:
        content = [*content[:lines], f"[{len(content) - lines} more lines, :all shows them]"]
    parts = [f"[dim]{escape(line)}[/]" for line in (message.reasoning or "").splitlines()]
    parts += [escape(line) for line in content]
    for call in message.tool_calls:
        parts.append(escape(f"{call.name} {json.dumps(dict(call.arguments), ensure_ascii=False)}"))
    if message.parse_error is not None:
        parts.append(f"[red]{escape(message.parse_error)}[/]")
    color = _COLORS[message.role]
    console.print(f"[{color}]{message.role:>9}[/]  " + "\n           ".join(parts))


def _show_tools(environment: Environment, console: Console) -> None:
    for tool in environment.tools.values():
        console.print(f"[dim]     tool  {escape(signature(tool))}  {escape(tool.schema['description'])}[/]")
        for key, kind in tool.schema["parameters"]["properties"].items():
            if "description" in kind:
                console.print(f"[dim]           {escape(key)}: {escape(kind['description'])}[/]")


def main(argv: Sequence[str] | None = None, read: Callable[[str], str] = input) -> int:
    parser = argparse.ArgumentParser(
        prog="envs-play", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("taskset", help=f"one of {', '.join(known())}, or package.module.ClassName")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="index=0 (which task); the rest goes to the taskset (split, seed, ...)",
    )
    arguments = parser.parse_args(argv)
    sys.path.insert(0, "")  # a module in the current folder, also through the console script
    console = Console(highlight=False, soft_wrap=True)
    try:
        settings = parse_settings(arguments.settings)
        index = int(settings.pop("index", 0))
        taskset = taskset_class(arguments.taskset.removeprefix("env="))(**settings)
        task = taskset.task(index)
        environment = taskset.environment(task)
    except (ValueError, TypeError, ImportError) as error:
        print(f"envs-play: {error}", file=sys.stderr)
        return 2
    console.print(f"[bold]{escape(task.id)}[/]   a call is: tool_name argument … (or JSON)   :oracle :tools :all :quit")
    try:
        play(task, environment, read, console)
    except (Quit, KeyboardInterrupt):
        console.print("left.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
