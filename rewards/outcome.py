"""The rule-based outcome reward of DeepSeek-V3.2: whether the result is right.

Who says so is ``kind``. With ``environment`` it is the family's own verifier, whatever it looks at (an answer, hidden
tests, the final state): p = scores[key]. The other kinds score the final answer themselves against ``task.answer`` and
what the task's metadata say, by the functions of ``envs.answer_checks`` (``exact``, ``numeric``, ``math``,
``choice``, ``unit_tests``).
An episode without a final answer has p = 0 there. The detail ``agrees`` tells whether the environment's own outcome
is the same; evaluation reads the environment's, so give a data set its verifier at ``env.reward``.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.types import Episode
from rewards.part import Given, LengthUse, RewardError, RewardPart, Scored, Scores, digest

KINDS = ("environment", "exact", "numeric", "math", "choice", "unit_tests")


@dataclass(frozen=True, kw_only=True)
class Outcome(RewardPart):
    """p = the verdict, in [0, 1].

    Raises:
        RewardError: the environment's ``score`` did not return ``key``.
        ValueError: the task's own answer or tests cannot be read.
    """

    name: str = "outcome"
    bounds: tuple[float, float] = (0.0, 1.0)  # least and largest value before the weight; beyond them it is masked
    isolate: bool | None = False  # answers that can do harm go to the checker's process or the sandbox
    kind: str = "environment"  # environment (its own score) | exact | numeric | math | choice | unit_tests
    key: str = "outcome"  # kind=environment: which of the environment's scores counts

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"outcome.kind={self.kind!r}: choose one of {', '.join(KINDS)}")

    def __call__(self, episode: Episode, scores: Scores) -> Given:
        if self.kind != "environment":
            return self._judged(episode, scores)
        if self.key not in scores:
            raise RewardError(
                self.name,
                f"score() of family '{episode.task.family}' returned {sorted(scores)} without '{self.key}'; "
                f"return {{'{self.key}': <0..1>}}",
            )
        return float(scores[self.key])

    def cache_key(self, episode: Episode, scores: Scores) -> str:
        """With a verifier, task and answer decide, and the scores by ``agrees``."""
        task = episode.task
        return digest(task.family, task.id, task.answer, dict(task.metadata), episode.answer, dict(scores))

    def length_use(self) -> LengthUse:
        return LengthUse("none")

    def _judged(self, episode: Episode, scores: Scores) -> Scored:
        from envs.answer_checks import VERIFIERS  # late: it brings the sandbox along

        task, answer = episode.task, episode.answer
        row = {**task.metadata, **dict(task.metadata.get("row", {})), "answer": task.answer}
        value = 0.0
        details: dict[str, float] = {}
        if answer is not None:
            given = VERIFIERS[self.kind](answer, row)
            details = dict(given) if isinstance(given, dict) else {"outcome": given}
            value = details.pop("outcome")
        if self.key in scores:
            details["agrees"] = float(scores[self.key] == value)
        return Scored(value, details)
