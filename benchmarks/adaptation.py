"""What DSA adaptation does on needle retrieval: `rl-adapt experiment=needle` for several seeds, one table, one plot.

    python -m benchmarks.adaptation                                   three seeds; docs/images/dsa-adaptation.svg
    python -m benchmarks.adaptation --seeds 0 --out /tmp/plot.svg     one seed
    python -m benchmarks.adaptation sparse.steps=200                  more Hydra overrides, for all seeds
    python -m benchmarks.adaptation --from runs/a runs/b              only draw: from runs that are there

The seeds share one dense policy (the cache keeps it) and the held-out documents; each has its own fresh indexer and
its own training documents. Numbers are means over seeds, ± half their range.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.recipes.sparse_adaptation import STATES
from rl.tracking.svg import HEIGHT, INK, STYLE, SVG_STYLE, WIDTH, Series, bar_chart, line_chart

Result = Mapping[str, Any]


def run_seed(seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """One `rl-adapt experiment=needle` with ``seed``; its adapt.json."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from configs.schema import register
    from rl.recipes.sparse_adaptation import adapt

    register()
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("adapt", ["experiment=needle", f"name=needle-seed{seed}", f"seed={seed}", *overrides])
    typed: Any = OmegaConf.to_object(cfg)
    return adapt(typed)


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the range)."""
    return sum(values) / len(values), (max(values) - min(values)) / 2


def mass(result: Result, state: str, where: str) -> float:
    """Mass recalled; of the dense policy by the best possible choice, since it makes none."""
    return float(result["states"][state]["mass"]["oracle" if state == "dense" else "indexer"][where])


def table(results: Sequence[Result]) -> str:
    """Markdown: the four policies, then the bounds of the mass."""
    lines = [
        "| policy | accuracy | mass at answers | best possible | mass, all positions | best possible |",
        "|---|---|---|---|---|---|",
    ]

    def cell(values: Sequence[float]) -> str:
        mean, half = over_seeds(values)
        return f"{mean:.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")

    for state in STATES:
        states = [r["states"][state] for r in results]
        cells = [cell([s["accuracy"] for s in states])]
        for where in ("targets", "all"):
            cells.append("—" if state == "dense" else cell([mass(r, state, where) for r in results]))
            cells.append(cell([s["mass"]["oracle"][where] for s in states]))
        lines.append(f"| {state} | " + " | ".join(cells) + " |")
    bounds = results[0]["states"]["dense"]["mass"]
    lines.append(
        f"\nFor comparison, dense policy: the most recent {results[0]['index_topk']} rows recall "
        f"{bounds['recent']['targets']:.3f} where an answer is predicted, as many random ones "
        f"{bounds['random']['targets']:.3f}."
    )
    return "\n".join(lines)


def plot(results: Sequence[Result]) -> str:
    """Bars of accuracy and mass by policy; accuracy by depth of the fact."""
    accuracy = {s: over_seeds([r["states"][s]["accuracy"] for r in results]) for s in STATES}
    recalled = {s: over_seeds([mass(r, s, "targets") for r in results]) for s in STATES}
    first = results[0]
    lines = []
    for color, state in zip((INK, 1, 3, 2), STATES, strict=True):
        by_depth = [r["states"][state]["by_depth"] for r in results]
        points = [
            ((i + 0.5) / len(by_depth[0]), over_seeds([row[i] for row in by_depth])[0])
            for i in range(len(by_depth[0]))
            if all(row[i] is not None for row in by_depth)
        ]
        lines.append(Series(state, points, color, bold=state == "dense"))
    title = f"Needle retrieval in {first['length']:,} tokens, attention to {first['index_topk']}"
    charts = [
        bar_chart(title, recalled, accuracy, legend=("attention mass recalled (dense: best possible)", "accuracy")),
        line_chart(
            "Accuracy by depth of the fact",
            lines,
            x_label="depth in the document (0 = first token)",
            y_range=(0.0, 1.0),
            offset=(WIDTH + 10, 0),
        ),
    ]
    width, height = WIDTH * 2 + 10 + 16, HEIGHT + 16  # a margin of 8 on every side
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="-8 -8 {width} {height}"><style>{STYLE}\n{SVG_STYLE}</style>'
        f'<rect x="-8" y="-8" width="{width}" height="{height}" style="fill:var(--paper)"/>'
        + "".join(charts)
        + "</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/images/dsa-adaptation.svg"))
    parser.add_argument(
        "--from", dest="runs", type=Path, nargs="+", help="runs of rl-adapt to draw, instead of running"
    )
    parser.add_argument("overrides", nargs="*", default=[])
    arguments = parser.parse_args()
    if arguments.runs:
        results = [json.loads((run / "policy" / "adapt.json").read_text()) for run in arguments.runs]
    else:
        results = [run_seed(seed, arguments.overrides) for seed in arguments.seeds]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(plot(results), encoding="utf-8")
    print(table(results))
    print(f"\nwrote {arguments.out}")


if __name__ == "__main__":
    main()
