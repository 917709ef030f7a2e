"""What `deterministic=true` costs, with and without it in turns; and whether it keeps its word.

    OMP_NUM_THREADS=1 python -m benchmarks.determinism

First the engine alone, in CPU seconds, which other work on the machine does not add to: two engines in one process play
the same ``GROUPS`` x 8 rollouts of two turns, of the shipped base policy and about the demo's lengths. Then the default
`rl-train`, shortened to ``--steps`` steps, ``--pairs`` times each way (0: not at all). The cold start is made once and
comes from the cache. Rollout seconds are the sum of ``time/rollout_s``; the whole run is the command's wall time, from
its start to the report. Ratios are taken pair by pair.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.runs import markdown, train
from rl.tracking.rundir import RunDir

GROUPS, SIZE = 16, 8
PROMPT, SAID, RESULT = (
    130,
    20,
    12,
)  # tokens: of the first prompt, of a message, of what a tool answers; the demo's means
WAYS = {"false": "deterministic=false", "true": "deterministic=true"}


def engines(turns: int) -> list[tuple[str, str, str, str]]:
    """CPU seconds of the same rollouts in a plain and in a deterministic engine, ``turns`` times in turns."""
    from rl.rollout.config import EngineConfig
    from rl.rollout.engine import Engine

    base = Path(__file__).resolve().parents[1] / "rl" / "bases" / "tiny_dsa_base"
    both = [Engine(base, EngineConfig(), deterministic=exact) for exact in (False, True)]
    seconds: list[list[float]] = [[], []]
    for turn in range(turns + 1):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            spent = play(both[which], seed=turn)
            if turn:  # the first one warms up
                seconds[which].append(spent)
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    plain, exact = (f"{median(s):.2f}" for s in seconds)
    return [("engine alone, CPU", plain, exact, f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")]


def play(engine: Any, seed: int) -> float:
    """CPU seconds of ``GROUPS`` x ``SIZE`` rollouts of two turns; a group shares its prompt."""
    import numpy as np

    from rl.rollout.engine_api import GenerateRequest

    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, engine.vocab_size, PROMPT).tolist() for _ in range(GROUPS)]
    waiting = {f"{g}-{i}": prompts[g] for g in range(GROUPS) for i in range(SIZE)}
    engine._core.reset_prefix_cache()
    started = time.process_time()
    for turn in range(2):
        for number, (name, prompt) in enumerate(waiting.items()):
            engine.add(GenerateRequest(f"{name}-{turn}", prompt, SAID, seed=number))
        while engine.has_unfinished():
            for request, generation in engine.step():
                name = request.rpartition("-")[0]
                waiting[name] = waiting[name] + generation.tokens + rng.integers(0, engine.vocab_size, RESULT).tolist()
    return time.process_time() - started


def timed(out: Path, name: str, overrides: list[str]) -> tuple[float, float]:
    """Seconds of the run's rollouts, and of the whole run. Raises RuntimeError when it fails."""
    started = time.perf_counter()
    said = train(name, overrides, out)
    whole = time.perf_counter() - started
    if said != "done":
        raise RuntimeError(f"{name}: {said}; give another --out for new runs")
    return sum(row["time/rollout_s"] for row in RunDir(out / name).read_metrics("grpo")), whole


def weights_of(out: Path, name: str) -> str:
    """A digest of the final policy's weights."""
    digest = hashlib.sha256()
    for file in sorted((out / name / "policy").glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def runs(out: Path, pairs: int, steps: int) -> list[tuple[str, str, str, str]]:
    """Rollout and whole-run seconds of ``pairs`` runs each way; prints how many different policies came out."""
    base = [
        f"steps={steps}", "eval.n_tasks=8", "eval.k=2", "learner.threads=1", "coldstart.threads=1",
        "tracking.wandb=disabled", f"cache_dir={out / 'cache'}",
    ]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    for way, override in WAYS.items():  # the cold start, and the evaluation before: from the cache later
        timed(out, f"warm-{way}", [*base, override])
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for pair in range(pairs):
        for way, override in list(WAYS.items())[:: 1 if pair % 2 == 0 else -1]:
            seconds[way].append(timed(out, f"{way}-{pair}", [*base, override]))
    for way in WAYS:
        digests = {weights_of(out, f"{way}-{pair}") for pair in range(pairs)}
        print(f"deterministic={way}: {pairs} runs ended with {len(digests)} different policies")
    rows = []
    for i, what in enumerate(("rollouts", "whole run")):
        plain, exact = ([s[i] for s in seconds[way]] for way in WAYS)
        ratios = [b / a for a, b in zip(plain, exact, strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append((what, f"{median(plain):.1f}", f"{median(exact):.1f}", spread))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of deterministic=true.")
    parser.add_argument("--turns", type=int, default=9, help="of the engine alone")
    parser.add_argument("--pairs", type=int, default=3, help="of whole runs; 0: the engine alone")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/determinism"))
    args = parser.parse_args()
    rows = engines(args.turns)
    if args.pairs:
        rows += runs(args.out, args.pairs, args.steps)
    print(markdown(("seconds", "`false`", "`true`", "ratio, median (range)"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
