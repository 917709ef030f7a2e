"""Gymnasium bridge: any environment with discrete actions, played in words.

    taskset = GymTaskset(env_id="CliffWalking-v1", actions=["up", "right", "down", "left"], bounds=[-100, -13],
                         split_by="seed")

    user       Reach T. … Observation: 36 …      -> env.reset(seed=the task's seed)
    assistant  act(action="up")                  -> env.step(0); the tool answers with what is seen now
    …                                            -> terminated or truncated ends the episode

What is seen is the ``ansi`` rendering where there is one, and the observation as numbers;
``observe="my_module:words"`` calls ``words(observation, env)`` instead. With ``plain=True`` there is no tool: the
policy names the action in its text, and ``parse="my_module:number"`` may read it (``number(text) -> int | None``).

The return (sum of rewards) becomes the outcome: with ``bounds=[low, high]`` linearly, clipped to [0, 1]; with
``success=x`` it is 1 when the return is at least x. With both, ``bounds`` make the outcome and ``success`` is a score.
An episode that the policy leaves before the environment ends it has outcome 0.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from envs.bridges.packages import need
from envs.bridges.settings import load_object, plain
from envs.bridges.tabular import best_actions
from envs.environment import Environment, ToolError
from envs.taskset import Split, Taskset
from envs.tools import Tool
from envs.types import Episode, InfrastructureError, Message, StepResult, Task, ToolCall

_COLOURED = re.compile(r"\x1b\[([\d;]+)m([^\x1b]*)\x1b\[0m")  # the innermost first: they nest
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


class GymEnvironment(Environment):
    """One episode of a Gymnasium environment; the task says which, with what keywords and which seed."""

    def __init__(
        self,
        task: Task,
        actions: Sequence[str] | None = None,
        bounds: Sequence[float] | None = None,
        success: float | None = None,
        observe: str | None = None,
        parse: str | None = None,
        plain: bool = False,
        **config: Any,
    ) -> None:
        super().__init__(task, **config)
        self._bounds, self._success = bounds, success
        self._observe = load_object(observe, "observe") if observe else see
        self._parse = load_object(parse, "parse") if parse else None
        self._plain = plain
        self._env = make_env(task.metadata)
        try:
            self._names = action_names(self._env, actions)
            self._start = int(self._env.action_space.start)
        except ValueError:
            self._env.close()
            raise
        self._return, self._over = 0.0, False
        self._observation: Any = None
        if not plain:
            self.tools["act"] = Tool("act", "act", _act_schema(self._names))

    def act(self, action: str) -> str:
        """One step of the environment, by the name of the action; what is seen after it."""
        if self._over:
            raise ToolError("the episode is over.")
        return self._do(self._names.index(action))

    def reset(self) -> tuple[Message, ...]:
        self._observation, _ = self._env.reset(seed=self.task.seed)
        shown = self._observe(self._observation, self._env)
        if not self.task.prompt[-1].content.endswith(shown):
            raise InfrastructureError(
                f"{self.task.metadata['env_id']}: seed {self.task.seed} starts differently from the task's prompt; "
                "was the task made with another version of the environment, or with another 'observe'?"
            )
        return super().reset()

    def step(self, action: Message) -> StepResult:
        if not self._plain or action.parse_error is not None or action.tool_calls:
            result = super().step(action)
            return StepResult(result.messages, result.terminated or self._over, result.info)
        number = self._parse(action.content) if self._parse is not None else self._named(action.content)
        if number is None or not 0 <= number < len(self._names):
            text = f"Error: name one action: {', '.join(self._names)}."
            return StepResult((Message("user", text),), info={"counts": {"malformed_call": 1}})
        return StepResult((Message("user", self._do(number)),), self._over, {"counts": {}})

    def score(self, episode: Episode) -> dict[str, float]:
        # who leaves before the end has no return: a walk along a cliff would else be best given up at once
        scores = {} if self._success is None else {"success": float(self._over and self._return >= self._success)}
        if self._bounds is None:
            return {"outcome": scores["success"], **scores}
        low, high = self._bounds
        share = min(1.0, max(0.0, (self._return - low) / (high - low)))
        return {"outcome": share if self._over else 0.0, **scores}

    def close(self) -> None:
        self._env.close()

    def _do(self, number: int) -> str:
        try:
            self._observation, reward, terminated, truncated, _ = self._env.step(self._start + number)
        except Exception as error:  # the policy chose a valid action: what fails is the environment
            raise InfrastructureError(f"{self.task.metadata['env_id']}: step raised {error!r}") from error
        self._return += float(reward)
        self._over = bool(terminated or truncated)
        return str(self._observe(self._observation, self._env))

    def _named(self, text: str) -> int | None:
        """The one action that the last line of a text names, else None."""
        last = (text.strip().splitlines() or [""])[-1]
        found = [i for i, name in enumerate(self._names) if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", last, re.I)]
        return found[0] if len(found) == 1 else None


class TabularEnvironment(GymEnvironment):
    """A Gymnasium environment that shows its transition model ``P``: value iteration is its oracle."""

    _best: dict[int, int] | None = None

    def oracle(self, history: Sequence[Message]) -> Message:
        if self._best is None:
            self._best = best_actions(self._env.unwrapped.P)
        name = self._names[self._best[int(self._observation)]]
        return Message("assistant", name) if self._plain else Message("assistant", tool_calls=(_act(name),))


class GymTaskset(Taskset):
    """Episodes of one environment, a seed each. ``env_kwargs`` go to ``gymnasium.make``, ``max_steps`` limits it.

    ``rules`` opens the prompt. ``split_by="start"`` makes what is seen at the start the task's key, so that
    train and heldout never start alike; an environment with one start only needs ``split_by="seed"``.
    """

    family = "gym"
    env_class = GymEnvironment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        *,
        env_id: str,
        env_kwargs: Mapping[str, Any] | None = None,
        max_steps: int = 100,
        rules: str = "",
        split_by: Literal["start", "seed"] = "start",
        **config: Any,
    ) -> None:
        need("gymnasium")
        if config.get("bounds") is None and config.get("success") is None:
            raise ValueError(
                "bounds=None and success=None: give bounds=[low, high] of the return, or success=threshold"
            )
        if (bounds := config.get("bounds")) is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"bounds={bounds}: the first must be below the second")
        if split_by not in ("start", "seed"):
            raise ValueError(f"split_by={split_by!r}: must be 'start' or 'seed'")
        super().__init__(split, seed, size, **plain(config))
        self._env_kwargs = plain(env_kwargs or {})
        self._spec = {"env_id": env_id, "env_kwargs": self._env_kwargs, "max_steps": int(max_steps)}
        self._rules, self._split_by = rules, split_by
        env = make_env(self._spec)
        self._probe: tuple[Mapping[str, Any], Any] | None = (self._env_kwargs, env)
        self._names = action_names(env, config.get("actions"))
        self._tabular = hasattr(env.unwrapped, "P")
        if self.max_turns is None and not self._tabular:  # no oracle tells how many: as many as it has steps
            self.max_turns = int(max_steps)

    def env_kwargs(self, seed: int) -> dict[str, Any]:
        """Keywords of ``gymnasium.make`` for one task; JSON values. For subclasses whose worlds differ."""
        return dict(self._env_kwargs)

    def key(self, seed: int, env_kwargs: Mapping[str, Any]) -> str:
        """What a task is about; tasks of one key are the same. Default: what is seen at the start."""
        return self._start_of(seed, env_kwargs) if self._split_by == "start" else str(seed)

    def task(self, index: int) -> Task:
        def propose(rng: random.Random) -> tuple[str, tuple[int, dict[str, Any]]]:
            seed = rng.randrange(2**31)
            kwargs = self.env_kwargs(seed)
            return self.key(seed, kwargs), (seed, kwargs)

        key, (seed, kwargs) = self.draw(index, propose)
        how = f"Answer with one action: {', '.join(self._names)}." if self.config.get("plain") else ""
        prompt = "\n\n".join(part for part in (self._rules, how, self._start_of(seed, kwargs)) if part)
        metadata = {"key": key, "level": self.level(kwargs), **self._spec, "env_kwargs": kwargs}
        return Task(self.task_id(index), self.family, (Message("user", prompt),), None, metadata, seed)

    def level(self, env_kwargs: Mapping[str, Any]) -> int:
        """How hard a task is, from 1."""
        return 1

    def environment(self, task: Task) -> Environment:
        cls = TabularEnvironment if self._tabular else self.env_class
        return cls(task, **self.config)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_probe": None}  # the open environment stays here

    def _start_of(self, seed: int, kwargs: Mapping[str, Any]) -> str:
        """What is seen at the start. The environment is kept for the next task that has the same keywords."""
        if self._probe is None or self._probe[0] != kwargs:
            if self._probe is not None:
                self._probe[1].close()
            self._probe = (kwargs, make_env({**self._spec, "env_kwargs": kwargs}))
        observe = load_object(self.config["observe"], "observe") if self.config.get("observe") else see
        env = self._probe[1]
        return str(observe(env.reset(seed=seed)[0], env))


class FrozenLakeTaskset(GymTaskset):
    """FrozenLake on random maps, as an example of a family made from a Gymnasium environment.

    A map has ``sizes[0]`` to ``sizes[1]`` rows, and a way to the goal; the ice is not slippery.
    """

    family = "frozen_lake"

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        *,
        sizes: Sequence[int] = (4, 6),
        **config: Any,
    ) -> None:
        if len(sizes) != 2 or not 2 <= sizes[0] <= sizes[1]:
            raise ValueError(f"sizes={list(sizes)}: give [smallest, largest], at least 2")
        self._smallest, self._largest = int(sizes[0]), int(sizes[1])
        settings: dict[str, Any] = {
            "env_id": "FrozenLake-v1",
            "env_kwargs": {"is_slippery": False},
            "actions": ["left", "down", "right", "up"],
            "rules": "Walk from S to G over the frozen lake (F) and avoid the holes (H). Your place is marked red[ ].",
            "success": 1.0,
        }
        super().__init__(split, seed, size, **{**settings, **config})

    def env_kwargs(self, seed: int) -> dict[str, Any]:
        from gymnasium.envs.toy_text.frozen_lake import generate_random_map

        rows = self._smallest + seed % (self._largest - self._smallest + 1)
        return {**super().env_kwargs(seed), "desc": generate_random_map(rows, 0.8, seed)}

    def key(self, seed: int, env_kwargs: Mapping[str, Any]) -> str:
        return "/".join(env_kwargs["desc"])

    def level(self, env_kwargs: Mapping[str, Any]) -> int:
        return len(env_kwargs["desc"]) - self._smallest + 1


def make_env(spec: Mapping[str, Any]) -> Any:
    """The Gymnasium environment of a task's metadata. Renders text where it can."""
    import gymnasium

    kwargs = dict(spec["env_kwargs"])
    if "render_mode" not in kwargs and "ansi" in _render_modes(spec["env_id"]):
        kwargs["render_mode"] = "ansi"
    return gymnasium.make(spec["env_id"], max_episode_steps=spec["max_steps"], **kwargs)


def see(observation: Any, env: Any) -> str:
    """An observation in words: numbers as they are, then the text rendering with its colours in words."""
    lines = [f"Observation: {_plain_value(observation)}"]
    if env.render_mode == "ansi":
        picture, found = str(env.render()), 1
        while found:
            picture, found = _COLOURED.subn(_colour_in_words, picture)
        lines.append(picture.strip("\n"))
    return "\n".join(lines)


def action_names(env: Any, actions: Sequence[str] | None) -> list[str]:
    """Names of the discrete actions in their order: those given, else their numbers."""
    from gymnasium.spaces import Discrete

    space = env.action_space
    if not isinstance(space, Discrete):
        raise ValueError(f"{env.spec.id} has the action space {space}: only Discrete is supported")
    count = int(space.n)
    if actions is None:
        return [str(int(space.start) + i) for i in range(count)]
    if len(actions) != count or len(set(actions)) != count:
        raise ValueError(f"actions={list(actions)}: {env.spec.id} has {count} actions, give each its own name")
    return list(actions)


def _render_modes(env_id: str) -> Sequence[str]:
    from gymnasium.envs.registration import load_env_creator, spec

    entry = spec(env_id).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return list(getattr(creator, "metadata", {}).get("render_modes", ()))


def _plain_value(value: Any) -> Any:
    """Numpy numbers and arrays as Python's, floats to four places."""
    if hasattr(value, "tolist"):
        return _plain_value(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain_value(inner) for inner in value)
    return round(value, 4) if isinstance(value, float) else value


def _colour_in_words(match: re.Match[str]) -> str:
    """``red[S]`` for a coloured S: the colour of text or background says where things are."""
    codes = [int(code) for code in match[1].split(";") if code]
    names = [_COLOURS[code % 10] for code in codes if 30 <= code <= 37 or 40 <= code <= 47]
    return f"{names[0]}[{match[2]}]" if names else match[2]


def _act_schema(names: Sequence[str]) -> dict[str, Any]:
    properties = {"action": {"type": "string", "enum": list(names)}}
    parameters = {"type": "object", "properties": properties, "required": ["action"]}
    return {"name": "act", "description": "Do one action.", "parameters": parameters}


def _act(name: str) -> ToolCall:
    return ToolCall("act", {"action": name})
