"""Through a bridge a cheat pays what an honest failure pays, and it never makes the episode fail as infrastructure."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import bridge_cheats as table
import pytest
from bridge_cheats import GENERIC, calls, says

from envs.cheats import ARGUMENTS, HARMLESS, answering, answers_for, calling
from envs.environment import Environment
from envs.episode import Actor, play_episode
from envs.families import taskset_class
from envs.scripted import USELESS
from envs.taskset import Taskset
from envs.types import Episode, Message

BRIDGES = Path(__file__).parents[1] / "envs"
OPENENV = os.environ.get("SPECIALE_OPENENV_PYTHON", "")
VERIFIERS = os.environ.get("SPECIALE_VERIFIERS_PYTHON", "")
ROWS = [
    {"prompt": f"How many {fruit}s?", "answer": answer, "split": split}
    for fruit, answer, split in (("pear", "3", "train"), ("apple", "11", "heldout"))
]
FROZEN: dict[str, Any] = {"env_id": "FrozenLake-v1", "env_kwargs": {"is_slippery": False}, "success": 1.0}
TURNS = 30


def stock_of_pears(episode: Episode, environment: Any) -> float:
    """A judge that looks at the server's state."""
    return float(environment.call("count", {"item": "pear"}) == "5")


# The task sets, by the bridge's kind; each with what is tried there besides the generic cheats.
MCP = {"command": sys.executable, "args": [str(BRIDGES / "bridges_mcp_server.py")], "data": ROWS}
JUDGED = {**MCP, "score": f"{__name__}:stock_of_pears"}
CLIFF = {"env_id": "CliffWalking-v1", "actions": ["up", "right", "down", "left"], "bounds": [-100, -13]}
ARENAS: dict[str, tuple[str, str, dict[str, Any], Sequence[table.Cheat]]] = {
    "gym": ("gymnasium", "gym.FrozenLakeTaskset", {}, table.GYM),
    "gym, a return": ("gymnasium", "gym.GymTaskset", {**CLIFF, "split_by": "seed"}, table.GYM),
    "gym, in words": ("gymnasium", "gym.GymTaskset", {**FROZEN, "plain": True, "split_by": "seed",
                                                      "actions": ["left", "down", "right", "up"]}, table.GYM_PLAIN),
    "mcp": ("mcp", "mcp.McpTaskset", MCP, table.MCP),
    "mcp, a judge": ("mcp", "mcp.McpTaskset", JUDGED, table.MCP),
    "textarena": ("textarena", "textarena.TextArenaTaskset", {"game": "GuessTheNumber-v0"}, table.TEXTARENA),
    "textarena, two": ("textarena", "textarena.TextArenaTaskset", {"game": "TicTacToe-v0", "players": 2},
                       table.TEXTARENA),
}  # fmt: skip
CASES = [(arena, *cheat) for arena, row in ARENAS.items() for cheat in (*GENERIC, *row[3])]


@lru_cache
def taskset(arena: str) -> Taskset:
    package, path, settings, _ = ARENAS[arena]
    pytest.importorskip(package)
    return taskset_class(f"envs.bridges.{path}")(split="train", **settings)


def outcome(tasks: Taskset, actor: Actor | Sequence[Message] | Callable[[Environment], Actor], index: int = 0) -> float:
    """What an episode is paid. A sequence of messages ends with the one that is said from then on."""
    task = tasks.task(index)
    environment = tasks.environment(task)
    if isinstance(actor, Sequence):
        messages = itertools.chain(actor, itertools.repeat(actor[-1]))
        actor = lambda history: next(messages)  # noqa: E731
    return play_episode(task, environment, actor, max_turns=TURNS)[1]["outcome"]  # type: ignore[arg-type]


def called(tasks: Taskset, text: str) -> float:
    """All tools once, with ``text`` in each argument that is a text; they are known only after ``reset``."""
    task = tasks.task(0)
    environment = tasks.environment(task)
    late: list[Actor] = []

    def act(history: Sequence[Message]) -> Message:
        if not late:
            late.append(calling(environment, text))
        return late[0](history)

    return play_episode(task, environment, act, max_turns=TURNS)[1]["outcome"]


@lru_cache
def honest(arena: str) -> float:
    return outcome(taskset(arena), [USELESS])


@pytest.mark.parametrize(("arena", "name", "kind", "said"), CASES, ids=[f"{arena}-{name}" for arena, name, *_ in CASES])
def test_a_cheat_pays_what_giving_up_pays(arena: str, name: str, kind: str, said: tuple[Message, ...]) -> None:
    assert outcome(taskset(arena), said) == honest(arena)


QUICK = ("gym", "gym, a return", "gym, in words", "textarena", "textarena, two")


@pytest.mark.parametrize("arena", QUICK)
def test_texts_and_arguments_pay_nothing_either(arena: str) -> None:
    tasks = taskset(arena)
    cheats = answers_for(tasks.task(0))
    assert len(cheats) >= 35
    assert {name: paid for name, text in cheats if (paid := outcome(tasks, answering(text))) != honest(arena)} == {}
    plain = called(tasks, HARMLESS)
    assert {name: paid for name, text in ARGUMENTS if (paid := called(tasks, text)) != plain} == {}


@pytest.mark.slow  # a server for every episode; what a text is worth is no matter of the server
def test_mcp_arguments_pay_nothing_either() -> None:
    tasks = taskset("mcp")
    for name, text in ARGUMENTS:  # not to its tool "die": a server that a policy can end is its author's fault
        said = [calls("count", item=text), calls("put", item=text, title=text), USELESS]
        assert outcome(tasks, said) == 0.0, name


def test_there_are_enough_and_names_are_unique() -> None:
    own = (table.GYM, table.GYM_PLAIN, table.MCP, table.TEXTARENA, table.OPENENV, table.VERIFIERS)
    assert min(map(len, own)) >= 3
    names = [name for cheats in (GENERIC, *own) for name, *_ in cheats]
    assert len(set(names)) == len(names) >= 40


# -- what one bridge alone has --------------------------------------------------------------


def test_gym_after_the_end_nothing_is_paid() -> None:
    """Into a hole, and on to the goal in the same message: what comes after the end is an error."""
    tasks = taskset("gym")
    rows = tasks.task(0).metadata["env_kwargs"]["desc"]
    moves = {(0, 1): "right", (1, 0): "down", (0, -1): "left", (-1, 0): "up"}

    def way(wanted: str) -> list[str]:
        waiting, seen = [((0, 0), [])], {(0, 0)}  # type: ignore[var-annotated]
        while waiting:
            (row, column), path = waiting.pop(0)
            if rows[row][column] == wanted:
                return path
            for (down, right), name in moves.items():
                at = (row + down, column + right)
                inside = 0 <= at[0] < len(rows) and 0 <= at[1] < len(rows[0])
                if inside and at not in seen and rows[at[0]][at[1]] in ("F", "S", wanted):
                    seen.add(at)
                    waiting.append((at, [*path, name]))
        raise AssertionError(rows)

    def message(names: list[str]) -> Message:
        return Message("assistant", tool_calls=tuple(call for n in names for call in calls("act", action=n).tool_calls))

    assert outcome(tasks, [message(way("G"))]) == 1.0  # the same way to the score
    assert outcome(tasks, [message([*way("H"), *way("G")])]) == 0.0
    assert outcome(tasks, [message(way("G")[:-1]), USELESS]) == 0.0


def test_gym_who_leaves_before_it_costs_anything_has_no_return() -> None:
    """A walk of 0 steps has return 0, above the best of -13; it is no walk."""
    assert outcome(taskset("gym, a return"), [USELESS]) == 0.0
    assert outcome(taskset("gym, a return"), [calls("act", action="up"), USELESS]) == 0.0


def test_textarena_all_answers_at_once_are_the_first() -> None:
    tasks = taskset("textarena")
    everything = " ".join(f"[{n}]" for n in range(1, 21))
    for index in range(6):
        assert outcome(tasks, [says(everything), USELESS], index) == outcome(tasks, [says("[1]"), USELESS], index)


def test_mcp_what_one_episode_does_is_not_there_in_the_next() -> None:
    tasks = taskset("mcp, a judge")
    assert outcome(tasks, [calls("put", item="pear", number=2), USELESS]) == 1.0  # that is the task
    assert outcome(tasks, [USELESS]) == 0.0


# -- bridges to another Python --------------------------------------------------------------


@pytest.fixture(scope="module")
def guessing() -> Iterator[Taskset]:
    if not OPENENV:
        pytest.skip("set SPECIALE_OPENENV_PYTHON: see tests/envs/test_bridges_openenv.py")
    command = [OPENENV, str(BRIDGES / "bridges_openenv_server.py")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        yield taskset_class("envs.bridges.openenv.OpenEnvTaskset")(base_url=url, connect_s=60.0)
    finally:
        server.terminate()
        server.wait(20)
        server.stdout.close()


@pytest.mark.bridges
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "said"), [*GENERIC, *table.OPENENV], ids=[row[0] for row in (*GENERIC, *table.OPENENV)]
)
def test_openenv_pays_no_cheat(name: str, kind: str, said: tuple[Message, ...], guessing: Taskset) -> None:
    assert outcome(guessing, said) == outcome(guessing, [USELESS]) == 0.0


@pytest.mark.bridges
@pytest.mark.slow
def test_openenv_after_the_end_nothing_is_paid(guessing: Taskset) -> None:
    target = guessing.task(0).seed % 10
    right, wrong = calls("act", number=target), calls("act", number=(target + 1) % 10)
    once = outcome(guessing, [wrong, right])
    both = Message("assistant", tool_calls=(*wrong.tool_calls, *right.tool_calls * 3))
    assert outcome(guessing, [both]) == pytest.approx(once) == pytest.approx(0.9)


@pytest.fixture(scope="module")
def sums() -> Taskset:
    if not VERIFIERS:
        pytest.skip("set SPECIALE_VERIFIERS_PYTHON: see tests/envs/test_bridges_verifiers.py")
    settings = {"python": VERIFIERS, "path": [str(BRIDGES)]}
    return taskset_class("envs.bridges.verifiers.VerifiersTaskset")(taskset="bridges_verifiers_sums", **settings)


@pytest.mark.bridges
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "said"), [*GENERIC, *table.VERIFIERS], ids=[row[0] for row in (*GENERIC, *table.VERIFIERS)]
)
def test_verifiers_pays_no_cheat(name: str, kind: str, said: tuple[Message, ...], sums: Taskset) -> None:
    """Half is for a short answer: what is short and says nothing is paid that half, all else nothing."""
    index = next(i for i in range(len(sums)) if "is 4" not in sums.task(i).prompt[0].content)
    short = outcome(sums, [says("no")], index)
    assert short == 0.5
    assert outcome(sums, said, index) <= short
