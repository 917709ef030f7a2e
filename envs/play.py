"""``envs-play``: act in an environment yourself, at the terminal.

    envs-play search                    task 0
    envs-play agent index=7 split=heldout

What you type becomes the assistant's message::

    search {"query": "author of \\"Silver Harbor\\""}      a call: a tool's name and its arguments as JSON,
                                                          over as many lines as it takes to close the brace
    python code<<                                         a call whose argument ``code`` is the lines that follow,
    print(6 * 7)                                          up to the line <<  (other arguments as JSON before it:
    <<                                                    edit {"path": "a.py"} text<<)
    "Mara Lind"                                           anything else is the final answer; << alone begins a long one
    :oracle    what the oracle would do now, done         :tools    the tools again
    :all       the last message in full                   :quit     leave
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from envs.check import parse_settings
from envs.environment import Environment
from envs.episode import play_episode
from envs.families import known, taskset_class
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
_LONG = re.compile(rf"(?P<json>\{{.*\}})?\s*(?P<name>\w+){END}\n?(?P<text>.*)", re.DOTALL)


class Quit(Exception):
    """The player leaves: the input ended or was ``:quit``."""


def parse_line(line: str, tools: Sequence[str]) -> Message:
    """What was typed (it may be several lines) as an assistant message: a call, or else an answer.

    Arguments that are not a JSON object make a message with ``parse_error``, as a policy's would.
    """
    text = line.strip()
    name, rest = _call(text, tools)
    if name is None:
        return Message("assistant", text)
    long = _LONG.match(rest)
    try:
        # strict=False: a line break inside a string is a line break
        arguments = json.loads((long["json"] if long else rest) or "{}", strict=False)
    except json.JSONDecodeError as error:
        return Message("assistant", text, parse_error=f"the arguments are not JSON: {error}.")
    if not isinstance(arguments, dict):
        return Message("assistant", text, parse_error="the arguments must be a JSON object.")
    if long:
        arguments[long["name"]] = long["text"]
    return Message("assistant", tool_calls=(ToolCall(name, arguments),))


def read_entry(read: Callable[[str], str], tools: Sequence[str]) -> str:
    """One line, or as many as belong together. Raises EOFError at the end of input."""
    text = read("> ").strip()
    if text == END:
        return "\n".join(_until_end(read))
    name, rest = _call(text, tools)
    if name is not None and re.search(rf"\w+{END}$", rest):
        return "\n".join([text, *_until_end(read)])
    while name is not None and rest.startswith("{") and _unfinished(rest):
        line = read("… ")
        if not line.strip():
            break  # an empty line ends what would never close
        text, rest = f"{text}\n{line}", f"{rest}\n{line}"
    return text


def _call(text: str, tools: Sequence[str]) -> tuple[str | None, str]:
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

    names = list(environment.tools)

    def act(history: Sequence[Message]) -> Message:
        while True:
            try:
                line = read_entry(read, names)
            except EOFError:
                raise Quit from None
            if line == ":quit":
                raise Quit
            if line == ":tools":
                _show_tools(environment, console)
            elif line == ":all":
                _show(history[-1], console, lines=None)
            elif line == ":oracle":
                try:
                    return environment.oracle(history)
                except NotImplementedError as error:
                    console.print(f"[red]{escape(str(error))}[/]")
            elif line:
                return parse_line(line, names)

    _show_tools(environment, console)
    episode, scores = play_episode(
        task, environment, act, max_turns=1000, observe=lambda message: _show(message, console)
    )
    counts = ", ".join(f"{name} {n}" for name, n in episode.counts.items())
    shown = ", ".join(f"{name} {value:g}" for name, value in scores.items())
    console.print(f"[bold]{shown}[/]  after {episode.turns} turns" + (f"  ({counts})" if counts else ""))
    return scores


def _show(message: Message, console: Console, lines: int | None = SHOWN_LINES) -> None:
    """``lines``: of a tool's output that are shown; None for all."""
    content = message.content.splitlines()
    if message.role == "tool" and lines is not None and len(content) > lines:
        content = [*content[:lines], f"[{len(content) - lines} more lines, :all shows them]"]
    parts = [f"[dim]{escape(line)}[/]" for line in (message.reasoning or "").splitlines()]
    parts += [escape(line) for line in content]
    for call in message.tool_calls:
        parts.append(escape(f"{call.name} {json.dumps(dict(call.arguments), ensure_ascii=False)}"))
    color = _COLORS[message.role]
    console.print(f"[{color}]{message.role:>9}[/]  " + "\n           ".join(parts))


def _show_tools(environment: Environment, console: Console) -> None:
    for tool in environment.tools.values():
        properties = tool.schema["parameters"]["properties"]
        arguments = ", ".join(f"{key}: {value.get('type', 'any')}" for key, value in properties.items())
        console.print(
            f"[dim]     tool  {escape(tool.name)}({escape(arguments)})  {escape(tool.schema['description'])}[/]"
        )


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
    except (ValueError, TypeError, ImportError) as error:
        print(f"envs-play: {error}", file=sys.stderr)
        return 2
    console.print(
        f"[bold]{escape(task.id)}[/]   a call is: tool_name " + r'{"argument": value}' + "   :oracle :tools :all :quit"
    )
    try:
        play(task, taskset.environment(task), read, console)
    except (Quit, KeyboardInterrupt):
        console.print("left.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
