"""What TRL and verl call our settings: read by error messages, shown in docs/other_words.md.

``python -m configs.vocabulary docs/other_words.md`` rewrites the page's table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BEGIN = "<!-- words: made by `python -m configs.vocabulary docs/other_words.md`; do not edit below -->"
END = "<!-- end of words -->"


@dataclass(frozen=True)
class Word:
    """``theirs`` is what a toolkit calls our field ``ours`` (None: there is none, ``remark`` says why)."""

    theirs: str
    ours: str | None
    remark: str
    same: bool = True  # the same value means the same; else messages show the remark as well


TRL = (
    Word("num_generations", "group_size", "rollouts per task"),
    Word("per_device_train_batch_size", "prompts_per_step", "ours counts the tasks of a whole step", same=False),
    Word("generation_batch_size", "prompts_per_step", "theirs counts rollouts: divide by the group size", same=False),
    Word("gradient_accumulation_steps", "learner.max_tokens_per_microbatch",
         "a step is cut into passes of so many tokens; the result is the same", same=False),
    Word("steps_per_generation", "learner.minibatches", "optimiser steps per batch of groups"),
    Word("num_iterations", "learner.minibatches", "every rollout is used once; a batch can be cut", same=False),
    Word("max_steps", "steps", "GRPO steps"),
    Word("num_train_epochs", "steps", "we count steps: rows / prompts_per_step of them are one pass", same=False),
    Word("learning_rate", "learner.lr", "constant after the warm-up"),
    Word("lr_scheduler_type", None, "the learning rate of GRPO is constant after learner.warmup_steps"),
    Word("warmup_steps", "learner.warmup_steps", "optimiser steps"),
    Word("warmup_ratio", "learner.warmup_steps", "ours counts optimiser steps", same=False),
    Word("max_grad_norm", "learner.grad_clip", "L2 norm of the whole gradient"),
    Word("weight_decay", "learner.weight_decay", "of AdamW"),
    Word("adam_beta1", "learner.beta1", "of AdamW"),
    Word("adam_beta2", "learner.beta2", "of AdamW"),
    Word("adam_epsilon", "learner.eps", "of AdamW"),
    Word("beta", "objective.kl_coef", "weight of the KL to the reference; a mapping by family is possible"),
    Word("epsilon", "objective.clip", "lower half of the clip range"),
    Word("epsilon_high", "objective.clip_high", "upper half of the clip range"),
    Word("loss_type", "objective.loss_aggregation",
         "dr_grpo: constant with objective.loss_constant; dapo: token_mean; grpo: sequence_mean; "
         "cispo: objective.surrogate=cispo", same=False),
    Word("scale_rewards", "objective.advantage_norm", "mean: not scaled (V3.2, Dr.GRPO); std: by group", same=False),
    Word("importance_sampling_level", "objective.ratio", "token or sequence (GSPO)"),
    Word("off_policy_mask_threshold", "objective.opsm_delta", "nats per token, or a percentile such as p95"),
    Word("use_bias_correction_kl", None, "the KL term is always the unbiased one"),
    Word("vllm_importance_sampling_correction", "objective.correction",
         "truncate or mask, with objective.old_policy=learner", same=False),
    Word("vllm_importance_sampling_cap", "objective.correction_high", "largest weight"),
    Word("sync_ref_model", "objective.ref_refresh_every", "0: never", same=False),
    Word("ref_model_sync_steps", "objective.ref_refresh_every", "the reference is replaced, not mixed"),
    Word("max_completion_length", "rollout.max_tokens", "sampled tokens of one assistant message"),
    Word("max_prompt_length", "rollout.max_context",
         "ours bounds prompt and all answers together; a prompt is never cut", same=False),
    Word("max_tool_calling_iterations", "rollout.max_turns", "assistant messages of an episode", same=False),
    Word("temperature", "rollout.temperature", "the learner follows by itself"),
    Word("top_p", "rollout.top_p", "the kept tokens are replayed"),
    Word("top_k", "rollout.top_k", "0: all"),
    Word("min_p", "rollout.min_p", "0: off"),
    Word("mask_truncated_completions", "reward.length", "see reward=length_penalised; nothing is masked", same=False),
    Word("reward_funcs", "env.reward", "function(answer, row), with env=dataset; more parts: reward.NAME", same=False),
    Word("reward_weights", "reward", "reward.NAME.weight of each part", same=False),
    Word("dataset_name", "env.path", "with env=dataset: a file or a folder", same=False),
    Word("model_name_or_path", "policy.path", "with policy=hf: a directory or a hub id"),
    Word("use_vllm", None, "rollouts always run in vLLM"),
    Word("vllm_mode", None, "rollouts always run in vLLM, in workers of their own (rollout.workers)"),
    Word("vllm_gpu_memory_utilization", "rollout.kv_cache_gib", "GiB of the paged cache, not a share", same=False),
    Word("vllm_max_model_length", "rollout.max_context", "tokens of prompt and answers"),
    Word("vllm_tensor_parallel_size", "rollout.tensor_parallel", "with rollout.engine=served"),
    Word("bf16", "learner.compute_dtype", "bfloat16; weights, sums of gradients and AdamW stay float32", same=False),
    Word("gradient_checkpointing", "learner.recompute", "layers are run again in the backward pass"),
    Word("use_peft", "learner.lora.rank", "above 0: on", same=False),
    Word("lora_r", "learner.lora.rank", "rank of the update"),
    Word("lora_alpha", "learner.lora.alpha", "the update is scaled by alpha / rank"),
    Word("lora_target_modules", "learner.lora.modules", "last parts of module names; null: all linear layers, experts"),
    Word("lora_dropout", None, "an adapter has no dropout: learner and engine would compute different policies"),
    Word("log_completions", "tracking.table_every", "all rollouts are in runs/NAME/trajectories as well", same=False),
    Word("save_steps", "checkpoint_every", "steps between full checkpoints"),
    Word("save_total_limit", "keep_checkpoints", "older ones are removed"),
    Word("hub_model_id", "push_to_hub", "owner/name; uploaded at the end"),
    Word("hub_private_repo", "push_public", "private unless it is true", same=False),
    Word("eval_steps", None, "evaluation is before and after training; rl-eval does it at any time"),
    Word("output_dir", "runs_dir", "a run is runs_dir/name", same=False),
    Word("run_name", "name", "numbered when taken"),
    Word("report_to", "tracking.wandb", "offline, online or disabled", same=False),
    Word("resume_from_checkpoint", "resume", "the name of a run", same=False),
)  # fmt: skip

VERL = (
    Word("actor_rollout_ref.rollout.n", "group_size", "rollouts per task"),
    Word("data.train_batch_size", "prompts_per_step", "tasks of a step"),
    Word("actor_rollout_ref.actor.ppo_mini_batch_size", "learner.minibatches",
         "ours counts optimiser steps per batch", same=False),
    Word("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", "learner.max_tokens_per_microbatch",
         "ours counts tokens; the result is the same", same=False),
    Word("actor_rollout_ref.actor.ppo_max_token_len_per_gpu", "learner.max_tokens_per_microbatch",
         "tokens of one packed pass"),
    Word("actor_rollout_ref.actor.ppo_epochs", "learner.minibatches", "every rollout is used once", same=False),
    Word("actor_rollout_ref.actor.fsdp_config.optimizer_offload", "learner.offload_optimizer",
         "the float32 weights go to the host with it"),
    Word("actor_rollout_ref.actor.fsdp_config.fsdp_size", "learner.shard_ranks",
         "null in the place of -1; the processes of the learner are learner.ranks", same=False),
    Word("actor_rollout_ref.actor.ulysses_sequence_parallel_size", "learner.context_parallel",
         "ranks that share a sequence; ours gathers keys and values in the place of exchanging heads"),
    Word("actor_rollout_ref.model.lora_rank", "learner.lora.rank", "rank of the update"),
    Word("actor_rollout_ref.model.lora_alpha", "learner.lora.alpha", "the update is scaled by alpha / rank"),
    Word("actor_rollout_ref.model.target_modules", "learner.lora.modules",
         "last parts of module names; null: all linear layers, experts"),
    Word("actor_rollout_ref.actor.optim.lr", "learner.lr", "constant after the warm-up"),
    Word("actor_rollout_ref.actor.optim.lr_warmup_steps", "learner.warmup_steps", "optimiser steps"),
    Word("actor_rollout_ref.actor.grad_clip", "learner.grad_clip", "L2 norm of the whole gradient"),
    Word("actor_rollout_ref.actor.clip_ratio", "objective.clip", "both halves of the range"),
    Word("actor_rollout_ref.actor.clip_ratio_low", "objective.clip", "lower half of the range"),
    Word("actor_rollout_ref.actor.clip_ratio_high", "objective.clip_high", "upper half of the range"),
    Word("actor_rollout_ref.actor.use_kl_loss", "objective.kl_coef", "above 0: on", same=False),
    Word("actor_rollout_ref.actor.kl_loss_coef", "objective.kl_coef", "weight of the KL to the reference"),
    Word("algorithm.kl_ctrl.kl_coef", "objective.kl_coef", "the KL is in the loss, never in the reward", same=False),
    Word("actor_rollout_ref.actor.entropy_coeff", None, "there is no entropy term"),
    Word("actor_rollout_ref.actor.loss_agg_mode", "objective.loss_aggregation",
         "seq-mean-token-mean: sequence_mean; token-mean: token_mean; seq-mean-token-sum-norm: constant", same=False),
    Word("actor_rollout_ref.actor.policy_loss.loss_mode", "objective.ratio",
         "gspo: sequence; cispo: objective.surrogate=cispo", same=False),
    Word("algorithm.adv_estimator", "objective.advantage_norm",
         "always by group: std is GRPO's, mean is Dr.GRPO's and V3.2's", same=False),
    Word("algorithm.norm_adv_by_std_in_grpo", "objective.advantage_norm", "true: std; false: mean", same=False),
    Word("critic", None, "there is no critic: the advantage is relative to the group's mean"),
    Word("actor_rollout_ref.actor.router_replay.mode", "replay.routing", "force is V3.2's Keep Routing", same=False),
    Word("actor_rollout_ref.model.path", "policy.path", "with policy=hf: a directory or a hub id"),
    Word("actor_rollout_ref.rollout.temperature", "rollout.temperature", "the learner follows by itself"),
    Word("actor_rollout_ref.rollout.top_p", "rollout.top_p", "the kept tokens are replayed"),
    Word("actor_rollout_ref.rollout.top_k", "rollout.top_k", "0 is all, theirs is -1", same=False),
    Word("actor_rollout_ref.rollout.dtype", "rollout.dtype", "of the engine; it follows learner.compute_dtype"),
    Word("actor_rollout_ref.rollout.gpu_memory_utilization", "rollout.kv_cache_gib", "GiB, not a share", same=False),
    Word("actor_rollout_ref.rollout.max_model_len", "rollout.max_context", "tokens of prompt and answers"),
    Word("actor_rollout_ref.rollout.max_num_seqs", "rollout.max_concurrency", "requests that decode together"),
    Word("actor_rollout_ref.rollout.max_num_batched_tokens", "rollout.max_num_batched_tokens", "of one engine step"),
    Word("actor_rollout_ref.rollout.tensor_model_parallel_size", "rollout.tensor_parallel",
         "with rollout.engine=served"),
    Word("actor_rollout_ref.rollout.agent.num_workers", "rollout.env_workers",
         "0: the rollout workers play, each against its own engine", same=False),
    Word("actor_rollout_ref.rollout.multi_turn.max_assistant_turns", "rollout.max_turns", "messages of an episode"),
    Word("data.train_files", "env.path", "with env=dataset; it splits by itself, or by env.split_column", same=False),
    Word("data.val_files", "env.split_column", "with env=dataset: which rows are held out", same=False),
    Word("data.prompt_key", "env.prompt_column", "with env=dataset"),
    Word("data.max_prompt_length", "rollout.max_context", "ours bounds prompt and answers together", same=False),
    Word("data.max_response_length", "rollout.max_tokens", "sampled tokens of one assistant message"),
    Word("custom_reward_function.path", "env.reward", "module.function, with env=dataset", same=False),
    Word("custom_reward_function.name", "env.reward", "module.function, with env=dataset", same=False),
    Word("trainer.total_training_steps", "steps", "GRPO steps"),
    Word("trainer.total_epochs", "steps", "rows / prompts_per_step of them are one pass", same=False),
    Word("trainer.save_freq", "checkpoint_every", "steps between full checkpoints"),
    Word("trainer.max_actor_ckpt_to_keep", "keep_checkpoints", "older ones are removed"),
    Word("trainer.test_freq", None, "evaluation is before and after training; rl-eval does it at any time"),
    Word("trainer.project_name", "tracking.project", "of wandb"),
    Word("trainer.experiment_name", "name", "the run's folder"),
    Word("trainer.logger", "tracking.wandb", "offline, online or disabled", same=False),
    Word("trainer.default_local_dir", "runs_dir", "a run is runs_dir/name", same=False),
    Word("trainer.resume_mode", "resume", "the name of a run", same=False),
    Word("trainer.n_gpus_per_node", "ray.worker_gpus", "GPUs of each worker; ray.learner_gpus", same=False),
    Word("trainer.nnodes", "ray.address", "auto joins a running cluster", same=False),
)  # fmt: skip

TOOLKITS = {"TRL": TRL, "verl": VERL}


def lookup(key: str) -> tuple[str, Word] | None:
    """(toolkit, its word) for ``key``: exactly, then with or without what stands before the last dots; else None."""
    rules: tuple[Callable[[str], bool], ...] = (
        lambda theirs: theirs == key,
        lambda theirs: theirs.endswith(f".{key}") or key.endswith(f".{theirs}") or key.startswith(f"{theirs}."),
        lambda theirs: "." in key and theirs.rpartition(".")[2] == key.rpartition(".")[2],
    )
    for same in rules:
        for toolkit, words in TOOLKITS.items():
            for word in words:
                if same(word.theirs):
                    return toolkit, word
    return None


def tables() -> str:
    """Everything between the page's markers, markers included."""
    from rl.tracking.metrics import entry

    out = [BEGIN]
    for toolkit, words in TOOLKITS.items():
        out += ["", f"## {toolkit}", ""]
        out += [entry(f"`{w.theirs}` → {f'**`{w.ours}`**' if w.ours else '–'}", w.remark) for w in words]
    return "\n".join([*out, "", END])


def updated(page: str) -> str:
    """``page`` with fresh tables. Raises ValueError when a marker is missing."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs each of these lines once: {BEGIN!r}, {END!r}")
    return page.split(BEGIN)[0] + tables() + page.split(END)[1]


def main() -> None:
    """Rewrite the page named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m configs.vocabulary docs/other_words.md")
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text()))


if __name__ == "__main__":
    main()
