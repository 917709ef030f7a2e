"""Placement, verdicts and refusals of a plan; every refusal begins with a field, and what it offers does fit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from released_models import LARGE, LONG, directory, on_hardware, planned, sizes
from train_runs import train_config

from rl.policy.presets import tiny_dsa
from rl.run.model_sizes import ModelSizes
from rl.run.plan_memory import ENGINE, JUDGE, LEARNER, SYNC
from rl.run.run_plan import judge_sizes, place, plan_of, sizes_of

TINY = ModelSizes.of(tiny_dsa(1024))
SEVEN = (*LARGE, "rollout.workers=7", "objective.kl_coef=0")


def on_ray(cfg: Any, worker: float, learner: float, **rollout: Any) -> Any:
    ray = replace(cfg.ray, worker_gpus=worker, learner_gpus=learner)
    return replace(cfg, ray=ray, rollout=replace(cfg.rollout, **rollout))


def ranks(cfg: Any, number: int) -> Any:
    return replace(cfg, learner=replace(cfg.learner, ranks=number))


def test_the_defaults_fit_on_one_machine_without_gpus() -> None:
    cfg = train_config("plan=true")
    model, refused = sizes_of(cfg.policy, cfg.base.source, cfg.base.vocab_size)
    assert model.config.model_type == "deepseek_v32"
    assert model.layers[0].parameters == TINY.layers[0].parameters
    plan = plan_of(cfg, model, refused)
    assert plan.runs
    assert plan.placed == [[ENGINE] * cfg.rollout.workers + [LEARNER]]
    assert plan.speed.step_price is None
    small = plan_of(on_hardware(cfg, memory_gb=1.0), model)
    (refusal,) = small.refusals
    assert re.match(r"[\w.]+: all processes need [\d.]+ GB, hardware\.memory_gb=1$", refusal)


def test_every_process_has_a_gpu_of_its_own() -> None:
    plan = plan_of(planned(*SEVEN, "learner.lora.rank=16"), sizes("qwen3_8b"))
    assert plan.placed == [[ENGINE]] * 7 + [[LEARNER]]
    assert plan.runs, plan.refusals
    assert not plan.notes or all("max_concurrency" in note for note in plan.notes)
    assert plan.nodes == 1


def test_shares_zeros_and_whole_gpus() -> None:
    cfg = planned(*SEVEN)
    assert place(on_ray(cfg, 0.5, 1.0, workers=3))[0][:4] == [[ENGINE, ENGINE], [ENGINE], [LEARNER], []]
    # 0 GPUs: Ray reserves none and hides none, so all of them use the first
    assert place(on_ray(cfg, 0.0, 0.0, workers=2))[0][:2] == [[ENGINE, ENGINE, LEARNER], []]
    assert place(on_ray(cfg, 2.0, 1.0, workers=2))[0][:5] == [[ENGINE], [], [ENGINE], [], [LEARNER]]
    sharded = ranks(on_ray(cfg, 1.0, 1.0, workers=2, engine="served", tensor_parallel=2), 4)
    assert place(sharded)[0] == [[ENGINE]] * 4 + [[LEARNER]] * 4
    # 4 GPUs a machine: an engine of 3 leaves one behind, as Ray does, which keeps an actor's GPUs on one machine
    four = on_hardware(on_ray(cfg, 1.0, 1.0, workers=2, engine="served", tensor_parallel=3), gpus_per_node=4)
    assert place(four)[0] == [[ENGINE]] * 3 + [[LEARNER]] + [[ENGINE]] * 3 + [[]]
    # 5 engines leave 3 GPUs of the first machine: four ranks stay together on the second
    apart = on_hardware(ranks(on_ray(cfg, 1.0, 1.0, workers=5), 4), gpus=16)
    assert place(apart)[0] == [[ENGINE]] * 5 + [[]] * 3 + [[LEARNER]] * 4 + [[]] * 4
    more = on_hardware(ranks(on_ray(cfg, 1.0, 1.0, workers=5), 10), gpus=16)
    assert place(more)[0] == [[ENGINE]] * 5 + [[LEARNER]] * 2 + [[]] + [[LEARNER]] * 8


def test_the_judge_is_placed_first() -> None:
    cfg = planned(*SEVEN, "judge=worker", "judge.num_gpus=1", "rollout.workers=2")
    plan = plan_of(cfg, sizes("qwen3_8b"))
    assert plan.placed[:4] == [[JUDGE], [ENGINE], [ENGINE], [LEARNER]]
    assert plan.memory[JUDGE].device["weights"] == pytest.approx(4 * 8.19, rel=1e-3)  # the judge's dtype is its own


def test_a_judge_is_as_large_as_its_own_model() -> None:
    path = directory("qwen3_30b_a3b")
    cfg = planned(*SEVEN, "judge=worker", "judge.num_gpus=1", "judge.dtype=bfloat16", f"judge.path={path}")
    judge = judge_sizes(cfg.judge)
    plan = plan_of(cfg, sizes("qwen3_8b"), judge=judge)
    assert plan.memory[JUDGE].device["weights"] == pytest.approx(61.1, rel=1e-3)
    assert plan.memory[ENGINE].device["weights"] == pytest.approx(2 * 8.19, rel=1e-3)
    assert judge_sizes(planned(*SEVEN, "judge=worker").judge) is judge_sizes(planned(*SEVEN).judge) is None
    refusals = plan_of(cfg, sizes("qwen3_8b"), judge=sizes("glm_4_5_air")).refusals
    (refusal,) = [r for r in refusals if "judge on GPU 0" in r]
    assert refusal.startswith("judge.path: ")
    assert refusal.endswith("; take a smaller judge.path")


def test_too_few_gpus() -> None:
    cfg = on_ray(planned(*SEVEN), 1.0, 1.0, workers=9)
    (refusal,) = [r for r in plan_of(cfg, TINY).refusals if r.startswith("rollout.workers=9")]
    assert "no GPU is left for learner, rollout worker" in refusal
    assert "need 10 GPUs, hardware.gpus=8" in refusal


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("qwen3_8b", "fits with learner.offload_optimizer=true (50.6 GB)"),
        (
            "qwen3_30b_a3b",
            "fits with learner.offload_optimizer=true learner.ranks=2 rollout.workers=6 (17.8 GB)",
        ),
        (
            "glm_4_5_air",
            "no setting of these 8 GPUs fits: take a smaller policy.path, or more GPUs: learner.ranks=64 (68.6 GB)",
        ),
        ("deepseek_v3_2", "no setting fits, up to 1024 GPUs and hardware.host_memory_gb=2000"),
    ],
)
def test_full_training_on_one_gpu_is_refused_and_something_is_offered(name: str, offered: str) -> None:
    plan = plan_of(planned(*SEVEN, "replay.routing=off"), sizes(name))
    assert not plan.runs
    (refusal,) = [r for r in plan.refusals if "learner on GPU 7:" in r]
    assert refusal.startswith("learner.offload_optimizer: ")
    assert offered in refusal


def test_what_is_offered_fits() -> None:
    cfg = planned("objective.kl_coef=0", "ray.worker_gpus=1", "ray.learner_gpus=1", "step_deadline_s=36000")
    (refusal,) = [r for r in plan_of(cfg, sizes("qwen3_8b")).refusals if "learner on" in r]
    words = re.findall(r"learner\.[\w.]+=\w+", refusal)
    assert words == [
        "learner.compute_dtype=bfloat16", "learner.recompute=true", "learner.head_rows=1024",
        "learner.offload_optimizer=true",
    ]  # fmt: skip
    changed = planned("objective.kl_coef=0", "ray.worker_gpus=1", "ray.learner_gpus=1", "step_deadline_s=36000", *words)
    assert not [r for r in plan_of(changed, sizes("qwen3_8b")).refusals if "learner on" in r]


def test_an_engine_that_does_not_fit() -> None:
    cfg = on_ray(planned(*SEVEN), 1.0, 1.0, kv_cache_gib=75.0)
    (refusal,) = [r for r in plan_of(cfg, sizes("qwen3_8b")).refusals if r.startswith("rollout.kv_cache_gib: ")]
    found = re.search(r"rollout worker on each of 7 GPUs: 10\d\.\d GB of 80; fits with .*kv_cache_gib=(\d+)", refusal)
    assert found
    fits = plan_of(on_ray(cfg, 1.0, 1.0, kv_cache_gib=float(found[1])), sizes("qwen3_8b"))
    assert not [r for r in fits.refusals if r.startswith("rollout.kv_cache_gib")]
    large = plan_of(planned(*SEVEN), sizes("glm_4_5_air")).refusals
    (refusal,) = [r for r in large if "rollout worker on each" in r]
    assert refusal.startswith("policy.path: ")  # 214 GB of weights
    assert refusal.endswith(
        "fits with rollout.engine=served rollout.tensor_parallel=4 rollout.workers=1 rollout.kv_cache_gib=22.5"
    )
    offered = on_ray(planned(*SEVEN), 1.0, 1.0, engine="served", tensor_parallel=4, workers=1, kv_cache_gib=22.5)
    assert not [r for r in plan_of(offered, sizes("glm_4_5_air")).refusals if "rollout worker" in r]


def test_an_engine_of_several_ranks() -> None:
    cfg = on_ray(
        planned(*SEVEN, "learner.lora.rank=16", "checkpoint_async=false"),
        1.0,
        1.0,
        workers=3,
        engine="served",
        tensor_parallel=2,
    )
    plan = plan_of(cfg, sizes("qwen3_8b"))
    assert plan.placed == [[ENGINE]] * 6 + [[LEARNER], []]
    assert plan.runs, plan.refusals
    one = plan_of(on_ray(cfg, 1.0, 1.0, engine="stepped", tensor_parallel=1), sizes("qwen3_8b"))
    assert plan.memory[ENGINE].device["weights"] == one.memory[ENGINE].device["weights"] / 2
    # its three engines map 16.4 GB each while they take the weights
    assert plan.passing[SYNC] == pytest.approx(4 * 2 * 8.19, rel=1e-3)
    assert one.passing[SYNC] == pytest.approx(2 * 2 * 8.19, rel=1e-3)
    for changed, field in (
        (on_ray(cfg, 0.5, 1.0), "ray.worker_gpus=0.5: each of rollout.tensor_parallel=2 ranks needs a GPU of its own"),
        (
            on_ray(cfg, 1.0, 1.0, tensor_parallel=3, workers=1),
            "rollout.tensor_parallel=3: it must divide num_attention_",
        ),
        (
            on_ray(cfg, 1.0, 1.0, tensor_parallel=16, workers=1),
            "rollout.tensor_parallel=16: the ranks of an engine are",
        ),
    ):
        assert [r for r in plan_of(changed, sizes("qwen3_8b")).refusals if r.startswith(field)]


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (
            ("rollout.kv_cache_gib=0.5",),
            "rollout.kv_cache_gib=0.5: one rollout of rollout.max_context=8192 tokens takes",
        ),
        (("rollout.sync_s=5",), "rollout.sync_s=5: a weight sync takes 9 s at best"),
        (("step_deadline_s=60",), "step_deadline_s=60: rollouts take"),
        (("rollout.episode_s=10",), "rollout.episode_s=10: 4096 tokens of 8192 take"),
        (
            ("learner.offload_optimizer=true", "hardware.host_memory_gb=64", "checkpoint_async=false"),
            "learner.offload_optimizer=true: 164 GB of the memory of the learner's machine, hardware.host_memory_gb=64",
        ),
    ],
)
def test_refusals_by_field(words: tuple[str, ...], field: str) -> None:
    changed = {word.partition("=")[0] for word in words}
    kept = [word for word in SEVEN if word.partition("=")[0] not in changed]
    assert [r for r in plan_of(planned(*kept, *words), sizes("qwen3_8b")).refusals if r.startswith(field)]


def test_dsa_on_gpus_records_no_experts() -> None:
    refusals = plan_of(planned(*SEVEN), sizes("deepseek_v3_2")).refusals
    assert [r for r in refusals if r.startswith("rollout.dsa_backend=auto: ") and "replay.routing=off" in r]
    off = plan_of(planned(*SEVEN, "replay.routing=off"), sizes("deepseek_v3_2")).refusals
    assert not [r for r in off if r.startswith("rollout.dsa_backend")]


def test_several_ranks_run() -> None:
    """Qwen3-30B-A3B on two machines: eight engines on the first, sixteen ranks where there is room for them."""
    cfg = on_hardware(ranks(planned(*LARGE, "rollout.workers=8", "objective.kl_coef=0", "rollout.kv_cache_gib=14",
                                    "ray.address=auto", "checkpoint_async=false"), 16), gpus=24)  # fmt: skip
    plan = plan_of(cfg, sizes("qwen3_30b_a3b"))
    assert plan.placed == [[ENGINE]] * 8 + [[LEARNER]] * 16
    assert plan.runs, plan.refusals
    assert plan.nodes == 3
    assert plan.on_gpu(8) == pytest.approx(48.4, abs=0.1)
    assert plan.host_gb == pytest.approx(4 * 30.532, rel=1e-3)  # the first rank's machine has no engine
    refused = plan_of(on_hardware(cfg, host_memory_gb=100), sizes("qwen3_30b_a3b")).refusals
    assert refused == [
        "learner.ranks=16: the first one gathers all float32 weights for a checkpoint: 122 GB of the memory of the "
        "learner's machine, hardware.host_memory_gb=100"
    ]
    # Copies of the weights and of half the moments, and a sync beside them: 4 + 8/2 + 4 bytes a weight
    (refused_copy,) = plan_of(on_hardware(replace(cfg, checkpoint_async=True), host_memory_gb=150),
                              sizes("qwen3_30b_a3b")).refusals  # fmt: skip
    assert refused_copy.startswith("checkpoint_async=true (false takes 244 GB less): 366 GB of the memory of the")


def test_ranks_are_offered_where_there_is_room() -> None:
    """An adapter changes the training, so ranks on idle GPUs come before it, and no engine is given up for them."""
    cfg = on_hardware(planned(*LARGE, "rollout.workers=4", "objective.kl_coef=0"), gpus=8, host_memory_gb=150)
    (refusal,) = [r for r in plan_of(cfg, sizes("qwen3_8b")).refusals if "learner on" in r]
    assert "fits with learner.ranks=4 (52.9 GB)" in refusal
    there = plan_of(ranks(cfg, 4), sizes("qwen3_8b"))
    assert there.runs, there.refusals
    full = on_hardware(planned(*LARGE, "rollout.workers=7", "objective.kl_coef=0"), gpus=8, host_memory_gb=150)
    (refusal,) = [r for r in plan_of(full, sizes("qwen3_8b")).refusals if "learner on" in r]
    assert "fits with learner.ranks=4 rollout.workers=4 (52.9 GB)" in refusal


def test_ranks_are_offered_that_share_long_rollouts() -> None:
    cfg = on_hardware(planned(*LONG, "rollout.workers=7", "rollout.kv_cache_gib=30"), gpus=16)
    (refusal,) = [r for r in plan_of(cfg, sizes("qwen3_8b")).refusals if "learner on" in r]
    (words,) = re.findall(r"fits with (.*) \(", refusal)
    assert "learner.context_parallel=2 learner.max_tokens_per_microbatch=65536" in words
    offered = planned(*LONG, "rollout.workers=7", "rollout.kv_cache_gib=30", *words.split())
    assert not [r for r in plan_of(on_hardware(offered, gpus=16), sizes("qwen3_8b")).refusals if "learner on" in r]


def test_ranks_need_gpus_of_their_own() -> None:
    shared = ranks(on_ray(planned(*SEVEN), 1.0, 0.0), 2)
    assert any(
        r.startswith("ray.learner_gpus=0: each of learner.ranks=2 needs a GPU") for r in plan_of(shared, TINY).refusals
    )
    (refusal,) = [r for r in plan_of(ranks(planned(*SEVEN), 2), TINY).refusals if r.startswith("rollout.workers=7")]
    assert refusal.startswith("rollout.workers=7, learner.ranks=2: no GPU is left for learner;")
    on_cpus = plan_of(ranks(train_config("plan=true"), 2), TINY)
    assert on_cpus.runs, on_cpus.refusals
    assert on_cpus.placed[0].count(LEARNER) == 2


def test_engines_and_experts_over_several_ranks() -> None:
    cfg = ranks(planned(*LARGE, "rollout.workers=8", "objective.kl_coef=0", "rollout.sync_s=600"), 16)
    cfg = on_hardware(on_ray(cfg, 1.0, 1.0, engine="served", tensor_parallel=2), gpus=40)
    cfg = replace(cfg, learner=replace(cfg.learner, expert_parallel=8))
    plan = plan_of(cfg, sizes("qwen3_30b_a3b"))
    assert plan.runs, plan.refusals
    assert plan.placed == [[ENGINE]] * 16 + [[LEARNER]] * 16 + [[]] * 8
    assert plan.nodes == 4
    assert "8 of 40 GPUs have nothing to do; raise rollout.workers" in plan.notes
    assert any(note.startswith("ray.address=null starts Ray on one machine; 4 machines") for note in plan.notes)


def test_fit_per_tensor_parallel_size() -> None:
    fits = {fit.tensor_parallel: fit for fit in plan_of(planned(*SEVEN), sizes("deepseek_v3_2")).fits_per_tp}
    assert list(fits) == [1, 2, 4, 8, 16]
    assert fits[16].weights_gb == pytest.approx(2 * 671.9 / 16, rel=1e-3)
    assert all(fit.sequences == 0 for fit in fits.values())  # 84 GB of weights on each of 16 GPUs
    eight = plan_of(planned(*SEVEN), sizes("qwen3_8b")).fits_per_tp
    assert [fit.sequences for fit in eight] == sorted(fit.sequences for fit in eight)
    assert eight[0].sampled_per_s > 0


def test_notes_on_what_is_allowed() -> None:
    notes = plan_of(planned("objective.kl_coef=0"), TINY).notes
    assert any(note.startswith("Ray reserves no GPU for learner, rollout worker") for note in notes)
    words = [word for word in SEVEN if not word.startswith("ray.object")]
    notes = plan_of(planned(*words), sizes("qwen3_8b")).notes
    assert any(note.startswith("ray.object_store_mb=512: a weight sync puts 15,623 MiB into it") for note in notes)
    wide = on_hardware(ranks(planned(*SEVEN), 8), gpus=16, link_gb_s=45.0)
    notes = plan_of(wide, sizes("qwen3_30b_a3b")).notes
    assert any(note.startswith("learner.ranks=8: gathering weights and summing gradients takes ") for note in notes)


def test_an_indexer_in_eight_bits_is_planned_as_the_run_would_have_it() -> None:
    """V3.2: 61 layers of 576 numbers in bfloat16 and a key of 128 + 4 bytes; the refusals are those of the run."""
    words = ("plan=true", "policy=deepseek_v32", "base.index_precision=int8", "hardware=h100", "replay.routing=off")
    cfg = train_config(*words, "ray.worker_gpus=1")
    asked = cfg.policy, cfg.base.source, 1024
    model, refused = sizes_of(*asked, "int8")
    assert model.cache_row(2) == 61 * (2 * 576 + 132)
    assert model.read_row(10_000, 2) == 61 * (2 * 2048 * 576 + 10_000 * 132)
    assert sizes_of(*asked)[0].cache_row(2) == 61 * 2 * (576 + 128)
    said = plan_of(cfg, model, refused).refusals
    assert any("does not round as index_precision=int8" in refusal for refusal in said), said
    other = replace(cfg.policy, preset="hf", path=str(directory("qwen3_8b")))
    said = sizes_of(other, "", 0, "int8")[1]
    assert said == ["base.index_precision=int8: model_type=qwen3 has no DSA indexer; use null"]


def test_where_the_model_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = train_config("plan=true", "base=scratch", "policy.overrides.num_hidden_layers=2", "base.vocab_size=512")
    model, refused = sizes_of(scratch.policy, scratch.base.source, 512)
    assert (len(model.layers), model.config.vocab_size, refused) == (2, 512, [])
    real = train_config("plan=true", "policy=deepseek_v32")
    assert sizes_of(real.policy, real.base.source, 1024)[0].parameters == sizes("deepseek_v3_2").parameters
    stored = json.loads((directory("qwen3_8b") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"quantization_config": {"quant_method": "fp8"}}))
    quantised = replace(real.policy, preset="hf", path=str(tmp_path))
    assert sizes_of(quantised, "", 0)[1][0].startswith(f"policy.path={tmp_path}: its weights are quantised")
    with pytest.raises(ValueError, match=r"policy\.path is missing"):
        sizes_of(replace(real.policy, preset="hf"), "", 0)
    asked: list[bool] = []

    def fetch(field: str, hub_id: str, *, config_only: bool) -> Path:
        asked.append(config_only)
        return directory("qwen3_8b")

    monkeypatch.setattr("rl.run.paths.from_hub", fetch)
    assert sizes_of(replace(real.policy, preset="hf", path="me/large"), "", 0)[0].parameters > 8e9
    assert judge_sizes(train_config("judge=worker", "judge.path=me/large").judge) is not None
    assert asked == [True, True], "a plan reads config.json alone"


@given(
    workers=st.integers(1, 16), gpus=st.integers(1, 24), worker=st.sampled_from((0.25, 0.5, 1.0)),
    learner=st.sampled_from((0.5, 1.0)), several=st.integers(1, 4),
)  # fmt: skip
def test_nobody_is_lost_and_no_gpu_is_given_twice(
    workers: int, gpus: int, worker: float, learner: float, several: int
) -> None:
    several = several if learner == 1.0 else 1
    cfg = on_hardware(ranks(on_ray(planned(*SEVEN), worker, learner, workers=workers), several), gpus=gpus)
    placed, missing = place(cfg)
    share = {ENGINE: worker, LEARNER: learner}
    assert all(sum(share[role] for role in roles) <= 1 for roles in placed)
    there = sum(len(roles) for roles in placed)
    assert (there == workers + several) == (missing is None)
    more, still = place(on_hardware(cfg, gpus=gpus + 1))
    assert missing is not None or still is None
    assert sum(len(roles) for roles in more) >= there


def test_the_cards() -> None:
    folder = Path(__file__).parents[2] / "configs" / "hardware"
    cards = {file.stem: OmegaConf.load(file) for file in folder.glob("*.yaml")}
    assert set(cards) == {"cpu", "a100", "h100", "h200", "b200"}
    for name in ("a100", "h100", "h200", "b200"):
        card = train_config(f"hardware={name}").hardware
        assert card.gpus == card.gpus_per_node == 8
        assert card.tflops_float32 < card.tflops
        assert 200 < card.tflops * 1e12 / (card.memory_gb_s * 1e9) / 0.75 < 450  # FLOPs for each byte of memory
        assert card.network_gb_s < card.link_gb_s < card.memory_gb_s
