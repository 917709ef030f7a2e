r"""A number with its unit, as exercises write it: exact, and nothing that is still to be worked out.

1,234   1.5e3   1.2 \times 10^{-5}   3/4   \frac{3}{4}   3 1/2   0.\overline{3}   $12.50   12 cm   50%   5 million
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from envs.answers.typography import DOLLAR
from envs.answers.units import unit_of

_RAW = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_TOP = r"[-+]?\s*" + _RAW
_CORE = re.compile(
    r"(?P<periodic>\d*\.\d*\\overline\s*\{\d+\})"
    r"|(?P<whole>\d+)(?:\s*\\frac\s*\{\s*(?P<mt>\d+)\s*\}\s*\{\s*(?P<mb>\d+)\s*\}|\s+(?P<at>\d+)\s*/\s*(?P<ab>\d+))"
    rf"|\\frac\s*\{{\s*(?P<t>{_TOP})\s*\}}\s*\{{\s*(?P<b>{_TOP})\s*\}}"
    rf"|(?P<n>{_RAW})\s*/\s*(?P<d>{_RAW})(?![\d/])"
    rf"|(?:(?P<m>{_RAW})\s*(?:\\times|\\cdot|\*|[xX](?=\s*10\s*\^))\s*)?10\s*(?:\^|\*\*)\s*"
    r"(?:\{\s*(?P<e>[-+]?\s*\d{1,3})\s*\}|\(\s*(?P<p>[-+]?\d{1,3})\s*\)|(?P<f>[-+]?\d{1,3}))"
    rf"|(?P<plain>{_RAW})(?:[eE](?P<exp>[-+]?\d{{1,3}})(?!\d))?"
)
_MAX_DIGITS = 400
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_CURRENCY = {
    DOLLAR: "$",
    "US" + DOLLAR: "$",
    "USD": "$",
    "€": "€",
    "EUR": "€",
    "£": "£",
    "¥": "¥",
    "₹": "₹",
    "Rs.": "₹",
}


@dataclass(frozen=True)
class Number:
    """``value`` as written; ``unit`` as ``envs.answers.units`` names it ("%", "cm"), "" for none or an unknown one."""

    value: Fraction
    unit: str = ""


def quantity(text: str, thousands: bool = True) -> Number | None:
    """The number that a tidied text is, with its unit; None when it is none, or something is left to be worked out."""
    rest, sign, unit = text.strip(), 1, ""
    for _ in range(4):  # -$5, $-5, +5
        rest = rest.strip()
        if rest[:1] in ("-", "+"):
            sign, rest = (-sign if rest[0] == "-" else sign), rest[1:]
            if rest[:1] in ("-", "+"):
                return None
            continue
        mark = next((mark for mark in _CURRENCY if rest.startswith(mark)), None)
        if mark is None or unit:
            break
        unit, rest = _CURRENCY[mark], rest[len(mark) :]
    found = _CORE.match(rest)
    if found is None or (not thousands and re.search(r"\d,\d", found[0])):
        return None
    value = _value(found)
    if value is None:
        return None
    tail = rest[found.end() :]
    words = tail.split()
    while words and words[0].lower() in _SCALES:
        value *= 10 ** _SCALES[words.pop(0).lower()]
        tail = " " + " ".join(words)
    if not tail.strip(" ."):
        return Number(sign * value, unit)
    known = unit_of(tail)
    if known is None:
        return None
    return Number(sign * value, unit or ("" if known.startswith("unit") else known))


def readings(gold: Number, given: Number) -> tuple[Fraction, ...]:
    """What the given number may be, said in the unit of the right one; nothing when the units are two different ones.

    A percent sign may be left out or be meant: 50% is answered by 50 and by 0.5, both 0.5 and 50 by 50%. But 0.5 is not
    answered by 0.5%.
    """
    value = given.value
    if gold.unit == given.unit:
        return (value,)
    if gold.unit == "%":
        return () if given.unit else (value, 100 * value)
    if given.unit == "%":
        return () if gold.unit else (value / 100, value) if abs(value) > 1 else (value / 100,)
    return () if gold.unit and given.unit else (value,)


def _value(found: re.Match[str]) -> Fraction | None:
    """The number of a match of ``_CORE``; None for one of no value (1/0) or of too many digits."""
    g = found.groupdict()
    if len(found[0]) > _MAX_DIGITS:
        return None

    def plain(text: str) -> Fraction:
        return Fraction(text.replace(",", "").replace(" ", ""))

    if g["periodic"]:
        whole, _, rest = found[0].partition(".")
        fixed, _, period = rest.partition("\\overline")
        period = period.strip(" {}")
        start = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
        return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    if g["whole"]:
        top, bottom = int(g["mt"] or g["at"]), int(g["mb"] or g["ab"])
        return Fraction(int(g["whole"])) + Fraction(top, bottom) if 0 < top < bottom else None
    if g["t"] or g["n"]:
        top_, bottom_ = plain(g["t"] or g["n"]), plain(g["b"] or g["d"])
        return top_ / bottom_ if bottom_ else None
    if g["plain"]:
        return plain(g["plain"]) * Fraction(10) ** int(g["exp"] or 0)
    return plain(g["m"] or "1") * Fraction(10) ** int((g["e"] or g["p"] or g["f"]).replace(" ", ""))
