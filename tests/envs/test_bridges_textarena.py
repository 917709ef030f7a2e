"""TextArena bridge: real games, alone and against an opponent; several at once do not disturb one another."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from envs.bridges.textarena import TextArenaTaskset, random_listed_move
from envs.check import check_taskset
from envs.episode import play_episode
from envs.mixture import MixTaskset
from envs.types import Episode, InfrastructureError, Message, Task

pytestmark = pytest.mark.bridges
pytest.importorskip("textarena", reason="pip install 'textarena==0.7.4'")

PATH = "envs.bridges.textarena.TextArenaTaskset"


def halve(history: Sequence[Message]) -> str:
    """GuessTheNumber by halves: five guesses suffice for twenty numbers."""
    low, high = 1, 20
    guess = 0
    for message in history:
        if message.role == "assistant":
            guess = int(message.content.strip("[]"))
        elif "higher" in message.content and guess:
            low = guess + 1
        elif "lower" in message.content and guess:
            high = guess - 1
    return f"[{(low + high) // 2}]"


def first_free(observation: str, rng: random.Random) -> str:
    return re.findall(r"\[\d\]", observation)[-1]


def play(taskset: TextArenaTaskset, moves: Sequence[str], index: int = 0) -> tuple[Episode, dict[str, float]]:
    """The given moves, then the last one again and again."""
    task, rest = taskset.task(index), list(moves)
    return play_episode(
        task,
        taskset.environment(task),
        lambda _: Message("assistant", rest.pop(0) if len(rest) > 1 else rest[0]),
        max_turns=40,
    )


def test_envs_check_finds_nothing() -> None:
    settings = {"game": "GuessTheNumber-v0", "solver": f"{__name__}:halve"}
    findings = check_taskset(lambda split: TextArenaTaskset(split, **settings), tasks=20)
    assert not [finding for finding in findings if finding.status == "FAILED"]
    assert {f.check for f in findings if f.status == "skipped"} == {"novice", "other process"}


@pytest.mark.parametrize(
    "game", ["GuessTheNumber-v0", "Mastermind-v0", "FrozenLake-v0", "Sokoban-v0", "Minesweeper-v0"]
)
def test_doing_nothing_is_worth_nothing(game: str) -> None:
    episode, scores = play(TextArenaTaskset(game=game), ["I do not know."])
    assert scores == {"outcome": 0.0}
    assert episode.counts["bad_arguments"] == episode.turns == 2  # the game forgives one invalid move
    assert episode.stop_reason == "answered"


def test_towers_of_hanoi() -> None:
    best = ["[A C]", "[A B]", "[C B]", "[A C]", "[B A]", "[B C]", "[A C]"]
    episode, scores = play(TextArenaTaskset(game="TowerOfHanoi-v0", split_by="seed"), best)
    assert (scores, episode.turns) == ({"outcome": 1.0}, 7)
    cut, half = play(TextArenaTaskset(game="TowerOfHanoi-v0", split_by="seed"), [*best[:4], "nothing"])
    assert (half, cut.turns) == ({"outcome": 0.0}, 6)


def test_a_minefield_is_entered_safely() -> None:
    taskset = TextArenaTaskset(game="Minesweeper-v0", split_by="seed")
    environment = taskset.environment(taskset.task(0))
    environment.reset()
    result = environment.step(Message("assistant", "[4 4]"))
    assert not result.terminated
    assert not result.info["counts"]
    assert environment.score(None) == {"outcome": 0.0}  # type: ignore[arg-type]  # not played to the end


def test_two_players_both_seats_and_every_result() -> None:
    taskset = TextArenaTaskset(game="TicTacToe-v0", players=2)
    outcomes, seats = set(), set()
    for i in range(60):
        task, rng = taskset.task(i), random.Random(i)
        seats.add(task.metadata["seat"])
        actor = lambda history, r=rng: Message("assistant", random_listed_move(history[-1].content, r))  # noqa: E731
        episode, scores = play_episode(task, taskset.environment(task), actor)
        assert not episode.counts
        outcomes.add(scores["outcome"])
    assert seats == {0, 1}
    assert outcomes == {0.0, 0.5, 1.0}


def test_an_opponent_of_ones_own() -> None:
    # it always takes the last free square: from seat 0 the column 0, 3, 6 is ours
    taskset = TextArenaTaskset(game="TicTacToe-v0", players=2, opponent=f"{__name__}:first_free")
    index = next(i for i in range(50) if taskset.task(i).metadata["seat"] == 0)
    assert play(taskset, ["[0]", "[3]", "[6]"], index)[1] == {"outcome": 1.0}
    assert play(taskset, ["[0]", "[1]", "[3]"], index)[1] == {"outcome": 0.0}  # it has 8, 7, 6


def stubborn(observation: str, rng: random.Random) -> str:
    return "[8]"


def test_an_opponent_that_breaks_the_rules_is_no_win() -> None:
    taskset = TextArenaTaskset(game="TicTacToe-v0", players=2, opponent=f"{__name__}:stubborn")
    index = next(i for i in range(50) if taskset.task(i).metadata["seat"] == 0)
    with pytest.raises(InfrastructureError, match=r"TicTacToe-v0: the opponent's move '\[8\]' is invalid"):
        play(taskset, ["[0]", "[1]", "[3]"], index)


def test_poker_is_the_same_game_twice() -> None:
    taskset = TextArenaTaskset(game="KuhnPoker-v0", players=2)
    for i in range(5):
        games = [play(taskset, ["[check]", "[bet]"], i) for _ in range(2)]
        assert games[0] == games[1]


def test_games_side_by_side_and_the_rest_of_the_process() -> None:
    taskset = TextArenaTaskset(game="KuhnPoker-v0", players=2)

    def run(index: int) -> tuple[Message, ...]:
        return play(taskset, ["[check]", "[bet]", "[call]"], index)[0].messages

    alone = [run(i) for i in range(24)]
    random.seed(5)
    expected = random.random()
    random.seed(5)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, range(24)))
    assert together == alone
    assert random.random() == expected  # the games left the global generator as it was


def test_a_task_from_disk_is_the_same_game() -> None:
    settings: dict[str, Any] = {"game": "Mastermind-v0"}
    task = TextArenaTaskset(**settings).task(4)
    back = Task(task.id, task.family, task.prompt, None, json.loads(json.dumps(dict(task.metadata))), task.seed)
    environment = TextArenaTaskset(seed=7, **settings).environment(back)
    assert environment.reset() == task.prompt
    wrong = Task(task.id, task.family, (Message("user", "Play."),), None, task.metadata, task.seed)
    with pytest.raises(InfrastructureError, match="starts differently"):
        TextArenaTaskset(**settings).environment(wrong).reset()


def test_it_stands_in_a_mixture() -> None:
    mix = MixTaskset(families={PATH: 1}, settings={PATH: {"game": "GuessTheNumber-v0", "solver": f"{__name__}:halve"}})
    environment = mix.environment(mix.task(0))
    assert play_episode(mix.task(0), environment, environment.oracle)[1] == {"outcome": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"game": "NoSuchGame-v0"}, "'NoSuchGame-v0' cannot be started here"),
        ({"game": "TicTacToe-v0"}, "'TicTacToe-v0' cannot be started here"),  # it needs two
        ({"game": "TicTacToe-v0", "players": 3}, "players=3"),
        ({"game": "TicTacToe-v0", "players": 2, "split_by": "x"}, "split_by='x'"),
    ],
)
def test_settings_that_do_not_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextArenaTaskset(**settings)


def test_a_game_that_lists_no_moves_wants_an_opponent() -> None:
    with pytest.raises(InfrastructureError, match="give opponent="):
        random_listed_move("Your move!", random.Random(0))
