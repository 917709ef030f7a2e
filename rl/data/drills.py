"""Drills for the base policy: what RL cannot teach a small model in minutes.

Recall (the one matching fact among several, then repeated), copying, and small arithmetic, as short
system/user/assistant dialogues in the same encoding as everything else. Purely synthetic; no evaluation task
of any environment is in here, because no environment is asked.
"""

from __future__ import annotations

import random

from envs.types import Message
from envs.words import CITIES, COLORS, FIRST_NUMBER, INSTRUMENTS, JOBS, LAST_NUMBER

_WORDS = (*CITIES, *COLORS, *INSTRUMENTS, *JOBS)
_KINDS = ("book", "person", "account", "order", "customer")

_SYSTEM = {
    "recall": "Answer from the facts.",
    "copy": "Repeat what stands in quotes.",
    "arithmetic": "Compute.",
}


def _entity(rng: random.Random) -> str:
    return f"{rng.choice(_KINDS)} {rng.randint(FIRST_NUMBER, LAST_NUMBER)}"


def recall(rng: random.Random, max_facts: int) -> list[Message]:
    """``n`` facts, then a question about one of them after the other: ``"book 472" is "Oslo".``"""
    n = rng.randint(1, max_facts)
    keys: list[str] = []
    while len(keys) < n:
        key = _entity(rng)
        if key not in keys:
            keys.append(key)
    as_number = rng.random() < 0.5
    values = [str(rng.randint(FIRST_NUMBER, LAST_NUMBER)) if as_number else rng.choice(_WORDS) for _ in keys]
    facts = "\n".join(f'"{k}" is "{v}".' for k, v in zip(keys, values, strict=True))
    order = rng.sample(range(n), min(n, 4))
    messages = [Message("system", _SYSTEM["recall"])]
    for i, j in enumerate(order):
        question = f'What is "{keys[j]}"?'
        messages.append(Message("user", f"{facts}\n{question}" if i == 0 else question))
        messages.append(Message("assistant", values[j]))
    return messages


def copying(rng: random.Random) -> list[Message]:
    """A phrase in quotes is repeated: words, numbers, or both."""
    parts = [rng.choice(_WORDS) if rng.random() < 0.5 else str(rng.randint(0, 9999)) for _ in range(rng.randint(1, 6))]
    phrase = " ".join(parts)
    return [Message("system", _SYSTEM["copy"]), Message("user", f'"{phrase}"'), Message("assistant", phrase)]


def arithmetic(rng: random.Random) -> list[Message]:
    """One-digit sums, differences and products, several in one dialogue."""
    messages = [Message("system", _SYSTEM["arithmetic"])]
    for _ in range(rng.randint(2, 6)):
        a, b, op = rng.randint(0, 20), rng.randint(0, 12), rng.choice("+-*")
        result = {"+": a + b, "-": a - b, "*": a * b}[op]
        messages += [Message("user", f"{a} {op} {b}"), Message("assistant", str(result))]
    return messages


def drill(seed: int, index: int, max_facts: int) -> tuple[str, list[Message]]:
    """Drill number ``index``: its kind and its messages; deterministic in (seed, index)."""
    rng = random.Random(f"drill/{seed}/{index}")
    kind = rng.choices(["recall", "copy", "arithmetic"], [0.6, 0.25, 0.15])[0]
    if kind == "recall":
        return kind, recall(rng, max_facts)
    if kind == "copy":
        return kind, copying(rng)
    return kind, arithmetic(rng)
