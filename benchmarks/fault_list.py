"""The faults: what each does, how severe it may be, what it changes, and its cure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.engine_faults import (
    changed_reward,
    engine_noise,
    failure_as_zero,
    hidden_temperature,
    low_precision,
    lying_verifier,
    one_sided_temperature,
    partial_sync,
    router_flips,
    shared_seeds,
    shifted_experts,
    shifted_logprobs,
    stale_weights,
    topk_flips,
    unrecorded_truncation,
    unsynced_restart,
)
from benchmarks.fault_hooks import WORKER, Hook
from benchmarks.training_faults import (
    dropped_separator,
    lost_gradients,
    mean_of_means,
    restarted_schedule,
    retokenised,
    skipped_tasks,
    trained_results,
    turned_advantage,
    wrong_group,
)


@dataclass(frozen=True)
class Fault:
    """``hooks``: by module, what changes it, given the severity. ``severities``: from mild to severe. ``settings``: of
    the run; ``resumed``: it is stopped after a few steps and resumed, and the fault acts then. ``cure``: what a user
    does about it."""

    what: str
    severities: tuple[float, ...]
    hooks: dict[str, Hook]
    cure: str
    settings: tuple[str, ...] = ()
    resumed: bool = False


ENGINE, MODEL = "rl.rollout.engine", "rl.rollout.vllm_model"
SESSION, LEARNER, ITEMS = "rl.chat.session", "rl.learner.learner", "rl.learner.items"
FAULTS: dict[str, Fault] = {
    "router_flips": Fault(
        "noise on the router's scores, in the engine alone", (0.02, 0.3), {MODEL: router_flips},
        "keep-routing; a router in float32 on both sides"),
    "topk_flips": Fault(
        "noise on the indexer's queries, in the engine alone", (0.1, 1.0), {"rl.rollout.paged": topk_flips},
        "replay.indexer=force"),
    "engine_noise": Fault(
        "noise on the engine's logits (nats)", (1e-3, 0.1), {MODEL: engine_noise}, "equal kernels and dtypes"),
    "low_precision": Fault(
        "the engine rounds its weights (bits of the mantissa)", (11, 8), {MODEL: low_precision},
        "rollout.dtype as the engine really has it"),
    "partial_sync": Fault(
        "share of the tensors that a sync leaves out", (0.1, 0.5), {MODEL: partial_sync}, "copy by name, all or none"),
    "stale_weights": Fault(
        "every n-th sync changes the version's number alone", (2, 1), {ENGINE: stale_weights}, "probe each sync"),
    "unsynced_restart": Fault(
        "a worker dies at version n, and its successor has the first weights", (2,),
        {WORKER: unsynced_restart, "rl.rollout.crew": unsynced_restart}, "sync and probe a new worker first"),
    "shifted_logprobs": Fault(
        "share of messages whose log-probs are one token late", (0.1, 1.0), {ENGINE: shifted_logprobs},
        "log-prob t belongs to token t"),
    "shifted_experts": Fault(
        "share of messages whose recorded experts are one token late", (0.1, 1.0), {ENGINE: shifted_experts},
        "row t belongs to the pass that had token t as input"),
    "unrecorded_truncation": Fault(
        "top-p 1 − x in the engine, its support unrecorded", (0.02, 0.2), {ENGINE: unrecorded_truncation},
        "replay.sampling_mask=auto"),
    "one_sided_temperature": Fault(
        "the engine samples at temperature 1 − x, honestly", (0.1, 0.4), {ENGINE: one_sided_temperature},
        "objective.temperature=${rollout.temperature}"),
    "hidden_temperature": Fault(
        "the same, with the log-probs of temperature 1", (0.1, 0.4), {"rl.rollout.vllm_sampler": hidden_temperature},
        "log-probs of the distribution that was sampled"),
    "shared_seeds": Fault(
        "share of groups whose rollouts have one seed", (0.25, 1.0), {"rl.rollout.player": shared_seeds},
        "a seed for each request"),
    "lying_verifier": Fault(
        "share of outcomes that are turned round", (0.1, 0.4), {WORKER: lying_verifier}, "test it (envs-check)"),
    "changed_reward": Fault(
        "share of rewards that are turned round behind the composer", (0.1, 0.4), {WORKER: changed_reward},
        "reward parts for everything that is paid"),
    "failure_as_zero": Fault(
        "share of environment steps that fail and are paid 0", (0.1, 0.4),
        {"rl.rollout.checked_env": failure_as_zero}, "raise: the rollout is masked"),
    "dropped_separator": Fault(
        "share of dialogues that lose the last token before a turn", (0.2, 1.0), {"rl.chat.v32": dropped_separator},
        "one renderer for first and later turns"),
    "retokenised": Fault(
        "share of words that come back in other pieces", (0.02, 0.3), {SESSION: retokenised},
        "keep the sampled tokens"),
    "trained_results": Fault(
        "share of rollouts in which tool results are trained on", (0.2, 1.0), {SESSION: trained_results},
        "loss mask 0 where the environment speaks"),
    "mean_of_means": Fault(
        "weight of a mean over each micro-batch's tokens in the loss", (0.3, 1.0), {LEARNER: mean_of_means},
        "sum, then divide once"),
    "lost_gradients": Fault(
        "share of micro-batches whose gradient is thrown away", (0.5,), {LEARNER: lost_gradients},
        "clear gradients after the step alone"),
    "wrong_group": Fault(
        "weight of the mean of another group in the advantage", (0.3, 1.0), {ITEMS: wrong_group}, "group by task"),
    "turned_advantage": Fault(
        "share of groups whose advantage has the wrong sign", (0.2, 1.0), {ITEMS: turned_advantage}, "A = R − mean"),
    "skipped_tasks": Fault(
        "tasks that a resume leaves out", (2, 8), {"rl.run.stage_log": skipped_tasks, "envs.taskset": skipped_tasks},
        "store the taskset's position with the weights", resumed=True),
    "restarted_schedule": Fault(
        "steps by which a resume sets the schedule back", (2, 100),
        {"rl.run.stage_log": restarted_schedule, "rl.learner.optim": restarted_schedule},
        "store the optimiser's position", ("learner.warmup_steps=8",), resumed=True),
}  # fmt: skip
