"""A module on the meta device has the names and shapes of a real one, and loads nothing of torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import torch

from rl.policy.meta import on_meta
from rl.policy.model import DSAForCausalLM
from rl.policy.presets import tiny_dsa

CODE = """
import sys
from rl.policy.checkpoint_checks import check_checkpoint
from rl.policy.loading import load_policy
from rl.run.paths import resolve
base = resolve("pkg://rl.bases/tiny_dsa_base")
check_checkpoint(base)
load_policy(base)
loaded = [name for name in ("torch._dynamo", "torch._inductor", "transformers.generation.utils") if name in sys.modules]
assert not loaded, loaded
"""


def test_names_and_shapes() -> None:
    config = tiny_dsa(64, num_hidden_layers=2)
    with on_meta():
        bare = DSAForCausalLM(config)
    real = DSAForCausalLM(config)
    assert {k: (v.shape, v.dtype) for k, v in bare.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in real.state_dict().items()
    }
    assert {p.device for p in bare.parameters()} == {torch.device("meta")}


def test_random_numbers_are_drawn_again_after_it() -> None:
    with on_meta():
        torch.nn.Linear(2, 2)
    assert float(torch.nn.Linear(64, 64).weight.detach().std()) > 0


def test_a_policy_is_checked_and_loaded_without_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
