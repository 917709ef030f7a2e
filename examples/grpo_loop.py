"""GRPO for agents in one script, for reading: the algorithm of the trainer (rl/recipes/grpo.py) and nothing else.

    python examples/grpo_loop.py --seed 0       # one to two minutes on two cores, the start of the engine included

A policy of 1.3 million parameters (DSA, MLA and MoE, as in DeepSeek-V3.2) learns to run errands at a help desk. It
knows these tools from a shop that has more of them; here it often takes the wrong one or miscopies a number.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from statistics import fmean
from typing import Any

from configs.schema import RayConfig
from envs.environment import Environment, tool
from envs.taskset import Taskset
from envs.types import Message, Task
from envs.words import CITIES
from rewards.compose import default_composer
from rl.learner.actor import probe_tokens
from rl.learner.config import LearnerConfig
from rl.learner.forward import packed_scores
from rl.learner.learner import Learner
from rl.learner.pack_item import PackItem
from rl.learner.packing import pack
from rl.learner.replay_audit import replay_of, require_records
from rl.objective.advantage import group_advantages, token_weights
from rl.objective.config import ObjectiveConfig
from rl.objective.loss import LossInputs, grpo_loss
from rl.policy.handover import with_records
from rl.policy.loading import load_policy
from rl.rollout.config import RolloutConfig
from rl.rollout.orders import GroupSpec
from rl.rollout.pool import RolloutPool
from rl.run.assemble import cluster, open_renderer
from rl.run.paths import resolve
from rl.types import Group, Trajectory

BASE = resolve("pkg://rl.bases/tiny_dsa_base")  # the shipped policy, without a cold start
PROMPTS, GROUP_SIZE = 16, 8  # tasks a step, rollouts of each


class HelpDesk(Environment):
    """One errand by one call. The outcome is 1 when that was done and nothing else."""

    def reset(self) -> tuple[Message, ...]:
        self.done: list[str] = []
        return super().reset()

    @tool
    def ship_order(self, order_id: int) -> str:
        """Ship an order."""
        return self._do(f"Ship order {order_id}.")

    @tool
    def cancel_order(self, order_id: int) -> str:
        """Cancel an order."""
        return self._do(f"Cancel order {order_id}.")

    @tool
    def set_city(self, customer_id: int, city: str) -> str:
        """Change the city of a customer."""
        return self._do(f'Move customer {customer_id} to "{city}".')

    def _do(self, errand: str) -> str:
        self.done.append(errand)
        return "ok"

    def state(self) -> dict[str, Any]:  # Environment.score compares it with the task's goal
        return {"done": self.done}


class HelpDeskTaskset(Taskset):
    family, env_class = "help_desk", HelpDesk
    errands = ("Ship order {}.", "Cancel order {}.", 'Move customer {} to "{}".')

    def task(self, index: int) -> Task:  # the same task in every process
        rng = self.rng(index)
        errand = rng.choice(self.errands).format(rng.randint(100, 999), rng.choice(CITIES))
        prompt = (Message("system", "Do it with the tools."), Message("user", errand))
        return Task(self.task_id(index), self.family, prompt, metadata={"goal": {"done": [errand]}})


def update(learner: Learner, groups: Sequence[Group]) -> float:
    """One optimiser step, as ``Learner.step`` does it by default; returns max |log pi_learner - log pi_sampler|."""
    lengths = [[t.sampled_tokens if t.failure_kind is None else 0 for t in g.trajectories] for g in groups]
    items: list[PackItem] = []
    for group, weights in zip(groups, token_weights(lengths), strict=True):  # w = 1 / (groups G |o_i|)
        valid = [t.failure_kind is None for t in group.trajectories]  # where the machinery failed there is no sample
        advantages = group_advantages([t.reward for t in group.trajectories], valid)  # A_i = R_i - mean(R)
        for trajectory, advantage, weight in zip(group.trajectories, advantages, weights, strict=True):
            for s in trajectory.segments if advantage else ():
                items.append(PackItem(s.tokens, s.loss_mask, weight, advantage, s.logprobs, replay=s.replay))
    require_records(items, learner.replay, learner.policy)
    total = mismatch = 0.0
    for batch in pack(items, learner.config.max_tokens_per_microbatch):
        replay = replay_of(batch, learner.replay)  # Keep Routing: the sampler's experts again
        logprobs_N, sampler_N = packed_scores(learner.policy, batch, replay=replay).logprobs_N, batch.sampler_logprobs_N
        inputs = (logprobs_N, sampler_N, batch.advantages_N, batch.weights_N, batch.segment_N, batch.segments)
        loss = grpo_loss(LossInputs(*inputs), learner.objective, delta=None).loss  # -sum w min(r A, clip(r) A)
        loss.backward()
        total += loss.item()
        mismatch = max(mismatch, (logprobs_N - sampler_N).abs().max().item())
    if items:  # else the rollouts of every task earned the same, and there is no gradient
        learner.optimizer.step(total)  # clips the gradient, then AdamW
    learner.version += 1
    return mismatch


def episode(t: Trajectory) -> str:  # the errand, the calls, the reward
    calls = [(c["name"], *c["arguments"].values()) for m in t.messages for c in m.get("tool_calls", ())]
    return f"{t.messages[1]['content']} {calls} {t.reward:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="GRPO for agents in one script.")
    parser.add_argument("--steps", type=int, default=30, choices=range(1, 1001), metavar="1…1000")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks and of sampling")
    args = parser.parse_args()

    taskset = HelpDeskTaskset("train", args.seed)
    learner = Learner(load_policy(BASE), LearnerConfig(lr=2e-4, threads=1), ObjectiveConfig(), "runs/grpo_loop")
    config = RolloutConfig(seed=args.seed, max_concurrency=PROMPTS * GROUP_SIZE, max_tokens=64, max_context=512)
    renderer = partial(open_renderer, "v32", str(BASE))  # messages <-> tokens, V3.2's chat format
    probe = probe_tokens(BASE, args.seed, config.max_context - 1)
    rewards: list[float] = []
    print("starting Ray and a rollout worker with vLLM", flush=True)
    with (
        cluster(RayConfig(), config.workers),
        closing(RolloutPool(config, BASE, renderer, {"train": taskset}, default_composer())) as pool,
    ):
        started = time.monotonic()
        for step in range(1, args.steps + 1):
            tasks = [(index, taskset.task(index)) for index in (taskset.next_index() for _ in range(PROMPTS))]
            groups = pool.run([GroupSpec(i, t, i, GROUP_SIZE, learner.version) for i, t in tasks], deadline_s=300)
            mismatch = update(learner, with_records(groups, 60.0))  # experts stay with Ray until they are asked for
            # New weights into the engine; raises WeightSyncError unless it then computes what the learner computes.
            pool.sync(learner.weights(), learner.version, probe, learner.probe)
            rewards.append(fmean(t.reward for g in groups for t in g.trajectories))
            left = (time.monotonic() - started) / step * (args.steps - step)
            line = f"step {step}/{args.steps} · reward {rewards[-1]:.2f} · mismatch {mismatch:.0e} · {left:.0f}s left"
            shown = groups[:5] if step in (1, args.steps) else []
            print(line, *(episode(g.trajectories[0]) for g in shown), sep="\n    ", flush=True)
    print(f"reward: {rewards[0]:.2f} in the first step, {fmean(rewards[-5:]):.2f} in the last {len(rewards[-5:])}")


if __name__ == "__main__":
    main()
