"""Your own agent on rows of your own, as it is: it gets an OpenAI-compatible endpoint, and that is the policy.

    rl-train env=own_agent env.agent=my_agent.agent env.path=rows.jsonl

    async def agent(base_url, api_key, row):                    # or a plain function
        client = AsyncOpenAI(base_url=base_url, api_key=api_key)
        reply = await client.chat.completions.create(model="policy", messages=…, tools=…)
        …
        return 1.0 if it_went_well else 0.0

The reward is what the agent returns, a number in [0, 1] or a dict with "outcome" and more, or what it posts to
``{base_url}/reward`` as {"reward": 0.5} or {"outcome": …, …}. With ``reward`` a function scores an answer instead, as
in ``envs.dataset``: the text that the agent returns, or, where it returns None, the policy's last message.

A program of its own, in any language, is named by the command that starts it (``envs.agent_command``):

    rl-train env=own_agent env.command='V/bin/python agent.py' env.path=rows.jsonl

What it posts, else its last line of output, is the reward; with ``reward`` its output is the answer that is scored.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from envs.agent_command import check_command, files_of, last_line, run_command
from envs.dataset import DatasetEnvironment, DatasetTaskset, Reward, file_of, find_function
from envs.driving import DrivingEnvironment, Endpoint
from envs.environment import Environment
from envs.scores import scores_of
from envs.taskset import Split, file_input
from envs.types import Episode, Task

Agent = Callable[[str, str, dict[str, Any]], Any]


class OwnAgentEnvironment(DrivingEnvironment, DatasetEnvironment):
    """One row, one run of ``agent(base_url, api_key, row)``, a function or its import path, or of ``command`` in
    ``cwd``."""

    oracle = Environment.oracle  # nobody shows how it is done
    novice = Environment.novice

    def __init__(
        self,
        task: Task,
        agent: str | Agent | None = None,
        command: str | None = None,
        cwd: str = ".",
        reward: str | Reward | None = None,
        **config: Any,
    ) -> None:
        super().__init__(task, reward=reward, **config)
        self._agent = None if command is not None else find_agent(agent)
        self._command, self._cwd = command, cwd
        self._scores_answers = reward is not None
        self._given: Any = None
        self._posted: list[dict[str, float]] = []

    def drive(self, endpoint: Endpoint) -> Any:
        self._posted = endpoint.posted
        row = deepcopy(self.task.metadata["row"])  # an agent may append to a list in it, and others play the same task
        if self._agent is None:
            return self._program(endpoint, row)
        self._given = self._agent(endpoint.base_url, endpoint.api_key, row)
        return self._late(self._given) if inspect.isawaitable(self._given) else None

    async def _late(self, running: Awaitable[Any]) -> None:
        self._given = await running

    async def _program(self, endpoint: Endpoint, row: dict[str, Any]) -> None:
        assert self._command is not None
        said = await run_command(self._command, self._cwd, endpoint, row)
        if self._scores_answers:
            self._given = said or None
        elif not self._posted:
            self._given = last_line(said)

    def score(self, episode: Episode) -> Any:
        """The agent's scores or, with ``reward``, those of its answer; 0 for a run that a limit cut before its end.

        Raises ValueError for a reward that is none, and for two.
        """
        name = getattr(self._agent, "__name__", repr(self._agent)) if self._command is None else repr(self._command)
        given = self._given
        if given is None and self._posted:
            given = self._posted[-1]
        if self._scores_answers:
            if given is None or isinstance(given, str):
                return self.score_answer(episode.answer if given is None else given)
            raise ValueError(
                f"agent {name} gave the reward {given!r:.80}, and env.reward scores its answer: return a text or None, "
                "or leave env.reward out"
            )
        if isinstance(given, str) or (given is None and episode.ended):
            what = "no reward" if given is None else f"the text {given!r:.80}"
            raise ValueError(
                f"agent {name} gave {what}: return a number in [0, 1] (a command: print it, as the last line), post it "
                "to base_url/reward, or set env.reward, which scores an answer"
            )
        return {"outcome": 0.0} if given is None else scores_of(given, f"agent {name}")


class OwnAgentTaskset(DatasetTaskset):
    """The rows of ``path``, as ``DatasetTaskset`` reads them, for ``agent``, or for ``command``, which is started in
    ``cwd`` (None: where the taskset is made). ``answer_column`` is for ``reward``."""

    family = "own_agent"
    env_class = OwnAgentEnvironment
    max_turns = 16

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        path: str | Path = "",
        agent: str | Agent | None = None,
        command: str | None = None,
        cwd: str | None = None,
        answer_column: str | None = "answer",
        reward: str | Reward | None = None,
        name: str = "own_agent",
        **config: Any,
    ) -> None:
        if command is None:
            file = file_of("agent", agent, find_agent(agent))
            self._files = {} if file is None else {file[0]: {"sha256": file[1]}}
            who: dict[str, Any] = {"agent": agent}
        else:
            if agent is not None:
                raise ValueError(f"agent={agent} with command={command!r}: give one of them")
            folder = os.path.abspath(cwd or "")
            check_command(command, folder)
            self._files = {str(file): file_input(file) for file in files_of(command, folder)}
            who = {"command": command, "cwd": folder}
        answer = None if reward is None else answer_column
        super().__init__(split, seed, size, path, answer_column=answer, reward=reward, name=name, **who, **config)

    def fingerprint(self) -> str:
        """Over the rows, and the files of agent and reward."""
        return f"{super().fingerprint()} {self._files}"

    def inputs(self) -> dict[str, dict[str, Any]]:
        return super().inputs() | self._files


def find_agent(agent: str | Agent | None) -> Agent:
    """The function, or the one at an import path. Raises ValueError that says what is wrong."""
    if not agent:
        raise ValueError(
            "agent is missing: give a function agent(base_url, api_key, row) or its import path; or command, which "
            "starts a program"
        )
    if not isinstance(agent, str):
        return agent
    found: Agent = find_function("agent", agent, "package.module.function")
    return found
