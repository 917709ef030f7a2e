"""One episode in a synthesised environment.

    user       Plan three days from Oslo ... Call submit_result once with ...
    assistant  get_all_cities()
    tool       ["Rome", "Lima", ...]
    assistant  get_all_hotels_by_city(city="Rome"), get_all_hotels_by_city(city="Lima"), ...
    ...
    assistant  submit_result(result=[...])              -> the episode ends

Where a task wants changes and no answer, a message without a call ends it. The verifier sees the final state
and what was submitted, never what was said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from envs.agent.general.case import SUBMIT, Case, ProgramCase, Step, World, run_solution
from envs.environment import Environment
from envs.tools import Tool, render_output
from envs.types import Episode, Message, StepResult, Task, ToolCall

CALLS_PER_TURN = 16  # of the oracle


class GeneralEnvironment(Environment):
    """A task of GeneralTaskset or StoredTaskset; which one its metadata says."""

    max_output_chars = 6000

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        self.case = self.case_for(task)
        self.tools = self.case.tools
        self._world: World | None = None
        self._demonstration: list[Message] | None = None

    def case_for(self, task: Task) -> Case:
        return case_of(task)

    def reset(self) -> tuple[Message, ...]:
        self._world = self.case.open()
        return super().reset()

    def call_tool(self, known: Tool, arguments: Mapping[str, Any]) -> Any:
        return self._opened.call(known.name, arguments)

    def step(self, action: Message) -> StepResult:
        result = super().step(action)
        if self._opened.submitted is None:
            return result
        return StepResult(result.messages, terminated=True, info=result.info)

    def score(self, episode: Episode) -> dict[str, float]:
        world = self._opened
        return {"outcome": float(self.case.judge(world.state(), world.submitted) is None)}

    def close(self) -> None:
        if self._world is not None:
            self._world.close()
            self._world = None

    def oracle(self, history: Sequence[Message]) -> Message:
        if self._demonstration is None:
            world = self.case.open()
            try:
                steps = run_solution(self.case, world)
            finally:
                world.close()
            prompt = "\n".join(message.content for message in self.task.prompt)
            self._demonstration = [*(_message(turn, self.case) for turn in turns_of(steps, self.case, prompt)), _done()]
        spoken = sum(message.role == "assistant" for message in history)
        return self._demonstration[min(spoken, len(self._demonstration) - 1)]

    @property
    def _opened(self) -> World:
        if self._world is None:
            raise RuntimeError("the environment is not open: call reset() before step() or score()")
        return self._world


def case_of(task: Task) -> Case:
    """The case of a task, from its metadata alone."""
    if "sources" in task.metadata:
        from envs.agent.general.stored import StoredCase

        return StoredCase(task.metadata["sources"])
    return ProgramCase(task.metadata)


def turns_of(steps: Sequence[Step], case: Case, prompt: str) -> list[list[Step]]:
    """A solution's calls as turns. Between two changes the order of calls that only ask does not matter: each is made
    as soon as what it names has been read, together with others that can be made then."""
    turns: list[list[Step]] = []
    read = prompt
    for changes, group in groupby(steps, lambda step: step.name in case.changing):
        block = list(group)
        depths = [0] * len(block) if changes else _depths(block, read)
        for depth in sorted(set(depths)):
            layer = [step for step, its in zip(block, depths, strict=True) if its == depth]
            last = [layer.pop()] if layer[-1].name == SUBMIT else []
            turns += [layer[i : i + CALLS_PER_TURN] for i in range(0, len(layer), CALLS_PER_TURN)]
            turns += [last] if last else []
        read = "\n".join([read, *(render_output(step.value) for step in block)])
    return turns


def _depths(block: Sequence[Step], read: str) -> list[int]:
    """For each call, how many turns of answers it has to wait for."""
    depths: list[int] = []
    answers: list[str] = []
    for step in block:
        waits = [0]
        for leaf in _leaves(step.arguments):
            if leaf not in read:
                sources = [depth for depth, text in zip(depths, answers, strict=True) if leaf in text]
                waits.append(1 + min(sources) if sources else max(depths, default=0))
        depths.append(max(waits))
        answers.append(render_output(step.value))
    return depths


def _leaves(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    return [str(value)]


def _message(turn: Sequence[Step], case: Case) -> Message:
    if turn[0].name == SUBMIT:
        thought = "Everything that was asked for holds. I submit it."
    elif turn[0].name in case.changing:
        thought = "Now I know what to do, and do it."
    else:
        thought = "I look up what I need to know."
    calls = tuple(ToolCall(step.name, step.arguments) for step in turn)
    return Message("assistant", reasoning=thought, tool_calls=calls)


def _done() -> Message:
    return Message("assistant", "Done.", reasoning="All is done.")
