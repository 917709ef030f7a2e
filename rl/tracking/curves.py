"""A run's curves as one SVG file, for a README: ``python -m rl.tracking.curves runs/<name> out.svg``."""

from __future__ import annotations

import sys
from pathlib import Path

from rl.tracking.charts import before_after_chart, length_chart, mismatch_chart, reward_chart
from rl.tracking.rundir import RunDir
from rl.tracking.svg import HEIGHT, STYLE, SVG_STYLE, WIDTH


def curves_svg(run_dir: RunDir) -> str:
    """Reward, before/after, length and mismatch of the GRPO stage, two by two."""
    rows = run_dir.read_metrics("grpo")
    right, below = WIDTH + 10, HEIGHT + 10
    charts = [
        reward_chart(rows),
        before_after_chart(run_dir.read_summary(), (right, 0)) or "",
        length_chart(rows, (0, below)),
        mismatch_chart(rows, (right, below)),
    ]
    width, height = WIDTH * 2 + 10 + 16, HEIGHT * 2 + 10 + 16  # a margin of 8 on every side
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="-8 -8 {width} {height}"><style>{STYLE}\n{SVG_STYLE}</style>'
        f'<rect x="-8" y="-8" width="{width}" height="{height}" style="fill:var(--paper)"/>'
        + "".join(charts)
        + "</svg>\n"
    )


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m rl.tracking.curves runs/<name> out.svg", file=sys.stderr)
        return 2
    Path(arguments[1]).write_text(curves_svg(RunDir.existing(arguments[0])), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
