"""``envs-play``: act in an environment yourself, at the terminal.

    envs-play search                    task 0
    envs-play agent index=7 split=heldout

What you type becomes the assistant's message::

    search {"query": "author of \\"Silver Harbor\\""}      a call: a tool's name and its arguments as JSON
    "Mara Lind"                                           anything else is the final answer
    :oracle    what the oracle would do now, done         :tools    the tools again
    :quit      leave
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from envs.check import parse_settings
from envs.environment import Environment
from envs.episode import play_episode
from envs.families import FAMILIES, taskset_class
from envs.types import Message, Task, ToolCall

_COLORS = {
    "system": "magenta",
    "developer": "magenta",
    "user": "bold cyan",
    "assistant": "green",
    "tool": "yellow",
}


class Quit(Exception):
    """The player leaves: the input ended or was ``:quit``."""


def parse_line(line: str, tools: Sequence[str]) -> Message:
    """A typed line as an assistant message: a call when it starts with a tool's name, else an answer.

    Arguments that are not a JSON object make a message with ``parse_error``, as a policy's would.
    """
    text = line.strip()
    name, _, rest = text.partition(" ")
    looks_like_call = name in tools or rest.lstrip().startswith("{")
    if not looks_like_call:
        return Message("assistant", text)
    try:
        arguments = json.loads(rest or "{}")
    except json.JSONDecodeError as error:
        return Message("assistant", text, parse_error=f"the arguments are not JSON: {error}.")
    if not isinstance(arguments, dict):
        return Message("assistant", text, parse_error="the arguments must be a JSON object.")
    return Message("assistant", tool_calls=(ToolCall(name, arguments),))


def play(task: Task, environment: Environment, read: Callable[[str], str], console: Console) -> dict[str, float]:
    """One episode with a person. ``read(prompt)`` gives a line and raises EOFError at the end of input."""

    def act(history: Sequence[Message]) -> Message:
        while True:
            try:
                line = read("> ").strip()
            except EOFError:
                raise Quit from None
            if line == ":quit":
                raise Quit
            if line == ":tools":
                _show_tools(environment, console)
            elif line == ":oracle":
                try:
                    return environment.oracle(history)
                except NotImplementedError as error:
                    console.print(f"[red]{escape(str(error))}[/]")
            elif line:
                return parse_line(line, list(environment.tools))

    _show_tools(environment, console)
    episode, scores = play_episode(
        task, environment, act, max_turns=1000, observe=lambda message: _show(message, console)
    )
    counts = ", ".join(f"{name} {n}" for name, n in episode.counts.items())
    shown = ", ".join(f"{name} {value:g}" for name, value in scores.items())
    console.print(f"[bold]{shown}[/]  after {episode.turns} turns" + (f"  ({counts})" if counts else ""))
    return scores


def _show(message: Message, console: Console) -> None:
    lines = [f"[dim]{escape(message.reasoning)}[/]"] if message.reasoning else []
    lines += [escape(message.content)] if message.content else []
    for call in message.tool_calls:
        lines.append(escape(f"{call.name} {json.dumps(dict(call.arguments), ensure_ascii=False)}"))
    color = _COLORS[message.role]
    console.print(f"[{color}]{message.role:>9}[/]  " + "\n           ".join(lines))


def _show_tools(environment: Environment, console: Console) -> None:
    for known in environment.tools.values():
        properties = known.schema["parameters"]["properties"]
        arguments = ", ".join(f"{key}: {value.get('type', 'any')}" for key, value in properties.items())
        console.print(f"[dim]     tool  {escape(known.name)}({escape(arguments)})  {known.schema['description']}[/]")


def main(argv: Sequence[str] | None = None, read: Callable[[str], str] = input) -> int:
    parser = argparse.ArgumentParser(
        prog="envs-play", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("taskset", help=f"one of {', '.join(FAMILIES)}, or package.module.ClassName")
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
        f"[bold]{escape(task.id)}[/]   a call is: tool_name " + r'{"argument": value}' + "   :oracle :tools :quit"
    )
    try:
        play(task, taskset.environment(task), read, console)
    except (Quit, KeyboardInterrupt):
        console.print("left.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
