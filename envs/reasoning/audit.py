"""``python -m envs.reasoning.audit [kind …] [seeds=24]``: are reasoning-gym's data sets fit to be trained on?

For each kind and level in use: the gold answer scores 1; nonsense and the question score less; the scorer raises for
nothing of that; no answer is right too often; making an entry is quick. Prints one line for each kind and level; exit
code 1 when something failed. ``gym.py`` says which kinds are used, and why the others are not.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from envs.reasoning.gym_questions import KINDS, check_package, gym_score, make_data_set, make_entry

NONSENSE = ("", "zzz", "I do not know.", "[]", "answer", "( 1", "\\boxed{", "None")
USUAL_SHARE = 0.4  # the most frequent answer may be right for at most this share of entries (of 20 or more)
MAKE_S = 0.1  # CPU seconds for an entry, on average


@dataclass(frozen=True)
class Audit:
    """What was seen of one kind at one level. ``problems`` is empty when it may be used."""

    kind: str
    level: int
    entries: int
    distinct: int
    usual_share: float
    make_s: float
    problems: tuple[str, ...]


def audit(kind: str, level: int, seeds: Sequence[int]) -> Audit:
    """Makes one entry for each seed and tries answers on it."""
    problems: list[str] = []
    answers, questions = [], set()
    make_data_set(kind, level, seeds[0])  # imports what it needs, which is not an entry's time
    started = time.process_time()
    for seed in seeds:
        make_entry(kind, level, seed)
    make_s = (time.process_time() - started) / len(seeds)
    for seed in seeds:
        _, entry = make_entry(kind, level, seed)
        answers.append(str(entry["answer"]))
        questions.add(entry["question"])
        score = gym_score(kind, level, seed, answers[-1])
        if score != 1.0:
            problems.append(f"seed {seed}: the gold answer {answers[-1][:60]!r} scores {score}")
        for text in (*NONSENSE, entry["question"]):
            try:
                score = gym_score(kind, level, seed, text)
            except Exception as error:
                problems.append(f"seed {seed}: {text[:30]!r} makes the scorer raise {type(error).__name__}: {error}")
                continue
            if score >= 1.0:
                problems.append(f"seed {seed}: {text[:30]!r} scores {score}")
    share = Counter(answers).most_common(1)[0][1] / len(answers)
    if len(answers) >= 20 and share > USUAL_SHARE:
        problems.append(f"one answer is right for {share:.0%} of the entries")
    if make_s > MAKE_S:
        problems.append(f"an entry takes {make_s:.2f} s to make")
    return Audit(kind, level, len(answers), len(questions), share, make_s, tuple(problems))


def main(argv: Sequence[str]) -> int:
    check_package()
    settings = dict(word.split("=", 1) for word in argv if "=" in word)
    kinds = [word for word in argv if "=" not in word] or sorted(KINDS)
    failed = 0
    for kind in kinds:
        for level in KINDS[kind]:
            found = audit(kind, level, range(int(settings.get("seeds", 24))))
            failed += bool(found.problems)
            print(
                f"{kind:26s} level {level}  distinct {found.distinct}/{found.entries}  usual answer "
                f"{found.usual_share:4.0%}  "
                f"{1000 * found.make_s:6.1f} ms  {'; '.join(found.problems[:3]) or 'ok'}",
                flush=True,
            )
    print(f"{failed} of {sum(len(KINDS[kind]) for kind in kinds)} kinds and levels failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
