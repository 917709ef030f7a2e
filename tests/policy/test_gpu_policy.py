"""The DSA model on any device: logits and gradients against float64 on the CPU, replay, packing, adapters.

    pytest -m gpu tests/policy tests/learner tests/objective

The same bodies run on the CPU by default. Needs torch, transformers, annotated_types and, for adapters, peft.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICES
from torch import Tensor

from rl.policy.dsa import DSAPolicy
from rl.policy.dtypes import cast_copy
from rl.policy.loading import build_policy
from rl.policy.replay import Record, Replay

BOUNDS = [0, 70, 75, 200, 330]
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 96, BOUNDS[-1]))
SHAPE: dict[str, Any] = {"num_hidden_layers": 3, "index_topk": 24}
# Largest difference of a log-prob from float64, nats: a few units of the dtype at these magnitudes.
TOLERANCE = {"float32": 2e-4, "bfloat16": 0.5}

pytestmark = pytest.mark.parametrize("device", DEVICES)


def policy_on(device: str, dtype: str = "float32") -> DSAPolicy:
    built = build_policy({"preset": "tiny_dsa", "vocab_size": 96, "overrides": SHAPE})
    assert isinstance(built, DSAPolicy)
    cast: Any = cast_copy(built, getattr(torch, dtype))
    cast.module.to(device)
    return cast  # type: ignore[no-any-return]


def exact() -> DSAPolicy:
    """The policy in float64 on the CPU."""
    found = policy_on("cpu")
    found.module.double()
    return found


def choices(policy: DSAPolicy, device: str) -> Replay:
    record = Record(want_indexer=True)
    with torch.no_grad():
        policy.packed_logits(TOKENS.to(device), BOUNDS, None, record)
    return Replay(record.experts, torch.ones(len(TOKENS), dtype=torch.bool, device=device), record.indexer)


def on(replay: Replay, device: str) -> Replay:
    moved = [None if part is None else part.to(device) for part in (replay.experts, replay.valid, replay.indexer)]
    return Replay(*moved)


def logprobs(policy: DSAPolicy, device: str, replay: Replay | None, **more: Any) -> Tensor:
    return policy.packed_logits(TOKENS.to(device), BOUNDS, replay, **more).float().log_softmax(-1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_probs_and_gradients_are_those_of_float64(device: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_on(device, dtype)
    forced = choices(policy, device)
    again = on(forced, "cpu")
    truth = exact()  # told what the other chose, so that near-ties do not count
    found = logprobs(policy, device, forced)
    monkeypatch.setattr("rl.policy.moe.DENSE_TOKENS", 10**6)  # grouped products know no float64
    wanted = logprobs(truth, "cpu", again)
    assert float((found.cpu() - wanted).abs().max()) < TOLERANCE[dtype]
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)) / wanted.numel()
    (found * weights.to(device)).sum().backward()
    (wanted * weights).sum().backward()
    truths = dict(truth.named_parameters())
    checked = 0
    for name, parameter in policy.named_parameters():
        if parameter.grad is None:
            assert ".indexer." in name
            continue
        reference = truths[name].grad
        assert reference is not None
        error = (parameter.grad.cpu().double() - reference).norm() / reference.norm()
        assert float(error) < (1e-4 if dtype == "float32" else 0.1), name
        checked += 1
    assert checked > 20


def test_every_replay_is_repeated(device: str) -> None:
    """The own choices forced change nothing; others do, and their gates are live."""
    policy = policy_on(device)
    forced = choices(policy, device)
    live = logprobs(policy, device, None)
    torch.testing.assert_close(logprobs(policy, device, forced), live, atol=1e-5, rtol=0)
    assert forced.experts is not None
    other = Replay((forced.experts + 1) % policy.num_experts, forced.valid, forced.indexer)
    changed = logprobs(policy, device, other)
    assert float((changed - live).abs().max()) > 1e-3
    changed[:, 0].sum().backward()
    gates = [p for n, p in policy.named_parameters() if n.endswith("mlp.gate.weight")]
    assert gates
    assert all(g.grad is not None and bool((g.grad != 0).any()) for g in gates)


def test_packed_is_each_sequence_alone(device: str) -> None:
    policy = policy_on(device)
    packed = logprobs(policy, device, None)
    for begin, end in pairwise(BOUNDS):
        alone = policy.packed_logits(TOKENS[begin:end].to(device), [0, end - begin]).log_softmax(-1)
        torch.testing.assert_close(packed[begin:end], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputation_gives_the_same_gradient(device: str, dtype: str) -> None:
    gradients = []
    for recompute in (False, True):
        policy = policy_on(device, dtype)
        policy.set_recompute(recompute)
        logprobs(policy, device, None)[:, 3].sum().backward()
        gradients.append([p.grad for _, p in policy.named_parameters() if p.grad is not None])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, atol=1e-5 if dtype == "float32" else 2e-2, rtol=1e-3)


def test_an_adapter_is_its_merged_weights(device: str) -> None:
    pytest.importorskip("peft")
    from rl.policy.lora import LoraPolicy

    adapted = LoraPolicy(policy_on(device), 4, 8)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if ".lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)) * 0.05)
    merged: Any = adapted.merged()
    assert next(adapted.named_parameters())[1].device.type == device
    ids = TOKENS.to(device)
    with torch.no_grad():
        torch.testing.assert_close(
            adapted.packed_logits(ids, BOUNDS), merged.packed_logits(ids, BOUNDS), atol=1e-4, rtol=0
        )


def test_nothing_is_made_on_another_device(device: str) -> None:
    """With another default device, whatever is made without saying where it belongs ends the pass."""
    policy = policy_on(device)
    forced = choices(policy, device)
    wanted = logprobs(policy, device, copy.deepcopy(forced))
    copied = copy.deepcopy(policy)
    with torch.device("meta"):
        found = logprobs(copied, device, forced)
        found[:, 3].sum().backward()
    assert torch.equal(found, wanted)
