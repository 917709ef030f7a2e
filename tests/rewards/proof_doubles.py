"""A judge with a script, for the proof rewards: it answers by role, records what it was asked, and can misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from envs.types import Message
from rewards.judge import Completion, JudgeError


@dataclass(frozen=True)
class ScriptedJudge:
    """Reads the role from ShortPrompts' system message. ``cut_off``: its answers hit the token limit."""

    verdicts: Sequence[str] = ()  # answers to "Verify."
    ratings: Sequence[str] = ()  # answers to "Assess."
    proofs: Sequence[str] = ()  # answers to "Prove."
    refined: Sequence[str] = ()  # answers to "Refine."
    fails: tuple[str, ...] = ()  # roles in which it raises JudgeError
    cut_off: bool = False
    asked: list[tuple[str, str, int]] = field(default_factory=list)  # role, user message, n
    most: list[int] = field(default_factory=lambda: [0, 0])  # calls under way now, and at most

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Completion]:
        system, user = messages
        self.asked.append((system.content, user.content, n))
        self.most[0] += 1
        self.most[1] = max(self.most)
        await asyncio.sleep(0)
        self.most[0] -= 1
        if system.content in self.fails:
            raise JudgeError("no judge here")
        scripts = {"Verify.": self.verdicts, "Assess.": self.ratings, "Prove.": self.proofs, "Refine.": self.refined}
        script = scripts[system.content]
        reason = "length" if self.cut_off else "stop"
        return [Completion(script[i % len(script)], None, reason, 1, 1) for i in range(n)]
