"""TextArena bridge: its single-player games, and two-player games against a scripted opponent.

    taskset = TextArenaTaskset(game="GuessTheNumber-v0")

    user       You have to guess the number between 1 and 20 within 10 turns. …
    assistant  [10]                        -> env.step("[10]")
    user       The target number is higher.
    …                                      -> the game's end ends the episode; its reward becomes the outcome

The reward is mapped from ``bounds`` to [0, 1] and clipped: [0, 1] for one player, [-1, 1] (lost, drawn, won) for two.
A game that is not played to its end, or lost by invalid moves, has outcome 0; one that the opponent loses so is no
win, but a failure of the environment. In two-player games the task's seed decides who begins and what the opponent
draws; ``opponent="my_module:move"`` calls ``move(observation, rng)``, by default one of the moves that the game lists
is taken at random. Games with words need NLTK's data in ``NLTK_DATA``.

TextArena draws from Python's (and numpy's) global generators. Each episode therefore keeps their states as its own
and has them in place, under a lock, while the game runs: episodes played side by side do not disturb one another.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from envs.bridges.packages import need
from envs.bridges.settings import load_object, plain
from envs.environment import Environment
from envs.taskset import Split, Taskset
from envs.types import Episode, InfrastructureError, Message, StepResult, Task

_LOCK = threading.Lock()
_MAX_OPPONENT_MOVES = 50  # in a row


class Game:
    """One started game with its own random state; ``text`` is what the seat to play has not read yet."""

    def __init__(self, game: str, kwargs: Mapping[str, Any], players: int, seed: int, seat: int) -> None:
        import textarena

        self.seat, self.over = seat, False
        self._name = game
        self._states: tuple[Any, Any] | None = None
        with self._own_randomness(seed):
            # raw: the default wrappers repeat the whole history in every observation
            self._env = textarena.make(f"{game}-raw", **kwargs)
            self._env.reset(num_players=players, seed=seed)

    def to_play(self) -> int:
        return int(self._env.state.current_player_id)

    def read(self, player: int) -> str:
        """What ``player`` has not seen yet, without the echo of the own moves."""
        from textarena import ObservationType

        state = self._env.state
        seen, state.observations[player] = state.observations[player], []
        own = [(player, ObservationType.PLAYER_ACTION)]
        return "\n".join(text.strip() for who, text, kind in seen if (who, kind) not in own)

    def move(self, action: str) -> bool:
        """Plays for whoever's turn it is. True when the game took it as a valid move."""
        player, errors = self.to_play(), getattr(self._env.state, "error_count", 0)
        try:
            with self._own_randomness():
                self.over, _ = self._env.step(action)
        except Exception as error:
            raise InfrastructureError(f"{self._name}: the game raised {error!r} at {action[:80]!r}") from error
        state = self._env.state
        return not (getattr(state, "error_count", 0) > errors or state.game_info[player].get("invalid_move"))

    def reward(self) -> float:
        rewards = self._env.state.rewards
        if not self.over or rewards is None or self.seat not in rewards:
            raise InfrastructureError(f"{self._name}: no reward for player {self.seat}, only {rewards}")
        return float(rewards[self.seat])

    def lost_by_invalid_move(self, player: int) -> bool:
        return bool(self._env.state.game_info[player].get("invalid_move"))

    def start(self) -> str:
        """The state at the start as canonical JSON: what the game is about. Raises TypeError when it has none."""
        return json.dumps(_canonical(self._env.state.game_state), sort_keys=True)

    @contextmanager
    def _own_randomness(self, seed: int | None = None) -> Iterator[None]:
        import numpy as np

        with _LOCK:
            outside = random.getstate(), np.random.get_state()
            if self._states is None:
                random.seed(seed)
                np.random.seed(seed)
            else:
                random.setstate(self._states[0])
                np.random.set_state(self._states[1])
            try:
                yield
            finally:
                self._states = random.getstate(), np.random.get_state()
                random.setstate(outside[0])
                np.random.set_state(outside[1])


class TextArenaEnvironment(Environment):
    """One game. Every assistant text is a move; there are no tools."""

    def __init__(
        self,
        task: Task,
        bounds: Sequence[float] | None = None,
        opponent: str | None = None,
        solver: str | None = None,
        **config: Any,
    ) -> None:
        super().__init__(task, **config)
        self._two = task.metadata["players"] == 2
        self._bounds = bounds or ((-1.0, 1.0) if self._two else (0.0, 1.0))
        self._opponent: Callable[[str, random.Random], str] = (
            load_object(opponent, "opponent") if opponent else random_listed_move
        )
        self._solver = load_object(solver, "solver") if solver else None
        self._rng = random.Random(f"opponent {task.seed}")
        self._game: Game | None = None

    def reset(self) -> tuple[Message, ...]:
        self._game = open_game(self.task.metadata, self.task.seed)
        shown = self._until_our_turn(self._game)
        if shown != self.task.prompt[-1].content:
            raise InfrastructureError(
                f"{self.task.metadata['game']}: seed {self.task.seed} starts differently from the task's prompt; "
                "was the task made with another version of textarena, or against another opponent?"
            )
        return self.task.prompt

    def step(self, action: Message) -> StepResult:
        if action.parse_error is not None or action.tool_calls:
            return super().step(action)
        if self._game is None:
            raise InfrastructureError("the game has not begun: call reset() first")
        valid = self._game.move(action.content)
        text = self._until_our_turn(self._game)
        counts = {} if valid else {"bad_arguments": 1}
        return StepResult((Message("user", text or "The game is over."),), self._game.over, {"counts": counts})

    def score(self, episode: Episode) -> dict[str, float]:
        # some games pay for how near a player was, also one who was sent off: GuessTheNumber up to 0.9
        if self._game is None or not self._game.over or self._game.lost_by_invalid_move(self._game.seat):
            return {"outcome": 0.0}
        low, high = self._bounds
        return {"outcome": min(1.0, max(0.0, (self._game.reward() - low) / (high - low)))}

    def _until_our_turn(self, game: Game) -> str:
        """Lets the opponent move until it is our turn or the game ends; what we read then."""
        for _ in range(_MAX_OPPONENT_MOVES):
            if game.over or game.to_play() == game.seat:
                return game.read(game.seat)
            player, move = game.to_play(), self._opponent(game.read(game.to_play()), self._rng)
            game.move(move)
            if game.lost_by_invalid_move(player):  # that would be a win that nobody has played for
                raise InfrastructureError(f"{self.task.metadata['game']}: the opponent's move {move!r} is invalid")
        raise InfrastructureError(
            f"{self.task.metadata['game']}: the opponent moved {_MAX_OPPONENT_MOVES} times in a row"
        )


class SolvedEnvironment(TextArenaEnvironment):
    """A game with a ``solver``: ``solver(history) -> move`` is its oracle."""

    def oracle(self, history: Sequence[Message]) -> Message:
        assert self._solver is not None
        return Message("assistant", self._solver(history))


class TextArenaTaskset(Taskset):
    """Games of one kind. ``game`` is a TextArena id without wrapper, ``game_kwargs`` go to ``textarena.make``.

    Train and heldout never share a key: the state at the start (``split_by="start"``, the default of single-player
    games) or the seed (two-player games, where the opponent's luck makes the game).
    """

    family = "textarena"
    env_class = TextArenaEnvironment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        *,
        game: str,
        players: Literal[1, 2] = 1,
        game_kwargs: Mapping[str, Any] | None = None,
        split_by: Literal["start", "seed"] | None = None,
        **config: Any,
    ) -> None:
        need("textarena")
        if players not in (1, 2):
            raise ValueError(f"players={players}: must be 1 or 2")
        if split_by not in (None, "start", "seed"):
            raise ValueError(f"split_by={split_by!r}: must be 'start' or 'seed'")
        super().__init__(split, seed, size, **plain(config))
        self._spec = {"game": game, "game_kwargs": plain(game_kwargs or {}), "players": players}
        self._split_by = split_by or ("start" if players == 1 else "seed")
        try:
            open_game({**self._spec, "seat": 0}, 0)
        except Exception as error:
            raise ValueError(f"game={game!r} cannot be started here: {type(error).__name__}: {error}") from error

    def task(self, index: int) -> Task:
        def propose(rng: random.Random) -> tuple[str, int]:
            seed = rng.randrange(2**31)
            if self._split_by == "seed":
                return str(seed), seed
            try:
                return open_game({**self._spec, "seat": 0}, seed).start(), seed
            except TypeError as error:
                raise ValueError(f"split_by='start': {self._spec['game']} has no plain state ({error}); "
                                 "use split_by='seed'") from error  # fmt: skip

        key, seed = self.draw(index, propose)
        seat = seed % 2 if self._spec["players"] == 2 else 0
        metadata = {"key": f"{self._spec['game']} {key}", "level": 1, **self._spec, "seat": seat}
        draft = Task(self.task_id(index), self.family, (), None, metadata, seed)
        environment = TextArenaEnvironment(draft, **self.config)
        first = environment._until_our_turn(open_game(metadata, seed))
        return Task(draft.id, self.family, (Message("user", first),), None, metadata, seed)

    def environment(self, task: Task) -> Environment:
        cls = SolvedEnvironment if self.config.get("solver") else TextArenaEnvironment
        return cls(task, **self.config)


def open_game(metadata: Mapping[str, Any], seed: int) -> Game:
    """The game of a task, at its start."""
    m = metadata
    return Game(m["game"], m["game_kwargs"], m["players"], seed, m["seat"])


def random_listed_move(observation: str, rng: random.Random) -> str:
    """One of the ``[moves]`` in the last line that lists what is available."""
    lines = [line for line in observation.splitlines() if re.search(r"\bavailable\b", line, re.I) and "[" in line]
    if not lines:
        raise InfrastructureError("the game lists no available moves: give opponent=package.module:function")
    moves: list[str] = re.findall(r"\[[^\]]+\]", lines[-1])
    return rng.choice(moves)


def _canonical(value: Any) -> Any:
    """Plain JSON values that do not depend on hash seeds. Raises TypeError for what has no such form."""
    if isinstance(value, Mapping):
        return sorted((json.dumps(_canonical(k)), _canonical(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(_canonical(inner)) for inner in value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} in the state")
