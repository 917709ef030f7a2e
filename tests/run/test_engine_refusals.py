"""What rollout engines cannot do is said from config.json and the settings, by field, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from in_process import command

from rl.learner.config import ReplayConfig
from rl.policy.presets import tiny_dsa
from rl.rollout.config import RolloutConfig
from rl.run.engine_refusals import engine_refusals, uneven_part, with_precision

LLAMA = {"model_type": "llama", "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 48}
DSA = tiny_dsa(256).to_dict()


def refused(model: dict[str, Any], *, gpus: bool = False, worker_gpus: float = 0.0, **rollout: Any) -> list[str]:
    config = RolloutConfig(engine="served", **rollout)
    return engine_refusals(config, model, gpus=gpus, worker_gpus=worker_gpus, replay=ReplayConfig())


def test_what_can_be_run() -> None:
    assert refused(LLAMA, tensor_parallel=4) == []
    assert refused(LLAMA, gpus=True, worker_gpus=1.0, tensor_parallel=2) == []
    assert refused(DSA) == []
    off = ReplayConfig(routing="off")
    assert engine_refusals(RolloutConfig(), DSA, gpus=True, worker_gpus=1.0, replay=off) == []
    assert engine_refusals(RolloutConfig(), DSA, gpus=True, worker_gpus=1.0) == []  # an evaluation repeats nothing


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        (DSA, {"tensor_parallel": 2}, "rollout.tensor_parallel=2: our torch DSA model runs on one rank"),
        (DSA, {"dsa_backend": "native"}, "rollout.dsa_backend=native: vLLM's own DSA model needs GPUs"),
        (DSA, {"gpus": True}, "rollout.dsa_backend=auto: on GPUs the engine takes vLLM's own DSA model, which records"),
        (LLAMA, {"tensor_parallel": 5}, "rollout.tensor_parallel=5: it must divide num_attention_heads=12"),
        (
            LLAMA,
            {"gpus": True, "tensor_parallel": 2, "worker_gpus": 0.5},
            "ray.worker_gpus=0.5: each of rollout.tensor",
        ),
    ],
)
def test_refusals(model: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    assert refused(model, **settings)[0].startswith(said)


def test_another_engine_does_not_round_alike() -> None:
    model, off = {**DSA, "index_precision": "int8"}, ReplayConfig(routing="off")
    assert engine_refusals(RolloutConfig(), model, gpus=False, worker_gpus=0.0) == []
    found = engine_refusals(RolloutConfig(), model, gpus=True, worker_gpus=1.0, replay=off)
    assert "does not round as index_precision=int8 of the policy" in found[0]


def test_a_precision_that_an_indexer_cannot_have_is_refused_before_a_run() -> None:
    assert with_precision(DSA, None) == DSA
    assert with_precision(DSA, "int8") == {**DSA, "index_precision": "int8"}
    with pytest.raises(ValueError, match=r"^base\.index_precision=int8: model_type=llama has no DSA indexer; use null"):
        with_precision(LLAMA, "int8")
    with pytest.raises(ValueError, match=r"^base\.index_precision=int8: .* index_head_dim=2048: sums of products are"):
        with_precision({**DSA, "index_head_dim": 2048}, "int8")


def test_what_cannot_be_shared() -> None:
    assert uneven_part(LLAMA, 1) is None
    assert uneven_part(LLAMA, 12) is None  # every head of keys and values in three ranks
    assert uneven_part(LLAMA, 6) == "num_key_value_heads=4"
    assert uneven_part(LLAMA | {"kv_lora_rank": 8}, 6) is None  # its latent is not cut
    assert uneven_part(LLAMA | {"moe_intermediate_size": 6}, 4) == "moe_intermediate_size=6"


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"rollout\.tensor_parallel=2: must be 1 with rollout\.engine=stepped"):
        RolloutConfig(tensor_parallel=2)
    with pytest.raises(ValueError, match=r"rollout\.engine='served': must be stepped with deterministic=true"):
        RolloutConfig(engine="served", deterministic=True)


def test_before_a_run_has_a_folder(tmp_path: Path) -> None:
    for words, said in (
        (("rollout.engine=served", "rollout.tensor_parallel=2"), "rollout.tensor_parallel=2: our torch DSA model"),
        (("rollout.dsa_backend=native",), "rollout.dsa_backend=native: vLLM's own DSA model needs GPUs"),
        (("base.index_precision=int4",), "base.index_precision='int4': must be one of float32, int8, or null"),
    ):
        done = command("rl-train", *words, cwd=tmp_path)
        assert done.returncode != 0
        assert said in done.output
    assert list(tmp_path.iterdir()) == []
