"""Bounds of settings, written where the setting is: ``steps: PositiveInt = 80``.

For a type checker, and for Hydra, the field is a plain int, float or str; what may stand in it comes with the type, by
the marks of ``annotated_types``. ``check`` compares a whole configuration with them. A class that derives from
``Bounded`` does so whenever one is made, so a wrong value is a ValueError wherever it comes from:

    coldstart.lr=-1.0: must be above 0
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval


@dataclass(frozen=True)
class OneOf:
    """The value is one of ``words``."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Matches:
    """The whole value matches ``pattern``; ``wanted`` says it in words, after "must be"."""

    pattern: str
    wanted: str


PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Seed = Annotated[
    int, Interval(ge=0, le=2**31 - 1)
]  # what every library takes, with room for one seed a worker above it
HUB_ID = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
HubId = Annotated[str, Matches(HUB_ID, "owner/name, a repository of the Hugging Face hub")]
FolderName = Annotated[str, Matches(r"(?!\.{1,2}$)[^/\x00-\x1f]{1,200}", "the name of a folder, not a path")]


class Bounded:
    """Base of configuration dataclasses. ``section``: how messages name the section, when the object is made in Python
    (a command names the whole path)."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check(self, type(self), self.section)


def check(values: Any, kind: type, where: str = "") -> None:
    """Compare all fields of the dataclass ``kind``, and of those inside it, with their bounds.

    Args:
        values: an object of ``kind``, or an OmegaConf node or a mapping with its fields. Interpolations that are not
            resolved are left out.
        where: dotted path of ``values``.

    Raises:
        ValueError: a value is not allowed; one line with path, value and what is.
    """
    for name, hint in field_types(kind).items():
        value = values[name] if isinstance(values, Mapping) else getattr(values, name)
        _check(value, hint, f"{where}.{name}" if where else name)


@cache
def field_types(kind: type) -> dict[str, Any]:
    """The resolved type of every field of the dataclass ``kind``, with its marks."""
    hints = get_type_hints(kind, include_extras=True)
    return {item.name: hints[item.name] for item in fields(kind)}


def marks(hint: Any) -> tuple[Any, ...]:
    """The marks of an annotated type; () when it has none."""
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def wanted(mark: Any) -> str:
    """What ``mark`` asks for, after "must be"."""
    match mark:
        case Ge(ge=least):
            return "0 or more" if least == 0 else f"at least {least}"
        case Gt(gt=least):
            return f"above {least}"
        case Interval():
            low = f"({mark.gt}" if mark.ge is None else f"[{mark.ge}"
            high = f"{mark.lt})" if mark.le is None else f"{mark.le}]"
            return f"in {low}, {high}"
        case OneOf(words=words):
            return f"one of {', '.join(words)}"
        case Matches():
            return str(mark.wanted)
    raise TypeError(f"{mark!r} is no bound that rl.bounds knows")


def _check(value: Any, hint: Any, path: str, also: str = "") -> None:
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(value, str) and value.startswith("${"):
        return  # an interpolation that is not resolved: its value is checked where it stands
    if origin in (Union, UnionType):
        if value is not None:
            (some,) = (one for one in inner if one is not NoneType)
            _check(value, some, path, ", or null")
    elif is_dataclass(hint) and isinstance(hint, type):
        check(value, hint, path)
    elif origin is list and isinstance(value, Sequence):
        for number, member in enumerate(value):
            _check(member, inner[0], f"{path}[{number}]")
    elif origin is dict and isinstance(value, Mapping):
        for key in value:
            _check(value[key], inner[1], f"{path}.{key}")
    else:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path}={value}: must be a finite number")
        for mark in marks(hint):
            if not _holds(value, mark):
                raise ValueError(f"{path}={value!r}: must be {wanted(mark)}{also}")


def _holds(value: Any, mark: Any) -> bool:
    match mark:
        case Ge(ge=least):
            return bool(value >= least)
        case Gt(gt=least):
            return bool(value > least)
        case Interval():
            above = value > mark.gt if mark.ge is None else value >= mark.ge
            return bool(above and (value < mark.lt if mark.le is None else value <= mark.le))
        case OneOf(words=words):
            return value in words
        case Matches(pattern=pattern):
            return re.fullmatch(pattern, value) is not None
    raise TypeError(f"{mark!r} is no bound that rl.bounds knows")
