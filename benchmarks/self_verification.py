"""Self-verification, trained for real on a tiny policy: does judging get better, and does it help?

    python -m benchmarks.self_verification                     seeds 0 1 2, into runs/self_verification
    python -m benchmarks.self_verification --seeds 0 --problems 16

Every run is `rl-train experiment=self_verification` (three iterations of verifier, prover, labels, merge). Then the
policy that the runs start from and the last one of each run are asked to refine their own proofs one after the other
(sequential refinement), and to search with a pool of proofs and verifications, on held-out problems one step longer
than those of training; a program knows which proofs are right. Prints tables and writes `self_verification.md`,
`.json` and `.svg` next to the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.plot import save_charts
from benchmarks.runs import finished, markdown, train_all
from envs.proof.prompts import ShortPrompts
from envs.proof.taskset import ProveTaskset
from envs.reasoning.derivation import Problem, parse_problem, score
from rl.proof.refine import RefineConfig, refine_threads, self_selected
from rl.proof.search import SearchConfig, search
from rl.run.paths import resolve
from rl.tracking.rundir import RunDir
from rl.tracking.svg import Series, line_chart

FIGURES = (
    "solved", "best_self", "best_verifier", "pass_any", "self_error", "verify_right", "verify_error", "verify_analysis",
    "assess_right", "refined",
)  # fmt: skip
STAGES = ("start", "meta-verifier", *(f"{who} {i}" for i in (1, 2, 3) for who in ("verifier", "prover")))
LONGER = 5  # steps of the problems of refinement and search; those of training have two to four
BASE = resolve("pkg://rl.bases/tiny_reasoner_base")  # where the experiment starts


def stages(out: Path, seed: int) -> list[dict[str, float]]:
    """Held-out figures of a run before it began and after each GRPO stage."""
    found = RunDir(out / f"seed-{seed}").read_summary()["self_verification"]
    rows = [found["before"], found["meta"]]
    for iteration in found["iterations"]:
        rows += [iteration["verifier"], iteration["prover"]]
    return rows


def labels(out: Path, seed: int) -> list[dict[str, int]]:
    """What the automatic labels came to in each iteration."""
    found = RunDir(out / f"seed-{seed}").read_summary()["self_verification"]
    return [iteration["labels"] for iteration in found["iterations"]]


async def look(roles: Any, problems: Sequence[Problem], iterations: int, threads: int) -> dict[str, Any]:
    """Sequential refinement and pool search on some problems; shares of right proofs."""
    refine = RefineConfig(max_iterations=iterations, threads=threads)
    pool = SearchConfig(proofs=8, verifications=8, best=4, critiques=2, rounds=4, min_share=0.5)
    chains, found = [], []
    for problem in problems:
        chains.append(await refine_threads(problem.text, roles.prove, roles.refine, refine))
        found.append(await search(problem.text, roles.prove, roles.verify, roles.refine, pool))
    result: dict[str, Any] = {"problems": len(problems), "threads": threads, "refinement": []}
    for limit in range(1, iterations + 1):
        cut = [[type(t)(t.attempts[:limit]) for t in chain] for chain in chains]
        right = [[_right(p, t.final) for t in chain] for p, chain in zip(problems, cut, strict=True)]
        chosen = [_right(p, self_selected(chain).final) for p, chain in zip(problems, cut, strict=True)]
        result["refinement"].append(
            {"iterations": limit, "pass@1": fmean(map(fmean, right)), "best_self": fmean(chosen)}
        )
    best = [score(p, f.best.solution) == 1.0 if f.best else False for p, f in zip(problems, found, strict=True)]
    result["search"] = {
        "right": fmean(best),
        "passed": fmean(f.passed for f in found),
        "passed_and_right": fmean(f.passed and right for f, right in zip(found, best, strict=True)),
        "rounds": fmean(len(f.rounds) for f in found),
        "calls": fmean(f.calls for f in found),
    }
    return result


def _right(problem: Problem, attempt: Any) -> bool:
    return attempt is not None and score(problem, attempt.solution) == 1.0


def search_with(policy: Path, record: Path, seed: int, count: int, iterations: int, threads: int) -> dict[str, Any]:
    """``look`` with a policy on the held-out problems of ``seed``; kept in ``record`` while the sizes stay."""
    from functools import partial

    from configs.schema import RayConfig
    from rewards.proof_roles import ProofRoles
    from rl.rollout.config import JudgeConfig
    from rl.rollout.judge_actor import running_judge
    from rl.run.assemble import cluster, open_renderer

    if record.is_file():
        kept: dict[str, Any] = json.loads(record.read_text())
        if (kept["problems"], kept["threads"], len(kept["refinement"])) == (count, threads, iterations):
            return kept
    taskset = ProveTaskset("heldout", seed=10_000 + seed, steps=(LONGER, LONGER))
    problems = [parse_problem(str(taskset.task(i).metadata["problem"])) for i in range(count)]
    config = JudgeConfig(
        kind="worker", client={}, thinking=True, max_context=640, max_tokens=192, temperature=1.0, seed=seed
    )
    with (
        cluster(RayConfig(), 1),
        running_judge(config, policy, partial(open_renderer, "v32", str(policy))) as judge,
    ):
        roles = ProofRoles(judge, ShortPrompts())
        result = asyncio.run(look(roles, [p for p in problems if p is not None], iterations, threads))
    record.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def tables(
    runs: Sequence[list[dict[str, float]]],
    counts: Sequence[list[dict[str, int]]],
    start: Sequence[dict[str, Any]],
    found: Sequence[dict[str, Any]],
) -> str:
    """Markdown: figures by stage, labels by iteration; refinement and search of ``start`` and of the last policies."""
    rows = []
    for number, name in enumerate(STAGES[: len(runs[0])]):
        cells = []
        for figure in FIGURES:
            values = [run[number][figure] for run in runs if figure in run[number]]
            cells.append(_spread(values) if values else "–")
        rows.append((name, *cells))
    text = markdown(("after", *FIGURES), rows) + "\n"
    rows = []
    for i in range(len(counts[0])):
        of = [run[i] for run in counts]
        share = [c["labelled"] / max(c["well_formed"], 1) for c in of]
        right = [c["right"] / max(c["labelled"], 1) for c in of]
        rows.append((str(i + 1), _spread([c["well_formed"] for c in of]), _spread(share), _spread(right)))
    text += markdown(("iteration", "proofs", "labelled", "of these right"), rows) + "\n"
    both = {"start": start, "trained": found}
    rows = []
    for name, looks in both.items():
        for i in range(len(looks[0]["refinement"])):
            steps = [f["refinement"][i] for f in looks]
            rows.append(
                (name, str(i + 1), _spread([s["pass@1"] for s in steps]), _spread([s["best_self"] for s in steps]))
            )
    text += (
        markdown(("policy", "attempts in a thread, at most", "pass@1", "best of the threads by self-score"), rows)
        + "\n"
    )
    keys = ("right", "passed", "passed_and_right", "rounds", "calls")
    rows = [(name, *(_spread([f["search"][k] for f in looks]) for k in keys)) for name, looks in both.items()]
    return text + markdown(("policy", *keys), rows)


def save_plot(runs: Sequence[list[dict[str, float]]], looks: dict[str, Sequence[dict[str, Any]]], path: Path) -> None:
    def over(figure: str) -> list[tuple[float, float]]:
        points = []
        for number in range(len(runs[0])):
            values = [run[number][figure] for run in runs if figure in run[number]]
            if values:
                points.append((float(number), fmean(values)))
        return points

    def lines(*figures: str) -> list[Series]:
        return [Series(name, over(name), color=i, bold=i == 0) for i, name in enumerate(figures)]

    refined = []
    for policy, found in looks.items():
        steps = [f["refinement"] for f in found]
        for name in ("pass@1", "best_self"):
            points = [(float(i + 1), fmean(s[i][name] for s in steps)) for i in range(len(steps[0]))]
            refined.append(Series(f"{policy}: {name}", points, color=len(refined)))
    x = "stage: 0 start, 1 meta-verifier, then verifier (even) and prover (odd)"
    save_charts(
        path,
        [
            lambda offset: line_chart("verifier", lines("verify_right", "verify_analysis", "assess_right"),
                                      x_label=x, offset=offset),
            lambda offset: line_chart("proofs", lines("solved", "best_self", "pass_any", "refined"),
                                      x_label=x, offset=offset),
            lambda offset: line_chart("honesty: |self-score − truth|", lines("self_error", "verify_error"),
                                      x_label=x, offset=offset),
            lambda offset: line_chart("sequential refinement", refined, x_label="attempts", offset=offset),
        ],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/self_verification"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--problems", type=int, default=48, help="held-out problems of the search, longer ones")
    parser.add_argument("--iterations", type=int, default=4, help="attempts in a refinement thread, at most")
    parser.add_argument("--threads", type=int, default=8, help="refinement threads per problem")
    parser.add_argument("overrides", nargs="*", help="further overrides for every run")
    args = parser.parse_args()
    orders = [(f"seed-{s}", ["experiment=self_verification", f"seed={s}", *args.overrides]) for s in args.seeds]
    train_all(orders, args.out, args.jobs)
    done = [seed for seed in args.seeds if finished(args.out / f"seed-{seed}")]
    if not done:
        sys.exit("no run finished; see the logs next to the runs")
    size = (args.problems, args.iterations, args.threads)
    start = [search_with(BASE, args.out / f"search-start-{s}.json", s, *size) for s in done]
    found = [search_with(args.out / f"seed-{s}/policy", args.out / f"search-{s}.json", s, *size) for s in done]
    runs, counts = [stages(args.out, seed) for seed in done], [labels(args.out, seed) for seed in done]
    text = tables(runs, counts, start, found)
    print(text)
    (args.out / "self_verification.md").write_text(text)
    together = {"seeds": done, "stages": runs, "labels": counts, "search_start": start, "search": found}
    (args.out / "self_verification.json").write_text(json.dumps(together, indent=1) + "\n")
    save_plot(runs, {"start": start, "trained": found}, args.out / "self_verification.svg")


if __name__ == "__main__":
    main()
