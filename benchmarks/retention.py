"""How long thinking stays in the context: inside the tool cycle (V3.2), dropped at every call (the older way), or kept.

    python -m benchmarks.retention                     into runs/retention
    python -m benchmarks.retention --tasks 24 --k 1    a quick look
    python -m benchmarks.retention --passes 6          the same passes instead of the same tokens

The same two-question tasks (``voyage`` with goal=count: the number of ships still to be taken is in the thinking
alone) under each rule. A policy is trained for each rule, from the policy of ``benchmarks.context``, by the same
demonstrations rendered under that rule; each is also evaluated under the other rules. Where every turn is a segment of
its own an episode has three to four times the tokens, so the rules differ in passes over the demonstrations: all three
policies are trained on about the same number of tokens, unless ``--passes`` says otherwise.
Prints a table and writes ``retention.md``, ``retention.json`` and ``retention.svg``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from benchmarks.context import train as start_policy
from benchmarks.plot import save_charts
from benchmarks.small_policy import Evaluation, accuracy, between, coldstart, evaluate, markdown, show
from rl.chat.renderer import Retention
from rl.run.stage_cache import StageResult
from rl.tracking.svg import bar_chart

RULES = get_args(Retention)
SETTINGS = (
    "env=voyage", "env.goal=count", "env.questions=2", "env.min_hops=1", "env.max_hops=3",
    "rollout.max_context=2048", "rollout.max_tokens=96", "rollout.max_turns=16",
)  # fmt: skip
PASSES = {"cycle": 6, "drop": 2, "keep": 8}
SEED = 4321  # of the held-out tasks
USAGE = ("prompt", "cached", "thinking", "tool", "answer")

HEAD = (
    "trained under", "played under", "reward", "answers right", "steps", "sampled tokens", "of them thinking",
    "prompt tokens", "cached", "segments", "tokens to train on",
)  # fmt: skip


def train(rule: str, demos: int, passes: int, cache: Path) -> StageResult:
    lesson = [
        "coldstart.as_rollouts=true", f"coldstart.demos={demos}", "coldstart.novice_share=0.5", "coldstart.threads=1",
        f"coldstart.epochs={passes}", f"rollout.retention={rule}",
    ]  # fmt: skip
    return coldstart([*SETTINGS, *lesson], cache, start_policy(cache))


def figures(evaluation: Evaluation) -> dict[str, Any]:
    right = accuracy(evaluation)
    used = {kind: fmean(row["usage"][kind] for row in evaluation.rows) for kind in USAGE}
    return {
        "reward": right.mean, "stderr": right.stderr, "interval": right.wilson, "runs": len(evaluation.rows),
        "answers": evaluation.mean(lambda row: row["reward_parts"]["score/answers"]),
        "steps": evaluation.mean(lambda row: row["turns"]),
        "sampled_tokens": evaluation.mean(lambda row: row["sampled_tokens"]),
        "thinking": used["thinking"] / max(used["thinking"] + used["tool"] + used["answer"], 1),
        "prompt_tokens": used["prompt"],
        "cached": used["cached"] / max(used["prompt"], 1),
        "segments": evaluation.mean(lambda row: len(row["segments"])),
        "total_tokens": evaluation.mean(lambda row: row["total_tokens"]),
    }  # fmt: skip


def table(found: Mapping[tuple[str, str], dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            trained, played, between(f["reward"], f["interval"]), f"{f['answers']:.3f}", f"{f['steps']:.1f}",
            f"{f['sampled_tokens']:.0f}", f"{f['thinking']:.0%}", f"{f['prompt_tokens']:,.0f}", f"{f['cached']:.0%}",
            f"{f['segments']:.1f}", f"{f['total_tokens']:,.0f}",
        )
        for (trained, played), f in found.items()
    ]  # fmt: skip


def plot(path: Path, found: Mapping[tuple[str, str], dict[str, Any]]) -> None:
    """Reward of each rule with the policy trained under it; prompt tokens computed (prefill) next to tokens sampled."""
    own = {rule: found[rule, rule] for rule in RULES}
    most = max(f["total_tokens"] for f in own.values())
    uncached = {rule: (f["prompt_tokens"] * (1 - f["cached"]) / most, 0.0) for rule, f in own.items()}
    training = {rule: (f["total_tokens"] / most, 0.0) for rule, f in own.items()}
    answers = {rule: (f["answers"], 0.0) for rule, f in own.items()}
    reward = {rule: (f["reward"], f["stderr"]) for rule, f in own.items()}
    save_charts(
        path,
        [
            lambda offset: bar_chart(
                "held-out outcome by retention", answers, reward, legend=("answers right", "both right"), offset=offset
            ),
            lambda offset: bar_chart(
                f"tokens a run, as a share of {most:,.0f}", uncached, training,
                legend=("prompt, not cached", "to train on"), offset=offset,
            ),
        ],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/retention"))
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--demos", type=int, default=384, help="demonstrations that each policy is trained on")
    parser.add_argument("--passes", type=int, help="over the demonstrations, for every rule (default: PASSES)")
    parser.add_argument("--tasks", type=int, default=64, help="held-out tasks")
    parser.add_argument("--k", type=int, default=2, help="samples of a task")
    args = parser.parse_args()
    size = [f"eval.n_tasks={args.tasks}", f"eval.k={args.k}", f"eval.seed={SEED}"]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for trained in RULES:
        policy = train(trained, args.demos, args.passes or PASSES[trained], args.cache)
        for played in RULES:
            evaluation = evaluate(policy, [*SETTINGS, f"rollout.retention={played}", *size], args.cache)
            found[trained, played] = figures(evaluation)
            print(f"{trained} under {played}: {evaluation.path}", flush=True)
    found = dict(sorted(found.items(), key=lambda item: item[0][0] != item[0][1]))  # each under its own rule first
    rows = table(found)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "retention.md").write_text(markdown(HEAD, rows))
    stored = [{"trained": trained, "played": played, **f} for (trained, played), f in found.items()]
    (args.out / "retention.json").write_text(json.dumps(stored, indent=1) + "\n")
    plot(args.out / "retention.svg", found)
    show("thinking retention", HEAD, rows)


if __name__ == "__main__":
    main()
