"""A language model in the roles of DeepSeekMath-V2: prover, refiner, verifier, meta-verifier.

Each method asks for n independent answers in one call and gives them as they could be read, so ``ok`` has to be looked
at. A truncated answer is not ok, whatever it says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from envs.proof.texts import Evaluation, Generation, parse_evaluation, parse_generation, parse_meta
from envs.types import Message
from rewards.judge import Judge
from rewards.verification import ProofPrompts

_CUT_OFF = "cut off before it ended: raise max_tokens"


@dataclass(frozen=True)
class ProofRoles:
    """All methods raise ``rewards.judge.JudgeError`` when the model cannot be asked."""

    judge: Judge
    prompts: ProofPrompts
    max_tokens: int | None = None  # of one answer; None: the judge's own
    temperature: float | None = 1.0  # None: the judge's own; votes of a greedy judge are one vote

    async def prove(self, problem: str, n: int) -> list[Generation]:
        """n attempts at ``problem``."""
        return await self._generations(self.prompts.prove(problem), n)

    async def refine(self, problem: str, output: str, critiques: Sequence[str], n: int) -> list[Generation]:
        """n better versions of the solution ``output``, given evaluations of it."""
        return await self._generations(self.prompts.refine(problem, output, critiques), n)

    async def verify(self, problem: str, solution: str, n: int) -> list[Evaluation]:
        """n evaluations of ``solution``."""
        return await self._evaluations(self.prompts.verify(problem, solution), n, parse_evaluation)

    async def assess(self, problem: str, solution: str, analysis: str, n: int) -> list[Evaluation]:
        """n ratings of the evaluation ``analysis`` of ``solution``."""
        return await self._evaluations(self.prompts.meta(problem, solution, analysis), n, parse_meta)

    async def _generations(self, messages: Sequence[Message], n: int) -> list[Generation]:
        texts = await self._texts(messages, n)
        return [Generation(False, problem=_CUT_OFF) if text is None else parse_generation(text) for text in texts]

    async def _evaluations(
        self, messages: Sequence[Message], n: int, parse: Callable[[str], Evaluation]
    ) -> list[Evaluation]:
        texts = await self._texts(messages, n)
        return [Evaluation(False, problem=_CUT_OFF) if text is None else parse(text) for text in texts]

    async def _texts(self, messages: Sequence[Message], n: int) -> list[str | None]:
        """The answers' texts without the thinking; None where one was truncated."""
        answers = await self.judge.complete(messages, n=n, max_tokens=self.max_tokens, temperature=self.temperature)
        return [answer.text if answer.finish_reason == "stop" else None for answer in answers]
