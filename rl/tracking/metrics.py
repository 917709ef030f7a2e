"""The names of all metrics, what each means, and how rollouts become numbers.

``METRICS`` is the one list: ``python -m rl.tracking.metrics docs/metrics.md`` makes the page from it, and a
name that is not in it is reported by ``undocumented``. Names are ``group/what``; ``{family}``, ``{part}``
and the like stand for any one word.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl.tracking.episodes import by_family
from rl.tracking.handed import handed_metrics
from rl.tracking.usage import tally, usage_metrics
from rl.types import Group, Trajectory

PAGE_WIDTH = 120  # characters of a line of the generated pages

METRICS: dict[str, str] = {
    # rewards
    "reward/mean": "Mean reward of the step's valid trajectories.",
    "reward/std": "Standard deviation of the reward over valid trajectories.",
    "reward/family/{family}": "Mean reward of one family.",
    "reward/part/{part}": "Mean weighted term of one reward part over valid trajectories, 0 where it does not "
    "apply; the parts sum to reward/mean.",
    "reward/detail/{part}/{detail}": "Mean of a detail that a part gave along with its value, over the trajectories "
    "that have it; raw, not part of the reward.",
    "score/{score}": "Mean raw score from the environments, unweighted; score/outcome is the success rate.",
    "outcome/family/{family}": "Mean raw outcome score of one family.",
    # groups
    "group/count": "Groups trained on in this step.",
    "group/zero_variance": "Share of groups whose valid rewards are all equal: they give no gradient.",
    # env=dataset
    "data/skipped_rows": "Rows that are no tasks and were left out when the data set was opened (on_bad_row=skip).",
    # env=curriculum; a bucket is family-level
    "curriculum/groups_total": "Groups whose outcomes the curriculum has measured so far.",
    "curriculum/zero_variance_total": "Of them, groups whose outcomes are all equal: their task and bucket weigh less.",
    "curriculum/at_floor": "Share of the measured buckets that have the least weight.",
    "curriculum/pass_rate/{bucket}": "Running mean of the raw outcome in one bucket.",
    "curriculum/weight/{bucket}": "What the bucket's share of the tasks is multiplied with, relative to the others.",
    # episodes
    "episode/count": "Trajectories collected for this step.",
    "episode/turns": "Assistant turns per episode, mean.",
    "episode/wall_s": "Seconds per episode, mean.",
    "episode/wall_s_max": "Seconds of the slowest episode.",
    "length/sampled_mean": "Sampled tokens per episode, mean.",
    "length/sampled_p90": "Sampled tokens per episode, 90th percentile.",
    "length/sampled_max": "Sampled tokens of the longest episode.",
    "length/thinking_mean": "Sampled thinking tokens per episode, mean.",
    "length/thinking_p90": "Sampled thinking tokens per episode, 90th percentile.",
    "length/context_mean": "All tokens per episode (prompt, sampled, environment), mean.",
    "length/family/{family}": "Sampled tokens per episode of one family, mean.",
    "stop/{reason}": "Share of episodes that ended for this StopReason.",
    "failure/total": "Trajectories masked from training, whatever the reason.",
    "failure/share": "Share of trajectories that are masked. A rise is said: it may be something that a policy learns.",
    "failure/share/{kind}": "Share of trajectories that are masked for this failure_kind.",
    "failure/{kind}": "Trajectories masked for this failure_kind.",
    "count/{event}": "Events counted inside episodes: malformed_call, unknown_tool, tool_timeout, …; of context "
    "management `context_<policy>` (discards, summaries), context_summary_unusable, context_summary_cycles_lost. "
    "A reward part that gave no value is counted as `<part>.<problem>`: raised, timeout, killed, not_finite, "
    "out_of_bounds, wrong_type, too_large or unpicklable.",
    # what an API would bill (rl.tracking.usage); kinds: prompt, cached, thinking, tool, answer
    "usage/{kind}": "Tokens of this kind in the step's rollouts (masked ones too), over all requests: prompt (a turn's "
    "prompt holds the turns before it again), cached (of them found in the prefix cache), thinking, tool, answer.",
    "usage/family/{family}/{kind}": "The same of one family.",
    # tokens and versions
    "tokens/sampled": "Tokens the policy sampled in this step.",
    "tokens/total": "All tokens of the step's trajectories.",
    "tokens/sampled_total": "Tokens sampled since the run began.",
    "staleness/mean": "Policy versions between sampling and training, mean over sampled tokens.",
    "staleness/max": "Largest such distance in the step.",
    # objective
    "loss/total": "The loss that was differentiated.",
    "loss/policy": "Surrogate term.",
    "loss/kl": "KL term against the reference policy, before its coefficient; mean over tokens that have one.",
    "loss/distill": "Teachers' term, weighted: its share of loss/total (objective.distill).",
    "loss/indexer": "Indexer KL loss L_I of DSA, before its coefficient.",
    "policy/clip_fraction": "Share of sampled tokens where the clip was active.",
    "policy/entropy": "Entropy of the policy at sampled positions, nats per token.",
    "policy/surprise": "Mean of −log-prob minus entropy over tokens of the same weights, nats: near 0 where tokens are "
    "drawn from the policy.",
    "policy/surprise_z": "The same in standard errors.",
    "policy/approx_kl": "Estimated KL from the sampling policy to the current one, nats per token.",
    "policy/ratio_mean": "Token ratio pi_theta / pi_sampler, mean (whatever ratio the surrogate uses).",
    "policy/ratio_min": "Smallest token ratio.",
    "policy/ratio_max": "Largest token ratio.",
    "policy/ratio_outside": "Share of token ratios outside [0.9, 1.1].",
    "policy/correction_mean": "Mean weight min(rho, high) or masked rho, rho = pi_learner_old / pi_sampler.",
    "policy/correction_masked": "Share of tokens with rho out of bounds: weight 0 (mask) or the bound (truncate).",
    "policy/masked_sequences": "Share of sequences taken out by the off-policy sequence mask.",
    "policy/opsm_delta": "Threshold delta of that mask, nats per token; absent while it masks nothing "
    "(off, or a percentile of fewer than 64 sequences).",
    "policy/drift_mean": "Mean over sequences of the sequence's mean log(pi_old / pi_theta), nats.",
    "policy/drift_p95": "The same, 95th percentile: what a threshold delta of that mask is compared with.",
    "distill/kl/{family}": "Reverse KL(policy || teacher) of one family, nats, mean over its sampled tokens; with "
    "objective.distill.form=sampled its estimate log pi_theta - log pi_teacher, which may be below 0.",
    "distill/teacher_entropy/{family}": "Entropy of the family's teacher at the policy's states, nats per token.",
    "distill/teacher_greedy/{family}": "Share of sampled tokens that are the teacher's likeliest. It rises as the two "
    "come to think alike.",
    "advantage/mean": "Group advantage, mean over sequences.",
    "advantage/std": "Group advantage, standard deviation.",
    "advantage/min": "Smallest group advantage.",
    "advantage/max": "Largest group advantage.",
    "advantage/zero_share": "Share of sequences whose advantage is exactly 0.",
    "mismatch/mean": "|learner log-prob − sampler log-prob| at the same weights, mean over tokens, nats. Counted are "
    "tokens that, with all sampled before them in the segment, came from the weights of this pass.",
    "mismatch/p99": "The same, 99th percentile.",
    "mismatch/max": "The same, maximum.",
    "mismatch/outside": "Share of token ratios outside [0.9, 1.1] at the same weights.",
    "mismatch/probe_max": "Largest log-prob difference of the probe after the weight sync, nats; the learner repeats "
    "the engine's choices of experts and rows.",
    "mismatch/probe_live_mean": "The same probe with the learner's own choices, mean difference: an engine that holds "
    "the right weights and chooses otherwise shows here alone.",
    "mismatch/probe_live_max": "The same, largest difference (a near-tie that rounds differently moves one token).",
    # replay
    "replay/rows": "Input tokens whose recorded choices were used, each exactly once.",
    "replay/routing_overlap": "Share of the sampler's experts that the live router would choose too (tokens, layers).",
    "replay/indexer_overlap": "With replay.indexer=check: share of the sampler's rows the live indexer chooses too.",
    "replay/indexer_below_80": "Share of tokens and layers where that is below 0.8 (of tokens that see more).",
    "replay/probe_routing_overlap": "Share of the engine's experts that are the learner's own on the probe after the "
    "sync.",
    "replay/probe_indexer_overlap": "The same of the rows that the DSA indexer chooses.",
    # alarms (rl.doctor)
    "alarm/{detector}": "1 in a step at which this detector of docs/doctor.md fired; absent otherwise.",
    # optimiser
    "learner/grad_norm": "Gradient norm before clipping.",
    "learner/lr": "Learning rate of the step.",
    "learner/skipped_steps": "Optimiser steps skipped so far because of a NaN or infinite loss or gradient.",
    "learner/microbatches": "Packed micro-batches of the step.",
    "learner/tokens": "Trained tokens (all positions) of the step.",
    "learner/tokens_distinct": "Those of them that were computed: what segments begin with alike counts once.",
    "learner/tokens_taught": "Of the computed ones those that a teacher has computed too.",
    "learner/sharing": "Trained tokens divided by computed ones; 1: nothing was shared.",
    "learner/seconds": "Seconds that the learner worked on the batch, also while others of it were sampled.",
    "learner/tokens_per_s": "Trained tokens (all positions of the packed batch) per second.",
    "learner/gradient_changed": "Times that the sum of gradients was found changed since a micro-batch; 0 is right.",
    "learner/packing": "Computed tokens divided by allocated tokens in the packed micro-batches.",
    # supervised stages
    "sft/loss": "Cross-entropy per target token, nats.",
    "sft/accuracy": "Share of target tokens that are the arg-max.",
    "sft/grad_norm": "Gradient norm before clipping.",
    "sft/lr": "Learning rate of the step.",
    "sft/tokens": "Input tokens of the step.",
    "sft/targets": "Target tokens of the step.",
    "sft/tokens_per_s": "Trained tokens per second.",
    "sft/skipped": "Steps skipped so far because of a NaN or infinite loss or gradient.",
    "sft/indexer_kl": "Indexer KL loss L_I of DSA, nats per token and layer.",
    "sft/eval_loss": "Cross-entropy per target token on held-out examples, nats.",
    "sft/eval_accuracy": "Share of held-out target tokens that are the arg-max.",
    "sft/eval_exact": "Share of held-out segments with every target token right.",
    # DSA adaptation (rl-adapt); the stage column says which policy was measured
    "adapt/accuracy": "Share of held-out targets that are the arg-max.",
    "adapt/mass_targets": "Attention mass the indexer's top-k recalls where a target is predicted (mean of layers).",
    "adapt/mass_all": "The same over all positions that see more than k rows.",
    "adapt/oracle_targets": "The mass that the best possible k rows recall, where a target is predicted.",
    "adapt/oracle_all": "The same over all positions that see more than k rows.",
    # rollout engine
    "rollout/tokens_per_s": "Sampled tokens per second in which workers could sample (with staleness: the "
    "whole step), all workers together.",
    "rollout/prefix_hit_rate": "Share of the step's prompt tokens found in the prefix cache: usage/cached of "
    "usage/prompt.",
    "rollout/restarted_workers": "Rollout workers restarted so far.",
    "rollout/restarted_env_workers": "Environment workers (rollout.env_workers) restarted so far.",
    "learner/restarts": "Times that the learner's processes were started again, from the last checkpoint.",
    "rollout/resubmitted_groups": "Groups run again after a worker was lost, so far.",
    "rollout/reused_groups": "Finished groups that a resumed run took from disk and did not sample again, so far.",
    # what workers hand over to the learner (rl.tracking.handed)
    "bytes/total": "Bytes per token of what the workers hand over: all arrays of the segments, without their messages.",
    "bytes/driver": "Bytes per token that go into the driver and out of it: tokens, mask, log-probs and versions, for "
    "its books. Replay records go from the store of the worker's machine to the ranks that train on them; of groups "
    "that a resume reads from disk all goes in and out. Ray keeps what is below 100 KB in the driver's memory.",
    "bytes/packed": "Bytes per token of the recorded choices in micro-batches: as wide as they were recorded.",
    "bytes/{part}": "Of them, one part's: tokens, loss_mask, logprobs, versions, valid, experts (uint8 up to 256 of "
    "them), indexer (int16 up to a window of 32,767 tokens), support.",
    # time
    "time/step_s": "Seconds of the whole step.",
    "time/rollout_s": "Seconds waiting for rollouts.",
    "time/learner_s": "Seconds waiting for the learner when all rollouts were there; its work is learner/seconds.",
    "time/sync_s": "Seconds of the weight sync, probe included.",
    "time/between_s": "Seconds since the step before was trained: its books, a checkpoint, admission of tasks.",
    "time/rollout_busy_s": "Seconds in which a worker that plays played an episode, mean over them.",
    # compute (rl.run.ledger)
    "compute/rollout_flops": "FLOPs of the engines since the step before.",
    "compute/learner_flops": "FLOPs of the learner in this step.",
    "compute/rl_share": "FLOPs of all GRPO so far, rollouts and learner, by those of the base's pre-training.",
    # a specialist's data
    "data/sampled": "Rollouts made for distillation.",
    "data/kept": "Of them kept: full score, not seen before, within keep_per_task.",
    "data/failed": "Left out: an infrastructure failure.",
    "data/unverified": "Left out: the environment gave no outcome score.",
    "data/not_passed": "Left out: an outcome score below 1.",
    "data/duplicate": "Left out: the same tokens were sampled before for this task.",
    "data/over_cap": "Left out: keep_per_task of this task are kept already.",
    # self-verification (rl.recipes.self_verification): held-out figures against ground truth, a row after every stage
    "proof/solved": "Share of proofs that are complete and rigorous.",
    "proof/formatted": "Share of proofs in the form that is asked for.",
    "proof/best_self": "Share of tasks whose proof with the best self-score, of k, is complete and rigorous.",
    "proof/best_verifier": "The same for the proof that the judge scores best.",
    "proof/pass_any": "Share of tasks of whose k proofs at least one is complete and rigorous.",
    "proof/self_score": "Mean self-score of well-formed proofs.",
    "proof/self_error": "Mean |self-score − true score| of well-formed proofs.",
    "proof/refined": "Share of refined proofs that are complete and rigorous.",
    "proof/verify_right": "Share of evaluations with the true score.",
    "proof/verify_error": "Mean |score − true score| of evaluations (1 where there is none).",
    "proof/verify_analysis": "Mean true rating of evaluations: are the claimed defects real.",
    "proof/assess_right": "Share of assessments with the true rating.",
    # evaluation
    "eval/overall": "avg@k of the raw outcome over all held-out tasks.",
    "eval/family/{family}": "avg@k of one family.",
    "eval/overall/{estimate}": "An estimate over all held-out tasks: avg@k, pass@k, maj@k, best@k (evaluation.md).",
    "eval/family/{family}/{estimate}": "The same over one family's tasks.",
    # a point of a thinking sweep (rl-eval sweep.thinking); the step is the budget in tokens
    "eval/tokens_mean": "Sampled tokens per episode, mean.",
    "eval/tokens_p90": "Sampled tokens per episode, 90th percentile.",
    "eval/thinking_mean": "Thinking tokens per episode, mean.",
    "eval/thinking_p90": "Thinking tokens per episode, 90th percentile.",
    "eval/thinking_cut": "Share of episodes in which thinking was closed at rollout.max_thinking.",
    "eval/truncated": "Share of episodes that ended at a limit: tokens of a message, turns, context, all tokens.",
}

# The best value of a run, where one direction is good: wandb's summary keeps it beside the last one. Of the mismatch
# the worst counts.
BEST: dict[str, str] = {
    "reward/mean": "max",
    "reward/family/{family}": "max",
    "score/outcome": "max",
    "outcome/family/{family}": "max",
    "eval/overall": "max",
    "eval/overall/{estimate}": "max",
    "eval/family/{family}": "max",
    "eval/family/{family}/{estimate}": "max",
    "sft/accuracy": "max",
    "sft/eval_accuracy": "max",
    "sft/eval_exact": "max",
    "loss/total": "min",
    "sft/loss": "min",
    "sft/eval_loss": "min",
    "mismatch/max": "max",
    "mismatch/probe_max": "max",
}


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """``{"loss": {"total": 1}}`` → ``{"loss/total": 1.0}``. Values must be numbers (or 0-d arrays).

    Raises:
        TypeError: a value is no number.
    """
    flat: dict[str, float] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, name + "/")
        else:
            try:
                flat[name] = float(value)
            except (TypeError, ValueError) as error:
                raise TypeError(f"metric '{name}' is {value!r}; log numbers only") from error
    return flat


def undocumented(names: Iterable[str]) -> list[str]:
    """The names that no entry of ``METRICS`` describes."""
    return sorted(name for name in names if not _PATTERN.fullmatch(name))


def best_of(name: str) -> str | None:
    """``max`` or ``min``: which value of the metric ``name`` is kept as its best; None: of no one direction."""
    return next((which for names, which in BEST.items() if _pattern([names]).fullmatch(name)), None)


def rollout_metrics(groups: Sequence[Group], version: int | None = None) -> dict[str, float]:
    """Numbers of one step's rollouts, overall and per family.

    Masked trajectories (``failure_kind``) are counted, and left out of every mean of rewards and lengths.
    ``version`` is the policy version about to be trained; with it staleness is measured, token by token.
    """
    every = [t for group in groups for t in group.trajectories]
    valid = [t for t in every if t.failure_kind is None]
    out: dict[str, float] = {"group/count": len(groups), "episode/count": len(every)}
    out["failure/total"] = len(every) - len(valid)
    out["failure/share"] = (len(every) - len(valid)) / max(1, len(every))
    for kind, n in Counter(t.failure_kind for t in every if t.failure_kind is not None).items():
        out[f"failure/{kind}"] = n
        out[f"failure/share/{kind}"] = n / len(every)
    events: Counter[str] = Counter()
    for t in every:
        events.update(t.counts)
    out |= {f"count/{event}": n for event, n in events.items()}
    if every:
        stops = Counter(t.stop_reason.value for t in every)
        out |= {f"stop/{reason}": n / len(every) for reason, n in stops.items()}
    out["tokens/sampled"] = sum(t.sampled_tokens for t in every)
    out["tokens/total"] = sum(t.total_tokens for t in every)
    out |= usage_metrics(tally(every))
    out |= handed_metrics(groups)
    if version is not None:
        out |= _staleness(every, version)
    if not valid:
        return out

    rewards = np.array([t.reward for t in valid])
    sampled = np.array([t.sampled_tokens for t in valid])
    out["reward/mean"] = float(rewards.mean())
    out["reward/std"] = float(rewards.std())
    out["group/zero_variance"] = _zero_variance(groups)
    out["episode/turns"] = float(np.mean([t.turns for t in valid]))
    out["episode/wall_s"] = float(np.mean([t.wall_s for t in valid]))
    out["episode/wall_s_max"] = max(t.wall_s for t in valid)
    out["length/sampled_mean"] = float(sampled.mean())
    out["length/sampled_p90"] = float(np.percentile(sampled, 90))
    out["length/sampled_max"] = float(sampled.max())
    thinking = np.array([t.usage.thinking for t in valid])
    out["length/thinking_mean"] = float(thinking.mean())
    out["length/thinking_p90"] = float(np.percentile(thinking, 90))
    out["length/context_mean"] = float(np.mean([t.total_tokens for t in valid]))
    for part, values in _parts(valid).items():
        if part.startswith("score/"):
            out[part] = float(np.mean(values))
        elif "/" in part:
            out[f"reward/detail/{part}"] = float(np.mean(values))
        else:
            out[f"reward/part/{part}"] = float(np.sum(values)) / len(valid)
    for family, members in by_family(valid).items():
        out[f"reward/family/{family}"] = float(np.mean([t.reward for t in members]))
        out[f"length/family/{family}"] = float(np.mean([t.sampled_tokens for t in members]))
        outcomes = [t.reward_parts["score/outcome"] for t in members if "score/outcome" in t.reward_parts]
        if outcomes:
            out[f"outcome/family/{family}"] = float(np.mean(outcomes))
    return out


def metrics_markdown() -> str:
    """The text of docs/metrics.md: the names under a heading for each group, in the order of ``METRICS``."""
    intro = (
        "Every number of `metrics.jsonl` and of wandb, by name. `{…}` stands for any one name. In `metrics.jsonl` the "
        "column `stage` says where a row comes from; in wandb the rows of stages other than `grpo` have the stage as "
        "prefix, every stage has its own x axis (`grpo/step`, `coldstart/step`, …), and the summary keeps the best "
        "value beside the last one where one direction is good (`BEST`). Made from `rl/tracking/metrics.py` by "
        "`python -m rl.tracking.metrics docs/metrics.md`."
    )
    groups: dict[str, list[str]] = {}
    for name, text in METRICS.items():
        groups.setdefault(name.split("/")[0], []).append(entry(f"**`{name}`**", text))
    blocks = ["# Metrics", paragraph(intro)]
    for group, entries in groups.items():
        blocks += [f"## {group}", "\n".join(entries)]
    return "\n\n".join(blocks) + "\n"


def entry(head: str, text: str) -> str:
    """A list item of a generated page, ``- head: text``. ``head`` is Markdown; of ``text`` only `code` is."""
    return paragraph(f"- {head}: {_escaped(text)}", indent="  ")


def paragraph(text: str, indent: str = "") -> str:
    """``text`` wrapped at ``PAGE_WIDTH`` characters; lines after the first begin with ``indent``.

    `code` stays on one line, so that it can be searched for, and no line begins with what Markdown would read as a
    list item, a heading or a quotation.
    """
    kept = re.sub(r"`[^`]+`", lambda code: code[0].replace(" ", "\0"), " ".join(text.split()))
    kept = re.sub(r"(?<=\S) (?=(?:[-+*>#]|\d+[.)]) )", "\0", kept)
    filled = textwrap.fill(kept, PAGE_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return filled.replace("\0", " ")


def _escaped(text: str) -> str:
    """``text`` so that Markdown shows it as it is: no tag, emphasis or formula outside `code`."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"(?<![^\W_])_|_(?![^\W_])|[*$<]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def _pattern(documented: Iterable[str]) -> re.Pattern[str]:
    names = [re.sub(r"\\\{\w+\\\}", r"[\\w.@+-]+", re.escape(name)) for name in documented]
    return re.compile("|".join(names))


def _parts(trajectories: Iterable[Trajectory]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = defaultdict(list)
    for t in trajectories:
        for part, value in t.reward_parts.items():
            values[part].append(value)
    return values


def _zero_variance(groups: Sequence[Group]) -> float:
    rewards = [[t.reward for t in g.trajectories if t.failure_kind is None] for g in groups]
    return float(np.mean([max(r) == min(r) for r in rewards if r]))


def _staleness(trajectories: Iterable[Trajectory], version: int) -> dict[str, float]:
    ages = [version - s.versions[s.loss_mask] for t in trajectories for s in t.segments]
    flat = np.concatenate(ages) if ages else np.empty(0)
    return {"staleness/mean": float(flat.mean()), "staleness/max": float(flat.max())} if flat.size else {}


_PATTERN = _pattern(METRICS)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(metrics_markdown())
