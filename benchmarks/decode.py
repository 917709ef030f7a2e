"""Time of a decode step in vLLM against context length: DSA next to dense MLA, in one engine, steps alternating.

    python -m benchmarks.decode [--quick] [--batch 2] [--index-precision int8] [--svg docs/images/decode-dsa.svg]

Both serve the same weights over the same cache. Dense MLA is the same policy with ``index_topk`` beyond the context: no
index scores are computed then, and every cached row is read. V3.2's claim is that the cost of a token stays nearly
stable as the context grows; "flatness" here is time(longest) / time(shortest), for whole steps and for the attention
alone, and the slope is what each further 1,024 tokens of context add. What still grows under DSA is the indexer,
which reads one short key per cached token. Times are CPU times of this process, which computes on one thread: other
load on the machine does not add to them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl.rollout.engine import Engine

CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)
# Per (query, key): 16 heads x (2 * 128 + 32) = 4,608 multiply-adds in MLA and 8 x 32 = 256 in the indexer, 18 to 1;
# DeepSeek-V3.2 has 139,264 to 8,192 = 17 to 1. Cached floats per token: 160 and 32, 5 to 1; V3.2: 576 and 128.
DIMS = dict(
    hidden_size=256,
    intermediate_size=512,
    num_attention_heads=16,
    num_key_value_heads=16,
    q_lora_rank=128,
    kv_lora_rank=128,
    qk_rope_head_dim=32,
    index_n_heads=8,
    index_head_dim=32,
    index_topk=256,
)
MODES = ("DSA", "dense")
VOCAB = 1024


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short contexts, few steps")
    parser.add_argument("--batch", type=int, default=2, help="requests that decode together, each with its own context")
    parser.add_argument(
        "--rounds", type=int, default=6, help="times each context is visited, for 4 steps of DSA and 4 dense"
    )
    parser.add_argument(
        "--index-precision", choices=("float32", "int8"), default="float32", help="how the policy's indexer compares"
    )
    parser.add_argument("--svg", type=Path, help="write the plot here")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args(arguments)
    contexts, rounds = ((512, 1024), 1) if args.quick else (CONTEXTS, args.rounds)
    with tempfile.TemporaryDirectory() as directory:
        results = measure(Path(directory), contexts, args.batch, rounds, args.index_precision)
    print(table(results, args.batch))
    if args.json:
        args.json.write_text(json.dumps(results))
    if args.svg:
        plot(results, args.svg)
    return 0


def measure(
    directory: Path, contexts: Sequence[int], batch: int, rounds: int, precision: str = "float32"
) -> list[dict[str, Any]]:
    """Per context: the median ms of a step and of its attention, for both modes."""
    import numpy as np

    from rl.policy.loading import build_policy
    from rl.rollout.config import EngineConfig
    from rl.rollout.engine import Engine
    from rl.rollout.engine_api import GenerateRequest
    from rl.rollout.paged import PagedContext

    longest = max(contexts) + 256
    dims = {**DIMS, "max_position_embeddings": longest, "index_precision": precision}
    build_policy({"preset": "tiny_dsa", "vocab_size": VOCAB, "overrides": dims, "seed": 0}).save(directory)
    row_bytes = 4 * 4 * (128 + 32 + 32)  # layers x floats
    engine = Engine(
        directory,
        EngineConfig(
            max_context=longest,
            max_concurrency=batch,
            max_num_batched_tokens=2048,
            kv_cache_gib=(batch + 0.5) * longest * row_bytes / 2**30,
            dsa_backend="torch",
        ),
    )
    layers = [layer.self_attn for layer in engine._model.dsa.decoder_layers]
    specs = {
        "DSA": [layer.spec for layer in layers],
        "dense": [replace(layer.spec, topk=longest) for layer in layers],
    }

    def use(mode: str) -> None:
        for layer, spec in zip(layers, specs[mode], strict=True):
            layer.spec = spec

    inside = [0.0]
    attend = PagedContext.attend

    def timed_attend(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        out = attend(*args, **kwargs)
        inside[0] += time.process_time() - started
        return out

    rng = np.random.default_rng(0)
    texts = [rng.integers(8, VOCAB, longest).tolist() for _ in range(batch)]
    samples: dict[tuple[int, str], list[float]] = defaultdict(list)
    PagedContext.attend = timed_attend  # type: ignore[method-assign]
    try:
        prefill(engine, texts, max(contexts))
        # All contexts in every round, DSA and dense in turn: other load on the machine hits all alike.
        for number in range(rounds):
            for context in contexts:
                use("DSA")
                for i, text in enumerate(texts):  # found in the prefix cache
                    engine.add(GenerateRequest(f"{context}-{i}", text[:context], max_tokens=64))
                target = engine.stats().sampled_tokens + 3 * batch
                while engine.stats().sampled_tokens < target:
                    engine.step()
                for mode in MODES * 4:
                    use(mode)
                    inside[0], started = 0.0, time.process_time()
                    engine.step()
                    samples[context, mode].append(1e3 * (time.process_time() - started))
                    samples[context, f"{mode} attention"].append(1e3 * inside[0])
                for i in range(batch):
                    engine.abort(f"{context}-{i}")
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        PagedContext.attend = attend  # type: ignore[method-assign]
        engine.close()
    keys = [key for mode in MODES for key in (mode, f"{mode} attention")]
    return [{"context": c, **{key: statistics.median(samples[c, key]) for key in keys}} for c in contexts]


def prefill(engine: Engine, texts: list[list[int]], context: int) -> None:
    """Puts the longest prompts into the prefix cache, the shorter ones with them."""
    from rl.rollout.engine_api import GenerateRequest

    started = time.process_time()
    for i, text in enumerate(texts):
        engine.add(GenerateRequest(f"prefill-{i}", text[:context], max_tokens=1))
    while engine.has_unfinished():
        engine.step()
    seconds = time.process_time() - started
    print(f"prefill of {len(texts)} x {context:,} tokens: {seconds:.0f} s", file=sys.stderr, flush=True)


def table(results: list[dict[str, Any]], batch: int) -> str:
    lines = [
        f"{batch} requests; ms per step (of which attention), and dense / DSA",
        "| context | DSA | dense | dense / DSA |",
        "|---:|---:|---:|---:|",
    ]
    for row in results:
        cells = [f"{row[mode]:.1f} ({row[f'{mode} attention']:.1f})" for mode in MODES]
        lines.append(f"| {row['context']:,} | " + " | ".join(cells) + f" | {row['dense'] / row['DSA']:.1f} |")
    first, last = results[0], results[-1]
    for mode in MODES:
        added = last[f"{mode} attention"] - first[f"{mode} attention"]
        slope = 1e3 * added / (last["context"] - first["context"]) * 1024 / batch
        lines.append(
            f"{mode}: {last['context']:,} / {first['context']:,}: step x{last[mode] / first[mode]:.2f}, "
            f"attention x{last[f'{mode} attention'] / first[f'{mode} attention']:.1f}; each further 1,024 tokens of "
            f"context add {slope:.0f} us to a token"
        )
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    from benchmarks.plot import save_charts
    from rl.tracking.svg import Series, line_chart

    def points(key: str) -> list[tuple[float, float]]:
        return [(row["context"] / 1024, row[key]) for row in results]

    def chart(title: str, suffix: str, offset: tuple[int, int]) -> str:
        lines = [Series(mode, points(mode + suffix), color=i, bold=i == 0) for i, mode in enumerate(MODES)]
        top = max(y for line in lines for _, y in line.points)
        label = "context (thousands of tokens)"
        return line_chart(title, lines, x_label=label, y_range=(0.0, 1.05 * top), offset=offset)

    save_charts(
        path,
        [
            lambda offset: chart("Decode step in vLLM (ms)", "", offset),
            lambda offset: chart("Of which attention (ms)", " attention", offset),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
