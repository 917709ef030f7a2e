"""What must happen in episodes, one method each: the half of ``envs-check`` that plays.

    EpisodePromises(subject).oracle_solves_every_task()     # "solves 20 of 20, 2-3 turns, twice the same"

The oracle proves that tasks can be solved; the novice, doing nothing, tools called at random and every kind of mistake
show that they are not solved by accident. An episode that hangs is reported, not waited for.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from envs.cheats import ARGUMENTS, HARMLESS, answering, answers_for, calling
from envs.environment import Environment
from envs.episode import Actor, NoDemonstratorError, Resolver, close, demonstrator, has_novice, play_episode
from envs.factory.rows import row_of, task_of
from envs.promises import Check, CheckFailed, Doubt, Skip, Subject
from envs.scripted import CALLS, USELESS, give_up, random_calls
from envs.taskset import MAX_ORACLE_TURNS
from envs.types import Episode, Message, StopReason, Task, ToolCall

MISTAKES = ("malformed_call", "unknown_tool", "bad_arguments", "tool_error", "tool_timeout")
HANGS_AFTER = 4.0  # an episode hangs when it takes this many times the seconds allowed for a turn


class EpisodePromises:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.slowest = ("nothing ran", 0.0)
        self.shown: dict[str, list[Episode]] = {"oracle": [], "novice": []}  # of each demonstrator, one a task
        self.measured: dict[str, dict[str, Any]] = {}  # the figures of a certificate (envs.certificate), by its row

    def checks(self) -> list[Check]:
        return [
            ("tool schemas", self.tools_are_well_described),
            ("oracle", self.oracle_solves_every_task),
            ("from disk", self.tasks_from_disk_play_the_same),
            ("novice", self.novice_is_between),
            ("chance", self.nothing_is_given_away),
            ("repeat", self.the_same_again_is_scored_the_same),
            ("bad behaviour", self.bad_behaviour_is_survived),
            ("cheats", self.cheats_pay_nothing),
            ("time", self.no_call_is_slow),
        ]

    def tools_are_well_described(self) -> str:
        names: set[str] = set()
        for task in self.subject.one_per_family():
            environment = self.subject.taskset.environment(task)
            resolve = Resolver()
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
                resolve.close(environment)
        return f"tools: {', '.join(sorted(names)) or 'none'}"

    def oracle_solves_every_task(self) -> str:
        turns: list[int] = []
        problems: list[str] = []
        for task in self.subject.tasks():
            episode, scores = self._play(task, "oracle", 0)
            if problem := _unsolved(episode, scores):
                problems.append(f"{task.id}: {problem}")
                continue
            turns.append(episode.turns)
            self.shown["oracle"].append(episode)
        self.measured["oracle"] = {"solved": len(turns), "of": self.subject.count}
        if problems:
            raise CheckFailed(f"{problems[0]}; solves {len(turns)} of {self.subject.count}")
        for task in self.subject.one_per_family():
            one, two = self._play(task, "oracle", 0), self._play(task, "oracle", 0)
            if one[0].messages != two[0].messages or one[1] != two[1]:
                raise CheckFailed(f"{task.id}: two oracle episodes differ")
        return f"solves {self.subject.count} of {self.subject.count}, {min(turns)}-{max(turns)} turns, twice the same"

    def tasks_from_disk_play_the_same(self) -> str:
        tasks = self.subject.one_per_family()
        for task in tasks:
            read = task_of(json.loads(json.dumps(row_of(task))))
            one, two = self._play(task, "oracle", 0), self._play(read, "oracle", 0)
            if one[0].messages != two[0].messages or one[1] != two[1]:
                raise CheckFailed(
                    f"{task.id}: as JSON and back it plays otherwise ({one[1]}, then {two[1]}; {_last(two[0])}): "
                    "does the environment need what JSON does not keep (tuples, integer keys)?"
                )
        return f"{len(tasks)} tasks as JSON and back"

    def novice_is_between(self) -> str:
        if not any(self._has_novice(task) for task in self.subject.one_per_family()):
            raise Skip("no novice() of its own")
        outcomes: dict[str, list[float]] = {}
        for task in self.subject.tasks():
            episode, scores = self._play(task, "novice", 1)
            outcomes.setdefault(task.family, []).append(scores["outcome"])
            self.shown["novice"].append(episode)
        shown = []
        for family, values in outcomes.items():
            mean = sum(values) / len(values)
            shown.append(f"{family} {mean:.2f}")
            # one task is no statistics: only a flat 0 or 1 over many says that the novice is no novice
            if len(values) >= 10 and mean in (0.0, 1.0):
                raise CheckFailed(f"{family}: mean outcome {mean} over {len(values)} tasks, wanted in between")
        return "mean outcome " + ", ".join(shown)

    def nothing_is_given_away(self) -> str:
        allowed = type(self.subject.taskset).chance
        shown = []
        for name in ("doing nothing", "random tools"):
            outcomes = []
            for task in self.subject.tasks():
                environment = self.subject.taskset.environment(task)
                chosen = random_calls(environment, random.Random(f"{task.id}/random"))
                actor = give_up() if name == "doing nothing" else chosen
                what = f"{name} in {task.id}"
                _, scores = self._within(what, task, environment, actor, max_turns=CALLS + 1)
                self._check_scores(task, scores)
                outcomes.append(scores["outcome"])
            mean = sum(outcomes) / len(outcomes)
            # few tasks are no statistics: two standard errors above what is allowed
            limit = allowed + 2 * math.sqrt(allowed * (1 - allowed) / len(outcomes))
            self.measured[name] = {"mean": mean, "limit": limit}
            shown.append(f"{name} {mean:.2f}")
            if mean > limit:
                raise CheckFailed(
                    f"{name} scores {mean:.2f} on {len(outcomes)} tasks, allowed are {allowed:g}: "
                    "if that is right for this family, say so with Taskset.chance"
                )
        return ", ".join(shown)

    def the_same_again_is_scored_the_same(self) -> str:
        """A task that is played twice in the same way begins with the same prompt and ends with the same scores."""
        tasks = self.subject.one_per_family()
        for task in tasks:
            (one, scored), (two, again) = ((_opening(episode), scores) for episode, scores in self._twice(task))
            if one != two:
                raise CheckFailed(f"{task.id}: played twice, it begins with other messages: {one}, then {two}")
            if scored != again:
                raise CheckFailed(f"{task.id}: the same calls, played twice, are scored {scored}, then {again}")
        return f"{len(tasks)} tasks played twice: the same prompt, the same scores"

    def _twice(self, task: Task) -> Iterator[tuple[Episode, dict[str, float]]]:
        for _ in range(2):
            environment = self.subject.taskset.environment(task)
            actor = random_calls(environment, random.Random(f"{task.id}/twice"))
            yield self._within(f"random tools in {task.id}", task, environment, actor, max_turns=CALLS + 1)

    def bad_behaviour_is_survived(self) -> str:
        counts: Counter[str] = Counter()
        for task in self.subject.one_per_family():
            for name, action in _bad_actions(self.subject.taskset.environment(task)):
                episode, scores = self._within(
                    f"{name} in {task.id}", task, self.subject.taskset.environment(task), _once(action), max_turns=3
                )
                self._check_scores(task, scores)
                counts.update(episode.counts)
                # an environment that has no tools and its own step() chooses what to call it
                own = not self.subject.taskset.environment(task).tools and self._overrides(task, "step")
                if name not in episode.counts and not (own and any(episode.counts.values())):
                    raise CheckFailed(f"{task.id}: {name} was not counted, only {dict(episode.counts)}")
                if scores["outcome"] >= 1.0:
                    raise CheckFailed(f"{task.id}: {name}, then giving up, was scored {scores}")
        return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))

    def cheats_pay_nothing(self) -> str:
        """Every cheat of ``envs.cheats`` is paid no more than giving up, or than the same calls with a plain word."""
        played, paid, raised = 0, dict[str, str](), dict[str, str]()
        for task in self.subject.one_per_family():
            said = [(name, partial(_says, text)) for name, text in answers_for(task)]
            called = [(name, partial(_calls, text)) for name, text in ARGUMENTS]
            for honestly, cheats in ((partial(_says, USELESS.content), said), (partial(_calls, HARMLESS), called)):
                honest = self._cheat(task, HARMLESS, honestly)
                for name, actor in cheats:
                    played += 1
                    try:
                        got = self._cheat(task, name, actor)
                    except CheckFailed:
                        raise
                    except Exception as error:  # the environment's own code
                        raised.setdefault(name, f"{task.id}: the cheat {name!r} raises {type(error).__name__}: {error}")
                        continue
                    if got > honest:
                        more = f"{task.id}: the cheat {name!r} is paid {got:g}, an honest failure {honest:g}"
                        paid.setdefault(name, more)
        self.measured["cheats"] = {"played": played, "paid": list(paid), "raised": list(raised)}
        if paid:
            others = f"; paid are {len(paid)}: {', '.join(paid)}" if len(paid) > 1 else ""
            raise Doubt(f"{next(iter(paid.values()))}: a policy will find it (see envs.cheats){others}")
        if raised:
            raise Doubt(f"{next(iter(raised.values()))}: such an episode is masked, which a policy may come to use")
        return f"{played} played, none is paid more than an honest failure"

    def _cheat(self, task: Task, name: str, actor: Callable[[Environment], Actor]) -> float:
        environment = self.subject.taskset.environment(task)
        late: list[Actor] = []  # some environments learn their tools when they start

        def act(history: Sequence[Message]) -> Message:
            if not late:
                late.append(actor(environment))
            return late[0](history)

        _, scores = self._within(f"the cheat {name!r} in {task.id}", task, environment, act)
        self._check_scores(task, scores)
        return float(scores["outcome"])

    def no_call_is_slow(self) -> str:
        what, seconds = self.slowest
        if seconds > self.subject.step_s:
            raise CheckFailed(f"{what} took {seconds:.2f} s, allowed are {self.subject.step_s:g} s")
        return f"slowest: {seconds * 1000:.1f} ms ({what})"

    # -- helpers -----------------------------------------------------------------------------

    def _overrides(self, task: Task, method: str) -> bool:
        environment = self.subject.taskset.environment(task)
        try:
            return getattr(type(environment), method) is not getattr(Environment, method)
        finally:
            close(environment)

    def _has_novice(self, task: Task) -> bool:
        environment = self.subject.taskset.environment(task)
        try:
            return has_novice(environment)
        finally:
            close(environment)

    def _play(self, task: Task, who: str, seed: int) -> tuple[Episode, dict[str, float]]:
        environment = self.subject.taskset.environment(task)
        act = demonstrator(environment, None if who == "oracle" else random.Random(f"{task.id}/{seed}"))
        started = time.monotonic()
        try:
            episode, scores = self._within(f"{who} in {task.id}", task, environment, act)
        except NoDemonstratorError as error:
            raise Skip(f"{task.family} has no oracle ({error}): nothing proves that its tasks can be solved") from error
        seconds = (time.monotonic() - started) / max(1, episode.turns)
        if seconds > self.slowest[1]:
            self.slowest = (f"{who} in {task.id}, per turn", seconds)
        self._check_scores(task, scores)
        return episode, scores

    def _within(
        self, what: str, task: Task, environment: Environment, actor: Actor, max_turns: int = MAX_ORACLE_TURNS
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
        thread.join(HANGS_AFTER * self.subject.step_s)
        if errors:
            raise errors[0]
        if not box:
            raise CheckFailed(f"{what}: no end after {HANGS_AFTER * self.subject.step_s:g} s, it hangs")
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


def _says(text: str, environment: Environment) -> Actor:
    return answering(text)


def _calls(text: str, environment: Environment) -> Actor:
    return calling(environment, text)


def _opening(episode: Episode) -> list[Message]:
    """What the policy sees before it says anything."""
    return list(takewhile(lambda message: message.role != "assistant", episode.messages))


def _unsolved(episode: Episode, scores: dict[str, float]) -> str:
    """What is wrong with an episode of the oracle; "" when it solved its task."""
    if scores["outcome"] < 1.0:
        return f"outcome {scores['outcome']}; {_last(episode)}"
    if episode.stop_reason is not StopReason.ANSWERED:
        return f"solved, but the episode did not end ({episode.stop_reason})"
    mistakes = {name: n for name, n in episode.counts.items() if name in MISTAKES}
    return f"the oracle's calls were counted as mistakes: {mistakes}" if mistakes else ""


def _bad_actions(environment: Environment) -> list[tuple[str, Message]]:
    """One message for each kind of mistake, with the name it must be counted under."""
    actions = [
        ("malformed_call", Message("assistant", parse_error="the call is not closed.")),
        ("unknown_tool", Message("assistant", tool_calls=(ToolCall("no_such_tool", {"a": 1}),))),
    ]
    resolve = Resolver()
    try:
        resolve(environment.reset())  # some learn their tools when they start
        for name in environment.tools:
            call = ToolCall(name, {"no_such_argument": 1})
            actions.append(("bad_arguments", Message("assistant", tool_calls=(call,))))
    finally:
        resolve.close(environment)
    return actions


def _once(action: Message) -> Actor:
    """Does one thing, then gives up."""
    actions = iter([action])
    return lambda _: next(actions, USELESS)


def _last(episode: Episode) -> str:
    message = episode.messages[-1]
    return f"last message: {message.role}: {message.content[:200]!r}"
