"""Units behind a number: which words are one, and which of them are the same.

``5 cm``, ``5 centimetres`` and ``5\\text{ cm}`` are the same; ``5 cm`` and ``5 m`` are not. Nothing is converted. A
unit that is not known here (apples) says nothing, and so it equals none and every other.
"""

from __future__ import annotations

import re

# name: symbols and words, singular; an s at the end is read too
_UNITS = """
mm: mm millimeter millimetre
cm: cm centimeter centimetre
m: m meter metre
km: km kilometer kilometre
in: in inch inches
ft: ft foot feet
yd: yd yard
mi: mi mile
mg: mg milligram
g: g gram
kg: kg kilogram
lb: lb lbs
oz: oz ounce
ml: ml mL milliliter millilitre
l: l L liter litre
ms: ms millisecond
s: s sec second
min: min minute
h: h hr hrs hour
day: day
week: week wk
month: month
year: year yr
mph: mph
kph: kph
am: am a.m
pm: pm p.m
°: ° degree deg
rad: rad radian
$: ＄ dollar usd buck
cent: cent ¢
€: € euro
£: £
%: % percent percentage pct
unit: unit
Hz: Hz hertz
J: J joule
W: W watt
N: N newton
V: V volt
K: K kelvin
"""
_KNOWN: dict[str, str] = {}
for _line in _UNITS.strip().splitlines():
    _name, _, _words = _line.partition(": ")
    for _word in _words.split():
        _KNOWN[_word] = _name
        if len(_word) > 2:
            _KNOWN[_word + "s"] = _name
_KNOWN |= dict.fromkeys(("°C", "°F"), "")  # degrees, said with several words
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWER_BEHIND = re.compile(r"\^\s*\{?\s*([23])\s*\}?$")
_TAIL = re.compile(r"[A-Za-z°%＄€£¢][A-Za-z°%＄€£¢.'’/^{}23 -]*")
# words that make something else of a number than a quantity
_NO_UNITS = set(
    """
    or and to is not no isn't are be was wrong incorrect if but than plus minus times over divided by squared cubed
    factorial half thirds quarters dozen pi sqrt mod modulo when where for unless except maybe possibly perhaps either
    versus vs etc e i x y z n k one two three four five six seven eight nine ten hundred thousand million billion
    """.split()  # noqa: SIM905
)
_MOST_WORDS = 4


def unit_of(tail: str) -> str | None:
    """What follows a number: the name of a known unit, "" for words that are none, None for something else.

    A letter alone is a variable unless it is a known symbol with a space before it; letters without a space are a
    known symbol, or a product.
    """
    apart, tail = tail[:1].isspace(), tail.strip().rstrip(".").strip()
    tail = tail.replace(" ^", "^")
    if len(tail) > 60 or not _TAIL.fullmatch(tail):
        return None
    words = tail.split()
    if len(words) > _MOST_WORDS:
        return None
    power = 1
    if _POWERS.get(words[0].rstrip(".").lower()) and len(words) > 1:
        power, words = _POWERS[words[0].rstrip(".").lower()], words[1:]
    if behind := _POWER_BEHIND.search(words[-1]):
        power, words[-1] = int(behind[1]), words[-1][: behind.start()]
        if not words[-1]:
            return None
    if any(set("^{}23") & set(word) for word in words):
        return None
    if any(word.lower().strip(".'") in _NO_UNITS for word in words):
        return None
    first = _known(words[0])
    if first is None and (not apart or len(words[0]) < 3):
        return None
    if first and first.isalpha() and len(words[0]) == 1 and not apart:
        return None
    if len(words) > 1 or not first:
        return ""
    return first if power == 1 else f"{first}{power}"


def _known(word: str) -> str | None:
    parts = word.rstrip(".").split("/")
    if len(parts) == 2 and all(parts):
        both = [_known(part) for part in parts]
        return "/".join(filter(None, both)) if all(both) else None
    return _KNOWN.get(word.rstrip("."), _KNOWN.get(word.rstrip(".").lower()) if len(word) > 2 else None)
