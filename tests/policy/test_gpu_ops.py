"""Triton's operators give what torch's give, forward and backward: interpreted on the CPU, compiled on a GPU.

    pytest -m gpu tests/policy tests/learner tests/objective

Odd sizes, bounds, ties, empty and repeated choices; needs torch, triton, transformers and annotated_types.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton
from devices import DEVICES
from random_trees import Batch, run
from torch import Tensor

from rl.objective.logprobs import scores_of_logits, support_bits, support_mask
from rl.policy.dsa import DSAPolicy
from rl.policy.hf import HFPolicy
from rl.policy.loading import build_policy
from rl.policy.ops import gathered_kernels, head_kernels, index_kernels, launch
from rl.policy.ops.operators import TORCH, choose_operators
from rl.policy.replay import Record, Replay
from rl.policy.sparse import gathered_attention, index_scores, row_attention, topk_indices
from tests.learner.conftest import tiny_config

NEG_INF = float("-inf")
# Largest error relative to the largest value (or to 1): bfloat16 has 8 bits, and the interpreter cuts off, not rounds.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 4e-2}

on_devices = pytest.mark.parametrize("device", DEVICES)
in_dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "bfloat16"])


class Inputs:
    """Random tensors on ``device`` that learn; the same on every device."""

    def __init__(self, device: str, dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(0)

    def drawn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = torch.randn(shape, generator=self.generator).to(self.dtype if dtype is None else dtype)
        return values.to(self.device).requires_grad_()

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator).to(self.device)


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    error = (found.detach().double() - wanted.detach().double()).abs().max()
    assert float(error) <= TOLERANCE[dtype] * max(1.0, float(wanted.detach().abs().max()))


def same_gradients(found: Tensor, wanted: Tensor, inputs: tuple[Tensor, ...], grad: Tensor, dtype: torch.dtype) -> None:
    ours = torch.autograd.grad(found, inputs, grad)
    for one, other in zip(ours, torch.autograd.grad(wanted, inputs, grad), strict=True):
        close(one, other, dtype)


@on_devices
@in_dtypes
def test_index_scores(device: str, dtype: torch.dtype) -> None:
    """More queries and rows than one tile; a query that sees no row, one that sees all; bounds on both sides."""
    make = Inputs(device, dtype)
    queries, rows = 67, 75
    inputs = make.drawn(queries, 3, 20), make.drawn(queries, 3, dtype=torch.float32), make.drawn(rows, 20)
    low, high = make.whole(0, 30, queries), make.whole(0, rows + 1, queries)
    low[0], high[0], low[1], high[1] = 0, rows, 5, 5
    s = torch.arange(rows, device=device)
    seen = (s >= low[:, None]) & (s < high[:, None])
    found = index_kernels.index_scores(*inputs, low, high)
    wanted = index_scores(*inputs).masked_fill(~seen, NEG_INF)
    assert torch.equal(found == NEG_INF, ~seen)
    close(found[seen], wanted[seen], dtype)
    same_gradients(found, wanted, inputs, make.drawn(queries, rows, dtype=torch.float32), dtype)


@on_devices
def test_index_scores_by_hand(device: str) -> None:
    """2 * relu(1) - 1 * relu(-3) and 2 * relu(-2) - 1 * relu(4); the first query does not see the second row."""
    q = torch.tensor([[[1.0], [-3.0]], [[-2.0], [4.0]]], device=device)
    w = torch.tensor([[2.0, -1.0], [2.0, -1.0]], device=device)
    k = torch.ones(2, 1, device=device)
    ops = choose_operators("triton", torch.device(device))
    assert ops.causal_scores(q, w, k).tolist() == [[2.0, NEG_INF], [-4.0, -4.0]]
    assert ops.index_scores(q, w, k).tolist() == [[2.0, 2.0], [-4.0, -4.0]]


@on_devices
def test_ties_are_broken_alike(device: str) -> None:
    """Small whole numbers: every score is exact, most are 0, and the last rows taken tie with the first left out."""
    make = Inputs(device)
    q, w, k = make.whole(-1, 2, 70, 2, 4).float(), make.whole(-1, 2, 70, 2).float(), make.whole(-1, 2, 100, 4).float()
    found = choose_operators("triton", torch.device(device)).causal_scores(q, w, k)
    wanted = TORCH.causal_scores(q, w, k)
    assert torch.equal(found, wanted)
    assert int((wanted == 0).sum()) > 1500
    assert torch.equal(topk_indices(found, 9).sort(-1).values, topk_indices(wanted, 9).sort(-1).values)


@on_devices
@in_dtypes
@pytest.mark.parametrize("shape", [(7, 3, 20, 7, 30, 37), (4, 18, 24, 8, 40, 5)], ids=str)
def test_gathered_attention(device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Rows in any order, unused places among them, rows named twice; more heads and rows than one tile."""
    queries, heads, latent, rope, rows, k = shape
    make = Inputs(device, dtype)
    inputs = make.drawn(queries, heads, latent + rope), make.drawn(rows, latent + rope)
    indices = make.whole(-1, rows, queries, k)
    indices[:, -1] = 3  # one is used at least
    found = gathered_kernels.gathered_attention(*inputs, indices, 0.3, latent)
    wanted = gathered_attention(*inputs, indices, 0.3)[..., :latent]
    close(found, wanted, dtype)
    same_gradients(found, wanted, inputs, make.drawn(queries, heads, latent), dtype)


@on_devices
def test_gathered_attention_by_hand(device: str) -> None:
    """Logits 0 and ln 3 give probabilities 1/4 and 3/4; the last row's rope part of ln 3 is key and no value."""
    query = torch.tensor([[[0.0, 1.0]]], device=device)
    rows = torch.tensor([[9.0, 9.0], [4.0, 0.0], [8.0, float(np.log(3))]], device=device)
    indices = torch.tensor([[2, -1, 1]], device=device)
    assert gathered_kernels.gathered_attention(query, rows, indices, 1.0, 1).item() == pytest.approx(7.0)


@on_devices
def test_a_query_without_rows(device: str) -> None:
    """It gives 0, and no gradient; the others are as if it were not there."""
    make = Inputs(device)
    query, rows = make.drawn(4, 2, 9), make.drawn(6, 9)
    indices = torch.tensor([[0, 2], [-1, -1], [5, -1], [-1, -1]], device=device)
    grad = make.drawn(4, 2, 6)
    found = gathered_kernels.gathered_attention(query, rows, indices, 0.5, 6)
    some = [0, 2]
    wanted = gathered_attention(query[some], rows, indices[some], 0.5)[..., :6]
    assert bool((found[[1, 3]] == 0).all())
    close(found[some], wanted, torch.float32)
    of_query, of_rows = torch.autograd.grad(found, (query, rows), grad)
    wanted_query, wanted_rows = torch.autograd.grad(wanted, (query, rows), grad[some])
    assert bool((of_query[[1, 3]] == 0).all())
    close(of_query, wanted_query, torch.float32)
    close(of_rows, wanted_rows, torch.float32)


@on_devices
def test_deterministic_gradients(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as by atomic additions, in tiles of two queries, and twice the same bits."""
    make = Inputs(device)
    inputs = make.drawn(5, 2, 9), make.drawn(6, 9)
    indices, grad = make.whole(0, 6, 5, 4), make.drawn(5, 2, 6)
    out = gathered_kernels.gathered_attention(*inputs, indices, 0.5, 6)
    atomic = torch.autograd.grad(out, inputs, grad, retain_graph=True)
    monkeypatch.setattr(gathered_kernels, "TERMS", 2 * 4 * 9)
    torch.use_deterministic_algorithms(True)
    try:
        ordered, again = (torch.autograd.grad(out, inputs, grad, retain_graph=True) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other, third in zip(atomic, ordered, again, strict=True):
        close(one, other, torch.float32)
        assert torch.equal(other, third)


@on_devices
def test_ancestors_in_a_tree(device: str) -> None:
    """Lists of a token's ancestors are a choice too: as with a mask over all tokens of the tree."""
    make = Inputs(device)
    tokens = 12
    query, rows = make.drawn(tokens, 2, 9), make.drawn(tokens, 9)
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    indices = torch.full((tokens, tokens), -1)
    for token in range(tokens):
        found = [token]
        while found[-1]:
            found.append((found[-1] - 1) // 2)  # a binary tree
        mask[token, found] = True
        indices[token, : len(found)] = torch.tensor(found)
    mixed = gathered_kernels.gathered_attention(query, rows, indices.to(device), 0.4, 6)
    wanted = row_attention(query.transpose(0, 1), rows, mask.to(device), 0.4).transpose(0, 1)[..., :6]
    close(mixed, wanted, torch.float32)
    same_gradients(mixed, wanted, (query, rows), make.drawn(tokens, 2, 6), torch.float32)


def cut(targets: Tensor, vocab: int) -> list[np.ndarray | None]:
    """Supports of odd sizes; that of the second token is everything, the target may be missing."""
    rng = np.random.default_rng(0)
    kept: list[np.ndarray | None] = [np.sort(rng.choice(vocab, 1 + i % 7, replace=False)) for i in range(len(targets))]
    kept[1] = None
    return kept


@on_devices
@in_dtypes
@pytest.mark.parametrize(
    ("tokens", "vocab", "depth", "temperature", "truncated"),
    [(67, 300, 20, 1.0, False), (5, 2100, 70, 0.7, True), (3, 11, 5, 1.3, True)],
)
def test_head(
    device: str, dtype: torch.dtype, tokens: int, vocab: int, depth: int, temperature: float, truncated: bool
) -> None:
    make = Inputs(device, dtype)
    hidden, weight, targets = make.drawn(tokens, depth), make.drawn(vocab, depth), make.whole(0, vocab, tokens)
    support = cut(targets, vocab) if truncated else [None] * tokens
    found = head_kernels.head_scores(hidden, weight, targets, temperature, support_bits(support, targets, vocab))
    wanted = scores_of_logits(hidden @ weight.T, targets, temperature, support_mask(support, targets, vocab))
    for ours, theirs in zip(found[:2], wanted[:2], strict=True):
        close(ours, theirs, dtype)
    assert torch.equal(found[2], wanted.greedy_N)
    assert not found[1].requires_grad
    same_gradients(found[0], wanted[0], (hidden, weight), make.drawn(tokens, dtype=torch.float32), dtype)


@on_devices
def test_head_in_column_tiles_and_without_a_gradient_of_its_weight(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Inputs(device)
    hidden, weight, targets = make.drawn(3, 6), make.drawn(200, 6), make.whole(0, 200, 3)
    scores = head_kernels.head_scores(hidden, weight, targets)[0]
    whole = torch.autograd.grad(scores.sum(), (hidden, weight), retain_graph=True)
    monkeypatch.setattr(head_kernels, "TERMS", 1)  # one block of words at a time
    for one, other in zip(torch.autograd.grad(scores.sum(), (hidden, weight)), whole, strict=True):
        close(one, other, torch.float32)
    frozen = head_kernels.head_scores(hidden, weight.detach(), targets)[0]
    close(torch.autograd.grad(frozen.sum(), hidden)[0], whole[0], torch.float32)


@on_devices
def test_head_by_hand(device: str) -> None:
    """Logits 0, ln 2 and ln 5 at temperature 1: p = 1/8, 2/8, 5/8; on the support of the first two 1/3 and 2/3."""
    hidden = torch.ones(2, 1, device=device)
    weight = torch.tensor([[0.0], [np.log(2)], [np.log(5)]], dtype=torch.float32, device=device)
    targets = torch.tensor([2, 1], device=device)
    support = support_bits([None, np.array([0, 1])], targets, 3)
    logprobs, entropy, greedy = head_kernels.head_scores(hidden, weight, targets, 1.0, support)
    assert logprobs.exp().tolist() == pytest.approx([5 / 8, 2 / 3])
    by_hand = [-sum(p * np.log(p) for p in row) for row in ((1 / 8, 2 / 8, 5 / 8), (1 / 3, 2 / 3))]
    assert entropy.tolist() == pytest.approx(by_hand)
    assert greedy.tolist() == [True, True]


BOUNDS = [0, 8, 9, 24]
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 96, BOUNDS[-1]))
SHAPE: dict[str, Any] = {"num_hidden_layers": 2, "index_topk": 6}


@on_devices
@pytest.mark.parametrize("told", [False, True], ids=["live", "replayed"])
def test_a_policy_computes_the_same(device: str, told: bool) -> None:
    """Logits, gradients of all weights, and the choice that is recorded; a choice that is forced is followed."""
    built = build_policy({"preset": "tiny_dsa", "vocab_size": 96, "overrides": SHAPE})
    assert isinstance(built, DSAPolicy)
    built.module.to(device)
    tokens = TOKENS.to(device)
    weights = torch.randn(len(tokens), 96, generator=torch.Generator().manual_seed(1)).to(device)
    replay: Callable[[], Replay | None] = lambda: None  # noqa: E731
    if told:
        chosen = torch.full((len(tokens), 2, 6), -1)
        for begin, end in pairwise(BOUNDS):
            for t in range(begin, end):
                rows = torch.randperm(t - begin + 1, generator=torch.Generator().manual_seed(t))[:6]
                chosen[t, :, : len(rows)] = rows
        valid = torch.ones(len(tokens), dtype=torch.bool, device=device)
        replay = lambda: Replay(None, valid, chosen.to(device))  # noqa: E731
    found = []
    for name in ("torch", "triton"):
        built.set_ops(choose_operators(name, torch.device(device)))
        built.module.zero_grad()
        record = Record(want_indexer=True)
        logits = built.packed_logits(tokens, BOUNDS, replay(), record)
        (logits * weights).sum().backward()
        gradient = torch.cat([p.grad.flatten() for _, p in built.named_parameters() if p.grad is not None])
        assert record.indexer is not None
        found.append((logits.detach(), gradient, record.indexer.sort(-1).values))
    (logits, gradient, choice), (ours, our_gradient, our_choice) = found
    assert torch.equal(our_choice, choice)
    torch.testing.assert_close(ours, logits, atol=2e-5, rtol=1e-4)
    assert float((our_gradient - gradient).norm() / gradient.norm()) < 1e-5


@pytest.mark.parametrize("told", [False, True], ids=["live", "replayed"])
def test_a_prefix_tree_computes_what_its_sequences_do(told: bool) -> None:
    """A tree with the kernels, and every sequence by itself with torch's operators."""
    built = build_policy(tiny_config())
    assert isinstance(built, DSAPolicy)
    batch = Batch(2, 4, 0.3, built, top=30)
    wanted, gradient = run(built, batch, False, batch.replay(True) if told else None)
    built.set_ops(choose_operators("triton", torch.device("cpu")))
    found, ours = run(built, batch, True, batch.replay(True) if told else None)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert float((ours - gradient).norm() / gradient.norm()) < 1e-5


def test_where_no_kernel_can_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert choose_operators("torch", cpu) is TORCH
    monkeypatch.setattr(launch, "INTERPRETED", False)
    with pytest.raises(ValueError, match=r"learner\.ops=triton: the policy is on the cpu.*use learner\.ops=torch"):
        choose_operators("triton", cpu)
    with pytest.raises(ValueError, match=r"learner\.ops=cuda: must be torch or triton"):
        choose_operators("cuda", cpu)
    monkeypatch.setattr(launch, "INTERPRETED", True)
    found = choose_operators("triton", cpu)
    assert found.name == "triton"
    assert found.where == f"triton {triton.__version__}, in its interpreter (TRITON_INTERPRET=1)"


def test_a_head_that_is_more_than_a_matrix_is_an_error() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    policy = HFPolicy(LlamaForCausalLM(config))
    assert policy.head_weight() is policy.module.get_output_embeddings().weight  # type: ignore[operator]
    policy.module.lm_head = torch.nn.Linear(8, 32, bias=True)
    with pytest.raises(ValueError, match=r"the output head of LlamaForCausalLM .*; use learner\.ops=torch"):
        policy.head_weight()


def compiled(*arguments: str) -> str:
    """What the kernels' compilation for an H100 says; no GPU is needed, and the interpreter must be off."""
    script = Path(__file__).parents[1] / "shared" / "compile_kernels.py"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_compiler_takes_every_kernel() -> None:
    """What the interpreter lets pass (a variable of two types, a value that only one branch has) ends a compilation."""
    assert compiled("types").split() == ["9", "kernels,", "18", "variants"]


@pytest.mark.slow
def test_every_kernel_is_compiled_for_an_h100() -> None:
    """At V3.2's sizes in bfloat16: by tensor cores, within the shared memory of a block."""
    lines = [line.split() for line in compiled("sm_90").splitlines()]
    assert len(lines) == 9
    assert all(int(shared) <= 232_448 and product in ("wgmma", "mma") for _, shared, product in lines)
