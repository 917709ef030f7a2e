"""Language consistency: the share of the target language's words in the thinking (a reward of DeepSeek-R1, which keeps
a chain of thought from mixing languages).

    p = words of the target language / words          in [0, 1]; 1 where there are no words

What is no language is left out: code blocks and inline code, formulas between dollar signs or ``\\( \\)`` and
``\\[ \\]``, LaTeX commands, addresses, anything with a digit, single Latin letters (names of variables). A word's
language is decided

* by its script where one tells: Hangul is Korean, kana Japanese, Han Chinese (Japanese in a sentence that has kana),
  Thai, Greek, Hebrew, Devanagari (Hindi), Cyrillic (Russian), Arabic. One character of Han, kana or Thai is one word;
* in Latin script by its sentence: whichever language of ``STOP_WORDS`` has the most of its stop words there. A sentence
  in which no language leads counts as the target if that is written in Latin script.

Limits. Languages that share a script with one that is named here are taken for it (Ukrainian for Russian, Persian for
Arabic), and Latin-script languages without a list for the target. A foreign word inside a sentence of the target goes
unseen, as do sentences without a stop word. A Chinese character weighs as much as an English word, so that mixtures
of the two lean towards Chinese. Code blocks and formulas are not measured.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from envs.types import Episode
from rewards.part import LengthUse, RewardPart, Scored, Scores
from rewards.schedule import Schedule

_LISTS = {
    "en": (
        "all an and are as at be because but by can could do each for from has have he how i if in is it let me more "
        "my no not now of on or our she should so that the their then there they this to was we were what when which "
        "will with would you your"
    ),
    "de": (
        "aber also an auch auf aus bei dann das dass dem den der des die ein eine einem einen er es für hat "
        "ich im ist kann man mit muss nach nicht noch nur oder sich sie sind so und weil wenn werden wie wir "
        "wird zu über"
    ),
    "fr": (
        "alors au aux avec ce ces cette comme dans de des donc du elle est et fait il je la le les leur mais "
        "ne nous ou où par pas peut plus pour que qui se si sont sur un une vous être"
    ),
    "es": (
        "al como con cuando de del donde el en entonces entre es esta este hay la las le lo los me muy más no "
        "nosotros o para pero por porque que se sin sobre son su sus sí también un una y ya yo"
    ),
    "it": (
        "alla allora anche che come con cui da dei del della delle di e ed essere gli ha i il in io la le lo "
        "ma nel noi non per perché più poi questa questo quindi se si sono un una è"
    ),
    "pt": (
        "a ao as até com como da das de do dos e em então eu foi isso já mais mas muito na no nos não nós o "
        "os ou para pela pelo por porque quando que se são só também um uma você é"
    ),
}
STOP_WORDS: dict[str, frozenset[str]] = {language: frozenset(text.split()) for language, text in _LISTS.items()}

_SCRIPTS = (
    ("ko", r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+"),
    ("ja", r"[\u3040-\u30ff\u31f0-\u31ff]"),
    ("zh", r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"),
    ("th", r"[\u0e00-\u0e7f]"),
    ("el", r"[\u0370-\u03ff\u1f00-\u1fff]+"),
    ("ru", r"[\u0400-\u052f]+"),
    ("he", r"[\u0590-\u05ff]+"),
    ("ar", r"[\u0600-\u06ff\u0750-\u077f]+"),
    ("hi", r"[\u0900-\u097f]+"),
    ("latin", r"[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff]+(?:['’][A-Za-z\u00c0-\u024f]+)*"),
)
LANGUAGES = (*STOP_WORDS, *(name for name, _ in _SCRIPTS if name != "latin"))
_WORD = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _SCRIPTS))
# All of it takes linear time, whatever a policy writes: a formula that is not closed within 1000 characters is text,
# and words are looked at from their beginning only.
_NO_LANGUAGE = re.compile(
    r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\\\(.{0,1000}?\\\)|\\\[.{0,1000}?\\\]|\\[A-Za-z]+"
    r"|(?<![A-Za-z0-9_])(?:[A-Za-z]+://\S+|[A-Za-z_]*\d[A-Za-z0-9_]*)",
    re.DOTALL,
)
# After a full stop there is a space, or the next sentence is in a script that needs none
_SENTENCE = re.compile(r"[.!?;:](?=\s|$)|[。！？；：\n]")


def language_counts(text: str, latin: str | None = None) -> Counter[str]:
    """Words of ``text`` by language. Latin words whose sentence does not tell count for ``latin``, or as "latin"."""
    counts: Counter[str] = Counter()
    for sentence in _SENTENCE.split(_NO_LANGUAGE.sub(" ", text)):
        found = [(match.lastgroup or "", match[0]) for match in _WORD.finditer(sentence)]
        by_script = Counter(name for name, word in found if name != "latin")
        if by_script["ja"]:  # Japanese writes Han among its kana
            by_script["ja"] += by_script.pop("zh", 0)
        counts.update(by_script)
        letters = [word.lower() for name, word in found if name == "latin" and len(word) > 1]
        if letters:
            counts[_leading(letters) or latin or "latin"] += len(letters)
    return +counts


def _leading(letters: list[str]) -> str | None:
    """The language with more stop words among ``letters`` than any other, if there is one."""
    (first, most), (_, second) = Counter(
        {language: sum(word in stop for word in letters) for language, stop in STOP_WORDS.items()}
    ).most_common(2)
    return first if most > second else None


def main_language(text: str) -> str | None:
    """The language with the most words in ``text``, None where none can be told."""
    counts = language_counts(text)
    counts.pop("latin", None)
    return counts.most_common(1)[0][0] if counts else None


@dataclass(frozen=True, kw_only=True)
class LanguageConsistency(RewardPart):
    """p of the module's formula; the detail ``words`` is how many words were counted."""

    name: str = "language"
    weight: float | Schedule = 0.1  # w_i, or {start, end, steps}: linear in the policy version
    bounds: tuple[float, float] = (0.0, 1.0)  # least and largest value before the weight; beyond them it is masked
    isolate: bool | None = False  # linear in the text
    language: str = "prompt"  # the target: a code (en, zh, de, …), or prompt: that of the user message
    default: str = "en"  # the target where the prompt's language cannot be told (a formula, one word)
    where: str = "thinking"  # what is measured: thinking | answer (the text outside it) | all

    def __post_init__(self) -> None:
        for field_name, also in (("language", ("prompt",)), ("default", ())):
            value = getattr(self, field_name)
            if value not in (*LANGUAGES, *also):
                raise ValueError(f"language.{field_name}={value!r}: choose one of {', '.join((*also, *LANGUAGES))}")
        if self.where not in ("thinking", "answer", "all"):
            raise ValueError(f"language.where={self.where!r}: choose thinking, answer or all")

    def __call__(self, episode: Episode, scores: Scores) -> Scored:
        target = self.language
        if target == "prompt":
            asked = [m.content for m in episode.task.prompt if m.role in ("user", "developer")]
            target = (main_language(asked[-1]) if asked else None) or self.default
        said = ""
        for message in episode.sampled:
            if self.where != "answer":
                said += f"{message.reasoning or ''}\n"
            if self.where != "thinking":
                said += f"{message.content}\n"
        counts = language_counts(said, target if target in STOP_WORDS else None)
        total = sum(counts.values())
        return Scored(counts[target] / total if total else 1.0, {"words": total})

    def length_use(self) -> LengthUse:
        return LengthUse("none")
