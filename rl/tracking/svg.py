"""Hand-made charts as inline SVG: small, no script, readable on light and dark pages.

Colours are CSS variables (``--c0`` … ``--c7``, ``--ink``, ``--muted``, ``--grid``); ``STYLE`` sets them for
light and for dark grounds, on a page as in a standalone file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 260
_TINY = 1e-30  # below this a value is zero to a reader, and powers of ten soon underflow
INK, MUTED = -1, -2  # colours outside the palette, for what is not one of several
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 34, 34
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

# Hues that keep apart for the common colour-vision deficiencies; lighter on dark ground.
STYLE = """
:root { --c0:#2563ab; --c1:#c2570c; --c2:#17805f; --c3:#a4327f; --c4:#7a6a00; --c5:#6046b8; --c6:#b3261e;
  --c7:#3d6d86; --ink:#1d2430; --muted:#5d6776; --grid:#e2e6ec; --paper:#ffffff; --panel:#f6f7f9;
  --line:#d5dae2; }
@media (prefers-color-scheme: dark) { :root { --c0:#74aef0; --c1:#f0a15e; --c2:#5fcfa5; --c3:#e78bc6;
  --c4:#d9c55a; --c5:#ad9bf5; --c6:#f28b82; --c7:#8cc0d8; --ink:#e4e8ee; --muted:#9aa5b4; --grid:#2c333d;
  --paper:#14181e; --panel:#1b2028; --line:#343c48; } }
""".strip()


@dataclass(frozen=True)
class Series:
    """One line of (x, y) points: ``color`` indexes the palette, or is INK; ``bold`` marks what matters."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    bold: bool = False


def readable(text: str) -> str:
    """``text`` with its control characters and halves of surrogate pairs spelled out, as ``\\x1b``.

    XML has no place for them, and a browser drops them unseen. Tabs and line ends stay.
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def written_value(value: object) -> object:
    """What a page's template writes for a value: text that is not markup without hidden characters."""
    return readable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def smooth(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Centred moving mean over ``window`` points, with shorter windows at both ends."""
    half = window // 2
    means: list[tuple[float, float]] = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - half) : i + half + 1]]
        means.append((x, sum(near) / len(near)))
    return means


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "step",
    y_range: tuple[float, float] | None = None,
    log_y: bool = False,
    raw: Sequence[Series] = (),
    offset: tuple[int, int] = (0, 0),
) -> str:
    """An ``<svg>`` with one line per series; ``raw`` are drawn faintly behind (the numbers before smoothing).

    With ``log_y`` points at or below zero are left out.
    """
    drawn = [(s, _usable(s.points, log_y), True) for s in series]
    behind = [(s, _usable(s.points, log_y), False) for s in raw]
    every = [p for _, points, _ in drawn + behind for p in points]
    parts = _open(title, offset)
    if not every:
        parts.append(_text(WIDTH / 2, HEIGHT / 2, "no data", "middle", "m"))
        return "".join([*parts, "</svg>"])
    x0, x1 = min(p[0] for p in every), max(p[0] for p in every)
    y0, y1 = y_range or _padded(min(p[1] for p in every), max(p[1] for p in every), log_y)
    x1 = x1 if x1 > x0 else x0 + 1

    def px(x: float) -> float:
        return _LEFT + (x - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        low, high, at = (math.log10(y0), math.log10(y1), math.log10(y)) if log_y else (y0, y1, y)
        share = min(max((at - low) / (high - low), 0.0), 1.0)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    for tick in _log_ticks(y0, y1) if log_y else _ticks(y0, y1):
        y = py(tick)
        parts.append(f'<line class="g" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:.0e}" if log_y else f"{tick:g}", "end", "m"))
    for tick in _ticks(x0, x1):
        parts.append(_text(px(tick), HEIGHT - _BOTTOM + 16, f"{tick:g}", "middle", "m"))
    parts.append(_text(WIDTH - _RIGHT, HEIGHT - 4, x_label, "end", "m"))
    for s, points, front in behind + drawn:
        if not points:
            continue
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        color = _color(s.color)
        if len(points) == 1:
            x, y = points[0]
            parts.append(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" style="fill:{color}"/>')
            continue
        css = "s" + (" b" if s.bold and front else "") + ("" if front else " r")
        line = f'<polyline class="{css}" style="stroke:{color}" points="{path}">'
        parts.append(f"{line}<title>{_escape(s.name)}</title></polyline>")
    parts.append(_legend([(s.name, s.color) for s, points, _ in drawn if points]))
    return "".join([*parts, "</svg>"])


def bar_chart(
    title: str,
    before: Mapping[str, tuple[float, float]],
    after: Mapping[str, tuple[float, float]],
    *,
    legend: tuple[str, str] = ("before", "after"),
    offset: tuple[int, int] = (0, 0),
) -> str:
    """Two bars by name (before and after, or what ``legend`` says): values are (mean, stderr), the mean in [0, 1].

    Whiskers are ± stderr.
    """
    names = list(dict.fromkeys([*before, *after]))
    parts = _open(title, offset)
    base, span = HEIGHT - _BOTTOM, HEIGHT - _TOP - _BOTTOM
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        y = base - tick * span
        parts.append(f'<line class="g" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:g}", "end", "m"))
    slot = (WIDTH - _LEFT - _RIGHT) / max(len(names), 1)
    width = min(slot * 0.34, 44)
    for i, name in enumerate(names):
        middle = _LEFT + (i + 0.5) * slot
        for values, css, shift in ((before, "bf", -width - 1), (after, "af", 1)):
            if name not in values:
                continue
            mean, stderr = values[name]
            x, height = middle + shift, mean * span
            parts.append(
                f'<rect class="{css}" x="{x:.1f}" y="{base - height:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}"><title>{_escape(name)}: {mean:.3f} ± {stderr:.3f}</title></rect>'
            )
            at = x + width / 2
            low, high = base - max(mean - stderr, 0) * span, base - min(mean + stderr, 1) * span
            parts.append(f'<line class="w" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
            parts.append(_text(at, min(base - height, high) - 4, f"{mean:.2f}", "middle", "v"))
        parts.append(_text(middle, base + 16, name, "middle", "n"))
    parts.append(_legend([(legend[0], MUTED), (legend[1], 0)]))
    return "".join([*parts, "</svg>"])


SVG_STYLE = """
svg text { font: 11px system-ui, sans-serif; fill: var(--ink); } svg .t { font-size: 13px; font-weight: 600; }
svg .m { fill: var(--muted); } svg .v { font-size: 10px; } svg .g { stroke: var(--grid); stroke-width: 1; }
svg .s { fill: none; stroke-width: 1.6; stroke-linejoin: round; } svg .b { stroke-width: 2.6; }
svg .r { stroke-width: 1; opacity: .28; } svg .w { stroke: var(--ink); stroke-width: 1; opacity: .7; }
svg .bf { fill: var(--muted); opacity: .55; } svg .af { fill: var(--c0); }
""".strip()


def _open(title: str, offset: tuple[int, int]) -> list[str]:
    x, y = offset
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_escape(title)}">',
        _text(_LEFT, 14, title, "start", "t"),
    ]


def _escape(text: str) -> str:
    return escape(readable(text))


def _color(index: int) -> str:
    return {INK: "var(--ink)", MUTED: "var(--muted)"}.get(index, f"var(--c{index % 8})")


def _legend(entries: Sequence[tuple[str, int]]) -> str:
    x, parts = float(_LEFT), []
    for name, color in entries:
        parts.append(f'<rect x="{x:.0f}" y="20" width="9" height="9" rx="2" style="fill:{_color(color)}"/>')
        parts.append(_text(x + 13, 28, name, "start", "m"))
        x += 13 + 6.4 * len(name) + 14  # 6.4 px: mean width of a character at 11 px
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str, css: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escape(text)}</text>'


def _usable(points: Sequence[tuple[float, float]], log_y: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y) and (y > _TINY or not log_y)]


def _padded(low: float, high: float, log_y: bool) -> tuple[float, float]:
    if log_y:
        bottom, top = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
        return (bottom, top) if top > bottom else (bottom, bottom * 10)
    pad = (high - low) * 0.08
    if pad <= max(_TINY, abs(high) * 1e-9):  # as good as constant
        pad = abs(high) * 0.1 if abs(high) > _TINY else 1.0
    return (low - pad if low < 0 else max(0.0, low - pad)), high + pad


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers within [low, high]."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    return [10.0**e for e in range(round(math.log10(low)), round(math.log10(high)) + 1)]
