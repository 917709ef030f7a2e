"""Five ways to continue when the context window is full, on the same tasks with the same policy.

    python -m benchmarks.context                       into runs/context
    python -m benchmarks.context --tasks 24 --k 1      a quick look
    python -m benchmarks.context --novice              the family's imperfect demonstrator in the policy's place

The tasks are the ``voyage`` family with a window that its longer runs overflow. The policy is a cold start on
demonstrations played under ``rollout.context.policy=summary`` and, shorter, under the two discarding policies, so that
it has seen what each of them leaves. With ``--novice`` nothing is trained: the demonstrator, which takes a wrong turn
in 9 % of its moves and otherwise reads without fault, is played by the same rollout loop (no engine), so that the
table shows what the policies do to an agent whose trouble is the window. Prints a table and writes ``context.md``,
``context.json`` and ``context.svg`` (with ``--novice``: ``context_novice.*``).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.plot import save_charts
from benchmarks.small_policy import (
    BASE,
    Evaluation,
    Row,
    accuracy,
    between,
    change,
    coldstart,
    evaluate,
    markdown,
    outcome,
    show,
)
from envs.search.voyage import VoyageTaskset
from rl.chat.context_manager import POLICIES
from rl.data.rehearse import rehearse
from rl.rollout.selection import fewest_steps
from rl.run.assemble import open_renderer
from rl.run.stage_cache import StageResult
from rl.tracking.rundir import RunDir
from rl.tracking.svg import Series, line_chart

WINDOW = 400  # tokens: prompt, about six look-ups and the answer
SETTINGS = (
    "env=voyage", "env.min_hops=2", "env.max_hops=8",
    f"rollout.max_context={WINDOW}", "rollout.max_tokens=96", "rollout.max_turns=32",
    'rollout.context.summary_request="Summary?"', 'rollout.context.summary_heading="Summary:"',
    "rollout.context.summary_tokens=32",
)  # fmt: skip
# (policy that the demonstrations are played under, how many): one cold start after the other
LESSONS = (("summary", 512), ("discard_75", 96), ("discard_all", 96))
SEED = 4321  # of the held-out tasks

HEAD = (
    "policy", "accuracy", "minus none", "finished", "overflowed", "steps", "sampled tokens", "all tokens", "restarts",
    "stop reasons",
)  # fmt: skip


def overrides(policy: str) -> list[str]:
    return [*SETTINGS, f"rollout.context.policy={policy}"]


def train(cache: Path) -> StageResult:
    """The policy: taught by the imperfect demonstrator under each policy that changes the context."""
    policy: StageResult | None = None
    for number, (context, demos) in enumerate(LESSONS):
        more = [
            "coldstart.as_rollouts=true", f"coldstart.demos={demos}", "coldstart.novice_share=0.6",
            "coldstart.threads=1", "coldstart.epochs=2", f"coldstart.lr={1e-3 if number == 0 else 3e-4}",
            f"seed={number}",
        ]  # fmt: skip
        policy = coldstart([*overrides(context), *more], cache, policy)
    assert policy is not None
    return policy


def novice(policy: str, out: Path, tasks: int, k: int) -> Evaluation:
    """The demonstrator's rollouts under ``policy``: the same held-out tasks, ``k`` times each."""
    config = train_config([*SETTINGS, f"rollout.context.policy={policy}"]).rollout
    taskset = VoyageTaskset("heldout", seed=SEED, min_hops=2, max_hops=8)
    renderer = open_renderer("v32", str(BASE), config.retention)
    chosen = []
    for sample in range(k):
        runs = [
            rehearse(taskset, range(tasks), 1.0, sample * config.context.runs + run, renderer, config, only_good=False)
            for run in range(config.context.runs)
        ]
        chosen += [fewest_steps(of_a_task) if len(runs) > 1 else of_a_task[0] for of_a_task in zip(*runs, strict=True)]
    rundir = RunDir(out / f"novice-{policy}")
    rundir.write_config("".join(f"# {setting}\n" for setting in SETTINGS))
    rundir.log_trajectories("eval_after", chosen)
    return Evaluation(rundir.path)


def train_config(overrides: list[str]) -> Any:
    """The typed settings that the commands make of ``overrides``."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from configs.schema import register

    register()
    with initialize_config_module("configs", version_base="1.3"):
        return OmegaConf.to_object(compose("evaluate", overrides))


def cost(row: Row, what: str) -> float:
    """Turns or tokens of a run, or of all runs that it was chosen from."""
    together = row["counts"].get(f"context_parallel_{what}")
    return float(row[what] if together is None else together)


def restarts(row: Row) -> int:
    return sum(row["counts"].get(f"context_{policy}", 0) for policy in ("summary", "discard_75", "discard_all"))


def overflowed(row: Row) -> bool:
    """The window was not enough: the context was managed, or it ended the run."""
    return restarts(row) > 0 or row["stop_reason"] == "context"


def figures(evaluation: Evaluation, none: Evaluation) -> dict[str, Any]:
    right, gain = accuracy(evaluation), change(none, evaluation)
    stops = Counter(row["stop_reason"] for row in evaluation.rows)
    return {
        "accuracy": right.mean, "interval": right.wilson,
        "minus_none": gain.mean, "minus_none_interval": gain.bootstrap,
        "runs": len(evaluation.rows),
        "finished": evaluation.share(lambda row: row["stop_reason"] == "answered"),
        "overflowed": evaluation.share(overflowed),
        "steps": evaluation.mean(lambda row: cost(row, "turns")),
        "sampled_tokens": evaluation.mean(lambda row: cost(row, "sampled_tokens")),
        "total_tokens": evaluation.mean(lambda row: cost(row, "total_tokens")),
        "prompt_tokens": evaluation.mean(lambda row: row["usage"]["prompt"]),
        "cached_tokens": evaluation.mean(lambda row: row["usage"]["cached"]),
        "restarts": evaluation.mean(restarts),
        "stop_reasons": {stop: n / len(evaluation.rows) for stop, n in stops.most_common()},
        "by_hops": by_hops(evaluation),
    }  # fmt: skip


def by_hops(evaluation: Evaluation) -> dict[int, float]:
    """Accuracy by the number of hops of the task."""
    taskset = VoyageTaskset("heldout", seed=SEED, min_hops=2, max_hops=8)
    groups: dict[int, list[float]] = {}
    for task, value in evaluation.by_task(outcome).items():
        hops = taskset.task(int(task.rsplit("/", 1)[1])).metadata["hops"]
        groups.setdefault(hops, []).append(value)
    return {hops: fmean(values) for hops, values in sorted(groups.items())}


def table(found: Mapping[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            policy, between(f["accuracy"], f["interval"]),
            "" if policy == "none" else between(f["minus_none"], f["minus_none_interval"], "+.3f"),
            f"{f['finished']:.0%}", "–" if policy == "parallel_fewest_step" else f"{f['overflowed']:.0%}",
            f"{f['steps']:.1f}", f"{f['sampled_tokens']:,.0f}", f"{f['total_tokens']:,.0f}", f"{f['restarts']:.2f}",
            ", ".join(f"{stop} {share:.0%}" for stop, share in f["stop_reasons"].items()),
        )
        for policy, f in found.items()
    ]  # fmt: skip


def plot(path: Path, found: Mapping[str, dict[str, Any]]) -> None:
    """Accuracy against steps, one point a policy, and accuracy by the length of the task."""
    points = [Series(policy, [(f["steps"], f["accuracy"])], color=i) for i, (policy, f) in enumerate(found.items())]
    edges = [Series("", [(0.0, 0.0), (max(f["steps"] for f in found.values()) * 1.05, 0.0)], color=-2)]
    lines = [
        Series(policy, [(float(hops), value) for hops, value in f["by_hops"].items()], color=i)
        for i, (policy, f) in enumerate(found.items())
    ]
    save_charts(
        path,
        [
            lambda offset: line_chart(
                "accuracy against steps", points, raw=edges, x_label="steps a task", y_range=(0, 1), offset=offset
            ),
            lambda offset: line_chart(
                "accuracy by hops of the task", lines, x_label="hops", y_range=(0, 1), offset=offset
            ),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/context"))
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--tasks", type=int, default=64, help="held-out tasks")
    parser.add_argument("--k", type=int, default=2, help="samples of a task")
    parser.add_argument("--policies", default=",".join(POLICIES), help="comma-separated; none is always among them")
    parser.add_argument("--novice", action="store_true", help="the demonstrator instead of a trained policy")
    args = parser.parse_args()
    policies = list(dict.fromkeys(["none", *args.policies.split(",")]))
    if unknown := sorted(set(policies) - set(POLICIES)):
        parser.error(f"--policies: {', '.join(unknown)} unknown; there are {', '.join(POLICIES)}")
    trained = None if args.novice else train(args.cache)
    evaluations: dict[str, Evaluation] = {}
    for policy in policies:
        size = [f"eval.n_tasks={args.tasks}", f"eval.k={args.k}", f"eval.seed={SEED}"]
        if trained is None:
            evaluations[policy] = novice(policy, args.out, args.tasks, args.k)
        else:
            evaluations[policy] = evaluate(trained, [*overrides(policy), *size], args.cache)
        print(f"{policy}: {evaluations[policy].path}", flush=True)
    found = {policy: figures(evaluation, evaluations["none"]) for policy, evaluation in evaluations.items()}
    rows = table(found)
    args.out.mkdir(parents=True, exist_ok=True)
    name = "context_novice" if args.novice else "context"
    (args.out / f"{name}.md").write_text(markdown(HEAD, rows))
    (args.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(args.out / f"{name}.svg", found)
    show(f"context policies, window {WINDOW} tokens", HEAD, rows)


if __name__ == "__main__":
    main()
