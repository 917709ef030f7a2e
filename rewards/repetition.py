"""Repetition: how much of what the policy wrote it had written before.

With g = all n-grams of words in the thinking and the text of the episode's messages, message by message,

    r = 1 − |distinct g| / |g|            p = −max(0, r − free) / (1 − free)

so that p = 0 up to a share of ``free`` repeated n-grams, and p → −1 when one n-gram fills everything. A word is a run
of letters and digits, a single other sign, or one character of a script that is written without spaces. Texts with
fewer than n words have no n-gram and p = 0.

r holds no token count, but long texts repeat more than short ones whatever they say, which ``length_use`` tells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from envs.types import Episode
from rewards.part import LengthUse, RewardPart, Scored, Scores
from rewards.schedule import Schedule

# Thai, kana, Han (with extensions): one character, one word. Then a run of letters and digits, then anything else.
_WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|[^\W_]+|[^\w\s]|_")


def words(text: str) -> list[str]:
    """The words of ``text``, lower case."""
    return _WORD.findall(text.lower())


def repeated_share(texts: list[str], n: int) -> float:
    """r over the n-grams of ``texts``; n-grams do not reach from one text into the next."""
    total, distinct = 0, set()
    for text in texts:
        found = words(text)
        for i in range(len(found) - n + 1):
            distinct.add(tuple(found[i : i + n]))
        total += max(0, len(found) - n + 1)
    return 1.0 - len(distinct) / total if total else 0.0


@dataclass(frozen=True, kw_only=True)
class Repetition(RewardPart):
    """p of the module's formula, in [−1, 0]; the detail ``share`` is r."""

    name: str = "repetition"
    weight: float | Schedule = 0.1  # w_i, or {start, end, steps}: linear in the policy version
    bounds: tuple[float, float] = (-1.0, 0.0)  # least and largest value before the weight; beyond them it is masked
    isolate: bool | None = False  # linear in the text
    n: int = 8  # words of an n-gram; shorter ones repeat in any honest text
    free: float = 0.1  # share of repeated n-grams that costs nothing

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"repetition.n={self.n}: an n-gram has at least 1 word")
        if not 0 <= self.free < 1:
            raise ValueError(f"repetition.free={self.free}: must be in [0, 1)")

    def __call__(self, episode: Episode, scores: Scores) -> Scored:
        texts = [text for m in episode.sampled for text in (m.reasoning or "", m.content) if text]
        share = repeated_share(texts, self.n)
        # "0.0 -": without a repetition the value is 0, not −0
        return Scored(0.0 - max(0.0, share - self.free) / (1.0 - self.free), {"share": share})

    def length_use(self) -> LengthUse:
        return LengthUse("indirect", f"a share of repeated {self.n}-grams of words; it rises with the length of a text")
