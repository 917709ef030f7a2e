"""Demonstrations: an environment's own oracle (or its imperfect novice) acts, tokens come out with a loss mask.

They serve three purposes: documents for the base policy, the cold start (V3.2 sec. 3.2.2: right formats, doubtful
decisions), and the proof that every task is solvable. Environments are really run: each tool result in a
demonstration is what the tool answered.

What is kept: the oracle's episodes with the full outcome, and the novice's that ended by themselves, whatever their
outcome. ``Dropped`` counts the others.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from envs.episode import NoDemonstratorError, close, demonstrator, has_demonstrator, has_novice, play_episode
from envs.taskset import MAX_ORACLE_TURNS
from envs.types import Message, StopReason
from rl.types import TokenStream

if TYPE_CHECKING:
    from envs.environment import Environment
    from envs.taskset import Taskset
    from envs.types import Task
    from rl.chat.renderer import Renderer
    from rl.data.corpus import Document

log = logging.getLogger(__name__)
FULL = 1.0  # outcome that an oracle's demonstration must have

# Why there is no demonstration of a task, in the order in which they are told.
NO_ORACLE, WRONG, CUT = "without an oracle", "by the oracle and not solved", "cut by a turn or token limit"
UNRENDERED, FAILED = "that the chat format cannot write", "failed"
BEGUN = "whose prompt begins the answer (coldstart.as_rollouts=true shows them)"


@dataclass(frozen=True)
class Demo:
    """One demonstrated episode; ``outcome`` is the environment's score of it, ``turns`` how many messages were the
    demonstrator's: the last assistant messages, where a prompt has examples of its own."""

    task_id: str
    family: str
    messages: tuple[Message, ...]
    outcome: float
    turns: int


@dataclass
class Dropped:
    """How many tasks have no demonstration that is kept, by reason, and an example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, what: str) -> None:
        self.counts[reason] += 1
        self.example.setdefault(reason, what)

    def words(self) -> str:
        """``12 by the oracle and not solved (search/train/0/3: outcome 0.0), …``; "" for none."""
        order = (NO_ORACLE, WRONG, CUT, UNRENDERED, BEGUN, FAILED)
        return ", ".join(f"{self.counts[r]:,} {r} ({self.example[r]})" for r in order if self.counts[r])

    def check(self, asked: int) -> None:
        """Raise DemonstrationError when more than half of ``asked`` failed."""
        if self.counts[FAILED] > asked // 2:
            raise DemonstrationError(
                f"{self.counts[FAILED]} of {asked} demonstrations failed, the first one: {self.example[FAILED]}; run "
                "envs-check on this environment, or set coldstart.enabled=false"
            )


class DemonstrationError(RuntimeError):
    """Most demonstrations failed: the environment is broken, not a task."""


def demonstrated(taskset: Taskset, wanted: int) -> list[int]:
    """Indices of the tasks that are demonstrated: the first ``wanted`` in the order of training, each once. A second
    demonstration of a task would be the same again."""
    return list(dict.fromkeys(taskset.index_at(turn) for turn in range(min(wanted, len(taskset)))))


def fault(oracle: bool, ended: bool, outcome: float) -> str | None:
    """Why an episode is no demonstration: a reason of ``Dropped``; None for one that is kept."""
    if not ended:
        return CUT
    return WRONG if oracle and outcome < FULL else None


def acts_imperfectly(environment: Environment, rng: random.Random, novice_share: float) -> bool:
    """Whether the novice demonstrates; where there is none it is the oracle, held to the oracle's outcome."""
    return rng.random() < novice_share and has_novice(environment)


def demonstrations(
    taskset: Taskset,
    indices: Sequence[int],
    novice_share: float,
    seed: int,
    *,
    threads: int = 4,
    dropped: Dropped | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Demo]:
    """Demonstrations of the tasks at ``indices``, in order; deterministic in all arguments.

    A share ``novice_share`` is by the imperfect demonstrator, the others by the oracle. Threads overlap the
    waiting for sandboxed processes; the order of the results does not depend on them. A task without a demonstration
    that is kept (see above), or whose environment or demonstrator raises, is left out and counted in ``dropped``.
    ``tick`` is called after every task.

    Raises:
        DemonstrationError: more than half of them raised; says what the first one did.
    """
    left_out = Dropped() if dropped is None else dropped

    def one(index: int) -> Demo | tuple[str, str]:
        try:
            return play(taskset.task(index))
        except NoDemonstratorError as error:
            return NO_ORACLE, str(error)
        except Exception as error:
            return FAILED, f"task {index}: {type(error).__name__}: {error}"

    def play(task: Task) -> Demo | tuple[str, str]:
        if task.prompt and task.prompt[-1].prefix:
            return BEGUN, task.id
        env = taskset.environment(task)
        rng = random.Random(f"demo/{seed}/{task.id}")
        imperfect = acts_imperfectly(env, rng, novice_share)
        if not has_demonstrator(env):
            close(env)
            raise NoDemonstratorError(f"{type(env).__name__} has no oracle")
        actor = demonstrator(env, rng if imperfect else None)
        episode, scores = play_episode(task, env, actor, MAX_ORACLE_TURNS)
        outcome = float(scores["outcome"])
        problem = fault(not imperfect, episode.stop_reason is StopReason.ANSWERED, outcome)
        if problem is not None:
            return problem, f"{task.id}: {episode.turns} turns, outcome {outcome:g}"
        return Demo(task.id, task.family, episode.messages, outcome, episode.turns)

    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(one, indices):
            tick()
            if isinstance(result, Demo):
                yield result
                continue
            left_out.add(*result)
            if result[0] == FAILED:
                log.warning("no demonstration of %s", result[1])
                left_out.check(len(indices))


def thought(message: Message) -> Message:
    """A demonstrator's message as a policy would write it in thinking mode: without reasoning it thinks nothing, which
    is an empty thinking block."""
    return replace(message, reasoning="") if message.role == "assistant" and message.reasoning is None else message


def tokenise(
    renderer: Renderer, messages: Sequence[Message], *, thinking: bool, turns: int | None = None
) -> list[TokenStream]:
    """Tokens int32 [T] and loss mask bool [T] (True on what the demonstrator wrote) of one demonstrated episode.

    Built as a ``Session`` builds a rollout: the prompt ends with the generation prefix, each assistant message is the
    span that a policy would have sampled, up to its stop token, and what the environment says is appended with mask
    False. Where the new messages change the text before them (a user message drops the reasoning before it) another
    stream begins. ``turns``: how many of the assistant messages, from the end, were demonstrated; None: all.

    Raises:
        ValueError: the chat format cannot write a message, or not behind what stands before it.
    """
    said = [i for i, message in enumerate(messages) if message.role == "assistant"]
    said = said if turns is None else said[len(said) - turns :]
    if thinking:
        messages = [thought(message) if i in said else message for i, message in enumerate(messages)]
    streams: list[TokenStream] = []
    tokens: list[int] = []
    mask: list[bool] = []
    for i in said:
        before = renderer.render(messages[:i], thinking=thinking)
        spoken = written(renderer, messages[:i], messages[i], thinking=thinking, before=before)
        if before[: len(tokens)] != tokens:
            streams.append(_stream(tokens, mask))
            tokens, mask = [], []
        mask += [False] * (len(before) - len(tokens)) + [True] * len(spoken)
        tokens = before + spoken
    return [*streams, _stream(tokens, mask)]


def written(
    renderer: Renderer, context: Sequence[Message], message: Message, *, thinking: bool, before: list[int] | None = None
) -> list[int]:
    """The tokens that a policy would sample to say ``message`` behind ``context``, the stop token included.

    Sampling ends at the first stop token; what a template writes behind it (a line end, the end of the text) is
    nobody's. Where a template ends a message only by what begins the next one, that token is added. ``before``: the
    tokens of ``context``, if known. Where the context ends with an unfinished message, ``message`` is all of it, and
    the tokens are those behind what was given.

    Raises:
        ValueError: the renderer cannot write it there, its text holds a stop token, or it does not begin with what was
            given.
    """
    if context and context[-1].prefix:
        given = renderer.prefix_tokens(context[-1], thinking=thinking)
        whole = written(renderer, context[:-1], message, thinking=thinking)
        if whole[: len(given)] != given:
            raise ValueError(f"message {len(context) - 1} does not begin with the tokens of what was given of it")
        return whole[len(given) :]
    before = renderer.render(context, thinking=thinking) if before is None else before
    after = renderer.render([*context, message], thinking=thinking)
    if after[: len(before)] != before:
        raise ValueError(f"message {len(context)} cannot be rendered behind its prompt")
    spoken = after[len(before) :]
    stops = [i for i, token in enumerate(spoken) if token in renderer.stop_token_ids]
    end = renderer.stop_of(message)
    if not stops:
        return [*spoken, end]
    if stops[0] != max((i for i in stops if spoken[i] == end), default=-1):
        raise ValueError(f"the text of message {len(context)} holds a token at which sampling stops")
    return spoken[: stops[0] + 1]


def _stream(tokens: list[int], mask: list[bool]) -> TokenStream:
    return TokenStream(np.asarray(tokens, np.int32), np.asarray(mask, bool))


def save_demos(path: Path, demos: Sequence[tuple[Demo, Sequence[Document]]]) -> None:
    """The demonstrations as a ``datasets`` directory, a row for each of their token streams: readable messages, token
    truth and outcome."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()  # the run shows its own
    Dataset.from_list(
        [
            {
                "task_id": demo.task_id,
                "family": demo.family,
                "outcome": demo.outcome,
                "messages": json.dumps([m.to_json() for m in demo.messages], ensure_ascii=False),
                "tokens": document.tokens,
                "loss_mask": document.loss_mask,
            }
            for demo, documents in demos
            for document in documents
        ]
    ).save_to_disk(str(path))
