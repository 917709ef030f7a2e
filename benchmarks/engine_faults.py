"""Faults of the rollout side: what changes the engine, the worker or the environment around them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from types import ModuleType
from typing import Any

from benchmarks.fault_hooks import acting, chance, once, wiggle


def router_flips(module: ModuleType, size: float) -> None:
    plain = module.DSAForVLLM.__init__

    @wraps(plain)  # vLLM reads the names of its parameters
    def init(self: Any, **given: Any) -> None:
        plain(self, **given)
        for part in self.modules():
            if hasattr(part, "e_score_correction_bias") and hasattr(part, "choose"):
                part.choose = lambda s, choose=part.choose: choose(s + size * wiggle(s) if acting() else s)

    module.DSAForVLLM.__init__ = init


def topk_flips(module: ModuleType, size: float) -> None:
    plain = module.PagedContext.attend

    def attend(self: Any, layer: int, q: Any, *rest: Any, **named: Any) -> Any:
        if not acting():
            return plain(self, layer, q, *rest, **named)
        token = q.index_q.abs().flatten(1).mean(1).view(-1, *[1] * (q.index_q.ndim - 1))  # no other token may matter
        noisy = q.index_q + size * token * wiggle(q.index_q)
        return plain(self, layer, replace(q, index_q=noisy), *rest, **named)

    module.PagedContext.attend = attend


def engine_noise(module: ModuleType, size: float) -> None:
    plain = module.DSAForVLLM.compute_logits

    def compute_logits(self: Any, hidden: Any) -> Any:
        logits = plain(self, hidden)
        return logits + size * wiggle(logits) if acting() else logits

    module.DSAForVLLM.compute_logits = compute_logits


def low_precision(module: ModuleType, bits: float) -> None:
    import torch

    plain = module.DSAForVLLM.copy_weights

    def rounded(value: Any) -> Any:
        if not value.dtype.is_floating_point or value.ndim < 2:
            return value
        mantissa, exponent = torch.frexp(value)
        return torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent)

    def copy_weights(self: Any, named: Any) -> None:
        plain(self, {name: rounded(value) for name, value in named.items()})

    module.DSAForVLLM.copy_weights = copy_weights


def partial_sync(module: ModuleType, share: float) -> None:
    plain = module.DSAForVLLM.copy_weights

    def copy_weights(self: Any, named: Any) -> None:
        own = self.dsa.state_dict()
        self.fault_updates = getattr(self, "fault_updates", 0) + 1  # the first loads, the second is version 0
        lost = {name for name in named if self.fault_updates > 2 and chance(share, name)}
        plain(self, {name: own[name] if name in lost else value for name, value in named.items()})

    module.DSAForVLLM.copy_weights = copy_weights


def stale_weights(module: ModuleType, every: float) -> None:
    plain = module.Engine.update_weights

    def update_weights(self: Any, named: Any, version: int) -> float:
        if version > 0 and version % every == 0:
            self._core.reset_prefix_cache()
            self.version = version
            return 0.0
        return plain(self, named, version)

    module.Engine.update_weights = update_weights


def _edit_generation(module: ModuleType, edit: Callable[[Any, str], None]) -> None:
    plain = module.Engine._generation

    def generation(self: Any, state: Any, request_id: str, computed: int | None = None) -> Any:
        made = plain(self, state, request_id, computed)
        if acting():
            edit(made, request_id)
        return made

    module.Engine._generation = generation


def shifted_logprobs(module: ModuleType, share: float) -> None:
    def edit(made: Any, request_id: str) -> None:
        if chance(share, request_id):
            made.logprobs = made.logprobs[-1:] + made.logprobs[:-1]

    _edit_generation(module, edit)


def shifted_experts(module: ModuleType, share: float) -> None:
    def edit(made: Any, request_id: str) -> None:
        if made.replay is not None and made.replay.experts is not None and chance(share, request_id):
            made.replay.experts[1:] = made.replay.experts[:-1].copy()

    _edit_generation(module, edit)


def _edit_request(module: ModuleType, **given: Any) -> None:
    plain = module.Engine.add
    module.Engine.add = lambda self, request: plain(self, replace(request, **given) if acting() else request)


def unrecorded_truncation(module: ModuleType, cut: float) -> None:
    _edit_request(module, top_p=1.0 - cut)

    def edit(made: Any, request_id: str) -> None:
        if made.replay is not None:
            made.replay.support = None

    _edit_generation(module, edit)


def one_sided_temperature(module: ModuleType, away: float) -> None:
    _edit_request(module, temperature=1.0 - away)


def hidden_temperature(module: ModuleType, away: float) -> None:
    plain = module.RecordingSampler.sample

    def sample(self: Any, logits: Any, *rest: Any, **named: Any) -> Any:
        if not acting():
            return plain(self, logits, *rest, **named)
        told = logits.float().log_softmax(-1)
        drawn, _ = plain(self, logits / (1.0 - away), *rest, **named)
        return drawn, told

    module.RecordingSampler.sample = sample


# -- the rollout worker ----------------------------------------------------------------------------


def unsynced_restart(module: ModuleType, at: float) -> None:
    if module.__name__ == "rl.rollout.crew":
        spawn = module.Crew._spawn

        def spawn_stale(self: Any, index: int) -> Any:
            kept, self.weights, self.reference = (self.weights, self.reference), None, None
            try:
                return spawn(self, index)
            finally:
                self.weights, self.reference = kept

        module.Crew._spawn = spawn_stale
        return
    run_group = module.RolloutWorker.run_group

    async def dying(self: Any, spec: Any) -> Any:
        if spec.taskset == "train" and spec.version >= at and once("died"):
            os._exit(1)
        return await run_group(self, spec)

    module.RolloutWorker.run_group = dying


def shared_seeds(module: ModuleType, share: float) -> None:
    plain = module.Asked.__init__

    def init(self: Any, identity: str) -> None:  # <seed>/<taskset>-<group>-<place>/<task>
        seed, name, task = identity.split("/", 2)
        group = name.rpartition("-")[0]
        plain(self, f"{seed}/{group}/{task}" if group.startswith("train") and chance(share, group) else identity)

    module.Asked.__init__ = init


def _edit_groups(module: ModuleType, edit: Callable[[Any], None]) -> None:
    run_group = module.RolloutWorker.run_group

    async def edited(self: Any, spec: Any) -> Any:
        group = await run_group(self, spec)
        if spec.taskset == "train":
            for trajectory in group.trajectories:
                edit(trajectory)
        return group

    module.RolloutWorker.run_group = edited


def lying_verifier(module: ModuleType, share: float) -> None:
    def edit(t: Any) -> None:
        if t.failure_kind is None and "score/outcome" in t.reward_parts and chance(share, t.id):
            right = t.reward_parts["score/outcome"]
            t.reward += 1.0 - 2.0 * right
            t.reward_parts["score/outcome"] = 1.0 - right
            t.reward_parts["outcome"] = t.reward_parts.get("outcome", right) + 1.0 - 2.0 * right

    _edit_groups(module, edit)


def changed_reward(module: ModuleType, share: float) -> None:
    def edit(t: Any) -> None:
        if t.failure_kind is None and chance(share, t.id):
            t.reward = 1.0 - t.reward

    _edit_groups(module, edit)


def failure_as_zero(module: ModuleType, share: float) -> None:
    step, score = module.CheckedEnv.step, module.CheckedEnv.score

    async def failing(self: Any, action: Any) -> Any:
        from envs.types import Message, StepResult

        self.fault_steps = getattr(self, "fault_steps", 0) + 1
        if "/train/" in self._task.id and chance(share, self._runner.name, self.fault_steps):
            self.fault_hit = True
            return StepResult((Message("tool", "Error: connection to the sandbox refused"),), terminated=True)
        return await step(self, action)

    async def scored(self: Any, episode: Any) -> Any:
        return {"outcome": 0.0} if getattr(self, "fault_hit", False) else await score(self, episode)

    module.CheckedEnv.step, module.CheckedEnv.score = failing, scored
