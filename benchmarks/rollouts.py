"""What the demo's rollouts keep of the engine's speed, and how the engine compares with a dense Llama of its size.

    OMP_NUM_THREADS=1 python -m benchmarks.rollouts [--rounds 7] [--json FILE]

Each round, in this order, on one thread: the demo's rollouts of ``--groups`` x ``--size`` episodes of the shipped base
policy (a rollout worker without Ray: environments, chat format and engine are those of a run), with an empty prefix
cache as after a weight sync; decode steps alone of the same engine, of ``rollout.max_concurrency`` requests at the mean
context of those rollouts; the same of a Llama with as many parameters, in a vLLM engine of its own. Figures are sampled
tokens per CPU second of the whole process, so other work on the machine does not add to them; ratios are taken round by
round. Further arguments are overrides of `rl-train`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.runs import markdown
from rl.run.paths import resolve

if TYPE_CHECKING:
    from rl.rollout.engine import Engine
    from rl.rollout.worker import RolloutWorker

ROLLOUTS, DECODE, LLAMA = "rollouts", "decode only", "decode only, dense Llama"
BASE = "pkg://rl.bases/tiny_dsa_base"


def open_worker(
    overrides: Sequence[str], policy: str | None = None, record_indexer: bool = False
) -> tuple[RolloutWorker, Any]:
    """The worker of a run with ``overrides`` and its training tasks. ``policy``: its directory; None: the shipped
    base."""
    import cloudpickle

    from rl.commands.hydra import composed
    from rl.rollout.orders import WorkerSetup
    from rl.rollout.worker import RolloutWorker
    from rl.run.assemble import TRAIN, open_composer, open_renderer, open_tasksets
    from rl.run.turn_limit import settle_turns

    cfg, policy = composed("train", list(overrides)), policy or str(resolve(BASE))
    tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
    settle_turns(cfg.rollout, tasksets[TRAIN])
    renderer = partial(open_renderer, cfg.policy.renderer, policy, cfg.rollout.retention)
    setup = WorkerSetup(cfg.rollout, policy, renderer, tasksets, open_composer(cfg.reward), record_indexer)
    return RolloutWorker(0, [], cloudpickle.dumps(setup)), tasksets[TRAIN]


def llama(folder: Path, like: Path) -> Path:
    """A random Llama with the vocabulary, width, depth and heads of the policy ``like``, and as many parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    own = json.loads((like / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    shape = {name: own[name] for name in names}
    vocab, hidden, layers, *_ = shape.values()
    per_layer = (own_parameters(like) - 2 * vocab * hidden) / layers - 4 * hidden * hidden
    torch.manual_seed(0)
    config = LlamaConfig(**shape, intermediate_size=round(per_layer / (3 * hidden)), max_position_embeddings=4096)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def own_parameters(policy: Path) -> int:
    from safetensors import safe_open

    with safe_open(policy / "model.safetensors", "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 (no iterator)


async def play(worker: RolloutWorker, tasks: Any, number: int, groups: int, size: int) -> dict[str, float]:
    """Round ``number`` of the rollouts: CPU seconds, sampled tokens, and what the engine did."""
    import numpy as np

    from rl.rollout.orders import GroupSpec

    def start(engine: Engine) -> tuple[Any, float]:
        engine._core.reset_prefix_cache()
        return engine.stats(), time.thread_time()

    before, engine_before = await worker._engine.call(start)
    cpu, wall = time.process_time(), time.perf_counter()
    first = number * groups
    specs = [GroupSpec(i, tasks.task(i), i, size, 0) for i in range(first, first + groups)]
    played = await asyncio.gather(*(worker.run_group(spec) for spec in specs))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    after, engine_after = await worker._engine.call(lambda engine: (engine.stats(), time.thread_time()))
    sampled = [s.targets for group in played for t in group.trajectories for s in t.segments]
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "engine_cpu_s": engine_after - engine_before,
        "tokens": after.sampled_tokens - before.sampled_tokens,
        "steps": after.steps - before.steps,
        "prompt_tokens": after.prompt_tokens - before.prompt_tokens,
        "cached_tokens": after.cached_prompt_tokens - before.cached_prompt_tokens,
        "context": float(np.concatenate(sampled).mean()),
    }


def decode(engine: Engine, batch: int, context: int, steps: int) -> dict[str, float]:
    """CPU seconds of ``steps`` decode steps of ``batch`` requests around ``context`` tokens."""
    import numpy as np

    from rl.rollout.engine_api import GenerateRequest

    rng = np.random.default_rng(0)
    begins = max(1, context - steps // 2)
    for i in range(batch):
        prompt = rng.integers(0, engine.vocab_size, begins).tolist()
        engine.add(GenerateRequest(f"decode-{i}", prompt, max_tokens=2 * steps + 8))
    target = engine.stats().sampled_tokens + 3 * batch
    while engine.stats().sampled_tokens < target:
        engine.step()
    started = time.process_time()
    for _ in range(steps):
        engine.step()
    seconds = time.process_time() - started
    for i in range(batch):
        engine.abort(f"decode-{i}")
    return {"cpu_s": seconds, "tokens": steps * batch, "steps": steps}


async def measure(args: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    from rl.rollout.config import EngineConfig
    from rl.rollout.engine import Engine

    worker, tasks = open_worker(args.overrides)
    await worker.ready()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dense = Engine(llama(Path(folder), resolve(BASE)), EngineConfig())
        for number in range(args.rounds + 1):
            played = await play(worker, tasks, number, args.groups, args.size)
            batch, context = worker.config.max_concurrency, round(played["context"])
            ours = await worker._engine.call(partial(decode, batch=batch, context=context, steps=args.steps))
            theirs = decode(dense, batch, context, args.steps)
            if number:  # the first one warms up
                rows.append({ROLLOUTS: played, DECODE: ours, LLAMA: theirs})
                print(f"round {number}: batch {batch}, context {context}", file=sys.stderr, flush=True)
    await worker.close()
    return rows


def speed(row: dict[str, float]) -> float:
    return row["tokens"] / row["cpu_s"]


def spread(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def table(rows: Sequence[dict[str, dict[str, float]]]) -> str:
    lines = [(name, spread([speed(row[name]) for row in rows], ",.0f")) for name in (ROLLOUTS, DECODE, LLAMA)]
    for name, other in ((ROLLOUTS, DECODE), (DECODE, LLAMA)):
        lines.append((f"{name} / {other}", spread([speed(row[name]) / speed(row[other]) for row in rows], ".2f")))
    played = [row[ROLLOUTS] for row in rows]
    lines += [
        ("engine's share of the CPU time of rollouts", spread([r["engine_cpu_s"] / r["cpu_s"] for r in played], ".2f")),
        ("tokens decoded a step", spread([r["tokens"] / r["steps"] for r in played], ".0f")),
        (
            "prompt tokens computed for each sampled one",
            spread([(r["prompt_tokens"] - r["cached_tokens"]) / r["tokens"] for r in played], ".2f"),
        ),
    ]
    return markdown(("sampled tokens per CPU second", "median (range)"), lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="counted ones; one more warms up")
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--size", type=int, default=8, help="rollouts of a group")
    parser.add_argument("--steps", type=int, default=60, help="decode steps of each measurement of decoding alone")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("overrides", nargs="*", default=[], help="of rl-train")
    args = parser.parse_args(arguments)
    rows = asyncio.run(measure(args))
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
