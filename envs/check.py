"""``envs-check``: does a taskset keep its promises? Run it before training on a new environment.

    envs-check search
    envs-check my_module.MyTaskset tasks=100 split=heldout levels=3

Checks: tool schemas, determinism (same task and same oracle episode twice), the oracle solves every
task, the novice stands between 0 and the oracle, scores are named numbers in [0, 1] also for bad
behaviour, no call is slow, the splits share no task (tasks are the same when their ``metadata["key"]``
is, or without keys prompt, answer and metadata), tasks and taskset pickle, iteration resumes.
Exit code 0 when nothing failed, 1 when something did, 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from envs.environment import Environment
from envs.episode import Actor, close, play_episode, resolve
from envs.families import FAMILIES, taskset_class
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, StopReason, Task, ToolCall

MISTAKES = ("malformed_call", "unknown_tool", "bad_arguments", "tool_error", "tool_timeout")
HANGS_AFTER = 4.0  # an episode hangs when it takes this many times the seconds allowed for a turn

Status = Literal["ok", "skipped", "FAILED"]


@dataclass(frozen=True)
class Finding:
    """Outcome of one check; ``detail`` holds the figure that was measured, or what is wrong."""

    check: str
    status: Status
    detail: str


class CheckFailed(Exception):
    """A promise is broken; the text says which, with the task and the values seen."""


class Skip(Exception):
    """There is nothing to check, and why."""


def check_taskset(make: Callable[[Split], Taskset], tasks: int = 20, step_s: float = 10.0) -> list[Finding]:
    """All checks of the taskset that ``make(split)`` builds, on its first ``tasks`` tasks of each split."""
    checker = _Checker(make, tasks, step_s)
    findings: list[Finding] = []
    for name, check in checker.checks():
        try:
            findings.append(Finding(name, "ok", check()))
        except Skip as reason:
            findings.append(Finding(name, "skipped", str(reason)))
        except CheckFailed as problem:
            findings.append(Finding(name, "FAILED", str(problem)))
        except Exception as error:  # the environment's own code raised: that is the finding
            findings.append(Finding(name, "FAILED", f"{type(error).__name__}: {error}"))
    return findings


class _Checker:
    def __init__(self, make: Callable[[Split], Taskset], tasks: int, step_s: float) -> None:
        self.make, self.step_s = make, step_s
        self.taskset = make("train")
        self.count = min(tasks, len(self.taskset))
        self.slowest = ("nothing ran", 0.0)
        self.oracle_mean: float | None = None

    def checks(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("tasks", self.tasks_are_well_formed),
            ("determinism", self.tasks_are_deterministic),
            ("tool schemas", self.tools_are_well_described),
            ("oracle", self.oracle_solves_every_task),
            ("novice", self.novice_is_between),
            ("bad behaviour", self.bad_behaviour_is_survived),
            ("time", self.no_call_is_slow),
            ("splits", self.splits_are_disjoint),
            ("pickle", self.everything_pickles),
            ("resume", self.iteration_resumes),
        ]

    def tasks_are_well_formed(self) -> str:
        ids = Counter(task.id for task in self._tasks())
        twice = [i for i, n in ids.items() if n > 1]
        if twice:
            raise CheckFailed(f"task id {twice[0]!r} is used {ids[twice[0]]} times")
        for task in self._tasks():
            if not task.prompt or task.prompt[-1].role not in ("user", "developer"):
                raise CheckFailed(f"{task.id}: the prompt must end with a user message")
            try:
                json.dumps(task.answer), json.dumps(dict(task.metadata))
            except TypeError as error:
                raise CheckFailed(f"{task.id}: answer and metadata must be JSON values: {error}") from error
        prompts = {_text(task) for task in self._tasks()}
        return f"{self.count} tasks, {len(prompts)} different prompts"

    def tasks_are_deterministic(self) -> str:
        again = self.make("train")
        for index in reversed(range(self.count)):  # another order: a task must not depend on earlier ones
            first, second = self.taskset.task(index), again.task(index)
            if first != second:
                raise CheckFailed(f"task({index}) differs between two tasksets: {first} and {second}")
        return "same tasks from a second taskset, in another order"

    def tools_are_well_described(self) -> str:
        names: set[str] = set()
        for task in self._one_per_family():
            environment = self.taskset.environment(task)
            try:
                if not isinstance(environment, Environment):
                    raise CheckFailed(f"environment() gave {type(environment).__name__}, not an Environment")
                prompt = resolve(environment.reset())  # first: some learn their tools when they start
                for name, known in environment.tools.items():
                    json.dumps(known.schema)
                    names.add(name)
                shown = {schema["name"] for message in prompt for schema in message.tools}
                if missing := set(environment.tools) - shown:
                    raise CheckFailed(f"{task.id}: reset() shows no schema of {', '.join(sorted(missing))}")
            finally:
                close(environment)
        return f"tools: {', '.join(sorted(names)) or 'none'}"

    def oracle_solves_every_task(self) -> str:
        self._need("oracle")
        turns: list[int] = []
        outcomes: list[float] = []
        for task in self._tasks():
            episode, scores = self._play(task, "oracle", 0)
            if scores["outcome"] < 1.0:
                raise CheckFailed(f"{task.id}: outcome {scores['outcome']}; {_last(episode)}")
            if episode.stop_reason is not StopReason.ANSWERED:
                raise CheckFailed(f"{task.id}: solved, but the episode did not end ({episode.stop_reason})")
            if mistakes := {name: n for name, n in episode.counts.items() if name in MISTAKES}:
                raise CheckFailed(f"{task.id}: the oracle's calls were counted as mistakes: {mistakes}")
            turns.append(episode.turns)
            outcomes.append(scores["outcome"])
        for task in self._one_per_family():
            one, two = self._play(task, "oracle", 0), self._play(task, "oracle", 0)
            if one[0].messages != two[0].messages or one[1] != two[1]:
                raise CheckFailed(f"{task.id}: two oracle episodes differ")
        self.oracle_mean = sum(outcomes) / len(outcomes)
        return f"solves {self.count} of {self.count}, {min(turns)}-{max(turns)} turns, twice the same"

    def novice_is_between(self) -> str:
        own = [t for t in self._one_per_family() if self._overrides(t, "novice")]
        if not own:
            raise Skip("no novice() of its own")
        outcomes: dict[str, list[float]] = {}
        for task in self._tasks():
            outcomes.setdefault(task.family, []).append(self._play(task, "novice", 1)[1]["outcome"])
        shown = []
        for family, values in outcomes.items():
            mean = sum(values) / len(values)
            shown.append(f"{family} {mean:.2f}")
            # one task is no statistics: only a flat 0 or 1 over many says that the novice is no novice
            if len(values) >= 10 and mean in (0.0, 1.0):
                raise CheckFailed(f"{family}: mean outcome {mean} over {len(values)} tasks, wanted in between")
        return "mean outcome " + ", ".join(shown)

    def bad_behaviour_is_survived(self) -> str:
        counts: Counter[str] = Counter()
        for task in self._one_per_family():
            for name, action in _bad_actions(self.taskset.environment(task)):
                episode, scores = self._within(
                    f"{name} in {task.id}", task, self.taskset.environment(task), _once(action), max_turns=3
                )
                self._check_scores(task, scores)
                counts.update(episode.counts)
                if name not in episode.counts:
                    raise CheckFailed(f"{task.id}: {name} was not counted, only {dict(episode.counts)}")
                if scores["outcome"] >= 1.0:
                    raise CheckFailed(f"{task.id}: {name}, then giving up, was scored {scores}")
        return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))

    def no_call_is_slow(self) -> str:
        what, seconds = self.slowest
        if seconds > self.step_s:
            raise CheckFailed(f"{what} took {seconds:.2f} s, allowed are {self.step_s:g} s")
        return f"slowest: {seconds * 1000:.1f} ms ({what})"

    def splits_are_disjoint(self) -> str:
        heldout = self.make("heldout")
        number = min(len(heldout), max(10 * self.count, 200))
        theirs = [heldout.task(i) for i in range(number)]
        mine = [self.taskset.task(i) for i in range(min(len(self.taskset), max(10 * self.count, 200)))]
        ours, others = {_identity(t) for t in mine}, {_identity(t) for t in theirs}
        if shared := ours & others:
            raise CheckFailed(f"{len(shared)} tasks stand in both splits, one is {sorted(shared)[0]}")
        return f"nothing shared by {len(mine)} train and {number} heldout tasks"

    def everything_pickles(self) -> str:
        copy = pickle.loads(pickle.dumps(self.taskset))
        task = self.taskset.task(0)
        if pickle.loads(pickle.dumps(task)) != task or copy.task(0) != task:
            raise CheckFailed("a pickled copy gives another task")
        return f"taskset {len(pickle.dumps(self.taskset)):,} bytes, task {len(pickle.dumps(task)):,} bytes"

    def iteration_resumes(self) -> str:
        first = self.make("train")
        steps = min(3, len(first))
        for _, _ in zip(range(steps), first, strict=False):
            pass
        second = self.make("train")
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        if first.position < len(first) and next(iter(first)) != next(iter(second)):
            raise CheckFailed(f"after {steps} tasks a restored taskset gives another task")
        return f"state {json.dumps(self.taskset.state_dict())}"

    # -- helpers -----------------------------------------------------------------------------

    def _tasks(self) -> list[Task]:
        return [self.taskset.task(index) for index in range(self.count)]

    def _one_per_family(self) -> list[Task]:
        return list({task.family: task for task in reversed(self._tasks())}.values())

    def _overrides(self, task: Task, method: str) -> bool:
        environment = self.taskset.environment(task)
        try:
            return getattr(type(environment), method) is not getattr(Environment, method)
        finally:
            close(environment)

    def _need(self, method: str) -> None:
        for task in self._one_per_family():
            if not self._overrides(task, method):
                raise Skip(f"{task.family} has no {method}(): nothing proves that its tasks can be solved")

    def _play(self, task: Task, who: str, seed: int) -> tuple[Episode, dict[str, float]]:
        environment = self.taskset.environment(task)
        rng = random.Random(f"{task.id}/{seed}")

        def act(history: Sequence[Message]) -> Message:
            return environment.oracle(history) if who == "oracle" else environment.novice(history, rng)

        started = time.monotonic()
        episode, scores = self._within(f"{who} in {task.id}", task, environment, act)
        seconds = (time.monotonic() - started) / max(1, episode.turns)
        if seconds > self.slowest[1]:
            self.slowest = (f"{who} in {task.id}, per turn", seconds)
        self._check_scores(task, scores)
        return episode, scores

    def _within(
        self, what: str, task: Task, environment: Environment, actor: Actor, max_turns: int = 16
    ) -> tuple[Episode, dict[str, float]]:
        """An episode in a thread of its own, so that one that hangs is reported and not waited for."""
        box: list[tuple[Episode, dict[str, float]]] = []
        errors: list[BaseException] = []

        def target() -> None:
            try:
                box.append(play_episode(task, environment, actor, max_turns))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        thread.join(HANGS_AFTER * self.step_s)
        if errors:
            raise errors[0]
        if not box:
            raise CheckFailed(f"{what}: no end after {HANGS_AFTER * self.step_s:g} s, it hangs")
        return box[0]

    @staticmethod
    def _check_scores(task: Task, scores: dict[str, Any]) -> None:
        if "outcome" not in scores:
            raise CheckFailed(f'{task.id}: score() gave {scores}, "outcome" is required')
        for name, value in scores.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise CheckFailed(f"{task.id}: score {name} is {value!r}, must be a finite number")
            if name == "outcome" and not 0.0 <= value <= 1.0:
                raise CheckFailed(f"{task.id}: outcome is {value}, must be between 0 and 1")


def _bad_actions(environment: Environment) -> list[tuple[str, Message]]:
    """One message for each kind of mistake, with the name it must be counted under."""
    actions = [
        ("malformed_call", Message("assistant", parse_error="the call is not closed.")),
        ("unknown_tool", Message("assistant", tool_calls=(ToolCall("no_such_tool", {"a": 1}),))),
    ]
    try:
        resolve(environment.reset())  # some learn their tools when they start
        for name in environment.tools:
            call = ToolCall(name, {"no_such_argument": 1})
            actions.append(("bad_arguments", Message("assistant", tool_calls=(call,))))
    finally:
        close(environment)
    return actions


def _once(action: Message) -> Actor:
    """Does one thing, then gives up."""
    actions = iter([action])
    return lambda _: next(actions, Message("assistant", "I do not know."))


def _text(task: Task) -> str:
    return "\n".join(message.content for message in task.prompt)


def _identity(task: Task) -> str:
    """What two tasks have in common when they are the same: their key; without one, all but the id."""
    if "key" in task.metadata:
        return f"{task.family}: key {task.metadata['key']!r}"
    return f"{task.family}: {_text(task)!r}, answer {task.answer!r}, {dict(task.metadata)}"


def _last(episode: Episode) -> str:
    message = episode.messages[-1]
    return f"last message: {message.role}: {message.content[:200]!r}"


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as keywords; values are JSON where they can be, else text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{pair!r} is not key=value")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="envs-check",
        description="Check a taskset and its environment: schemas, determinism, oracle, rewards, splits.",
    )
    parser.add_argument("taskset", help=f"one of {', '.join(FAMILIES)}, or package.module.ClassName")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="tasks=20 (how many), step_s=10 (seconds a turn may take); the rest goes to the taskset",
    )
    arguments = parser.parse_args(argv)
    sys.path.insert(0, "")  # a module in the current folder, also through the console script
    name = arguments.taskset.removeprefix("env=")
    try:
        settings = parse_settings(arguments.settings)
        tasks, step_s = int(settings.pop("tasks", 20)), float(settings.pop("step_s", 10.0))
        settings.pop("split", None)  # both splits are checked
        cls = taskset_class(name)
        findings = check_taskset(lambda split: cls(split=split, **settings), tasks, step_s)
    except (ValueError, TypeError, ImportError) as error:
        print(f"envs-check: {error}", file=sys.stderr)
        return 2
    _print(name, findings)
    return int(any(finding.status == "FAILED" for finding in findings))


def _print(name: str, findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colors = {"ok": "green", "skipped": "yellow", "FAILED": "bold red"}
    table = Table("check", "result", "detail", title=f"envs-check {escape(name)}", title_justify="left")
    for finding in findings:
        color = colors[finding.status]
        table.add_row(finding.check, f"[{color}]{finding.status}[/]", escape(finding.detail))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
