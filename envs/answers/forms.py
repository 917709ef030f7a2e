r"""The forms that answers to exercises come in, read without an algebra system: what is a number, a list, an interval.

    "1{,}234", "1.234e3", r"\frac{2468}{2}", "1,234 apples"     Number(1234)
    "(0, 1]", "[1, 2, 3]", "3:4", r"\begin{pmatrix}1\\2\end{…}"  Group, ordered, with its brackets
    r"\{1, 2\}", "1 or 2", r"x = 1, x = 2", r"\pm 1"              Group, unordered
    r"0 < x \le 1", r"x \in (0, 1]"                               x, and the interval
    "Tuesday"                                                     Text
    everything else: r"2\sqrt{3}", "x^2 + 1", "2x + y = 1"        Formula, for an algebra system

One answer is one value: alternatives ("17 or 18") are a list, and a list equals lists alone. ``same`` compares two
forms; formulas inside go to the ``algebra`` that it is given. Time is linear in the length of a text, which is bounded
by ``LONGEST_FORM``; numbers are exact fractions with bounded exponents. docs/rewards.md has the table of what is equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from envs.answers.quantity import Number, quantity, readings
from envs.answers.typography import DOLLAR, ROW, SET_CLOSE, SET_OPEN, tidy
from envs.answers.units import unit_of
from envs.final_answer import normalise

LONGEST_FORM = 2000  # characters of one answer in a box or on a line
_DEEPEST = 40  # brackets within brackets
_MOST_PARTS = 60  # of a list
Algebra = Callable[[str, str], bool]


@dataclass(frozen=True)
class Based:
    """Digits in another base than ten: ``101_2``."""

    digits: str
    base: int


@dataclass(frozen=True)
class Text:
    words: str


@dataclass(frozen=True)
class Formula:
    latex: str


@dataclass(frozen=True)
class Group:
    """``kind``: "list" and "union" have no order; brackets ("(]"), "ratio", "matrix" and "not" have one."""

    kind: str
    parts: tuple[Form, ...]


@dataclass(frozen=True)
class Named:
    """``x = 5``, ``x > 5`` (an interval): the name, and ``whole``, the relation as it was written."""

    name: str
    form: Form
    whole: str


Form = Number | Based | Text | Formula | Group | Named

_INFINITY = Formula(r"\infty")
_MINUS_INFINITY = Formula(r"-\infty")
_BASED = re.compile(r"([0-9A-Fa-f]{1,80})\s*_\s*\{?\s*(\d{1,2}|[a-z]{3,7})\s*\}?")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "twelve": 12,
          "sixteen": 16}  # fmt: skip
_RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|\\in(?![a-zA-Z])|[<>=]")
_NAME = re.compile(
    r"(?:\\[a-zA-Z]+\s*){0,2}(?:[a-zA-Z]\w{0,20}(?:_\{?\w{1,9}\}?)?'?(?:\^\{-1\})?(?:\s*\([^()]{1,40}\))?"
    r"|[a-zA-Z ]{1,60}|\{[A-Za-z]{1,9}\})?"
)
_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ '’.-]){1,200}")
_SMALL_WORDS = {"yes", "no", "odd", "all", "one", "two", "six", "ten", "red", "mon", "sun"}
_MATRIX = re.compile(r"\\begin\{([pb]?)matrix\}(.*)\\end\{\1matrix\}", re.DOTALL)
_OPEN, _CLOSE = "([{" + SET_OPEN, ")]}" + SET_CLOSE


def read(text: str, thousands: bool = True) -> Form | None:
    """The form of an answer; None for an empty, overlong or unbalanced one. ``thousands``: 331,337 is one number."""
    if len(text) > LONGEST_FORM:
        return None
    text = tidy(text)
    if not text or "\\boxed" in text or not _balanced(text):
        return None
    try:
        return _read(text, thousands)
    except _UnreadableError:
        return None


def same(gold: Form, given: Form, algebra: Algebra) -> bool:
    """Whether ``given`` is the answer ``gold``. ``algebra(gold, given)`` decides about two formulas."""
    if isinstance(gold, Named) or isinstance(given, Named):
        return _same_named(gold, given, algebra)
    if isinstance(gold, Group) != isinstance(given, Group):  # {5} is 5
        gold, given = _only(gold), _only(given)
    match gold, given:
        case Number(), Number():
            return gold.value in readings(gold, given)
        case Group(), Group():
            return _same_group(gold, given, algebra)
        case Formula(), Formula() | Number():
            left, right = gold.latex, _latex(given)
            if _squeezed(left) == _squeezed(right):
                return True
            if _wordy(left) or _wordy(right):
                return normalise(left) == normalise(right)
            return "\\infty" not in left + right and algebra(left, right)
    return gold == given


def formulas(form: Form) -> Iterator[str]:
    """What of a form goes to the algebra system."""
    match form:
        case Formula(latex):
            yield latex
        case Named(_, inner, whole):
            if isinstance(inner, Formula):
                yield whole
            yield from formulas(inner)
        case Group(_, parts):
            for part in parts:
                yield from formulas(part)


class _UnreadableError(Exception):
    pass


def _read(text: str, thousands: bool, bracketed: bool = False) -> Form:
    text = text.strip()
    if not text.endswith("..."):
        text = text.removeprefix("=").rstrip(" .,;").strip()
    if not text:
        raise _UnreadableError
    number = quantity(text, thousands and not bracketed)
    if number is not None:
        return number
    if (based := _BASED.fullmatch(text)) and (based[2].isdigit() or based[2] in _BASES):
        base = int(_BASES.get(based[2], based[2]))
        if based[1].isdigit() or base > 10:  # a_2 is a name
            return Based(based[1].lstrip("0").upper() or "0", base)
    if matrix := _MATRIX.fullmatch(text):
        rows = [row for row in matrix[2].split(ROW) if row.strip()]
        return Group("matrix", tuple(Group("()", _all(row.split("&"), thousands)) for row in rows))
    if parts := _alternatives(text):
        return _list(parts, thousands)
    if len(parts := _split(text, r"\cup")) > 1 or len(parts := _split(text, " U ")) > 1:
        return Group("union", _all(parts, thousands))
    if (inner := _inside(text)) is not None:
        return _bracket(text[0], inner, text[-1], thousands)
    for sign in ("; ", ";", ", ", ","):
        if len(parts := _split(text, sign)) > 1:
            return _list(parts, thousands)
    if (relation := _relation(text, thousands)) is not None:
        return relation
    if text.count(r"\pm") == 1 and "=" not in text:
        before, _, after = text.partition(r"\pm")
        both = [f"{before}+{after}" if before.strip() else after, f"{before}-{after}"]
        return Group("list", _all(both, thousands))
    if len(parts := _split(text, ":")) in (2, 3) and all(map(quantity, parts)):
        return Group("ratio", _all(parts, thousands))
    if re.fullmatch(r"\+?\s*(?:\\infty|infinity|inf)", text):
        return _INFINITY
    if re.fullmatch(r"-\s*(?:\\infty|infinity|inf)", text):
        return _MINUS_INFINITY
    if _WORDS.fullmatch(text) and (re.search(r"[^\W\d_]{4}", text) or text.lower() in _SMALL_WORDS):
        return Text(normalise(text))
    return Formula(_without_unit(text))


def _all(parts: list[str], thousands: bool) -> tuple[Form, ...]:
    if len(parts) > _MOST_PARTS:
        raise _UnreadableError
    return tuple(_read(part, thousands) for part in parts)


def _list(parts: list[str], thousands: bool) -> Form:
    """Alternatives and lists; lists in them are taken apart. Inequalities that exclude each other are a union."""
    flat: list[Form] = []
    for form in _all(parts, thousands):
        flat.extend(form.parts if isinstance(form, Group) and form.kind == "list" else [form])
    if all(isinstance(form, Named) and isinstance(form.form, Group) and form.form.kind in _INTERVALS for form in flat):
        names = {form.name for form in flat if isinstance(form, Named)}
        if len(names) == 1:
            union = Group("union", tuple(form.form for form in flat if isinstance(form, Named)))
            return Named(names.pop(), union, " or ".join(parts))
    return Group("list", tuple(flat))


_INTERVALS = ("()", "[]", "(]", "[)")


def _bracket(left: str, inner: str, right: str, thousands: bool) -> Form:
    parts = _split(inner, ",")
    if len(parts) > _MOST_PARTS:
        raise _UnreadableError
    if len(parts) == 1 and left + right in ("()", "{}"):
        return _read(inner, thousands)
    if left in "{" + SET_OPEN and re.search(r"[|:]|\\mid", inner):
        return Formula(f"{left}{inner}{right}")  # a set by its rule
    forms = tuple(_read(part, thousands, bracketed=True) for part in parts)
    return Group("list" if left in "{" + SET_OPEN else left + right, forms)


def _relation(text: str, thousands: bool) -> Form | None:
    """``x = 5``, ``x < 5``, ``1 < x < 5``, ``x \\in S``; an equation that names nothing is a formula."""
    signs = [m for m in _RELATION.finditer(text) if _depth(text, m.start()) == 0]
    if not signs:
        return None
    ends = [0, *(m.end() for m in signs)]
    sides = [text[a:b].strip() for a, b in zip(ends, [*(m.start() for m in signs), len(text)], strict=True)]
    kinds = [m[0] for m in signs]
    if not all(sides):
        return Formula(text)
    if set(kinds) == {"="}:
        if _is_name(sides[0]) and not (len(sides) == 2 and _is_name(sides[1]) and quantity(sides[0])):
            return Named(_squeezed(sides[0]), _read(sides[-1], thousands), text)
        if len(sides) == 2 and len(sides[1]) == 1 and sides[1].isalpha() and quantity(sides[0]):
            return Named(sides[1], _read(sides[0], thousands), text)  # 5 = x
        if not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", sides[0])):
            return Named("", _read(sides[-1], thousands), text)  # 3 · 4 = 12
        return Formula(text)
    if len(kinds) == 1:
        (kind,), (left, right) = kinds, sides
        if not _is_name(left) and _is_name(right) and kind in _FLIPPED:
            kind, left, right = _FLIPPED[kind], right, left
        if not _is_name(left):
            return Formula(text)
        bound = _read(right, thousands)
        if kind == r"\in":
            return Named(_squeezed(left), bound, text)
        if kind == r"\ne":
            return Named(_squeezed(left), Group("not", (bound,)), text)
        if not _is_bound(bound):
            return Formula(text)
        closed = kind.startswith("\\")
        if kind in ("<", r"\le"):
            interval = Group("(]" if closed else "()", (_MINUS_INFINITY, bound))
        else:
            interval = Group("[)" if closed else "()", (bound, _INFINITY))
        return Named(_squeezed(left), interval, text)
    if len(kinds) == 2 and _is_name(sides[1]) and set(kinds) <= {"<", r"\le"} | {">", r"\ge"}:
        if kinds[0] in (">", r"\ge"):
            sides, kinds = sides[::-1], [_FLIPPED[kind] for kind in reversed(kinds)]
        if set(kinds) <= {"<", r"\le"}:
            shape = ("[" if kinds[0] == r"\le" else "(") + ("]" if kinds[1] == r"\le" else ")")
            return Named(_squeezed(sides[1]), Group(shape, _all([sides[0], sides[2]], thousands)), text)
    return Formula(text)


_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


def _is_name(text: str) -> bool:
    return bool(text) and len(text) <= 80 and _NAME.fullmatch(text) is not None and text not in ("\\infty", "\\pi")


def _is_bound(form: Form) -> bool:
    return isinstance(form, Number) or (
        isinstance(form, Formula) and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]", form.latex)
    )


def _same_named(gold: Form, given: Form, algebra: Algebra) -> bool:
    """A name is left out where the other side has none; other names are other answers, equations are compared whole."""
    if isinstance(gold, Named) and isinstance(given, Named):
        if gold.name == given.name or not gold.name or not given.name:
            return same(gold.form, given.form, algebra)
        equations = "=" in gold.whole and "=" in given.whole
        return (
            equations
            and isinstance(gold.form, Formula)
            and isinstance(given.form, Formula)
            and algebra(gold.whole, given.whole)
        )
    named, other = (gold, given) if isinstance(gold, Named) else (given, gold)
    assert isinstance(named, Named)
    if isinstance(other, Formula) and _RELATION.search(other.latex):
        return isinstance(_unnamed(gold), Formula) and algebra(_whole(gold), _whole(given))  # 2x = 10 is not 5
    return same(_unnamed(gold), _unnamed(given), algebra)


def _unnamed(form: Form) -> Form:
    return form.form if isinstance(form, Named) else form


def _whole(form: Form) -> str:
    return form.whole if isinstance(form, Named) else _latex(form)


def _only(form: Form) -> Form:
    """The one element of a group of one."""
    if isinstance(form, Group) and form.kind == "list" and len(form.parts) == 1:
        return form.parts[0]
    return form


def _same_group(gold: Group, given: Group, algebra: Algebra) -> bool:
    if gold.kind != given.kind or len(gold.parts) != len(given.parts):
        return False
    if gold.kind not in ("list", "union"):
        return all(same(a, b, algebra) for a, b in zip(gold.parts, given.parts, strict=True))
    left = list(given.parts)
    for part in gold.parts:  # cheap pairs first: equal as they stand
        found = next((i for i, other in enumerate(left) if other == part), None)
        if found is None:
            found = next((i for i, other in enumerate(left) if same(part, other, algebra)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _latex(form: Form) -> str:
    if isinstance(form, Number):
        sign, top, bottom = "-" if form.value < 0 else "", abs(form.value.numerator), form.value.denominator
        return f"{sign}{top}" if bottom == 1 else rf"{sign}\frac{{{top}}}{{{bottom}}}"
    if isinstance(form, Formula):
        return form.latex
    raise _UnreadableError


def _without_unit(text: str) -> str:
    """``5\\sqrt{2} cm^2`` less its unit. Words that are no known unit stay."""
    text = text.removeprefix(DOLLAR).replace(" ^", "^").strip()
    for words in (2, 1):
        head, *tail = text.rsplit(" ", words)
        if len(tail) == words and len(tail[-1]) > 1 and unit_of(" " + " ".join(tail)):  # a letter alone is a variable
            return head.strip()
    return text.removesuffix("°").strip() if text != "°" else text


def _wordy(text: str) -> bool:
    """Whether there are words in a text: nothing for a parser of formulas."""
    return re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", re.sub(r"\\[a-zA-Z]+", " ", text)) is not None


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _balanced(text: str) -> bool:
    depth = 0
    for c in text:
        depth += (c in _OPEN) - (c in _CLOSE)
        if not 0 <= depth <= _DEEPEST:
            return False
    return depth == 0


def _depth(text: str, position: int) -> int:
    return sum((c in _OPEN) - (c in _CLOSE) for c in text[:position])


def _split(text: str, sign: str) -> list[str]:
    """``text`` at every ``sign`` outside brackets."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        c = text[at]
        depth += (c in _OPEN) - (c in _CLOSE)
        if depth == 0 and text.startswith(sign, at):
            parts.append(text[start:at])
            at += len(sign)
            start = at
            continue
        at += 1
    return [*parts, text[start:]]


def _alternatives(text: str) -> list[str]:
    """The parts of "17 or 18", "2 and 3"; none in "black and white"."""
    parts = [part for both in _split(text, " or ") for part in _split(both, " and ")]
    parts = [re.sub(r"^\s*(?:or|and)\s+|[,;]\s*$", "", part.strip()) for part in parts]
    return parts if len(parts) > 1 and not all(_WORDS.fullmatch(part) for part in parts) else []


def _inside(text: str) -> str | None:
    """What is in the brackets that a text stands in as a whole."""
    if text[0] not in _OPEN or text[-1] not in _CLOSE:
        return None
    if (text[0] in "([") != (text[-1] in ")]") or (text[0] == "{") != (text[-1] == "}"):
        return None
    depth = 0
    for at, c in enumerate(text):
        depth += (c in _OPEN) - (c in _CLOSE)
        if depth == 0:
            return text[1:-1].strip() if at == len(text) - 1 else None
    return None
