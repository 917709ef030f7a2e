"""learner.ops: what cannot run is refused in one line before anything starts."""

from __future__ import annotations

import pytest
from train_runs import train_config

from rl.learner.config import LearnerConfig


def test_triton_wants_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(Exception, match=r"learner\.ops=triton with ray\.learner_gpus=0: .*use learner\.ops=torch"):
        train_config("learner.ops=triton")
    assert train_config("learner.ops=triton", "ray.learner_gpus=1").learner.ops == "triton"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert train_config("learner.ops=triton").learner.ops == "triton"
    assert train_config().learner.ops == "torch"


def test_a_head_without_logits_has_no_rows_to_bound() -> None:
    with pytest.raises(ValueError, match=r"learner\.head_rows=256 with learner\.ops=triton: .*learner\.head_rows=null"):
        LearnerConfig(ops="triton", head_rows=256)
