"""GB by part against numbers worked out by hand, and what must hold for every number of GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from released_models import LARGE, LONG, NAMES, on_hardware, planned, sizes

from rl.policy.presets import tiny_dsa
from rl.run.model_sizes import ModelSizes
from rl.run.plan_memory import engine_memory, learner_memory, passing, rollout_tokens, sequences, sync_bytes

TINY = ModelSizes.of(tiny_dsa(1024))
GB = 1e9

SLACK = 1.0 + 1e-9  # sums of the same numbers in another order


def learner(cfg: Any, **values: Any) -> Any:
    return replace(cfg, learner=replace(cfg.learner, **values))


def test_qwen3_8b_on_one_gpu_in_float32() -> None:
    cfg = planned("objective.kl_coef=0")
    parts = learner_memory(cfg, sizes("qwen3_8b")).device
    parameters, tokens = 8_190_735_360, 8192
    assert (cfg.learner.max_tokens_per_microbatch, cfg.rollout.max_context) == (tokens, 1024)
    layer = 6 * 4096 + 73_728  # two norms, attention and MLP
    assert parts == pytest.approx(
        {
            "weights": 4 * parameters / GB,
            "gradients": 4 * parameters / GB,
            "optimiser": 8 * parameters / GB,
            "saved activations": 36 * tokens * 4 * layer / GB,
            "working activations": tokens * 4 * layer / GB,
            "logits": tokens * 151_936 * 16 / GB,
            "replay and batch": 16 * 8 * 1024 * 60 / GB,
            "process": 1.5,
        }
    )
    assert sum(parts.values()) == pytest.approx(271.7, abs=0.1)


def test_qwen3_8b_in_bfloat16_with_every_switch() -> None:
    cfg, model = planned(*LARGE, "objective.kl_coef=0"), sizes("qwen3_8b")
    parts = learner_memory(cfg, model).device
    assert parts["weights"] == pytest.approx(6 * 8.190735360)  # float32 masters and the copy that computes
    assert parts["saved activations"] == pytest.approx(36 * 8192 * 4096 * 2 / GB)  # the input of each layer
    assert parts["working activations"] == pytest.approx(2 * 8192 * 2 * (8 * 4096 + 73_728) / GB)
    assert parts["logits"] == pytest.approx(1024 * 151_936 * 18 / GB)
    offloaded = learner_memory(learner(cfg, offload_optimizer=True), model)
    assert offloaded.device["weights"] == pytest.approx(2 * 8.190735360)
    assert {"gradients", "optimiser"}.isdisjoint(offloaded.device)
    assert offloaded.on_host == pytest.approx(16 * 8.190735360)
    assert sync_bytes(cfg, model) == 2 * 8_190_735_360


def test_an_adapter_on_qwen3_8b() -> None:
    model = sizes("qwen3_8b")
    adapter = 36 * 16 * (2 * 4096 + 2 * (4096 + 1024) + 2 * 4096 + 3 * (4096 + 12288))
    cfg = planned(*LARGE, "learner.lora.rank=16", "objective.kl_coef=0")
    parts = learner_memory(cfg, model).device
    assert parts["weights"] == pytest.approx((2 * 8_190_735_360 + 6 * adapter) / GB)
    assert (parts["gradients"], parts["optimiser"]) == pytest.approx((4 * adapter / GB, 8 * adapter / GB))
    assert sync_bytes(cfg, model) == 4 * adapter


def test_teachers_are_policies_more() -> None:
    """Families that share one count once; their KL over the vocabulary takes more of the head."""
    model = sizes("qwen3_8b")
    teachers = "objective.distill.teachers={search: a, code: b, agent: b}"
    parts = learner_memory(planned(*LARGE, "objective.kl_coef=0", teachers), model).device
    assert parts["teachers"] == pytest.approx(2 * 2 * 8.190735360)
    assert parts["logits"] == pytest.approx(1024 * 151_936 * 38 / GB)
    sampled = planned(*LARGE, "objective.kl_coef=0", teachers, "objective.distill.form=sampled")
    assert learner_memory(sampled, model).device["logits"] == pytest.approx(1024 * 151_936 * 18 / GB)
    split = learner_memory(learner(sampled, ranks=4), model).device
    assert split["teachers"] == pytest.approx(2 * 8.190735360)  # float32, a quarter of each


def test_the_reference_of_a_kl_term_is_one_more_copy() -> None:
    model = sizes("qwen3_8b")
    with_kl, without = (learner_memory(planned(*LARGE, f"objective.kl_coef={c}"), model).device for c in (0.01, 0))
    assert with_kl["reference"] == pytest.approx(2 * 8.190735360)
    assert "reference" not in without
    assert (
        "reference"
        not in learner_memory(
            planned(*LARGE, "objective.kl_coef=0.01", "learner.lora.rank=16", "objective.ref_refresh_every=0"), model
        ).device
    )


def test_the_probe_may_need_more_than_a_step() -> None:
    """It copies all weights to float32 where the masters are an adapter's, or in the host's memory."""
    base = planned(*LARGE, "objective.kl_coef=0")
    adapted = planned(*LARGE, "learner.lora.rank=16", "objective.kl_coef=0")
    step = ("saved activations", "working activations", "logits", "replay and batch")
    parts = learner_memory(adapted, sizes("qwen3_8b")).device
    assert parts["probe after a sync"] == pytest.approx(4 * 8.190735360 - sum(parts[name] for name in step))
    offloaded = learner_memory(learner(base, offload_optimizer=True), sizes("qwen3_30b_a3b"))
    held = 2 * 30.532122624
    assert offloaded.device["weights"] == pytest.approx(held)
    assert offloaded.on_device == pytest.approx(held + 4 * 30.532122624 + 1.5)
    assert "probe after a sync" not in learner_memory(base, sizes("qwen3_8b")).device  # the masters serve
    small = planned(*LARGE, "learner.lora.rank=16", "learner.compute_dtype=float32", "objective.kl_coef=0",
                    "learner.max_tokens_per_microbatch=8192", "learner.head_rows=16", "prompts_per_step=1")  # fmt: skip
    v32 = learner_memory(small, sizes("deepseek_v3_2")).device
    assert v32["probe after a sync"] == pytest.approx(2 * 671.877929216 - sum(v32[name] for name in step))


def test_recorded_choices_of_two_micro_batches_are_on_the_gpu_as_they_were_recorded() -> None:
    """8 sequences of a group may share all of a micro-batch's 8,192 nodes."""
    cfg, model = planned(*LARGE), sizes("qwen3_30b_a3b")
    tokens = 2 * 8 * 8192
    assert learner_memory(cfg, model).device["replay and batch"] == pytest.approx(tokens * (48 * 8 + 60) / GB)
    flat = learner_memory(learner(cfg, share_prefixes=False), model).device["replay and batch"]
    assert flat == pytest.approx(2 * 8192 * (48 * 8 + 60) / GB)
    off = replace(cfg, replay=replace(cfg.replay, routing="off"))
    assert learner_memory(off, model).device["replay and batch"] == pytest.approx(tokens * 60 / GB)
    indexer = replace(cfg, replay=replace(cfg.replay, indexer="force"))
    v32 = learner_memory(indexer, sizes("deepseek_v3_2")).device["replay and batch"]
    assert v32 == pytest.approx(tokens * (58 * 8 + 61 * 2048 * 4 + 60) / GB)  # half a megabyte each


def test_qwen3_8b_over_four_ranks() -> None:
    """Everything at rest is float32 and cut by four, the reference too; the widest part of the rest is the head's."""
    model = sizes("qwen3_8b")
    parts = learner_memory(learner(planned(*LARGE, "objective.kl_coef=0.01"), ranks=4), model).device
    parameters, layer, outside = 8.190735360, 0.192946432, 2 * 151_936 * 4096 / GB + 4096 / GB
    assert model.outside == pytest.approx(outside * GB)
    assert parts["weights"] == parts["gradients"] == parts["reference"] == pytest.approx(parameters)
    assert parts["optimiser"] == pytest.approx(2 * parameters)
    assert parts["gathered layers"] == pytest.approx(4 * outside + 2 * 2 * outside)  # 10 bytes of a layer are less
    assert 10 * layer < 4 * outside
    assert parts["replay and batch"] == pytest.approx(2 * 8 * 8192 * 60 / GB)
    copies = learner_memory(learner(planned(*LARGE), ranks=8, shard_ranks=4), model).device  # HSDP: two copies
    assert copies["weights"] == parts["weights"]
    assert copies["replay and batch"] == parts["replay and batch"]
    many = learner_memory(learner(planned(*LARGE), ranks=16, shard_ranks=4), model).device
    assert many["replay and batch"] == pytest.approx(128 * 8192 * 60 / 16 / GB), "no more than its share of the batch"


def test_an_adapter_over_ranks_has_a_float32_base() -> None:
    model = sizes("qwen3_8b")
    alone = planned(*LARGE, "learner.lora.rank=16", "objective.kl_coef=0")
    parts = learner_memory(learner(alone, ranks=2), model).device
    adapter = model.adapter(16) / GB
    assert parts["weights"] == pytest.approx((4 * 8.190735360 + 4 * adapter) / 2)
    assert (parts["gradients"], parts["optimiser"]) == pytest.approx((2 * adapter, 4 * adapter))
    assert parts["gathered layers"] == pytest.approx(4 * 0.192946432 + 2 * model.outside / GB)
    step = ("saved activations", "working activations", "logits", "replay and batch")
    assert parts["probe after a sync"] == pytest.approx(2 * 8.190735360 - sum(parts[name] for name in step))


def test_offloaded_shards_leave_nothing_but_gathered_layers() -> None:
    memory = learner_memory(
        learner(planned(*LARGE, "objective.kl_coef=0.01"), ranks=2, offload_optimizer=True), sizes("qwen3_8b")
    )
    assert {"weights", "gradients", "optimiser", "reference", "probe after a sync"}.isdisjoint(memory.device)
    assert memory.host == pytest.approx(
        {"masters, gradients, optimiser": 8 * 8.190735360, "reference": 2 * 8.190735360}
    )


def test_what_passes_through_the_first_rank_s_machine() -> None:
    cfg, parameters = planned(*LARGE, "objective.kl_coef=0", "checkpoint_async=false"), 8.190735360
    alone = {"loading the policy": 4, "a weight sync": 2 * 2, "a checkpoint": 4}
    assert passing(cfg, sizes("qwen3_8b")) == pytest.approx({k: n * parameters for k, n in alone.items()})
    ranks = {"loading the policy": 4, "a weight sync": 2 * 2, "a checkpoint": 4}
    assert passing(learner(cfg, ranks=4), sizes("qwen3_8b")) == pytest.approx(
        {k: n * parameters for k, n in ranks.items()}
    )
    float32 = learner(planned("objective.kl_coef=0.01", "checkpoint_async=false"), ranks=4)
    assert passing(float32, sizes("qwen3_8b"))["a weight sync"] == pytest.approx(2 * 4 * parameters)
    assert passing(float32, sizes("qwen3_8b"))["a checkpoint"] == pytest.approx(8 * parameters)  # pi_ref too
    v32 = sizes("deepseek_v3_2")
    assert passing(learner(cfg, ranks=256), v32)["a checkpoint"] == pytest.approx(
        8 * v32.parameters / GB  # ours is copied once more to be written
    )
    cpu = on_hardware(cfg, gpus=0)  # weights are where they are sent from
    assert passing(cpu, sizes("qwen3_8b")) == pytest.approx(
        {"loading the policy": 0.0, "a weight sync": 2 * parameters, "a checkpoint": 0.0}
    )


def test_a_streamed_sync_is_two_buckets_and_a_tensor_of_each_rank() -> None:
    cfg, model = (
        planned(*LARGE, "rollout.weights=gloo", "rollout.workers=2", "checkpoint_async=false"),
        sizes("qwen3_8b"),
    )
    one = 2 * 2 * 151_936 * 4096  # embedding and head, in bfloat16; a layer is smaller
    assert passing(cfg, model)["a weight sync"] == pytest.approx((2 * 32 * 2**20 + 3 * one) / GB, rel=1e-4)
    assert passing(learner(cfg, ranks=4), model)["a weight sync"] == passing(cfg, model)["a weight sync"]


def test_a_checkpoint_that_is_written_beside_the_training_is_a_copy() -> None:
    cfg, parameters = planned(*LARGE, "objective.kl_coef=0"), 8.190735360
    copied = 4 + 8  # masters and moments
    assert passing(cfg, sizes("qwen3_8b")) == pytest.approx(
        {
            k: n * parameters
            for k, n in {"loading the policy": 4, "a weight sync": 4 + copied, "a checkpoint": 12}.items()
        }
    )
    assert passing(learner(cfg, ranks=4), sizes("qwen3_8b"))["a checkpoint"] == pytest.approx(copied * parameters)
    cpu = on_hardware(cfg, gpus=0)
    assert passing(cpu, sizes("qwen3_8b"))["a weight sync"] == pytest.approx((2 + copied) * parameters)


def test_deepseek_v3_2_over_256_ranks() -> None:
    cfg = learner(planned(*LARGE, "objective.kl_coef=0"), ranks=256, expert_parallel=8)
    model = sizes("deepseek_v3_2")
    parts = learner_memory(cfg, model).device
    learns = model.parameters - model.frozen
    assert parts["weights"] == pytest.approx(4 * model.parameters / 256 / GB)
    assert (parts["gradients"], parts["optimiser"]) == pytest.approx((4 * learns / 256 / GB, 8 * learns / 256 / GB))
    experts = 256 * 3 * 7168 * 2048
    rest = model.layers[3].parameters - experts
    outside = 2 * 129_280 * 7168 + 7168
    assert parts["gathered layers"] == pytest.approx((10 * (rest + experts / 8) + 4 * outside) / GB)
    assert parts["saved activations"] == pytest.approx(8192 * 7168 * 2 * 61 / GB)
    rows = (
        8192 * 2 * 8 * 7168 * 2
    )  # a token's rows for eight experts, sent and come back; in the layer that is run again
    assert parts["working activations"] == pytest.approx(
        learner_memory(learner(cfg, expert_parallel=1), model).device["working activations"] + 2 * rows / GB
    )
    assert sum(parts.values()) == pytest.approx(94.9, abs=0.3)
    whole = learner_memory(learner(cfg, expert_parallel=1), model).device["gathered layers"]
    assert whole == pytest.approx((10 * (rest + experts) + 4 * outside) / GB)  # 115 GB: no number of ranks helps


def test_long_rollouts_over_ranks() -> None:
    """131,072 tokens over eight ranks: each keeps its eighth of everything, and keys and values of all."""
    cfg = planned(*LONG)
    model, parts = sizes("qwen3_8b"), learner_memory(learner(cfg, recompute=False), sizes("qwen3_8b")).device
    ways = [learner(cfg, ranks=8, context_parallel=n, max_tokens_per_microbatch=131_072 // n) for n in (1, 2, 4, 8)]
    assert [learner_memory(way, model).on_device for way in ways] == pytest.approx([125.3, 80.7, 57.1, 45.3], abs=0.1)
    shared = ways[-1]
    kept = learner_memory(learner(shared, recompute=False), model).device
    gathered, layer = 8 * 2 * 8 * 128, 2 * (6 * 4096 + 2 * 4096 + 73_728)  # in bfloat16 norms keep their input twice
    assert kept["saved activations"] == pytest.approx(36 * 16_384 * (layer + 2 * gathered) / GB)
    assert kept["working activations"] == pytest.approx(16_384 * (layer + 2 * gathered + 6 * gathered) / GB)
    assert parts["saved activations"] == pytest.approx(36 * 131_072 * layer / GB)
    # Of a token all but its recorded choices is on every rank that shares its micro-batch.
    held = learner_memory(shared, model).device["replay and batch"]
    assert held == pytest.approx(2 * 8 * 16_384 * 8 * 60 / GB)
    v32 = sizes("deepseek_v3_2")
    assert v32.gathered_row == 512 + 64 + 128


@pytest.mark.parametrize(("name", "gpus"), [("qwen3_8b", 4), ("qwen3_30b_a3b", 16), ("glm_4_5_air", 64)])
def test_on_how_many_gpus_full_training_fits(name: str, gpus: int) -> None:
    """16 bytes a parameter alone are 131, 489 and 1,710 GB."""
    cfg = planned(*LARGE, "objective.kl_coef=0")

    def held(ranks: int) -> float:
        return learner_memory(learner(cfg, ranks=ranks), sizes(name)).on_device

    assert held(gpus) < 80 < held(gpus // 2)
    assert [held(2 * n) <= held(n) for n in (2, 4, 8, 16, 32, 64, 128, 256)] == [True] * 8


def test_the_engine_by_hand() -> None:
    cfg, model = planned(*LARGE), sizes("qwen3_8b")
    memory = engine_memory(cfg, model, cfg.rollout)
    assert memory.device["weights"] == pytest.approx(2 * 8.190735360)
    assert memory.device["cache"] == pytest.approx(40 * 2**30 / GB)
    assert memory.device["working activations"] == pytest.approx(8192 * 2 * (8 * 4096 + 73_728) / GB)
    assert sequences(model, cfg.rollout, 8192) == 40 * 2**30 // (147_456 * 8192) == 35
    assert sequences(model, cfg.rollout, 8192, tensor_parallel=2) == 71  # every GPU has half of the heads
    # MLA's row is 1,152 bytes a layer with the indexer's 256: it is not cut, more GPUs hold no more of them
    v32 = sizes("deepseek_v3_2")
    assert sequences(v32, cfg.rollout, 8192, 16) == sequences(v32, cfg.rollout, 8192) == 61
    table = engine_memory(cfg, sizes("qwen3_30b_a3b"), cfg.rollout).on_host
    assert table == pytest.approx(40 * 2**30 / 98_304 * 48 * 8 / GB)


def test_tokens_of_a_rollout() -> None:
    cfg = planned(*LARGE)
    assert rollout_tokens(cfg) == (8192, 4096)
    assert rollout_tokens(on_hardware(cfg, rollout_tokens=3000, sampled_tokens=1000)) == (3000, 1000)
    assert rollout_tokens(on_hardware(cfg, rollout_tokens=20_000)) == (8192, 4096)  # the window ends it
    assert rollout_tokens(on_hardware(cfg, rollout_tokens=100)) == (100, 99)


@given(
    name=st.sampled_from(NAMES),
    ranks=st.sampled_from((2, 4, 8, 16, 64, 256)),
    tokens=st.integers(8192, 65_536),
    dtype=st.sampled_from(("float32", "bfloat16")),
    switches=st.tuples(st.booleans(), st.booleans()),
)
def test_what_holds_for_every_plan(name: str, ranks: int, tokens: int, dtype: str, switches: tuple[bool, bool]) -> None:
    recompute, offload = switches
    base = learner(
        planned(*LARGE), compute_dtype=dtype, recompute=recompute, offload_optimizer=offload,
        max_tokens_per_microbatch=tokens,
    )  # fmt: skip
    cfg, model = learner(base, ranks=ranks), sizes(name)
    here = learner_memory(cfg, model)
    more = learner_memory(learner(base, ranks=2 * ranks), model)
    assert more.on_device <= SLACK * here.on_device  # more GPUs never need more GB of each
    assert more.on_host <= here.on_host
    copies = learner_memory(learner(base, ranks=2 * ranks, shard_ranks=ranks), model)
    assert more.on_device <= SLACK * copies.on_device
    assert copies.on_device <= SLACK * here.on_device
    if ranks % 2 == 0 and model.experts:
        split = learner_memory(learner(cfg, expert_parallel=2), model)
        assert split.device["gathered layers"] < here.device["gathered layers"]
    again = learner_memory(learner(cfg, max_tokens_per_microbatch=tokens + 1), model)
    assert again.on_device > here.on_device or here.device["probe after a sync"] > 0  # which takes what a step leaves
    kept = learner_memory(learner(cfg, recompute=False), model)
    assert learner_memory(learner(cfg, recompute=True), model).on_device <= SLACK * kept.on_device
    there = learner_memory(learner(cfg, offload_optimizer=True), model)
    assert there.on_device < learner_memory(learner(cfg, offload_optimizer=False), model).on_device
    assert min(here.device.values()) > 0


@given(tensor=st.sampled_from((1, 2, 4, 8)), name=st.sampled_from(NAMES), cache=st.floats(0.5, 100))
def test_more_gpus_of_an_engine_never_need_more_of_each(tensor: int, name: str, cache: float) -> None:
    cfg = planned(*LARGE)
    engine, model = replace(cfg.rollout, kv_cache_gib=cache), sizes(name)
    here, more = (engine_memory(cfg, model, engine, t).on_device for t in (tensor, 2 * tensor))
    assert more < here
    assert sequences(model, engine, 4096, 2 * tensor) >= sequences(model, engine, 4096, tensor)
