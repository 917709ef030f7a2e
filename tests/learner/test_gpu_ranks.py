"""A sharded learner on any device: one rank on a GPU over NCCL is the CPU's learner.

pytest -m gpu tests/learner
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from devices import DEVICES
from rank_processes import Case, learn, run_ranks

from rl.policy.loading import build_policy
from rl.types import Group

CASES = {"float32": 1e-4, "bfloat16": 5e-2}  # by compute_dtype: largest relative difference of the gradient


@pytest.mark.parametrize("device", DEVICES)
def test_one_rank_computes_what_one_process_does(
    policy_config: dict, make_groups: Callable[..., list[Group]], tmp_path: Path, device: str
) -> None:
    """Ranks take a CUDA device where there is one, so one call is either case; compared is on the CPU."""
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("the ranks would take the GPU")
    build_policy(policy_config).save(tmp_path / "policy")
    groups = make_groups(count=4)
    cases = [Case(tmp_path / "policy", [groups], settings={"compute_dtype": dtype}) for dtype in CASES]
    found = run_ranks(1, 1, cases, tmp_path / "ranks")[0]
    for result, case, close in zip(found, cases, CASES.values(), strict=True):
        wanted = learn(case, tmp_path)["gradients"][0]
        assert float((result["gradients"][0].cpu() - wanted).norm() / wanted.norm()) < close
        assert result["metrics"][0]["replay/rows"] > 0
