"""Charts beside and below each other in one standalone SVG file, in the house's style (``rl.tracking.svg``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rl.tracking.svg import HEIGHT, STYLE, SVG_STYLE, WIDTH

Chart = Callable[[tuple[int, int]], str]  # offset (x, y) -> <svg>


def save_charts(path: Path, charts: Sequence[Chart], columns: int | None = None) -> None:
    """Write the charts from left to right, ``columns`` in a line (None: all), with a margin of 8 on every side."""
    across = min(columns or len(charts), len(charts))
    down = -(-len(charts) // across)
    width, height = WIDTH * across + 10 * (across - 1) + 16, HEIGHT * down + 10 * (down - 1) + 16
    body = "".join(chart((i % across * (WIDTH + 10), i // across * (HEIGHT + 10))) for i, chart in enumerate(charts))
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="-8 -8 {width} {height}"><style>{STYLE}\n{SVG_STYLE}</style>'
        f'<rect x="-8" y="-8" width="{width}" height="{height}" style="fill:var(--paper)"/>{body}</svg>\n',
        encoding="utf-8",
    )
