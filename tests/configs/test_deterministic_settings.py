"""What deterministic=true cannot hold for is refused in one line that says what to set."""

from __future__ import annotations

import pytest
from train_runs import train_config


def test_rollouts_follow_the_run() -> None:
    cfg = train_config("deterministic=true", "seed=7")
    assert cfg.rollout.deterministic
    assert cfg.rollout.seed == 7
    assert not train_config().rollout.deterministic
    assert train_config("deterministic=true", "learner.ranks=2").learner.ranks == 2  # tests/learner/test_ranks.py


def test_groups_come_whole_where_their_order_would_be_a_matter_of_time() -> None:
    assert train_config().overlaps
    assert train_config("learner.minibatches=1", "max_staleness=1").overlaps
    for override in ("deterministic=true", "learner.minibatches=2", "learner.overlap=false"):
        assert not train_config(override).overlaps


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("max_staleness=1", r"max_staleness=1: .* set it to 0"),
        ("policy.preset=hf", r"policy\.preset=hf: .* use policy=tiny_dsa"),
        ("judge=worker", r"judge\.kind=worker: .* use judge=none"),
        ("learner.ops=triton", r"learner\.ops=triton: .* use learner\.ops=torch"),
        ("ray.address=auto", r"ray\.address=auto: .* leave it null"),
        ("ray.worker_gpus=1", r"1 GPUs .* set both to 0"),
        ("rollout.threads=2", r"rollout\.threads=2: must be 1 with deterministic=true"),
        ("rollout.dtype=bfloat16", r"rollout\.dtype='bfloat16': must be float32 with deterministic=true"),
        ("rollout.dsa_backend=native", r"rollout\.dsa_backend='native': must be torch or auto"),
        ("rollout.deterministic=false", r"leave rollout\.deterministic out; it follows deterministic"),
    ],
)
def test_what_cannot_be_is_refused(override: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # a CPU could run Triton's kernels then
    with pytest.raises(Exception, match=said) as caught:
        train_config("deterministic=true", override)
    assert "\n" not in str(caught.value.__cause__ or caught.value).split("full_key")[0].strip()
