"""Whether a question can be read: the faults of grammar and form that a program can see.

    flaws("Which of of the two is a ancient city ?")    ["doubled word", "a before a vowel", "space before ?"]

It sees no wrong meaning. What is refused here was made of a text that the rules of the factory did not foresee.
"""

from __future__ import annotations

import re

MAX_WORDS, MAX_SENTENCE, MIN_WORDS = 75, 48, 6

# Before these "an" is right although no vowel is written first, or "a" although one is.
_AN = re.compile(r"(?i)^(?:[aeiou]|hour|heir|honou?r|honest|[FHLMNRSX](?:[A-Z]|\b)|8|11\b|18\b)")
_A = re.compile(
    r"(?i)^(?:uni(?!n|m)|eu|ewe|use|usu|usa|utop|uto|ur[aeio]|ub[aeiou]|ukr|uga|one\b|once\b|one-|o[uU]i)|^U\.?[A-Z]"
)
_ARTICLE = re.compile(r"\b([Aa]n?) ([\w.]+)")
_DANGLING = "of in on at by for from the a an and or with whose into between under during than"
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("doubled word", re.compile(r"(?i)(?<![\w-])(\w[\w.'’-]*?)\.? \1(?![\w-])")),
    ("two articles", re.compile(r"(?i)\b(?:the|a|an|his|her|its) (?:the|a|an|this|that)\b(?! (?:the|a)\b)")),
    ("two verbs", re.compile(r"\b(?:is|was|are|were) (?:is|was|are|were|has|had)\b")),
    ("dangling word", re.compile(rf"(?i)\b(?:{'|'.join(_DANGLING.split())})[?.!,;:]")),
    ("space before a mark", re.compile(r"\s[?.!,;:)]")),
    ("double space", re.compile(r"\s\s|^\s|\s$")),
    ("two marks", re.compile(r"[?.!,;:][?!,;:]|\.\.")),
    ("rest of markup", re.compile(r"[{}<>|\[\]\\_*=^~]|&\w+;|https?:|\bNone\b|'{2,}|\(\s*\)")),
    (
        "sentence in lower case",
        re.compile(r"(?:^|[?!] |\. (?<![A-Z]\. )(?<!St\. )(?<!Dr\. )(?<!Mr\. )(?<!Jr\. )(?<!no\. )(?<!c\. ))[a-z]"),
    ),
    ("turned about", re.compile(r"\bof wh(?:om|ich) the [^.?]*? (?:was|is) (?:an?|the) \w+(?: \w+)?[.?,]")),
    ("who of a thing", re.compile(r"\b(?:city|country|river|novel|film|mountain|island|sea|lake|genus|species) who\b")),
    ("relative without verb", re.compile(r"\b(?:who|that|which) (?:and|or|of|,)")),
)
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_FORMULAS = re.compile(
    r"the year in which|in the year|the birth of the|the death of the|in the same year as|What is the name of the"
)


def flaws(text: str) -> list[str]:
    """What is wrong with the form of a question; [] when nothing is seen."""
    found = [name for name, rule in _RULES if rule.search(text)]
    if any((article.lower() == "an") != _takes_an(word) for article, word in _ARTICLE.findall(text)):
        found.append("a or an")
    if not _balanced(text):
        found.append("open bracket or quote")
    if not text.endswith(("?", ".")) or not text[:1].isupper():
        found.append("no sentence")
    words = text.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS:
        found.append("length")
    if any(len(sentence.split()) > MAX_SENTENCE for sentence in re.split(r"(?<=[a-z\d][?.]) (?=[A-Z])", text)):
        found.append("long sentence")
    if _says_twice(text):
        found.append("said twice")
    return found


def _takes_an(word: str) -> bool:
    return _AN.match(word) is not None and _A.match(word) is None


def _balanced(text: str) -> bool:
    open_ones: list[str] = []
    for character in text:
        if character in _BRACKETS.values():
            open_ones.append(character)
        elif character in _BRACKETS and (not open_ones or open_ones.pop() != _BRACKETS[character]):
            return False
    return not open_ones and text.count('"') % 2 == 0 and text.count("“") == text.count("”")


def _says_twice(text: str) -> bool:
    """Whether four words in a row come twice, besides the formulas of the questions themselves."""
    words = re.findall(r"\w+", _FORMULAS.sub("|", text).lower().replace("|", " | "))
    runs = [" ".join(words[at : at + 4]) for at in range(len(words) - 3)]
    return any(runs.count(run) > 1 and sum(len(word) > 3 for word in run.split()) >= 2 for run in runs)
