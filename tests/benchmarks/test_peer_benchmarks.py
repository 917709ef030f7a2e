"""The benchmarks beside TRL and of the GPU operators: what they need is said in one line, and their parts run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import gpu_operators, peer_trl
from rl.policy.ops.operators import TORCH, choose_operators

SIZES = {
    "index": {"queries": 5, "rows": 9, "heads": 2, "dim": 4},
    "attention": {"queries": 3, "rows": 9, "heads": 2, "latent": 6, "rope": 3, "k": 4},
    "head": {"tokens": 5, "depth": 8, "words": 20},
}


def test_without_trl_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else find(name, *rest))
    assert peer_trl.main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: TRL is not installed here; pip install trl==1.16.0 (the extra `trl`)\n"


def test_both_are_given_the_same_prompts() -> None:
    """Eight different ones, that TRL's tokenizer encodes as ours does."""
    prompts = peer_trl.real_prompts()
    assert len({tuple(p) for p in prompts}) == peer_trl.PROMPTS
    texts = peer_trl.as_texts(prompts)
    assert all(text for text in texts)
    assert peer_trl.fixed_renderer(prompts).render([peer_trl.Message("user", "3")], thinking=True) == prompts[3]


@pytest.mark.parametrize("which", range(3))
def test_operators_are_compared_on_equal_results(which: int) -> None:
    """FLOPs and bytes are counted by hand for the small sizes; both paths give the same."""
    case = list(gpu_operators.cases(SIZES, "cpu"))[which]
    flops = (2 * 5 * 9 * 2 * 4, 2 * 3 * 2 * 4 * (9 + 6), 2 * 5 * 8 * 20)[which]
    moved = (2 * (40 + 36) + 4 * 10 + 4 * 45, 2 * (54 + 81 + 36) + 8 * 12, 2 * (40 + 160))[which]
    assert (case.flops[0], case.moved[0]) == (flops, moved)
    torch.manual_seed(0)
    grad = None
    found = []
    for ops in (TORCH, choose_operators("triton", torch.device("cpu"))):
        forward, _ = gpu_operators.passes(case, ops)
        out = forward()
        grad = torch.randn_like(out) if grad is None else grad
        found.append([out.detach(), *torch.autograd.grad(out, case.inputs, grad.to(out.dtype))])
    for one, other in zip(*found, strict=True):
        assert float((one.float() - other.float()).abs().max()) < 0.05 * max(1.0, float(one.abs().max()))
