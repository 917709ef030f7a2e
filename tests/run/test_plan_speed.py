"""The roofline of a step against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from released_models import LARGE, NAMES, on_hardware, planned, sizes

from rl.run.plan_speed import Speed, decode_speed, learner_speed, step_speed, sync_seconds, traffic_seconds

ALONE = (*LARGE, "objective.kl_coef=0", "learner.recompute=false", "rollout.workers=4")
PEAK = 0.35 * 989e12


def learner(cfg: Any, **values: Any) -> Any:
    return replace(cfg, learner=replace(cfg.learner, **values))


def test_the_learner_of_qwen3_8b() -> None:
    cfg, model = planned(*ALONE), sizes("qwen3_8b")
    active = 8_190_735_360 - 151_936 * 4096  # the embedding is a lookup
    forward = 2 * (active + 36 * 32 * 2 * 128 * 8193 / 2)  # 8,192 tokens see 4,096.5 rows in the mean
    assert learner_speed(cfg, model) == pytest.approx(PEAK / (3 * forward))
    assert learner_speed(learner(cfg, recompute=True), model) == pytest.approx(PEAK / (4 * forward))
    assert learner_speed(planned(*ALONE, "learner.lora.rank=8"), model) == pytest.approx(PEAK / (2 * forward))
    assert learner_speed(learner(cfg, ranks=8), model) == pytest.approx(8 * PEAK / (3 * forward))
    kl = replace(cfg, objective=replace(cfg.objective, kl_coef=0.01, old_policy="learner"))
    assert learner_speed(kl, model) == pytest.approx(PEAK / (5 * forward))
    float32 = learner(cfg, compute_dtype="float32")
    assert learner_speed(float32, model) == pytest.approx(PEAK / (3 * forward) * 67 / 989)


def test_decoding_qwen3_8b_reads_weights_and_cache() -> None:
    cfg, model = planned(*ALONE), sizes("qwen3_8b")
    speed, at_once = decode_speed(cfg, model, 1)
    assert at_once == 32  # 128 rollouts on 4 engines; the cache holds 35, max_concurrency allows 64
    read = 2 * 8_190_735_360 + 32 * 147_456 * (8192 - 2048)  # in the middle of 4,096 sampled tokens
    assert speed == pytest.approx(32 / (read / (0.7 * 3350e9)))
    halved, _ = decode_speed(cfg, model, 2)
    assert halved == pytest.approx(2 * speed)


def test_a_small_batch_touches_few_experts() -> None:
    cfg, model = planned(*ALONE), sizes("qwen3_30b_a3b")
    one = replace(cfg, rollout=replace(cfg.rollout, max_concurrency=1))
    experts = 48 * 128 * 3 * 2048 * 768
    read = 2 * (30_532_122_624 - experts + experts * 8 / 128) + 98_304 * 6144
    assert decode_speed(one, model, 1)[0] == pytest.approx(0.7 * 3350e9 / read)


def test_dsa_reads_the_chosen_rows_and_all_index_keys() -> None:
    model = sizes("deepseek_v3_2")
    assert model.read_row(6144, 2) == 61 * 2 * (2048 * 576 + 6144 * 128)


def test_the_sync_goes_through_the_host() -> None:
    cfg, model = planned(*ALONE), sizes("qwen3_8b")
    sent = 2 * 8.190735360
    assert sync_seconds(cfg, model, nodes=1) == pytest.approx(sent / 2 + 2 * sent / 50)
    assert sync_seconds(cfg, model, nodes=4) == pytest.approx(sent / 2 + 2 * sent / 50 + sent / 50)
    several = learner(cfg, ranks=8)  # gathered first, on the first one's GPU
    assert sync_seconds(several, model, nodes=1) == pytest.approx(sent / 2 + sent / 450 + 2 * sent / 50)
    apart = learner(cfg, ranks=16)
    assert sync_seconds(apart, model, nodes=2) == pytest.approx(sent / 2 + sent / 50 + 2 * sent / 50 + sent / 50)


def test_what_ranks_send_each_other() -> None:
    cfg, model = planned(*ALONE), sizes("qwen3_30b_a3b")
    parameters = 30.532122624
    assert traffic_seconds(cfg, model) == 0
    # 128 rollouts of 8,192 tokens: 16 micro-batches a rank, each with two gathers in bfloat16 and a sum in float32
    eight = learner(cfg, ranks=8)
    assert traffic_seconds(eight, model) == pytest.approx(16 * 7 / 8 * (2 * 2 + 4) * parameters / 450)
    larger = learner(eight, max_tokens_per_microbatch=65_536)
    assert traffic_seconds(larger, model) == pytest.approx(traffic_seconds(eight, model) / 8)
    # 32: the network of a machine's eight GPUs is slower than the links within
    apart = learner(cfg, ranks=32)
    assert traffic_seconds(apart, model) == pytest.approx(4 * 31 / 32 * 8 * parameters / 400)
    # copies on machines of their own: gradients alone go between, an all-reduce of each rank's eighth
    copies = learner(cfg, ranks=32, shard_ranks=8)
    within, between = 7 / 8 * 8 * parameters / 450, 2 * 3 / 4 * 4 * parameters / 8 / 50
    assert traffic_seconds(copies, model) == pytest.approx(4 * (within + between))
    offloaded = learner(eight, offload_optimizer=True)
    host = 16 * (2 * 4 + 4) * parameters / 8 / 50
    assert traffic_seconds(offloaded, model) == pytest.approx(traffic_seconds(eight, model) + host)
    kl = replace(eight, objective=replace(cfg.objective, kl_coef=0.01, old_policy="learner"))
    assert traffic_seconds(kl, model) == pytest.approx(16 * 7 / 8 * (4 * 2 + 4) * parameters / 450)
    # experts over all eight: nothing of them is gathered or summed; of 8 rows a token, in 48 layers, 7/8 travel
    spread = learner(eight, expert_parallel=8)
    experts = 48 * 128 * 3 * 2048 * 768 / 1e9
    rows = 8192 * 8 * 48 * 7 / 8 * 2048 * 2 / 1e9
    gathered = 7 / 8 * (2 * 2 + 4) * (parameters - experts)
    assert traffic_seconds(spread, model) == pytest.approx(16 * (gathered + 2 * 2 * rows) / 450)
    # two share each micro-batch: keys and values of the other's 8,192 rows in bfloat16 for a forward pass, twice where
    # layers are run again, their gradient in float32
    shared = learner(eight, context_parallel=2)
    rows = 8192 * 48 * 2 * 4 * 128 / 1e9
    for recompute in (False, True):
        more = 16 * ((1 + recompute) * 2 + 4) * rows / 450
        again = learner(shared, recompute=recompute)
        assert traffic_seconds(again, model) == pytest.approx(traffic_seconds(eight, model) + more)
    speed = step_speed(apart, model, nodes=4)
    assert speed.traffic_s == traffic_seconds(apart, model)
    assert speed.learner_s == max(128 * 8192 / learner_speed(apart, model), speed.traffic_s)


def test_a_step_and_its_price() -> None:
    cfg, model = planned(*ALONE), sizes("qwen3_8b")
    speed = step_speed(cfg, model, nodes=1)
    decode, _ = decode_speed(cfg, model, 1)
    forward = 3 * PEAK / (learner_speed(cfg, model) * 9)
    assert speed.rollout_s == pytest.approx(32 * (4096 / decode + 4096 / (PEAK / forward)))
    assert speed.learner_s == pytest.approx(128 * 8192 / learner_speed(cfg, model))
    assert speed.step_s == pytest.approx(speed.rollout_s + speed.learner_s + speed.sync_s)
    assert speed.step_price == pytest.approx(speed.step_s * 8 * 3.0 / 3600)  # all eight GPUs, at 3 an hour
    assert step_speed(on_hardware(cfg, gpu_hour=None), model, nodes=1).step_price is None
    ahead = step_speed(replace(cfg, max_staleness=1), model, nodes=1)
    assert ahead.step_s == pytest.approx(max(ahead.rollout_s, ahead.learner_s) + ahead.sync_s)


def test_who_waits() -> None:
    values = {"rollout_s": 30.0, "learner_s": 50.0, "sync_s": 20.0, "sampled_per_s": 1.0, "trained_per_s": 1.0}
    alternate = Speed(**values, staleness=0, at_once=1).who_waits()
    assert "the learner waits for 50% of a step, the engines for 70%; max_staleness=1 would take 70.0 s" in alternate
    assert Speed(**values, staleness=2, at_once=1).who_waits() == "the engines wait for the learner, 57% of a step"
    slow = Speed(**(values | {"rollout_s": 80.0}), staleness=1, at_once=1).who_waits()
    assert slow == "the learner waits for the rollouts, 50% of a step"


@given(workers=st.integers(1, 63), name=st.sampled_from(NAMES), staleness=st.integers(0, 2))
def test_more_engines_never_take_longer(workers: int, name: str, staleness: int) -> None:
    cfg = replace(planned(*ALONE), max_staleness=staleness)
    here, more = (
        step_speed(replace(cfg, rollout=replace(cfg.rollout, workers=n)), sizes(name), nodes=1)
        for n in (workers, 2 * workers)
    )
    assert more.rollout_s <= here.rollout_s * 1.0001
    assert here.learner_s == more.learner_s
    assert here.at_once >= more.at_once
