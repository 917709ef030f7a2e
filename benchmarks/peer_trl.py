"""Our GRPO step beside TRL's, in turns in one run: same policy, prompts, number of tokens and threads, each part timed.

    python -m benchmarks.peer_trl                      two threads each; needs the extra `trl`
    python -m benchmarks.peer_trl --engines 2          the two threads of our rollouts as two engines of one
    python -m benchmarks.peer_trl --threads 1 --steps 8

The policy is the shipped tiny DSA/MoE base in float32. A step samples 8 completions of exactly 128 tokens to each of 8
prompts (tasks of the agent family as the chat template renders them), gives every one a random reward, and updates all
weights once; no reference policy, no truncated sampling. TRL's GRPOTrainer generates with transformers on the weights
that it trains. Ours crosses processes: rollout worker (vLLM), learner, and the sync of the weights with its probe are
all counted. The two never run at once: our step is made when TRL has ended one, and the other way round. The first step
of both warms up and is left out.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from envs.environment import Environment
from envs.types import Episode, Message, Task

BASE = Path(__file__).resolve().parents[1] / "rl" / "bases" / "tiny_dsa_base"
PROMPTS, GROUP_SIZE, TOKENS = 8, 8, 128
OURS = ("rollout", "learner", "sync")
THEIRS = ("generation", "rest of the batch", "forward and backward", "optimiser and the rest")


class RandomReward(Environment):
    """One message, whatever it is; the outcome is a random number."""

    def score(self, episode: Episode) -> dict[str, float]:
        return {"outcome": random.random()}


class Prompts:
    """What a rollout worker asks of a taskset."""

    def environment(self, task: Task) -> Environment:
        return RandomReward(task)


def fixed_renderer(prompts: list[list[int]]) -> Any:
    """The policy's renderer, which renders task i as ``prompts[i]`` and lets no token end a message."""
    from rl.run.assemble import open_renderer

    renderer: Any = open_renderer("v32", str(BASE))
    renderer.stop_token_ids = ()
    renderer.render = lambda messages, **_: list(prompts[int(messages[0].content)])
    return renderer


def real_prompts() -> list[list[int]]:
    """Tokens of eight tasks of the agent family."""
    from rl.run.assemble import open_renderer, open_taskset

    taskset = open_taskset({"_target_": "envs.agent.taskset.AgentTaskset"}, "train", 0)
    renderer = open_renderer("v32", str(BASE))
    starts = [taskset.environment(task).reset() for task in map(taskset.task, range(PROMPTS))]  # with their tools
    return [list(renderer.render(messages, thinking=True)) for messages in starts]


class OurSteps:
    """A rollout worker and a learner, made by the configuration of ``rl-train``."""

    def __init__(self, threads: int, engines: int, prompts: list[list[int]], folder: Path) -> None:
        from hydra import compose, initialize_config_module
        from omegaconf import OmegaConf

        from configs.schema import register
        from rewards.compose import default_composer
        from rl.learner.actor import LearnerHandle
        from rl.rollout.pool import RolloutPool

        register()
        settings = [f"rollout.workers={engines}", f"rollout.threads={threads // engines}"]
        settings += [f"learner.threads={threads}", f"rollout.max_tokens={TOKENS}"]
        with initialize_config_module("configs", version_base="1.3"):
            self.cfg: Any = OmegaConf.to_object(compose("train", [*settings, "rollout.max_turns=1"]))
        taskset: Any = Prompts()
        renderer = partial(fixed_renderer, prompts)
        self.pool = RolloutPool(self.cfg.rollout, BASE, renderer, {"train": taskset}, default_composer())
        self.learner = LearnerHandle(self.cfg, BASE, folder)
        self.learner.sync(self.pool, 0)
        self.version = 0

    def step(self) -> dict[str, float]:
        """Seconds of each part of ``OURS``."""
        from rl.rollout.orders import GroupSpec

        tasks = [Task(str(i), "fixed", (Message("user", str(i)),)) for i in range(PROMPTS)]
        first = self.version * PROMPTS
        started = time.perf_counter()
        specs = [GroupSpec(first + i, task, i, GROUP_SIZE, self.version) for i, task in enumerate(tasks)]
        groups = self.pool.run(specs, deadline_s=600)
        sampled = time.perf_counter()
        self.learner.step(groups, self.pool)
        learned = time.perf_counter()
        self.version += 1
        self.learner.sync(self.pool, self.version)
        ended = time.perf_counter()
        found = sum(t.sampled_tokens for g in groups for t in g.trajectories)
        if found != PROMPTS * GROUP_SIZE * TOKENS:
            raise RuntimeError(f"our step sampled {found} tokens; expected {PROMPTS * GROUP_SIZE * TOKENS}")
        return dict(zip(OURS, (sampled - started, learned - sampled, ended - learned), strict=True))

    def close(self) -> None:
        self.learner.close()
        self.pool.close()


class Stopwatch:
    """Seconds spent in wrapped methods since the last ``take``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: type, method: str, name: str) -> None:
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

        setattr(owner, method, timed)

    def take(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, {}
        return taken


def trl_steps(threads: int, steps: int, texts: list[str], folder: str, between: Callable[[], None]) -> list[Any]:
    """Seconds of each part of ``THEIRS``, one entry a step of TRL's; ``between`` is called after each."""
    import torch

    found: Any = importlib.import_module("trl.import_utils")
    found.is_vllm_available = lambda *_, **__: False  # the peer generates with transformers
    from datasets import Dataset
    from transformers import AutoTokenizer, DeepseekV32ForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(threads)
    watch = Stopwatch()
    watch.wrap(GRPOTrainer, "_generate_single_turn", "generation")
    watch.wrap(GRPOTrainer, "_prepare_inputs", "batch")
    watch.wrap(GRPOTrainer, "training_step", "training")
    rows: list[dict[str, float]] = []

    class Turns(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.take()
            Turns.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            whole, spent = time.perf_counter() - Turns.started, watch.take()
            parts = (
                spent["generation"], spent["batch"] - spent["generation"], spent["training"] - spent["batch"],
                whole - spent["training"],
            )  # fmt: skip
            rows.append(dict(zip(THEIRS, parts, strict=True)))
            between()

    tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    settings = GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=False, fp16=False, per_device_train_batch_size=PROMPTS * GROUP_SIZE,
        num_generations=GROUP_SIZE, max_completion_length=TOKENS, steps_per_generation=1, num_iterations=1,
        max_steps=steps, learning_rate=2e-4, adam_beta2=0.95, beta=0.0, loss_type="dapo", temperature=1.0, top_p=1.0,
        top_k=0, generation_kwargs={"min_new_tokens": TOKENS, "use_cache": True}, gradient_checkpointing=False,
        shuffle_dataset=False, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    model = DeepseekV32ForCausalLM.from_pretrained(BASE, attn_implementation="sdpa", dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [random.random() for _ in completions],
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        callbacks=[Turns()],
    )
    trainer.train()
    lengths = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    if lengths != [TOKENS] * steps:
        raise RuntimeError(f"TRL's completions were {lengths} tokens long; expected {TOKENS} in every step")
    return rows


def as_texts(prompts: list[list[int]]) -> list[str]:
    """The prompts as TRL takes them. Raises RuntimeError where its tokenizer would make other tokens of them."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
    texts = [tokenizer.decode(tokens, skip_special_tokens=False) for tokens in prompts]
    if [tokenizer(text)["input_ids"] for text in texts] != prompts:
        raise RuntimeError("a prompt's text is encoded as other tokens than ours")
    return texts


@contextmanager
def our_side(threads: int, engines: int, prompts: list[list[int]]) -> Any:
    from configs.schema import RayConfig
    from rl.run.assemble import cluster

    with (
        tempfile.TemporaryDirectory() as folder,
        cluster(RayConfig(), 1 + engines),
        closing(OurSteps(threads, engines, prompts, Path(folder))) as ours,
    ):
        yield ours


def table(name: str, rows: list[dict[str, float]]) -> float:
    """Prints median and range of each part; returns the median of the whole step."""
    wholes = [sum(row.values()) for row in rows]
    for part in rows[0]:
        values = [row[part] for row in rows]
        print(f"| {name} | {part} | {median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")
    print(f"| {name} | **step** | **{median(wholes):.2f}** | {min(wholes):.2f} to {max(wholes):.2f} |")
    return median(wholes)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Our GRPO step beside TRL's.")
    parser.add_argument("--threads", type=int, default=2, help="of TRL, and of our engine and learner")
    parser.add_argument("--engines", type=int, default=1, help="that share the threads of our rollouts")
    parser.add_argument("--steps", type=int, default=6, help="of each, the first of which warms up")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("trl") is None:
        print("error: TRL is not installed here; pip install trl==1.16.0 (the extra `trl`)", file=sys.stderr)
        return 1
    if args.steps < 2:
        print(f"error: --steps {args.steps}: must be at least 2, the first one warms up", file=sys.stderr)
        return 1
    if args.engines < 1 or args.threads % args.engines:
        print(f"error: --engines {args.engines}: must share {args.threads} threads evenly", file=sys.stderr)
        return 1
    import trl

    prompts = real_prompts()
    texts = as_texts(prompts)
    ours: list[dict[str, float]] = []
    with our_side(args.threads, args.engines, prompts) as side, tempfile.TemporaryDirectory() as folder:
        theirs = trl_steps(args.threads, args.steps, texts, folder, lambda: ours.append(side.step()))
    print(
        f"{PROMPTS} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens x {GROUP_SIZE}, {TOKENS} "
        f"forced tokens, {args.threads} threads, {args.engines} engine(s) of ours, TRL {trl.__version__}, "
        f"{args.steps - 1} steps of each in turns\n"
    )
    print("| | part | median, s | range |\n|---|---|---:|---:|")
    theirs, ours = theirs[1:], ours[1:]
    peer, own = table("TRL", theirs), table("ours", ours)
    ratios = [sum(a.values()) / sum(b.values()) for a, b in zip(theirs, ours, strict=True)]
    print(f"\nTRL / ours: {peer / own:.2f} of the medians; step by step {min(ratios):.2f} to {max(ratios):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
