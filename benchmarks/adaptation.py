"""What DSA adaptation does on needle retrieval: `rl-adapt experiment=needle` for several seeds, tables, one plot.

    python -m benchmarks.adaptation                                   three seeds; docs/images/dsa-adaptation.svg
    python -m benchmarks.adaptation --seeds 0 --out /tmp/plot.svg     one seed
    python -m benchmarks.adaptation sparse.steps=200 --settings full  more Hydra overrides, for all runs
    python -m benchmarks.adaptation --choose                          the validation documents: while choosing settings
    python -m benchmarks.adaptation --from runs/a runs/b              only draw: from runs that are there

`--settings`: ``short`` are the experiment's, stage 1 on documents of 1,024 tokens; with ``full`` the second half of
stage 1 is on documents of full length; with ``longer`` also the dense policy has 400 steps at full length instead of
200, and stage 2 300 steps at 1e-3 instead of 150 at 5e-4. Measured are the test documents, by which nothing is chosen.
The seeds share one dense policy (the cache keeps it) and the held-out documents; each has its own fresh indexer and its
own training documents. Numbers are means over seeds, ± half their range; the difference to the dense policy comes with
a 95 % interval over documents (bootstrap of the documents' own differences, each the mean over seeds).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.plot import save_charts
from rl.evaluation.intervals import Difference, paired_difference
from rl.recipes.sparse_adaptation import STATES
from rl.tracking.svg import INK, Series, bar_chart, line_chart

Result = Mapping[str, Any]
DENSE, LAST = STATES[0], STATES[-1]
_FULL = ("warmup.lengths=[1024,4096]",)
SETTINGS: dict[str, tuple[str, ...]] = {
    "short": (),
    "full": _FULL,
    "longer": (*_FULL, "dense.steps=[700,150,60,60,400]", "sparse.steps=300", "sparse.lr=1e-3"),
}


def run_seed(name: str, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """One `rl-adapt experiment=needle` with the settings ``name`` and ``seed``; its adapt.json."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from configs.schema import register
    from rl.recipes.sparse_adaptation import adapt

    register()
    given = ["experiment=needle", f"name=needle-{name}-seed{seed}", f"seed={seed}", *SETTINGS[name], *overrides]
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("adapt", given)
    typed: Any = OmegaConf.to_object(cfg)
    return adapt(typed)


def read(run: Path) -> dict[str, Any]:
    """adapt.json of a run that is there. Raises SystemExit when an `rl-adapt` without some of its figures made it."""
    result: dict[str, Any] = json.loads((run / "policy" / "adapt.json").read_text())
    if not all({"by_sequence", "found"} <= state.keys() for state in result["states"].values()):
        raise SystemExit(
            f"{run}: its policy/adapt.json lacks by_sequence or found: no needle documents, or an older rl-adapt; run "
            "it again (finished stages are in the cache)"
        )
    return result


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the range)."""
    return fmean(values), (max(values) - min(values)) / 2


def mass(result: Result, state: str) -> float:
    """Mass recalled at answers; of the dense policy by the best possible choice, since it makes none."""
    return float(result["states"][state]["mass"]["oracle" if state == DENSE else "indexer"]["targets"])


def minus_dense(results: Sequence[Result], state: str) -> Difference:
    """Accuracy minus the dense policy's on the same documents, each document's the mean over the runs."""

    def by_document(of: str) -> dict[str, float]:
        columns = zip(*(r["states"][of]["by_sequence"] for r in results), strict=True)
        return {str(i): fmean(column) for i, column in enumerate(columns)}

    return paired_difference(by_document(DENSE), by_document(state), 0.95)


def first_third(result: Result, state: str) -> float:
    """Accuracy over the bins of the first third of the document (0 to 0.3), which lie farthest from the questions."""
    return fmean(bin for bin in result["states"][state]["by_depth"][:3] if bin is not None)


def table(results: Sequence[Result]) -> str:
    """Markdown: the four policies, then the bounds of the mass. "fact chosen": the share of the answers whose fact is
    among the rows attended to; best possible: among as many of the most dense attention."""
    lines = [
        "| policy | accuracy | minus dense | depth 0 to 0.3 | fact chosen | best possible | mass at answers "
        "| best possible |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def cell(values: Sequence[float]) -> str:
        mean, half = over_seeds(values)
        return f"{mean:.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")

    for state in STATES:
        states = [r["states"][state] for r in results]
        gap = minus_dense(results, state)
        low, high = gap.bootstrap
        cells = [
            cell([s["accuracy"] for s in states]),
            "—" if state == DENSE else f"{gap.mean:+.3f} [{low:+.3f}, {high:+.3f}]",
            cell([first_third(r, state) for r in results]),
        ]
        cells.append("—" if state == DENSE else cell([s["found"]["indexer"] for s in states]))
        cells.append(cell([s["found"]["oracle"] for s in states]))
        cells.append("—" if state == DENSE else cell([mass(r, state) for r in results]))
        cells.append(cell([s["mass"]["oracle"]["targets"] for s in states]))
        lines.append(f"| {state} | " + " | ".join(cells) + " |")
    first = results[0]
    bounds = first["states"][DENSE]["mass"]
    lines.append(
        f"\n{first['held_out']} {first['split']} documents of {first['length']:,} tokens. For comparison, dense "
        f"policy: the most recent {first['index_topk']} rows recall {bounds['recent']['targets']:.3f} where an answer "
        f"is predicted, as many random ones {bounds['random']['targets']:.3f}."
    )
    return "\n".join(lines)


def plot(path: Path, found: Mapping[str, Sequence[Result]]) -> None:
    """Bars of accuracy and mass by policy, of the last settings; accuracy by depth of the fact, of all."""
    results = found[list(found)[-1]]
    accuracy = {s: over_seeds([r["states"][s]["accuracy"] for r in results]) for s in STATES}
    recalled = {s: over_seeds([mass(r, s) for r in results]) for s in STATES}
    first = results[0]
    lines = [by_depth(state, results, state, color) for color, state in zip((INK, 1, 3, 2), STATES, strict=True)]
    faint = [by_depth(name, others, LAST, 2) for name, others in list(found.items())[:-1]]
    title = f"Needle retrieval in {first['length']:,} tokens, attention to {first['index_topk']}"
    bars = ("attention mass recalled (dense: best possible)", "accuracy")
    save_charts(
        path,
        [
            lambda offset: bar_chart(title, recalled, accuracy, legend=bars, offset=offset),
            lambda offset: line_chart(
                "Accuracy by depth of the fact"
                + (f" (faint: stage 2, {', '.join(list(found)[:-1])})" if faint else ""),
                lines,
                raw=faint,
                x_label="depth in the document (0 = first token)",
                y_range=(0.0, 1.0),
                offset=offset,
            ),
        ],
    )


def by_depth(name: str, results: Sequence[Result], state: str, color: int) -> Series:
    rows = [r["states"][state]["by_depth"] for r in results]
    points = [
        ((i + 0.5) / len(rows[0]), fmean(bins)) for i, bins in enumerate(zip(*rows, strict=True)) if None not in bins
    ]
    return Series(name, points, color, bold=state == DENSE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--choose", action="store_true", help="measure the validation documents, not the test ones")
    parser.add_argument("--out", type=Path, default=Path("docs/images/dsa-adaptation.svg"))
    parser.add_argument(
        "--from", dest="runs", type=Path, nargs="+", help="runs of rl-adapt to draw, instead of running"
    )
    parser.add_argument("overrides", nargs="*", default=[])
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    if arguments.runs:
        found["given"] = [read(run) for run in arguments.runs]
    else:
        given = [f"data.split={'validation' if arguments.choose else 'test'}", *arguments.overrides]
        for name in arguments.settings:
            found[name] = [run_seed(name, seed, given) for seed in arguments.seeds]
    plot(arguments.out, found)
    for name, results in found.items():
        print(f"\n{name}\n\n{table(results)}")
    print(f"\nwrote {arguments.out}")


if __name__ == "__main__":
    main()
