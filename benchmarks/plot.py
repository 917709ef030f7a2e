"""Charts side by side in one standalone SVG file, in the house's style (``rl.tracking.svg``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rl.tracking.svg import HEIGHT, STYLE, SVG_STYLE, WIDTH

Chart = Callable[[tuple[int, int]], str]  # offset (x, y) -> <svg>


def save_charts(path: Path, charts: Sequence[Chart]) -> None:
    """Write the charts from left to right, with a margin of 8 on every side."""
    width, height = WIDTH * len(charts) + 10 * (len(charts) - 1) + 16, HEIGHT + 16
    body = "".join(chart((i * (WIDTH + 10), 0)) for i, chart in enumerate(charts))
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="-8 -8 {width} {height}"><style>{STYLE}\n{SVG_STYLE}</style>'
        f'<rect x="-8" y="-8" width="{width}" height="{height}" style="fill:var(--paper)"/>{body}</svg>\n',
        encoding="utf-8",
    )
